"""Ctrl-C in every phase of a run: quick, quiet, and with the cleanup of the user."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from asyncstreams.testing import Fault, MockApi, Quota, Resource

READER = """
import asyncio
import logging
import sys
import time
from contextlib import asynccontextmanager

from asyncstreams import Backoff, HttpStream, PageNumber, RetryScheduled, Source, WaitStarted, ndjson

url, phase, loop = sys.argv[1:]
logging.getLogger("asyncstreams").setLevel(logging.ERROR)  # hides the expected warnings of long waits
announced = []


def announce():
    if not announced:
        announced.append(True)
        print("started", flush=True)


class Items(HttpStream):
    url_base = url
    name = phase
    records_path = "data"
    paginator = PageNumber(size=10, total_items="meta.total")
    backoff = Backoff(base=60, cap=60)

    def stream_slices(self, state):
        return [{"at": n} for n in range(10)]

    def path(self, context):
        return phase

    def backoff_time(self, response):
        return 60.0 if response.status_code == 503 else None


class Parsing(Items):
    seen = 0

    def parse_response(self, response, context):
        self.seen += 1
        if self.seen == 5:
            announce()
            time.sleep(0.5)  # a computation, which the event loop cannot interrupt
        return response.json()["data"]


class Streaming(Items):
    paginator = None

    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


@asynccontextmanager
async def user_cleanup():
    try:
        yield
    finally:
        await asyncio.sleep(0.01)
        print("cleanup", flush=True)


def on_event(event):
    if isinstance(event, RetryScheduled | WaitStarted):
        asyncio.get_running_loop().call_later(0.05, announce)


async def main():
    running = asyncio.get_running_loop()
    running.slow_callback_duration = 60
    stream = {"parsing": Parsing, "lines": Streaming}.get(phase, Items)()
    source = Source([stream])
    source.subscribe(on_event)
    if phase in ("first_byte", "body", "lines", "slow"):
        running.call_later(0.4, announce)
    try:
        async with user_cleanup(), source, source.pages() as pages:
            async for page in pages:
                if phase == "consumer":
                    running.call_later(0.2, announce)
                    await asyncio.sleep(60)
    finally:
        print("finally", flush=True)


factory = None
if loop == "uvloop":
    import uvloop

    factory = uvloop.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""

PHASES = {
    "first_byte": [Fault.hang(resource="first_byte", share=1)],
    "body": [Fault.drip(1.0, resource="body", share=1)],
    "lines": [Fault.drip(1.0, resource="lines", share=1)],
    "backoff": [Fault.status(503, resource="backoff", share=1)],
    "pause": [],
    "consumer": [],
    "slow": [],
    "parsing": [],
}
LOOPS = ["asyncio", "uvloop"]


@dataclass(frozen=True)
class ReaderExit:
    """The exit of an interrupted reader; `seconds` is the time from the signal to the exit."""

    status: int
    seconds: float
    out: str
    err: str


def run_and_interrupt(url: str, phase: str, loop: str) -> ReaderExit:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", READER, url, phase, loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(30, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline()
            sent_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            return ReaderExit(process.returncode, time.monotonic() - sent_at, first_line + out, err)
        finally:
            killer.cancel()


@pytest.fixture(scope="module")
def reader_exits() -> Iterator[dict[tuple[str, str], Future[ReaderExit]]]:
    """All readers, three at a time: most of their time is the start of the interpreter."""
    loops = [loop for loop in LOOPS if loop == "asyncio" or importlib.util.find_spec(loop)]
    resources = [
        Resource(
            name,
            1000,
            total=True,
            format="ndjson" if name == "lines" else "json",
            paging="none" if name == "lines" else "page",
            quota=Quota(3, per=60, headers="retry-after") if name == "pause" else None,
            latency=0.3 if name == "slow" else None,
        )
        for name in PHASES
    ]
    faults = [fault for faults in PHASES.values() for fault in faults]
    with MockApi(*resources, faults=faults) as api, ThreadPoolExecutor(3) as executor:
        yield {
            (phase, loop): executor.submit(run_and_interrupt, api.url, phase, loop)
            for phase in PHASES
            for loop in loops
        }


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_ends_a_run_quickly_and_quietly(reader_exits, phase, loop):
    if (phase, loop) not in reader_exits:
        pytest.skip(f"{loop} is not installed")

    exit_ = reader_exits[phase, loop].result(timeout=60)

    assert exit_.out.split() == ["started", "cleanup", "finally"], exit_.err
    assert exit_.status == -signal.SIGINT
    assert exit_.seconds < 2
    assert_only_the_interrupt_is_printed(exit_.err)


def assert_only_the_interrupt_is_printed(err: str) -> None:
    """Tracebacks of the interrupt and of its cancellation are fine; warnings, logs and other errors are not."""
    lines = err.splitlines()
    expected = re.compile(
        r"\s.*|Traceback \(most recent call last\):|KeyboardInterrupt|asyncio\.exceptions\.CancelledError.*|"
        r"During handling of the above exception, another exception occurred:|"
    )
    assert [line for line in lines if not expected.fullmatch(line)] == []
    assert lines[-1] == "KeyboardInterrupt"
    assert [line for line in lines if "Warning" in line or "destroyed" in line or "never retrieved" in line] == []
