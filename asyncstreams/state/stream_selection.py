"""Streams selected for a run, and the interface of the store that keeps their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from ..declaration.settings import check_cursor
from ..declaration.stream import Stream
from ..models import Slice
from ..protocols import SliceInput
from .airbyte_state import StateInput, merge_airbyte_state, state_for
from .compatibility import identity_of
from .stream_state import StreamState, empty_state


class ReadOutcome(Protocol):
    """The result of reading one stream."""

    @property
    def is_fully_acknowledged(self) -> bool:
        """Whether every page that carries state progress was acknowledged."""
        ...

    @property
    def missing_children(self) -> Mapping[str, int]:
        """Slices that were left out, because their children are refused or missing, as texts, with their statuses."""
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

    def record_failure(self, stream: Stream, stream_slice: Slice, error: Exception) -> None:
        """Called when a slice has failed."""
        ...

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """Called when a stream has been read completely; its last pages may not be acknowledged yet.

        `parents` maps the names of its parents to the states from which its slices were made.
        """
        ...


class StreamSelection(NamedTuple):
    """A stream selected for a run, with its slices, its state and the maximum number of records.

    A stream that is not `is_emitted` is read only for its children. A `state_store` keeps `state`, which is then a
    StreamState. With `raw_passthrough` pages hold lines instead of records, and of quarantined records. With
    `replaces_surrogates` lone surrogates in responses become U+FFFD; otherwise they are an error. With
    `feeds_children` the children store its state together with theirs. `cursor_range` are the bounds between which the
    run reads, as the caller gave them.
    """

    stream: Stream
    slices: SliceInput | None
    state: Mapping[str, Any]
    limit: int | None
    is_emitted: bool = True
    state_store: StateStore | None = None
    raw_passthrough: bool = False
    replaces_surrogates: bool = False
    feeds_children: bool = False
    cursor_range: tuple[Any, Any] = (None, None)

    @property
    def has_state_store(self) -> bool:
        """Whether a later run reads what this run leaves."""
        return self.state_store is not None or self.feeds_children

    @property
    def reads_everything(self) -> bool:
        """Whether the run reads the complete stream."""
        only_new = self.has_state_store and bool(self.stream.resolved.cursor_field)
        return self.slices is None and self.limit is None and not self.state and not only_new


def state_of(stream: Stream, state: StateInput) -> Mapping[str, Any]:
    """The state passed to hooks: a StreamState for incremental streams, for others the caller's own mapping."""
    if isinstance(state, StreamState):
        return state
    check_cursor(type(stream).__name__, stream.resolved)
    given: Mapping[str, Any] = {} if state is None else state_for(stream, state)
    if not stream.resolved.cursor_field and not stream.resolved.incremental_dependency:
        return given
    return merge_airbyte_state(stream, empty_state(identity_of(stream)), given)
