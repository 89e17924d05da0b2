"""What does a stream say, read without a run: one page after the other, as somebody asks for them?"""

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
from .slice_source import each_work
from .slots import SlotPool
from .stream_run import StreamRun


async def first_page(stream: Stream, chain: HttpClient) -> Page | None:
    """The first page of the first slice. See `pages_in_turn`."""
    async with aclosing(pages_in_turn(stream, chain)) as pages:
        async for page in pages:
            return page
    return None


async def pages_in_turn(stream: Stream, chain: HttpClient) -> AsyncGenerator[Page]:
    """One page after the other, each as it comes: nobody is told, nothing is validated, no strategy is asked."""
    selected = StreamSelection(stream, None, state_of(stream, None), 1)
    run = StreamRun(selected, chain, RecordValidator(stream, None), SlotPool(1).share(), PageQueue(1, 1).lane())
    async with aclosing(each_work(selected, run.incremental)) as works:
        async for work in works:
            stream_slice = work.stream_slice
            async with aclosing(SliceReader(run, run.share.place(), stream_slice, None).pages()) as pages:
                async for page, _ in pages:
                    yield page
