"""Verdicts: runs that are limited by one thing in turn, and by two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from asyncstreams import (
    Ceiling,
    Cursor,
    HttpStream,
    JsonLines,
    Page,
    RateLimit,
    RequestContext,
    RunReport,
    Source,
)
from asyncstreams.event_log.run_record import RunRecord, StreamRecord
from asyncstreams.event_log.verdict import with_verdict
from asyncstreams.storage.filesystem import FileSystem


class Api(httpx.MockTransport):
    """Responds after `latency` seconds to 40 slices of one page; `quota` requests are allowed in 10 seconds."""

    def __init__(self, latency: float = 0.0, quota: int | None = None, text: str = "") -> None:
        self.quota, self.used, self.window = quota, 0, 0.0
        body = {"data": [{"id": n, "text": text} for n in range(10)]}

        async def answer(request: httpx.Request) -> httpx.Response:
            now = asyncio.get_running_loop().time()
            if now >= self.window + 10:
                self.used, self.window = 0, now
            self.used += 1
            await asyncio.sleep(latency)
            headers = {}
            if self.quota is not None:
                reset = self.window + 10 - asyncio.get_running_loop().time()
                headers = {"RateLimit": f"limit={quota}, remaining={max(0, quota - self.used)}, reset={reset:.0f}"}
            return httpx.Response(200, json=body, headers=headers)

        super().__init__(answer)


class Orders(HttpStream):
    """40 slices of one page."""

    url_base = "https://api.test/"
    records_path = "data"
    single_page = True

    def path(self, context: RequestContext) -> str:
        return "orders"

    def stream_slices(self, stream_state: Mapping[str, Any]) -> Any:
        return [{"shop": number} for number in range(40)]


class SlowSink:
    """Takes two seconds for a page."""

    async def write(self, page: Page, batch_id: str) -> None:
        await asyncio.sleep(2)


def verdict(report: RunReport) -> str:
    assert report.record is not None
    return report.record.verdict


async def test_declared_rate_is_named(virtual_clock, tmp_path):
    stream = Orders(transport=Api(0.1), rate_limit=RateLimit(2, per=1), clock=virtual_clock)

    report = await Source([stream]).extract(to=JsonLines(tmp_path / "out"))

    assert verdict(report) == (
        "The run was limited by the declared rate_limit (2 requests a second): raise rate_limit if the API allows more."
    )


async def test_reported_quota_is_named(virtual_clock, tmp_path):
    stream = Orders(transport=Api(0.1, quota=10), clock=virtual_clock)

    report = await Source([stream]).extract(to=JsonLines(tmp_path / "out"))

    assert verdict(report).startswith(f"The run was limited by {Ceiling.REPORTED_QUOTA}")


async def test_latency_is_named(virtual_clock, tmp_path):
    class Events(Orders):
        """Pages that follow one another by a token."""

        single_page = False
        paginator = Cursor(lambda response: "more" if response.context.next_page_token is None else None)

        def stream_slices(self, stream_state: Mapping[str, Any]) -> Any:
            return [{"shop": 1}]

    report = await Source([Events(transport=Api(3), clock=virtual_clock)]).extract(to=JsonLines(tmp_path / "out"))

    assert verdict(report).startswith(f"The run was limited by {Ceiling.LATENCY}")


async def test_concurrency_is_named(virtual_clock, tmp_path):
    stream = Orders(transport=Api(3), max_concurrency=2, clock=virtual_clock)

    report = await Source([stream]).extract(to=JsonLines(tmp_path / "out"))

    assert verdict(report) == "The run was limited by max_concurrency: raise max_concurrency."


async def test_slow_consumer_is_named(virtual_clock):
    report = await Source([Orders(transport=Api(0.1), clock=virtual_clock)]).extract(to=SlowSink())

    assert verdict(report).startswith(f"The run was limited by {Ceiling.CONSUMER}")


async def test_cpu_is_named(tmp_path):
    class Busy(Orders):
        def parse_response(self, response: Any, context: RequestContext) -> Any:
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
            return response.json()["data"]

    report = await Source([Busy(transport=Api())]).extract(to=JsonLines(tmp_path / "out"))

    assert Ceiling.CPU.value in verdict(report)


async def test_slow_disk_is_named(tmp_path):
    class SlowDisk(FileSystem):
        def write(self, file: int, data: bytes | memoryview) -> int:
            time.sleep(len(data) / 40e6)
            return super().write(file, data)

    report = await Source([Orders(transport=Api(text="x" * 200_000))]).extract(
        to=JsonLines(tmp_path / "out", fs=SlowDisk(), fsync="none")
    )

    assert verdict(report).startswith(f"The run was limited by {Ceiling.DISK}")


async def test_stream_that_takes_longest_is_named(virtual_clock, tmp_path):
    class Slow(Orders):
        pass

    limited = Orders(transport=Api(0.1), rate_limit=RateLimit(2, per=1), clock=virtual_clock)
    slow = Slow(transport=Api(50), max_concurrency=2, clock=virtual_clock)

    report = await Source([limited, slow]).extract(to=JsonLines(tmp_path / "out"))

    assert verdict(report).startswith(f"slow was limited by {Ceiling.CONCURRENCY}")


def record(seconds: float, **ceilings: float) -> RunRecord:
    named = {Ceiling[name].value: value for name, value in ceilings.items()}
    stream = StreamRecord("orders", "complete", ended_s=seconds, ceilings=named)
    return RunRecord("r", "Shop", "d", "", "complete", seconds=seconds, ceilings=named, streams=(stream,))


@pytest.mark.parametrize("first", Ceiling)
@pytest.mark.parametrize("second", Ceiling)
def test_two_ceilings_that_bind_at_once_are_both_named(first, second):
    text = with_verdict(record(100, **{first.name: 90, second.name: 80})).verdict

    assert first.value in text
    assert second.value in text


def test_second_ceiling_that_binds_rarely_is_left_out():
    text = with_verdict(record(100, CPU=90, DISK=30)).verdict

    assert Ceiling.DISK.value not in text


def test_short_run_has_no_verdict():
    assert with_verdict(record(0.4, CPU=0.4)).verdict == "The run took 0.4 s: too short to say what limited it."


def test_run_without_a_ceiling_says_so():
    assert with_verdict(record(100, CPU=10)).verdict == "Nothing in particular limited the run."


def test_record_without_streams_has_a_verdict():
    assert "too short" in with_verdict(replace(record(100), streams=())).verdict
