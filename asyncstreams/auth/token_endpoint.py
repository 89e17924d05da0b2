"""Token endpoint of an OAuth2 client: its requests and responses (RFC 6749)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

import httpx

from .. import _json
from .._json import as_object
from ..content.error_text import error_text, shown_text
from ..errors import AuthError, ConfigError, HttpStatusError, MalformedJSON
from ..models import Secret
from ..pagination.selectors import select_path
from ..redaction import safe_url
from ..urls import with_params
from .tokens import Oauth2Tokens

_DEFAULT_LIFETIME_S = 3600.0

FieldsInput: TypeAlias = Mapping[str, str | Secret] | Callable[[], Mapping[str, str | Secret]]


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """The credentials of a client, and how they are sent (RFC 6749, 2.3.1)."""

    id: str
    secret: Secret | None
    auth: Literal["body", "basic"]
    basic_encoding: Literal["form", "raw"]

    def basic_header(self, secret: Secret) -> str:
        """The value of Authorization."""
        encode = quote_plus if self.basic_encoding == "form" else str
        return f"Basic {base64.b64encode(f'{encode(self.id)}:{encode(secret.reveal())}'.encode()).decode()}"

    @property
    def is_changed_by_encoding(self) -> bool:
        """Whether the other encoding would send another header."""
        values = (self.id, self.secret.reveal() if self.secret else "")
        return self.auth == "basic" and any(quote_plus(value) != value for value in values)


@dataclass(frozen=True, slots=True)
class TokenFields:
    """Where a token response has its values, as dotted paths, and the unit of the lifetime."""

    access_token: str
    expires_in: str
    refresh_token: str
    expires_unit: Literal["s", "ms"]

    def lifetime_s(self, fields: Mapping[str, Any] | None) -> float:
        """The lifetime of the access token in seconds."""
        try:
            lifetime = float(select_path(self.expires_in, fields)) * (1.0 if self.expires_unit == "s" else 0.001)
        except (TypeError, ValueError):
            return _DEFAULT_LIFETIME_S
        return lifetime if 0 < lifetime < float("inf") else _DEFAULT_LIFETIME_S


class Oauth2Endpoint:
    """Makes the token requests of one client, and reads the responses.

    Raises ConfigError for arguments that contradict each other. `class_name` is that of the authenticator.
    """

    def __init__(
        self,
        class_name: str,
        url: str,
        client: ClientCredentials,
        refresh_token: Secret | None,
        scopes: Sequence[str],
        grant_type: str | None,
        *,
        send_as: Literal["form", "json", "query"],
        extra_body: FieldsInput | None,
        extra_headers: Mapping[str, str | Secret] | None,
        fields: TokenFields,
    ) -> None:
        self._class_name, self.url, self.client, self._fields = class_name, url, client, fields
        self.scopes = tuple(scopes.split()) if isinstance(scopes, str) else tuple(scopes)
        self._send_as = send_as
        self._extra_body: FieldsInput = extra_body if callable(extra_body) else dict(extra_body or {})
        self._extra_headers = dict(extra_headers or {})
        self.grant_type = self._checked_grant(grant_type, refresh_token)

    def credential_attributes(self) -> Mapping[str, object]:
        """What identifies the client and its grant, by names that must not change."""
        client, fields = self.client, self._fields
        return {
            "_basic_encoding": client.basic_encoding,
            "_client_auth": client.auth,
            "_client_id": client.id,
            "_client_secret": client.secret,
            "_endpoint": self.url,
            "_expires_unit_s": 1.0 if fields.expires_unit == "s" else 0.001,
            "_extra_body": self._extra_body,
            "_extra_headers": self._extra_headers,
            "_grant_type": self.grant_type,
            "_response_fields": (fields.access_token, fields.expires_in, fields.refresh_token),
            "_scopes": self.scopes,
            "_send_as": self._send_as,
        }

    def request(self, refresh_token: Secret | None) -> httpx.Request:
        """A token request, with the refresh token that is valid now."""
        client = self.client
        extra = _revealed(self._extra_body() if callable(self._extra_body) else self._extra_body)
        own_headers = _revealed(self._extra_headers)
        headers = {"accept": "application/json"} | {name.lower(): value for name, value in own_headers.items()}
        fields = {"grant_type": self.grant_type}
        if refresh_token is not None:
            fields["refresh_token"] = refresh_token.reveal()
        if self.scopes:
            fields["scope"] = " ".join(self.scopes)
        if client.auth == "basic" and client.secret is not None:
            headers["authorization"] = client.basic_header(client.secret)
        elif "authorization" not in headers:
            fields["client_id"] = client.id
            if client.secret is not None:
                fields["client_secret"] = client.secret.reveal()
        for name, value in extra.items():
            if fields.setdefault(name, value) != value:
                raise self._conflict(name)
        if self._send_as == "json":
            return httpx.Request("POST", self.url, json=fields, headers=headers)
        if self._send_as == "query":
            return httpx.Request("POST", with_params(self._class_name, self.url, fields), headers=headers)
        return httpx.Request("POST", self.url, data=fields, headers=headers)

    def read_response(self, response: httpx.Response, now: float, sent: Sequence[Secret]) -> Oauth2Tokens:
        """The tokens of a response. Raises AuthError with what the endpoint says, and HttpStatusError for a 5xx.

        `now` is in seconds since 1970; the text of an error does not show the secrets `sent`.
        """
        status, names = response.status_code, self._fields
        if status >= 500:
            raise HttpStatusError(f"the token endpoint answered {status}", status=status, url=safe_url(self.url))
        fields = _json_object(response)
        access = select_path(names.access_token, fields) if response.is_success else None
        if not isinstance(access, str) or not access.strip():
            raise self._auth_error(response, fields, self._sent_texts(sent))
        refresh = select_path(names.refresh_token, fields)
        lifetime = names.lifetime_s(fields)
        token = read_secret(self._class_name, names.access_token, access).reveal().strip()
        if not (token.isascii() and token.isprintable()):
            raise AuthError(
                f"the token endpoint gave an access token in {names.access_token!r} that no header can hold",
                url=safe_url(self.url),
            )
        return Oauth2Tokens(
            access_token=Secret(token),
            refresh_token=read_secret(self._class_name, names.refresh_token, refresh)
            if isinstance(refresh, str) and refresh
            else None,
            lifetime=lifetime,
            expires_at=now + lifetime,
        )

    def _auth_error(
        self, response: httpx.Response, fields: Mapping[str, Any] | None, secrets: Sequence[str]
    ) -> AuthError:
        status, access_name = response.status_code, self._fields.access_token
        code, description = _standard_error(fields)
        if code and description:
            # Joined after they are cleaned: "refresh_token: ..." would look like a token and its value.
            reason = f"{shown_text(code, secrets)}: {shown_text(description, secrets)}"
        else:
            reason = error_text(response, secrets) or ""
        hint = next((text for known, text in _HINTS if known in code or known in reason), None)
        if code.startswith("invalid_client") and self.client.is_changed_by_encoding:
            other = "raw" if self.client.basic_encoding == "form" else "form"
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
            url=safe_url(self.url),
            hint=hint or _HINTS_BY_STATUS.get(status, _DEFAULT_HINT),
        )

    def _sent_texts(self, secrets: Sequence[Secret]) -> Sequence[str]:
        """The texts of a request that an error must not show."""
        extra = _revealed({} if callable(self._extra_body) else self._extra_body)
        more = [value for name, value in extra.items() if name not in _HARMLESS_FIELDS]
        return [*(secret.reveal() for secret in secrets), *more, *_revealed(self._extra_headers).values()]

    def _checked_grant(self, grant_type: str | None, refresh_token: Secret | None) -> str:
        """The grant of all token requests. Raises ConfigError for arguments that contradict each other."""
        name, client = self._class_name, self.client
        if not self.url.startswith(("https://", "http://")):
            raise ConfigError(f"{name}(token_refresh_endpoint=...): must be an absolute http or https URL")
        has_own_header = "authorization" in {header.lower() for header in self._extra_headers}
        if client.auth == "basic":
            if client.secret is None:
                raise ConfigError(f'{name}(client_auth="basic"): client_secret is missing')
            if has_own_header:
                raise ConfigError(
                    f'{name}: client_auth="basic" and refresh_request_headers both set Authorization',
                    hint="leave out one of them",
                )
            if client.basic_encoding == "raw" and ":" in client.id:
                raise ConfigError(f'{name}(basic_encoding="raw"): client_id must not contain a colon (RFC 7617)')
        elif client.basic_encoding == "raw":
            raise ConfigError(f'{name}(basic_encoding="raw"): has an effect only with client_auth="basic"')
        extra = _revealed({} if callable(self._extra_body) else self._extra_body)
        given: dict[str, object] = {
            "grant_type": grant_type,
            "refresh_token": refresh_token,
            "scope": " ".join(self.scopes) or None,
            "client_id": client.id or None,
            "client_secret": client.secret,
        }
        for field, value in given.items():
            plain = value.reveal() if isinstance(value, Secret) else value
            if field in extra and plain is not None and extra[field] != plain:
                raise self._conflict(field)
        if "refresh_token" in extra and refresh_token is None:
            raise ConfigError(
                f"{name}(refresh_request_body=...): 'refresh_token' would never be replaced by a rotated one",
                hint="pass refresh_token=",
            )
        own_grant = grant_type or extra.get("grant_type")
        if refresh_token is not None:
            return own_grant or "refresh_token"
        if own_grant == "refresh_token":
            raise ConfigError(f'{name}(grant_type="refresh_token"): refresh_token is missing')
        if own_grant is None and client.secret is None and not has_own_header:
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


def read_secret(class_name: str, argument: str, value: str | Secret) -> Secret:
    """A secret without the line breaks around it, as files have them. Raises ConfigError if it is empty."""
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not text.strip():
        problem = "empty" if isinstance(text, str) else type(text).__name__
        raise ConfigError(
            f"{class_name}({argument}=...): the value is {problem}",
            hint="check the environment variable or file that it is read from",
        )
    return Secret(text.strip("\r\n"))


def _standard_error(fields: Mapping[str, Any] | None) -> tuple[str, str]:
    """Code and description of an error as RFC 6749, 5.2 defines them; empty if they are not there."""
    code, description = (fields or {}).get("error"), (fields or {}).get("error_description")
    return code if isinstance(code, str) else "", description if isinstance(description, str) else ""


def _revealed(fields: Mapping[str, str | Secret]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in fields.items()}


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        return as_object(_json.decode(response.content))
    except MalformedJSON:
        return None
