"""The jobs with asyncstreams. UVLOOP=1 selects uvloop instead of the event loop of asyncio."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator, Mapping

from job import Job, Output, run

from asyncstreams import Cursor, HttpStream, PageNumber, Paginator, RateLimit, RequestContext, Timeouts

WITH_UVLOOP = os.environ.get("UVLOOP") == "1"
LOOP_FACTORY = importlib.import_module("uvloop").new_event_loop if WITH_UVLOOP else None


class SlicedStream(HttpStream):
    """Slices with cursor pages."""

    records_path = "data"
    paginator: Paginator | None = Cursor("meta.next")

    def __init__(self, job: Job) -> None:
        super().__init__(
            max_concurrency=job.concurrency,
            rate_limit=RateLimit(job.rate, smooth=True) if job.rate else None,
            timeouts=Timeouts(first_byte=job.timeout, read=job.timeout) if job.timeout else Timeouts(),
        )
        self.url_base = job.url
        self.job = job

    def stream_slices(self, state: Mapping[str, object]) -> Iterator[Mapping[str, int]]:
        return ({"number": number} for number in range(1, self.job.slices + 1))

    def path(self, context: RequestContext) -> str:
        return self.job.path.format(context.stream_slice["number"])


class NumberedSlices(SlicedStream):
    """Slices with numbered pages."""

    paginator: Paginator | None = PageNumber(total_pages="meta.pages")


class NumberedStream(NumberedSlices):
    """One slice with numbered pages."""

    def stream_slices(self, state: Mapping[str, object]) -> Iterator[Mapping[str, int]]:
        yield {}

    def path(self, context: RequestContext) -> str:
        return self.job.path


class CursorStream(NumberedStream):
    """One slice with cursor pages."""

    paginator = Cursor("meta.next")


async def main(job: Job, output: Output) -> None:
    shapes = {"slices": SlicedStream, "numbered": NumberedSlices, "pages": NumberedStream, "cursor": CursorStream}
    stream = shapes[job.shape](job)
    async with stream.pages() as pages:
        async for page in pages:
            if pause := output.add_page(page.records):
                await asyncio.sleep(pause)


def read(job: Job, output: Output) -> None:
    with asyncio.Runner(loop_factory=LOOP_FACTORY) as runner:
        runner.run(main(job, output))


if __name__ == "__main__":
    run(read, "asyncstreams", "httptools", "msgspec", *(["uvloop"] if WITH_UVLOOP else []))
