"""Sequential reading of one stream, without a scheduler."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..http.client import HttpClient
from ..models import Page
from ..protocols import Stream
from ..records.record_validation import RecordValidator
from ..state.stream_selection import StreamSelection, state_of
from .page_queue import PageQueue
from .slice_reader import SliceReader
from .slice_source import pending_slices
from .slots import SlotPool
from .stream_run import StreamRun


async def first_page(stream: Stream, client: HttpClient) -> Page | None:
    """The first page of the first slice, or None without slices. See `read_sequentially`."""
    async with aclosing(read_sequentially(stream, client)) as pages:
        async for page in pages:
            return page
    return None


async def read_sequentially(stream: Stream, client: HttpClient) -> AsyncGenerator[Page]:
    """Read one page at a time, on demand, as a preview: without events, validation or availability checks."""
    selection = StreamSelection(stream, None, state_of(stream, None), 1)
    run = StreamRun(
        selection,
        client,
        RecordValidator(stream, None),
        SlotPool(1).add_stream(),
        PageQueue(1, 1).add_sender(),
        is_preview=True,
    )
    async with aclosing(pending_slices(selection, run.incremental)) as pending:
        async for pending_slice in pending:
            reader = SliceReader(run, run.slots.new_slot(), pending_slice.stream_slice, None)
            async with aclosing(reader.pages()) as pages:
                async for page, _ in pages:
                    yield page
