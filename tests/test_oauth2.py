"""Is an OAuth2 token got, kept fresh and renewed once for everybody, and is a rotated one never lost?"""

from __future__ import annotations

import asyncio
import base64
import json
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


def refreshing(**options) -> Oauth2Authenticator:
    given = {"client_id": "app", "client_secret": "s3cret", "refresh_token": "r0"} | options
    return Oauth2Authenticator(TOKEN_URL, **given)


def form(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode(), strict_parsing=True))


class Endpoint:
    """A token endpoint that gives t1, t2, ... and, when it rotates, r1, r2, ..."""

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
        given = {"access_token": f"t{number}"} | ({"refresh_token": f"r{number}"} if self.rotates else {})
        return Response(200, json=given | self.fields)


class Api:
    """An API that takes some tokens, and keeps what came."""

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
async def test_a_grant_buys_an_access_token(respx_mock, options, sent):
    endpoint, api = Endpoint(respx_mock), Api(respx_mock)

    records = await Users(authenticator=refreshing(**options)).read()

    assert (records, api.tokens) == ([{"id": 1}], ["t1"])
    assert endpoint.requests[0].headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert form(endpoint.requests[0]) == sent


async def test_client_auth_basic_sends_the_form_encoded_pair_in_the_header(respx_mock):
    endpoint, _ = Endpoint(respx_mock), Api(respx_mock)

    await Users(authenticator=refreshing(client_id="a:b", client_secret="c/d", client_auth="basic")).read()

    scheme, _, pair = endpoint.requests[0].headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(pair)) == ("Basic", b"a%3Ab:c%2Fd")
    assert form(endpoint.requests[0]) == {"grant_type": "refresh_token", "refresh_token": "r0"}


@pytest.mark.parametrize("send_as", ["json", "query"])
async def test_send_as_says_where_the_fields_go(respx_mock, send_as):
    token = respx_mock.post(url__startswith=TOKEN_URL).respond(json={"access_token": "t1"})
    Api(respx_mock)

    await Users(authenticator=refreshing(send_as=send_as)).read()

    request = token.calls.last.request
    sent = json.loads(request.content) if send_as == "json" else dict(request.url.params)
    assert sent == REFRESH | {"client_secret": "s3cret"}
    assert bool(request.content) == bool(request.headers.get("Content-Type")) == (send_as == "json")


async def test_dotted_names_select_in_the_answer(respx_mock):
    handed: list[Oauth2Tokens] = []
    respx_mock.post(TOKEN_URL).respond(json={"data": {"token": "t9", "ttl": "120", "more": "r9"}})
    api = Api(respx_mock)
    names = {"access_token_name": "data.token", "expires_in_name": "data.ttl", "refresh_token_name": "data.more"}

    await Users(authenticator=refreshing(on_refresh=handed.append, **names)).read()

    assert api.tokens == ["t9"]
    assert handed == [Oauth2Tokens(Secret("t9"), Secret("r9"), 120.0)]


@pytest.mark.parametrize(
    ("fields", "options", "fresh_until", "stale_from"),
    [
        pytest.param({"expires_in": 3600}, {}, 3300, 3599, id="an-hour"),
        pytest.param({"expires_in": "3600"}, {}, 3300, 3599, id="text"),
        pytest.param({"expires_in": 3_600_000}, {"expires_unit": "ms"}, 3300, 3599, id="milliseconds"),
        pytest.param({"expires_in": None}, {}, 3300, 3599, id="not-told"),
        pytest.param({"expires_in": 20}, {}, 10, 19.9, id="short-lived"),
    ],
)
async def test_a_token_is_kept_while_fresh_and_renewed_shortly_before_it_expires(
    respx_mock, virtual_clock, fields, options, fresh_until, stale_from
):
    Endpoint(respx_mock, **fields)
    api = Api(respx_mock)
    stream = Users(authenticator=refreshing(clock=virtual_clock, **options), clock=virtual_clock)

    await stream.read()
    virtual_clock.advance(fresh_until)
    await stream.read()
    virtual_clock.advance(stale_from - fresh_until)
    await stream.read()

    assert api.tokens == ["t1", "t1", "t2"]


async def test_fifty_concurrent_reads_renew_once_at_first_and_once_after_a_401(respx_mock, virtual_clock):
    endpoint, api = Endpoint(respx_mock, after=lambda: virtual_clock.sleep(2)), Api(respx_mock)
    authenticator = refreshing(clock=virtual_clock)
    streams = [Users(authenticator=authenticator, clock=virtual_clock) for _ in range(50)]

    await asyncio.gather(*(stream.read() for stream in streams))
    renewals = len(endpoint.requests)
    api.accepted = ("t2",)
    await asyncio.gather(*(stream.read() for stream in streams))

    assert (renewals, len(endpoint.requests)) == (1, 2)
    assert api.tokens == ["t1"] * 100 + ["t2"] * 50


