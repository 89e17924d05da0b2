"""Tests of SQLite and DuckDB: content and types of tables, atomic commits, locking and errors."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import stat
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import break_each_operation, lines_of
from hypothesis import given
from hypothesis import strategies as st
from incremental_api import WallClock, timestamp
from simulation import FULL, examples, sample
from table_harness import (
    DESTINATIONS,
    KEYS,
    VALUES,
    ChangingStream,
    FaultyDatabase,
    RowsStream,
    TableHarness,
    expected_value,
    query,
    read_table,
    stored_value,
    table_names,
)

from asyncstreams import (
    ConfigError,
    HttpStream,
    JsonLines,
    OutputLocked,
    OutputMissing,
    OutputWriteError,
    PartialFailure,
    Source,
    StateCorrupt,
)


@pytest.fixture(params=[".sqlite", ".duckdb"])
def out(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / f"out{request.param}"


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    return tmp_path / "out.sqlite"


def to(out: Path, **options: Any) -> Any:
    return DESTINATIONS[out.suffix](out, **options)


@pytest.mark.simulation
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fault", ["before", "after", "torn", "full"])
@pytest.mark.parametrize("kind", [".sqlite", ".duckdb"])
async def test_rows_survive_fault_at_any_statement(kind: str, fault: str, version: int, tmp_path: Path):
    chance = random.Random(f"{fault}{version}")

    statements, finished = await break_each_operation(
        lambda number: TableHarness(tmp_path / f"{number}{kind}"),
        FaultyDatabase,
        fault,
        version,
        chance,
        step=lambda: sample(full=1, short=chance.randint(40, 100) * (1 if kind == ".sqlite" else 10)),
        step_back=sample(full=1, short=100),
        recovery_faults=1,
        max_recovery_operation=50,
    )

    assert statements > 50
    assert finished > 0 or not FULL


async def test_replacement_becomes_visible_once_complete(out: Path):
    harness = TableHarness(out)
    await harness.extract()
    harness.api.version = 2
    with pytest.raises(OutputWriteError, match=r"cannot be written: .*(full|No space left)"):
        await harness.extract(FaultyDatabase(50, "full"))
    before = harness.visible_ids("customers")
    await harness.extract()

    assert {id_[:2] for id_ in before} == {"v1"}
    assert {id_[:2] for id_ in harness.visible_ids("customers")} == {"v2"}
    harness.check_complete()


async def test_stream_with_cursor_and_key_upserts_rows(out: Path):
    clock = WallClock(1000)
    stream = ChangingStream(
        [{"id": n, "updated_at": timestamp(10 * n), "name": f"old {n}"} for n in range(1, 4)], clock=clock
    )
    await stream.extract(to=to(out))
    clock.seconds = 2000
    stream.rows = [*stream.rows[:2], {"id": 3, "updated_at": timestamp(1500)}, {"id": 4, "updated_at": timestamp(1600)}]

    await stream.extract(to=to(out))

    names = {row["id"]: row["name"] for row in read_table(out)}
    assert names == {1: "old 1", 2: "old 2", 3: None, 4: None}  # the new record has no name, and replaces the whole row


async def test_append_keeps_earlier_versions_of_rows(out: Path):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10)}], clock=clock)
    await stream.extract(to=to(out, mode="append"))
    clock.seconds = 2000
    stream.rows = [{"id": 1, "updated_at": timestamp(1500)}]

    report = await stream.extract(to=to(out, mode="append"))

    assert [row["updated_at"] for row in read_table(out)] == [timestamp(10), timestamp(1500)]
    assert f"1 row  {out}, table rows  (" in str(report)


async def test_older_version_of_row_does_not_replace_newer(out: Path):
    clock = WallClock(1000)
    rows = [{"id": 1, "updated_at": timestamp(20), "n": 2}, {"id": 1, "updated_at": timestamp(10), "n": 1}]

    await ChangingStream(rows, clock=clock).extract(to=to(out))

    assert [row["n"] for row in read_table(out)] == [2]


async def test_upsert_uses_changed_primary_key(out: Path):
    for key, rows in (
        ("id", [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}]),
        ("code", [{"id": 1, "code": "c"}, {"id": 3, "code": "a"}]),
    ):
        stream = RowsStream(rows)
        stream.primary_key = key
        await stream.extract(to=to(out, mode="upsert"))

    rows = sorted((row["id"], row["code"]) for row in read_table(out))
    assert rows == [(1, "c"), (2, "b"), (3, "a")]


async def test_changed_key_that_rows_share_is_refused(out: Path):
    stream = RowsStream([{"id": 1, "code": "a"}, {"id": 2, "code": "a"}])
    stream.primary_key = "id"
    await stream.extract(to=to(out, mode="upsert"))
    stream.primary_key = "code"
    stream.answer = lambda request: pytest.fail("a request was sent")

    with pytest.raises(ConfigError, match=r"cannot be kept: .* 1 value of the primary key code") as caught:
        await stream.extract(to=to(out, mode="upsert"))

    assert "remove the duplicates" in str(caught.value)
    assert len(read_table(out)) == 2


async def test_upsert_without_primary_key_is_refused(out: Path):
    with pytest.raises(ConfigError, match="stream 'rows' has no primary key"):
        await RowsStream([]).extract(to=to(out, mode="upsert"))


async def test_new_fields_become_columns(out: Path):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10), "a": 1}], clock=clock)
    await stream.extract(to=to(out))
    clock.seconds = 2000
    stream.rows = [{"id": 2, "updated_at": timestamp(1500), "b": {"c": [1, None]}, "ID": "x", "select": True}]

    await stream.extract(to=to(out))

    nested = '{"c":[1,null]}' if out.suffix == ".sqlite" else {"c": [1, None]}
    assert read_table(out) == [
        {"id": 1, "updated_at": timestamp(10), "a": 1, "b": None, "ID_2": None, "select": None},
        {"id": 2, "updated_at": timestamp(1500), "a": None, "b": nested, "ID_2": "x", "select": True},
    ]


@pytest.mark.parametrize(
    ("first", "then", "kind", "values"),
    [
        ([1], [2.5], "DOUBLE", [1.0, 2.5]),
        ([1], ["x"], "JSON", ["1", '"x"']),
        ([None], [True], "BOOLEAN", [None, True]),
        ([{"a": 1}], [{"b": ["x"]}], "STRUCT(a BIGINT, b VARCHAR[])", [{"a": 1, "b": None}, {"a": None, "b": ["x"]}]),
        ([{"a": 1}], [{"A": 1}], "JSON", ['{"a":1}', '{"A":1}']),
        ([2**70], [1], "JSON", [str(2**70), "1"]),
    ],
)
@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
async def test_duckdb_columns_are_widened_to_fit(
    tmp_path: Path, first: Any, then: Any, kind: str, values: Any, mode: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("asyncstreams.destinations.duckdb_table._REWRITE_ROWS", 2)
    monkeypatch.setattr("asyncstreams.destinations.duckdb.DuckEngine.block_bytes", 1)
    out, clock = tmp_path / "out.duckdb", WallClock(1000)
    stream = ChangingStream([], clock=clock)
    stream.rows = [{"id": n, "updated_at": timestamp(10), "v": value} for n, value in enumerate(first * 3)]
    if mode != "replace":
        await stream.extract(to=to(out, mode=mode))
        clock.seconds = 2000
        stream.rows = []
    updated_at = timestamp(900 if mode == "replace" else 1500)
    stream.rows += [{"id": 9, "updated_at": updated_at, "v": value} for value in then]
    await stream.extract(to=to(out, mode=mode))

    assert [row["v"] for row in sorted(read_table(out), key=lambda row: row["id"])] == [values[0]] * 3 + values[1:]
    [(found,)] = query(out, "SELECT data_type FROM information_schema.columns WHERE column_name = 'v'")
    assert found.replace('"', "") == kind


def test_open_duckdb_error_names_the_other_process(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    asyncio.run(RowsStream([{"id": 1}]).extract(to=to(out)))
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputLocked, match=rf"is opened by process {other.pid} .*only one process") as error:
            asyncio.run(RowsStream([{"id": 1}]).extract(to=to(out)))
        other.communicate()
    assert "close it in that process" in str(error.value)


async def test_duckdb_types_follow_schema(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    stream = RowsStream([{"at": "2026-01-01T12:00:00+02:00", "day": "2026-01-02", "price": 2}])
    stream.get_json_schema = lambda: {
        "properties": {
            "at": {"type": "string", "format": "date-time"},
            "day": {"type": "string", "format": "date"},
            "price": {"type": "number"},
        }
    }
    await stream.extract(to=to(out))

    rows = query(out, 'SELECT epoch("at"), day, typeof(price), price FROM rows')
    assert rows == [(1767261600.0, date(2026, 1, 2), "DOUBLE", 2.0)]


@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_empty_stream_without_schema_creates_no_table(out: Path, mode: Any):
    stream = RowsStream([])
    await stream.extract(to=to(out, mode=mode))
    await stream.extract(to=to(out, mode=mode))
    before = "rows" in table_names(out)
    stream.rows = [{}, {"a": 1}]
    await stream.extract(to=to(out, mode=mode))

    assert not before
    assert read_table(out) == [{"a": None}, {"a": 1}]


async def test_empty_stream_with_schema_creates_columns(out: Path):
    stream = RowsStream([])
    stream.get_json_schema = lambda: {"properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}

    await stream.extract(to=to(out))

    assert query(out, "SELECT id, name FROM rows") == []


@pytest.mark.parametrize("count", [1_900, 10_000])
async def test_too_many_columns_are_refused_with_hint(out: Path, count: int):
    stream = RowsStream([{f"f{n}": n for n in range(count)}])
    if count < 2_000:
        await stream.extract(to=to(out))
        assert len(read_table(out)[0]) == count
        return
    with pytest.raises(OutputWriteError, match=r"10,000 different fields.*\n.*into one object field") as error:
        await stream.extract(to=to(out))
    assert error.value.stream == "rows"


def as_sqlite(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.loads(json.dumps(value))
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


@examples(full=40, short=10)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=6))
def test_property_sqlite_rows_equal_json_lines(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]):
    out = tmp_path_factory.mktemp("both") / "out.sqlite"
    lines, columns = asyncio.run(extract_to_both(rows, out))

    names = columns["names"]
    assert len({column.casefold() for column in names.values()}) == len(names)
    for line, row in zip(lines, read_table(out) if names else [], strict=True):
        for key, column in names.items():
            value = row[column]
            if isinstance(line.get(key), dict | list):
                value = json.loads(value)
            assert value == as_sqlite(line.get(key))
            assert type(value) is type(as_sqlite(line.get(key))) or isinstance(line[key], bool)


@examples(full=12, short=10)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=5))
def test_property_duckdb_rows_equal_json_lines(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]):
    out = tmp_path_factory.mktemp("both") / "out.duckdb"
    lines, columns = asyncio.run(extract_to_both(rows, out))
    names, types = columns["names"], columns["types"]

    for line, row in zip(lines, read_table(out) if names else [], strict=True):
        for key, column in names.items():
            assert stored_value(row[column], types[key]) == expected_value(line.get(key), types[key])


async def extract_to_both(rows: list[Any], out: Path) -> tuple[list[Any], Any]:
    """Extract to JSON Lines and to the database; return the lines, and the columns that the database stores."""
    await RowsStream(rows).extract(to=JsonLines(out.parent / "lines"))
    await RowsStream(rows).extract(to=to(out))
    lines = [row for path in sorted((out.parent / "lines" / "rows").glob("part-*")) for row in lines_of(path)]
    columns = query(out, "SELECT value FROM _asyncstreams WHERE name = 'columns rows'")
    return lines, json.loads(columns[0][0]) if columns else {"names": {}, "types": {}}


async def test_numbers_beyond_a_double_are_stored(out: Path):
    await RowsStream(b'[{"a": 1e999, "c": 1.50, "d": "007", "e": 9223372036854775807}]').extract(to=to(out))

    assert read_table(out) == [{"a": "1e999", "c": 1.5, "d": "007", "e": 2**63 - 1}]


async def test_quarantined_records_have_their_own_table(out: Path):
    stream = RowsStream([{"id": 1}, {"id": "x"}])
    stream.validation = "quarantine"
    stream.get_json_schema = lambda: {"properties": {"id": {"type": "integer"}}}

    report = await stream.extract(to=to(out))

    assert read_table(out) == [{"id": 1}]
    [(name, record, problems)] = query(out, "SELECT * FROM _asyncstreams_quarantined")
    assert (name, json.loads(record), json.loads(problems)[0]["pointer"]) == ("rows", {"id": "x"}, "/id")
    assert (report.streams[0].written.rows, report.streams[0].written.quarantined) == (1, 1)


async def test_replacement_replaces_quarantined_records(out: Path):
    for rows in ([{"id": "x"}, {"id": "y"}], [{"id": "z"}]):
        stream = RowsStream(rows)
        stream.validation = "quarantine"
        stream.get_json_schema = lambda: {"properties": {"id": {"type": "integer"}}}
        await stream.extract(to=to(out))

    [(name, record)] = query(out, "SELECT stream, record FROM _asyncstreams_quarantined")
    assert (name, json.loads(record)) == ("rows", {"id": "z"})


async def test_foreign_table_is_refused(out: Path):
    query(out, "CREATE TABLE Rows (x INTEGER)")

    with pytest.raises(ConfigError, match="has a table rows that was not created by an extraction"):
        await RowsStream([{"id": 1}]).extract(to=to(out))


async def test_removed_table_raises_output_missing(out: Path):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10)}], clock=clock)
    await stream.extract(to=to(out))
    query(out, "DROP TABLE rows")

    with pytest.raises(OutputMissing, match="table rows was committed"):
        await stream.extract(to=to(out))
    await stream.extract(to=to(out, mode="replace"))

    assert [row["id"] for row in read_table(out)] == [1]


@pytest.mark.parametrize("name", ["_asyncstreams_x", "sqlite_x", "a\0b", "a\ud800"])
async def test_invalid_table_name_is_refused(out: Path, name: str):
    with pytest.raises(ConfigError, match="the name cannot be used for a table"):
        await RowsStream([], name).extract(to=to(out))


async def test_streams_that_differ_only_in_case_have_two_tables(out: Path):
    for number in (1, 2):
        streams = [RowsStream([{"id": number}]), RowsStream([{"id": number + 10}], "Rows")]
        report = await Source(streams).extract(to=to(out))

    first, second = sorted(stream.written.table for stream in report.streams)
    assert first.casefold() != second.casefold()
    assert sorted([read_table(out, first)[0]["id"], read_table(out, second)[0]["id"]]) == [2, 12]


async def test_stream_name_is_quoted_in_sql(out: Path):
    name = "or\"ders'; DROP TABLE x; --"
    await RowsStream([{"id": 1}], name).extract(to=to(out))

    assert query(out, 'SELECT * FROM "or""ders\'; DROP TABLE x; --"') == [(1,)]


def test_second_writer_gets_holder_of_lock(out: Path):
    code = (
        "import asyncio, sys; from pathlib import Path; from asyncstreams.storage.file_lock import OutputLock\n"
        "OutputLock(Path(sys.argv[1]), 0); print('held', flush=True); sys.stdin.read()"
    )
    lock = out.with_name(f".{out.name}.lock")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputLocked, match=rf"{out.name} is being written to by process {other.pid} on "):
            asyncio.run(RowsStream([]).extract(to=to(out)))
        other.communicate()


async def test_sqlite_reader_sees_a_consistent_snapshot(sqlite: Path):
    await RowsStream([{"id": 1}]).extract(to=to(sqlite))
    reader = sqlite3.connect(sqlite, isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT * FROM rows").fetchall()
    await RowsStream([{"id": 2}, {"id": 3}]).extract(to=to(sqlite))
    during = reader.execute("SELECT * FROM rows").fetchall()
    reader.execute("END")
    after = reader.execute("SELECT * FROM rows").fetchall()
    reader.close()

    assert (before, during, after) == ([(1,)], [(1,)], [(2,), (3,)])


async def test_sqlite_lock_of_another_program_raises_output_locked(sqlite: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("asyncstreams.destinations.sqlite._BUSY_TIMEOUT_S", 0.1)
    await RowsStream([{"id": 1}]).extract(to=to(sqlite))
    other = sqlite3.connect(sqlite, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(OutputLocked, match="is being written to by another program"):
            await RowsStream([{"id": 1}]).extract(to=to(sqlite))
    finally:
        other.close()


def test_file_that_is_no_database_is_left_unchanged(out: Path):
    out.write_text("this file is a letter, and not a database " * 30)
    with pytest.raises(StateCorrupt, match=r"not a (valid DuckDB )?database"):
        asyncio.run(RowsStream([{"id": 1}]).extract(to=to(out)))
    assert out.read_text().startswith("this file")


async def test_damaged_state_raises_state_corrupt(out: Path):
    await RowsStream([{"id": 1}]).extract(to=to(out))
    query(out, "UPDATE _asyncstreams SET value = replace(value, 'streams', 'screams')")

    with pytest.raises(StateCorrupt, match=r"out\..*: the state in table _asyncstreams is corrupt"):
        await RowsStream([{"id": 1}]).extract(to=to(out))


def test_database_is_one_file_that_follows_the_umask(out: Path):
    earlier = os.umask(0o027)
    try:
        asyncio.run(RowsStream([{"id": 1}]).extract(to=to(out)))
    finally:
        os.umask(earlier)

    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert sorted(path.name for path in out.parent.iterdir()) == [f".{out.name}.lock", out.name]


async def test_spilled_slices_that_fail_leave_no_rows(out: Path, monkeypatch: pytest.MonkeyPatch):
    for name, size in (("_SPILL_OPEN_BYTES", 2_000), ("_MIN_SPILL_BYTES", 1_000)):
        monkeypatch.setattr(f"asyncstreams.extraction.commit_batcher.{name}", size)

    class PagedStream(HttpStream):
        url_base = "https://api.test/"
        name = "rows"
        primary_key = "id"
        max_tries = 1

        def path(self, context: Any) -> Any:
            return ("rows", context.stream_slice["part"])

        def stream_slices(self, state: Any) -> Any:
            return [{"part": 0}, {"part": 1}]

        def request_params(self, context: Any) -> Any:
            return {"page": context.next_page_token or 0}

        def next_page_token(self, response: Any, context: Any) -> Any:
            page = (context.next_page_token or 0) + 1
            return page if page < 8 else None

    def handle(request: httpx.Request) -> httpx.Response:
        part, page = int(request.url.path[-1]), int(request.url.params["page"])
        if is_broken and (part, page) == (1, 7):
            return httpx.Response(404)
        return httpx.Response(200, json=[{"id": part * 1000 + page * 20 + n, "note": "ü" * 40} for n in range(20)])

    is_broken = True
    with pytest.raises(PartialFailure, match="1 of 2 slices failed"):
        await PagedStream(transport=httpx.MockTransport(handle)).extract(to=to(out))
    first = sorted(row["id"] for row in read_table(out))
    is_broken = False
    await PagedStream(transport=httpx.MockTransport(handle)).extract(to=to(out))

    assert first == list(range(160))
    assert sorted(row["id"] for row in read_table(out)) == [*range(160), *range(1000, 1160)]
    assert {row["note"] for row in read_table(out)} == {"ü" * 40}
