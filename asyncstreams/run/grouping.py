"""What is committed together, and when? Slices that have ended, at the next moment that is worth it. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from ..intervals import Point
from ..model import Page
from ..sinks.output import Chunk
from ..state import Delta
from .promises import SlicePromise

_LARGE = 8 * 2**20
_WORTH_A_FILE = 2**20
_MANY_OPEN, _MOST_OPEN = 16 * 2**20, 64 * 2**20
_SHARE = 0.01
_LEAST, _MOST = 1.0, 60.0


@dataclass(slots=True)
class OpenSlice:
    """A slice whose end has not come: its lines, and what will be known when they are safe."""

    stream: str
    promise: SlicePromise
    cut_at: float
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    deltas: list[Delta] = field(default_factory=list[Delta])
    size: int = 0
    owner: Hashable | None = None
    """Of a file with lines that could not be held."""


@dataclass(slots=True)
class Gathered:
    """What is to be committed of one stream."""

    chunks: list[Chunk] = field(default_factory=list[Chunk])
    owned: list[tuple[Hashable, list[Chunk]]] = field(default_factory=list[tuple[Hashable, list[Chunk]]])
    deltas: list[Delta] = field(default_factory=list[Delta])
    lookback: Point = 0


class Grouping:
    """Gathers pages into commits.

    Parts are read by people and by tools that open each of them, so there should not be many: a commit comes when the
    slices that have ended hold 8 MiB, or when a hundredth of the time since the beginning has passed since the one
    before, at least 1 s and at most 60 s. That is also the most that a kill costs, beside the slices that are open.
    `is_eager`: each slice is committed when it ends.
    """

    def __init__(self, now: float, *, is_eager: bool) -> None:
        self._begun_at = self._committed_at = now
        self._is_eager = is_eager
        self._open: dict[SlicePromise, OpenSlice] = {}
        self._open_size = 0
        self._ready: dict[str, Gathered] = {}
        self._ready_size = 0

    def take(self, page: Page, chunks: Iterable[Chunk], now: float) -> None:
        """A page's lines. What is known when they are safe is owed by the commit that they will be part of."""
        promise = cast(SlicePromise, page.promise)
        one = self._open.get(promise)
        if one is None:
            one = self._open[promise] = OpenSlice(page.stream, promise, now)
        for chunk in chunks:
            size = len(chunk.lines)
            one.chunks.append(chunk)
            one.size += size
            self._open_size += size
        one.deltas += promise.due(page.number)
        if page.is_last:
            self._join(one)
            del self._open[promise]
        elif one.deltas and now - one.cut_at >= self._pause(now):
            self._join(one)
            one.cut_at = now

    def too_large(self) -> tuple[str, Hashable, Sequence[Chunk]] | None:
        """The stream and the slice that must give its lines away since too many are held, and these."""
        if self._open_size <= _MANY_OPEN:
            return None
        largest = max(self._open.values(), key=lambda one: one.size)
        if largest.size < _WORTH_A_FILE and self._open_size <= _MOST_OPEN:
            return None
        largest.owner = largest.owner or object()
        return largest.stream, largest.owner, self._lines_of(largest)

    def over(self) -> Sequence[Hashable]:
        """Forget the slices of which nothing more comes; those that have files of their own."""
        over = [one for one in self._open.values() if one.promise.is_over]
        for one in over:
            self._lines_of(one)
            del self._open[one.promise]
        return [one.owner for one in over if one.owner is not None]

    def due_in(self, now: float, *, more: bool = False) -> float | None:
        """Seconds until what is gathered is to be committed; None: there is nothing, nor is there `more`."""
        if not self._ready and not more:
            return None
        return 0.0 if self._ready_size >= _LARGE else max(0.0, self._committed_at + self._pause(now) - now)

    def taken(self, now: float) -> dict[str, Gathered]:
        """What is gathered, for a commit that begins now."""
        ready, self._ready, self._ready_size = self._ready, {}, 0
        self._committed_at = now
        return ready

    def _pause(self, now: float) -> float:
        return 0.0 if self._is_eager else min(max(_SHARE * (now - self._begun_at), _LEAST), _MOST)

    def _join(self, one: OpenSlice) -> None:
        ready = self._ready.setdefault(one.stream, Gathered())
        ready.lookback = one.promise.lookback
        ready.deltas += one.deltas
        one.deltas = []
        self._ready_size += one.size
        chunks = self._lines_of(one)
        if one.owner is None:
            ready.chunks += chunks
        else:
            ready.owned.append((one.owner, chunks))
            one.owner = None  # what follows is not to be committed with it

    def _lines_of(self, one: OpenSlice) -> list[Chunk]:
        chunks, one.chunks = one.chunks, []
        self._open_size -= one.size
        one.size = 0
        return chunks
