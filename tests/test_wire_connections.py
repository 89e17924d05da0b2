"""Connections of the HTTP/1.1 transport over sockets: reuse, ends, backpressure, addresses and invalid responses."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from loopback import Connection, Items, LoopbackRequest, always, http_response, self_signed_certificate, serve
from loops import on_each_loop, open_sockets, wait_until

from asyncstreams import RemoteError
from asyncstreams.messages import Request, Response
from asyncstreams.wire.tls import TlsOptions
from asyncstreams.wire.transport import Http1Transport

HERE, ELSEWHERE = http_response(b"here"), http_response(b"elsewhere")
CHUNKED = "Transfer-Encoding: chunked"
Address = tuple[str, int]


async def start(transport: Http1Transport, url: str, method: str = "GET", body: bytes = b"") -> Response:
    response = await transport.handle_async_request(Request(method, url, headers=[], content=body))
    assert isinstance(response, Response)
    return response


async def read(response: Response) -> bytes:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return b"".join([piece async for piece in response.stream])


async def send(transport: Http1Transport, url: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    """Send a request; the status and the body of the response."""
    response = await start(transport, url, method, body)
    return response.status_code, await read(response)


async def on_next_connection(request: LoopbackRequest, connection: Connection) -> None:
    await connection.send(ELSEWHERE)


def first_connection(*steps: Any) -> Callable[[LoopbackRequest, Connection], Awaitable[None]]:
    """A script that plays the steps for the first request, and sends ELSEWHERE for others."""
    first = always(*steps)

    async def script(request: LoopbackRequest, connection: Connection) -> None:
        await (first if request.connection == 0 else on_next_connection)(request, connection)

    return script


def half_close(connection: Connection) -> None:
    connection._writer.write_eof()


UNUSABLE_AFTER = {
    "unsolicited response": [HERE, 0.01, ELSEWHERE],
    "unsolicited byte": [HERE, 0.01, b"\r"],
    "half-closed": [HERE, half_close],
    "closed": [HERE, Connection.close, 0.01],
    "reset": [HERE, 0.01, Connection.reset, 0.01],
    "excess": [HERE + ELSEWHERE],
    "excess after chunks": [http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED) + ELSEWHERE],
    "chunked and length": [http_response(b"4\r\nhere\r\n0\r\n\r\n", "Content-Length: 4", CHUNKED)],
    "Connection: close": [http_response(b"here", "Connection: close")],
    "HTTP/1.0": [HERE.replace(b"HTTP/1.1", b"HTTP/1.0")],
    "no framing": [b"HTTP/1.1 200 OK\r\n\r\nhere", Connection.close, 0.01],
    "no framing, HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\nhere", Connection.close, 0.01],
}


@pytest.mark.parametrize("case", UNUSABLE_AFTER)
@on_each_loop
async def test_unusable_connection_is_closed_and_replaced(case):
    script = first_connection(*UNUSABLE_AFTER[case], Connection.wait_for_disconnect)
    async with serve(script) as server, Http1Transport() as transport, asyncio.timeout(5):
        assert await send(transport, server.url) == (200, b"here")
        await server.wait_all_closed()
        assert await send(transport, server.url) == (200, b"elsewhere")

    assert [request.connection for request in server.requests] == [0, 1]


FAILING = {
    "closed without response": ([Connection.close], b""),
    "reset without response": ([Connection.reset], b""),
    "closed within the head": ([HERE[:20], Connection.close], b""),
    "reset within the head": ([HERE[:20], 0.01, Connection.reset], b""),
    "closed within an informational head": ([b"HTTP/1.1 100 Con", Connection.close], b""),
    "closed after an informational head": ([b"HTTP/1.1 100 Continue\r\n\r\n", Connection.close], b""),
    "closed within the length": ([HERE[:-1], Connection.close], b"her"),
    "reset within the length": ([HERE[:-1], 0.05, Connection.reset], b"her"),
    "closed within a chunk": ([http_response(b"8\r\nhere", CHUNKED), Connection.close], b"here"),
    "closed after a chunk": ([http_response(b"4\r\nhere\r\n", CHUNKED), Connection.close], b"here"),
    "closed after the last chunk": ([http_response(b"4\r\nhere\r\n0\r\n", CHUNKED), Connection.close], b"here"),
    "reset within a chunk": ([http_response(b"8\r\nhere", CHUNKED), 0.05, Connection.reset], b"here"),
    "reset without framing": ([b"HTTP/1.1 200 OK\r\n\r\nhere", 0.05, Connection.reset], b"here"),
}


@pytest.mark.parametrize("case", FAILING)
@on_each_loop
async def test_broken_connection_is_an_error_after_its_pieces(case):
    steps, delivered = FAILING[case]
    pieces: list[bytes] = []
    script = first_connection(*steps, Connection.wait_for_disconnect)
    async with serve(script) as server, Http1Transport() as transport, asyncio.timeout(5):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)) as caught:  # noqa: PT012
            async for piece in (await start(transport, server.url)).stream:
                pieces.append(piece)  # noqa: PERF401  # the pieces before the error count
        assert await send(transport, server.url) == (200, b"elsewhere")

    assert b"".join(pieces) == delivered
    assert str(caught.value)
    assert [request.connection for request in server.requests] == [0, 1]


@on_each_loop
async def test_request_on_a_connection_that_closes_is_sent_once():
    async def script(request: LoopbackRequest, connection: Connection) -> None:
        await connection.send(HERE) if request.target == "/" else connection.close()

    async with serve(script) as server, Http1Transport() as transport:
        await send(transport, server.url)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await send(transport, f"{server.url}last", "POST", b"body")

    assert server.targets == ["/", "/last"]


@on_each_loop
async def test_unread_body_stays_apart_from_the_next_response():
    async with serve([HERE, ELSEWHERE]) as server, Http1Transport() as transport:
        first = await start(transport, server.url)
        second = await start(transport, server.url)

        assert await read(second) == b"elsewhere"
        assert await read(first) == b"here"


@on_each_loop
async def test_closing_a_read_response_twice_leaves_the_next():
    async with serve([HERE, ELSEWHERE]) as server, Http1Transport() as transport:
        first = await start(transport, server.url)
        await read(first)
        second = await start(transport, server.url)
        await first.aclose()
        await first.stream.aclose()

        assert await read(second) == b"elsewhere"
    assert server.connections == 1


@on_each_loop
async def test_response_closed_within_its_body_drops_its_connection():
    script = first_connection(HERE[:-1], Connection.wait_for_disconnect)
    async with serve(script) as server, Http1Transport() as transport, asyncio.timeout(5):
        response = await start(transport, server.url)
        await response.stream.aclose()
        await server.wait_all_closed()
        assert await send(transport, server.url) == (200, b"elsewhere")


@asynccontextmanager
async def serve_sockets(handle: Callable[..., Awaitable[None]], host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Run a server that handles (reader, writer) of each connection; its port."""
    tasks: set[asyncio.Task[Any] | None] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            with suppress(ConnectionError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(asyncio.current_task())

    server = await asyncio.start_server(run, host, 0, limit=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await wait_until(lambda: not tasks)  # the handlers end when the client has closed


@on_each_loop
async def test_413_of_a_server_that_closes_at_once_is_no_hang():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_response(b"too large", "Connection: close", status="413 Content Too Large"))
        writer.close()  # the unread bytes of the request make this a reset

    async with serve_sockets(refuse) as port, Http1Transport() as transport, asyncio.timeout(5):
        with suppress(httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            assert await send(transport, f"http://127.0.0.1:{port}/", "POST", b"x" * 20_000_000) == (413, b"too large")


@on_each_loop
async def test_413_of_a_server_that_stops_reading_is_received():
    received = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http_response(b"too large", status="413 Content Too Large"))
        await received.wait()

    async with serve_sockets(refuse) as port, Http1Transport() as transport, asyncio.timeout(5):
        found = await send(transport, f"http://127.0.0.1:{port}/", "POST", b"x" * 20_000_000)
        received.set()

    assert found == (413, b"too large")


@on_each_loop
async def test_large_upload_is_sent_completely():
    body = bytes(range(256)) * 12_000
    async with serve(always(HERE)) as server, Http1Transport() as transport:
        assert await send(transport, server.url, "PUT", body) == (200, b"here")
        assert await send(transport, server.url, "PUT", body) == (200, b"here")

    assert [request.body == body for request in server.requests] == [True, True]
    assert server.connections == 1


BLOCK = bytes(range(256)) * 256


@pytest.mark.parametrize("framing", ["length", "chunked"])
@on_each_loop
async def test_slow_reader_stalls_the_server_and_resumes(framing):
    count = 400
    blocks = [BLOCK] * count
    head = http_response(b"", f"Content-Length: {count * len(BLOCK)}")
    if framing == "chunked":
        blocks = [b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK)] * count + [b"0\r\n\r\n"]
        head = http_response(b"", CHUNKED)
    async with serve(always(head, *blocks)) as server, Http1Transport() as transport, asyncio.timeout(10):
        response = await start(transport, server.url)
        stream = aiter(response.stream)
        body = bytearray(await anext(stream))
        sent = -1
        while sent != server.sent:
            sent = server.sent
            await asyncio.sleep(0.05)
        async for piece in stream:
            body += piece

        assert await send(transport, server.url + "again", "HEAD") == (200, b"")
        assert body == BLOCK * count
        assert sent < 20_000_000
    assert {request.connection for request in server.requests} <= {0, 1}


