"""How long do whole jobs take: ours beside scripts by hand and, with --peers, beside other frameworks.

Each contender is a program of its own in `jobs/`, run again for each measurement; the API is a MockApi
in another process, on another core where there are two. What they did is checked: every record once.
The contenders of a job take turns, round by round, and ratios are taken within a round, so that
what else the machine does befalls all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plan import BY_HAND, FILES, INTO_FILES, JOBS, OURS, Aim, Plan, Size

from asyncstreams.testing import MockApi

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".bench"
PATIENCE = 1_800
WARM = "warm-up"


@dataclass(frozen=True, slots=True)
class Contender:
    """A program, the Python that runs it (none: ours), and the modules without which it cannot."""

    name: str
    program: str
    needs: tuple[str, ...]
    uvloop: bool = False
    python: Path | None = None
    lane: str = ""
    slow_at: tuple[str, ...] = ()
    """Jobs that take it minutes, so that it does them in the first round only."""

    @property
    def command(self) -> list[str]:
        return [str(self.python or sys.executable), str(HERE / "jobs" / self.program)]

    def is_installed(self) -> bool:
        if self.python is not None and not self.python.exists():
            return False
        find = f"import importlib.util as i; print(all(map(i.find_spec, {self.needs!r})))"
        told = subprocess.run([self.command[0], "-c", find], capture_output=True, text=True, check=True).stdout
        return told.strip() == "True"


CONTENDERS = (
    Contender(OURS[0], "ours.py", ("asyncstreams", "uvloop"), uvloop=True),
    Contender(OURS[1], "ours.py", ("asyncstreams",)),
    Contender(BY_HAND[0], "aiohttp_script.py", ("aiohttp", "orjson", "uvloop")),
    Contender(BY_HAND[1], "httpx_script.py", ("httpx", "orjson")),
)

EXTRACTING = (
    Contender(INTO_FILES[0], "extract.py", ("asyncstreams", "uvloop"), uvloop=True, lane="ordinary"),
    Contender(INTO_FILES[1], "extract.py", ("asyncstreams", "uvloop"), uvloop=True),
    CONTENDERS[2],
    Contender(BY_HAND[2], "msgspec_script.py", ("aiohttp", "msgspec", "uvloop")),
)


def peer(name: str, program: str, folder: str, slow_at: tuple[str, ...] = ()) -> Contender:
    return Contender(name, program, ("orjson",), python=PEERS / folder / "bin" / "python", slow_at=slow_at)


OTHERS = (
    peer("airbyte-cdk", "airbyte_cdk_script.py", "airbyte_cdk"),
    peer("dlt", "dlt_script.py", "dlt"),
    peer("singer-sdk", "singer_script.py", "singer", ("slices",)),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one program said of one measurement, and how many requests the API had from it."""

    wall: float
    cpu: float
    peak_mb: float
    requests: int
    versions: dict[str, str]


Rounds = dict[int, Figures]


class Run:
    """All measurements of one job."""

    def __init__(self, plan: Plan, contenders: Sequence[Contender], scale: float, *, writes: bool) -> None:
        self.plan, self._writes = plan, writes
        self.sizes = tuple(dict.fromkeys(size.scaled(scale) for size in plan.sizes))
        self.contenders = [one for one in contenders if not plan.only or one.name in plan.only]
        self.found: dict[tuple[Size, str], Rounds] = {
            (size, one.name): {} for size in self.sizes for one in self.contenders
        }

    def measure(self, rounds: int, server_core: int | None, tell: Callable[[str], None]) -> None:
        """Round 0 does not count: in it the first contender warms up the server, whose first pages take long.

        The programs themselves have nothing to warm up: each measurement is a new process, after its imports.
        """
        # Half of the room is for pages, whose records are below 300 bytes: none of them is to be made again.
        room = 2 * sum(map(self.plan.records, self.sizes)) * 300 + 2**26
        resources = self.plan.resources(self.sizes)
        with MockApi(
            *resources, latency=self.plan.latency, process=True, uvloop=_has_uvloop(), cache_bytes=room
        ) as api:
            if server_core is not None:
                os.sched_setaffinity(api.pid, {server_core})
            for number in range(rounds + 1):
                for contender in self.contenders if number else self.contenders[:1]:
                    if self.plan.name in contender.slow_at and number > 1:
                        continue
                    for size in self.sizes:
                        named = f"round {number} of {rounds}" if number else WARM
                        tell(f"{self.plan.name}: {named}: {contender.name}, {size}")
                        figures = self._one(api, contender, size)
                        if number:
                            self.found[size, contender.name][number] = figures

    def ratios(self, aim: Aim, size: Size, name: str) -> list[float]:
        """The aim's ratio in each round that has both; none where there is nothing to compare with."""
        rounds, other = self.found[size, name], size
        if aim.against == "ideal":
            return [value(figures, aim, size) / self.plan.ideal(size) for figures in rounds.values()]
        base = self.found.get((size, aim.against), {})
        if aim.against == "smaller" and size != self.sizes[0]:
            other = self.sizes[0]
            base = self.found[other, name]
        both = [number for number in rounds if number in base]
        return [value(rounds[number], aim, size) / value(base[number], aim, other) for number in both]

    def _one(self, api: MockApi, contender: Contender, size: Size) -> Figures:
        before = api.counts.requests
        with tempfile.TemporaryDirectory() as folder:
            out = folder if self._writes else "-"
            command = [*contender.command, self.plan.shape, api.url, out, *self.plan.arguments(size)]
            environment = {**os.environ, "UVLOOP": "1" if contender.uvloop else "0", "LANE": contender.lane}
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
            if done.returncode:
                raise SystemExit(f"{contender.name} failed at {self.plan.name}:\n{done.stderr[-4000:]}")
            told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            self._check(contender.name, told, size, Path(folder) if self._writes else None)
        requests = api.counts.requests - before
        return Figures(told["wall"], told["cpu"], told["peak_mb"], requests, told["versions"])

    def _check(self, name: str, told: dict[str, Any], size: Size, folder: Path | None) -> None:
        """Exits where a record is missing or came twice. MockApi's ids are the numbers from 1."""
        count = self.plan.records(size)
        if folder is None:
            good = told["records"] == count and told["ids"] == count * (count + 1) // 2
        else:
            good = told["records"] == count and _holds_each_once(folder, count)
        if not good:
            raise SystemExit(f"{name} read {told['records']} records of {count} at {self.plan.name}, or not each once")


