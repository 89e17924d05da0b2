"""Tests that pandas, Polars, DuckDB, pyarrow and SQLite's shell open every output as it lies on the disk."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from incremental_api import WallClock, timestamp
from table_harness import ChangingStream, RowsStream

from asyncstreams import DuckDB, JsonLines, Parquet, SQLite

ROWS = [{"id": 1, "name": "Ann", "tags": ["a"]}, {"id": 2, "name": "Zoë", "tags": []}]
SCHEMA = {"properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}


def duckdb_pattern(folder: Path) -> str:
    return str(folder / "*").replace("'", "''")


def read_parquet_with_duckdb(folder: Path) -> list[dict[str, Any]]:
    return duckdb.sql(f"FROM read_parquet('{duckdb_pattern(folder)}')").to_arrow_table().to_pylist()


PARQUET_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "pandas": lambda folder: pyarrow.Table.from_pandas(pandas.read_parquet(folder), preserve_index=False).to_pylist(),
    "polars": lambda folder: polars.read_parquet(folder).to_dicts(),
    "polars_scan": lambda folder: polars.scan_parquet(str(folder)).collect().to_dicts(),
    "duckdb": read_parquet_with_duckdb,
    "dataset": lambda folder: pyarrow.dataset.dataset(folder).to_table().to_pylist(),
    "pyarrow": lambda folder: pyarrow.parquet.read_table(folder).to_pylist(),
}


def read_parquet(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder, which all readers must agree on."""
    found = {name: sorted(read(folder), key=lambda row: row["id"]) for name, read in PARQUET_READERS.items()}
    assert found == dict.fromkeys(PARQUET_READERS, found["pyarrow"])
    return found["pyarrow"]


class Validated(RowsStream):
    """Quarantines rows whose id is not an integer."""

    validation = "quarantine"

    def get_json_schema(self) -> Any:
        return SCHEMA


def schema_of(folder: Path) -> dict[str, str]:
    return {field.name: str(field.type) for field in pyarrow.dataset.dataset(folder).schema}


async def test_parquet_folder_opens_by_its_path(tmp_path: Path):
    await RowsStream(ROWS).extract(to=Parquet(tmp_path))

    assert read_parquet(tmp_path / "rows") == ROWS


async def test_parquet_folder_opens_with_quarantined_rows(tmp_path: Path):
    await Validated([*ROWS, {"id": "x"}]).extract(to=Parquet(tmp_path))

    assert read_parquet(tmp_path / "rows") == ROWS
    assert [path.suffix for path in (tmp_path / "rows").iterdir()] == [".parquet"]


@pytest.mark.parametrize("name", ["a=1", "orders[2026]", "{x}", "50% off", "it's", "_hidden", "売上明細" * 20, "#1"])
def test_parquet_folder_of_any_name_opens(tmp_path: Path, name: str):
    report = asyncio.run(RowsStream(ROWS, name).extract(to=Parquet(tmp_path)))

    assert read_parquet(report.streams[0].written.path) == ROWS


async def test_parquet_folder_without_rows_has_schema(tmp_path: Path):
    await Validated([]).extract(to=Parquet(tmp_path))

    assert read_parquet(tmp_path / "rows") == []
    assert schema_of(tmp_path / "rows") == {"id": "int64", "name": "string"}


async def test_parquet_folder_without_rows_and_schema_opens(tmp_path: Path):
    await RowsStream([]).extract(to=Parquet(tmp_path))

    assert read_parquet(tmp_path / "rows") == []


async def test_parquet_folder_with_only_quarantined_rows_opens(tmp_path: Path):
    await Validated([{"id": "x"}]).extract(to=Parquet(tmp_path))

    assert read_parquet(tmp_path / "rows") == []
    assert schema_of(tmp_path / "rows") == {"id": "int64", "name": "string"}


