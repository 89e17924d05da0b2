"""Admission of requests by the Governor, including cancellation and pauses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from random import Random

import pytest
from simulated_servers import CheckedGovernor

from asyncstreams import RateLimit
from asyncstreams.rate_limits.governor import Governor, HostState, Permit, PermitWaits, QuotaClient
from asyncstreams.rate_limits.loop_lag import LoopLag
from asyncstreams.rate_limits.quota_headers import ReportedQuota
from asyncstreams.rate_limits.wait_reason import Wait, WaitReason
from asyncstreams.testing import VirtualClock


def make_governor(clock: VirtualClock, host: HostState | None = None) -> Governor:
    random = Random(1)
    return Governor(clock, random, LoopLag(), host or HostState(random))


def acquire(governor: Governor, client: QuotaClient) -> Permit:
    permit = governor.acquire_nowait(client)
    assert permit is not None
    return permit


def quota(remaining: float, resets_in: float) -> list[ReportedQuota]:
    return [ReportedQuota("q", remaining, resets_in, 100, None)]


class Chaos:
    """Workers of several streams whose requests end in every way; some are cancelled at random times."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.clock = VirtualClock()
        self.clock.monotonic()
        host = HostState(random)
        self.governors = [CheckedGovernor(self.clock, random, LoopLag(), host) for _ in range(2)]
        limits = ((), (RateLimit(50, per=2),), (RateLimit(30, per=1, smooth=True), RateLimit(400, per=60)))
        self.clients = [
            (
                governor,
                governor.add_client(
                    f"{number}",
                    random.uniform(0.5, 4),
                    limits[number % 3],
                    adaptive=number != 3,
                    accept_long_waits=False,
                ),
            )
            for governor in self.governors
            for number in range(4)
        ]
        self.finished = 0

    async def worker(self, governor: CheckedGovernor, client: QuotaClient) -> None:
        try:
            async with governor.permit(client) as permit:
                await asyncio.sleep(self.random.expovariate(20))
                if self.random.random() < 0.3:
                    governor.record_first_byte(permit, quota(self.random.randrange(20), self.random.uniform(0, 5)))
        finally:
            governor.check_invariants()
        outcome = self.random.random()
        if outcome < 0.6:
            governor.record_success(permit)
        elif outcome < 0.75:
            governor.record_failure(permit, is_overload=outcome < 0.65)
        elif outcome < 0.9:
            governor.record_refusal(permit, has_retry_after=outcome < 0.8)
            governor.pause_for(self.random.expovariate(1))
        self.finished += 1

    async def run(self) -> int:
        """Run all workers. Returns the number of cancelled ones."""
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
def test_every_request_gets_a_permit_and_releases_it(seed: int) -> None:
    async def run() -> Chaos:
        chaos = Chaos(seed)
        cancelled = await chaos.run()
        assert cancelled + chaos.finished == 400
        return chaos

    chaos = asyncio.run(run())

    assert [governor.in_flight for governor in chaos.governors] == [0, 0]
    assert chaos.governors[0].host.in_flight == 0
    assert all(client.in_flight == 0 and not client.waiting for _, client in chaos.clients)


async def test_current_wait_gives_reason_and_seconds(virtual_clock: VirtualClock) -> None:
    reported, declared, paused, busy, down = (make_governor(virtual_clock) for _ in range(5))
    clients = [governor.add_client("a", adaptive=True) for governor in (reported, paused, busy, down)]
    limited_client = declared.add_client("a", limits=[RateLimit(1, per=7)], adaptive=True)
    first = acquire(reported, clients[0])
    reported.record_first_byte(first, quota(0, 5.0))
    reported.release(first)
    acquire(declared, limited_client)
    paused.pause_for(20.0)
    for _ in range(4):
        acquire(busy, clients[2])
    while not down.host.circuit_breaker.is_down:
        down.record_failure(Permit(down, clients[3], 0.0, 0), is_overload=False)

    waits = [
        governor.current_wait(client)
        for governor, client in (
            (reported, clients[0]),
            (declared, limited_client),
            (paused, clients[1]),
            (busy, clients[2]),
            (down, clients[3]),
        )
    ]

    assert [wait and wait.reason for wait in waits] == [
        WaitReason.QUOTA,
        WaitReason.DECLARED_LIMIT,
        WaitReason.PAUSED,
        WaitReason.CONCURRENCY,
        WaitReason.HOST_DOWN,
    ]
    seconds = [wait.seconds for wait in waits if wait]
    assert seconds == [pytest.approx(5.0), pytest.approx(7.05), pytest.approx(20.5, abs=0.5), math.inf, 1.0]


