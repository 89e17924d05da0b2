"""State progress of one slice, released as its pages are acknowledged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..declaration.stream import Stream
from ..messages import Response
from ..models import Record, Slice
from .incremental import IncrementalPlan
from .slice_filter import SliceFilter
from .stream_selection import StateStore
from .stream_state import ResumePoint, StateDelta, StreamState


class SliceCheckpoint:
    """The state deltas of one slice, and the filter for its records.

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
        self._filter = self._pages = None
        if incremental is not None and stream_slice.has_interval:
            self._filter = SliceFilter(incremental, stream_slice, self.partitions[0])
        elif state_store is not None and (interval := stream.resolved.state_checkpoint_interval) is not None:
            self._pages = _ResumablePages(interval, state.progress_of(self.partitions[0]).resume)
        self._pending = _PendingDeltas(0 if self.resume is None else self.resume.number, count_pending)
        self._slice, self._has_rows = stream_slice, self.resume is not None
        self.has_progress = self.resume is not None
        """Whether the slice was resumed, or a delta before its last page was registered."""
        self.is_abandoned = False
        """Whether the slice will deliver no further pages, although it is incomplete."""

    @property
    def resume(self) -> ResumePoint | None:
        """The page at which an earlier run stopped; None to begin with the first one."""
        return None if self._pages is None else self._pages.first

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
        self._has_rows = self._has_rows or count > 0
        deltas = self._final_deltas() if is_last else self._deltas_after(number, count, token)
        if self._state_for_children is not None:
            for delta in deltas:
                self._state_for_children.apply(delta)
        if deltas and self._state_store is not None:
            self.has_progress = self.has_progress or not is_last
            self._pending.add(number, deltas)

    def _deltas_after(self, number: int, count: int, token: Any) -> Sequence[StateDelta]:
        """The progress at a page with others after it, if a checkpoint is due."""
        if self._filter is not None:
            delta = self._filter.add_page(count)
            return () if delta is None else (delta,)
        if self._pages is None or len(self.partitions) > 1:
            return ()
        resume = self._pages.add_page(number, count, token)
        return () if resume is None else (StateDelta(self.partitions[0], resume=resume),)

    def _final_deltas(self) -> Sequence[StateDelta]:
        """The progress of the complete slice, with the keys of its children that are not known to have rows."""
        if self._filter is None:
            deltas = [StateDelta(partition) for partition in self.partitions]
        else:
            deltas = [] if (delta := self._filter.final_delta()) is None else [delta]
        if deltas and self._has_rows:
            keys = map(self._state.child_key, self._stream.children_of(self._slice))
            if children := list(filter(self._state.children.accepts, keys)):
                deltas[-1] = replace(deltas[-1], children=children)
        return deltas

    def next_range(self) -> Slice | None:
        """The range to read after this slice, if the cursor grows without end; otherwise None."""
        return None if self._filter is None else self._filter.next_range()

    def discard_last(self) -> None:
        """Drop the delta of the page registered last, because the page is delivered in part."""
        self._pending.discard_last()

    def ack(self, number: int) -> None:
        """Acknowledge a page; the state advances over all pages up to the first unacknowledged one."""
        deltas = self._pending.ack(number)
        for delta in deltas:
            self._state.apply(delta)
        if deltas and self._state_store is not None:
            self._state_store.mark_progress(self._stream.name)

    def pop_due(self, number: int) -> Sequence[StateDelta]:
        """Remove and return the deltas of the pages up to `number`; the caller must store them."""
        return self._pending.pop_due(number)


class _PendingDeltas:
    """The deltas of one slice in the order of its pages, until these are acknowledged, in any order."""

    __slots__ = ("_count", "_deltas", "_early", "_next_number")

    def __init__(self, first_number: int, count: Callable[[int], None]) -> None:
        self._next_number, self._count = first_number, count
        self._early: set[int] = set()  # acknowledged before the pages that precede them
        self._deltas: deque[tuple[int, Sequence[StateDelta]]] = deque()

    def add(self, number: int, deltas: Sequence[StateDelta]) -> None:
        self._deltas.append((number, deltas))
        self._count(1)

    def discard_last(self) -> None:
        if self._deltas:
            self._deltas.pop()
            self._count(-1)

    def ack(self, number: int) -> Sequence[StateDelta]:
        """Remove and return the deltas up to the first page that is not acknowledged."""
        self._early.add(number)
        while self._next_number in self._early:
            self._early.remove(self._next_number)
            self._next_number += 1
        return self.pop_due(self._next_number - 1)

    def pop_due(self, number: int) -> Sequence[StateDelta]:
        """Remove and return the deltas of the pages up to `number`."""
        deltas: list[StateDelta] = []
        while self._deltas and self._deltas[0][0] <= number:
            deltas += self._deltas.popleft()[1]
            self._count(-1)
        return deltas


class _ResumablePages:
    """The pages of a slice without interval: where an earlier run stopped, and where the next one may resume."""

    __slots__ = ("_interval", "_records", "first")

    def __init__(self, interval: int, first: ResumePoint | None) -> None:
        self._interval, self.first = interval, first
        self._records = 0  # since the last checkpoint

    def add_page(self, number: int, count: int, token: Any) -> ResumePoint | None:
        """The page after this one, if `interval` records have been read; URLs may contain secrets, and expire."""
        if not isinstance(token, int | str) or (isinstance(token, str) and "://" in token):
            return None
        self._records += count
        if self._records < self._interval:
            return None
        self._records = 0
        return ResumePoint(token, number + 1)
