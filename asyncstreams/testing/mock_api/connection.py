"""Server side of one HTTP/1.1 connection: it parses requests and sends their replies, one at a time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import repeat
from typing import cast

from .service import UNKNOWN_RESOURCE, MockService, PreparedReply, Reply
from .wire_messages import HEAD_END, BadRequest, ConnectionEnd, Step

_MAX_HEAD_BYTES = 65_536
_MAX_BODY_BYTES = 16 * 2**20
_LINGER_ZERO = struct.pack("ii", 1, 0)


class ConnectionSet:
    """The open connections of a server. After `abort_all` it also aborts every connection that is added."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._is_closing = False
        self._one_closed = asyncio.Event()

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._is_closing:
            connection.abort()

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._one_closed.set()

    def abort_all(self) -> None:
        self._is_closing = True
        for connection in tuple(self._open):
            connection.abort()

    async def wait_until_empty(self) -> None:
        while self._open:
            self._one_closed.clear()
            await self._one_closed.wait()


class Connection(asyncio.Protocol):
    """One client connection.

    It starts no tasks: delays are timers of the loop, which are cancelled when the connection closes.
    """

    def __init__(self, service: MockService, connections: ConnectionSet) -> None:
        self._service, self._recorder = service, service.recorder
        self._connections = connections
        self._buffer = b""
        # The reply in progress. Requests that arrive meanwhile stay in the buffer.
        self._reply: Reply | None = None
        self._steps: Iterator[Step] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._can_write = True
        self._reading_paused = False
        self._is_counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._recorder.open_connections -= self._is_counted
        if self._timer is not None:
            self._timer.cancel()
        if self._reply is not None:
            self._recorder.in_flight -= 1
            self._reply = None
        self._steps, self._buffer = iter(()), b""
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._reply is None and self._can_write and not self._buffer:
            prepared = self._service.find_ready(data)
            if prepared is not None:
                self._send_ready(prepared)
                return
        self._buffer += data
        if self._reply is None and self._can_write:
            self._process_buffer()
        elif len(self._buffer) > _MAX_HEAD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        if self._reply is not None and self._timer is None:
            self._send_steps()
        if self._reply is None:
            self._process_buffer()

    def abort(self) -> None:
        self._transport.abort()

    def _send_ready(self, prepared: PreparedReply) -> None:
        recorder, counts, payload = self._recorder, prepared.counts, prepared.payload
        assert counts is not None
        assert payload is not None
        if not self._is_counted:
            self._count_connection()
        if recorder.in_flight >= recorder.peak_in_flight:
            recorder.peak_in_flight = recorder.in_flight + 1
        counts.requests += 1
        counts.records += prepared.records
        counts.bytes += len(payload)
        self._transport.write(payload)
        if not prepared.keep_alive:
            self._transport.close()

    def _process_buffer(self) -> None:
        """Reply to the requests in the buffer until a reply has to wait."""
        while self._buffer and self._reply is None and self._can_write and not self._transport.is_closing():
            try:
                prepared = self._pop_request()
            except BadRequest as refused:
                self._reject(refused)
                return
            if prepared is None:
                break
            self._start_reply(prepared)
        # The buffer holds part of a request at most, so reading has to continue, however long that part is.
        if self._reading_paused and self._reply is None and self._can_write and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def _reject(self, refused: BadRequest) -> None:
        payload = refused.response.encode(keep_alive=False)
        counts = self._recorder.counts_for(UNKNOWN_RESOURCE, refused.status)
        counts.requests += 1
        counts.bytes += len(payload)
        if not self._is_counted:
            self._count_connection()
        self._transport.write(payload)
        self._transport.close()

    def _pop_request(self) -> PreparedReply | None:
        """Remove one complete request from the buffer; None while it is incomplete. Raises BadRequest."""
        # RFC 9112, 2.2: empty lines before a request are ignored.
        self._buffer = self._buffer.lstrip(b"\r\n")
        end = self._buffer.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise BadRequest(431, f"the request head is longer than {_MAX_HEAD_BYTES:,} bytes")
            return None
        head = self._buffer[:end]
        try:
            prepared = self._service.prepare(head)
            request_end, body = self._find_body(prepared, end)
            if request_end is None:
                return None
            self._buffer = self._buffer[request_end:]
            return self._service.prepare(head, body) if body else prepared
        except ValueError as error:
            raise BadRequest(400, f"not an HTTP request: {error}") from error

    def _find_body(self, prepared: PreparedReply, begin: int) -> tuple[int | None, bytes]:
        """The end of the request in the buffer, None while it is incomplete, and its body."""
        headers = prepared.request.headers
        if "chunked" in headers.get("transfer-encoding", "").lower():
            end, body = _decode_chunks(self._buffer, begin)
        else:
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
                raise ValueError(f"invalid Content-Length: {length[:40]}")
            end = begin + int(length)
            body = self._buffer[begin:end]
            end = end if len(self._buffer) >= end else None
        if end is None:
            if len(self._buffer) > _MAX_BODY_BYTES + _MAX_HEAD_BYTES:
                raise ValueError(f"the body is longer than {_MAX_BODY_BYTES:,} bytes")
            if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == begin:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return end, body

    def _start_reply(self, prepared: PreparedReply) -> None:
        reply = self._service.reply(prepared)
        self._reply, self._steps = reply, reply.steps
        self._recorder.in_flight += 1
        self._recorder.peak_in_flight = max(self._recorder.peak_in_flight, self._recorder.in_flight)
        if reply.counts is not None:
            reply.counts.requests += 1
            if not self._is_counted:
                self._count_connection()
        if reply.delay > 0:
            self._resume_after(reply.delay)
        else:
            self._send_steps()

    def _count_connection(self) -> None:
        """Count this connection. It is called at the first counted request, so reading the counts changes none."""
        self._is_counted = True
        self._recorder.connections += 1
        self._recorder.open_connections += 1

    def _resume_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._send_steps()
        if self._reply is None:
            self._process_buffer()

    def _send_steps(self) -> None:
        """Send the steps of the reply up to a delay or the end."""
        reply = self._reply
        assert reply is not None
        while self._can_write:
            step = next(self._steps, None)
            if step is None:
                self._finish_reply(reply)
                return
            if isinstance(step, bytes):
                if reply.counts is not None:
                    reply.counts.bytes += len(step)
                self._transport.write(step)
            elif isinstance(step, ConnectionEnd):
                self._end_connection(reply, step)
                return
            else:
                self._resume_after(step)
                return

    def _finish_reply(self, reply: Reply) -> None:
        if reply.counts is not None:
            reply.counts.records += reply.records
        self._reply = None
        self._recorder.in_flight -= 1
        if not reply.keep_alive:
            self._transport.close()

    def _end_connection(self, reply: Reply, end: ConnectionEnd) -> None:
        if end is ConnectionEnd.HANG:
            self._steps = repeat(ConnectionEnd.HANG)
            return
        if end is ConnectionEnd.RESET:
            sock: socket.socket | None = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self._transport.abort()
            return
        # A complete export to HTTP/1.0 ends like this too. A cut response has no records in `reply`.
        self._finish_reply(reply)
        self._transport.close()


def _decode_chunks(data: bytes, begin: int) -> tuple[int | None, bytes]:
    """The end of a chunked body, None while it is incomplete, and its content. Raises ValueError."""
    body = bytearray()
    while (line := data.find(b"\r\n", begin)) >= 0:
        size = int(data[begin:line].partition(b";")[0], 16)
        if not 0 <= size <= _MAX_BODY_BYTES:
            raise ValueError(f"a chunk is longer than {_MAX_BODY_BYTES:,} bytes")
        if size == 0:
            end = data.find(HEAD_END, line)
            return (None, b"") if end < 0 else (end + len(HEAD_END), bytes(body))
        begin = line + 2 + size + 2
        if begin > len(data):
            break
        body += data[line + 2 : begin - 2]
    return None, b""
