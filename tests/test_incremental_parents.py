"""Are children read of new and changed parents only, and does what is known of parents move when these are done?"""

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
    """Customers and their orders, each with a time of change that is filtered by; below an order its lines."""

    def __init__(self, *customers: tuple[int, float], pages: int = 1) -> None:
        self.customers = dict(customers)
        self.orders: dict[int, float] = {}
        self.pages = pages
        self.asked: list[str] = []
        self.status: Callable[[str], int] = lambda path: 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path[1:]
        self.asked.append(path)
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

    def taken(self) -> Counter[str]:
        """What was asked since the last time."""
        asked, self.asked = Counter(self.asked), []
        return asked


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


class Below(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"
    max_tries = 1
    incremental_dependency = True

    def path(self, context: Any) -> Any:
        return (self.parents[0].name, context.stream_slice["parent"]["id"], self.name)


class Orders(Below):
    pass


class Invoices(Below):
    pass


class OrdersWithCursor(Below):
    name = "orders"
    cursor_field = "updated_at"
    request_params = bounds


class Lines(Below):
    pass


def made(kind: type[Any], api: Tree, clock: WallClock, *above: Any, **options: Any) -> Any:
    return kind(*above, transport=httpx.MockTransport(api), clock=clock, **options)


def world(*kinds: type[Any]) -> tuple[Tree, WallClock, Source]:
    """Three customers of old, and the streams of this kind below them, in one Source."""
    api, clock = Tree((1, 10), (2, 20), (3, 30)), WallClock(1000)
    customers = made(Customers, api, clock)
    return api, clock, Source([customers, *(made(kind, api, clock, customers) for kind in kinds)])


async def to_the_end(source: Source, state: State) -> None:
    """All pages, each of which is acknowledged."""
    async with source.pages(state=state) as pages:
        async for _ in pages:
            pass


ALL = Counter({"customers": 1, "customers/1/orders": 1, "customers/2/orders": 1, "customers/3/orders": 1})


async def test_the_second_reading_asks_for_children_of_new_and_changed_parents_only():
    api, clock, source = world(Orders)
    state = State()

    first = await source.read(state=state)
    assert api.taken() == ALL
    assert [len(first["customers"]), len(first["orders"])] == [3, 6]

    clock.seconds, api.customers[2], api.customers[4] = 2000, 1500, 1600
    second = await source.read(state=state)
    assert api.taken() == Counter(["customers", "customers/2/orders", "customers/4/orders"])
    assert sorted(record["id"] for record in second["customers"]) == [2, 4]
    assert sorted(record["id"] for record in second["orders"]) == [20, 21, 40, 41]

    clock.seconds = 3000
    assert await source.read(state=state) == {"customers": [], "orders": []}
    assert api.taken() == Counter(["customers"])


async def test_a_parent_that_is_not_selected_is_remembered_with_its_child(tmp_path: Path):
    api, clock, source = world(Orders)
    path = tmp_path / "state.json"

    await source.read("orders", state=State.load(path))
    clock.seconds, api.customers[1] = 2000, 1500
    api.taken()
    found = await source.read("orders", state=State.load(path))

    assert sorted(record["id"] for record in found["orders"]) == [10, 11]
    assert api.taken() == Counter(["customers", "customers/1/orders"])


async def test_without_a_state_all_parents_are_read():
    api, _, source = world(Orders)

    await source.read()
    api.taken()
    await source.read()

    assert api.taken() == ALL


async def test_what_is_known_of_parents_moves_when_all_of_their_children_are_done():
    api, clock, source = world(Orders)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[1], api.customers[2] = 2000, 1500, 1600
    api.status = lambda path: 404 if path == "customers/2/orders" else 200
    api.taken()

    with pytest.raises(PartialFailure):
        await to_the_end(source, state)
    assert api.taken() == Counter(["customers", "customers/1/orders", "customers/2/orders"])

    api.status = lambda path: 200
    clock.seconds = 3000
    again = await source.read(state=state)
    # The customers were acknowledged, so they are read of a later time for themselves than for their orders.
    assert again["customers"] == []
    assert sorted(record["id"] for record in again["orders"]) == [20, 21]
    assert api.taken() == Counter({"customers": 2, "customers/2/orders": 1})

    clock.seconds = 4000
    await source.read(state=state)
    assert api.taken() == Counter(["customers"])


async def test_children_that_have_come_equally_far_share_one_reading_of_their_parent():
    api, clock, source = world(Orders, Invoices)
    state = State()
    await source.read("orders", "invoices", state=state)
    assert api.taken()["customers"] == 1
    clock.seconds, api.customers[1] = 2000, 1500
    await source.read("orders", state=state)
    api.taken()

    clock.seconds = 2500
    found = await source.read("orders", "invoices", state=state)

    assert [len(found["orders"]), len(found["invoices"])] == [0, 1]
    assert api.taken() == Counter({"customers": 2, "customers/1/invoices": 1})
    clock.seconds = 3000
    await source.read("orders", "invoices", state=state)
    # They end at the same time now, though what is known of one was learnt in two steps.
    assert api.taken() == Counter(["customers"])


class AllOrders(Below):
    name = "all"
    incremental_dependency = False

    def path(self, context: Any) -> Any:
        return ("all", context.stream_slice["parent"]["id"])


async def test_a_child_that_needs_all_parents_has_them_in_the_same_reading():
    api, clock, source = world(Orders, AllOrders)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[1] = 2000, 1500
    api.taken()

    found = await source.read(state=state)

    assert [len(found[name]) for name in ("customers", "orders", "all")] == [1, 2, 3]
    assert api.taken() == Counter({"customers": 2, "customers/1/orders": 1, "all/1": 1, "all/2": 1, "all/3": 1})


async def test_a_child_with_a_cursor_reads_what_is_new_of_parents_that_changed():
    api, clock, source = world(OrdersWithCursor)
    state = State()
    await source.read(state=state)
    clock.seconds, api.customers[2] = 2000, 1500
    api.orders = {20: 1400, 30: 1400}
    api.taken()

    found = await source.read(state=state)

    # Nobody asks for those of customer 3, which has not changed.
    assert [record["id"] for record in found["orders"]] == [20]
    assert api.taken() == Counter(["customers", "customers/2/orders"])


async def test_levels_carry_what_is_known_of_all_above_them():
    api, clock = Tree((1, 10), (2, 20)), WallClock(1000)
    customers = made(Customers, api, clock)
    orders = made(OrdersWithCursor, api, clock, customers)
    lines = made(Lines, api, clock, orders)
    state = State()

    assert len(await lines.read(state=state)) == 4
    clock.seconds, api.customers[1], api.orders[11] = 2000, 1500, 1400
    api.taken()
    assert [record["id"] for record in await lines.read(state=state)] == ["11-line"]
    assert api.taken() == Counter(["customers", "customers/1/orders", "orders/11/lines"])
    clock.seconds = 3000
    assert await lines.read(state=state) == []
    assert api.taken() == Counter(["customers"])


async def test_a_run_that_was_ended_is_gone_on_with(tmp_path: Path):
    api, clock, source = world(Orders)
    to = JsonLines(tmp_path / "out", fsync="none")
    await source.extract(to=to)
    clock.seconds, api.customers[1], api.customers[2] = 2000, 1500, 1600
    api.status = lambda path: 401 if path == "customers/2/orders" else 200
    api.taken()
    with pytest.raises(AuthError):
        await source.extract(to=to)
    api.status = lambda path: 200

    clock.seconds = 2100
    await source.extract(to=to)
    clock.seconds = 3000
    api.taken()
    await source.extract(to=to)

    assert set(api.taken()) == {"customers"}
    lines = [
        json.loads(line)["id"]
        for part in sorted((tmp_path / "out" / "orders").glob("part-*"))
        for line in part.read_text().splitlines()
    ]
    assert Counter(lines) == Counter([10, 11, 20, 21, 30, 31] + [10, 11, 20, 21])


async def test_a_parent_that_changes_before_a_run_is_gone_on_with_is_read_again():
    api, clock, source = world(Orders)
    state = State()
    api.status = lambda path: 404 if path == "customers/2/orders" else 200
    with pytest.raises(PartialFailure):
        await to_the_end(source, state)
    api.status = lambda path: 200
    api.taken()

    clock.seconds, api.customers[1] = 2000, 1500
    found = await source.read("orders", state=state)

    assert sorted(record["id"] for record in found["orders"]) == [10, 11, 20, 21]


async def test_a_limit_does_not_move_what_is_known_of_parents():
    api, _, source = world(Orders)
    state = State()

    await source.read("orders", limit=3, state=state)
    api.taken()
    await source.read("orders", state=state)

    assert set(api.taken()) >= {"customers", "customers/2/orders", "customers/3/orders"}


async def test_the_airbyte_shape_has_the_state_of_parents_beside_it():
    api, clock, source = world(OrdersWithCursor)
    state = State()
    await source.read(state=state)

    told = to_airbyte_state(state["orders"], "per-partition")
    assert told["parent_state"] == {"customers": {"updated_at": timestamp(940)}}

    clock.seconds, api.customers[2], api.orders[20] = 2000, 1500, 1400
    api.taken()
    assert [record["id"] for record in await source["orders"].read(state=told)] == [20]
    assert api.taken() == Counter(["customers", "customers/2/orders"])


async def test_the_state_of_another_accounts_parents_is_refused():
    api, clock = Tree((1, 10)), WallClock(1000)
    state = State()
    customers = made(Customers, api, clock, authenticator=TokenAuthenticator("one"))
    await made(Orders, api, clock, customers).read(state=state)
    other = made(Customers, api, clock, authenticator=TokenAuthenticator("another"))

    with pytest.raises(StateIncompatible, match="another credential") as caught:
        await made(Orders, api, clock, other).read(state=state)

    assert caught.value.stream == "customers"


async def test_a_setting_that_was_added_later_reads_all_parents_once():
    api, clock = Tree((1, 10)), WallClock(1000)
    customers = made(Customers, api, clock)
    before = type("Orders", (Orders,), {"incremental_dependency": False})
    state = State()
    await made(before, api, clock, customers).read(state=state)
    again = State()
    again._salt, again._unbound = state._salt, json.loads(json.dumps(state.to_json()))["streams"]

    clock.seconds = 2000
    assert len(await made(Orders, api, clock, customers).read(state=again)) == 2
    clock.seconds = 3000
    assert await made(Orders, api, clock, customers).read(state=again) == []


def test_a_parent_without_a_cursor_has_no_changes():
    api, clock = Tree(), WallClock()
    plain = type("Plain", (Customers,), {"cursor_field": None})

    with pytest.raises(ConfigError, match="parent .plain. has no cursor_field"):
        made(Orders, api, clock, made(plain, api, clock))


def test_what_slices_hold_of_parents_says_when_they_changed():
    api, clock = Tree(), WallClock()
    narrow = type("Narrow", (Orders,), {"parent_fields": ("id",)})

    with pytest.raises(ConfigError, match="'updated_at' is missing"):
        made(narrow, api, clock, made(Customers, api, clock))


async def test_a_parent_that_comes_twice_in_a_run_has_its_children_once():
    class Twice(Customers):
        name = "customers"
        paginator = PageNumber(size=1)

    answers = iter([[{"id": 1, "updated_at": timestamp(10)}], [{"id": 1, "updated_at": timestamp(20)}], []])
    api, clock = Tree(), WallClock(1000)

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=next(answers)) if request.url.path == "/customers" else api(request)

    transport = httpx.MockTransport(answer)
    customers = Twice(transport=transport, clock=clock)

    found = await OrdersWithCursor(customers, transport=transport, clock=clock).read(state=State())

    assert sorted(record["id"] for record in found) == [10, 11]
