"""What is to be read in a run, and who remembers how far it came?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..cursors.cursor_format import CursorFormat
from ..declaration.checks import check_cursor
from ..protocols import SliceInput, Stream
from .compatibility import identity_of
from .stream_state import StreamState, empty_state, take_state


class ReadOutcome(Protocol):
    """What was read of one stream."""

    @property
    def is_safe(self) -> bool:
        """Whether all that was promised is kept."""
        ...


class StateStore(Protocol):
    """Who keeps the state of streams from one run to the next."""

    def check(self, stream: Stream) -> None:
        """Raises StateIncompatible where what is kept is of something else; the stream has all its options."""
        ...

    @property
    def needs_schema(self) -> bool:
        """Whether it is told of schemas that nothing is held against, too."""
        ...

    def described(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        """Comes before the first page of a stream; None: it has no schema, or none that is needed."""
        ...

    def moved(self, stream: str) -> None:
        """The state of a stream has changed."""
        ...

    def ended(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """All of a stream has been read, and its last pages are on their way; `parents`: what it was read of."""
        ...


@dataclass(frozen=True, slots=True)
class StreamSelection:
    """A stream that is to be read, and what of it: `limit` is a number of records.

    One that is not emitted is read for its children only. `keeper` keeps `state`, which is a StreamState then. Where
    it `takes_lines` its pages hold `Lines` in place of records, and of those that are kept back. One that
    `is_carried` is read for children that keep its state with theirs.
    """

    stream: Stream
    slices: SliceInput | None
    state: Mapping[str, Any]
    limit: int | None
    is_emitted: bool = True
    keeper: StateStore | None = None
    takes_lines: bool = False
    is_carried: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether somebody comes back for what this reading leaves."""
        return self.keeper is not None or self.is_carried

    @property
    def reads_everything(self) -> bool:
        """Whether all of the stream is to be read."""
        is_of_new = self.is_kept and bool(self.stream.cursor_field)
        return self.slices is None and self.limit is None and not self.state and not is_of_new


def state_of(stream: Stream, told: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A state as hooks find it: that of a stream with a cursor knows intervals, others are the author's business."""
    if isinstance(told, StreamState):
        return told
    check_cursor(type(stream).__name__, stream)
    if not stream.cursor_field and not stream.incremental_dependency:
        return {} if told is None else told
    return take_state(empty_state(identity_of(stream)), told or {})


def cursor_of(stream: Stream) -> CursorFormat:
    """How the cursor of a stream is written. Raises ConfigError."""
    return CursorFormat(stream.cursor_format, stream.cursor_timezone)
