"""Sequential reading of one stream, without a scheduler."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..declaration.stream import Stream
from ..errors import HttpStatusError
from ..http.client import HttpClient
from ..models import Page, Slice
from ..records.record_validation import RecordValidator
from ..state.stream_selection import StreamSelection, state_of
from .page_queue import PageQueue
from .slice_reader import SliceReader
from .slice_source import pending_slices
from .slots import SlotPool
from .stream_run import StreamRun

_MAX_FIRST_CHILDREN = 3


async def first_page(stream: Stream, client: HttpClient) -> Page | None:
    """The first page of the first slice, or None without slices. See `read_sequentially`.

    Of a substream it is that of the first of three children that is not left out. If all are, this is the error of a
    refused one, and otherwise an empty page.
    """
    run = _new_run(stream, client)
    async with aclosing(_read_pages(run, max_missing=_MAX_FIRST_CHILDREN)) as pages:
        async for page in pages:
            return page
    if run.children is None or run.children.error is None:
        return None
    if run.children.has_refused:
        raise run.children.error
    return Page(stream.name, Slice(), 0, [], is_last=True)


async def read_sequentially(stream: Stream, client: HttpClient) -> AsyncGenerator[Page]:
    """Read one page at a time, on demand, as a preview: without events, validation or availability checks."""
    async with aclosing(_read_pages(_new_run(stream, client))) as pages:
        async for page in pages:
            yield page


def _new_run(stream: Stream, client: HttpClient) -> StreamRun:
    return StreamRun.create(
        StreamSelection(stream, None, state_of(stream, None), 1),
        client,
        RecordValidator(stream, None),
        SlotPool(1).add_stream(),
        PageQueue(1, 1).add_sender(),
        is_preview=True,
    )


async def _read_pages(run: StreamRun, max_missing: int | None = None) -> AsyncGenerator[Page]:
    """The pages of all slices; those of children that are left out are skipped, up to `max_missing`."""
    async with aclosing(pending_slices(run.selection, run.incremental)) as pending:
        async for pending_slice in pending:
            slot = run.slots.new_slot()
            try:
                if pending_slice.problem is not None:
                    raise pending_slice.problem
                stream_slice: Slice | None = pending_slice.stream_slice
                while stream_slice is not None:
                    reader = SliceReader(run, slot, stream_slice, None)
                    try:
                        while (sized := await reader.read_page()) is not None:
                            yield sized[0]
                    finally:
                        await reader.close()
                    stream_slice = reader.next_range()
            except HttpStatusError as error:
                if run.children is None or not run.children.concerns(error):
                    raise
                run.children.start(pending_slice.stream_slice)
                if run.children.add(pending_slice.stream_slice, error) is not None:
                    raise
                if run.children.count == max_missing:
                    return
            finally:
                slot.release()
