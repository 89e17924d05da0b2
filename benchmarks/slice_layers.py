"""Cost of a slice of one small page, by layer: calls and µs of CPU, beside the aiohttp script's request.

The API is a MockApi in another process, on another core if there are two. The µs come from a profiler that charges
the CPU time of library functions to the layer that calls them. Its own cost, which is the difference to a run without
it, is subtracted in proportion to its events. Coroutines count as a call each time that they are resumed.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.selector_events
import importlib
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "jobs"))

import aiohttp_script  # noqa: E402
import ours  # noqa: E402
from job import Job, Output  # noqa: E402
from page_rounds import frozen_heap  # noqa: E402
from plan import READ_PLANS, Size  # noqa: E402

import asyncstreams  # noqa: E402
from asyncstreams.testing import MockApi  # noqa: E402

PACKAGE = Path(asyncstreams.__file__).parent
SCHEDULER, FETCH, CLIENT = "scheduler, slices", "page: fetch, parse", "client, retries"
SENDER, TRANSPORT, OTHER = "sender, permits", "transport", "everything else"
# The longest prefix of a module decides. What has none, such as messages and events, is something else.
LAYERS = {
    "execution/": SCHEDULER,
    "streams/": SCHEDULER,
    "state/": SCHEDULER,
    "parents/": SCHEDULER,
    "execution/page_fetcher": FETCH,
    "execution/next_token": FETCH,
    "execution/pagination_guard": FETCH,
    "http/request_builder": FETCH,
    "pagination/": FETCH,
    "records/": FETCH,
    "content/": FETCH,
    "http/body": FETCH,
    "http/": CLIENT,
    "http/sender": SENDER,
    "http/cookies": SENDER,
    "http/origin": SENDER,
    "http/signing": SENDER,
    "http/timeouts": SENDER,
    "auth/": SENDER,
    "rate_limits/": SENDER,
    "wire/": TRANSPORT,
}
LAYER_NAMES = (SCHEDULER, FETCH, CLIENT, SENDER, TRANSPORT, OTHER)
PLAN = next(plan for plan in READ_PLANS if plan.name == "many")
SOCKET_WRITE = asyncio.selector_events._SelectorSocketTransport.write.__code__  # type: ignore[attr-defined]
Program = Callable[[Job, Output], Coroutine[Any, Any, None]]
Costs = tuple[float, ...]
"""Python calls, C calls and µs of CPU of a slice."""
NOTHING: Costs = (0.0, 0.0, 0.0)


class LayerProfile:
    """A profile function that counts calls and CPU time by module; library code belongs to the module that calls it."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.c_calls = Counter[str]()
        self.events = Counter[str]()
        self.ns = Counter[str]()
        self.write_stacks = Counter[tuple[str, ...]]()
        self._modules: dict[CodeType, str | None] = {}
        self._stack = [""]
        self._since = time.thread_time_ns()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        module = self._stack[-1]
        self.ns[module] += time.thread_time_ns() - self._since
        self.events[module] += 1
        if event == "call":
            if frame.f_code not in self._modules:
                self._modules[frame.f_code] = _module(frame.f_code)
            self._stack.append(module := self._modules[frame.f_code] or module)
            self.calls[module] += 1
            if frame.f_code is SOCKET_WRITE:
                self.write_stacks[_package_frames(frame)] += 1
        elif event == "return":
            if len(self._stack) > 1:
                self._stack.pop()
        elif event == "c_call":
            self.c_calls[module] += 1
        self._since = time.thread_time_ns()


def by_layer(counts: Counter[str]) -> Counter[str]:
    """The same counts by layer. Modules are paths within the package; "" is the event loop and the benchmark itself."""
    layers = Counter[str]()
    for module, count in counts.items():
        prefixes = [prefix for prefix in LAYERS if module.startswith(prefix)]
        layers[LAYERS[max(prefixes, key=len)] if prefixes else OTHER] += count
    return layers


def _module(code: CodeType) -> str | None:
    path = Path(code.co_filename)
    return path.relative_to(PACKAGE).with_suffix("").as_posix() if path.is_relative_to(PACKAGE) else None


def _package_frames(frame: FrameType) -> tuple[str, ...]:
    """The frames from the scheduler's outermost one to the caller of the socket's write."""
    frames: list[str] = []
    outermost = 0
    caller = frame.f_back
    while caller is not None:
        module = _module(caller.f_code)
        frames.append(f"{module or Path(caller.f_code.co_filename).stem}.{caller.f_code.co_name}")
        outermost = len(frames) if module else outermost
        caller = caller.f_back
    return tuple(reversed(frames[:outermost]))


