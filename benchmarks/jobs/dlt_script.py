"""The jobs with dlt, which only extracts: it neither normalizes nor loads.

Tuned: one worker for each connection, and as many parallel items; each worker reads a complete slice, so
the pool has one job for each slice and not for each page; numbered pages are such jobs, too; the sessions
of dlt, one for each thread, with retries but without a lookup of proxies for each request; bodies decoded
by orjson; uncompressed files. It writes its own variant of JSON Lines.
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


def iter_cursor_pages(url: str) -> Iterator[Rows]:
    token = None
    while True:
        body = fetch(url, {"cursor": token} if token else None)
        yield body["data"]
        token = body["meta"]["next"]
        if token is None:
            return


def slices_resource(job: Job) -> Any:
    @dlt.resource(selected=False)
    def numbers() -> Iterator[int]:
        yield from range(1, job.slices + 1)

    @dlt.transformer(data_from=numbers, name="records")
    def records(number: int) -> Callable[[], Rows]:
        return lambda: [record for rows in iter_cursor_pages(job.slice_url(number)) for record in rows]

    return records


def pages_resource(job: Job) -> Any:
    url = job.url + job.path
    first = fetch(url)

    @dlt.resource(selected=False)
    def numbers() -> Iterator[int]:
        yield from range(1, first["meta"]["pages"] + 1)

    @dlt.transformer(data_from=numbers, name="records")
    def records(number: int) -> Rows | Callable[[], Rows]:
        return first["data"] if number == 1 else lambda: fetch(url, {"page": number})["data"]

    return records


def cursor_resource(job: Job) -> Any:
    # A pool thread fetches each page, but none while the consumer pauses: the pipe requests an item only
    # after it has processed the previous one.
    @dlt.resource(selected=False, parallelized=True)
    def fetched() -> Iterator[Rows]:
        yield from iter_cursor_pages(job.url + job.path)

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
    resource = {"slices": slices_resource, "pages": pages_resource, "cursor": cursor_resource}[job.shape](job)
    dlt.pipeline("benchmark", pipelines_dir=FOLDER.name).extract(resource)


def collect(job: Job, output: Output) -> None:
    """Read the files of dlt, in which each line is a list of records."""
    for path in Path(FOLDER.name).rglob("records.*typed-jsonl"):
        with path.open("rb") as lines:
            for line in lines:
                output.add_page(orjson.loads(line))
    FOLDER.cleanup()


if __name__ == "__main__":
    run(read, "dlt", "requests", "orjson", collect=collect)
