"""Thresholds of a run: a small language for conditions on its record, such as "orders.records >= 0.9 * last".

    threshold = [stream "."] metric operator value
    operator  = "<" | "<=" | ">" | ">=" | "==" | "!="
    value     = amount | last [("+" | "-") amount]
    last      = "last" | factor "*" "last" | "last" "*" factor
    factor    = number ["%"]
    amount    = number [unit]
    unit      = "%" | "ms" | "s" | "m" | "min" | "h" | "d" | "B" | "kB" | "MB" | "GB" | "KiB" | "MiB" | "GiB"

The metric is what follows the last dot, so a name may contain dots. A name with an operator or a quote in it stands in
quotes; a quote inside of them is doubled. Durations may have several parts (1h30m).
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias
from unicodedata import combining, east_asian_width

from ..errors import ConfigError
from ..models import shorten
from .run_record import RunRecord, StreamRecord, ThresholdRecord

Unit: TypeAlias = Literal["", "%", "s", "B"]

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_MISWRITTEN = {"=": "==", "=>": ">=", "=<": "<=", "<>": "!=", "≤": "<=", "≥": ">=", "≠": "!="}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_UNITS = ("%", "ms", "s", "m", "h", "d", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB")
_COUNTED: Mapping[str, Callable[[StreamRecord], int]] = {
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
_WHOLES: Mapping[str, tuple[str, Callable[[StreamRecord], int]]] = {
    "refused": ("requests", lambda stream: stream.requests),
    "retries": ("requests", lambda stream: stream.requests),
    "failed": ("slices", lambda stream: stream.slices + stream.failed + stream.ignored + stream.missing),
    "missing": ("slices", lambda stream: stream.slices + stream.failed + stream.ignored + stream.missing),
    "quarantined": ("records", lambda stream: stream.records + stream.quarantined),
}
_METRICS = (*_COUNTED, "duration")
_UNITS_OF: Mapping[str, tuple[Unit, ...]] = {
    **dict.fromkeys(_COUNTED, ("",)),
    **dict.fromkeys(_WHOLES, ("", "%")),
    "bytes": ("", "B"),
    "duration": ("s",),
}
_KINDS: Mapping[Unit, str] = {
    "": "a plain number",
    "%": "a percentage",
    "s": "a duration such as 30m",
    "B": "a size such as 10MB",
}
_TOKEN = re.compile(
    r"""(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
            \s*(?P<unit>%|[A-Za-z]+)?
        | (?P<word>\w+) | (?P<sign>[*+-])""",
    re.VERBOSE,
)
_COMPARISON = re.compile(r'"(?:[^"]|"")*"|(<=|>=|==|!=|<>|=>|=<|[<>=≤≥≠])')
_QUOTED_SUBJECT = re.compile(r'\s*"(?P<name>(?:[^"]|"")+)"\s*\.(?P<metric>.*)', re.DOTALL)
_VALUES = "values: 100, 1%, 30m, 10MB, last, 0.9 * last, last + 10"
_MAX_CHARS = 1_000
_MAX_NUMBER = 1e15  # in the base unit: counts beyond would not be exact
_MAX_NAMES_SHOWN = 10
_EXCERPT_CHARS = 30  # on each side of a problem


class Amount(NamedTuple):
    """A number with the kind of its unit: percent, seconds or bytes; the numbers of all kinds are in the base unit."""

    number: float
    unit: Unit = ""

    def __str__(self) -> str:
        if self.unit == "s" and self.number >= 60 and self.number == int(self.number):
            parts = int(self.number) // 3_600, int(self.number) // 60 % 60, int(self.number) % 60
            return "".join(f"{part}{unit}" for part, unit in zip(parts, "hms", strict=True) if part)
        if self.unit == "B":
            unit = max(
                (unit for unit in _BYTES if self.number % _BYTES[unit] == 0), key=_BYTES.__getitem__, default="B"
            )
            return f"{_plain(self.number / _BYTES[unit])}{unit}" if self.number else "0B"
        return f"{_plain(self.number)}{self.unit}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition on the record of a run. `str` gives it in one form, `text` is what was written.

    The value is `amount`; with `factor`, it is that factor of the last run's figure, plus `amount`.
    """

    stream: str | None
    metric: str
    comparison: str
    amount: Amount
    factor: float | None = None
    text: str = field(default="", compare=False)

    @property
    def uses_last(self) -> bool:
        """Whether the last whole run is needed."""
        return self.factor is not None

    def __str__(self) -> str:
        return f"{self._subject} {self.comparison} {self._value}"

    def evaluate(self, record: RunRecord, last: RunRecord | None) -> ThresholdRecord:
        """Judge a run by its record. `last` is the last whole run; without it, comparisons with it are skipped."""
        text = self.text or str(self)
        streams = self._streams_of(record)
        if (reason := self._reason_to_skip(streams)) is not None:
            return ThresholdRecord(text, None, reason)
        remark, wanted, origin = self._remark_on(record, streams), self.amount.number, ""
        if self.factor is not None:
            before = self._last_streams(record, last)
            if last is None or not before:
                return ThresholdRecord(text, None, self._reason_without_last(last))
            common = {stream.name for stream in before}
            if self.stream is None and self.metric != "duration" and common != _names_of(record):
                streams = [stream for stream in streams if stream.name in common]
                remark += f"of the streams that both runs read ({_listed(sorted(common))}): "
            figure = self._figure(last, before)
            wanted = _tidy(self.factor * figure + wanted)
            origin = f" ({self._shown(figure)} in the run {last.id})"
        found = self._figure(record, streams)
        is_met = _COMPARISONS[self.comparison](found, wanted)
        shown, required = self._shown(found), self._shown(wanted)
        if shown == required and found != wanted:
            shown, required = self._exact(found), self._exact(wanted)
        details = f"found {shown}{self._basis(streams)}, required {self.comparison} {required}{origin}"
        return ThresholdRecord(text, is_met, remark + details)

    @property
    def _subject(self) -> str:
        if self.stream is None:
            return self.metric
        needs_quotes = '"' in self.stream or _COMPARISON.search(self.stream) or self.stream != self.stream.strip()
        name = '"' + self.stream.replace('"', '""') + '"' if needs_quotes else self.stream
        return f"{name}.{self.metric}"

    @property
    def _value(self) -> str:
        if self.factor is None:
            return str(self.amount)
        value = "last" if self.factor == 1 else f"{_plain(self.factor)} * last"
        if self.amount == Amount(0.0):
            return value
        sign = "-" if self.amount.number < 0 else "+"
        return f"{value} {sign} {self.amount._replace(number=abs(self.amount.number))}"

    def _streams_of(self, record: RunRecord) -> Sequence[StreamRecord]:
        return [stream for stream in record.streams if self.stream in (None, stream.name)]

    def _last_streams(self, record: RunRecord, last: RunRecord | None) -> Sequence[StreamRecord]:
        """The streams of the last run to compare with: those that it read completely, and that this run has, too."""
        if last is None:
            return ()
        names = _names_of(record) if self.stream is None else {self.stream}
        return [
            stream
            for stream in last.streams
            if stream.name in names and stream.outcome == "complete" and not stream.continues_earlier_run
        ]

    def _reason_to_skip(self, streams: Sequence[StreamRecord]) -> str | None:
        if self.metric == "duration" and self.stream is None:
            return None
        resumed = [stream.name for stream in streams if stream.continues_earlier_run]
        if resumed:
            return f"an earlier run, which did not finish, has read {_listed(resumed)}, or a part"
        counts_rows = any(stream.rows is not None or stream.outcome == "unavailable" for stream in streams)
        if self.metric == "rows" and streams and not counts_rows:
            return "the destination does not count rows"
        return None

    def _reason_without_last(self, last: RunRecord | None) -> str:
        if last is None:
            return "there is no earlier whole run to compare with"
        names = "any of these streams" if self.stream is None else self.stream
        return f"the last whole run, {last.id}, did not read {names}"

    def _remark_on(self, record: RunRecord, streams: Sequence[StreamRecord]) -> str:
        """What the figure leaves out."""
        if self.stream is None:
            return f"without {_listed(record.unavailable)}, unavailable: " if record.unavailable else ""
        if self.stream in record.unavailable:
            return f"{self.stream} is unavailable: "
        return "" if streams else f"{self.stream} was not read: "

    def _figure(self, record: RunRecord, streams: Sequence[StreamRecord]) -> float:
        if self.metric == "duration":
            return record.seconds if self.stream is None else sum(stream.duration for stream in streams)
        found = sum(map(_COUNTED[self.metric], streams))
        if self.amount.unit != "%":
            return found
        whole = sum(map(_WHOLES[self.metric][1], streams))
        return 100 * found / whole if whole else 0.0

    def _basis(self, streams: Sequence[StreamRecord]) -> str:
        """The counts that a share consists of."""
        if self.amount.unit != "%":
            return ""
        name, count = _WHOLES[self.metric]
        whole = sum(map(count, streams))
        return f" ({sum(map(_COUNTED[self.metric], streams)):,} of {whole:,} {name})" if whole else f" (no {name})"

    def _shown(self, figure: float) -> str:
        if self.metric == "duration":
            return _show_duration(figure)
        if self.metric == "bytes":
            return _show_size(figure)
        if self.amount.unit == "%":
            return f"{figure:.4g} %"
        return f"{figure:,.0f}" if figure == int(figure) else f"{figure:,.1f}"

    def _exact(self, figure: float) -> str:
        unit = {"duration": " s", "bytes": " bytes"}.get(self.metric, " %" if self.amount.unit == "%" else "")
        return f"{figure:,.15g}{unit}"


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
            guess = f"did you mean {close[0]!r}?" if close else f"the streams: {_listed(stream_names)}"
            raise ConfigError(
                f"threshold {_quote(threshold.text)}: there is no stream {threshold.stream!r}", hint=guess
            )
    return thresholds


def parse_threshold(text: str) -> Threshold:
    """A threshold from its text. Raises ConfigError, which points at the place of the problem."""
    if not isinstance(text, str):
        raise ConfigError(f"threshold {text!r}: expected a text", hint='write it as in "records > 0"')
    if len(text) > _MAX_CHARS:
        raise ConfigError(f"threshold {_quote(text)}: longer than {_MAX_CHARS:,} characters", hint="write several")
    found = next((match for match in _COMPARISON.finditer(text) if match[1] is not None), None)
    if found is None:
        raise _invalid(text, len(text), "no comparison", 'use one of < <= > >= == !=, as in "records >= 100"')
    if found[1] in _MISWRITTEN:
        raise _invalid(text, found.start(), f"{found[1]!r} is not a comparison", f"use {_MISWRITTEN[found[1]]}")
    stream, metric = _parse_subject(text, text[: found.start()])
    amount, factor = _parse_value(text, found.end(), metric)
    return Threshold(stream, metric, found[1], amount, factor, text.strip())


def _parse_subject(text: str, subject: str) -> tuple[str | None, str]:
    """The stream, if there is one, and the metric."""
    if quoted := _QUOTED_SUBJECT.fullmatch(subject):
        name, metric, at = quoted["name"].replace('""', '"'), quoted["metric"], quoted.start("metric")
    else:
        name, dot, metric = subject.rpartition(".")
        name, at = name.strip(), len(name) + len(dot)
        if dot and not name:
            raise _invalid(
                text, 0, "there is no stream before the dot", f"for all streams, write {metric.strip()} alone"
            )
    at += len(metric) - len(metric.lstrip())
    metric = metric.strip()
    if metric not in _METRICS:
        close = difflib.get_close_matches(metric.lower(), _METRICS, 1)
        guess = f"did you mean {close[0]}?" if close else f"the metrics: {', '.join(_METRICS)}"
        raise _invalid(text, at, f"unknown metric {metric!r}" if metric else "there is no metric", guess)
    return name or None, metric


class _Token(NamedTuple):
    at: int
    value: Amount | str


def _parse_value(text: str, start: int, metric: str) -> tuple[Amount, float | None]:
    """The amount, and the factor of the last run's figure, None without `last`."""
    tokens = _join_durations(text, _tokens_of(text, start))
    factor: Amount | None
    match [token.value for token in tokens]:
        case [Amount()]:
            factor, rest = None, tokens
        case ["last", "*", Amount() as given, *_] | [Amount() as given, "*", "last", *_]:
            factor, rest = given, tokens[3:]
        case ["last", *_]:
            factor, rest = Amount(1.0), tokens[1:]
        case _:
            raise _invalid(text, tokens[0].at if tokens else start, "the value cannot be read", _VALUES)
    if factor is not None and factor.unit not in ("", "%"):
        raise _invalid(text, tokens[0].at, "a factor has no unit", "write a number or a percentage: 0.9 * last")
    match [token.value for token in rest]:
        case []:
            amount = Amount(0.0)
        case [Amount() as amount] if factor is None:
            _check_unit(text, rest[0].at, amount, metric)
        case ["+" | "-" as sign, Amount() as amount]:
            _check_unit(text, rest[1].at, amount, metric)
            amount = amount._replace(number=-amount.number) if sign == "-" else amount
        case _:
            raise _invalid(text, rest[0].at, "the value cannot be read", _VALUES)
    if factor is None:
        return amount, None
    return amount, _tidy(factor.number / 100) if factor.unit == "%" else factor.number


def _check_unit(text: str, at: int, amount: Amount, metric: str) -> None:
    if amount.unit in _UNITS_OF[metric]:
        return
    hint = f"{metric} is compared with {' or '.join(_KINDS[unit] for unit in _UNITS_OF[metric])}"
    if amount.unit == "%":
        hint += f"; for a share of the last run, write {amount} * last"
    raise _invalid(text, at, f"the unit does not fit {metric}", hint)


def _tokens_of(text: str, start: int) -> Sequence[_Token]:
    tokens: list[_Token] = []
    while (at := start + len(text[start:]) - len(text[start:].lstrip())) < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            is_comma = text[at] == "," and bool(tokens) and isinstance(tokens[-1].value, Amount)
            hint = "a comma separates thousands, as in 1,000; write 0.9 with a point" if is_comma else _VALUES
            raise _invalid(text, at, "the value cannot be read", hint)
        if match["word"] not in (None, "last"):
            close = "did you mean last? " if difflib.get_close_matches(match["word"].lower(), ["last"]) else ""
            raise _invalid(text, at, f"the value cannot be read: {shorten(match['word'], 20)!r}", close + _VALUES)
        tokens.append(_Token(at, _to_amount(text, match) if match["number"] else match["word"] or match["sign"]))
        start = match.end()
    return tokens


def _to_amount(text: str, match: re.Match[str]) -> Amount:
    number, unit = float(re.sub("[_,]", "", match["number"])), match["unit"] or ""
    scale = _SECONDS.get(unit) or _BYTES.get(unit) or 1.0
    if scale != 1:
        number = _tidy(number * scale)
    if number > _MAX_NUMBER:
        raise _invalid(text, match.start("number"), "the number is too large", _VALUES)
    if unit in ("", "%"):
        return Amount(number, "%" if unit else "")
    if unit in _SECONDS:
        return Amount(number, "s")
    if unit in _BYTES:
        return Amount(number, "B")
    if unit == "last":
        raise _invalid(text, match.start("unit"), "there is no * before last", _VALUES)
    raise _invalid(text, match.start("unit"), f"unknown unit {shorten(unit, 20)!r}", f"units: {', '.join(_UNITS)}")


def _join_durations(text: str, tokens: Sequence[_Token]) -> Sequence[_Token]:
    """The tokens with neighbouring durations added up, as in 1h30m."""
    joined: list[_Token] = []
    for token in tokens:
        before = joined[-1] if joined else None
        if before is None or not (isinstance(token.value, Amount) and isinstance(before.value, Amount)):
            joined.append(token)
        elif token.value.unit == before.value.unit == "s":
            joined[-1] = _Token(before.at, Amount(_tidy(before.value.number + token.value.number), "s"))
        else:
            raise _invalid(text, token.at, "two numbers follow each other", _VALUES)
    return joined


def _names_of(record: RunRecord) -> set[str]:
    return {stream.name for stream in record.streams} | set(record.unavailable)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join([*names][:_MAX_NAMES_SHOWN])
    left_out = len(names) - _MAX_NAMES_SHOWN
    return f"{shown} and {left_out:,} more" if left_out > 0 else shown


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) <= _MAX_NUMBER else repr(number)


