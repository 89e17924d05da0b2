"""Complete jobs: asyncstreams, hand-written scripts and, with --peers, other frameworks.

Each contender is a program in `jobs/`, started again for each measurement. The API is a MockApi in
another process, on another core if there are two. Each measurement checks that every record was read
once. The contenders of a job alternate in each round, and ratios are computed within a round, so that
other load on the machine affects all of them.
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

from plan import (
    AIOHTTP_SCRIPT,
    AIOHTTP_SCRIPTS,
    DECODED,
    EXTRACT_PLANS,
    HTTPX_SCRIPT,
    MSGSPEC_SCRIPT,
    OURS,
    RAW,
    READ_PLANS,
    Aim,
    Plan,
    Size,
)

from asyncstreams.testing import MockApi

HERE = Path(__file__).resolve().parent
PEERS_DIR = HERE.parent / ".bench"
TIMEOUT_S = 1_800
WARM_UP = "warm-up"


@dataclass(frozen=True, slots=True)
class Contender:
    """A program, the Python that runs it (default: this one), and the modules that it needs."""

    name: str
    program: str
    modules: tuple[str, ...]
    uvloop: bool = False
    python: Path | None = None
    decode_records: bool = False
    slow_jobs: tuple[str, ...] = ()
    """Jobs that take minutes; they run in the first round only."""

    @property
    def command(self) -> list[str]:
        return [str(self.python or sys.executable), str(HERE / "jobs" / self.program)]

    def is_installed(self) -> bool:
        if self.python is not None and not self.python.exists():
            return False
        program = f"import importlib.util as i; print(all(map(i.find_spec, {self.modules!r})))"
        done = subprocess.run([self.command[0], "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip() == "True"


SCRIPTS = (
    Contender(AIOHTTP_SCRIPTS[0], "aiohttp_script.py", ("aiohttp", "orjson", "uvloop"), uvloop=True),
    Contender(AIOHTTP_SCRIPTS[1], "aiohttp_script.py", ("aiohttp", "orjson")),
)
CONTENDERS = (
    Contender(OURS[0], "ours.py", ("asyncstreams", "uvloop"), uvloop=True),
    Contender(OURS[1], "ours.py", ("asyncstreams",)),
    *SCRIPTS,
    Contender(HTTPX_SCRIPT, "httpx_script.py", ("httpx", "orjson")),
)

EXTRACT_CONTENDERS = (
    Contender(DECODED, "extract.py", ("asyncstreams", "uvloop"), uvloop=True, decode_records=True),
    Contender(f"{DECODED}, asyncio loop", "extract.py", ("asyncstreams",), decode_records=True),
    Contender(RAW, "extract.py", ("asyncstreams", "uvloop"), uvloop=True),
    Contender(f"{RAW}, asyncio loop", "extract.py", ("asyncstreams",)),
    *SCRIPTS,
    Contender(MSGSPEC_SCRIPT, "msgspec_script.py", ("aiohttp", "msgspec", "uvloop"), uvloop=True),
)


def peer(name: str, program: str, folder: str, slow_at: tuple[str, ...] = ()) -> Contender:
    return Contender(name, program, ("orjson",), python=PEERS_DIR / folder / "bin" / "python", slow_jobs=slow_at)


PEER_CONTENDERS = (
    peer("airbyte-cdk", "airbyte_cdk_script.py", "airbyte_cdk"),
    peer("dlt", "dlt_script.py", "dlt"),
    peer("singer-sdk", "singer_script.py", "singer", ("slices",)),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The output of one program, and the number of requests that the API got from it."""

    wall: float
    cpu: float
    peak_mb: float
    requests: int
    versions: dict[str, str]


Rounds = dict[int, Measurement]


