"""States of Airbyte: each form is taken completely, or refused with the reason."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from incremental_api import BEGIN, WallClock, timestamp

from asyncstreams import (
    ConfigError,
    HttpStream,
    HttpSubStream,
    PartialFailure,
    Slice,
    Source,
    State,
    TimeWindows,
    to_airbyte_state,
)

EARLY, LATE = timestamp(10), timestamp(20)
Requests = list[tuple[str, str | None]]


class Api:
    """Two rows for every path, with the keys 1 and 2. A request is noted as its path and its lower bound."""

    def __init__(self) -> None:
        self.requests: Requests = []
        self.clock = WallClock(100)
        self.row_at: str | int = timestamp(30)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.url.path.strip("/"), request.url.params.get("since")))
        return httpx.Response(200, json=[{"id": number, "at": self.row_at} for number in (1, 2)])


class Customers(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    cursor_field = "at"

    def path(self, context: Any) -> Any:
        return "customers"

    def request_params(self, context: Any) -> Any:
        return {"since": context.stream_slice.bounds[0]}


class Shops(Customers):
    def path(self, context: Any) -> Any:
        return context.stream_slice["shop"]

    def stream_slices(self, state: Any) -> Any:
        return [{"shop": "berlin"}, {"shop": "paris"}]


class Orders(HttpSubStream):
    url_base = "https://api.test/"
    primary_key = "id"
    cursor_field = "at"
    request_params = Customers.request_params

    def path(self, context: Any) -> Any:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


class NewOrders(Orders):
    name = "orders"
    incremental_dependency = True


def make(kind: type[HttpStream], api: Api) -> HttpStream:
    options: Any = {"transport": httpx.MockTransport(api), "clock": api.clock}
    return kind(Customers(**options), **options) if issubclass(kind, HttpSubStream) else kind(**options)


async def requests_of(kind: type[HttpStream], state: Any) -> Requests:
    """The requests of one read, sorted."""
    api = Api()
    await make(kind, api).read(state=state)
    return sorted(api.requests, key=str)


async def read_until_failure(stream: HttpStream, state: State) -> None:
    with suppress(PartialFailure):
        async with stream.pages(state=state) as pages:
            async for _ in pages:
                pass


def states(*partitions: tuple[dict[str, Any], str], **more: Any) -> dict[str, Any]:
    return {"states": [{"partition": part, "cursor": {"at": value}} for part, value in partitions], **more}


def message(name: str, state: Any, namespace: str | None = None) -> dict[str, Any]:
    descriptor = {"name": name, "namespace": namespace}
    return {"type": "STREAM", "stream": {"stream_descriptor": descriptor, "stream_state": state}}


BOTH: Requests = [("berlin", EARLY), ("paris", EARLY)]
ONE_SLICE = {"state_type": "date-range", "slices": [{"start": "1970-01-01T00:00:00.000Z", "end": EARLY}]}


@pytest.mark.parametrize(
    "state",
    [
        {"at": EARLY},
        {"state": {"at": EARLY}, "use_global_cursor": True},
        {"state": {"at": LATE}, "use_global_cursor": True, "lookback_window": 10, "states": []},
        states(({"shop": "berlin"}, EARLY), ({"shop": "paris"}, EARLY)),
        states(({"shop": "berlin", "parent_slice": {}}, EARLY), state={"at": EARLY}, use_global_cursor=False),
        {"states": [{"partition": {"shop": "berlin"}, "cursor": ONE_SLICE}], "state": {"at": EARLY}},
        {"states": [{"partition": {"shop": "berlin"}, "cursor": ONE_SLICE}], "state": ONE_SLICE},
        ONE_SLICE,
        [message("shops", {"at": EARLY})],
        [message("shops", {"at": LATE}), message("shops", {"at": EARLY})],
        {"type": "STATE", "state": message("shops", {"at": EARLY})},
        {"type": "LEGACY", "data": {"shops": {"at": EARLY}}},
        {"type": "GLOBAL", "global": {"stream_states": [message("shops", {"at": EARLY})["stream"]]}},
        {"stateType": "legacy", "connectionId": "c", "state": {"shops": {"at": EARLY}}},
        {
            "stateType": "stream",
            "streamState": [{"streamDescriptor": {"name": "shops"}, "streamState": {"at": EARLY}}],
        },
        {"shops": {"at": EARLY}},
        json.dumps({"at": EARLY}),
        json.dumps([message("shops", {"at": EARLY})]),
        f"{json.dumps(message('shops', {'at': LATE}))}\n{json.dumps(message('shops', {'at': EARLY}))}\n",
    ],
)
async def test_every_form_is_the_start_of_each_slice(state: Any, caplog: pytest.LogCaptureFixture):
    assert await requests_of(Shops, state) == BOTH
    assert caplog.text == ""


async def test_partition_without_state_is_read_completely():
    assert await requests_of(Shops, states(({"shop": "berlin"}, EARLY))) == [("berlin", EARLY), ("paris", None)]


async def test_own_state_of_partition_wins_over_global_one():
    state = states(({"shop": "berlin"}, EARLY), state={"at": LATE})

    assert await requests_of(Shops, state) == [("berlin", EARLY), ("paris", LATE)]


async def test_last_slice_ends_with_most_recent_record():
    slices = [{"start": timestamp(0), "end": EARLY}, {"start": EARLY, "end": LATE, "most_recent_cursor_value": EARLY}]

    assert await requests_of(Customers, {"slices": slices}) == [("customers", EARLY), ("customers", None)]


@pytest.mark.parametrize(
    ("state", "warning"),
    [
        ({"at": EARLY, "next_page_token": 7}, "not used: 'next_page_token'"),
        (states(({"shop": "rome"}, EARLY)), "has a partition that no slice has, such as {'shop': 'rome'}"),
        (states(({"shop": "rome"}, EARLY), ({"shop": "oslo"}, EARLY)), "has 2 partitions that no slice has"),
        (states(({"shop": "berlin"}, EARLY), state={"at": EARLY}, use_global_cursor=True), "'use_global_cursor' is"),
        ({"at": EARLY, "lookback_window": 5}, "'lookback_window', without 'state'"),
        ({"at": EARLY, "parent_state": {"x": {"at": EARLY}}}, "'parent_state' of 'x', because incremental_dependency"),
        ({"__ab_no_cursor_state_message": True}, "no cursor value, so everything is read"),
        ({"at": None}, "no cursor value, so everything is read"),
        ([message("shops", {"at": EARLY}), message("x", {})], "states of other streams are not used: 'x'"),
        ({"type": "GLOBAL", "global": {"shared_state": {"lsn": 1}}}, "'shared_state' of a global message is not used"),
    ],
)
async def test_what_is_not_used_is_named(state: Any, warning: str, caplog: pytest.LogCaptureFixture):
    await requests_of(Shops, state)

    assert warning in caplog.text


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("state.json", "of type str, which is neither a state nor JSON text"),
        (Path("state.json"), "which is neither a state nor JSON text"),
        ("{at", "the text is JSON that is malformed at byte 1"),
        (5, "of type int: expected a State"),
        ([5], "a message is of type int"),
        ([{"type": "RECORD", "record": {}}], "a message has 'type', 'record', but no state"),
        ([message("x", {})], "it has no state of stream 'shops', but of 'x'"),
        ([message("shops", {}, "a"), message("shops", {}, "b")], "in two namespaces"),
        ({"berlin": {"at": EARLY}}, "it contains 'berlin', but not the cursor_field 'at'"),
        ({"states": {"at": EARLY}}, "'states' is of type dict, not a list"),
        ({"states": [{"cursor": {"at": EARLY}}]}, "'partition' is missing"),
        ({"states": [{"partition": {"shop": "berlin"}, "cursor": EARLY}]}, "'cursor' is of type str, not an object"),
        ({"states": [{"partition": "berlin", "cursor": {"at": EARLY}}]}, "'partition' is of type str, not an object"),
        ({"states": [{"partition": {}, "cursor": {"other": EARLY}}]}, "a cursor has 'other', but not the cursor_field"),
        ({"state": {"at": EARLY}, "lookback_window": "P1D"}, "'lookback_window' is not a number of seconds"),
        ({"at": "yesterday"}, "neither ISO 8601 nor an epoch"),
    ],
)
async def test_what_cannot_be_used_is_refused(state: Any, problem: str):
    api = Api()

    with pytest.raises(ConfigError) as caught:
        await make(Shops, api).read(state=state)

    assert problem in str(caught.value)
    assert api.requests == []


@pytest.mark.parametrize(
    "partitions",
    [
        [{"customer_id": 1, "parent_slice": {}}, {"customer_id": 2, "parent_slice": {"org": 7, "parent_slice": {}}}],
        [{"id": 1}, {"id": 2}],
        [{"parent": {"id": 1, "name": "x"}}, {"parent": {"id": 2}}],
    ],
)
async def test_partitions_of_parents_are_found_by_key(partitions: Any, caplog: pytest.LogCaptureFixture):
    found = await requests_of(Orders, states((partitions[0], EARLY), (partitions[1], LATE)))

    assert found[1:] == [("customers/1/orders", EARLY), ("customers/2/orders", LATE)]
    assert ("'customer_id' in the state is read as the primary key" in caplog.text) == ("customer_id" in partitions[0])
    assert "that no slice has" not in caplog.text


async def test_earliest_state_of_parents_with_equal_key_counts():
    parts = [{"id": 1, "parent_slice": {"org": org}} for org in (1, 2)]

    found = await requests_of(Orders, states((parts[0], EARLY), (parts[1], LATE)))

    assert found[1] == ("customers/1/orders", EARLY)


async def test_partition_that_names_no_parent_is_refused():
    with pytest.raises(ConfigError, match="does not say which record of 'customers' it belongs to"):
        await requests_of(Orders, states(({"customer_id": 1, "country": "de"}, EARLY)))


async def test_parent_state_is_that_of_the_parents(caplog: pytest.LogCaptureFixture):
    parent = {"use_global_cursor": True, "state": {"at": LATE}, "lookback_window": 10}

    found = await requests_of(NewOrders, states(({"id": 1}, LATE), parent_state={"customers": parent, "x": parent}))

    assert found == [("customers", EARLY), ("customers/1/orders", LATE), ("customers/2/orders", None)]
    assert "not used: 'parent_state' of 'x'" in caplog.text


async def test_batches_with_states_of_partitions_are_refused():
    class Batches(Orders):
        parent_batch_size = 2

        def path(self, context: Any) -> Any:
            return "orders"

    with pytest.raises(ConfigError, match="parent_batch_size cannot be combined"):
        await requests_of(Batches, states(({"id": 1}, EARLY)))


async def test_source_takes_messages_of_its_streams(caplog: pytest.LogCaptureFixture):
    api = Api()
    messages = [message("shops", {"at": EARLY}), message("customers", {"at": LATE}), message("x", {})]

    await Source([make(Shops, api), make(Customers, api)]).read(state=json.dumps(messages))

    assert sorted(api.requests, key=str) == [("berlin", EARLY), ("customers", LATE), ("paris", EARLY)]
    assert "states of other streams are not used: 'x'" in caplog.text


async def test_state_from_airbyte_is_saved_and_goes_on(tmp_path: Path):
    path, api = tmp_path / "state.json", Api()
    await State.from_airbyte([message("shops", {"at": EARLY}), message("later", {"at": LATE})], path).save()
    stream = make(Shops, api)

    await stream.read(state=State.load(path.rename(tmp_path / "moved.json")))

    assert sorted(api.requests, key=str) == BOTH
    assert json.loads((tmp_path / "moved.json").read_text())["state"]["airbyte"] == {"later": {"at": LATE}}


async def test_start_for_all_slices_survives_interrupted_read(tmp_path: Path):
    api, path = Api(), tmp_path / "state.json"
    stream = make(Shops, api)
    stream.transport = httpx.MockTransport(
        lambda request: httpx.Response(404) if request.url.path == "/paris" else api(request)
    )
    state = State.from_airbyte({"shops": {"at": EARLY}}, path)
    await read_until_failure(stream, state)

    await make(Shops, api).read(state=State.load(path.rename(tmp_path / "copy.json")))

    assert api.requests == BOTH


async def test_new_slice_after_complete_read_is_read_completely():
    api, state = Api(), State.from_airbyte({"shops": {"at": EARLY}})
    stream = make(Shops, api)
    await stream.read(state=state)
    api.requests.clear()
    api.clock.seconds = 200

    await stream.read(state=state, slices=[{"shop": "oslo"}, {"shop": "paris"}])

    assert api.requests == [("oslo", None), ("paris", timestamp(40))]


async def test_conversion_does_not_replace_a_file(tmp_path: Path):
    path = tmp_path / "state.json"
    path.write_text("kept")

    with pytest.raises(ConfigError, match="exists"):
        State.from_airbyte({"shops": {"at": EARLY}}, path)

    assert path.read_text() == "kept"


@pytest.mark.parametrize("state", [{"at": EARLY}, "{}x", 5, None])
def test_conversion_needs_names_of_streams(state: Any):
    with pytest.raises(ConfigError):
        State.from_airbyte(state)


async def test_global_start_is_converted_back():
    seen: list[Any] = []

    class NoShops(Shops):
        def stream_slices(self, state: Any) -> Any:
            seen.append(state)
            return []

    await requests_of(NoShops, states(({"shop": "berlin"}, EARLY), state={"at": LATE}))

    assert to_airbyte_state(seen[0], "per-partition") == states(({"shop": "berlin"}, EARLY), state={"at": LATE})
    assert to_airbyte_state(seen[0]) == {"at": EARLY}


async def test_slices_of_a_state_leave_their_gaps():
    api = Api()
    stream = make(Customers, api)
    stream.windows = TimeWindows(start=BEGIN, settle=0)
    slices = [{"start": timestamp(0), "end": EARLY}, {"start": LATE, "end": timestamp(50)}]

    await stream.read(state={"slices": slices}, slices=[Slice({}, (timestamp(0), timestamp(60)))])

    assert api.requests == [("customers", EARLY), ("customers", timestamp(50))]


async def test_epochs_in_a_state_are_sent_as_epochs():
    api, seconds = Api(), int(BEGIN.timestamp())
    api.row_at = seconds + 30

    found = await make(Customers, api).read(state={"at": seconds + 10})

    assert api.requests == [("customers", str(seconds + 10))]
    assert len(found) == 2
