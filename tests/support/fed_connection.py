"""A connection of the transport without a socket, which receives exactly the given pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from asyncstreams.wire.http1_connection import Http1Connection
from asyncstreams.wire.pool import ConnectionPool


class FedTransport(asyncio.Transport):
    """Records whether its protocol paused or closed it; writes go nowhere."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self.is_paused = False
        self._protocol = protocol
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_reading(self) -> bool:
        return not self.is_paused

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def receive(self, piece: bytes) -> None:
        """Pass the piece to the protocol, as a loop does with a read of this size."""
        while piece and not self._is_closing:
            buffer = self._protocol.get_buffer(-1)
            read, piece = piece[: len(buffer)], piece[len(buffer) :]
            buffer[: len(read)] = read
            self._protocol.buffer_updated(len(read))

    def receive_eof(self) -> None:
        if not self._is_closing and not self._protocol.eof_received():
            self.close()


def open_connection() -> tuple[Http1Connection, FedTransport, ConnectionPool]:
    """A connection of a new pool, where its key is "key"."""
    pool = ConnectionPool(asyncio.get_running_loop())
    connection = pool.new_connection("key")
    transport = FedTransport(connection)
    connection.connection_made(transport)
    return connection, transport, pool


@dataclass(frozen=True)
class Outcome:
    """What a request led to; `headers` are as received, with names in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    error: httpx.TransportError | None
    is_reusable: bool


async def feed(pieces: Iterable[bytes], method: str = "GET", *, closes: bool = False) -> Outcome:
    """Send a request, pass it the pieces as its response, and close the connection if `closes` is set."""
    connection, transport, pool = open_connection()
    reading = asyncio.ensure_future(_read(connection, method))
    await asyncio.sleep(0)
    for piece in pieces:
        while transport.is_paused:  # noqa: ASYNC110  # the reader has no event
            await asyncio.sleep(0)
        transport.receive(piece)
        await asyncio.sleep(0)
    if closes:
        transport.receive_eof()
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert reading.done(), "it waits for more bytes"
        status, headers, body, error = reading.result()
        return Outcome(status, headers, body, error, is_reusable=pool.take("key") is connection)
    finally:
        reading.cancel()
        connection.abort()
        await asyncio.sleep(0)
        await pool.aclose()


async def _read(
    connection: Http1Connection, method: str
) -> tuple[int, list[tuple[bytes, bytes]], bytes, httpx.TransportError | None]:
    status, headers, body = 0, [], b""
    try:
        exchange = await connection.exchange(b"GET / HTTP/1.1\r\n\r\n", method)
        status = exchange.head.status
        headers = [(name.lower(), value) for name, value in exchange.head.headers]
        async for piece in exchange:
            body += piece
    except httpx.TransportError as error:
        return status, headers, body, error
    return status, headers, body, None
