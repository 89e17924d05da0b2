"""Verdicts: runs that are limited by one thing in turn, and by two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
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

    assert verdict(report) == (
        "The run was limited by max_concurrency: raise max_concurrency of the stream or the Source."
    )


async def test_slow_consumer_is_named(virtual_clock):
    report = await Source([Orders(transport=Api(0.1), clock=virtual_clock)]).extract(to=SlowSink())

    assert verdict(report).startswith(f"The run was limited by {Ceiling.CONSUMER}")


async def test_cpu_is_named(tmp_path):
    class Busy(Orders):
        def parse_response(self, response: Any, context: RequestContext) -> Any:
            until = time.process_time() + 0.03
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


def stream(name: str, seconds: float, max_rate: float | None = None, **ceilings: float) -> StreamRecord:
    named = {Ceiling[ceiling].value: value for ceiling, value in ceilings.items()}
    return StreamRecord(name, "complete", ended_s=seconds, ceilings=named, max_rate=max_rate)


def judge(*streams: StreamRecord, seconds: float = 100) -> str:
    record = RunRecord("r", "Shop", "d", "", "complete", seconds=seconds, streams=streams)
    return with_verdict(record).verdict


@pytest.mark.parametrize("ceiling", Ceiling)
def test_single_ceiling_is_named_with_advice(ceiling):
    text = judge(stream("orders", 100, **{ceiling.name: 90}))

    assert text.startswith(f"The run was limited by {ceiling.value}: ")
    assert text.endswith(".")


@pytest.mark.parametrize("first", Ceiling)
@pytest.mark.parametrize("second", Ceiling)
def test_two_ceilings_that_bind_at_once_are_both_named(first, second):
    text = judge(stream("orders", 100, **{first.name: 90, second.name: 80}))

    assert first.value in text
    assert second.value in text


def test_third_ceiling_is_left_out():
    text = judge(stream("orders", 100, CPU=70, DECLARED_LIMIT=90, LATENCY=80))

    assert text.startswith(f"The run was limited by {Ceiling.DECLARED_LIMIT} and {Ceiling.LATENCY}: raise rate_limit")
    assert Ceiling.CPU.value not in text


@pytest.mark.parametrize(("seconds", "is_named"), [(53, False), (54, True)])
def test_second_ceiling_binds_nearly_as_long_as_the_first(seconds, is_named):
    assert (Ceiling.DISK.value in judge(stream("orders", 100, CPU=90, DISK=seconds))) is is_named


@pytest.mark.parametrize(("seconds", "is_named"), [(24, False), (25, True)])
def test_ceiling_binds_for_a_quarter_of_the_time(seconds, is_named):
    text = judge(stream("orders", 100, CPU=seconds))

    assert ("limited by the CPU of this process (25 % of the time): " in text) is is_named
    assert (text == "Nothing in particular limited the run.") is not is_named


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (20, "20 requests a second"),
        (1, "1 request a second"),
        (2.3456, "2.35 requests a second"),
        (1_234.5, "1,234 requests a second"),
        (0.5, "30 requests a minute"),
        (1 / 60, "1 request a minute"),
        (5_000 / 86_400, "3.47 requests a minute"),
        (10 / 3_600, "10 requests an hour"),
    ],
)
def test_limit_is_named_with_its_rate(rate, text):
    assert f"{Ceiling.DECLARED_LIMIT} ({text}): " in judge(stream("orders", 100, rate, DECLARED_LIMIT=100))


def test_rate_does_not_explain_other_ceilings():
    assert judge(stream("orders", 100, 20, CPU=100)).startswith("The run was limited by the CPU of this process: ")


def test_streams_with_one_ceiling_are_the_run():
    text = judge(stream("orders", 100, 20, DECLARED_LIMIT=90), stream("issues", 90, 5, DECLARED_LIMIT=90))

    assert text.startswith("The run was limited by the declared rate_limit: ")


def test_streams_with_two_ceilings_are_named():
    text = judge(stream("orders", 100, 20, DECLARED_LIMIT=90), stream("issues", 90, 5, CONCURRENCY=60))

    assert text.startswith(
        "The run was limited by the declared rate_limit (in orders, 20 requests a second) "
        "and max_concurrency (in issues, 67 % of the time): "
    )


def test_short_stream_does_not_matter_beside_long_ones():
    many = [stream(f"s{number}", 100, LATENCY=90) for number in range(5)]

    text = judge(*many, stream("orders", 10, 20, DECLARED_LIMIT=10))

    assert text.startswith("s0, s1, s2 and 2 more were limited by the latency of the server: ")


def test_many_short_streams_do_not_decide_the_time():
    many = [stream(f"s{number}", 50, 20, DECLARED_LIMIT=50) for number in range(5)]

    assert judge(stream("orders", 100, LATENCY=90), *many).startswith(
        "orders was limited by the latency of the server: "
    )


def test_stream_that_waits_for_its_parents_names_their_ceiling():
    text = judge(stream("issues", 100), stream("projects", 60, LATENCY=60))

    assert text.startswith("The run was limited by the latency of the server: ")


def test_ceiling_of_a_newer_version_is_named():
    text = judge(StreamRecord("orders", "complete", ended_s=100, ceilings={"the weather": 100}))

    assert text == "The run was limited by the weather."


def test_short_run_has_no_verdict():
    text = judge(stream("orders", 0.4, CPU=0.4), seconds=0.4)

    assert text == "The run took 0.4 s: too short to say what limited it."


def test_long_run_without_a_ceiling_says_so():
    assert judge(stream("orders", 100)) == "Nothing in particular limited the run."


def test_run_that_read_no_stream_says_so():
    assert judge() == "No stream was read."
    assert judge(stream("orders", 0)) == "No stream was read."
