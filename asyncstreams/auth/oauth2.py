"""OAuth2 access tokens: requested on first use, renewed before expiry and shared by all requests (RFC 6749)."""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

import anyio
import httpx

from .. import _json
from .._json import as_object
from ..clock import Clock, SystemClock
from ..content.error_text import error_text, shown_text
from ..errors import AuthError, ConfigError, HttpStatusError, MalformedJSON
from ..models import Secret
from ..pagination.selectors import select_path
from ..redaction import safe_url
from ..urls import with_params
from .authenticators import RenewingAuth, set_header, validate_header_name
from .identity import NotFingerprintable, ValueEncoder, digest, is_own, process_digest
from .tokens import CachedToken, Oauth2Tokens, SharedTokens, TokenStore, distinct, release_tokens, share_tokens

_DEFAULT_LIFETIME_S = 3600.0
_MAX_EXPIRY_MARGIN_S = 60.0
_EXPIRY_MARGIN_RATIO = 0.25
_ON_REFRESH_GRACE_S = 10.0

OnRefresh: TypeAlias = Callable[[Oauth2Tokens], Awaitable[None] | None]
FieldsInput: TypeAlias = Mapping[str, str | Secret] | Callable[[], Mapping[str, str | Secret]]


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
        self._class_name = type(self).__name__
        _check_choices(
            self._class_name,
            client_auth=client_auth,
            basic_encoding=basic_encoding,
            send_as=send_as,
            expires_unit=expires_unit,
        )
        self._endpoint = token_refresh_endpoint
        self._client_id = client_id
        self._client_secret = self._optional_secret("client_secret", client_secret)
        # The first refresh token identifies the account, also after a rotation.
        self._account_token = self._optional_secret("refresh_token", refresh_token)
        self._scopes = tuple(scopes.split()) if isinstance(scopes, str) else tuple(scopes)
        self._client_auth, self._basic_encoding, self._send_as = client_auth, basic_encoding, send_as
        self._response_fields = (access_token_name, expires_in_name, refresh_token_name)
        self._expires_unit_s = 1.0 if expires_unit == "s" else 0.001
        self._extra_body: FieldsInput = (
            refresh_request_body if callable(refresh_request_body) else dict(refresh_request_body or {})
        )
        self._extra_headers = dict(refresh_request_headers or {})
        self._method = auth_method
        self._header = validate_header_name(self._class_name, auth_header)
        self._on_refresh = on_refresh
        self._token_store = token_store
        self._clock: Clock = clock or SystemClock()
        self._grant_type = self._checked_grant(grant_type)
        self._tokens = SharedTokens(self._account_token)
        self._tokens.members.add(self)
        self._sharing_key: Hashable = None

    def __repr__(self) -> str:
        return f"{self._class_name}({safe_url(self._endpoint)!r}, {self._client_id!r}, grant={self._grant_type!r})"

    @property
    def shared_secrets(self) -> Sequence[Secret]:
        """The tokens in use, for redaction of messages."""
        current, refresh = self._tokens.current, self._tokens.refresh_token
        return tuple(token for token in (current and current.access_token, refresh) if token is not None)

    def join(self) -> Hashable:
        """Share the tokens of equal authenticators in use; the result is equal for those that share them."""
        self._sharing_key = self._key_of_arguments()
        self._tokens = share_tokens(self._sharing_key, self._tokens)
        self._tokens.members.add(self)
        return ("tokens", id(self._tokens))

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
                                response = yield self._token_request()
                                await response.aread()
                                try:
                                    tokens = self._parse_response(response)
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
        account = "" if self._account_token is None else self._account_token.reveal()
        parts = (self._endpoint, self._client_id, self._grant_type, *self._scopes, account)
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

    def _token_request(self) -> httpx.Request:
        extra = _revealed(self._extra_body() if callable(self._extra_body) else self._extra_body)
        own_headers = _revealed(self._extra_headers)
        headers = {"accept": "application/json"} | {name.lower(): value for name, value in own_headers.items()}
        fields = {"grant_type": self._grant_type}
        if self._tokens.refresh_token is not None:
            fields["refresh_token"] = self._tokens.refresh_token.reveal()
        if self._scopes:
            fields["scope"] = " ".join(self._scopes)
        if self._client_auth == "basic" and self._client_secret is not None:
            headers["authorization"] = self._basic_header(self._client_secret)
        elif "authorization" not in headers:
            fields["client_id"] = self._client_id
            if self._client_secret is not None:
                fields["client_secret"] = self._client_secret.reveal()
        for name, value in extra.items():
            if fields.setdefault(name, value) != value:
                raise self._conflict(name)
        if self._send_as == "json":
            return httpx.Request("POST", self._endpoint, json=fields, headers=headers)
        if self._send_as == "query":
            return httpx.Request("POST", with_params(self._class_name, self._endpoint, fields), headers=headers)
        return httpx.Request("POST", self._endpoint, data=fields, headers=headers)

    def _basic_header(self, secret: Secret) -> str:
        encode = quote_plus if self._basic_encoding == "form" else str
        pair = f"{encode(self._client_id)}:{encode(secret.reveal())}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

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

    def _parse_response(self, response: httpx.Response) -> Oauth2Tokens:
        """The tokens of a response. Raises AuthError with what the endpoint says, and HttpStatusError for a 5xx."""
        status = response.status_code
        if status >= 500:
            raise HttpStatusError(f"the token endpoint answered {status}", status=status, url=safe_url(self._endpoint))
        fields = _json_object(response)
        access_name, expires_name, refresh_name = self._response_fields
        access = select_path(access_name, fields) if response.is_success else None
        if not isinstance(access, str) or not access.strip():
            raise self._auth_error(response, fields)
        refresh = select_path(refresh_name, fields)
        lifetime = self._lifetime_s(select_path(expires_name, fields))
        return Oauth2Tokens(
            access_token=self._secret(access_name, access, in_header=True),
            refresh_token=self._secret(refresh_name, refresh) if isinstance(refresh, str) and refresh else None,
            lifetime=lifetime,
            expires_at=self._clock.wall() + lifetime,
        )

    def _lifetime_s(self, expires_in: Any) -> float:
        try:
            lifetime = float(expires_in) * self._expires_unit_s
        except (TypeError, ValueError):
            return _DEFAULT_LIFETIME_S
        return lifetime if 0 < lifetime < float("inf") else _DEFAULT_LIFETIME_S

    def _auth_error(self, response: httpx.Response, fields: Mapping[str, Any] | None) -> AuthError:
        status, access_name = response.status_code, self._response_fields[0]
        secrets = self._sent_secrets()
        code, description = _standard_error(fields)
        if code and description:
            # Joined after they are cleaned: "refresh_token: ..." would look like a token and its value.
            reason = f"{shown_text(code, secrets)}: {shown_text(description, secrets)}"
        else:
            reason = error_text(response, secrets) or ""
        hint = next((text for known, text in _HINTS if known in code or known in reason), None)
        if code.startswith("invalid_client") and self._client_auth == "basic" and self._is_changed_by_encoding:
            other = "raw" if self._basic_encoding == "form" else "form"
            hint = f'{hint}; id or secret have characters that basic_encoding="{other}" would send differently'
        if 300 <= status < 400:
            target = safe_url(response.headers.get("location", ""))
            problem = f"answered {status} to the token request: a redirect to {target!r}, which is not followed"
            hint = "set token_refresh_endpoint to the target, if it is the token endpoint"
        elif not response.is_success:
            problem = f"answered {status} to the token request: {reason}".rstrip(": ")
        elif reason and fields is not None and any(name.lower().replace("_", "") in _ERROR_KEYS for name in fields):
            problem = f"answered {status} to the token request without {access_name!r}: {reason}"
        elif fields is None:
            problem = f"answered {status} to the token request without {access_name!r}: not a JSON object: {reason}"
            problem, hint = problem.rstrip(": "), "check token_refresh_endpoint"
        else:
            problem = f"answered {status} to the token request without {access_name!r}: "
            problem += f"an object with the fields {sorted(fields)}"
            hint = "set access_token_name to the dotted path of the token"
        return AuthError(
            problem,
            status=status,
            method="POST",
            url=safe_url(self._endpoint),
            hint=hint or _HINTS_BY_STATUS.get(status, _DEFAULT_HINT),
        )

    def _sent_secrets(self) -> Sequence[str]:
        extra = _revealed({} if callable(self._extra_body) else self._extra_body)
        more = [value for name, value in extra.items() if name not in _HARMLESS_FIELDS]
        own = [secret.reveal() for secret in (self._client_secret, *self.shared_secrets) if secret is not None]
        return [*own, *more, *_revealed(self._extra_headers).values()]

    @property
    def _is_changed_by_encoding(self) -> bool:
        values = (self._client_id, self._client_secret.reveal() if self._client_secret else "")
        return any(quote_plus(value) != value for value in values)

    def _key_of_arguments(self) -> Hashable:
        """A key that is equal for equal arguments, except tokens, callbacks and stores of the configuration."""
        if not is_own(self):
            return id(self)
        clock = self._clock
        arguments = {
            **{name: value for name, value in vars(self).items() if name not in _NOT_COMPARED},
            "store": self._key_of_store(),
            "clock": "" if isinstance(clock, SystemClock) else id(clock),
        }
        try:
            return process_digest(ValueEncoder().encode((type(self), arguments), 0))
        except NotFingerprintable:
            return id(self)

    def _key_of_store(self) -> object:
        store = self._token_store
        return repr(store) if is_own(store) else id(store)

    def _secret(self, argument: str, value: str | Secret, *, in_header: bool = False) -> Secret:
        """A secret without the line breaks around it, as files have them. Raises ConfigError if it is empty."""
        text = value.reveal() if isinstance(value, Secret) else value
        if not isinstance(text, str) or not text.strip():
            problem = "empty" if isinstance(text, str) else type(text).__name__
            raise ConfigError(
                f"{self._class_name}({argument}=...): the value is {problem}",
                hint="check the environment variable or file that it is read from",
            )
        text = text.strip() if in_header else text.strip("\r\n")
        if in_header and not (text.isascii() and text.isprintable()):
            raise AuthError(
                f"the token endpoint gave an access token in {argument!r} that no header can hold",
                url=safe_url(self._endpoint),
            )
        return Secret(text)

    def _optional_secret(self, argument: str, value: str | Secret | None) -> Secret | None:
        return None if value is None else self._secret(argument, value)

    def _checked_grant(self, grant_type: str | None) -> str:
        """The grant of all token requests. Raises ConfigError for arguments that contradict each other."""
        name = self._class_name
        if not self._endpoint.startswith(("https://", "http://")):
            raise ConfigError(f"{name}(token_refresh_endpoint=...): must be an absolute http or https URL")
        has_own_header = "authorization" in {header.lower() for header in self._extra_headers}
        if self._client_auth == "basic":
            if self._client_secret is None:
                raise ConfigError(f'{name}(client_auth="basic"): client_secret is missing')
            if has_own_header:
                raise ConfigError(
                    f'{name}: client_auth="basic" and refresh_request_headers both set Authorization',
                    hint="leave out one of them",
                )
            if self._basic_encoding == "raw" and ":" in self._client_id:
                raise ConfigError(f'{name}(basic_encoding="raw"): client_id must not contain a colon (RFC 7617)')
        elif self._basic_encoding == "raw":
            raise ConfigError(f'{name}(basic_encoding="raw"): has an effect only with client_auth="basic"')
        extra = _revealed({} if callable(self._extra_body) else self._extra_body)
        given: dict[str, object] = {
            "grant_type": grant_type,
            "refresh_token": self._account_token,
            "scope": " ".join(self._scopes) or None,
            "client_id": self._client_id or None,
            "client_secret": self._client_secret,
        }
        for field, value in given.items():
            plain = value.reveal() if isinstance(value, Secret) else value
            if field in extra and plain is not None and extra[field] != plain:
                raise self._conflict(field)
        if "refresh_token" in extra and self._account_token is None:
            raise ConfigError(
                f"{name}(refresh_request_body=...): 'refresh_token' would never be replaced by a rotated one",
                hint="pass refresh_token=",
            )
        own_grant = grant_type or extra.get("grant_type")
        if self._account_token is not None:
            return own_grant or "refresh_token"
        if own_grant == "refresh_token":
            raise ConfigError(f'{name}(grant_type="refresh_token"): refresh_token is missing')
        if own_grant is None and self._client_secret is None and not has_own_header:
            raise ConfigError(f"{name}: either refresh_token or client_secret is required")
        return own_grant or "client_credentials"

    def _conflict(self, field: str) -> ConfigError:
        argument = "scopes" if field == "scope" else field
        return ConfigError(
            f"{self._class_name}(refresh_request_body=...): {field!r} differs from {argument}=",
            hint=f"leave {field!r} out of refresh_request_body, and pass {argument}= alone",
        )


