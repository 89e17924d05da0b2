"""Scripted HTTP server on a loopback socket, with exact control of bytes and connection ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncstreams import AsyncStreamsError, Backoff, HttpStream, Page, Record, RequestContext, Response, ndjson


@dataclass(frozen=True)
class LoopbackRequest:
    """One received request; `connection` counts the server's connections from 0."""

    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


class Connection:
    """The connection of a request, controlled by the script."""

    def __init__(self, server: LoopbackServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes, and count them once the socket buffers have accepted them."""
        self._writer.write(data)
        await self._writer.drain()
        self._server.sent += len(data)

    def close(self) -> None:
        """Close the connection after the sent bytes have arrived."""
        self._writer.close()

    def reset(self) -> None:
        """Reset the connection with a TCP RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def wait_for_disconnect(self) -> None:
        """Send nothing more until the client disconnects."""
        with suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    @property
    def is_closed(self) -> bool:
        return self._writer.is_closing()


Script = Callable[[LoopbackRequest, Connection], Awaitable[None]] | Sequence[bytes]


class LoopbackServer:
    """A server that runs a script for each request, and records the requests."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.requests: list[LoopbackRequest] = []
        self.connections = 0
        self.sent = 0

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    async def wait_until(self, reached: Callable[[LoopbackServer], bool]) -> None:
        """Wait until the condition holds; it is checked after each request and disconnect."""
        while not reached(self):
            await self._changed.wait()

    async def wait_all_closed(self) -> None:
        """Wait until no client is connected."""
        await self.wait_until(lambda server: not server._tasks)

    async def handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        connection = Connection(self, reader, writer)
        try:
            while not connection.is_closed and (request := await _read_request(reader, number)):
                self.requests.append(request)
                self._notify()
                await self._respond(request, connection)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)
            self._notify()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.wait_all_closed()

    async def _respond(self, request: LoopbackRequest, connection: Connection) -> None:
        if callable(self._script):
            await self._script(request, connection)
        else:
            await connection.send(self._script[min(len(self.requests), len(self._script)) - 1])

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def serve(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[LoopbackServer]:
    """Run a server on a free port of 127.0.0.1, and close it with all its connections on exit.

    `script` is either called as `await script(request, connection)` for each request, or a list of raw
    responses, one for each request, the last of which is repeated.
    """
    loopback = LoopbackServer(script)
    server = await asyncio.start_server(loopback.handle_connection, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    loopback.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    try:
        yield loopback
    finally:
        server.close()
        await loopback.stop()
        await server.wait_closed()


def http_response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """The bytes of a response; Content-Length is that of the body unless a header frames it."""
    is_framed = any(header.lower().startswith(("content-length:", "transfer-encoding:")) for header in headers)
    length = () if is_framed else (f"Content-Length: {len(body)}",)
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, *length, "", ""]).encode() + body


def redirect(target: str) -> bytes:
    return http_response(b"", f"Location: {target}", status="302 Found")


Step = bytes | float | Callable[[Connection], Awaitable[None] | None]


def always(*steps: Step) -> Script:
    """A script that plays the steps on each request: bytes to send, seconds to sleep, or a call."""

    async def script(request: LoopbackRequest, connection: Connection) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await connection.send(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif (pending := step(connection)) is not None:
                await pending

    return script


def fail_first_connection(*steps: Step, body: bytes = b'[{"id":1}]') -> Script:
    """A script that plays the steps on the first connection, and sends `body` on later ones."""

    async def script(request: LoopbackRequest, connection: Connection) -> None:
        await (failing(request, connection) if request.connection == 0 else connection.send(http_response(body)))

    failing = always(*steps)
    return script


def close_at_page_two() -> Script:
    """A script for TwoPages that closes the connection at the first request of the second page."""
    closed: list[LoopbackRequest] = []

    async def script(request: LoopbackRequest, connection: Connection) -> None:
        if "2" in request.target and not closed:
            closed.append(request)
            connection.close()
        else:
            await connection.send(http_response(b'[{"id":1}]'))

    return script


def self_signed_certificate(directory: Path) -> Path:
    """A new key with its certificate for 127.0.0.1, in one file. Needs openssl."""
    key, bundle = directory / "key.pem", directory / "bundle.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", bundle], check=True, capture_output=True)
    bundle.write_bytes(bundle.read_bytes() + key.read_bytes())
    return bundle


class Items(HttpStream):
    """One page; a failure is retried once, without delay."""

    backoff = Backoff(base=0, cap=0)
    max_tries = 2

    def __init__(self, url: str, **options: Any) -> None:
        self.url_base = url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "items"


class TwoPages(Items):
    """`/items?page=1` and `/items?page=2`."""

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"page": context.next_page_token or 1}

    def next_page_token(self, response: Response, context: RequestContext) -> int | None:
        return 2 if context.next_page_token is None else None


class SlicedItems(Items):
    """One page for each slice, `/items?page=...`."""

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return dict(context.stream_slice)


class NonIdempotentItems(TwoPages):
    """TwoPages whose requests may not be repeated."""

    idempotent = False


class RedirectedItems(Items):
    """Items with redirects followed."""

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return {"follow_redirects": True}


class VerifiedItems(Items):
    """Items with a given `verify` option."""

    def __init__(self, url: str, verify: bool | str) -> None:
        super().__init__(url)
        self._verify = verify

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return {"verify": self._verify}


class Lines(Items):
    """NDJSON, parsed while it arrives."""

    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for record in ndjson(response):
            yield record


async def cancel_read(stream: HttpStream, server: LoopbackServer) -> None:
    task = asyncio.create_task(stream.read())
    await server.wait_until(lambda server: bool(server.requests))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out_read(stream: HttpStream, server: LoopbackServer) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.read()


async def break_after_first_record(stream: HttpStream, server: LoopbackServer) -> None:
    async with stream.records() as records:
        async for _ in records:
            break


async def read_until_error(stream: HttpStream, error: type[AsyncStreamsError]) -> tuple[list[Page], AsyncStreamsError]:
    """The pages read before the error, and the error."""
    pages_read: list[Page] = []
    with pytest.raises(error) as caught:  # noqa: PT012  # the pages are returned too
        async with stream.pages() as pages:
            async for page in pages:
                pages_read.append(page)  # noqa: PERF401
    return pages_read, caught.value


class ChunkedBody(httpx.AsyncByteStream):
    """A raw body in the given chunks; counts the bytes that were read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.bytes_read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            self.bytes_read += len(chunk)
            yield chunk


class RawTransport(httpx.MockTransport):
    """A transport without sockets that answers every request with the given raw body."""

    def __init__(
        self, body: bytes | Callable[[], Iterable[bytes]], coding: str = "", status: int = 200, **headers: str
    ):
        self.requests: list[httpx.Request] = []
        self.body = ChunkedBody(())
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields |= {"Content-Encoding": coding} if coding else {}

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            self.body = ChunkedBody(body() if callable(body) else [body])
            return httpx.Response(status, headers=fields, stream=self.body)

        super().__init__(handle)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> LoopbackRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        return LoopbackRequest(connection, method, target, headers, await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
