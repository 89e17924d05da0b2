"""Respx mocker that also patches the transport of asyncstreams, which does not use httpcore."""

# pyright: basic
# respx annotates its routers, but not its mockers.
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import httpx
import respx.mocks
from respx.models import PassThrough

# respx imports it when a mock starts.
_TRANSPORT_MODULE = "asyncstreams.wire.transport"
_TRANSPORT = f"{_TRANSPORT_MODULE}.Http1Transport"

_Handler: TypeAlias = Callable[[httpx.AsyncBaseTransport, httpx.Request], Awaitable[httpx.Response]]


class AsyncstreamsMocker(respx.mocks.HTTPCoreMocker):
    """Patches the targets of the default mocker of respx and our transport."""

    name: ClassVar[str] = "asyncstreams"
    targets: ClassVar[list[str]] = [*respx.mocks.HTTPCoreMocker.targets, _TRANSPORT]

    @classmethod
    def mock(cls, spec: Any) -> Any:
        if getattr(spec, "__module__", None) != _TRANSPORT_MODULE:
            return super().mock(spec)  # type: ignore[no-untyped-call]  # respx has no annotations here
        original: _Handler = spec

        async def handle_async_request(self: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
            await request.aread()
            try:
                response: httpx.Response = await cls.async_handler(request)  # type: ignore[no-untyped-call]  # no annotations either
            except PassThrough:
                return await original(self, request)
            return response

        return handle_async_request


def install_as_default() -> None:
    """Make it the default mocker, so that `respx.mock` and `respx_mock` handle the requests of streams."""
    respx.mocks.DEFAULT_MOCKER = AsyncstreamsMocker.name
