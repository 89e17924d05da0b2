"""Events of a run, emitted to the listeners of streams and sources.

For each stream: StreamStarted, then its slices, then StreamFinished. For each slice: SliceStarted, its pages, then
SliceFinished; slices overlap unless `max_concurrency` is 1. Every event has the `stream` it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .models import Slice


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """Reading of a stream starts."""

    stream: str


@dataclass(frozen=True, slots=True)
class SliceStarted:
    """Reading of a slice starts."""

    stream: str
    stream_slice: Slice


@dataclass(frozen=True, slots=True)
class SliceFinished:
    """A slice is finished: failed or cancelled with `error`, or if that is None read completely, or left out because
    its child is missing (see `missing_child`).
    """

    stream: str
    stream_slice: Slice
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was parsed and validated, and is about to be delivered.

    `number` counts the pages of the slice from 0. `records` and `quarantined` are numbers of records;
    the first does not include the second.
    """

    stream: str
    stream_slice: Slice
    number: int
    records: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class ParentsDiscovered:
    """`count` parents of a substream have been discovered so far; `is_all` if there are no others."""

    stream: str
    count: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed with `reason` and is sent again in `delay` seconds. `attempt`, from 1, is the failed attempt."""

    stream: str
    reason: str
    delay: float
    attempt: int


@dataclass(frozen=True, slots=True)
class WaitStarted:
    """Requests of a stream wait for about `seconds`; `reason` names the quota, rate limit, pause or outage."""

    stream: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StreamSkipped:
    """A stream is unavailable because of `reason`; the other streams of the run continue."""

    stream: str
    reason: str


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """A stream is finished: read completely or up to its `limit` if `error` is None, otherwise stopped by `error`."""

    stream: str
    error: BaseException | None = None


Event: TypeAlias = (
    StreamStarted
    | SliceStarted
    | PageRead
    | SliceFinished
    | ParentsDiscovered
    | RetryScheduled
    | WaitStarted
    | StreamSkipped
    | StreamFinished
)
"""Any event; `match` on its class."""

Listener: TypeAlias = Callable[[Event], None]
"""A function that is called with each event, in the event loop. It must not block.

An exception that it raises propagates into the run and ends it.
"""


class EventEmitter:
    """Emits the events of one stream to its own listeners and to those of its Source.

    The lists belong to the stream and the Source, and may change at any time. Falsy while all are empty.
    """

    def __init__(self, *listeners: Sequence[Listener]) -> None:
        self._listener_lists = listeners

    def __bool__(self) -> bool:
        for listeners in self._listener_lists:  # noqa: SIM110  # asked several times for each page: any() costs more
            if listeners:
                return True
        return False

    def emit(self, event: Event) -> None:
        """Call all listeners. An exception of a listener propagates to the caller."""
        for listeners in self._listener_lists:
            for listener in tuple(listeners):
                listener(event)
