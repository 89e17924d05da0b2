"""Benchmark of the cost of the journal, its snapshots, the manifests, and of states with very many finished slices.

    python benchmarks/journal.py [--rounds 5] [--slices 1000] [--partitions 100000]

Slices of one page of 100 records are extracted to JSON Lines, from a server on this machine, each time in a process of
its own. In that process every call to the journal and to the manifests is timed. A second table measures an incremental
stream with very many partitions of one record each: the cost of one partition, the bytes that are written for it, the
time in which the next run recovers all of them, and what a next run costs in which nothing is new.

A third table measures a read that resumes with a State file: nearly all slices are finished, the last 10 are not.
Both tables show for how long the event loop was blocked at most, by its own probe.
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
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from asyncstreams import HttpStream, JsonLines, NumberRanges, State
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.output_folder import OutputFolder
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.state.stream_state import StateDelta
from asyncstreams.storage.filesystem import FileSystem
from asyncstreams.testing import MockApi, Resource

T = TypeVar("T")
TIMED = ((Journal, "append"), (Journal, "write_snapshot"), (OutputFolder, "_write_manifest"), (Journal, "recover"))
PAGE_SIZE = 100
UNFINISHED = 10


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
    """A partition for each page, with a state of its own."""

    cursor_field = "id"
    cursor_format = "number"

    def __init__(self, url: str, slices: int, size: int) -> None:
        super().__init__(url, slices, size)
        self.windows = NumberRanges(step=10**9, end=10**9)


def patch_timers() -> dict[str, list[float]]:
    """Time all calls to the TIMED methods from now on: CPU seconds, wall seconds and number of calls by method."""
    spent = {name: [0.0, 0.0, 0.0] for _, name in TIMED}

    def patch(class_: type, name: str) -> None:
        work: Callable[..., Any] = getattr(class_, name)
        totals = spent[name]

        def timed(*arguments: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return work(*arguments)
            finally:
                totals[0] += time.thread_time() - cpu
                totals[1] += time.perf_counter() - wall
                totals[2] += 1

        setattr(class_, name, timed)

    for class_, name in TIMED:
        patch(class_, name)
    return spent


def cpu_now() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def with_lag(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `work`, and the longest time in seconds for which the event loop was blocked meanwhile."""
    lag, longest = LoopLag(), 0.0
    task = asyncio.ensure_future(work)
    while not task.done():
        longest = max(longest, lag.sample())
        await asyncio.wait([task], timeout=0.02)
    await asyncio.sleep(0.1)  # a last measurement
    longest = max(longest, lag.sample())
    lag.stop()
    return task.result(), longest


def extract(kind: type[Rows], url: str, slices: int, size: int, out: Path, fsync: Any, rows: int, sender: Any) -> None:
    stream, spent = kind(url, slices, size), patch_timers()
    started, before = time.perf_counter(), cpu_now()
    report, lag = asyncio.run(with_lag(stream.extract(to=JsonLines(out, fsync=fsync))))
    wall, cpu = time.perf_counter() - started, cpu_now() - before
    assert report.streams[0].written.rows == rows, report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    sender.send((wall, cpu, peak, spent, lag))


def write_state(kind: type[Rows], url: str, finished: int, path: Path, sender: Any) -> None:
    """Write the file of a state in which the first slices are finished."""
    stream, state = kind(url, finished + UNFINISHED, 1), State.load(path)
    progress = state.of(stream)
    done = (0, 10**9) if stream.cursor_field else None
    for page in range(1, finished + 1):
        progress.apply(StateDelta({"page": page}, done))
    state.check_stream(stream)
    asyncio.run(state.save())
    sender.send(path.stat().st_size)


def resume(kind: type[Rows], url: str, finished: int, path: Path, sender: Any) -> None:
    """Read the unfinished slices, with the state in the file."""
    stream = kind(url, finished + UNFINISHED, 1)
    asyncio.run(kind(url, 1, 1).read())  # what a process does once is not measured
    before = cpu_now()
    state = State.load(path)
    loading, before = cpu_now() - before, cpu_now()
    rows, lag = asyncio.run(with_lag(stream.read(state=state)))
    assert len(rows) == UNFINISHED, len(rows)
    sender.send((loading, cpu_now() - before, lag))


