"""Thresholds of a run: a small language for conditions on its record, such as "orders.records >= 0.9 * last".

    threshold = [stream "."] metric operator value
    operator  = "<" | "<=" | ">" | ">=" | "==" | "!="
    value     = amount | last
    last      = "last" | amount "*" "last" | "last" "*" amount | "last" ("+" | "-") amount
    amount    = number [unit]
    unit      = "%" | "ms" | "s" | "m" | "h" | "d" | "B" | "kB" | "MB" | "GB" | "KiB" | "MiB" | "GiB"

The metric is what follows the last dot, so a name may contain dots. A name with an operator in it stands in quotes.
Durations may have several parts (1h30m).
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ..errors import ConfigError
from .run_record import RunRecord, StreamRecord, ThresholdRecord

Unit: TypeAlias = Literal["", "%", "s", "B"]
ALREADY_COMPLETE = "already complete"
"""How the note begins of a stream that an earlier, interrupted run has read."""

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_COUNTED: Mapping[str, Callable[[StreamRecord], float]] = {
    "records": lambda stream: stream.records,
    "rows": lambda stream: stream.rows or 0,
    "pages": lambda stream: stream.pages,
    "slices": lambda stream: stream.slices,
    "failed": lambda stream: stream.failed,
    "ignored": lambda stream: stream.ignored,
    "missing": lambda stream: stream.missing,
    "quarantined": lambda stream: stream.quarantined,
    "requests": lambda stream: stream.requests,
    "refused": lambda stream: stream.refused,
    "retries": lambda stream: stream.retries,
    "bytes": lambda stream: stream.size,
}
# Of what a metric is a share, if its threshold is a percentage.
_WHOLES: Mapping[str, tuple[str, Callable[[StreamRecord], float]]] = {
    "refused": ("requests", lambda stream: stream.requests),
    "retries": ("requests", lambda stream: stream.requests),
    "failed": ("slices", lambda stream: stream.slices + stream.failed + stream.ignored + stream.missing),
    "missing": ("slices", lambda stream: stream.slices + stream.failed + stream.ignored + stream.missing),
    "quarantined": ("records", lambda stream: stream.records + stream.quarantined),
}
_METRICS = (*_COUNTED, "duration")
_UNITS: Mapping[str, tuple[Unit, ...]] = {
    **dict.fromkeys(_COUNTED, ("",)),
    **dict.fromkeys(_WHOLES, ("", "%")),
    "bytes": ("", "B"),
    "duration": ("s",),
}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>\d+(?:[\d_,]*\d)?(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[A-Za-z]+)?
        | (?P<word>[A-Za-z]+) | (?P<sign>[*+-])
    )""",
    re.VERBOSE,
)
_OPERATOR = re.compile(r'"[^"]*"|(<=|>=|==|!=|<|>|=)')
_MAX_CHARS = 1_000


