"""Accounting of waits, tries and pauses for pages, tokens and detail requests."""

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


def respond_in_order(*responses: httpx.Response):
    remaining = list(responses)
    return httpx.MockTransport(lambda request: remaining.pop(0))


async def test_server_pause_is_not_counted_for_the_next_page(virtual_clock):
    ok = httpx.Response(200, json=[{"id": 1}])
    transport = respond_in_order(httpx.Response(200, json=[], headers={"Backoff": "700"}), httpx.Response(500), ok)

    assert await Sliced(transport=transport, clock=virtual_clock).read() == [{"id": 1}]
    assert virtual_clock.monotonic() >= 700


@pytest.mark.parametrize("retry_after", ["0", "soon", "-5"])
async def test_503_with_an_invalid_retry_after_spends_tries(virtual_clock, retry_after):
    sent = []

    def handler(request):
        sent.append(request)
        return httpx.Response(503, headers={"Retry-After": retry_after})

    with pytest.raises(HttpStatusError):
        await Users(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert len(sent) == 5


async def test_rotated_token_is_stored_without_waiting_for_a_pause(virtual_clock):
    stored = []

    def store(tokens):
        stored.append((tokens.refresh_token.reveal(), virtual_clock.monotonic()))

    def handler(request):
        if request.url.host == "auth.example.com":
            # Meanwhile the API pauses all requests for ten minutes.
            stream.own_reader.sessions._open[asyncio.get_running_loop()][0].governor_for(origin, oauth).pause_for(600)
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


async def test_failed_detail_request_is_not_retried_by_its_page(virtual_clock):
    class WithDetails(Users):
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
        await WithDetails(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert sent == ["/users", *["/detail"] * 5]


async def test_malformed_detail_is_not_retried_by_its_page(virtual_clock):
    class WithDetails(Users):
        async def parse_response(self, response, context):
            detail = await self.request("detail")
            return [detail.json()]

    sent = []

    def handler(request):
        sent.append(request.url.path)
        return httpx.Response(200, text="{oops" if request.url.path == "/detail" else "[]")

    with pytest.raises(MalformedJSON) as caught:
        await WithDetails(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert caught.value.url == "https://api.example.com/detail"
    assert sent == ["/users", "/detail"]


async def test_truncated_token_response_is_retried(virtual_clock):
    body = b'{"access_token": "a1"}'
    tokens = [
        httpx.Response(200, stream=httpx.ByteStream(body[:10]), headers={"Content-Length": str(len(body))}),
        httpx.Response(200, content=body),
    ]

    def handler(request):
        return tokens.pop(0) if request.url.host == "auth.example.com" else httpx.Response(200, json=[{"id": 1}])

    oauth = Oauth2Authenticator("https://auth.example.com/token", "app", "secret", "r1", clock=virtual_clock)
    stream = Users(authenticator=oauth, transport=httpx.MockTransport(handler), clock=virtual_clock)

    assert await stream.read() == [{"id": 1}]


async def test_api_key_in_the_query_keeps_the_rest_of_it(virtual_clock):
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


async def test_raised_errors_are_not_retryable(virtual_clock):
    def handler(request):
        raise httpx.ReadError("connection reset")

    with pytest.raises(AsyncStreamsError) as caught:
        await Users(transport=httpx.MockTransport(handler), clock=virtual_clock).read()

    assert caught.value.retryable is False
