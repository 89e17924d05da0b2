"""The listener that makes the record of a run out of its events."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from .._version import __version__
from ..clock import Clock
from ..errors import AsyncStreamsError, PartialFailure, StreamUnavailable
from ..events import (
    Event,
    PageRead,
    ParentsDiscovered,
    ProgressSampled,
    RequestFinished,
    RetryScheduled,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
    WaitStarted,
)
from ..models import shorten
from .latency_histogram import LatencyHistogram
from .run_record import (
    FailureRecord,
    Latencies,
    Outcome,
    RunRecord,
    StreamOutcome,
    StreamRecord,
    WaitSummary,
)
from .series_builder import SeriesBuilder
from .slice_sample import SliceSample, SliceTally

_MAX_FAILURES = 100
_MAX_TEXT_CHARS = 500


@dataclass(slots=True)
class StreamTally:
    """Counts of one stream, as its events show them. Times in seconds since the begin of the run."""

    began_s: float
    record: StreamRecord
    latencies: tuple[LatencyHistogram, LatencyHistogram, LatencyHistogram, LatencyHistogram] = field(
        default_factory=lambda: (LatencyHistogram(), LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
    )
    requests: int = 0
    refused: int = 0
    retries: int = 0
    size: int = 0
    in_flight: int = 0
    ceilings: dict[str, float] = field(default_factory=dict[str, float])
    waits: dict[str, WaitSummary] = field(default_factory=dict[str, WaitSummary])

    def add_request(self, event: RequestFinished) -> None:
        """Count a request."""
        self.requests += 1
        self.refused += event.is_refused
        self.size += event.size
        queue, limiter, server, body = self.latencies
        queue.add(event.queued_s)
        limiter.add(event.limited_s)
        server.add(event.server_s)
        body.add(event.body_s)

    def add_sample(self, event: ProgressSampled) -> None:
        """Count the time since the last sample for what limits the stream now: its last limits are kept."""
        self.in_flight = event.in_flight
        for ceiling in event.ceilings:
            self.ceilings[ceiling.value] = self.ceilings.get(ceiling.value, 0.0) + event.seconds
        limits = event.limits or self.record.limits
        max_rate = self.record.max_rate if event.max_rate is None else event.max_rate
        self.record = replace(self.record, limits=limits, max_rate=max_rate)

    def add_wait(self, event: WaitStarted) -> None:
        """Count a wait that was announced."""
        known = self.waits.get(event.reason, WaitSummary())
        self.waits[event.reason] = WaitSummary(known.count + 1, known.seconds + event.seconds)

    def build(self, now: float) -> StreamRecord:
        """The record of the stream, `now` seconds after the begin of the run."""
        record = self.record
        return replace(
            record,
            ended_s=now if record.outcome == "running" else record.ended_s,
            requests=self.requests,
            refused=self.refused,
            retries=self.retries,
            size=self.size,
            ceilings=dict(self.ceilings),
            waits=dict(self.waits),
            latencies=Latencies(*(histogram.summary() for histogram in self.latencies)),
        )


class FailureTable:
    """Failures of a run: equal ones are counted, at most 100 different ones are kept."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str, int | None, bool], FailureRecord] = {}
        self._unexplained: dict[str, FailureRecord] = {}
        self.left_out = 0

    def add(self, failure: FailureRecord) -> None:
        """Count a failure; those of one kind, status and stream are equal, and the first one's message is kept."""
        key = failure.stream, failure.kind, failure.status, failure.is_final
        known = self._failures.get(key)
        if known is not None:
            message = known.message or failure.message
            known = replace(known, message=message, count=known.count + failure.count, last_s=failure.last_s)
        elif len(self._failures) >= _MAX_FAILURES:
            self.left_out += failure.count
            return
        self._failures[key] = known or failure

    def add_request(self, failure: FailureRecord) -> None:
        """Count a request that failed; the retry that follows it has the reason."""
        self.add(failure)
        self._unexplained[failure.stream] = failure

    def add_retry(self, stream: str, reason: str, now: float) -> None:
        """Add the reason to the request that failed before; or count a response that could not be read."""
        failure = self._unexplained.pop(stream, None)
        if failure is None:
            self.add(FailureRecord(stream, "unreadable response", reason, 1, now, now))
        else:
            self.add(replace(failure, message=reason, count=0))

    def records(self) -> tuple[FailureRecord, ...]:
        """All failures, the most frequent first."""
        return tuple(sorted(self._failures.values(), key=lambda failure: -failure.count))


