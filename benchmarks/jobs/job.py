"""What does a contender do, where do its records go, and what did the reading cost? Standard library and orjson."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class Job:
    """One reading.

    "slices": the cursor pages of each of `slices` paths, `{}` in `path` being their number from 1.
    "pages": one resource by page number, whose first page tells the number of pages at `meta.pages`.
    "cursor": one resource whose pages name the next one at `meta.next`. Records lie at `data`. The
    consumer rests for `pause` seconds after every `every`-th page.
    """

    shape: str
    url: str
    out: Path | None
    path: str
    slices: int
    concurrency: int
    pause: float
    every: int

    def slice_url(self, number: int) -> str:
        return self.url + self.path.format(number)


class Output:
    """Where the records go: each is touched and, with a file, written as a line of JSON."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file = None if job.out is None else (job.out / "records.jsonl").open("wb", 2**20)
        self.pages = self.records = self.ids = 0

    def take(self, records: list[dict[str, Any]]) -> float:
        """Take a page; the seconds that the consumer rests after it."""
        ids = 0
        for record in records:
            ids += record["id"]
        self.ids += ids
        self.records += len(records)
        self.pages += 1
        if self._file is not None:
            self._file.write(b"".join([orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE) for record in records]))
        return self._job.pause if self.pages % self._job.every == 0 else 0.0

    def add(self, record: dict[str, Any]) -> None:
        """Take a single record, from a framework that has no pages."""
        self.ids += record["id"]
        self.records += 1
        if self._file is not None:
            self._file.write(orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE))

    def write(self, lines: bytes, count: int) -> None:
        """Take so many records as lines, which nobody has looked at."""
        assert self._file is not None
        self.records += count
        self._file.write(lines)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def run(
    read: Callable[[Job, Output], None], *packages: str, collect: Callable[[Job, Output], None] | None = None
) -> None:
    """Do what the command line says and print one line of JSON: what the reading took, not the imports.

    `collect` gives the output what a framework has written elsewhere, and is not measured.
    """
    job = _job()
    wall, cpu = time.perf_counter(), time.process_time()
    output = Output(job)
    read(job, output)
    output.flush()
    wall, cpu, peak = time.perf_counter() - wall, time.process_time() - cpu, peak_mb()
    if collect is not None:
        collect(job, output)
    output.close()
    told = {
        "wall": wall,
        "cpu": cpu,
        "peak_mb": peak,
        "records": output.records,
        "ids": output.ids,
        "versions": {"Python": platform.python_version(), **{package: version(package) for package in packages}},
    }
    print(json.dumps(told))


def peak_mb() -> float:
    """The most memory that was resident at once.

    Linux counts what the parent held when it started us into ru_maxrss, and VmHWM does not.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def _job() -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=["slices", "pages", "cursor"])
    parser.add_argument("url", help="of the API, with the slash at its end")
    parser.add_argument("out", help="the folder for records.jsonl; - for none")
    parser.add_argument("--path", required=True, help="below the URL; {} is the number of a slice")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds")
    parser.add_argument("--every", type=int, default=1, help="pages from one pause to the next")
    told = parser.parse_args()
    out = None if told.out == "-" else Path(told.out)
    return Job(told.shape, told.url, out, told.path, told.slices, told.concurrency, told.pause, told.every)
