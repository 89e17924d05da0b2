"""Progress of substreams: the numbers of known and finished parents."""

from __future__ import annotations

import io
from typing import Any

import httpx
from fake_api import Api
from rich.console import Console

from asyncstreams import HttpStream, HttpSubStream, PageNumber, ParentsDiscovered, Source
from asyncstreams.progress import Progress
from asyncstreams.testing import VirtualClock


class Customers(HttpStream):
    url_base = "https://api.test/"
    records_path = "items"
    paginator = PageNumber(total_pages="pages")
    parallel_pages = False

    def path(self, context: Any) -> str:
        return "customers"


class Orders(HttpSubStream):
    url_base = "https://api.test/"

    def path(self, context: Any) -> tuple[Any, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


def respond(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/customers":
        first = 10 * int(request.url.params.get("page", 1))
        return httpx.Response(200, json={"items": [{"id": first + n} for n in range(3)], "pages": 4})
    return httpx.Response(200, json=[{"of": request.url.path}])


def source(clock: VirtualClock) -> Source:
    return Source([Orders(Customers())], transport=Api(respond, latency=1), clock=clock, seed=1)


async def test_parents_discovered_events_count_up_to_all(virtual_clock: VirtualClock) -> None:
    events: list[ParentsDiscovered] = []
    shop = source(virtual_clock)
    shop.subscribe(lambda event: events.append(event) if isinstance(event, ParentsDiscovered) else None)

    await shop.read()

    counts = [event.count for event in events]
    assert counts == sorted(counts)
    assert 3 in counts
    assert [event.is_all for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1] == ParentsDiscovered("orders", 12, True)


async def test_table_and_explain_show_done_and_known_parents(virtual_clock: VirtualClock) -> None:
    shop = source(virtual_clock)
    console = Console(file=io.StringIO(), width=200)
    read = shop.pages()

    with Progress(shop, console=console, clock=virtual_clock):
        async with read as pages:
            await anext(aiter(pages))
            first = read.explain()
            async for _ in pages:
                pass

    assert "of 6 parents so far" in first
    assert "12 slices done of 12 parents," in read.explain()
    assert "12 of 12" in console.file.getvalue()