def _tidy(number: float) -> float:
    """The number without the error of binary fractions: 0.07 * 100 is 7."""
    return float(f"{number:.12g}") if abs(number) < 1e12 else number


def _show_duration(seconds: float) -> str:
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    parts = (f"{hours:,}h" if hours else "", f"{minutes}m" if minutes else "", f"{_plain(rest)}s" if rest else "")
    return "".join(parts) or "0s"


def _show_size(size: float) -> str:
    unit = next((unit for unit in ("GB", "MB", "kB") if size >= _BYTES[unit]), None)
    return f"{size:,.0f} bytes" if unit is None else f"{size / _BYTES[unit]:,.1f} {unit}"


def _quote(text: str) -> str:
    return repr(shorten(text, 80))


def _invalid(text: str, position: int, problem: str, hint: str) -> ConfigError:
    """The error, whose hint shows the text with a mark at the place of the problem."""
    begin = max(0, position - _EXCERPT_CHARS)
    before, after = (_printable(part) for part in (text[begin:position], text[position : position + _EXCERPT_CHARS]))
    before = ("..." if begin else "") + before
    excerpt = before + after + ("..." if position + _EXCERPT_CHARS < len(text) else "")
    mark = f"    {excerpt}\n    {' ' * sum(map(_columns, before))}^"
    message = f"threshold {_quote(text)}: {problem}, at character {position + 1:,}"
    return ConfigError(message, hint=f"{hint}\n{mark}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _columns(char: str) -> int:
    """The columns of a character on a terminal."""
    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1
