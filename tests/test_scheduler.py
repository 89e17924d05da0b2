"""Do slices and streams run side by side: in order, lazily, fairly, and within bounds?"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import Api, Items, NamedItems, page_key, subclass, record_ids, slices, collect_pages, paged_api, real_timeout

from asyncstreams import (
    Source,
    StreamUnavailable,
)
from asyncstreams.errors import PartialFailure
from asyncstreams.events import PageRead, SliceFinished, SliceStarted, StreamFinished, StreamStarted


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_slices_are_read_side_by_side_after_the_first_page_has_come_alone(virtual_clock):
    api = Api(paged_api(1))

    found = await Items(api, virtual_clock).read(slices=slices(range(9)))

    assert sorted(record["id"] for record in found) == [f"{n}/0" for n in range(9)]
    assert api.request_times == pytest.approx([api.request_times[0]] + [api.request_times[0] + 1] * 8, abs=0.01)


async def test_pages_of_a_slice_come_in_order_and_those_of_slices_between_each_other(virtual_clock):
    pages, _ = await collect_pages(Items(Api(paged_api(5)), virtual_clock).pages(slices=slices("ab")))

    order = [page.stream_slice["at"] for page in pages]
    assert [page.number for page in pages if page.stream_slice["at"] == "a"] == [0, 1, 2, 3, 4]
    assert [page.number for page in pages if page.stream_slice["at"] == "b"] == [0, 1, 2, 3, 4]
    assert order not in (sorted(order), sorted(order, reverse=True))
    assert [page.is_last for page in pages] == [page.number == 4 for page in pages]


@pytest.mark.parametrize("most", [1, 3, 32])
async def test_max_concurrency_bounds_what_is_in_flight_and_is_reached(virtual_clock, most):
    api = Api(paged_api(2))

    await Items(api, virtual_clock, max_concurrency=most).read(slices=slices(range(50)))

    assert api.peak_in_flight == most


async def test_the_max_concurrency_of_a_source_bounds_its_streams_together(virtual_clock):
    api = Api(paged_api(2))
    source = Source([NamedItems(name, api, virtual_clock) for name in "ab"], max_concurrency=5)

    await source.read(slices={name: slices(range(20)) for name in "ab"})

    assert api.peak_in_flight == 5


async def test_the_streams_of_a_source_are_read_side_by_side(virtual_clock):
    api = Api(paged_api(10))

    await Source([NamedItems(name, api, virtual_clock) for name in "abcd"]).read()

    assert api.peak_in_flight == 4
    assert virtual_clock.monotonic() == pytest.approx(10, abs=1.1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_slices_are_made_as_they_are_needed(virtual_clock, asynchronous):
    made = 0

    class Endless(Items):
        def stream_slices(self, state: Any) -> Any:
            def each() -> Any:
                nonlocal made
                for made in itertools.count(1):
                    yield {"at": made}

            async def each_later() -> Any:
                for one in each():
                    yield one

            return each_later() if asynchronous else each()

    async with Endless(Api(paged_api(1)), virtual_clock, max_concurrency=2).pages() as pages:
        found = [page async for page, _ in _zip(pages, range(30))]

    assert len(found) == 30
    assert made <= 30 + 16 + 4 * 2


async def _zip(pages: Any, others: Any) -> Any:
    for other in others:
        yield await anext(pages), other


async def test_nothing_else_is_asked_for_before_a_stream_is_known_to_be_available(virtual_clock):
    api = Api(paged_api(3, items=403, a_0=403))

    _, error = await collect_pages(Items(api, virtual_clock).pages(slices=slices("abc")), StreamUnavailable)

    assert error.status == 403
    assert api.requested == ["a/0"]


async def test_a_slice_that_waits_gives_its_place_to_others(virtual_clock):
    sick = iter([500, 500, 500, None])

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(sick) if page_key(request) == "b/0" else None
        return httpx.Response(status) if status else paged_api(3)(request)

    stream = subclass(Items, max_tries=5, backoff_time=lambda self, response: 100.0)
    api = Api(answer)
    pages, _ = await collect_pages(stream(api, virtual_clock, max_concurrency=1).pages(slices=slices("abcd")))

    assert record_ids(pages)[-3:] == ["b/0", "b/1", "b/2"]
    assert len(record_ids(pages)) == 12
    assert virtual_clock.monotonic() < 400
    assert api.peak_in_flight == 1


async def test_no_more_than_four_times_max_concurrency_slices_are_open(virtual_clock):
    opened, most = 0, 0

    def listen(event: object) -> None:
        nonlocal opened, most
        opened += isinstance(event, SliceStarted) - isinstance(event, SliceFinished)
        most = max(most, opened)

    sick: Counter[str] = Counter()

    def answer(request: httpx.Request) -> httpx.Response:
        sick[page_key(request)] += 1
        return httpx.Response(500) if page_key(request) != "0/0" and sick[page_key(request)] < 3 else paged_api(1)(request)

    kind = subclass(Items, max_tries=5, backoff_time=lambda self, response: 200.0)
    stream = kind(Api(answer), virtual_clock, max_concurrency=2)
    stream.subscribe(listen)
    found = await stream.read(slices=slices(range(40)))

    assert len(found) == 40
    assert most == 8


@pytest.mark.parametrize(("limit", "asked"), [(0, []), (1, ["a/0"]), (3, ["a/0", "a/1", "b/0"]), (9, None)])
async def test_a_limit_sends_no_request_more_than_it_needs(virtual_clock, limit, asked):
    api = Api(paged_api(2))

    found = await Items(api, virtual_clock).read(slices=slices("abc"), limit=limit)

    assert api.requested == (["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"] if asked is None else asked)
    assert [record["id"] for record in found] == api.requested
    assert api.peak_in_flight <= 1


async def test_a_limit_counts_what_is_handed_over_not_what_was_kept_back(virtual_clock):
    schema = {"type": "object", "properties": {"id": {"not": {"const": "a/0"}}}}
    kind = subclass(Items, validation="quarantine", get_json_schema=lambda self: schema)
    api = Api(paged_api(4))

    found = await kind(api, virtual_clock).read(slices=slices("a"), limit=1)

    assert [record["id"] for record in found] == ["a/1"]
    assert api.requested == ["a/0", "a/1"]


@pytest.mark.parametrize(("count", "most"), [(1, 4 + 2), (8, 4 + 8)])
async def test_a_consumer_that_does_nothing_stops_the_requests(virtual_clock, count, most):
    api = Api(paged_api(1000))

    async with Items(api, virtual_clock, max_concurrency=8).pages(slices=slices(range(count))) as pages:
        await anext(pages)
        await asyncio.sleep(1000)
        first = len(api.requested)
        await asyncio.sleep(1000)

        assert 4 <= first <= most + 2
        assert len(api.requested) == first
        assert api.in_flight == 0


async def test_large_pages_wait_in_fewer(virtual_clock):
    text = "x" * (9 << 20)

    def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("page", 0))
        return httpx.Response(200, json={"items": [{"text": text}], "next": number + 1})

    api = Api(answer)
    async with Items(api, virtual_clock).pages() as pages:
        await anext(pages)
        await asyncio.sleep(1000)

        assert 3 <= len(api.requested) <= 7


async def test_the_next_page_is_fetched_while_the_earlier_one_is_consumed(virtual_clock):
    async with Items(Api(paged_api(10), seconds=1), virtual_clock).pages() as pages:
        async for _ in pages:
            await asyncio.sleep(1)

    assert virtual_clock.monotonic() == pytest.approx(11, abs=0.5)


async def test_large_and_small_streams_share_the_places(virtual_clock):
    api = Api(paged_api(5))
    source = Source([NamedItems("large", api, virtual_clock), NamedItems("small", api, virtual_clock)], max_concurrency=4)

    given = {"large": slices(range(200)), "small": slices(range(8))}
    pages, _ = await collect_pages(source.pages(slices=given))

    order = [page.stream for page in pages]
    last = len(order) - order[::-1].index("small")
    assert len(order) == 1040
    assert last <= 2 * 40 * 1.5


@pytest.mark.parametrize("weight", [1, 3, 0.25])
async def test_weight_is_a_streams_share_of_the_pages(virtual_clock, weight):
    api = Api(paged_api(4))
    heavy = subclass(NamedItems, weight=weight)("heavy", api, virtual_clock)
    source = Source([heavy, NamedItems("light", api, virtual_clock)], max_concurrency=8)

    given = {name: slices(range(500)) for name in ("heavy", "light")}
    async with source.pages(slices=given) as pages:
        order = [page.stream async for page, _ in _zip(pages, range(800))]

    counts = Counter(order[80:])
    assert counts["heavy"] / counts["light"] == pytest.approx(weight, rel=0.35)


async def test_no_stream_waits_for_longer_than_five_times_its_share(virtual_clock):
    api = Api(paged_api(1000))
    names = [f"s{n}" for n in range(6)]
    source = Source([NamedItems(name, api, virtual_clock) for name in names], max_concurrency=2)

    async with source.pages(slices={name: slices(range(4)) for name in names}) as pages:
        order = [page.stream async for page, _ in _zip(pages, range(600))]

    for name in names:
        served = [-1, *(place for place, one in enumerate(order) if one == name), len(order)]
        assert max(later - earlier for earlier, later in itertools.pairwise(served)) <= 5 * len(names)


async def test_a_streams_own_max_concurrency_bounds_it_within_a_source_too(virtual_clock):
    few, many = Api(paged_api(3)), Api(paged_api(3))
    source = Source(
        [NamedItems("few", few, virtual_clock, max_concurrency=2), NamedItems("many", many, virtual_clock)], max_concurrency=8
    )

    await source.read(slices={name: slices(range(30)) for name in ("few", "many")})

    assert few.peak_in_flight == 2
    assert many.peak_in_flight >= 6


async def test_a_run_waits_no_longer_for_one_slow_slice_than_it_needs(virtual_clock):
    api = Api(paged_api(1), seconds=lambda request: 50 if page_key(request) == "1/0" else 1)

    pages, _ = await collect_pages(Items(api, virtual_clock, max_concurrency=4).pages(slices=slices(range(60))))

    assert record_ids(pages)[-1] == "1/0"
    assert virtual_clock.monotonic() == pytest.approx(51, abs=1)


async def test_reading_again_while_one_reading_goes_on_keeps_them_apart(virtual_clock):
    stream = Items(Api(paged_api(6)), virtual_clock)

    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(stream.read(slices=slices(names))) for names in ("ab", "cd")]

    found = [sorted(record["id"] for record in task.result()) for task in both]
    assert found == [[f"{name}/{n}" for name in names for n in range(6)] for names in ("ab", "cd")]


async def test_a_run_without_slices_is_whole_and_empty(virtual_clock):
    api = Api(paged_api(1))
    reading = Items(api, virtual_clock).pages(slices=[])

    assert await collect_pages(reading) == ([], None)
    assert api.requested == []
    assert [(line.pages, line.slices, line.failed) for line in reading.report.streams] == [(0, 0, 0)]


async def test_events_tell_of_each_slice_in_order(virtual_clock):
    heard: list[Any] = []
    stream = Items(Api(paged_api(2, b_1=404)), virtual_clock)
    stream.subscribe(heard.append)

    await collect_pages(stream.pages(slices=slices("ab")), PartialFailure)

    assert heard[0] == StreamStarted("items")
    assert isinstance(heard[-1], StreamFinished)
    for name, kinds in {"a": [PageRead, PageRead], "b": [PageRead]}.items():
        own = [event for event in heard if getattr(event, "stream_slice", None) == {"at": name}]
        assert [type(event) for event in own] == [SliceStarted, *kinds, SliceFinished]
        assert (own[-1].error is None) == (name == "a")


async def test_a_reading_explains_itself_before_while_and_after(virtual_clock):
    api = Api(paged_api(3))
    reading = Source([NamedItems(name, api, virtual_clock) for name in ("users", "orders")]).pages()

    told_before = reading.explain()
    async with reading as pages:
        await anext(pages)
        told_while = reading.explain()
        async for _ in pages:
            pass
    told_after = reading.explain()

    assert told_before == ""
    for text in (told_while, told_after):
        assert [("users" in line, "orders" in line) for line in text.splitlines()] == [(True, False), (False, True)]
    assert told_while != told_after
