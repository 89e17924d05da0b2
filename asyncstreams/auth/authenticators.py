"""Authenticators for static credentials. Each is also an `httpx.Auth`, usable with plain httpx clients."""

from __future__ import annotations

import base64
import re
from abc import abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import Literal, cast

import httpx

from ..errors import ConfigError
from ..messages import Request
from ..models import Secret
from ..urls import with_params

_TOKEN_CHARS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class SigningAuth(httpx.Auth):
    """An authenticator that signs a request in place, without I/O and without a second request."""

    @abstractmethod
    def sign(self, request: httpx.Request) -> None:
        """Add the credential to the request."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The hook of httpx: sign the request, then send it once."""
        self.sign(request)
        yield request


class AbstractHeaderAuthenticator(SigningAuth):
    """Base class for authenticators that sign with one header.

    Subclasses define `token`. `auth_header` is the name of the header; if it is empty, none is sent.
    """

    auth_header: str = "Authorization"

    @property
    @abstractmethod
    def token(self) -> str:
        """The complete header value, for example "Bearer abc". It is read once for each request sent."""

    def get_auth_header(self) -> dict[str, str]:
        """The header as a mapping of name to value; empty if `auth_header` is."""
        return {self.auth_header: self.token} if self.auth_header else {}

    def sign(self, request: httpx.Request) -> None:
        """Set the header; an equal one is replaced."""
        for name, value in self.get_auth_header().items():
            set_header(request, name, value)


class TokenAuthenticator(AbstractHeaderAuthenticator):
    """Sends `<auth_header>: <auth_method> <token>`; `Authorization: Bearer <token>` by default.

    Whitespace around the token is removed. Raises ConfigError for an empty token, and for one with whitespace,
    control characters or non-ASCII characters in it.
    """

    def __init__(self, token: str | Secret, auth_method: str = "Bearer", auth_header: str = "Authorization") -> None:
        class_name = type(self).__name__
        self.auth_header = validate_header_name(class_name, auth_header)
        self._header = Secret(f"{auth_method} {validate_token(class_name, 'token', token).reveal()}".strip())
        self._method = auth_method

    @property
    def token(self) -> str:
        """`<auth_method> <token>`."""
        return self._header.reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***, {self._method!r}, {self.auth_header!r})"


class MultipleTokenAuthenticator(AbstractHeaderAuthenticator):
    """Rotates through several tokens: each request sent uses the next one, retries included."""

    def __init__(
        self, tokens: Sequence[str | Secret], auth_method: str = "Bearer", auth_header: str = "Authorization"
    ) -> None:
        class_name = type(self).__name__
        if isinstance(tokens, str | Secret) or not tokens:
            raise ConfigError(f"{class_name}(tokens=...): must be a list of one or more tokens")
        self.auth_header = validate_header_name(class_name, auth_header)
        secrets = [validate_token(class_name, f"tokens[{index}]", token) for index, token in enumerate(tokens)]
        self._headers = tuple(Secret(f"{auth_method} {token.reveal()}".strip()) for token in secrets)
        self._method = auth_method
        self._turn = -1

    @property
    def token(self) -> str:
        """`<auth_method> <token>` with the next token."""
        self._turn = (self._turn + 1) % len(self._headers)
        return self._headers[self._turn].reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._headers)} tokens, {self._method!r}, {self.auth_header!r})"


class BasicHttpAuthenticator(AbstractHeaderAuthenticator):
    """Sends `Authorization: Basic <base64 of username:password>`, encoded as UTF-8 (RFC 7617).

    `username` must not contain a colon. APIs that take an API key as the user name need no password.
    """

    def __init__(
        self,
        username: str | Secret,
        password: str | Secret = "",
        auth_method: str = "Basic",
        auth_header: str = "Authorization",
    ) -> None:
        class_name = type(self).__name__
        name = Secret(username).reveal()
        if ":" in name:
            raise ConfigError(f"{class_name}(username=...): must not contain a colon (RFC 7617)")
        self.auth_header = validate_header_name(class_name, auth_header)
        # Both are Secrets, so that held_secrets() finds them when an API echoes them.
        self._username, self._password, self._method = Secret(username), Secret(password), auth_method
        # Without a password the user name is the credential, as at Stripe.
        self._username_repr = repr(username) if isinstance(username, str) and password else "***"
        pair = f"{name}:{self._password.reveal()}".encode()
        self._header = Secret(f"{auth_method} {base64.b64encode(pair).decode()}".strip())

    @property
    def token(self) -> str:
        """`<auth_method> <base64 of username:password>`."""
        return self._header.reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._username_repr}, ***, {self._method!r}, {self.auth_header!r})"


