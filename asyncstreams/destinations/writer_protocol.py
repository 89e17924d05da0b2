"""Protocol of destination writers, which commit records and state together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .ledger import JournalRecord, Ledger
from .row_order import RowOrder


class Chunk(NamedTuple):
    """JSON lines of one page, `rows` of them; `kind` is "part", or "quarantined" for records that failed validation."""

    kind: str
    lines: bytes
    rows: int


class CommitPayload(NamedTuple):
    """What a commit adds to one stream.

    `journal_entry` is the stream's entry in the journal record. `chunks` holds lines by batch id; they follow the lines
    that were written ahead under the same id, if any.
    """

    journal_entry: Mapping[str, Any]
    chunks: Mapping[Hashable, Sequence[Chunk]]


class StreamSchema(NamedTuple):
    """What is known about a stream before its first record.

    `key` are the paths of the primary key, and `schema` is the JSON schema. `order` ranks the versions of a row, if the
    stream has a cursor.
    """

    key: Sequence[Sequence[str]] = ()
    order: RowOrder | None = None
    schema: Mapping[str, Any] | None = None


class FailedSlice(NamedTuple):
    """A slice that failed: its partition keys and interval, and the number of the page.

    `status` is that of the response, and `time` is in ISO 8601. It contains neither records nor secrets.
    """

    stream: str
    slice: Mapping[str, Any]
    page: int | None
    status: int | None
    message: str
    time: str


MAX_FAILURES_KEPT = 10_000
"""An output keeps its last 10,000 failed slices."""


class StoredRun(NamedTuple):
    """The record of a run: its id, which sorts by time, its JSON, and where it is, for messages."""

    id: str
    record: bytes
    location: str = ""


MAX_RUNS_KEPT = 100
"""An output keeps the records of its last 100 runs."""


class OutputContents(NamedTuple):
    """What an output holds: its ledger, and the number of visible rows of each stream."""

    ledger: Ledger
    rows: Mapping[str, int]


class DestinationWriter(Protocol):
    """Writes one output, which one process holds at a time. All methods block; one caller at a time.

    All methods raise OutputWriteError; after it the writer can only be closed.
    """

    @property
    def ledger(self) -> Ledger:
        """Everything that has been committed. The caller applies commits to it, the writer all other records."""
        ...

    def open(self, now: float) -> None:
        """Lock the output and restore it to its last commit.

        Raises OutputLocked, OutputMissing, StateCorrupt and StateIncompatible too.
        """
        ...

    def begin_run(self, record: JournalRecord) -> None:
        """Record the start of a run. Raises ConfigError if its streams cannot be written to this output.

        `keys` of the record has the paths of the primary key of each stream that is upserted.
        """
        ...

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        """Accept the schema of a stream; called before its first line."""
        ...

    def write(self, stream: str, batch_id: Hashable, chunks: Iterable[Chunk]) -> None:
        """Write lines ahead of their commit; they stay invisible until a commit names their batch id."""
        ...

    def drop(self, batch_id: Hashable) -> None:
        """Discard the lines that were written ahead under this id."""
        ...

    def commit(self, streams: Mapping[str, CommitPayload]) -> JournalRecord:
        """Commit lines and state together; return the record, which the caller has yet to apply to the ledger."""
        ...

    def finish_stream(self, record: JournalRecord) -> None:
        """Mark the stream of `record` as completely read; its hidden records replace the visible ones."""
        ...

    def end_run(self, record: JournalRecord) -> None:
        """Record the end of the run, so that the next run does not resume it."""
        ...

    def record_failures(self, failures: Sequence[FailedSlice]) -> None:
        """Append failed slices to those that the output keeps."""
        ...

    def save_run(self, run: StoredRun) -> None:
        """Store the record of a run, which replaces an earlier one with the same id; the last 100 runs are kept."""
        ...

    def load_runs(self, limit: int) -> Sequence[StoredRun]:
        """The records of the last runs, the newest first. The output may be open, or not.

        Raises OutputLocked, StateCorrupt and StateIncompatible too.
        """
        ...

    def inspect(self) -> OutputContents:
        """Read what the output holds, without opening or changing it.

        Raises OutputLocked, StateCorrupt and StateIncompatible too.
        """
        ...

    def reset(self, record: JournalRecord) -> None:
        """Forget the state of streams as `record` says, and remove the rows that do not stay. The output is open."""
        ...

    def maintain(self, *, is_end: bool = False) -> None:
        """Do the periodic work that is due, such as a snapshot; at the end of a run do all of it."""
        ...

    def close(self) -> None:
        """Discard what was not committed, and release the output."""
        ...

    def location_of(self, stream: str) -> tuple[Path, str]:
        """Where the records of a stream are: a folder and "", or a file and the name of its table."""
        ...
