"""Samples of the progress of a run, and what limits each of its streams at that moment."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias

import anyio

from ..clock import Clock
from ..events import Ceiling, ProgressSampled
from ..http.client import HttpClient
from ..rate_limits.wait_reason import WaitReason
from .page_queue import PageQueue
from .stream_run import StreamProgress, StreamRun

_INTERVAL_S = 0.25
_MAX_INTERVAL_S = 30.0  # while nothing moves
_MIN_CPU_SHARE = 0.85  # of one core: the event loop has no time to spare
_CEILINGS: Mapping[str, Ceiling] = {
    WaitReason.HOST_DOWN: Ceiling.OUTAGE,
    WaitReason.RETRY_BACKOFF: Ceiling.OUTAGE,
    WaitReason.QUOTA: Ceiling.REPORTED_QUOTA,
    WaitReason.FAIR_SHARE: Ceiling.REPORTED_QUOTA,
    WaitReason.DECLARED_LIMIT: Ceiling.DECLARED_LIMIT,
    WaitReason.ADAPTIVE_RATE: Ceiling.FOUND_LIMIT,
    WaitReason.CONCURRENCY: Ceiling.FOUND_LIMIT,
}
GetRuns: TypeAlias = Callable[[], Sequence[StreamRun]]
"""The runs of the streams that are being read."""


class PageStore(Protocol):
    """What stores the pages of a run: `is_full` while it takes no more, because a disk or a database is slower."""

    @property
    def is_full(self) -> bool: ...


class ProgressSampler:
    """Emits ProgressSampled for the streams of one run: four times a second, and less often while nothing moves.

    `store` takes the pages of an extraction; without one the consumer is the user's.
    """

    def __init__(self, clock: Clock, page_queue: PageQueue, store: PageStore | None) -> None:
        self._clock, self._page_queue, self._store = clock, page_queue, store
        self._sampled_at: dict[StreamProgress, float] = {}
        self._cpu = CpuMeter(clock)

    @asynccontextmanager
    async def sampling(self, get_runs: GetRuns) -> AsyncGenerator[None]:
        """Inside the block, sample the streams that have begun."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, get_runs)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    def sample(self, run: StreamRun) -> None:
        """Emit a sample of one stream, if there are listeners. An exception of a listener propagates."""
        if not run.client.events:
            return
        progress, client, now = run.progress, run.client, self._clock.monotonic()
        began = self._sampled_at.get(progress, progress.started_at)
        self._sampled_at[progress] = now
        waits = client.wait_tracker.current()
        longest = max(waits, key=lambda wait: (wait.seconds < math.inf, wait.seconds), default=None)
        client.events.emit(
            ProgressSampled(
                run.stream.name,
                now - began,
                progress.delivered.pages,
                progress.delivered.records,
                run.slices_finished,
                progress.slices_started - run.slices_finished,
                run.slices_known,
                run.records_expected,
                client.in_flight,
                sum(wait.requests for wait in waits),
                "" if longest is None else longest.reason,
                0.0 if longest is None or longest.seconds == math.inf else longest.seconds,
                self._ceilings(run),
                client.max_rate,
                client.describe_limits(),
            )
        )

    def _ceilings(self, run: StreamRun) -> tuple[Ceiling, ...]:
        """What limits a stream at this moment, the strongest first; empty if it waits for its parents only."""
        found: list[Ceiling] = []
        if self._store is not None and self._store.is_full:
            found.append(Ceiling.DISK)
        elif self._store is None and self._page_queue.is_full and not self._page_queue.is_waited_for:
            found.append(Ceiling.CONSUMER)
        if self._cpu.is_busy:
            found.append(Ceiling.CPU)
        if Ceiling.DISK in found or Ceiling.CONSUMER in found:
            return tuple(found)  # requests may wait for other reasons, which would not matter without this one
        found += [self._ceiling_of(reason, run.client) for reason in run.client.wait_reasons()]
        if not found and run.client.in_flight:
            found.append(Ceiling.CONCURRENCY if run.slots.are_used_up else Ceiling.LATENCY)
        return tuple(dict.fromkeys(found))

    @staticmethod
    def _ceiling_of(reason: str, client: HttpClient) -> Ceiling:
        if reason == WaitReason.PAUSED:
            return Ceiling.REPORTED_QUOTA if client.is_paused_by_api else Ceiling.FOUND_LIMIT
        return _CEILINGS.get(reason, Ceiling.OUTAGE)

    async def _repeat(self, get_runs: GetRuns) -> None:
        interval, moved = _INTERVAL_S, -1
        while True:
            await self._clock.sleep(interval)
            runs = get_runs()
            self._cpu.measure()
            for run in runs:
                self.sample(run)
            count = sum(run.client.activity + run.progress.delivered.pages for run in runs)
            is_heard = any(run.client.events for run in runs)
            interval = _INTERVAL_S if count != moved and is_heard else min(2 * interval, _MAX_INTERVAL_S)
            # Soon after the end of a wait something moves again.
            ends = [wait.seconds for run in runs for wait in run.client.wait_tracker.current() if wait.seconds > 0]
            interval = max(_INTERVAL_S, min([interval, *ends]))
            moved = count


class CpuMeter:
    """Whether the process has no CPU to spare: it used about one core between two measurements, or wanted to.

    A thread that is ready to run while other processes use the cores wants it. Linux counts this time (schedstat).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before = self._now()
        self.is_busy = False

    def measure(self) -> None:
        """Judge the time since the last call."""
        now = self._now()
        seconds, *used = (after - before for after, before in zip(now, self._before, strict=True))
        self.is_busy = seconds > 0 and max(used) / seconds >= _MIN_CPU_SHARE
        self._before = now

    def _now(self) -> tuple[float, float, float]:
        """The time of the run; CPU of the process; CPU of this thread with its waits for a core. In seconds."""
        return self._clock.monotonic(), time.process_time(), _wanted_cpu()


def _wanted_cpu() -> float:
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            _, waited, _ = file.read().split()
    except (OSError, ValueError):
        waited = "0"  # other systems
    return time.thread_time() + int(waited) / 1e9
