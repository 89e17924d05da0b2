"""The record of one run: what it did over time, what limited it and what failed; bounded, without record values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

import msgspec

from ..errors import StateCorrupt
from ..html_tables import Cell, html_table

FORMAT = 1
ALREADY_COMPLETE, RESUMED = "already complete", "resumed"
"""How the note begins of a stream that an earlier, unfinished run has read; or of which it has read a part."""

Outcome: TypeAlias = Literal["running", "complete", "partial", "failed", "interrupted"]
StreamOutcome: TypeAlias = Literal["running", "complete", "partial", "failed", "interrupted", "unavailable"]


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """Where a run was started, for its record: "shop:Shop" or "shop.py:Shop", and the command that repeats it.

    The command must not contain secrets.
    """

    import_path: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Distribution of a time in seconds over `count` requests; percentiles are accurate to 5 %."""

    count: int = 0
    total: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """Where the time of the requests went: see `RequestFinished`."""

    queue: LatencySummary = LatencySummary()
    limiter: LatencySummary = LatencySummary()
    server: LatencySummary = LatencySummary()
    body: LatencySummary = LatencySummary()


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Counts in consecutive intervals of `interval` seconds from the begin of the run; at most 600 intervals.

    `requests` finished requests, of which `refused` for their rate and `failed` otherwise; `records`; `size` in bytes;
    `in_flight` the largest number seen; `max_rate` requests a second that the limits allowed, None where unknown.
    `statuses` has one list for each status ("200") or class of error ("StallTimeout").
    """

    interval: float = 1.0
    requests: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    records: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    in_flight: tuple[int, ...] = ()
    max_rate: tuple[float | None, ...] = ()
    statuses: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])


@dataclass(frozen=True, slots=True)
class WaitSummary:
    """How often requests waited for one reason, and the seconds that were announced, added up."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One stream of a run. `began_s` and `ended_s` are seconds since the begin of the run.

    `duration` is the time between them. `ceilings` maps the texts of `Ceiling` to seconds during which each limited the
    stream. `max_rate` is the last known limit in requests a second, `limits` the limits as text. `rows` were committed
    to the output. `notes` say what was left out or assumed.
    """

    name: str
    outcome: StreamOutcome
    error: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    slices: int = 0
    failed: int = 0
    ignored: int = 0
    missing: int = 0
    pages: int = 0
    records: int = 0
    quarantined: int = 0
    rows: int | None = None
    requests: int = 0
    refused: int = 0
    retries: int = 0
    size: int = 0
    max_rate: float | None = None
    limits: str = ""
    ceilings: Mapping[str, float] = field(default_factory=dict[str, float])
    waits: Mapping[str, WaitSummary] = field(default_factory=dict[str, WaitSummary])
    latencies: Latencies = Latencies()
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        return self.ended_s - self.began_s

    def html_row(self) -> tuple[Cell, ...]:
        """The cells of the stream in the table of its run."""
        ceiling = max(self.ceilings, key=lambda name: self.ceilings[name], default="")
        counts = (self.records, self.requests, self.refused or None, self.retries or None, self.quarantined or None)
        details = "\n".join(filter(None, [self.error, *self.notes]))
        return self.name, self.outcome, *counts, round(self.duration, 1), ceiling, details

    @property
    def continues_earlier_run(self) -> bool:
        """Whether an earlier run, which did not finish, has read the stream or a part of it, which is not counted."""
        return any(note.startswith((ALREADY_COMPLETE, RESUMED)) for note in self.notes)


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """One slice: its text without secrets, its times since the begin of the run in seconds, and what it delivered."""

    stream: str
    slice: str
    began_s: float
    ended_s: float
    pages: int = 0
    records: int = 0
    outcome: Literal["complete", "failed", "interrupted"] = "complete"


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Equal failures of one stream; first and last in seconds since the begin of the run.

    `is_final`: it failed a slice or the stream; otherwise the request was tried again.
    """

    stream: str
    kind: str
    message: str
    count: int
    first_s: float
    last_s: float
    status: int | None = None
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class ThresholdRecord:
    """A threshold of the run, as written. `is_met` is None if it was skipped. `details` says what was found, or why."""

    text: str
    is_met: bool | None
    details: str

    def __str__(self) -> str:
        result = "skipped" if self.is_met is None else "met" if self.is_met else "MISSED"
        return f"threshold {self.text}: {result}: {self.details}"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of `extract`.

    id: unique within an output, and sorted by time: "20261201T021058Z-3f9a".
    source: the class of the Source. import_path: "shop:Shop" or "shop.py:Shop" if it was started by the command line.
    destination: such as "JsonLines out". command: the command that started the run and resumes it; "" from Python.
    began_at: ISO 8601, UTC. seconds: duration so far.
    verdict: one sentence that names what limited the run.
    ceilings: seconds by `Ceiling`, over all streams. cpu_s: CPU of the process during the run.
    settings: the settings that differ from their defaults, secrets masked, by stream; "" is the Source.
    is_narrowed: `limit`, `slices`, `since` or `until` narrowed the run, or only some streams were selected.
    slices: at most 300: failed ones, the slowest, and a sample of the others; `slices_left_out` counts the rest.
    failures: at most 100; `failures_left_out` counts the rest.
    """

    id: str
    source: str
    destination: str
    began_at: str
    outcome: Outcome
    format: int = FORMAT
    import_path: str = ""
    command: str = ""
    version: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0
    error: str = ""
    verdict: str = ""
    is_narrowed: bool = False
    ceilings: Mapping[str, float] = field(default_factory=dict[str, float])
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    streams: tuple[StreamRecord, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
    series: TimeSeries = field(default_factory=TimeSeries)
    latencies: Latencies = Latencies()
    slices: tuple[SliceRecord, ...] = ()
    slices_left_out: int = 0
    failures: tuple[FailureRecord, ...] = ()
    failures_left_out: int = 0
    thresholds: tuple[ThresholdRecord, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether this run alone read all of its streams completely, so that later runs are compared with it."""
        is_alone = not any(stream.continues_earlier_run for stream in self.streams)
        return self.outcome == "complete" and not self.is_narrowed and is_alone

    def stream(self, name: str) -> StreamRecord | None:
        """The record of a stream; None if the run did not read it."""
        return next((stream for stream in self.streams if stream.name == name), None)

    def _repr_html_(self) -> str:
        counts = ("records", "requests", "refused", "retries", "quarantined", "seconds")
        header = ("stream", "outcome", *counts, "limited by", "details")
        rows = [stream.html_row() for stream in self.streams]
        gap = (None,) * (len(counts) + 1)
        rows += [(name, "unavailable", *gap, reason) for name, reason in self.unavailable.items()]
        run = f"Run {self.id} of {self.source} into {self.destination}: {self.outcome} after {self.seconds:,.1f} s."
        thresholds = map(str, missed_first(self.thresholds))
        return html_table(header, rows, "\n".join(filter(None, [*thresholds, run, self.error, self.verdict])))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return cast("dict[str, Any]", msgspec.to_builtins(self))

    def to_bytes(self) -> bytes:
        """The record as JSON, as it is stored."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes, location: str) -> RunRecord:
        """Read a stored record. Raises StateCorrupt, which names the location, for anything other than a record."""
        try:
            record = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateCorrupt(f"{location}: not a record of a run: {error}") from None
        if record.format > FORMAT:
            raise StateCorrupt(
                f"{location}: written by a newer version of asyncstreams (format {record.format})",
                hint="upgrade asyncstreams",
            )
        return record


def missed_first(thresholds: Sequence[ThresholdRecord]) -> list[ThresholdRecord]:
    """The missed thresholds, which are why a run failed, then those that were met, then those that were skipped."""
    return sorted(thresholds, key=lambda entry: (entry.is_met is not False, entry.is_met is None))
