"""Does everybody who asks the governor get a ticket in the end, whatever happens to the others?"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from random import Random

import pytest
from simulated_servers import Watched

from asyncstreams import RateLimit
from asyncstreams.rate_limits.governor import (
    BUSY,
    DECLARED,
    DOWN,
    PACED,
    PAUSE,
    SHARED,
    TOLD,
    Governor,
    HostState,
    Permit,
    QuotaClient,
)
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.rate_limits.quota_headers import ReportedQuota
from asyncstreams.testing import VirtualClock

LONG = 1.0


def governor_of(clock: VirtualClock, host: HostState | None = None) -> Governor:
    random = Random(1)
    return Governor(clock, random, LoopLag(), host or HostState(random))


def taken(governor: Governor, client: QuotaClient) -> Permit:
    ticket = governor.acquire_nowait(client)
    assert ticket is not None
    return ticket


def quota(remaining: float, resets_in: float) -> list[ReportedQuota]:
    return [ReportedQuota("q", remaining, resets_in, 100, None)]


class Chaos:
    """Workers of several streams whose requests end in every way, some of them cancelled at any moment."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.clock = VirtualClock()
        self.clock.monotonic()
        host = HostState(random)
        self.governors = [Watched(self.clock, random, LoopLag(), host) for _ in range(2)]
        limits = ((), (RateLimit(50, per=2),), (RateLimit(30, per=1, smooth=True), RateLimit(400, per=60)))
        self.clients = [
            (governor, governor.client(f"{number}", random.uniform(0.5, 4), limits[number % 3], adaptive=number != 3))
            for governor in self.governors
            for number in range(4)
        ]
        self.ended = 0

    async def worker(self, governor: Watched, client: QuotaClient) -> None:
        ticket = await self.ticket(governor, client)
        try:
            await asyncio.sleep(self.random.expovariate(20))
            if self.random.random() < 0.3:
                governor.first_byte(ticket, quota(self.random.randrange(20), self.random.uniform(0, 5)))
        finally:
            governor.release(ticket)
            governor.look()
        verdict = self.random.random()
        if verdict < 0.6:
            governor.succeeded(ticket)
        elif verdict < 0.75:
            governor.failed(ticket, is_overload=verdict < 0.65)
        elif verdict < 0.9:
            governor.refused(ticket, is_ordered=verdict < 0.8)
            governor.close_for(self.random.expovariate(1))
        self.ended += 1

    async def ticket(self, governor: Watched, client: QuotaClient) -> Permit:
        while (ticket := governor.acquire_nowait(client)) is None:
            wait = governor.wait(client)
            if wait is None or (wait.reason is not DOWN and (wait.seconds < LONG or wait.seconds == math.inf)):
                return await governor.acquire(client)
            await asyncio.sleep(LONG if wait.reason is DOWN else wait.seconds - LONG / 2)
            governor.look()
        return ticket

    async def run(self) -> int:
        """How many workers were cancelled."""
        workers = []
        for number in range(400):
            await asyncio.sleep(self.random.expovariate(100))
            workers.append(asyncio.create_task(self.worker(*self.random.choice(self.clients))))
            if number % 5 == 0:
                self.random.choice(workers).cancel()
        async with asyncio.timeout(3600):
            await asyncio.wait(workers)
        for worker in workers:
            if not worker.cancelled():
                worker.result()
        return sum(worker.cancelled() for worker in workers)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_nobody_waits_for_ever_and_every_ticket_comes_back(seed: int) -> None:
    async def run() -> Chaos:
        chaos = Chaos(seed)
        cancelled = await chaos.run()
        assert cancelled + chaos.ended == 400
        return chaos

    chaos = asyncio.run(run())

    assert [governor.in_flight for governor in chaos.governors] == [0, 0]
    assert chaos.governors[0].host.in_flight == 0
    assert all(client.in_flight == 0 and not client.waiting for _, client in chaos.clients)


