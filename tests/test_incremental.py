"""Incremental reads with a state: every new record is delivered, and none twice."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from incremental_api import BEGIN, WallClock, timestamp
from simulation import examples

from asyncstreams import (
    AsyncStreamsError,
    ConfigError,
    HttpStatusError,
    HttpStream,
    HttpSubStream,
    NumberRanges,
    OutputWriteError,
    PageNumber,
    PartialFailure,
    Slice,
    Source,
    State,
    StateCorrupt,
    StateIncompatible,
    StreamState,
    TimeWindows,
    TokenAuthenticator,
    to_airbyte_state,
)


class Api:
    """An API of rows with a change time, in seconds after BEGIN; it filters by two inclusive bounds."""

    def __init__(self, *rows: tuple[int, float]) -> None:
        self.rows = [{"id": number, "updated_at": timestamp(at)} for number, at in rows]
        self.requests: list[dict[str, str]] = []
        self.fails: Callable[[dict[str, str]], bool] = lambda params: False
        self.filters = True
        self.date: float | None = None

    def add(self, number: int, at: float) -> None:
        self.rows.append({"id": number, "updated_at": timestamp(at)})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        params = dict(request.url.params)
        self.requests.append(params)
        if self.fails(params):
            return httpx.Response(404)
        since, until = params.get("since", "0"), params.get("until", "9")
        rows = [row for row in self.rows if not self.filters or since <= row["updated_at"] <= until]
        rows.sort(key=lambda row: (row["updated_at"], row["id"]))
        size, page = int(params.get("per_page", 1000)), int(params.get("page", 1))
        headers = {}
        if self.date is not None:
            headers["Date"] = (BEGIN + timedelta(seconds=self.date)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return httpx.Response(200, json=rows[(page - 1) * size : page * size], headers=headers)


def events(api: Api, clock: WallClock, **attributes: Any) -> HttpStream:
    def params(self: HttpStream, context: Any) -> dict[str, Any]:
        since, until = context.stream_slice.bounds
        return {"since": since, "until": until}

    declared = {
        "url_base": "https://api.test/",
        "primary_key": "id",
        "cursor_field": "updated_at",
        "path": lambda self, context: "events",
        "request_params": params,
        **attributes,
    }
    return type("Events", (HttpStream,), declared)(transport=httpx.MockTransport(api), clock=clock)


async def ids(stream: HttpStream, state: Any) -> list[int]:
    return sorted(record["id"] for record in await stream.read(state=state))


async def read_until_error(stream: HttpStream | Source, state: State) -> tuple[list[Any], Exception | None]:
    """The ids delivered before a read ended, and the error that ended it."""
    found: list[Any] = []
    try:
        async with stream.pages(state=state) as pages:
            async for page in pages:
                found += [record.get("id") for record in page.records]
    except AsyncStreamsError as error:
        return found, error
    return found, None


async def test_second_read_returns_only_new_records():
    api, clock, state = Api((1, 10), (2, 20)), WallClock(100), State()
    stream = events(api, clock)

    first = await ids(stream, state)
    api.add(3, 130)
    clock.seconds = 200
    second = await ids(stream, state)

    assert (first, second) == ([1, 2], [3])
    assert api.requests[0] == {"until": timestamp(40)}
    assert api.requests[1] == {"since": timestamp(40), "until": timestamp(140)}
    assert dict(state["events"]) == {"updated_at": timestamp(140)}


async def test_everything_up_to_now_is_read_without_state():
    api = Api((1, 10), (2, 99))

    assert await ids(events(api, WallClock(100)), None) == [1, 2]


async def test_rows_of_last_minute_are_left_to_next_read():
    api, clock, state = Api((1, 10), (2, 70)), WallClock(100), State()
    api.filters = False
    stream = events(api, clock)

    first = await ids(stream, state)
    clock.seconds = 200
    second = await ids(stream, state)

    assert (first, second) == ([1], [2])


async def test_rows_at_exactly_the_bound_are_delivered_once():
    api, clock, state = Api(*((n, 40) for n in range(300))), WallClock(100), State()
    stream = events(api, clock)

    first = await ids(stream, state)
    clock.seconds = 200
    second = await ids(stream, state)

    assert first == []
    assert second == list(range(300))


async def test_row_with_future_date_is_delivered_once():
    api, clock, state = Api((1, 10), (2, 3_000_000_000)), WallClock(100), State()
    api.filters = False
    stream = events(api, clock)

    found = [await ids(stream, state)]
    for number in (3, 4):
        clock.seconds += 100
        api.add(number, clock.seconds - 70)
        found.append(await ids(stream, state))

    assert found == [[1, 2], [3], [4]]


@pytest.mark.parametrize("state", [None, State()])
async def test_unfiltered_windows_deliver_each_row_once(state: State | None):
    api = Api(*((n, n * 100) for n in range(10)), (10, 3_000_000_000))
    api.filters = False
    stream = events(api, WallClock(1060), windows=TimeWindows(start=BEGIN, step=timedelta(seconds=250)))

    assert await ids(stream, state) == list(range(11))
    assert len(api.requests) > 3


async def test_lookback_finds_late_rows_without_duplicates():
    api, clock, state = Api((1, 10), (2, 35)), WallClock(100), State()
    stream = events(api, clock, windows=TimeWindows(lookback=30))

    first = await ids(stream, state)
    api.add(3, 20)
    clock.seconds = 200
    second = await ids(stream, state)
    clock.seconds = 300
    third = await ids(stream, state)

    assert (first, second, third) == ([1, 2], [3], [])


async def test_row_changed_within_lookback_is_delivered_again():
    api, clock, state = Api((1, 30)), WallClock(100), State()
    stream = events(api, clock, windows=TimeWindows(lookback=30))

    await ids(stream, state)
    api.rows[0]["updated_at"] = timestamp(35)
    clock.seconds = 200

    assert await ids(stream, state) == [1]


async def test_clock_ahead_of_server_loses_no_rows():
    api, clock, state = Api((1, 10)), WallClock(3700), State()
    api.date = 100
    stream = events(api, clock)

    first = await ids(stream, state)
    api.add(2, 130)
    clock.seconds, api.date = 3800, 200
    second = await ids(stream, state)

    assert (first, second) == ([1], [2])


async def test_only_failed_window_is_read_again():
    api, clock, state = Api(*((n, n * 100) for n in range(10))), WallClock(1060), State()
    stream = events(api, clock, windows=TimeWindows(start=BEGIN, step=timedelta(seconds=250)))
    api.fails = lambda params: params["since"] == timestamp(250)

    found, error = await read_until_error(stream, state)
    assert isinstance(error, PartialFailure)
    api.fails, api.requests = lambda params: False, []
    again = await ids(stream, state)

    assert sorted(found) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert again == [3, 4]
    assert [params["since"] for params in api.requests] == [timestamp(250)]


async def test_failed_read_leaves_state_unchanged():
    api, clock, state = Api(*((n, n * 100) for n in range(10))), WallClock(1060), State()
    stream = events(api, clock, windows=TimeWindows(start=BEGIN, step=timedelta(seconds=250)))
    api.fails = lambda params: params["since"] == timestamp(250)

    with pytest.raises(PartialFailure):
        await stream.read(state=state)
    api.fails = lambda params: False

    assert await ids(stream, state) == list(range(10))


async def test_page_before_break_is_not_acknowledged():
    api, clock, state = Api((1, 10)), WallClock(100), State()
    stream = events(api, clock)

    async with stream.pages(state=state) as pages:
        async for _ in pages:
            break

    assert not state["events"]
    assert await ids(stream, state) == [1]


async def test_state_waits_for_manual_ack_of_first_page():
    api, clock, state = Api(*((n, n) for n in range(6))), WallClock(100), State()
    stream = events(api, clock, paginator=PageNumber(size=2))

    async with stream.pages(state=state, ack="manual") as pages:
        found = [page async for page in pages]
        for page in found[1:]:
            page.ack()
        before = bool(state["events"])
        found[0].ack()

    assert not before
    assert state["events"].frontier == timestamp(40)


async def test_state_stops_before_first_unacknowledged_page():
    api, clock, state = Api(*((n, 10 * n) for n in range(6))), WallClock(100), State()
    stream = events(
        api,
        clock,
        paginator=PageNumber(size=2),
        cursor_field=None,
        request_params=lambda self, context: {},
        state_checkpoint_interval=1,
    )

    async with stream.pages(state=state, ack="manual") as pages:
        found = [page async for page in pages]
        found[0].ack()

    assert [record["id"] for record in found[0].records] == [0, 1]
    assert await ids(stream, state) == [2, 3, 4, 5]


async def test_limit_leaves_state_unchanged():
    api, clock, state = Api((1, 10), (2, 20)), WallClock(100), State()
    stream = events(api, clock)

    found = await stream.read(limit=1, state=state)

    assert len(found) == 1
    assert await ids(stream, state) == [1, 2]


async def test_ascending_pages_advance_state_within_slice():
    api, clock, state = Api(*((n, n // 3) for n in range(30))), WallClock(100), State()
    stream = events(api, clock, paginator=PageNumber(size=4), parallel_pages=False, state_checkpoint_interval=1)
    api.fails = lambda params: params.get("page") == "5"

    found, error = await read_until_error(stream, state)
    assert isinstance(error, HttpStatusError)
    api.fails, api.requests = lambda params: False, []
    again = await ids(stream, state)

    assert found == list(range(16))
    assert again == list(range(16, 30))
    assert api.requests[0]["since"] == timestamp(5)


async def test_unordered_pages_warn_and_leave_state_unchanged(caplog):
    api, clock, state = Api(*((n, 30 - n) for n in range(30))), WallClock(100), State()

    def reversed_rows(request: httpx.Request) -> httpx.Response:
        response = api(request)
        return httpx.Response(200, json=list(reversed(json.loads(response.content))))

    stream = events(api, clock, paginator=PageNumber(size=4), parallel_pages=False, state_checkpoint_interval=1)
    stream.transport = httpx.MockTransport(reversed_rows)

    async with stream.pages(state=state) as pages:
        async for page in pages:
            if page.number == 3:
                break

    assert not state["events"]
    assert "not in ascending order" in caplog.text


async def test_page_tokens_resume_with_checkpoint_interval():
    api, state = Api(*((n, n) for n in range(10))), State()
    stream = events(
        api,
        WallClock(100),
        cursor_field=None,
        request_params=lambda self, context: None,
        paginator=PageNumber(size=2),
        parallel_pages=False,
        state_checkpoint_interval=2,
    )
    api.fails = lambda params: params["page"] == "4"

    found, error = await read_until_error(stream, state)
    assert isinstance(error, HttpStatusError)
    api.fails, api.requests = lambda params: False, []
    again = await ids(stream, state)

    assert (found, again) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9])
    assert api.requests[0]["page"] == "4"


async def test_completed_slices_are_not_read_again():
    api, state = Api((1, 10)), State()
    slices = [{"project": "a"}, {"project": "b"}, {"project": "c"}]
    stream = events(
        api,
        WallClock(100),
        cursor_field=None,
        stream_slices=lambda self, state: slices,
        request_params=lambda self, context: {"project": context.stream_slice["project"]},
    )
    api.fails = lambda params: params["project"] == "b"

    _, error = await read_until_error(stream, state)
    assert isinstance(error, PartialFailure)
    api.fails, api.requests = lambda params: False, []
    await stream.read(state=state)
    resumed = [params["project"] for params in api.requests]
    await stream.read(state=state)

    assert resumed == ["b"]
    assert [params["project"] for params in api.requests[1:]] == ["a", "b", "c"]


@pytest.mark.parametrize("narrowed", [{"limit": 1}, {"slices": [{"project": "a"}]}])
async def test_partial_read_does_not_restart_stream(narrowed: dict[str, Any]):
    api, state = Api((1, 10), (2, 20)), State()
    slices = [{"project": "a"}, {"project": "b"}]
    stream = events(
        api,
        WallClock(100),
        cursor_field=None,
        stream_slices=lambda self, state: slices,
        request_params=lambda self, context: {"project": context.stream_slice["project"]},
    )
    api.fails = lambda params: params["project"] == "b"
    await read_until_error(stream, state)
    api.fails, api.requests = lambda params: False, []

    await stream.read(state=state, **narrowed)
    api.requests.clear()
    await stream.read(state=state)

    assert [params["project"] for params in api.requests] == ["b"]


async def test_unacknowledged_page_does_not_restart_stream():
    api, state = Api((1, 10)), State()
    slices = [{"project": "a"}, {"project": "b"}]
    stream = events(api, WallClock(100), cursor_field=None, stream_slices=lambda self, state: slices)
    stream.request_params = lambda context: {"project": context.stream_slice["project"]}  # type: ignore[method-assign]

    async with stream.pages(state=state, ack="manual") as pages:
        async for page in pages:
            if page.stream_slice["project"] == "a":
                page.ack()
    api.requests.clear()
    await stream.read(state=state)

    assert [params["project"] for params in api.requests] == ["b"]


async def test_each_partition_has_its_own_frontier():
    api, clock, state = Api((1, 10)), WallClock(100), State()
    slices = [{"project": "a"}, {"project": "b"}]
    seen: dict[str, Any] = {}

    def params(self: HttpStream, context: Any) -> dict[str, Any]:
        seen[context.stream_slice["project"]] = dict(context.stream_state)
        return {"project": context.stream_slice["project"]}

    stream = events(api, clock, stream_slices=lambda self, state: slices, request_params=params)
    api.fails = lambda params: params["project"] == "b"
    _, error = await read_until_error(stream, state)
    assert isinstance(error, PartialFailure)
    api.fails = lambda params: False
    clock.seconds = 200
    await stream.read(state=state)

    assert seen == {"a": {"updated_at": timestamp(40)}, "b": {}}
    assert state["events"].frontier == timestamp(140)
    assert state["events"].of({"project": "a"}).done == [(None, timestamp(140))]


async def test_children_of_completed_parents_are_not_requested_again():
    requested: list[str] = []

    def api(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.path)
        if request.url.path == "/customers":
            names = [{"id": n, "seen": len(requested)} for n in range(3)]
            return httpx.Response(200, json=names)
        return httpx.Response(400 if request.url.path == broken else 200, json=[{"of": request.url.path}])

    class Customers(HttpStream):
        url_base = "https://api.test/"
        primary_key = "id"

        def path(self, context):
            return "customers"

    class Orders(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context):
            return ("customers", context.stream_slice["parent"]["id"])

    broken, state = "/customers/1", State()
    customers = Customers(transport=httpx.MockTransport(api))
    source = Source([customers, Orders(customers, transport=httpx.MockTransport(api))])
    _, error = await read_until_error(source, state)
    assert isinstance(error, PartialFailure)
    broken = ""
    requested.clear()
    found = await source.read(state=state)

    assert requested == ["/customers", "/customers/1"]
    assert found == {"customers": [], "orders": [{"of": "/customers/1"}]}


def shop(api: Callable[[httpx.Request], httpx.Response], **attributes: Any) -> Source:
    """A Source of customers and the orders of each."""
    transport = httpx.MockTransport(api)
    declared = {"url_base": "https://api.test/", "primary_key": "id", **attributes}
    customers = type("Customers", (HttpStream,), {**declared, "path": lambda self, context: "customers"})
    orders = {
        "url_base": "https://api.test/",
        "path": lambda self, context: ("customers", context.stream_slice["parent"]["id"]),
    }
    parent = customers(transport=transport)
    return Source([parent, type("Orders", (HttpSubStream,), orders)(parent, transport=transport)])


async def test_completed_run_restarts_parents_and_children():
    requested: list[str] = []
    broken = "/customers/1"

    def api(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.path)
        if request.url.path == broken:
            return httpx.Response(400)
        return httpx.Response(200, json=[{"id": 1}, {"id": 2}] if request.url.path == "/customers" else [{"id": 3}])

    source, state = shop(api), State()
    _, error = await read_until_error(source, state)
    broken = ""
    await source.read(state=state)
    requested.clear()
    found = await source.read(state=state)

    assert isinstance(error, PartialFailure)
    assert sorted(requested) == ["/customers", "/customers/1", "/customers/2"]
    assert len(found["customers"]) == 2


async def test_children_use_parent_pages_of_earlier_run():
    requested: list[str] = []
    broken = {"3", "/customers/2"}

    def api(request: httpx.Request) -> httpx.Response:
        path, page = request.url.path, int(request.url.params.get("page", 0))
        requested.append(f"{path} {page}")
        if path in broken or (path == "/customers" and str(page) in broken):
            return httpx.Response(404)
        if path == "/customers":
            return httpx.Response(200, json=[{"id": page}] if page < 5 else [])
        return httpx.Response(200, json=[{"of": path}])

    pages = PageNumber(size=1)
    source, state = shop(api, paginator=pages, state_checkpoint_interval=1, parallel_pages=False), State()
    first, error = await read_until_error(source, state)
    broken.clear()
    requested.clear()
    second = await source.read(state=state)

    assert isinstance(error, PartialFailure)
    assert sorted(number for number in first if number is not None) == [1, 2]
    assert [record["id"] for record in second["customers"]] == [3, 4]
    assert sorted(record["of"] for record in second["orders"]) == ["/customers/2", "/customers/3", "/customers/4"]
    assert [path for path in requested if not path.startswith("/customers ")] == [
        "/customers/2 0",
        "/customers/3 0",
        "/customers/4 0",
    ]


class Visits(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"
    cursor_field = "updated_at"

    def path(self, context):
        return "visits"

    def request_params(self, context):
        since, until = context.stream_slice.bounds
        parents = context.stream_slice.get("parents") or [context.stream_slice["parent"]]
        return {"since": since, "until": until, "of": ",".join(str(parent["id"]) for parent in parents)}


async def test_changed_parent_keeps_its_own_frontier():
    api, clock, state = Api((1, 10)), WallClock(100), State()
    versions = iter(range(100))

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/customers":
            return httpx.Response(200, json=[{"id": n, "version": next(versions)} for n in (1, 2)])
        return api(request)

    transport = httpx.MockTransport(answer)
    customers = type(
        "Customers",
        (HttpStream,),
        {"url_base": "https://api.test/", "primary_key": "id", "path": lambda self, context: "customers"},
    )(transport=transport, clock=clock)
    visits = Visits(customers, transport=transport, clock=clock)

    await visits.read(state=state)
    clock.seconds = 200
    api.requests.clear()
    await visits.read(state=state)

    assert sorted((params["of"], params["since"]) for params in api.requests) == [
        ("1", timestamp(40)),
        ("2", timestamp(40)),
    ]


async def test_parent_batches_with_cursor_and_state_are_refused():
    rows = [{"id": number, "updated_at": timestamp(0)} for number in (1, 2)]
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=rows))
    customers = events(Api(), WallClock(100), cursor_field=None, request_params=lambda self, context: None)
    customers.transport = transport
    visits = Visits(customers, transport=transport, clock=WallClock(100))
    visits.parent_batch_size = visits._batch_size = 2

    assert len(await visits.read()) == 2
    with pytest.raises(ConfigError, match="parent_batch_size cannot be combined"):
        await visits.read(state=State())


async def test_parent_cut_by_limit_leaves_state_unchanged():
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}, {"id": 2}]))
    state = State()

    class Customers(HttpStream):
        url_base = "https://api.test/"
        primary_key = "id"

        def path(self, context):
            return "customers"

    class Orders(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context):
            return ("orders", context.stream_slice["parent"]["id"])

    customers = Customers(transport=transport)
    await Source([customers, Orders(customers, transport=transport)]).read(limit=1, state=state)

    assert not state["customers"]


async def test_number_ranges_are_read_up_to_end():
    requested: list[Any] = []
    stream = events(
        Api(),
        WallClock(100),
        cursor_field="id",
        cursor_format="number",
        windows=NumberRanges(step=10, end=25),
        request_params=lambda self, context: requested.append(context.stream_slice.interval),
    )
    state = State()

    await stream.read(state=state)
    await stream.read(state=state)

    assert sorted(requested) == [(0, 10), (10, 20), (20, 25)]


async def test_only_new_part_of_custom_slice_is_read():
    api, clock, state = Api((1, 10), (2, 60)), WallClock(500), State()
    stream = events(api, clock)
    await stream.read(state=state, slices=[Slice({}, (timestamp(0), timestamp(50)))])
    api.requests.clear()

    found = await stream.read(state=state, slices=[Slice({}, (timestamp(0), timestamp(100)))])

    assert [record["id"] for record in found] == [2]
    assert api.requests == [{"since": timestamp(50), "until": timestamp(100)}]


async def test_records_without_cursor_value_are_delivered_and_warned(caplog):
    api, clock, state = Api((1, 10)), WallClock(100), State()
    api.rows.append({"id": 2, "updated_at": None})
    api.rows.append({"id": 3})
    api.rows.append({"id": 4, "updated_at": "soon"})
    stream = events(api, clock)
    stream.transport = httpx.MockTransport(lambda request: httpx.Response(200, json=api.rows))

    found = await ids(stream, state)

    assert found == [1, 2, 3, 4]
    assert caplog.text.count("invalid cursor value") == 1 + caplog.text.count("a str that is not")
    assert "soon" not in caplog.text


async def test_nested_cursor_field_is_read_by_path():
    rows = [{"id": 1, "meta": {"at": timestamp(10)}}, {"id": 2, "meta": {"at": timestamp(70)}}]
    stream = events(Api(), WallClock(100), cursor_field=["meta", "at"])
    stream.transport = httpx.MockTransport(lambda request: httpx.Response(200, json=rows))
    state = State()

    assert await ids(stream, state) == [1]
    assert dict(state["events"]) == {"meta.at": timestamp(40)}


async def test_airbyte_state_is_accepted():
    api = Api((1, 10), (2, 20), (3, 30))

    assert await ids(events(api, WallClock(100)), {"updated_at": timestamp(20)}) == [2, 3]
    assert api.requests == [{"since": timestamp(20), "until": timestamp(100)}]


async def test_state_is_converted_to_airbyte_forms():
    airbyte_state = {
        "states": [
            {"partition": {"project": "a"}, "cursor": {"at": timestamp(20)}},
            {"partition": {"project": "b"}, "cursor": {"at": timestamp(10)}},
        ]
    }
    seen: list[StreamState] = []
    stream = events(Api(), WallClock(), cursor_field="at", stream_slices=lambda self, state: seen.append(state) or [])

    await stream.read(state=airbyte_state)

    assert to_airbyte_state(seen[0], "per-partition") == airbyte_state
    assert to_airbyte_state(seen[0]) == {"at": timestamp(10)}
    assert to_airbyte_state(seen[0], "concurrent")["slices"] == [{"start": None, "end": timestamp(20)}]


async def test_airbyte_slices_are_accepted_with_gaps():
    slices = [{"start": timestamp(0), "end": timestamp(20)}, {"start": timestamp(50), "end": timestamp(70)}]
    api = Api((1, 10), (2, 30), (3, 60), (4, 80))

    found = await ids(
        events(api, WallClock(100), windows=TimeWindows(start=BEGIN, settle=0)),
        {"state_type": "date-range", "slices": slices},
    )

    assert found == [2, 4]


async def test_state_without_cursor_field_is_refused():
    with pytest.raises(ConfigError, match="it contains 'updatedAt', but not the cursor_field 'updated_at'"):
        await events(Api(), WallClock(100)).read(state={"updatedAt": timestamp(20)})


async def test_full_parent_is_read_for_children_beside_new_records():
    api, clock, state = Api((1, 10)), WallClock(100), State()
    parent = events(api, clock)

    class Details(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context):
            return ("details", context.stream_slice["parent"]["id"])

    details = Details(parent, transport=httpx.MockTransport(api), clock=clock)

    first = await Source([parent, details]).read(state=state)
    api.add(2, 80)
    clock.seconds = 200
    second = await Source([parent, details]).read(state=state)

    assert [len(first["events"]), len(second["events"])] == [1, 1]
    assert [len(first["details"]), len(second["details"])] == [1, 4]


async def test_state_file_is_readable_by_owner_only(tmp_path: Path):
    path = tmp_path / "deep" / "state.json"
    api, clock = Api((1, 10)), WallClock(100)

    await events(api, clock).read(state=State.load(path))
    api.add(2, 130)
    clock.seconds = 200
    found = await ids(events(api, clock), State.load(path))

    assert found == [2]
    files = list(path.parent.iterdir())
    assert sorted(file.name for file in files) == ["state.json", "state.json.lock", "state.json.previous"]
    assert {os.stat(file).st_mode & 0o777 for file in files} == {0o600}


async def test_corrupt_state_is_kept_and_previous_one_named(tmp_path: Path):
    path, clock = tmp_path / "state.json", WallClock(100)
    for _ in range(2):
        await events(Api((1, 10)), clock).read(state=State.load(path))
        clock.seconds += 100
    corrupt = path.read_bytes().replace(b"2026-01-01T00:02", b"2026-01-01T00:09")
    path.write_bytes(corrupt)

    with pytest.raises(StateCorrupt, match=r"state\.json\.previous"):
        State.load(path)

    assert path.read_bytes() == corrupt


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"state": {}, "sum": ""}', b"\x00" * 40])
def test_invalid_state_file_is_not_treated_as_empty(tmp_path: Path, text: bytes):
    path = tmp_path / "state.json"
    path.write_bytes(text)

    with pytest.raises(StateCorrupt):
        State.load(path)


@pytest.mark.parametrize(
    ("field", "other"),
    [("url_base", "https://other.test/"), ("cursor_field", "created_at"), ("cursor_timezone", "UTC")],
)
async def test_state_of_other_declaration_is_refused(tmp_path: Path, field: str, other: str):
    path = tmp_path / "state.json"
    await events(Api((1, 10)), WallClock(100)).read(state=State.load(path))

    with pytest.raises(StateIncompatible) as caught:
        await events(Api(), WallClock(200), **{field: other}).read(state=State.load(path))

    assert caught.value.field == field


async def test_state_of_other_credential_needs_permission(tmp_path: Path):
    path, clock = tmp_path / "state.json", WallClock(100)
    first, second = (TokenAuthenticator(token) for token in ("first-token", "second-token"))
    await events(Api((1, 10)), clock, authenticator=first).read(state=State.load(path))

    with pytest.raises(StateIncompatible, match="credential") as caught:
        await events(Api(), clock, authenticator=second).read(state=State.load(path))
    await events(Api(), clock, authenticator=second).read(state=State.load(path, allow_credential_change=True))

    assert caught.value.field == "credential"
    assert "token" not in path.read_text()


async def test_state_of_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "state.json"
    monkeypatch.setattr("asyncstreams.state.state_file._FORMAT", 4)
    await events(Api((1, 10)), WallClock(100)).read(state=State.load(path))
    monkeypatch.undo()

    with pytest.raises(StateIncompatible) as caught:
        State.load(path.rename(tmp_path / "copy.json"))

    assert caught.value.field == "format"


async def test_unwritable_state_error_names_what_is_unchanged(tmp_path: Path):
    state = State.load(tmp_path / "state.json")
    api = Api((1, 10))
    api.fails = lambda params: bool((tmp_path / "state.json" / "folder").mkdir(parents=True))  # nothing replaces it

    with pytest.raises(OutputWriteError, match="the previous file is unchanged"):
        await events(api, WallClock(100)).read(state=state)


async def test_body_error_wins_over_unwritable_state(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = State.load(tmp_path / "state.json")
    stream = events(Api((1, 10)), WallClock(100))

    async def consume() -> None:
        async with stream.pages(state=state, ack="manual") as pages:
            async for page in pages:
                (tmp_path / "state.json" / "folder").mkdir(parents=True)  # a file cannot replace it
                page.ack()
                raise KeyError("the body's own")

    with pytest.raises(KeyError, match="the body's own"):
        await consume()

    assert "cannot write" in caplog.text


@pytest.mark.parametrize(
    "attributes",
    [
        {"cursor_field": ""},
        {"cursor_field": 7},
        {"cursor_format": "rfc"},
        {"windows": TimeWindows},
        {"windows": 30},
        {"cursor_field": None, "windows": TimeWindows()},
        {"state_checkpoint_interval": 0},
        {"cursor_format": "number"},
    ],
)
async def test_invalid_cursor_declaration_is_refused(attributes: dict[str, Any]):
    with pytest.raises(ConfigError):
        await events(Api(), WallClock(100), **attributes).read()


@examples(full=80, short=16)
@given(st.data())
def test_property_interrupted_runs_repeat_only_uncommitted_rows(
    data: st.DataObject,
) -> None:
    times = data.draw(st.lists(st.integers(0, 400), max_size=30))
    api, clock, state = Api(), WallClock(), State()
    api.filters = data.draw(st.booleans())
    attributes: dict[str, Any] = {"paginator": PageNumber(size=3), "parallel_pages": False}
    if data.draw(st.booleans()):
        attributes["windows"] = TimeWindows(start=BEGIN, step=timedelta(seconds=data.draw(st.integers(20, 200))))
    if data.draw(st.booleans()):
        attributes["state_checkpoint_interval"] = data.draw(st.integers(1, 6))
    stream = events(api, clock, **attributes)
    safe: list[int] = []
    unsafe: list[int] = []

    async def run(failing: int | None, break_after: int | None) -> None:
        """Ids count as safe if their interval is done in the state."""
        api.fails = lambda params: len(api.requests) % 7 == failing
        delivered: list[dict[str, Any]] = []
        with suppress(PartialFailure, HttpStatusError):
            async with stream.pages(state=state) as pages:
                number = 0
                async for page in pages:
                    delivered += page.records
                    number += 1
                    if number == break_after:
                        break
        known = state["events"]
        for record in delivered:
            after = timestamp((datetime.fromisoformat(record["updated_at"]) - BEGIN).total_seconds() + 1)
            is_safe = not known.gaps(record["updated_at"], after)
            (safe if is_safe else unsafe).append(record["id"])

    async def main() -> None:
        rows = list(enumerate(times))
        for _ in range(data.draw(st.integers(1, 4))):
            clock.seconds += data.draw(st.integers(0, 200))
            # A row is final once its second is over.
            for number, at in [row for row in rows if row[1] < clock.seconds]:
                api.add(number, at)
                rows.remove((number, at))
            await run(data.draw(st.none() | st.integers(0, 6)), data.draw(st.none() | st.integers(1, 5)))
        for number, at in rows:
            api.add(number, at)
        clock.seconds = 1000
        await run(None, None)
        await run(None, None)

    asyncio.run(main())

    assert {*safe, *unsafe} == set(range(len(times)))
    assert max(Counter(safe).values(), default=1) == 1
