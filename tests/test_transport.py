"""Does the transport send exactly the request that it was given, and take exactly its answer?"""

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
from loopback import Items, Received, Wire, always, answer, serve

from asyncstreams.http.request_head import request_head
from asyncstreams.http.transport import AiohttpTransport
from asyncstreams.messages import Request

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
FRAMING = ("content-length", "transfer-encoding")


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    one = AiohttpTransport()
    yield one
    await one.aclose()


async def sent(
    transport: AiohttpTransport, url: str, method: str = "GET", *headers: tuple[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of the answer."""
    request = Request(method, url, headers=list(headers), content=body)
    response = await transport.handle_async_request(request)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.status_code, b"".join([piece async for piece in response.stream])


async def test_informational_answers_come_before_the_answer(transport):
    async with serve(always(CONTINUE, HINTS, answer(b"here"))) as server:
        assert await sent(transport, server.url) == (200, b"here")
        assert await sent(transport, server.url) == (200, b"here")

    assert server.connections == 1


async def test_a_connection_that_changes_its_protocol_is_not_used_again(transport):
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"
    async with serve([switched, answer(b"here")]) as server:
        assert (await sent(transport, server.url))[0] == 101
        assert await sent(transport, server.url) == (200, b"here")

    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize(
    ("method", "response", "status"),
    [
        ("HEAD", answer(b"", "Content-Length: 1000"), 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n", 304),
        ("GET", answer(b"0\r\n\r\n", "Transfer-Encoding: chunked"), 200),
    ],
    ids=["HEAD", "204", "304", "no chunks"],
)
async def test_after_an_answer_without_a_body_the_connection_is_used_again(transport, method, response, status):
    async with serve([response]) as server:
        for _ in range(3):
            assert await sent(transport, server.url, method) == (status, b"")

    assert server.connections == 1


async def test_an_answer_to_a_body_that_nobody_reads_is_heard_and_its_connection_is_let_go(transport):
    answered: list[asyncio.Task[Any] | None] = []
    both = asyncio.Event()
    taken: list[int] = []

    async def unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.current_task())
        if len(answered) == 2:
            both.set()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"too large", status="413 Content Too Large"))
        await both.wait()
        with suppress(ConnectionError):
            while piece := await reader.read(2**16):
                taken.append(len(piece))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(unread, "127.0.0.1", 0, limit=1024)
    async with server, asyncio.timeout(10):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await sent(transport, url, "POST", body=b"x" * 50_000_000) == (413, b"too large")
        assert await sent(transport, url) == (413, b"too large")
        await transport.aclose()
        await asyncio.gather(*filter(None, answered))

    assert len(answered) == 2
    assert sum(taken) < 40_000_000


async def test_requests_that_are_under_way_together_have_a_connection_each(transport):
    async def slow(request: Received, wire: Wire) -> None:
        await asyncio.sleep(0.05)
        await wire.send(answer(request.target.encode()))

    async with serve(slow) as server:
        found = await asyncio.gather(*[sent(transport, f"{server.url}{number}") for number in range(20)])

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
async def test_the_target_is_what_follows_the_host(transport, path, target):
    async with serve([answer(b"")]) as server:
        await sent(transport, server.url.rstrip("/") + path)

    assert server.targets == [target]


async def test_no_certificate_authority_is_loaded_where_nothing_is_encrypted(monkeypatch):
    def loaded(*told: Any) -> None:
        raise AssertionError("authorities were loaded")

    monkeypatch.setattr("asyncstreams.http.session.tls_context", loaded)
    monkeypatch.setattr("asyncstreams.http.transport.tls_context", loaded)
    async with serve([answer(b'[{"id":1}]')]) as server:
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
async def test_a_host_is_named_as_http_names_it(transport, url, host):
    peer, _ = transport._peer(url)

    assert peer.host == host


@pytest.mark.parametrize(
    ("method", "headers", "body", "told"),
    [
        ("GET", [], b"", {}),
        ("POST", [], b"", {"Content-Length": "0"}),
        ("POST", [("Content-Length", "7")], b"{}", {"Content-Length": "2"}),
        ("POST", [("transfer-encoding", "chunked")], b"{}", {"Content-Length": "2"}),
        ("GET", [("Host", "other.example")], b"", {"Host": "other.example"}),
        ("GET", [("X-Name", "é\xff".encode().decode("latin-1"))], b"", {"X-Name": "Ã©Ã¿"}),
    ],
)
async def test_a_message_is_framed_by_its_body_and_otherwise_as_it_is_told(transport, method, headers, body, told):
    async with serve([answer(b"")]) as server:
        await sent(transport, server.url, method, *headers, body=body)

    (request,) = server.requests
    host = server.url.removeprefix("http://").rstrip("/")
    assert dict(request.headers) == {"Host": host, **told}
    assert request.body == body


async def test_without_reuse_each_connection_is_told_to_be_the_last():
    transport = AiohttpTransport(reuse=False)
    async with serve([answer(b"")]) as server:
        await sent(transport, server.url)
        await sent(transport, server.url)
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
async def test_what_http_does_not_allow_is_refused_before_any_connection(transport, method, target, header):
    async with serve([answer(b"")]) as server:
        with pytest.raises(httpx.LocalProtocolError, match="character that HTTP does not allow"):
            await sent(transport, server.url.rstrip("/") + target, method, header)

    assert server.connections == 0


def read_by_a_server(data: bytes) -> list[Any]:
    """What h11 takes for the events of one connection. Raises h11.RemoteProtocolError."""
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
WELL = st.tuples(NAME, VALUE)
HEADERS = st.lists(
    WELL | st.tuples(NAME, TEXT) | st.tuples(TEXT, VALUE), max_size=4, unique_by=lambda one: one[0].lower()
)
SMUGGLED = b"0\r\n\r\nGET /stolen HTTP/1.1\r\nHost: here\r\n\r\n"


@given(METHOD | TEXT, TEXT, HEADERS, st.binary(max_size=20), st.booleans())
@example("POST", "", [("Transfer-Encoding", "chunked")], SMUGGLED, False)
@example("POST", "", [("Content-Length", "0")], SMUGGLED, False)
@example("GET", " HTTP/1.1\r\nX: ", [], b"", False)
@example("GET", "", [("X", "\r\n\r\n" + SMUGGLED.decode())], b"", False)
def test_property_a_server_reads_exactly_this_request_or_it_is_refused(method, rest, headers, body, close):
    try:
        head = request_head(method, f"/{rest}", "here", headers, len(body), close=close)
    except ValueError:
        return
    request, *data, end = read_by_a_server(head + body)
    assert (request.method.decode(), request.target.decode()) == (method, f"/{rest}")
    told = {name.decode(): value.decode("latin-1") for name, value in request.headers}
    ours = {"host": "here", "content-length": str(len(body)), "connection": "close"}
    kept = {name.lower(): value.strip(" \t") for name, value in headers if name.lower() not in FRAMING}
    assert told.items() >= kept.items()
    assert {**ours, **kept}.items() >= told.items()
    assert b"".join(one.data for one in data) == body
    assert isinstance(end, h11.EndOfMessage)


@given(METHOD, st.lists(WELL, max_size=4, unique_by=lambda one: one[0].lower()))
def test_property_what_http_allows_is_never_refused(method, headers):
    assert request_head(method, "/a?b=%20", "here", headers, 0)
