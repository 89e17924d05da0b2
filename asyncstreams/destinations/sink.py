"""Protocol of custom sinks: destinations that the user writes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..models import Page


@runtime_checkable
class Sink(Protocol):
    """A custom destination: `await source.extract(to=sink, state=State.load("state.json"))`.

    Delivery is at least once. When `write` returns, the page counts as stored and the state advances past it. If the
    process ends before the state is saved, the next run writes the page again with the same `batch_id`. One page is
    written at a time, and the pages of a slice come in order. An exception from `write` ends the extraction and
    propagates unchanged.
    """

    async def write(self, page: Page, batch_id: str) -> None:
        """Store the records of a page; `batch_id` is the same whenever the same page of the same slice is written."""
        ...
