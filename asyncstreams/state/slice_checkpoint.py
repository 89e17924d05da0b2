"""When does a state move: what of a slice is known when which of its pages are safe?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..cursors.intervals import Point
from ..messages import Response
from ..models import Record, Slice
from ..protocols import Stream
from .incremental import IncrementalPlan, SliceFilter
from .stream_selection import StateStore
from .stream_state import ResumePoint, StateDelta, StreamState


class SliceCheckpoint:
    """One slice whose state is kept: which of its records are wanted, and what its pages promise.

    A state never moves past a page that is not acknowledged: it waits for those before it as well. One that is
    `carried` does: it counts when children of all that it knows of have been read.
    """

    def __init__(
        self,
        stream: Stream,
        state: StreamState,
        keeper: StateStore | None,
        carried: StreamState | None,
        incremental: IncrementalPlan | None,
        part: Slice,
        owe: Callable[[int], None],
    ) -> None:
        self._stream, self._state, self._keeper, self._carried = stream, state, keeper, carried
        self.partitions: Sequence[Mapping[str, Any]] = stream.partitions_of(part)
        self._window = None
        if incremental is not None and part.interval is not None:
            self._window = SliceFilter(incremental, part, self.partitions[0])
        known = state.of(self.partitions[0]).partition()
        self.resume = known.resume if self._may_resume and self._window is None else None
        self._next = 0 if self.resume is None else self.resume.number
        self._early: set[int] = set()
        self._owed: deque[tuple[int, Sequence[StateDelta]]] = deque()
        self._owe = owe
        self._since = 0
        self.has_moved = self.resume is not None
        self.is_over = False
        """Whether nothing more comes of it, though it was not read to its end."""

    @property
    def lookback(self) -> Point:
        """How far behind its end rows may come again."""
        return self._state.lookback

    @property
    def _may_resume(self) -> bool:
        return self._stream.state_checkpoint_interval is not None and self._keeper is not None

    @property
    def chooses(self) -> bool:
        """Whether some records may not belong to the slice."""
        return self._window is not None

    def chosen(self, records: list[Record], response: Response) -> list[Record]:
        """Of the records of a page those that belong to the slice."""
        return records if self._window is None else self._window.page(records, response)

    def made(self, number: int, count: int, token: Any, *, is_last: bool) -> None:
        """A page of so many records will be handed over; `token` is that of the next one, where it may be kept."""
        if self._keeper is None and self._carried is None:
            return
        deltas: list[StateDelta] = []
        if is_last:
            deltas = [StateDelta(one) for one in self.partitions] if self._window is None else [self._window.finished()]
        elif self._window is not None:
            checkpoint = self._window.checkpoint(count)
            deltas = [] if checkpoint is None else [checkpoint]
        elif self._may_resume and _may_be_kept(token) and len(self.partitions) == 1:
            self._since += count
            if self._since >= (self._stream.state_checkpoint_interval or 0):
                self._since = 0
                deltas = [StateDelta(self.partitions[0], resume=ResumePoint(token, number + 1))]
        if self._carried is not None:
            for delta in deltas:
                self._carried.apply(delta)
        if deltas and self._keeper is not None:
            self.has_moved = self.has_moved or not is_last
            self._owed.append((number, deltas))
            self._owe(1)

    def cut(self) -> None:
        """The page that was made last is handed over in part."""
        if self._owed:
            self._owed.pop()
            self._owe(-1)

    def ack(self, number: int) -> None:
        self._early.add(number)
        while self._next in self._early:
            self._early.remove(self._next)
            self._next += 1
        moved = self.due(self._next - 1)
        for delta in moved:
            self._state.apply(delta)
        if moved and self._keeper is not None:
            self._keeper.moved(self._stream.name)

    def due(self, number: int) -> Sequence[StateDelta]:
        """What is known when the pages up to this one are safe; whoever asks sees to it that it becomes so."""
        found: list[StateDelta] = []
        while self._owed and self._owed[0][0] <= number:
            found += self._owed.popleft()[1]
            self._owe(-1)
        return found


def _may_be_kept(token: Any) -> bool:
    """Whether a page token may be written down: URLs may hold secrets, and are good for a while only."""
    return isinstance(token, int | str) and not (isinstance(token, str) and "://" in token)
