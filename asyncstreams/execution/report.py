"""What was read in a run, stream by stream, and what was written of it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..destinations.ledger import Part, Record


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What a run committed of one stream, into the folder `path`, or into the `table` of the database there.

    `quarantined` are rows that are kept apart. `was_read`: it had been read to its end before, in the same run, which
    was then ended by something else. Tables have no `parts`, and no `bytes` of their own.
    """

    path: Path
    table: str = ""
    parts: int = 0
    rows: int = 0
    bytes: int = 0
    quarantined: int = 0
    was_read: bool = False

    def with_commit(self, told: Record) -> WriteReport:
        """The same with what a commit says of the stream."""
        rows = Counter({"part": told.get("rows", 0), "quarantined": told.get("quarantined", 0)})
        parts = [Part(*one) for one in told.get("parts", ())]
        for part in parts:
            rows[part.kind] += part.rows
        return replace(
            self,
            parts=self.parts + len(parts),
            rows=self.rows + rows["part"],
            bytes=self.bytes + sum(part.bytes for part in parts),
            quarantined=self.quarantined + rows["quarantined"],
        )

    def __str__(self) -> str:
        place = f"{self.path}, table {self.table}" if self.table else str(self.path)
        if self.was_read:
            return f"read before, to its end  {place}"
        if self.table:
            return f"{self.rows:,} rows  {place}"
        parts = f"{self.parts:,} part" + ("" if self.parts == 1 else "s")
        return f"{self.rows:,} rows in {parts}, {self.bytes:,} bytes  {place}"


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was handed over of one stream; `slices` counts those that were read to their end.

    `written` describes the output, if the stream was extracted into files or tables. Then `raw_passthrough` says
    whether the records were copied as bytes; if they had to be decoded, `not_raw_because` has the reason.
    """

    stream: str
    pages: int
    records: int
    quarantined: int
    slices: int
    failed: int
    raw_passthrough: bool = False
    not_raw_because: str = ""
    written: WriteReport | None = None

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        few = "" if self.slices == 1 else "s"
        kept_back = f", {self.quarantined:,} quarantined" if self.quarantined else ""
        told = f"{self.records:,} records in {self.pages:,} pages of {self.slices:,} slice{few}{failed}{kept_back}"
        how = (
            "raw passthrough"
            if self.raw_passthrough
            else f"decoded: {self.not_raw_because}"
            if self.not_raw_because
            else ""
        )
        if self.written is None:
            return told
        return f"{told}: {self.written}" + (f"  ({how})" if how else "")


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
