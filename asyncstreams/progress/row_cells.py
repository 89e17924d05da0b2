"""The cells of the live view: figures of streams as short texts, for terminals and notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from ..events import Ceiling
from ..html_tables import Cell
from ..rate_limits.wait_reason import WaitReason
from ..visible_text import escape_controls
from .estimates import Basis
from .stream_row import Row, RowWait

Cells: TypeAlias = dict[str, Cell]
"""The cells of one row by column; a missing one is empty."""
COLUMNS = {
    "stream": "stream",
    "pages": "pages",
    "records": "records",
    "rate": "records/s",
    "in_flight": "in flight",
    "retries": "retries",
    "quarantined": "quarantined",
    "slices": "slices",
    "done": "done",
    "eta": "ETA",
    "ceiling": "limited by",
    "status": "status",
}
"""The columns in their order, with their headers."""
COMPACT_HEADERS = COLUMNS | {"rate": "rec/s", "in_flight": "open", "quarantined": "quar."}
CEILINGS = {
    Ceiling.REPORTED_QUOTA: "reported quota",
    Ceiling.FOUND_LIMIT: "found limit",
    Ceiling.DECLARED_LIMIT: "declared limit",
    Ceiling.LATENCY: "server latency",
    Ceiling.CONCURRENCY: "concurrency",
    Ceiling.CPU: "CPU",
    Ceiling.CONSUMER: "consumer",
    Ceiling.DISK: "disk",
    Ceiling.OUTAGE: "outage",
}
_LIMITS = frozenset((Ceiling.REPORTED_QUOTA, Ceiling.FOUND_LIMIT, Ceiling.DECLARED_LIMIT))
_WAITS: Mapping[str, str] = {
    WaitReason.PAUSED: "pause",
    WaitReason.HOST_DOWN: "host is down",
    WaitReason.QUOTA: "quota",
    WaitReason.DECLARED_LIMIT: "declared limit",
    WaitReason.ADAPTIVE_RATE: "found limit",
    WaitReason.FAIR_SHARE: "fair share",
    WaitReason.CONCURRENCY: "responses",
    WaitReason.RETRY_BACKOFF: "next try",
}
_BASES: Mapping[Basis, str] = {"slices": "slices", "records": "API total"}
_STYLES = {"done": "green", "failed": "red", "skipped": "yellow", "unavailable": "yellow"}
_CLOCK_TIME_FROM_S = 60.0
_MIN_WHOLE_RATE = 10


@dataclass(frozen=True, slots=True)
class RowText:
    """A row as cells in the order of COLUMNS; `compact` are shorter texts of some of them, for narrow terminals."""

    cells: Cells
    compact: Cells = field(default_factory=dict[str, Cell])
    style: str = ""


def row_text(name: str, row: Row, now: float, wall: float) -> RowText:
    """The cells of a stream. `now` is the monotonic time, `wall` the time since the Unix epoch, both in seconds."""
    rate = row.records_per_second(now)
    cells: Cells = {
        "stream": escape_controls(name),
        "pages": row.pages,
        "records": row.records,
        "rate": _rate(rate),
        "retries": row.retries or None,
        "quarantined": row.quarantined or None,
        "slices": _slices(row, " of "),
    }
    compact: Cells = {"slices": _slices(row, "/")}
    status, compact_status, style = _status(row, now, wall)
    cells["status"] = status
    if not row.is_finished:
        _add_estimates(row, cells, compact, now)
    cells["ceiling"], short_ceiling = _ceilings(row)
    # A narrow terminal has one column for both: what the stream waits for, or what limits it.
    compact["ceiling"] = None
    compact["status"] = short_ceiling if short_ceiling and compact_status == "reading" else compact_status
    return RowText(cells, compact, style)


def total_text(rows: Mapping[str, Row], now: float) -> RowText:
    """The cells of the sum of all streams."""
    values = rows.values()
    open_rows = [row for row in values if not row.is_finished]
    rate = sum(row.records_per_second(now) for row in open_rows)
    ends = [now if row.time.finished_at is None else row.time.finished_at for row in values]
    seconds = max(ends) - min(row.time.started_at for row in values)
    cells: Cells = {
        "stream": f"{len(rows):,} streams",
        "pages": sum(row.pages for row in values),
        "records": (records := sum(row.records for row in values)),
        "rate": _rate(rate if open_rows else records / seconds if seconds > 0 else 0.0),
        "retries": sum(row.retries for row in values) or None,
        "quarantined": sum(row.quarantined for row in values) or None,
        "status": f"{duration_text(seconds)}: {_count_statuses(rows, now)}",
    }
    compact: Cells = {}
    samples = [row.sample for row in open_rows if row.sample is not None]
    if samples:
        in_flight, waiting = sum(sample.in_flight for sample in samples), sum(sample.waiting for sample in samples)
        cells["in_flight"], compact["in_flight"] = _in_flight(in_flight, waiting), in_flight
    return RowText(cells, compact)


def rest_text(rows: Mapping[str, Row], now: float) -> str:
    """What is said of the streams that do not fit: "and 38 more: 30 done, 8 waiting"."""
    return f"and {len(rows):,} more: {_count_statuses(rows, now)}"


def _count_statuses(rows: Mapping[str, Row], now: float) -> str:
    counts: dict[str, int] = {}
    for row in rows.values():
        status = "waiting" if row.current_wait(now) is not None else row.outcome.status
        counts[status] = counts.get(status, 0) + 1
    return ", ".join(f"{counts[status]:,} {status}" for status in sorted(counts))


def duration_text(seconds: float) -> str:
    """A duration for people: "8 s", "12 min", "3 h 20 min", "5 d"; above 10 s in steps of 5 s."""
    if seconds < 10:
        return f"{math.ceil(seconds)} s"
    if seconds < 90:
        return f"{5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{round(minutes / 1440)} d"


def _add_estimates(row: Row, cells: Cells, compact: Cells, now: float) -> None:
    if row.sample is not None:
        cells["in_flight"] = _in_flight(row.sample.in_flight, row.sample.waiting)
        compact["in_flight"] = row.sample.in_flight
    # Never 100 % before the end.
    fraction = row.completion.fraction
    cells["done"] = None if fraction is None else f"{min(99, int(fraction * 100))}%"
    seconds, basis = row.completion.seconds(now), row.completion.basis
    if seconds is None or basis is None:
        cells["eta"] = "unknown"
    else:
        if (wait := row.current_wait(now)) is not None and not math.isinf(wait.until):
            seconds = max(seconds, wait.until - now)
        cells["eta"] = f"{duration_text(seconds)} ({_BASES[basis]})"
        compact["eta"] = f"{duration_text(seconds)} {basis}"


def _rate(per_second: float) -> float:
    return round(per_second) if per_second >= _MIN_WHOLE_RATE else round(per_second, 1) or 0


def _in_flight(in_flight: int, waiting: int) -> str:
    return f"{in_flight:,} + {waiting:,} waiting" if waiting else f"{in_flight:,}"


def _slices(row: Row, separator: str) -> str | None:
    slices = row.slices
    finished = slices.done + slices.failed
    if slices.is_all:
        # Every stream has a slice: only several are worth a cell.
        return f"{finished:,}{separator}{slices.known or 0:,}" if slices.known != 1 else None
    if slices.known is not None:
        return f"{finished:,}{separator}{slices.known:,}+"
    return f"{finished:,}{separator}?" if finished + slices.open > 1 else None


def _ceilings(row: Row) -> tuple[str | None, str | None]:
    """What limits the stream now, or limited it most of the time; and the same in short."""
    if row.is_finished and not row.pages:
        return None, None
    if row.is_finished:
        ceiling = max(row.ceilings, key=lambda name: row.ceilings[name], default=None)
        return (None if ceiling is None else CEILINGS[ceiling]), None
    sample = row.sample
    if sample is None or not sample.ceilings:
        return None, None
    strongest = sample.ceilings[0]
    has_rate = strongest in _LIMITS and sample.max_rate is not None
    rate = f", {sample.max_rate:,.3g}/s" if has_rate else ""
    others = "".join(f" + {CEILINGS[ceiling]}" for ceiling in sample.ceilings[1:2])
    return f"{CEILINGS[strongest]}{rate}{others}", CEILINGS[strongest]


def _status(row: Row, now: float, wall: float) -> tuple[str, str, str]:
    """The status, a shorter form of it, and its style."""
    failed = f"{row.slices.failed:,} slices failed" if row.slices.failed > 1 else "1 slice failed"
    failed = failed if row.slices.failed else ""
    if (wait := row.current_wait(now)) is not None:
        text, short = _wait(wait, now, wall)
        return ", ".join(filter(None, [text, failed])), short, "yellow"
    status, details = row.outcome.status, escape_controls(row.outcome.details)
    if status == "done":
        details = f"{status} in {duration_text(row.time.seconds(now))}"
        text = ", ".join(filter(None, [details, failed]))
        return text, text, _STYLES[status]
    text = f"{status}: {details}" if details else ", ".join(filter(None, [status, failed]))
    return text, text, _STYLES.get(status, "")


def _wait(wait: RowWait, now: float, wall: float) -> tuple[str, str]:
    reason = escape_controls(wait.reason)
    verb, preposition = ("retries", ": ") if wait.is_retry else ("waits", " for ")
    seconds = wait.until - now
    if math.isinf(seconds):
        end = short_end = ""
    elif seconds < _CLOCK_TIME_FROM_S:
        end = f" in {math.ceil(seconds)} s" if wait.is_retry else f" {math.ceil(seconds)} s"
        short_end = f"{math.ceil(seconds)} s: "
    else:
        end = f" at {clock_text(wall, seconds)}" if wait.is_retry else f" until {clock_text(wall, seconds)}"
        short_end = f"until {clock_text(wall, seconds)}: "
    short_verb = "" if seconds >= _CLOCK_TIME_FROM_S else f"{verb} "
    return f"{verb}{end}{preposition}{reason}", f"{short_verb}{short_end}{_WAITS.get(wait.reason, reason)}"


def clock_text(wall: float, seconds: float) -> str:
    """The local time in some seconds: "14:05:10", with the day if it is not today."""
    today, then = (datetime.fromtimestamp(moment, UTC).astimezone() for moment in (wall, wall + seconds))
    return f"{then:%H:%M:%S}" if today.date() == then.date() else f"{then:%a %d %b %H:%M}"
