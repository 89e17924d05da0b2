"""What is known of one stream during one run: what it has, what it has read, what failed?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..contracts import Slices, Stream
from ..http.chain import Chain
from ..model import Page, Slice
from .delivery import Lane
from .places import Place, Share
from .validation import Validation


@dataclass(frozen=True, slots=True)
class Selected:
    """A stream that is to be read, and what of it: `limit` is a number of records."""

    stream: Stream
    slices: Slices | None
    state: Mapping[str, Any]
    limit: int | None


class Begun(NamedTuple):
    """A slice at work: the `number`th of its stream, from 1."""

    number: int
    stream_slice: Slice
    place: Place


class StreamRun:
    """The counters of one stream, with what its slices share.

    `pages`, `records` and so on count what was handed over. Only its own tasks change it.
    """

    def __init__(
        self,
        selected: Selected,
        chain: Chain,
        validation: Validation,
        share: Share,
        lane: Lane,
    ) -> None:
        self.stream, self.state = selected.stream, selected.state
        self.chain, self.validation, self.share, self.lane = chain, validation, share, lane
        self.left = selected.limit
        self.reads_ahead = selected.limit is None and selected.stream.parallel_pages
        self.pages = self.records = self.quarantined = 0
        self.begun = self.done = 0
        self.failed: list[tuple[Slice, Exception]] = []
        self.answered = self.is_cut_short = self.told_of_moved = False
        self._cut_off: list[tuple[Begun, BaseException]] = []

    def explain(self) -> str:
        """What the stream does now."""
        open_slices = self.begun - self.done - len(self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        more = "".join(f"; {told}" for told in (self.chain.limits(), str(self.chain.waits)) if told)
        return (
            f"{self.stream.name}: {open_slices} slices open, {self.share.held} of {self.share.most} places at work; "
            f"{self.done} slices done{failed}, {self.pages:,} pages, {self.records:,} records" + more
        )

    def was_cut_off(self, begun: Begun, error: BaseException) -> None:
        """A slice was cancelled."""
        self._cut_off.append((begun, error))

    def cut_off(self) -> Iterable[tuple[Slice, BaseException]]:
        """The slices that were cancelled, in the order in which they began."""
        self._cut_off.sort(key=lambda cut: cut[0].number)
        return [(begun.stream_slice, error) for begun, error in self._cut_off]

    def cut(self, page: Page) -> Page:
        """The page, or as much of it as the limit leaves."""
        assert self.left is not None
        if len(page.records) > self.left:
            page = replace(page, records=page.records[: self.left], is_last=False)
        self.left -= len(page.records)
        return page

    def handed(self, page: Page) -> None:
        """One more page for the consumer."""
        self.pages += 1
        self.records += len(page.records)
        self.quarantined += len(page.quarantined)
