"""Durations written as text, and steps of the calendar."""

from __future__ import annotations

import math
import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_SHORT = re.compile(r"(\d+)(s|min|h|d|w)")
_SHORT_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ISO = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{1,6})?)S)?)?")
_MEAN_MONTH = timedelta(days=365.2425 / 12)


@dataclass(frozen=True, slots=True)
class Duration:
    """A number of months and days of the calendar, and a fixed length of time after them."""

    months: int = 0
    days: int = 0
    time: timedelta = timedelta(0)

    @property
    def mean_length(self) -> timedelta:
        """The average length; the exact one of a duration without months, if no clocks are set."""
        return self.months * _MEAN_MONTH + timedelta(days=self.days) + self.time

    def moments_after(self, start: datetime, passed: timedelta) -> Iterator[datetime]:
        """The moments whole durations after an aware `start`, in ascending order, up to the year 9999.

        The first one is at most `passed` after `start`, except for the very first. Each is counted from `start`, so a
        day beyond the end of its month becomes the last one there, and stays itself in longer months.
        """
        # The calendar deviates from the mean by less than two durations.
        number = max(1, math.floor(passed / self.mean_length) - 2)
        while (moment := self._moment_after(start, number)) is not None:
            yield moment
            number += 1

    def _moment_after(self, start: datetime, number: int) -> datetime | None:
        """The moment `number` durations after `start`, or None beyond the year 9999."""
        try:
            year, month = divmod(start.year * 12 + start.month - 1 + self.months * number, 12)
            day = min(start.day, monthrange(year, month + 1)[1])
            # Python adds to the time on the clock, so days keep it when clocks are set; fixed times pass in UTC.
            moment = start.replace(year=year, month=month + 1, day=day) + timedelta(days=self.days * number)
            return (moment.astimezone(UTC) + self.time * number).astimezone(start.tzinfo) if self.time else moment
        except (ValueError, OverflowError):
            return None


def parse_duration(text: str) -> Duration:
    """A duration of ISO 8601 such as "P1M" or "PT12H", or a number of s, min, h, d or w such as "30d".

    Raises ValueError, or OverflowError beyond what a timedelta holds.
    """
    if short := _SHORT.fullmatch(text):
        length = timedelta(**{_SHORT_UNITS[short[2]]: int(short[1])})
        return Duration(days=length.days) if short[2] in "dw" else Duration(time=length)
    if (iso := _ISO.fullmatch(text)) and text[-1] not in "PT":
        years, months, weeks, days, hours, minutes = (int(group or 0) for group in iso.groups()[:6])
        time = timedelta(hours=hours, minutes=minutes, seconds=float(iso[7] or 0))
        return Duration(years * 12 + months, weeks * 7 + days, time)
    raise ValueError(f"{text!r} is not a duration")
