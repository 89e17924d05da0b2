"""Figures, times and outcomes of a run as texts for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ...event_log.run_record import RunRecord, StreamRecord
from ...events import Ceiling

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def format_seconds(seconds: float) -> str:
    """A duration with about three digits: "0.4 ms", "12.3 s", "4 min 05 s", "2 h 07 min", "3 d 04 h"."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds < 0.9995:
        return "0 s" if seconds == 0 else f"{_three_digits(seconds * 1_000)} ms"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02} min"
    return f"{whole // _DAY_S:,} d {whole % _DAY_S // _HOUR_S:02} h"


def format_latency(seconds: float) -> str:
    """A time of requests, which are measured from 0.1 ms on."""
    return "< 0.1 ms" if seconds == 0 else format_seconds(seconds)


def format_count(count: float | None) -> str:
    """A whole number with separators; a dash for what is unknown."""
    return "—" if count is None else f"{count:,.0f}"


def format_rate(rate: float | None) -> str:
    """A number per second with three digits; a dash for what is unknown."""
    if rate is None or not math.isfinite(rate):
        return "—"
    return f"{rate:,.0f}" if rate >= 100 else _three_digits(rate)


def format_size(size: float) -> str:
    """Bytes in decimal units."""
    for unit in _SIZES[:-1]:
        if abs(size) < 999.5:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{_three_digits(size)} {unit}"
        size /= 1_000
    return f"{_three_digits(size)} {_SIZES[-1]}"


def format_share(part: float, whole: float) -> str:
    """A percentage; "" of nothing."""
    if not whole:
        return ""
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    return f"{share:.1f} %" if share < 10 and part else f"{share:.0f} %"


def short_ceiling(name: str) -> str:
    """The text of a Ceiling for labels."""
    return name.removeprefix("the ")


def strongest_ceiling(stream: StreamRecord) -> str:
    """What limited a stream for most of its time, with its share of that time; "" if that is unknown."""
    name = max(stream.ceilings, key=lambda each: stream.ceilings[each], default="")
    share = format_share(min(stream.ceilings.get(name, 0.0), stream.duration), stream.duration)
    return f"{short_ceiling(name)} ({share})" if name and share else short_ceiling(name)


def sort_ceilings(names: Sequence[str]) -> list[str]:
    """The ceilings in the order of their declaration; unknown ones, of later versions, are last."""
    order = [ceiling.value for ceiling in Ceiling]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def describe_outcome(record: RunRecord) -> str:
    """How the run ended, and what that means for its output."""
    after = f"after {format_seconds(record.seconds)}"
    sentences = {
        "running": f"The run had not ended when this was recorded, {after}: it is still running, or it was killed.",
        "complete": "The run read all of its streams.",
        "partial": "A part of the run failed: the rest is in the output, and the next run reads what failed again.",
        "failed": f"The run failed {after}. What it had committed until then is in the output.",
        "interrupted": f"The run was interrupted {after}. The next run resumes it.",
    }
    narrowed = " It was narrowed: it read only some streams, or a part of them." if record.is_narrowed else ""
    return sentences[record.outcome] + narrowed


def describe_verdict(record: RunRecord) -> str:
    """The verdict; of a record without one, that it has none."""
    ended = ": the run has not ended" if record.outcome == "running" else ""
    return record.verdict or f"There is no verdict{ended}."


def describe_command(record: RunRecord) -> str:
    """How the next run is started."""
    verb = "starts the next run" if record.outcome == "complete" else "resumes the run"
    if record.command:
        return f"This command {verb}:"
    return (
        f"The run was started from Python. The same call of extract, with the destination {record.destination}, {verb}."
    )


class RunCalendar:
    """Moments of a run: seconds since its begin, and the time in UTC.

    A begin that cannot be read is unknown. Then there are only the seconds.
    """

    def __init__(self, record: RunRecord) -> None:
        self._began = _parse_utc(record.began_at)
        last = self._at(record.seconds)
        self._has_dates = self._began is not None and last is not None and last.date() != self._began.date()

    @property
    def is_known(self) -> bool:
        """Whether the begin of the run in UTC is known."""
        return self._began is not None

    @property
    def began(self) -> str:
        """The begin of the run with its date."""
        return "an unknown time" if self._began is None else f"{self._began:%Y-%m-%d %H:%M:%S} UTC"

    def utc(self, seconds: float) -> str:
        """The time in UTC, with its date if the run lasted beyond midnight; a dash if it is unknown."""
        moment = self._at(seconds)
        if moment is None:
            return "—"
        return f"{moment:%Y-%m-%d %H:%M:%S}" if self._has_dates else f"{moment:%H:%M:%S}"

    def axis(self, seconds: float) -> str:
        """The time in UTC for the axis of a chart; counted from the year 2000 if the begin is unknown."""
        moment = (
            self._at(seconds) or _add(datetime(2000, 1, 1, tzinfo=UTC), seconds) or datetime(2000, 1, 1, tzinfo=UTC)
        )
        return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03}"

    def _at(self, seconds: float) -> datetime | None:
        return None if self._began is None else _add(self._began, seconds)


def _parse_utc(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _add(moment: datetime, seconds: float) -> datetime | None:
    try:
        return moment + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return None


def _three_digits(number: float) -> str:
    """A number below 1,000 with about three digits, without zeros at its end."""
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
