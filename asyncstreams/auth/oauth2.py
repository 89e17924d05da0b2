"""How is an OAuth2 access token got, kept fresh, and renewed once for everybody who waits (RFC 6749)?"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus
from weakref import WeakKeyDictionary

import anyio
import httpx

from .. import _json
from .._json import as_object
from ..clock import Clock, SystemClock
from ..errors import AuthError, ConfigError, HttpStatusError, MalformedJSON
from ..models import Secret
from ..pagination.selectors import select_path
from ..redaction import safe_url, scrub
from .authenticators import checked_header_name, checked_token, set_header

_DEFAULT_LIFETIME = 3600.0
_LONGEST_MARGIN = 60.0
_MARGIN_SHARE = 0.25
_HANDOVER_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Oauth2Tokens:
    """What a token endpoint gave. `lifetime` in seconds; `refresh_token` None: the old one stays good."""

    access_token: Secret
    refresh_token: Secret | None
    lifetime: float


OnRefresh: TypeAlias = Callable[[Oauth2Tokens], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class CachedToken:
    access_token: Secret
    fresh_until: float


class Oauth2Authenticator(httpx.Auth):
    """A bearer token from a refresh token or, where there is none, from the client's own credentials.

    Renewed once for everybody who needs it, shortly before it expires, and after a 401, if the
    refused token is still the current one. A rotated refresh token is kept and handed to
    `on_refresh` (plain or async) before the new access token is used. Paths such as
    `access_token_name="data.token"` select in the endpoint's answer. A `lifetime` that the
    endpoint does not tell is taken as one hour. Raises AuthError when the endpoint refuses.
    """

    def __init__(
        self,
        token_refresh_endpoint: str,
        client_id: str,
        client_secret: str | Secret | None = None,
        refresh_token: str | Secret | None = None,
        scopes: Sequence[str] = (),
        *,
        client_auth: Literal["body", "basic"] = "body",
        send_as: Literal["form", "json", "query"] = "form",
        access_token_name: str = "access_token",
        expires_in_name: str = "expires_in",
        refresh_token_name: str = "refresh_token",
        expires_unit: Literal["s", "ms"] = "s",
        refresh_request_body: Mapping[str, str] | None = None,
        refresh_request_headers: Mapping[str, str] | None = None,
        auth_method: str = "Bearer",
        auth_header: str = "Authorization",
        on_refresh: OnRefresh | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check_choices(client_auth=client_auth, send_as=send_as, expires_unit=expires_unit)
        _check_grant(token_refresh_endpoint, client_auth, client_secret, refresh_token)
        self._endpoint = token_refresh_endpoint
        self._client_id = client_id
        self._client_secret = None if client_secret is None else _checked("client_secret", client_secret)
        self._refresh_token = None if refresh_token is None else _checked("refresh_token", refresh_token)
        self._given_token = self._refresh_token  # says whose records these are, also when the other has been rotated
        self._scopes = tuple(scopes.split()) if isinstance(scopes, str) else tuple(scopes)
        self._client_auth, self._send_as = client_auth, send_as
        self._names = (access_token_name, expires_in_name, refresh_token_name)
        self._unit = 1.0 if expires_unit == "s" else 0.001
        self._extra_body = dict(refresh_request_body or {})
        self._extra_headers = dict(refresh_request_headers or {})
        self._method = auth_method
        self._header = checked_header_name("Oauth2Authenticator", auth_header)
        self._on_refresh = on_refresh
        self._clock: Clock = clock or SystemClock()
        self._held: CachedToken | None = None
        # A lock belongs to one event loop, an authenticator may be used in several.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def __repr__(self) -> str:
        grant = "client_credentials" if self._refresh_token is None else "refresh_token"
        return f"Oauth2Authenticator({safe_url(self._endpoint)!r}, {self._client_id!r}, grant={grant!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        raise ConfigError("Oauth2Authenticator works with httpx.AsyncClient and with streams, not with httpx.Client")

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        held = self._fresh()
        if held is None:
            async with self._lock():
                held = self._fresh()
                if held is None:
                    held = await self._accept((yield self._token_request()))
        self._sign(request, held)
        response = yield request
        if response.status_code != 401:
            return
        async with self._lock():
            # A 401 may follow a renewal by another request: renew only what is still current.
            if self._held is held or self._held is None:
                held = await self._accept((yield self._token_request()))
            else:
                held = self._held
        self._sign(request, held)
        yield request

    def refuse(self, request: httpx.Request) -> None:
        """Take the token that this request carries for expired, if it is still the current one."""
        if self._held is not None and request.headers.get(self._header) == self._value(self._held):
            self._held = None

    def _fresh(self) -> CachedToken | None:
        return self._held if self._held and self._clock.monotonic() < self._held.fresh_until else None

    def _lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _value(self, held: CachedToken) -> str:
        return f"{self._method} {held.access_token.reveal()}".strip()

    def _sign(self, request: httpx.Request, held: CachedToken) -> None:
        set_header(request, self._header, self._value(held))

    def _token_request(self) -> httpx.Request:
        fields: dict[str, str] = dict(self._extra_body)
        headers = {"Accept": "application/json", **self._extra_headers}
        if self._refresh_token is None:
            fields["grant_type"] = "client_credentials"
        else:
            fields["grant_type"] = "refresh_token"
            fields["refresh_token"] = self._refresh_token.reveal()
        if self._scopes:
            fields["scope"] = " ".join(self._scopes)
        if self._client_auth == "basic" and self._client_secret is not None:
            # RFC 6749, 2.3.1: both are form-encoded before they are joined.
            pair = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(self._client_secret.reveal()))
            headers["Authorization"] = next(pair.auth_flow(httpx.Request("POST", self._endpoint))).headers[
                "Authorization"
            ]
        else:
            fields["client_id"] = self._client_id
            if self._client_secret is not None:
                fields["client_secret"] = self._client_secret.reveal()
        if self._send_as == "json":
            return httpx.Request("POST", self._endpoint, json=fields, headers=headers)
        if self._send_as == "query":
            return httpx.Request("POST", self._endpoint, params=fields, headers=headers)
        return httpx.Request("POST", self._endpoint, data=fields, headers=headers)

    async def _accept(self, response: httpx.Response) -> CachedToken:
        await response.aread()
        if response.status_code >= 500:
            raise HttpStatusError(
                f"the token endpoint answered {response.status_code}", status=response.status_code, url=self._where()
            )
        if not response.is_success:
            raise self._refusal(response)
        tokens = self._tokens(response)
        now = self._clock.monotonic()
        margin = min(_LONGEST_MARGIN, tokens.lifetime * _MARGIN_SHARE)
        held = CachedToken(tokens.access_token, now + tokens.lifetime - margin)
        # Kept before it is handed over: a rotated token that is lost cannot be had again.
        self._refresh_token = tokens.refresh_token or self._refresh_token
        if self._on_refresh is not None:
            handed = self._on_refresh(tokens)
            if inspect.isawaitable(handed):
                await _to_its_end(handed)
        self._held = held
        return held

    def _tokens(self, response: httpx.Response) -> Oauth2Tokens:
        answer = _answer(response)
        access_name, expires_name, refresh_name = self._names
        access = select_path(access_name, answer)
        if not isinstance(access, str) or not access:
            held = "no JSON object" if answer is None else f"an object with {sorted(answer)}"
            raise AuthError(
                f"the token endpoint {self._where()} answered {response.status_code} without {access_name!r}: {held}",
                status=response.status_code,
                hint="set access_token_name to where the token lies, as a dotted path",
            )
        refresh = select_path(refresh_name, answer)
        return Oauth2Tokens(
            access_token=checked_token("Oauth2Authenticator", access_name, access),
            refresh_token=_checked(refresh_name, refresh) if isinstance(refresh, str) and refresh else None,
            lifetime=self._lifetime(select_path(expires_name, answer)),
        )

    def _lifetime(self, told: Any) -> float:
        try:
            lifetime = float(told) * self._unit
        except (TypeError, ValueError):
            return _DEFAULT_LIFETIME
        return lifetime if 0 < lifetime < float("inf") else _DEFAULT_LIFETIME

    def _refusal(self, response: httpx.Response) -> AuthError:
        answer = _answer(response) or {}
        known = [secret.reveal() for secret in (self._client_secret, self._refresh_token) if secret is not None]
        code, description = answer.get("error"), answer.get("error_description")
        told = ": ".join(scrub(str(text), known)[:200] for text in (code, description) if isinstance(text, str))
        return AuthError(
            f"answered {response.status_code} to the request for a token: {told}".rstrip(": "),
            status=response.status_code,
            method="POST",
            url=self._where(),
            hint=_REMEDIES.get(str(code)) or _REMEDY_BY_STATUS.get(response.status_code, _REMEDY),
        )

    def _where(self) -> str:
        return safe_url(self._endpoint)


_REMEDY = "check client id, client secret, refresh token and scopes"
_REMEDY_BY_STATUS = {404: "check token_refresh_endpoint", 405: "check token_refresh_endpoint"}
_REMEDIES = {
    "invalid_grant": "the refresh token is expired, revoked or already used: authorise again and store the new one",
    "invalid_client": 'check client id and secret, and whether the endpoint wants client_auth="basic"',
    "invalid_scope": "ask for fewer scopes, or have these granted",
    "unauthorized_client": "this client may not use this grant: check its registration",
}


async def _to_its_end(handed: Awaitable[None]) -> None:
    """Wait for it even when we are cancelled meanwhile, for ten seconds: what is lost here is lost for good.

    A task of its own, since no cancel scope holds back a plain `Task.cancel()`; it ends in here.
    """
    task = asyncio.ensure_future(handed)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled scope would cancel the wait again and again.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_HANDOVER_LIMIT)
        raise
    finally:
        task.cancel()


def _answer(response: httpx.Response) -> dict[str, Any] | None:
    try:
        return as_object(_json.decode(response.content))
    except MalformedJSON:
        return None


def _checked(argument: str, value: str | Secret) -> Secret:
    return checked_token("Oauth2Authenticator", argument, value)


def _check_grant(endpoint: str, client_auth: str, secret: object, refresh_token: object) -> None:
    if not endpoint.startswith(("https://", "http://")):
        raise ConfigError("Oauth2Authenticator(token_refresh_endpoint=...): an absolute URL is needed")
    if client_auth == "basic" and secret is None:
        raise ConfigError('Oauth2Authenticator(client_auth="basic") needs a client_secret')
    if refresh_token is None and secret is None:
        raise ConfigError("Oauth2Authenticator: neither refresh_token nor client_secret: nothing to get a token with")


def _check_choices(client_auth: str, send_as: str, expires_unit: str) -> None:
    for name, value, allowed in (
        ("client_auth", client_auth, ("body", "basic")),
        ("send_as", send_as, ("form", "json", "query")),
        ("expires_unit", expires_unit, ("s", "ms")),
    ):
        if value not in allowed:
            raise ConfigError(f"Oauth2Authenticator({name}={value!r}): one of {', '.join(map(repr, allowed))}")
