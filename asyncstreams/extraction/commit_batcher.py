"""What is committed together, and when? Slices that have ended, at the next moment that is worth it. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from ..cursors.intervals import Point
from ..destinations.writer_protocol import Chunk
from ..models import Page
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import StateDelta

_LARGE = 8 * 2**20
_WORTH_A_FILE = 2**20
_MANY_OPEN, _MOST_OPEN = 16 * 2**20, 64 * 2**20
_SHARE = 0.01
_LEAST, _MOST = 1.0, 60.0


@dataclass(slots=True)
class ChunkBuffer:
    """Lines in memory, of `size` bytes."""

    chunks: list[Chunk] = field(default_factory=list[Chunk])
    size: int = 0

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk.lines)

    def move_to(self, other: ChunkBuffer) -> None:
        """Give all of them to it."""
        other.chunks += self.chunks
        other.size += self.size
        self.taken()

    def taken(self) -> Sequence[Chunk]:
        """All of them, which are held no longer."""
        chunks, self.chunks, self.size = self.chunks, [], 0
        return chunks


@dataclass(slots=True)
class OpenSlice:
    """A slice whose end has not come: its lines, and what will be known when they are safe."""

    stream: str
    promise: SliceCheckpoint
    cut_at: float
    held: ChunkBuffer = field(default_factory=ChunkBuffer)
    deltas: list[StateDelta] = field(default_factory=list[StateDelta])
    covered: int | None = None
    """How many of the chunks that are held belong to the deltas; None: not even all that were given away do."""
    owner: Hashable | None = None
    """Of a file with lines that could not be held."""


@dataclass(slots=True)
class StreamBatch:
    """What is to be committed of one stream: the lines that are held, by the owner of those before them."""

    held: dict[Hashable, ChunkBuffer] = field(default_factory=dict[Hashable, ChunkBuffer])
    deltas: list[StateDelta] = field(default_factory=list[StateDelta])
    lookback: Point = 0
    shared: Hashable = field(default_factory=object)
    """The owner of what small slices have."""


class CommitBatcher:
    """Gathers pages into commits.

    Parts are read by people and by tools that open each of them, so there should not be many: a commit comes when the
    slices that have ended have `enough` bytes, or when a hundredth of the time since the beginning has passed since
    the one before, at least 1 s and at most 60 s. That is also the most that a kill costs, beside the slices that are
    open. `is_eager`: each slice is committed when it ends.
    """

    def __init__(self, now: float, enough: int, *, is_eager: bool) -> None:
        self._begun_at = self._committed_at = now
        self._enough, self._is_eager = enough, is_eager
        self._open: dict[SliceCheckpoint, OpenSlice] = {}
        self._open_size = 0
        self._ready: dict[str, StreamBatch] = {}
        self._ready_size = 0
        self._to_write: list[tuple[str, Hashable]] = []

    def take(self, page: Page, chunks: Iterable[Chunk], now: float) -> None:
        """A page's lines. What is known when they are safe is owed by the commit that they will be part of."""
        promise = cast(SliceCheckpoint, page.promise)
        one = self._open.get(promise)
        if one is None:
            one = self._open[promise] = OpenSlice(page.stream, promise, now)
        for chunk in chunks:
            one.held.add(chunk)
            self._open_size += len(chunk.lines)
        if known := promise.due(page.number):
            one.deltas += known
            one.covered = len(one.held.chunks)
        if page.is_last:
            self._join(one)
            del self._open[promise]
        elif known and now - one.cut_at >= self._pause(now):
            self._join(one)
            one.cut_at = now

    def too_large(self) -> tuple[str, Hashable, Sequence[Chunk]] | None:
        """A stream, and the owner of lines that must be given away since too many are held, and these."""
        if self._to_write:
            stream, owner = self._to_write.pop()
            return stream, owner, self._ready[stream].held[owner].taken()
        if self._open_size <= _MANY_OPEN:
            return None
        largest = max(self._open.values(), key=lambda one: one.held.size)
        if largest.held.size < _WORTH_A_FILE and self._open_size <= _MOST_OPEN:
            return None
        largest.owner = largest.owner or object()
        largest.covered = 0 if largest.covered == len(largest.held.chunks) else None
        self._open_size -= largest.held.size
        return largest.stream, largest.owner, largest.held.taken()

    def over(self) -> Sequence[Hashable]:
        """Forget the slices of which nothing more comes; the owners of what nobody wants of them."""
        over = [one for one in self._open.values() if one.promise.is_over]
        for one in over:
            self._join_covered(one)
            del self._open[one.promise]
        return [one.owner for one in over if one.owner is not None]

    def cut(self) -> None:
        """Nothing more comes of any slice."""
        for one in self._open.values():
            self._join_covered(one)

    def due_in(self, now: float, *, more: bool = False) -> float | None:
        """Seconds until what is gathered is to be committed; None: there is nothing, nor is there `more`."""
        if not self._ready and not more:
            return None
        return 0.0 if self._ready_size >= self._enough else max(0.0, self._committed_at + self._pause(now) - now)

    def taken(self, now: float) -> dict[str, StreamBatch]:
        """What is gathered, for a commit that begins now."""
        ready, self._ready = self._ready, {}
        self._ready_size = 0
        self._to_write.clear()
        self._committed_at = now
        return ready

    def _pause(self, now: float) -> float:
        return 0.0 if self._is_eager else min(max(_SHARE * (now - self._begun_at), _LEAST), _MOST)

    def _join_covered(self, one: OpenSlice) -> None:
        """Of a slice that was left what is known, with the lines of that; the others come again."""
        is_known = bool(one.deltas) and one.covered is not None
        kept = ChunkBuffer()
        for chunk in one.held.chunks[: one.covered if is_known else 0]:
            kept.add(chunk)
        self._open_size -= one.held.size - kept.size
        one.held = kept
        if is_known:
            self._join(one)

    def _join(self, one: OpenSlice) -> None:
        ready = self._ready.setdefault(one.stream, StreamBatch())
        ready.lookback = one.promise.lookback
        ready.deltas += one.deltas
        one.deltas = []
        self._ready_size += one.held.size
        self._open_size -= one.held.size
        owner, one.owner = one.owner or ready.shared, None  # what follows is not to be committed with it
        one.covered = None
        held = ready.held.setdefault(owner, ChunkBuffer())
        was_large = held.size >= _LARGE
        one.held.move_to(held)
        if held.size >= _LARGE and not was_large:
            self._to_write.append((one.stream, owner))
