"""Does an extraction that is told to end keep what it has, and end with the code that everybody expects?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest
from crash_harness import lines_of

from asyncstreams.extraction.signals import cancel_on_sigterm
from asyncstreams.testing import MockApi, Resource

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="signals are posix's"), pytest.mark.alone]

PROGRAM = """
    import asyncio, signal, sys, time
    import asyncstreams.extraction.extraction as extraction
    from asyncstreams import HttpStream, JsonLines, PageNumber
    from asyncstreams.storage.filesystem import FileSystem

    class Hanging(FileSystem):
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
        print("begun", flush=True)
        try:
            await stream.extract(to=JsonLines(sys.argv[2], fs=Hanging() if "hang" in sys.argv else FileSystem()))
        finally:
            print("left", flush=True)

    if "hang" in sys.argv:
        extraction._SHUTDOWN_GRACE_S = 2.0  # it is ten seconds, and one waits for no more than all of them
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    asyncio.run(main())
"""


def ids(out: Path) -> list[int]:
    return [row["id"] for path in out.glob("customers/part-*") for row in lines_of(path)]


def begun(api: MockApi, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """An extraction in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), api.url, str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def hanging(api: MockApi, out: Path) -> subprocess.Popen[str]:
    """One whose disk has just stopped to answer."""
    process = begun(api, out, "hang")
    assert process.stdout is not None
    while process.stdout.readline() != "hangs\n":
        assert process.poll() is None
    return process


def wait_for_files(process: subprocess.Popen[str], out: Path) -> None:
    while not ids(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signalled_process_commits_and_next_run_resumes(
    number: signal.Signals, code: int, tmp_path: Path
):
    out = tmp_path / "out"
    with MockApi(Resource("customers", 400, page_size=10), latency=0.1, process=True) as api:
        process = begun(api, out)
        wait_for_files(process, out)
        before = api.counts.requests
        process.send_signal(number)
        told = time.monotonic()
        printed, error = process.communicate(timeout=15)
        took = time.monotonic() - told
        kept, asked = ids(out), api.counts.requests

        again = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), api.url, str(out)], check=True)

        assert again.returncode == 0
        assert Counter(ids(out)) == Counter(api.ids("customers"))
        assert api.counts.requests - asked == 40 - len(kept) // 10
    # A shell sees 130 for a process that died of SIGINT.
    assert process.returncode in (code, -number)
    assert process.returncode == code or number is signal.SIGINT
    assert printed.splitlines()[-1] == "left"
    assert took < 10
    assert len(kept) // 10 >= before - 4  # all slices that had ended: but for those on the wire, and the last of all
    assert (error == "") or number is signal.SIGINT


def test_second_sigterm_ends_process_at_once(tmp_path: Path):
    with MockApi(Resource("customers", 400, page_size=10), process=True) as api:
        process = hanging(api, tmp_path / "out")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        is_waiting = process.poll() is None
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=5)
        process.communicate()

    assert is_waiting
    assert code == -signal.SIGTERM


def test_stuck_disk_does_not_keep_process_alive(tmp_path: Path):
    with MockApi(Resource("customers", 400, page_size=10), process=True) as api:
        process = hanging(api, tmp_path / "out")
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        _, error = process.communicate(timeout=25)
        took = time.monotonic() - told

    assert process.returncode == 143
    assert 1.5 < took < 3.8
    assert error == ""


async def test_existing_sigterm_handler_is_kept():
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with cancel_on_sigterm(anyio.CancelScope()):
            assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
