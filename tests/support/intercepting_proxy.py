"""A proxy that answers in place of the servers to which it is asked to open tunnels."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from loopback import http_response


class InterceptingProxy:
    """`url` is the proxy's; `targets` are the host and port of each CONNECT request."""

    def __init__(self, inner: ssl.SSLContext, body: bytes) -> None:
        self._inner, self._body = inner, body
        self._handlers: set[asyncio.Task[None] | None] = set()
        self.url = ""
        self.targets: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._handlers.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.targets.append(head.split()[1].decode())
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            await writer.start_tls(self._inner)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http_response(self._body))
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self._handlers.discard(task)

    async def wait_all_closed(self) -> None:
        """Wait until no client is connected."""
        if running := [task for task in self._handlers if task is not None]:
            await asyncio.wait(running)


@asynccontextmanager
async def intercepting(
    inner: ssl.SSLContext, outer: ssl.SSLContext | None = None, body: bytes = b'[{"id":1}]'
) -> AsyncIterator[InterceptingProxy]:
    """Run a proxy on 127.0.0.1. `inner` is the TLS of the servers; with `outer` the proxy itself is reached by TLS."""
    proxy = InterceptingProxy(inner, body)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0, ssl=outer)
    scheme = "http" if outer is None else "https"
    proxy.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.wait_all_closed()
        await server.wait_closed()
