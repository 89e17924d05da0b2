"""MockApi authentication: static credentials and the OAuth2 token endpoint."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from asyncstreams import (
    ApiKeyAuthenticator,
    AuthError,
    BasicHttpAuthenticator,
    ConfigError,
    HttpStream,
    Oauth2Authenticator,
    Oauth2Tokens,
    PageNumber,
    RequestContext,
    TokenAuthenticator,
)
from asyncstreams.testing import ApiKeyAuth, BasicAuth, BearerAuth, Fault, MockApi, OAuth2, Resource


class Users(HttpStream):
    records_path = "data"
    paginator = PageNumber(size=100)

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


class ManualClock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_767_225_600 + self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def request_token(api: MockApi, **fields: str) -> httpx.Response:
    defaults = {"client_id": "client", "client_secret": "secret", "grant_type": "refresh_token"}
    return httpx.post(api.url + "oauth/token", data={**defaults, **fields})


def get_users(api: MockApi, token: str) -> httpx.Response:
    return httpx.get(api.url + "users", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("auth", "right", "wrong"),
    [
        (BearerAuth("a", "b"), TokenAuthenticator("b"), TokenAuthenticator("c")),
        (BearerAuth("a"), TokenAuthenticator("a"), BasicHttpAuthenticator("a", "a")),
        (BasicAuth("ann", "pässword"), BasicHttpAuthenticator("ann", "pässword"), BasicHttpAuthenticator("ann", "x")),
        (BasicAuth("key"), BasicHttpAuthenticator("key"), TokenAuthenticator("key")),
        (ApiKeyAuth("k"), ApiKeyAuthenticator("k"), ApiKeyAuthenticator("k", "X-Other")),
        (
            ApiKeyAuth("k", "api_key", into="query"),
            ApiKeyAuthenticator("k", "api_key", into="query"),
            ApiKeyAuthenticator("l", "api_key", into="query"),
        ),
        (
            ApiKeyAuth("k", "sid", into="cookie"),
            ApiKeyAuthenticator("k", "sid", into="cookie"),
            ApiKeyAuthenticator("l", "sid", into="cookie"),
        ),
        (
            OAuth2(client_secret="s"),
            lambda url: Oauth2Authenticator(f"{url}oauth/token", "client", "s", "refresh-0"),
            lambda url: TokenAuthenticator("made-up"),
        ),
    ],
)
async def test_right_credential_is_accepted_and_wrong_one_rejected(auth: Any, right: Any, wrong: Any) -> None:
    async with MockApi(Resource("users", 250), auth=auth) as api:
        accepted, rejected = [
            auth_(api.url) if callable(auth_) and not isinstance(auth_, httpx.Auth) else auth_
            for auth_ in (right, wrong)
        ]

        records = await Users(api, authenticator=accepted).read()
        with pytest.raises(AuthError, match="answered 401"):
            await Users(api, authenticator=rejected).read()

    assert len(records) == 250
    assert api.counts.refused_by_auth >= 1


def test_401_has_challenge_and_json_error(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))

    for auth, challenge in ((BearerAuth("a"), "Bearer"), (BasicAuth("a"), 'Basic realm="mock"'), (OAuth2(), "Bearer")):
        mock_api.auth = auth
        response = httpx.get(mock_api.url + "users")

        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith(challenge)
        assert response.json()["error"]["code"] == "unauthorized"


def test_resource_can_override_or_disable_authentication(mock_api: MockApi) -> None:
    mock_api.auth = BearerAuth("a")
    mock_api.add(Resource("users"))
    mock_api.add(Resource("admins", auth=BearerAuth("b")))
    mock_api.add(Resource("status", auth=None))

    def status(name: str, token: str) -> int:
        return httpx.get(mock_api.url + name, headers={"Authorization": f"Bearer {token}"}).status_code

    assert [status("users", "a"), status("users", "b")] == [200, 401]
    assert [status("admins", "a"), status("admins", "b")] == [401, 200]
    assert status("status", "c") == 200


def test_repr_hides_credentials() -> None:
    text = repr([BearerAuth("hush"), BasicAuth("ann", "hush"), ApiKeyAuth("hush"), OAuth2("c", "hush", "hush")])

    assert "hush" not in text


def test_access_token_expires_after_expires_in() -> None:
    clock = ManualClock()

    with MockApi(Resource("users"), auth=OAuth2(expires_in=60), clock=clock) as api:
        answer = request_token(api, refresh_token="refresh-0").json()
        clock.now = 59.9
        before = get_users(api, answer["access_token"])
        clock.now = 60
        after = get_users(api, answer["access_token"])

    assert answer["expires_in"] == 60
    assert "refresh_token" not in answer
    assert before.status_code == 200
    assert after.status_code == 401
    assert "the token has expired" in after.headers["WWW-Authenticate"]


def test_reused_refresh_token_revokes_its_family(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))
    mock_api.auth = OAuth2(rotate=True)

    first = request_token(mock_api, refresh_token="refresh-0").json()
    second = request_token(mock_api, refresh_token=first["refresh_token"]).json()
    assert get_users(mock_api, second["access_token"]).status_code == 200
    again = request_token(mock_api, refresh_token=first["refresh_token"])
    last = request_token(mock_api, refresh_token=second["refresh_token"])

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert (last.status_code, last.json()["error"]) == (400, "invalid_grant")
    assert get_users(mock_api, second["access_token"]).status_code == 401
    assert mock_api.counts.tokens_issued == 2
    assert mock_api.counts.tokens_reused == 1


async def test_authenticator_follows_expiring_and_rotating_tokens() -> None:
    refreshed: list[Oauth2Tokens] = []

    async with MockApi(Resource("users", 24_000), auth=OAuth2(expires_in=0.75, rotate=True), latency=0.12) as api:
        authenticator = Oauth2Authenticator(
            f"{api.url}oauth/token", "client", "secret", "refresh-0", on_refresh=refreshed.append
        )
        records = await Users(api, authenticator=authenticator).read()

    assert [record["id"] for record in records] == api.ids("users")
    assert api.counts.tokens_issued == len(refreshed) > 2
    assert api.counts.tokens_reused == 0


async def test_authenticator_raises_for_revoked_token_family() -> None:
    async with MockApi(Resource("users"), auth=OAuth2(rotate=True)) as api:
        first, second = [
            Oauth2Authenticator(f"{api.url}oauth/token", "client", "secret", "refresh-0") for _ in range(2)
        ]
        await Users(api, authenticator=first).read()
        with pytest.raises(AuthError, match="invalid_grant"):
            await Users(api, authenticator=second).read()
        with pytest.raises(AuthError, match="invalid_grant"):
            await Users(api, authenticator=first).read()

    assert api.counts.tokens_reused == 1


@pytest.mark.parametrize("send_as", ["form", "json", "query"])
@pytest.mark.parametrize("client_auth", ["body", "basic"])
@pytest.mark.parametrize("refresh_token", ["refresh-0", None])
async def test_token_endpoint_accepts_every_request_form(
    send_as: Any, client_auth: Any, refresh_token: str | None
) -> None:
    async with MockApi(Resource("users", 5), auth=OAuth2("my client", "s:cr%t")) as api:
        authenticator = Oauth2Authenticator(
            f"{api.url}oauth/token", "my client", "s:cr%t", refresh_token, client_auth=client_auth, send_as=send_as
        )
        records = await Users(api, authenticator=authenticator).read()

    assert len(records) == 5


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"client_secret": "x"}, 401, "invalid_client"),
        ({"client_id": "x"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"refresh_token": "x"}, 400, "invalid_grant"),
        ({}, 400, "invalid_grant"),
    ],
)
def test_token_endpoint_rejects_invalid_requests(
    mock_api: MockApi, fields: dict[str, str], status: int, error: str
) -> None:
    mock_api.auth = OAuth2()

    response = request_token(mock_api, **fields)

    assert (response.status_code, response.json()["error"]) == (status, error)
    assert httpx.get(mock_api.url + "oauth/token").status_code == 405
    assert mock_api.counts.tokens_issued == 0


def test_public_client_cannot_use_client_credentials(mock_api: MockApi) -> None:
    mock_api.auth = OAuth2(client_secret=None)

    assert request_token(mock_api, client_secret="", refresh_token="refresh-0").status_code == 200
    assert request_token(mock_api, grant_type="client_credentials").json()["error"] == "unauthorized_client"


def test_only_a_fault_with_its_path_hits_the_token_endpoint(mock_api: MockApi) -> None:
    mock_api.auth = OAuth2()
    mock_api.faults = [Fault.status(500), Fault.status(503, resource="oauth/token", times=1)]

    assert request_token(mock_api, refresh_token="refresh-0").status_code == 503
    assert request_token(mock_api, refresh_token="refresh-0").status_code == 200


def test_invalid_settings_are_rejected() -> None:
    for declare in (lambda: BearerAuth(), lambda: OAuth2(expires_in=0), lambda: ApiKeyAuth("k", into="body")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            declare()
