"""OAuth2 access tokens: requested on first use, renewed before expiry and shared by all requests (RFC 6749)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal, TypeAlias, TypedDict

import anyio
import httpx

from ..clock import Clock, SystemClock
from ..errors import AuthError, ConfigError
from ..models import Secret
from ..redaction import safe_url
from .authenticators import RenewingAuth, set_header, validate_header_name
from .identity import NotFingerprintable, ValueEncoder, digest, is_own, process_digest
from .token_endpoint import ClientCredentials, FieldsInput, Oauth2Endpoint, TokenFields, read_secret
from .tokens import CachedToken, Oauth2Tokens, SharedTokens, TokenStore, distinct, release_tokens, share_tokens

_MAX_EXPIRY_MARGIN_S = 60.0
_EXPIRY_MARGIN_RATIO = 0.25
_ON_REFRESH_GRACE_S = 10.0
_NOT_COMPARED = frozenset(("_account_token", "_on_refresh", "_token_store", "_clock", "_tokens", "_sharing_key"))

OnRefresh: TypeAlias = Callable[[Oauth2Tokens], Awaitable[None] | None]


class Oauth2Options(TypedDict, total=False):
    """The arguments of an Oauth2Authenticator that do not depend on where its credentials are kept."""

    client_auth: Literal["body", "basic"]
    basic_encoding: Literal["form", "raw"]
    send_as: Literal["form", "json", "query"]
    access_token_name: str
    expires_in_name: str
    refresh_token_name: str
    expires_unit: Literal["s", "ms"]
    refresh_request_body: FieldsInput | None
    refresh_request_headers: Mapping[str, str | Secret] | None
    auth_method: str
    auth_header: str
    on_refresh: OnRefresh | None
    clock: Clock | None


class Oauth2Authenticator(RenewingAuth):
    """Sends an access token obtained with a refresh token or, without one, with the client credentials.

    The token is renewed once for all concurrent requests: before it expires (by 25 % of its lifetime, at most 60 s),
    and after a 401 if the rejected token is still the current one. Equal authenticators that are used at the same
    time in one process share their tokens; the `on_refresh` of each is called.

    token_refresh_endpoint: absolute URL of the token endpoint; a query in it is kept.
    client_id, client_secret, refresh_token, scopes: the parameters of RFC 6749. A grant needs a refresh
        token (grant `refresh_token`) or a client secret (grant `client_credentials`).
    grant_type: another grant, such as "password" or "account_credentials", whose fields are in
        `refresh_request_body`. It is used for every renewal.
    client_auth: send the client credentials in the "body", or as "basic" authentication (RFC 6749, 2.3.1).
    basic_encoding: "form" encodes id and secret before they are joined, as RFC 6749 demands; "raw" sends them as
        they are, as many token endpoints expect.
    send_as: encode the token request as "form" (the standard), "json" or "query".
    access_token_name, expires_in_name, refresh_token_name: where the token response has these values; dotted
        paths such as "data.token" are allowed.
    expires_unit: unit of the lifetime in the response, "s" or "ms".
    refresh_request_body: additional fields of the token request, or a function that returns them for each renewal.
    refresh_request_headers: additional headers. With `Authorization` among them, client id and secret are not sent.
    auth_method, auth_header: the API receives `<auth_header>: <auth_method> <access token>`.
    on_refresh: called with the Oauth2Tokens of each renewal before the new access token is used; plain or
        async. Store the rotated refresh token here. Cancellation waits up to 10 s for an async one.
    token_store: a TokenStore that keeps the tokens between runs and for other processes, such as FileTokenStore.

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
        grant_type: str | None = None,
        client_auth: Literal["body", "basic"] = "body",
        basic_encoding: Literal["form", "raw"] = "form",
        send_as: Literal["form", "json", "query"] = "form",
        access_token_name: str = "access_token",
        expires_in_name: str = "expires_in",
        refresh_token_name: str = "refresh_token",
        expires_unit: Literal["s", "ms"] = "s",
        refresh_request_body: FieldsInput | None = None,
        refresh_request_headers: Mapping[str, str | Secret] | None = None,
        auth_method: str = "Bearer",
        auth_header: str = "Authorization",
        on_refresh: OnRefresh | None = None,
        token_store: TokenStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._class_name = name = type(self).__name__
        _check_choices(
            name, client_auth=client_auth, basic_encoding=basic_encoding, send_as=send_as, expires_unit=expires_unit
        )
        secret = None if client_secret is None else read_secret(name, "client_secret", client_secret)
        # The first refresh token identifies the account, also after a rotation.
        self._account_token = None if refresh_token is None else read_secret(name, "refresh_token", refresh_token)
        self._method, self._header = auth_method, validate_header_name(name, auth_header)
        self._endpoint = Oauth2Endpoint(
            name,
            token_refresh_endpoint,
            ClientCredentials(client_id, secret, client_auth, basic_encoding),
            self._account_token,
            scopes,
            grant_type,
            send_as=send_as,
            extra_body=refresh_request_body,
            extra_headers=refresh_request_headers,
            fields=TokenFields(access_token_name, expires_in_name, refresh_token_name, expires_unit),
        )
        self._on_refresh, self._token_store = on_refresh, token_store
        self._clock: Clock = clock or SystemClock()
        self._tokens = SharedTokens(self._account_token)
        self._tokens.members.add(self)
        self._sharing_key: Hashable = None

    def __repr__(self) -> str:
        url, client, grant = safe_url(self._endpoint.url), self._endpoint.client, self._endpoint.grant_type
        return f"{self._class_name}({url!r}, {client.id!r}, grant={grant!r})"

    @property
    def shared_secrets(self) -> Sequence[Secret]:
        """The client secret and the tokens in use, for redaction of messages."""
        current, refresh, client = self._tokens.current, self._tokens.refresh_token, self._endpoint.client
        secrets = (client.secret, current and current.access_token, refresh)
        return tuple(secret for secret in secrets if secret is not None)

    def credential_attributes(self) -> Mapping[str, object]:
        """What identifies the credential, by names that must not change: states keep a hash of them."""
        return {**vars(self), **self._endpoint.credential_attributes()}

    def join(self) -> Hashable:
        """Share the tokens of equal authenticators in use; the result is equal for those that share them."""
        self._sharing_key = self._key_of_arguments()
        self._tokens = share_tokens(self._sharing_key, self._tokens)
        self._tokens.members.add(self)
        return self._tokens

    def leave(self) -> None:
        """End a use that began with `join`. What was shared until then stays shared."""
        release_tokens(self._sharing_key, self._tokens)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Raises ConfigError: synchronous clients are not supported."""
        raise ConfigError(
            f"{self._class_name}: httpx.Client is not supported", hint="use httpx.AsyncClient, or a stream"
        )

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The hook of httpx: yield token requests as needed, and the signed request up to twice."""
        rejected: CachedToken | None = None
        while True:
            token = self._fresh_token(rejected)
            if token is None:
                async with self._tokens.renewal(self._clock):
                    # A 401 may follow a renewal by another request: renew only what is still current.
                    token = self._fresh_token(rejected)
                    failure: AuthError | None = None
                    while token is None:
                        async with self._stored_tokens() as stored:
                            sent = self._tokens.refresh_token
                            token = self._take_stored(stored, rejected)
                            if failure is not None and self._tokens.refresh_token == sent and token is None:
                                raise failure
                            if token is None:
                                response = yield self._endpoint.request(self._tokens.refresh_token)
                                await response.aread()
                                try:
                                    now, secrets = self._clock.wall(), self.shared_secrets
                                    tokens = self._endpoint.read_response(response, now, secrets)
                                except AuthError as error:
                                    # Another process may have renewed the token without the lock.
                                    if self._token_store is None or failure is not None:
                                        raise
                                    failure = error
                                else:
                                    token = await self._keep(tokens)
            self._sign(request, token)
            response = yield request
            if response.status_code != 401 or rejected is not None:
                return
            rejected = token

    def invalidate_token(self, request: httpx.Request) -> None:
        """Discard the access token that `request` was signed with, if it is still the current one."""
        current = self._tokens.current
        if current is not None and request.headers.get(self._header) == self._header_value(current):
            self._tokens.discarded, self._tokens.current = current.access_token, None

    def _fresh_token(self, rejected: CachedToken | None) -> CachedToken | None:
        current = self._tokens.current
        if current is None or current is rejected or self._clock.monotonic() >= current.fresh_until:
            return None
        return current

    def _header_value(self, token: CachedToken) -> str:
        return f"{self._method} {token.access_token.reveal()}".strip()

    def _sign(self, request: httpx.Request, token: CachedToken) -> None:
        set_header(request, self._header, self._header_value(token))

    @asynccontextmanager
    async def _stored_tokens(self) -> AsyncGenerator[Oauth2Tokens | None]:
        """The lock and the tokens of the store, if there is one."""
        if self._token_store is None:
            yield None
            return
        async with self._token_store.exclusive(self._store_key()) as stored:
            yield stored

    def _store_key(self) -> str:
        """Client, account and scopes, without a secret: a refresh token is too random to be found by its hash."""
        account, endpoint = "" if self._account_token is None else self._account_token.reveal(), self._endpoint
        parts = (endpoint.url, endpoint.client.id, endpoint.grant_type, *endpoint.scopes, account)
        return digest([part.encode("utf-8", "surrogatepass") for part in parts], b"asyncstreams token store")

    def _take_stored(self, stored: Oauth2Tokens | None, rejected: CachedToken | None) -> CachedToken | None:
        """Take over stored tokens; the access token if it can be used now."""
        tokens = self._tokens
        if stored is None or tokens.is_unsaved:
            return None
        if stored.refresh_token is not None and tokens.refresh_token is not None:
            tokens.replace_refresh_token(stored.refresh_token)
        refused = (rejected and rejected.access_token, tokens.discarded)
        if stored.expires_at is None or stored.access_token in refused:
            return None
        fresh_s = stored.expires_at - self._clock.wall() - _expiry_margin(stored.lifetime)
        if fresh_s <= 0:
            return None
        tokens.current = CachedToken(stored.access_token, self._clock.monotonic() + fresh_s)
        return tokens.current

    async def _keep(self, tokens: Oauth2Tokens) -> CachedToken:
        """Store new tokens, and use them from now on."""
        shared = self._tokens
        shared.renewed_at = now = self._clock.monotonic()
        shared.is_unsaved = True
        # Before the callbacks run: a rotated token that is lost cannot be requested again.
        if tokens.refresh_token is not None and shared.refresh_token is not None:
            shared.replace_refresh_token(tokens.refresh_token)
        token = CachedToken(tokens.access_token, now + tokens.lifetime - _expiry_margin(tokens.lifetime))
        if any(member._token_store or member._on_refresh for member in shared.members):
            await _await_shielded(self._deliver(tokens))
        shared.is_unsaved = False
        shared.current, shared.discarded = token, None
        return token

    async def _deliver(self, tokens: Oauth2Tokens) -> None:
        """Save new tokens for all equal authenticators, and call their `on_refresh`."""
        members = [self, *self._tokens.members]
        complete = replace(tokens, refresh_token=self._tokens.refresh_token)
        for store in distinct(member._token_store for member in members):
            await store.save(self._store_key(), complete)
        for on_refresh in distinct(member._on_refresh for member in members):
            result = on_refresh(tokens)
            if inspect.isawaitable(result):
                await result

    def _key_of_arguments(self) -> Hashable:
        """A key that is equal for equal arguments, except tokens, callbacks and stores of the configuration."""
        if not is_own(self):
            return self._tokens  # equal to itself only
        clock = self._clock
        arguments = {
            **{name: value for name, value in vars(self).items() if name not in _NOT_COMPARED},
            "store": self._key_of_store(),
            "clock": "" if isinstance(clock, SystemClock) else id(clock),
        }
        try:
            return process_digest(ValueEncoder().encode((type(self), arguments), 0))
        except NotFingerprintable:
            return self._tokens  # equal to itself only

    def _key_of_store(self) -> object:
        store = self._token_store
        return repr(store) if is_own(store) else id(store)


def _expiry_margin(lifetime: float) -> float:
    return min(_MAX_EXPIRY_MARGIN_S, lifetime * _EXPIRY_MARGIN_RATIO)


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


def _check_choices(class_name: str, *, client_auth: str, basic_encoding: str, send_as: str, expires_unit: str) -> None:
    for name, value, allowed in (
        ("client_auth", client_auth, ("body", "basic")),
        ("basic_encoding", basic_encoding, ("form", "raw")),
        ("send_as", send_as, ("form", "json", "query")),
        ("expires_unit", expires_unit, ("s", "ms")),
    ):
        if value not in allowed:
            raise ConfigError(f"{class_name}({name}={value!r}): must be one of {', '.join(map(repr, allowed))}")
