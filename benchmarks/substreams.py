"""What do children cost: requests for their parents, time, CPU of a log that is read again, and memory.

The API is a MockApi in another process, on another core where there are two; what takes time or memory
is a program of its own (`jobs/tree.py`), run again for each measurement. Contenders take turns, round by
round, and ratios are taken within a round. That every record came once is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
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
from compare import spread  # noqa: E402
from mock_api import processor  # noqa: E402
from tree import BATCH, CHILDREN, CONNECTIONS, PAGE_SIZE, Customers, Passed  # noqa: E402

from asyncstreams.testing import MockApi, Resource  # noqa: E402

LATENCY = 0.02
PARENTS, REPLAYED, FEW, MANY = 2_000, 50_000, 10_000, 1_000_000
HAND, BARE, HTTPX = "aiohttp script", "httptools and callbacks", "httpx + orjson by hand"
LOOPS = {"asyncstreams": "1", "asyncstreams, asyncio's loop": "0"}
PATIENCE = 900


@dataclass
class Findings:
    """Tables for people, and what came of the aims."""

    tables: list[str] = field(default_factory=list[str])
    aims: list[str] = field(default_factory=list[str])
    versions: dict[str, str] = field(default_factory=dict[str, str])

    def table(self, title: str, head: Sequence[str], rows: Iterable[str]) -> None:
        self.tables += [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""]

    def aim(self, told: str, who: str, measured: str, *, reached: bool) -> None:
        self.aims.append(f"| {told} | {who} | {measured} | {'reached' if reached else 'missed'} |")


class Bench:
    """Where things run, and what has been found."""

    def __init__(self, rounds: int, scale: float, latency: float) -> None:
        self.rounds, self.scale, self.latency = rounds, scale, latency
        self.findings = Findings()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.is_pinned = len(cores) > 1
        self._server_core = cores[-1] if self.is_pinned else None
        if self.is_pinned:
            os.sched_setaffinity(0, {cores[0]})
        self._begun = time.monotonic()
        self.has_uvloop = _is_installed("uvloop")

    def tell(self, what: str) -> None:
        print(f"{time.monotonic() - self._begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    @contextmanager
    def api(self, *resources: Resource, latency: float = 0.0) -> Iterator[MockApi]:
        room = 2**29  # nothing is to be made twice
        with MockApi(*resources, latency=latency, process=True, uvloop=self.has_uvloop, cache_bytes=room) as api:
            if self._server_core is not None:
                os.sched_setaffinity(api.pid, {self._server_core})
            yield api

    def run(self, job: str, api: MockApi, uvloop: str, folder: str | None = None) -> dict[str, Any]:
        """What the program said, with the requests for parents that the API had from it."""
        before = api.counts.by_resource.get("customers", 0)
        command = [sys.executable, str(HERE / "jobs" / "tree.py"), job, api.url]
        command += [] if folder is None else ["--folder", folder]
        environment = {**os.environ, "UVLOOP": uvloop if self.has_uvloop else "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        if done.returncode:
            raise SystemExit(f"{job} failed:\n{done.stderr[-4000:]}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.findings.versions |= told["versions"]
        return {**told, "asked": api.counts.by_resource.get("customers", 0) - before}


def tree(bench: Bench) -> None:
    """Three children of each parent, one request each: requests for parents, and the wall to the ideal."""
    parents = max(2, round(PARENTS * bench.scale))
    pages = math.ceil(parents / PAGE_SIZE)
    requests = len(CHILDREN) * parents
    # The first page of parents comes alone, then there is always enough to do.
    ideal = bench.latency * (1 + math.ceil(requests / CONNECTIONS))
    contenders = {name: ("streams", uvloop) for name, uvloop in LOOPS.items() if uvloop == "0" or bench.has_uvloop}
    contenders["asyncstreams, parents given"] = ("slices", "1")
    contenders[HAND] = ("hand", "1")
    if _is_installed("httptools"):  # less than this nobody can do here
        contenders[BARE] = ("bare", "1")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    resources = [Resource("customers", parents, total=True)]
    resources += [Resource(name, 1, parent="customers") for name in CHILDREN]
    with bench.api(*resources, latency=bench.latency) as api:
        for number in range(bench.rounds + 1):
            for name, (job, uvloop) in contenders.items():
                bench.tell(f"tree: round {number} of {bench.rounds}: {name}")
                told = bench.run(job, api, uvloop)
                _check(name, told["found"], parents, CHILDREN if job == "slices" else ("customers", *CHILDREN))
                if number:  # the first round warms up the server
                    found[name].append(told)
    rows: list[str] = []
    for name, rounds in found.items():
        walls, ratios = [one["wall"] for one in rounds], [one["wall"] / ideal for one in rounds]
        asked = sorted({one["asked"] for one in rounds})
        to_hand = [one["wall"] / by_hand["wall"] for one, by_hand in zip(rounds, found[HAND], strict=True)]
        figures = [spread(walls, ".2f"), spread((one["cpu"] for one in rounds), ".2f")]
        figures += [", ".join(map(str, asked)), spread(ratios, ".2f"), spread(to_hand, ".2f")]
        rows.append(f"| {name} | {' | '.join(figures)} |")
        if name in LOOPS:
            bench.findings.aim(f"requests for parents: {pages}", name, str(asked[-1]), reached=asked == [pages])
            middle = statistics.median(ratios)
            bench.findings.aim("wall to ideal at most 1.15", name, f"{middle:.2f}", reached=middle <= 1.15)
    title = f"tree: {parents:,} parents in {pages} pages, {len(CHILDREN)} children of each in a request of its own, "
    title += f"{bench.latency * 1000:g} ms, {CONNECTIONS} connections, {bench.rounds} rounds; ideal {ideal:.3g} s"
    head = ["contender", "wall s", "spread", "CPU s", "spread", "requests for parents", "wall to ideal", "spread"]
    bench.findings.table(title, [*head, f"wall to {HAND}", "spread"], rows)


def replay(bench: Bench) -> None:
    """The CPU of parents that were kept, in slices of one and of a page, beside that of fetching them by hand."""
    parents = max(PAGE_SIZE, round(REPLAYED * bench.scale))
    pages = parents / PAGE_SIZE

    async def of_log(url: str, folder: str, fields: tuple[str, ...] | None, batch: int | None) -> int:
        passed = Passed(_kept(url, folder), fields, batch)
        await passed.read()
        return passed.ids

    def replayed(fields: tuple[str, ...] | None, batch: int | None) -> Callable[[str, str], Awaitable[int]]:
        return lambda url, folder: of_log(url, folder, fields, batch)

    contenders: dict[str, Callable[[str, str], Awaitable[int]]] = {
        'kept log, ("id",), a slice for each': replayed(("id",), None),
        "kept log, whole records, a slice for each": replayed(None, None),
        f'kept log, ("id",), a slice for {PAGE_SIZE}': replayed(("id",), PAGE_SIZE),
        f"kept log, whole records, a slice for {PAGE_SIZE}": replayed(None, PAGE_SIZE),
        HTTPX: _by_httpx,
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    with bench.api(Resource("customers", parents, total=True)) as api, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_kept(api.url, folder).read())
        for number in range(bench.rounds + 1):
            bench.tell(f"replay: round {number} of {bench.rounds}")
            for name, contender in contenders.items():
                before, begun = api.counts.requests, time.process_time()
                ids = asyncio.run(contender(api.url, folder))
                spent = time.process_time() - begun
                if ids != parents * (parents + 1) // 2:
                    raise SystemExit(f"{name} did not read each parent once")
                if name != HTTPX and api.counts.requests != before:
                    raise SystemExit(f"{name} asked the API")
                if number:  # the first round warms up
                    found[name].append(spent / pages * 1e6)
    rows: list[str] = []
    for name, values in found.items():
        ratios = [by_hand / value for by_hand, value in zip(found[HTTPX], values, strict=True)]
        rows.append(f"| {name} | {spread(values, '.0f')} | {spread(ratios, '.1f')} |")
        if name != HTTPX:
            middle = statistics.median(ratios)
            told = "a kept parent at least 20 times cheaper than fetching it"
            bench.findings.aim(told, name, f"{middle:.1f} times", reached=middle >= 20)
    title = f"replay: {parents:,} parents, pages of {PAGE_SIZE}, {bench.rounds} rounds"
    bench.findings.table(title, ["parents", "µs of CPU per page", "spread", "times cheaper", "spread"], rows)


def memory(bench: Bench) -> None:
    """The most memory for many parents beside that for few, fetched and from a kept log."""
    sizes = [max(PAGE_SIZE, round(count * bench.scale)) for count in (FEW, MANY)]
    rounds = min(3, bench.rounds)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for parents in sizes:
        customers, sums = Resource("customers", parents, total=True), Resource("sums", 1, latency=0.01)
        with bench.api(customers, sums) as api:
            for number in range(1, rounds + 1):
                with tempfile.TemporaryDirectory() as folder:
                    for kind, where in (("fetched", None), ("fetched and kept", folder), ("from a kept log", folder)):
                        bench.tell(f"memory: {parents:,} parents: round {number} of {rounds}: {kind}")
                        told = bench.run("log", api, "0", where)
                        if told["found"]["ids of customers"] != parents * (parents + 1) // 2:
                            raise SystemExit(f"{kind}: not each parent once")
                        if kind == "from a kept log" and told["asked"]:
                            raise SystemExit(f"{kind}: it asked the API")
                        found.setdefault((kind, parents), []).append(told)
    rows: list[str] = []
    for (kind, parents), told in found.items():
        few = [one["peak_mb"] for one in found[kind, sizes[0]]]
        peaks = [one["peak_mb"] for one in told]
        more = [one - other for one, other in zip(peaks, few, strict=True)]
        figures = [spread((one["wall"] for one in told), ".1f"), spread(peaks, ".0f"), spread(more, ".0f")]
        rows.append(f"| {kind} | {parents:,} | {' | '.join(figures)} |")
        if parents == sizes[-1]:
            middle = statistics.median(more)
            aim = f"{sizes[1]:,} parents within 50 MiB of {sizes[0]:,}"
            bench.findings.aim(aim, kind, f"{middle:.0f} MiB", reached=middle <= 50)
    title = f"memory: one child looks at each parent, one asks for {BATCH:,} parents at a time; {rounds} rounds"
    head = ["parents", "number", "wall s", "spread", "peak MiB", "spread", "MiB above few", "spread"]
    bench.findings.table(title, head, rows)


def _kept(url: str, folder: str) -> Customers:
    customers = Customers(url, cache_dir=folder)
    customers.use_cache = True
    return customers


async def _by_httpx(url: str, _: str) -> int:
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
    """Exits where a record is missing or came twice: there is one of each child for each parent."""
    for stream in streams:
        if (found.get(stream), found.get(f"ids of {stream}")) != (parents, parents * (parents + 1) // 2):
            raise SystemExit(f"{name} read {found.get(stream)} {stream} of {parents}, or not each once")


def _is_installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


PARTS = {"tree": tree, "replay": replay, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5; of memory at most 3)")
    parser.add_argument("--latency", type=float, default=LATENCY, help="seconds, of tree (default 0.02)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of parents (default 1)")
    chosen = parser.parse_args()
    bench = Bench(chosen.rounds, chosen.scale, chosen.latency)
    for part in chosen.parts:
        PARTS[part](bench)
    found = bench.findings
    where = "server and contender each on a core of its own" if bench.is_pinned else "not pinned"
    print(f"{processor()}, {where}; {', '.join(f'{name} {number}' for name, number in found.versions.items())}\n")
    print("\n".join(found.tables))
    print("| aim | | measured | |\n|---|---|---|---|")
    print("\n".join(found.aims))


if __name__ == "__main__":
    main()