class RunRecorder:
    """A listener that records one run.

    `names` are the streams of the run and their parents. Events of other streams are ignored; if another run reads the
    same streams of one open Source at the same time, its requests are counted, too.
    """

    def __init__(self, template: RunRecord, names: Collection[str], clock: Clock) -> None:
        self._template, self._names, self._clock = template, frozenset(names), clock
        self._began, self._cpu_began = clock.monotonic(), time.process_time()
        self._streams: dict[str, StreamTally] = {}
        self._series, self._slices, self._failures = SeriesBuilder(), SliceSample(), FailureTable()
        self._open: dict[int, SliceTally] = {}
        self._unavailable: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if event.stream not in self._names:
            return
        now = self._clock.monotonic() - self._began
        tally = self._streams.get(event.stream)
        if tally is None:
            tally = self._streams[event.stream] = StreamTally(now, StreamRecord(event.stream, "running", began_s=now))
        match event:
            case RequestFinished():
                self._add_request(event, tally, now)
            case PageRead():
                self._series.add_records(now, event.records)
                if (open_slice := self._open.get(id(event.stream_slice))) is not None:
                    open_slice.pages += 1
                    open_slice.records += event.records
            case SliceStarted():
                # The slice is kept here, so that its id is not used again.
                self._open[id(event.stream_slice)] = SliceTally(event.stream, event.stream_slice, now)
            case SliceFinished():
                self._finish_slice(event, now)
            case ProgressSampled():
                tally.add_sample(event)
                in_flight = sum(each.in_flight for each in self._streams.values())
                rates = [each.record.max_rate or 0.0 for each in self._streams.values()]
                self._series.observe(now, in_flight, max(rates) or None)  # several streams often share one limit
            case RetryScheduled():
                tally.retries += 1
                self._failures.add_retry(event.stream, event.reason, now)
            case WaitStarted():
                tally.add_wait(event)
            case StreamSkipped():
                self._unavailable[event.stream] = event.reason
            case StreamFinished():
                self._finish_stream(event, tally, now)
            case StreamStarted() | ParentsDiscovered():
                pass
            case _:
                assert_never(event)

    def build(self, outcome: Outcome = "running", error: BaseException | None = None) -> RunRecord:
        """The record of the run so far, without verdict, thresholds and what the streams have written."""
        now = self._clock.monotonic() - self._began
        tallies = self._streams.values()
        merged = [LatencyHistogram.merge(parts) for parts in zip(*(each.latencies for each in tallies), strict=True)]
        ceilings: dict[str, float] = {}
        for tally in tallies:
            for ceiling, seconds in tally.ceilings.items():
                ceilings[ceiling] = ceilings.get(ceiling, 0.0) + seconds
        return replace(
            self._template,
            outcome=outcome,
            error="" if error is None else describe_error(error),
            seconds=now,
            cpu_s=time.process_time() - self._cpu_began,
            ceilings=ceilings,
            streams=tuple(tally.build(now) for tally in tallies),
            unavailable=dict(self._unavailable),
            series=self._series.build(),
            latencies=Latencies(*(histogram.summary() for histogram in merged)),
            slices=self._slices.records(),
            slices_left_out=self._slices.left_out,
            failures=self._failures.records(),
            failures_left_out=self._failures.left_out,
        )

    def _add_request(self, event: RequestFinished, tally: StreamTally, now: float) -> None:
        tally.add_request(event)
        status = event.error if event.status is None else str(event.status)
        self._series.add_request(
            now, status, event.size, is_refused=event.is_refused, has_failed=bool(event.error) and not event.is_refused
        )
        if event.error:
            self._failures.add_request(FailureRecord(event.stream, event.error, "", 1, now, now, event.status))

    def _finish_slice(self, event: SliceFinished, now: float) -> None:
        open_slice = self._open.pop(id(event.stream_slice), None)
        if open_slice is None:
            return
        open_slice.ended_s = now
        if isinstance(event.error, Exception):
            open_slice.outcome = "failed"
            self._add_final(event.stream, event.error, now)
        elif event.error is not None:
            open_slice.outcome = "interrupted"
        self._slices.add(open_slice)

    def _finish_stream(self, event: StreamFinished, tally: StreamTally, now: float) -> None:
        error = event.error
        outcome: StreamOutcome = "complete"
        if isinstance(error, StreamUnavailable):
            outcome = "unavailable"
        elif isinstance(error, Exception):
            outcome = "failed"
        elif error is not None:
            outcome = "interrupted"
        text = describe_error(error) if isinstance(error, Exception) else ""
        tally.record = replace(tally.record, outcome=outcome, error=text, ended_s=now)

    def _add_final(self, stream: str, error: Exception, now: float) -> None:
        status = error.status if isinstance(error, AsyncStreamsError) else None
        failure = FailureRecord(stream, type(error).__name__, describe_error(error), 1, now, now, status, is_final=True)
        self._failures.add(failure)


def new_record(source: str, destination: str, wall: float, settings: Mapping[str, Mapping[str, str]]) -> RunRecord:
    """The record of a run of a Source, by the name of its class, that begins at `wall`, in seconds since 1970."""
    began = datetime.fromtimestamp(wall, UTC)
    run_id = f"{began:%Y%m%dT%H%M%S}.{began.microsecond // 1000:03}Z-{secrets.token_hex(2)}"
    began_at = began.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return RunRecord(run_id, source, destination, began_at, "running", version=__version__, settings=settings)


def outcome_of(error: BaseException | None, *, is_resumed_later: bool = False) -> Outcome:
    """How a run ended that raised this error. `is_resumed_later`: a limit asked for a longer wait than allowed."""
    if error is None:
        return "complete"
    if is_resumed_later or not isinstance(error, Exception):
        return "interrupted"
    return "partial" if isinstance(error, PartialFailure) else "failed"


def describe_error(error: BaseException) -> str:
    """The message of an error of ours; of any other exception, whose text may contain values, the class and place."""
    if isinstance(error, AsyncStreamsError):
        return shorten(error.message, _MAX_TEXT_CHARS)
    if not isinstance(error, Exception):
        return type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__} in a hook of the stream{where}"
