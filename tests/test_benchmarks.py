"""The programs of benchmarks/compare.py run, tell the truth, and are told from programs that do not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
BY_HAND = {"asyncstreams": "uvloop", "aiohttp script": "uvloop", "httpx script": "httpx"}


def compare(*arguments: str, benchmarks: Path = BENCHMARKS) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(benchmarks / "compare.py"), "--rounds", "1", "--scale", "0.01", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def copied(to: Path) -> Path:
    """The programs, to be changed."""
    for path in (*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("jobs/*.py")):
        target = to / path.relative_to(BENCHMARKS)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    return to


def test_every_contender_that_is_installed_reads_a_small_job_and_stands_in_its_table() -> None:
    done = compare("--jobs", "pages", "--jsonl")

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    names = {row.split(" | ")[0].removeprefix("| ") for row in rows if row.count("|") == 11}
    installed = {name for name, module in BY_HAND.items() if importlib.util.find_spec(module)}
    assert names - {"contender"} == {"asyncstreams, asyncio's loop", *installed}
    assert any(row.startswith("| wall to ideal at most 1.1 |") for row in rows)


def test_both_lanes_are_held_against_scripts_that_write_the_same_file() -> None:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    done = compare("--extract", "--scale", "0.1")

    assert done.returncode == 0, done.stderr
    aims = [line for line in done.stdout.splitlines() if line.startswith("| CPU to ")]
    assert [line.split(" | ")[1] for line in aims] == [
        "extract, ordinary lane",
        "extract, raw lane",
        "extract, raw lane",
    ]


def test_ours_reads_all_of_the_jobs_of_other_shapes_and_sizes() -> None:
    done = compare("--jobs", "cursor", "many", "--scale", "0.002", "--contenders", "asyncstreams, asyncio")

    assert done.returncode == 0, done.stderr
    assert all(f"**{job}**" in done.stdout for job in ("cursor", "many"))
    assert "| CPU of a slice to that of few at most 1.2 |" in done.stdout


@pytest.mark.parametrize("jsonl", [True, False])
def test_a_program_that_leaves_a_record_out_fails_the_comparison(tmp_path: Path, jsonl: bool) -> None:
    program = copied(tmp_path) / "jobs" / "ours.py"
    whole = "output.take(page.records)"
    assert whole in program.read_text()
    program.write_text(program.read_text().replace(whole, "output.take(page.records[1:] + page.records[-1:])"))

    arguments = ("--jobs", "pages", "--contenders", "asyncstreams, asyncio", *(["--jsonl"] if jsonl else []))
    done = compare(*arguments, benchmarks=tmp_path)

    assert done.returncode == 1
    assert "or not each once" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a file's mode says nothing there")
def test_the_script_that_installs_the_others_can_be_run() -> None:
    assert os.access(BENCHMARKS / "peers.sh", os.X_OK)


def test_the_cost_of_the_governor_is_printed_for_each_kind_of_answer() -> None:
    command = [sys.executable, str(BENCHMARKS / "governor.py"), "--requests", "200", "--rounds", "1"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 5
    assert all(float(cost) > 0 for _, cost, _ in rows)


def test_children_of_all_kinds_are_measured_and_each_parent_is_asked_for_once() -> None:
    needed = ("aiohttp", "uvloop")
    if not all(importlib.util.find_spec(module) for module in needed):
        pytest.skip(f"needs {' and '.join(needed)}")
    command = [
        sys.executable,
        str(BENCHMARKS / "substreams.py"),
        "--parts",
        "tree",
        "--scale",
        "0.001",
        "--rounds",
        "1",
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    aims = [line for line in done.stdout.splitlines() if line.startswith("| requests for parents: 1 |")]
    assert len(aims) == 2
    assert all(line.endswith("| 1 | reached |") for line in aims)
