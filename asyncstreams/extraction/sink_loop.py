"""What is done with all that streams give: files of ours, or somebody's own destination?"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

import anyio

from .._json import canonical
from ..destinations.base import Destination
from ..destinations.sink import Sink
from ..errors import ConfigError
from ..execution.read_handle import ReadHandle
from ..execution.report import RunReport
from ..models import Page
from .signals import until_terminated

T = TypeVar("T")

_TERMINATED = 143  # 128 and the number of SIGTERM, as shells count


def check_destination(owner: str, to: object, state: Mapping[str, Any] | None) -> None:
    """Raises ConfigError for what nothing can be extracted into, in the terms of `owner`."""
    if isinstance(to, Destination):
        if state is not None:
            raise ConfigError(
                f"{owner}.extract(state=...): the output keeps its state itself", hint="leave `state` out"
            )
    elif isinstance(to, str | os.PathLike):
        shown = os.fspath(cast("str | os.PathLike[str]", to))
        raise ConfigError(
            f"{owner}.extract(to={shown!r}): a path alone does not say what to write there",
            hint=f"to=JsonLines({shown!r})",
        )
    elif isinstance(to, io.IOBase | type) or not isinstance(to, Sink):
        kind = to.__name__ if isinstance(to, type) else type(to).__name__
        raise ConfigError(
            f"{owner}.extract(to=...): {kind} is no destination",
            hint='JsonLines("out/"), SQLite("out.sqlite"), or an object with `async def write(self, page, batch_id)`',
        )


async def into_sink(sink: Sink, reading: ReadHandle[Page]) -> RunReport:
    """Hand page after page over; each is acknowledged when it has been taken."""

    async def all_pages() -> RunReport:
        async with reading as pages:
            async for page in pages:
                await sink.write(page, batch_id(page))
                page.ack()
        return reading.report

    return await unless_terminated(all_pages)


async def unless_terminated(work: Callable[[], Awaitable[T]]) -> T:
    """Do it; where the process is told to end meanwhile, leave in an orderly way and raise SystemExit."""
    scope = anyio.CancelScope()
    with until_terminated(scope) as leaving, scope:
        return await work()
    assert leaving.is_told
    raise SystemExit(_TERMINATED)


def batch_id(page: Page) -> str:
    """The same for the same page of the same slice of the same stream."""
    part = page.stream_slice
    interval = None if part.interval is None else [None if one is None else str(one) for one in part.interval]
    told = canonical([page.stream, part.partition, interval])
    return f"{hashlib.blake2b(told, digest_size=12).hexdigest()}-{page.number}"
