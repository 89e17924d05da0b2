"""What must somebody else's destination be able to do?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..models import Page


@runtime_checkable
class Sink(Protocol):
    """A destination of one's own: `await source.extract(to=sink, state=State.load("state.json"))`.

    When `write` has returned the page is safe, and the state moves past it; when the process ends before that is
    written down, the page comes again, with the same `batch_id`: at least once. Pages come one after the other;
    those of one slice in order. What `write` raises ends the extraction, and leaves as it is.
    """

    async def write(self, page: Page, batch_id: str) -> None:
        """Keep the records of a page; `batch_id` is the same each time the same page of the same slice comes."""
        ...
