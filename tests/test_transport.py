"""The HTTP/1.1 transport: exact requests, exact responses, and reuse of connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import h11
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from loopback import Connection, Items, LoopbackRequest, always, http_response, serve

from asyncstreams.messages import Request
from asyncstreams.wire.request_head import header_fields, request_head
from asyncstreams.wire.transport import Http1Transport

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
FRAMING = ("content-length", "transfer-encoding")


@pytest.fixture
async def transport() -> AsyncIterator[Http1Transport]:
    opened = Http1Transport()
    yield opened
    await opened.aclose()


async def send(
    transport: Http1Transport, url: str, method: str = "GET", *headers: tuple[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    """Send a request; the status and the body of the response."""
    request = Request(method, url, headers=list(headers), content=body)
    response = await transport.handle_async_request(request)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.status_code, b"".join([piece async for piece in response.stream])


async def test_informational_responses_are_skipped(transport):
    async with serve(always(CONTINUE, HINTS, http_response(b"here"))) as server:
        assert await send(transport, server.url) == (200, b"here")
        assert await send(transport, server.url) == (200, b"here")

    assert server.connections == 1


async def test_connection_is_not_reused_after_a_protocol_switch(transport):
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"
    async with serve([switched, http_response(b"here")]) as server:
        assert (await send(transport, server.url))[0] == 101
        assert await send(transport, server.url) == (200, b"here")

    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    ("method", "response", "status"),
    [
        ("HEAD", http_response(b"", "Content-Length: 1000"), 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", 304),
        ("GET", http_response(b"0\r\n\r\n", "Transfer-Encoding: chunked"), 200),
    ],
    ids=["HEAD", "204", "304", "no chunks"],
)
async def test_connection_is_reused_after_a_response_without_body(transport, method, response, status):
    async with serve([response]) as server:
        for _ in range(3):
            assert await send(transport, server.url, method) == (status, b"")

    assert server.connections == 1


async def test_early_response_to_an_unread_body_frees_the_connection(transport):
    handlers: list[asyncio.Task[Any] | None] = []
    both_connected = asyncio.Event()
    received: list[int] = []

    async def respond_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        if len(handlers) == 2:
            both_connected.set()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_response(b"too large", status="413 Content Too Large"))
        await both_connected.wait()
        with suppress(ConnectionError):
            while piece := await reader.read(2**16):
                received.append(len(piece))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(respond_early, "127.0.0.1", 0, limit=1024)
    async with server, asyncio.timeout(10):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await send(transport, url, "POST", body=b"x" * 50_000_000) == (413, b"too large")
        assert await send(transport, url) == (413, b"too large")
        await transport.aclose()
        await asyncio.gather(*filter(None, handlers))

    assert len(handlers) == 2
    assert sum(received) < 40_000_000


async def test_concurrent_requests_use_separate_connections(transport):
    async def respond_slowly(request: LoopbackRequest, connection: Connection) -> None:
        await asyncio.sleep(0.05)
        await connection.send(http_response(request.target.encode()))

    async with serve(respond_slowly) as server:
        found = await asyncio.gather(*[send(transport, f"{server.url}{number}") for number in range(20)])

    assert [body for _, body in found] == [b"/%d" % number for number in range(20)]
    assert server.connections == 20


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("?page=1", "/?page=1"),
        ("", "/"),
        ("/a%2Fb?x=1#part", "/a%2Fb?x=1"),
        ("/a?x=http://other/", "/a?x=http://other/"),
    ],
)
async def test_request_target_is_the_url_after_the_host(transport, path, target):
    async with serve([http_response(b"")]) as server:
        await send(transport, server.url.rstrip("/") + path)

    assert server.targets == [target]


async def test_plain_http_loads_no_certificate_authorities(monkeypatch):
    def fail(*args: Any) -> None:
        raise AssertionError("authorities were loaded")

    monkeypatch.setattr("asyncstreams.wire.transport.tls_context", fail)
    async with serve([http_response(b'[{"id":1}]')]) as server:
        assert await Items(server.url).read() == [{"id": 1}]
        with pytest.raises(AssertionError, match="authorities were loaded"):
            await Items(server.url.replace("http:", "https:")).read()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com:443/", "api.example.com"),
        ("http://API.example.com:8080/", "api.example.com:8080"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
async def test_host_header_follows_the_http_specification(transport, url, host):
    peer, _ = transport._locate(url, None)

    assert peer.host_header == host


@pytest.mark.parametrize(
    ("method", "headers", "body", "expected"),
    [
        ("GET", [], b"", {}),
        ("POST", [], b"", {"Content-Length": "0"}),
        ("POST", [("Content-Length", "7")], b"{}", {"Content-Length": "2"}),
        ("POST", [("transfer-encoding", "chunked")], b"{}", {"Content-Length": "2"}),
        ("GET", [("Host", "other.example")], b"", {"Host": "other.example"}),
        ("GET", [("X-Name", "é\xff".encode().decode("latin-1"))], b"", {"X-Name": "Ã©Ã¿"}),
    ],
)
async def test_framing_follows_the_body_and_other_headers_are_kept(transport, method, headers, body, expected):
    async with serve([http_response(b"")]) as server:
        await send(transport, server.url, method, *headers, body=body)

    (request,) = server.requests
    host = server.url.removeprefix("http://").rstrip("/")
    assert dict(request.headers) == {"Host": host, **expected}
    assert request.body == body


async def test_without_reuse_each_request_sends_connection_close():
    transport = Http1Transport(reuse=False)
    async with serve([http_response(b"")]) as server:
        await send(transport, server.url)
        await send(transport, server.url)
    await transport.aclose()

    assert server.connections == 2
    assert all(("Connection", "close") in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("method", "target", "header"),
    [
        ("GET", "/a b", ("x", "y")),
        ("GET", "/a\r\nX: y", ("x", "y")),
        ("GET", "/é", ("x", "y")),
        ("GET /\r\n", "/", ("x", "y")),
        ("", "/", ("x", "y")),
        ("GET", "/", ("x\r\ny", "z")),
        ("GET", "/", ("x y", "z")),
        ("GET", "/", ("", "z")),
        ("GET", "/", ("x", "y\r\nz: 1")),
        ("GET", "/", ("x", "y\n")),
        ("GET", "/", ("x", "\0")),
        ("GET", "/", ("x", "☃")),
    ],
)
async def test_invalid_characters_are_refused_before_connecting(transport, method, target, header):
    async with serve([http_response(b"")]) as server:
        with pytest.raises(httpx.LocalProtocolError, match="character that HTTP does not allow"):
            await send(transport, server.url.rstrip("/") + target, method, header)

    assert server.connections == 0


def parse_as_server(data: bytes) -> list[Any]:
    """The events that h11 parses from the bytes of one connection. Raises h11.RemoteProtocolError."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    events: list[Any] = []
    while (event := server.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
        events.append(event)
    assert server.trailing_data[0] == b""
    return events


METHOD = st.sampled_from(["GET", "POST", "PUT", "DELETE"])
TEXT = st.text(st.characters(max_codepoint=0x120) | st.sampled_from("\r\n \t:\0/?#%"), max_size=8)
NAME = st.sampled_from(["X-Tag", "accept", "Content-Length", "Transfer-Encoding", "Host", "Connection"])
VALUE = st.sampled_from(["5", "chunked", "close", "a, b", ""])
HEADER = st.tuples(NAME, VALUE)
HEADERS = st.lists(
    HEADER | st.tuples(NAME, TEXT) | st.tuples(TEXT, VALUE), max_size=4, unique_by=lambda header: header[0].lower()
)
SMUGGLED_REQUEST = b"0\r\n\r\nGET /stolen HTTP/1.1\r\nHost: here\r\n\r\n"


@given(METHOD | TEXT, TEXT, HEADERS, st.binary(max_size=20), st.booleans())
@example("POST", "", [("Transfer-Encoding", "chunked")], SMUGGLED_REQUEST, False)
@example("POST", "", [("Content-Length", "0")], SMUGGLED_REQUEST, False)
@example("GET", " HTTP/1.1\r\nX: ", [], b"", False)
@example("GET", "", [("X", "\r\n\r\n" + SMUGGLED_REQUEST.decode())], b"", False)
def test_property_server_parses_exactly_the_sent_request(method, rest, headers, body, close):
    try:
        head = request_head(method, f"/{rest}", header_fields("here", headers, close), len(body))
    except httpx.LocalProtocolError:
        return
    request, *data, end = parse_as_server(head + body)
    assert (request.method.decode(), request.target.decode()) == (method, f"/{rest}")
    parsed = {name.decode(): value.decode("latin-1") for name, value in request.headers}
    added = {"host": "here", "content-length": str(len(body)), "connection": "close"}
    kept = {name.lower(): value.strip(" \t") for name, value in headers if name.lower() not in FRAMING}
    assert parsed.items() >= kept.items()
    assert {**added, **kept}.items() >= parsed.items()
    assert b"".join(event.data for event in data) == body
    assert isinstance(end, h11.EndOfMessage)


@given(METHOD, st.lists(HEADER, max_size=4, unique_by=lambda header: header[0].lower()))
def test_property_valid_requests_are_never_refused(method, headers):
    assert request_head(method, "/a?b=%20", header_fields("here", headers), 0)
