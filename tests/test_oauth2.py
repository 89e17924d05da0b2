"""OAuth2 tokens: grants, renewal shared by concurrent requests, and rotation of refresh tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl

import anyio
import httpx
import pytest
from httpx import Response

from asyncstreams import (
    AuthError,
    ConfigError,
    HttpStatusError,
    HttpStream,
    Oauth2Authenticator,
    Oauth2Tokens,
    ResponseAction,
    Secret,
)

TOKEN_URL = "https://auth.example.com/token"
URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


def make_auth(**options) -> Oauth2Authenticator:
    arguments = {"client_id": "app", "client_secret": "s3cret", "refresh_token": "r0"} | options
    return Oauth2Authenticator(TOKEN_URL, **arguments)


def form(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode(), strict_parsing=True))


class TokenEndpoint:
    """A token endpoint that issues t1, t2, ... and, if it rotates, r1, r2, ...; it awaits `after` first."""

    def __init__(self, router, *, rotates: bool = False, after=None, **fields) -> None:
        self.fields = {"expires_in": 3600} | fields
        self.rotates, self.after = rotates, after
        self.requests: list[httpx.Request] = []
        router.post(TOKEN_URL, name="token").mock(side_effect=self.answer)

    async def answer(self, request: httpx.Request) -> Response:
        self.requests.append(request)
        number = len(self.requests)
        if self.after is not None:
            await self.after()
        fields = {"access_token": f"t{number}"} | ({"refresh_token": f"r{number}"} if self.rotates else {})
        return Response(200, json=fields | self.fields)


class Api:
    """An API that accepts the given tokens, or any without one, and records the tokens it receives."""

    def __init__(self, router, *accepted: str) -> None:
        self.accepted = accepted
        self.tokens: list[str] = []
        router.get(URL, name="api").mock(side_effect=self.answer)

    def answer(self, request: httpx.Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.tokens.append(token)
        return Response(200, json=[{"id": 1}]) if not self.accepted or token in self.accepted else Response(401)


REFRESH = {"grant_type": "refresh_token", "refresh_token": "r0", "client_id": "app"}
CLIENT = {"grant_type": "client_credentials", "client_id": "app", "client_secret": "s3cret"}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        pytest.param({}, REFRESH | {"client_secret": "s3cret"}, id="refresh-token"),
        pytest.param({"client_secret": None}, REFRESH, id="public-client"),
        pytest.param({"refresh_token": None}, CLIENT, id="client-credentials"),
        pytest.param({"refresh_token": None, "scopes": ["a", "b"]}, CLIENT | {"scope": "a b"}, id="scopes"),
        pytest.param({"refresh_token": None, "refresh_request_body": {"aud": "7"}}, CLIENT | {"aud": "7"}, id="more"),
    ],
)
async def test_grant_yields_access_token(respx_mock, options, sent):
    endpoint, api = TokenEndpoint(respx_mock), Api(respx_mock)

    records = await Users(authenticator=make_auth(**options)).read()

    assert (records, api.tokens) == ([{"id": 1}], ["t1"])
    assert endpoint.requests[0].headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form(endpoint.requests[0]) == sent


async def test_client_auth_basic_sends_form_encoded_header(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)

    await Users(authenticator=make_auth(client_id="a:b", client_secret="c/d", client_auth="basic")).read()

    scheme, _, pair = endpoint.requests[0].headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(pair)) == ("Basic", b"a%3Ab:c%2Fd")
    assert form(endpoint.requests[0]) == {"grant_type": "refresh_token", "refresh_token": "r0"}


@pytest.mark.parametrize(
    ("encoding", "pair"), [("form", "a%3Ab+c:s%2B%2F%3D+%C3%BC"), ("raw", "a b:s+/= \u00fc")], ids=["form", "raw"]
)
async def test_basic_encoding_of_id_and_secret(respx_mock, encoding, pair):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)
    client_id = "a:b c" if encoding == "form" else "a b"
    options = {"client_id": client_id, "client_secret": "s+/= \u00fc", "client_auth": "basic"}

    await Users(authenticator=make_auth(basic_encoding=encoding, **options)).read()

    sent = endpoint.requests[0].headers["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == pair


@pytest.mark.parametrize(
    ("options", "encoding"),
    [
        pytest.param({"client_secret": "a+b"}, "raw", id="form"),
        pytest.param({"client_secret": "a+b", "basic_encoding": "raw"}, "form", id="raw"),
        pytest.param({"client_secret": "ab"}, None, id="no-difference"),
    ],
)
async def test_invalid_client_names_the_other_encoding(respx_mock, options, encoding):
    respx_mock.post(TOKEN_URL).respond(401, json={"error": "invalid_client"})

    with pytest.raises(AuthError) as caught:
        await Users(authenticator=make_auth(client_auth="basic", **options)).read()

    assert ("basic_encoding" in caught.value.hint) == (encoding is not None)
    assert encoding is None or f'basic_encoding="{encoding}"' in caught.value.hint


@pytest.mark.parametrize("send_as", ["form", "json"])
async def test_secrets_with_spaces_are_sent_as_they_are(respx_mock, send_as):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)
    secrets = {"client_secret": " my secret \u00fc ", "refresh_token": "r 0"}

    await Users(authenticator=make_auth(send_as=send_as, **secrets)).read()

    request = endpoint.requests[0]
    fields = json.loads(request.content) if send_as == "json" else form(request)
    assert {name: fields[name] for name in secrets} == secrets


async def test_line_break_after_a_secret_is_removed(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)

    await Users(authenticator=make_auth(client_secret="s3cret\r\n")).read()

    assert form(endpoint.requests[0])["client_secret"] == "s3cret"


@pytest.mark.parametrize("send_as", ["form", "json", "query"])
async def test_query_of_token_endpoint_is_kept(respx_mock, send_as):
    token = respx_mock.post(url__startswith=TOKEN_URL).respond(json={"access_token": "t1"})
    Api(respx_mock)
    authenticator = Oauth2Authenticator(f"{TOKEN_URL}?tenant=7&x=a%2Fb", "app", "s3cret", send_as=send_as)

    await Users(authenticator=authenticator).read()

    query = token.calls.last.request.url.query.decode()
    assert query.startswith("tenant=7&x=a%2Fb")
    assert ("client_secret=s3cret" in query) == (send_as == "query")


OWN_GRANT = {"grant_type": "account_credentials", "account_id": "A1"}


@pytest.mark.parametrize(
    "options",
    [
        {"grant_type": "account_credentials", "refresh_request_body": {"account_id": "A1"}},
        {"refresh_request_body": OWN_GRANT},
        {"refresh_request_body": lambda: {"account_id": "A1"}, "grant_type": "account_credentials"},
    ],
    ids=["argument", "body", "function"],
)
async def test_own_grant_is_used_for_every_renewal(respx_mock, options):
    endpoint, api = TokenEndpoint(respx_mock, rotates=True), Api(respx_mock, "t2")
    authenticator = make_auth(client_secret=None, refresh_token=None, **options)

    await Users(authenticator=authenticator).read()

    assert [form(request) for request in endpoint.requests] == [OWN_GRANT | {"client_id": "app"}] * 2
    assert api.tokens == ["t1", "t2"]
    assert "account_credentials" in repr(authenticator)


async def test_function_for_body_is_called_for_each_renewal(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock, "t2")
    assertions = iter(["jwt-1", "jwt-2"])
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    body = {"grant_type": grant, "refresh_token": None}

    def fields() -> dict[str, str]:
        return {"assertion": next(assertions)}

    await Users(authenticator=make_auth(refresh_request_body=fields, **body)).read()

    assert [form(request)["assertion"] for request in endpoint.requests] == ["jwt-1", "jwt-2"]


async def test_own_grant_with_refresh_token_sends_and_rotates_it(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock, rotates=True), Api(respx_mock, "t2")

    await Users(authenticator=make_auth(grant_type="refresh")).read()

    sent = [(form(request)["grant_type"], form(request)["refresh_token"]) for request in endpoint.requests]
    assert sent == [("refresh", "r0"), ("refresh", "r1")]


async def test_client_credentials_ignore_a_refresh_token(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock, rotates=True), Api(respx_mock, "t2")

    await Users(authenticator=make_auth(refresh_token=None)).read()

    assert [form(request) for request in endpoint.requests] == [CLIENT, CLIENT]


async def test_authorization_among_headers_replaces_id_and_secret(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)

    await Users(authenticator=make_auth(refresh_request_headers={"AUTHORIZATION": "Basic own", "accept": "x/y"})).read()

    assert endpoint.requests[0].headers.get_list("authorization") == ["Basic own"]
    assert endpoint.requests[0].headers.get_list("accept") == ["x/y"]
    assert form(endpoint.requests[0]) == {"grant_type": "refresh_token", "refresh_token": "r0"}


async def test_authorization_among_headers_needs_no_secret(respx_mock):
    endpoint, _ = TokenEndpoint(respx_mock), Api(respx_mock)
    options = {"client_secret": None, "refresh_token": None, "refresh_request_headers": {"Authorization": "Basic own"}}

    await Users(authenticator=make_auth(**options)).read()

    assert form(endpoint.requests[0]) == {"grant_type": "client_credentials"}


@pytest.mark.parametrize("send_as", ["json", "query"])
async def test_send_as_encodes_fields_as_json_or_query(respx_mock, send_as):
    token = respx_mock.post(url__startswith=TOKEN_URL).respond(json={"access_token": "t1"})
    Api(respx_mock)

    await Users(authenticator=make_auth(send_as=send_as)).read()

    request = token.calls.last.request
    sent = json.loads(request.content) if send_as == "json" else dict(request.url.params)
    assert sent == REFRESH | {"client_secret": "s3cret"}
    assert bool(request.content) == bool(request.headers.get("Content-Type")) == (send_as == "json")


async def test_dotted_names_select_from_token_response(respx_mock):
    received: list[Oauth2Tokens] = []
    respx_mock.post(TOKEN_URL).respond(json={"data": {"token": "t9", "ttl": "120", "more": "r9"}})
    api = Api(respx_mock)
    names = {"access_token_name": "data.token", "expires_in_name": "data.ttl", "refresh_token_name": "data.more"}

    await Users(authenticator=make_auth(on_refresh=received.append, **names)).read()

    assert api.tokens == ["t9"]
    assert received == [Oauth2Tokens(Secret("t9"), Secret("r9"), 120.0)]


@pytest.mark.parametrize(
    ("fields", "options", "fresh_until", "stale_from"),
    [
        pytest.param({"expires_in": 3600}, {}, 3300, 3599, id="one-hour"),
        pytest.param({"expires_in": "3600"}, {}, 3300, 3599, id="text"),
        pytest.param({"expires_in": 3_600_000}, {"expires_unit": "ms"}, 3300, 3599, id="milliseconds"),
        pytest.param({"expires_in": None}, {}, 3300, 3599, id="missing"),
        pytest.param({"expires_in": 20}, {}, 10, 19.9, id="short-lived"),
    ],
)
async def test_token_is_renewed_shortly_before_expiry(
    respx_mock, virtual_clock, fields, options, fresh_until, stale_from
):
    TokenEndpoint(respx_mock, **fields)
    api = Api(respx_mock)
    stream = Users(authenticator=make_auth(clock=virtual_clock, **options), clock=virtual_clock)

    await stream.read()
    virtual_clock.advance(fresh_until)
    await stream.read()
    virtual_clock.advance(stale_from - fresh_until)
    await stream.read()

    assert api.tokens == ["t1", "t1", "t2"]


async def test_concurrent_reads_renew_once(respx_mock, virtual_clock):
    endpoint, api = TokenEndpoint(respx_mock, after=lambda: virtual_clock.sleep(2)), Api(respx_mock)
    authenticator = make_auth(clock=virtual_clock)
    streams = [Users(authenticator=authenticator, clock=virtual_clock) for _ in range(50)]

    await asyncio.gather(*(stream.read() for stream in streams))
    renewals = len(endpoint.requests)
    api.accepted = ("t2",)
    await asyncio.gather(*(stream.read() for stream in streams))

    assert (renewals, len(endpoint.requests)) == (1, 2)
    assert api.tokens == ["t1"] * 100 + ["t2"] * 50


async def test_late_401_of_old_token_does_not_renew_again(respx_mock, virtual_clock):
    endpoint = TokenEndpoint(respx_mock)
    tokens = []

    async def answer(request: httpx.Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        tokens.append(token)
        # The first 401 arrives long after the second, when the token has been renewed.
        await virtual_clock.sleep(100 if len(tokens) == 1 else 1)
        return Response(401) if token == "t1" else Response(200, json=[])

    respx_mock.get(URL).mock(side_effect=answer)
    stream = Users(authenticator=make_auth(clock=virtual_clock), clock=virtual_clock)

    await asyncio.gather(stream.read(), stream.read())

    assert len(endpoint.requests) == 2
    assert sorted(tokens) == ["t1", "t1", "t2", "t2"]


async def test_second_401_raises_auth_error(respx_mock):
    endpoint, api = TokenEndpoint(respx_mock), Api(respx_mock, "another")

    with pytest.raises(AuthError) as caught:
        await Users(authenticator=make_auth()).read()

    assert (caught.value.status, caught.value.url) == (401, URL)
    assert (len(endpoint.requests), api.tokens) == (2, ["t1", "t2"])


@pytest.mark.parametrize(("rotates", "sent"), [(True, ["r0", "r1"]), (False, ["r0", "r0"])], ids=["new", "no-new"])
async def test_401_renews_with_latest_refresh_token(respx_mock, rotates, sent):
    endpoint, api = TokenEndpoint(respx_mock, rotates=rotates), Api(respx_mock, "t2")

    records = await Users(authenticator=make_auth()).read()

    assert (records, api.tokens) == ([{"id": 1}], ["t1", "t2"])
    assert [form(request)["refresh_token"] for request in endpoint.requests] == sent


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_on_refresh_gets_tokens_before_use(respx_mock, virtual_clock, is_async):
    events: list[object] = []

    def store(tokens: Oauth2Tokens) -> None:
        events.append((tokens.access_token.reveal(), tokens.refresh_token.reveal(), tokens.lifetime))

    async def store_slowly(tokens: Oauth2Tokens) -> None:
        await virtual_clock.sleep(5)
        store(tokens)

    TokenEndpoint(respx_mock, rotates=True)
    respx_mock.get(URL).mock(side_effect=lambda request: events.append("used") or Response(200, json=[]))
    authenticator = make_auth(on_refresh=store_slowly if is_async else store, clock=virtual_clock)
    stream = Users(authenticator=authenticator, clock=virtual_clock)

    await asyncio.gather(stream.read(), stream.read())

    assert events == [("t1", "r1", 3600.0), "used", "used"]


@pytest.mark.respx(assert_all_called=False)
async def test_on_refresh_error_propagates_and_token_is_unused(respx_mock):
    def store(tokens: Oauth2Tokens) -> None:
        raise OSError("the vault is closed")

    TokenEndpoint(respx_mock, rotates=True)
    api = Api(respx_mock)

    with pytest.raises(OSError, match="the vault is closed"):
        await Users(authenticator=make_auth(on_refresh=store)).read()

    assert api.tokens == []


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.respx(assert_all_called=False)
async def test_rejected_token_request_raises_auth_error(respx_mock, status):
    body = {"error": "invalid_grant", "error_description": "r0-of-ann, s3cret: revoked", "refresh_token": "r0-of-ann"}
    token = respx_mock.post(TOKEN_URL).respond(status, json=body)
    api = respx_mock.get(URL)

    with pytest.raises(AuthError, match="invalid_grant") as caught:
        await Users(authenticator=make_auth(refresh_token="r0-of-ann")).read()

    output = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.status == status
    assert TOKEN_URL in output
    assert "r0-of-ann" not in output
    assert "s3cret" not in output
    assert (token.call_count, api.called) == (1, False)


@pytest.mark.parametrize("answer", [b'{"token": "t1"}', b"<p>hi", b"[]", b""])
async def test_response_without_access_token_raises_auth_error(respx_mock, answer):
    respx_mock.post(TOKEN_URL).respond(200, content=answer)

    with pytest.raises(AuthError, match="access_token"):
        await Users(authenticator=make_auth()).read()


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "answer",
    [
        {"json": {"error": "bad_refresh_token", "error_description": "The refresh token passed is incorrect."}},
        {"json": {"ok": False, "error": "invalid_refresh_token"}},
        {"json": {"errors": [{"message": "invalid_refresh_token: ask for consent again"}]}},
        {"json": {"title": "Denied", "detail": "the refresh_token is invalid_grant", "error": True}},
        {"json": {"fault": {"faultstring": "invalid_refresh_token"}}},
        {"json": {"errcode": 42002, "errmsg": "invalid_refresh_token"}},
        {"json": {"Success": False, "Message": "invalid_refresh_token"}},
    ],
)
async def test_words_of_the_token_endpoint_are_shown(respx_mock, status, answer):
    respx_mock.post(TOKEN_URL).respond(status, **answer)

    with pytest.raises(AuthError, match=r"_refresh_token|invalid_grant") as caught:
        await Users(authenticator=make_auth()).read()

    assert f"answered {status} to the token request" in str(caught.value)
    assert "authorize again" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (403, {"text": "IP address not allowed"}, "IP address not allowed"),
        (400, {"html": "<html><title>Blocked by policy</title></html>"}, "Blocked by policy"),
        (400, {"text": "<error><code>7</code><message>unknown tenant</message></error>"}, "unknown tenant"),
    ],
)
async def test_token_endpoint_may_speak_other_languages(respx_mock, status, answer, words):
    respx_mock.post(TOKEN_URL).respond(status, **answer)

    with pytest.raises(AuthError, match=words):
        await Users(authenticator=make_auth()).read()


@pytest.mark.respx(assert_all_called=False)
async def test_redirect_of_token_endpoint_is_shown_and_not_followed(respx_mock):
    respx_mock.post(TOKEN_URL).respond(307, headers={"Location": "https://other.example.com/token?code=secret"})
    other = respx_mock.post(url__startswith="https://other.example.com/").respond(json={"access_token": "t1"})

    with pytest.raises(AuthError, match=r"redirect to 'https://other\.example\.com/token'") as caught:
        await Users(authenticator=make_auth()).read()

    assert not other.called
    assert "token_refresh_endpoint" in caught.value.hint


@pytest.mark.parametrize("failure", [Response(503), Response(429, headers={"Retry-After": "3"}), httpx.ReadError("x")])
async def test_failing_token_endpoint_is_retried(respx_mock, virtual_clock, failure):
    token = respx_mock.post(TOKEN_URL).mock(side_effect=[failure, Response(200, json={"access_token": "t1"})])
    api = Api(respx_mock)

    records = await Users(authenticator=make_auth(clock=virtual_clock), clock=virtual_clock).read()

    assert records == [{"id": 1}]
    assert (token.call_count, api.tokens) == (2, ["t1"])


async def test_permanently_failing_token_endpoint_is_named(respx_mock, virtual_clock):
    token = respx_mock.post(TOKEN_URL).respond(503)

    with pytest.raises(HttpStatusError, match="token endpoint") as caught:
        await Users(authenticator=make_auth(clock=virtual_clock), clock=virtual_clock).read()

    assert (caught.value.url, caught.value.status, token.call_count) == (TOKEN_URL, 503, 5)


async def test_httpx_client_requests_and_renews_token(respx_mock):
    endpoint, api = TokenEndpoint(respx_mock), Api(respx_mock, "t2")

    async with httpx.AsyncClient(auth=make_auth()) as client:
        first = await client.get(URL)
        second = await client.get(URL)

    assert (first.status_code, second.status_code) == (200, 200)
    assert (len(endpoint.requests), api.tokens) == (2, ["t1", "t2", "t2"])


def test_token_is_shared_and_renewed_across_event_loops(respx_mock):
    endpoint, api = TokenEndpoint(respx_mock, after=lambda: asyncio.sleep(0)), Api(respx_mock)
    stream = Users(authenticator=make_auth())

    async def read_concurrently() -> None:
        await asyncio.gather(*(stream.read() for _ in range(5)))

    asyncio.run(read_concurrently())
    asyncio.run(read_concurrently())
    api.accepted = ("t2",)
    asyncio.run(read_concurrently())

    assert len(endpoint.requests) == 2
    assert api.tokens == ["t1"] * 15 + ["t2"] * 5


def test_threads_renew_one_after_the_other():
    requests = []

    async def answer(request: httpx.Request) -> Response:
        if request.url.path == "/v1/users":
            return Response(200, json=[{"id": 1}])
        requests.append(request)
        await asyncio.sleep(0.1)
        return Response(200, json={"access_token": f"t{len(requests)}"})

    authenticator = make_auth()

    def read(number: int) -> list[object]:
        stream = Users(authenticator=authenticator, transport=httpx.MockTransport(answer))
        return asyncio.run(stream.read())

    with ThreadPoolExecutor(4) as threads:
        records = list(threads.map(read, range(4)))

    assert records == [[{"id": 1}]] * 4
    assert len(requests) == 1


class ErrorInBody(Users):
    def classify(self, response, context):
        expired = response.json() == {"error": "expired"}
        return ResponseAction.REFRESH_AUTH if expired else super().classify(response, context)


async def test_refresh_auth_from_classify_renews_token(respx_mock):
    endpoint = TokenEndpoint(respx_mock)
    api = respx_mock.get(URL).mock(side_effect=[Response(200, json={"error": "expired"}), Response(200, json=[])])

    records = await ErrorInBody(authenticator=make_auth()).read()

    assert records == []
    assert len(endpoint.requests) == 2
    assert api.calls.last.request.headers["Authorization"] == "Bearer t2"


async def test_cancelled_renewal_does_not_block_the_next(respx_mock, virtual_clock):
    requested = asyncio.Event()
    stuck = [True]

    async def wait() -> None:
        requested.set()
        if stuck:
            stuck.clear()
            await asyncio.Event().wait()

    endpoint, api = TokenEndpoint(respx_mock, after=wait), Api(respx_mock)
    stream = Users(authenticator=make_auth(clock=virtual_clock), clock=virtual_clock)
    first = asyncio.create_task(stream.read())
    await requested.wait()
    second = asyncio.create_task(stream.read())
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second

    assert (len(endpoint.requests), api.tokens) == (2, ["t2"])


async def test_cancellation_waits_for_on_refresh(respx_mock, virtual_clock):
    started, stored = asyncio.Event(), []

    async def store(tokens: Oauth2Tokens) -> None:
        started.set()
        await virtual_clock.sleep(1)
        stored.append(tokens.refresh_token)

    TokenEndpoint(respx_mock, rotates=True)
    stream = Users(authenticator=make_auth(on_refresh=store, clock=virtual_clock), clock=virtual_clock)
    task = asyncio.create_task(stream.read())
    await started.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert stored == [Secret("r1")]


@pytest.mark.parametrize("use_scope", [True, False], ids=["scope", "task"])
async def test_cancellation_waits_for_rotated_token_in_flight(respx_mock, virtual_clock, use_scope):
    started, stored = asyncio.Event(), []

    async def answer() -> None:
        started.set()
        await virtual_clock.sleep(1)

    TokenEndpoint(respx_mock, after=answer, rotates=True)
    stream = Users(authenticator=make_auth(on_refresh=stored.append, clock=virtual_clock), clock=virtual_clock)
    scope = anyio.CancelScope()

    async def read() -> None:
        with scope:
            await stream.read()

    task = asyncio.create_task(read())
    await started.wait()
    if use_scope:
        scope.cancel()
        await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [tokens.refresh_token for tokens in stored] == [Secret("r1")]


async def test_silent_token_endpoint_delays_cancellation_by_10_s(respx_mock, virtual_clock):
    started = asyncio.Event()

    async def answer() -> None:
        started.set()
        await asyncio.Event().wait()

    TokenEndpoint(respx_mock, after=answer)
    task = asyncio.create_task(Users(authenticator=make_auth(clock=virtual_clock), clock=virtual_clock).read())
    await started.wait()
    before = virtual_clock.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert virtual_clock.monotonic() - before == pytest.approx(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client_secret": None, "refresh_token": None}, "refresh_token"),
        ({"client_secret": None, "client_auth": "basic"}, "client_secret"),
        ({"client_secret": None, "refresh_token": None, "grant_type": "refresh_token"}, "refresh_token is missing"),
        ({"client_auth": "header"}, "client_auth='header'.*'body', 'basic'"),
        ({"basic_encoding": "utf-8"}, "basic_encoding='utf-8'.*'form', 'raw'"),
        ({"basic_encoding": "raw"}, 'only with client_auth="basic"'),
        ({"basic_encoding": "raw", "client_auth": "basic", "client_id": "a:b"}, "colon"),
        ({"client_auth": "basic", "refresh_request_headers": {"authorization": "x"}}, "both set Authorization"),
        ({"grant_type": "password", "refresh_request_body": {"grant_type": "other"}}, "'grant_type' differs"),
        ({"scopes": ["a"], "refresh_request_body": {"scope": "b"}}, "'scope' differs from scopes="),
        ({"refresh_request_body": {"client_id": "another"}}, "'client_id' differs"),
        ({"refresh_request_body": {"client_secret": "another"}}, "'client_secret' differs"),
        ({"refresh_token": None, "refresh_request_body": {"refresh_token": "r1"}}, "never be replaced"),
        ({"client_secret": " "}, "client_secret=.* empty"),
        ({"send_as": "xml"}, "send_as='xml'.*'form', 'json', 'query'"),
        ({"expires_unit": "h"}, "expires_unit='h'.*'s', 'ms'"),
    ],
)
def test_invalid_arguments_raise_config_error(options, message):
    with pytest.raises(ConfigError, match=message):
        make_auth(**options)
