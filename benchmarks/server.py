"""Server that answers every request with a 20 KB page, with minimal work, in a process of its own.

Run it with a port, or with 0 for any free port, and for https with a file that contains a certificate and its
key. It prints the port that it listens on.

    /events-50      a page with records at `data` and a cursor at `meta.next`, which is null on page 50
    any other path  an array of records
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECORDS = 100
_EVENTS = re.compile(rb"GET /events-(\d+)(?:\?cursor=(\d+))? ")
_HEADERS = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 30 Nov 2026 12:00:00 GMT\r\nServer: nginx\r\nContent-Type: application/json\r\n"
    b'Content-Length: %d\r\nConnection: keep-alive\r\nVary: Accept-Encoding\r\nETag: W/"5d8c72a5edda8d6a"\r\n'
    b"X-Request-Id: 7f3c2b1a-9d4e-4c58-8a67-0123456789ab\r\n\r\n"
)


def page() -> bytes:
    """100 records of seven fields, about 20 KB."""
    records = [
        {
            "id": number,
            "name": f"customer number {number}",
            "email": f"customer{number}@example.com",
            "active": number % 3 > 0,
            "balance": number * 1.25,
            "address": {"street": f"{number} Long Street", "city": "Rotterdam", "zip": "3011"},
            "created_at": "2026-01-01T00:00:00Z",
        }
        for number in range(RECORDS)
    ]
    return json.dumps(records, separators=(",", ":")).encode()


class Server(asyncio.Protocol):
    """Answers request heads; requests have no bodies."""

    answer = _HEADERS % len(page()) + page()
    # The pages differ in their first record; numbers and cursors have a fixed width, so the length is constant.
    events = b'{"data":[{"page":%-10d,' + page().removeprefix(b"[{") + b',"meta":{"next":%-12b}}'
    events = _HEADERS % len(events % (0, b"")) + events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for head in heads:
            match = _EVENTS.match(head)
            self.transport.write(  # type: ignore[attr-defined]
                self.answer if match is None else self._events_page(int(match[1]), int(match[2] or 1))
            )

    def _events_page(self, pages: int, number: int) -> bytes:
        return self.events % (number, b'"%d"' % (number + 1) if number < pages else b"null")


@contextmanager
def serving(certificate: Path | None = None, core: int | None = None, program: Path = Path(__file__)) -> Iterator[str]:
    """The URL of a new server, over https with a certificate. Its process runs on the core if one is given."""
    command = [sys.executable, str(program), "0", *([] if certificate is None else [str(certificate)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            assert process.stdout is not None
            scheme = "http" if certificate is None else "https"
            yield f"{scheme}://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.terminate()


def self_signed_certificate(folder: Path) -> Path:
    """A new certificate for 127.0.0.1 with its key, in one file. Needs openssl."""
    key, bundle = folder / "key.pem", folder / "bundle.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", bundle], check=True, capture_output=True)
    bundle.write_bytes(bundle.read_bytes() + key.read_bytes())
    return bundle


async def main(port: int, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, ssl=context, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0, sys.argv[2] if len(sys.argv) > 2 else None))