class JobRun:
    """The measurements of one job."""

    def __init__(self, plan: Plan, contenders: Sequence[Contender], scale: float, *, writes: bool) -> None:
        self.plan, self._writes = plan, writes
        self.sizes = tuple(dict.fromkeys(size.scaled(scale) for size in plan.sizes))
        self.contenders = [contender for contender in contenders if not plan.only or contender.name in plan.only]
        self.measurements: dict[tuple[Size, str], Rounds] = {
            (size, contender.name): {} for size in self.sizes for contender in self.contenders
        }

    def measure(self, rounds: int, server_core: int | None, log: Callable[[str], None]) -> None:
        """Run all rounds. Round 0 does not count: the first contender warms up the page cache of the server.

        The programs need no warm-up: each measurement is a new process and starts after its imports.
        """
        # Half of the cache is for pages. Records have fewer than 300 bytes, so every page stays in the cache.
        cache_bytes = 2 * sum(map(self.plan.record_count, self.sizes)) * 300 + 2**26
        resources = self.plan.resources(self.sizes)
        with MockApi(
            *resources,
            latency=self.plan.latency,
            quota=self.plan.quota,
            faults=self.plan.faults,
            process=True,
            uvloop=_has_uvloop(),
            cache_bytes=cache_bytes,
        ) as api:
            if server_core is not None:
                os.sched_setaffinity(api.pid, {server_core})
            for number in range(rounds + 1):
                for contender in self.contenders if number else self.contenders[:1]:
                    if self.plan.name in contender.slow_jobs and number > 1:
                        continue
                    for size in self.sizes:
                        round_name = f"round {number} of {rounds}" if number else WARM_UP
                        log(f"{self.plan.name}: {round_name}: {contender.name}, {size}")
                        measurement = self._measure_once(api, contender, size)
                        if number:
                            self.measurements[size, contender.name][number] = measurement

    def ratios(self, aim: Aim, size: Size, name: str) -> list[float]:
        """The ratio of the aim in each round that has both measurements; empty without a counterpart."""
        rounds, other = self.measurements[size, name], size
        if aim.against in ("ideal", ""):
            unit = self.plan.ideal_seconds(size) if aim.against else 1.0
            return [aim_value(measurement, aim, size) / unit for measurement in rounds.values()]
        base = self.measurements.get((size, self._base(aim, name)), {})
        if aim.against == "smaller" and size != self.sizes[0]:
            other = self.sizes[0]
            base = self.measurements[other, name]
        common = [number for number in rounds if number in base]
        return [aim_value(rounds[number], aim, size) / aim_value(base[number], aim, other) for number in common]

    def _base(self, aim: Aim, name: str) -> str:
        """The contender that `name` is compared with: the aiohttp script on the same event loop, or the named one."""
        is_on_uvloop = any(contender.name == name and contender.uvloop for contender in self.contenders)
        return AIOHTTP_SCRIPTS[0 if is_on_uvloop else 1] if aim.against == AIOHTTP_SCRIPT else aim.against

    def _measure_once(self, api: MockApi, contender: Contender, size: Size) -> Measurement:
        before = api.counts.requests
        with tempfile.TemporaryDirectory() as folder:
            out = folder if self._writes else "-"
            command = [*contender.command, self.plan.shape, api.url, out, *self.plan.arguments(size)]
            result = run_program(command, contender.uvloop, DECODE_RECORDS="1" if contender.decode_records else "0")
            self._check(contender.name, result, size, Path(folder) if self._writes else None)
        requests = api.counts.requests - before
        return Measurement(result["wall"], result["cpu"], result["peak_mb"], requests, result["versions"])

    def _check(self, name: str, result: dict[str, Any], size: Size, folder: Path | None) -> None:
        """Raises SystemExit if a record is missing or duplicated. The ids of MockApi are 1 to the count."""
        count = self.plan.record_count(size)
        if folder is None:
            is_complete = result["records"] == count and result["ids"] == count * (count + 1) // 2
        else:
            is_complete = result["records"] == count and _holds_each_once(folder, count)
        if not is_complete:
            raise SystemExit(
                f"{name}: read {result['records']} of {count} records of {self.plan.name}, or some more than once"
            )


