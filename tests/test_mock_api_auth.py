"""Does the mock API let in whom it should, and nobody else; and are its tokens those of a real OAuth2 server?"""

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

pytestmark = pytest.mark.alone


class Users(HttpStream):
    records_path = "data"
    paginator = PageNumber(size=100)

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


class Turned:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_767_225_600 + self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask(api: MockApi, **fields: str) -> httpx.Response:
    known = {"client_id": "client", "client_secret": "secret", "grant_type": "refresh_token"}
    return httpx.post(api.url + "oauth/token", data={**known, **fields})


def users_with(api: MockApi, token: str) -> httpx.Response:
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
async def test_the_right_credential_is_let_in_and_a_wrong_one_is_not(auth: Any, right: Any, wrong: Any) -> None:
    async with MockApi(Resource("users", 250), auth=auth) as api:
        made = [
            maker(api.url) if callable(maker) and not isinstance(maker, httpx.Auth) else maker
            for maker in (right, wrong)
        ]

        records = await Users(api, authenticator=made[0]).read()
        with pytest.raises(AuthError, match="answered 401"):
            await Users(api, authenticator=made[1]).read()

    assert len(records) == 250
    assert api.counts.refused_by_auth >= 1


def test_a_refusal_has_a_challenge_and_an_error_in_json(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))

    for auth, challenge in ((BearerAuth("a"), "Bearer"), (BasicAuth("a"), 'Basic realm="mock"'), (OAuth2(), "Bearer")):
        mock_api.auth = auth
        response = httpx.get(mock_api.url + "users")

        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith(challenge)
        assert response.json()["error"]["code"] == "unauthorized"


def test_a_resource_may_have_an_authentication_of_its_own_or_none(mock_api: MockApi) -> None:
    mock_api.auth = BearerAuth("a")
    mock_api.add(Resource("users"))
    mock_api.add(Resource("admins", auth=BearerAuth("b")))
    mock_api.add(Resource("status", auth=None))

    def status(name: str, token: str) -> int:
        return httpx.get(mock_api.url + name, headers={"Authorization": f"Bearer {token}"}).status_code

    assert [status("users", "a"), status("users", "b")] == [200, 401]
    assert [status("admins", "a"), status("admins", "b")] == [401, 200]
    assert status("status", "c") == 200


def test_credentials_are_in_no_repr() -> None:
    shown = repr([BearerAuth("hush"), BasicAuth("ann", "hush"), ApiKeyAuth("hush"), OAuth2("c", "hush", "hush")])

    assert "hush" not in shown


def test_an_access_token_expires_when_it_says() -> None:
    clock = Turned()

    with MockApi(Resource("users"), auth=OAuth2(expires_in=60), clock=clock) as api:
        answer = ask(api, refresh_token="refresh-0").json()
        clock.now = 59.9
        before = users_with(api, answer["access_token"])
        clock.now = 60
        after = users_with(api, answer["access_token"])

    assert answer["expires_in"] == 60
    assert "refresh_token" not in answer
    assert before.status_code == 200
    assert after.status_code == 401
    assert "the token has expired" in after.headers["WWW-Authenticate"]


def test_a_dead_refresh_token_takes_its_family_down(mock_api: MockApi) -> None:
    mock_api.add(Resource("users"))
    mock_api.auth = OAuth2(rotate=True)

    first = ask(mock_api, refresh_token="refresh-0").json()
    second = ask(mock_api, refresh_token=first["refresh_token"]).json()
    assert users_with(mock_api, second["access_token"]).status_code == 200
    again = ask(mock_api, refresh_token=first["refresh_token"])
    last = ask(mock_api, refresh_token=second["refresh_token"])

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert (last.status_code, last.json()["error"]) == (400, "invalid_grant")
    assert users_with(mock_api, second["access_token"]).status_code == 401
    assert mock_api.counts.tokens_issued == 2
    assert mock_api.counts.tokens_reused == 1


async def test_our_authenticator_reads_on_while_tokens_expire_and_rotate() -> None:
    handed: list[Oauth2Tokens] = []

    async with MockApi(Resource("users", 24_000), auth=OAuth2(expires_in=0.25, rotate=True), latency=0.02) as api:
        login = Oauth2Authenticator(f"{api.url}oauth/token", "client", "secret", "refresh-0", on_refresh=handed.append)
        records = await Users(api, authenticator=login).read()

    assert [record["id"] for record in records] == api.ids("users")
    assert api.counts.tokens_issued == len(handed) > 2
    assert api.counts.tokens_reused == 0


async def test_our_authenticator_is_told_of_a_family_that_has_ended() -> None:
    async with MockApi(Resource("users"), auth=OAuth2(rotate=True)) as api:
        login = [Oauth2Authenticator(f"{api.url}oauth/token", "client", "secret", "refresh-0") for _ in range(2)]
        await Users(api, authenticator=login[0]).read()
        with pytest.raises(AuthError, match="invalid_grant"):
            await Users(api, authenticator=login[1]).read()
        with pytest.raises(AuthError, match="invalid_grant"):
            await Users(api, authenticator=login[0]).read()

    assert api.counts.tokens_reused == 1


@pytest.mark.parametrize("send_as", ["form", "json", "query"])
@pytest.mark.parametrize("client_auth", ["body", "basic"])
@pytest.mark.parametrize("refresh_token", ["refresh-0", None])
async def test_tokens_are_asked_for_in_every_way(send_as: Any, client_auth: Any, refresh_token: str | None) -> None:
    async with MockApi(Resource("users", 5), auth=OAuth2("my client", "s:cr%t")) as api:
        login = Oauth2Authenticator(
            f"{api.url}oauth/token", "my client", "s:cr%t", refresh_token, client_auth=client_auth, send_as=send_as
        )
        records = await Users(api, authenticator=login).read()

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
def test_what_the_token_endpoint_refuses(mock_api: MockApi, fields: dict[str, str], status: int, error: str) -> None:
    mock_api.auth = OAuth2()

    response = ask(mock_api, **fields)

    assert (response.status_code, response.json()["error"]) == (status, error)
    assert httpx.get(mock_api.url + "oauth/token").status_code == 405
    assert mock_api.counts.tokens_issued == 0


def test_a_public_client_has_no_secret_and_no_credentials_of_its_own(mock_api: MockApi) -> None:
    mock_api.auth = OAuth2(client_secret=None)

    assert ask(mock_api, client_secret="", refresh_token="refresh-0").status_code == 200
    assert ask(mock_api, grant_type="client_credentials").json()["error"] == "unauthorized_client"


def test_a_fault_hits_the_token_endpoint_only_by_its_path(mock_api: MockApi) -> None:
    mock_api.auth = OAuth2()
    mock_api.faults = [Fault.status(500), Fault.status(503, resource="oauth/token", times=1)]

    assert ask(mock_api, refresh_token="refresh-0").status_code == 503
    assert ask(mock_api, refresh_token="refresh-0").status_code == 200


def test_settings_that_make_no_sense_are_refused() -> None:
    for declare in (lambda: BearerAuth(), lambda: OAuth2(expires_in=0), lambda: ApiKeyAuth("k", into="body")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            declare()