async def test_a_wait_says_what_keeps_a_request_and_for_how_long(virtual_clock: VirtualClock) -> None:
    told, declared, paused, busy, down = (governor_of(virtual_clock) for _ in range(5))
    clients = [governor.client("a", adaptive=True) for governor in (told, paused, busy, down)]
    strict = declared.client("a", limits=[RateLimit(1, per=7)], adaptive=True)
    first = taken(told, clients[0])
    told.first_byte(first, quota(0, 5.0))
    told.release(first)
    taken(declared, strict)
    paused.close_for(20.0)
    for _ in range(4):
        taken(busy, clients[2])
    while not down.host.health.is_down:
        down.failed(Permit(down, clients[3], 0.0, 0), is_overload=False)

    waits = [
        governor.wait(client)
        for governor, client in (
            (told, clients[0]),
            (declared, strict),
            (paused, clients[1]),
            (busy, clients[2]),
            (down, clients[3]),
        )
    ]

    assert [wait and wait.reason for wait in waits] == [TOLD, DECLARED, PAUSE, BUSY, DOWN]
    seconds = [wait.seconds for wait in waits if wait]
    assert seconds == [pytest.approx(5.0), pytest.approx(7.05), pytest.approx(20.5, abs=0.5), math.inf, 1.0]


async def test_after_a_refusal_a_request_waits_for_the_pace(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=False)
    for _ in range(40):
        governor.release(taken(governor, client))
    refused = taken(governor, client)
    governor.release(refused)
    governor.refused(refused, is_ordered=True)
    governor.close_for(1.0)
    await virtual_clock.sleep(1.1)

    for _ in range(10):
        if ticket := governor.acquire_nowait(client):
            governor.release(ticket)
    wait = governor.wait(client)

    assert wait is not None
    assert wait.reason == PACED
    assert "requests a second" in governor.limits(client)


async def test_a_stream_that_had_more_of_a_window_gives_way_in_its_first_half(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    few, many = (governor.client(name, adaptive=False) for name in ("few", "many"))
    first = taken(governor, many)
    governor.first_byte(first, quota(50, 10.0))
    governor.release(first)
    taken(governor, few)
    for _ in range(3):
        taken(governor, many)

    assert governor.acquire_nowait(many) is None
    wait = governor.wait(many)
    assert wait is not None
    assert wait.reason == SHARED
    assert governor.acquire_nowait(few) is not None

    await virtual_clock.sleep(5.1)
    assert governor.acquire_nowait(many) is not None


async def test_requests_that_are_kept_by_what_is_on_the_wire_go_at_the_reset_though_no_answer_comes(
    virtual_clock: VirtualClock,
) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=False)
    first = taken(governor, client)
    governor.first_byte(first, quota(1, 4.0))
    governor.release(first)
    taken(governor, client)
    began = virtual_clock.monotonic()

    async with asyncio.timeout(60):
        await governor.acquire(client)

    assert virtual_clock.monotonic() - began == pytest.approx(4.0, abs=0.1)


async def test_quotas_of_one_host_share_what_it_bears(virtual_clock: VirtualClock) -> None:
    host = HostState(Random(1))
    search, lists = governor_of(virtual_clock, host), governor_of(virtual_clock, host)
    searching, listing = search.client("search", adaptive=True), lists.client("lists", adaptive=True)
    tickets = [taken(search, searching) for _ in range(4)]

    waiting = asyncio.create_task(lists.acquire(listing))
    await asyncio.sleep(0)
    assert not waiting.done()

    search.release(tickets[0])
    await asyncio.wait_for(waiting, 1)


async def test_who_is_cancelled_in_the_moment_of_its_turn_gives_it_back(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=True)
    tickets = [taken(governor, client) for _ in range(4)]
    waiting = [asyncio.create_task(governor.acquire(client)) for _ in range(2)]
    await asyncio.sleep(0)

    governor.release(tickets[0])
    waiting[0].cancel()
    with suppress(asyncio.CancelledError):
        await waiting[0]

    await asyncio.wait_for(waiting[1], 1)
    assert governor.in_flight == 4


async def test_a_turn_that_was_given_before_the_gate_closed_waits_for_it(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=True)
    tickets = [taken(governor, client) for _ in range(4)]
    waiting = asyncio.create_task(governor.acquire(client))
    await asyncio.sleep(0)

    governor.release(tickets[0])
    governor.close_for(10.0)
    began = virtual_clock.monotonic()
    await waiting

    assert 10 <= virtual_clock.monotonic() - began <= 11


