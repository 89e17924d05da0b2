"""Concurrent slices and streams: order, laziness, fairness and bounds."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import (
    Api,
    Items,
    NamedItems,
    collect_pages,
    page_key,
    paged_api,
    real_timeout,
    record_ids,
    slices,
    subclass,
)

from asyncstreams import (
    Source,
    StreamUnavailable,
)
from asyncstreams.errors import PartialFailure
from asyncstreams.events import PageRead, RequestFinished, SliceFinished, SliceStarted, StreamFinished, StreamStarted


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_first_page_alone_then_slices_concurrently(virtual_clock):
    api = Api(paged_api(1))

    found = await Items(api, virtual_clock).read(slices=slices(range(9)))

    assert sorted(record["id"] for record in found) == [f"{n}/0" for n in range(9)]
    assert api.request_times == pytest.approx([api.request_times[0]] + [api.request_times[0] + 1] * 8, abs=0.01)


async def test_pages_ordered_within_slices_that_interleave(virtual_clock):
    pages, _ = await collect_pages(Items(Api(paged_api(5)), virtual_clock).pages(slices=slices("ab")))

    order = [page.stream_slice["at"] for page in pages]
    assert [page.number for page in pages if page.stream_slice["at"] == "a"] == [0, 1, 2, 3, 4]
    assert [page.number for page in pages if page.stream_slice["at"] == "b"] == [0, 1, 2, 3, 4]
    assert order not in (sorted(order), sorted(order, reverse=True))
    assert [page.is_last for page in pages] == [page.number == 4 for page in pages]


@pytest.mark.parametrize("max_concurrency", [1, 3, 32])
async def test_requests_in_flight_reach_max_concurrency(virtual_clock, max_concurrency):
    api = Api(paged_api(2))

    await Items(api, virtual_clock, max_concurrency=max_concurrency).read(slices=slices(range(50)))

    assert api.peak_in_flight == max_concurrency


async def test_source_max_concurrency_bounds_all_its_streams(virtual_clock):
    api = Api(paged_api(2))
    source = Source([NamedItems(name, api, virtual_clock) for name in "ab"], max_concurrency=5)

    await source.read(slices={name: slices(range(20)) for name in "ab"})

    assert api.peak_in_flight == 5


async def test_streams_of_a_source_are_read_concurrently(virtual_clock):
    api = Api(paged_api(10))

    await Source([NamedItems(name, api, virtual_clock) for name in "abcd"]).read()

    assert api.peak_in_flight == 4
    assert virtual_clock.monotonic() == pytest.approx(10, abs=1.1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_stream_slices_is_consumed_lazily(virtual_clock, asynchronous):
    created = 0

    class Endless(Items):
        def stream_slices(self, state: Any) -> Any:
            def generate() -> Any:
                nonlocal created
                for created in itertools.count(1):
                    yield {"at": created}

            async def generate_async() -> Any:
                for stream_slice in generate():
                    yield stream_slice

            return generate_async() if asynchronous else generate()

    async with Endless(Api(paged_api(1)), virtual_clock, max_concurrency=2).pages() as pages:
        found = [page async for page, _ in take(pages, range(30))]

    assert len(found) == 30
    assert created <= 30 + 16 + 4 * 2


async def take(pages: Any, others: Any) -> Any:
    for other in others:
        yield await anext(pages), other


async def test_unavailable_stream_costs_one_request(virtual_clock):
    api = Api(paged_api(3, items=403, a_0=403))

    _, error = await collect_pages(Items(api, virtual_clock).pages(slices=slices("abc")), StreamUnavailable)

    assert error.status == 403
    assert api.requested == ["a/0"]


async def test_waiting_slice_releases_its_slot(virtual_clock):
    failures = iter([500, 500, 500, None])

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(failures) if page_key(request) == "b/0" else None
        return httpx.Response(status) if status else paged_api(3)(request)

    stream = subclass(Items, max_tries=5, backoff_time=lambda self, response: 100.0)
    api = Api(answer)
    pages, _ = await collect_pages(stream(api, virtual_clock, max_concurrency=1).pages(slices=slices("abcd")))

    assert record_ids(pages)[-3:] == ["b/0", "b/1", "b/2"]
    assert len(record_ids(pages)) == 12
    assert virtual_clock.monotonic() < 400
    assert api.peak_in_flight == 1


async def test_open_slices_are_bounded_by_four_per_slot(virtual_clock):
    open_slices, peak = 0, 0

    def listen(event: object) -> None:
        nonlocal open_slices, peak
        open_slices += isinstance(event, SliceStarted) - isinstance(event, SliceFinished)
        peak = max(peak, open_slices)

    failures: Counter[str] = Counter()

    def answer(request: httpx.Request) -> httpx.Response:
        failures[page_key(request)] += 1
        return (
            httpx.Response(500)
            if page_key(request) != "0/0" and failures[page_key(request)] < 3
            else paged_api(1)(request)
        )

    kind = subclass(Items, max_tries=5, backoff_time=lambda self, response: 200.0)
    stream = kind(Api(answer), virtual_clock, max_concurrency=2)
    stream.subscribe(listen)
    found = await stream.read(slices=slices(range(40)))

    assert len(found) == 40
    assert peak == 8


@pytest.mark.parametrize(("limit", "requested"), [(0, []), (1, ["a/0"]), (3, ["a/0", "a/1", "b/0"]), (9, None)])
async def test_limit_sends_no_extra_request(virtual_clock, limit, requested):
    api = Api(paged_api(2))

    found = await Items(api, virtual_clock).read(slices=slices("abc"), limit=limit)

    assert api.requested == (["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"] if requested is None else requested)
    assert [record["id"] for record in found] == api.requested
    assert api.peak_in_flight <= 1


async def test_limit_does_not_count_quarantined_records(virtual_clock):
    schema = {"type": "object", "properties": {"id": {"not": {"const": "a/0"}}}}
    kind = subclass(Items, validation="quarantine", get_json_schema=lambda self: schema)
    api = Api(paged_api(4))

    found = await kind(api, virtual_clock).read(slices=slices("a"), limit=1)

    assert [record["id"] for record in found] == ["a/1"]
    assert api.requested == ["a/0", "a/1"]


@pytest.mark.parametrize(("count", "max_requests"), [(1, 4 + 2), (8, 4 + 8)])
async def test_idle_consumer_stops_the_requests(virtual_clock, count, max_requests):
    api = Api(paged_api(1000))

    async with Items(api, virtual_clock, max_concurrency=8).pages(slices=slices(range(count))) as pages:
        await anext(pages)
        await asyncio.sleep(1000)
        first = len(api.requested)
        await asyncio.sleep(1000)

        assert 4 <= first <= max_requests + 2
        assert len(api.requested) == first
        assert api.in_flight == 0


async def test_queued_pages_are_bounded_in_bytes(virtual_clock):
    text = "x" * (9 << 20)

    def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 0))
        return httpx.Response(200, json={"items": [{"text": text}], "next": number + 1})

    api = Api(answer)
    async with Items(api, virtual_clock).pages() as pages:
        await anext(pages)
        await asyncio.sleep(1000)

        assert 3 <= len(api.requested) <= 7


async def test_next_page_is_fetched_while_one_is_consumed(virtual_clock):
    async with Items(Api(paged_api(10), latency=1), virtual_clock).pages() as pages:
        async for _ in pages:
            await asyncio.sleep(1)

    assert virtual_clock.monotonic() == pytest.approx(11, abs=0.5)


async def test_small_stream_finishes_early_beside_a_large_one(virtual_clock):
    api = Api(paged_api(5))
    source = Source(
        [NamedItems("large", api, virtual_clock), NamedItems("small", api, virtual_clock)], max_concurrency=4
    )

    given = {"large": slices(range(200)), "small": slices(range(8))}
    pages, _ = await collect_pages(source.pages(slices=given))

    order = [page.stream for page in pages]
    last = len(order) - order[::-1].index("small")
    assert len(order) == 1040
    assert last <= 2 * 40 * 1.5


@pytest.mark.parametrize("weight", [1, 3, 0.25])
async def test_weight_sets_the_share_of_pages(virtual_clock, weight):
    api = Api(paged_api(4))
    heavy = subclass(NamedItems, weight=weight)("heavy", api, virtual_clock)
    source = Source([heavy, NamedItems("light", api, virtual_clock)], max_concurrency=8)

    given = {name: slices(range(500)) for name in ("heavy", "light")}
    async with source.pages(slices=given) as pages:
        order = [page.stream async for page, _ in take(pages, range(800))]

    counts = Counter(order[80:])
    assert counts["heavy"] / counts["light"] == pytest.approx(weight, rel=0.35)


async def test_no_stream_waits_over_five_times_its_share(virtual_clock):
    api = Api(paged_api(1000))
    names = [f"s{n}" for n in range(6)]
    source = Source([NamedItems(name, api, virtual_clock) for name in names], max_concurrency=2)

    async with source.pages(slices={name: slices(range(4)) for name in names}) as pages:
        order = [page.stream async for page, _ in take(pages, range(600))]

    for name in names:
        positions = [-1, *(position for position, stream in enumerate(order) if stream == name), len(order)]
        assert max(following - previous for previous, following in itertools.pairwise(positions)) <= 5 * len(names)


async def test_stream_max_concurrency_holds_within_a_source(virtual_clock):
    few_api, many_api = Api(paged_api(3)), Api(paged_api(3))
    source = Source(
        [NamedItems("few", few_api, virtual_clock, max_concurrency=2), NamedItems("many", many_api, virtual_clock)],
        max_concurrency=8,
    )

    await source.read(slices={name: slices(range(30)) for name in ("few", "many")})

    assert few_api.peak_in_flight == 2
    assert many_api.peak_in_flight >= 6


async def test_slow_slice_does_not_delay_the_others(virtual_clock):
    api = Api(paged_api(1), latency=lambda request: 50 if page_key(request) == "1/0" else 1)

    pages, _ = await collect_pages(Items(api, virtual_clock, max_concurrency=4).pages(slices=slices(range(60))))

    assert record_ids(pages)[-1] == "1/0"
    assert virtual_clock.monotonic() == pytest.approx(51, abs=1)


async def test_concurrent_reads_of_one_stream_stay_separate(virtual_clock):
    stream = Items(Api(paged_api(6)), virtual_clock)

    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(stream.read(slices=slices(names))) for names in ("ab", "cd")]

    found = [sorted(record["id"] for record in task.result()) for task in reads]
    assert found == [[f"{name}/{n}" for name in names for n in range(6)] for names in ("ab", "cd")]


async def test_run_without_slices_is_empty_and_succeeds(virtual_clock):
    api = Api(paged_api(1))
    run = Items(api, virtual_clock).pages(slices=[])

    assert await collect_pages(run) == ([], None)
    assert api.requested == []
    assert [(line.pages, line.slices, line.failed) for line in run.report.streams] == [(0, 0, 0)]


async def test_events_of_each_slice_are_in_order(virtual_clock):
    events: list[Any] = []
    stream = Items(Api(paged_api(2, b_1=404)), virtual_clock)
    stream.subscribe(events.append)

    await collect_pages(stream.pages(slices=slices("ab")), PartialFailure)

    assert events[0] == StreamStarted("items")
    assert isinstance(events[-1], StreamFinished)
    page = [RequestFinished, PageRead]
    for name, kinds in {"a": [*page, *page], "b": [*page, RequestFinished]}.items():
        own = [event for event in events if getattr(event, "stream_slice", None) == {"at": name}]
        assert [type(event) for event in own] == [SliceStarted, *kinds, SliceFinished]
        assert (own[-1].error is None) == (name == "a")


async def test_explain_before_during_and_after_a_run(virtual_clock):
    api = Api(paged_api(3))
    run = Source([NamedItems(name, api, virtual_clock) for name in ("users", "orders")]).pages()

    before = run.explain()
    async with run as pages:
        await anext(pages)
        during = run.explain()
        async for _ in pages:
            pass
    after = run.explain()

    assert before == ""
    for text in (during, after):
        assert [("users" in line, "orders" in line) for line in text.splitlines()] == [(True, False), (False, True)]
    assert during != after
