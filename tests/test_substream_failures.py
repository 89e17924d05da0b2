"""Failures in trees of streams: children of a failing parent, and parents of failing children."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from fake_api import Api, Responder, collect_pages, page_key, real_timeout, subclass
from tree_api import Customers, Invoices, Lines, Orders, Shops, requested_pages, sorted_ids, tree_responder

from asyncstreams import AuthError, HttpStatusError, InvalidSlice, Slice, Source, StreamUnavailable
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock


@pytest.fixture(autouse=True)
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


def with_failures(failing: dict[str, int], otherwise: Responder) -> Responder:
    """Responds to the pages in `failing` with their status, always."""

    def respond(request: httpx.Request) -> httpx.Response:
        status = failing.get(page_key(request))
        return otherwise(request) if status is None else httpx.Response(status, json={"error": "no"})

    return respond


def record_counts(pages: Any) -> Counter[str]:
    return Counter(page.stream for page in pages for _ in page.records)


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
async def test_children_of_pages_before_a_parent_failure_are_read(virtual_clock: VirtualClock, selected: bool) -> None:
    api = Api(with_failures({"customers/6": 410}, tree_responder(pages=10)))
    customers = Customers(api, virtual_clock)
    source = Source([Orders(api, virtual_clock, customers), *([customers] if selected else [])])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert record_counts(pages) == Counter({"orders": 12}) + Counter({"customers": 12} if selected else {})
    assert [(error.stream, error.page, error.status) for error in failure.errors] == [("customers", 6, 410)]
    assert "orders stopped early" in str(failure)
    assert api.in_flight == 0


async def test_child_read_alone_reports_failure_of_its_parent(virtual_clock: VirtualClock) -> None:
    api = Api(with_failures({"customers/6": 500}, tree_responder(pages=10)))

    pages, failure = await collect_pages(
        Orders(api, virtual_clock, Customers(api, virtual_clock)).pages(), PartialFailure
    )

    assert sorted(page.stream_slice["parent"]["id"] for page in pages) == list(range(12))
    assert [(error.stream, error.page) for error in failure.errors] == [("customers", 6)]


async def test_child_of_two_parents_reads_all_of_the_healthy_one(virtual_clock: VirtualClock) -> None:
    api = Api(with_failures({"customers/1": 410}, tree_responder(pages=5)))
    parents = [Customers(api, virtual_clock), Shops(api, virtual_clock)]

    pages, failure = await collect_pages(Orders(api, virtual_clock, parents).pages(), PartialFailure)

    assert Counter(page.stream_slice["parent_stream"] for page in pages) == {"customers": 2, "shops": 10}
    assert [error.stream for error in failure.errors] == ["customers"]


async def test_failing_middle_level_leaves_others_complete(virtual_clock: VirtualClock) -> None:
    api = Api(with_failures({"customers/2/orders/0": 400}, tree_responder(pages=3)))
    customers = Customers(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)
    source = Source([Lines(api, virtual_clock, orders), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert record_counts(pages) == {"customers": 6, "invoices": 6, "lines": 5}
    assert [(error.stream, error.stream_slice["parent"]["id"]) for error in failure.errors] == [("orders", 2)]
    assert "lines stopped early" in str(failure)
    assert "invoices" not in str(failure)


async def test_failing_child_does_not_stop_siblings_or_parent(virtual_clock: VirtualClock) -> None:
    failing = {f"customers/{n}/orders/0": 400 for n in range(0, 20, 2)}
    api = Api(with_failures(failing, tree_responder(pages=10)))
    customers = Customers(api, virtual_clock)
    kind: Any = subclass(Orders, max_failed_slices=3)  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    counts = record_counts(pages)
    assert (counts["customers"], counts["invoices"]) == (20, 20)
    assert {error.stream for error in failure.errors} == {"orders"}
    assert len(requested_pages(api, "customers")) == 10


@pytest.mark.parametrize("selected", [False, True], ids=["not-selected", "selected"])
async def test_unavailable_parent_skips_its_descendants_only(
    virtual_clock: VirtualClock, selected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(with_failures({"customers/0": 403}, tree_responder()))
    customers, shops = Customers(api, virtual_clock), Shops(api, virtual_clock)
    orders = Orders(api, virtual_clock, customers)
    source = Source([orders, Lines(api, virtual_clock, orders), shops, *([customers] if selected else [])])

    records = await source.read()

    assert {name: len(rows) for name, rows in records.items() if rows} == {"shops": 6}
    skipped = {record.getMessage().partition(" is skipped")[0] for record in caplog.records}
    assert skipped == {"customers", "orders", "lines"}
    assert any("its parent customers is unavailable" in record.getMessage() for record in caplog.records)
    assert requested_pages(api, "orders") == []


async def test_child_read_alone_is_unavailable_with_its_parent(virtual_clock: VirtualClock) -> None:
    api = Api(with_failures({"customers/0": 403}, tree_responder()))

    with pytest.raises(StreamUnavailable, match=r"its parent customers is unavailable: .*403") as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    assert caught.value.stream == "orders"


@pytest.mark.parametrize("page", [0, 2])
async def test_wrong_credential_of_the_parent_ends_the_run(virtual_clock: VirtualClock, page: int) -> None:
    api = Api(with_failures({f"customers/{page}": 401}, tree_responder()))

    with pytest.raises((AuthError, PartialFailure)) as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    error = caught.value.errors[0] if isinstance(caught.value, PartialFailure) else caught.value
    assert isinstance(error, AuthError)
    assert (error.stream, error.page) == ("customers", page)
    assert api.in_flight == 0


def third_without_name(request: httpx.Request) -> httpx.Response:
    """Customers with an id and a name, except the third one, which has no name."""
    response = tree_responder(fields={"name": "Ann"})(request)
    if page_key(request) == "customers/1":
        return httpx.Response(200, json={"items": [{"id": 2, "nom": "Ann"}], "next": None})
    return response


@pytest.mark.parametrize("batch_size", [None, 10])
async def test_parent_without_named_field_fails_its_own_slice(
    virtual_clock: VirtualClock, batch_size: int | None
) -> None:
    api = Api(third_without_name)
    kind: Any = subclass(Orders, parent_fields=("id", "name"), path=path_of_batch, parent_batch_size=batch_size)  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers := Customers(api, virtual_clock)), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    [error] = failure.errors
    assert isinstance(error, InvalidSlice)
    assert error.message == "parent_fields: 'name' is not in a record of customers, which has id, nom"
    assert "{'id': 2}" in str(error)
    assert "Ann" not in str(failure)
    assert record_counts(pages) == {"customers": 3, "orders": 2 if batch_size is None else 1}


def path_of_batch(self: Any, context: Any) -> Any:
    parents = context.stream_slice.get("parents") or [context.stream_slice["parent"]]
    return ("customers", ",".join(str(parent["id"]) for parent in parents), "orders")


def slices_with_error(self: Any, state: Any) -> AsyncIterator[Slice]:
    return _slices_with_error(self, state)


async def _slices_with_error(stream: Any, state: Any) -> AsyncIterator[Slice]:
    async with aclosing(Orders.stream_slices(stream, state)) as slices:
        async for stream_slice in slices:
            if stream_slice["parent"]["id"] == 3:
                raise KeyError("active")
            yield stream_slice


async def test_error_in_stream_slices_leaves_siblings_and_parent(virtual_clock: VirtualClock) -> None:
    api = Api(tree_responder(pages=4))
    customers = Customers(api, virtual_clock)
    kind: Any = subclass(Orders, stream_slices=slices_with_error)  # type: ignore[arg-type]
    source = Source([kind(api, virtual_clock, customers), Invoices(api, virtual_clock, customers), customers])

    pages, failure = await collect_pages(source.pages(), PartialFailure)

    assert record_counts(pages) == {"customers": 8, "invoices": 8, "orders": 3}
    assert [type(error) for error in failure.errors] == [KeyError]
    assert requested_pages(api, "customers") == list("0123")


LeaveCondition = Callable[[Any], bool]


@pytest.mark.parametrize("leave", [lambda page: True, lambda page: page.stream == "lines"], ids=["at-once", "below"])
async def test_leaving_early_cancels_all_requests(virtual_clock: VirtualClock, leave: LeaveCondition) -> None:
    api = Api(tree_responder(pages=50))
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
async def test_failing_first_parent_page_creates_no_slices(virtual_clock: VirtualClock, status: int) -> None:
    api = Api(with_failures({"customers/0": status}, tree_responder()))

    with pytest.raises((HttpStatusError, PartialFailure)) as caught:
        await Orders(api, virtual_clock, Customers(api, virtual_clock)).read()

    error = caught.value.errors[0] if isinstance(caught.value, PartialFailure) else caught.value
    assert isinstance(error, HttpStatusError)
    assert (error.stream, error.status) == ("customers", status)
    assert requested_pages(api, "orders") == []


async def test_streams_can_be_read_again_after_a_failure(virtual_clock: VirtualClock) -> None:
    failing = {"customers/1": 410}
    api = Api(with_failures(failing, tree_responder()))
    orders = Orders(api, virtual_clock, Customers(api, virtual_clock))
    await collect_pages(orders.pages(), PartialFailure)

    failing.clear()

    assert sorted_ids(await orders.read()) == [f"{n}-0" for n in range(6)]