async def test_those_who_waited_at_a_gate_pass_it_one_after_the_other(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=False)
    began = virtual_clock.monotonic()
    governor.close_for(10.0)
    passed: list[float] = []

    async def pass_by() -> None:
        await governor.acquire(client)
        passed.append(virtual_clock.monotonic() - began)

    await asyncio.gather(*[pass_by() for _ in range(100)])

    assert 10 <= min(passed) < 10.6
    assert max(passed) <= 11.2
    assert len({round(moment, 3) for moment in passed}) > 50


async def test_a_shorter_pause_does_not_cut_a_longer_one(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    governor.close_for(30.0)

    governor.close_for(2.0)

    assert governor.closed_for >= 30.0


@pytest.mark.parametrize("patient", [True, False])
async def test_who_is_not_patient_is_sent_away_when_an_answer_tells_of_a_long_wait(
    virtual_clock: VirtualClock, patient: bool
) -> None:
    governor = governor_of(virtual_clock)
    client = governor.client("a", adaptive=True, patient=patient)
    tickets = [taken(governor, client) for _ in range(4)]
    waiting = [asyncio.create_task(governor.acquire(client)) for _ in range(3)]
    await asyncio.sleep(0)

    governor.first_byte(tickets[0], quota(0, 7200.0))
    for ticket in tickets:
        governor.release(ticket)
    await asyncio.sleep(1)

    assert [task.done() for task in waiting] == [not patient] * 3
    assert patient or [task.result() for task in waiting] == [None] * 3
    wait = governor.wait(client)
    assert wait is not None
    assert wait.seconds > 7190
    for task in waiting:
        task.cancel()


async def test_how_long_a_request_waits_tells_of_those_before_it(virtual_clock: VirtualClock) -> None:
    governor = governor_of(virtual_clock)
    light, heavy = (
        governor.client(name, weight, [RateLimit(4, per=10)], adaptive=False) for name, weight in (("a", 1), ("b", 3))
    )
    for _ in range(4):
        taken(governor, light)
    waiting = [asyncio.create_task(governor.acquire(client)) for client in (light, heavy, heavy)]
    await asyncio.sleep(0)

    found = [governor.wait(client) for client in (light, heavy)]

    # The next window holds one of the light one's and three of the heavy one's.
    assert [wait and round(wait.seconds) for wait in found] == [20, 10]
    for task in waiting:
        task.cancel()


class Late(LoopLag):
    """A loop that is late by so much as it is told to be."""

    def ask(self) -> float:
        return self.seconds


def answered(governor: Governor, client: QuotaClient, clock: VirtualClock, seconds: float) -> None:
    ticket = taken(governor, client)
    clock.advance(seconds)
    governor.first_byte(ticket, [])
    governor.release(ticket)
    governor.succeeded(ticket)


async def test_a_pause_of_our_own_does_not_hide_that_answers_take_longer(virtual_clock: VirtualClock) -> None:
    random, lag = Random(1), Late()
    governor = Governor(virtual_clock, random, lag, HostState(random))
    client = governor.client("orders", adaptive=True)
    answered(governor, client, virtual_clock, 0.03)
    lag.seconds = 0.13
    for _ in range(12):
        answered(governor, client, virtual_clock, 0.04)
    lag.seconds = 0.0
    for _ in range(5):
        answered(governor, client, virtual_clock, 0.03)
    before = governor.host.concurrency.limit

    for _ in range(20):
        answered(governor, client, virtual_clock, 0.2)

    assert governor.host.concurrency.limit < before


async def test_answers_that_take_longer_are_seen_through_a_loop_that_is_always_late(
    virtual_clock: VirtualClock,
) -> None:
    random, lag = Random(1), Late()
    governor = Governor(virtual_clock, random, lag, HostState(random))
    client = governor.client("orders", adaptive=True)
    lag.seconds = 0.02
    for _ in range(10):
        answered(governor, client, virtual_clock, 0.05)
    before = governor.host.concurrency.limit

    for _ in range(20):
        answered(governor, client, virtual_clock, 0.3)

    assert governor.host.concurrency.limit < before
