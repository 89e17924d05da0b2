"""The command line as a process: pipes, terminals, signals, full disks, and the time of its start."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

import command_shop
import pytest

import asyncstreams
from asyncstreams.testing import BearerAuth, MockApi

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")

ARCHIVE = f"{command_shop.__file__}:Archive"
ALL = list(range(1, 6_001))
TOKEN = "s3cret-token"
COMMAND = [sys.executable, "-W", "error", "-m", "asyncstreams"]
FOLDERS = Path(asyncstreams.__file__).parent.parent, Path(command_shop.__file__).parent
ENVIRON = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}
Start: TypeAlias = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*command_shop.RESOURCES, auth=BearerAuth(TOKEN)) as running:
        yield running


@pytest.fixture
def slow_api(api: MockApi) -> Iterator[MockApi]:
    api.latency = 0.03
    yield api
    api.latency = 0.0


@pytest.fixture
def start(api: MockApi, tmp_path: Path) -> Iterator[Start]:
    """Starts `asyncstreams read` of the archive in a folder of its own."""
    environ = ENVIRON | {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "ASYNCSTREAMS_CONFIG_URL": api.url,
        "SHOP_TOKEN": TOKEN,
        "TERM": "xterm-256color",
        "COLUMNS": "100",
    }
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [*COMMAND, "read", ARCHIVE, "--set", "token=env:SHOP_TOKEN", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, text=True, stdin=subprocess.DEVNULL, **pipes)
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ids(lines: Sequence[str]) -> list[int]:
    return [json.loads(line)["id"] for line in lines]


def wait_for_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_records_are_on_stdout_and_the_rest_on_stderr(start: Start) -> None:
    process = start()
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0
    assert sorted(ids(out.splitlines())) == ALL
    assert " INFO    batches: begins" in err
    assert "batches  6,000 records in 60 pages of 60 slices" in err
    assert TOKEN not in out + err


def test_closed_pipe_ends_quietly_and_state_follows(start: Start) -> None:
    process = start("--state", "auto", "--quiet")
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(50)]
    process.stdout.close()
    _, err = process.wait(30), wait_for_line(process.stderr)
    out, _ = start("--state", "auto").communicate(timeout=30)

    assert (process.returncode, err) == (141, "")
    assert len(ids(first)) == 50
    rest = ids(out.splitlines())
    assert len(rest) < 6_000
    assert len(rest) == len(set(rest))


@pytest.mark.program
def test_full_disk_behind_stdout_is_reported(start: Start) -> None:
    with Path("/dev/full").open("w") as full:
        process = start("--state", "state.json", "--quiet", stdout=full)
        _, err = process.communicate(timeout=30)
    out, _ = start("--state", "state.json").communicate(timeout=30)

    assert process.returncode == 1
    assert err.startswith("error: stdout: cannot be written: No space left on device\n  hint: ")
    assert "Exception ignored" not in err
    assert sorted(ids(out.splitlines())) == ALL


def test_closed_stdout_is_reported(start: Start) -> None:
    process = start(stdout=None, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "error: stdout: is closed" in err


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_signal_ends_a_read_to_stdout(
    number: signal.Signals, code: int, name: str, start: Start, slow_api: MockApi, tmp_path: Path
) -> None:
    records = tmp_path / "records.jsonl"
    with records.open("w") as file:
        process = start("--state", "state.json", "--quiet", stdout=file)
        while not records.stat().st_size and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    later, _ = start("--state", "state.json").communicate(timeout=30)

    read = ids(records.read_text().splitlines())
    assert process.returncode == code
    assert err.splitlines()[0] == f"stopped by {name}"
    assert "the state covers what was written to stdout; the next run resumes after it" in err
    assert 0 < len(read) < 6_000
    assert sorted(read + ids(later.splitlines())) == ALL


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.program
def test_signal_at_any_moment_leaves_a_folder_in_order(
    seed: int, start: Start, slow_api: MockApi, tmp_path: Path
) -> None:
    process = start("--to", "out/")
    wait_for_line(process.stderr)
    time.sleep(0.3 * seed)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    again = start("--to", "out/")
    again.communicate(timeout=30)

    assert (process.returncode, again.returncode) == (143, 0)
    assert "stopped by SIGTERM" in err
    texts = [file.read_text() for file in (tmp_path / "out" / "batches").glob("*.jsonl")]
    assert sorted(ids("".join(texts).splitlines())) == ALL


@pytest.mark.program
def test_signal_ends_a_read_whose_pipe_is_full(start: Start) -> None:
    process = start("--quiet", "--state", "state.json")
    wait_for_line(process.stdout)
    time.sleep(0.5)
    process.terminate()

    assert process.wait(10) == 143


def read_terminal(terminal: int) -> str:
    """What is written to a terminal until the other end is closed."""
    shown = b""
    with suppress(OSError):  # of Linux, at the end
        while select.select([terminal], [], [], 20)[0] and (chunk := os.read(terminal, 65_536)):
            shown += chunk
    os.close(terminal)
    return shown.decode()


def test_terminal_shows_the_live_view(start: Start, slow_api: MockApi) -> None:
    terminal, end = pty.openpty()
    process = start("-s", "batches", "--to", "out/", stderr=end)
    os.close(end)
    shown = read_terminal(terminal)

    assert process.wait(30) == 0
    assert "\x1b[" in shown
    assert "begins" not in shown
    assert "6,000 rows" in shown


def test_shared_terminal_has_records_and_no_live_view(start: Start) -> None:
    terminal, end = pty.openpty()
    process = start("--limit", "3", stdout=end, stderr=end)
    os.close(end)
    shown = read_terminal(terminal)

    assert process.wait(30) == 0
    assert shown.count('{"id":') == 3
    assert "\x1b[" not in shown
    assert "batches  3 records" in shown


def test_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; from asyncstreams.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'the command line requires typer and rich: pip install "asyncstreams[cli]"\n'


def test_module_of_the_folder_is_found(tmp_path: Path, api: MockApi) -> None:
    (tmp_path / "cli_local.py").write_text("from command_shop import Archive")
    command = [*COMMAND, "read", "cli_local:Archive", "--set", "token=file:token", "-n", "2"]
    (tmp_path / "token").write_text(TOKEN + "\n")
    environ = ENVIRON | {"ASYNCSTREAMS_CONFIG_URL": api.url}

    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert ids(done.stdout.splitlines()) == [1, 2]


def cpu_seconds(*arguments: str) -> float:
    """CPU time of a process of its own, the best of three."""
    times: list[float] = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.program
def test_help_costs_little_more_than_the_package() -> None:
    assert cpu_seconds("-m", "asyncstreams", "--help") - cpu_seconds("-c", "import asyncstreams") < 0.3
