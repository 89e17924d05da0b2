"""What does a stream say, read without a run: one page after the other, as somebody asks for them?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..contracts import Stream
from ..http.chain import Chain
from ..model import Page
from .delivery import Delivery
from .places import Places
from .selected import Selected, state_of
from .slice_reader import SliceReader
from .slices import each_work
from .stream_run import StreamRun
from .validation import Validation


async def first_page(stream: Stream, chain: Chain) -> Page | None:
    """The first page of the first slice. See `pages_in_turn`."""
    async with aclosing(pages_in_turn(stream, chain)) as pages:
        async for page in pages:
            return page
    return None


async def pages_in_turn(stream: Stream, chain: Chain) -> AsyncGenerator[Page]:
    """One page after the other, each as it comes: nobody is told, nothing is validated, no strategy is asked."""
    selected = Selected(stream, None, state_of(stream, None), 1)
    run = StreamRun(selected, chain, Validation(stream, None), Places(1).share(), Delivery(1, 1).lane())
    async with aclosing(each_work(selected, run.incremental)) as works:
        async for work in works:
            stream_slice = work.stream_slice
            async with aclosing(SliceReader(run, run.share.place(), stream_slice, None).pages()) as pages:
                async for page, _ in pages:
                    yield page
