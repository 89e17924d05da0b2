"""The benchmark programs: they run on small jobs, and their checks detect missing records."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = {
    "asyncstreams": ("uvloop",),
    "aiohttp script": ("aiohttp", "uvloop"),
    "aiohttp script, asyncio loop": ("aiohttp",),
    "httpx script": ("httpx",),
}


def are_installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def run_benchmark(program: str, *arguments: str) -> str:
    """The output of a benchmark program that succeeds."""
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    installed = {name for name, modules in MODULES.items() if are_installed(*modules)}
    assert names - {"contender"} == {"asyncstreams, asyncio loop", *installed}
    assert any(row.startswith("| wall to ideal at most 1.1 |") for row in rows)


def test_extract_is_compared_with_scripts_in_both_modes() -> None:
    if not are_installed("aiohttp", "uvloop"):
        pytest.skip("needs aiohttp and uvloop")
    done = compare("--extract", "--scale", "0.02")

    assert done.returncode == 0, done.stderr
    aims = [line for line in done.stdout.splitlines() if line.startswith("| CPU to ")]
    assert [line.split(" | ")[1] for line in aims] == [
        "extract, decoded records",
        "extract, decoded records, asyncio loop",
        *["extract, raw passthrough", "extract, raw passthrough, asyncio loop"] * 2,
    ]


def test_asyncstreams_reads_the_other_jobs() -> None:
    done = compare(
        "--jobs", "cursor", "many", "--scale", "0.002", "--rounds", "1", "--contenders", "asyncstreams, asyncio"
    )

    assert done.returncode == 0, done.stderr
    assert all(f"**{job}**" in done.stdout for job in ("cursor", "many"))
    assert "| CPU per slice to few slices at most 1.2 |" in done.stdout


@pytest.mark.parametrize(
    ("job", "measure"),
    {
        "numbered slices": "CPU",
        "numbered cpu": "CPU",
        "cursor": "wall",
        "records": "CPU",
        "many": "CPU",
        "declared": "wall",
        "faults": "wall",
    }.items(),
)
def test_job_is_compared_with_the_script_on_the_same_loop(job: str, measure: str) -> None:
    if not are_installed("aiohttp"):
        pytest.skip("needs aiohttp")
    contenders = ("asyncstreams, asyncio loop", "aiohttp script, asyncio loop")

    done = compare("--jobs", job, "--scale", "0.001", "--contenders", *contenders)

    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {measure} to aiohttp script at most ")]
    assert row.split(" | ")[1] == contenders[0]
    assert float(row.split(" | ")[2]) > 0


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
    if not are_installed("aiohttp", "uvloop"):
        pytest.skip("needs aiohttp and uvloop")

    output = run_benchmark("substreams.py", "--parts", "tree", "--scale", "0.001", "--rounds", "1")

    aims = [line for line in output.splitlines() if line.startswith("| requests for parents: 1 |")]
    assert len(aims) == 2
    assert all(line.endswith("| 1 | reached |") for line in aims)
    assert output.count("| wall to aiohttp script at most 1.1 |") == 2


def test_slice_cost_is_divided_among_the_layers() -> None:
    if not are_installed("aiohttp"):
        pytest.skip("needs aiohttp")

    output = run_benchmark("slice_layers.py", "--slices", "100", "--rounds", "1", "--modules", "5")

    layers, _ratio, modules, frames = output.split("\n\n")
    calls = [int(line.split(" | ")[1]) for line in layers.splitlines()[3:-1]]
    assert abs(sum(calls[:-1]) - calls[-1]) <= len(calls)
    assert all(count > 0 for count in calls)
    assert len(modules.splitlines()) == 2 + 5
    first, *_, last = frames.splitlines()[1].split(" > ")
    assert first.startswith("execution/")
    assert last.startswith("wire/")


@pytest.mark.parametrize(
    ("program", "noun", "contenders", "aims"), [("transport.py", "connections", 3, 1), ("read.py", "streams", 4, 3)]
)
def test_page_benchmark_measures_each_loop_and_scheme(program: str, noun: str, contenders: int, aims: int) -> None:
    if not are_installed("aiohttp", "uvloop") or shutil.which("openssl") is None:
        pytest.skip("needs aiohttp, uvloop and openssl")
    cases = {(loop, scheme) for loop in ("asyncio", "uvloop") for scheme in ("http", "https")}

    arguments = f"--rounds 1 --pages 10 --{noun} 10 --loops asyncio uvloop --schemes http https"
    output = run_benchmark(program, *arguments.split())

    rows = [line.split(" | ") for line in output.splitlines() if line.startswith(("| asyncio ", "| uvloop "))]
    assert {(row[0].removeprefix("| "), row[1]) for row in rows} == cases
    assert len(rows) == (contenders + aims) * len(cases)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("layer", ["transport", "client"])
def test_soak_prints_memory_and_closes_all_descriptors(layer: str) -> None:
    output = run_benchmark("soak.py", "--requests", "1000", "--layer", layer)

    marks = [line for line in output.splitlines() if line.count("|") == 5]
    assert len(marks) == 12
    assert marks[-1].startswith("| 1,000 |")
