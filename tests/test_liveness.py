"""Runs on random servers: each wait ends by what the server orders, never later."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from random import Random

import httpx
import pytest
from fake_api import slices
from random_servers import MAX_SERVER_WAIT_S, WALL, RandomServer
from simulation import FULL, sample

from asyncstreams import AsyncStreamsError, HttpStream, RateLimit, RequestContext, Source
from asyncstreams.testing import VirtualClock

SLICES = 12
MAX_SILENCE_S = 1.1 * MAX_SERVER_WAIT_S + 2
"""An ordered wait, the spread after it, and the interval between probes."""


class Items(HttpStream):
    url_base = "https://api.test/"
    max_server_wait = MAX_SERVER_WAIT_S

    def path(self, context: RequestContext) -> tuple[str, int]:
        return self.name, context.stream_slice["at"]


def random_streams(random: Random) -> list[HttpStream]:
    """One to three streams, adaptive and not, some with a declared limit and some with a quota of their own."""
    return [
        type(
            f"Items{number}",
            (Items,),
            {
                "name": f"items{number}",
                "weight": random.choice((1.0, 3.0)),
                "adaptive": random.random() < 0.7,
                "quota_group": random.choice((None, None, "group")),
                "rate_limit": random.choice((None, None, RateLimit(5, per=1), RateLimit(20, per=10))),
            },
        )()
        for number in range(random.choice((1, 2, 3)))
    ]


async def longest_silence(seed: int) -> tuple[float, RandomServer]:
    """The longest time without a request or a response in a run, in virtual seconds, and its server."""
    random, clock = Random(seed), VirtualClock(start=WALL)
    server, began = RandomServer(random), clock.monotonic()
    events: list[float] = [began]

    async def api(request: httpx.Request) -> httpx.Response:
        events.append(clock.monotonic())
        status, after, headers = server.respond(clock.monotonic() - began)
        await asyncio.sleep(after)
        events.append(clock.monotonic())
        return httpx.Response(status, headers=headers, json=[{"id": 1}])

    streams = random_streams(random)
    source = Source(streams, transport=httpx.MockTransport(api), clock=clock, seed=seed)
    try:
        async with source.pages(slices={stream.name: slices(range(SLICES)) for stream in streams}) as pages:
            async for _ in pages:
                pass
    except AsyncStreamsError:
        pass  # a run may fail, but it ends
    events.append(clock.monotonic())
    return max(end - begin for begin, end in pairwise(events)), server


def long_silences(seeds: range) -> list[str]:
    found: list[str] = []
    for seed in seeds:
        seconds, server = asyncio.run(longest_silence(seed))
        if seconds > MAX_SILENCE_S:
            found.append(f"seed {seed}: nothing for {seconds:.0f} s ({server!r})")
    return found


@pytest.mark.simulation
def test_run_ends_on_every_random_server() -> None:
    count = sample(full=1000, short=20)
    if not FULL:
        assert long_silences(range(count)) == []
        return
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        chunks = [range(first, first + 50) for first in range(0, count, 50)]
        assert [fault for found in pool.map(long_silences, chunks) for fault in found] == []
