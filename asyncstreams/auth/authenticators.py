"""Who asks: authenticators, each of which is also an `httpx.Auth` for use elsewhere."""

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
    """An authenticator that needs nothing but the request: no I/O, no second leg."""

    @abstractmethod
    def sign(self, request: httpx.Request) -> None:
        """Put the credential on the request."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        self.sign(request)
        yield request


class AbstractHeaderAuthenticator(SigningAuth):
    """Signs with one header: `auth_header` names it (empty: none), `token` gives its value."""

    auth_header: str = "Authorization"

    @property
    @abstractmethod
    def token(self) -> str:
        """The whole value of the header."""

    def get_auth_header(self) -> dict[str, str]:
        """The header to add, as a mapping."""
        return {self.auth_header: self.token} if self.auth_header else {}

    def sign(self, request: httpx.Request) -> None:
        for name, value in self.get_auth_header().items():
            set_header(request, name, value)


class TokenAuthenticator(AbstractHeaderAuthenticator):
    """`Authorization: Bearer <token>`, or another method and header."""

    def __init__(self, token: str | Secret, auth_method: str = "Bearer", auth_header: str = "Authorization") -> None:
        owner = type(self).__name__
        self.auth_header = checked_header_name(owner, auth_header)
        self._header = Secret(f"{auth_method} {checked_token(owner, 'token', token).reveal()}".strip())
        self._method = auth_method

    @property
    def token(self) -> str:
        return self._header.reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***, {self._method!r}, {self.auth_header!r})"


class MultipleTokenAuthenticator(AbstractHeaderAuthenticator):
    """Several tokens in turn: the next one for each request sent, retries included."""

    def __init__(
        self, tokens: Sequence[str | Secret], auth_method: str = "Bearer", auth_header: str = "Authorization"
    ) -> None:
        owner = type(self).__name__
        if isinstance(tokens, str | Secret) or not tokens:
            raise ConfigError(f"{owner}(tokens=...): a list of one or more tokens is needed")
        self.auth_header = checked_header_name(owner, auth_header)
        checked = [checked_token(owner, f"tokens[{at}]", token) for at, token in enumerate(tokens)]
        self._headers = tuple(Secret(f"{auth_method} {token.reveal()}".strip()) for token in checked)
        self._method = auth_method
        self._turn = -1

    @property
    def token(self) -> str:
        self._turn = (self._turn + 1) % len(self._headers)
        return self._headers[self._turn].reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._headers)} tokens, {self._method!r}, {self.auth_header!r})"


class BasicHttpAuthenticator(AbstractHeaderAuthenticator):
    """`Authorization: Basic <base64 of username:password>`, in UTF-8 (RFC 7617)."""

    def __init__(
        self,
        username: str | Secret,
        password: str | Secret = "",
        auth_method: str = "Basic",
        auth_header: str = "Authorization",
    ) -> None:
        owner = type(self).__name__
        name = Secret(username).reveal()
        if ":" in name:
            raise ConfigError(f"{owner}(username=...): a colon cannot be part of it (RFC 7617)")
        self.auth_header = checked_header_name(owner, auth_header)
        # Both are kept as secrets, so that known_secrets() finds them in what an API echoes.
        self._username, self._password, self._method = Secret(username), Secret(password), auth_method
        # Without a password the user name is the credential, as Stripe has it.
        self._shown = repr(username) if isinstance(username, str) and password else "***"
        pair = f"{name}:{self._password.reveal()}".encode()
        self._header = Secret(f"{auth_method} {base64.b64encode(pair).decode()}".strip())

    @property
    def token(self) -> str:
        return self._header.reveal()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown}, ***, {self._method!r}, {self.auth_header!r})"


class ApiKeyAuthenticator(SigningAuth):
    """One key under one name, in a header, the query or a cookie."""

    def __init__(
        self, key: str | Secret, name: str = "X-API-Key", *, into: Literal["header", "query", "cookie"] = "header"
    ) -> None:
        owner = type(self).__name__
        if into not in ("header", "query", "cookie"):
            raise ConfigError(f'{owner}(into={into!r}): one of "header", "query", "cookie"')
        if not name:
            raise ConfigError(f"{owner}(name={name!r}): the name of a {into} is needed")
        self._name = name if into == "query" else checked_header_name(owner, name, "name")
        self._key = checked_token(owner, "key", key)
        self._into = into

    def sign(self, request: httpx.Request) -> None:
        key = self._key.reveal()
        if self._into == "header":
            set_header(request, self._name, key)
        elif self._into == "query":
            parameter = {self._name: key}
            if isinstance(request, Request):
                # As text: a parsed query would not come out as it went in.
                request.url_text = with_params(type(self).__name__, request.url_text, parameter)
            else:
                request.url = request.url.copy_merge_params(parameter)
        else:
            others = request.headers.get("Cookie")
            set_header(request, "Cookie", f"{others}; {self._name}={key}" if others else f"{self._name}={key}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***, {self._name!r}, into={self._into!r})"


def set_header(request: httpx.Request, name: str, value: str) -> None:
    """Set a header, without building the others where the request is our own."""
    if isinstance(request, Request):
        request.set_header(name, value)
    else:
        request.headers[name] = value


def checked_token(owner: str, argument: str, token: str | Secret | None) -> Secret:
    """The token without the white space around it. Raises ConfigError, never showing it."""
    value = token.reveal() if isinstance(token, Secret) else token
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"{owner}({argument}=...): the token is {'empty' if isinstance(value, str) else type(value).__name__}",
            hint="is the environment variable or the file that should hold it there?",
        )
    value = value.strip()
    if any(char.isspace() or ord(char) < 32 or ord(char) == 127 for char in value):
        raise ConfigError(
            f"{owner}({argument}=...): there is white space or a control character within the token",
            hint='leave "Bearer" out: it is put in front (auth_method=)'
            if value.lower().startswith("bearer ")
            else None,
        )
    if not value.isascii():
        raise ConfigError(f"{owner}({argument}=...): a token consists of ASCII characters; this one does not")
    return Secret(value)


def checked_header_name(owner: str, name: str, argument: str = "auth_header") -> str:
    """The name, which is empty or a token of RFC 9110. Raises ConfigError."""
    if name and not _TOKEN_CHARS.fullmatch(name):
        raise ConfigError(f"{owner}({argument}={name!r}): not the name of a header")
    return name


def known_secrets(authenticator: object) -> Iterable[str]:
    """The secrets that an authenticator holds, so that messages can be searched for them."""
    held = vars(authenticator).values() if hasattr(authenticator, "__dict__") else ()
    several = [secret for value in held if isinstance(value, tuple) for secret in cast(tuple[object, ...], value)]
    for value in (*held, *several):
        secret = getattr(value, "access_token", value)
        if isinstance(secret, Secret):
            yield secret.reveal()
            yield secret.reveal().partition(" ")[2]