@pytest.mark.parametrize("size", [2**18, 2**19 - 1, 2**19, 2**19 + 1, 3 * 2**18, 2**20, 2**20 + 1])
@on_each_loop
async def test_connection_paused_at_the_end_is_usable_again(size):
    body = b"x" * size
    async with serve([http_response(body)]) as server, Http1Transport() as transport, asyncio.timeout(5):
        unread = await start(transport, server.url)
        await wait_until(lambda: server.sent >= size)
        assert len(await read(unread)) == size
        for _ in range(3):
            assert await send(transport, server.url) == (200, body)

    assert server.connections == 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return self_signed_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def tls_server(bundle: Path, handle: Callable[[ssl.SSLSocket], None]) -> Iterator[str]:
    """A server in a thread, which handles one connection with blocking calls; its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(bundle)
    finished = threading.Event()

    def run() -> None:
        accepted, _ = listening.accept()
        with suppress(OSError), context.wrap_socket(accepted, server_side=True) as connection:
            connection.recv(65_536)
            handle(connection)
            finished.wait(5)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            finished.set()
            thread.join()


@pytest.mark.parametrize("notifies", [True, False], ids=["close_notify", "no close_notify"])
@pytest.mark.parametrize("has_length", [True, False], ids=["length", "no length"])
@on_each_loop
async def test_slow_reader_receives_all_before_the_end_of_tls(bundle, has_length, notifies):
    size = 2_500_000
    length = f"Content-Length: {size}\r\n" if has_length else ""

    def respond(connection: ssl.SSLSocket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{length}\r\n".encode() + b"x" * size)
        if notifies:
            connection.settimeout(0)
            with suppress(OSError):
                connection.unwrap()
        socket.socket.shutdown(connection, socket.SHUT_WR)

    with tls_server(bundle, respond) as url:
        async with Http1Transport(TlsOptions(verify=str(bundle))) as transport, asyncio.timeout(5):
            received = 0
            async for piece in (await start(transport, url)).stream:
                received += len(piece)
                await asyncio.sleep(0.003)

    assert received == size


@on_each_loop
async def test_tls_connection_with_an_unsent_request_is_dropped(bundle):
    def refuse(connection: ssl.SSLSocket) -> None:
        connection.sendall(http_response(b"too large", status="413 Content Too Large"))

    with tls_server(bundle, refuse) as url:
        before = open_sockets()
        async with Http1Transport(TlsOptions(verify=str(bundle))) as transport, asyncio.timeout(5):
            assert await send(transport, url, "POST", b"x" * 20_000_000) == (413, b"too large")
            await wait_until(lambda: open_sockets() <= before + 1)  # that of the server


@on_each_loop
async def test_idle_connection_closes_before_its_announced_end():
    script = [http_response(b"here", "Keep-Alive: timeout=1, max=9")]
    async with serve(script) as server, Http1Transport() as transport, asyncio.timeout(5):
        await send(transport, server.url)
        await send(transport, server.url)
        began = time.monotonic()
        await server.wait_all_closed()
        lasted = time.monotonic() - began

    assert server.connections == 1
    assert 0.5 < lasted < 2


@on_each_loop
async def test_ipv6_literal_is_connected_to():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HERE)
        await reader.read()

    try:
        async with serve_sockets(handle, "::1") as port, Http1Transport() as transport:
            assert await send(transport, f"http://[::1]:{port}/") == (200, b"here")
            await transport.aclose()
    except OSError:
        pytest.skip("no IPv6 on the loopback interface")

    assert b"\r\nHost: [::1]:%d\r\n" % port in heads[0]


def resolve_to(monkeypatch: pytest.MonkeyPatch, found: list[Address] | Exception) -> list[tuple[Any, ...]]:
    """Let the system resolve every name to the addresses; the list of its calls."""
    calls: list[tuple[Any, ...]] = []

    def getaddrinfo(*arguments: Any, **options: Any) -> list[Any]:
        calls.append(arguments)
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return calls


@contextlib.contextmanager
def hanging_address() -> Iterator[Address]:
    """An address where connecting neither succeeds nor fails: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as clients:
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        yield full.getsockname()


