"""Server that answers every request with the same 20 KB page, with minimal work.

Run it with a port, or with 0 for any free port. It prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import json
import sys

RECORDS = 100


def page() -> bytes:
    """100 records of ten fields, about 20 KB."""
    records = [
        {
            "id": number,
            "name": f"customer number {number}",
            "email": f"customer{number}@example.com",
            "active": number % 3 > 0,
            "balance": number * 1.25,
            "tags": ["new", "eu"],
            "address": {"street": f"{number} Long Street", "city": "Rotterdam", "zip": "3011"},
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-06-01T12:30:00Z",
        }
        for number in range(RECORDS)
    ]
    return json.dumps(records, separators=(",", ":")).encode()


class Server(asyncio.Protocol):
    """Answers every request head with the page, whatever its path."""

    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        if heads:
            self.transport.write(self.answer * len(heads))  # type: ignore[attr-defined]


async def main(port: int) -> None:
    body = page()
    Server.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
