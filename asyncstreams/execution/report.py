"""Reports of a run: what was read and written, by stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..destinations.ledger import JournalRecord, Part
from ..event_log.run_record import RunRecord, missed_first
from ..html_tables import Cell, html_table


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What a run committed of one stream, into the folder `path` or into `table` of the database at `path`.

    `quarantined` counts the rows that were written to quarantine, outside `rows`. With `was_read`, the stream was
    already read completely before the run was interrupted, so the resumed run did not read it again. For tables,
    `parts` and `bytes` are 0. `not_written_because` says why a run that was narrowed wrote nothing; "" if it did.
    """

    path: Path
    table: str = ""
    parts: int = 0
    rows: int = 0
    bytes: int = 0
    quarantined: int = 0
    was_read: bool = False
    not_written_because: str = ""

    def with_commit(self, commit: JournalRecord) -> WriteReport:
        """A copy that includes a commit of the stream, in the form that the journal holds."""
        rows = Counter({"part": commit.get("rows", 0), "quarantined": commit.get("quarantined", 0)})
        parts = [Part(*fields) for fields in commit.get("parts", ())]
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
        location = f"{self.path}, table {self.table}" if self.table else str(self.path)
        if self.was_read:
            return f"already complete before the interruption  {location}"
        if self.not_written_because:
            return f"not written, since {self.not_written_because}  {location}"
        if self.table:
            return f"{_counted(self.rows, 'row')}  {location}"
        return f"{_counted(self.rows, 'row')} in {_counted(self.parts, 'part')}, {self.bytes:,} bytes  {location}"

    def _repr_html_(self) -> str:
        header = ("rows", "parts", "bytes", "quarantined", "details")
        counts = (self.rows, self.parts or None, self.bytes or None, self.quarantined or None)
        return html_table(header, [(*counts, str(self))])


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was delivered of one stream; `slices` counts the completed slices, `failed` the failed ones.

    `ignored` counts the slices that ended because `classify` returned IGNORE for a response, such as a 304; `slices`
    does not include them. `missing` counts the slices of a substream that were left out, because the API refused their
    child or does not have it; `missing_children` names the first 100 of them, with the status. `repeated_pages` counts
    the pages beyond the end that repeated the last page; their records are left out. `outside_window` counts the
    records whose cursor lay outside of the window that they were requested for; they are left out, unless the stream
    sets `keep_outside`. `left_for_next_run` counts the records of the time that `settle` leaves for the next run; that
    time begins with the cursor value `left_from`, None if nothing is left. An API that filters by the bounds of windows
    does not send such records, so that the count is 0. `early_timeouts` counts the first tries that `adaptive_timeouts`
    ended.

    `written` describes the output, if the stream was extracted into files or tables. Then `raw_passthrough` says
    whether the records were copied as bytes; if they had to be decoded, `not_raw_because` has the reason.
    """

    stream: str
    pages: int
    records: int
    quarantined: int
    slices: int
    failed: int
    ignored: int = 0
    raw_passthrough: bool = False
    not_raw_because: str = ""
    repeated_pages: int = 0
    missing: int = 0
    missing_children: Mapping[str, int] = field(default_factory=dict[str, int])
    outside_window: int = 0
    left_for_next_run: int = 0
    left_from: Any = None
    early_timeouts: int = 0
    written: WriteReport | None = None

    def __str__(self) -> str:
        records, pages = _counted(self.records, "record"), _counted(self.pages, "page")
        counts = f"{records} in {pages} of {_counted(self.slices, 'slice')}"
        counts = ", ".join([counts, *_exceptions(self)])
        return counts if self.written is None else f"{counts}: {_describe_output(self, self.written)}"

    def _repr_html_(self) -> str:
        return _html_table([self], {}, "")


@dataclass(frozen=True, slots=True)
class RunReport:
    """The reports of all streams that were read; `unavailable` maps skipped streams to the reasons.

    `record` is the record of the run: what it did over time, what limited it, and what failed. It is None for reads
    that are not extractions, and with `event_log=False`.
    """

    streams: tuple[StreamReport, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
    record: RunRecord | None = None

    def __str__(self) -> str:
        lines = {report.stream: str(report) for report in self.streams}
        lines |= {name: f"unavailable: {reason}" for name, reason in self.unavailable.items()}
        width = max(map(len, lines), default=0)
        shown = [f"{name:{width}}  {line}" for name, line in lines.items()]
        if self.record is None:
            return "\n".join(shown)
        return "\n".join([*map(str, missed_first(self.record.thresholds)), *shown, self.record.verdict])

    def _repr_html_(self) -> str:
        record = self.record
        lines = [] if record is None else [*map(str, missed_first(record.thresholds)), record.verdict]
        return _html_table(self.streams, self.unavailable, "\n".join(filter(None, lines)))


def _html_table(streams: Sequence[StreamReport], unavailable: Mapping[str, str], caption: str) -> str:
    header = ("stream", "records", "pages", "slices", "details")
    rows: list[tuple[Cell, ...]] = [
        (report.stream, report.records, report.pages, report.slices, "\n".join(_details(report))) for report in streams
    ]
    rows += [(name, None, None, None, f"unavailable: {reason}") for name, reason in unavailable.items()]
    return html_table(header, rows, caption)


def _details(report: StreamReport) -> list[str]:
    """Lines: what is not among the delivered records, and the output."""
    lines = [", ".join(_exceptions(report))]
    if report.written is not None:
        lines.append(_describe_output(report, report.written))
    return [line for line in lines if line]


def _exceptions(report: StreamReport) -> list[str]:
    """What is not among the delivered records, and what was repeated."""
    counts = {
        "ignored": report.ignored,
        "missing": report.missing,
        "failed": report.failed,
        "repeated left out": report.repeated_pages,
        "outside their window": report.outside_window,
    }
    texts = [f"{count:,} {name}" for name, count in counts.items() if count]
    if report.left_from is not None:
        left = f"{report.left_for_next_run:,} " if report.left_for_next_run else ""
        texts.append(f"{left}from {report.left_from} on left for the next run")
    counts = {"slow tries repeated": report.early_timeouts, "quarantined": report.quarantined}
    return texts + [f"{count:,} {name}" for name, count in counts.items() if count]


def _describe_output(report: StreamReport, written: WriteReport) -> str:
    mode = f"decoded: {report.not_raw_because}" if report.not_raw_because else ""
    mode = "raw passthrough" if report.raw_passthrough else mode
    return f"{written}" + (f"  ({mode})" if mode else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