class ApiKeyAuthenticator(SigningAuth):
    """Sends an API key called `name` in a header, a query parameter or a cookie, as `into` says."""

    def __init__(
        self, key: str | Secret, name: str = "X-API-Key", *, into: Literal["header", "query", "cookie"] = "header"
    ) -> None:
        class_name = type(self).__name__
        if into not in ("header", "query", "cookie"):
            raise ConfigError(f'{class_name}(into={into!r}): must be "header", "query" or "cookie"')
        if not name:
            raise ConfigError(f"{class_name}(name={name!r}): must name a {into}, and is empty")
        self._name = name if into == "query" else validate_header_name(class_name, name, "name")
        self._key = validate_token(class_name, "key", key)
        self._into = into

    def sign(self, request: httpx.Request) -> None:
        """Add the key; an equal header or query parameter is replaced."""
        key = self._key.reveal()
        if self._into == "header":
            set_header(request, self._name, key)
        elif self._into == "query":
            parameter = {self._name: key}
            if isinstance(request, Request):
                # As text, since httpx would re-encode the query.
                request.url_text = with_params(type(self).__name__, request.url_text, parameter)
            else:
                request.url = request.url.copy_merge_params(parameter)
        else:
            others = request.headers.get("Cookie")
            set_header(request, "Cookie", f"{others}; {self._name}={key}" if others else f"{self._name}={key}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***, {self._name!r}, into={self._into!r})"


def set_header(request: httpx.Request, name: str, value: str) -> None:
    """Set a header, without building `headers` if the request is of our own class."""
    if isinstance(request, Request):
        request.set_header(name, value)
    else:
        request.headers[name] = value


def validate_token(class_name: str, argument: str, token: str | Secret | None) -> Secret:
    """The token without surrounding whitespace. Raises ConfigError, whose message never contains the token."""
    value = token.reveal() if isinstance(token, Secret) else token
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"{class_name}({argument}=...): the token is {'empty' if isinstance(value, str) else type(value).__name__}",
            hint="check the environment variable or file that the token is read from",
        )
    value = value.strip()
    if any(char.isspace() or ord(char) < 32 or ord(char) == 127 for char in value):
        raise ConfigError(
            f"{class_name}({argument}=...): the token contains whitespace or a control character",
            hint='leave out "Bearer": auth_method= adds it' if value.lower().startswith("bearer ") else None,
        )
    if not value.isascii():
        raise ConfigError(f"{class_name}({argument}=...): the token contains a character outside ASCII")
    return Secret(value)


def validate_header_name(class_name: str, name: str, argument: str = "auth_header") -> str:
    """The name. Raises ConfigError unless it is empty or a token (RFC 9110, 5.6.2)."""
    if name and not _TOKEN_CHARS.fullmatch(name):
        raise ConfigError(f"{class_name}({argument}={name!r}): not a valid header name")
    return name


def held_secrets(authenticator: object) -> Iterable[str]:
    """The secrets that an authenticator holds, for redaction of messages."""
    values = vars(authenticator).values() if hasattr(authenticator, "__dict__") else ()
    nested = [item for value in values if isinstance(value, tuple) for item in cast(tuple[object, ...], value)]
    for value in (*values, *nested):
        secret = getattr(value, "access_token", value)
        if isinstance(secret, Secret):
            yield secret.reveal()
            yield secret.reveal().partition(" ")[2]
