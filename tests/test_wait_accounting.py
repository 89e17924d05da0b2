"""Whose time is a wait, and what must not wait with it?"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from asyncstreams import (
    ApiKeyAuthenticator,
    AsyncStreamsError,
    HttpStatusError,
    HttpStream,
    MalformedJSON,
    NextUrl,
    Oauth2Authenticator,
)
from asyncstreams.http.origin import allowed_origins


class Users(HttpStream):
    url_base = "https://api.example.com/"
    max_time = 50

    def path(self, context):
        return "users"


class Sliced(Users):
    def stream_slices(self, state):
        return [{"n": 1}, {"n": 2}]


def answers(*given: httpx.Response):
    left = list(given)
    return httpx.MockTransport(lambda request: left.pop(0))


async def test_a_pause_that_the_server_asked_for_is_not_the_next_pages_time(virtual_clock):
    ok = httpx.Response(200, json=[{"id": 1}])
    transport = answers(httpx.Response(200, json=[], headers={"Backoff": "700"}), httpx.Response(500), ok)

    assert await Sliced(transport=transport, clock=virtual_clock).read() == [{"id": 1}]
    assert virtual_clock.monotonic() >= 700


@pytest.mark.parametrize("told", ["0", "soon", "-5"])
async def test_a_503_whose_retry_after_orders_nothing_spends_tries(virtual_clock, told):
    sent = []

    def handler(request):
        sent.append(request)
        return httpx.Response(503, headers={"Retry-After": told})

    with pytest.raises(HttpStatusError):
        await Users(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert len(sent) == 5


async def test_a_rotated_token_does_not_wait_at_the_gate_of_the_api(virtual_clock):
    stored = []

    def store(tokens):
        stored.append((tokens.refresh_token.reveal(), virtual_clock.monotonic()))

    def handler(request):
        if request.url.host == "auth.example.com":
            # Meanwhile another reading is told to wait for ten minutes.
            stream.session_owner.sessions._open[asyncio.get_running_loop()][0].governor_for(origin, oauth).pause_for(
                600
            )
            return httpx.Response(200, json={"access_token": "a2", "refresh_token": "r2"})
        return httpx.Response(200, json=[])

    oauth = Oauth2Authenticator(
        "https://auth.example.com/token", "app", "secret", "r1", on_refresh=store, clock=virtual_clock
    )
    stream = Users(authenticator=oauth, transport=httpx.MockTransport(handler), clock=virtual_clock)
    (origin,) = allowed_origins("Users", stream.url_base, ())

    await stream.read()

    ((token, moment),) = stored
    assert token == "r2"
    assert moment < 600 <= virtual_clock.monotonic()


async def test_a_detail_call_that_gives_up_is_not_tried_again_by_its_page(virtual_clock):
    class Whole(Users):
        async def parse_response(self, response, context):
            await self.request("detail")
            return []

    sent = []

    def handler(request):
        sent.append(request.url.path)
        if request.url.path == "/detail":
            return httpx.Response(500)
        return httpx.Response(200, json=[])

    with pytest.raises(HttpStatusError):
        await Whole(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert sent == ["/users", *["/detail"] * 5]


async def test_a_malformed_detail_is_told_as_such_and_its_page_is_not_read_again(virtual_clock):
    class Whole(Users):
        async def parse_response(self, response, context):
            detail = await self.request("detail")
            return [detail.json()]

    sent = []

    def handler(request):
        sent.append(request.url.path)
        return httpx.Response(200, text="{oops" if request.url.path == "/detail" else "[]")

    with pytest.raises(MalformedJSON) as caught:
        await Whole(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert caught.value.url == "https://api.example.com/detail"
    assert sent == ["/users", "/detail"]


async def test_a_token_answer_that_was_cut_is_asked_for_again(virtual_clock):
    whole = b'{"access_token": "a1"}'
    tokens = [
        httpx.Response(200, stream=httpx.ByteStream(whole[:10]), headers={"Content-Length": str(len(whole))}),
        httpx.Response(200, content=whole),
    ]

    def handler(request):
        return tokens.pop(0) if request.url.host == "auth.example.com" else httpx.Response(200, json=[{"id": 1}])

    oauth = Oauth2Authenticator("https://auth.example.com/token", "app", "secret", "r1", clock=virtual_clock)
    stream = Users(authenticator=oauth, transport=httpx.MockTransport(handler), clock=virtual_clock)

    assert await stream.read() == [{"id": 1}]


async def test_a_key_in_the_query_leaves_the_rest_of_it_as_it_was(virtual_clock):
    class Linked(Users):
        paginator = NextUrl("next")
        records_path = "items"

    seen = []

    def handler(request):
        seen.append(request.url.raw_path)
        following = "/users?c=%FFab&flag&d=a%20b" if len(seen) == 1 else None
        return httpx.Response(200, json={"items": [], "next": following})

    authenticator = ApiKeyAuthenticator("k/1", "key", into="query")
    await Linked(authenticator=authenticator, transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert seen == [b"/users?key=k%2F1", b"/users?c=%FFab&flag&d=a%20b&key=k%2F1"]


async def test_errors_that_left_are_not_retryable_any_more(virtual_clock):
    def handler(request):
        raise httpx.ReadError("gone")

    with pytest.raises(AsyncStreamsError) as caught:
        await Users(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert caught.value.retryable is False