_DEFAULT_HINT = "check client id, client secret, refresh token and scopes"
_HINTS_BY_STATUS = {404: "check token_refresh_endpoint", 405: "check token_refresh_endpoint"}
_REUSED = "the refresh token is expired, revoked or already used: authorize again and store the new one"
_CLIENT = 'check client id and secret; some endpoints need client_auth="basic"'
_HINTS = (
    ("invalid_grant", _REUSED),
    ("bad_refresh_token", _REUSED),
    ("invalid_refresh_token", _REUSED),
    ("token_revoked", _REUSED),
    ("invalid_client", _CLIENT),
    ("incorrect_client_credentials", _CLIENT),
    ("bad_client_secret", _CLIENT),
    ("invalid_scope", "request fewer scopes, or have them granted"),
    ("unauthorized_client", "the client may not use this grant: check its registration"),
    ("unsupported_grant_type", "pass the grant that the endpoint expects as grant_type="),
)
# In lower case, without underscores. Without one of them the body may hold a token under another name.
_ERROR_KEYS = frozenset(
    ("error", "errors", "errordescription", "errorcode", "errcode", "errmsg", "errormessage", "message", "msg")
    + ("detail", "title", "ok", "success", "fault", "reason")
)
_HARMLESS_FIELDS = frozenset(("grant_type", "scope", "audience", "resource", "account_id"))
_NOT_COMPARED = frozenset(("_account_token", "_on_refresh", "_token_store", "_clock", "_tokens", "_sharing_key"))


def _standard_error(fields: Mapping[str, Any] | None) -> tuple[str, str]:
    """Code and description of an error as RFC 6749, 5.2 defines them; empty if they are not there."""
    code, description = (fields or {}).get("error"), (fields or {}).get("error_description")
    return code if isinstance(code, str) else "", description if isinstance(description, str) else ""


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


def _revealed(fields: Mapping[str, str | Secret]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in fields.items()}


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        return as_object(_json.decode(response.content))
    except MalformedJSON:
        return None


def _check_choices(class_name: str, *, client_auth: str, basic_encoding: str, send_as: str, expires_unit: str) -> None:
    for name, value, allowed in (
        ("client_auth", client_auth, ("body", "basic")),
        ("basic_encoding", basic_encoding, ("form", "raw")),
        ("send_as", send_as, ("form", "json", "query")),
        ("expires_unit", expires_unit, ("s", "ms")),
    ):
        if value not in allowed:
            raise ConfigError(f"{class_name}({name}={value!r}): must be one of {', '.join(map(repr, allowed))}")
