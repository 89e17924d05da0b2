"""The progress of one stream, as its events report it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from ..errors import AsyncStreamsError, StreamUnavailable
from ..events import (
    Ceiling,
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
from .estimates import Completion, DecayingRate

RowStatus: TypeAlias = Literal["reading", "done", "skipped", "unavailable", "failed", "stopped early"]
_MIN_SHOWN_WAIT_S = 1.0


@dataclass(slots=True)
class SliceCounts:
    """Slices of the current run: finished, failed and open ones. `known` counts all if `is_all`, else those so far."""

    done: int = 0
    failed: int = 0
    open: int = 0
    known: int | None = None
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class RowWait:
    """What a stream waits for, until when in monotonic seconds; infinity if that is unknown."""

    until: float
    reason: str
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The status of a stream, and why; `details` is a text of the API or of the author."""

    status: RowStatus = "reading"
    details: str = ""


@dataclass(slots=True)
class ActiveTime:
    """When the current run of a stream started and finished, and the seconds of its earlier runs."""

    started_at: float
    finished_at: float | None = None
    earlier: float = 0.0

    def seconds(self, now: float) -> float:
        """Seconds during which the stream was read, by all runs."""
        return self.earlier + (now if self.finished_at is None else self.finished_at) - self.started_at


class Row:
    """The progress of one stream; times are monotonic seconds.

    pages, records, quarantined and retries accumulate over all runs; everything else is of the current or last run.
    `sample` is the newest ProgressSampled, `ceilings` counts the seconds during which each was the strongest.
    """

    __slots__ = (
        "ceilings",
        "completion",
        "outcome",
        "pages",
        "quarantined",
        "rate",
        "records",
        "retries",
        "sample",
        "slices",
        "time",
        "wait",
    )

    def __init__(self, now: float) -> None:
        self.pages = self.records = self.quarantined = self.retries = 0
        self.time = ActiveTime(now)
        self.slices = SliceCounts()
        self.rate = DecayingRate(now)
        self.completion = Completion(now)
        self.sample: ProgressSampled | None = None
        self.wait: RowWait | None = None
        self.outcome = RowOutcome()
        self.ceilings: dict[Ceiling, float] = {}

    @property
    def is_finished(self) -> bool:
        return self.time.finished_at is not None

    def records_per_second(self, now: float) -> float:
        """The rate of the last seconds; after the end, that of the whole time."""
        if not self.is_finished:
            return self.rate.per_second(now)
        return self.records / seconds if (seconds := self.time.seconds(now)) > 0 else 0.0

    def current_wait(self, now: float) -> RowWait | None:
        """What the stream waits for."""
        return None if self.wait is None or self.is_finished or now >= self.wait.until else self.wait

    def apply(self, event: Event, now: float) -> None:
        """Update the figures from an event of the stream."""
        match event:
            case PageRead(records=records, quarantined=quarantined):
                self.pages += 1
                self.records += records
                self.quarantined += quarantined
                self.completion.records += records + quarantined
                self.rate.add(now, records)
                self.wait = None
            case RequestFinished():
                pass
            case ProgressSampled():
                self._apply_sample(event, now)
            case SliceStarted():
                self.slices.open += 1
            case SliceFinished(error=error):
                self._finish_slice(error, now)
            case RetryScheduled(reason=reason, delay=delay):
                self.retries += 1
                self._begin_wait(RowWait(now + delay, reason, is_retry=True), delay)
            case WaitStarted(reason=reason, seconds=seconds):
                self._begin_wait(RowWait(now + seconds, reason), seconds)
            case StreamStarted():
                if self.is_finished:
                    self._restart(now)
            case ParentsDiscovered(count=count, is_all=is_all):
                self.slices.known, self.slices.is_all = count, is_all
            case StreamSkipped(reason=reason):
                self.outcome = RowOutcome("skipped", reason)
            case StreamFinished(error=error):
                self.time.finished_at = now
                self.outcome = _outcome(error)
            case _:
                assert_never(event)

    def _restart(self, now: float) -> None:
        """Begin the figures of another run. Those that accumulate stay."""
        again = Row(now)
        again.time.earlier = self.time.seconds(now)
        for name in ("time", "slices", "rate", "completion", "sample", "wait", "outcome", "ceilings"):
            setattr(self, name, getattr(again, name))

    def _apply_sample(self, sample: ProgressSampled, now: float) -> None:
        self.sample = sample
        if sample.ceilings:
            strongest = sample.ceilings[0]
            self.ceilings[strongest] = self.ceilings.get(strongest, 0.0) + sample.seconds
        if sample.slices_known is not None:
            self.slices.known, self.slices.is_all = sample.slices_known, True
        if sample.wait_reason:
            self._begin_wait(RowWait(now + sample.wait_s, sample.wait_reason), sample.wait_s)
        elif sample.in_flight:
            self.wait = None
        self._observe(now)

    def _finish_slice(self, error: BaseException | None, now: float) -> None:
        self.slices.open -= 1
        self.slices.done += error is None
        self.slices.failed += isinstance(error, Exception)  # a cancelled one did not fail
        self._observe(now)

    def _begin_wait(self, wait: RowWait, seconds: float) -> None:
        # A request that waits a moment says little: the ceiling names what limits the stream.
        if seconds >= _MIN_SHOWN_WAIT_S:
            self.wait = wait

    def _observe(self, now: float) -> None:
        """Update what is done of the total: records if the API reports a total of all slices, otherwise slices."""
        slices, sample = self.slices, self.sample
        finished = slices.done + slices.failed
        known = slices.known if slices.is_all else None
        expected = None if sample is None else sample.records_expected
        if sample is not None and expected and known == sample.slices_done + sample.slices_open:
            max_rate = _max_units(sample, sample.records)
            self.completion.observe(now, "records", min(self.completion.records, expected), expected, max_rate)
        elif known is not None and known > 1:
            max_rate = math.inf if sample is None else _max_units(sample, sample.slices_done)
            self.completion.observe(now, "slices", min(finished, known), known, max_rate)


def _max_units(sample: ProgressSampled, units: int) -> float:
    """The records or slices a second that the limits allow, if requests continue to deliver as many as before."""
    if not sample.max_rate or not sample.pages or not units:
        return math.inf
    return sample.max_rate * units / sample.pages


def _outcome(error: BaseException | None) -> RowOutcome:
    match error:
        case None:
            return RowOutcome("done")
        case StreamUnavailable():
            return RowOutcome("unavailable", error.reason)
        case AsyncStreamsError():
            return RowOutcome("failed", error.message)
        case Exception():
            return RowOutcome("failed", type(error).__name__)
        case _:
            return RowOutcome("stopped early")
