"""Cursor formats in a run: what the first values decide, and how bounds are sent."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from incremental_api import BEGIN, WallClock, timestamp

from asyncstreams import (
    ConfigError,
    CursorFormat,
    CursorMismatch,
    HttpStream,
    HttpSubStream,
    JsonLines,
    NumberRanges,
    PartialFailure,
    Record,
    RequestContext,
    Slice,
    Source,
    State,
    StateIncompatible,
    TimeWindows,
)

EPOCH = int(BEGIN.timestamp())


class Api:
    """An API whose rows have a cursor `at`; it notes what it is asked for, and does not filter."""

    def __init__(self, *values: Any) -> None:
        self.rows: list[Record] = [{"id": number, "at": value} for number, value in enumerate(values)]
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.clock = WallClock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        self.paths.append(request.url.path)
        return httpx.Response(200, json=self.rows_for(request))

    def rows_for(self, request: httpx.Request) -> list[Record]:
        return self.rows


def send_bounds(self: HttpStream, context: RequestContext) -> dict[str, Any]:
    since, until = context.bounds
    return {"since": since, "until": until}


def events(api: Api, at: float = 1_000, **attributes: Any) -> HttpStream:
    """A stream read at the time `at`, in seconds after BEGIN. Its bounds are sent, unless `sends` is False."""
    api.clock.seconds = at
    sends = attributes.pop("sends", True)
    declared = {
        "url_base": "https://api.test/",
        "primary_key": "id",
        "cursor_field": "at",
        "path": lambda self, context: "events",
        **({"request_params": send_bounds} if sends else {}),
        **attributes,
    }
    return type("Events", (HttpStream,), declared)(transport=httpx.MockTransport(api), clock=api.clock)


def ids(records: Sequence[Record]) -> list[int]:
    return [record["id"] for record in records]


def iso(seconds: float) -> str:
    """A moment with milliseconds."""
    return (BEGIN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("convert", [int, str])
async def test_epochs_are_recognised_by_their_size(unit: int, convert: Callable[[int], Any]):
    state = State()
    api = Api(*(convert((EPOCH + seconds) * unit) for seconds in (0, 500, 2_000)))

    first = await events(api, sends=False).read(state=state)
    second = await events(api, 3_000, sends=False).read(state=state)

    assert (ids(first), second) == ([0, 1, 2], [])  # the third row is dated in the future
    assert list(state["events"]) == ["at"]


async def test_bounds_before_first_value_are_iso_in_whole_seconds():
    api = Api(iso(100), iso(200))
    windows = TimeWindows(start=BEGIN, step=timedelta(seconds=400))

    await events(api, 1_000.7, windows=windows).read()

    asked = [(params["since"], params["until"]) for params in api.asked]
    assert asked == [(timestamp(start), timestamp(end)) for start, end in ((0, 400), (400, 800), (800, 940))]


async def test_bounds_before_first_value_are_local_with_time_zone():
    api = Api("2026-01-01T01:00:00")

    await events(api, cursor_timezone="Asia/Tokyo").read()

    assert api.asked == [{"until": "2026-01-01T09:16:40"}]


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ((iso(100),), (iso(940), iso(1_940))),
        (("2026-01-01T00:01:40+00:00",), ("2026-01-01T00:15:40+00:00", "2026-01-01T00:32:20+00:00")),
        (("2025-12-31T19:01:40-05:00",), (timestamp(940), timestamp(1_940))),
        ((EPOCH,), (str(EPOCH + 940), str(EPOCH + 1_940))),
        ((EPOCH + 0.5,), (f"{EPOCH + 940}.0", f"{EPOCH + 1_940}.0")),
        ((f"{EPOCH}.250000",), (f"{EPOCH + 940}.000000", f"{EPOCH + 1_940}.000000")),
    ],
)
async def test_next_run_sends_bounds_like_the_values(tmp_path: Path, values: tuple[Any, ...], bounds: tuple[str, str]):
    api = Api(*values)
    await events(api, sends=False).read(state=State.load(tmp_path / "state.json"))
    api.asked.clear()

    await events(api, 2_000).read(state=State.load(tmp_path / "state.json"))

    assert [(params["since"], params["until"]) for params in api.asked] == [bounds]


@pytest.mark.parametrize("value", [EPOCH, str(EPOCH)])
async def test_bounds_in_json_have_the_type_of_the_values(value: Any):
    sent: list[Any] = []
    state = State()
    api = Api(value)

    def body(self: HttpStream, context: RequestContext) -> dict[str, Any]:
        sent.append(context.bounds)
        return {"since": context.bounds[0]}

    await events(api, sends=False).read(state=state)
    await events(api, 2_000, sends=False, request_json=body, http_method="POST").read(state=state)

    assert sent == [(type(value)(EPOCH + 940), type(value)(EPOCH + 1_940))]


async def test_open_start_alone_leaves_the_form_of_bounds_open():
    def start(self: HttpStream, context: RequestContext) -> dict[str, Any]:
        since, _ = context.bounds
        return {"since": since}

    api, state = Api(EPOCH), State()

    await events(api, request_params=start).read(state=state)
    await events(api, 2_000, request_params=start).read(state=state)

    assert api.asked == [{}, {"since": str(EPOCH + 940)}]


@pytest.mark.parametrize("change", [str, lambda bound: bound[:10], lambda bound: bound.replace("T", " ")])
@pytest.mark.parametrize("place", ["request_params", "request_json"])
async def test_iso_bound_anywhere_in_the_request_counts_as_sent(place: str, change: Callable[[str], str]):
    hooks: dict[str, Any] = {place: lambda self, context: {"until": change(context.bounds[1])}}
    if place == "request_json":
        hooks["http_method"] = "POST"

    with pytest.raises(CursorMismatch, match="bounds were sent in ISO 8601"):
        await events(Api(EPOCH), sends=False, **hooks).read()


async def test_epochs_after_iso_bounds_end_the_stream_uncommitted(tmp_path: Path):
    class Filtering(Api):
        def rows_for(self, request: httpx.Request) -> list[Record]:  # only the last window has rows
            return self.rows if request.url.params["until"] == timestamp(940) else []

    api = Filtering(EPOCH + 900)
    windows = TimeWindows(start=BEGIN, step=timedelta(seconds=100))
    out = JsonLines(tmp_path / "out")

    with pytest.raises((CursorMismatch, PartialFailure), match=r"bounds were sent in ISO 8601.*") as caught:
        await Source([events(api, windows=windows)]).extract(to=out)
    assert 'cursor_format = "epoch"' in str(caught.value)
    api.asked.clear()
    await Source([events(api, windows=windows, cursor_format="epoch")]).extract(to=out)

    assert len(api.asked) == 10  # what was asked for in the wrong form does not count as read


async def test_showing_a_slice_does_not_decide_the_form_of_bounds():
    api = Api(EPOCH)
    stream = events(api, sends=False)
    shown: list[str] = []
    stream.subscribe(lambda event: shown.append(repr(event)))

    assert ids(await stream.read()) == [0]
    assert any(timestamp(1_000) in text for text in shown)


async def test_planned_slices_can_be_copied_and_pickled():
    found: list[Slice] = []

    def params(self: HttpStream, context: RequestContext) -> dict[str, Any]:
        found.append(context.stream_slice)
        return {}

    await events(Api(timestamp(1)), request_params=params).read()

    for copied in (copy.deepcopy(found[0]), pickle.loads(pickle.dumps(found[0]))):
        assert copied == found[0]
        assert copied.bounds == (None, timestamp(1_000))


async def test_bounds_are_open_without_windows():
    api = Api(1)

    await events(api, cursor_field=None).read()

    assert api.asked == [{}]
    assert Slice({"project": 7}).bounds == (None, None)


async def test_schema_decides_before_the_first_value():
    api = Api("2025-12-30")
    schema = {"properties": {"at": {"type": ["null", "string"], "format": "date"}}}

    await events(api, 86_400 * 3, get_json_schema=lambda self: schema).read()

    assert api.asked == [{"until": "2026-01-03"}]


async def test_schema_of_integers_is_refused_before_the_first_request():
    api = Api(EPOCH)
    schema = {"properties": {"at": {"type": "integer"}}}

    with pytest.raises(CursorMismatch, match="the schema declares numbers") as caught:
        await events(api, get_json_schema=lambda self: schema, windows=TimeWindows(start=BEGIN)).read()

    assert "cursor_format" in str(caught.value)
    assert api.asked == []


async def test_values_win_over_a_schema_that_contradicts_them():
    api = Api(EPOCH)
    schema = {"properties": {"at": {"type": "string", "format": "date-time"}}}

    records = await events(api, sends=False, get_json_schema=lambda self: schema).read()

    assert ids(records) == [0]


@pytest.mark.parametrize(
    "values", [(1, 2, 3), (99_999_999,), ("yesterday",), (20260131,), ("20260131120000",), (True,)]
)
async def test_values_that_are_no_times_name_the_option(values: tuple[Any, ...]):
    with pytest.raises(CursorMismatch, match="cursor_format") as caught:
        await events(Api(*values), sends=False).read()

    assert "yesterday" not in str(caught.value)


@pytest.mark.parametrize("values", [(1, 2, 3), ("1", "2", "3")])
async def test_ids_are_numbers_with_number_ranges(values: tuple[Any, ...]):
    api = Api(*values)

    records = await events(api, windows=NumberRanges(step=10, end=10)).read()

    assert ids(records) == [0, 1, 2]
    assert api.asked == [{"since": "0", "until": "10"}]


@pytest.mark.parametrize("form", ["epoch", "date", "%d.%m.%Y", CursorFormat(records=("epoch", "%d.%m.%Y"))])
async def test_first_page_of_another_format_ends_the_stream(form: str | CursorFormat):
    with pytest.raises(CursorMismatch, match="cursor_format = ") as caught:
        await events(Api("soon", "later"), sends=False, cursor_format=form).read()

    assert "none of the 2 values of 'at'" in str(caught.value)
    assert "soon" not in str(caught.value)


async def test_values_of_another_format_beside_valid_ones_only_warn(caplog: pytest.LogCaptureFixture):
    records = await events(Api(timestamp(1), "", "soon"), sends=False).read()

    assert ids(records) == [0, 1, 2]
    assert "records with an invalid cursor value" in caplog.text


@pytest.mark.parametrize("raw", [False, True])
async def test_misspelt_cursor_field_ends_the_stream(tmp_path: Path, raw: bool):
    api = Api(timestamp(1))
    api.rows = [{"id": 1, "updated_at": timestamp(1)}]
    stream = events(api, cursor_field="updatedAt", sends=False)

    with pytest.raises(CursorMismatch, match="no record of the first page has this field") as caught:
        await (stream.extract(to=JsonLines(tmp_path)) if raw else stream.read())

    assert "did you mean 'updated_at'?" in str(caught.value)


async def test_dotted_cursor_field_is_answered_with_its_path():
    api = Api()
    api.rows = [{"id": 1, "meta": {"at": timestamp(1)}}]

    with pytest.raises(CursorMismatch) as caught:
        await events(api, cursor_field="meta.at", sends=False).read()

    assert "cursor_field = ('meta', 'at')" in str(caught.value.hint)


async def test_misspelt_cursor_field_leaves_other_streams_alone():
    api = Api(timestamp(1))
    misspelt, other = events(api, cursor_field="att"), events(api, name="other")
    found: list[str] = []

    async def read() -> None:
        async with Source([misspelt, other]).pages() as pages:
            async for page in pages:
                found.extend(page.stream for _ in page.records)

    with pytest.raises(PartialFailure, match="cursor_field = 'att'"):
        await read()

    assert found == ["other"]


@pytest.mark.parametrize("rows", [[{"id": 1}, {"id": 2, "at": timestamp(1)}], [{"id": 1, "at": None}], []])
async def test_field_that_some_records_have_is_not_misspelt(rows: list[Record]):
    api = Api()
    api.rows = rows

    assert await events(api, sends=False).read() == rows


async def test_field_that_the_schema_declares_is_not_misspelt():
    api = Api()
    api.rows = [{"id": 1}]
    schema = {"properties": {"at": {"type": "string"}}}

    assert await events(api, sends=False, get_json_schema=lambda self: schema).read() == [{"id": 1}]


async def test_times_without_offset_warn_once_and_name_the_option(caplog: pytest.LogCaptureFixture):
    api = Api("2026-01-01T00:00:10", "2026-01-01T00:00:20")

    records = await events(api, windows=TimeWindows(start=BEGIN, step="300s")).read()

    assert ids(records) == [0, 1]
    assert caplog.text.count("set cursor_timezone if they are local") == 1


@pytest.mark.parametrize("attributes", [{"cursor_timezone": "Europe/Berlin"}, {"cursor_format": "date"}])
async def test_no_warning_with_time_zone_or_dates(attributes: dict[str, Any], caplog: pytest.LogCaptureFixture):
    value = "2025-12-01" if "cursor_format" in attributes else "2026-01-01T00:00:10"

    await events(Api(value), **attributes).read()

    assert "cursor_timezone" not in caplog.text


async def test_row_dated_today_is_found_after_dates_were_recognised():
    state = State()
    api = Api("2025-12-30")
    await events(api, 86_400 * 3).read(state=state)
    api.rows.append({"id": 1, "at": "2026-01-03"})

    later = await events(api, 86_400 * 5).read(state=state)

    assert ids(later) == [1]


@pytest.mark.parametrize("value", [timestamp(5_000), EPOCH + 5_000, "9999-12-31T23:59:59-05:00", 253_402_300_799])
async def test_row_dated_in_the_future_comes_once(tmp_path: Path, value: Any):
    api = Api(value, value if isinstance(value, int) and value > EPOCH + 10**6 else timestamp(1))
    api.rows[1]["at"] = EPOCH if isinstance(value, int) else timestamp(1)
    found: list[int] = []

    for at in (1_000, 2_000, 6_000, 9_000):
        found += ids(await events(api, at, sends=False).read(state=State.load(tmp_path / "state.json")))

    assert sorted(found) == [0, 1]


@pytest.mark.parametrize(("zone", "offset"), [(None, "-05:00"), ("America/New_York", ""), ("Asia/Tokyo", "Z")])
async def test_rows_at_the_ends_of_time_are_written_once(tmp_path: Path, zone: str | None, offset: str):
    days = "2025-12-01T00:00:00", "9999-12-31T23:59:59", "0001-01-01T00:00:00"
    api = Api(*(day + offset for day in days))

    rows = 0
    for _ in range(2):
        report = await events(api, cursor_timezone=zone, sends=False).extract(to=JsonLines(tmp_path))
        rows += report.streams[0].records

    assert rows == 3


async def test_output_keeps_the_decision(tmp_path: Path):
    api = Api(EPOCH)
    await events(api, sends=False).extract(to=JsonLines(tmp_path))
    api.asked.clear()

    await events(api, 2_000).extract(to=JsonLines(tmp_path))
    await events(api, 3_000).extract(to=JsonLines(tmp_path))

    bounds = [(EPOCH + 940, EPOCH + 1_940), (EPOCH + 1_940, EPOCH + 2_940)]
    assert api.asked == [{"since": str(since), "until": str(until)} for since, until in bounds]


async def test_child_keeps_the_decision_of_its_parent():
    class Parents(Api):
        def rows_for(self, request: httpx.Request) -> list[Record]:
            return self.rows if request.url.path == "/events" else []

    class Visits(HttpSubStream):
        url_base = "https://api.test/"
        incremental_dependency = True

        def path(self, context: RequestContext) -> tuple[str, ...]:
            return ("events", str(context.stream_slice["parent"]["id"]), "visits")

    state, api = State(), Parents(EPOCH)
    for at, sends in ((1_000, False), (2_000, True)):
        parent = events(api, at, sends=sends)
        await Visits(parent, transport=httpx.MockTransport(api), clock=api.clock).read(state=state)

    assert api.paths == ["/events", "/events/0/visits", "/events"]
    assert api.asked[2] == {"since": str(EPOCH + 940), "until": str(EPOCH + 1_940)}


async def test_state_of_the_former_default_is_continued(tmp_path: Path):
    api = Api(timestamp(1))
    await events(api, cursor_format="iso").read(state=State.load(tmp_path / "state.json"))
    api.rows.append({"id": 1, "at": timestamp(1_500)})

    records = await events(api, 2_000).read(state=State.load(tmp_path / "state.json"))

    assert ids(records) == [1]


@pytest.mark.parametrize(("value", "unit"), [(EPOCH, 1), (str(EPOCH), 1), (EPOCH * 1_000, 1_000)])
async def test_epoch_in_state_of_airbyte_decides_the_unit(value: Any, unit: int):
    api = Api((EPOCH + 100) * unit)

    records = await events(api).read(state={"at": value})

    assert ids(records) == [0]
    assert api.asked == [{"since": str(EPOCH * unit), "until": str((EPOCH + 1_000) * unit)}]


async def test_own_slices_may_have_iso_bounds_for_epochs():
    api = Api(EPOCH, EPOCH + 500)
    edges = timestamp(0), timestamp(400), timestamp(900)

    def slices(self: HttpStream, state: Any) -> list[Slice]:
        return [Slice({}, bounds) for bounds in pairwise(edges)]

    records = await events(api, stream_slices=slices).read()

    assert sorted(ids(records)) == [0, 1]


@pytest.mark.parametrize("form", ["auto", "iso", "epoch"])
async def test_cursors_may_be_datetimes(form: str):
    state = State()
    api = Api(timestamp(0), timestamp(500))

    def parse(self: HttpStream, response: Any, context: RequestContext) -> list[Record]:
        return [{**row, "at": datetime.fromisoformat(row["at"])} for row in response.json()]

    first = await events(api, cursor_format=form, parse_response=parse).read(state=state)
    second = await events(api, 2_000, cursor_format=form, parse_response=parse).read(state=state)

    assert (ids(first), second) == ([0, 1], [])


async def test_pattern_that_ends_in_z_is_utc_without_a_warning(caplog: pytest.LogCaptureFixture):
    await events(Api(timestamp(0)), cursor_format="%Y-%m-%dT%H:%M:%SZ").read()

    assert "cursor_timezone" not in caplog.text


async def test_bounds_of_ids_are_whole_numbers():
    api = Api(1)

    await events(api, windows=NumberRanges(step=1e1, end=2e1)).read()

    assert api.asked == [{"since": "0", "until": "10"}, {"since": "10", "until": "20"}]


async def test_declaring_the_format_later_continues_the_state():
    api, state = Api(EPOCH), State()
    await events(api, sends=False).read(state=state)
    api.rows.append({"id": 1, "at": EPOCH + 1_500})

    records = await events(api, 2_000, cursor_format="epoch").read(state=state)

    assert ids(records) == [1]


async def test_changing_a_declared_format_is_refused():
    state = State()
    await events(Api(EPOCH), cursor_format="epoch").read(state=state)

    with pytest.raises(StateIncompatible, match="cursor_format"):
        await events(Api(EPOCH), cursor_format="epoch_ms").read(state=state)


async def test_dates_that_were_asked_for_with_times_are_warned_of(caplog: pytest.LogCaptureFixture):
    api, windows = Api("2026-01-01"), TimeWindows(start="2026-01-01")

    await events(api, 90_000, windows=windows).read()
    await events(api, 90_000, windows=windows, cursor_format="date").read()

    assert [message for message in caplog.messages if 'set cursor_format = "date"' in message] == caplog.messages
    assert len(caplog.messages) == 1


async def test_epochs_end_the_stream_if_a_hook_wrote_its_own_format():
    def send_epoch(self: HttpStream, context: RequestContext) -> dict[str, Any]:
        return {"since": int(datetime.fromisoformat(context.bounds[0]).timestamp())}

    stream = events(Api(EPOCH), windows=TimeWindows(start="2026-01-01"), request_params=send_epoch)

    with pytest.raises(CursorMismatch, match="bounds were sent in ISO 8601"):
        await stream.read()


async def test_adding_a_format_of_values_continues_the_state():
    api, state = Api(EPOCH), State()
    await events(api, cursor_format="%s").read(state=state)
    api.rows.append({"id": 1, "at": timestamp(1_500)})

    records = await events(api, 2_000, cursor_format=CursorFormat(records=["%s", "iso"])).read(state=state)

    assert ids(records) == [1]


async def test_records_and_requests_may_differ_in_format():
    state = State()
    api = Api(timestamp(0), EPOCH + 500, str(EPOCH + 900), "2026-01-01T00:16:00.5Z")
    form = CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")

    first = await events(api, cursor_format=form).read(state=state)
    second = await events(api, 86_400, cursor_format=form).read(state=state)

    assert (ids(first), ids(second)) == ([0, 1, 2], [3])
    assert api.asked == [{"until": "2026-01-02"}, {"since": "2026-01-01", "until": "2026-01-02"}]


def test_invalid_pattern_is_refused_in_the_class():
    with pytest.raises(ConfigError, match=r"Events\.cursor_format = '%Y-%Q-%d'"):
        events(Api(), cursor_format="%Y-%Q-%d")


def test_epoch_code_of_the_cdk_in_text_is_a_bound_in_text():
    stored = json.loads(json.dumps(CursorFormat("%s").recognise(["1770000000"]).written_to_json()))  # type: ignore[union-attr]

    cursor = CursorFormat("%s").with_written_json(stored)

    assert cursor.value(cursor.point(datetime(2026, 2, 2, tzinfo=UTC))) == "1769990400"


async def test_two_runs_at_once_decide_the_same():
    state = State()
    api = Api(EPOCH)

    found = await asyncio.gather(*(events(api, sends=False).read(state=state) for _ in range(2)))

    assert all(ids(records) == [0] for records in found)
