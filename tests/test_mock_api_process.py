"""MockApi in a separate process: start, output of user code, interrupts and end."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncstreams import ConfigError
from asyncstreams.testing import Counts, MockApi, Resource


def printing_record(n: int, random: random.Random) -> dict[str, Any]:
    print("a line that has no reader " * 100)
    return {"id": n}


def is_unreachable(url: str, timeout: float = 10) -> bool:
    """Whether the server stops answering within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.TransportError:
            return True
    return False


def test_process_ends_with_its_block_and_can_start_again() -> None:
    api = MockApi(Resource("users", 5), process=True)

    for _ in range(2):
        with api:
            assert len(httpx.get(api.url + "users").json()["data"]) == 5
            url = api.url
        assert api.counts.requests == 1
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        with pytest.raises(ConfigError, match="not running"):
            _ = api.url
    with pytest.raises(ConfigError, match="no separate process"):
        _ = api.pid


def test_process_ends_when_its_parent_is_killed() -> None:
    parent = """
import os, time
from asyncstreams.testing import MockApi, Resource
api = MockApi(Resource("users", 5), process=True).__enter__()
print(api.url, flush=True)
os.kill(os.getpid(), 9)
"""

    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False)

    assert is_unreachable(done.stdout.strip())


def test_uvloop_serves_the_same_data() -> None:
    pytest.importorskip("uvloop")

    with MockApi(Resource("users", 250), Resource("log", 5_000, format="ndjson"), process=True, uvloop=True) as api:
        page = httpx.get(api.url + "users", params={"page": 3})
        lines = httpx.get(api.url + "log")

    assert [record["id"] for record in page.json()["data"]] == list(range(201, 251))
    assert len(lines.text.splitlines()) == 5_000


def test_record_function_may_print() -> None:
    with MockApi(Resource("users", 100, record=printing_record), process=True) as api:
        records = httpx.get(api.url + "users").json()["data"]

    assert len(records) == 100


def test_module_that_prints_does_not_break_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "printing.py").write_text("print('hello')\ndef record(n, random): return {'id': n}\n")
    monkeypatch.syspath_prepend(tmp_path)
    record = importlib.import_module("printing").record

    with MockApi(Resource("users", 5, record=record), process=True) as api:
        assert len(httpx.get(api.url + "users").json()["data"]) == 5


async def test_cancelled_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_pipe = tmp_path / "pid"
    os.mkfifo(pid_pipe)
    slow = f"""
import os, sys, time
if os.getpid() != {os.getpid()}:
    with open({str(pid_pipe)!r}, "w") as pipe:
        pipe.write(str(os.getpid()))
    time.sleep(20)
def record(n, random): return {{"id": n}}
"""
    (tmp_path / "slow_to_import.py").write_text(slow)
    monkeypatch.syspath_prepend(tmp_path)
    record = importlib.import_module("slow_to_import").record

    starting = asyncio.create_task(MockApi(Resource("users", record=record), process=True).__aenter__())
    child = int(await asyncio.to_thread(pid_pipe.read_text))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


INTERRUPTED_PROCESS = """
import os, sys
from asyncstreams.testing import MockApi, Resource
os.environ.setdefault("STARTED_BY", str(os.getpid()))
import interrupting
try:
    MockApi(Resource("users", record=interrupting.record), process=True).__enter__()
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("nothing is left")
"""
INTERRUPTING = """
import os, signal, time
if os.environ["STARTED_BY"] != str(os.getpid()):
    os.kill(int(os.environ["STARTED_BY"]), signal.SIGINT)
    time.sleep(20)
def record(n, random): return {"id": n}
"""
INTERRUPTED_THREAD = """
import signal, threading
from asyncstreams.clock import SystemClock
from asyncstreams.testing import MockApi

interrupted = threading.Event()

def interrupt(number, frame):
    interrupted.set()
    raise KeyboardInterrupt

class InterruptingClock(SystemClock):
    def monotonic(self):
        if not interrupted.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            interrupted.wait()
        return super().monotonic()

signal.signal(signal.SIGINT, interrupt)
try:
    MockApi(clock=InterruptingClock()).__enter__()
except KeyboardInterrupt:
    if threading.active_count() == 1:
        print("nothing is left")
"""


@pytest.mark.parametrize("script", [INTERRUPTED_PROCESS, INTERRUPTED_THREAD], ids=["process", "thread"])
def test_interrupted_start_leaves_no_process_or_thread(script: str, tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout == "nothing is left\n"


def test_lambdas_and_changes_are_rejected_in_a_process() -> None:
    with pytest.raises(ConfigError, match="not lambdas"):
        MockApi(Resource("users", record=lambda n, random: {"id": n}), process=True).__enter__()
    with (
        MockApi(Resource("users"), process=True) as api,
        pytest.raises(ConfigError, match="settings cannot change while it runs in a separate process"),
    ):
        api.add(Resource("items"))


def test_block_can_be_left_after_the_process_was_killed() -> None:
    with MockApi(Resource("users", 5), process=True) as api:
        os.kill(api.pid, signal.SIGKILL)
        assert is_unreachable(api.url)

    assert api.counts == Counts()
