"""OAuth2 access tokens: requested on first use, renewed before expiry and shared by all requests (RFC 6749)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias
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
from .authenticators import set_header, validate_header_name, validate_token

_DEFAULT_LIFETIME_S = 3600.0
_MAX_EXPIRY_MARGIN_S = 60.0
_EXPIRY_MARGIN_RATIO = 0.25
_ON_REFRESH_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Oauth2Tokens:
    """The tokens of one token response, as passed to `on_refresh`.

    access_token: the new access token.
    refresh_token: the rotated refresh token; None if the previous one remains valid.
    lifetime: seconds until the access token expires; 3600 if the endpoint does not state it.
    """

    access_token: Secret
    refresh_token: Secret | None
    lifetime: float


OnRefresh: TypeAlias = Callable[[Oauth2Tokens], Awaitable[None] | None]


class CachedToken(NamedTuple):
    """An access token; `fresh_until` is a time of the monotonic clock, with a margin before its expiry."""

    access_token: Secret
    fresh_until: float


class Oauth2Authenticator(httpx.Auth):
    """Sends an access token obtained with a refresh token or, without one, with the client credentials.

    The token is renewed once for all concurrent requests: before it expires (by 25 % of its lifetime, at most 60 s),
    and after a 401 if the rejected token is still the current one.

    token_refresh_endpoint: absolute URL of the token endpoint.
    client_id, client_secret, refresh_token, scopes: the parameters of RFC 6749. A grant needs a refresh
        token (grant `refresh_token`) or a client secret (grant `client_credentials`).
    client_auth: send the client credentials in the "body", or as "basic" authentication (RFC 6749, 2.3.1).
    send_as: encode the token request as "form" (the standard), "json" or "query".
    access_token_name, expires_in_name, refresh_token_name: where the token response has these values; dotted
        paths such as "data.token" are allowed.
    expires_unit: unit of the lifetime in the response, "s" or "ms".
    refresh_request_body, refresh_request_headers: additional fields and headers of the token request.
    auth_method, auth_header: the API receives `<auth_header>: <auth_method> <access token>`.
    on_refresh: called with the Oauth2Tokens of each renewal before the new access token is used; plain or
        async. Store the rotated refresh token here. Cancellation waits up to 10 s for an async one.

    Raises ConfigError for wrong arguments, AuthError if the endpoint rejects the request, and HttpStatusError
    if it answers with a 5xx status.
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
        self._client_secret = None if client_secret is None else _validate_token("client_secret", client_secret)
        self._refresh_token = None if refresh_token is None else _validate_token("refresh_token", refresh_token)
        self._initial_refresh_token = self._refresh_token  # identifies the account, also after a rotation
        self._scopes = tuple(scopes.split()) if isinstance(scopes, str) else tuple(scopes)
        self._client_auth, self._send_as = client_auth, send_as
        self._response_fields = (access_token_name, expires_in_name, refresh_token_name)
        self._expires_unit_s = 1.0 if expires_unit == "s" else 0.001
        self._extra_body = dict(refresh_request_body or {})
        self._extra_headers = dict(refresh_request_headers or {})
        self._method = auth_method
        self._header = validate_header_name("Oauth2Authenticator", auth_header)
        self._on_refresh = on_refresh
        self._clock: Clock = clock or SystemClock()
        self._current: CachedToken | None = None
        # One lock per event loop: a lock cannot be shared, but an authenticator may be used in several loops.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def __repr__(self) -> str:
        grant = "client_credentials" if self._refresh_token is None else "refresh_token"
        return f"Oauth2Authenticator({safe_url(self._endpoint)!r}, {self._client_id!r}, grant={grant!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Raises ConfigError: synchronous clients are not supported."""
        raise ConfigError(
            "Oauth2Authenticator: httpx.Client is not supported", hint="use httpx.AsyncClient, or a stream"
        )

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The hook of httpx: yield token requests as needed, and the signed request up to twice."""
        token = self._fresh_token()
        if token is None:
            async with self._lock():
                token = self._fresh_token()
                if token is None:
                    token = await self._store_tokens((yield self._token_request()))
        self._sign(request, token)
        response = yield request
        if response.status_code != 401:
            return
        async with self._lock():
            # A 401 may follow a renewal by another request: renew only what is still current.
            if self._current is token or self._current is None:
                token = await self._store_tokens((yield self._token_request()))
            else:
                token = self._current
        self._sign(request, token)
        yield request

    def invalidate_token(self, request: httpx.Request) -> None:
        """Discard the access token that `request` was signed with, if it is still the current one."""
        if self._current is not None and request.headers.get(self._header) == self._header_value(self._current):
            self._current = None

    def _fresh_token(self) -> CachedToken | None:
        return self._current if self._current and self._clock.monotonic() < self._current.fresh_until else None

    def _lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _header_value(self, token: CachedToken) -> str:
        return f"{self._method} {token.access_token.reveal()}".strip()

    def _sign(self, request: httpx.Request, token: CachedToken) -> None:
        set_header(request, self._header, self._header_value(token))

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
            # RFC 6749, 2.3.1: both are form-encoded before they are joined with a colon.
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

    async def _store_tokens(self, response: httpx.Response) -> CachedToken:
        await response.aread()
        if response.status_code >= 500:
            raise HttpStatusError(
                f"the token endpoint answered {response.status_code}",
                status=response.status_code,
                url=self._safe_endpoint(),
            )
        if not response.is_success:
            raise self._auth_error(response)
        tokens = self._parse_tokens(response)
        now = self._clock.monotonic()
        margin = min(_MAX_EXPIRY_MARGIN_S, tokens.lifetime * _EXPIRY_MARGIN_RATIO)
        token = CachedToken(tokens.access_token, now + tokens.lifetime - margin)
        # Stored before the callback runs: a rotated token that is lost cannot be recovered.
        self._refresh_token = tokens.refresh_token or self._refresh_token
        if self._on_refresh is not None:
            callback = self._on_refresh(tokens)
            if inspect.isawaitable(callback):
                await _await_shielded(callback)
        self._current = token
        return token

    def _parse_tokens(self, response: httpx.Response) -> Oauth2Tokens:
        fields = _json_object(response)
        access_name, expires_name, refresh_name = self._response_fields
        access = select_path(access_name, fields)
        if not isinstance(access, str) or not access:
            body = "not a JSON object" if fields is None else f"an object with the fields {sorted(fields)}"
            raise AuthError(
                f"the token endpoint {self._safe_endpoint()} answered {response.status_code} "
                f"without {access_name!r}: {body}",
                status=response.status_code,
                hint="set access_token_name to the dotted path of the token",
            )
        refresh = select_path(refresh_name, fields)
        return Oauth2Tokens(
            access_token=validate_token("Oauth2Authenticator", access_name, access),
            refresh_token=_validate_token(refresh_name, refresh) if isinstance(refresh, str) and refresh else None,
            lifetime=self._lifetime_s(select_path(expires_name, fields)),
        )

    def _lifetime_s(self, expires_in: Any) -> float:
        try:
            lifetime = float(expires_in) * self._expires_unit_s
        except (TypeError, ValueError):
            return _DEFAULT_LIFETIME_S
        return lifetime if 0 < lifetime < float("inf") else _DEFAULT_LIFETIME_S

    def _auth_error(self, response: httpx.Response) -> AuthError:
        fields = _json_object(response) or {}
        secrets = [secret.reveal() for secret in (self._client_secret, self._refresh_token) if secret is not None]
        code, description = fields.get("error"), fields.get("error_description")
        reason = ": ".join(scrub(str(text), secrets)[:200] for text in (code, description) if isinstance(text, str))
        return AuthError(
            f"answered {response.status_code} to the token request: {reason}".rstrip(": "),
            status=response.status_code,
            method="POST",
            url=self._safe_endpoint(),
            hint=_HINTS_BY_CODE.get(str(code)) or _HINTS_BY_STATUS.get(response.status_code, _DEFAULT_HINT),
        )

    def _safe_endpoint(self) -> str:
        return safe_url(self._endpoint)


_DEFAULT_HINT = "check client id, client secret, refresh token and scopes"
_HINTS_BY_STATUS = {404: "check token_refresh_endpoint", 405: "check token_refresh_endpoint"}
_HINTS_BY_CODE = {
    "invalid_grant": "the refresh token is expired, revoked or already used: authorize again and store the new one",
    "invalid_client": 'check client id and secret; some endpoints need client_auth="basic"',
    "invalid_scope": "request fewer scopes, or have them granted",
    "unauthorized_client": "the client may not use this grant: check its registration",
}


async def _await_shielded(callback: Awaitable[None]) -> None:
    """Await the callback. After a cancellation it has 10 s to finish: a rotated token cannot be requested again.

    It runs in its own task, since a cancel scope does not shield from a plain `Task.cancel()`.
    """
    task = asyncio.ensure_future(callback)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled anyio scope would cancel the wait repeatedly.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_ON_REFRESH_GRACE_S)
        raise
    finally:
        task.cancel()


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        return as_object(_json.decode(response.content))
    except MalformedJSON:
        return None


def _validate_token(argument: str, value: str | Secret) -> Secret:
    return validate_token("Oauth2Authenticator", argument, value)


def _check_grant(endpoint: str, client_auth: str, secret: object, refresh_token: object) -> None:
    if not endpoint.startswith(("https://", "http://")):
        raise ConfigError("Oauth2Authenticator(token_refresh_endpoint=...): must be an absolute http or https URL")
    if client_auth == "basic" and secret is None:
        raise ConfigError('Oauth2Authenticator(client_auth="basic"): client_secret is missing')
    if refresh_token is None and secret is None:
        raise ConfigError("Oauth2Authenticator: either refresh_token or client_secret is required")


def _check_choices(client_auth: str, send_as: str, expires_unit: str) -> None:
    for name, value, allowed in (
        ("client_auth", client_auth, ("body", "basic")),
        ("send_as", send_as, ("form", "json", "query")),
        ("expires_unit", expires_unit, ("s", "ms")),
    ):
        if value not in allowed:
            raise ConfigError(f"Oauth2Authenticator({name}={value!r}): must be one of {', '.join(map(repr, allowed))}")
