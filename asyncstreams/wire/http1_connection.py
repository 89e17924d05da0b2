"""One HTTP/1.1 connection, and the exchange of one request and one response on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Protocol, cast

import httpx

from .chunked import ChunkedDecoder
from .response_head import MAX_HEAD_BYTES, ResponseHead, check_protocol, find_head_end, parse_head
from .transport_errors import InvalidResponse, describe

# More than asyncio and uvloop decrypt at once: no rest of it waits for a later call, after the end of the connection.
_READ_BYTES = 288 * 1024
_MAX_BUFFERED_BYTES = 512 * 1024
_CR_LF = (10, 13)


class ReadBuffer:
    """Memory that all connections of an event loop read into; each read is processed before the next one.

    `asyncio.Protocol.data_received` allocates 256 KiB for each read instead, which costs more than parsing.
    """

    __slots__ = ("data", "view")

    def __init__(self) -> None:
        self.data = bytearray(_READ_BYTES)
        self.view = memoryview(self.data)


class ConnectionOwner(Protocol):
    """Where a connection goes after an exchange, and who learns that it has ended."""

    def add(self, connection: Http1Connection) -> None:
        """Note that a connection has been opened."""

    def put_back(self, connection: Http1Connection, seconds: float) -> None:
        """Take back a connection that another request may use within so many seconds."""

    def forget(self, connection: Http1Connection) -> None:
        """Note that a connection has ended."""


class Http1Connection(asyncio.BufferedProtocol):
    """A connection, which carries one exchange at a time. Bytes that no request asked for close it.

    `key` says whom it leads to; connections with equal keys are interchangeable.
    """

    def __init__(
        self, key: Hashable, owner: ConnectionOwner, buffer: ReadBuffer, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.key = key
        self._owner = owner
        self._buffer = buffer
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._socket_transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._is_discarded = False
        self.expires_at = 0.0

    @property
    def transport(self) -> asyncio.Transport:
        """The asyncio transport. Raises httpx.ReadError if the connection has ended."""
        if self._transport is None:
            raise httpx.ReadError("the connection has ended")
        return self._transport

    @property
    def is_usable(self) -> bool:
        """Whether a request can be sent: the connection is open and has no exchange."""
        return self._exchange is None and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, message: bytes, method: str) -> Exchange:
        """Send a complete message, and wait for the head of its response.

        The message is written without waiting, so that an early response to a large body is received as well.
        Raises InvalidResponse, httpx.RemoteProtocolError or httpx.ReadError. If it is cancelled, or raises,
        the connection is closed.
        """
        exchange = self._exchange = Exchange(self, method)
        try:
            self.transport.write(message)
            await exchange.wait_for_head()
        except BaseException:
            exchange.close_now()  # if it is complete, the connection may already serve the next request
            raise
        return exchange

    def new_waiter(self) -> asyncio.Future[None]:
        """A future of the connection's event loop."""
        return self._loop.create_future()

    def attach(self, transport: asyncio.Transport) -> None:
        """Use another transport from now on: TLS over the former one."""
        self._transport = transport

    def end_exchange(self, seconds: float) -> None:
        """Give the connection back, to be used within so many seconds; 0 closes it.

        It is also closed if the server responded before it read the complete request.
        """
        self._exchange = None
        if seconds > 0 and self.is_usable and not self._has_unsent_bytes():
            self._owner.put_back(self, seconds)
        else:
            self.abort()

    def keep_for_tunnel(self) -> None:
        """End the exchange that opened a tunnel, and leave the connection to its dialer."""
        self._exchange = None

    def close(self) -> None:
        """Close an idle connection; over TLS the server is notified."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, without waiting for unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    def discard(self) -> None:
        """Close a connection that could not be opened.

        uvloop may still call `connection_made` when the opening was cancelled, and `connection_lost` never.
        """
        self._is_discarded = True
        self.abort()
        self._owner.forget(self)

    def pause(self) -> None:
        """Read nothing from the socket until `resume`; the server's send window fills up.

        A paused TLS transport would lose what it has decrypted if the connection ends meanwhile.
        """
        if self._socket_transport is not None:
            self._socket_transport.pause_reading()

    def resume(self) -> None:
        """Read again after `pause`."""
        if self._socket_transport is not None and not self._socket_transport.is_closing():
            self._socket_transport.resume_reading()

    def _has_unsent_bytes(self) -> bool:
        if self.transport.get_write_buffer_size():
            return True
        # The size of a TLS transport does not contain what waits in the transport below it.
        below = self._socket_transport
        return below is not None and below is not self._transport and below.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses.
        self._transport = self._socket_transport = cast(asyncio.Transport, transport)
        if self._is_discarded:
            self.abort()
        else:
            self._owner.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        if self._exchange is None:
            self.abort()
        else:
            self._exchange.receive(self._buffer, nbytes)

    def eof_received(self) -> bool:
        # Handled at once: a transport with unsent bytes would report the end only after it has sent them.
        if self._exchange is not None:
            self._exchange.receive_end(None)
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._socket_transport = None
        if self._exchange is not None:
            self._exchange.receive_end(exc)
        self._owner.forget(self)


class Exchange(httpx.AsyncByteStream):
    """A request and its response; as an httpx stream, the raw body of the response, piece by piece.

    The connection is given back when the last byte has arrived, even if it has not been read from here.
    Reading from the socket pauses while more than 512 KiB wait. It is its own iterator, because a generator
    costs more.
    """

    # The initial state; an assignment to the class costs less than one to each instance.
    _head: ResponseHead | None = None
    _head_bytes: bytes = b""
    _remaining = 0
    _decoder: ChunkedDecoder | None = None
    _buffered = 0
    _is_paused = False
    _is_complete = False
    _failure: Exception | None = None
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, connection: Http1Connection, method: str) -> None:
        self._connection = connection
        self._method = method
        self._pieces: deque[bytes] = deque()

    @property
    def head(self) -> ResponseHead:
        """The head of the response; available after `wait_for_head`."""
        assert self._head is not None
        return self._head

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will arrive: the body is complete, or the exchange has failed."""
        return self._is_complete or self._failure is not None

    async def wait_for_head(self) -> None:
        """Wait for the final head; informational ones are skipped. Raises what `Http1Connection.exchange` raises."""
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            self._waiter = self._connection.new_waiter()
            await self._waiter

    def take_body(self) -> bytes | None:
        """What has not been read of the body, if all of it has arrived; None otherwise."""
        if not self._is_complete or self._failure is not None:
            return None
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._is_complete:
                raise StopAsyncIteration
            await self._wait()
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._is_paused and self._buffered <= _MAX_BUFFERED_BYTES // 2:
            self._is_paused = False
            self._connection.resume()
        return piece

    def close_now(self) -> None:
        """Close the connection, unless the body is complete: then it has been given back already."""
        if not self.has_ended:
            self._failure = httpx.ReadError("the response was closed before its end")
            self._connection.end_exchange(0)
            self._wake()
        self._pieces.clear()

    async def aclose(self) -> None:
        """Does what `close_now` does."""
        self.close_now()

    def receive(self, buffer: ReadBuffer, size: int) -> None:
        """Process the first `size` bytes of the buffer."""
        try:
            if self._head is not None:
                self._receive_body(buffer.view[:size])
            elif self._head_bytes:
                searched = len(self._head_bytes) - 3
                self._head_bytes = self._head_bytes + buffer.view[:size]
                self._receive_head(self._head_bytes, searched, len(self._head_bytes))
            else:
                self._receive_head(buffer.data, 0, size)
        except InvalidResponse as error:
            self._fail(error)
        if self._head is not None:
            self._wake()

    def receive_end(self, error: Exception | None) -> None:
        """Process the end of the connection."""
        if self.has_ended:
            return
        if self._head is not None and error is None and self._remaining < 0 and self._decoder is None:
            self._complete(has_excess=False)
        elif error is not None:
            # Anything but an OSError is a mistake in this package.
            self._fail(httpx.ReadError(describe(error)) if isinstance(error, OSError) else error)
        elif self._head is not None:
            self._fail(httpx.RemoteProtocolError("the connection ended before the body did"))
        elif self._head_bytes:
            self._fail(httpx.RemoteProtocolError("the connection ended within the head of the response"))
        else:
            self._fail(httpx.RemoteProtocolError("the server closed the connection without a response"))
        self._wake()

    def _receive_head(self, data: bytes | bytearray, searched: int, size: int) -> None:
        """Process bytes from the beginning of a head; before `searched` no head ends. Raises InvalidResponse."""
        start = 0
        head = None
        while head is None:
            # An empty line before a response is left over from the previous one (RFC 9112, 2.2).
            while start < size and data[start] in _CR_LF:
                start += 1
            end = find_head_end(data, max(start, searched), size)
            if (size if end < 0 else end) - start > MAX_HEAD_BYTES:
                raise InvalidResponse(f"the head is larger than {MAX_HEAD_BYTES // 1024} KiB")
            if end < 0:
                self._head_bytes = bytes(data[start:size])
                check_protocol(self._head_bytes)
                return
            head, length = parse_head(bytes(memoryview(data)[start:end]), self._method)
            start += length
            if head.status < 200 and head.status != 101:
                head = None
        self._head = head
        if head.length == size - start:  # a whole response in one read, the most frequent case
            if head.length:
                self._pieces.append(bytes(memoryview(data)[start:size]))
            self._complete(has_excess=False)
            return
        if head.is_chunked:
            self._decoder = ChunkedDecoder(self._add_piece)
        self._remaining = -1 if head.length is None else head.length
        if start < size or not self._remaining:
            self._receive_body(memoryview(data)[start:size])

    def _receive_body(self, view: memoryview) -> None:
        size = len(view)
        if self._decoder is not None:
            self._decoder.feed(view)
            if self._decoder.is_complete:
                self._complete(has_excess=self._decoder.has_excess)
        elif self._remaining < 0:
            self._add_piece(bytes(view))
        else:
            piece = view[: self._remaining]
            if piece:
                self._add_piece(bytes(piece))
            self._remaining -= len(piece)
            if not self._remaining:
                self._complete(has_excess=size > len(piece))
        if self._buffered > _MAX_BUFFERED_BYTES and not self._is_complete and not self._is_paused:
            self._is_paused = True
            self._connection.pause()

    def _add_piece(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._buffered += len(piece)

    def _complete(self, *, has_excess: bool) -> None:
        head = self.head
        self._is_complete = True
        self._decoder = None
        if self._is_paused:
            self._is_paused = False
            self._connection.resume()
        if self._method == "CONNECT" and head.status < 300 and not has_excess:
            self._connection.keep_for_tunnel()
        else:
            self._connection.end_exchange(0.0 if has_excess else head.keep_alive)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._decoder = None
        self._connection.end_exchange(0.0)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._connection.new_waiter()
        await self._waiter
