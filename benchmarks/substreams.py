"""Costs of substreams: requests for the parents, time, CPU of replaying a parent log, and memory.

The API is a MockApi in another process, on another core if there are two. Time and memory are measured in a
separate program (`jobs/tree.py`), started again for each measurement. Contenders alternate in each round,
and ratios are computed within a round. Each measurement checks that every record was read once.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "jobs"))

import httpx  # noqa: E402
import orjson  # noqa: E402
from compare import median_and_range, run_program  # noqa: E402
from mock_api import processor_name  # noqa: E402
from plan import AIOHTTP_SCRIPTS, OURS  # noqa: E402
from tree import BATCH_SIZE, CHILDREN, CONNECTIONS, PAGE_SIZE, Customers, ParentCounter  # noqa: E402

from asyncstreams.testing import MockApi, Resource  # noqa: E402

LATENCY_S = 0.02
TREE_PARENTS, REPLAYED_PARENTS, FEW_PARENTS, MANY_PARENTS = 2_000, 50_000, 10_000, 1_000_000
PROTOCOL_SCRIPT, HTTPX_LOOP = "httptools and callbacks", "hand-written httpx + orjson"


@dataclass
class Results:
    """The result tables, the reached and missed aims, and the package versions."""

    tables: list[str] = field(default_factory=list[str])
    aims: list[str] = field(default_factory=list[str])
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def add_table(self, title: str, head: Sequence[str], rows: Iterable[str]) -> None:
        self.tables += [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""]

    def add_aim(self, aim: str, contender: str, measured: str, *, reached: bool) -> None:
        self.aims.append(f"| {aim} | {contender} | {measured} | {'reached' if reached else 'not reached'} |")


class Benchmark:
    """Options of a run, the cores that it uses, and its results."""

    def __init__(self, rounds: int, scale: float, latency: float) -> None:
        self.rounds, self.scale, self.latency = rounds, scale, latency
        self.results = Results()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.is_pinned = len(cores) > 1
        self._server_core = cores[-1] if self.is_pinned else None
        if self.is_pinned:
            os.sched_setaffinity(0, {cores[0]})
        self._started = time.monotonic()
        self.has_uvloop = _is_installed("uvloop")

    def log(self, message: str) -> None:
        print(f"{time.monotonic() - self._started:5.0f} s  {message}", file=sys.stderr, flush=True)

    @contextmanager
    def serve(self, *resources: Resource, latency: float = 0.0) -> Iterator[MockApi]:
        cache_bytes = 2**29  # enough for all pages, so none is built twice
        with MockApi(*resources, latency=latency, process=True, uvloop=self.has_uvloop, cache_bytes=cache_bytes) as api:
            if self._server_core is not None:
                os.sched_setaffinity(api.pid, {self._server_core})
            yield api

    def run_job(self, job: str, api: MockApi, uvloop: bool, folder: str | None = None) -> dict[str, Any]:
        """The result of the program, with its number of requests for parents as `parent_requests`."""
        before = api.counts.by_resource.get("customers", 0)
        command = [sys.executable, str(HERE / "jobs" / "tree.py"), job, api.url]
        command += [] if folder is None else ["--folder", folder]
        result = run_program(command, uvloop and self.has_uvloop)
        self.results.versions |= result["versions"]
        return {**result, "parent_requests": api.counts.by_resource.get("customers", 0) - before}


def measure_tree(bench: Benchmark) -> None:
    """Three children of each parent with one request each: requests for parents, and wall time to the ideal."""
    parents = max(2, round(TREE_PARENTS * bench.scale))
    pages = math.ceil(parents / PAGE_SIZE)
    requests = len(CHILDREN) * parents
    # Only the first page of parents leaves connections idle.
    ideal = bench.latency * (1 + math.ceil(requests / CONNECTIONS))
    contenders: dict[str, tuple[str, bool]] = {}
    for loop, uvloop in enumerate((True, False)):
        if bench.has_uvloop or not uvloop:
            contenders |= {OURS[loop]: ("streams", uvloop), AIOHTTP_SCRIPTS[loop]: ("workers", uvloop)}
    contenders["asyncstreams, parents given"] = ("slices", bench.has_uvloop)
    if _is_installed("httptools"):  # the lower bound on this machine
        contenders[PROTOCOL_SCRIPT] = ("protocol", bench.has_uvloop)
    measurements: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    resources = [Resource("customers", parents, total=True)]
    resources += [Resource(name, 1, parent="customers") for name in CHILDREN]
    with bench.serve(*resources, latency=bench.latency) as api:
        for number in range(bench.rounds + 1):
            for name, (job, uvloop) in contenders.items():
                bench.log(f"tree: round {number} of {bench.rounds}: {name}")
                result = bench.run_job(job, api, uvloop)
                _check(name, result["found"], parents, CHILDREN if job == "slices" else ("customers", *CHILDREN))
                if number:  # the first round warms up the server
                    measurements[name].append(result)
    rows: list[str] = []
    for name, results in measurements.items():
        script = AIOHTTP_SCRIPTS[0 if contenders[name][1] else 1]
        script_walls = [result["wall"] for result in measurements[script]]
        walls, cpus = [result["wall"] for result in results], [result["cpu"] for result in results]
        ratios = [wall / ideal for wall in walls]
        script_ratios = [wall / script_wall for wall, script_wall in zip(walls, script_walls, strict=True)]
        parent_requests = sorted({result["parent_requests"] for result in results})
        cells = [median_and_range(walls, ".2f"), median_and_range(cpus, ".2f"), ", ".join(map(str, parent_requests))]
        cells += [median_and_range(ratios, ".2f"), median_and_range(script_ratios, ".2f")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
        if name in OURS:
            aim, reached = f"requests for parents: {pages}", parent_requests == [pages]
            bench.results.add_aim(aim, name, str(parent_requests[-1]), reached=reached)
            median = statistics.median(ratios)
            bench.results.add_aim("wall to ideal at most 1.15", name, f"{median:.2f}", reached=median <= 1.15)
            median = statistics.median(script_ratios)
            bench.results.add_aim("wall to aiohttp script at most 1.1", name, f"{median:.2f}", reached=median <= 1.1)
    title = f"tree: {parents:,} parents in {pages} pages, {len(CHILDREN)} children of each in one request each, "
    title += f"{bench.latency * 1000:g} ms, {CONNECTIONS} connections, {bench.rounds} rounds; ideal {ideal:.3g} s"
    head = ["contender", "wall s", "spread", "CPU s", "spread", "requests for parents", "wall to ideal", "spread"]
    bench.results.add_table(title, [*head, "wall to aiohttp script", "spread"], rows)


def measure_replay(bench: Benchmark) -> None:
    """CPU of replaying cached parents, in slices of one and of a page, compared with fetching them."""
    parents = max(PAGE_SIZE, round(REPLAYED_PARENTS * bench.scale))
    pages = parents / PAGE_SIZE

    async def replay(url: str, folder: str, fields: tuple[str, ...] | None, batch: int | None) -> int:
        counter = ParentCounter(_cached_customers(url, folder), fields, batch)
        await counter.read()
        return counter.ids

    def replay_with(fields: tuple[str, ...] | None, batch: int | None) -> Callable[[str, str], Awaitable[int]]:
        return lambda url, folder: replay(url, folder, fields, batch)

    contenders: dict[str, Callable[[str, str], Awaitable[int]]] = {
        'cached log, ("id",), one parent per slice': replay_with(("id",), None),
        "cached log, complete records, one parent per slice": replay_with(None, None),
        f'cached log, ("id",), {PAGE_SIZE} parents per slice': replay_with(("id",), PAGE_SIZE),
        f"cached log, complete records, {PAGE_SIZE} parents per slice": replay_with(None, PAGE_SIZE),
        HTTPX_LOOP: _fetch_by_httpx,
    }
    measurements: dict[str, list[float]] = {name: [] for name in contenders}
    with bench.serve(Resource("customers", parents, total=True)) as api, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_cached_customers(api.url, folder).read())
        for number in range(bench.rounds + 1):
            bench.log(f"replay: round {number} of {bench.rounds}")
            for name, contender in contenders.items():
                requests_before, started = api.counts.requests, time.process_time()
                ids = asyncio.run(contender(api.url, folder))
                cpu = time.process_time() - started
                if ids != parents * (parents + 1) // 2:
                    raise SystemExit(f"{name}: did not read each parent once")
                if name != HTTPX_LOOP and api.counts.requests != requests_before:
                    raise SystemExit(f"{name}: sent requests to the API")
                if number:  # the first round warms up
                    measurements[name].append(cpu / pages * 1e6)
    rows: list[str] = []
    for name, values in measurements.items():
        ratios = [fetched / value for fetched, value in zip(measurements[HTTPX_LOOP], values, strict=True)]
        rows.append(f"| {name} | {median_and_range(values, '.0f')} | {median_and_range(ratios, '.1f')} |")
        if name != HTTPX_LOOP:
            median = statistics.median(ratios)
            aim = "a cached parent at least 20 times cheaper than fetching it"
            bench.results.add_aim(aim, name, f"{median:.1f} times", reached=median >= 20)
    title = f"replay: {parents:,} parents, pages of {PAGE_SIZE}, {bench.rounds} rounds"
    bench.results.add_table(title, ["parents", "µs of CPU per page", "spread", "times cheaper", "spread"], rows)


def measure_memory(bench: Benchmark) -> None:
    """Peak memory for many parents compared with few, fetched and from a cached log."""
    sizes = [max(PAGE_SIZE, round(count * bench.scale)) for count in (FEW_PARENTS, MANY_PARENTS)]
    rounds = min(3, bench.rounds)
    measurements: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for parents in sizes:
        customers, sums = Resource("customers", parents, total=True), Resource("sums", 1, latency=0.01)
        with bench.serve(customers, sums) as api:
            for number in range(1, rounds + 1):
                with tempfile.TemporaryDirectory() as folder:
                    for kind, cache in (("fetched", None), ("fetched and cached", folder), ("cached log", folder)):
                        bench.log(f"memory: {parents:,} parents: round {number} of {rounds}: {kind}")
                        result = bench.run_job("log", api, False, cache)
                        if result["found"]["ids of customers"] != parents * (parents + 1) // 2:
                            raise SystemExit(f"{kind}: did not read each parent once")
                        if kind == "cached log" and result["parent_requests"]:
                            raise SystemExit(f"{kind}: sent requests to the API")
                        measurements.setdefault((kind, parents), []).append(result)
    rows: list[str] = []
    for (kind, parents), results in measurements.items():
        few_peaks = [result["peak_mb"] for result in measurements[kind, sizes[0]]]
        peaks = [result["peak_mb"] for result in results]
        extra = [peak - few_peak for peak, few_peak in zip(peaks, few_peaks, strict=True)]
        cells = [median_and_range((result["wall"] for result in results), ".1f")]
        cells += [median_and_range(peaks, ".0f"), median_and_range(extra, ".0f")]
        rows.append(f"| {kind} | {parents:,} | {' | '.join(cells)} |")
        if parents == sizes[-1]:
            median = statistics.median(extra)
            aim = f"{sizes[1]:,} parents within 50 MiB of {sizes[0]:,}"
            bench.results.add_aim(aim, kind, f"{median:.0f} MiB", reached=median <= 50)
    title = f"memory: one child counts the parents, one requests {BATCH_SIZE:,} parents at a time; {rounds} rounds"
    head = ["parents", "number", "wall s", "spread", "peak MiB", "spread", "MiB above few", "spread"]
    bench.results.add_table(title, head, rows)


def _cached_customers(url: str, folder: str) -> Customers:
    customers = Customers(url, cache_dir=folder)
    customers.use_cache = True
    return customers


async def _fetch_by_httpx(url: str, _: str) -> int:
    ids, number, last = 0, 1, 1
    async with httpx.AsyncClient(timeout=60) as client:
        while number <= last:
            response = await client.get(f"{url}customers", params={"page": number, "per_page": PAGE_SIZE})
            response.raise_for_status()
            body = orjson.loads(response.content)
            for record in body["data"]:
                ids += record["id"]
            number, last = number + 1, body["meta"]["pages"]
    return ids


def _check(name: str, found: dict[str, int], parents: int, streams: Iterable[str]) -> None:
    """Raises SystemExit if a record is missing or duplicated. Each parent has one child of each kind."""
    for stream in streams:
        if (found.get(stream), found.get(f"ids of {stream}")) != (parents, parents * (parents + 1) // 2):
            raise SystemExit(f"{name}: read {found.get(stream)} of {parents} {stream}, or some more than once")


def _is_installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


BENCHMARKS = {"tree": measure_tree, "replay": measure_replay, "memory": measure_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--parts", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="parts to run (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5; memory: at most 3)")
    parser.add_argument(
        "--latency", type=float, default=LATENCY_S, help="latency of the tree part in seconds (default: 0.02)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of parents (default: 1)")
    args = parser.parse_args()
    bench = Benchmark(args.rounds, args.scale, args.latency)
    for part in args.parts:
        BENCHMARKS[part](bench)
    results = bench.results
    pinning = "server and contender on separate cores" if bench.is_pinned else "not pinned"
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    print(f"{processor_name()}, {pinning}; {versions}\n")
    print("\n".join(results.tables))
    print("| aim | | measured | |\n|---|---|---|---|")
    print("\n".join(results.aims))


if __name__ == "__main__":
    main()
