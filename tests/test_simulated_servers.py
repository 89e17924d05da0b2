"""Governor invariants and targets on simulated servers, with several seeds.

The servers, the targets and the invariants (`CheckedGovernor`) are in `benchmarks/`; `make bench-sim`
prints the figures.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cases import CASES
from random_servers import RandomRun
from request_log import request_log
from simulation import FULL, sample

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SUPPORT = Path(__file__).parent / "support"
SEEDS = range(sample(full=100, short=1))
# Smaller than the scale of the targets, but large enough to reach the figures that need long runs.
SCALES = {
    "refusing": 0.15,
    "refusing-silently": 0.15,
    "refusing-short": 0.4,
    "refusing-short-ordered": 0.4,
    "refusing-few": 1.0,
    "refusing-lifted": 0.3,
    "queueing": 0.25,
    "queueing-cut": 0.35,
    "declared": 0.2,
    "quota": 0.3,
    "quota-skewed": 0.3,
    "quota-shared": 0.3,
    "quota-moved": 0.5,
    "pauses": 0.01,
    "outage": 0.2,
    "failing": 0.05,
    "slices": 0.1,
    "shares": 0.1,
}


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    """A pool of all processors; no result depends on their speed."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def missed_targets(name: str, seed: int) -> list[str]:
    return [f"seed {seed}: {figure}" for figure in CASES[name][0](seed, SCALES[name]) if not figure.is_reached]


@pytest.mark.simulation
@pytest.mark.parametrize("name", CASES)
def test_targets_at_small_scale_are_reached_with_every_seed(name: str, processes: Executor) -> None:
    assert [
        target for targets in processes.map(partial(missed_targets, name), SEEDS, chunksize=10) for target in targets
    ] == []


@pytest.mark.simulation
@pytest.mark.parametrize("name", CASES if FULL else ["shares", "quota", "failing", "refusing-short", "refusing-few"])
def test_targets_at_full_scale_are_reached(name: str) -> None:
    scale = 0.2 if name == "pauses" else 1.0  # 10,000 pauses are left to `make bench-sim`
    assert [figure for figure in CASES[name][0](1000, scale) if not figure.is_reached] == []


def liveness_faults(seed: int) -> list[str]:
    """The broken invariants of a run on a random server."""
    run, faults = RandomRun(seed), list[str]()
    try:
        run.run()
    except* AssertionError as group:
        faults.append(f"seed {seed}: {group.exceptions[0]} ({run.server!r})")
    return faults


@pytest.mark.simulation
def test_every_wait_ends_on_random_servers(processes: Executor) -> None:
    seeds = range(sample(full=1000, short=20))

    faults = processes.map(liveness_faults, seeds, chunksize=10)

    assert [fault for found in faults for fault in found] == []


def test_same_seed_gives_the_same_requests() -> None:
    first, again, other = request_log(1), request_log(1), request_log(2)

    assert first == again != other


def test_same_seed_gives_the_same_requests_with_any_hash_seed() -> None:
    script = f"import sys; sys.path[:0] = [{str(BENCHMARKS)!r}, {str(SUPPORT)!r}]\n"
    script += "from request_log import request_log; print(*request_log(3), sep='\\n')"

    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "random")
    }

    assert len(outputs) == 1


def test_simulate_prints_figures_and_targets(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "simulate.py"), "quota", "--seeds", "2"]

    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert process.returncode == 0, process.stderr
    rows = [line for line in process.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert "seconds to the ideal" in rows[2]
    assert rows[2].endswith("| reached |")


def test_unknown_case_lists_the_known_cases(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "simulate.py"), "qouta"]

    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert process.returncode == 2
    assert "unknown case qouta: choose from refusing," in process.stderr
