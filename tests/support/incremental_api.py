"""A wall clock and cursor values for the tests of incremental reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from asyncstreams.testing import VirtualClock

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class WallClock(VirtualClock):
    """A virtual clock whose wall time is `seconds` after BEGIN; only the test changes it."""

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds

    def wall(self) -> float:
        return BEGIN.timestamp() + self.seconds


def timestamp(seconds: float) -> str:
    """The cursor value of a moment, in seconds after BEGIN: ISO 8601 in UTC, to the second."""
    return (BEGIN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
