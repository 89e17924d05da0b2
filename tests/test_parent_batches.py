"""Batches of parents in one slice (`parent_batch_size`), and their splitting if the API refuses them as too large."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import Api, collect_pages, real_timeout, subclass
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples
from tree_api import Customers, Orders, Shops, sorted_ids, tree_responder

from asyncstreams import HttpStatusError, RequestContext, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


class Balances(Orders):
    """`balances?ids=1,2,3`."""

    parent_batch_size = 4
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> Any:
        return self.name

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"ids": ",".join(str(parent["id"]) for parent in context.stream_slice["parents"])}


class Bank:
    """An API for the balances of up to `max_batch` customers at once; it responds to more with `refusal`."""

    def __init__(self, max_batch: int = 10**9, refusal: httpx.Response | None = None, **customers: Any) -> None:
        self.max_batch, self.refusal = max_batch, refusal or httpx.Response(413)
        self.customers = tree_responder(**customers)
        self.accepted: list[list[int]] = []
        self.refused: list[list[int]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/balances":
            return self.customers(request)
        batch = [int(id_) for id_ in request.url.params["ids"].split(",")]
        if len(batch) > self.max_batch:
            self.refused.append(batch)
            return httpx.Response(self.refusal.status_code, content=self.refusal.content)
        self.accepted.append(batch)
        return httpx.Response(200, json={"items": [{"id": id_} for id_ in batch]})


def balances(bank: Bank, clock: VirtualClock, parent: Any = None, **attributes: Any) -> Any:
    api = Api(bank)
    return subclass(Balances, **attributes)(api, clock, parent or Customers(api, clock))  # type: ignore[arg-type]


async def test_batches_span_pages_and_the_last_one_is_short(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=5, size=3)

    pages, _ = await collect_pages(balances(bank, virtual_clock).pages())

    assert sorted(bank.accepted) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]
    assert [page.stream_slice["parents"] for page in sorted(pages, key=lambda page: page.records[0]["id"])][-1] == [
        {"id": 12},
        {"id": 13},
        {"id": 14},
    ]


async def test_large_parent_page_is_split_into_batches(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=1, size=11)

    assert sorted_ids(await balances(bank, virtual_clock).read()) == list(range(11))
    assert sorted(map(len, bank.accepted)) == [3, 4, 4]


async def test_batch_contains_records_of_one_parent_stream(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=3, size=2)
    api = Api(bank)
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]

    pages, _ = await collect_pages(Balances(api, virtual_clock, parents).pages())

    sizes = Counter((page.stream_slice["parent_stream"], len(page.stream_slice["parents"])) for page in pages)
    assert sizes == {(name, size): 1 for name in ("customers", "shops") for size in (4, 2)}


async def test_no_parents_means_no_batch(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=0)

    assert await balances(bank, virtual_clock).read() == []
    assert (bank.accepted, bank.refused) == ([], [])


REFUSALS = {
    "413": httpx.Response(413),
    "414": httpx.Response(414, text="<html>URI Too Long</html>"),
    "400-many": httpx.Response(400, json={"error": "Too many ids"}),
    "400-maximum": httpx.Response(400, json={"message": "ids: maximum is 3"}),
    "400-long": httpx.Response(400, json={"errors": [{"detail": "filter is too long"}]}),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_too_large_batch_is_halved_and_later_ones_are_smaller(
    virtual_clock: VirtualClock, refusal: httpx.Response
) -> None:
    bank = Bank(3, refusal, pages=10, size=16)
    source = Source([balances(bank, virtual_clock, parent_batch_size=16, max_concurrency=1)])
    read = source.pages()

    pages, _ = await collect_pages(read)

    assert sorted(id_ for batch in bank.accepted for id_ in batch) == list(range(160))
    assert sorted(map(len, bank.refused), reverse=True)[:3] == [16, 8, 8]
    assert len(bank.refused) < 10, "the size found with the first batch also holds for later ones"
    assert {len(batch) for batch in bank.accepted} <= {1, 2, 3}
    assert len(pages) == len(bank.accepted)
    (stream,) = read.report.streams
    assert (stream.failed, stream.records, stream.slices) == (0, 160, len(bank.accepted))


async def test_refused_single_parent_fails_alone(virtual_clock: VirtualClock) -> None:
    bank = Bank(pages=2, size=4)

    def respond(request: httpx.Request) -> httpx.Response:
        batch = request.url.params.get("ids", "").split(",")
        return httpx.Response(413) if "5" in batch else bank(request)

    api = Api(respond)

    pages, failure = await collect_pages(
        Balances(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure
    )

    assert sorted_ids(record for page in pages for record in page.records) == [0, 1, 2, 3, 4, 6, 7]
    assert [(error.status, error.stream_slice["parents"]) for error in failure.errors] == [(413, [{"id": 5}])]


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_other_client_errors_do_not_split_the_batch(virtual_clock: VirtualClock, status: int) -> None:
    bank = Bank(0, httpx.Response(status, json={"error": "no such filter"}), pages=1, size=4)

    with pytest.raises(PartialFailure) as caught:
        await balances(bank, virtual_clock).read()

    (error,) = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert error.status == status
    assert bank.refused == [[0, 1, 2, 3]]


async def test_batch_refused_after_its_first_page_is_not_split(virtual_clock: VirtualClock) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/balances":
            return tree_responder(pages=1, size=4)(request)
        if "page" in request.url.params:
            return httpx.Response(413)
        return httpx.Response(200, json={"items": [{"id": 0}], "next": 1})

    api = Api(respond)

    pages, failure = await collect_pages(
        Balances(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure
    )

    assert [page.records for page in pages] == [[{"id": 0}]]
    assert [(error.status, error.page) for error in failure.errors] == [(413, 1)]
    assert api.requested == ["customers/0", "balances/0", "balances/1"]


@examples(full=60, short=12)
@given(
    pages=st.integers(0, 6),
    size=st.integers(1, 9),
    batch_size=st.integers(1, 20),
    max_batch=st.integers(1, 20),
    max_concurrency=st.integers(1, 8),
    latencies=st.lists(st.sampled_from([0.0, 0.1, 3.0]), min_size=1, max_size=5),
)
def test_property_each_parent_succeeds_once_for_any_batch_limit(
    pages: int, size: int, batch_size: int, max_batch: int, max_concurrency: int, latencies: list[float]
) -> None:
    bank = Bank(max_batch, pages=pages, size=size)
    clock = VirtualClock()

    async def read() -> list[Any]:
        clock.monotonic()  # attaches the clock to this loop
        numbers = iter(range(10**9))
        api = Api(bank, latency=lambda _: latencies[next(numbers) % len(latencies)])
        kind: Any = subclass(Balances, parent_batch_size=batch_size)  # type: ignore[arg-type]
        stream = kind(api, clock, Customers(api, clock))
        async with asyncio.timeout(1e6):
            return (await Source([stream], max_concurrency=max_concurrency).read())["balances"]

    found = asyncio.run(read())

    expected = list(range(pages * size))
    assert sorted_ids(found) == expected
    assert sorted(id_ for batch in bank.accepted for id_ in batch) == expected
    assert all(len(batch) <= min(batch_size, max_batch) for batch in bank.accepted)
    assert all(len(batch) <= batch_size for batch in bank.refused)
