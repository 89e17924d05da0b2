"""What must a destination of our own be able to do, so that what is read and how far belong to the same commits?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .ledger import Ledger, Record


class Chunk(NamedTuple):
    """The lines of a page, `rows` of them: of the kind "part", or "quarantined" where a schema kept them back."""

    kind: str
    lines: bytes
    rows: int


class CommitPayload(NamedTuple):
    """What a commit brings for one stream: what its record says, and by owner the lines that follow those which the
    owner has written before, if any."""

    told: Mapping[str, Any]
    chunks: Mapping[Hashable, Sequence[Chunk]]


class StreamSchema(NamedTuple):
    """What is known of the records of a stream before the first one: fields of the primary key, the field of the
    cursor where later is greater as it is written, and the JSON schema."""

    key: Sequence[str] = ()
    cursor: str | None = None
    schema: Mapping[str, Any] | None = None


class DestinationWriter(Protocol):
    """One output, held by one process at a time. Blocking; one caller at a time.

    Raises OutputWriteError, after which it is only to be closed.
    """

    @property
    def ledger(self) -> Ledger:
        """What has been committed. A commit is applied to it by its caller, all else by the output."""
        ...

    def open(self, now: float) -> None:
        """Hold it, and bring it to where it was committed last.

        Raises OutputLocked, OutputMissing, StateCorrupt and StateIncompatible too.
        """
        ...

    def begin(self, record: Record) -> None:
        """A run begins."""
        ...

    def describe(self, stream: str, shape: StreamSchema) -> None:
        """Comes before the first line of a stream."""
        ...

    def write(self, stream: str, owner: Hashable, chunks: Iterable[Chunk]) -> None:
        """Lines for a commit that is yet to come: nobody sees them before their owner is committed."""
        ...

    def drop(self, owner: Hashable) -> None:
        """What the owner has written is not wanted."""
        ...

    def commit(self, streams: Mapping[str, CommitPayload]) -> Record:
        """From now on these lines count, with all that is known because of them.

        The record that is given back is yet to be applied to the ledger, by whoever reads that.
        """
        ...

    def finish(self, stream: str, parents: Mapping[str, Any]) -> None:
        """A stream has been read as a whole: what is hidden of it takes the place of what can be seen.

        `parents` is the state of those of which it reads only new ones, as JSON values.
        """
        ...

    def end(self) -> None:
        """The run has come to its end: the next one begins anew."""
        ...

    def tidy(self, *, is_end: bool = False) -> None:
        """What need not be done with each commit, where it is time for it; at the end of a run all of it."""
        ...

    def close(self) -> None:
        """Give up what was not committed."""
        ...

    def place_of(self, stream: str) -> tuple[Path, str]:
        """Where the records of a stream are: a folder, or a file and the name of a table in it."""
        ...
