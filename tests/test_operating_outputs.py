"""Tests of operating an output: its state, resets, refreshes, narrowed runs and failed slices."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from crash_harness import FaultyFileSystem, ProcessKilled, lines_of
from simulation import sample
from table_harness import FaultyDatabase

from asyncstreams import (
    AsyncStreamsError,
    ConfigError,
    DuckDB,
    HttpStream,
    JsonLines,
    NumberRanges,
    OutputLocked,
    PageNumber,
    Parquet,
    PartialFailure,
    Secret,
    Slice,
    Source,
    SQLite,
    State,
    StateIncompatible,
    TimeWindows,
)

START = 1_700_000_000
"""2023-11-14T22:13:20Z: the time of the first event; the others follow at intervals of 1,000 s."""


class Api:
    """Twenty issues in four shards, and twenty events with a time; requests of broken shards fail."""

    def __init__(self) -> None:
        self.rows = {
            "issues": [{"id": number} for number in range(20)],
            "events": [{"id": number, "at": START + number * 1000} for number in range(20)],
        }
        self.broken: set[str] = set()
        self.requests: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name, params = request.url.path.strip("/"), dict(request.url.params)
        if params["page"] == "1":
            self.requests.append(f"{name} {params.get('shard', '')}".strip())
        if params.get("shard") in self.broken:
            return httpx.Response(400, json={"message": "no such shard"})
        rows = self.rows[name]
        if "shard" in params:
            rows = [row for row in rows if row["id"] % 4 == int(params["shard"])]
        if "since" in params:
            rows = [row for row in rows if int(params["since"]) <= row["at"] < int(params["until"])]
        page = int(params["page"])
        return httpx.Response(200, json=rows[(page - 1) * 5 : page * 5])

    def source(self, **options: Any) -> Source:
        transport = httpx.MockTransport(self)
        return Source([Issues(transport=transport, **options), Events(transport=transport, **options)])


class PagedStream(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    paginator = PageNumber(size=5)

    def path(self, context: Any) -> str:
        return self.name


class Issues(PagedStream):
    """Replaced by each run."""

    def stream_slices(self, state: Any) -> Any:
        return [{"shard": str(number)} for number in range(4)]

    def request_params(self, context: Any) -> dict[str, Any]:
        return {"shard": context.stream_slice["shard"]}


class Events(PagedStream):
    """Appended to files, and upserted into tables."""

    cursor_field = "at"
    cursor_format = "epoch"
    windows = TimeWindows(start="2023-11-14")

    def request_params(self, context: Any) -> dict[str, Any]:
        since, until = context.stream_slice.bounds
        return {"since": since, "until": until}


KINDS = [JsonLines, Parquet, SQLite, DuckDB]
FAST_KINDS = [JsonLines, SQLite]


def destination(kind: Any, folder: Path, **options: Any) -> Any:
    suffix = {SQLite: ".sqlite", DuckDB: ".duckdb"}.get(kind, "")
    return kind(folder / f"out{suffix}", **{"fsync": "none", **options})


def ids(to: Any, stream: str) -> list[int]:
    """The ids of the visible rows of a stream, in ascending order."""
    if isinstance(to, JsonLines):
        return sorted(row["id"] for path in Path(to.path).glob(f"{stream}/part-*") for row in lines_of(path))
    if isinstance(to, Parquet):
        if not list(Path(to.path).glob(f"{stream}/*")):
            return []
        query = f"SELECT id FROM read_parquet('{to.path}/{stream}/*', union_by_name = true)"
        return sorted(id_ for (id_,) in duckdb.sql(query).fetchall())
    with sqlite3.connect(to.path) if isinstance(to, SQLite) else duckdb.connect(str(to.path)) as connection:
        try:
            return sorted(id_ for (id_,) in connection.execute(f"SELECT id FROM {stream}").fetchall())
        except (sqlite3.OperationalError, duckdb.CatalogException):
            return []


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture(params=FAST_KINDS)
def to(request: Any, tmp_path: Path) -> Any:
    """A destination that has a folder for each stream, or a table."""
    return destination(request.param, tmp_path)


async def test_state_of_output_has_rows_cursors_and_last_run(api: Api, to: Any):
    empty = await to.state()
    await api.source().extract(to=to)

    state = await to.state()

    assert (dict(empty), empty.last_run) == ({}, None)
    assert {name: (stream.rows, stream.status) for name, stream in state.items()} == {
        "issues": (20, "complete"),
        "events": (20, "complete"),
    }
    assert state["issues"].cursor is None
    assert state["events"].cursor > START
    (partition,) = state["events"].partitions
    assert (partition.partition, partition.cursor) == ({}, state["events"].cursor)
    assert state.last_run is not None
    assert state.last_run.ended_at is not None
    assert state.last_run.streams == ("events", "issues")
    assert state["issues"].last_run == state.last_run.began_at
    assert state["issues"].last_complete is not None
    assert str(state).startswith("issues  20 rows, complete, last run 2")


async def test_state_can_be_read_during_a_run(api: Api, to: Any):
    await api.source().extract(to=to)
    writer = to.new_writer()
    writer.open(0)
    try:
        state = await to.state()
    finally:
        writer.close()

    assert state["issues"].rows == 20


async def test_state_names_unfinished_streams(api: Api, to: Any):
    api.broken = {"2"}
    with pytest.raises(PartialFailure):
        await api.source().extract(to=to)
    first = await to.state()
    api.broken = set()
    await api.source().extract(to=to)
    api.broken = {"2"}
    with pytest.raises(PartialFailure):
        await api.source().extract(to=to)
    later = await to.state()

    assert (first["issues"].status, first["issues"].rows) == ("unfinished", 15)
    assert len(first["issues"].partitions) == 3
    assert (later["issues"].status, later["issues"].rows) == ("being replaced", 20)


async def test_reset_keeps_rows_until_they_are_replaced(api: Api, to: Any):
    await api.source().extract("events", to=to)
    api.rows["events"] = [{"id": 100, "at": START}]

    await to.reset("events")
    after_reset = ids(to, "events"), (await to.state())["events"]
    await api.source().extract("events", to=to)

    assert after_reset[0] == list(range(20))
    assert (after_reset[1].status, after_reset[1].cursor, after_reset[1].rows) == ("reset", None, 20)
    assert ids(to, "events") == [100]


@pytest.mark.parametrize("kind", KINDS)
async def test_reset_with_drop_removes_rows_at_once(api: Api, kind: Any, tmp_path: Path):
    to = destination(kind, tmp_path, mode="fail")
    await api.source().extract(to=to)

    await to.reset("events", "issues", drop=True)
    after_reset = ids(to, "events"), dict(await to.state())
    await api.source().extract("events", to=to)

    assert after_reset == ([], {})
    assert ids(to, "events") == list(range(20))


async def test_reset_of_unknown_stream_names_known_ones(api: Api, to: Any):
    await api.source().extract(to=to)

    with pytest.raises(ConfigError, match="no stream 'isues'") as caught:
        await to.reset("isues")

    assert caught.value.hint == "its streams: events, issues"


async def test_reset_during_a_run_is_refused(api: Api, to: Any):
    await api.source().extract(to=to)
    writer = to.new_writer()
    writer.open(0)
    try:
        with pytest.raises(OutputLocked):
            await to.reset("issues")
    finally:
        writer.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_refresh_replaces_rows_of_any_mode(api: Api, kind: Any, tmp_path: Path):
    to = destination(kind, tmp_path)
    await api.source().extract("events", to=to)
    found: list[list[int]] = []
    for first in (100, 200):
        api.rows["events"] = [{"id": first + number, "at": START + number} for number in range(7)]
        await api.source().extract("events", to=to, refresh=("events",))
        found.append(ids(to, "events"))
    api.rows["events"].append({"id": 300, "at": START + 7})
    await api.source().extract("events", to=to)

    assert found == [list(range(100, 107)), list(range(200, 207))]
    assert ids(to, "events") == found[-1]  # its time was read: only the refresh began again


async def test_interrupted_refresh_is_resumed(api: Api, to: Any):
    await api.source().extract("issues", to=to)
    api.rows["issues"] = [{"id": 100 + number} for number in range(20)]
    api.broken = {"3"}
    with pytest.raises(PartialFailure):
        await api.source().extract("issues", to=to, refresh=("issues",))
    during = ids(to, "issues")
    api.broken, api.requests = set(), []
    await api.source().extract("issues", to=to, refresh=("issues",))

    assert during == list(range(20))
    assert api.requests == ["issues 3"]
    assert ids(to, "issues") == list(range(100, 120))


async def test_unfinished_refresh_is_finished_by_an_ordinary_run(api: Api, to: Any):
    await api.source().extract("events", to=to)
    api.rows["events"] = [{"id": 100, "at": START}]

    class Down(Api):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(400)

    with pytest.raises(AsyncStreamsError):
        await Down().source().extract("events", to=to, refresh=("events",))
    during = ids(to, "events")
    await api.source().extract("events", to=to)

    assert during == list(range(20))
    assert ids(to, "events") == [100]


async def test_second_refresh_begins_again(api: Api, to: Any):
    await api.source().extract(to=to, refresh=("issues",))
    await api.source().extract(to=to, refresh=("issues",))

    assert api.requests.count("issues 0") == 2


async def test_refresh_accepts_another_api(api: Api, to: Any):
    await api.source().extract("events", to=to)
    moved = api.source()
    moved["events"].url_base = "https://other.test/"

    with pytest.raises(StateIncompatible) as caught:
        await moved.extract("events", to=to)
    await moved.extract("events", to=to, refresh=("events",))

    assert 'extract(refresh=("events",))' in str(caught.value.hint)
    assert f'{type(to).__name__}({str(to.path)!r}).reset("events", drop=True)' in str(caught.value.hint)
    assert ids(to, "events") == list(range(20))


@pytest.mark.simulation
@pytest.mark.parametrize("fault", ["before", "after", "torn"])
@pytest.mark.parametrize("kind", FAST_KINDS)
async def test_refresh_survives_fault_at_any_operation(api: Api, kind: Any, fault: str, tmp_path: Path):
    number, is_dead = sample(full=1, short=20), True
    while is_dead:
        faulty = FaultyFileSystem(number, fault) if kind is JsonLines else FaultyDatabase(number, fault)
        broken = {"fs": faulty} if kind is JsonLines else {"connect": faulty.connect}
        folder = tmp_path / f"{number}"
        folder.mkdir()
        api.rows["events"] = [{"id": number, "at": START + number} for number in range(20)]
        await api.source().extract("events", to=destination(kind, folder))
        api.rows["events"] = [{"id": 100 + number, "at": START + number} for number in range(20)]

        with suppress(ProcessKilled):
            await api.source().extract("events", to=destination(kind, folder, **broken), refresh=("events",))
        during = ids(destination(kind, folder), "events")
        await api.source().extract("events", to=destination(kind, folder), refresh=("events",))

        # A kill between the renames of a folder's parts leaves some of them to the next run.
        assert max(Counter(during).values(), default=1) == 1
        assert during in (list(range(20)), list(range(100, 120)), [*range(20), *range(100, 120)], [])
        assert ids(destination(kind, folder), "events") == list(range(100, 120))
        is_dead = faulty.was_triggered
        number += sample(full=1, short=29)


async def test_limit_of_new_stream_writes_a_sample(api: Api, to: Any):
    for limit in (3, 2):
        await api.source().extract("issues", to=to, limit=limit)
    rows, state = ids(to, "issues"), (await to.state())["issues"]
    await api.source().extract(to=to)

    assert len(rows) == 2
    assert (state.rows, state.status, state.partitions) == (2, "sample", ())
    assert ids(to, "issues") == ids(to, "events") == list(range(20))


@pytest.mark.parametrize("arguments", [{"limit": 3}, {"slices": {"issues": [{"shard": "1"}]}}])
async def test_narrowed_run_finishes_no_replacement(api: Api, to: Any, arguments: Any, caplog: Any):
    await api.source().extract(to=to)
    before = await to.state()
    api.rows["issues"] = [{"id": 100 + number} for number in range(20)]

    report = await api.source().extract("issues", to=to, **arguments)
    during, state = ids(to, "issues"), await to.state()
    await api.source().extract(to=to)

    assert during == list(range(20))
    assert replace(state["issues"], last_run=None) == replace(before["issues"], last_run=None)
    assert "not written, since a run that is narrowed finishes no replacement" in str(report)
    assert "issues: its records are read, but not written" in caplog.text
    assert ids(to, "issues") == list(range(100, 120))


async def test_narrowed_run_moves_no_cursor(api: Api, to: Any):
    await api.source().extract(to=to)
    before = await to.state()
    api.rows["events"] = [{"id": number, "at": START + number * 1000, "new": True} for number in range(20)]

    await api.source().extract("events", to=to, slices={"events": [{}]})
    await api.source().extract("events", to=to, limit=5)
    after = await to.state()

    assert after["events"].partitions == before["events"].partitions
    assert ids(to, "events") == list(range(20))
    if isinstance(to, SQLite):  # upserts may be repeated
        connection = sqlite3.connect(to.path)
        assert connection.execute("SELECT count(*) FROM events WHERE new").fetchone() == (20,)


async def test_narrowed_run_keeps_an_unfinished_run(api: Api, to: Any):
    api.broken = {"2"}
    with pytest.raises(PartialFailure):
        await api.source().extract(to=to)
    api.broken, api.requests = set(), []
    await api.source().extract("issues", to=to, limit=1)
    await api.source().extract(to=to)

    assert [request for request in api.requests if request != "events"] == ["issues 2", "issues 2"]
    assert ids(to, "issues") == ids(to, "events") == list(range(20))


async def test_range_marks_only_what_lies_in_it(api: Api, to: Any):

    await api.source().extract("events", to=to, since="2023-11-14T23:00:00Z", until="2023-11-15")
    rows, state = ids(to, "events"), (await to.state())["events"]
    await api.source().extract("events", to=to, until=START + 2000)
    before = ids(to, "events")
    await api.source().extract("events", to=to)

    midnight = START + 6400
    assert rows == [number for number in range(20) if START + 2800 <= START + number * 1000 < midnight]
    assert (state.status, state.partitions[0].intervals) == ("unfinished", ((START + 2800, midnight),))
    assert before == sorted({0, 1, *rows})
    assert ids(to, "events") == list(range(20))


async def test_range_reads_what_is_not_read_yet(api: Api, to: Any):
    await api.source().extract("events", to=to, since=START, until=START + 5000)
    api.requests = []

    await api.source().extract("events", to=to, since=START + 1000, until=START + 4000)

    assert api.requests == []


async def test_range_clips_intervals_of_the_author(api: Api, to: Any):
    class Halves(Events):
        name = "events"

        def stream_slices(self, state: Any) -> Any:
            return [Slice(interval=(START, START + 10_000)), Slice(interval=(START + 10_000, START + 20_000))]

    stream = Halves(transport=httpx.MockTransport(api))
    await stream.extract(to=to, since=START + 5000, until=START + 7000)
    rows = ids(to, "events")
    await stream.extract(to=to)

    assert rows == [5, 6]
    assert ids(to, "events") == list(range(20))


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["issues"], {"since": "2026-01-01"}, "stream 'issues' has no cursor_field"),
        (["events"], {"since": "yesterday"}, "since='yesterday': not a value of the cursor"),
        (["events"], {"since": "2026-01-02", "until": "2026-01-01"}, "until must be after since"),
        (["events"], {"refresh": "events"}, "expected names of streams, not a str"),
        (["events"], {"refresh": ("issues",)}, "'issues' is not one of the streams"),
        (["events"], {"slices": {"issues": []}}, "'issues' is not one of the streams"),
        (["events"], {"refresh": ("events",), "limit": 1}, "refresh cannot be combined"),
        (["events"], {"limit": -1}, "limit"),
    ],
)
async def test_arguments_are_checked_before_first_request(
    api: Api, names: list[str], arguments: Any, message: str, tmp_path: Path
):
    to = JsonLines(tmp_path / "out")

    with pytest.raises(ConfigError, match=message):
        await api.source().extract(*names, to=to, **arguments)

    assert api.requests == []
    assert dict(await to.state()) == {}


async def test_sink_takes_limit_and_slices_but_no_range(api: Api):
    class Rows:
        def __init__(self) -> None:
            self.rows: list[Any] = []

        async def write(self, page: Any, batch_id: str) -> None:
            self.rows += page.records

    sink = Rows()
    await api.source().extract("issues", to=sink, limit=3)
    await api.source().extract("issues", to=sink, slices={"issues": [{"shard": "3"}]}, state=State())
    with pytest.raises(ConfigError, match="since, until and refresh need a destination"):
        await api.source().extract("events", to=sink, since=START)

    assert [row["id"] for row in sink.rows] == [0, 4, 8, 3, 7, 11, 15, 19]


def failures(to: Any) -> list[dict[str, Any]]:
    if isinstance(to, JsonLines):
        return list(lines_of(Path(to.path) / ".asyncstreams" / "errors.jsonl"))
    connection = sqlite3.connect(to.path)
    connection.row_factory = sqlite3.Row
    found = map(dict, connection.execute("SELECT * FROM _asyncstreams_errors"))
    return [{**row, "slice": json.loads(row["slice"])} for row in found]


async def test_failed_slices_are_rows_of_the_output(api: Api, to: Any):
    api.broken = {"1", "2"}
    with pytest.raises(PartialFailure) as caught:
        await api.source().extract(to=to)

    found = failures(to)
    assert [row | {"time": ""} for row in found] == [
        {
            "stream": "issues",
            "slice": {"shard": shard},
            "page": 0,
            "status": 400,
            "message": 'answered 400 Bad Request: "no such shard"',
            "time": "",
        }
        for shard in ("1", "2")
    ]
    assert all(row["time"].endswith("Z") for row in found)
    where = "errors.jsonl" if isinstance(to, JsonLines) else "table _asyncstreams_errors"
    assert where in str(caught.value.hint)


async def test_failed_slices_contain_no_records_or_secrets(to: Any):
    class Children(PagedStream):
        name = "children"

        def stream_slices(self, state: Any) -> Any:
            labels = {"parent": {"id": 7}}
            return [
                Slice({"parent": {"id": 7, "mail": "ann@example.com"}, "key": Secret("s3cret-value")}, labels=labels),
                Slice({"link": "https://api.test/x?token=s3cret-value"}, ("2026-01-01", "2026-02-01")),
            ]

        def parse_response(self, response: Any, context: Any) -> Any:
            raise ValueError("ann@example.com has no name")

    with pytest.raises((PartialFailure, ValueError)):
        await Children(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=[{}]))).extract(to=to)

    found = failures(to)
    assert found[0]["slice"] == {"parent": {"id": 7}, "key": "***"}
    assert found[0]["message"].startswith("ValueError in a hook of the stream (test_operating_outputs.py, line ")
    assert not any(hidden in json.dumps(found) for hidden in ("ann@example.com", "s3cret-value"))


async def test_report_says_what_settle_leaves(api: Api, to: Any):
    report = await api.source().extract(to=to)

    issues, events = report.streams
    assert issues.left_from is None
    assert events.left_from == (await to.state())["events"].cursor
    assert f"from {events.left_from} on left for the next run" in str(report)


async def test_range_of_growing_ids_marks_what_was_seen(api: Api, to: Any):
    class Numbered(PagedStream):
        name = "issues"
        cursor_field = "id"
        windows = NumberRanges(step=6)

    stream = Numbered(transport=httpx.MockTransport(api))
    await stream.extract(to=to, since=4, until=9)
    rows = ids(to, "issues")
    await stream.extract(to=to, until=1000)
    api.rows["issues"] += [{"id": number} for number in range(20, 30)]
    await stream.extract(to=to)

    assert rows == [4, 5, 6, 7, 8]
    assert ids(to, "issues") == list(range(30))


@pytest.mark.parametrize("kind", FAST_KINDS)
async def test_declaration_is_corrected_after_run_without_rows(tmp_path: Path, kind: Any):
    api, to = Api(), destination(kind, tmp_path)
    misspelt = type("Misspelt", (Events,), {"name": "events", "cursor_field": "att"})
    with pytest.raises(ConfigError, match="no record of the first page has this field"):
        await misspelt(transport=httpx.MockTransport(api)).extract(to=to)

    await Events(transport=httpx.MockTransport(api)).extract(to=to)

    assert ids(to, "events") == list(range(20))
    assert (await to.state())["events"].status == "complete"
