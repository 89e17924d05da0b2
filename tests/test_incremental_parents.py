"""Incremental parents: children are read only for new and changed parents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from incremental_api import WallClock, timestamp

from asyncstreams import (
    AuthError,
    ConfigError,
    HttpStream,
    HttpSubStream,
    JsonLines,
    PageNumber,
    PartialFailure,
    Source,
    State,
    StateIncompatible,
    TokenAuthenticator,
    to_airbyte_state,
)


class Tree:
    """An API of customers and orders, filtered by change time, and the lines of each order."""

    def __init__(self, *customers: tuple[int, float], pages: int = 1) -> None:
        self.customers = dict(customers)
        self.orders: dict[int, float] = {}
        self.pages = pages
        self.requests: list[str] = []
        self.status: Callable[[str], int] = lambda path: 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path[1:]
        self.requests.append(path)
        if (status := self.status(path)) != 200:
            return httpx.Response(status)
        match path.split("/"):
            case ["customers"]:
                found = self.customers
            case ["customers", number, "orders"]:
                found = {int(number) * 10 + n: self.orders.get(int(number) * 10 + n, 1) for n in range(2)}
            case ["orders", number, _]:
                return httpx.Response(200, json=[{"id": f"{number}-line"}])
            case _:
                return httpx.Response(200, json=[{"id": path}])
        since, until = request.url.params.get("since", "0"), request.url.params.get("until", "9")
        rows = [{"id": number, "updated_at": timestamp(at)} for number, at in found.items()]
        return httpx.Response(200, json=[row for row in rows if since <= row["updated_at"] <= until])

    def pop_requests(self) -> Counter[str]:
        """The requests since the last call."""
        requests, self.requests = Counter(self.requests), []
        return requests


def bounds(self: HttpStream, context: Any) -> dict[str, Any]:
    since, until = context.stream_slice.bounds
    return {"since": since, "until": until}


class Customers(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    cursor_field = "updated_at"
    request_params = bounds

    def path(self, context: Any) -> Any:
        return "customers"


class CustomerChild(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"
    max_tries = 1
    incremental_dependency = True

    def path(self, context: Any) -> Any:
        return (self.parents[0].name, context.stream_slice["parent"]["id"], self.name)


class Orders(CustomerChild):
    pass


class Invoices(CustomerChild):
    pass


class OrdersWithCursor(CustomerChild):
    name = "orders"
    cursor_field = "updated_at"
    request_params = bounds


class Lines(CustomerChild):
    pass


def make_stream(class_: type[Any], api: Tree, clock: WallClock, *parents: Any, **options: Any) -> Any:
    return class_(*parents, transport=httpx.MockTransport(api), clock=clock, **options)


def make_source(*classes: type[Any]) -> tuple[Tree, WallClock, Source]:
    """A Source of three customers and the child streams of these classes."""
    api, clock = Tree((1, 10), (2, 20), (3, 30)), WallClock(1000)
    customers = make_stream(Customers, api, clock)
    return api, clock, Source([customers, *(make_stream(class_, api, clock, customers) for class_ in classes)])


async def read_pages(source: Source, state: State) -> None:
    """Read and acknowledge all pages."""
    async with source.pages(state=state) as pages:
        async for _ in pages:
            pass


ALL = Counter({"customers": 1, "customers/1/orders": 1, "customers/2/orders": 1, "customers/3/orders": 1})


async def test_second_read_requests_children_of_changed_parents():
    api, clock, source = make_source(Orders)
    state = State()

    first = await source.read(state=state)
    assert api.pop_requests() == ALL
    assert [len(first["customers"]), len(first["orders"])] == [3, 6]

    clock.seconds, api.customers[2], api.customers[4] = 2000, 1500, 1600
    second = await source.read(state=state)
    assert api.pop_requests() == Counter(["customers", "customers/2/orders", "customers/4/orders"])
    assert sorted(record["id"] for record in second["customers"]) == [2, 4]
    assert sorted(record["id"] for record in second["orders"]) == [20, 21, 40, 41]

    clock.seconds = 3000
    assert await source.read(state=state) == {"customers": [], "orders": []}
    assert api.pop_requests() == Counter(["customers"])


async def test_state_of_unselected_parent_is_stored_with_child(tmp_path: Path):
    api, clock, source = make_source(Orders)
    path = tmp_path / "state.json"

    await source.read("orders", state=State.load(path))
    clock.seconds, api.customers[1] = 2000, 1500
    api.pop_requests()
    found = await source.read("orders", state=State.load(path))

    assert sorted(record["id"] for record in found["orders"]) == [10, 11]
    assert api.pop_requests() == Counter(["customers", "customers/1/orders"])


async def test_all_parents_are_read_without_state():
    api, _, source = make_source(Orders)

    await source.read()
    api.pop_requests()
    await source.read()

    assert api.pop_requests() == ALL


async def test_parent_state_advances_when_all_children_complete():
    api, clock, source = make_source(Orders)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[1], api.customers[2] = 2000, 1500, 1600
    api.status = lambda path: 400 if path == "customers/2/orders" else 200
    api.pop_requests()

    with pytest.raises(PartialFailure):
        await read_pages(source, state)
    assert api.pop_requests() == Counter(["customers", "customers/1/orders", "customers/2/orders"])

    api.status = lambda path: 200
    clock.seconds = 3000
    again = await source.read(state=state)
    # The customers were acknowledged, so they have a later state of their own than for their orders.
    assert again["customers"] == []
    assert sorted(record["id"] for record in again["orders"]) == [20, 21]
    assert api.pop_requests() == Counter({"customers": 2, "customers/2/orders": 1})

    clock.seconds = 4000
    await source.read(state=state)
    assert api.pop_requests() == Counter(["customers"])


async def test_children_with_equal_state_share_parent_read():
    api, clock, source = make_source(Orders, Invoices)
    state = State()
    await source.read("orders", "invoices", state=state)
    assert api.pop_requests()["customers"] == 1
    clock.seconds, api.customers[1] = 2000, 1500
    await source.read("orders", state=state)
    api.pop_requests()

    clock.seconds = 2500
    found = await source.read("orders", "invoices", state=state)

    assert [len(found["orders"]), len(found["invoices"])] == [0, 1]
    assert api.pop_requests() == Counter({"customers": 2, "customers/1/invoices": 1})
    clock.seconds = 3000
    await source.read("orders", "invoices", state=state)
    # Both children have the same state now, although one reached it in two steps.
    assert api.pop_requests() == Counter(["customers"])


class AllOrders(CustomerChild):
    name = "all"
    incremental_dependency = False

    def path(self, context: Any) -> Any:
        return ("all", context.stream_slice["parent"]["id"])


async def test_child_without_dependency_gets_all_parents():
    api, clock, source = make_source(Orders, AllOrders)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[1] = 2000, 1500
    api.pop_requests()

    found = await source.read(state=state)

    assert [len(found[name]) for name in ("customers", "orders", "all")] == [1, 2, 3]
    assert api.pop_requests() == Counter({"customers": 2, "customers/1/orders": 1, "all/1": 1, "all/2": 1, "all/3": 1})


async def test_child_with_cursor_reads_new_rows_of_changed_parents():
    api, clock, source = make_source(OrdersWithCursor)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[2] = 2000, 1500
    api.orders = {20: 1400, 30: 1400}
    api.pop_requests()

    found = await source.read(state=state)

    # The orders of customer 3 are not requested, since it has not changed.
    assert [record["id"] for record in found["orders"]] == [20]
    assert api.pop_requests() == Counter(["customers", "customers/2/orders"])


async def test_grandchild_stores_state_of_all_ancestors():
    api, clock = Tree((1, 10), (2, 20)), WallClock(1000)
    customers = make_stream(Customers, api, clock)
    orders = make_stream(OrdersWithCursor, api, clock, customers)
    lines = make_stream(Lines, api, clock, orders)
    state = State()

    assert len(await lines.read(state=state)) == 4
    clock.seconds, api.customers[1], api.orders[11] = 2000, 1500, 1400
    api.pop_requests()
    assert [record["id"] for record in await lines.read(state=state)] == ["11-line"]
    assert api.pop_requests() == Counter(["customers", "customers/1/orders", "orders/11/lines"])
    clock.seconds = 3000
    assert await lines.read(state=state) == []
    assert api.pop_requests() == Counter(["customers"])


async def test_interrupted_run_is_resumed(tmp_path: Path):
    api, clock, source = make_source(Orders)
    to = JsonLines(tmp_path / "out", fsync="none")
    await source.extract(to=to)
    clock.seconds, api.customers[1], api.customers[2] = 2000, 1500, 1600
    api.status = lambda path: 401 if path == "customers/2/orders" else 200
    api.pop_requests()
    with pytest.raises(AuthError):
        await source.extract(to=to)
    api.status = lambda path: 200

    clock.seconds = 2100
    await source.extract(to=to)
    clock.seconds = 3000
    api.pop_requests()
    await source.extract(to=to)

    assert set(api.pop_requests()) == {"customers"}
    lines = [
        json.loads(line)["id"]
        for part in sorted((tmp_path / "out" / "orders").glob("part-*"))
        for line in part.read_text().splitlines()
    ]
    assert Counter(lines) == Counter([10, 11, 20, 21, 30, 31] + [10, 11, 20, 21])


async def test_parent_changed_before_resume_is_read_again():
    api, clock, source = make_source(Orders)
    state = State()
    api.status = lambda path: 400 if path == "customers/2/orders" else 200
    with pytest.raises(PartialFailure):
        await read_pages(source, state)
    api.status = lambda path: 200
    api.pop_requests()

    clock.seconds, api.customers[1] = 2000, 1500
    found = await source.read("orders", state=state)

    assert sorted(record["id"] for record in found["orders"]) == [10, 11, 20, 21]


async def test_limit_leaves_parent_state_unchanged():
    api, _, source = make_source(Orders)
    state = State()

    await source.read("orders", limit=3, state=state)
    api.pop_requests()
    await source.read("orders", state=state)

    assert set(api.pop_requests()) >= {"customers", "customers/2/orders", "customers/3/orders"}


async def test_airbyte_state_contains_parent_state():
    api, clock, source = make_source(OrdersWithCursor)
    state = State()
    await source.read(state=state)

    airbyte_state = to_airbyte_state(state["orders"], "per-partition")
    assert airbyte_state["parent_state"] == {"customers": {"updated_at": timestamp(940)}}

    clock.seconds, api.customers[2], api.orders[20] = 2000, 1500, 1400
    api.pop_requests()
    assert [record["id"] for record in await source["orders"].read(state=airbyte_state)] == [20]
    assert api.pop_requests() == Counter(["customers", "customers/2/orders"])


async def test_parent_state_of_other_account_is_refused():
    api, clock = Tree((1, 10)), WallClock(1000)
    state = State()
    customers = make_stream(Customers, api, clock, authenticator=TokenAuthenticator("one"))
    await make_stream(Orders, api, clock, customers).read(state=state)
    other = make_stream(Customers, api, clock, authenticator=TokenAuthenticator("another"))

    with pytest.raises(StateIncompatible, match="another credential") as caught:
        await make_stream(Orders, api, clock, other).read(state=state)

    assert caught.value.stream == "customers"


async def test_dependency_added_later_reads_all_parents_once():
    api, clock = Tree((1, 10)), WallClock(1000)
    customers = make_stream(Customers, api, clock)
    before = type("Orders", (Orders,), {"incremental_dependency": False})
    state = State()
    await make_stream(before, api, clock, customers).read(state=state)
    again = State()
    again._salt, again._unbound = state._salt, json.loads(json.dumps(state.to_json()))["streams"]

    clock.seconds = 2000
    assert len(await make_stream(Orders, api, clock, customers).read(state=again)) == 2
    clock.seconds = 3000
    assert await make_stream(Orders, api, clock, customers).read(state=again) == []


def test_parent_without_cursor_is_refused():
    api, clock = Tree(), WallClock()
    plain = type("Plain", (Customers,), {"cursor_field": None})

    with pytest.raises(ConfigError, match="parent 'plain' has no cursor_field"):
        make_stream(Orders, api, clock, make_stream(plain, api, clock))


def test_parent_fields_must_contain_cursor():
    api, clock = Tree(), WallClock()
    narrow = type("Narrow", (Orders,), {"parent_fields": ("id",)})

    with pytest.raises(ConfigError, match="'updated_at', the cursor_field of parent 'customers', is missing"):
        make_stream(narrow, api, clock, make_stream(Customers, api, clock))


async def test_parent_delivered_twice_has_children_once():
    class Twice(Customers):
        name = "customers"
        paginator = PageNumber(size=1)

    pages = iter([[{"id": 1, "updated_at": timestamp(10)}], [{"id": 1, "updated_at": timestamp(20)}], []])
    api, clock = Tree(), WallClock(1000)

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=next(pages)) if request.url.path == "/customers" else api(request)

    transport = httpx.MockTransport(respond)
    customers = Twice(transport=transport, clock=clock)

    found = await OrdersWithCursor(customers, transport=transport, clock=clock).read(state=State())

    assert sorted(record["id"] for record in found) == [10, 11]
