"""Job: extract the slices to JSON Lines, exactly once; with DECODE_RECORDS=1 every record is decoded to a dict."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from job import Job, Output, run
from ours import LOOP_FACTORY, WITH_UVLOOP, SlicedStream

from asyncstreams import JsonLines, RequestContext, Response


class DecodedStream(SlicedStream):
    """A stream whose own parse_response prevents raw passthrough."""

    def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = response.json()["data"]
        return records


async def main(job: Job, output: Output) -> None:
    assert job.out is not None
    stream = (DecodedStream if os.environ.get("DECODE_RECORDS") == "1" else SlicedStream)(job)
    report = await stream.extract(to=JsonLines(job.out / "files"))
    (stream_report,) = report.streams
    assert stream_report.written is not None
    output.records = stream_report.written.rows


def read(job: Job, output: Output) -> None:
    with asyncio.Runner(loop_factory=LOOP_FACTORY) as runner:
        runner.run(main(job, output))


if __name__ == "__main__":
    run(read, "asyncstreams", "httptools", "msgspec", *(["uvloop"] if WITH_UVLOOP else []))