@contextlib.contextmanager
def refusing_address() -> Iterator[Address]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@pytest.mark.parametrize("first", [refusing_address, hanging_address], ids=["refuses", "hangs"])
@on_each_loop
async def test_next_address_is_tried_if_the_first_fails(monkeypatch, first):
    async with serve(always(HERE)) as server:
        port = int(server.url.rpartition(":")[2].strip("/"))
        with first() as unusable:
            resolve_to(monkeypatch, [unusable, ("127.0.0.1", port)])
            began = time.monotonic()
            async with Http1Transport() as transport:
                found = await send(transport, f"http://api.example.com:{port}/")

    assert found == (200, b"here")
    assert time.monotonic() - began < 2
    assert dict(server.requests[0].headers)["Host"] == f"api.example.com:{port}"


@on_each_loop
async def test_refusal_of_all_addresses_is_a_connect_error(monkeypatch):
    with refusing_address() as first, refusing_address() as second:
        resolve_to(monkeypatch, [first, second])
        async with Http1Transport() as transport:
            with pytest.raises(httpx.ConnectError, match="refused"):
                await send(transport, "http://api.example.com/")


@on_each_loop
async def test_cancelled_connect_to_hanging_addresses_leaks_nothing(monkeypatch):
    with hanging_address() as first, hanging_address() as second:
        resolve_to(monkeypatch, [first, second])
        before = open_sockets()
        async with Http1Transport() as transport:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await send(transport, "http://api.example.com/")
            await wait_until(lambda: open_sockets() == before)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ],
)
@on_each_loop
async def test_resolver_error_is_named(monkeypatch, error):
    resolve_to(monkeypatch, error)
    async with Http1Transport() as transport:
        with pytest.raises(httpx.ConnectError, match=error.strerror):
            await send(transport, "http://api.example.com/")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
