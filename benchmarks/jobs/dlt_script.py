"""The jobs with dlt, which extracts and no more: it neither normalizes nor loads.

Tuned: as many workers as there are connections, and room for as many items; each worker reads all
of a slice, so that there is one job of the pool for a slice and not for each page; pages that are
known by number are such jobs, too; dlt's own sessions, one for each thread, with retries, but
without a look at the environment for proxies at each request; bodies decoded by orjson; files not
compressed. What it has written is dlt's own kind of JSON lines.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL"}

import dlt
import orjson
from dlt.sources.helpers import requests
from job import Job, Output, run

logging.disable()
FOLDER = tempfile.TemporaryDirectory()
CLIENT = requests.Client()
Rows = list[dict[str, Any]]


def fetch(url: str, params: dict[str, Any] | None = None) -> Any:
    session = CLIENT.session
    session.trust_env = False
    return orjson.loads(session.get(url, params=params).content)


def chain(url: str) -> Iterator[Rows]:
    token = None
    while True:
        body = fetch(url, {"cursor": token} if token else None)
        yield body["data"]
        token = body["meta"]["next"]
        if token is None:
            return


def sliced(job: Job) -> Any:
    @dlt.resource(selected=False)
    def numbers() -> Iterator[int]:
        yield from range(1, job.slices + 1)

    @dlt.transformer(data_from=numbers, name="records")
    def records(number: int) -> Callable[[], Rows]:
        return lambda: [record for rows in chain(job.slice_url(number)) for record in rows]

    return records


def numbered(job: Job) -> Any:
    url = job.url + job.path
    first = fetch(url)

    @dlt.resource(selected=False)
    def numbers() -> Iterator[int]:
        yield from range(1, first["meta"]["pages"] + 1)

    @dlt.transformer(data_from=numbers, name="records")
    def records(number: int) -> Rows | Callable[[], Rows]:
        return first["data"] if number == 1 else lambda: fetch(url, {"page": number})["data"]

    return records


def chained(job: Job) -> Any:
    # A thread of the pool fetches a page, and none while the consumer rests: the pipe asks for an item
    # when it has done with the one before.
    @dlt.resource(selected=False, parallelized=True)
    def fetched() -> Iterator[Rows]:
        yield from chain(job.url + job.path)

    @dlt.transformer(data_from=fetched, name="records")
    def records(rows: Rows) -> Rows:
        time.sleep(job.pause)
        return rows

    return records


def read(job: Job, output: Output) -> None:
    os.environ |= {
        "EXTRACT__WORKERS": str(job.concurrency),
        "EXTRACT__MAX_PARALLEL_ITEMS": str(job.concurrency),
        "DATA_WRITER__DISABLE_COMPRESSION": "true",
    }
    resource = {"slices": sliced, "pages": numbered, "cursor": chained}[job.shape](job)
    dlt.pipeline("benchmark", pipelines_dir=FOLDER.name).extract(resource)


def collect(job: Job, output: Output) -> None:
    """From dlt's own files, whose lines are lists of many records."""
    for path in Path(FOLDER.name).rglob("records.*typed-jsonl"):
        with path.open("rb") as lines:
            for line in lines:
                output.take(orjson.loads(line))
    FOLDER.cleanup()


if __name__ == "__main__":
    run(read, "dlt", "requests", "orjson", collect=collect)
