"""Which lines are committed with what is known because of them?"""

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


class Promise:
    """Of a slice with a checkpoint at the end of some of its pages; a checkpoint is the number of its page."""

    lookback = 0

    def __init__(self, *checkpoints: int, stream: str = "rows") -> None:
        self.checkpoints, self.stream = checkpoints, stream
        self.is_abandoned = False

    def pop_due(self, number: int) -> Sequence[Any]:
        return [number] if number in self.checkpoints else []

    def page(self, number: int, *, is_last: bool = False) -> Page:
        promise: Any = self
        return Page(self.stream, Slice({}), number, [], is_last, (), promise)


def line(number: int, size: int = 0) -> Chunk:
    """That of a page, which it names."""
    return Chunk("part", (b"%d" % number).ljust(size) + b"\n", 1)


def pages_of(chunks: Sequence[Chunk]) -> list[int]:
    return [int(chunk.lines.split()[0]) for chunk in chunks]


class Files:
    """What the owners of lines have been given."""

    def __init__(self) -> None:
        self.given: dict[Hashable, list[Chunk]] = {}

    def take_from(self, grouping: CommitBatcher) -> None:
        while (large := grouping.next_spill()) is not None:
            _, owner, chunks = large
            self.given.setdefault(owner, []).extend(chunks)

    def committed(self, gathered: StreamBatch) -> list[int]:
        """The pages whose lines are part of the commit."""
        return [
            page
            for owner, held in gathered.buffers.items()
            for page in pages_of([*self.given.get(owner, ()), *held.chunks])
        ]


def test_lines_after_checkpoint_wait_for_next_checkpoint() -> None:
    grouping, promise = CommitBatcher(0.0, 8 * MIB, commit_each_slice=False), Promise(1, 3)

    for number, now in ((0, 0.1), (1, 0.2), (2, 5.0), (3, 5.1)):
        grouping.add_page(promise.page(number), [line(number)], now)
        assert (grouping.seconds_until_commit(9) is not None) == (number == 3)

    gathered = grouping.pop_batches(9)["rows"]
    assert gathered.deltas == [1, 3]
    assert Files().committed(gathered) == [0, 1, 2, 3]


def test_interrupted_slice_batches_only_covered_lines() -> None:
    grouping, promise, other = (
        CommitBatcher(0.0, 8 * MIB, commit_each_slice=False),
        Promise(1),
        Promise(stream="others"),
    )
    for number in range(4):
        grouping.add_page(promise.page(number), [line(number)], 0.1)
    grouping.add_page(other.page(0), [line(0)], 0.1)

    grouping.close_open_slices()

    [(name, gathered)] = grouping.pop_batches(1).items()
    assert (name, gathered.deltas, Files().committed(gathered)) == ("rows", [1], [0, 1])


def test_abandoned_slice_batches_covered_lines() -> None:
    grouping, known, unknown = (
        CommitBatcher(0.0, 8 * MIB, commit_each_slice=False),
        Promise(0),
        Promise(stream="others"),
    )
    for promise in (known, unknown):
        for number in (0, 1):
            grouping.add_page(promise.page(number), [line(number)], 0.1)
        promise.is_abandoned = True

    assert grouping.pop_abandoned() == []

    [(name, gathered)] = grouping.pop_batches(1).items()
    assert (name, gathered.deltas, Files().committed(gathered)) == ("rows", [0], [0])


def test_spilled_lines_beyond_checkpoint_are_discarded() -> None:
    grouping, promise, files = CommitBatcher(0.0, 8 * MIB, commit_each_slice=False), Promise(0), Files()
    for number in (0, 1):
        grouping.add_page(promise.page(number), [line(number, 9 * MIB)], 0.1)
    files.take_from(grouping)
    promise.is_abandoned = True

    assert grouping.pop_abandoned() == list(files.given)
    assert grouping.pop_batches(1) == {}


def test_ready_lines_are_spilled_to_one_file_before_commit() -> None:
    grouping, files = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), Files()
    most = 0
    for number in range(40):
        grouping.add_page(Promise(0).page(0, is_last=True), [line(number, MIB)], 0.5)
        files.take_from(grouping)
        held = number + 1 - sum(map(len, files.given.values()))
        most = max(most, held)

    gathered = grouping.pop_batches(1)["rows"]
    assert most < 9
    assert len(gathered.buffers) == 1
    assert sorted(files.committed(gathered)) == list(range(40))


@pytest.mark.parametrize(("enough", "count"), [(8 * MIB, 8), (64 * MIB, 64)])
def test_commit_is_due_at_once_at_target_bytes(enough: int, count: int) -> None:
    grouping = CommitBatcher(0.0, enough, commit_each_slice=False)
    for number in range(count):
        assert grouping.seconds_until_commit(0.5) != 0
        grouping.add_page(Promise(0).page(0, is_last=True), [line(number, MIB)], 0.5)
        Files().take_from(grouping)

    assert grouping.seconds_until_commit(0.5) == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # of which slice
            st.booleans(),  # a checkpoint?
            st.sampled_from([0, 100, 3 * MIB, 9 * MIB]),
            st.sampled_from([0.0, 0.4, 3.0]),
            st.sampled_from(["", "", "commit", "give"]),
        ),
        max_size=30,
    )
)
def test_property_commits_hold_only_covered_lines(steps: list[Any]) -> None:
    grouping, files, now = CommitBatcher(0.0, 64 * MIB, commit_each_slice=False), Files(), 0.0
    promises = [Promise(stream=str(number)) for number in range(3)]
    made, safe = [0] * 3, [-1] * 3
    seen: list[list[int]] = [[], [], []]

    def commit() -> None:
        for name, gathered in grouping.pop_batches(now).items():
            of = int(name)
            safe[of] = max([safe[of], *map(int, map(str, gathered.deltas))])
            seen[of] += files.committed(gathered)
            assert sorted(seen[of]) == list(range(safe[of] + 1))

    for of, has_checkpoint, size, pause, then in steps:
        now += pause
        number, made[of] = made[of], made[of] + 1
        if has_checkpoint:
            promises[of].checkpoints += (number,)
        grouping.add_page(promises[of].page(number), [line(number, size)], now)
        if then == "give" or grouping.seconds_until_commit(now) == 0:
            files.take_from(grouping)
        if then == "commit":
            commit()
    grouping.close_open_slices()
    commit()
