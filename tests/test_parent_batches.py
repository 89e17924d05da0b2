"""Are parents asked for in batches as large as the API takes them, and each of them just once?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import Api, subclass, collect_pages, real_timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_api import Customers, Orders, Shops, ids, tree

from asyncstreams import HttpStatusError, RequestContext, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


class Balances(Orders):
    """`balances?ids=1,2,3`."""

    parent_batch_size = 4
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> Any:
        return self.name

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"ids": ",".join(str(one["id"]) for one in context.stream_slice["parents"])}


class Bank:
    """Balances of so many customers at once; `refusal` is what it says to more."""

    def __init__(self, most: int = 10**9, refusal: httpx.Response | None = None, **customers: Any) -> None:
        self.most, self.refusal = most, refusal or httpx.Response(413)
        self.customers = tree(**customers)
        self.taken: list[list[int]] = []
        self.refused: list[list[int]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/balances":
            return self.customers(request)
        asked = [int(one) for one in request.url.params["ids"].split(",")]
        if len(asked) > self.most:
            self.refused.append(asked)
            return httpx.Response(self.refusal.status_code, content=self.refusal.content)
        self.taken.append(asked)
        return httpx.Response(200, json={"items": [{"id": one} for one in asked]})


def balances(bank: Bank, clock: VirtualClock, parent: Any = None, **attributes: Any) -> Any:
    api = Api(bank)
    return subclass(Balances, **attributes)(api, clock, parent or Customers(api, clock))  # type: ignore[arg-type]


async def test_batches_are_filled_over_pages_and_the_last_one_is_short(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=5, size=3)

    pages, _ = await collect_pages(balances(bank, virtual_clock).pages())

    assert sorted(bank.taken) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]
    assert [page.stream_slice["parents"] for page in sorted(pages, key=lambda page: page.records[0]["id"])][-1] == [
        {"id": 12},
        {"id": 13},
        {"id": 14},
    ]


async def test_a_page_of_more_parents_than_a_batch_makes_several(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=1, size=11)

    assert ids(await balances(bank, virtual_clock).read()) == list(range(11))
    assert sorted(map(len, bank.taken)) == [3, 4, 4]


async def test_a_batch_holds_the_records_of_one_parent(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=3, size=2)
    api = Api(bank)
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]

    pages, _ = await collect_pages(Balances(api, virtual_clock, parents).pages())

    held = Counter((page.stream_slice["parent_stream"], len(page.stream_slice["parents"])) for page in pages)
    assert held == {(name, size): 1 for name in ("customers", "shops") for size in (4, 2)}


async def test_no_parents_are_no_batch(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=0)

    assert await balances(bank, virtual_clock).read() == []
    assert (bank.taken, bank.refused) == ([], [])


REFUSALS = {
    "413": httpx.Response(413),
    "414": httpx.Response(414, text="<html>URI Too Long</html>"),
    "400-many": httpx.Response(400, json={"error": "Too many ids"}),
    "400-maximum": httpx.Response(400, json={"message": "ids: maximum is 3"}),
    "400-long": httpx.Response(400, json={"errors": [{"detail": "filter is too long"}]}),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_batch_that_is_too_large_is_read_in_halves_and_later_ones_are_made_no_larger(
    virtual_clock: VirtualClock, refusal: httpx.Response
) -> None:
    bank = Bank(3, refusal, pages=10, size=16)
    source = Source([balances(bank, virtual_clock, parent_batch_size=16, max_concurrency=1)])
    reading = source.pages()

    pages, _ = await collect_pages(reading)

    assert sorted(one for part in bank.taken for one in part) == list(range(160))
    assert sorted(map(len, bank.refused), reverse=True)[:3] == [16, 8, 8]
    assert len(bank.refused) < 10, "what was learnt with the first batch holds for those that come later"
    assert {len(part) for part in bank.taken} <= {1, 2, 3}
    assert len(pages) == len(bank.taken)
    (line,) = reading.report.streams
    assert (line.failed, line.records, line.slices) == (0, 160, len(bank.taken))


async def test_a_single_parent_that_is_refused_is_a_failure_of_its_own(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=2, size=4)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = request.url.params.get("ids", "").split(",")
        return httpx.Response(413) if "5" in asked else bank(request)

    api = Api(answer)

    pages, failure = await collect_pages(Balances(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure)

    assert ids(record for page in pages for record in page.records) == [0, 1, 2, 3, 4, 6, 7]
    assert [(error.status, error.stream_slice["parents"]) for error in failure.errors] == [(413, [{"id": 5}])]


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_another_refusal_is_not_split(virtual_clock: VirtualClock, status: int) -> None:
    bank = Bank(0, httpx.Response(status, json={"error": "no such filter"}), pages=1, size=4)

    with pytest.raises(PartialFailure) as caught:
        await balances(bank, virtual_clock).read()

    (error,) = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert error.status == status
    assert bank.refused == [[0, 1, 2, 3]]


async def test_what_was_handed_over_of_a_batch_is_not_asked_for_again(virtual_clock: VirtualClock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/balances":
            return tree(pages=1, size=4)(request)
        if "page" in request.url.params:
            return httpx.Response(413)
        return httpx.Response(200, json={"items": [{"id": 0}], "next": 1})

    api = Api(answer)

    pages, failure = await collect_pages(Balances(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure)

    assert [page.records for page in pages] == [[{"id": 0}]]
    assert [(error.status, error.page) for error in failure.errors] == [(413, 1)]
    assert api.requested == ["customers/0", "balances/0", "balances/1"]


@settings(max_examples=60, deadline=None)
@given(
    pages=st.integers(0, 6),
    size=st.integers(1, 9),
    batch=st.integers(1, 20),
    most=st.integers(1, 20),
    at_once=st.integers(1, 8),
    seconds=st.lists(st.sampled_from([0.0, 0.1, 3.0]), min_size=1, max_size=5),
)
def test_property_each_parent_is_asked_about_once_with_success_whatever_the_api_takes(
    pages: int, size: int, batch: int, most: int, at_once: int, seconds: list[float]
) -> None:
    bank = Bank(most, pages=pages, size=size)
    clock = VirtualClock()

    async def live() -> list[Any]:
        clock.monotonic()  # from here on it is this loop's
        turns = iter(range(10**9))
        api = Api(bank, latency=lambda _: seconds[next(turns) % len(seconds)])
        kind: Any = subclass(Balances, parent_batch_size=batch)  # type: ignore[arg-type]
        stream = kind(api, clock, Customers(api, clock))
        async with asyncio.timeout(1e6):
            return (await Source([stream], max_concurrency=at_once).read())["balances"]

    found = asyncio.run(live())

    everybody = list(range(pages * size))
    assert ids(found) == everybody
    assert sorted(one for part in bank.taken for one in part) == everybody
    assert all(len(part) <= min(batch, most) for part in bank.taken)
    assert all(len(part) <= batch for part in bank.refused)
