"""Which tokens have been issued, which of them are still good, and who presents one that is not (RFC 6749)?"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_plus

from .auth import OAuth2, basic_pair, bearer, same, unauthorized
from .counts import CountsRecorder
from .seeding import draw
from .wire_messages import MockResponse, ReceivedRequest, answer, json_body

_NO_STORE = {"Cache-Control": "no-store"}


class _Family:
    """The refresh tokens that came from one another; only the last is alive."""

    def __init__(self) -> None:
        self.revoked = False


@dataclass(frozen=True, slots=True)
class _Issued:
    family: _Family | None
    expires: float


class Tokens:
    """The token endpoint of an OAuth2 at work. Time comes in as an argument, in seconds."""

    def __init__(self, settings: OAuth2, key: int, ledger: CountsRecorder) -> None:
        self.settings, self._key, self._ledger = settings, key, ledger
        self._access: dict[str, _Issued] = {}
        self._alive: dict[str, _Family] = {settings.refresh_token: _Family()}
        self._dead: dict[str, _Family] = {}

    def check(self, request: ReceivedRequest, now: float) -> None:
        """Raises Refused for a token that is unknown, expired or revoked."""
        issued = self._access.get(bearer(request))
        if issued is None:
            told = "the token is not known"
        elif issued.family is not None and issued.family.revoked:
            told = "the token was revoked"
        elif now >= issued.expires:
            told = "the token has expired"
        else:
            return
        challenge = f'Bearer error="invalid_token", error_description="{told}"'
        raise unauthorized("invalid_token", told, challenge)

    def issue(self, request: ReceivedRequest, now: float) -> MockResponse:
        """What the endpoint answers."""
        told = request.params
        if not self._knows_client(request):
            challenge = {"WWW-Authenticate": 'Basic realm="oauth"'} if basic_pair(request) else {}
            return _refusal(401, "invalid_client", "client id or secret is wrong", challenge)
        grant = told.get("grant_type")
        if grant == "client_credentials":
            if self.settings.client_secret is None:
                return _refusal(400, "unauthorized_client", "a public client has no credentials of its own")
            return self._granted(None, None, now)
        if grant != "refresh_token":
            return _refusal(400, "unsupported_grant_type", f"grant_type={grant}: refresh_token or client_credentials")
        presented = told.get("refresh_token", "")
        if (family := self._dead.get(presented)) is not None:
            family.revoked = True
            self._ledger.tokens_reused += 1
            return _refusal(400, "invalid_grant", "the refresh token was used before: all that came from it has ended")
        family = self._alive.get(presented)
        if family is None or family.revoked:
            return _refusal(400, "invalid_grant", "the refresh token is not known, or was revoked")
        return self._granted(family, presented, now)

    def _granted(self, family: _Family | None, presented: str | None, now: float) -> MockResponse:
        self._ledger.tokens_issued += 1
        number = self._ledger.tokens_issued
        access = f"access-{draw(self._key, number):016x}"
        self._forget(now)
        lifetime = self.settings.expires_in
        self._access[access] = _Issued(family, now + lifetime)
        told: dict[str, object] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
        }
        if family is not None and presented is not None and self.settings.rotate:
            fresh = f"refresh-{draw(self._key ^ 1, number):016x}"
            del self._alive[presented]
            self._dead[presented], self._alive[fresh] = family, family
            told["refresh_token"] = fresh
        return answer(200, json_body(told), _NO_STORE)

    def _forget(self, now: float) -> None:
        """Tokens that expired long ago, so that a long run does not fill the memory."""
        if len(self._access) >= 10_000:
            self._access = {token: issued for token, issued in self._access.items() if issued.expires > now}

    def _knows_client(self, request: ReceivedRequest) -> bool:
        pair = basic_pair(request)
        if pair is not None:
            # RFC 6749, 2.3.1: both were form-encoded before they were joined.
            name, secret = map(unquote_plus, pair)
        else:
            name, secret = request.params.get("client_id", ""), request.params.get("client_secret", "")
        known = self.settings
        return same(name, known.client_id) and (known.client_secret is None or same(secret, known.client_secret))


def _refusal(status: int, code: str, description: str, headers: dict[str, str] | None = None) -> MockResponse:
    body = json_body({"error": code, "error_description": description})
    return answer(status, body, {**_NO_STORE, **(headers or {})})
