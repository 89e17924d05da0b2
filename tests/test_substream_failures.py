"""What becomes of children whose parent fails, and of parents whose children fail?"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from fake_api import Responder, Api, page_key, subclass, collect_pages, real_timeout
from tree_api import Customers, Invoices, Lines, Orders, Shops, asked_of, ids, tree

from asyncstreams import AuthError, ConfigError, HttpStatusError, Slice, Source, StreamUnavailable
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


def but(failing: dict[str, int], otherwise: Responder) -> Responder:
    """Some pages fail for good."""

    def answer(request: httpx.Request) -> httpx.Response:
        status = failing.get(page_key(request))
        return otherwise(request) if status is None else httpx.Response(status, json={"error": "no"})

    return answer


def found(pages: Any) -> Counter[str]:
    return Counter(page.stream for page in pages for _ in page.records)


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
async def test_children_of_the_pages_before_a_parents_failure_are_read_and_the_end_names_its_page(
    virtual_clock: VirtualClock, selected: bool
) -> None:
    api = Api(but({"customers/6": 410}, tree(pages=10)))
    customers = Customers(api, virtual_clock)
    source = Source([Orders(api, virtual_clock, customers), *([customers] if selected else [])])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert found(pages) == Counter({"orders": 12}) + Counter({"customers": 12} if selected else {})
    assert [(error.stream, error.page, error.status) for error in failure.errors] == [("customers", 6, 410)]
    assert "orders stopped early" in str(failure)
    assert api.in_flight == 0


async def test_a_lone_child_tells_of_its_parents_failure_as_well(virtual_clock: VirtualClock) -> None:
    api = Api(but({"customers/6": 500}, tree(pages=10)))

    pages, failure = await collect_pages(Orders(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure)

    assert sorted(page.stream_slice["parent"]["id"] for page in pages) == list(range(12))
    assert [(error.stream, error.page) for error in failure.errors] == [("customers", 6)]


async def test_a_child_of_two_parents_reads_all_of_the_one_that_is_well(virtual_clock: VirtualClock) -> None:
    api = Api(but({"customers/1": 410}, tree(pages=5)))
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]

    pages, failure = await collect_pages(Orders(api, virtual_clock, parents).pages(), PartialFailure)

    assert Counter(page.stream_slice["parent_stream"] for page in pages) == {"customers": 2, "shops": 10}
    assert [error.stream for error in failure.errors] == ["customers"]


async def test_what_is_above_and_beside_a_failing_middle_is_whole(virtual_clock: VirtualClock) -> None:
    api = Api(but({"customers/2/orders/0": 410}, tree(pages=3)))
    customers = Customers(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)
    source = Source([Lines(api, virtual_clock, orders), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert found(pages) == {"customers": 6, "invoices": 6, "lines": 5}
    assert [(error.stream, error.stream_slice["parent"]["id"]) for error in failure.errors] == [("orders", 2)]
    assert "lines stopped early" in str(failure)
    assert "invoices" not in str(failure)


async def test_a_failing_child_keeps_neither_its_siblings_nor_the_parent(virtual_clock: VirtualClock) -> None:
    failing = {f"customers/{n}/orders/0": 410 for n in range(0, 20, 2)}
    api = Api(but(failing, tree(pages=10)))
    customers = Customers(api, virtual_clock)
    kind: Any = subclass(Orders, max_failed_slices=3)  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    counts = found(pages)
    assert (counts["customers"], counts["invoices"]) == (20, 20)
    assert {error.stream for error in failure.errors} == {"orders"}
    assert len(asked_of(api, "customers")) == 10


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
async def test_below_a_parent_that_may_not_be_read_nothing_is_and_the_others_are(
    virtual_clock: VirtualClock, selected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(but({"customers/0": 403}, tree()))
    customers, shops = Customers(api, virtual_clock), Shops(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)
    source = Source([orders, Lines(api, virtual_clock, orders), shops, *([customers] if selected else [])])

    records = await source.read()

    assert {name: len(rows) for name, rows in records.items() if rows} == {"shops": 6}
    skipped = {line.getMessage().partition(" is skipped")[0] for line in caplog.records}
    assert skipped == {"customers", "orders", "lines"}
    assert any("its parent customers is unavailable" in line.getMessage() for line in caplog.records)
    assert asked_of(api, "orders") == []


async def test_a_lone_child_below_a_parent_that_may_not_be_read_is_unavailable(virtual_clock: VirtualClock) -> None:
    api = Api(but({"customers/0": 403}, tree()))

    with pytest.raises(StreamUnavailable, match=r"its parent customers is unavailable: .*403") as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    assert caught.value.stream == "orders"


@pytest.mark.parametrize("page", [0, 2])
async def test_a_wrong_credential_of_the_parent_ends_the_run(virtual_clock: VirtualClock, page: int) -> None:
    api = Api(but({f"customers/{page}": 401}, tree()))

    with pytest.raises((AuthError, PartialFailure)) as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    error = caught.value.errors[0] if isinstance(caught.value, PartialFailure) else caught.value
    assert isinstance(error, AuthError)
    assert (error.stream, error.page) == ("customers", page)
    assert api.in_flight == 0


def lacks(request: httpx.Request) -> httpx.Response:
    """The third parent has no name."""
    answer = tree(fields={"name": "Ann"})(request)
    if page_key(request) == "customers/1":
        return httpx.Response(200, json={"items": [{"id": 2, "nom": "Ann"}], "next": None})
    return answer


async def test_a_parent_without_a_field_that_is_named_ends_the_run_and_says_what_it_has(
    virtual_clock: VirtualClock,
) -> None:
    api = Api(lacks)
    kind: Any = subclass(Orders, parent_fields=("id", "name"))  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers := Customers(api, virtual_clock)), customers])

    pages, error = await collect_pages(source.pages(), ConfigError)

    assert "name" in str(error)
    assert "orders" in str(error)
    assert "record of customers" in str(error)
    assert "it has id, nom" in str(error)
    assert all(page.stream_slice["parent"]["id"] < 2 for page in pages if page.stream == "orders")


def author_mistake(self: Any, state: Any) -> AsyncIterator[Slice]:
    return _author_mistake(self, state)


async def _author_mistake(stream: Any, state: Any) -> AsyncIterator[Slice]:
    async with aclosing(Orders.stream_slices(stream, state)) as slices:
        async for one in slices:
            if one["parent"]["id"] == 3:
                raise KeyError("active")
            yield one


async def test_an_error_of_the_authors_slices_leaves_siblings_and_parent(virtual_clock: VirtualClock) -> None:
    api = Api(tree(pages=4))
    customers = Customers(api, virtual_clock)
    kind: Any = subclass(Orders, stream_slices=author_mistake)  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert found(pages) == {"customers": 8, "invoices": 8, "orders": 3}
    assert [type(error) for error in failure.errors] == [KeyError]
    assert asked_of(api, "customers") == list("0123")


Leave = Callable[[Any], bool]


@pytest.mark.parametrize("leave", [lambda page: True, lambda page: page.stream == "lines"], ids=["at-once", "below"])
async def test_leaving_early_leaves_nothing_open(virtual_clock: VirtualClock, leave: Leave) -> None:
    api = Api(tree(pages=50))
    customers = Customers(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)

    async with Source([customers, orders, Lines(api, virtual_clock, orders)]).pages() as pages:
        async for page in pages:
            if leave(page):
                break

    assert api.in_flight == 0
    before = len(api.requested)
    await virtual_clock.sleep(100)
    assert len(api.requested) == before < 100


@pytest.mark.parametrize("status", [410, 500])
async def test_a_first_page_that_fails_makes_no_slices_and_is_the_error(
    virtual_clock: VirtualClock, status: int
) -> None:
    api = Api(but({"customers/0": status}, tree()))

    with pytest.raises((HttpStatusError, PartialFailure)) as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    error = caught.value.errors[0] if isinstance(caught.value, PartialFailure) else caught.value
    assert isinstance(error, HttpStatusError)
    assert (error.stream, error.status) == ("customers", status)
    assert asked_of(api, "orders") == []


async def test_after_a_failure_the_same_streams_can_be_read_again_and_are_whole(virtual_clock: VirtualClock) -> None:
    failing = {"customers/1": 410}
    api = Api(but(failing, tree()))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    await collect_pages(orders.pages(), PartialFailure)

    failing.clear()

    assert ids(await orders.read()) == [f"{n}-0" for n in range(6)]