def run_program(command: Sequence[str], uvloop: bool, **environment: str) -> dict[str, Any]:
    """The measurement that the program of a contender prints. Raises SystemExit if the program fails."""
    environment = {**os.environ, "UVLOOP": "1" if uvloop else "0", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def aim_value(measurement: Measurement, aim: Aim, size: Size) -> float:
    """The measured value of the aim. CPU that is compared with another size is per slice."""
    value: float = getattr(measurement, aim.measure)
    return value / size.slices if aim.against == "smaller" and aim.measure == "cpu" else value


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


def median_and_range(values: Iterable[float], form: str) -> str:
    """The median, the minimum and the maximum, as two table cells."""
    sample = list(values)
    if not sample:
        return "- | -"
    low, high = format(min(sample), form), format(max(sample), form)
    return f"{format(statistics.median(sample), form)} | {low} - {high}"


def job_table(run: JobRun) -> list[str]:
    """The table of the measurements of a job, and below it the table of its aims."""
    aim = run.plan.aims[0]
    rows = [
        f"**{run.plan.name}**: {run.plan.describe(run.sizes)}{_format_ideal(run)}",
        "",
        f"| contender | rounds | wall s | spread | CPU s | spread | peak MB | requests | {aim.name} | spread |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (size, name), rounds in run.measurements.items():
        if not rounds:
            continue
        measurements = list(rounds.values())
        label = name if len(run.sizes) == 1 else f"{name}: {size}"
        walls, cpus = (
            median_and_range((getattr(measurement, field) for measurement in measurements), ".2f")
            for field in ("wall", "cpu")
        )
        peak = statistics.median(measurement.peak_mb for measurement in measurements)
        requests = statistics.median(measurement.requests for measurement in measurements)
        ratios = median_and_range(run.ratios(aim, size, name), ".2f")
        rows.append(f"| {label} | {len(measurements)} | {walls} | {cpus} | {peak:.0f} | {requests:,.0f} | {ratios} |")
    return [*rows, "", *aim_rows(run), ""]


def aim_rows(run: JobRun) -> list[str]:
    """The table of aims: a row for each aim and each of its contenders."""
    rows = ["| aim | | measured | spread | |", "|---|---|---|---|---|"]
    for aim in run.plan.aims:
        for name in [contender.name for contender in run.contenders if contender.name.startswith(aim.contender)]:
            if ratios := run.ratios(aim, run.sizes[-1], name):
                measured = median_and_range(ratios, ".2f")
                reached = "reached" if statistics.median(ratios) <= aim.maximum else "not reached"
                rows.append(f"| {aim.name} at most {aim.maximum:g} | {name} | {measured} | {reached} |")
    return rows if len(rows) > 2 else []


def _format_ideal(run: JobRun) -> str:
    ideals = [f"{run.plan.ideal_seconds(size):.3g} s" for size in run.sizes]
    return f"; ideal {' or '.join(ideals)}" if run.plan.latency else ""


def describe_machine(runs: Sequence[JobRun], pinned: bool) -> str:
    """The processor, the pinning and the versions of the packages."""
    versions: dict[str, str] = {}
    for run in runs:
        for rounds in run.measurements.values():
            for measurement in rounds.values():
                versions |= measurement.versions
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores_text = "server and contender on separate cores" if pinned else f"{cores} cores, not pinned"
    versions_text = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{_processor()}, {cores_text}; {versions_text}\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--jobs",
        nargs="+",
        choices=[plan.name for plan in READ_PLANS + EXTRACT_PLANS],
        help="jobs to run (default: all)",
    )
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="start of the names of the contenders (default: all)"
    )
    parser.add_argument(
        "--peers", action="store_true", help="include other frameworks; all contenders write JSON Lines"
    )
    parser.add_argument("--jsonl", action="store_true", help="all contenders write JSON Lines, also without --peers")
    parser.add_argument(
        "--extract", action="store_true", help="extract into files, compared with scripts that write a file"
    )
    parser.add_argument("--rounds", type=int, help="measured rounds (default: 3 or 5, by job)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the number of slices or pages (default: 1)"
    )
    args = parser.parse_args()
    known = EXTRACT_CONTENDERS if args.extract else (*CONTENDERS, *(PEER_CONTENDERS if args.peers else ()))
    wanted = [contender for contender in known if _is_wanted(contender.name, args.contenders)]
    contenders = [contender for contender in wanted if contender.is_installed()]
    for absent in wanted:
        if absent not in contenders:
            print(f"skipped, not installed: {absent.name}", file=sys.stderr)
    jobs = EXTRACT_PLANS if args.extract else READ_PLANS
    plans = [plan for plan in jobs if (plan.name in args.jobs if args.jobs else not args.peers or not plan.only)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pinned = len(cores) > 1
    if pinned:
        os.sched_setaffinity(0, {cores[0]})
    started = time.monotonic()

    def log(message: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {message}", file=sys.stderr, flush=True)

    runs = [JobRun(plan, contenders, args.scale, writes=args.peers or args.jsonl or args.extract) for plan in plans]
    for run in runs:
        run.measure(args.rounds or run.plan.rounds, cores[-1] if pinned else None, log)
    print(describe_machine(runs, pinned))
    for run in runs:
        print("\n".join(job_table(run)))


def _is_wanted(name: str, prefixes: Sequence[str] | None) -> bool:
    return not prefixes or any(name.startswith(prefix) for prefix in prefixes)


if __name__ == "__main__":
    main()
