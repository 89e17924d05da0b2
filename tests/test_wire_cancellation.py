"""Requests of the HTTP/1.1 transport that are cancelled at any moment: no socket leaks, and the transport works on."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fed_connection import open_connection
from loopback import Connection, LoopbackRequest, http_response, self_signed_certificate, serve
from loops import on_each_loop, open_sockets, wait_until
from simulation import sample

from asyncstreams.messages import Request
from asyncstreams.wire.tls import TlsOptions
from asyncstreams.wire.transport import Http1Transport

REQUESTS = sample(full=4000, short=200)
BODY = b"x" * 300_000
CHUNKS = b"".join(b"3e8\r\n%s\r\n" % (b"x" * 1000) for _ in range(30)) + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return self_signed_certificate(tmp_path_factory.mktemp("tls"))


async def respond(request: LoopbackRequest, connection: Connection) -> None:
    with suppress(RuntimeError):  # of uvloop, for writing to a client that has gone
        await respond_by_path(request, connection)


async def respond_by_path(request: LoopbackRequest, connection: Connection) -> None:
    """Respond in one of several ways, with pauses at which the client may be cancelled."""
    match request.target:
        case "/small":
            await connection.send(http_response(request.target.encode()))
        case "/pauses":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Le")
            await asyncio.sleep(0)
            await connection.send(b"ngth: 4\r\n\r\nhe")
            await asyncio.sleep(0.001)
            await connection.send(b"re")
        case "/chunks":
            await connection.send(http_response(CHUNKS, "Transfer-Encoding: chunked"))
        case "/large":
            await connection.send(http_response(BODY * 3))
        case "/silent":
            await connection.wait_for_disconnect()
        case _:
            await connection.send(http_response(b"%d" % len(request.body)))


TARGETS = ["small", "pauses", "chunks", "large", "silent", "upload"]


async def send(transport: Http1Transport, url: str, body: bytes = b"") -> bytes:
    response = await transport.handle_async_request(Request("POST", url, headers=[], content=body))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([piece async for piece in response.stream])
    finally:
        await response.stream.aclose()


async def send_and_cancel(transport: Http1Transport, url: str, chance: random.Random) -> None:
    """Send a request, and cancel it after some turns of the loop or after a few milliseconds."""
    target = chance.choice(TARGETS)
    body = BODY if target == "upload" else b""
    task = asyncio.ensure_future(send(transport, url + target, body))
    if chance.random() < 0.5:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(chance.random() * 0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.simulation
@pytest.mark.parametrize("scheme", ["http", "https"])
@on_each_loop
async def test_storm_of_cancelled_requests_leaks_no_socket(scheme, bundle):
    chance = random.Random(f"{scheme}")
    context = None
    if scheme == "https":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(bundle)
    async with serve(respond, context) as server:
        before = open_sockets()
        transport = Http1Transport(TlsOptions(verify=str(bundle)))
        for _ in range(REQUESTS // 10):
            await asyncio.gather(*[send_and_cancel(transport, server.url, chance) for _ in range(10)])
        found = await asyncio.gather(*[send(transport, f"{server.url}{path}") for path in TARGETS[:4] * 5])
        await transport.aclose()
        await server.wait_all_closed()
        await wait_until(lambda: open_sockets() <= before)

    assert found == [b"/small", b"here", b"x" * 30_000, BODY * 3] * 5


@pytest.mark.parametrize("turns", range(16))
@on_each_loop
async def test_request_cancelled_after_some_turns_leaks_nothing(turns):
    async with serve(respond) as server, Http1Transport() as transport:
        before = open_sockets()
        task = asyncio.ensure_future(send(transport, f"{server.url}silent"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await wait_until(lambda: open_sockets() == before)
        assert await send(transport, f"{server.url}small") == b"/small"


@on_each_loop
async def test_cancelled_upload_is_dropped_with_its_connection():
    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        await disconnected.wait()
        writer.transport.abort()

    disconnected = asyncio.Event()
    server = await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=1024)
    async with server, Http1Transport() as transport:
        before = open_sockets()
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await send(transport, url, b"x" * 20_000_000)
        await wait_until(lambda: open_sockets() <= before + 1)
        disconnected.set()
        await wait_until(lambda: open_sockets() == before)


async def test_cancelled_request_leaves_its_connection_to_the_next():
    connection, transport, pool = open_connection()
    first = asyncio.ensure_future(connection.exchange(b"first", "GET"))
    await asyncio.sleep(0)
    transport.receive(http_response(b"here"))  # the first request wakes up in the next turn
    assert pool.take("key") is connection
    second = asyncio.ensure_future(connection.exchange(b"second", "GET"))

    first.cancel()
    await asyncio.wait([first])
    transport.receive(http_response(b"there"))

    assert [piece async for piece in await second] == [b"there"]
    assert not transport.is_closing()
    await pool.aclose()


async def test_closing_a_response_ends_its_reader():
    connection, transport, pool = open_connection()
    request = asyncio.ensure_future(connection.exchange(b"first", "GET"))
    await asyncio.sleep(0)
    transport.receive(http_response(b"here", "Content-Length: 5"))
    response = await request
    assert await anext(response) == b"here"
    reader = asyncio.ensure_future(anext(response))
    await asyncio.sleep(0)

    await response.aclose()
    await asyncio.wait([reader], timeout=0.1)

    assert reader.done()
    assert isinstance(reader.exception(), httpx.ReadError)
    await pool.aclose()
