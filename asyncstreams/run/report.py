"""What was read in a run, stream by stream, and what was written of it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..sinks.ledger import Part


@dataclass(frozen=True, slots=True)
class Written:
    """What a run committed of one stream, into `folder`; `quarantined` are rows that are kept apart there.

    `was_read`: it had been read to its end before, in the same run, which was then ended by something else.
    """

    folder: Path
    parts: int = 0
    rows: int = 0
    bytes: int = 0
    quarantined: int = 0
    was_read: bool = False

    def with_parts(self, parts: Iterable[Part]) -> Written:
        """The same with parts that were committed."""
        rows = {"part": self.rows, "quarantined": self.quarantined}
        count, size = self.parts, self.bytes
        for part in parts:
            rows[part.kind] += part.rows
            count, size = count + 1, size + part.bytes
        return replace(self, parts=count, rows=rows["part"], bytes=size, quarantined=rows["quarantined"])

    def __str__(self) -> str:
        if self.was_read:
            return f"read before, to its end  {self.folder}"
        parts = f"{self.parts:,} part" + ("" if self.parts == 1 else "s")
        return f"{self.rows:,} rows in {parts}, {self.bytes:,} bytes  {self.folder}"


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was handed over of one stream; `slices` counts those that were read to their end.

    `written` is what became of it in files, where it was extracted into some; `lane` is how: "raw", as the records
    came, or "ordinary" and why each had to be made.
    """

    stream: str
    pages: int
    records: int
    quarantined: int
    slices: int
    failed: int
    lane: str = ""
    written: Written | None = None

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        few = "" if self.slices == 1 else "s"
        kept_back = f", {self.quarantined:,} quarantined" if self.quarantined else ""
        told = f"{self.records:,} records in {self.pages:,} pages of {self.slices:,} slice{few}{failed}{kept_back}"
        lane = f"  ({self.lane})" if self.lane else ""
        return told if self.written is None else f"{told}: {self.written}{lane}"


@dataclass(frozen=True, slots=True)
class RunReport:
    """One line for each stream that was read; `unavailable` maps the others to their reasons."""

    streams: tuple[StreamReport, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        lines = {one.stream: str(one) for one in self.streams}
        lines |= {name: f"unavailable: {reason}" for name, reason in self.unavailable.items()}
        width = max(map(len, lines), default=0)
        return "\n".join(f"{name:{width}}  {told}" for name, told in lines.items())
