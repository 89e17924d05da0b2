"""Tests of the batcher of pages into commits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import Page, Slice
from asyncstreams.destinations.writer_protocol import Chunk
from asyncstreams.extraction.commit_batcher import CommitBatcher, StreamBatch

MIB = 2**20


class FakeCheckpoint:
    """The SliceCheckpoint of a slice with state changes after some pages; a state change is the number of its page."""

    lookback = 0

    def __init__(self, *pages: int, stream: str = "rows") -> None:
        self.pages, self.stream = pages, stream
        self.is_abandoned = False

    def pop_due(self, number: int) -> Sequence[Any]:
        return [number] if number in self.pages else []

    def page(self, number: int, *, is_last: bool = False) -> Page:
        checkpoint: Any = self
        return Page(self.stream, Slice({}), number, [], is_last, (), checkpoint)


def line(number: int, size: int = 0) -> Chunk:
    """One line that holds the number of its page, padded to `size` bytes."""
    return Chunk("part", (b"%d" % number).ljust(size) + b"\n", 1)


def pages_of(chunks: Sequence[Chunk]) -> list[int]:
    return [int(chunk.lines.split()[0]) for chunk in chunks]


class Spills:
    """Spilled chunks by batch id."""

    def __init__(self) -> None:
        self.chunks: dict[Hashable, list[Chunk]] = {}

    def spill_from(self, batcher: CommitBatcher) -> None:
        while (spill := batcher.next_spill()) is not None:
            _, batch_id, chunks = spill
            self.chunks.setdefault(batch_id, []).extend(chunks)

    def committed_pages(self, batch: StreamBatch) -> list[int]:
        """The pages whose lines are part of the commit."""
        return [
            page
            for batch_id, buffer in batch.buffers.items()
            for page in pages_of([*self.chunks.get(batch_id, ()), *buffer.chunks])
        ]


def test_lines_after_checkpoint_wait_for_next_checkpoint() -> None:
    batcher, checkpoint = CommitBatcher(0.0, 8 * MIB, commit_each_slice=False), FakeCheckpoint(1, 3)

    for number, now in ((0, 0.1), (1, 0.2), (2, 5.0), (3, 5.1)):
        batcher.add_page(checkpoint.page(number), [line(number)], now)
        assert (batcher.seconds_until_commit(9) is not None) == (number == 3)

    batch = batcher.pop_batches(9)["rows"]
    assert batch.deltas == [1, 3]
    assert Spills().committed_pages(batch) == [0, 1, 2, 3]


def test_interrupted_slice_batches_only_covered_lines() -> None:
    batcher, checkpoint, other = (
        CommitBatcher(0.0, 8 * MIB, commit_each_slice=False),
        FakeCheckpoint(1),
        FakeCheckpoint(stream="others"),
    )
    for number in range(4):
        batcher.add_page(checkpoint.page(number), [line(number)], 0.1)
    batcher.add_page(other.page(0), [line(0)], 0.1)

    batcher.close_open_slices()

    [(name, batch)] = batcher.pop_batches(1).items()
    assert (name, batch.deltas, Spills().committed_pages(batch)) == ("rows", [1], [0, 1])


def test_abandoned_slice_batches_covered_lines() -> None:
    batcher, known, unknown = (
        CommitBatcher(0.0, 8 * MIB, commit_each_slice=False),
        FakeCheckpoint(0),
        FakeCheckpoint(stream="others"),
    )
    for checkpoint in (known, unknown):
        for number in (0, 1):
            batcher.add_page(checkpoint.page(number), [line(number)], 0.1)
        checkpoint.is_abandoned = True

    assert batcher.pop_abandoned() == []

    [(name, batch)] = batcher.pop_batches(1).items()
    assert (name, batch.deltas, Spills().committed_pages(batch)) == ("rows", [0], [0])


def test_spilled_lines_beyond_checkpoint_are_discarded() -> None:
    batcher, checkpoint, spills = CommitBatcher(0.0, 8 * MIB, commit_each_slice=False), FakeCheckpoint(0), Spills()
    for number in (0, 1):
        batcher.add_page(checkpoint.page(number), [line(number, 9 * MIB)], 0.1)
    spills.spill_from(batcher)
    checkpoint.is_abandoned = True

    assert batcher.pop_abandoned() == list(spills.chunks)
    assert batcher.pop_batches(1) == {}


def test_ready_lines_are_spilled_to_one_file_before_commit() -> None:
    batcher, spills = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), Spills()
    max_buffered = 0
    for number in range(40):
        batcher.add_page(FakeCheckpoint(0).page(0, is_last=True), [line(number, MIB)], 0.5)
        spills.spill_from(batcher)
        max_buffered = max(max_buffered, number + 1 - sum(map(len, spills.chunks.values())))

    batch = batcher.pop_batches(1)["rows"]
    assert max_buffered < 9
    assert len(batch.buffers) == 1
    assert sorted(spills.committed_pages(batch)) == list(range(40))


@pytest.mark.parametrize(("target_bytes", "count"), [(8 * MIB, 8), (64 * MIB, 64)])
def test_commit_is_due_at_once_at_target_bytes(target_bytes: int, count: int) -> None:
    batcher = CommitBatcher(0.0, target_bytes, commit_each_slice=False)
    for number in range(count):
        assert batcher.seconds_until_commit(0.5) != 0
        batcher.add_page(FakeCheckpoint(0).page(0, is_last=True), [line(number, MIB)], 0.5)
        Spills().spill_from(batcher)

    assert batcher.seconds_until_commit(0.5) == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # slice
            st.booleans(),  # whether a state change follows the page
            st.sampled_from([0, 100, 3 * MIB, 9 * MIB]),
            st.sampled_from([0.0, 0.4, 3.0]),
            st.sampled_from(["", "", "commit", "spill"]),
        ),
        max_size=30,
    )
)
def test_property_commits_hold_only_covered_lines(steps: list[Any]) -> None:
    batcher, spills, now = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), Spills(), 0.0
    checkpoints = [FakeCheckpoint(stream=str(number)) for number in range(3)]
    next_page, last_covered = [0] * 3, [-1] * 3
    committed: list[list[int]] = [[], [], []]

    def commit() -> None:
        for name, batch in batcher.pop_batches(now).items():
            slice_ = int(name)
            last_covered[slice_] = max([last_covered[slice_], *map(int, map(str, batch.deltas))])
            committed[slice_] += spills.committed_pages(batch)
            assert sorted(committed[slice_]) == list(range(last_covered[slice_] + 1))

    for slice_, has_delta, size, pause, then in steps:
        now += pause
        number, next_page[slice_] = next_page[slice_], next_page[slice_] + 1
        if has_delta:
            checkpoints[slice_].pages += (number,)
        batcher.add_page(checkpoints[slice_].page(number), [line(number, size)], now)
        if then == "spill" or batcher.seconds_until_commit(now) == 0:
            spills.spill_from(batcher)
        if then == "commit":
            commit()
    batcher.close_open_slices()
    commit()


def test_slice_that_spills_repeatedly_keeps_all_its_lines() -> None:
    batcher, checkpoint, spills = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), FakeCheckpoint(3), Spills()
    for number in range(3):
        batcher.add_page(checkpoint.page(number), [line(number, 17 * MIB)], 0.1)
        spills.spill_from(batcher)
    batcher.add_page(checkpoint.page(3, is_last=True), [line(3)], 0.1)

    batch = batcher.pop_batches(1)["rows"]

    assert len(spills.chunks) == 1
    assert spills.committed_pages(batch) == [0, 1, 2, 3]


def test_lines_after_a_commit_do_not_join_the_spilled_batch() -> None:
    batcher, checkpoint, spills = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), FakeCheckpoint(1, 3), Spills()
    batcher.add_page(checkpoint.page(0), [line(0, 17 * MIB)], 0.1)
    spills.spill_from(batcher)
    batcher.add_page(checkpoint.page(1), [line(1)], 5.0)
    first = batcher.pop_batches(5.0)["rows"]
    batcher.add_page(checkpoint.page(2), [line(2)], 20.0)
    batcher.add_page(checkpoint.page(3, is_last=True), [line(3)], 20.0)

    second = batcher.pop_batches(20.0)["rows"]

    assert spills.committed_pages(first) == [0, 1]
    assert spills.committed_pages(second) == [2, 3]
