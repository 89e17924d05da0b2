"""Tests of tables that others changed or use, and of columns whose names and types must stay."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from table_harness import DESTINATIONS, RowsStream, query, read_table, write_runs

from asyncstreams import ConfigError, OutputLocked, OutputMissing, OutputWriteError, Source, StateCorrupt


@pytest.fixture(params=[".sqlite", ".duckdb"])
def out(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / f"out{request.param}"


def to(out: Path, **options: Any) -> Any:
    return DESTINATIONS[out.suffix](out, **options)


async def extract(out: Path, rows: Any, name: str = "rows", **options: Any) -> list[dict[str, Any]]:
    stream = RowsStream(rows, name)
    stream.primary_key = "id"
    await stream.extract(to=to(out, **options))
    return read_table(out, name)


async def refused(out: Path, error: type[Exception], match: str, **options: Any) -> None:
    """Assert that a run is refused before its first request."""
    stream = RowsStream([])
    stream.primary_key = "id"
    stream.answer = lambda request: pytest.fail("a request was sent")  # type: ignore[method-assign]
    with pytest.raises(error, match=match):
        await stream.extract(to=to(out, **options))


async def test_views_and_indexes_survive_replacement(out: Path):
    await extract(out, [{"id": 1, "price": 1, "gone": "x"}])
    for statement in (
        "CREATE VIEW prices AS SELECT price FROM rows",
        "CREATE VIEW all_prices AS SELECT * FROM prices",
        "CREATE VIEW gone AS SELECT id, gone FROM rows",
        "CREATE INDEX by_price ON rows (price)",
        "CREATE UNIQUE INDEX by_both ON rows (id, gone)",
    ):
        query(out, statement)

    await extract(out, [{"id": 1, "price": 2.5, "new": True}])
    await extract(out, [{"id": 1, "price": "3"}, {"id": 2}])

    assert sorted(query(out, "SELECT price FROM all_prices"), key=str) == [("3",), (None,)]
    assert query(out, "SELECT * FROM gone ORDER BY id") == [(1, None), (2, None)]
    catalog = "sqlite_master WHERE type = 'index'" if out.suffix == ".sqlite" else "duckdb_indexes()"
    assert {row[0] for row in query(out, f"SELECT sql FROM {catalog}") if row[0]} >= {
        statement + (";" if out.suffix == ".duckdb" else "")
        for statement in ("CREATE INDEX by_price ON rows (price)", "CREATE UNIQUE INDEX by_both ON rows (id, gone)")
    } or out.suffix == ".duckdb"
    names = {"sqlite": "name", "duckdb": "index_name"}[out.suffix[1:]]
    assert {row[0] for row in query(out, f"SELECT {names} FROM {catalog}")} >= {"by_price", "by_both"}


async def test_indexes_survive_upserts_that_widen_columns(out: Path):
    await extract(out, [{"id": 1, "n": 1}], mode="upsert")
    query(out, "CREATE UNIQUE INDEX by_n ON rows (n)")

    await extract(out, [{"id": 1, "n": 1, "x": 1}, {"id": 2, "n": 2.5}], mode="upsert")
    found = await extract(out, [{"id": 1, "n": 1}, {"id": 2, "n": "x"}], mode="upsert")

    assert sorted(row["id"] for row in found) == [1, 2]
    with pytest.raises((sqlite3.IntegrityError, duckdb.Error)):
        query(out, "INSERT INTO rows (id, n) SELECT 3, n FROM rows WHERE id = 1")


async def test_comments_survive_replacement(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    await extract(out, [{"id": 1, "a.b": 1}])
    query(out, "COMMENT ON TABLE rows IS 'it''s mine'")
    query(out, "COMMENT ON COLUMN rows.\"a.b\" IS 'why'")

    await extract(out, [{"id": 1, "a.b": 2.5}])

    assert query(out, "SELECT comment FROM duckdb_tables() WHERE table_name = 'rows'") == [("it's mine",)]
    assert query(out, "SELECT comment FROM duckdb_columns() WHERE comment IS NOT NULL") == [("why",)]


async def test_triggers_survive_replacement(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "out.sqlite"
    await extract(out, [{"id": 1}])
    query(out, "CREATE TABLE log (id)")
    query(out, "CREATE TRIGGER logged AFTER INSERT ON rows BEGIN INSERT INTO log VALUES (new.id); END")
    query(out, "CREATE VIEW v AS SELECT id FROM rows")
    query(out, "CREATE TRIGGER from_v INSTEAD OF INSERT ON v BEGIN INSERT INTO rows (id) VALUES (new.id); END")

    await extract(out, [{"id": 2}])
    query(out, "INSERT INTO v VALUES (3)")

    assert query(out, "SELECT * FROM log") == [(3,)]
    assert "rows: its rows were replaced without running its triggers: logged" in caplog.text


async def test_unrelated_broken_view_does_not_matter(tmp_path: Path):
    out = tmp_path / "out.sqlite"
    await extract(out, [{"id": 1}])
    query(out, "CREATE VIEW broken AS SELECT x FROM missing")

    await extract(out, [{"id": 1, "new": 1}])
    found = await extract(out, [{"id": 1, "newer": 1}], mode="upsert")

    assert found == [{"id": 1, "new": None, "newer": 1}]


async def test_index_that_new_rows_break_names_itself(out: Path):
    await extract(out, [{"id": 1, "n": 1}])
    query(out, "CREATE UNIQUE INDEX by_n ON rows (n)")

    with pytest.raises(
        OutputWriteError, match=r"index by_n of table rows does not fit its new rows.*\n.*drop the index"
    ):
        await extract(out, [{"id": 1, "n": 1}, {"id": 2, "n": 1}])
    before = read_table(out)
    query(out, "DROP INDEX by_n")
    await extract(out, [{"id": 1, "n": 1}, {"id": 2, "n": 1}])

    assert [row["id"] for row in before] == [1]
    assert [row["id"] for row in read_table(out)] == [1, 2]


async def test_empty_replacement_keeps_columns(out: Path):
    await extract(out, [{"id": 1, "ID": 2, "price": 1.5}])
    stream = RowsStream([])

    await stream.extract(to=to(out))

    assert query(out, 'SELECT id, "ID_2", price FROM rows') == []


async def test_added_column_is_refused_before_replacement(out: Path):
    await extract(out, [{"id": 1}])
    query(out, "ALTER TABLE rows ADD COLUMN note TEXT")

    await refused(out, ConfigError, "table rows was changed by another program, and this run would remove column note")

    assert list(read_table(out)[0]) == ["id", "note"]


async def test_added_column_stays_in_sqlite_upserts(tmp_path: Path):
    out = tmp_path / "out.sqlite"
    await extract(out, [{"id": 1}], mode="upsert")
    query(out, "ALTER TABLE rows ADD COLUMN note TEXT")
    query(out, "UPDATE rows SET note = 'mine'")

    found = await extract(out, [{"id": 1, "note": "theirs"}], mode="upsert")

    assert found == [{"id": 1, "note": "mine", "note_2": "theirs"}]


async def test_constraint_is_refused_before_replacement(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    await extract(out, [{"id": 1}])
    query(out, "ALTER TABLE rows ADD PRIMARY KEY (id)")

    await refused(out, ConfigError, r"this run would remove constraint PRIMARY KEY\(id\)")


async def test_removed_column_raises_output_missing(out: Path):
    await extract(out, [{"id": 1, "n": 1}], mode="upsert")
    query(out, "ALTER TABLE rows DROP COLUMN n")

    await refused(out, OutputMissing, "column n of table rows was committed", mode="upsert")


async def test_view_in_place_of_table_is_refused(out: Path):
    await extract(out, [{"id": 1}])
    query(out, "ALTER TABLE rows RENAME TO others")
    query(out, "CREATE VIEW rows AS SELECT * FROM others")

    await refused(out, OutputMissing, "table rows was committed, but does not exist any more")


async def test_index_with_the_name_of_a_stream_is_refused(tmp_path: Path):
    out = tmp_path / "out.sqlite"
    await extract(out, [{"id": 1}], "other")
    query(out, "CREATE INDEX rows ON other (id)")

    await refused(out, ConfigError, "has a table rows that was not created by an extraction")


async def test_column_names_stay_when_a_table_is_replaced(out: Path):
    await extract(out, [{"id": 1, "Name": "a", "name": "b"}])

    found = await extract(out, [{"id": 1, "name": "b", "NAME": "c", "Name": "a"}])

    assert found == [{"id": 1, "name_2": "b", "NAME_3": "c", "Name": "a"}]


async def test_names_of_any_length_and_script_work(out: Path):
    names = ["n" * 5_000, "n" * 5_001, "名前" * 200, "\U0001d4b3 \u202e\u0300", "İstanbul", "a.b/c\\d", "CON", "é"]
    for number in (1, 2):
        streams = [RowsStream([{"id": 1, name: number, "inner": {name: 1}}], name) for name in names]
        report = await Source(streams).extract(to=to(out))

    tables = {stream.stream: stream.written.table for stream in report.streams}
    assert len(set(tables.values())) == len(names)
    for name, table in tables.items():
        [row] = read_table(out, table)
        assert list(row) == ["id", table, "inner"]
        assert row[table] == 2
        assert table == name or (len(table.encode()) <= 255 and name.startswith(table[:50]))


def test_object_with_ever_new_keys_becomes_json_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "out.duckdb"
    runs = [[[{"id": 12 * run + n, "o": {f"k{run}_{n}": 1}}] for n in range(12)] for run in range(2)]
    rewrites: Counter[str] = Counter()

    class Connection:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def execute(self, statement: str, *values: Any) -> Any:
            rewrites["rewrites"] += "_asyncstreams_wider" in statement and statement.startswith("CREATE")
            return self.inner.execute(statement, *values)

    found = write_runs(out, runs, connect=lambda path: Connection(duckdb.connect(path)))

    assert rewrites["rewrites"] == 20
    assert len(found) == 24
    assert found[0]["o"] == '{"k0_0":1}'
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("rows: column o is stored as JSON from now on: its values had new fields 20 times")


async def test_column_that_became_json_stays_json(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "out.duckdb"
    rows = [{"id": n, "o": {f"k{n}": 1}} for n in range(22)]
    write_runs(out, [[[row] for row in rows]])
    caplog.clear()

    found = await extract(out, rows, mode="replace")

    assert [row["o"] for row in found] == [f'{{"k{n}":1}}' for n in range(22)]
    assert caplog.text == ""


async def test_open_transaction_of_this_process_is_a_lock(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    await extract(out, [{"id": 1, "n": 1}], mode="upsert")
    other = duckdb.connect(out)
    other.execute("BEGIN")
    other.execute("DELETE FROM rows")

    with pytest.raises(OutputLocked, match=r"another connection of this process is changing.*\n.*commit or close\(\)"):
        await extract(out, [{"id": 1, "n": 2}], mode="upsert")
    other.close()
    found = await extract(out, [{"id": 1, "n": 2}], mode="upsert")

    assert found == [{"id": 1, "n": 2}]


@pytest.mark.parametrize("is_read_only", [True, False])
async def test_duckdb_file_open_in_this_process_is_locked(tmp_path: Path, is_read_only: bool):
    out = tmp_path / "out.duckdb"
    await extract(out, [{"id": 1}])
    other = duckdb.connect(out, read_only=True) if is_read_only else duckdb.connect()
    if not is_read_only:
        other.execute(f"ATTACH '{out}' AS other")

    with pytest.raises(OutputLocked, match=r"is open in this process.*\n.*close\(\)") as caught:
        await extract(out, [{"id": 1}])
    other.close()
    await extract(out, [{"id": 1}])

    assert caught.value.holder == "this process"


@pytest.mark.parametrize("mode", ["append", "upsert"])
async def test_rows_that_break_a_unique_index_name_it(tmp_path: Path, mode: str):
    out = tmp_path / "out.duckdb"
    await extract(out, [{"id": 1, "price": 1}], mode=mode)
    query(out, "CREATE UNIQUE INDEX one_price ON rows (price)")

    with pytest.raises(OutputWriteError, match="unique index one_price"):
        await extract(out, [{"id": 2, "price": 1}], mode=mode)
    query(out, "DROP INDEX one_price")

    assert len(await extract(out, [{"id": 2, "price": 1}], mode=mode)) == 2


async def test_removed_journal_is_refused(out: Path):
    await extract(out, [{"id": 1}], mode="replace")
    query(out, "DROP TABLE _asyncstreams_journal")

    await refused(out, StateCorrupt, "table _asyncstreams_journal was removed", mode="replace")

    assert read_table(out) == [{"id": 1}]
