"""Does a stream behave the same over httpx's own transports, and where a connection is refused?"""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass

import httpx
import pytest
from loopback import Items, Lines, TwoPages, always, answer, serve

from asyncstreams import ConfigError, HostUnavailable, HttpStream, ResponseAction, Timeouts
from asyncstreams.http.session import Session

ONE = answer(b'[{"id":1}]')


class Search(Items):
    http_method = "POST"

    def request_json(self, context):
        return {"query": "*"}


class ByProxy(Items):
    def __init__(self, url, proxy):
        super().__init__(url)
        self.proxy = proxy

    def request_kwargs(self, context):
        return {"proxy": self.proxy}


@dataclass
class ByValue(httpx.Auth):
    """Equal to others, and for that reason not hashable."""

    user: str

    def auth_flow(self, request):
        request.headers["X-User"] = self.user
        yield request


@pytest.mark.parametrize("kind", [Items, Search])
async def test_a_real_httpx_transport_sends_what_ours_does(kind):
    async with serve(always(ONE)) as server:
        await kind(server.url).read()
        async with httpx.AsyncHTTPTransport() as transport:
            assert await kind(server.url, transport=transport).read() == [{"id": 1}]

    ours, theirs = server.requests
    assert (ours.method, ours.target, ours.body) == (theirs.method, theirs.target, theirs.body)
    assert {name.lower() for name, _ in ours.headers} == {name.lower() for name, _ in theirs.headers}


async def test_a_real_httpx_transport_keeps_its_connection_alive():
    async with serve([ONE, answer(b'[{"id":2}]')]) as server, httpx.AsyncHTTPTransport() as transport:
        await TwoPages(server.url, transport=transport).read()

    assert [request.connection for request in server.requests] == [0, 0]


async def test_a_proxy_is_asked_for_the_whole_url():
    async with serve(always(ONE)) as proxy:
        records = await ByProxy("http://api.example.com/", proxy.url).read()

    assert records == [{"id": 1}]
    assert proxy.targets == ["http://api.example.com/items"]


async def test_a_proxy_without_a_scheme_is_refused_without_showing_its_password():
    with pytest.raises(ConfigError, match="no scheme") as caught:
        await ByProxy("http://127.0.0.1:1/", "user:hunter22@proxy.example.com:8080").read()

    assert "hunter22" not in str(caught.value)


async def test_https_to_a_server_that_speaks_http_is_no_question_of_certificates():
    async def answer_at_once(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(answer_at_once, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HostUnavailable, match="TLS handshake"):
            await Items(f"https://127.0.0.1:{port}/", timeouts=Timeouts()).read()


async def test_long_headers_and_many_of_them_are_taken():
    link = f'Link: <https://api.example.com/next?signature={"x" * 20_000}>; rel="other"'
    many = [f"X-Header-{number}: {number}" for number in range(200)]
    async with serve(always(answer(b'[{"id":1}]', link, *many))) as server:
        assert await Items(server.url).read() == [{"id": 1}]


async def test_an_authenticator_that_is_not_hashable_will_do():
    async with serve(always(ONE)) as server:
        await Items(server.url, authenticator=ByValue("ann")).read()

    assert ("X-User", "ann") in server.requests[0].headers


async def test_a_session_goes_when_its_reading_ends():
    before = {id(found) for found in gc.get_objects() if isinstance(found, Session)}
    async with serve(always(ONE)) as server:
        stream = Items(server.url)
        for _ in range(5):
            await stream.read()

    gc.collect()
    left = [weakref.ref(found) for found in gc.get_objects() if isinstance(found, Session) and id(found) not in before]
    assert left == []


class Ignoring(Lines):
    def stream_slices(self, state):
        return [{"n": number} for number in range(5)]

    def classify(self, response, context):
        return ResponseAction.IGNORE


class NotLooking(Ignoring):
    def classify(self, response, context):
        return ResponseAction.SUCCESS

    async def parse_response(self, response, context):
        for record in ():
            yield record


class Failing(Lines):
    def classify(self, response, context):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Ignoring, NotLooking])
async def test_a_streamed_body_that_nobody_begins_to_read_lets_its_connection_go(kind):
    async with serve(always(answer(b'{"id":1}\n' * 50_000))) as server, kind(server.url).pages() as pages:
        async for _ in pages:
            pass
        # All of them, while the reading is still open.
        await server.all_closed()

    assert len(server.requests) == 5


async def test_a_streamed_body_lets_its_connection_go_when_classify_fails():
    async with serve(always(answer(b'{"id":1}\n' * 50_000))) as server, Failing(server.url).pages() as pages:
        with pytest.raises(ZeroDivisionError):
            await anext(pages)

        await server.all_closed()


async def test_a_stream_whose_init_forgets_super_is_told_so():
    class Forgetful(HttpStream):
        url_base = "https://api.example.com/"

        def __init__(self):
            self.shop = 1

        def path(self, context):
            return "x"

    with pytest.raises(ConfigError, match=r"super\(\)"):
        await Forgetful().read()
