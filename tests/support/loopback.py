"""What do our sockets do when a server answers with exactly these bytes, and ends exactly so?"""

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
class Received:
    """One request as it came; `connection` counts the server's connections from 0."""

    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


class Wire:
    """The connection that a request came on, in the hands of the script."""

    def __init__(self, server: Loopback, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer

    async def send(self, data: bytes) -> None:
        """Counted as sent when the client's side has taken it, but for the buffers between."""
        self._writer.write(data)
        await self._writer.drain()
        self._server.sent += len(data)

    def close(self) -> None:
        """What was sent arrives, and then the end."""
        self._writer.close()

    def reset(self) -> None:
        """The connection breaks, with a RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Say nothing more, until the client has left."""
        with suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    @property
    def is_closed(self) -> bool:
        return self._writer.is_closing()


Script = Callable[[Received, Wire], Awaitable[None]] | Sequence[bytes]


class Loopback:
    """A server that runs a script for each request, and records what it saw."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.requests: list[Received] = []
        self.connections = 0
        self.sent = 0

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    async def until(self, reached: Callable[[Loopback], bool]) -> None:
        """Wait for what requests and connections bring about."""
        while not reached(self):
            await self._changed.wait()

    async def all_closed(self) -> None:
        """Wait until no client is connected any more."""
        await self.until(lambda server: not server._tasks)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        wire = Wire(self, reader, writer)
        try:
            while not wire.is_closed and (request := await _received(reader, number)):
                self.requests.append(request)
                self._touch()
                await self._answer(request, wire)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)
            self._touch()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.all_closed()

    async def _answer(self, request: Received, wire: Wire) -> None:
        if callable(self._script):
            await self._script(request, wire)
        else:
            await wire.send(self._script[min(len(self.requests), len(self._script)) - 1])

    def _touch(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@asynccontextmanager
async def serve(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Loopback]:
    """A server on a free port of 127.0.0.1, closed with all its connections on leaving.

    `script` is called as `await script(request, wire)` for each request, or is the answers as raw
    bytes, one for each request, of which the last is given again and again.
    """
    loopback = Loopback(script)
    server = await asyncio.start_server(loopback.connected, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    loopback.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    try:
        yield loopback
    finally:
        server.close()
        await loopback.stop()
        await server.wait_closed()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """The bytes of a response; Content-Length is the body's unless a header says how it is delimited."""
    told = any(header.lower().startswith(("content-length:", "transfer-encoding:")) for header in headers)
    length = () if told else (f"Content-Length: {len(body)}",)
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, *length, "", ""]).encode() + body


def redirect(target: str) -> bytes:
    return answer(b"", f"Location: {target}", status="302 Found")


Step = bytes | float | Callable[[Wire], Awaitable[None] | None]


def always(*steps: Step) -> Script:
    """A script that plays the steps on each request: bytes, seconds, or what becomes of the wire."""

    async def script(request: Received, wire: Wire) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await wire.send(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif (ended := step(wire)) is not None:
                await ended

    return script


def then_well(*steps: Step, body: bytes = b'[{"id":1}]') -> Script:
    """A script that plays the steps on the first connection, and answers well on others."""

    async def script(request: Received, wire: Wire) -> None:
        await (broken(request, wire) if request.connection == 0 else wire.send(answer(body)))

    broken = always(*steps)
    return script


def dies_at_page_two() -> Script:
    """TwoPages, but the connection ends as the second page is asked for; asked again, it comes."""
    died: list[Received] = []

    async def script(request: Received, wire: Wire) -> None:
        if "2" in request.target and not died:
            died.append(request)
            wire.close()
        else:
            await wire.send(answer(b'[{"id":1}]'))

    return script


def self_signed(directory: Path) -> Path:
    """A new key and its certificate for 127.0.0.1, in one file. Needs openssl."""
    key, both = directory / "key.pem", directory / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", both], check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + key.read_bytes())
    return both


class Items(HttpStream):
    """One page; a failure is tried once more, at once."""

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


class Sliced(Items):
    """One page for each slice, `/items?page=...`."""

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return dict(context.stream_slice)


class Once(TwoPages):
    """The same, and no request may be repeated."""

    idempotent = False


class Following(Items):
    """Follows redirects."""

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return {"follow_redirects": True}


class Verified(Items):
    """Trusts whom `verify` says."""

    def __init__(self, url: str, verify: bool | str) -> None:
        super().__init__(url)
        self._verify = verify

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return {"verify": self._verify}


class Lines(Items):
    """NDJSON, read while it arrives."""

    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for record in ndjson(response):
            yield record


async def cancelled(stream: HttpStream, server: Loopback) -> None:
    reading = asyncio.create_task(stream.read())
    await server.until(lambda server: bool(server.requests))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def timed_out(stream: HttpStream, server: Loopback) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await stream.read()


async def broken_off(stream: HttpStream, server: Loopback) -> None:
    async with stream.records() as records:
        async for _ in records:
            break


async def until_it_fails(stream: HttpStream, error: type[AsyncStreamsError]) -> tuple[list[Page], AsyncStreamsError]:
    """What was handed over, and the error that came then."""
    found: list[Page] = []
    with pytest.raises(error) as caught:  # noqa: PT012  # the pages are wanted too
        async with stream.pages() as pages:
            async for page in pages:
                found.append(page)  # noqa: PERF401
    return found, caught.value


class Pieces(httpx.AsyncByteStream):
    """A raw body in just these pieces; counts what was asked of it."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += len(piece)
            yield piece


class RawServer(httpx.MockTransport):
    """The same without sockets: a transport that answers every request with just these raw bytes."""

    def __init__(self, raw: bytes | Callable[[], Iterable[bytes]], coding: str = "", status: int = 200, **headers: str):
        self.requests: list[httpx.Request] = []
        self.body = Pieces(())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Content-Encoding": coding} if coding else {}

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            self.body = Pieces(raw() if callable(raw) else [raw])
            return httpx.Response(status, headers=named, stream=self.body)

        super().__init__(handle)


async def _received(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        return Received(connection, method, target, headers, await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