async def test_request_after_refusal_waits_for_adaptive_rate(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=False)
    for _ in range(40):
        governor.release(acquire(governor, client))
    refused = acquire(governor, client)
    governor.release(refused)
    governor.record_refusal(refused, has_retry_after=True)
    governor.pause_for(1.0)
    await virtual_clock.sleep(1.1)

    for _ in range(10):
        if permit := governor.acquire_nowait(client):
            governor.release(permit)
    wait = governor.current_wait(client)

    assert wait is not None
    assert wait.reason == WaitReason.ADAPTIVE_RATE
    assert "requests a second" in governor.describe_limits(client)


async def test_stream_ahead_yields_in_first_half_of_window(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    less_used, more_used = (governor.add_client(name, adaptive=False) for name in ("less_used", "more_used"))
    first = acquire(governor, more_used)
    governor.record_first_byte(first, quota(50, 10.0))
    governor.release(first)
    acquire(governor, less_used)
    for _ in range(3):
        acquire(governor, more_used)

    assert governor.acquire_nowait(more_used) is None
    wait = governor.current_wait(more_used)
    assert wait is not None
    assert wait.reason == WaitReason.FAIR_SHARE
    assert governor.acquire_nowait(less_used) is not None

    await virtual_clock.sleep(5.1)
    assert governor.acquire_nowait(more_used) is not None


async def test_waiting_requests_go_at_reset_without_a_response(
    virtual_clock: VirtualClock,
) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=False)
    first = acquire(governor, client)
    governor.record_first_byte(first, quota(1, 4.0))
    governor.release(first)
    acquire(governor, client)
    began = virtual_clock.monotonic()

    async with asyncio.timeout(60):
        await governor.acquire(client)

    assert virtual_clock.monotonic() - began == pytest.approx(4.0, abs=0.1)


async def test_requests_after_a_pause_do_not_wait_for_a_far_reset(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=True, accept_long_waits=False)
    permits = [acquire(governor, client) for _ in range(4)]
    queued = asyncio.create_task(governor.acquire(client))
    await asyncio.sleep(0)
    governor.record_first_byte(permits[0], quota(4900, 3600.0))
    governor.pause_for(5.0)
    for permit in permits:
        governor.release(permit)
    assert await queued is None

    await virtual_clock.sleep(4.6)
    async with asyncio.timeout(2):
        await governor.acquire(client)


