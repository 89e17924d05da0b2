"""CPU per 20 KB page of HTTP transports alone: asyncstreams, aiohttp, httpx, and a bare protocol over httptools.

Each worker fetches page after page, and reads the body. Connections are opened before the measurement begins.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import aiohttp
import httptools
import httpx
from page_rounds import Aim, Contender, Load, compare, run_workers

from asyncstreams.messages import Request
from asyncstreams.wire.http1_connection import Exchange
from asyncstreams.wire.tls import TlsOptions
from asyncstreams.wire.transport import Http1Transport

Fetch: TypeAlias = Callable[[], Awaitable[bytes]]
BARE, OURS = "bare httptools protocol", "asyncstreams, Http1Transport"
AIMS = (Aim(OURS, {1: 1.5, 10: 1.5, 100: 1.5}),)
REQUEST_HEADERS = [("Accept", "application/json"), ("User-Agent", "benchmark/1.0")]


class BareConnection(asyncio.Protocol):
    """The floor: no timeouts, no checks, a list of headers, and a message that was built before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.loop = asyncio.get_running_loop()

    def fetch(self, message: bytes) -> asyncio.Future[bytes]:
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.body: asyncio.Future[bytes] = self.loop.create_future()
        self.transport.write(message)  # type: ignore[attr-defined]
        return self.body

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.body.set_result(b"".join(self.pieces))


@asynccontextmanager
async def bare_protocol(load: Load) -> AsyncIterator[Fetch]:
    url = httpx.URL(load.url)
    lines = [f"GET {url.path} HTTP/1.1", f"Host: {url.host}:{url.port}", *map(": ".join, REQUEST_HEADERS)]
    message = "\r\n".join([*lines, "", ""]).encode()
    loop, context = asyncio.get_running_loop(), _context(load)
    idle: list[BareConnection] = []
    for _ in range(load.workers):
        idle.append((await loop.create_connection(BareConnection, url.host, url.port or 0, ssl=context))[1])  # noqa: PERF401

    async def fetch() -> bytes:
        connection = idle.pop()
        body = await connection.fetch(message)
        idle.append(connection)
        return body

    yield fetch
    for connection in idle:
        connection.transport.close()


@asynccontextmanager
async def our_transport(load: Load) -> AsyncIterator[Fetch]:
    transport = Http1Transport(TlsOptions(str(load.certificate)) if load.certificate else TlsOptions())

    async def fetch() -> bytes:
        request = Request("GET", load.url, headers=REQUEST_HEADERS)
        response = await transport.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, Exchange)
        return b"".join([piece async for piece in stream])

    yield fetch
    await transport.aclose()


@asynccontextmanager
async def aiohttp_session(load: Load) -> AsyncIterator[Fetch]:
    connector = aiohttp.TCPConnector(limit=load.workers, ssl=_context(load) or True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def fetch() -> bytes:
            async with session.get(load.url) as response:
                return await response.read()

        yield fetch


@asynccontextmanager
async def httpx_transport(load: Load) -> AsyncIterator[Fetch]:
    limits = httpx.Limits(max_connections=load.workers, max_keepalive_connections=load.workers)
    async with httpx.AsyncHTTPTransport(verify=_context(load) or False, limits=limits) as transport:

        async def fetch() -> bytes:
            request = httpx.Request("GET", load.url, headers=REQUEST_HEADERS)
            response = await transport.handle_async_request(request)
            body = await response.aread()
            await response.aclose()
            return body

        yield fetch


def _context(load: Load) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=load.certificate) if load.certificate else None


def contender(name: str, client: Callable[[Load], AbstractAsyncContextManager[Fetch]]) -> Contender:
    async def measure(load: Load) -> float:
        async with client(load) as fetch:

            async def job(pages: int) -> None:
                for _ in range(pages):
                    if len(await fetch()) < 20_000:
                        raise SystemExit(f"{name}: a body is not complete")

            await run_workers(load, lambda: job(2))
            began = time.process_time()
            await run_workers(load, lambda: job(load.pages_per_worker))
            return time.process_time() - began

    return measure


CONTENDERS = {
    name: contender(name, client)
    for name, client in {
        BARE: bare_protocol,
        OURS: our_transport,
        "aiohttp, ClientSession": aiohttp_session,
        "httpx, AsyncHTTPTransport": httpx_transport,
    }.items()
}

if __name__ == "__main__":
    compare(
        __doc__.splitlines()[0] if __doc__ else None,
        "connections",
        CONTENDERS,
        AIMS,
        ("httptools", "uvloop", "aiohttp", "httpx"),
        {"only": [BARE, OURS, "aiohttp"]},
    )
