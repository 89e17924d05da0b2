"""Server with a fault in one of 100 responses for each kind of fault, in a process of its own.

The body of a correct response is an array of one record with the number N, for the path `/N`. It prints the
port that it listens on.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable

PADDING = "x" * 900


class FaultyServer(asyncio.Protocol):
    """Answers request heads one after the other; requests have no bodies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for head in heads:
            number = int(head.split(b" ", 2)[1].removeprefix(b"/"))
            draw = RANDOM.randrange(100)
            send = list(FAULTS.values())[draw] if draw < len(FAULTS) else CORRECT[draw % len(CORRECT)]
            send(self, number)

    def send(self, *parts: bytes) -> None:
        self.transport.write(b"".join(parts))

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        if not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def reset_soon(self) -> None:
        """Reset the connection when the client has read what was sent."""
        asyncio.get_running_loop().call_later(0.002, self.reset)


def body(number: int) -> bytes:
    return b'[{"number": %d, "padding": "%b"}]' % (number, PADDING.encode())


def head(size: int, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nServer: soak\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        status,
        size,
    )


def whole(number: int) -> bytes:
    content = body(number)
    return head(len(content)) + content


def chunked(number: int) -> list[bytes]:
    """The head and the chunks; the second chunk has an extension."""
    content = body(number)
    return [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%b\r\n" % (100, content[:100]),
        b"%x;name=value\r\n%b\r\n" % (len(content) - 100, content[100:]),
        b"0\r\nTrailer: value\r\n\r\n",
    ]


def send_in_pieces(server: FaultyServer, number: int) -> None:
    """A correct response whose second part arrives later."""
    message = whole(number)
    server.send(message[:500])
    asyncio.get_running_loop().call_later(0.001, server.send, message[500:])


def end_within_body(server: FaultyServer, number: int) -> None:
    server.send(whole(number)[:500])
    server.transport.close()


def end_within_chunks(server: FaultyServer, number: int) -> None:
    server.send(*chunked(number)[:3])
    server.transport.close()


def reset_within_head(server: FaultyServer, number: int) -> None:
    server.send(head(10)[:40])
    server.reset_soon()


def reset_within_body(server: FaultyServer, number: int) -> None:
    server.send(whole(number)[:500])
    server.reset_soon()


def close_after_response(server: FaultyServer, number: int) -> None:
    """A keep-alive connection that ends all the same."""
    server.send(whole(number))
    server.transport.close()


CORRECT: tuple[Callable[[FaultyServer, int], None], ...] = (
    lambda server, number: server.send(whole(number)),
    lambda server, number: server.send(whole(number)),
    lambda server, number: server.send(*chunked(number)),
    send_in_pieces,
)
FAULTS: dict[str, Callable[[FaultyServer, int], None]] = {
    "reset before the head": lambda server, number: server.reset(),
    "end before the head": lambda server, number: server.transport.close(),
    "reset within the head": reset_within_head,
    "reset within the body": reset_within_body,
    "end within the body": end_within_body,
    "malformed head": lambda server, number: server.send(b"\x16\x03\x01 malformed\r\n\r\n"),
    "bytes after the body": lambda server, number: server.send(whole(number), whole(number + 1)),
    "no response": lambda server, number: None,
    "body that stalls": lambda server, number: server.send(whole(number)[:500]),
    "204 with a body": lambda server, number: server.send(head(2, b"204 No Content"), b"{}"),
    "connection closed after a response": close_after_response,
    "malformed chunk": lambda server, number: server.send(*chunked(number)[:2], b"zz\r\nmalformed\r\n"),
    "chunks without an end": end_within_chunks,
    "503": lambda server, number: server.send(head(4, b"503 Service Unavailable"), b"busy"),
}
RANDOM = random.Random(1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(FaultyServer, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
