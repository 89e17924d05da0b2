"""The benchmark programs: they run on small jobs, and their checks detect missing records."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = {"asyncstreams": "uvloop", "aiohttp script": "uvloop", "httpx script": "httpx"}


def compare(*arguments: str, benchmarks: Path = BENCHMARKS) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(benchmarks / "compare.py"), "--rounds", "1", "--scale", "0.01", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def copy_benchmarks(to: Path) -> Path:
    """A copy of the programs that the test can change."""
    for path in (*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("jobs/*.py")):
        target = to / path.relative_to(BENCHMARKS)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    return to


def test_installed_contenders_are_in_the_table() -> None:
    done = compare("--jobs", "pages", "--jsonl")

    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    names = {row.split(" | ")[0].removeprefix("| ") for row in rows if row.count("|") == 11}
    installed = {name for name, module in MODULES.items() if importlib.util.find_spec(module)}
    assert names - {"contender"} == {"asyncstreams, asyncio loop", *installed}
    assert any(row.startswith("| wall to ideal at most 1.1 |") for row in rows)


def test_extract_is_compared_with_scripts_in_both_modes() -> None:
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    done = compare("--extract", "--scale", "0.1")

    assert done.returncode == 0, done.stderr
    aims = [line for line in done.stdout.splitlines() if line.startswith("| CPU to ")]
    assert [line.split(" | ")[1] for line in aims] == [
        "extract, decoded records",
        "extract, raw passthrough",
        "extract, raw passthrough",
    ]


def test_asyncstreams_reads_the_other_jobs() -> None:
    done = compare(
        "--jobs", "cursor", "many", "--scale", "0.002", "--rounds", "1", "--contenders", "asyncstreams, asyncio"
    )

    assert done.returncode == 0, done.stderr
    assert all(f"**{job}**" in done.stdout for job in ("cursor", "many"))
    assert "| CPU per slice to few slices at most 1.2 |" in done.stdout


@pytest.mark.parametrize("jsonl", [True, False])
def test_program_that_skips_a_record_fails_the_comparison(tmp_path: Path, jsonl: bool) -> None:
    program = copy_benchmarks(tmp_path) / "jobs" / "ours.py"
    original = "output.add_page(page.records)"
    assert original in program.read_text()
    program.write_text(program.read_text().replace(original, "output.add_page(page.records[1:] + page.records[-1:])"))

    arguments = (
        "--jobs",
        "pages",
        "--contenders",
        "asyncstreams, asyncio",
        "--rounds",
        "1",
        *(["--jsonl"] if jsonl else []),
    )
    done = compare(*arguments, benchmarks=tmp_path)

    assert done.returncode == 1
    assert "or some more than once" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_peers_script_is_executable() -> None:
    assert os.access(BENCHMARKS / "peers.sh", os.X_OK)


def test_governor_cost_is_printed_for_each_kind_of_response() -> None:
    command = [sys.executable, str(BENCHMARKS / "governor.py"), "--requests", "200", "--rounds", "1"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 5
    assert all(float(cost) > 0 for _, cost, _ in rows)


def test_substreams_benchmark_requests_each_parent_once() -> None:
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
