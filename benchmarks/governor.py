"""What does the governor cost: CPU of one request from its ticket to its verdict, in microseconds?

Each kind is measured in turn, again and again; the median round and the range are printed. The
headers of the answer are read too.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import httpx

from asyncstreams import RateLimit, Response
from asyncstreams.clock import SystemClock
from asyncstreams.rate_limits.governor import Governor, HostState, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.rate_limits.quota_headers import told_quotas

_DATE = ("Date", "Thu, 26 Nov 2026 03:00:00 GMT")
_PLAIN = [_DATE, ("Content-Type", "application/json"), ("Content-Length", "20480"), ("Server", "x")]
_STANDARD = [*_PLAIN, ("RateLimit-Policy", '"q";q=1000000;w=3600'), ("RateLimit", '"q";r=999999;t=3000')]
_USUAL = [*_PLAIN, ("X-RateLimit-Limit", "1000000"), ("X-RateLimit-Remaining", "999999"), ("X-RateLimit-Reset", "3000")]
_WORKERS, _AT_ONCE = 64, 32

Kind = Callable[[int], Coroutine[Any, Any, None]]


def at_once(headers: list[tuple[str, str]], limits: tuple[RateLimit, ...] = ()) -> Kind:
    """One request after the other, which nothing keeps."""

    async def ask(count: int) -> None:
        governor, client, response = _made(headers, limits)
        wall = time.time()
        for _ in range(count):
            ticket = governor.acquire_nowait(client)
            assert ticket is not None
            governor.first_byte(ticket, told_quotas(response, wall, governor.host.time))
            governor.release(ticket)
            governor.succeeded(ticket)

    return ask


async def queued(count: int) -> None:
    """64 workers, of whom 32 may be on the wire."""
    governor, client, response = _made(_PLAIN, ())
    governor.host.concurrency.overloaded(0.0, 0.0)  # ends the doubling
    governor.host.concurrency.limit = float(_AT_ONCE)
    left, wall = count, time.time()

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            ticket = governor.acquire_nowait(client) or await governor.acquire(client)
            await asyncio.sleep(0)
            governor.first_byte(ticket, told_quotas(response, wall, governor.host.time))
            governor.release(ticket)
            governor.succeeded(ticket)

    await asyncio.gather(*[work() for _ in range(_WORKERS)])


async def nothing(count: int) -> None:
    """The same workers without a governor, which is taken off."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.sleep(0)

    await asyncio.gather(*[work() for _ in range(_WORKERS)])


def _made(headers: list[tuple[str, str]], limits: tuple[RateLimit, ...]) -> tuple[Governor, QuotaClient, Response]:
    random = Random(1)
    governor = Governor(SystemClock(), random, LoopLag(), HostState(random))
    raw = [(name.encode(), value.encode()) for name, value in headers]
    request = httpx.Request("GET", "https://api.example.com/")
    response = Response(200, headers=raw, stream=httpx.ByteStream(b""), request=request)
    return governor, governor.client("orders", limits=limits, adaptive=True), response


KINDS: dict[str, Kind] = {
    "answers without quotas": at_once(_PLAIN),
    "answers with RateLimit and RateLimit-Policy": at_once(_STANDARD),
    "answers with X-RateLimit-*": at_once(_USUAL),
    "a declared limit": at_once(_PLAIN, (RateLimit(10**9, per=60),)),
    "64 workers, 32 at once": queued,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="in each round (20000)")
    parser.add_argument("--rounds", type=int, default=9, help="of which the median counts (9)")
    arguments = parser.parse_args()
    costs: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(arguments.rounds):
        for name, kind in KINDS.items():
            cost = cpu(kind, arguments.requests) - (cpu(nothing, arguments.requests) if kind is queued else 0.0)
            costs[name].append(cost / arguments.requests * 1e6)
    print("| a request | µs of CPU | range |\n|---|---|---|")
    for name, values in costs.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |")


def cpu(kind: Kind, count: int) -> float:
    """Seconds of it."""
    began = time.process_time()
    asyncio.run(kind(count))
    return time.process_time() - began


if __name__ == "__main__":
    main()
