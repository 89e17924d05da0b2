"""Log lines of a run: how each stream begins, proceeds and ends, and why nothing moves."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from ..clock import Clock
from ..models import RateLimit
from ..state.stream_state import StreamState
from .page_queue import PageQueue
from .stream_run import StreamRun

_PROGRESS_INTERVAL_S = 30.0
_SILENCE_S, _SILENCE_CHECK_S = 30.0, 5.0
_log = logging.getLogger("asyncstreams")
GetRuns: TypeAlias = Callable[[], Sequence[StreamRun]]
"""The runs of the streams that have begun."""


def log_start(run: StreamRun) -> None:
    """Log that a stream begins, with what is known about it."""
    if _log.isEnabledFor(logging.INFO):
        known = "; ".join(filter(None, _describe_start(run)))
        _log.info("%s: begins%s", run.stream.name, f": {known}" if known else "")


@asynccontextmanager
async def log_progress(run: StreamRun) -> AsyncGenerator[None]:
    """Inside the block, log the progress of a stream every 30 s, by the clock of the run."""
    if not _log.isEnabledFor(logging.INFO):
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_repeat_progress, run)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


def log_end(run: StreamRun, outcome: str) -> None:
    """Log that a stream ends, with the pages and records that were read."""
    if not _log.isEnabledFor(logging.INFO):
        return
    progress = run.progress
    counts = {"ignored": progress.slices_ignored, "missing": run.slices_missing, "failed": len(progress.failures)}
    slices = "".join(
        f", {count:,} {'slice' if count == 1 else 'slices'} {name}" for name, count in counts.items() if count
    )
    quarantined = f", {progress.read.quarantined:,} quarantined" if progress.read.quarantined else ""
    _log.info(
        "%s: %s: %s pages, %s records%s%s in %.1f s",
        run.stream.name,
        outcome,
        f"{progress.read.pages:,}",
        f"{progress.read.records:,}",
        quarantined,
        slices,
        run.client.clock.monotonic() - progress.started_at,
    )


@asynccontextmanager
async def log_silences(clock: Clock, runs: GetRuns, page_queue: PageQueue) -> AsyncGenerator[None]:
    """Inside the block, log once in 30 s that nothing moves in a run, and why.

    This is a warning if the consumer waits for a page, and INFO if it works on one.
    """
    if not _log.isEnabledFor(logging.WARNING):
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_silences, clock, runs, page_queue)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


async def _watch_silences(clock: Clock, get_runs: GetRuns, page_queue: PageQueue) -> None:
    before, silent_since, logged_at = -1, clock.monotonic(), 0.0
    while True:
        await clock.sleep(_SILENCE_CHECK_S)
        now, runs = clock.monotonic(), get_runs()
        moves = sum(run.client.activity + run.progress.delivered.pages + run.progress.slices_started for run in runs)
        if moves != before:
            before, silent_since, logged_at = moves, now, now
        elif now - logged_at >= _SILENCE_S:
            logged_at = now
            level = logging.WARNING if page_queue.is_waited_for else logging.INFO
            _log.log(level, "nothing has moved for %.0f s: %s", now - silent_since, _describe_silence(runs, page_queue))


def _describe_silence(runs: Sequence[StreamRun], page_queue: PageQueue) -> str:
    waits = [f"{run.stream.name}: {text}" for run in runs if (text := run.client.describe_waits())]
    if not page_queue.is_waited_for:
        waits.insert(0, "the consumer works on its page")
    return "; ".join(waits) or "no request waits or is in flight, so a hook of a stream is awaited"


async def _repeat_progress(run: StreamRun) -> None:
    while True:
        await run.client.clock.sleep(_PROGRESS_INTERVAL_S)
        _log.info("%s", run.explain())


def _describe_start(run: StreamRun) -> list[str]:
    stream, state, max_records = run.stream, run.selection.state, run.bounds.remaining
    limit = "" if max_records is None else f"at most {max_records:,} records"
    parents = f"for each record of {' and '.join(parent.name for parent in stream.parents)}" if stream.parents else ""
    cursor = ""
    if run.incremental is not None:
        since = state.frontier if isinstance(state, StreamState) else None
        cursor = f"cursor {'.'.join(run.incremental.path)}" + ("" if since is None else f" from {since}")
    return [limit, parents, cursor, _describe_declared_limits(stream.resolved.rate_limit), run.client.describe_limits()]


def _describe_declared_limits(declared: RateLimit | Sequence[RateLimit] | None) -> str:
    limits = [declared] if isinstance(declared, RateLimit) else declared or ()
    return "declared limits " + ", ".join(f"{limit.limit:g} in {limit.per:g} s" for limit in limits) if limits else ""