def recover(out: Path, sender: Any) -> None:
    started = time.perf_counter()
    ledger = Journal(FileSystem(), out / ".asyncstreams", synced=False).recover()
    assert ledger.streams
    sender.send(time.perf_counter() - started)


def run(work: Callable[..., None], *arguments: Any) -> Any:
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(*arguments, sender))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def spread(values: list[float], form: str) -> str:
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} - {high})"


def compare_shares(rounds: int, slices: int) -> None:
    print(
        f"{slices:,} slices of a page of {PAGE_SIZE} records, {rounds} rounds; log: journal, snapshots and manifests\n"
    )
    print("| fsync | commits | CPU s of the run | log | share | wall s | log | share | target |")
    print("|---|---|---|---|---|---|---|---|---|")
    with MockApi(Resource("rows", slices * PAGE_SIZE, page_size=PAGE_SIZE), process=True) as api:
        for fsync, target in (("commit", "15 %"), ("none", ""), ("full", "")):
            results: list[Any] = []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    out, rows = Path(folder) / "out", slices * PAGE_SIZE
                    results.append(run(extract, Rows, api.url, slices, PAGE_SIZE, out, fsync, rows))
            log = [[sum(spent[name][metric] for name in spent) for *_, spent, _ in results] for metric in (0, 1)]
            cpu, wall = [result[1] for result in results], [result[0] for result in results]
            commits = statistics.median(spent["append"][2] for *_, spent, _ in results)
            cells = [f"{commits:,.0f}"]
            for totals, parts in ((cpu, log[0]), (wall, log[1])):
                shares = [part / total for part, total in zip(parts, totals, strict=True)]
                cells += [spread(totals, ".2f"), spread(parts, ".3f"), spread(shares, ".1%")]
            print(f"| {fsync} | {' | '.join(cells)} | {target} |", flush=True)


def measure_partitions(count: int) -> None:
    print(
        "\n| partitions of one record | CPU µs each | peak MiB | state bytes each | s to recover all | "
        "nothing new: CPU µs each | loop blocked, ms |\n|---|---|---|---|---|---|---|"
    )
    with MockApi(Resource("rows", count, page_size=1), process=True) as api:
        for slices in (count // 100, count // 10, count):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                _, cpu, peak, *_ = run(extract, Partitions, api.url, slices, 1, out, "commit", slices)
                state_bytes = sum(path.stat().st_size for path in (out / ".asyncstreams").glob("[sj]*-*"))
                recovery = run(recover, out)
                _, again, _, _, lag = run(extract, Partitions, api.url, slices, 1, out, "commit", 0)
            cells = [f"{cpu / slices * 1e6:.0f}", f"{peak:.0f}", f"{state_bytes / slices:.0f}", f"{recovery:.2f}"]
            cells += [f"{again / slices * 1e6:.0f}", f"{lag * 1e3:.0f}"]
            print(f"| {slices:,} | {' | '.join(cells)} |", flush=True)


def measure_resumption(count: int, rounds: int) -> None:
    print(
        f"\n| slices | finished, of all but {UNFINISHED} | bytes each | load, CPU µs each | read, CPU µs each | "
        "to the first row | loop blocked, ms |\n|---|---|---|---|---|---|---|"
    )
    with MockApi(Resource("rows", count + UNFINISHED, page_size=1), process=True) as api:
        for kind, name in ((Rows, "without a cursor"), (Partitions, "with a cursor")):
            first: float | None = None
            for finished in (count // 100, count // 10, count):
                results: list[tuple[float, float, float]] = []
                for _ in range(rounds):
                    with tempfile.TemporaryDirectory() as folder:
                        path = Path(folder) / "state.json"
                        size = run(write_state, kind, api.url, finished, path)
                        results.append(run(resume, kind, api.url, finished, path))
                loading, reading, lags = zip(*results, strict=True)
                each = [value / (finished + UNFINISHED) * 1e6 for value in reading]
                first = first or statistics.median(each)
                cells = [f"{size / finished:.0f}", f"{statistics.median(loading) / finished * 1e6:.0f}"]
                cells += [spread(each, ".0f"), f"{statistics.median(each) / first:.2f}"]
                cells += [spread([lag * 1e3 for lag in lags], ".0f")]
                print(f"| {name} | {finished:,} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    compare_shares(arguments.rounds, arguments.slices)
    measure_partitions(arguments.partitions)
    measure_resumption(arguments.partitions, arguments.rounds)


if __name__ == "__main__":
    main()
