"""What happens while streams are read, as values that progress, logs and reports can listen to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .models import Slice


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The reading of a stream begins."""

    stream: str


@dataclass(frozen=True, slots=True)
class SliceStarted:
    """A slice of a stream begins."""

    stream: str
    stream_slice: Slice


@dataclass(frozen=True, slots=True)
class SliceFinished:
    """A slice is over: whole where `error` is None."""

    stream: str
    stream_slice: Slice
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page is ready to be handed over; `records` and `quarantined` are numbers of records."""

    stream: str
    stream_slice: Slice
    number: int
    records: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class ParentsDiscovered:
    """So many parents of a substream are known: the last of them where `is_all`."""

    stream: str
    count: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """A request failed and is sent again in `delay` seconds; `attempt` counts the requests so far."""

    stream: str
    reason: str
    delay: float
    attempt: int


@dataclass(frozen=True, slots=True)
class WaitStarted:
    """Requests wait, for about `seconds`, because of a pause, a quota, a rate or an outage: `reason` says of which."""

    stream: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StreamSkipped:
    """A stream of several is unavailable; the others go on."""

    stream: str
    reason: str


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """The reading of a stream is over: whole, or to its limit, where `error` is None; else as far as it came."""

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
Listener: TypeAlias = Callable[[Event], None]


class EventEmitter:
    """Who listens to the readings of one stream: its own listeners, and those of its Source.

    The lists stay their owners', and may change. It is false when nobody listens.
    """

    def __init__(self, *listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def __bool__(self) -> bool:
        return any(self._listeners)

    def emit(self, event: Event) -> None:
        """Call everybody; what a listener raises leaves from where the event happened."""
        for listeners in self._listeners:
            for listener in tuple(listeners):
                listener(event)
