"""Rows of windows and ranges: those outside, late ones, growing numbers, and slices of the author's own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from incremental_api import BEGIN, WallClock, timestamp

from asyncstreams import (
    ConfigError,
    CursorFormat,
    HttpStatusError,
    HttpStream,
    HttpSubStream,
    JsonLines,
    NumberRanges,
    PageNumber,
    PartialFailure,
    Slice,
    Source,
    State,
    TimeWindows,
)

_HOUR = timedelta(hours=1)


class Api:
    """Rows with a value, and a filter with the bounds `since` and `until` unless `filters` is false."""

    def __init__(self, rows: dict[int, Any], bounds: str = "[)") -> None:
        self.rows, self.bounds = rows, bounds
        self.requests: list[tuple[str | None, str | None]] = []
        self.filters = True
        self.headers: dict[str, str] = {}
        self.fails: Callable[[str | None, str | None], bool] = lambda since, until: False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        since, until = (request.url.params.get(name) for name in ("since", "until"))
        self.requests.append((since, until))
        if self.fails(since, until):
            return httpx.Response(404)
        found = [{"id": number, "at": at} for number, at in self.rows.items() if self._passes(at, since, until)]
        return httpx.Response(200, json=found, headers=self.headers)

    def _passes(self, at: Any, since: str | None, until: str | None) -> bool:
        kind = type(at)
        after = since is None or kind(since) < at or (kind(since) == at and self.bounds[0] == "[")
        before = until is None or at < kind(until) or (at == kind(until) and self.bounds[1] == "]")
        return not self.filters or (after and before)


def rows_of(api: Api, clock: WallClock | None = None, **attributes: Any) -> HttpStream:
    declared = {
        "url_base": "https://api.test/",
        "primary_key": "id",
        "cursor_field": "at",
        "cursor_format": "iso",
        "path": lambda self, context: "rows",
        "request_params": lambda self, context: dict(zip(("since", "until"), context.bounds, strict=True)),
        **attributes,
    }
    return type("Rows", (HttpStream,), declared)(transport=httpx.MockTransport(api), clock=clock or WallClock(7200))


def numbers(*ids: int, **attributes: Any) -> tuple[Api, HttpStream]:
    api = Api({number: number for number in ids}, attributes.pop("filter", "[)"))
    return api, rows_of(api, cursor_format="number", **{"windows": NumberRanges(step=100), **attributes})


async def ids(stream: HttpStream, state: Any = None, **options: Any) -> list[int]:
    return sorted(record["id"] for record in await stream.read(state=state, **options))


async def ids_before_failure(stream: HttpStream, state: State) -> list[int]:
    """The ids delivered by a run of which a slice fails."""
    found: list[int] = []

    async def consume() -> None:
        async with stream.pages(state=state) as pages:
            async for page in pages:
                found.extend(record["id"] for record in page.records)

    with pytest.raises(PartialFailure):
        await consume()
    return sorted(found)


async def test_rows_outside_windows_are_counted(tmp_path: Path):
    api = Api({1: timestamp(0), 2: timestamp(4000), 3: timestamp(-1)})
    api.filters = False
    stream = rows_of(api, windows=TimeWindows(start=BEGIN, step=_HOUR, settle=0))

    report = await Source([stream]).extract(to=JsonLines(tmp_path / "out"))

    assert (report.streams[0].records, report.streams[0].outside_window) == (2, 4)
    assert "4 outside their window" in str(report)


async def test_window_with_all_rows_outside_is_warned_of(caplog: pytest.LogCaptureFixture):
    api = Api({number: int(BEGIN.timestamp()) + number for number in range(5)})
    api.filters = False

    found = await ids(rows_of(api, cursor_format="epoch_ms", windows=TimeWindows(start="2020-01-01")))

    assert found == []
    unit, warning = caplog.messages
    assert "1767225600 have the size of 'epoch', and are read as 'epoch_ms'" in unit
    assert "all 5 rows of the window from 1577836800000 to" in warning
    assert "such as one with at = 1767225600, read as 1970-01-21" in warning
    assert "keep_outside = True" in warning


@pytest.mark.parametrize("keep_outside", [False, True])
async def test_keep_outside_keeps_rows_outside_window(keep_outside: bool, caplog: pytest.LogCaptureFixture):
    api, state = Api({1: timestamp(-100), 2: timestamp(10), 3: timestamp(7199)}), State()
    api.filters = False
    stream = rows_of(api, windows=TimeWindows(start=BEGIN), keep_outside=keep_outside)

    found = await ids(stream, state)

    assert found == ([1, 2, 3] if keep_outside else [2])
    assert not caplog.messages


async def test_kept_row_after_end_is_not_delivered_twice():
    api, state, clock = Api({1: timestamp(10), 2: timestamp(7199)}), State(), WallClock(7200)
    stream = rows_of(api, clock, windows=TimeWindows(start=BEGIN), keep_outside=True)
    api.filters = False

    first = await ids(stream, state)
    api.filters, clock.seconds = True, 9000

    assert (first, await ids(stream, state)) == ([1, 2], [])


async def test_row_on_inclusive_bound_alone_is_not_warned_of(caplog: pytest.LogCaptureFixture):
    api = Api({1: timestamp(3600)}, "[]")

    found = await ids(rows_of(api, windows=TimeWindows(start=BEGIN, step=_HOUR, bounds="[]", settle=0)))

    assert found == [1]
    assert not caplog.messages


async def test_rows_read_before_are_not_warned_of(caplog: pytest.LogCaptureFixture):
    api, state, clock = Api({1: timestamp(0)}), State(), WallClock(7200)
    api.filters = False
    stream = rows_of(api, clock)

    first = await ids(stream, state)
    clock.seconds = 9000

    assert (first, await ids(stream, state)) == ([1], [])
    assert not caplog.messages


async def test_rows_left_by_settle_are_counted(tmp_path: Path):
    api = Api({1: timestamp(0), 2: timestamp(7190)})
    api.filters = False

    report = await Source([rows_of(api)]).extract(to=JsonLines(tmp_path / "out"))

    assert (report.streams[0].outside_window, report.streams[0].left_for_next_run) == (0, 1)


async def test_rows_from_end_on_are_outside():
    api = Api({1: timestamp(0), 2: timestamp(3600), 3: timestamp(10**8)})
    api.filters = False

    assert await ids(rows_of(api, windows=TimeWindows(start=BEGIN, end=timestamp(3600)))) == [1]


async def test_many_windows_are_warned_of_before_first_request(caplog: pytest.LogCaptureFixture):
    api, warned = Api({}), []
    api.fails = lambda since, until: bool(warned.append(list(caplog.messages)))
    stream = rows_of(api, windows=TimeWindows(start="2020-01-01", step=_HOUR))

    async with stream.pages() as pages:
        async for _ in pages:
            break

    assert warned[0] == [
        "rows: about 52,610 windows are to be read, with at least one request each; a longer step makes fewer of them"
    ]


async def test_usual_number_of_windows_is_not_warned_of(caplog: pytest.LogCaptureFixture):
    await rows_of(Api({}), windows=TimeWindows(start=BEGIN, step=_HOUR)).read()

    assert not caplog.messages


async def test_growing_ids_are_read_until_there_are_no_more():
    api, stream = numbers(*range(1, 250))

    found = await ids(stream)

    assert found == list(range(1, 250))
    assert api.requests == [("0", "100"), ("100", "200"), ("200", "300"), ("250", "350"), ("250", str(2**63 - 1))]


async def test_what_was_seen_of_growing_ids_counts_as_read():
    (api, stream), state = numbers(1, 2, 5), State()

    first = await ids(stream, state)
    api.rows |= {6: 6, 7: 7}
    second = await ids(stream, state)

    assert (first, second) == ([1, 2, 5], [6, 7])
    assert state["rows"].done == [(0, 8)]
    assert await ids(stream, state) == []


async def test_gap_of_growing_ids_longer_than_range_is_crossed():
    (api, stream), state = numbers(1, 2, 5_000, 10**15), State()

    first = await ids(stream, state)
    api.rows[10**15 + 1] = 10**15 + 1

    assert (first, await ids(stream, state)) == ([1, 2, 5_000, 10**15], [10**15 + 1])


@pytest.mark.parametrize("bounds", ["[)", "[]", "(]", "()"])
async def test_growing_ids_come_once_with_any_bounds(bounds: Any):
    (api, stream), state = numbers(*range(250), filter=bounds, windows=NumberRanges(100, bounds=bounds)), State()

    first = await ids(stream, state)
    api.rows[250] = 250

    assert (first, await ids(stream, state)) == (list(range(250)), [250])


async def test_fractions_between_growing_numbers_are_read():
    (api, stream), state = numbers(), State()
    api.rows = {1: 0.5, 2: 7.25}

    first = await ids(stream, state)
    api.rows |= {3: 7.5}

    assert (first, await ids(stream, state)) == ([1, 2], [3])


async def test_failed_range_of_growing_ids_is_read_by_next_run():
    (api, stream), state = numbers(*range(250)), State()
    api.fails = lambda since, until: since == "100"

    first = await ids_before_failure(stream, state)
    api.fails = lambda since, until: False

    assert (first, await ids(stream, state)) == (list(range(100)), list(range(100, 250)))


async def test_limit_ends_growing_ranges():
    api, stream = numbers(*range(1, 250))

    found = await ids(stream, limit=99)

    assert found == list(range(1, 100))
    assert len(api.requests) == 1


async def test_growing_ranges_of_partitions_are_read_to_their_ends():
    api, stream = numbers(*range(250))
    stream.stream_slices = lambda state: [{"project": n} for n in range(3)]  # type: ignore[method-assign]
    state = State()

    assert len(await stream.read(state=state)) == 750
    api.rows[250] = 250
    assert await ids(stream, state) == [250] * 3


async def test_ranges_read_to_their_end_are_warned_of(caplog: pytest.LogCaptureFixture):
    (_, stream), state = numbers(1, 2, windows=NumberRanges(step=100, end=200)), State()

    first = await ids(stream, state)
    silent = not caplog.messages

    assert (first, silent, await ids(stream, state)) == ([1, 2], True, [])
    assert "leave out `end`" in caplog.text


async def test_growing_ranges_without_step_are_one_request():
    api, stream = numbers(1, 2, 5_000, windows=NumberRanges())

    assert await ids(stream) == [1, 2, 5_000]
    assert api.requests == [("0", None)]


async def test_parent_of_growing_ids_is_read_to_its_end():
    api, parent = numbers(*range(1, 250))

    class Orders(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context: Any) -> str:
            return "orders"

    orders = Orders(parent, transport=httpx.MockTransport(api), clock=WallClock())

    assert len([stream_slice async for stream_slice in orders.stream_slices({})]) == 249


async def test_own_slice_of_growing_ids_counts_what_was_seen():
    (api, stream), state = numbers(1, 2), State()
    own = [Slice({}, (0, 100))]

    first = await ids(stream, state, slices=own)
    api.rows[3] = 3

    assert (first, await ids(stream, state, slices=own)) == ([1, 2], [3])


async def test_split_range_of_growing_ids_is_followed_by_next():
    api, _ = numbers(*range(250))
    api.fails = lambda since, until: until is not None and since is not None and 60 < int(until) - int(since) <= 100

    def split(self: HttpStream, stream_slice: Slice, error: HttpStatusError) -> list[Slice]:
        start, end = stream_slice.interval or (0, 0)
        return [Slice({}, (start, start + 50)), Slice({}, (start + 50, end))]

    stream = rows_of(api, cursor_format="number", windows=NumberRanges(step=100), split_slice=split)

    assert await ids(stream) == list(range(250))


async def test_own_slices_are_asked_for_with_declared_bounds():
    api = Api({n: timestamp(n) for n in range(30)}, "()")
    own = [Slice({}, (timestamp(0), timestamp(10))), Slice({}, (timestamp(10), timestamp(30)))]

    found = await ids(rows_of(api, windows=TimeWindows(bounds="()")), slices=own)

    assert found == list(range(30))
    assert api.requests[0] == (timestamp(-1), timestamp(10))


async def test_parts_of_split_window_have_declared_bounds():
    api = Api({n: timestamp(n * 60) for n in range(100)}, "()")
    api.fails = lambda since, until: since == timestamp(-1) and until == timestamp(7140)

    def split(self: HttpStream, stream_slice: Slice, error: HttpStatusError) -> list[Slice]:
        start, end = stream_slice.interval or (None, None)
        return [Slice({}, (start, timestamp(3000))), Slice({}, (timestamp(3000), end))]

    stream = rows_of(api, windows=TimeWindows(start=BEGIN, bounds="()"), split_slice=split)

    assert await ids(stream, State()) == list(range(100))


async def test_given_bounds_of_own_slice_are_kept():
    api, state, clock = Api({1: timestamp(0)}), State(), WallClock(7200)
    own = [Slice({}, (timestamp(0), timestamp(9000)), bounds=("2025-12-01", "2026-02-01"))]
    stream = rows_of(api, clock, windows=TimeWindows(bounds="[]"))

    await ids(stream, state, slices=own)
    clock.seconds = 8000
    await ids(stream, state, slices=own)

    assert api.requests == [("2025-12-01", "2026-02-01"), (timestamp(7140), "2026-02-01")]


async def test_own_slice_beyond_now_is_read_further_by_next_run():
    api, state, clock = Api({1: timestamp(0), 2: timestamp(8000)}), State(), WallClock(7200)
    api.filters = False
    del api.rows[2]
    own = [Slice({}, (BEGIN, BEGIN + timedelta(days=30)))]
    stream = rows_of(api, clock)

    first = await ids(stream, state, slices=own)
    api.rows[2] = timestamp(8000)
    clock.seconds = 9000

    assert (first, await ids(stream, state, slices=own)) == ([1], [2])


async def test_rows_beyond_own_slice_belong_to_next():
    api = Api({1: timestamp(0), 2: timestamp(10**6), 3: timestamp(2 * 10**6)})
    api.filters = False
    edges = [timestamp(0), timestamp(10**6), timestamp(3 * 10**6)]

    found = await ids(rows_of(api), slices=[Slice({}, (edges[0], edges[1])), Slice({}, (edges[1], edges[2]))])

    assert found == [1, 2, 3]


async def test_own_slices_of_dates_resume_within_day():
    api, state, clock = Api({1: timestamp(0), 2: timestamp(7000)}), State(), WallClock(7200)
    api.filters = False
    own = [Slice({}, (date(2026, 1, 1), date(2026, 2, 1)))]
    asked: list[Any] = []
    stream = rows_of(api, clock, request_params=lambda self, context: asked.append(context.bounds))

    first = await ids(stream, state, slices=own)
    clock.seconds = 9000

    assert (first, await ids(stream, state, slices=own)) == ([1, 2], [])
    assert asked == [(date(2026, 1, 1), date(2026, 2, 1))] * 2


async def test_lookback_over_several_windows_gives_no_duplicates():
    api, state, clock = Api({n: timestamp(n * 600) for n in range(10)}), State(), WallClock(7200)
    stream = rows_of(api, clock, windows=TimeWindows(start=BEGIN, step=timedelta(minutes=20), lookback=_HOUR))

    first = await ids(stream, state)
    api.rows[10] = timestamp(4000)
    clock.seconds = 9000

    assert (first, await ids(stream, state)) == (list(range(10)), [10])


async def test_failed_window_of_lookback_is_read_by_next_run():
    api, state, clock = Api({}), State(), WallClock(7200)
    stream = rows_of(api, clock, windows=TimeWindows(start=BEGIN, step="20min", lookback="1h"))

    await stream.read(state=state)
    api.rows[1] = timestamp(5000)
    api.fails, clock.seconds = lambda since, until: str(since) < timestamp(7000), 9000
    failed = await ids_before_failure(stream, state)
    api.fails, clock.seconds = lambda since, until: False, 90_000

    assert (failed, await ids(stream, state)) == ([], [1])


async def test_lookback_goes_back_from_given_state():
    api = Api({1: timestamp(100), 2: timestamp(5000), 3: timestamp(6000)})

    found = await ids(rows_of(api, windows=TimeWindows(lookback=600)), {"at": timestamp(5500)})

    assert found == [2, 3]
    assert api.requests[0][0] == timestamp(4900)


async def test_interrupted_first_run_is_not_read_again_for_lookback():
    api, state, clock = Api({n: timestamp(n * 600) for n in range(12)}), State(), WallClock(10**5)
    stream = rows_of(api, clock, windows=TimeWindows(start=BEGIN, step="1h", lookback="2h"))
    api.fails = lambda since, until: str(since) >= timestamp(3600)

    first = await ids_before_failure(stream, state)
    api.fails = lambda since, until: False

    assert (first, await ids(stream, state)) == (list(range(6)), list(range(6, 12)))


async def test_lookback_of_own_slices_finds_late_rows():
    api, state, clock = Api({1: timestamp(0), 2: timestamp(7000)}), State(), WallClock(7200)
    own = [Slice({}, (timestamp(hour * 3600), timestamp(hour * 3600 + 3600))) for hour in range(4)]
    stream = rows_of(api, clock, windows=TimeWindows(lookback=_HOUR))

    first = await ids(stream, state, slices=own)
    api.rows |= {3: timestamp(4000), 4: timestamp(7300)}
    clock.seconds = 9000

    assert (first, await ids(stream, state, slices=own)) == ([1, 2], [3, 4])


async def test_windows_after_time_of_server_are_not_done():
    api, state, clock = Api({}), State(), WallClock(7200)
    api.headers = {"Date": (BEGIN + timedelta(seconds=3000)).strftime("%a, %d %b %Y %H:%M:%S GMT")}
    stream = rows_of(api, clock, windows=TimeWindows(start=BEGIN, step="10min"))

    await stream.read(state=state)
    api.rows[1] = timestamp(3100)

    assert state["rows"].frontier == timestamp(2940)
    api.headers, clock.seconds = {}, 9000
    assert await ids(stream, state) == [1]


async def test_coarse_bounds_enclose_window_and_rows_come_once():
    api, state, clock = Api({n: timestamp(n * 3600) for n in range(30)}), State(), WallClock(30 * 3600)
    day = CursorFormat("iso", request="%Y-%m-%d")
    stream = rows_of(api, clock, cursor_format=day, windows=TimeWindows(start=BEGIN))

    first = await ids(stream, state)
    api.rows |= {n: timestamp(n * 3600) for n in range(30, 60)}
    clock.seconds = 70 * 3600

    assert (first, await ids(stream, state)) == (list(range(30)), list(range(30, 60)))
    assert api.requests == [("2026-01-01", "2026-01-03"), ("2026-01-02", "2026-01-04")]


async def test_dates_with_time_of_day_are_warned_of_and_enclosed(caplog: pytest.LogCaptureFixture):
    api, state, clock = Api({1: timestamp(7200)}, "[]"), State(), WallClock(80 * 3600)
    stream = rows_of(api, clock, cursor_format="date", windows=TimeWindows(start=BEGIN, bounds="[]"))
    api.filters = False

    await stream.read(state=state)
    clock.seconds = 160 * 3600
    await stream.read(state=state)

    assert 'cursor_format = CursorFormat(records="iso", request="date")' in caplog.text
    assert [until and until[:10] for _, until in api.requests] == ["2026-01-02", "2026-01-07"]


async def test_interval_without_beginning_survives_saving(tmp_path: Path):
    api, clock, path = Api({1: timestamp(0)}), WallClock(7200), tmp_path / "state.json"
    state = State.load(path)
    await rows_of(api, clock).read(state=state)
    await state.save()

    restored = State.load(path.rename(tmp_path / "copy.json"))
    clock.seconds = 9000
    found = await ids(rows_of(api, clock), restored)

    assert found == []
    assert restored["rows"].done == [(None, timestamp(8940))]
    assert api.requests[-1] == (timestamp(7140), timestamp(8940))


async def test_interval_without_beginning_survives_journal(tmp_path: Path):
    api, clock = Api({1: timestamp(0)}), WallClock(7200)

    reports = []
    for clock.seconds in (7200, 9000):
        reports.append(await Source([rows_of(api, clock)]).extract(to=JsonLines(tmp_path / "out")))

    assert [report.streams[0].records for report in reports] == [1, 0]
    assert api.requests == [(None, timestamp(7140)), (timestamp(7140), timestamp(8940))]


async def test_descending_pages_that_ascend_inside_keep_state(caplog: pytest.LogCaptureFixture):
    pages = {"1": [40, 50], "2": [20, 30], "3": [0, 10]}

    def answer(request: httpx.Request) -> httpx.Response:
        times = pages.get(request.url.params["page"], [])
        return httpx.Response(200, json=[{"id": at, "at": timestamp(at)} for at in times])

    state = State()
    stream = rows_of(
        Api({}),
        paginator=PageNumber(size=2),
        parallel_pages=False,
        state_checkpoint_interval=3,
        request_params=lambda self, context: None,
    )
    stream.transport = httpx.MockTransport(answer)
    async with stream.pages(state=state) as opened:
        async for page in opened:
            if page.number == 2:
                break

    assert not state["rows"]
    assert "not in ascending order" in caplog.text
    assert await ids(stream, state) == [0, 10, 20, 30, 40, 50]


async def test_values_of_window_bounds_are_refused_for_numbers():
    with pytest.raises(ConfigError, match="TimeWindows need a cursor with times"):
        await rows_of(Api({}), cursor_format="number").read()


async def test_ranges_that_are_all_read_are_warned_of(caplog: pytest.LogCaptureFixture):
    _, stream = numbers(1, 2, windows=NumberRanges(step=10, end=20))
    state = State()
    await ids(stream, state)

    found = await ids(stream, state)

    assert found == []
    assert "all numbers up to windows.end = 20 count as read" in caplog.text


async def test_ids_written_with_a_point_are_asked_for_as_whole_numbers():
    api, stream = numbers(1, 2)
    api.rows = {1: 1.0, 2: 2.0}
    state = State()
    await ids(stream, state)
    api.requests.clear()
    api.rows[3] = 3.0

    found = await ids(stream, state)

    assert found == [3]
    assert api.requests[0] == ("2.0", "102.0")
