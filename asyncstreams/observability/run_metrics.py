"""Metrics of runs, from their events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..events import (
    Event,
    PageRead,
    ProgressSampled,
    RequestFinished,
    RetryScheduled,
    SliceFinished,
    StreamFinished,
    WaitStarted,
)
from .http_attributes import Attributes, ServerTable, duration_attributes, shown

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Meter

# The boundaries that the conventions advise, in seconds.
_DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MAX_REASONS = 50
_STREAM = "asyncstreams.stream"


class CounterKind(NamedTuple):
    """A counter: its name, its unit, what it counts, and its attributes besides the stream."""

    name: str
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


REQUESTS = CounterKind(
    "asyncstreams.requests",
    "{request}",
    "Requests that ended; each attempt is one.",
    ("asyncstreams.status_class", "asyncstreams.request.refused"),
)
WAIT_TIME = CounterKind(
    "asyncstreams.request.wait_time",
    "s",
    "Time that requests waited before they were sent.",
    ("asyncstreams.wait.kind",),
)
SIZE = CounterKind("asyncstreams.response.size", "By", "Bytes of the bodies, as decoded.")
RECORDS = CounterKind("asyncstreams.records", "{record}", "Records that were read.")
QUARANTINED = CounterKind(
    "asyncstreams.quarantined_records", "{record}", "Records withheld because they do not match their schema."
)
SLICES = CounterKind(
    "asyncstreams.slices", "{slice}", "Slices that ended, also for another try.", ("asyncstreams.outcome",)
)
RETRIES = CounterKind("asyncstreams.retries", "{retry}", "Requests that are sent again after a failure.")
WAITS = CounterKind("asyncstreams.waits", "{wait}", "Waits that requests share.", ("asyncstreams.wait.reason",))
_COUNTERS = (REQUESTS, WAIT_TIME, SIZE, RECORDS, QUARANTINED, SLICES, RETRIES, WAITS)


class CounterBatch:
    """Counts that reach their counters together: with the SDK, each addition costs as much as a small page."""

    def __init__(self, meter: Meter) -> None:
        self._counters: dict[str, Counter] = {
            kind.name: meter.create_counter(kind.name, kind.unit, kind.description) for kind in _COUNTERS
        }
        self._counts: dict[tuple[CounterKind, str, tuple[str | bool, ...]], float] = {}

    def add(self, kind: CounterKind, amount: float, stream: str, *values: str | bool) -> None:
        """Count an amount for a stream, and for the values of the other attributes."""
        key = (kind, stream, values)
        self._counts[key] = self._counts.get(key, 0) + amount

    def flush(self) -> None:
        """Add all counts to their counters."""
        counts, self._counts = self._counts, {}
        for (kind, stream, values), amount in counts.items():
            attributes: Attributes = {_STREAM: shown(stream), **dict(zip(kind.attributes, values, strict=True))}
            self._counters[kind.name].add(amount, attributes)


class RunMetrics:
    """The instruments of runs. Counters follow at each sample, four times a second, and at the end of a stream."""

    def __init__(self, meter: Meter) -> None:
        self._counters, self._servers = CounterBatch(meter), ServerTable()
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._active = meter.create_up_down_counter(
            "asyncstreams.request.active", "{request}", "Requests in flight, sampled four times a second."
        )
        self._limit = meter.create_gauge(
            "asyncstreams.request.limit", "{request}/s", "Rate that the known limits allow together."
        )
        self._in_flight: dict[str, int] = {}
        self._reasons: set[str] = set()

    def record(self, event: Event) -> None:
        """Record one event."""
        counters = self._counters
        match event:
            case RequestFinished():
                self._record_request(event)
            case PageRead():
                counters.add(RECORDS, event.records, event.stream)
                if event.quarantined:
                    counters.add(QUARANTINED, event.quarantined, event.stream)
            case SliceFinished():
                counters.add(SLICES, 1, event.stream, outcome_of_part(event.error))
            case ProgressSampled():
                self._set_active(event.stream, event.in_flight)
                if event.max_rate is not None and math.isfinite(event.max_rate):
                    self._limit.set(event.max_rate, {_STREAM: shown(event.stream)})
                counters.flush()
            case RetryScheduled():
                counters.add(RETRIES, 1, event.stream)
            case WaitStarted():
                counters.add(WAITS, 1, event.stream, self._bounded_reason(event.reason))
            case StreamFinished():
                self._set_active(event.stream, 0)
                counters.flush()
            case _:
                pass

    def close(self) -> None:
        """Count no request as in flight any more."""
        for stream in [*self._in_flight]:
            self._set_active(stream, 0)
        self._counters.flush()

    def _record_request(self, event: RequestFinished) -> None:
        add = self._counters.add
        status_class = "none" if event.status is None else f"{event.status // 100}xx"
        add(REQUESTS, 1, event.stream, status_class, event.is_refused)
        if event.size:
            add(SIZE, event.size, event.stream)
        if event.queued_s > 0:
            add(WAIT_TIME, event.queued_s, event.stream, "queue")
        if event.limited_s > 0:
            add(WAIT_TIME, event.limited_s, event.stream, "limit")
        server = self._servers.bounded(event.url)
        self._duration.record(event.server_s + event.body_s, duration_attributes(event, server))

    def _set_active(self, stream: str, in_flight: int) -> None:
        change = in_flight - self._in_flight.get(stream, 0)
        if change:
            self._active.add(change, {_STREAM: shown(stream)})
            self._in_flight[stream] = in_flight

    def _bounded_reason(self, reason: str) -> str:
        if reason not in self._reasons:
            if len(self._reasons) >= _MAX_REASONS:
                return "other"
            self._reasons.add(reason)
        return shown(reason)


def outcome_of_part(error: BaseException | None) -> str:
    """How a slice or a stream ended that has this error."""
    if error is None:
        return "complete"
    return "failed" if isinstance(error, Exception) else "interrupted"
