"""How do requests come off the wire, and answers go onto it? HTTP/1.1, one request of a connection at a time."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import repeat
from typing import cast

from .service import NOWHERE, Prepared, Reply, Service
from .wire_messages import HEAD_END, BadRequest, ConnectionEnd, Step

_LONGEST_HEAD = 65_536
_LONGEST_BODY = 16 * 2**20
_RST = struct.pack("ii", 1, 0)


class Clients:
    """The connections that are open; after `turn_away` none stays, also of those that come later."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._unwanted = False
        self._left = asyncio.Event()

    def came(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._unwanted:
            connection.abort()

    def left(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._left.set()

    def turn_away(self) -> None:
        self._unwanted = True
        for connection in tuple(self._open):
            connection.abort()

    async def all_left(self) -> None:
        while self._open:
            self._left.clear()
            await self._left.wait()


class Connection(asyncio.Protocol):
    """One client. No tasks: what has to wait is called later by the loop, and forgotten when the client leaves."""

    def __init__(self, service: Service, clients: Clients) -> None:
        self._service, self._ledger = service, service.ledger
        self._clients = clients
        self._buffer = b""
        # The exchange that is under way; what comes meanwhile stays in the buffer.
        self._reply: Reply | None = None
        self._steps: Iterator[Step] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._resting = False
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._clients.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ledger.open_connections -= self._counted
        if self._timer is not None:
            self._timer.cancel()
        if self._reply is not None:
            self._ledger.in_flight -= 1
            self._reply = None
        self._steps, self._buffer = iter(()), b""
        self._clients.left(self)

    def data_received(self, data: bytes) -> None:
        if self._reply is None and self._writable and not self._buffer:
            prepared = self._service.ready(data)
            if prepared is not None:
                self._answer_ready(prepared)
                return
        self._buffer += data
        if self._reply is None and self._writable:
            self._advance()
        elif len(self._buffer) > _LONGEST_HEAD and not self._resting:
            self._resting = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._reply is not None and self._timer is None:
            self._play()
        if self._reply is None:
            self._advance()

    def abort(self) -> None:
        self._transport.abort()

    def _answer_ready(self, prepared: Prepared) -> None:
        ledger, tally, ready = self._ledger, prepared.tally, prepared.ready
        assert tally is not None
        assert ready is not None
        if not self._counted:
            self._count()
        if ledger.in_flight >= ledger.peak_in_flight:
            ledger.peak_in_flight = ledger.in_flight + 1
        tally.requests += 1
        tally.records += prepared.records
        tally.bytes += len(ready)
        self._transport.write(ready)
        if not prepared.keep_alive:
            self._transport.close()

    def _advance(self) -> None:
        """Answer what lies in the buffer, until something has to be waited for."""
        while self._buffer and self._reply is None and self._writable and not self._transport.is_closing():
            try:
                prepared = self._next_request()
            except BadRequest as refused:
                self._refuse(refused)
                return
            if prepared is None:
                break
            self._begin(prepared)
        # What lies there is a part of a request: the rest may come, however long the part is.
        if self._resting and self._reply is None and self._writable and not self._transport.is_closing():
            self._resting = False
            self._transport.resume_reading()

    def _refuse(self, refused: BadRequest) -> None:
        whole = refused.answer.whole(keep_alive=False)
        tally = self._ledger.tally(NOWHERE, refused.status)
        tally.requests += 1
        tally.bytes += len(whole)
        if not self._counted:
            self._count()
        self._transport.write(whole)
        self._transport.close()

    def _next_request(self) -> Prepared | None:
        """A whole request, taken out of the buffer; None while it is not all there. Raises Refused."""
        # RFC 9112, 2.2: empty lines before a request are ignored.
        self._buffer = self._buffer.lstrip(b"\r\n")
        end = self._buffer.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            if len(self._buffer) > _LONGEST_HEAD:
                raise BadRequest(431, "the head is too long")
            return None
        head = self._buffer[:end]
        try:
            prepared = self._service.prepared(head)
            used, body = self._body(prepared, end)
            if used is None:
                return None
            self._buffer = self._buffer[used:]
            return self._service.prepared(head, body) if body else prepared
        except ValueError as error:
            raise BadRequest(400, f"this is no request: {error}") from error

    def _body(self, prepared: Prepared, begin: int) -> tuple[int | None, bytes]:
        """Where the request ends in the buffer, None while that has not come; and its body."""
        headers = prepared.request.headers
        if "chunked" in headers.get("transfer-encoding", "").lower():
            end, body = _unchunked(self._buffer, begin)
        else:
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > _LONGEST_BODY:
                raise ValueError(f"Content-Length: {length[:40]}")
            end = begin + int(length)
            body = self._buffer[begin:end]
            end = end if len(self._buffer) >= end else None
        if end is None:
            if len(self._buffer) > _LONGEST_BODY + _LONGEST_HEAD:
                raise ValueError("the body is too long")
            if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == begin:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return end, body

    def _begin(self, prepared: Prepared) -> None:
        reply = self._service.reply(prepared)
        self._reply, self._steps = reply, reply.steps
        self._ledger.in_flight += 1
        self._ledger.peak_in_flight = max(self._ledger.peak_in_flight, self._ledger.in_flight)
        if reply.tally is not None:
            reply.tally.requests += 1
            if not self._counted:
                self._count()
        if reply.delay > 0:
            self._later(reply.delay)
        else:
            self._play()

    def _count(self) -> None:
        """With the first request that counts, so that whoever only asks for the counts does not change them."""
        self._counted = True
        self._ledger.connections += 1
        self._ledger.open_connections += 1

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._play()
        if self._reply is None:
            self._advance()

    def _play(self) -> None:
        """The steps of the answer, up to one that has to be waited for, or the end."""
        reply = self._reply
        assert reply is not None
        while self._writable:
            step = next(self._steps, None)
            if step is None:
                self._end(reply)
                return
            if isinstance(step, bytes):
                if reply.tally is not None:
                    reply.tally.bytes += len(step)
                self._transport.write(step)
            elif isinstance(step, ConnectionEnd):
                self._break_off(reply, step)
                return
            else:
                self._later(step)
                return

    def _end(self, reply: Reply) -> None:
        if reply.tally is not None:
            reply.tally.records += reply.records
        self._reply = None
        self._ledger.in_flight -= 1
        if not reply.keep_alive:
            self._transport.close()

    def _break_off(self, reply: Reply, ending: ConnectionEnd) -> None:
        if ending is ConnectionEnd.HANG:
            self._steps = repeat(ConnectionEnd.HANG)
            return
        if ending is ConnectionEnd.RESET:
            wire: socket.socket | None = self._transport.get_extra_info("socket")
            if wire is not None:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            self._transport.abort()
            return
        # An export to HTTP/1.0 ends like this, whole; of a cut answer no records count.
        self._end(reply)
        self._transport.close()


def _unchunked(data: bytes, begin: int) -> tuple[int | None, bytes]:
    """Where a chunked body ends, and what is in it. Raises ValueError."""
    body = bytearray()
    while (line := data.find(b"\r\n", begin)) >= 0:
        size = int(data[begin:line].partition(b";")[0], 16)
        if not 0 <= size <= _LONGEST_BODY:
            raise ValueError("a chunk is too long")
        if size == 0:
            end = data.find(HEAD_END, line)
            return (None, b"") if end < 0 else (end + len(HEAD_END), bytes(body))
        begin = line + 2 + size + 2
        if begin > len(data):
            break
        body += data[line + 2 : begin - 2]
    return None, b""
