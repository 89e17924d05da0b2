"""The tables of a report, as data for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...event_log.run_record import (
    Latencies,
    LatencySummary,
    RunRecord,
    StreamRecord,
    ThresholdRecord,
    WaitSummary,
    missed_first,
)
from .wording import (
    RunCalendar,
    format_count,
    format_latency,
    format_rate,
    format_seconds,
    format_share,
    format_size,
    short_ceiling,
    sort_ceilings,
    strongest_ceiling,
)

Tone: TypeAlias = Literal["", "good", "warn", "bad", "muted"]
LATENCY_PARTS: Mapping[str, str] = {
    "queue": "waiting for a turn",
    "limiter": "waiting for a quota, a limit, a pause or the host",
    "server": "from sending to the first byte",
    "body": "from the first byte to the end of the body",
}
OUTCOME_TONES: Mapping[str, Tone] = {
    "running": "warn",
    "complete": "good",
    "partial": "warn",
    "failed": "bad",
    "interrupted": "warn",
    "unavailable": "warn",
}
_MAX_SLOWEST = 20
_MAX_WAITS = 100


@dataclass(frozen=True, slots=True)
class ReportCell:
    """The text of a cell, and what it means."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """A column of a table. `is_minor`: a narrow terminal leaves it out. `is_name`: its texts are short."""

    title: str
    is_number: bool = False
    is_minor: bool = False
    is_name: bool = False


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table: its first column names the rows. `empty` is said if there are no rows, `notes` what is left out."""

    title: str
    columns: tuple[ReportColumn, ...]
    rows: Sequence[tuple[ReportCell, ...]]
    empty: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of the run, with a note that puts it into proportion."""

    name: str
    value: str
    note: str = ""
    tone: Tone = ""


def cells(*texts: str | ReportCell) -> tuple[ReportCell, ...]:
    """The cells of a row."""
    return tuple(text if isinstance(text, ReportCell) else ReportCell(text) for text in texts)


def run_figures(record: RunRecord) -> tuple[Figure, ...]:
    """The figures that sum up a run."""
    streams, seconds = record.streams, record.seconds

    def total(count: Callable[[StreamRecord], int | None]) -> int:
        return sum(count(stream) or 0 for stream in streams)

    def rate(count: float, unit: str) -> str:
        return f"{format_rate(count / seconds)} {unit}" if seconds > 0 and count else ""

    records, requests = total(lambda each: each.records), total(lambda each: each.requests)
    refused, retries = total(lambda each: each.refused), total(lambda each: each.retries)
    quarantined, size = total(lambda each: each.quarantined), total(lambda each: each.size)
    rows = total(lambda each: each.rows) if any(stream.rows is not None for stream in streams) else None
    written = "committed" if rows is not None else "not known"
    cpu_share = format_share(record.cpu_s, seconds)
    return (
        Figure("Duration", format_seconds(seconds), "so far" if record.outcome == "running" else ""),
        Figure("Records", format_count(records), rate(records, "a second")),
        Figure("Rows", format_count(rows), _with_quarantined(written, quarantined), "warn" if quarantined else ""),
        Figure("Requests", format_count(requests), rate(requests, "a second")),
        Figure("Refused", format_count(refused), _of_requests(refused, requests), "warn" if refused else ""),
        Figure("Retries", format_count(retries), _of_requests(retries, requests), "warn" if retries else ""),
        Figure("Received", format_size(size), rate_of_size(size, seconds)),
        Figure("CPU", format_seconds(record.cpu_s), f"{cpu_share} of one core" if cpu_share else ""),
    )


def rate_of_size(size: float, seconds: float) -> str:
    """Bytes per second; "" of nothing."""
    return f"{format_size(size / seconds)} a second" if seconds > 0 and size else ""


def threshold_table(record: RunRecord) -> ReportTable:
    """All thresholds, the missed ones first."""
    rows = [cells(entry.text, _threshold_result(entry), entry.details) for entry in missed_first(record.thresholds)]
    columns = (ReportColumn("Threshold"), ReportColumn("Result"), ReportColumn("Details"))
    return ReportTable("Thresholds", columns, rows, "No thresholds were required.")


def stream_table(record: RunRecord) -> ReportTable:
    """One row for each stream, in the order of their begin, then the unavailable ones."""
    columns = (
        ReportColumn("Stream", is_name=True),
        ReportColumn("Outcome"),
        ReportColumn("Duration", is_number=True),
        ReportColumn("Records", is_number=True),
        ReportColumn("Rows", is_number=True, is_minor=True),
        ReportColumn("Requests", is_number=True),
        ReportColumn("Refused", is_number=True),
        ReportColumn("Retries", is_number=True, is_minor=True),
        ReportColumn("Slices", is_number=True, is_minor=True),
        ReportColumn("Failed slices", is_number=True, is_minor=True),
        ReportColumn("Limited by"),
    )
    rows = [_stream_row(stream) for stream in record.streams]
    known = {stream.name for stream in record.streams}
    gap = [""] * (len(columns) - 3)
    rows += [
        cells(name, ReportCell("unavailable", "warn"), *gap, ReportCell(reason, "muted"))
        for name, reason in record.unavailable.items()
        if name not in known
    ]
    return ReportTable("Streams", columns, rows, "No stream was read.")


def _stream_row(stream: StreamRecord) -> tuple[ReportCell, ...]:
    return cells(
        stream.name,
        ReportCell(stream.outcome, OUTCOME_TONES[stream.outcome]),
        format_seconds(stream.duration),
        format_count(stream.records),
        format_count(stream.rows),
        format_count(stream.requests),
        _warned(stream.refused),
        _warned(stream.retries),
        format_count(stream.slices),
        _warned(stream.failed, "bad"),
        strongest_ceiling(stream) or ReportCell("not known", "muted"),
    )


def stream_details(stream: StreamRecord, record: RunRecord) -> ReportTable:
    """The figures of one stream, with what was left out or assumed."""
    calendar = RunCalendar(record)
    begin = f"{calendar.utc(stream.began_s)} UTC, {format_seconds(stream.began_s)} after the begin of the run"
    pairs: list[tuple[str, str | ReportCell]] = [
        ("Outcome", ReportCell(stream.outcome, OUTCOME_TONES[stream.outcome])),
        ("Error", ReportCell(stream.error, "bad")),
        ("Unavailable", ReportCell(record.unavailable.get(stream.name, ""), "warn")),
        ("Begin", begin if calendar.is_known else format_seconds(stream.began_s)),
        ("Duration", format_seconds(stream.duration)),
        ("Records", format_count(stream.records)),
        ("Rows committed", format_count(stream.rows)),
        ("Quarantined", _if_any(stream.quarantined, "warn")),
        ("Pages", format_count(stream.pages)),
        ("Slices complete", format_count(stream.slices)),
        ("Slices failed", _if_any(stream.failed, "bad")),
        ("Slices ignored", _if_any(stream.ignored)),
        ("Children missing", _if_any(stream.missing)),
        ("Requests", format_count(stream.requests)),
        ("Refused", _if_any(stream.refused, "warn")),
        ("Retries", _if_any(stream.retries, "warn")),
        ("Received", format_size(stream.size)),
        ("Rate", _rate_of(stream)),
        ("Limits", stream.limits),
    ]
    pairs += [("Note", note) for note in stream.notes]
    rows = [cells(name, value) for name, value in pairs if (value.text if isinstance(value, ReportCell) else value)]
    return ReportTable(stream.name, (ReportColumn("Figure"), ReportColumn("Value")), rows)


def ceiling_table(record: RunRecord) -> ReportTable:
    """For how long each ceiling limited the run and its streams."""
    names = sort_ceilings([*{name: None for stream in record.streams for name in stream.ceilings}])
    named = [(stream.name, stream.ceilings, stream.duration) for stream in record.streams]
    columns = (
        ReportColumn("Stream", is_name=True),
        ReportColumn("Limited by"),
        ReportColumn("Time", is_number=True),
        ReportColumn("Share of the stream", is_number=True),
    )
    rows = [
        cells(name, short_ceiling(ceiling), format_seconds(ceilings[ceiling]), format_share(ceilings[ceiling], seconds))
        for name, ceilings, seconds in named
        for ceiling in names
        if ceilings.get(ceiling)
    ]
    note = ("Several limits can bind at once, so shares may add up to more than 100 %.",) if rows else ()
    return ReportTable("Where the time went", columns, rows, "The run was too short to see what limited it.", note)


def latency_parts(latencies: Latencies) -> dict[str, LatencySummary]:
    """The parts of the time of requests, in their order, by name; without those that were not measured."""
    parts = (latencies.queue, latencies.limiter, latencies.server, latencies.body)
    return {name: times for name, times in zip(LATENCY_PARTS, parts, strict=True) if times.count}


def latency_table(latencies: Latencies) -> ReportTable:
    """The percentiles of each part of the time of requests."""
    rows = [cells(part, *_percentiles(times)) for part, times in latency_parts(latencies).items()]
    meanings = "; ".join(f"{part}: {meaning}" for part, meaning in LATENCY_PARTS.items())
    columns = (ReportColumn("Part", is_name=True), *_PERCENTILE_COLUMNS)
    return ReportTable("Latency of the requests", columns, rows, "No request was answered.", (f"{meanings}.",))


def stream_latency_table(record: RunRecord) -> ReportTable:
    """The percentiles of each part, for each stream."""
    rows = [
        cells(stream.name, part, *_percentiles(times))
        for stream in record.streams
        for part, times in latency_parts(stream.latencies).items()
    ]
    columns = (ReportColumn("Stream", is_name=True), ReportColumn("Part"), *_PERCENTILE_COLUMNS)
    return ReportTable("Latency by stream", columns, rows, "No request was answered.")


_PERCENTILE_COLUMNS = (
    ReportColumn("Requests", is_number=True, is_minor=True),
    ReportColumn("Mean", is_number=True),
    ReportColumn("p50", is_number=True),
    ReportColumn("p90", is_number=True),
    ReportColumn("p99", is_number=True),
    ReportColumn("Max", is_number=True),
)


def _percentiles(times: LatencySummary) -> tuple[str, ...]:
    shown = (mean_of(times), times.p50, times.p90, times.p99, times.max)
    return format_count(times.count), *map(format_latency, shown)


def mean_of(times: LatencySummary) -> float:
    """The mean time of a request in seconds; 0 without requests."""
    return times.total / times.count if times.count else 0.0


def slowest_slices(record: RunRecord) -> ReportTable:
    """The slices that took the longest."""
    calendar = RunCalendar(record)
    slowest = sorted(record.slices, key=lambda each: each.began_s - each.ended_s)
    rows = [
        cells(
            each.slice or "the whole stream",
            each.stream,
            ReportCell(each.outcome, OUTCOME_TONES[each.outcome]),
            format_seconds(each.ended_s - each.began_s),
            format_seconds(each.began_s),
            calendar.utc(each.began_s),
            format_count(each.pages),
            format_count(each.records),
        )
        for each in slowest[:_MAX_SLOWEST]
    ]
    columns = (
        ReportColumn("Slice"),
        ReportColumn("Stream"),
        ReportColumn("Outcome"),
        ReportColumn("Duration", is_number=True),
        ReportColumn("Begin", is_number=True),
        ReportColumn("Begin (UTC)", is_number=True, is_minor=True),
        ReportColumn("Pages", is_number=True, is_minor=True),
        ReportColumn("Records", is_number=True),
    )
    count = len(record.slices) + record.slices_left_out
    notes = (f"The {len(rows)} slowest of {format_count(count)} slices.",) if count > len(rows) else ()
    return ReportTable("Slowest slices", columns, rows, "No slice has finished.", notes)


def failure_table(record: RunRecord) -> ReportTable:
    """Failures with counts, the first and the last time."""
    calendar = RunCalendar(record)
    rows = [
        cells(
            failure.kind if failure.status is None else f"{failure.kind} {failure.status}",
            failure.stream,
            format_count(failure.count),
            format_seconds(failure.first_s),
            calendar.utc(failure.first_s),
            format_seconds(failure.last_s),
            calendar.utc(failure.last_s),
            ReportCell("failed", "bad") if failure.is_final else ReportCell("retried", "muted"),
            failure.message,
        )
        for failure in record.failures
    ]
    columns = (
        ReportColumn("Failure", is_name=True),
        ReportColumn("Stream"),
        ReportColumn("Count", is_number=True),
        ReportColumn("First", is_number=True, is_minor=True),
        ReportColumn("First (UTC)", is_number=True, is_minor=True),
        ReportColumn("Last", is_number=True),
        ReportColumn("Last (UTC)", is_number=True, is_minor=True),
        ReportColumn("Result", is_name=True),
        ReportColumn("Message"),
    )
    left = record.failures_left_out
    notes = (f"{format_count(left)} failures of other kinds are left out.",) if left else ()
    return ReportTable("Failures", columns, rows, "No failures.", notes)


def wait_table(record: RunRecord) -> ReportTable:
    """What requests waited for, the longest waits first."""
    waits = sorted(_all_waits(record), key=lambda entry: -entry[2].seconds)
    rows = [
        cells(reason, stream, format_count(wait.count), format_seconds(wait.seconds))
        for stream, reason, wait in waits[:_MAX_WAITS]
    ]
    columns = (
        ReportColumn("Reason"),
        ReportColumn("Stream"),
        ReportColumn("Waits", is_number=True),
        ReportColumn("Announced", is_number=True),
    )
    notes = ["Times are those that were announced, added up; requests that wait at once are counted once each."]
    if len(waits) > len(rows):
        notes.append(f"{format_count(len(waits) - len(rows))} shorter ones are left out.")
    return ReportTable("Waits", columns, rows, "No request had to wait.", tuple(notes) if rows else ())


def setting_table(record: RunRecord) -> ReportTable:
    """The settings that differ from their defaults."""
    rows = [
        cells(stream or record.source, name, value)
        for stream, settings in record.settings.items()
        for name, value in settings.items()
    ]
    columns = (ReportColumn("Stream or Source"), ReportColumn("Setting"), ReportColumn("Value"))
    empty = "All settings have their defaults."
    notes = ("Settings that have their defaults are left out. Secrets are masked.",) if rows else ()
    return ReportTable("Configuration", columns, rows, empty, notes)


def _all_waits(record: RunRecord) -> Iterable[tuple[str, str, WaitSummary]]:
    return ((stream.name, reason, wait) for stream in record.streams for reason, wait in stream.waits.items())


def _threshold_result(entry: ThresholdRecord) -> ReportCell:
    if entry.is_met is None:
        return ReportCell("skipped", "muted")
    return ReportCell("met", "good") if entry.is_met else ReportCell("missed", "bad")


def _rate_of(stream: StreamRecord) -> str:
    if stream.duration <= 0:
        return ""
    limit = f", of {format_rate(stream.max_rate)} that the limits allow" if stream.max_rate is not None else ""
    return f"{format_rate(stream.requests / stream.duration)} requests a second{limit}"


def _warned(count: int, tone: Tone = "warn") -> ReportCell:
    return ReportCell(format_count(count), tone if count else "")


def _if_any(count: int, tone: Tone = "") -> ReportCell:
    """A cell that is left out if the count is 0."""
    return ReportCell(format_count(count) if count else "", tone)


def _of_requests(count: int, requests: int) -> str:
    return f"{format_share(count, requests)} of requests" if count and requests else ""


def _with_quarantined(note: str, quarantined: int) -> str:
    return f"{note}; {format_count(quarantined)} quarantined" if quarantined else note
