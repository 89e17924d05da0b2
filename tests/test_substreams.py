"""Substreams: one slice for each parent record, and one read of each parent for all its children."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from fake_api import Api, collect_pages, page_key, real_timeout, subclass
from tree_api import (
    Customers,
    Invoices,
    Lines,
    Orders,
    Shops,
    request_time,
    requested_pages,
    sorted_ids,
    tree_responder,
)

from asyncstreams import (
    ConfigError,
    HttpSubStream,
    RequestContext,
    Slice,
    Source,
    TokenAuthenticator,
)
from asyncstreams.testing import VirtualClock


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_each_parent_record_is_a_slice(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=2, child_pages=2, fields={"name": "Ann"}))
    customers = Customers(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)

    pages, _ = await collect_pages(orders.pages())

    assert orders.parents == (customers,)
    assert sorted((page.stream, page.stream_slice["parent"]["id"], page.number) for page in pages) == [
        ("orders", parent, number) for parent in range(4) for number in range(2)
    ]
    for page in pages:
        assert type(page.stream_slice) is Slice
        assert page.stream_slice == Slice({"parent": {"id": page.stream_slice["parent"]["id"], "name": "Ann"}})
        assert page.records == [{"id": f"{page.stream_slice['parent']['id']}-{page.number}"}]
    assert Counter(api.requested) == Counter(
        ["customers/0", "customers/1", *(f"customers/{n}/orders/{page}" for n in range(4) for page in range(2))]
    )


ODD = {
    "large": 2**70,
    "small": -0.1,
    "text": "söhne \u2028 \U0001f600 \x00",
    "nested": {"list": [None, True, [], {}, [1, {"a": ""}]]},
    "": "no name",
}


async def test_slice_contains_the_record_as_the_api_sent_it(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=1, size=1, fields=ODD))

    pages, _ = await collect_pages(Orders(api, virtual_clock, Customers(api, virtual_clock)).pages())

    (found,) = (page.stream_slice["parent"] for page in pages)
    assert found == {"id": 0, **ODD}
    assert type(found["large"]) is int


async def test_slice_contains_only_parent_fields_with_their_nesting(virtual_clock: VirtualClock) -> None:
    fields = {"name": "Ann", "shop": {"city": "Ulm", "street": "x", "owner": {"id": 5, "age": 4}}, "empty": None}
    api = Api(tree_responder(fields=fields))
    kind = subclass(Orders, parent_fields=("id", "shop.city", "shop.owner.id", "empty"))  # type: ignore[arg-type]

    pages, _ = await collect_pages(kind(api, virtual_clock, Customers(api, virtual_clock)).pages())

    assert len(pages) == 6
    shops = {"city": "Ulm", "owner": {"id": 5}}
    assert [page.stream_slice for page in sorted(pages, key=lambda page: page.stream_slice["parent"]["id"])] == [
        {"parent": {"id": n, "shop": shops, "empty": None}} for n in range(6)
    ]


async def test_slices_of_several_parents_name_their_stream(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=3), latency=lambda request: 50 if page_key(request) == "shops/1" else 1)
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]
    orders = Orders(api, virtual_clock, parents)

    pages, _ = await collect_pages(orders.pages())

    assert orders.parents == tuple(parents)
    assert all(set(page.stream_slice) == {"parent", "parent_stream"} for page in pages)
    assert sorted((page.stream_slice["parent_stream"], page.stream_slice["parent"]["id"]) for page in pages) == [
        (name, n) for name in ("customers", "shops") for n in range(6)
    ]
    assert max(request_time(api, f"customers/{n}/orders/0") for n in range(6)) < 20, "slow shops do not delay customers"


async def test_substream_can_be_the_parent_of_another(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=2, child_pages=2))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))

    lines = await Lines(api, virtual_clock, orders).read()

    # The third level has 2 pages for each of the 8 orders.
    assert sorted_ids(lines) == sorted(f"{n}-{page}-{line}" for n in range(4) for page in range(2) for line in range(2))
    assert len(api.requested) == len(set(api.requested)) == 2 + 8 + 16


@pytest.mark.parametrize("selected", [(), ("customers",)], ids=["not-selected", "selected"])
@pytest.mark.parametrize("equal", [False, True], ids=["same", "equal"])
async def test_parent_is_fetched_once_for_all_its_children(
    virtual_clock: VirtualClock, selected: tuple[str, ...], equal: bool
) -> None:
    api = Api(tree_responder(pages=5))
    customers = [Customers(api, virtual_clock) for _ in range(3)]
    first, second, listed = customers if equal else customers[:1] * 3
    source = Source([Orders(api, virtual_clock, first), Invoices(api, virtual_clock, second), listed])
    read = source.pages("orders", "invoices", *selected)

    pages, _ = await collect_pages(read)

    found = Counter(page.stream for page in pages for _ in page.records)
    assert found == Counter({"orders": 10, "invoices": 10}) + Counter(dict.fromkeys(selected, 10))
    assert {stream.stream: stream.records for stream in read.report.streams} == dict(found)
    assert requested_pages(api, "customers") == list("01234")
    assert len(api.requested) == 5 + 10 + 10


class Regional(Customers):
    """Customers of a region, which is a request parameter."""

    region = "eu"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"region": self.region}


async def test_parents_with_different_requests_are_fetched_separately(virtual_clock: VirtualClock) -> None:
    api = Api(lambda request: tree_responder(pages=2, fields={"region": request.url.params.get("region")})(request))
    european, american = Regional(api, virtual_clock), Regional(api, virtual_clock)
    american.region, american.name = "us", "americans"
    source = Source([Orders(api, virtual_clock, european), Invoices(api, virtual_clock, american)])

    pages, _ = await collect_pages(source.pages())

    assert len(pages) == 8
    assert {(page.stream, page.stream_slice["parent"]["region"]) for page in pages} == {
        ("orders", "eu"),
        ("invoices", "us"),
    }


@pytest.mark.parametrize("difference", ["token", "attribute", "class"])
@pytest.mark.parametrize("selected", [False, True])
async def test_different_parents_with_the_same_name_are_refused(
    virtual_clock: VirtualClock, difference: str, selected: bool
) -> None:
    api = Api(tree_responder())
    first = Customers(api, virtual_clock, authenticator=TokenAuthenticator("a"))
    kind = subclass(Customers, request_params=lambda self, context: {"a": 1}) if difference == "class" else Customers
    second = kind(api, virtual_clock, authenticator=TokenAuthenticator("b" if difference == "token" else "a"))
    if difference == "attribute":
        second.region = "us"
    source = Source([Orders(api, virtual_clock, first), second if selected else Invoices(api, virtual_clock, second)])

    with pytest.raises(ConfigError, match="'customers'"):
        await source.read()

    assert api.requested == []


async def test_children_start_with_the_first_page_of_the_parent(
    virtual_clock: VirtualClock,
) -> None:
    api = Api(tree_responder(pages=10, child_pages=2))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))

    async with orders.pages() as pages:
        first = await anext(aiter(pages))
        assert len(requested_pages(api, "customers")) < 5
        rest = [page async for page in pages]

    assert len([first, *rest]) == 40
    assert request_time(api, "customers/0/orders/0") == pytest.approx(1, abs=0.1)
    assert request_time(api, "customers/9") == pytest.approx(9, abs=0.1), "the parent does not wait for the children"


async def slow_slices(self: Any, state: Any) -> AsyncIterator[Slice]:
    async for stream_slice in HttpSubStream.stream_slices(self, state):
        await asyncio.sleep(50)
        yield stream_slice


@pytest.mark.parametrize("cause", ["slow-api", "slow-slices"])
async def test_slow_child_delays_neither_siblings_nor_parent(virtual_clock: VirtualClock, cause: str) -> None:
    is_api_slow = cause == "slow-api"
    api = Api(
        tree_responder(pages=8), latency=lambda request: 50 if is_api_slow and "/orders" in request.url.path else 1
    )
    customers = Customers(api, virtual_clock)
    slow = Orders if is_api_slow else subclass(Orders, stream_slices=slow_slices)  # type: ignore[arg-type]
    source = Source([slow(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])
    page_times: dict[str, list[float]] = {"customers": [], "invoices": [], "orders": []}

    async with source.pages() as pages:
        async for page in pages:
            page_times[page.stream].append(virtual_clock.monotonic())

    assert {name: len(times) for name, times in page_times.items()} == {"customers": 8, "invoices": 16, "orders": 16}
    assert max(page_times["customers"] + page_times["invoices"]) < 20
    assert max(page_times["orders"]) >= 50
    assert requested_pages(api, "customers") == list("01234567")


@pytest.mark.parametrize(("limit", "parents"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (20, 10)])
async def test_limit_requests_only_the_parents_it_needs(virtual_clock: VirtualClock, limit: int, parents: int) -> None:
    api = Api(tree_responder(pages=10))

    found = await Orders(api, virtual_clock, Customers(api, virtual_clock)).read(limit=limit)

    assert len(found) == limit
    assert requested_pages(api, "customers") == [str(n) for n in range(parents)]
    assert len(requested_pages(api, "orders")) == limit


async def test_limited_parent_is_read_further_for_its_child(
    virtual_clock: VirtualClock,
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        is_empty = "/orders" in request.url.path and int(request.url.path.split("/")[2]) < 7
        return httpx.Response(200, json={"items": [], "next": None}) if is_empty else tree_responder(pages=10)(request)

    api = Api(respond)
    customers = Customers(api, virtual_clock)

    found = await Source([customers, Orders(api, virtual_clock, customers)]).read(limit=3)

    assert found["customers"] == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert [record["id"] for record in found["orders"]] == ["7-0", "8-0", "9-0"]
    assert requested_pages(api, "customers") == list("01234")


@pytest.mark.parametrize("limit", [None, 5])
async def test_no_parents_means_no_slices_and_no_error(virtual_clock: VirtualClock, limit: int | None) -> None:
    api = Api(tree_responder(pages=0))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    source = Source([orders, Lines(api, virtual_clock, orders)])

    assert await orders.read(limit=limit) == []
    assert await source.read(limit=limit) == {"orders": [], "lines": []}
    assert api.requested == ["customers/0"] * 2


async def test_child_is_available_if_its_parents_are(virtual_clock: VirtualClock) -> None:
    api, empty = Api(tree_responder(pages=3)), Api(tree_responder(pages=0))
    source = Source([Orders(api, virtual_clock, Customers(api, virtual_clock))])
    orders = Orders(empty, virtual_clock, Customers(empty, virtual_clock))

    available, reason = await orders.check_availability()

    assert not available
    assert "customers" in str(reason)
    assert "no records" in str(reason)
    assert empty.requested == ["customers/0"]
    assert [check.available for check in (await source.check()).streams] == [True]
    assert api.requested == ["customers/0", "customers/0/orders/0"]


async def test_stream_slices_can_filter_and_extend_slices(virtual_clock: VirtualClock) -> None:
    class Yearly(Orders):
        name = "orders"

        async def stream_slices(self, state: Any) -> AsyncIterator[Slice]:
            async for stream_slice in super().stream_slices(state):
                if stream_slice["parent"]["id"] % 2:
                    yield stream_slice | {"year": 2024}
                    yield stream_slice | {"year": 2025}

        def request_params(self, context: RequestContext) -> dict[str, Any]:
            return {"year": context.stream_slice["year"]}

    api = Api(tree_responder())
    customers = Customers(api, virtual_clock)
    source = Source([Yearly(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)])

    pages, _ = await collect_pages(source.pages())

    found = [page.stream_slice for page in pages if page.stream == "orders"]
    assert sorted((stream_slice["parent"]["id"], stream_slice["year"]) for stream_slice in found) == [
        (n, year) for n in (1, 3, 5) for year in (2024, 2025)
    ]
    assert len(api.requested) == 3 + 6 + 6


async def test_stream_slices_outside_a_run_read_parent_page_by_page(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=4))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    seen: list[tuple[int, int]] = []

    async with aclosing(orders.stream_slices({})) as slices:
        async for stream_slice in slices:
            seen.append((stream_slice["parent"]["id"], len(api.requested)))
            await asyncio.sleep(100)
            if len(seen) == 5:
                break

    assert seen == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)]
    assert api.in_flight == 0
    assert [stream_slice["parent"]["id"] async for stream_slice in orders.stream_slices({})] == list(range(8))


async def test_child_with_explicit_slices_requests_no_parents(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder())
    customers = Customers(api, virtual_clock)
    orders, invoices = Orders(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)
    explicit = [{"parent": {"id": 7}}]

    assert await orders.read(slices=explicit) == [{"id": "7-0"}]
    assert api.requested == ["customers/7/orders/0"]

    found = await Source([orders, invoices]).read(slices={"orders": explicit})

    assert (found["orders"], sorted_ids(found["invoices"])) == ([{"id": "7-0"}], [f"{n}-0" for n in range(6)])
    assert requested_pages(api, "customers") == list("012")


async def test_children_of_one_parent_can_be_read_concurrently(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=6))
    customers = Customers(api, virtual_clock)
    children = [Orders(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)]

    async with asyncio.timeout(1e4):
        *found, parents = await asyncio.gather(*(child.read() for child in children), customers.read())

    assert [sorted_ids(records) for records in found] == [sorted(f"{n}-0" for n in range(12))] * 2
    assert sorted_ids(parents) == list(range(12))


async def test_changes_of_parent_records_do_not_reach_children(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=4, fields={"shop": {"city": "Ulm"}}))
    customers = Customers(api, virtual_clock)
    found: list[Any] = []

    async with Source([customers, Orders(api, virtual_clock, customers)]).pages() as pages:
        async for page in pages:
            if page.stream == "orders":
                found.append(page.stream_slice["parent"])
                continue
            for record in page.records:
                record["id"] = "changed"
                record["shop"].clear()
            page.records.clear()

    assert sorted(found, key=lambda record: record["id"]) == [{"id": n, "shop": {"city": "Ulm"}} for n in range(8)]


class Bare(HttpSubStream):
    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> str:
        return self.name


INVALID_PARENTS: dict[str, Any] = {
    "missing": ({}, r"parent="),
    "class": ({"parent": Customers}, r"Customers\("),
    "class-in-a-list": ({"parent": [Customers]}, r"Customers\("),
    "name": ({"parent": "customers"}, "str"),
    "none": ({"parent": None}, "None"),
    "empty-list": ({"parent": []}, "parent="),
    "dict-in-a-list": ({"parent": ({},)}, "dict"),
}


@pytest.mark.parametrize(("arguments", "message"), INVALID_PARENTS.values(), ids=INVALID_PARENTS)
def test_substream_without_valid_parent_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Bare(**arguments)

    assert "Bare" in str(caught.value)
    assert "parent" in str(caught.value)


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("in_source", [False, True])
async def test_stream_cannot_be_its_own_ancestor(virtual_clock: VirtualClock, levels: int, in_source: bool) -> None:
    api = Api(tree_responder())
    top = Orders(api, virtual_clock, Customers(api, virtual_clock))
    lowest: Any = top
    for kind in (Invoices, Lines)[:levels]:
        lowest = kind(api, virtual_clock, lowest)

    with pytest.raises(ConfigError, match="parent"), real_timeout(5):  # noqa: PT012  # it may be detected early or late
        HttpSubStream.__init__(top, parent=lowest, transport=api, clock=virtual_clock)
        await (Source([lowest]) if in_source else top).read()

    assert api.requested == []
