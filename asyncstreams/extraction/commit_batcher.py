"""Grouping of pages into commits: which lines and state changes are committed together, and when. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from ..destinations.writer_protocol import Chunk
from ..models import Page
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_state import StateDelta

_MAX_READY_BYTES = 8 * 2**20  # of one file; from here on they are written before their commit
_MIN_SPILL_BYTES = 2**20
_SPILL_OPEN_BYTES, _MAX_OPEN_BYTES = 16 * 2**20, 64 * 2**20
_COMMIT_INTERVAL_SHARE = 0.01  # of the time since the run began
_MIN_COMMIT_INTERVAL_S, _MAX_COMMIT_INTERVAL_S = 1.0, 60.0


@dataclass(slots=True)
class ChunkBuffer:
    """Lines in memory, `size` bytes in all."""

    chunks: list[Chunk] = field(default_factory=list[Chunk])
    size: int = 0

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk.lines)

    def move_to(self, other: ChunkBuffer) -> None:
        """Append all chunks to another buffer and leave this one empty."""
        other.chunks += self.chunks
        other.size += self.size
        self.pop_all()

    def pop_all(self) -> Sequence[Chunk]:
        """Remove and return all chunks."""
        chunks, self.chunks, self.size = self.chunks, [], 0
        return chunks


@dataclass(slots=True)
class OpenSlice:
    """A slice that has not ended: its lines, and the state changes that take effect when they are committed."""

    stream: str
    checkpoint: SliceCheckpoint
    batched_at: float
    buffer: ChunkBuffer = field(default_factory=ChunkBuffer)
    deltas: list[StateDelta] = field(default_factory=list[StateDelta])
    covered_chunks: int | None = None
    """How many buffered chunks the deltas cover; None: no deltas, or they do not cover all spilled lines."""
    batch_id: Hashable | None = None
    """Identifies the spilled lines of this slice; None: nothing has been spilled."""


@dataclass(slots=True)
class StreamBatch:
    """What the next commit holds for one stream.

    `buffers` maps a batch id to the lines that are still in memory; lines spilled under the same id precede them.
    """

    buffers: dict[Hashable, ChunkBuffer] = field(default_factory=dict[Hashable, ChunkBuffer])
    deltas: list[StateDelta] = field(default_factory=list[StateDelta])
    shared_batch_id: Hashable = field(default_factory=object)
    """The batch id of all slices that have spilled nothing."""


class CommitBatcher:
    """Collects pages and decides when to commit them.

    Every commit adds files that readers must open, so commits should be few. One is due when the slices that have
    ended hold `target_bytes`, or when 1 % of the time since the start has passed since the previous commit (at least
    1 s, at most 60 s). A kill costs at most that interval, plus the slices that are open. With `commit_each_slice`
    every slice is committed as soon as it ends.
    """

    def __init__(self, now: float, target_bytes: int, *, commit_each_slice: bool) -> None:
        self._started_at = self._committed_at = now
        self._target_bytes, self._commit_each_slice = target_bytes, commit_each_slice
        self._open: dict[SliceCheckpoint, OpenSlice] = {}
        self._open_bytes = 0
        self._ready: dict[str, StreamBatch] = {}
        self._ready_bytes = 0
        self._ready_to_spill: list[tuple[str, Hashable]] = []

    def add_page(self, page: Page, chunks: Iterable[Chunk], now: float, *, is_complete: bool | None = None) -> None:
        """Add the lines of a page; its state changes belong to the commit that will contain these lines.

        `is_complete`: the lines of the slice up to this page may be committed even if no state change covers them.
        """
        checkpoint = cast(SliceCheckpoint, page.checkpoint)
        slice_ = self._open.get(checkpoint)
        if slice_ is None:
            slice_ = self._open[checkpoint] = OpenSlice(page.stream, checkpoint, now)
        for chunk in chunks:
            slice_.buffer.add(chunk)
            self._open_bytes += len(chunk.lines)
        if deltas := checkpoint.pop_due(page.number):
            slice_.deltas += deltas
            slice_.covered_chunks = len(slice_.buffer.chunks)
        if page.is_last or is_complete:
            self._add_to_batch(slice_)
            del self._open[checkpoint]
        elif deltas and now - slice_.batched_at >= self._commit_interval(now):
            self._add_to_batch(slice_)
            slice_.batched_at = now

    def next_spill(self) -> tuple[str, Hashable, Sequence[Chunk]] | None:
        """Remove lines that exceed the memory limits and return (stream, batch id, chunks); None: all lines fit."""
        if self._ready_to_spill:
            stream, batch_id = self._ready_to_spill.pop()
            return stream, batch_id, self._ready[stream].buffers[batch_id].pop_all()
        if self._open_bytes <= _SPILL_OPEN_BYTES:
            return None
        largest = max(self._open.values(), key=lambda slice_: slice_.buffer.size)
        if largest.buffer.size < _MIN_SPILL_BYTES and self._open_bytes <= _MAX_OPEN_BYTES:
            return None
        largest.batch_id = largest.batch_id or object()
        largest.covered_chunks = 0 if largest.covered_chunks == len(largest.buffer.chunks) else None
        self._open_bytes -= largest.buffer.size
        return largest.stream, largest.batch_id, largest.buffer.pop_all()

    def pop_abandoned(self) -> Sequence[Hashable]:
        """Remove slices that will not be read to their end; return the batch ids of spilled lines to discard."""
        abandoned = [slice_ for slice_ in self._open.values() if slice_.checkpoint.is_abandoned]
        for slice_ in abandoned:
            self._batch_covered(slice_)
            del self._open[slice_.checkpoint]
        return [slice_.batch_id for slice_ in abandoned if slice_.batch_id is not None]

    def close_open_slices(self) -> None:
        """Batch the covered lines of all open slices; no further page comes."""
        for slice_ in self._open.values():
            self._batch_covered(slice_)

    def seconds_until_commit(self, now: float, *, has_more: bool = False) -> float | None:
        """Seconds until the next commit is due; None: nothing is batched, and the caller has no more to commit."""
        if not self._ready and not has_more:
            return None
        if self._ready_bytes >= self._target_bytes:
            return 0.0
        return max(0.0, self._committed_at + self._commit_interval(now) - now)

    def pop_batches(self, now: float) -> dict[str, StreamBatch]:
        """Remove and return all batches by stream, for a commit that starts now."""
        ready, self._ready = self._ready, {}
        self._ready_bytes = 0
        self._ready_to_spill.clear()
        self._committed_at = now
        return ready

    def _commit_interval(self, now: float) -> float:
        if self._commit_each_slice:
            return 0.0
        elapsed = now - self._started_at
        return min(max(_COMMIT_INTERVAL_SHARE * elapsed, _MIN_COMMIT_INTERVAL_S), _MAX_COMMIT_INTERVAL_S)

    def _batch_covered(self, slice_: OpenSlice) -> None:
        """Batch the lines that the deltas cover, and discard the others: the next run reads them again."""
        is_covered = bool(slice_.deltas) and slice_.covered_chunks is not None
        covered = ChunkBuffer()
        for chunk in slice_.buffer.chunks[: slice_.covered_chunks if is_covered else 0]:
            covered.add(chunk)
        self._open_bytes -= slice_.buffer.size - covered.size
        slice_.buffer = covered
        if is_covered:
            self._add_to_batch(slice_)

    def _add_to_batch(self, slice_: OpenSlice) -> None:
        batch = self._ready.setdefault(slice_.stream, StreamBatch())
        batch.deltas += slice_.deltas
        slice_.deltas = []
        self._ready_bytes += slice_.buffer.size
        self._open_bytes -= slice_.buffer.size
        # Later lines of the slice belong to another commit, and so to another batch id.
        batch_id, slice_.batch_id = slice_.batch_id or batch.shared_batch_id, None
        slice_.covered_chunks = None
        buffer = batch.buffers.setdefault(batch_id, ChunkBuffer())
        was_large = buffer.size >= _MAX_READY_BYTES
        slice_.buffer.move_to(buffer)
        if buffer.size >= _MAX_READY_BYTES and not was_large:
            self._ready_to_spill.append((slice_.stream, batch_id))
