"""Token endpoint of a MockApi with OAuth2 (RFC 6749): issues, checks, rotates and revokes tokens."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_plus

from .counts import AdmissionCounts
from .mock_auth import OAuth2, basic_credentials, bearer_token, equal_secrets, unauthorized
from .seeding import draw_bits
from .wire_messages import MockResponse, ReceivedRequest, json_body, make_response

_NO_STORE = {"Cache-Control": "no-store"}


class _TokenFamily:
    """A refresh token and all tokens derived from it; only the last refresh token is active."""

    def __init__(self) -> None:
        self.is_revoked = False


@dataclass(frozen=True, slots=True)
class _AccessToken:
    family: _TokenFamily | None
    expires_at: float


class TokenEndpoint:
    """Token endpoint for one OAuth2. Time comes in as an argument, in seconds."""

    def __init__(self, settings: OAuth2, key: int, counts: AdmissionCounts) -> None:
        self.settings, self._key, self._counts = settings, key, counts
        self._access_tokens: dict[str, _AccessToken] = {}
        self._active_refresh_tokens: dict[str, _TokenFamily] = {settings.refresh_token: _TokenFamily()}
        self._used_refresh_tokens: dict[str, _TokenFamily] = {}

    def check(self, request: ReceivedRequest, now: float) -> None:
        """Raises BadRequest (401) for a token that is missing, unknown, expired or revoked."""
        issued = self._access_tokens.get(bearer_token(request))
        if issued is None:
            problem = "the token is unknown"
        elif issued.family is not None and issued.family.is_revoked:
            problem = "the token was revoked"
        elif now >= issued.expires_at:
            problem = "the token has expired"
        else:
            return
        challenge = f'Bearer error="invalid_token", error_description="{problem}"'
        raise unauthorized("invalid_token", problem, challenge)

    def issue(self, request: ReceivedRequest, now: float) -> MockResponse:
        """The response of the endpoint to a token request."""
        params = request.params
        if not self._is_known_client(request):
            challenge = {"WWW-Authenticate": 'Basic realm="oauth"'} if basic_credentials(request) else {}
            return _error_response(401, "invalid_client", "wrong client id or client secret", challenge)
        grant = params.get("grant_type")
        if grant == "client_credentials":
            if self.settings.client_secret is None:
                return _error_response(400, "unauthorized_client", "a public client cannot use client_credentials")
            return self._grant(None, None, now)
        if grant != "refresh_token":
            return _error_response(
                400, "unsupported_grant_type", f"grant_type={grant}: use refresh_token or client_credentials"
            )
        presented = params.get("refresh_token", "")
        if (family := self._used_refresh_tokens.get(presented)) is not None:
            family.is_revoked = True
            self._counts.tokens_reused += 1
            return _error_response(
                400, "invalid_grant", "the refresh token was used before; all tokens derived from it are revoked"
            )
        family = self._active_refresh_tokens.get(presented)
        if family is None or family.is_revoked:
            return _error_response(400, "invalid_grant", "the refresh token is unknown or revoked")
        return self._grant(family, presented, now)

    def _grant(self, family: _TokenFamily | None, presented: str | None, now: float) -> MockResponse:
        self._counts.tokens_issued += 1
        number = self._counts.tokens_issued
        access = f"access-{draw_bits(self._key, number):016x}"
        self._drop_expired(now)
        lifetime = self.settings.expires_in
        self._access_tokens[access] = _AccessToken(family, now + lifetime)
        body: dict[str, object] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
        }
        if family is not None and presented is not None and self.settings.rotate:
            new_refresh_token = f"refresh-{draw_bits(self._key ^ 1, number):016x}"
            del self._active_refresh_tokens[presented]
            self._used_refresh_tokens[presented], self._active_refresh_tokens[new_refresh_token] = family, family
            body["refresh_token"] = new_refresh_token
        return make_response(200, json_body(body), _NO_STORE)

    def _drop_expired(self, now: float) -> None:
        """Forget expired access tokens once there are 10,000, which bounds the memory of a long run."""
        if len(self._access_tokens) >= 10_000:
            self._access_tokens = {
                token: issued for token, issued in self._access_tokens.items() if issued.expires_at > now
            }

    def _is_known_client(self, request: ReceivedRequest) -> bool:
        pair = basic_credentials(request)
        if pair is not None:
            # RFC 6749, 2.3.1: both are form-encoded before they are joined.
            client_id, secret = map(unquote_plus, pair)
        else:
            client_id, secret = request.params.get("client_id", ""), request.params.get("client_secret", "")
        known = self.settings
        return equal_secrets(client_id, known.client_id) and (
            known.client_secret is None or equal_secrets(secret, known.client_secret)
        )


def _error_response(status: int, code: str, description: str, headers: dict[str, str] | None = None) -> MockResponse:
    body = json_body({"error": code, "error_description": description})
    return make_response(status, body, {**_NO_STORE, **(headers or {})})
