"""What is known of one stream during one run: what it has, what it has read, what failed?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias, cast

import anyio

from ..errors import ConfigError
from ..http.client import HttpClient
from ..models import Page, QuarantinedRecord, Record, Slice
from ..records.json_lines import lines_of, quarantined_lines
from ..records.raw_records import RawReader, is_as_decoded, why_not
from ..records.record_validation import RecordValidator
from ..state.incremental import incremental_of
from ..state.slice_checkpoint import SliceCheckpoint
from ..state.stream_selection import StreamSelection
from ..state.stream_state import StreamState
from .page_queue import PageQueueSender
from .parent_coordinator import ParentFeed, ParentPageSender
from .report import StreamReport
from .slots import Slot, StreamSlots

PageLane: TypeAlias = PageQueueSender | ParentPageSender
Kept: TypeAlias = tuple[QuarantinedRecord, ...]


class ActiveSlice(NamedTuple):
    """A slice at work: the `number`th of its stream, from 1; one that `is_known` is read for children only.

    `answered` is set when something of it is known.
    """

    number: int
    stream_slice: Slice
    place: Slot
    answered: anyio.Event | None = None
    is_known: bool = False


class StreamRun:
    """The counters of one stream, with what its slices share.

    `pages`, `records` and so on count what was handed over. Only its own tasks change it.
    """

    def __init__(
        self,
        selected: StreamSelection,
        chain: HttpClient,
        validation: RecordValidator,
        share: StreamSlots,
        lane: PageLane,
        feed: ParentFeed | None = None,
        most: int | None = None,
    ) -> None:
        self.stream, self.state = selected.stream, selected.state
        self.chain, self.validation, self.share, self.lane = chain, validation, share, lane
        self.selected, self.feed = selected, feed
        now = selected.stream.clock.wall()
        self.incremental = incremental_of(self.stream, self.state, now, is_kept=selected.is_kept)
        if lane.carried is not None and isinstance(self.state, StreamState):
            lane.carried.lookback = self.state.lookback
        self.why_not_raw = why_not(self.stream, has_schema=validation.has_schema) if selected.takes_lines else ""
        self.raw = RawReader(self.stream) if self.why_not_raw is None else None
        self._are_decoded = is_as_decoded(self.stream)
        self.left = most
        self.reads_ahead = most is None and selected.stream.parallel_pages
        self.pages = self.records = self.quarantined = 0
        self.begun = self.done = self.owed = 0
        self.failed: list[tuple[Slice, Exception]] = []
        self.answered = self.is_cut_short = self.told_of_moved = False
        self._cut_off: list[tuple[ActiveSlice, BaseException]] = []

    def promise(self, stream_slice: Slice) -> SliceCheckpoint | None:
        """Of one slice, where a state is kept or records are chosen by their cursor."""
        keeper, state = self.selected.keeper, self.state
        if not isinstance(state, StreamState) or (keeper is None and self.incremental is None):
            return None
        return SliceCheckpoint(self.stream, state, keeper, self.lane.carried, self.incremental, stream_slice, self._owe)

    @property
    def report(self) -> StreamReport:
        """What has been handed over so far."""
        numbers = self.pages, self.records, self.quarantined, self.done, len(self.failed)
        return StreamReport(self.stream.name, *numbers, self.raw is not None, self.why_not_raw or "")

    @property
    def is_safe(self) -> bool:
        """Whether all of the stream has been read, and all that was promised is kept."""
        return not (self.owed or self.failed or self.is_cut_short)

    def _owe(self, promises: int) -> None:
        self.owed += promises

    def explain(self) -> str:
        """What the stream does now."""
        open_slices = self.begun - self.done - len(self.failed)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        of = self._of_parents()
        more = "".join(f"; {told}" for told in (self.chain.limits(), str(self.chain.waits)) if told)
        return (
            f"{self.stream.name}: {open_slices} slices open, {self.share.held} of {self.share.most} places at work; "
            f"{self.done:,} slices done{of}{failed}, {self.pages:,} pages, {self.records:,} records" + more
        )

    def _of_parents(self) -> str:
        if self.feed is None:
            return ""
        return f" of {self.feed.known:,} parents" + ("" if self.feed.is_all else " so far")

    async def is_wanted(self, place: Slot) -> bool:
        """Whether anybody wants another page, which may be known only when they have read the last one."""
        await self.lane.next_may_come(place)
        if not self.lane.is_wanted:
            self.is_cut_short = True
            return False
        return True

    def was_cut_off(self, begun: ActiveSlice, error: BaseException) -> None:
        """A slice was cancelled."""
        self._cut_off.append((begun, error))

    def cut_off(self) -> Iterable[tuple[Slice, BaseException]]:
        """The slices that were cancelled, in the order in which they began."""
        self._cut_off.sort(key=lambda cut: cut[0].number)
        return [(begun.stream_slice, error) for begun, error in self._cut_off]

    def taken(self, records: list[Record], quarantined: Kept) -> tuple[list[Record], Kept]:
        """Records, and those that are kept back, as they are handed over. Raises ConfigError for one that cannot be."""
        if not self.selected.takes_lines:
            return records, quarantined
        try:
            lines = cast("list[Record]", lines_of(records, is_decoded=self._are_decoded))
            return lines, cast(Kept, quarantined_lines(quarantined)) if quarantined else ()
        except TypeError as error:
            raise ConfigError(
                f"a record has no form in JSON: {error}", hint="change it in parse_response, or with a transformer"
            ) from None

    def cut(self, page: Page) -> Page:
        """The page, or as much of it as the limit leaves."""
        assert self.left is not None
        page = page.cut(self.left)
        self.left -= len(page.records)
        return page

    def handed(self, page: Page) -> None:
        """One more page for the consumer."""
        self.pages += 1
        self.records += len(page.records)
        self.quarantined += len(page.quarantined)