class Amount(NamedTuple):
    """A number with the kind of its unit: percent, seconds or bytes; the numbers of all kinds are in the base unit."""

    number: float
    unit: Unit = ""

    def __str__(self) -> str:
        if self.unit == "B":
            return f"{self.number:,.0f} B"
        return f"{_plain(self.number)}{self.unit}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition on the record of a run. `str` gives it as text.

    The value is `amount`; with `factor`, it is that factor of the last run's figure, plus `amount`.
    """

    stream: str | None
    metric: str
    comparison: str
    amount: Amount
    factor: float | None = None

    @property
    def uses_last(self) -> bool:
        """Whether the last whole run is needed."""
        return self.factor is not None

    def __str__(self) -> str:
        value = str(self.amount)
        if self.factor is not None:
            value = "last" if self.factor == 1 else f"{_plain(self.factor)} * last"
            if self.amount.number:
                sign = "-" if self.amount.number < 0 else "+"
                value = f"last {sign} {self.amount._replace(number=abs(self.amount.number))}"
        return f"{self._subject} {self.comparison} {value}"

    def evaluate(self, record: RunRecord, last: RunRecord | None) -> ThresholdRecord:
        """Judge a run by its record. `last` is the last whole run; without it, comparisons with it are skipped."""
        text = str(self)
        streams = self._streams_of(record)
        if (reason := self._reason_to_skip(record, streams, last)) is not None:
            return ThresholdRecord(text, None, reason)
        found, wanted = self._figure(record, streams), self._wanted(last)
        is_met = _COMPARISONS[self.comparison](found, wanted)
        origin = ""
        if last is not None and self.uses_last:
            before = self._shown(self._figure(last, self._streams_of(last)))
            origin = f" ({before} in the run {last.id})"
        because = f"{self.stream} was not read: " if self.stream is not None and not streams else ""
        if self.stream is not None and self.stream in record.unavailable:
            because = f"{self.stream} is unavailable: "
        required = f"required {self.comparison} {self._shown(wanted)}{origin}"
        return ThresholdRecord(text, is_met, f"{because}found {self._shown(found)}, {required}")

    @property
    def _subject(self) -> str:
        if self.stream is None:
            return self.metric
        needs_quotes = _OPERATOR.search(self.stream) is not None or self.stream != self.stream.strip()
        return f'"{self.stream}".{self.metric}' if needs_quotes else f"{self.stream}.{self.metric}"

    def _streams_of(self, record: RunRecord) -> Sequence[StreamRecord]:
        return [stream for stream in record.streams if self.stream in (None, stream.name)]

    def _reason_to_skip(self, record: RunRecord, streams: Sequence[StreamRecord], last: RunRecord | None) -> str | None:
        resumed = [stream.name for stream in streams if any(note.startswith(ALREADY_COMPLETE) for note in stream.notes)]
        if resumed:
            return f"{', '.join(resumed)} was read by an earlier run, which was interrupted"
        if not self.uses_last:
            return None
        if last is None:
            return "there is no earlier whole run to compare with"
        if self.stream is not None and last.stream(self.stream) is None:
            return f"the last whole run, {last.id}, did not read {self.stream}"
        return None

    def _figure(self, record: RunRecord, streams: Sequence[StreamRecord]) -> float:
        if self.metric == "duration":
            return record.seconds if self.stream is None else sum(stream.duration for stream in streams)
        found = sum(map(_COUNTED[self.metric], streams))
        if self.amount.unit != "%":
            return found
        whole = sum(map(_WHOLES[self.metric][1], streams))
        return 100 * found / whole if whole else 0.0

    def _wanted(self, last: RunRecord | None) -> float:
        if self.factor is None or last is None:
            return self.amount.number
        return self.factor * self._figure(last, self._streams_of(last)) + self.amount.number

    def _shown(self, figure: float) -> str:
        if self.metric == "duration":
            return f"{figure:,.1f} s"
        if self.metric == "bytes":
            return f"{figure:,.0f} bytes"
        if self.amount.unit == "%":
            return f"{figure:.4g} % of the {_WHOLES[self.metric][0]}"
        return f"{figure:,.0f}" if figure == int(figure) else f"{figure:,.1f}"


def check_thresholds(class_name: str, texts: Sequence[str], stream_names: Collection[str]) -> tuple[Threshold, ...]:
    """The thresholds of a run of these streams. Raises ConfigError for one that is invalid, or names another stream."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise ConfigError(
            f"{class_name}.extract(require={texts!r}): expected a list of thresholds",
            hint='write require=["records > 0"]',
        )
    thresholds = tuple(map(parse_threshold, texts))
    for threshold in thresholds:
        if threshold.stream is not None and threshold.stream not in stream_names:
            close = difflib.get_close_matches(threshold.stream, stream_names, 1)
            guess = f"did you mean {close[0]!r}?" if close else f"the streams: {', '.join(stream_names)}"
            raise ConfigError(f"threshold {str(threshold)!r}: there is no stream {threshold.stream!r}", hint=guess)
    return thresholds


