"""The verdict on a run: a sentence that names what limited it, and what can be done about that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..events import Ceiling
from .run_record import RunRecord, StreamRecord

_MIN_OBSERVED_S = 1.0
_MIN_SHARE = 0.25  # of the time that was observed
_MIN_SHARE_OF_FIRST = 0.6  # for a second one to be named
_MUCH_SHORTER = 0.8
_ADVICE: Mapping[str, str] = {
    Ceiling.REPORTED_QUOTA: "the API allows no more requests with this credential",
    Ceiling.FOUND_LIMIT: "the server refuses or slows down beyond this",
    Ceiling.DECLARED_LIMIT: "raise rate_limit if the API allows more",
    Ceiling.LATENCY: "narrower slices, or a paginator with page numbers, would be read side by side",
    Ceiling.CONCURRENCY: "raise max_concurrency",
    Ceiling.CPU: "read fewer fields, or divide the streams between processes",
    Ceiling.CONSUMER: "the code that takes the pages is slower than the API",
    Ceiling.DISK: "the output is written more slowly than the API answers",
    Ceiling.OUTAGE: "the server failed, or did not answer",
}
_WITH_LIMITS = (Ceiling.REPORTED_QUOTA, Ceiling.FOUND_LIMIT, Ceiling.DECLARED_LIMIT)


def with_verdict(record: RunRecord) -> RunRecord:
    """The record with its verdict, which follows from what limited its streams and for how long."""
    return replace(record, verdict=_verdict(record))


def _verdict(record: RunRecord) -> str:
    observed = {stream.name: stream for stream in record.streams if stream.duration > 0 and stream.ceilings}
    if record.seconds < _MIN_OBSERVED_S or not observed:
        return f"The run took {record.seconds:.1f} s: too short to say what limited it."
    named = {name: _strongest(stream) for name, stream in observed.items()}
    slowest = max(observed.values(), key=lambda stream: stream.duration)
    together = _strongest_of(record.ceilings, sum(stream.duration for stream in observed.values()))
    found = named[slowest.name]
    if set(named.values()) == {found} or not _dominates(slowest, observed.values()):
        found, subject = together or found, "The run"
    else:
        subject = slowest.name
    if not found:
        return "Nothing in particular limited the run."
    causes = " and ".join(f"{name}{_details(name, slowest)}" for name in found)
    advice = "; ".join(_ADVICE[name] for name in found)
    return f"{subject} was limited by {causes}: {advice}."


def _strongest(stream: StreamRecord) -> tuple[str, ...]:
    return _strongest_of(stream.ceilings, stream.duration)


def _strongest_of(ceilings: Mapping[str, float], seconds: float) -> tuple[str, ...]:
    """The ceilings that limited most of these seconds: one or two, or none."""
    ranked = sorted(ceilings, key=lambda name: -ceilings[name])
    if not ranked or ceilings[ranked[0]] < _MIN_SHARE * seconds:
        return ()
    others = [
        name
        for name in ranked[1:2]
        if ceilings[name] >= max(_MIN_SHARE * seconds, _MIN_SHARE_OF_FIRST * ceilings[ranked[0]])
    ]
    return (ranked[0], *others)


def _dominates(slowest: StreamRecord, streams: Iterable[StreamRecord]) -> bool:
    """Whether one stream took much longer than all others, so that it alone decides how long the run takes."""
    others = [stream for stream in streams if stream is not slowest]
    return all(stream.duration < _MUCH_SHORTER * slowest.duration for stream in others)


def _details(name: str, stream: StreamRecord) -> str:
    """The limit itself, if it is known."""
    if name in _WITH_LIMITS and stream.max_rate is not None:
        return f" ({stream.max_rate:.3g} requests a second)"
    return ""