@on_each_loop
async def test_host_name_that_cannot_be_encoded_is_an_error(host):
    async with Http1Transport() as transport:
        with pytest.raises((httpx.TransportError, httpx.InvalidURL)):
            await send(transport, f"http://{host}/")


@on_each_loop
async def test_name_of_digits_is_not_resolved_on_the_loop(monkeypatch):
    threads: list[threading.Thread] = []

    def getaddrinfo(*arguments: Any, **options: Any) -> list[Any]:
        threads.append(threading.current_thread())
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with Http1Transport() as transport:
        with pytest.raises((httpx.ConnectError, httpx.LocalProtocolError)):
            await send(transport, "http://1.2.3.4.5/")

    assert threading.main_thread() not in threads


@on_each_loop
async def test_name_without_addresses_is_a_connect_error(monkeypatch):
    resolve_to(monkeypatch, [])
    async with Http1Transport() as transport:
        with pytest.raises(httpx.ConnectError):
            await send(transport, "http://api.example.com/")


@on_each_loop
async def test_aclose_closes_connections_in_all_states():
    async def script(request: LoopbackRequest, connection: Connection) -> None:
        match request.target:
            case "/idle":
                await connection.send(HERE)
            case "/head":
                await connection.wait_for_disconnect()
            case "/body":
                await connection.send(HERE[:-1])
                await connection.wait_for_disconnect()
            case "/paused":
                await connection.send(http_response(b"x" * 10_000_000))

    async with serve(script) as server, asyncio.timeout(5):
        before = open_sockets()
        transport = Http1Transport()
        body, paused = [await start(transport, server.url + path) for path in ("body", "paused")]
        body_read = asyncio.ensure_future(read(body))
        head = asyncio.ensure_future(start(transport, server.url + "head"))
        idle = [asyncio.ensure_future(send(transport, server.url + "idle")) for _ in range(3)]
        await asyncio.gather(*idle)
        await server.wait_until(lambda server: "/head" in server.targets)

        await transport.aclose()

        await server.wait_all_closed()
        for pending in (head, body_read, asyncio.ensure_future(read(paused))):
            with pytest.raises(httpx.TransportError):
                await pending
        await wait_until(lambda: open_sockets() == before)


