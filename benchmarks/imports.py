"""CPU of importing asyncstreams, relative to importing httpx.

Each round starts a new Python process for each contender, with compiled modules. The CPU of a process that imports
nothing is subtracted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys

NOTHING = "pass"
HTTPX = "import httpx"
CONTENDERS = (HTTPX, "from asyncstreams import HttpStream, PageNumber, Source")


def cpu_ms(code: str) -> float:
    """CPU milliseconds, user and system, of a process that runs `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"{code!r} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each contender beyond those of an empty process, in the order of the rounds."""
    measurements: dict[str, list[float]] = {code: [] for code in CONTENDERS}
    for number in range(rounds + 1):
        empty = cpu_ms(NOTHING)
        for code in CONTENDERS:
            cpu = cpu_ms(code) - empty
            if number:  # the first round compiles the modules
                measurements[code].append(cpu)
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default: 15)")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("httpx", "asyncstreams"))
    # The command of httpx, which it imports if click is installed, costs as much as the rest of it.
    command = "with" if importlib.util.find_spec("click") else "without"
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} cores, {versions}, {command} click")
    print(f"{args.rounds} interleaved rounds\n")
    print("| import | ms of CPU | spread | ratio | spread |")
    print("|---|---|---|---|---|")
    measurements = measure(args.rounds)
    for code, values in measurements.items():
        ratios = [value / reference for value, reference in zip(values, measurements[HTTPX], strict=True)]
        print(
            f"| `{code}` | {statistics.median(values):.0f} | {min(values):.0f} - {max(values):.0f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} - {max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
