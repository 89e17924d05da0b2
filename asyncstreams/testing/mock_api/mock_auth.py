"""Authentication of a MockApi by static credentials; `mock_oauth` has the tokens that expire."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Literal, TypeAlias

from ...errors import ConfigError
from .wire_messages import BadRequest, ReceivedRequest


@dataclass(frozen=True, slots=True, repr=False)
class BearerAuth:
    """Requires `Authorization: Bearer <token>` with any of the given tokens (one or more).

    Raises ConfigError without a token or for an empty one.
    """

    tokens: tuple[str, ...]

    def __init__(self, *tokens: str) -> None:
        if not tokens or not all(tokens):
            raise ConfigError("BearerAuth(...): at least one token is needed, and none may be empty")
        object.__setattr__(self, "tokens", tokens)

    def __repr__(self) -> str:
        return "BearerAuth(***)"

    def check(self, request: ReceivedRequest) -> None:
        """Raises BadRequest (401) unless the request carries the credential."""
        token = bearer_token(request)
        if not any(equal_secrets(token, known) for known in self.tokens):
            raise unauthorized("invalid_token", "the token is unknown", 'Bearer error="invalid_token"')


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """Requires `Authorization: Basic <base64 of username:password>` (RFC 7617). The default password is empty."""

    username: str
    password: str = field(default="", repr=False)

    def check(self, request: ReceivedRequest) -> None:
        """Raises BadRequest (401) unless the request carries the credential."""
        pair = basic_credentials(request)
        if pair is None or not equal_secrets(":".join(pair), f"{self.username}:{self.password}"):
            raise unauthorized("unauthorized", "user name or password is wrong", 'Basic realm="mock", charset="UTF-8"')


@dataclass(frozen=True, slots=True)
class ApiKeyAuth:
    """Requires a key under `name` (default "X-API-Key") in a header, the query or a cookie.

    `into` is "header" (default), "query" or "cookie"; another value raises ConfigError.
    """

    key: str = field(repr=False)
    name: str = "X-API-Key"
    into: Literal["header", "query", "cookie"] = "header"

    def __post_init__(self) -> None:
        if self.into not in ("header", "query", "cookie"):
            raise ConfigError(f'ApiKeyAuth(into={self.into!r}): into must be "header", "query" or "cookie"')

    def check(self, request: ReceivedRequest) -> None:
        """Raises BadRequest (401) unless the request carries the credential."""
        if self.into == "header":
            sent = request.headers.get(self.name.lower(), "")
        elif self.into == "query":
            sent = request.params.get(self.name, "")
        else:
            pairs = (pair.strip().partition("=") for pair in request.headers.get("cookie", "").split(";"))
            sent = next((value for name, _, value in pairs if name == self.name), "")
        if not equal_secrets(sent, self.key):
            raise unauthorized("unauthorized", f"the key in {self.into} {self.name} is missing or wrong", "ApiKey")


@dataclass(frozen=True, slots=True)
class OAuth2:
    """Requires a bearer token that the token endpoint at `path` has issued (RFC 6749).

    Access tokens expire after `expires_in` seconds (default 3,600). The endpoint is `<url>oauth/token` by
    default. It accepts POST with the grants refresh_token and client_credentials, as a form, as JSON or in
    the query, and the client's id and secret in the body or as Basic authentication. With
    `client_secret=None` the client is public: it has no secret, and no client_credentials grant.

    With `rotate`, each refresh returns a new refresh token and invalidates the one it used. Using an
    invalidated one again revokes all tokens derived from the same first refresh token (RFC 9700, 4.14.2):
    the endpoint answers invalid_grant, and their access tokens get a 401.

    Raises ConfigError unless `expires_in` is above 0.
    """

    client_id: str = "client"
    client_secret: str | None = field(default="secret", repr=False)
    refresh_token: str = field(default="refresh-0", repr=False)
    expires_in: float = 3600.0
    rotate: bool = False
    path: str = "oauth/token"

    def __post_init__(self) -> None:
        if self.expires_in <= 0:
            raise ConfigError(f"OAuth2(expires_in={self.expires_in}): expires_in must be more than 0 seconds")
        object.__setattr__(self, "path", self.path.strip("/"))


Auth: TypeAlias = BearerAuth | BasicAuth | ApiKeyAuth | OAuth2


def bearer_token(request: ReceivedRequest) -> str:
    """The bearer token of a request. Raises BadRequest (401) if there is none."""
    method, _, token = request.headers.get("authorization", "").partition(" ")
    if method.lower() != "bearer" or not token:
        raise unauthorized("unauthorized", "a bearer token is required", "Bearer")
    return token.strip()


def basic_credentials(request: ReceivedRequest) -> tuple[str, str] | None:
    """User name and password from Basic authentication; None if missing or malformed."""
    method, _, encoded = request.headers.get("authorization", "").partition(" ")
    if method.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def unauthorized(code: str, message: str, challenge: str) -> BadRequest:
    return BadRequest(401, message, {"WWW-Authenticate": challenge}, code=code)


def equal_secrets(sent: str, known: str) -> bool:
    return compare_digest(sent.encode("utf-8", "replace"), known.encode())