@on_each_loop
async def test_aclose_ends_a_connect_in_progress():
    with hanging_address() as (_, port), socket.create_server(("127.0.0.1", 0)) as silent:
        before = open_sockets()
        transport = Http1Transport()
        urls = [f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{silent.getsockname()[1]}/"]
        connecting = [asyncio.ensure_future(start(transport, url)) for url in urls]
        await asyncio.sleep(0.3)  # authorities are loaded, and the TLS handshake has begun

        await transport.aclose()
        for task in connecting:
            task.cancel()
        await asyncio.wait(connecting)

        await wait_until(lambda: open_sockets() == before)


@on_each_loop
async def test_many_connections_are_closed_by_aclose():
    async with serve(always(0.02, HERE)) as server, Http1Transport() as transport:
        await asyncio.gather(*[send(transport, server.url) for _ in range(100)])
        await transport.aclose()
        await server.wait_all_closed()


@on_each_loop
async def test_transport_without_requests_closes():
    await Http1Transport().aclose()


BROKEN = {
    "no status": (b"HTTP/1.1 hunter22\r\n\r\n", "status"),
    "different lengths": (http_response(b"here", "Content-Length: 4", "Content-Length: 5"), "Content-Length"),
    "NUL": (http_response(b"", "X: hunter22\0"), "NUL"),
    "too large": (http_response(b"", *[f"X: {'hunter22' * 1000}"] * 40), "256 KiB"),
    "too many lines": (http_response(b"", *["X: hunter22"] * 600), "512"),
    "chunk size": (http_response(b"hunter22\r\n", CHUNKED), "chunk"),
    "chunk size, later": (http_response(b"1\r\n[\r\nhunter22\r\n", CHUNKED), "chunk"),
}


class PatientItems(Items):
    max_tries = 5


@pytest.mark.parametrize("case", BROKEN)
async def test_invalid_response_is_tried_once_more_and_no_more(case):
    response, rule = BROKEN[case]
    async with serve(always(response)) as server:
        with pytest.raises(RemoteError, match=rule) as caught:
            await PatientItems(server.url).read()

    assert len(server.requests) == 2
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
async def test_valid_response_after_an_invalid_one_is_read(case):
    response, _ = BROKEN[case]
    async with serve([response, http_response(b'[{"id":1}]')]) as server:
        records = await PatientItems(server.url).read()

    assert records == [{"id": 1}]
    assert len(server.requests) == 2