def parse_threshold(text: str) -> Threshold:
    """A threshold from its text. Raises ConfigError, which points at the place of the problem."""
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        raise ConfigError(f"a threshold must be a text of at most {_MAX_CHARS:,} characters")
    found = next((match for match in _OPERATOR.finditer(text) if match[1] is not None), None)
    if found is None:
        raise _invalid(text, len(text), "no comparison", 'use one of < <= > >= == !=, as in "records >= 100"')
    if found[1] == "=":
        raise _invalid(text, found.start(), "'=' is not a comparison", "use == for equality")
    stream, metric = _parse_subject(text, text[: found.start()])
    amount, factor = _parse_value(text, found.end())
    if amount.unit not in _UNITS[metric] and not (factor is not None and not amount.number):
        units = {"": "a plain number", "%": "a percentage", "s": "a duration such as 30m", "B": "a size such as 10MB"}
        wanted = " or ".join(units[unit] for unit in _UNITS[metric])
        raise _invalid(text, found.end(), f"the unit does not fit {metric}", f"{metric} is compared with {wanted}")
    return Threshold(stream, metric, found[1], amount, factor)


def _parse_subject(text: str, subject: str) -> tuple[str | None, str]:
    """The stream, if there is one, and the metric."""
    name, dot, metric = subject.rpartition(".")
    metric = metric.strip()
    if metric not in _METRICS:
        close = difflib.get_close_matches(metric, _METRICS, 1)
        guess = f"did you mean {close[0]}?" if close else f"the metrics: {', '.join(_METRICS)}"
        raise _invalid(text, len(name) + len(dot), f"unknown metric {metric!r}", guess)
    name = name.strip()
    if not dot:
        return None, metric
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1]
    if not name:
        raise _invalid(text, 0, "there is no stream before the dot", f"for all streams, write {metric} alone")
    return name, metric


def _parse_value(text: str, start: int) -> tuple[Amount, float | None]:
    """The amount and the factor of the last run's figure."""
    parts: list[tuple[int, Amount | str]] = []
    position = start
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _invalid(text, position, "cannot be read", _EXAMPLES)
        parts.append((match.end(), _to_amount(text, match) if match["number"] else match["word"] or match["sign"]))
        position = match.end()
    parts = _join_durations(text, parts)
    match [part for _, part in parts]:
        case [Amount() as amount]:
            return amount, None
        case ["last"]:
            return Amount(0.0), 1.0
        case [Amount() as amount, "*", "last"] | ["last", "*", Amount() as amount] if amount.unit in ("", "%"):
            return Amount(0.0), amount.number / (100 if amount.unit == "%" else 1)
        case ["last", "+" | "-" as sign, Amount() as amount]:
            return (amount if sign == "+" else amount._replace(number=-amount.number)), 1.0
        case _:
            raise _invalid(text, start, "cannot be read", _EXAMPLES)


_EXAMPLES = "values: 100, 1%, 30m, 10MB, last, 0.9 * last, last + 10"


def _to_amount(text: str, match: re.Match[str]) -> Amount:
    number, unit = float(re.sub("[_,]", "", match["number"])), match["unit"] or ""
    if number == math.inf:
        raise _invalid(text, match.start("number"), "the number is too large", _EXAMPLES)
    if unit in ("", "%"):
        return Amount(number, "%" if unit else "")
    if unit in _SECONDS:
        return Amount(number * _SECONDS[unit], "s")
    if unit in _BYTES:
        return Amount(number * _BYTES[unit], "B")
    raise _invalid(text, match.start("unit"), f"unknown unit {unit!r}", f"units: %, {', '.join([*_SECONDS, *_BYTES])}")


def _join_durations(text: str, parts: Sequence[tuple[int, Amount | str]]) -> list[tuple[int, Amount | str]]:
    """The parts with neighbouring durations added up, as in 1h30m."""
    joined: list[tuple[int, Amount | str]] = []
    for end, part in parts:
        before = joined[-1][1] if joined else None
        if isinstance(part, Amount) and isinstance(before, Amount):
            if part.unit != "s" or before.unit != "s":
                raise _invalid(text, end, "two numbers follow each other", _EXAMPLES)
            joined[-1] = end, Amount(before.number + part.number, "s")
        else:
            joined.append((end, part))
    return joined


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def _invalid(text: str, position: int, problem: str, hint: str) -> ConfigError:
    return ConfigError(f"threshold {text!r}: {problem}, at character {position + 1}", hint=hint)
