"""State progress of one slice, released as its pages are acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..messages import Response
from ..models import Record, Slice
from ..protocols import Stream
from .incremental import IncrementalPlan, SliceFilter
from .stream_selection import StateStore
from .stream_state import ResumePoint, StateDelta, StreamState


class SliceCheckpoint:
    """Pending state deltas of one slice, and the filter for its records.

    The state advances in page order: never past a page that is not acknowledged.
    `state_for_children` advances as soon as a page is registered: it is stored with the states of the children, once
    they have been read. `count_pending` is called with each change of the number of pending deltas.
    """

    def __init__(
        self,
        stream: Stream,
        state: StreamState,
        state_store: StateStore | None,
        state_for_children: StreamState | None,
        incremental: IncrementalPlan | None,
        stream_slice: Slice,
        count_pending: Callable[[int], None],
    ) -> None:
        self._stream, self._state, self._state_store = stream, state, state_store
        self._state_for_children = state_for_children
        self.partitions: Sequence[Mapping[str, Any]] = stream.partitions_of(stream_slice)
        self._filter = None
        if incremental is not None and stream_slice.has_interval:
            self._filter = SliceFilter(incremental, stream_slice, self.partitions[0])
        known = state.of(self.partitions[0]).partition()
        self.resume = known.resume if self._is_resumable and self._filter is None else None
        self._next_number = 0 if self.resume is None else self.resume.number
        self._acknowledged_early: set[int] = set()
        self._pending: deque[tuple[int, Sequence[StateDelta]]] = deque()
        self._count_pending = count_pending
        self._records_since = 0
        self._slice, self._has_rows = stream_slice, self.resume is not None
        self.has_progress = self.resume is not None
        """Whether the slice was resumed, or a delta before its last page was registered."""
        self.is_abandoned = False
        """Whether the slice will deliver no further pages, although it is incomplete."""

    @property
    def _is_resumable(self) -> bool:
        return self._stream.state_checkpoint_interval is not None and self._state_store is not None

    @property
    def filters_records(self) -> bool:
        """Whether `filter_page` may remove records."""
        return self._filter is not None

    def filter_page(self, records: list[Record], response: Response) -> list[Record]:
        """The records of a page that belong to the slice."""
        return records if self._filter is None else self._filter.filter_page(records, response)

    def register_page(self, number: int, count: int, token: Any, *, is_last: bool) -> None:
        """Register a page of `count` records before it is delivered; `token` is that of the next page."""
        if is_last and self._filter is not None:
            self._filter.finish()
        if self._state_store is None and self._state_for_children is None:
            return
        deltas: list[StateDelta] = []
        self._has_rows = self._has_rows or count > 0
        if is_last:
            if self._filter is None:
                deltas = [StateDelta(partition) for partition in self.partitions]
            elif (delta := self._filter.final_delta()) is not None:
                deltas = [delta]
        elif self._filter is not None:
            checkpoint = self._filter.add_page(count)
            deltas = [] if checkpoint is None else [checkpoint]
        elif self._is_resumable and _is_storable(token) and len(self.partitions) == 1:
            self._records_since += count
            if self._records_since >= (self._stream.state_checkpoint_interval or 0):
                self._records_since = 0
                deltas = [StateDelta(self.partitions[0], resume=ResumePoint(token, number + 1))]
        if is_last and deltas and self._has_rows and (children := self._new_children()):
            deltas[-1] = replace(deltas[-1], children=children)
        if self._state_for_children is not None:
            for delta in deltas:
                self._state_for_children.apply(delta)
        if deltas and self._state_store is not None:
            self.has_progress = self.has_progress or not is_last
            self._pending.append((number, deltas))
            self._count_pending(1)

    def _new_children(self) -> Sequence[str]:
        """The keys of the children of the slice that are not known to have rows."""
        keys = map(self._state.child_key, self._stream.children_of(self._slice))
        return list(filter(self._state.children.accepts, keys))

    def next_range(self) -> Slice | None:
        """The range to read after this slice, if the cursor grows without end; otherwise None."""
        return None if self._filter is None else self._filter.next_range()

    def discard_last(self) -> None:
        """Drop the delta of the page registered last, because the page is delivered in part."""
        if self._pending:
            self._pending.pop()
            self._count_pending(-1)

    def ack(self, number: int) -> None:
        """Acknowledge a page; the state advances over all pages up to the first unacknowledged one."""
        self._acknowledged_early.add(number)
        while self._next_number in self._acknowledged_early:
            self._acknowledged_early.remove(self._next_number)
            self._next_number += 1
        deltas = self.pop_due(self._next_number - 1)
        for delta in deltas:
            self._state.apply(delta)
        if deltas and self._state_store is not None:
            self._state_store.mark_progress(self._stream.name)

    def pop_due(self, number: int) -> Sequence[StateDelta]:
        """Remove and return the deltas of the pages up to `number`; the caller must store them."""
        deltas: list[StateDelta] = []
        while self._pending and self._pending[0][0] <= number:
            deltas += self._pending.popleft()[1]
            self._count_pending(-1)
        return deltas


def _is_storable(token: Any) -> bool:
    """Whether a page token may be stored: URLs may contain secrets, and expire."""
    return isinstance(token, int | str) and not (isinstance(token, str) and "://" in token)
