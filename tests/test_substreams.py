"""Has a substream a slice for each record of its parents, and are these read once for all of their children?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from fake_api import Api, page_key, subclass, collect_pages, real_timeout
from tree_api import Customers, Invoices, Lines, Orders, Shops, asked_of, ids, tree, when

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
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_each_record_of_the_parent_is_a_slice(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=2, each=2, fields={"name": "Ann"}))
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


async def test_a_slice_holds_the_record_as_the_api_sent_it(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=1, size=1, fields=ODD))

    pages, _ = await collect_pages(Orders(api, virtual_clock, Customers(api, virtual_clock)).pages())

    (found,) = (page.stream_slice["parent"] for page in pages)
    assert found == {"id": 0, **ODD}
    assert type(found["large"]) is int


async def test_parent_fields_are_all_that_a_slice_holds_and_stay_nested(virtual_clock: VirtualClock) -> None:
    fields = {"name": "Ann", "shop": {"city": "Ulm", "street": "x", "owner": {"id": 5, "age": 4}}, "empty": None}
    api = Api(tree(fields=fields))
    kind = subclass(Orders, parent_fields=("id", "shop.city", "shop.owner.id", "empty"))  # type: ignore[arg-type]

    pages, _ = await collect_pages(kind(api, virtual_clock, Customers(api, virtual_clock)).pages())

    assert len(pages) == 6
    shops = {"city": "Ulm", "owner": {"id": 5}}
    assert [page.stream_slice for page in sorted(pages, key=lambda page: page.stream_slice["parent"]["id"])] == [
        {"parent": {"id": n, "shop": shops, "empty": None}} for n in range(6)
    ]


async def test_with_several_parents_each_slice_says_whose_record_it_is(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=3), latency=lambda request: 50 if page_key(request) == "shops/1" else 1)
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]
    orders = Orders(api, virtual_clock, parents)

    pages, _ = await collect_pages(orders.pages())

    assert orders.parents == tuple(parents)
    assert all(set(page.stream_slice) == {"parent", "parent_stream"} for page in pages)
    assert sorted((page.stream_slice["parent_stream"], page.stream_slice["parent"]["id"]) for page in pages) == [
        (name, n) for name in ("customers", "shops") for n in range(6)
    ]
    assert max(when(api, f"customers/{n}/orders/0") for n in range(6)) < 20, "shops are slow, customers are not"


async def test_a_substream_may_be_the_parent_of_another(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=2, each=2))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))

    lines = await Lines(api, virtual_clock, orders).read()

    # The third level has 2 pages for each of the 8 orders.
    assert ids(lines) == sorted(f"{n}-{page}-{line}" for n in range(4) for page in range(2) for line in range(2))
    assert len(api.requested) == len(set(api.requested)) == 2 + 8 + 16


@pytest.mark.parametrize("selected", [(), ("customers",)], ids=["not-selected", "selected"])
@pytest.mark.parametrize("equal", [False, True], ids=["one", "equal"])
async def test_a_parent_is_fetched_once_for_all_its_children(
    virtual_clock: VirtualClock, selected: tuple[str, ...], equal: bool
) -> None:
    api = Api(tree(pages=5))
    made = [Customers(api, virtual_clock) for _ in range(3)]
    one, two, own = made if equal else made[:1] * 3
    source = Source([Orders(api, virtual_clock, one), Invoices(api, virtual_clock, two), own])
    reading = source.pages("orders", "invoices", *selected)

    pages, _ = await collect_pages(reading)

    found = Counter(page.stream for page in pages for _ in page.records)
    assert found == Counter({"orders": 10, "invoices": 10}) + Counter(dict.fromkeys(selected, 10))
    assert {line.stream: line.records for line in reading.report.streams} == dict(found)
    assert asked_of(api, "customers") == list("01234")
    assert len(api.requested) == 5 + 10 + 10


class Regional(Customers):
    """Its region is in what it asks for, and in what it is given."""

    region = "eu"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"region": self.region}


async def test_parents_that_ask_for_something_else_are_fetched_each_for_itself(virtual_clock: VirtualClock) -> None:
    api = Api(lambda request: tree(pages=2, fields={"region": request.url.params.get("region")})(request))
    one, two = Regional(api, virtual_clock), Regional(api, virtual_clock)
    two.region, two.name = "us", "americans"
    source = Source([Orders(api, virtual_clock, one), Invoices(api, virtual_clock, two)])

    pages, _ = await collect_pages(source.pages())

    assert len(pages) == 8
    assert {(page.stream, page.stream_slice["parent"]["region"]) for page in pages} == {
        ("orders", "eu"),
        ("invoices", "us"),
    }


@pytest.mark.parametrize("how", ["token", "attribute", "class"])
@pytest.mark.parametrize("selected", [False, True])
async def test_two_parents_of_one_name_that_ask_for_something_else_are_refused(
    virtual_clock: VirtualClock, how: str, selected: bool
) -> None:
    api = Api(tree())
    one = Customers(api, virtual_clock, authenticator=TokenAuthenticator("a"))
    kind = subclass(Customers, request_params=lambda self, context: {"a": 1}) if how == "class" else Customers
    two = kind(api, virtual_clock, authenticator=TokenAuthenticator("b" if how == "token" else "a"))
    if how == "attribute":
        two.region = "us"
    source = Source([Orders(api, virtual_clock, one), two if selected else Invoices(api, virtual_clock, two)])

    with pytest.raises(ConfigError, match="'customers'"):
        await source.read()

    assert api.requested == []


async def test_children_begin_with_the_first_page_of_a_parent_that_is_still_being_read(
    virtual_clock: VirtualClock,
) -> None:
    api = Api(tree(pages=10, each=2))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))

    async with orders.pages() as pages:
        first = await anext(aiter(pages))
        assert len(asked_of(api, "customers")) < 5
        rest = [page async for page in pages]

    assert len([first, *rest]) == 40
    assert when(api, "customers/0/orders/0") == pytest.approx(1, abs=0.1)
    assert when(api, "customers/9") == pytest.approx(9, abs=0.1), "nor does the parent wait for the children"


async def slowly(self: Any, state: Any) -> AsyncIterator[Slice]:
    async for one in HttpSubStream.stream_slices(self, state):
        await asyncio.sleep(50)
        yield one


@pytest.mark.parametrize("how", ["slow-api", "slow-slices"])
async def test_a_slow_child_holds_up_neither_its_siblings_nor_the_parent(virtual_clock: VirtualClock, how: str) -> None:
    sluggish = how == "slow-api"
    api = Api(tree(pages=8), latency=lambda request: 50 if sluggish and "/orders" in request.url.path else 1)
    customers = Customers(api, virtual_clock)
    slow = Orders if sluggish else subclass(Orders, stream_slices=slowly)  # type: ignore[arg-type]
    source = Source([slow(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])
    came: dict[str, list[float]] = {"customers": [], "invoices": [], "orders": []}

    async with source.pages() as pages:
        async for page in pages:
            came[page.stream].append(virtual_clock.monotonic())

    assert {name: len(times) for name, times in came.items()} == {"customers": 8, "invoices": 16, "orders": 16}
    assert max(came["customers"] + came["invoices"]) < 20
    assert max(came["orders"]) >= 50
    assert asked_of(api, "customers") == list("01234567")


@pytest.mark.parametrize(("limit", "parents"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (20, 10)])
async def test_a_limit_asks_for_no_more_parents_than_it_needs(
    virtual_clock: VirtualClock, limit: int, parents: int
) -> None:
    api = Api(tree(pages=10))

    found = await Orders(api, virtual_clock, Customers(api, virtual_clock)).read(limit=limit)

    assert len(found) == limit
    assert asked_of(api, "customers") == [str(n) for n in range(parents)]
    assert len(asked_of(api, "orders")) == limit


async def test_with_a_limit_a_selected_parent_gives_its_own_records_and_is_read_on_for_its_child(
    virtual_clock: VirtualClock,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        childless = "/orders" in request.url.path and int(request.url.path.split("/")[2]) < 7
        return httpx.Response(200, json={"items": [], "next": None}) if childless else tree(pages=10)(request)

    api = Api(answer)
    customers = Customers(api, virtual_clock)

    found = await Source([customers, Orders(api, virtual_clock, customers)]).read(limit=3)

    assert found["customers"] == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert [record["id"] for record in found["orders"]] == ["7-0", "8-0", "9-0"]
    assert asked_of(api, "customers") == list("01234")


@pytest.mark.parametrize("limit", [None, 5])
async def test_no_parents_are_no_slices_and_no_error(virtual_clock: VirtualClock, limit: int | None) -> None:
    api = Api(tree(pages=0))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    source = Source([orders, Lines(api, virtual_clock, orders)])

    assert await orders.read(limit=limit) == []
    assert await source.read(limit=limit) == {"orders": [], "lines": []}
    assert api.requested == ["customers/0"] * 2


async def test_a_child_is_available_as_its_parents_are(virtual_clock: VirtualClock) -> None:
    api, bare = Api(tree(pages=3)), Api(tree(pages=0))
    source = Source([Orders(api, virtual_clock, Customers(api, virtual_clock))])
    orders = Orders(bare, virtual_clock, Customers(bare, virtual_clock))

    available, reason = await orders.check_availability()

    assert not available
    assert "customers" in str(reason)
    assert "no records" in str(reason)
    assert bare.requested == ["customers/0"]
    assert [check.available for check in (await source.check()).streams] == [True]
    assert api.requested == ["customers/0", "customers/0/orders/0"]


async def test_an_author_may_filter_and_extend_the_slices(virtual_clock: VirtualClock) -> None:
    class Yearly(Orders):
        name = "orders"

        async def stream_slices(self, state: Any) -> AsyncIterator[Slice]:
            async for one in super().stream_slices(state):
                if one["parent"]["id"] % 2:
                    yield one | {"year": 2024}
                    yield one | {"year": 2025}

        def request_params(self, context: RequestContext) -> dict[str, Any]:
            return {"year": context.stream_slice["year"]}

    api = Api(tree())
    customers = Customers(api, virtual_clock)
    source = Source([Yearly(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)])

    pages, _ = await collect_pages(source.pages())

    found = [page.stream_slice for page in pages if page.stream == "orders"]
    assert sorted((one["parent"]["id"], one["year"]) for one in found) == [
        (n, year) for n in (1, 3, 5) for year in (2024, 2025)
    ]
    assert len(api.requested) == 3 + 6 + 6


async def test_slices_made_by_hand_read_the_parent_page_by_page(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=4))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    seen: list[tuple[int, int]] = []

    async with aclosing(orders.stream_slices({})) as slices:
        async for one in slices:
            seen.append((one["parent"]["id"], len(api.requested)))
            await asyncio.sleep(100)
            if len(seen) == 5:
                break

    assert seen == [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)]
    assert api.in_flight == 0
    assert [one["parent"]["id"] async for one in orders.stream_slices({})] == list(range(8))


async def test_a_child_that_is_given_its_slices_leaves_its_parents_alone(virtual_clock: VirtualClock) -> None:
    api = Api(tree())
    customers = Customers(api, virtual_clock)
    orders, invoices = Orders(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)
    given = [{"parent": {"id": 7}}]

    assert await orders.read(slices=given) == [{"id": "7-0"}]
    assert api.requested == ["customers/7/orders/0"]

    found = await Source([orders, invoices]).read(slices={"orders": given})

    assert (found["orders"], ids(found["invoices"])) == ([{"id": "7-0"}], [f"{n}-0" for n in range(6)])
    assert asked_of(api, "customers") == list("012")


async def test_two_children_of_one_parent_may_be_read_by_themselves_at_once(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=6))
    customers = Customers(api, virtual_clock)
    children = [Orders(api, virtual_clock, customers), Invoices(api, virtual_clock, customers)]

    async with asyncio.timeout(1e4):
        *found, parents = await asyncio.gather(*(child.read() for child in children), customers.read())

    assert [ids(records) for records in found] == [sorted(f"{n}-0" for n in range(12))] * 2
    assert ids(parents) == list(range(12))


async def test_what_the_consumer_does_to_the_parents_records_is_not_the_childrens(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=4, fields={"shop": {"city": "Ulm"}}))
    customers = Customers(api, virtual_clock)
    found: list[Any] = []

    async with Source([customers, Orders(api, virtual_clock, customers)]).pages() as pages:
        async for page in pages:
            if page.stream == "orders":
                found.append(page.stream_slice["parent"])
                continue
            for record in page.records:
                record["id"] = "gone"
                record["shop"].clear()
            page.records.clear()

    assert sorted(found, key=lambda one: one["id"]) == [{"id": n, "shop": {"city": "Ulm"}} for n in range(8)]


class Bare(HttpSubStream):
    url_base = "https://api.test/"

    def path(self, context: RequestContext) -> str:
        return self.name


WRONG: dict[str, Any] = {
    "missing": ({}, r"parent="),
    "class": ({"parent": Customers}, r"Customers\("),
    "class-in-a-list": ({"parent": [Customers]}, r"Customers\("),
    "name": ({"parent": "customers"}, "str"),
    "none": ({"parent": None}, "None"),
    "empty-list": ({"parent": []}, "parent="),
    "something-else-in-a-list": ({"parent": ({},)}, "dict"),
}


@pytest.mark.parametrize(("given", "told"), WRONG.values(), ids=WRONG)
def test_a_substream_without_a_parent_says_what_to_write(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Bare(**given)

    assert "Bare" in str(caught.value)
    assert "parent" in str(caught.value)


@pytest.mark.parametrize("around", [0, 1, 2])
@pytest.mark.parametrize("in_source", [False, True])
async def test_no_stream_is_above_itself(virtual_clock: VirtualClock, around: int, in_source: bool) -> None:
    api = Api(tree())
    top = Orders(api, virtual_clock, Customers(api, virtual_clock))
    lowest: Any = top
    for kind in (Invoices, Lines)[:around]:
        lowest = kind(api, virtual_clock, lowest)

    with pytest.raises(ConfigError, match="parent"), real_timeout(5):  # noqa: PT012  # it may be found out early or late
        HttpSubStream.__init__(top, parent=lowest, transport=api, clock=virtual_clock)
        await (Source([lowest]) if in_source else top).read()

    assert api.requested == []
