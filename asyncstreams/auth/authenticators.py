"""Authenticators for static credentials. Each is also an `httpx.Auth`, usable with plain httpx clients."""

from __future__ import annotations

import base64
import logging
import re
from abc import abstractmethod
from collections.abc import Generator, Hashable, Iterable, Sequence
from typing import Literal, cast

import httpx

from ..errors import ConfigError
from ..messages import Request
from ..models import Secret
from ..urls import with_params

_log = logging.getLogger("asyncstreams")
_TOKEN_CHARS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]*")


class SigningAuth(httpx.Auth):
    """An authenticator that signs a request in place, without I/O and without a second request."""

    @abstractmethod
    def sign(self, request: httpx.Request) -> None:
        """Add the credential to the request."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The hook of httpx: sign the request, then send it once."""
        self.sign(request)
        yield request


class RenewingAuth(httpx.Auth):
    """An authenticator that renews a token, which equal ones share while open sessions use them."""

    @abstractmethod
    def join(self) -> Hashable:
        """Share the token of equal authenticators in use; the result is equal for those that share one."""

    @abstractmethod
    def leave(self) -> None:
        """End a use that began with `join`. What was shared until then stays shared."""


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
    """Sends one of several tokens with each request, retries included.

    A stream keeps the quota of each token apart: pauses, reported quotas and declared limits are those of the
    token that was sent. It uses the token that has most requests left, and those without a reported quota in turn.
    A token that is refused with 401 is not used again, and is named by its position in a warning. The read ends or
    waits only when no token can be used. Plain httpx clients use the tokens in turn.
    """

    def __init__(
        self, tokens: Sequence[str | Secret], auth_method: str = "Bearer", auth_header: str = "Authorization"
    ) -> None:
        class_name = type(self).__name__
        if isinstance(tokens, str | Secret) or not tokens:
            raise ConfigError(f"{class_name}(tokens=...): must be a list of one or more tokens")
        self.auth_header = validate_header_name(class_name, auth_header)
        secrets = [validate_token(class_name, f"tokens[{index}]", token) for index, token in enumerate(tokens)]
        # Equal tokens are one: they draw on one quota.
        self.authenticators = tuple(TokenAuthenticator(token, auth_method, auth_header) for token in _unique(secrets))
        self._method = auth_method
        self._turn = -1
        self._refused: frozenset[int] = frozenset()

    @property
    def token(self) -> str:
        """`<auth_method> <token>` with the next token."""
        position = self.turns()[0]
        self.end_turn(position)
        return self.authenticators[position].token

    @property
    def sends_listed_tokens(self) -> bool:
        """Whether each request is signed with one of the listed tokens, because no subclass signs in another way."""
        kind, own = type(self), MultipleTokenAuthenticator
        return (kind.token, kind.sign, kind.get_auth_header) == (own.token, own.sign, own.get_auth_header)

    def turns(self) -> Sequence[int]:
        """The positions of the tokens that were not refused, from the one whose turn is next."""
        count = len(self.authenticators)
        positions = [(self._turn + offset) % count for offset in range(1, count + 1)]
        return [position for position in positions if position not in self._refused]

    def end_turn(self, position: int) -> None:
        """Note that the token at this position is used for a request: the turn of the next one has come."""
        self._turn = position

    def drop(self, position: int) -> bool:
        """Stop using a token that the API refuses; whether another one is left. The last one is never dropped."""
        if position in self._refused:
            return True
        if len(self._refused) + 1 == len(self.authenticators):
            return False
        self._refused |= {position}
        _log.warning(
            "%s: token %d of %d was refused with 401 and is not used any more: check that it is valid",
            type(self).__name__,
            position + 1,
            len(self.authenticators),
        )
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.authenticators)} tokens, {self._method!r}, {self.auth_header!r})"


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
    """Sends an API key called `name` in a header, a query parameter or a cookie, as `into` says.

    In a header the key may be any ASCII text that HTTP allows there, such as "Token abc"; in the query any text
    without control characters, which is percent-encoded; in a cookie any ASCII text without whitespace, commas,
    semicolons, double quotes and backslashes.
    Whitespace around it is removed. Raises ConfigError for another key; an empty one is sent, with a warning.
    """

    def __init__(
        self, key: str | Secret, name: str = "X-API-Key", *, into: Literal["header", "query", "cookie"] = "header"
    ) -> None:
        class_name = type(self).__name__
        if into not in ("header", "query", "cookie"):
            raise ConfigError(f'{class_name}(into={into!r}): must be "header", "query" or "cookie"')
        if not name:
            raise ConfigError(f"{class_name}(name={name!r}): must name a {into}, and is empty")
        self._name = name if into == "query" else validate_header_name(class_name, name, "name")
        self._key = _validate_key(class_name, key, into)
        self._into = into

    def sign(self, request: httpx.Request) -> None:
        """Add the key; a header, query parameter or cookie of the same name is replaced."""
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
            given = request.headers.get("Cookie", "").split(";")
            others = [pair.strip() for pair in given if pair.strip() and pair.partition("=")[0].strip() != self._name]
            set_header(request, "Cookie", "; ".join([*others, f"{self._name}={key}"]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***, {self._name!r}, into={self._into!r})"


def set_header(request: httpx.Request, name: str, value: str | Secret) -> None:
    """Set a header, without building `headers` if the request is of our own class."""
    if isinstance(value, Secret):  # the `token` of a subclass
        value = value.reveal()
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


def _validate_key(class_name: str, key: str | Secret, into: str) -> Secret:
    value = key.reveal() if isinstance(key, Secret) else key
    if not isinstance(value, str):
        raise ConfigError(
            f"{class_name}(key=...): the key is {type(value).__name__}",
            hint="check the environment variable or file that the key is read from",
        )
    value = value.strip()
    if into == "header" and not _FIELD_VALUE.fullmatch(value):
        raise ConfigError(
            f"{class_name}(key=...): the key contains a control character or a character outside ASCII, which a "
            "header cannot hold"
        )
    if into == "query" and any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ConfigError(f"{class_name}(key=...): the key contains a control character")
    if into == "cookie" and not re.fullmatch(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*", value):
        raise ConfigError(f"{class_name}(key=...): the key contains a character that a cookie cannot hold (RFC 6265)")
    if not value:
        _log.warning("%s(key=...): the key is empty, and is sent as it is", class_name)
    return Secret(value)


def _unique(secrets: Iterable[Secret]) -> Sequence[Secret]:
    return tuple(dict.fromkeys(secrets))


def held_secrets(holder: object) -> Iterable[str]:
    """The secrets that an authenticator holds, for redaction of messages."""
    if isinstance(holder, Secret):
        yield holder.reveal()
        yield holder.reveal().partition(" ")[2]
        return
    values = getattr(holder, "__dict__", {}).values()
    shared: Iterable[object] = getattr(holder, "shared_secrets", ())
    for value in (*values, *shared):
        for item in cast(tuple[object, ...], value) if isinstance(value, tuple) else (value,):
            if isinstance(item, Secret | SigningAuth):
                yield from held_secrets(item)
