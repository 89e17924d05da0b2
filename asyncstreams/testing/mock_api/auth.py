"""Who may ask? Credentials that stay as they are; those that expire are in `oauth`."""

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
    """`Authorization: Bearer <token>`, with any of these tokens."""

    tokens: tuple[str, ...]

    def __init__(self, *tokens: str) -> None:
        if not tokens or not all(tokens):
            raise ConfigError("BearerAuth(...): one or more tokens are needed")
        object.__setattr__(self, "tokens", tokens)

    def __repr__(self) -> str:
        return "BearerAuth(***)"

    def check(self, request: ReceivedRequest) -> None:
        """Raises Refused."""
        token = bearer(request)
        if not any(same(token, known) for known in self.tokens):
            raise unauthorized("invalid_token", "the token is not known", 'Bearer error="invalid_token"')


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """`Authorization: Basic <base64 of username:password>`."""

    username: str
    password: str = field(default="", repr=False)

    def check(self, request: ReceivedRequest) -> None:
        """Raises Refused."""
        pair = basic_pair(request)
        if pair is None or not same(":".join(pair), f"{self.username}:{self.password}"):
            raise unauthorized("unauthorized", "user name or password is wrong", 'Basic realm="mock", charset="UTF-8"')


@dataclass(frozen=True, slots=True)
class ApiKeyAuth:
    """One key under one name, in a header, the query or a cookie."""

    key: str = field(repr=False)
    name: str = "X-API-Key"
    into: Literal["header", "query", "cookie"] = "header"

    def __post_init__(self) -> None:
        if self.into not in ("header", "query", "cookie"):
            raise ConfigError(f'ApiKeyAuth(into={self.into!r}): one of "header", "query", "cookie"')

    def check(self, request: ReceivedRequest) -> None:
        """Raises Refused."""
        if self.into == "header":
            told = request.headers.get(self.name.lower(), "")
        elif self.into == "query":
            told = request.params.get(self.name, "")
        else:
            pairs = (pair.strip().partition("=") for pair in request.headers.get("cookie", "").split(";"))
            told = next((value for name, _, value in pairs if name == self.name), "")
        if not same(told, self.key):
            raise unauthorized("unauthorized", f"the key in {self.into} {self.name} is missing or wrong", "ApiKey")


@dataclass(frozen=True, slots=True)
class OAuth2:
    """Access tokens that expire after `expires_in` seconds, from the endpoint at `path`.

    It takes the grants refresh_token and client_credentials, as a form, as JSON or in the query, and
    the client's secret in the body or as Basic; with `client_secret=None` the client is public.
    With `rotate`, each refresh gives a new refresh token and ends the old one; whoever presents one
    that has ended takes the whole family down (RFC 9700, 4.14.2): invalid_grant, and a 401 for its
    access tokens.
    """

    client_id: str = "client"
    client_secret: str | None = field(default="secret", repr=False)
    refresh_token: str = field(default="refresh-0", repr=False)
    expires_in: float = 3600.0
    rotate: bool = False
    path: str = "oauth/token"

    def __post_init__(self) -> None:
        if self.expires_in <= 0:
            raise ConfigError(f"OAuth2(expires_in={self.expires_in}): more than 0 seconds")
        object.__setattr__(self, "path", self.path.strip("/"))


Auth: TypeAlias = BearerAuth | BasicAuth | ApiKeyAuth | OAuth2


def bearer(request: ReceivedRequest) -> str:
    """The bearer token of a request. Raises Refused where there is none."""
    method, _, token = request.headers.get("authorization", "").partition(" ")
    if method.lower() != "bearer" or not token:
        raise unauthorized("unauthorized", "a bearer token is needed", "Bearer")
    return token.strip()


def basic_pair(request: ReceivedRequest) -> tuple[str, str] | None:
    """User name and password of a request, where it has them."""
    method, _, told = request.headers.get("authorization", "").partition(" ")
    if method.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(told, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def unauthorized(code: str, message: str, challenge: str) -> BadRequest:
    return BadRequest(401, message, {"WWW-Authenticate": challenge}, code=code)


def same(told: str, known: str) -> bool:
    return compare_digest(told.encode("utf-8", "replace"), known.encode())
