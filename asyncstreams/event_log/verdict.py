"""The verdict on a run: a sentence that names what limited it, and what can be done about that."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from ..events import Ceiling
from .run_record import RunRecord, StreamRecord

T = TypeVar("T")
_MIN_OBSERVED_S = 1.0
_MIN_SHARE = 0.25  # of the time of a stream
_MIN_SHARE_OF_FIRST = 0.6  # for a second one to be named
_MAX_SHARE_SHOWN = 0.8  # one that limited a run for nearly all of its time is named without its share
_MIN_SHARE_OF_SLOWEST = 0.8  # of its time: shorter streams do not decide how long a run takes
_MAX_NAMES_SHOWN = 3
_ADVICE: Mapping[str, str] = {
    Ceiling.REPORTED_QUOTA: "the API allows no more requests with this credential",
    Ceiling.FOUND_LIMIT: "the server refuses or slows down beyond this",
    Ceiling.DECLARED_LIMIT: "raise rate_limit if the API allows more",
    Ceiling.LATENCY: "requests follow from one another: more slices, or page numbers, would be read side by side",
    Ceiling.CONCURRENCY: "raise max_concurrency of the stream or the Source",
    Ceiling.CPU: "divide the streams between processes, on a machine with cores to spare",
    Ceiling.CONSUMER: "the code that takes the pages is slower than the API",
    Ceiling.DISK: "the output is written more slowly than the API answers",
    Ceiling.OUTAGE: "the server failed, or did not answer",
}
_WITH_RATES = (Ceiling.REPORTED_QUOTA, Ceiling.FOUND_LIMIT, Ceiling.DECLARED_LIMIT)


class _Cause(NamedTuple):
    """A ceiling, the streams that it limited, and for how many seconds altogether."""

    ceiling: str
    streams: Sequence[StreamRecord]
    seconds: float

    def describe(self, names: str) -> str:
        """The ceiling, with the names of its streams, its rate, and its share of the time if that is not most of it."""
        share = self.seconds / sum(stream.duration for stream in self.streams)
        shown = [names, self._rate(), f"{100 * share:.0f} % of the time" if share < _MAX_SHARE_SHOWN else ""]
        details = ", ".join(filter(None, shown))
        return f"{self.ceiling} ({details})" if details else self.ceiling

    def _rate(self) -> str:
        """The rate that limited all streams of the cause; "" if there is none, or several."""
        if self.ceiling not in _WITH_RATES:
            return ""
        rates = {_show_rate(stream.max_rate) for stream in self.streams if stream.max_rate}
        return rates.pop() if len(rates) == 1 else ""


def with_verdict(record: RunRecord) -> RunRecord:
    """The record with its verdict, which follows from what limited its streams and for how long."""
    return replace(record, verdict=_verdict(record))


def _verdict(record: RunRecord) -> str:
    if record.seconds < _MIN_OBSERVED_S:
        return f"The run took {record.seconds:.1f} s: too short to say what limited it."
    read = [stream for stream in record.streams if stream.duration > 0]
    if not read:
        return "No stream was read."
    slowest = max(stream.duration for stream in read)
    deciding = [stream for stream in read if stream.duration >= _MIN_SHARE_OF_SLOWEST * slowest]
    causes = _causes(deciding) or _causes(read)
    if not causes:
        return "Nothing in particular limited the run."
    advice = "; ".join(_ADVICE[cause.ceiling] for cause in causes if cause.ceiling in _ADVICE)
    return f"{_limits(causes, read)}{f': {advice}' if advice else ''}."


def _limits(causes: Sequence[_Cause], read: Sequence[StreamRecord]) -> str:
    """Which streams are limited by these causes: all of those that anything limited, or the ones that are named."""
    limited = {stream.name for stream in read if _strongest(stream)}
    names = [[stream.name for stream in cause.streams] for cause in causes]
    if all(names[0] == others for others in names):
        subject = "The run" if limited == set(names[0]) else _listed(names[0])
        verb = "were" if subject != "The run" and len(names[0]) > 1 else "was"
        return f"{subject} {verb} limited by {' and '.join(cause.describe('') for cause in causes)}"
    shown = (cause.describe(f"in {_listed(own)}") for cause, own in zip(causes, names, strict=True))
    return f"The run was limited by {' and '.join(shown)}"


def _causes(streams: Sequence[StreamRecord]) -> Sequence[_Cause]:
    """The one or two ceilings that limited these streams for most of the time; none if nothing did for long."""
    limited: dict[str, list[StreamRecord]] = {}
    for stream in streams:
        for ceiling in _strongest(stream):
            limited.setdefault(ceiling, []).append(stream)
    causes = [_Cause(name, own, sum(stream.ceilings[name] for stream in own)) for name, own in limited.items()]
    return _first_and_near([(cause.seconds, cause) for cause in causes])


def _strongest(stream: StreamRecord) -> Sequence[str]:
    """The one or two ceilings that limited a stream for most of its time; none if nothing did for long."""
    long = [(seconds, name) for name, seconds in stream.ceilings.items() if seconds >= _MIN_SHARE * stream.duration]
    return _first_and_near(long)


def _first_and_near(weighted: Sequence[tuple[float, T]]) -> Sequence[T]:
    """The one of the largest weight, and the second if it is not much smaller."""
    ranked = sorted(weighted, key=lambda entry: -entry[0])
    return [value for weight, value in ranked[:2] if weight >= _MIN_SHARE_OF_FIRST * ranked[0][0]]


def _listed(names: Collection[str]) -> str:
    shown = ", ".join([*names][:_MAX_NAMES_SHOWN])
    left_out = len(names) - _MAX_NAMES_SHOWN
    return f"{shown} and {left_out:,} more" if left_out > 0 else shown


def _show_rate(rate: float) -> str:
    """A number of requests a second, in the unit that makes it at least 1."""
    unit, scaled = next(
        ((unit, rate * seconds) for unit, seconds in (("second", 1), ("minute", 60)) if rate * seconds >= 1),
        ("hour", rate * 3_600),
    )
    text = f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"
    return f"{text} {'request' if text == '1' else 'requests'} {'an' if unit == 'hour' else 'a'} {unit}"
