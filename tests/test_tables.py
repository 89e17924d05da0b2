"""Are rows and state of a database committed together, and do its tables hold what the API has?"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_world import Killed, lines_of
from hypothesis import given, settings
from hypothesis import strategies as st
from table_world import BrokenSql, TableWorld
from test_crash import IS_LONG
from test_incremental import Now, text

from asyncstreams import (
    ConfigError,
    HttpStream,
    JsonLines,
    OutputLocked,
    OutputMissing,
    OutputWriteError,
    PartialFailure,
    Source,
    SQLite,
    StateCorrupt,
)


class Rows(HttpStream):
    """One page of what is in `rows`."""

    url_base = "https://api.test/"

    def __init__(self, rows: Any, name: str = "rows", **options: Any) -> None:
        self.rows = rows
        super().__init__(transport=httpx.MockTransport(self.answer), **options)
        self.name = name

    def path(self, context: Any) -> Any:
        return self.name

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = self.rows if isinstance(self.rows, bytes) else json.dumps(self.rows).encode()
        return httpx.Response(200, content=body, headers={"Content-Type": "application/json"})


class Changing(Rows):
    """Rows with a time of change, of which the API gives those in the window."""

    primary_key = "id"
    cursor_field = "updated_at"

    def request_params(self, context: Any) -> Any:
        since, until = context.stream_slice.bounds
        return {"since": since, "until": until}

    def answer(self, request: httpx.Request) -> httpx.Response:
        since, until = request.url.params.get("since", "0"), request.url.params["until"]
        return httpx.Response(200, json=[row for row in self.rows if since <= row["updated_at"] <= until])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.sqlite"


def query(out: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(out)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def table(out: Path, name: str = "rows") -> list[dict[str, Any]]:
    connection = sqlite3.connect(out)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]
    finally:
        connection.close()


async def run_on(world: TableWorld, sql: BrokenSql) -> None:
    with suppress(Killed, OutputWriteError):
        await world.extract(sql)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("way", ["before", "after", "torn", "full"])
async def test_any_statement_may_break_and_recovery_too(way: str, version: int, tmp_path: Path):
    chance = random.Random(f"{way}{version}")
    at = chance.randint(1, 12)
    spared = 0
    while True:
        world = TableWorld(tmp_path / f"{at}.sqlite")
        if version == 2:
            await world.extract()
            world.api.version = 2
        sql = BrokenSql(at, way)
        await run_on(world, sql)
        if not sql.was_hit:
            break
        world.check_now()
        await run_on(world, BrokenSql(chance.randint(1, 50), chance.choice(("before", "after", "torn"))))
        world.check_now()
        done = world.done()
        spared += len(done)
        world.api.asked.clear()

        await world.extract()

        assert [one for one in world.api.asked if one in done or one.split()[0] in done] == []
        world.check_end()
        at += 1 if IS_LONG else chance.randint(6, 14)
    assert at > 60
    assert spared > 0 or (version == 1 and not IS_LONG)


async def test_a_replacement_takes_the_place_of_the_table_when_it_is_whole(out: Path):
    world = TableWorld(out)
    await world.extract()
    world.api.version = 2
    with pytest.raises(OutputWriteError, match=r"out.sqlite cannot be written: database or disk is full"):
        await world.extract(BrokenSql(40, "full"))
    before = world.visible("customers")
    await world.extract()

    assert {one[:2] for one in before} == {"v1"}
    assert {one[:2] for one in world.visible("customers")} == {"v2"}
    world.check_end()


async def test_rows_with_a_cursor_and_a_key_take_the_place_of_what_they_were(out: Path):
    clock = Now(1000)
    stream = Changing([{"id": n, "updated_at": text(10 * n), "name": f"old {n}"} for n in range(1, 4)], clock=clock)
    await stream.extract(to=SQLite(out))
    clock.at = 2000
    stream.rows = [*stream.rows[:2], {"id": 3, "updated_at": text(1500)}, {"id": 4, "updated_at": text(1600)}]

    await stream.extract(to=SQLite(out))

    told = {row["id"]: row["name"] for row in table(out)}
    assert told == {1: "old 1", 2: "old 2", 3: None, 4: None}  # a record is whole: it has no name any more


async def test_append_keeps_what_rows_were(out: Path):
    clock = Now(1000)
    stream = Changing([{"id": 1, "updated_at": text(10)}], clock=clock)
    await stream.extract(to=SQLite(out, mode="append"))
    clock.at = 2000
    stream.rows = [{"id": 1, "updated_at": text(1500)}]

    report = await stream.extract(to=SQLite(out, mode="append"))

    assert [row["updated_at"] for row in table(out)] == [text(10), text(1500)]
    assert f"1 rows  {out}, table rows  (" in str(report)


async def test_an_older_form_of_a_row_that_comes_later_is_not_kept(out: Path):
    clock = Now(1000)
    rows = [{"id": 1, "updated_at": text(20), "n": 2}, {"id": 1, "updated_at": text(10), "n": 1}]

    await Changing(rows, clock=clock).extract(to=SQLite(out))

    assert [row["n"] for row in table(out)] == [2]


async def test_upsert_needs_a_key(out: Path):
    with pytest.raises(ConfigError, match="stream 'rows' has no primary key"):
        await Rows([]).extract(to=SQLite(out, mode="upsert"))


async def test_fields_become_columns_as_they_come(out: Path):
    clock = Now(1000)
    stream = Changing([{"id": 1, "updated_at": text(10), "a": 1}], clock=clock)
    await stream.extract(to=SQLite(out))
    clock.at = 2000
    stream.rows = [{"id": 2, "updated_at": text(1500), "b": {"c": [1, None]}, "ID": "x", "select": True}]

    await stream.extract(to=SQLite(out))

    assert table(out) == [
        {"id": 1, "updated_at": text(10), "a": 1, "b": None, "ID_2": None, "select": None},
        {"id": 2, "updated_at": text(1500), "a": None, "b": '{"c":[1,null]}', "ID_2": "x", "select": 1},
    ]


async def test_a_schema_gives_an_empty_stream_its_columns(out: Path):
    stream = Rows([])
    stream.get_json_schema = lambda: {"properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}

    await stream.extract(to=SQLite(out))

    assert query(out, "SELECT id, name FROM rows") == []


@pytest.mark.parametrize("count", [1_900, 10_000])
async def test_ten_thousand_columns_are_refused_with_advice(out: Path, count: int):
    stream = Rows([{f"f{n}": n for n in range(count)}])
    if count < 2_000:
        await stream.extract(to=SQLite(out))
        assert len(table(out)[0]) == count
        return
    with pytest.raises(OutputWriteError, match=r"10,000 different fields.*\n.*as an object") as error:
        await stream.extract(to=SQLite(out))
    assert error.value.stream == "rows"


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8).filter(str.isprintable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\"'", max_size=2), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text("abAB_ \"'%é", max_size=3)


def as_sqlite(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.loads(json.dumps(value))
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=6))
def test_property_a_table_holds_what_the_lines_hold(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]):
    folder = tmp_path_factory.mktemp("both")
    out = folder / "out.sqlite"

    async def both() -> None:
        await Rows(rows).extract(to=JsonLines(folder / "lines"))
        await Rows(rows).extract(to=SQLite(out))

    asyncio.run(both())
    lines = [row for path in sorted((folder / "lines" / "rows").glob("part-*")) for row in lines_of(path)]
    if not lines:
        return
    columns = json.loads(query(out, "SELECT value FROM _asyncstreams WHERE name = 'columns rows'")[0][0])
    found = table(out)

    assert len({column.casefold() for column in columns.values()}) == len(columns)
    for line, row in zip(lines, found, strict=True):
        for key, column in columns.items():
            value = row[column]
            if isinstance(line.get(key), dict | list):
                value = json.loads(value)
            assert value == as_sqlite(line.get(key))
            assert type(value) is type(as_sqlite(line.get(key))) or isinstance(line[key], bool)


async def test_numbers_beyond_a_double_have_a_form(out: Path):
    await Rows(b'[{"a": 1e999, "c": 1.50, "d": "007", "e": 9223372036854775807}]').extract(to=SQLite(out))

    assert table(out) == [{"a": "1e999", "c": 1.5, "d": "007", "e": 2**63 - 1}]


async def test_quarantined_records_lie_beside_the_tables(out: Path):
    stream = Rows([{"id": 1}, {"id": "x"}])
    stream.validation = "quarantine"
    stream.get_json_schema = lambda: {"properties": {"id": {"type": "integer"}}}

    report = await stream.extract(to=SQLite(out))

    assert table(out) == [{"id": 1}]
    [(name, record, problems)] = query(out, "SELECT * FROM _asyncstreams_quarantined")
    assert (name, json.loads(record), json.loads(problems)[0]["pointer"]) == ("rows", {"id": "x"}, "/id")
    assert (report.streams[0].written.rows, report.streams[0].written.quarantined) == (1, 1)


async def test_tables_of_others_are_left_alone(out: Path):
    sqlite3.connect(out).execute("CREATE TABLE Rows (x)").connection.close()

    with pytest.raises(ConfigError, match="has a table rows that no extraction has made"):
        await Rows([{"id": 1}]).extract(to=SQLite(out))


async def test_a_table_that_was_taken_away_is_missed(out: Path):
    clock = Now(1000)
    stream = Changing([{"id": 1, "updated_at": text(10)}], clock=clock)
    await stream.extract(to=SQLite(out))
    connection = sqlite3.connect(out)
    connection.execute("DROP TABLE rows")
    connection.close()

    with pytest.raises(OutputMissing, match="table rows was committed"):
        await stream.extract(to=SQLite(out))
    await stream.extract(to=SQLite(out, mode="replace"))

    assert [row["id"] for row in table(out)] == [1]


@pytest.mark.parametrize("name", ["_asyncstreams_x", "sqlite_x", "a\0b"])
async def test_names_that_no_table_may_have_are_told(out: Path, name: str):
    with pytest.raises(ConfigError, match="no table may be called"):
        await Rows([], name).extract(to=SQLite(out))


async def test_two_streams_that_differ_in_capitals_cannot_share_a_table(out: Path):
    with pytest.raises(ConfigError, match="streams 'Rows' and 'rows' would share a table"):
        await Source([Rows([]), Rows([], "Rows")]).extract(to=SQLite(out))


async def test_a_stream_s_name_may_be_anything_else(out: Path):
    name = "or\"ders'; DROP TABLE x; --"
    await Rows([{"id": 1}], name).extract(to=SQLite(out))

    assert query(out, 'SELECT * FROM "or""ders\'; DROP TABLE x; --"') == [(1,)]


def test_a_second_writer_is_told_who_the_first_is(out: Path):
    code = (
        "import asyncio, sys; from pathlib import Path; from asyncstreams.sinks.lock import OutputLock\n"
        "OutputLock(Path(sys.argv[1]), 0); print('held', flush=True); sys.stdin.read()"
    )
    lock = out.with_name(".out.sqlite.lock")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OutputLocked, match=rf"out.sqlite is being written to by process {other.pid} on "):
            asyncio.run(Rows([]).extract(to=SQLite(out)))
        other.communicate()


async def test_somebody_may_read_while_it_writes_and_does_not_see_half_of_it(out: Path):
    await Rows([{"id": 1}]).extract(to=SQLite(out))
    reader = sqlite3.connect(out, isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT * FROM rows").fetchall()
    await Rows([{"id": 2}, {"id": 3}]).extract(to=SQLite(out))
    still = reader.execute("SELECT * FROM rows").fetchall()
    reader.execute("END")
    after = reader.execute("SELECT * FROM rows").fetchall()
    reader.close()

    assert (before, still, after) == ([(1,)], [(1,)], [(2,), (3,)])


async def test_another_program_that_writes_for_too_long_is_told(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("asyncstreams.sinks.sqlite._BUSY", 0.1)
    await Rows([{"id": 1}]).extract(to=SQLite(out))
    other = sqlite3.connect(out, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(OutputLocked, match="is being written to by another program"):
            await Rows([{"id": 1}]).extract(to=SQLite(out))
    finally:
        other.close()


def test_what_is_no_database_is_told_and_left_as_it_is(out: Path):
    out.write_text("no database, but a letter that somebody wrote " * 30)
    with pytest.raises(StateCorrupt, match=r"out.sqlite: file is not a database"):
        asyncio.run(Rows([{"id": 1}]).extract(to=SQLite(out)))
    assert out.read_text().startswith("no database")


async def test_a_damaged_state_is_told(out: Path):
    await Rows([{"id": 1}]).extract(to=SQLite(out))
    connection = sqlite3.connect(out)
    connection.execute("UPDATE _asyncstreams SET value = replace(value, 'streams', 'screams')")
    connection.commit()
    connection.close()

    with pytest.raises(StateCorrupt, match=r"what .*out.sqlite says of earlier runs"):
        await Rows([{"id": 1}]).extract(to=SQLite(out))


def test_the_file_is_its_owner_s_alone_and_one_file_when_it_is_done(out: Path):
    asyncio.run(Rows([{"id": 1}]).extract(to=SQLite(out)))

    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(path.name for path in out.parent.iterdir()) == [".out.sqlite.lock", "out.sqlite"]


async def test_large_slices_wait_in_a_file_and_those_that_fail_are_left_out(out: Path, monkeypatch: pytest.MonkeyPatch):
    for name, size in (("_MANY_OPEN", 2_000), ("_WORTH_A_FILE", 1_000)):
        monkeypatch.setattr(f"asyncstreams.run.grouping.{name}", size)

    class Paged(HttpStream):
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

    def answer(request: httpx.Request) -> httpx.Response:
        part, page = int(request.url.path[-1]), int(request.url.params["page"])
        if is_broken and (part, page) == (1, 7):
            return httpx.Response(404)
        return httpx.Response(200, json=[{"id": part * 1000 + page * 20 + n, "note": "ü" * 40} for n in range(20)])

    is_broken = True
    with pytest.raises(PartialFailure, match="1 of 2 slices failed"):
        await Paged(transport=httpx.MockTransport(answer)).extract(to=SQLite(out))
    first = sorted(row["id"] for row in table(out))
    is_broken = False
    await Paged(transport=httpx.MockTransport(answer)).extract(to=SQLite(out))

    assert first == list(range(160))
    assert sorted(row["id"] for row in table(out)) == [*range(160), *range(1000, 1160)]
    assert {row["note"] for row in table(out)} == {"ü" * 40}