def run(program: Program, job: Job, profile: LayerProfile | None = None, *, uvloop: bool = False) -> float:
    """The seconds of CPU that the program takes. Raises SystemExit if it does not read each slice once."""
    output = Output(job)
    loop_factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
    with frozen_heap(), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop()
        began = time.process_time()
        sys.setprofile(profile)
        runner.run(program(job, output))
        sys.setprofile(None)
        seconds = time.process_time() - began
    if (output.records, output.ids) != (job.slices, job.slices * (job.slices + 1) // 2):
        raise SystemExit(f"read {output.records} of {job.slices} slices, or some more than once")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, default=2_000, help="slices of a run (2000)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (5)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop (asyncio)")
    parser.add_argument("--modules", type=int, default=0, metavar="N", help="also print the N most expensive modules")
    args = parser.parse_args()
    if unused := [prefix for prefix in LAYERS if not list(PACKAGE.glob(f"{prefix}*"))]:
        raise SystemExit(f"no modules of the package: {', '.join(unused)}")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    size = Size(args.slices, 1)
    uvloop = args.loop == "uvloop"
    costs: dict[Program, list[float]] = {ours.main: [], aiohttp_script.main: []}
    profiles: list[LayerProfile] = []
    with MockApi(*PLAN.resources((size,)), process=True, cache_bytes=2**29) as api:
        if len(cores) > 1:
            os.sched_setaffinity(api.pid, {cores[-1]})
        job = Job(PLAN.shape, api.url, None, PLAN.path(size), size.slices, PLAN.concurrency, 0.0, 1)
        for number in range(args.rounds + 1):
            for program in costs:
                seconds = run(program, job, uvloop=uvloop)
                if number:  # the first round warms up
                    costs[program].append(seconds / size.slices * 1e6)
            if number:
                profiles.append(LayerProfile())
                run(ours.main, job, profiles[-1], uvloop=uvloop)
    print_tables(profiles, *costs.values(), slices=size.slices, modules=args.modules)


def print_tables(
    profiles: list[LayerProfile], costs: list[float], script: list[float], *, slices: int, modules: int
) -> None:
    """Print the costs of layers and, if asked for, of modules, and with asyncio's loop the frames of a write."""
    print(f"{slices:,} slices of one page, {len(costs)} rounds; load average {os.getloadavg()[0]:.1f}")
    measured = list(zip(profiles, costs, strict=True))
    print("| layer | Python calls | C calls | µs of CPU |\n|---|---|---|---|")
    layers = [_costs_by(by_layer, profile, cost, slices) for profile, cost in measured]
    for name in LAYER_NAMES:
        print(_row(name, [row.get(name, NOTHING) for row in layers]))
    print(_row("a slice", [tuple(map(sum, zip(*row.values(), strict=True))) for row in layers]))
    print(f"| the script's request | | | {statistics.median(script):.0f} |")
    ratios = [cost / request for cost, request in zip(costs, script, strict=True)]
    print(f"\nto the script: {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")
    if modules:
        print("\n| module | Python calls | C calls | µs of CPU |\n|---|---|---|---|")
        rows = [_costs_by(Counter, profile, cost, slices) for profile, cost in measured]
        for name, _ in sorted(rows[0].items(), key=lambda item: -item[1][2])[:modules]:
            print(_row(name or "event loop, consumer", [row.get(name, NOTHING) for row in rows]))
    stacks = sum((profile.write_stacks for profile in profiles), Counter[tuple[str, ...]]())
    for frames, _ in stacks.most_common(1):
        print(f"\nframes from the scheduler to the socket's write: {len(frames)}\n{' > '.join(frames)}")


def _costs_by(
    group: Callable[[Counter[str]], Counter[str]], profile: LayerProfile, cost: float, slices: int
) -> dict[str, Costs]:
    """The costs of each group of modules, whose µs add up to the cost that was measured without the profiler."""
    overhead = (profile.ns.total() / 1e3 - cost * slices) / profile.events.total()
    calls, c_calls, ns, events = map(group, (profile.calls, profile.c_calls, profile.ns, profile.events))
    return {
        name: (calls[name] / slices, c_calls[name] / slices, (ns[name] / 1e3 - events[name] * overhead) / slices)
        for name in ns
    }


def _row(name: str, costs: list[Costs]) -> str:
    calls, c_calls, micros = (statistics.median(values) for values in zip(*costs, strict=True))
    return f"| {name} | {calls:.0f} | {c_calls:.0f} | {micros:.0f} |"


if __name__ == "__main__":
    main()
