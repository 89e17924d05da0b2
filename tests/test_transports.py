"""Streams over httpx's transports and proxies, and the release of their connections."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass

import httpx
import pytest
from loopback import Items, Lines, TwoPages, always, http_response, serve

from asyncstreams import ConfigError, HostUnavailable, HttpStream, ResponseAction, Timeouts
from asyncstreams.http.session import Session

ONE = http_response(b'[{"id":1}]')


class Search(Items):
    http_method = "POST"

    def request_json(self, context):
        return {"query": "*"}


class ProxiedItems(Items):
    def __init__(self, url, proxy):
        super().__init__(url)
        self.proxy = proxy

    def request_kwargs(self, context):
        return {"proxy": self.proxy}


@dataclass
class AuthByValue(httpx.Auth):
    """An authenticator compared by value, and thus unhashable."""

    user: str

    def auth_flow(self, request):
        request.headers["X-User"] = self.user
        yield request


@pytest.mark.parametrize("kind", [Items, Search])
async def test_httpx_transport_sends_the_same_request(kind):
    async with serve(always(ONE)) as server:
        await kind(server.url).read()
        async with httpx.AsyncHTTPTransport() as transport:
            assert await kind(server.url, transport=transport).read() == [{"id": 1}]

    own, httpx_request = server.requests
    assert (own.method, own.target, own.body) == (httpx_request.method, httpx_request.target, httpx_request.body)
    assert {name.lower() for name, _ in own.headers} == {name.lower() for name, _ in httpx_request.headers}


async def test_httpx_transport_keeps_its_connection_alive():
    async with serve([ONE, http_response(b'[{"id":2}]')]) as server, httpx.AsyncHTTPTransport() as transport:
        await TwoPages(server.url, transport=transport).read()

    assert [request.connection for request in server.requests] == [0, 0]


async def test_proxy_receives_the_absolute_url():
    async with serve(always(ONE)) as proxy:
        records = await ProxiedItems("http://api.example.com/", proxy.url).read()

    assert records == [{"id": 1}]
    assert proxy.targets == ["http://api.example.com/items"]


async def test_proxy_without_scheme_is_refused_without_its_password():
    with pytest.raises(ConfigError, match="no scheme") as caught:
        await ProxiedItems("http://127.0.0.1:1/", "user:hunter22@proxy.example.com:8080").read()

    assert "hunter22" not in str(caught.value)


async def test_https_to_an_http_server_is_a_failed_handshake():
    async def respond_at_once(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(respond_at_once, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HostUnavailable, match="TLS handshake"):
            await Items(f"https://127.0.0.1:{port}/", timeouts=Timeouts()).read()


async def test_long_and_numerous_headers_are_accepted():
    link = f'Link: <https://api.example.com/next?signature={"x" * 20_000}>; rel="other"'
    many_headers = [f"X-Header-{number}: {number}" for number in range(200)]
    async with serve(always(http_response(b'[{"id":1}]', link, *many_headers))) as server:
        assert await Items(server.url).read() == [{"id": 1}]


async def test_unhashable_authenticator_is_accepted():
    async with serve(always(ONE)) as server:
        await Items(server.url, authenticator=AuthByValue("ann")).read()

    assert ("X-User", "ann") in server.requests[0].headers


async def test_session_is_freed_after_its_read():
    before = {id(obj) for obj in gc.get_objects() if isinstance(obj, Session)}
    async with serve(always(ONE)) as server:
        stream = Items(server.url)
        for _ in range(5):
            await stream.read()

    gc.collect()
    leaked = [weakref.ref(obj) for obj in gc.get_objects() if isinstance(obj, Session) and id(obj) not in before]
    assert leaked == []


class IgnoredLines(Lines):
    def stream_slices(self, state):
        return [{"n": number} for number in range(5)]

    def classify(self, response, context):
        return ResponseAction.IGNORE


class UnreadLines(IgnoredLines):
    def classify(self, response, context):
        return ResponseAction.SUCCESS

    async def parse_response(self, response, context):
        for record in ():
            yield record


class FailingClassify(Lines):
    def classify(self, response, context):
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [IgnoredLines, UnreadLines])
async def test_unread_streamed_body_closes_its_connection(kind):
    async with serve(always(http_response(b'{"id":1}\n' * 50_000))) as server, kind(server.url).pages() as pages:
        async for _ in pages:
            pass
        # All connections close while the read is still open.
        await server.wait_all_closed()

    assert len(server.requests) == 5


async def test_failing_classify_closes_the_connection_of_a_stream():
    async with (
        serve(always(http_response(b'{"id":1}\n' * 50_000))) as server,
        FailingClassify(server.url).pages() as pages,
    ):
        with pytest.raises(ZeroDivisionError):
            await anext(pages)

        await server.wait_all_closed()


async def test_init_without_super_is_a_config_error():
    class WithoutSuper(HttpStream):
        url_base = "https://api.example.com/"

        def __init__(self):
            self.shop = 1

        def path(self, context):
            return "x"

    with pytest.raises(ConfigError, match=r"super\(\)"):
        await WithoutSuper().read()