async def test_empty_part_goes_when_rows_come(tmp_path: Path):
    clock = WallClock(1000)
    stream = ChangingStream([], clock=clock)
    for seconds in (1000, 2000):
        clock.seconds = seconds
        await stream.extract(to=Parquet(tmp_path))
    empty = sorted(path.name for path in (tmp_path / "rows").iterdir())
    clock.seconds = 3000
    stream.rows = [{"id": 1, "updated_at": timestamp(2500)}]
    await stream.extract(to=Parquet(tmp_path))

    assert len(empty) == 1
    assert read_parquet(tmp_path / "rows") == stream.rows
    assert len(list((tmp_path / "rows").iterdir())) == 1


async def test_parquet_folder_opens_after_columns_changed(tmp_path: Path):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10), "v": 1, "old": "x"}], clock=clock)
    await stream.extract(to=Parquet(tmp_path))
    clock.seconds = 2000
    stream.rows = [{"id": 2, "updated_at": timestamp(1500), "v": "one", "new": {"a": 1.5}}]
    await stream.extract(to=Parquet(tmp_path))

    assert [(row["v"], row["old"], row["new"]) for row in read_parquet(tmp_path / "rows")] == [
        ("1", "x", None),
        ('"one"', None, {"a": 1.5}),
    ]


FIELDS = {"select": 1, "": 2, "id": 3, "ID": 4, "a.b": 5, "q" * 300: 6, "q" * 301: 7, "売上" * 100: 8, "x\n'\"": 9}


async def test_parquet_columns_of_any_name_open(tmp_path: Path):
    await RowsStream([FIELDS]).extract(to=Parquet(tmp_path))

    (row,) = read_parquet(tmp_path / "rows")
    assert list(row.values()) == list(FIELDS.values())
    assert len({name.casefold() for name in row}) == len(FIELDS)
    assert max(len(name.encode()) for name in row) <= 255


LINES_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "pandas": lambda folder: pandas.concat(
        pandas.read_json(path, lines=True) for path in sorted(folder.iterdir())
    ).to_dict("records"),
    "polars": lambda folder: polars.scan_ndjson(folder / "*").collect().to_dicts(),
    "duckdb": lambda folder: duckdb.sql(f"FROM read_json('{duckdb_pattern(folder)}')").to_arrow_table().to_pylist(),
}


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
async def test_json_lines_open(tmp_path: Path, compression: Any):
    await Validated([*ROWS, {"id": "x"}]).extract(to=JsonLines(tmp_path, compression=compression))

    for name, read in LINES_READERS.items():
        if (name, compression) != ("pandas", "zstd"):  # pandas needs another package for it
            assert read(tmp_path / "rows") == ROWS, name


async def test_json_lines_without_rows_open(tmp_path: Path):
    await RowsStream([]).extract(to=JsonLines(tmp_path))

    for name in ("pandas", "duckdb"):  # Polars refuses files without a line
        assert LINES_READERS[name](tmp_path / "rows") == [], name


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="SQLite's shell is not installed")
@pytest.mark.parametrize("rows", [ROWS, []])
def test_sqlite_shell_opens_tables(tmp_path: Path, rows: Any):
    asyncio.run(Validated([*rows, {"id": "x"}]).extract(to=SQLite(tmp_path / "out.sqlite")))

    statements = "PRAGMA integrity_check; SELECT id, name FROM rows ORDER BY id;"
    command = ["sqlite3", "-batch", "-list", str(tmp_path / "out.sqlite"), statements]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()

    assert found == ["ok", *(f"{row['id']}|{row['name']}" for row in rows)]


def test_duckdb_opens_its_tables(tmp_path: Path):
    asyncio.run(RowsStream(ROWS).extract(to=DuckDB(tmp_path / "out.duckdb")))

    with duckdb.connect(tmp_path / "out.duckdb", read_only=True) as connection:
        found = connection.sql("FROM rows ORDER BY id").to_arrow_table().to_pylist()

    assert found == ROWS
