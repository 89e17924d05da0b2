"""Interleaved measurements of contenders that fetch 20 KB pages from a server on this machine.

In each round every contender fetches the same number of pages, and ratios are computed within the round. CPU
is the user and system time of the client. The server runs in another process, on another core if there are two.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import os
import platform
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from server import self_signed_certificate, serving

_MIN_PAGES_PER_WORKER = 30


@dataclass(frozen=True, slots=True)
class Load:
    """A number of pages, fetched by a number of concurrent workers. `certificate` is that of an https server."""

    url: str
    certificate: Path | None
    workers: int
    pages_per_worker: int

    @property
    def pages(self) -> int:
        """The pages of all workers."""
        return self.workers * self.pages_per_worker


Contender: TypeAlias = Callable[[Load], Awaitable[float]]
"""Fetches the pages of a load, and returns the seconds of CPU that this took."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The median ratio of a contender should be at most `max_ratios`, by number of workers, on each loop and scheme."""

    contender: str
    max_ratios: Mapping[int, float]


async def run_workers(load: Load, job: Callable[[], Awaitable[None]]) -> None:
    """Run the job once for each worker, concurrently."""

    async def run() -> None:
        await job()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(load.workers):
            tasks.create_task(run())


def compare(
    description: str | None,
    noun: str,
    contenders: Mapping[str, Contender],
    aims: Sequence[Aim],
    packages: Sequence[str],
    defaults: Mapping[str, list[str]],
) -> None:
    """Measure as the command line says, and print a table; ratios are relative to the first contender."""
    args = _parse_arguments(description, noun, contenders, defaults)
    selected = {name: contenders[name] for name in contenders if any(name.startswith(start) for start in args.only)}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"{platform.machine()}, Python {platform.python_version()}, {len(cores) or '?'} cores, {versions}")
    print(
        f"{args.pages} pages of 20 KB in each measurement, at least {_MIN_PAGES_PER_WORKER} on each connection; "
        f"{args.rounds} interleaved rounds\n"
    )
    print(f"| loop | scheme | {noun} | contender | µs of CPU per page | spread | ratio | spread |")
    print("|---|---|---|---|---|---|---|---|")
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[0]})
        for scheme in args.schemes:
            certificate = self_signed_certificate(Path(folder)) if scheme == "https" else None
            url = stack.enter_context(serving(certificate, cores[-1] if len(cores) > 1 else None))
            for loop in args.loops:
                for workers in args.workers:
                    load = Load(url, certificate, workers, max(args.pages // workers, _MIN_PAGES_PER_WORKER))
                    costs = _measure(selected, load, loop, args.rounds)
                    ratios = {name: _divide(values, next(iter(costs.values()))) for name, values in costs.items()}
                    place = f"| {loop} | {scheme} | {workers} |"
                    for name in costs:
                        print(f"{place} {name} | {_spread(costs[name], 0)} | {_spread(ratios[name], 2)} |", flush=True)
                    outcomes += [
                        f"{place} {_outcome(aim, workers, ratios[aim.contender])}"
                        for aim in aims
                        if aim.contender in ratios and workers in aim.max_ratios
                    ]
    print(f"\n| loop | scheme | {noun} | aim | measured | |\n|---|---|---|---|---|---|")
    print("\n".join(outcomes))


def _parse_arguments(
    description: str | None, noun: str, contenders: Mapping[str, Contender], defaults: Mapping[str, list[str]]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pages", type=int, default=1000, help="pages in a measurement (1000)")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (15)")
    parser.add_argument(f"--{noun}", dest="workers", type=int, nargs="+", default=[1, 10, 100], help="1 10 100")
    for name, choices in (("loops", ["asyncio", "uvloop"]), ("schemes", ["http", "https"])):
        default = defaults.get(name, choices)
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=default, help=" ".join(default))
    parser.add_argument(
        "--only",
        nargs="+",
        default=defaults.get("only", list(contenders)),
        metavar="NAME",
        help=f"starts of names of contenders; all are: {', '.join(contenders)}",
    )
    return parser.parse_args()


def _measure(contenders: Mapping[str, Contender], load: Load, loop: str, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds per page of each contender, in the order of the rounds."""
    new_loop = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        # The order alternates: the speed of a shared machine drifts within a round.
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            with frozen_heap(), asyncio.Runner(loop_factory=new_loop) as runner:
                seconds = runner.run(_call(contenders[name], load))
            if number:  # the first round warms up
                costs[name].append(seconds / load.pages * 1e6)
    return costs


async def _call(contender: Contender, load: Load) -> float:
    return await contender(load)


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keep the garbage collector from traversing what other contenders have imported and left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _divide(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value / reference for value, reference in zip(values, base, strict=True)]


def _spread(values: Sequence[float], digits: int) -> str:
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:.{digits}f} | {low:.{digits}f} - {high:.{digits}f}"


def _outcome(aim: Aim, workers: int, ratios: Sequence[float]) -> str:
    most, median = aim.max_ratios[workers], statistics.median(ratios)
    return f"{aim.contender}: at most {most:g} | {median:.2f} | {'reached' if median <= most else 'not reached'} |"
