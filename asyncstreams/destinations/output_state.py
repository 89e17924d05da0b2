"""What an output holds, as values for its operator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..html_tables import html_table
from .ledger import RunTimes, StreamLedger
from .writer_protocol import OutputContents

StreamStatus: TypeAlias = Literal["complete", "unfinished", "being replaced", "reset", "sample"]


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What has been read of one partition of a stream, such as of one parent.

    partition: its keys; empty for a stream without partitions.
    cursor: the cursor value before which everything has been read; None without a cursor.
    intervals: the intervals read, half-open; a start of None means from the beginning.
    """

    partition: Mapping[str, Any]
    cursor: Any = None
    intervals: tuple[tuple[Any, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """What an output holds of one stream.

    rows: the visible rows, without those in quarantine.
    status: "complete"; "unfinished" if the last run was interrupted or slices failed; "being replaced" if the last run
        did not finish a replacement, so that the earlier rows are visible; "reset" after `reset`; "sample" if all rows
        are of a run that `limit` or `slices` narrowed.
    mode: "append", "replace" or "upsert", as in the last run.
    cursor: the cursor value before which everything has been read in all partitions; None without a cursor.
    partitions: the partitions that the next run does not read from the beginning.
    last_run: when the last run that read the stream began; None if no run did since it was reset.
    last_complete: when the stream was last read completely.
    """

    stream: str
    rows: int
    status: StreamStatus
    mode: str
    cursor: Any = None
    partitions: tuple[PartitionState, ...] = ()
    last_run: datetime | None = None
    last_complete: datetime | None = None

    def __str__(self) -> str:
        cursor = "" if self.cursor is None else f", read up to {self.cursor}"
        count = len(self.partitions)
        partitions = f", {count:,} partitions" if count > 1 else ""
        last_run = "" if self.last_run is None else f", last run {self.last_run:%Y-%m-%d %H:%M} UTC"
        return f"{self.rows:,} rows, {self.status}{cursor}{partitions}{last_run}"


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run into an output: when it began and ended, in UTC, and its streams.

    `ended_at` is None while the run is in progress, and if it was interrupted.
    """

    began_at: datetime
    ended_at: datetime | None
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputState(Mapping[str, StreamOutput]):
    """What an output holds: a mapping from stream names to StreamOutput. `print` shows one line per stream.

    path: the folder or file.
    streams: the streams by name, also as items of this mapping.
    last_run: the last run; None if there was none.
    """

    path: Path
    streams: Mapping[str, StreamOutput]
    last_run: LastRun | None = None

    def __getitem__(self, name: str) -> StreamOutput:
        return self.streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.streams)

    def __str__(self) -> str:
        width = max(map(len, self.streams), default=0)
        return "\n".join(f"{name:{width}}  {stream}" for name, stream in self.streams.items())

    def _repr_html_(self) -> str:
        header = ("stream", "rows", "status", "mode", "read up to", "partitions", "last run (UTC)")
        rows = [
            (
                name,
                stream.rows,
                stream.status,
                stream.mode,
                "" if stream.cursor is None else str(stream.cursor),
                len(stream.partitions) if len(stream.partitions) > 1 else None,
                "" if stream.last_run is None else f"{stream.last_run:%Y-%m-%d %H:%M}",
            )
            for name, stream in self.streams.items()
        ]
        return html_table(header, rows, str(self.path))


def output_state(path: str | os.PathLike[str], contents: OutputContents) -> OutputState:
    """The state of an output by what its writer found. Streams whose rows were dropped are left out."""
    streams = {
        name: _stream_output(name, stream, contents.rows.get(name, 0))
        for name, stream in contents.ledger.streams.items()
        if not stream.is_provisional or contents.rows.get(name, 0)
    }
    return OutputState(Path(path), streams, _last_run(contents.ledger.last_run))


def _stream_output(name: str, stream: StreamLedger, rows: int) -> StreamOutput:
    state = stream.state
    partitions = tuple(
        PartitionState(partition, view.frontier, tuple(view.done))
        for partition in (item["partition"] for item in state.to_json() if "partition" in item)
        for view in (state.of(partition),)
    )
    return StreamOutput(
        name,
        rows,
        _status(stream),
        stream.mode,
        state.frontier,
        partitions,
        _moment(stream.last_run),
        _moment(stream.last_complete.at),
    )


def _status(stream: StreamLedger) -> StreamStatus:
    if stream.is_provisional:
        return "sample"
    if stream.is_reset:
        return "reset"
    if stream.is_replaced:
        return "being replaced"
    return "unfinished" if stream.is_open or not stream.is_complete else "complete"


def _last_run(run: RunTimes | None) -> LastRun | None:
    if run is None:
        return None
    began_at, ended_at = _moment(run.began_at), _moment(run.ended_at)
    return None if began_at is None else LastRun(began_at, ended_at, tuple(run.streams))


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
