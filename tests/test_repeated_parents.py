"""Parents that come more than once, and parents that several streams need."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from incremental_api import WallClock, timestamp

from asyncstreams import ConfigError, HttpStream, HttpSubStream, JsonLines, PageNumber, Secret, Source, SQLite, State


class Pages:
    """An API whose customers are on `pages`; every other path has one record, its path."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        self.pages = pages
        self.requested: Counter[str] = Counter()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path[1:]
        self.requested[path] += 1
        if path != "customers":
            return httpx.Response(200, json=[{"id": path}])
        number = int(request.url.params.get("page", 1))
        return httpx.Response(200, json=self.pages[number - 1] if number <= len(self.pages) else [])


class Customers(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    paginator = PageNumber()

    def path(self, context: Any) -> Any:
        return "customers"


class Orders(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"

    def path(self, context: Any) -> Any:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


class Years(Orders):
    """Two slices below each customer."""

    async def stream_slices(self, state: Any) -> Any:
        async for stream_slice in super().stream_slices(state):
            for year in (2025, 2026):
                yield stream_slice | {"year": year}

    def path(self, context: Any) -> Any:
        return (*super().path(context), context.stream_slice["year"])


class Batches(Orders):
    parent_batch_size = 2

    def path(self, context: Any) -> Any:
        return ("orders", ",".join(str(parent["id"]) for parent in context.stream_slice["parents"]))


def make(kind: type[Any], api: Pages, customers: type[Any] = Customers, **settings: Any) -> tuple[Any, Any]:
    transport = httpx.MockTransport(api)
    parent = customers(transport=transport)
    return parent, type(kind.__name__, (kind,), settings)(parent, transport=transport)


MOVED = [{"id": 1}, {"id": 2}], [{"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Orders, ["customers/1/orders", "customers/2/orders", "customers/3/orders"]),
        (Years, [f"customers/{number}/orders/{year}" for number in (1, 2, 3) for year in (2025, 2026)]),
        (Batches, ["orders/1,2", "orders/3"]),
    ],
)
async def test_partition_is_read_once(kind: type[Any], expected: list[str]) -> None:
    api = Pages(*MOVED)
    _, orders = make(kind, api)

    found = await orders.read()

    assert sorted(record["id"] for record in found) == expected
    assert max(count for path, count in api.requested.items() if path != "customers") == 1


async def test_repeated_parent_without_primary_key_is_read_once() -> None:
    api = Pages(*MOVED)
    _, orders = make(Orders, api, type("Customers", (Customers,), {"primary_key": None}))

    assert len(await orders.read()) == 3


@pytest.mark.parametrize("kind", [Orders, Batches])
async def test_repeated_parents_are_logged(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    _, orders = make(kind, Pages(*MOVED))

    with caplog.at_level(logging.INFO, "asyncstreams"):
        await orders.read()

    assert f"{orders.name}: 1 parent of customers came again and was left out" in caplog.text
    assert not any(orders.name in record.getMessage() for record in caplog.records if record.levelno > logging.INFO)


@pytest.mark.parametrize("kind", [Orders, Batches])
async def test_key_that_is_not_unique_is_warned_of(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": 1, "shop": shop, "mail": "ann@example.com"} for shop in ("berlin", "paris", "rome")]
    _, orders = make(kind, Pages(rows))

    await orders.read()

    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "{'id': 1}" in warnings[0]
    assert "the primary_key of customers is not unique" in warnings[0]
    assert "ann@example.com" not in warnings[0]


async def test_record_without_its_primary_key_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    _, orders = make(Orders, Pages([{"id": 1}, {"id": 2}]), type("Customers", (Customers,), {"primary_key": "uid"}))

    assert len(await orders.read()) == 2

    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("orders: a record of customers has no value for its primary_key, 'uid', so ")


async def test_slices_of_the_caller_are_read_as_given() -> None:
    _, orders = make(Orders, Pages())

    found = await orders.read(slices=[{"parent": {"id": 1}}, {"parent": {"id": 1}}])

    assert len(found) == 2


@pytest.mark.parametrize("is_extracted", [False, True])
async def test_secret_in_a_parent_is_refused_by_name(is_extracted: bool, tmp_path: Path) -> None:
    class Keyed(Customers):
        name = "customers"

        def parse_response(self, response: Any, context: Any) -> Any:
            return [{**record, "key": Secret("s3cret-value")} for record in response.json()]

    customers, orders = make(Orders, Pages([{"id": 1}]), Keyed, single_page=True)

    source = Source([customers, orders])
    read = source.extract(to=SQLite(tmp_path / "out.sqlite")) if is_extracted else source.read("orders")

    with pytest.raises(ConfigError, match=r"customers: .*a record .*Secret") as caught:
        await read

    assert "s3cret" not in str(caught.value)


class ChangedCustomers(Customers):
    name = "customers"
    paginator = None
    cursor_field = "updated_at"

    def request_params(self, context: Any) -> Any:
        return {"since": context.bounds[0], "until": context.bounds[1]}


class ChangedOrders(Orders):
    name = "orders"
    incremental_dependency = True


def changed_api(api: Pages, changed: dict[int, float]) -> Any:
    """The customers, each with the moment of its last change, filtered by the bounds of the request."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/customers":
            return api(request)
        api.requested["customers"] += 1
        since, until = request.url.params.get("since", "0"), request.url.params.get("until", "9")
        rows = [{"id": number, "updated_at": timestamp(at)} for number, at in changed.items()]
        return httpx.Response(200, json=[row for row in rows if since <= row["updated_at"] <= until])

    return respond


DAY = 86_400


def make_changed(changed: dict[int, float], *settings: dict[str, Any]) -> tuple[Pages, WallClock, Source]:
    api, clock = Pages(), WallClock(100 * DAY)
    options: Any = {"transport": httpx.MockTransport(changed_api(api, changed)), "clock": clock}
    customers = ChangedCustomers(**options)
    children = [
        type(f"Child{number}", (ChangedOrders,), {"name": f"child{number}", **own})(customers, **options)
        for number, own in enumerate(settings)
    ]
    return api, clock, Source([customers, *children])


@pytest.mark.parametrize("names", [(), ("child0", "child1"), ("child1", "child0")])
@pytest.mark.parametrize("way", ["state", "extract"])
async def test_parent_is_fetched_once_in_the_first_run(names: tuple[str, ...], way: str, tmp_path: Path) -> None:
    api, _, source = make_changed({1: 1, 2: 2}, {"incremental_dependency": False}, {"incremental_dependency": True})

    if way == "state":
        found = await source.read(*names, state=State())
        counts = [len(found["child0"]), len(found["child1"])]
    else:
        report = await source.extract(*names, to=JsonLines(tmp_path / "out"))
        counts = [stream.records for stream in report.streams if stream.stream != "customers"]

    assert counts == [2, 2]
    assert api.requested["customers"] == 1


async def test_child_without_dependency_gets_all_parents_in_later_runs() -> None:
    api, clock, source = make_changed({1: 1, 2: 2}, {"incremental_dependency": False})
    state = State()
    await source.read(state=state)
    clock.seconds += DAY
    api.requested.clear()

    found = await source.read(state=state)

    assert [len(found["customers"]), len(found["child0"])] == [0, 2]
    assert api.requested["customers"] == 2


@pytest.mark.parametrize("lookback", ["P7D", "7d"])
async def test_parent_lookback_reads_children_of_recent_parents_again(lookback: str) -> None:
    changed: dict[int, float] = {1: 10 * DAY, 2: 94 * DAY, 3: 99 * DAY}
    api, clock, source = make_changed(changed, {"parent_lookback": lookback})
    state = State()
    await source.read(state=state)
    assert api.requested["customers"] == 1

    for recent in ({2, 3}, {3}):
        clock.seconds += 2 * DAY
        api.requested.clear()
        found = await source.read(state=state)

        assert {record["id"] for record in found["child0"]} == {f"customers/{number}/orders" for number in recent}
        assert found["customers"] == []


async def test_parent_lookback_applies_to_a_state_of_airbyte() -> None:
    api, _, source = make_changed({1: 10 * DAY, 2: 88 * DAY}, {"parent_lookback": "P7D"})
    given = {"child0": {"parent_state": {"customers": {"updated_at": timestamp(90 * DAY)}}}}

    found = await source.read("child0", state=given)

    assert [record["id"] for record in found["child0"]] == ["customers/2/orders"]
    assert api.requested["customers"] == 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"parent_lookback": "P1M"}, "expected a duration, at least 0 and no months"),
        ({"parent_lookback": 7}, "expected a duration, at least 0 and no months"),
        ({"parent_lookback": "7 days"}, "expected a duration, at least 0 and no months"),
        ({"parent_lookback": "P7D", "incremental_dependency": False}, "incremental_dependency is not set"),
    ],
)
def test_invalid_parent_lookback_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_changed({}, settings)
