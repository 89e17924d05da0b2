"""CPU time of the governor for one request, from its permit to its outcome, in microseconds.

The kinds are measured in turn, in several rounds; the median and the range are printed. Parsing of the
response headers is included.
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
from asyncstreams.rate_limits.quota_headers import reported_quotas

_DATE = ("Date", "Thu, 26 Nov 2026 03:00:00 GMT")
_PLAIN = [_DATE, ("Content-Type", "application/json"), ("Content-Length", "20480"), ("Server", "x")]
_IETF = [*_PLAIN, ("RateLimit-Policy", '"q";q=1000000;w=3600'), ("RateLimit", '"q";r=999999;t=3000')]
_X_RATELIMIT = [
    *_PLAIN,
    ("X-RateLimit-Limit", "1000000"),
    ("X-RateLimit-Remaining", "999999"),
    ("X-RateLimit-Reset", "3000"),
]
_WORKERS, _MAX_IN_FLIGHT = 64, 32

Kind = Callable[[int], Coroutine[Any, Any, None]]


def sequential(headers: list[tuple[str, str]], limits: tuple[RateLimit, ...] = ()) -> Kind:
    """Sequential requests that never wait."""

    async def ask(count: int) -> None:
        governor, client, response = _make_governor(headers, limits)
        wall = time.time()
        for _ in range(count):
            async with governor.permit(client) as permit:
                governor.record_first_byte(permit, reported_quotas(response, wall, governor.host.server_clock))
            governor.record_success(permit)

    return ask


async def queued(count: int) -> None:
    """64 workers with 32 requests in flight."""
    governor, client, response = _make_governor(_PLAIN, ())
    governor.host.concurrency.record_overload(0.0, 0.0)  # ends the slow start
    governor.host.concurrency.limit = float(_MAX_IN_FLIGHT)
    left, wall = count, time.time()

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with governor.permit(client) as permit:
                await asyncio.sleep(0)
                governor.record_first_byte(permit, reported_quotas(response, wall, governor.host.server_clock))
            governor.record_success(permit)

    await asyncio.gather(*[work() for _ in range(_WORKERS)])


async def baseline(count: int) -> None:
    """The same workers without a governor, as the baseline that is subtracted."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await asyncio.sleep(0)

    await asyncio.gather(*[work() for _ in range(_WORKERS)])


def _make_governor(
    headers: list[tuple[str, str]], limits: tuple[RateLimit, ...]
) -> tuple[Governor, QuotaClient, Response]:
    random = Random(1)
    governor = Governor(SystemClock(), random, LoopLag(), HostState(random))
    raw = [(name.encode(), value.encode()) for name, value in headers]
    request = httpx.Request("GET", "https://api.example.com/")
    response = Response(200, headers=raw, stream=httpx.ByteStream(b""), request=request)
    return governor, governor.add_client("orders", limits=limits, adaptive=True), response


KINDS: dict[str, Kind] = {
    "responses without quotas": sequential(_PLAIN),
    "responses with RateLimit and RateLimit-Policy": sequential(_IETF),
    "responses with X-RateLimit-*": sequential(_X_RATELIMIT),
    "a declared limit": sequential(_PLAIN, (RateLimit(10**9, per=60),)),
    "64 workers, 32 in flight": queued,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="in each round (20000)")
    parser.add_argument("--rounds", type=int, default=9, help="the median is reported (9)")
    arguments = parser.parse_args()
    costs: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(arguments.rounds):
        for name, kind in KINDS.items():
            cost = cpu(kind, arguments.requests) - (cpu(baseline, arguments.requests) if kind is queued else 0.0)
            costs[name].append(cost / arguments.requests * 1e6)
    print("| a request | µs of CPU | range |\n|---|---|---|")
    for name, values in costs.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |")


def cpu(kind: Kind, count: int) -> float:
    """Seconds of CPU time."""
    began = time.process_time()
    asyncio.run(kind(count))
    return time.process_time() - began


if __name__ == "__main__":
    main()