def value(figures: Figures, aim: Aim, size: Size) -> float:
    """The figure that the aim is about; CPU that is held against another size's is that of a slice."""
    found: float = getattr(figures, aim.measure)
    return found / size.slices if aim.against == "smaller" and aim.measure == "cpu" else found


def _holds_each_once(folder: Path, count: int) -> bool:
    seen = bytearray(count + 1)
    for path in folder.rglob("*.jsonl"):
        with path.open("rb") as lines:
            for line in lines:
                number = json.loads(line)["id"]
                if not 1 <= number <= count or seen[number]:
                    return False
                seen[number] = 1
    return seen.count(1) == count


def _has_uvloop() -> bool:
    return any(contender.uvloop and contender.is_installed() for contender in CONTENDERS)


def spread(values: Iterable[float], form: str) -> str:
    """The median, and from the least to the most."""
    sample = list(values)
    if not sample:
        return "- | -"
    low, high = format(min(sample), form), format(max(sample), form)
    return f"{format(statistics.median(sample), form)} | {low} - {high}"


def table(run: Run) -> list[str]:
    """The job's figures, and beneath them what was aimed at."""
    aim = run.plan.aims[0]
    rows = [
        f"**{run.plan.name}**: {run.plan.told(run.sizes)}{_ideal(run)}",
        "",
        f"| contender | rounds | wall s | spread | CPU s | spread | peak MB | requests | {aim.name} | spread |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (size, name), rounds in run.found.items():
        if not rounds:
            continue
        figures = list(rounds.values())
        label = name if len(run.sizes) == 1 else f"{name}: {size}"
        walls, cpus = (spread((getattr(one, field) for one in figures), ".2f") for field in ("wall", "cpu"))
        peak = statistics.median(one.peak_mb for one in figures)
        requests = statistics.median(one.requests for one in figures)
        ratios = spread(run.ratios(aim, size, name), ".2f")
        rows.append(f"| {label} | {len(figures)} | {walls} | {cpus} | {peak:.0f} | {requests:,.0f} | {ratios} |")
    return [*rows, "", *verdicts(run), ""]


def verdicts(run: Run) -> list[str]:
    """A row for each aim and each of our own contenders."""
    rows = ["| aim | | measured | |", "|---|---|---|---|"]
    for aim in run.plan.aims:
        for name in (aim.of,) if aim.of else OURS:
            ratios = run.ratios(aim, run.sizes[-1], name) if (run.sizes[-1], name) in run.found else []
            if ratios:
                middle = statistics.median(ratios)
                reached = "reached" if middle <= aim.most else "not reached"
                rows.append(f"| {aim.name} at most {aim.most:g} | {name} | {middle:.2f} | {reached} |")
    return rows if len(rows) > 2 else []


def _ideal(run: Run) -> str:
    ideals = [f"{run.plan.ideal(size):.3g} s" for size in run.sizes]
    return f"; ideal {' or '.join(ideals)}" if run.plan.latency else ""


def machine(runs: Sequence[Run], pinned: bool) -> str:
    """On what was it measured, and with which versions."""
    versions: dict[str, str] = {}
    for run in runs:
        for rounds in run.found.values():
            for figures in rounds.values():
                versions |= figures.versions
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = "server and contender each on a core of its own" if pinned else f"{cores} cores, not pinned"
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{_processor()}, {where}; {told}\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", nargs="+", choices=[plan.name for plan in JOBS + FILES], help="default: all")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="those whose names begin so; default: all")
    parser.add_argument("--peers", action="store_true", help="other frameworks too; everybody writes JSON lines")
    parser.add_argument("--jsonl", action="store_true", help="everybody writes JSON lines, also without peers")
    parser.add_argument("--extract", action="store_true", help="extract into files, beside scripts that write one")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 3 or 5, by job)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of slices or pages (default 1)")
    chosen = parser.parse_args()
    known = EXTRACTING if chosen.extract else (*CONTENDERS, *(OTHERS if chosen.peers else ()))
    wanted = [one for one in known if _is_wanted(one.name, chosen.contenders)]
    contenders = [one for one in wanted if one.is_installed()]
    for absent in (one for one in wanted if one not in contenders):
        print(f"left out, since it is not installed: {absent.name}", file=sys.stderr)
    jobs = FILES if chosen.extract else JOBS
    plans = [plan for plan in jobs if (plan.name in chosen.jobs if chosen.jobs else not chosen.peers or not plan.only)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pinned = len(cores) > 1
    if pinned:
        os.sched_setaffinity(0, {cores[0]})
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    runs = [
        Run(plan, contenders, chosen.scale, writes=chosen.peers or chosen.jsonl or chosen.extract) for plan in plans
    ]
    for run in runs:
        run.measure(chosen.rounds or run.plan.rounds, cores[-1] if pinned else None, tell)
    print(machine(runs, pinned))
    for run in runs:
        print("\n".join(table(run)))


def _is_wanted(name: str, chosen: Sequence[str] | None) -> bool:
    return not chosen or any(name.startswith(begin) for begin in chosen)


if __name__ == "__main__":
    main()