async def test_stream_does_not_wait_for_the_timer_of_another(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    limited = governor.add_client("limited", limits=[RateLimit(1, per=600)], adaptive=False)
    free = governor.add_client("free", adaptive=False)
    governor.release(acquire(governor, limited))
    waiting = asyncio.create_task(governor.acquire(limited))
    await asyncio.sleep(0)

    async with asyncio.timeout(1):
        await governor.acquire(free)

    waiting.cancel()


async def test_pause_that_ends_sooner_by_chance_moves_no_resumption(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    resumptions: list[float] = []
    for _ in range(50):
        governor.pause_for(10.0)
        virtual_clock.advance(0.001)
        resumptions.append(virtual_clock.monotonic() + governor.paused_for)

    assert resumptions == sorted(resumptions)


async def test_quotas_of_one_host_share_the_concurrency_limit(virtual_clock: VirtualClock) -> None:
    host = HostState(Random(1))
    search, lists = make_governor(virtual_clock, host), make_governor(virtual_clock, host)
    searching, listing = search.add_client("search", adaptive=True), lists.add_client("lists", adaptive=True)
    permits = [acquire(search, searching) for _ in range(4)]

    waiting = asyncio.create_task(lists.acquire(listing))
    await asyncio.sleep(0)
    assert not waiting.done()

    search.release(permits[0])
    await asyncio.wait_for(waiting, 1)


async def test_permit_of_a_waiter_cancelled_at_its_turn_is_returned(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=True)
    permits = [acquire(governor, client) for _ in range(4)]
    waiting = [asyncio.create_task(governor.acquire(client)) for _ in range(2)]
    await asyncio.sleep(0)

    governor.release(permits[0])
    waiting[0].cancel()
    with suppress(asyncio.CancelledError):
        await waiting[0]

    await asyncio.wait_for(waiting[1], 1)
    assert governor.in_flight == 4


async def test_permit_issued_before_a_pause_waits_for_its_end(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=True)
    permits = [acquire(governor, client) for _ in range(4)]
    waiting = asyncio.create_task(governor.acquire(client))
    await asyncio.sleep(0)

    governor.release(permits[0])
    governor.pause_for(10.0)
    began = virtual_clock.monotonic()
    await waiting

    assert 10 <= virtual_clock.monotonic() - began <= 11


async def test_requests_after_a_pause_are_spread(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=False)
    began = virtual_clock.monotonic()
    governor.pause_for(10.0)
    admitted_at: list[float] = []

    async def wait_and_record() -> None:
        await governor.acquire(client)
        admitted_at.append(virtual_clock.monotonic() - began)

    await asyncio.gather(*[wait_and_record() for _ in range(100)])

    assert 10 <= min(admitted_at) < 10.6
    assert max(admitted_at) <= 11.2
    assert len({round(time, 3) for time in admitted_at}) > 50


async def test_shorter_pause_does_not_end_a_longer_one(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    governor.pause_for(30.0)

    governor.pause_for(2.0)

    assert governor.paused_for >= 30.0


@pytest.mark.parametrize("accepts_long_waits", [True, False])
async def test_long_wait_dismisses_clients_that_do_not_accept_it(
    virtual_clock: VirtualClock, accepts_long_waits: bool
) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=True, accept_long_waits=accepts_long_waits)
    permits = [acquire(governor, client) for _ in range(4)]
    waiting = [asyncio.create_task(governor.acquire(client)) for _ in range(3)]
    await asyncio.sleep(0)

    governor.record_first_byte(permits[0], quota(0, 7200.0))
    for permit in permits:
        governor.release(permit)
    await asyncio.sleep(1)

    assert [task.done() for task in waiting] == [not accepts_long_waits] * 3
    assert accepts_long_waits or [task.result() for task in waiting] == [None] * 3
    wait = governor.current_wait(client)
    assert wait is not None
    assert wait.seconds > 7190
    for task in waiting:
        task.cancel()


async def test_current_wait_includes_requests_ahead(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    light, heavy = (
        governor.add_client(name, weight, [RateLimit(4, per=10)], adaptive=False)
        for name, weight in (("a", 1), ("b", 3))
    )
    for _ in range(4):
        acquire(governor, light)
    waiting = [asyncio.create_task(governor.acquire(client)) for client in (light, heavy, heavy)]
    await asyncio.sleep(0)

    waits = [governor.current_wait(client) for client in (light, heavy)]

    # The next window admits one request of the light client and three of the heavy one.
    assert [wait and round(wait.seconds) for wait in waits] == [20, 10]
    for task in waiting:
        task.cancel()


class RecordingSlot:
    """A slot that records when it is released, acquired again and charged."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock, self._began = clock, clock.monotonic()
        self.events: list[tuple[str, float]] = []

    async def ensure_acquired(self) -> None:
        self._record("acquired")

    def charge_request(self) -> None:
        self._record("charged")

    @asynccontextmanager
    async def released(self) -> AsyncGenerator[None]:
        self._record("released")
        yield
        self._record("acquired")

    def _record(self, event: str) -> None:
        self.events.append((event, round(self._clock.monotonic() - self._began, 1)))


class RefusedWait(Exception):
    pass


class NoWaits(PermitWaits):
    """Refuses every wait."""

    def track(self, wait: Wait, client: QuotaClient) -> AbstractContextManager[None]:
        raise RefusedWait


async def test_permit_is_released_after_an_error(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=True)

    with suppress(RefusedWait):
        async with governor.permit(client) as permit:
            assert (governor.in_flight, permit.waited_s) == (1, 0.0)
            raise RefusedWait

    assert governor.in_flight == 0


async def test_long_wait_for_a_permit_releases_the_slot(virtual_clock: VirtualClock) -> None:
    governor, slot = make_governor(virtual_clock), RecordingSlot(virtual_clock)
    client = governor.add_client("a", limits=[RateLimit(1, per=20)], adaptive=False, accept_long_waits=False)
    async with governor.permit(client, slot):
        pass

    async with governor.permit(client, slot) as permit:
        assert permit.waited_s == pytest.approx(20.05, abs=0.1)

    (charged, released, acquired, charged_again) = slot.events
    assert (charged, released) == (("charged", 0.0), ("released", 0.0))
    # It joins the queue half a second before the end of the wait.
    assert acquired == ("acquired", pytest.approx(19.55, abs=0.1))
    assert charged_again == ("charged", pytest.approx(20.05, abs=0.1))


async def test_refused_wait_leaves_no_permit(virtual_clock: VirtualClock) -> None:
    governor = make_governor(virtual_clock)
    client = governor.add_client("a", adaptive=False, accept_long_waits=False)
    governor.pause_for(30.0)

    with pytest.raises(RefusedWait):
        async with governor.permit(client, waits=NoWaits()):
            pass

    assert governor.in_flight == 0


class FixedLag(LoopLag):
    """A loop lag that tests set."""

    def sample(self) -> float:
        return self.seconds


def send_and_answer(governor: Governor, client: QuotaClient, clock: VirtualClock, seconds: float) -> None:
    permit = acquire(governor, client)
    clock.advance(seconds)
    governor.record_first_byte(permit, [])
    governor.release(permit)
    governor.record_success(permit)


async def test_loop_lag_does_not_hide_rising_latency(virtual_clock: VirtualClock) -> None:
    random, lag = Random(1), FixedLag()
    governor = Governor(virtual_clock, random, lag, HostState(random))
    client = governor.add_client("orders", adaptive=True)
    send_and_answer(governor, client, virtual_clock, 0.03)
    lag.seconds = 0.13
    for _ in range(12):
        send_and_answer(governor, client, virtual_clock, 0.04)
    lag.seconds = 0.0
    for _ in range(5):
        send_and_answer(governor, client, virtual_clock, 0.03)
    before = governor.host.concurrency.limit

    for _ in range(20):
        send_and_answer(governor, client, virtual_clock, 0.2)

    assert governor.host.concurrency.limit < before


async def test_rising_latency_is_seen_with_constant_loop_lag(
    virtual_clock: VirtualClock,
) -> None:
    random, lag = Random(1), FixedLag()
    governor = Governor(virtual_clock, random, lag, HostState(random))
    client = governor.add_client("orders", adaptive=True)
    lag.seconds = 0.02
    for _ in range(10):
        send_and_answer(governor, client, virtual_clock, 0.05)
    before = governor.host.concurrency.limit

    for _ in range(20):
        send_and_answer(governor, client, virtual_clock, 0.3)

    assert governor.host.concurrency.limit < before
