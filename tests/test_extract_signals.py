"""Tests of signals: an extraction commits what it holds, and the process exits with the usual status."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from crash_harness import lines_of

from asyncstreams.extraction.signals import cancel_on_signals, exit_on_signals
from asyncstreams.testing import MockApi, Resource

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent on POSIX only")

PROGRAM = """
    import asyncio, signal, sys, time
    import asyncstreams.extraction.extraction as extraction
    from asyncstreams import HttpStream, JsonLines, PageNumber
    from asyncstreams.storage.filesystem import FileSystem

    class HangingFileSystem(FileSystem):
        def sync(self, file):
            print("hangs", flush=True)
            time.sleep(60)

    class Pages(HttpStream):
        records_path = "data"
        paginator = PageNumber()
        def path(self, context):
            return "customers"
        def request_params(self, context):
            return {"page": context.stream_slice["page"]}
        def next_page_token(self, response, context):
            return None
        def stream_slices(self, state):
            return [{"page": number} for number in range(1, 41)]

    class Source(Pages):
        name = "customers"
        max_concurrency = 2

    async def main():
        stream = Source()
        stream.url_base = sys.argv[1]
        print("started", flush=True)
        fs = HangingFileSystem() if "hang" in sys.argv else FileSystem()
        try:
            await stream.extract(to=JsonLines(sys.argv[2], fs=fs))
        finally:
            print("left", flush=True)

    if "hang" in sys.argv:
        extraction._SHUTDOWN_GRACE_S = 2.0  # 10 s by default; a shorter one keeps the test fast
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
    asyncio.run(main())
"""


@pytest.fixture(scope="session")
def api() -> Iterator[MockApi]:
    """One server process for all tests: 40 pages, 0.1 s each."""
    with MockApi(Resource("customers", 400, page_size=10), latency=0.1, process=True) as api:
        yield api


def ids(out: Path) -> list[int]:
    return [row["id"] for path in out.glob("customers/part-*") for row in lines_of(path)]


def start_extraction(api: MockApi, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start an extraction in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), api.url, str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_hanging_extraction(api: MockApi, out: Path) -> subprocess.Popen[str]:
    """Start an extraction, and wait until its disk hangs."""
    process = start_extraction(api, out, "hang")
    assert process.stdout is not None
    while process.stdout.readline() != "hangs\n":
        assert process.poll() is None
    return process


def wait_for_files(process: subprocess.Popen[str], out: Path) -> None:
    while not ids(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signalled_process_commits_and_next_run_resumes(
    signal_number: signal.Signals, api: MockApi, status: int, tmp_path: Path
):
    out = tmp_path / "out"
    at_start = api.counts.requests
    process = start_extraction(api, out)
    wait_for_files(process, out)
    before = api.counts.requests - at_start
    process.send_signal(signal_number)
    signalled_at = time.monotonic()
    printed, error = process.communicate(timeout=15)
    took = time.monotonic() - signalled_at
    kept, requests = ids(out), api.counts.requests

    second = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), api.url, str(out)], check=True)

    assert second.returncode == 0
    assert Counter(ids(out)) == Counter(api.ids("customers"))
    assert api.counts.requests - requests == 40 - len(kept) // 10
    # A shell sees 130 for a process that died of SIGINT.
    assert process.returncode in (status, -signal_number)
    assert process.returncode == status or signal_number is signal.SIGINT
    assert printed.splitlines()[-1] == "left"
    assert took < 10
    assert len(kept) // 10 >= before - 4  # every slice that had ended, except those in flight
    assert (error == "") or signal_number is signal.SIGINT


def test_second_sigterm_ends_process_at_once(api: MockApi, tmp_path: Path):
    process = start_hanging_extraction(api, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    is_waiting = process.poll() is None
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=5)
    process.communicate()

    assert is_waiting
    assert code == -signal.SIGTERM


def test_stuck_disk_does_not_keep_process_alive(api: MockApi, tmp_path: Path):
    process = start_hanging_extraction(api, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    signalled_at = time.monotonic()
    _, error = process.communicate(timeout=25)
    took = time.monotonic() - signalled_at

    assert process.returncode == 143
    assert 1.5 < took < 3.8
    assert error == ""


class Work:
    """An extraction without I/O: it runs until it is cancelled, and then takes a while to clean up."""

    def __init__(self, duration: float = 60) -> None:
        self.duration = duration
        self.started, self.cleaned_up = threading.Event(), threading.Event()

    async def __call__(self) -> str:
        self.started.set()
        try:
            await asyncio.sleep(self.duration)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.02)
            self.cleaned_up.set()
            raise
        return "done"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test leaves the handlers as they were."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_sigterm_after_first_extraction_has_ended_is_orderly():
    short, long = Work(0), Work()

    async def main() -> None:
        extractions = asyncio.gather(exit_on_signals(short), exit_on_signals(long))
        await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        await extractions

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())

    assert caught.value.code == 143
    assert long.cleaned_up.is_set()


def test_sigterm_ends_process_when_all_extractions_cleaned_up():
    works = [Work() for _ in range(3)]

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(exit_on_signals(work))
                await asyncio.sleep(0.01)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert all(work.cleaned_up.is_set() for work in works)


def test_sigterm_after_failed_extraction_is_orderly():
    work = Work()

    async def fail() -> None:
        raise ValueError("no disk")

    async def main() -> None:
        with suppress(ValueError):
            await exit_on_signals(fail)
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGTERM)
        await exit_on_signals(work)

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert work.cleaned_up.is_set()


def test_sigterm_ends_extraction_in_thread_in_order():
    in_thread = Work()

    async def wait_for_thread() -> None:
        await asyncio.to_thread(in_thread.started.wait)

    async def main() -> None:
        main_extraction = asyncio.create_task(exit_on_signals(wait_for_thread))
        await asyncio.sleep(0)
        thread = asyncio.create_task(asyncio.to_thread(asyncio.run, exit_on_signals(in_thread)))
        await main_extraction
        signal.raise_signal(signal.SIGTERM)
        await thread

    with pytest.raises(SystemExit):
        asyncio.run(main())

    assert in_thread.cleaned_up.is_set()


def test_signal_of_failing_extraction_ends_program():
    async def fail() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("no disk")

    with pytest.raises(SystemExit):
        asyncio.run(exit_on_signals(fail))


def test_ctrl_c_outside_asyncio_run_is_orderly():
    work = Work()
    loop = asyncio.new_event_loop()
    loop.call_later(0.01, signal.raise_signal, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(exit_on_signals(work))
    loop.close()

    assert work.cleaned_up.is_set()


def test_ctrl_c_ends_all_extractions_in_order():
    works = [Work(), Work()]

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await asyncio.gather(*map(exit_on_signals, works))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    assert all(work.cleaned_up.is_set() for work in works)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_handler_of_program_is_kept(number: signal.Signals):
    def handler(*_: object) -> None: ...

    before = signal.signal(number, handler)
    try:
        with cancel_on_signals(anyio.CancelScope()):
            assert signal.getsignal(number) is handler
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
