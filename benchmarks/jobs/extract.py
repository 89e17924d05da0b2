"""The slices into files that are written exactly once; with DECODE_RECORDS=1 each record becomes a dict on its way."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from job import Job, Output, run
from ours import LOOP_FACTORY, WITH_UVLOOP, SlicedStream

from asyncstreams import JsonLines, RequestContext, Response


class Parsed(SlicedStream):
    """With a parse_response of its own, which makes records."""

    def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = response.json()["data"]
        return found


async def main(job: Job, output: Output) -> None:
    assert job.out is not None
    stream = (Parsed if os.environ.get("DECODE_RECORDS") == "1" else SlicedStream)(job)
    report = await stream.extract(to=JsonLines(job.out / "files"))
    (told,) = report.streams
    assert told.written is not None
    output.records = told.written.rows


def read(job: Job, output: Output) -> None:
    with asyncio.Runner(loop_factory=LOOP_FACTORY) as runner:
        runner.run(main(job, output))


if __name__ == "__main__":
    run(read, "asyncstreams", "msgspec", "aiohttp", *(["uvloop"] if WITH_UVLOOP else []))
