"""A bounded choice of the slices of a run: failed ones, the slowest, and a random sample of the others."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random
from typing import Literal

from ..models import Slice, shorten
from ..redaction import cut_queries
from .run_record import SliceRecord

_MAX_FAILED = _MAX_SLOWEST = _MAX_SAMPLED = 100


@dataclass(slots=True, eq=False)
class SliceTally:
    """A slice that is being read, or was; times in seconds since the begin of the run."""

    stream: str
    stream_slice: Slice
    began_s: float
    ended_s: float = 0.0
    pages: int = 0
    records: int = 0
    outcome: Literal["complete", "failed", "interrupted"] = "complete"

    def to_record(self) -> SliceRecord:
        """The slice with its text, which shows no secrets, and of records only their keys."""
        text = shorten(cut_queries(str(self.stream_slice))) if self.stream_slice else ""
        return SliceRecord(self.stream, text, self.began_s, self.ended_s, self.pages, self.records, self.outcome)


class SliceSample:
    """Keeps the first 100 failed slices, the 100 slowest ones, and 100 of the others, each with the same chance."""

    def __init__(self) -> None:
        self._random = Random(0)  # equal runs have equal samples
        self._slowest: list[tuple[float, int, SliceTally]] = []
        self._sampled: list[SliceTally] = []
        self._failed: list[SliceTally] = []
        self._count = self._others = 0

    def add(self, finished: SliceTally) -> None:
        """Consider a slice that has ended."""
        self._count += 1
        if finished.outcome == "failed" and len(self._failed) < _MAX_FAILED:
            self._failed.append(finished)
            return
        entry = (finished.ended_s - finished.began_s, self._count, finished)
        if len(self._slowest) < _MAX_SLOWEST:
            heapq.heappush(self._slowest, entry)
            return
        faster = heapq.heappushpop(self._slowest, entry)[2]
        self._others += 1
        if len(self._sampled) < _MAX_SAMPLED:
            self._sampled.append(faster)
        elif (position := self._random.randrange(self._others)) < _MAX_SAMPLED:
            self._sampled[position] = faster

    @property
    def left_out(self) -> int:
        """Number of slices that are not kept."""
        return self._count - len(self._failed) - len(self._slowest) - len(self._sampled)

    def records(self) -> tuple[SliceRecord, ...]:
        """The kept slices, in the order of their begin."""
        kept = [*self._failed, *(entry[2] for entry in self._slowest), *self._sampled]
        return tuple(each.to_record() for each in sorted(kept, key=lambda each: each.began_s))
