"""Events of a run, emitted to the listeners of streams and sources.

For each stream: StreamStarted, then its slices, then StreamFinished. For each slice: SliceStarted, its pages, then
SliceFinished; slices overlap unless `max_concurrency` is 1. Every event has the `stream` it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeAlias

import httpx

from .models import Slice


class Ceiling(StrEnum):
    """What keeps a stream from being read faster; the text follows "limited by" in reports and in the live view."""

    REPORTED_QUOTA = "the quota that the API reports"
    """A quota in response headers, or a pause that the API orders."""
    FOUND_LIMIT = "the limit found by refusals and latencies"
    """The rate learned from refusals, or the number of requests in flight that the latencies allow."""
    DECLARED_LIMIT = "the declared rate_limit"
    LATENCY = "the latency of the server"
    """Responses are awaited, and no further request is possible: each page or parent follows from another one."""
    CONCURRENCY = "max_concurrency"
    """All slots are in use, and their requests are in flight."""
    CPU = "the CPU of this process"
    CONSUMER = "the consumer of the pages"
    DISK = "the disk or database"
    OUTAGE = "failures of the server"
    """The host is down, or the delay before the next try of a failed request."""


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
class RequestFinished:
    """A request of a stream was answered and its body is complete, or it failed; each attempt is one request.

    method, url: as sent, `url` without its query; of a redirect, the last one.
    stream_slice: the slice, None for a request of a hook outside of slices.
    attempt: from 1.
    status: of the response; None without a response.
    error: the name of the class of the error that this attempt ended with, such as "StallTimeout"; "" without one.
    is_refused: the API refused the request for its rate.
    size: bytes of the body, as decoded; 0 for a body that is parsed as it arrives.
    queued_s, limited_s: seconds that the request waited for its turn, and for a quota, a limit, a pause or the host.
    server_s, body_s: seconds from sending to the first byte, and from there to the end of the body.
    """

    stream: str
    stream_slice: Slice | None
    method: str
    url: str
    attempt: int
    status: int | None
    error: str
    is_refused: bool
    size: int
    queued_s: float
    limited_s: float
    server_s: float
    body_s: float


@dataclass(frozen=True, slots=True)
class ProgressSampled:
    """The progress of a stream, sampled once in a while as long as there are listeners, and at its end.

    seconds: since the previous sample of this stream, or since its start.
    pages, records: delivered so far by this run.
    slices_done, slices_open: finished slices, and those that are being read.
    slices_known: number of all slices, None while it is unknown.
    records_expected: total number of records that the API reports for the open and finished slices; None if it does not
        report one for each.
    in_flight: requests that are being answered. waiting: requests that wait for a permit.
    wait_reason, wait_s: what these wait for, and for about how many seconds more; "" and 0 without a wait.
    ceilings: what limits the stream now, the strongest first.
    max_rate: requests a second that the limits allow together (declared, reported, learned); None if none is known.
    limits: the limits in force, as text for people; "" without any.
    """

    stream: str
    seconds: float
    pages: int
    records: int
    slices_done: int
    slices_open: int
    slices_known: int | None
    records_expected: int | None
    in_flight: int
    waiting: int
    wait_reason: str
    wait_s: float
    ceilings: tuple[Ceiling, ...]
    max_rate: float | None
    limits: str


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
    | RequestFinished
    | ProgressSampled
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

A listener that is an object may have a method `before_request(request)`. It is called with each request to the origin
of `url_base`, once its waits are over and before it is signed, and may set headers, which no other origin receives. It
must not raise.
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

    def prepare_request(self, request: httpx.Request) -> None:
        """Call `before_request` of the listeners that have it. An exception of one of them propagates to the caller."""
        for listeners in self._listener_lists:
            for entry in tuple(listeners):
                listener = entry.func if isinstance(entry, partial) else entry  # `subscribe` wraps listeners
                before_request = getattr(listener, "before_request", None)
                if before_request is not None:
                    before_request(request)
