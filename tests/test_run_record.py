"""Records of runs: what they contain, where they are stored, and that they stay small."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import (
    DuckDB,
    HttpStream,
    JsonLines,
    PageNumber,
    Parquet,
    PartialFailure,
    RequestContext,
    RunRecord,
    Secret,
    Source,
    SQLite,
    StateCorrupt,
    TokenAuthenticator,
)
from asyncstreams.destinations.writer_protocol import MAX_RUNS_KEPT, StoredRun
from asyncstreams.event_log.latency_histogram import LatencyHistogram
from asyncstreams.event_log.series_builder import SeriesBuilder
from asyncstreams.event_log.slice_sample import SliceSample, SliceTally
from asyncstreams.models import Slice

DESTINATIONS = {"jsonl": JsonLines, "parquet": Parquet, "sqlite": SQLite, "duckdb": DuckDB}


@pytest.fixture(params=DESTINATIONS)
def destination(request, tmp_path):
    return DESTINATIONS[request.param](tmp_path / f"out.{request.param}")


class Orders(HttpStream):
    """Ten orders for each shop, on two pages."""

    url_base = "https://api.test/private-path-token/"
    paginator = PageNumber(size=5, stop_on_short_page=True)
    parallel_pages = False

    def path(self, context: RequestContext) -> str:
        return f"shops/{context.stream_slice['shop']}"

    def stream_slices(self, stream_state: Mapping[str, Any]) -> Any:
        return [{"shop": number} for number in range(4)]


class Api:
    """Responds with 10 orders of a shop. `broken` shops answer 500, and `flaky` ones once."""

    def __init__(self, broken: tuple[int, ...] = (), flaky: tuple[int, ...] = ()) -> None:
        self.broken, self.flaky = broken, [*flaky]

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        shop, page = int(request.url.path.rsplit("/", 1)[1]), int(request.url.params["page"])
        if shop in self.flaky:
            self.flaky.remove(shop)
            return httpx.Response(503)
        if shop in self.broken:
            return httpx.Response(400, json={"message": "the shop is closed"})
        first = (page - 1) * 5
        return httpx.Response(200, json=[{"id": shop * 100 + first + n} for n in range(5 if page < 3 else 0)])


def orders(api: Api | None = None, **options: Any) -> Source:
    return Source([Orders(transport=httpx.MockTransport(api or Api()))], **options)


async def test_report_has_the_record_that_is_stored(destination):
    report = await orders().extract(to=destination)

    assert await destination.runs() == (report.record,)
    assert report.record.outcome == "complete"
    assert report.record.destination == f"{type(destination).__name__} {destination.path}"


async def test_record_has_the_figures_of_the_report(tmp_path):
    report = await orders().extract(to=JsonLines(tmp_path / "out"))

    (stream,) = report.record.streams
    assert (stream.name, stream.outcome) == ("orders", "complete")
    assert (stream.slices, stream.records, stream.rows, stream.pages, stream.requests) == (4, 40, 40, 12, 12)
    assert sum(report.record.series.records) == 40
    assert sum(report.record.series.requests) == sum(report.record.series.statuses["200"]) == 12
    assert {slice_.slice for slice_ in report.record.slices} == {f"{{'shop': {n}}}" for n in range(4)}
    assert {slice_.records for slice_ in report.record.slices} == {10}
    assert report.record.latencies.server.count == 12


async def test_runs_are_listed_from_the_newest(destination):
    for _ in range(3):
        await orders().extract(to=destination)

    runs = await destination.runs()
    assert [run.id for run in runs] == sorted((run.id for run in runs), reverse=True)
    assert len(runs) == 3
    assert await destination.runs(limit=1) == runs[:1]


async def test_output_without_runs_has_none(destination):
    assert await destination.runs() == ()


async def test_event_log_can_be_switched_off(destination):
    report = await orders().extract(to=destination, event_log=False)

    assert report.record is None
    assert await destination.runs() == ()


async def test_last_hundred_runs_are_kept(destination):
    await orders().extract(to=destination)
    writer = destination.new_writer()
    writer.open(0.0)
    for number in range(MAX_RUNS_KEPT + 5):
        writer.save_run(StoredRun(f"9{number:03}", b"{}"))

    kept = writer.load_runs(1_000)
    writer.close()

    assert [run.id for run in kept] == [f"9{number:03}" for number in reversed(range(5, MAX_RUNS_KEPT + 5))]


async def test_run_in_progress_is_recorded_as_running(destination):
    if isinstance(destination, DuckDB):
        pytest.skip("another connection of the process cannot open the file")
    seen: list[str] = []

    class Watching(Api):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            seen.extend(run.outcome for run in await destination.runs())
            return await super().__call__(request)

    await orders(Watching()).extract(to=destination)

    assert set(seen) == {"running"}


async def test_failed_slices_make_a_partial_run(destination):
    with pytest.raises(PartialFailure) as raised:
        await orders(Api(broken=(1, 2))).extract(to=destination)

    (run,) = await destination.runs()
    assert run.outcome == "partial"
    assert run.streams[0].outcome == "partial"
    assert run.streams[0].failed == 2
    assert raised.value.report.record == run
    (final,) = [failure for failure in run.failures if failure.is_final]
    assert (final.kind, final.status, final.count) == ("HttpStatusError", 400, 2)
    assert "the shop is closed" in final.message


async def test_repeated_requests_are_counted(tmp_path):
    report = await orders(Api(flaky=(1, 2)), seed=1).extract(to=JsonLines(tmp_path / "out"))

    (stream,) = report.record.streams
    assert (stream.requests, stream.retries) == (14, 2)
    assert sum(report.record.series.failed) == sum(report.record.series.statuses["503"]) == 2
    (failure,) = report.record.failures
    assert (failure.kind, failure.status, failure.count) == ("HttpStatusError", 503, 2)
    assert (failure.message, failure.is_final) == ("answered 503 Service Unavailable", False)


async def test_repeated_unreadable_responses_are_counted(tmp_path):
    class Cut(Api):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            if self.flaky:
                self.flaky.pop()
                return httpx.Response(200, content=b"[{", headers={"Content-Type": "application/json"})
            return await super().__call__(request)

    report = await orders(Cut(flaky=(1,)), seed=1).extract(to=JsonLines(tmp_path / "out"))

    (failure,) = report.record.failures
    assert (failure.kind, failure.count, failure.is_final) == ("unreadable response", 1, False)


async def test_cancelled_run_is_recorded_as_interrupted(destination):
    started = asyncio.Event()

    class Hanging(Api):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("3"):
                started.set()
                await asyncio.Event().wait()
            return await super().__call__(request)

    task = asyncio.create_task(orders(Hanging()).extract(to=destination))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    (run,) = await destination.runs()
    assert run.outcome == "interrupted"
    assert {slice_.outcome for slice_ in run.slices} >= {"interrupted"}


async def test_stream_of_an_interrupted_run_is_noted_as_complete(destination):
    class Items(Orders):
        pass

    class Hanging(Api):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            asyncio.get_running_loop().call_later(0.2, started.set)  # the other stream is finished then
            await asyncio.Event().wait()
            return await super().__call__(request)

    started = asyncio.Event()

    def source(api: Api) -> Source:
        return Source([Orders(transport=httpx.MockTransport(Api())), Items(transport=httpx.MockTransport(api))])

    task = asyncio.create_task(source(Hanging()).extract(to=destination))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source(Api()).extract(to=destination)

    resumed = (await destination.runs())[0].stream("orders")
    assert resumed.rows is None
    assert resumed.notes[0].startswith("already complete")


async def test_narrowed_run_is_not_whole(tmp_path):
    report = await orders().extract(to=JsonLines(tmp_path / "out"), limit=3)

    assert report.record.is_narrowed
    assert not report.record.is_whole


async def test_record_contains_no_secret(destination):
    class Private(Orders):
        def path(self, context: RequestContext) -> Any:
            return ("shops", context.stream_slice["key"], "3")

        def stream_slices(self, stream_state: Mapping[str, Any]) -> Any:
            return [{"shop": 3, "key": Secret("slice-secret-1")}]

        def request_params(self, context: RequestContext) -> Any:
            return {"api_key": "query-secret-1"}

    stream = Private(transport=httpx.MockTransport(Api(flaky=(3,))), authenticator=TokenAuthenticator("token-secret-1"))
    report = await Source([stream]).extract(to=destination)

    text = report.record.to_bytes().decode()
    for secret in ("slice-secret-1", "query-secret-1", "token-secret-1"):
        assert secret not in text
    assert report.record.settings["private"]["authenticator"] == "TokenAuthenticator"
    assert report.record.settings["private"]["url_base"] == "https://api.test"


async def test_damaged_record_is_named(tmp_path):
    await orders().extract(to=JsonLines(tmp_path / "out"))
    (path,) = (tmp_path / "out" / ".asyncstreams" / "runs").iterdir()
    path.write_text("{")

    with pytest.raises(StateCorrupt, match=path.name):
        await JsonLines(tmp_path / "out").runs()


async def test_record_of_a_newer_format_is_refused():
    with pytest.raises(StateCorrupt, match="newer version"):
        RunRecord.from_bytes(
            b'{"format":99,"id":"a","source":"S","destination":"d","began_at":"","outcome":"complete"}', "x"
        )


async def test_output_is_released_if_a_record_cannot_be_made(destination, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault in the record")

    with monkeypatch.context() as patched:
        patched.setattr("asyncstreams.extraction.run_recording.with_verdict", fail)
        with pytest.raises(RuntimeError, match="a fault in the record"):
            await orders().extract(to=destination)
    report = await orders().extract(to=destination)  # it is not locked

    assert report.record.outcome == "complete"


async def test_full_disk_does_not_fail_a_committed_run(tmp_path, caplog):
    runs = tmp_path / "out" / ".asyncstreams" / "runs"

    class Blocking(Api):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            for path in [*runs.iterdir()]:
                path.unlink()
            runs.rmdir()
            runs.write_text("a file in place of the folder")
            return httpx.Response(200, json=[])

    source = Source([Orders(transport=httpx.MockTransport(Blocking()))])
    report = await source.extract(to=JsonLines(tmp_path / "out"), slices={"orders": [{"shop": 1}]})

    assert report.streams[0].slices == 1
    assert "the record of the run is not stored" in caplog.text


@given(st.lists(st.floats(0, 3_000), min_size=1, max_size=200))
def test_percentiles_are_accurate_to_five_percent(times):
    histogram = LatencyHistogram()
    for seconds in times:
        histogram.add(seconds)

    summary = histogram.summary()

    known = sorted(0.0 if seconds < 1e-4 else seconds for seconds in times)
    for share, found in ((0.5, summary.p50), (0.9, summary.p90), (0.99, summary.p99)):
        assert found == pytest.approx(known[math.ceil(share * len(known)) - 1], rel=0.05)
    assert summary.max == known[-1]
    assert summary.count == len(times)


@given(st.lists(st.tuples(st.floats(0, 100_000), st.integers(0, 50)), max_size=60))
def test_series_keeps_all_counts_in_few_intervals(pages):
    series = SeriesBuilder()
    for at, count in sorted(pages):
        series.add_request(at, "200", 10, is_refused=False, has_failed=False)
        series.add_records(at, count)

    built = series.build()

    assert sum(built.records) == sum(count for _, count in pages)
    assert sum(built.requests) == sum(built.statuses.get("200", ())) == len(pages)
    assert len(built.requests) == len(built.max_rate) == len(built.records) <= 600
    assert math.log2(built.interval).is_integer()


def test_failed_and_slowest_slices_are_kept_and_counted():
    sample = SliceSample()
    for number in range(5_000):
        outcome = "failed" if number < 50 else "complete"
        sample.add(SliceTally("a", Slice({"n": number}), 0.0, float(number), outcome=outcome))

    kept = sample.records()

    assert len(kept) == 250
    assert sample.left_out == 4_750
    assert {slice_.ended_s for slice_ in kept} >= {float(number) for number in (*range(50), *range(4_900, 5_000))}