async def test_a_late_refusal_of_an_old_token_uses_the_new_one_without_renewing(respx_mock, virtual_clock):
    endpoint = Endpoint(respx_mock)
    seen = []

    async def answer(request: httpx.Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        seen.append(token)
        # The first 401 arrives long after the second, when the token has been renewed.
        await virtual_clock.sleep(100 if len(seen) == 1 else 1)
        return Response(401) if token == "t1" else Response(200, json=[])

    respx_mock.get(URL).mock(side_effect=answer)
    stream = Users(authenticator=refreshing(clock=virtual_clock), clock=virtual_clock)

    await asyncio.gather(stream.read(), stream.read())

    assert len(endpoint.requests) == 2
    assert sorted(seen) == ["t1", "t1", "t2", "t2"]


async def test_a_second_401_is_an_auth_error(respx_mock):
    endpoint, api = Endpoint(respx_mock), Api(respx_mock, "another")

    with pytest.raises(AuthError) as caught:
        await Users(authenticator=refreshing()).read()

    assert (caught.value.status, caught.value.url) == (401, URL)
    assert (len(endpoint.requests), api.tokens) == (2, ["t1", "t2"])


@pytest.mark.parametrize(("rotates", "sent"), [(True, ["r0", "r1"]), (False, ["r0", "r0"])], ids=["new", "no-new"])
async def test_a_401_renews_once_with_the_newest_refresh_token_and_the_read_goes_on(respx_mock, rotates, sent):
    endpoint, api = Endpoint(respx_mock, rotates=rotates), Api(respx_mock, "t2")

    records = await Users(authenticator=refreshing()).read()

    assert (records, api.tokens) == ([{"id": 1}], ["t1", "t2"])
    assert [form(request)["refresh_token"] for request in endpoint.requests] == sent


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_rotated_tokens_are_handed_over_before_they_are_used(respx_mock, virtual_clock, is_async):
    events: list[object] = []

    def keep(tokens: Oauth2Tokens) -> None:
        events.append((tokens.access_token.reveal(), tokens.refresh_token.reveal(), tokens.lifetime))

    async def keep_slowly(tokens: Oauth2Tokens) -> None:
        await virtual_clock.sleep(5)
        keep(tokens)

    Endpoint(respx_mock, rotates=True)
    respx_mock.get(URL).mock(side_effect=lambda request: events.append("used") or Response(200, json=[]))
    authenticator = refreshing(on_refresh=keep_slowly if is_async else keep, clock=virtual_clock)
    stream = Users(authenticator=authenticator, clock=virtual_clock)

    await asyncio.gather(stream.read(), stream.read())

    assert events == [("t1", "r1", 3600.0), "used", "used"]


@pytest.mark.respx(assert_all_called=False)
async def test_what_on_refresh_raises_leaves_unchanged_and_the_token_is_not_used(respx_mock):
    def keep(tokens: Oauth2Tokens) -> None:
        raise OSError("the vault is closed")

    Endpoint(respx_mock, rotates=True)
    api = Api(respx_mock)

    with pytest.raises(OSError, match="the vault is closed"):
        await Users(authenticator=refreshing(on_refresh=keep)).read()

    assert api.tokens == []


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.respx(assert_all_called=False)
async def test_a_refusal_is_an_auth_error_with_status_and_code_and_no_token(respx_mock, status):
    body = {"error": "invalid_grant", "error_description": "r0-of-ann, s3cret: revoked", "refresh_token": "r0-of-ann"}
    token = respx_mock.post(TOKEN_URL).respond(status, json=body)
    api = respx_mock.get(URL)

    with pytest.raises(AuthError, match="invalid_grant") as caught:
        await Users(authenticator=refreshing(refresh_token="r0-of-ann")).read()

    told = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.status == status
    assert TOKEN_URL in told
    assert "r0-of-ann" not in told
    assert "s3cret" not in told
    assert (token.call_count, api.called) == (1, False)


@pytest.mark.parametrize("answer", [b'{"token": "t1"}', b"<p>hi", b"[]", b""])
async def test_an_answer_without_an_access_token_is_an_auth_error(respx_mock, answer):
    respx_mock.post(TOKEN_URL).respond(200, content=answer)

    with pytest.raises(AuthError, match="access_token"):
        await Users(authenticator=refreshing()).read()


@pytest.mark.parametrize("failure", [Response(503), Response(429, headers={"Retry-After": "3"}), httpx.ReadError("x")])
async def test_a_sick_token_endpoint_is_tried_again(respx_mock, virtual_clock, failure):
    token = respx_mock.post(TOKEN_URL).mock(side_effect=[failure, Response(200, json={"access_token": "t1"})])
    api = Api(respx_mock)

    records = await Users(authenticator=refreshing(clock=virtual_clock), clock=virtual_clock).read()

    assert records == [{"id": 1}]
    assert (token.call_count, api.tokens) == (2, ["t1"])


async def test_a_token_endpoint_that_stays_sick_is_named(respx_mock, virtual_clock):
    token = respx_mock.post(TOKEN_URL).respond(503)

    with pytest.raises(HttpStatusError, match="token endpoint") as caught:
        await Users(authenticator=refreshing(clock=virtual_clock), clock=virtual_clock).read()

    assert (caught.value.url, caught.value.status, token.call_count) == (TOKEN_URL, 503, 5)


async def test_a_plain_httpx_client_gets_renews_and_replays(respx_mock):
    endpoint, api = Endpoint(respx_mock), Api(respx_mock, "t2")

    async with httpx.AsyncClient(auth=refreshing()) as client:
        first = await client.get(URL)
        second = await client.get(URL)

    assert (first.status_code, second.status_code) == (200, 200)
    assert (len(endpoint.requests), api.tokens) == (2, ["t1", "t2", "t2"])


def test_a_second_event_loop_keeps_the_token_and_can_renew_it(respx_mock):
    endpoint, api = Endpoint(respx_mock, after=lambda: asyncio.sleep(0)), Api(respx_mock)
    stream = Users(authenticator=refreshing())

    async def crowd() -> None:
        await asyncio.gather(*(stream.read() for _ in range(5)))

    asyncio.run(crowd())
    asyncio.run(crowd())
    api.accepted = ("t2",)
    asyncio.run(crowd())

    assert len(endpoint.requests) == 2
    assert api.tokens == ["t1"] * 15 + ["t2"] * 5


class Grumbling(Users):
    def classify(self, response, context):
        expired = response.json() == {"error": "expired"}
        return ResponseAction.REFRESH_AUTH if expired else super().classify(response, context)


async def test_refresh_auth_from_classify_renews_the_token(respx_mock):
    endpoint = Endpoint(respx_mock)
    api = respx_mock.get(URL).mock(side_effect=[Response(200, json={"error": "expired"}), Response(200, json=[])])

    records = await Grumbling(authenticator=refreshing()).read()

    assert records == []
    assert len(endpoint.requests) == 2
    assert api.calls.last.request.headers["Authorization"] == "Bearer t2"


async def test_cancelling_a_renewal_lets_the_next_one_through(respx_mock, virtual_clock):
    asked = asyncio.Event()
    stuck = [True]

    async def wait() -> None:
        asked.set()
        if stuck:
            stuck.clear()
            await asyncio.Event().wait()

    endpoint, api = Endpoint(respx_mock, after=wait), Api(respx_mock)
    stream = Users(authenticator=refreshing(clock=virtual_clock), clock=virtual_clock)
    first = asyncio.create_task(stream.read())
    await asked.wait()
    second = asyncio.create_task(stream.read())
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second

    assert (len(endpoint.requests), api.tokens) == (2, ["t2"])


async def test_a_cancellation_does_not_cut_the_handing_over_of_rotated_tokens_short(respx_mock, virtual_clock):
    begun, kept = asyncio.Event(), []

    async def keep(tokens: Oauth2Tokens) -> None:
        begun.set()
        await virtual_clock.sleep(1)
        kept.append(tokens.refresh_token)

    Endpoint(respx_mock, rotates=True)
    stream = Users(authenticator=refreshing(on_refresh=keep, clock=virtual_clock), clock=virtual_clock)
    reading = asyncio.create_task(stream.read())
    await begun.wait()

    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert kept == [Secret("r1")]


@pytest.mark.parametrize("is_scope", [True, False], ids=["a scope", "a task"])
async def test_a_rotated_token_that_is_on_its_way_is_taken_though_the_reading_is_cancelled(
    respx_mock, virtual_clock, is_scope
):
    begun, kept = asyncio.Event(), []

    async def answer() -> None:
        begun.set()
        await virtual_clock.sleep(1)

    Endpoint(respx_mock, after=answer, rotates=True)
    stream = Users(authenticator=refreshing(on_refresh=kept.append, clock=virtual_clock), clock=virtual_clock)
    scope = anyio.CancelScope()

    async def read() -> None:
        with scope:
            await stream.read()

    reading = asyncio.create_task(read())
    await begun.wait()
    if is_scope:
        scope.cancel()
        await reading
    else:
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert [tokens.refresh_token for tokens in kept] == [Secret("r1")]


async def test_a_token_endpoint_that_does_not_answer_holds_up_a_cancellation_for_ten_seconds(respx_mock, virtual_clock):
    begun = asyncio.Event()

    async def answer() -> None:
        begun.set()
        await asyncio.Event().wait()

    Endpoint(respx_mock, after=answer)
    reading = asyncio.create_task(Users(authenticator=refreshing(clock=virtual_clock), clock=virtual_clock).read())
    await begun.wait()
    before = virtual_clock.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert virtual_clock.monotonic() - before == pytest.approx(10)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"client_secret": None, "refresh_token": None}, "refresh_token"),
        ({"client_secret": None, "client_auth": "basic"}, "client_secret"),
        ({"client_auth": "header"}, "client_auth='header'.*'body', 'basic'"),
        ({"send_as": "xml"}, "send_as='xml'.*'form', 'json', 'query'"),
        ({"expires_unit": "h"}, "expires_unit='h'.*'s', 'ms'"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_is_made(options, told):
    with pytest.raises(ConfigError, match=told):
        refreshing(**options)
