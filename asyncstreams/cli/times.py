"""Durations and moments as users write them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ..clock import SystemClock
from ..cursors.durations import parse_duration
from ..errors import ConfigError
from ..extraction.run_scope import RangeBound

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d|w)")
_PARTS = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"-?\d{1,18}(\.\d+)?")
_HINT = "write a duration such as 30m, 1h30m, 7d or PT30M"


def parse_seconds(option: str, text: str) -> float:
    """The seconds of a duration such as "30m", "1h30m" or "PT30M", above 0. Raises ConfigError."""
    seconds = _seconds(text)
    if seconds is None or not 0 < seconds < 1e9:
        raise ConfigError(f"{option} {text!r}: is not a duration above 0", hint=_HINT)
    return seconds


def parse_bound(option: str, text: str | None) -> RangeBound:
    """A bound of the cursor: a number, a time in ISO 8601, or a time ago such as "7d". Raises ConfigError."""
    if text is None:
        return None
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if (seconds := _seconds(text)) is not None:
        try:
            return datetime.fromtimestamp(SystemClock().wall(), UTC) - timedelta(seconds=seconds)
        except OverflowError:
            raise ConfigError(f"{option} {text!r}: is too long ago") from None
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text!r}: is not a time",
            hint="write 2026-01-31, 2026-01-31T12:00:00Z, a number, or 7d for 7 days ago",
        ) from None
    return text


def _seconds(text: str) -> float | None:
    """The seconds of a duration; None for another text."""
    compact = text.strip().lower()
    if _PARTS.fullmatch(compact):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(compact))
    try:
        return parse_duration(text.strip().upper()).mean_length.total_seconds()
    except (ValueError, OverflowError):
        return None
