"""Does Ctrl-C end a process at once and quietly, wherever its reading is, and is the user's own cleaning up done?"""

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

pytestmark = pytest.mark.alone

READER = """
import asyncio
import logging
import sys
import time
from contextlib import asynccontextmanager

from asyncstreams import Backoff, HttpStream, PageNumber, RetryScheduled, Source, WaitStarted, ndjson

url, place, loop = sys.argv[1:]
logging.getLogger("asyncstreams").setLevel(logging.ERROR)  # long waits are warned of, as they should be
said = []


def begun():
    if not said:
        said.append(True)
        print("begun", flush=True)


class Items(HttpStream):
    url_base = url
    name = place
    records_path = "data"
    paginator = PageNumber(size=10, total_items="meta.total")
    backoff = Backoff(base=60, cap=60)

    def stream_slices(self, state):
        return [{"at": n} for n in range(10)]

    def path(self, context):
        return place

    def backoff_time(self, response):
        return 60.0 if response.status_code == 503 else None


class Parsing(Items):
    seen = 0

    def parse_response(self, response, context):
        self.seen += 1
        if self.seen == 5:
            begun()
            time.sleep(0.5)  # a computation, which no loop can interrupt
        return response.json()["data"]


class Streaming(Items):
    paginator = None

    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


@asynccontextmanager
async def of_the_user():
    try:
        yield
    finally:
        await asyncio.sleep(0.01)
        print("left", flush=True)


def told(event):
    if isinstance(event, RetryScheduled | WaitStarted):
        asyncio.get_running_loop().call_later(0.05, begun)


async def main():
    running = asyncio.get_running_loop()
    running.slow_callback_duration = 60
    stream = {"parsing": Parsing, "lines": Streaming}.get(place, Items)()
    source = Source([stream])
    source.subscribe(told)
    if place in ("first_byte", "body", "lines", "slow"):
        running.call_later(0.4, begun)
    try:
        async with of_the_user(), source, source.pages() as pages:
            async for page in pages:
                if place == "consumer":
                    running.call_later(0.2, begun)
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

PLACES = {
    "first_byte": [Fault.hang(resource="first_byte", share=1)],
    "body": [Fault.drip(1.0, resource="body", share=1)],
    "lines": [Fault.drip(1.0, resource="lines", share=1)],
    "backoff": [Fault.status(503, resource="backoff", share=1)],
    "gate": [],
    "consumer": [],
    "slow": [],
    "parsing": [],
}
LOOPS = ["asyncio", "uvloop"]


@dataclass(frozen=True)
class Ended:
    """How a reader went that was interrupted: `seconds` from the signal to its end."""

    status: int
    seconds: float
    out: str
    err: str


def interrupted(url: str, place: str, loop: str) -> Ended:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", READER, url, place, loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up = threading.Timer(30, process.kill)
        give_up.start()
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            at = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            return Ended(process.returncode, time.monotonic() - at, first + out, err)
        finally:
            give_up.cancel()


@pytest.fixture(scope="module")
def endings() -> Iterator[dict[tuple[str, str], Future[Ended]]]:
    """All readers, a few at a time: most of each one's time is the interpreter's own start."""
    loops = [loop for loop in LOOPS if loop == "asyncio" or importlib.util.find_spec(loop)]
    resources = [
        Resource(
            name,
            1000,
            total=True,
            format="ndjson" if name == "lines" else "json",
            paging="none" if name == "lines" else "page",
            quota=Quota(3, per=60, headers="retry-after") if name == "gate" else None,
            latency=0.3 if name == "slow" else None,
        )
        for name in PLACES
    ]
    faults = [fault for faults in PLACES.values() for fault in faults]
    with MockApi(*resources, faults=faults) as api, ThreadPoolExecutor(3) as some:
        yield {(place, loop): some.submit(interrupted, api.url, place, loop) for place in PLACES for loop in loops}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_ends_a_run_quickly_and_quietly(endings, place, loop):
    if (place, loop) not in endings:
        pytest.skip(f"{loop} is not installed")

    ended = endings[place, loop].result(timeout=60)

    assert ended.out.split() == ["begun", "left", "finally"], ended.err
    assert ended.status == -signal.SIGINT
    assert ended.seconds < 2
    assert_only_the_interrupt_is_told(ended.err)


def assert_only_the_interrupt_is_told(err: str) -> None:
    """Tracebacks of the interrupt, and of the cancellation that it is made from; no warning, no log, no other error."""
    lines = err.splitlines()
    expected = re.compile(
        r"\s.*|Traceback \(most recent call last\):|KeyboardInterrupt|asyncio\.exceptions\.CancelledError.*|"
        r"During handling of the above exception, another exception occurred:|"
    )
    assert [line for line in lines if not expected.fullmatch(line)] == []
    assert lines[-1] == "KeyboardInterrupt"
    assert [line for line in lines if "Warning" in line or "destroyed" in line or "never retrieved" in line] == []
