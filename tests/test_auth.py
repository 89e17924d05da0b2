"""Authenticators, with streams and with plain httpx clients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Generator

import httpx
import pytest
from httpx import Response

from asyncstreams import (
    AbstractHeaderAuthenticator,
    ApiKeyAuthenticator,
    AuthError,
    BasicHttpAuthenticator,
    ConfigError,
    HttpStream,
    LinkHeader,
    MultipleTokenAuthenticator,
    Oauth2Authenticator,
    ResponseAction,
    Secret,
    TokenAuthenticator,
)
from asyncstreams.testing import VirtualClock

URL = "https://api.example.com/v1/users"
BASIC = "Basic " + base64.b64encode("ann:p\u00e4ss:word".encode()).decode()

HEADER_CASES = [
    pytest.param(lambda: TokenAuthenticator("t0k"), "Authorization", "Bearer t0k", id="token"),
    pytest.param(lambda: TokenAuthenticator(Secret("t0k")), "Authorization", "Bearer t0k", id="secret"),
    pytest.param(lambda: TokenAuthenticator(" t0k\n"), "Authorization", "Bearer t0k", id="surrounding-space"),
    pytest.param(lambda: TokenAuthenticator("t0k", "Token"), "Authorization", "Token t0k", id="method"),
    pytest.param(lambda: TokenAuthenticator("t0k", "", "X-Auth"), "X-Auth", "t0k", id="own-header"),
    pytest.param(lambda: MultipleTokenAuthenticator(["t0k"]), "Authorization", "Bearer t0k", id="multiple"),
    pytest.param(lambda: BasicHttpAuthenticator("ann", "p\u00e4ss:word"), "Authorization", BASIC, id="basic-utf8"),
    pytest.param(lambda: BasicHttpAuthenticator("ann"), "Authorization", "Basic YW5uOg==", id="no-password"),
    pytest.param(lambda: ApiKeyAuthenticator("k3y"), "X-API-Key", "k3y", id="api-key"),
    pytest.param(lambda: ApiKeyAuthenticator("k3y", "X-Key"), "X-Key", "k3y", id="api-key-name"),
    pytest.param(lambda: ApiKeyAuthenticator("k3y", "sid", into="cookie"), "Cookie", "sid=k3y", id="cookie"),
    pytest.param(lambda: ApiKeyAuthenticator("Token abc", "Authorization"), "Authorization", "Token abc", id="words"),
    pytest.param(lambda: ApiKeyAuthenticator(Secret(" a  b\tc; d=e\n")), "X-API-Key", "a  b\tc; d=e", id="any-text"),
]


class Users(HttpStream):
    url_base = "https://api.example.com/v1"

    def path(self, context):
        return "users"


@pytest.mark.parametrize(("make", "header", "value"), HEADER_CASES)
async def test_stream_sends_credential(respx_mock, make, header, value):
    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=make()).read()

    assert route.calls.last.request.headers[header] == value


@pytest.mark.parametrize(("make", "header", "value"), HEADER_CASES)
async def test_httpx_client_sends_credential(respx_mock, make, header, value):
    route = respx_mock.get(URL).respond(json=[])

    async with httpx.AsyncClient(auth=make()) as client:
        await client.get(URL)

    assert route.calls.last.request.headers[header] == value


def test_synchronous_httpx_client_sends_credential(respx_mock):
    route = respx_mock.get(URL).respond(json=[])

    with httpx.Client(auth=TokenAuthenticator("t0k")) as client:
        client.get(URL)

    assert route.calls.last.request.headers["Authorization"] == "Bearer t0k"


async def test_api_key_is_added_to_stream_query(respx_mock):
    class Filtered(Users):
        def request_params(self, context):
            return {"state": "open"}

    route = respx_mock.get(URL).respond(json=[])

    await Filtered(authenticator=ApiKeyAuthenticator("k3y+/", "key", into="query")).read()

    assert dict(route.calls.last.request.url.params) == {"state": "open", "key": "k3y+/"}


async def test_any_text_is_a_key_in_the_query(respx_mock):
    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=ApiKeyAuthenticator("k\u00e9y & more", "key", into="query")).read()

    assert dict(route.calls.last.request.url.params) == {"key": "k\u00e9y & more"}


async def test_empty_api_key_is_sent_with_a_warning(respx_mock, caplog):
    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=ApiKeyAuthenticator("")).read()

    assert route.calls.last.request.headers["X-API-Key"] == ""
    assert "the key is empty" in caplog.text


async def test_api_key_with_a_space_is_masked_in_errors(respx_mock):
    respx_mock.get(URL).respond(401, json={"message": "abc-d3f and Token abc-d3f are unknown"})

    with pytest.raises(AuthError, match=r"\*\*\* and .* are unknown") as caught:
        await Users(authenticator=ApiKeyAuthenticator("Token abc-d3f", "Authorization")).read()

    assert "abc-d3f" not in str(caught.value)


async def test_api_key_is_added_to_httpx_query(respx_mock):
    route = respx_mock.get(URL).respond(json=[])

    async with httpx.AsyncClient(auth=ApiKeyAuthenticator("k3y+/", "key", into="query")) as client:
        await client.get(URL, params={"state": "open"})

    assert dict(route.calls.last.request.url.params) == {"state": "open", "key": "k3y+/"}


async def test_api_key_cookie_is_added_to_stream_cookies(respx_mock):
    class WithCookie(Users):
        def request_headers(self, context):
            return {"Cookie": "lang=en"}

    route = respx_mock.get(URL).respond(json=[])

    await WithCookie(authenticator=ApiKeyAuthenticator("k3y", "sid", into="cookie")).read()

    assert route.calls.last.request.headers.get_list("cookie") == ["lang=en; sid=k3y"]


async def test_authenticator_replaces_equal_stream_header(respx_mock):
    class Conflicting(Users):
        def request_headers(self, context):
            return {"authorization": "Bearer other"}

    route = respx_mock.get(URL).respond(json=[])

    await Conflicting(authenticator=TokenAuthenticator("t0k")).read()

    assert route.calls.last.request.headers.get_list("authorization") == ["Bearer t0k"]


async def test_multiple_tokens_rotate_on_pages_and_retries(respx_mock, virtual_clock: VirtualClock):
    class Paged(Users):
        paginator = LinkHeader()

    second = {"Link": f'<{URL}?page=2>; rel="next"'}
    route = respx_mock.get(URL).mock(
        side_effect=[Response(500), Response(200, json=[{"id": 1}], headers=second), Response(200, json=[])]
    )

    await Paged(authenticator=MultipleTokenAuthenticator(["a", "b"]), clock=virtual_clock).read()

    sent = [call.request.headers["Authorization"] for call in route.calls]
    assert sent == ["Bearer a", "Bearer b", "Bearer a"]


async def test_header_authenticator_subclass_needs_only_token(respx_mock):
    class Dated(AbstractHeaderAuthenticator):
        auth_header = "X-Dated"

        @property
        def token(self) -> str:
            return "2026-01-01"

    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=Dated()).read()

    assert route.calls.last.request.headers["X-Dated"] == "2026-01-01"


async def test_httpx_digest_auth_works_with_stream(respx_mock):
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n0nce", qop="auth", algorithm=SHA-256'}
    sent = []

    def answer(request: httpx.Request) -> Response:
        sent.append(request.headers.get("Authorization", "")[:21])
        return Response(200, json=[{"id": 1}]) if sent[-1] else Response(401, headers=challenge)

    respx_mock.get(URL).mock(side_effect=answer)
    stream = Users(authenticator=httpx.DigestAuth("ann", "pass"))

    records = await stream.read()
    await stream.read()

    assert records == [{"id": 1}]
    assert sent == ["", 'Digest username="ann"', 'Digest username="ann"']


async def test_rejected_digest_credential_raises_auth_error(respx_mock):
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n0nce", qop="auth"'}
    route = respx_mock.get(URL).respond(401, headers=challenge)

    with pytest.raises(AuthError):
        await Users(authenticator=httpx.DigestAuth("ann", "pass")).read()

    assert route.call_count == 2


async def test_custom_flow_may_request_a_ticket_first(respx_mock):
    class Ticket(httpx.Auth):
        requires_response_body = True

        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            answer = yield httpx.Request("POST", "https://login.example.net/ticket", content=b"please")
            request.headers["X-Ticket"] = answer.json()["ticket"]
            yield request

    respx_mock.post("https://login.example.net/ticket").respond(json={"ticket": "T-7"})
    route = respx_mock.get(URL).respond(json=[{"id": 1}])

    records = await Users(authenticator=Ticket()).read()

    assert records == [{"id": 1}]
    assert route.calls.last.request.headers["X-Ticket"] == "T-7"


async def test_custom_flow_error_propagates_and_closes_flow():
    closed = []
    failure = LookupError("no key in the vault")

    class Vault(httpx.Auth):
        async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
            try:
                raise failure
                yield request
            finally:
                closed.append(True)

    with pytest.raises(LookupError) as caught:
        await Users(authenticator=Vault()).read()

    assert caught.value is failure
    assert closed == [True]


async def test_cancellation_closes_custom_flow(respx_mock):
    requested, closed = asyncio.Event(), []

    class Closing(httpx.Auth):
        async def async_auth_flow(self, request):
            try:
                yield request
            finally:
                closed.append(True)

    async def hang(request: httpx.Request) -> None:
        requested.set()
        await asyncio.Event().wait()

    respx_mock.get(URL).mock(side_effect=hang)
    task = asyncio.create_task(Users(authenticator=Closing()).read())
    await requested.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert closed == [True]


async def test_refresh_auth_restarts_httpx_auth_flow_once(respx_mock):
    signed = []

    class Numbered(httpx.Auth):
        def auth_flow(self, request):
            signed.append(f"n{len(signed) + 1}")
            request.headers["X-Number"] = signed[-1]
            yield request

    class AlwaysExpired(Users):
        def classify(self, response, context):
            return ResponseAction.REFRESH_AUTH

    api = respx_mock.get(URL).respond(200, json={"error": "expired"})

    with pytest.raises(AuthError):
        await AlwaysExpired(authenticator=Numbered()).read()

    assert [call.request.headers["X-Number"] for call in api.calls] == ["n1", "n2"]


async def test_wrong_credential_raises_auth_error_after_one_request(respx_mock):
    route = respx_mock.get(URL).respond(401, json={"message": "Bad credentials"})

    with pytest.raises(AuthError, match="Bad credentials") as caught:
        await Users(authenticator=TokenAuthenticator("t0k")).read()

    assert (caught.value.status, route.call_count) == (401, 1)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: TokenAuthenticator("sesame\nopen"), id="line-break"),
        pytest.param(lambda: TokenAuthenticator("sesame open"), id="space"),
        pytest.param(lambda: TokenAuthenticator("sesame\x00open"), id="nul"),
        pytest.param(lambda: TokenAuthenticator("sesame\u00e4open"), id="not-ascii"),
        pytest.param(lambda: MultipleTokenAuthenticator(["valid", "sesame\ropen"]), id="second-token"),
        pytest.param(lambda: ApiKeyAuthenticator("sesame\nopen"), id="api-key"),
        pytest.param(lambda: ApiKeyAuthenticator("sesame\u00e4open"), id="api-key-not-ascii"),
        pytest.param(lambda: ApiKeyAuthenticator("sesame; open", "sid", into="cookie"), id="cookie-separator"),
        pytest.param(lambda: ApiKeyAuthenticator("sesame\nopen", "key", into="query"), id="query"),
        pytest.param(lambda: ApiKeyAuthenticator("sesame\nopen", "sid", into="cookie"), id="cookie"),
        pytest.param(lambda: TokenAuthenticator(b"sesame-open"), id="bytes"),
    ],
)
def test_invalid_token_is_rejected_without_being_shown(make):
    with pytest.raises(ConfigError) as caught:
        make()

    output = f"{caught.value!r} {caught.value} {caught.value.__context__!r}"
    assert "sesame" not in output
    assert "open" not in output
    assert "Authenticator(" in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: TokenAuthenticator(""), id="empty"),
        pytest.param(lambda: TokenAuthenticator("  \n"), id="blank"),
        pytest.param(lambda: TokenAuthenticator(None), id="none"),
        pytest.param(lambda: MultipleTokenAuthenticator([]), id="no-tokens"),
        pytest.param(lambda: MultipleTokenAuthenticator("abc"), id="string-for-list"),
        pytest.param(lambda: TokenAuthenticator("t", auth_header="X Auth"), id="header-name"),
        pytest.param(lambda: BasicHttpAuthenticator("a:b", "c"), id="colon-in-username"),
        pytest.param(lambda: ApiKeyAuthenticator("k", into="body"), id="into"),
        pytest.param(
            lambda: ApiKeyAuthenticator("k", ""),
            id="no-name",
        ),
    ],
)
def test_invalid_arguments_raise_config_error(make):
    with pytest.raises(ConfigError, match="Authenticator"):
        make()


@pytest.mark.parametrize("host", ["api.example.com", "10.0.0.7", "localhost.example.com", "128.0.0.1"])
async def test_credential_is_not_sent_over_plain_http(host):
    class Plain(Users):
        url_base = f"http://{host}/v1/"

    with pytest.raises(ConfigError, match="unencrypted") as caught:
        await Plain(authenticator=TokenAuthenticator("t0k")).read()

    assert "https" in str(caught.value.hint)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:9", "api.localhost"])
async def test_credential_is_sent_over_plain_http_to_localhost(respx_mock, host):
    class Local(Users):
        url_base = f"http://{host}/v1/"

    route = respx_mock.get(f"http://{host}/v1/users").respond(json=[])

    await Local(authenticator=TokenAuthenticator("t0k")).read()

    assert route.calls.last.request.headers["Authorization"] == "Bearer t0k"


async def test_allow_insecure_sends_credential_over_plain_http(respx_mock):
    class Plain(Users):
        url_base = "http://api.example.com/v1/"

    route = respx_mock.get("http://api.example.com/v1/users").respond(json=[])

    await Plain(authenticator=TokenAuthenticator("t0k"), allow_insecure=True).read()

    assert route.calls.last.request.headers["Authorization"] == "Bearer t0k"


async def test_stream_without_credential_may_use_plain_http(respx_mock):
    class Plain(Users):
        url_base = "http://api.example.com/v1/"

    route = respx_mock.get("http://api.example.com/v1/users").respond(json=[])

    await Plain().read()

    assert route.called


@pytest.mark.respx(assert_all_called=False)
async def test_plain_http_origin_gets_no_credential(respx_mock):
    class Linked(Users):
        paginator = LinkHeader()
        allowed_origins = ("http://files.example.com",)

    respx_mock.get(URL).respond(json=[{"id": 1}], headers={"Link": '<http://files.example.com/2>; rel="next"'})
    linked = respx_mock.get("http://files.example.com/2").respond(json=[])

    with pytest.raises(ConfigError):
        await Linked(authenticator=TokenAuthenticator("t0k")).read()

    assert not linked.called


@pytest.mark.respx(assert_all_called=False)
async def test_plain_http_token_endpoint_gets_no_secret(respx_mock):
    token = respx_mock.post("http://auth.example.com/token").respond(json={"access_token": "t1"})
    respx_mock.get(URL).respond(json=[])

    with pytest.raises(ConfigError):
        await Users(authenticator=Oauth2Authenticator("http://auth.example.com/token", "app", "s3cret")).read()

    assert not token.called
