"""Read-ahead: pages that are fetched concurrently equal those that are read sequentially."""

from __future__ import annotations

import gc
import logging
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from fake_api import Api, collect_pages, real_timeout, record_ids, slices, subclass

from asyncstreams import (
    Backoff,
    Continuation,
    Cursor,
    HttpStream,
    LinkHeader,
    MalformedJSON,
    NextUrl,
    Offset,
    PageNumber,
    RequestContext,
    Response,
    ResponseAction,
)


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


@dataclass(frozen=True)
class ItemsResponder:
    """An API of `rows` rows that supports every paginator, with configurable irregularities."""

    rows: int = 57
    size: int = 5
    short_pages: tuple[int, ...] = ()
    """Pages without their first row."""
    empty_pages: tuple[int, ...] = ()
    total_error: int = 0
    """Added to the reported total."""
    status_beyond: int = 200
    """The status of pages beyond the end."""
    pages_beyond: int = 0
    """Number of empty pages with status 200 beyond the end, before `status_beyond` applies."""
    faults: tuple[tuple[int, int], ...] = ()
    """Pairs of a page and its status."""
    repeats_from: int = 10**9
    """From this page on, the same page is repeated."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        params = request.url.params
        start = int(params["offset"]) if "offset" in params else int(params.get("page", 0)) * self.size
        number = start // self.size
        start = min(start, self.repeats_from * self.size)
        last = max(0, (self.rows - 1) // self.size)
        if number > last + self.pages_beyond and self.status_beyond != 200:
            return httpx.Response(self.status_beyond)
        if status := dict(self.faults).get(number):
            return httpx.Response(status)
        found = [{"id": n} for n in range(start, min(start + self.size, self.rows))]
        found = [] if number in self.empty_pages else found[1:] if number in self.short_pages else found
        total = self.rows + self.total_error
        body: dict[str, Any] = {"items": found, "items_in_all": total, "pages_in_all": -(-total // self.size)}
        links = [f'<https://api.test/items?page={-(-total // self.size) - 1}>; rel="last"']
        if number < last:
            body |= {"next": number + 1, "url": f"items?page={number + 1}", "continue": {"page": number + 1}}
            links.append(f'<https://api.test/items?page={number + 1}>; rel="next"')
        return httpx.Response(200, json=body, headers={"Link": ", ".join(links)})


class Items(HttpStream):
    url_base = "https://api.test/"
    records_path = "items"
    backoff = Backoff(base=0, cap=0)
    max_tries = 1
    adaptive = False

    def path(self, context: RequestContext) -> str:
        return "items"


COUNTED: dict[str, Any] = {
    "pages": PageNumber(start=0, total_pages="pages_in_all"),
    "items": PageNumber(start=0, size=5, total_items="items_in_all"),
    "offset": Offset(limit=5, total="items_in_all"),
    "links": LinkHeader(),
}
UNCOUNTED: dict[str, Any] = {
    "pages-no-total": PageNumber(start=0),
    "pages-wrong-total": PageNumber(start=0, total_pages="no.such"),
    "pages-short": PageNumber(start=0, size=5, stop_on_short_page=True),
    "offset-no-total": Offset(limit=5),
    "offset-short": Offset(limit=5, stop_on_short_page=True),
    "offset-large": Offset(limit=8),
    "offset-total-large": Offset(limit=8, total="items_in_all"),
    "items-large": PageNumber(start=0, size=8, total_items="items_in_all"),
}
TOKENS: dict[str, Any] = {
    "cursor": Cursor("next", param="page"),
    "url": NextUrl("url"),
    "continuation": Continuation("continue"),
}
ALL_PAGINATORS = COUNTED | UNCOUNTED | TOKENS

RESPONDERS = {
    "regular": ItemsResponder(),
    "full-pages": ItemsResponder(rows=60),
    "one-page": ItemsResponder(rows=3),
    "one-full-page": ItemsResponder(rows=5),
    "two-pages": ItemsResponder(rows=6),
    "no-rows": ItemsResponder(rows=0),
    "short-first": ItemsResponder(short_pages=(0,)),
    "short-second": ItemsResponder(short_pages=(1,)),
    "short-middle": ItemsResponder(short_pages=(4, 5, 8)),
    "empty-middle": ItemsResponder(empty_pages=(6,)),
    "empty-first": ItemsResponder(empty_pages=(0,)),
    "totals-too-large": ItemsResponder(total_error=30),
    "totals-too-small": ItemsResponder(total_error=-30),
    "total-zero": ItemsResponder(total_error=-57),
    "error-beyond": ItemsResponder(status_beyond=404),
    "failing-beyond": ItemsResponder(status_beyond=500, pages_beyond=1),
    "denied-beyond": ItemsResponder(status_beyond=401, pages_beyond=1),
    "forbidden-beyond": ItemsResponder(status_beyond=403, pages_beyond=1, rows=60),
    "fails-in-the-middle": ItemsResponder(faults=((5, 404),)),
    "fails-twice": ItemsResponder(faults=((5, 404), (3, 410))),
    "fails-second": ItemsResponder(faults=((1, 500),)),
    "denied-in-the-middle": ItemsResponder(faults=((5, 401),)),
    "forbidden-in-the-middle": ItemsResponder(faults=((4, 403),)),
    "204-in-the-middle": ItemsResponder(faults=((5, 204),)),
    "ignored-in-the-middle": ItemsResponder(faults=((5, 418),)),
    "repeated-page": ItemsResponder(repeats_from=4),
    "repeated-first-page": ItemsResponder(repeats_from=0, rows=60),
}


def uneven_latency(request: httpx.Request) -> float:
    """Latencies with which later pages often overtake earlier ones."""
    number = int(request.url.params.get("page", 0)) + int(request.url.params.get("offset", 0)) // 5
    return 0.2 + number * 7 % 5


async def read(responder: Any, clock: Any, latency: Any = 1.0, limit: int | None = None, **attributes: Any) -> Any:
    """Read a stream; return summaries of its pages and of the error, and the API."""
    api = Api(responder, latency)
    stream = subclass(Items, **attributes)(transport=api, clock=clock)
    found, error = await collect_pages(stream.pages(limit=limit), any_error=True)
    pages = [(page.number, record_ids([page]), page.is_last) for page in found]
    failed = error and (type(error), getattr(error, "page", None), getattr(error, "status", None))
    return pages, failed, api


def ignore_418(self: Any, response: Response, context: RequestContext) -> ResponseAction:
    return ResponseAction.IGNORE if response.status_code == 418 else HttpStream.classify(self, response, context)


@pytest.mark.parametrize("responder", RESPONDERS.values(), ids=RESPONDERS)
@pytest.mark.parametrize("paginator", ALL_PAGINATORS.values(), ids=ALL_PAGINATORS)
async def test_concurrent_pages_equal_sequential_pages(virtual_clock, paginator, responder):
    plain = {"paginator": paginator, "classify": ignore_418, "max_pages": 40}

    expected = await read(responder, virtual_clock, parallel_pages=False, **plain)
    for latency in (1.0, uneven_latency):
        assert (await read(responder, virtual_clock, latency, **plain))[:2] == expected[:2]


@pytest.mark.parametrize("paginator", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("rows", [3, 5, 6, 57, 60, 500])
async def test_known_total_reads_concurrently_without_waste(virtual_clock, paginator, rows):
    pages, failed, api = await read(ItemsResponder(rows), virtual_clock, paginator=paginator, max_concurrency=8)

    count = -(-rows // 5)
    assert failed is None
    assert [n for _, found, _ in pages for n in found] == list(range(rows))
    assert len(api.requested) == count
    assert api.peak_in_flight == max(1, min(8, count - 1))
    assert api.request_times[-1] - api.request_times[0] == pytest.approx(-(-(count - 1) // 8), abs=1.1)


@pytest.mark.parametrize("paginator", [PageNumber(start=0), Offset(limit=5)], ids=["pages", "offset"])
@pytest.mark.parametrize("rows", [5, 10, 25, 57, 400])
async def test_unknown_total_wastes_no_more_requests_than_pages(virtual_clock, paginator, rows):
    pages, failed, api = await read(ItemsResponder(rows), virtual_clock, paginator=paginator)

    assert failed is None
    assert [n for _, found, _ in pages for n in found] == list(range(rows))
    assert len(api.requested) <= 2 * len(pages)
    for position, time in enumerate(api.request_times):
        completed = sum(earlier < time - 0.9 for earlier in api.request_times)
        assert position + 1 <= 2 * completed + 1


@pytest.mark.parametrize("paginator", [PageNumber(start=0), Offset(limit=5)], ids=["pages", "offset"])
async def test_unknown_total_is_faster_than_page_by_page(virtual_clock, paginator):
    _, _, api = await read(ItemsResponder(400), virtual_clock, paginator=paginator)

    assert api.request_times[-1] - api.request_times[0] < 20
    assert api.peak_in_flight > 8


@pytest.mark.parametrize(
    ("faults", "max_tries", "tries"),
    [
        ([b'{"items": ['], 2, None),
        ([500, b'{"items": ['], 3, None),
        ([500, b'{"items": ['], 2, 2),
        ([b'{"items": [', b'{"items": ['], 5, 2),
    ],
    ids=["malformed", "failed-and-malformed", "tries-used-up", "malformed-twice"],
)
async def test_malformed_page_fetched_ahead_continues_its_tries(virtual_clock, faults, max_tries, tries):
    left = list(faults)

    def responder(request: httpx.Request) -> httpx.Response:
        if request.url.params["page"] != "4" or not left:
            return ItemsResponder()(request)
        fault = left.pop(0)
        return httpx.Response(fault) if isinstance(fault, int) else httpx.Response(200, content=fault)

    pages, failed, api = await read(responder, virtual_clock, paginator=COUNTED["pages"], max_tries=max_tries)

    assert api.peak_in_flight > 2, "no page is fetched ahead"
    assert api.requested.count("items/4") == (len(faults) + 1 if tries is None else tries)
    if tries is None:
        assert (failed, len(pages)) == (None, 12)
    else:
        assert failed == (MalformedJSON, 4, 200)


async def test_short_page_stops_read_ahead(virtual_clock):
    responder, paginator = ItemsResponder(100, short_pages=(1,)), PageNumber(start=0)

    pages, _, api = await read(responder, virtual_clock, paginator=paginator)

    assert len(pages) == 21
    assert len(api.requested) <= 21 + 1
    assert api.peak_in_flight <= 2


@pytest.mark.parametrize("fault", [404, 500, 401, httpx.ConnectError("refused"), AssertionError("not mocked")], ids=str)
async def test_failed_request_beyond_the_end_is_ignored(virtual_clock, fault):
    def responder(request: httpx.Request) -> httpx.Response:
        if int(request.url.params["page"]) > 20:
            if isinstance(fault, Exception):
                raise fault
            return httpx.Response(fault)
        return ItemsResponder(100)(request)

    pages, failed, api = await read(responder, virtual_clock, paginator=PageNumber(start=0))

    assert failed is None
    assert len(pages) == 21
    assert any(int(key.split("/")[1]) > 20 for key in api.requested), "no request went beyond the end"


async def test_backoff_beyond_the_end_is_not_awaited(virtual_clock):
    responder = ItemsResponder(100, status_beyond=500, pages_beyond=1)

    pages, failed, api = await read(
        responder, virtual_clock, paginator=PageNumber(start=0), max_tries=5, backoff_time=lambda self, response: 100.0
    )

    assert (len(pages), failed, api.in_flight) == (21, None, 0)
    assert virtual_clock.monotonic() < 50


async def test_hanging_request_beyond_the_end_is_cancelled(virtual_clock):
    def latency(request: httpx.Request) -> float:
        return 40 if int(request.url.params["page"]) > 20 else 1

    pages, failed, api = await read(ItemsResponder(100), virtual_clock, latency, paginator=PageNumber(start=0))

    assert (len(pages), failed, api.in_flight) == (21, None, 0)
    assert virtual_clock.monotonic() < 30
    assert api.cancelled > 0


async def test_failed_middle_page_is_retried_in_order(virtual_clock):
    failures = {3: count(), 6: count()}

    def responder(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params["page"])
        return httpx.Response(503) if number in failures and next(failures[number]) < 2 else ItemsResponder()(request)

    pages, failed, _ = await read(responder, virtual_clock, paginator=COUNTED["pages"], max_tries=4)

    assert failed is None
    assert [n for _, found, _ in pages for n in found] == list(range(57))


def next_page_number(self: Any, response: Response, context: RequestContext) -> int | None:
    return (context.next_page_token or 0) + 1 if "next" in response.json() else None


def page_param(self: Any, context: RequestContext) -> dict[str, Any]:
    return {"page": context.next_page_token or 0}


SEQUENTIAL: dict[str, dict[str, Any]] = {
    "next_page_token": {
        "paginator": PageNumber(start=0, total_pages="pages_in_all"),
        "next_page_token": next_page_number,
        "request_params": page_param,
    },
    "parallel_pages": {"paginator": COUNTED["pages"], "parallel_pages": False},
    "limit": {"paginator": COUNTED["pages"], "limit": 1000},
    "max_concurrency": {"paginator": COUNTED["pages"], "max_concurrency": 1},
    "cursor": {"paginator": TOKENS["cursor"]},
}


@pytest.mark.parametrize("declaration", SEQUENTIAL.values(), ids=SEQUENTIAL)
async def test_sequential_declarations_read_page_by_page(virtual_clock, declaration):
    pages, failed, api = await read(ItemsResponder(), virtual_clock, **declaration)

    assert failed is None
    assert len(pages) == 12
    assert api.requested == [f"items/{n}" for n in range(12)]
    assert api.peak_in_flight == 1


@pytest.mark.parametrize("limit", [1, 5, 6, 20])
@pytest.mark.parametrize("paginator", ALL_PAGINATORS.values(), ids=ALL_PAGINATORS)
async def test_limit_requests_no_extra_page(virtual_clock, paginator, limit):
    pages, _, api = await read(ItemsResponder(), virtual_clock, limit=limit, paginator=paginator)

    assert sum(len(found) for _, found, _ in pages) == limit
    assert len(api.requested) == -(-limit // 5)


async def test_reset_pagination_restarts_the_slice(virtual_clock):
    refusals = count()

    def responder(request: httpx.Request) -> httpx.Response:
        is_refused = request.url.params["page"] == "6" and next(refusals) == 0
        return httpx.Response(409) if is_refused else ItemsResponder()(request)

    def classify(self: Any, response: Response, context: RequestContext) -> ResponseAction:
        reset = response.status_code == 409
        return ResponseAction.RESET_PAGINATION if reset else HttpStream.classify(self, response, context)

    found = []
    for parallel in (False, True):
        refusals = count()
        attributes = {"paginator": COUNTED["pages"], "classify": classify, "parallel_pages": parallel}
        found.append((await read(responder, virtual_clock, **attributes))[:2])

    assert found[0] == found[1]


async def test_concurrent_pages_of_many_slices_stay_in_order(virtual_clock):
    api = Api(ItemsResponder(100), uneven_latency)
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    pages, _ = await collect_pages(stream.pages(slices=slices("abcdef")))

    for name in "abcdef":
        own = [page for page in pages if page.stream_slice["at"] == name]
        assert [page.number for page in own] == list(range(20))
        assert record_ids(own) == list(range(100))
    assert 16 < api.peak_in_flight <= 32


def path_of_slice(self: Any, context: RequestContext) -> str:
    return context.stream_slice["at"]


async def test_slices_that_fill_the_slots_are_read_page_by_page(virtual_clock):
    api = Api(ItemsResponder(50))
    attributes = {"paginator": COUNTED["pages"], "path": path_of_slice, "max_concurrency": 4}
    stream = subclass(Items, **attributes)(transport=api, clock=virtual_clock)

    pages, _ = await collect_pages(stream.pages(slices=slices("abcdefgh")))

    waves = defaultdict(list)
    for key, time in zip(api.requested, api.request_times, strict=True):
        waves[time].append(key.partition("/")[0])
    assert len(pages) == len(api.requested) == 80
    assert len(waves) <= 22
    # At the beginning, before the first page has come, and at the end slots are idle.
    assert all(len(set(names)) == len(names) == 4 for names in list(waves.values())[3:12])


async def test_read_ahead_does_not_keep_the_first_response(virtual_clock):
    responses: list[weakref.ref[Response]] = []

    def keep_reference(self: Any, response: Response, context: RequestContext) -> Any:
        responses.append(weakref.ref(response))
        return response.json()["items"]

    stream = subclass(Items, paginator=COUNTED["pages"], parse_response=keep_reference)(
        transport=Api(ItemsResponder(500)), clock=virtual_clock
    )

    async with stream.pages() as pages:
        for _ in range(20):
            await anext(pages)
        gc.collect()

        assert len(responses) >= 20
        assert responses[0]() is None


async def test_idle_consumer_stops_read_ahead(virtual_clock):
    api = Api(ItemsResponder(50_000))
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    async with stream.pages() as pages:
        await anext(pages)
        await virtual_clock.sleep(1000)
        requested = len(api.requested)
        await virtual_clock.sleep(1000)

        assert len(api.requested) == requested
        assert 16 <= requested <= 16 + 32 + 2


async def count_warnings(kind: type[Any], responder: Any, clock: Any, caplog: Any) -> int:
    caplog.set_level(logging.WARNING, "asyncstreams")
    await collect_pages(kind(transport=Api(responder), clock=clock).pages(slices=slices("ab")))
    return len(caplog.records)


@pytest.mark.parametrize("paginator", [COUNTED["pages"], Offset(limit=5)], ids=["pages", "offset"])
@pytest.mark.parametrize(("repeats", "key", "expected"), [(True, "id", 1), (False, "id", 0), (True, None, 0)])
async def test_repeated_rows_are_warned_about_once(virtual_clock, caplog, paginator, repeats, key, expected):
    def responder(request: httpx.Request) -> httpx.Response:
        answer = ItemsResponder()(request)
        body = answer.json()
        offset = int(request.url.params.get("page", 0)) * 5 + int(request.url.params.get("offset", 0))
        if repeats and offset in (20, 40):
            body["items"][0] = {"id": offset - 1}
        return httpx.Response(200, json=body)

    kind = subclass(Items, paginator=paginator, primary_key=key)

    assert await count_warnings(kind, responder, virtual_clock, caplog) == expected


async def test_read_ahead_of_many_slices_is_bounded(virtual_clock):
    api = Api(ItemsResponder(500))
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    async with stream.pages(slices=slices(range(60))) as pages:
        await anext(pages)
        await virtual_clock.sleep(5000)

        assert len(api.requested) <= 16 + 4 * 32 + 32
