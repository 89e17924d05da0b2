"""The job of a contender, its output, and the measurement. It imports only the standard library and orjson."""

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
    """One job, in one of four shapes.

    "slices": cursor pages of `slices` paths; `{}` in `path` stands for their number, from 1.
    "numbered": the same with numbered pages; each has the number of pages at `meta.pages`.
    "pages": one resource with numbered pages, whose first page has the number of pages at `meta.pages`.
    "cursor": one resource whose pages have the next cursor at `meta.next`.

    Records are at `data`. The consumer pauses for `pause` seconds after every `every`-th page. `timeout` (seconds
    for a response or its next part) and `rate` (requests a second) are 0 for none.
    """

    shape: str
    url: str
    out: Path | None
    path: str
    slices: int
    concurrency: int
    pause: float
    every: int
    timeout: float = 0.0
    rate: float = 0.0

    def slice_url(self, number: int) -> str:
        return self.url + self.path.format(number)


class Output:
    """Sums the ids of all records and, with a folder, writes each record as a line of JSON."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file = None if job.out is None else (job.out / "records.jsonl").open("wb", 2**20)
        self.pages = self.records = self.ids = 0

    def add_page(self, records: list[dict[str, Any]]) -> float:
        """Add a page and return the seconds that the consumer pauses after it."""
        ids = 0
        for record in records:
            ids += record["id"]
        self.ids += ids
        self.records += len(records)
        self.pages += 1
        if self._file is not None:
            self._file.write(b"".join([orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE) for record in records]))
        return self._job.pause if self.pages % self._job.every == 0 else 0.0

    def add_record(self, record: dict[str, Any]) -> None:
        """Add a single record, for a framework without pages."""
        self.ids += record["id"]
        self.records += 1
        if self._file is not None:
            self._file.write(orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE))

    def add_lines(self, lines: bytes, count: int) -> None:
        """Add `count` records as encoded lines that were not decoded."""
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
    """Run the job of the command line and print its measurement, without the imports, as a line of JSON.

    `collect` moves to the output what a framework has written elsewhere. It is not measured.
    """
    job = _parse_job()
    wall, cpu = time.perf_counter(), time.process_time()
    output = Output(job)
    read(job, output)
    output.flush()
    wall, cpu, peak = time.perf_counter() - wall, time.process_time() - cpu, peak_mb()
    if collect is not None:
        collect(job, output)
    output.close()
    measurement = {
        "wall": wall,
        "cpu": cpu,
        "peak_mb": peak,
        "records": output.records,
        "ids": output.ids,
        "versions": {"Python": platform.python_version(), **{package: version(package) for package in packages}},
    }
    print(json.dumps(measurement))


def peak_mb() -> float:
    """Peak resident memory in MiB.

    On Linux, ru_maxrss includes the memory of the parent at the fork; VmHWM does not.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def _parse_job() -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=["slices", "numbered", "pages", "cursor"])
    parser.add_argument("url", help="base URL of the API, with a slash at the end")
    parser.add_argument("out", help="folder for records.jsonl, or - for no file")
    parser.add_argument("--path", required=True, help="path below the URL; {} stands for the number of a slice")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds")
    parser.add_argument("--every", type=int, default=1, help="number of pages between pauses")
    parser.add_argument("--timeout", type=float, default=0.0, help="seconds for a response or its next part")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second")
    args = parser.parse_args()
    return Job(**{**vars(args), "out": None if args.out == "-" else Path(args.out)})
