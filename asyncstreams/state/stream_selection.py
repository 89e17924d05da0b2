"""Streams selected for a run, and the interface of the store that keeps their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from ..cursors.cursor_format import CursorFormat
from ..declaration.checks import check_cursor
from ..protocols import SliceInput, Stream
from .compatibility import identity_of
from .stream_state import StreamState, empty_state, merge_state


class ReadOutcome(Protocol):
    """The result of reading one stream."""

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether every page that carries state progress was acknowledged."""
        ...


class StateStore(Protocol):
    """Keeps the state of streams from one run to the next."""

    def check_stream(self, stream: Stream) -> None:
        """Raises StateIncompatible if the stored state belongs to another stream; called once all options are set."""
        ...

    @property
    def needs_schema(self) -> bool:
        """Whether `describe_stream` needs the schema even if records are not validated."""
        ...

    def describe_stream(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        """Called before the first page of a stream; `schema` is None if there is none, or none is needed."""
        ...

    def mark_progress(self, stream: str) -> None:
        """Called after the state of a stream has advanced."""
        ...

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """Called when a stream has been read completely; its last pages may not be acknowledged yet.

        `parents` maps the names of its parents to the states from which its slices were made.
        """
        ...


class StreamSelection(NamedTuple):
    """A stream selected for a run, with its slices, its state and the maximum number of records.

    A stream that is not `is_emitted` is read only for its children. A `state_store` keeps `state`, which is then a
    StreamState. With `raw_passthrough` pages hold `Lines` instead of records and of quarantined records. With
    `feeds_children` the children store its state together with theirs.
    """

    stream: Stream
    slices: SliceInput | None
    state: Mapping[str, Any]
    limit: int | None
    is_emitted: bool = True
    state_store: StateStore | None = None
    raw_passthrough: bool = False
    feeds_children: bool = False

    @property
    def has_state_store(self) -> bool:
        """Whether a later run reads what this run leaves."""
        return self.state_store is not None or self.feeds_children

    @property
    def reads_everything(self) -> bool:
        """Whether the run reads the complete stream."""
        only_new = self.has_state_store and bool(self.stream.cursor_field)
        return self.slices is None and self.limit is None and not self.state and not only_new


def state_of(stream: Stream, state: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The state passed to hooks: a StreamState for incremental streams, for others the caller's own mapping."""
    if isinstance(state, StreamState):
        return state
    check_cursor(type(stream).__name__, stream)
    if not stream.cursor_field and not stream.incremental_dependency:
        return {} if state is None else state
    return merge_state(empty_state(identity_of(stream)), state or {})


def cursor_of(stream: Stream) -> CursorFormat:
    """The format of a stream's cursor values. Raises ConfigError."""
    return CursorFormat(stream.cursor_format, stream.cursor_timezone)
