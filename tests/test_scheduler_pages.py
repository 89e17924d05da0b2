"""Are pages that are fetched ahead, or side by side, the same as those that are read one after the other?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
from fake_api import Api, subclass, record_ids, slices, collect_pages, real_timeout

from asyncstreams import (
    Backoff,
    Continuation,
    Cursor,
    HttpStream,
    LinkHeader,
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
class Shop:
    """An API of so many rows, which answers what every paginator asks, and has its whims."""

    rows: int = 57
    size: int = 5
    short: tuple[int, ...] = ()
    """Pages that miss their first row."""
    empty: tuple[int, ...] = ()
    more: int = 0
    """How many rows too many the totals tell; negative: too few."""
    beyond: int = 200
    """The status of pages after the end."""
    after: int = 0
    """Only so many pages after the end have it."""
    faults: tuple[tuple[int, int], ...] = ()
    """Pages, and the status that they have."""
    repeats: int = 10**9
    """From this page on, every page is this one."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        begin = int(asked["offset"]) if "offset" in asked else int(asked.get("page", 0)) * self.size
        number = begin // self.size
        begin = min(begin, self.repeats * self.size)
        last = max(0, (self.rows - 1) // self.size)
        if number > last + self.after and self.beyond != 200:
            return httpx.Response(self.beyond)
        if status := dict(self.faults).get(number):
            return httpx.Response(status)
        found = [{"id": n} for n in range(begin, min(begin + self.size, self.rows))]
        found = [] if number in self.empty else found[1:] if number in self.short else found
        total = self.rows + self.more
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
TOLD: dict[str, Any] = {
    "cursor": Cursor("next", param="page"),
    "url": NextUrl("url"),
    "continuation": Continuation("continue"),
}
EVERY = COUNTED | UNCOUNTED | TOLD

SHOPS = {
    "well": Shop(),
    "whole-pages": Shop(rows=60),
    "one-page": Shop(rows=3),
    "one-whole-page": Shop(rows=5),
    "two-pages": Shop(rows=6),
    "nothing": Shop(rows=0),
    "short-first": Shop(short=(0,)),
    "short-second": Shop(short=(1,)),
    "short-middle": Shop(short=(4, 5, 8)),
    "empty-middle": Shop(empty=(6,)),
    "empty-first": Shop(empty=(0,)),
    "totals-too-large": Shop(more=30),
    "totals-too-small": Shop(more=-30),
    "total-zero": Shop(more=-57),
    "error-beyond": Shop(beyond=404),
    "sick-beyond": Shop(beyond=500, after=1),
    "denied-beyond": Shop(beyond=401, after=1),
    "forbidden-beyond": Shop(beyond=403, after=1, rows=60),
    "fails-in-the-middle": Shop(faults=((5, 404),)),
    "fails-twice": Shop(faults=((5, 404), (3, 410))),
    "fails-second": Shop(faults=((1, 500),)),
    "denied-in-the-middle": Shop(faults=((5, 401),)),
    "forbidden-in-the-middle": Shop(faults=((4, 403),)),
    "204-in-the-middle": Shop(faults=((5, 204),)),
    "ignored-in-the-middle": Shop(faults=((5, 418),)),
    "the-same-again": Shop(repeats=4),
    "the-same-from-the-start": Shop(repeats=0, rows=60),
}


def uneven(request: httpx.Request) -> float:
    """Later pages often overtake earlier ones."""
    number = int(request.url.params.get("page", 0)) + int(request.url.params.get("offset", 0)) // 5
    return 0.2 + number * 7 % 5


async def read(shop: Any, clock: Any, seconds: Any = 1.0, limit: int | None = None, **attributes: Any) -> Any:
    """What came: the pages, and the error."""
    api = Api(shop, seconds)
    stream = subclass(Items, **attributes)(transport=api, clock=clock)
    pages, error = await collect_pages(stream.pages(limit=limit), any_error=True)
    came = [(page.number, record_ids([page]), page.is_last) for page in pages]
    failed = error and (type(error), getattr(error, "page", None), getattr(error, "status", None))
    return came, failed, api


def ignoring(self: Any, response: Response, context: RequestContext) -> ResponseAction:
    return ResponseAction.IGNORE if response.status_code == 418 else HttpStream.classify(self, response, context)


@pytest.mark.parametrize("shop", SHOPS.values(), ids=SHOPS)
@pytest.mark.parametrize("paginator", EVERY.values(), ids=EVERY)
async def test_concurrent_pages_equal_sequential_pages(virtual_clock, paginator, shop):
    plain = {"paginator": paginator, "classify": ignoring, "max_pages": 40}

    expected = await read(shop, virtual_clock, parallel_pages=False, **plain)
    for seconds in (1.0, uneven):
        assert (await read(shop, virtual_clock, seconds, **plain))[:2] == expected[:2]


@pytest.mark.parametrize("paginator", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("rows", [3, 5, 6, 57, 60, 500])
async def test_known_total_reads_concurrently_without_waste(virtual_clock, paginator, rows):
    came, failed, api = await read(Shop(rows), virtual_clock, paginator=paginator, max_concurrency=8)

    pages = -(-rows // 5)
    assert failed is None
    assert [n for _, found, _ in came for n in found] == list(range(rows))
    assert len(api.requested) == pages
    assert api.peak_in_flight == max(1, min(8, pages - 1))
    assert api.request_times[-1] - api.request_times[0] == pytest.approx(-(-(pages - 1) // 8), abs=1.1)


@pytest.mark.parametrize("paginator", [PageNumber(start=0), Offset(limit=5)], ids=["pages", "offset"])
@pytest.mark.parametrize("rows", [5, 10, 25, 57, 400])
async def test_unknown_total_wastes_no_more_requests_than_pages(virtual_clock, paginator, rows):
    came, failed, api = await read(Shop(rows), virtual_clock, paginator=paginator)

    assert failed is None
    assert [n for _, found, _ in came for n in found] == list(range(rows))
    assert len(api.requested) <= 2 * len(came)
    for place, time in enumerate(api.request_times):
        over = sum(earlier < time - 0.9 for earlier in api.request_times)
        assert place + 1 <= 2 * over + 1


@pytest.mark.parametrize("paginator", [PageNumber(start=0), Offset(limit=5)], ids=["pages", "offset"])
async def test_unknown_total_is_faster_than_page_by_page(virtual_clock, paginator):
    _, _, api = await read(Shop(400), virtual_clock, paginator=paginator)

    assert api.request_times[-1] - api.request_times[0] < 20
    assert api.peak_in_flight > 8


async def test_short_page_stops_read_ahead(virtual_clock):
    shop, paginator = Shop(100, short=(1,)), PageNumber(start=0)

    came, _, api = await read(shop, virtual_clock, paginator=paginator)

    assert len(came) == 21
    assert len(api.requested) <= 21 + 1
    assert api.peak_in_flight <= 2


@pytest.mark.parametrize("fault", [404, 500, 401, httpx.ConnectError("gone"), AssertionError("not mocked")], ids=str)
async def test_failed_request_beyond_the_end_is_ignored(virtual_clock, fault):
    def shop(request: httpx.Request) -> httpx.Response:
        if int(request.url.params["page"]) > 20:
            if isinstance(fault, Exception):
                raise fault
            return httpx.Response(fault)
        return Shop(100)(request)

    came, failed, api = await read(shop, virtual_clock, paginator=PageNumber(start=0))

    assert failed is None
    assert len(came) == 21
    assert any(int(one.split("/")[1]) > 20 for one in api.requested), "no guess was wrong, so this shows nothing"


async def test_backoff_beyond_the_end_is_not_awaited(virtual_clock):
    shop = Shop(100, beyond=500, after=1)

    came, failed, api = await read(
        shop, virtual_clock, paginator=PageNumber(start=0), max_tries=5, backoff_time=lambda self, response: 100.0
    )

    assert (len(came), failed, api.in_flight) == (21, None, 0)
    assert virtual_clock.monotonic() < 50


async def test_hanging_request_beyond_the_end_is_cancelled(virtual_clock):
    def seconds(request: httpx.Request) -> float:
        return 40 if int(request.url.params["page"]) > 20 else 1

    came, failed, api = await read(Shop(100), virtual_clock, seconds, paginator=PageNumber(start=0))

    assert (len(came), failed, api.in_flight) == (21, None, 0)
    assert virtual_clock.monotonic() < 30
    assert api.cancelled > 0


async def test_failed_middle_page_is_retried_in_order(virtual_clock):
    sick = {3: count(), 6: count()}

    def shop(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params["page"])
        return httpx.Response(503) if number in sick and next(sick[number]) < 2 else Shop()(request)

    came, failed, _ = await read(shop, virtual_clock, paginator=COUNTED["pages"], max_tries=4)

    assert failed is None
    assert [n for _, found, _ in came for n in found] == list(range(57))


def counting(self: Any, response: Response, context: RequestContext) -> int | None:
    return (context.next_page_token or 0) + 1 if "next" in response.json() else None


def by_token(self: Any, context: RequestContext) -> dict[str, Any]:
    return {"page": context.next_page_token or 0}


ONE_BY_ONE: dict[str, dict[str, Any]] = {
    "next_page_token": {"paginator": PageNumber(start=0, total_pages="pages_in_all"), "next_page_token": counting}
    | {"request_params": by_token},
    "parallel_pages": {"paginator": COUNTED["pages"], "parallel_pages": False},
    "limit": {"paginator": COUNTED["pages"], "limit": 1000},
    "max_concurrency": {"paginator": COUNTED["pages"], "max_concurrency": 1},
    "cursor": {"paginator": TOLD["cursor"]},
}


@pytest.mark.parametrize("declaration", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
async def test_sequential_declarations_read_page_by_page(virtual_clock, declaration):
    came, failed, api = await read(Shop(), virtual_clock, **declaration)

    assert failed is None
    assert len(came) == 12
    assert api.requested == [f"items/{n}" for n in range(12)]
    assert api.peak_in_flight == 1


@pytest.mark.parametrize("limit", [1, 5, 6, 20])
@pytest.mark.parametrize("paginator", EVERY.values(), ids=EVERY)
async def test_limit_requests_no_extra_page(virtual_clock, paginator, limit):
    came, _, api = await read(Shop(), virtual_clock, limit=limit, paginator=paginator)

    assert sum(len(found) for _, found, _ in came) == limit
    assert len(api.requested) == -(-limit // 5)


async def test_reset_pagination_restarts_the_slice(virtual_clock):
    refused = count()

    def shop(request: httpx.Request) -> httpx.Response:
        return httpx.Response(409) if request.url.params["page"] == "6" and next(refused) == 0 else Shop()(request)

    def classify(self: Any, response: Response, context: RequestContext) -> ResponseAction:
        reset = response.status_code == 409
        return ResponseAction.RESET_PAGINATION if reset else HttpStream.classify(self, response, context)

    found = []
    for parallel in (False, True):
        refused = count()
        came = await read(shop, virtual_clock, paginator=COUNTED["pages"], classify=classify, parallel_pages=parallel)
        found.append(came[:2])

    assert found[0] == found[1]


async def test_concurrent_pages_of_many_slices_stay_in_order(virtual_clock):
    api = Api(Shop(100), uneven)
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    pages, _ = await collect_pages(stream.pages(slices=slices("abcdef")))

    for name in "abcdef":
        own = [page for page in pages if page.stream_slice["at"] == name]
        assert [page.number for page in own] == list(range(20))
        assert record_ids(own) == list(range(100))
    assert 16 < api.peak_in_flight <= 32


async def test_idle_consumer_stops_read_ahead(virtual_clock):
    api = Api(Shop(50_000))
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    async with stream.pages() as pages:
        await anext(pages)
        await virtual_clock.sleep(1000)
        asked = len(api.requested)
        await virtual_clock.sleep(1000)

        assert len(api.requested) == asked
        assert 16 <= asked <= 16 + 32 + 2


async def warnings_of(kind: type[Any], shop: Any, clock: Any, caplog: Any) -> int:
    caplog.set_level(logging.WARNING, "asyncstreams")
    await collect_pages(kind(transport=Api(shop), clock=clock).pages(slices=slices("ab")))
    return len(caplog.records)


@pytest.mark.parametrize("paginator", [COUNTED["pages"], Offset(limit=5)], ids=["pages", "offset"])
@pytest.mark.parametrize(("again", "key", "warned"), [(True, "id", 1), (False, "id", 0), (True, None, 0)])
async def test_repeated_rows_are_warned_about_once(
    virtual_clock, caplog, paginator, again, key, warned
):
    def shop(request: httpx.Request) -> httpx.Response:
        answer = Shop()(request)
        body = answer.json()
        offset = int(request.url.params.get("page", 0)) * 5 + int(request.url.params.get("offset", 0))
        if again and offset in (20, 40):
            body["items"][0] = {"id": offset - 1}
        return httpx.Response(200, json=body)

    kind = subclass(Items, paginator=paginator, primary_key=key)

    assert await warnings_of(kind, shop, virtual_clock, caplog) == warned


async def test_read_ahead_of_many_slices_is_bounded(virtual_clock):
    api = Api(Shop(500))
    stream = subclass(Items, paginator=COUNTED["offset"])(transport=api, clock=virtual_clock)

    async with stream.pages(slices=slices(range(60))) as pages:
        await anext(pages)
        await virtual_clock.sleep(5000)

        assert len(api.requested) <= 16 + 4 * 32 + 32
