"""CPU per 20 KB page of 100 records: asyncstreams and hand-written loops.

In each round every contender reads a batch of pages, and ratios are computed within the round. CPU is the
user and system time of the client. The server runs in another process, on another core if there are two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import aiohttp
import httpx
import orjson

from asyncstreams import HttpStream, PageNumber, Record, RequestContext, Response

Contender = Callable[[str, int, int], Awaitable[int]]


class Customers(HttpStream):
    """An endless stream: the server has no last page, so the reads use `limit=`."""

    url_base = "http://127.0.0.1/"
    paginator = PageNumber()
    detect_loops = False

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return "customers"

    def parse_response(self, response: Response, context: RequestContext) -> list[Record]:
        records: list[Record] = response.json()
        return records


async def _run_concurrently(streams: int, job: Callable[[], Awaitable[int]]) -> int:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_run(job)) for _ in range(streams)]
    return sum(task.result() for task in running)


async def _run(job: Callable[[], Awaitable[int]]) -> int:
    return await job()


async def read_our_pages(url: str, streams: int, pages: int) -> int:
    stream = Customers(url)

    async def job() -> int:
        count = 0
        async with stream.pages(limit=pages // streams * 100) as read:
            async for page in read:
                for _record in page.records:
                    count += 1
        return count

    return await _run_concurrently(streams, job)


async def read_our_records(url: str, streams: int, pages: int) -> int:
    stream = Customers(url)

    async def job() -> int:
        count = 0
        async with stream.records(limit=pages // streams * 100) as records:
            async for _record in records:
                count += 1
        return count

    return await _run_concurrently(streams, job)


async def read_by_aiohttp(url: str, streams: int, pages: int) -> int:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def job() -> int:
            count = 0
            for number in range(1, pages // streams + 1):
                async with session.get(f"{url}customers", params={"page": number}) as response:
                    response.raise_for_status()
                    records = orjson.loads(await response.read())
                for _record in records:
                    count += 1
            return count

        return await _run_concurrently(streams, job)


async def read_by_httpx(url: str, streams: int, pages: int) -> int:
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def job() -> int:
            count = 0
            for number in range(1, pages // streams + 1):
                response = await client.get(f"{url}customers", params={"page": number})
                response.raise_for_status()
                for _record in orjson.loads(response.content):
                    count += 1
            return count

        return await _run_concurrently(streams, job)


CONTENDERS: dict[str, Contender] = {
    "asyncstreams, page by page": read_our_pages,
    "asyncstreams, record by record": read_our_records,
    "hand-written aiohttp + orjson": read_by_aiohttp,
    "hand-written httpx + orjson": read_by_httpx,
}
BASELINE = "hand-written aiohttp + orjson"


def measure(url: str, streams: int, pages: int, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds per page of each contender, in the order of the rounds."""
    measurements: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        for name, contender in CONTENDERS.items():
            started = time.process_time()
            count = asyncio.run(contender(url, streams, pages))
            cpu = time.process_time() - started
            if count != pages * 100:
                raise SystemExit(f"{name}: read {count} records, expected {pages * 100}")
            if number:  # the first round warms up
                measurements[name].append(cpu / pages * 1e6)
    return measurements


def format_rows(measurements: dict[str, list[float]], streams: int) -> list[str]:
    rows: list[str] = []
    for name, values in measurements.items():
        ratios = [value / base for value, base in zip(values, measurements[BASELINE], strict=True)]
        low, median, high = min(ratios), statistics.median(ratios), max(ratios)
        rows.append(
            f"| {streams} | {name} | {statistics.median(values):.0f} | {min(values):.0f} - {max(values):.0f} "
            f"| {median:.2f} | {low:.2f} - {high:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=1000, help="pages in each measurement (default: 1000)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[1, 10, 100], help="numbers of concurrent streams (default: 1 10 100)"
    )
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        if len(cores) > 1:
            os.sched_setaffinity(server.pid, {cores[-1]})
            os.sched_setaffinity(0, {cores[0]})
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/"
        versions = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "httpx", "orjson", "msgspec"))
        print(f"Python {platform.python_version()}, {len(cores) or '?'} cores, {versions}")
        print(f"{args.pages} pages in each measurement, {args.rounds} interleaved rounds\n")
        print("| streams | reader | µs of CPU per page | spread | ratio | spread |")
        print("|---|---|---|---|---|---|")
        for streams in args.streams:
            print("\n".join(format_rows(measure(url, streams, args.pages, args.rounds), streams)), flush=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
