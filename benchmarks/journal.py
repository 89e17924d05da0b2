"""What does it cost to know, at any moment, what has been written: the journal, its snapshots, and the manifests?

    python benchmarks/journal.py [--rounds 5] [--slices 1000] [--partitions 100000]

Slices of one page of 100 records go into JSON lines, from a server on this machine, in a process of its own each time.
In it somebody with a watch stands beside each journal and each manifest. Then an incremental stream with very many
partitions, each of one record: what one of them costs, what is written about it, and what the next run takes to know
all of them again.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asyncstreams import HttpStream, JsonLines, NumberRanges
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.output_folder import OutputFolder
from asyncstreams.storage.filesystem import FileSystem
from asyncstreams.testing import MockApi, Resource

WATCHED = ((Journal, "append"), (Journal, "snapshot"), (OutputFolder, "_write_manifest"), (Journal, "recover"))
PAGE = 100


class Rows(HttpStream):
    """A slice for each page of the resource."""

    primary_key = "id"
    records_path = "data"
    max_concurrency = 32

    def __init__(self, url: str, slices: int, size: int) -> None:
        super().__init__()
        self.url_base, self.slices, self.size = url, slices, size

    def path(self, context: Any) -> str:
        return "rows"

    def stream_slices(self, state: Any) -> Any:
        return ({"page": number} for number in range(1, self.slices + 1))

    def request_params(self, context: Any) -> Mapping[str, Any]:
        return {"page": context.stream_slice["page"], "per_page": self.size}


class Partitions(Rows):
    """A partition for each page, of which it is known how far it was read."""

    cursor_field = "id"
    cursor_format = "number"

    def __init__(self, url: str, slices: int, size: int) -> None:
        super().__init__(url, slices, size)
        self.windows = NumberRanges(step=10**9, end=10**9)


def watched() -> dict[str, list[float]]:
    """Seconds of CPU and of waiting in what is watched, from now on."""
    spent = {name: [0.0, 0.0, 0.0] for _, name in WATCHED}

    def watch(owner: type, name: str) -> None:
        work: Callable[..., Any] = getattr(owner, name)
        told = spent[name]

        def timed(*given: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return work(*given)
            finally:
                told[0] += time.thread_time() - cpu
                told[1] += time.perf_counter() - wall
                told[2] += 1

        setattr(owner, name, timed)

    for owner, name in WATCHED:
        watch(owner, name)
    return spent


def cpu_now() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def extract(kind: type[Rows], url: str, slices: int, size: int, out: Path, fsync: Any, told: Any) -> None:
    stream, spent = kind(url, slices, size), watched()
    began, before = time.perf_counter(), cpu_now()
    report = asyncio.run(stream.extract(to=JsonLines(out, fsync=fsync)))
    wall, cpu = time.perf_counter() - began, cpu_now() - before
    rows = report.streams[0].written.rows
    assert rows == slices * size, rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    told.send((wall, cpu, peak, spent))


def recover(out: Path, told: Any) -> None:
    began = time.perf_counter()
    ledger = Journal(FileSystem(), out / ".asyncstreams", synced=False).recover()
    assert ledger.streams
    told.send(time.perf_counter() - began)


def run(work: Callable[..., None], *given: Any) -> Any:
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(*given, there))
    process.start()
    told = here.recv()
    process.join()
    return told


def spread(values: list[float], form: str) -> str:
    low, middle, high = (format(one, form) for one in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} - {high})"


def shares(rounds: int, slices: int) -> None:
    print(f"{slices:,} slices of a page of {PAGE} records, {rounds} rounds; theirs: journal, snapshots and manifests\n")
    print("| fsync | commits | CPU s of the run | of it theirs | share | wall s | of it theirs | share | aim |")
    print("|---|---|---|---|---|---|---|---|---|")
    with MockApi(Resource("rows", slices * PAGE, page_size=PAGE), process=True) as api:
        for fsync, aim in (("commit", "15 %"), ("none", ""), ("full", "")):
            found: list[Any] = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(run(extract, Rows, api.url, slices, PAGE, Path(folder) / "out", fsync))
            theirs = [[sum(spent[name][which] for name in spent) for *_, spent in found] for which in (0, 1)]
            cpu, wall = [one[1] for one in found], [one[0] for one in found]
            commits = statistics.median(spent["append"][2] for *_, spent in found)
            cells = [f"{commits:,.0f}"]
            for all_of, part in ((cpu, theirs[0]), (wall, theirs[1])):
                parts = [one / whole for one, whole in zip(part, all_of, strict=True)]
                cells += [spread(all_of, ".2f"), spread(part, ".3f"), spread(parts, ".1%")]
            print(f"| {fsync} | {' | '.join(cells)} | {aim} |", flush=True)


def partitions(many: int) -> None:
    print("\n| partitions of one record | CPU µs of each | MiB at the peak | bytes of each | s to know it again |")
    print("|---|---|---|---|---|")
    with MockApi(Resource("rows", many, page_size=1), process=True) as api:
        for slices in (many // 100, many // 10, many):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                _, cpu, peak, _ = run(extract, Partitions, api.url, slices, 1, out, "commit")
                known = sum(path.stat().st_size for path in (out / ".asyncstreams").glob("[sj]*-*"))
                again = run(recover, out)
            cells = [f"{cpu / slices * 1e6:.0f}", f"{peak:.0f}", f"{known / slices:.0f}", f"{again:.2f}"]
            print(f"| {slices:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=100_000)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    shares(given.rounds, given.slices)
    partitions(given.partitions)


if __name__ == "__main__":
    main()
