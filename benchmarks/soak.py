"""Soak test: a million requests to a server with faults, after which memory and descriptors are what they were.

Each kind of fault affects one of 100 responses (`faulty_server.py`). Every response that is read completely must
be the one to its own request. The layer "transport" also cancels one of 100 requests. It needs /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

import httpx
from faulty_server import FAULTS, body
from server import serving

from asyncstreams import AsyncStreamsError, Backoff, HttpStream, RequestContext, Timeouts
from asyncstreams.http.body import read_body
from asyncstreams.http.timeouts import AttemptTimeout, Deadlines
from asyncstreams.messages import Request
from asyncstreams.models import BodyLimits
from asyncstreams.wire.transport import Http1Transport

WORKERS = 64
MARKS = 10
MAX_GROWTH_MB = 1.0
"""Per 100,000 requests, after the first 100,000."""
_GROWTH_REQUESTS = 100_000
_TIMEOUTS = Timeouts(connect=5, first_byte=0.25, read=0.25, total=5)
_MAX_CANCEL_DELAY_S = 0.003
_READ_SLICES = 1000


class Gauge:
    """Counts of outcomes, with resident memory and open descriptors after every so many requests."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._began = time.monotonic()
        self._done = 0
        self.outcomes: Counter[str] = Counter()
        self.marks: list[tuple[int, float]] = []

    def count(self, outcome: str) -> None:
        """Count a request that has ended."""
        self.outcomes[outcome] += 1
        self._done += 1
        if self._done % self._every == 0:
            gc.collect()
            self.marks.append((self._done, resident_mb()))
            seconds = time.monotonic() - self._began
            print(f"| {self._done:,} | {seconds:.0f} | {self.marks[-1][1]:.1f} | {descriptors()} |", flush=True)

    def growth(self) -> float | None:
        """MB per 100,000 requests after the first 100,000; None if there are too few requests to tell."""
        marks = [(done, mb) for done, mb in self.marks if done >= _GROWTH_REQUESTS]
        if not marks or marks[-1][0] < 2 * _GROWTH_REQUESTS:
            return None
        (first, first_mb), (last, last_mb) = marks[0], marks[-1]
        return (last_mb - first_mb) / (last - first) * _GROWTH_REQUESTS


class Soak(Protocol):
    """Sends requests to the server, and counts their outcomes."""

    async def __call__(self, url: str, requests: int, gauge: Gauge) -> None: ...


async def soak_transport(url: str, requests: int, gauge: Gauge) -> None:
    """The transport, with the timeouts and the reading of bodies that the client uses."""
    transport, deadlines, rng = Http1Transport(), Deadlines(), random.Random(2)
    numbers = iter(range(requests))

    async def fetch(number: int) -> str:
        with AttemptTimeout(_TIMEOUTS, deadlines) as timeout:
            request = Request("GET", f"{url}{number}", headers=[("Accept", "*/*")])
            request.extensions = {"connected": timeout.start_request, "timeout": {"connect": _TIMEOUTS.connect}}
            response = await transport.handle_async_request(request)
            timeout.start_body()
            content = await read_body(response, BodyLimits(), timeout)
        if response.status_code == 200 and content != body(number):
            raise SystemExit(f"request {number} has the response of another one: {content[:40]!r}")
        return str(response.status_code)

    async def worker() -> None:
        for number in numbers:
            try:
                if rng.randrange(100):
                    outcome = await fetch(number)
                else:
                    async with asyncio.timeout(rng.uniform(0, _MAX_CANCEL_DELAY_S)):
                        outcome = await fetch(number)
            except TimeoutError:
                outcome = "cancelled"
            except (httpx.TransportError, AsyncStreamsError) as error:
                outcome = type(error).__name__
            gauge.count(outcome)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WORKERS):
            tasks.create_task(worker())
    deadlines.stop()
    await transport.aclose()


class Numbers(HttpStream):
    """A slice for each number; its only page is its only record."""

    url_base = "http://127.0.0.1/"
    timeouts = _TIMEOUTS
    backoff = Backoff(base=0.01, cap=0.1)
    max_tries = 20

    def __init__(self, url: str) -> None:
        super().__init__(max_concurrency=WORKERS)
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return str(context.stream_slice["number"])


async def soak_client(url: str, requests: int, gauge: Gauge) -> None:
    """The whole client with its retries, in reads of 1,000 slices; each slice is counted once."""
    stream = Numbers(url)
    for start in range(0, requests, _READ_SLICES):
        numbers = set(range(start, min(start + _READ_SLICES, requests)))
        try:
            async with stream.pages(slices=[{"number": number} for number in sorted(numbers)]) as pages:
                async for page in pages:
                    number = page.stream_slice["number"]
                    if page.records and page.records[0]["number"] != number:
                        raise SystemExit(f"slice {number} has the response of another one")
                    numbers.remove(number)
                    gauge.count("page" if page.records else "empty page")
        except AsyncStreamsError as error:
            # A malformed response is repeated once only, and ends the read.
            for _ in numbers:
                gauge.count(f"not read: {type(error).__name__}")


LAYERS: dict[str, Soak] = {"transport": soak_transport, "client": soak_client}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def run(soak: Soak, url: str, requests: int, gauge: Gauge) -> tuple[int, int]:
    """Run the soak; return the descriptors before and after it."""
    await soak(url, WORKERS, Gauge(sys.maxsize))  # uvloop opens /dev/null with its first connection, and keeps it
    before = descriptors()
    await soak(url, requests, gauge)
    await asyncio.sleep(0.1)  # uvloop closes sockets in the next iterations
    return before, descriptors()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1_000_000, help="number of requests (1000000)")
    parser.add_argument("--layer", choices=list(LAYERS), default="transport", help="layer that is tested (transport)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (asyncio)")
    args = parser.parse_args()
    logging.disable()  # the client warns of each slice that fails
    new_loop = importlib.import_module("uvloop").new_event_loop if args.loop == "uvloop" else None
    print(f"{args.requests:,} requests through the {args.layer}, {args.loop} loop, {len(FAULTS)} kinds of faults\n")
    with serving(program=Path(__file__).with_name("faulty_server.py")) as url:
        gauge = Gauge(max(1, args.requests // MARKS))
        print("| requests | s | resident MB | descriptors |\n|---|---|---|---|")
        with asyncio.Runner(loop_factory=new_loop) as runner:
            before, after = runner.run(run(LAYERS[args.layer], url, args.requests, gauge))
    print("\n| outcome | requests |\n|---|---|")
    for outcome, number in sorted(gauge.outcomes.items()):
        print(f"| {outcome} | {number:,} |")
    growth = gauge.growth()
    grown = "not measured" if growth is None else f"{growth:+.2f} MB"
    print(
        f"\nmemory per 100,000 requests after the first 100,000: {grown}; descriptors: {before} before, {after} after"
    )
    if (growth is not None and growth >= MAX_GROWTH_MB) or after != before:
        raise SystemExit("soak: resident memory or descriptors have grown")


if __name__ == "__main__":
    main()
