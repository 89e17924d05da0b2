"""Tests of Parquet files: types, widened columns, and the same content as JSON Lines."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.parquet
import pytest
from crash_harness import lines_of
from hypothesis import given
from hypothesis import strategies as st
from incremental_api import WallClock, timestamp
from simulation import examples
from table_harness import KEYS, VALUES, ChangingStream, RowsStream, expected_value, stored_value

from asyncstreams import ConfigError, JsonLines, OutputWriteError, Parquet
from asyncstreams.destinations.arrow_columns import Columns
from asyncstreams.destinations.column_names import column_names
from asyncstreams.destinations.column_types import declared_types, join_types, type_of


def read(out: Path, name: str = "rows") -> list[dict[str, Any]]:
    """All rows, read by Polars from all parts at once."""
    return polars.scan_parquet(out / name / "*.parquet").collect().to_dicts()


def schemas(out: Path, name: str = "rows") -> list[Any]:
    return [pyarrow.parquet.read_schema(path) for path in sorted((out / name).glob("*.parquet"))]


async def extract(rows: Any, out: Path, schema: Any = None, **options: Any) -> None:
    stream = RowsStream(rows)
    if schema is not None:
        stream.get_json_schema = lambda: {"properties": schema}
        stream.validation = "off"
    await stream.extract(to=Parquet(out, **options))


def columns_of(out: Path) -> dict[str, str]:
    return {field.name: str(field.type) for field in schemas(out)[0]}


async def test_types_are_inferred_from_records(tmp_path: Path):
    row = {"i": 1, "f": 1.5, "s": "x", "b": True, "n": None, "o": {"a": 1, "l": ["x"]}, "l": [{"k": 1}], "e": {}}

    await extract([row], tmp_path)

    assert columns_of(tmp_path) == {
        "i": "int64",
        "f": "double",
        "s": "string",
        "b": "bool",
        "n": "string",
        "o": "struct<a: int64, l: list<element: string>>",
        "l": "list<element: struct<k: int64>>",
        "e": "string",
    }
    assert read(tmp_path) == [row | {"e": "{}"}]


async def test_types_follow_schema(tmp_path: Path):
    schema = {
        "id": {"type": "integer"},
        "price": {"type": ["null", "number"]},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "owner": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "since": {"format": "date-time", "type": "string"}},
        },
    }
    moment = datetime(2026, 1, 1, 10, tzinfo=UTC)
    row = {
        "id": 1,
        "price": 2,
        "day": "2026-01-02",
        "at": "2026-01-01T12:00:00.000000+02:00",
        "owner": {"since": "2026-01-01T10:00:00Z"},
    }

    await extract([row], tmp_path, schema)

    assert read(tmp_path) == [
        {
            "id": 1,
            "price": 2.0,
            "day": date(2026, 1, 2),
            "at": moment,
            "tags": None,
            "owner": {"name": None, "since": moment},
        }
    ]
    assert columns_of(tmp_path)["tags"] == "list<element: string>"


@pytest.mark.parametrize(
    "moment", ["2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00.1234567Z", "soon", ""]
)
async def test_invalid_timestamp_makes_column_text(tmp_path: Path, moment: str):
    schema = {
        "at": {"type": "string", "format": "date-time"},
        "o": {"properties": {"at": {"type": "string", "format": "date-time"}}},
    }

    await extract([{"at": "2026-01-01T12:00:00Z"}, {"at": moment, "o": {"at": moment}}], tmp_path, schema)

    assert read(tmp_path) == [{"at": "2026-01-01T12:00:00Z", "o": None}, {"at": moment, "o": {"at": moment}}]


WIDENINGS = [
    ([1], [2.5], "double", [1.0, 2.5]),
    ([1], [2**60], "int64", [1, 2**60]),
    ([1], [2**64], "string", ["1", str(2**64)]),
    ([2**60], [2.5], "string", [str(2**60), "2.5"]),
    ([1.5], [2**53 + 1], "string", ["1.5", str(2**53 + 1)]),
    ([1], ["x"], "string", ["1", '"x"']),
    (["x"], [True], "string", ['"x"', "true"]),
    ([None], [3], "int64", [None, 3]),
    ([None], [[3]], "list<element: int64>", [None, [3]]),
    ([{"a": 1}], [{"b": "x"}], "struct<a: int64, b: string>", [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
    ([{"a": 1}], [{"a": "x"}], "struct<a: string>", [{"a": "1"}, {"a": '"x"'}]),
    ([{"a": {}}], [{"a": {}, "b": 1}], "struct<a: string, b: int64>", [{"a": "{}", "b": None}, {"a": "{}", "b": 1}]),
    ([[1]], [["x"]], "list<element: string>", [["1"], ['"x"']]),
    ([[]], [[1]], "list<element: int64>", [[], [1]]),
    ([{"a": 1}], [[1]], "string", ['{"a":1}', "[1]"]),
    ([{}], [{"a": 1}], "string", ["{}", '{"a":1}']),
]


@pytest.mark.parametrize(("first", "then", "kind", "values"), WIDENINGS)
async def test_widened_column_is_the_same_in_all_parts(
    tmp_path: Path, first: list[Any], then: list[Any], kind: str, values: list[Any]
):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10), "v": value} for value in first], clock=clock)
    await stream.extract(to=Parquet(tmp_path))
    clock.seconds = 2000
    stream.rows = [{"id": 2, "updated_at": timestamp(1500), "v": value} for value in then]
    await stream.extract(to=Parquet(tmp_path))

    assert len(schemas(tmp_path)) == 2
    assert {str(schema.field("v").type) for schema in schemas(tmp_path)} == {kind}
    assert [row["v"] for row in sorted(read(tmp_path), key=lambda row: row["id"])] == values
    manifest = json.loads((tmp_path / ".asyncstreams" / "streams" / "rows" / "manifest.json").read_bytes())
    assert [part["rows"] for part in manifest["parts"]] == [1, 1]
    assert sorted(part["file"] for part in manifest["parts"]) == sorted(
        path.name for path in (tmp_path / "rows").glob("*.parquet")
    )


async def test_column_widened_within_a_run_is_the_same_in_all_parts(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("asyncstreams.destinations.parquet._MAX_ROW_GROUP_BYTES", 1)

    await extract([{"id": n, "v": n if n < 2_000 else "x"} for n in range(2_100)], tmp_path, fsync="full")

    found = {row["id"]: row["v"] for row in read(tmp_path)}
    assert len(found) == 2_100
    assert (found[7], found[2_050]) == ("7", '"x"')
    assert len({str(schema) for schema in schemas(tmp_path)}) == 1


def test_duckdb_polars_and_arrow_read_the_same_rows(tmp_path: Path):
    rows = [{"id": n, "name": f"name {n}", "price": n / 4, "o": {"tags": ["a", None], "n": n}} for n in range(5_000)]
    asyncio.run(extract(rows, tmp_path, part_size=2**20, row_group_size=1_000))

    pattern = str(tmp_path / "rows" / "*.parquet")
    counted = duckdb.execute(f"SELECT count(*), sum(price), sum(o.n) FROM read_parquet('{pattern}')").fetchall()

    assert counted == [(5_000, sum(row["price"] for row in rows), sum(range(5_000)))]
    assert read(tmp_path) == rows
    assert pyarrow.parquet.read_table(tmp_path / "rows").num_rows == 5_000
    assert {pyarrow.parquet.read_metadata(path).row_group(0).num_rows for path in tmp_path.glob("rows/*.parquet")} == {
        1_000
    }


async def test_manifest_names_the_fields_of_renamed_columns(tmp_path: Path):
    await extract([{"id": 1, "ID": 2, "q" * 300: 3}], tmp_path)

    manifest = json.loads((tmp_path / ".asyncstreams" / "streams" / "rows" / "manifest.json").read_bytes())
    plain, second, shortened = columns_of(tmp_path)
    assert (plain, second) == ("id", "ID_2")
    assert manifest["columns"] == {"ID_2": "ID", shortened: "q" * 300}


async def test_renamed_columns_survive_a_rewrite(tmp_path: Path):
    clock = WallClock(1000)
    stream = ChangingStream([{"id": 1, "updated_at": timestamp(10), "ID": 1}], clock=clock)
    await stream.extract(to=Parquet(tmp_path))
    clock.seconds = 2000
    stream.rows = [{"id": 2, "updated_at": timestamp(1500), "ID": "x", "Id": 3}]
    await stream.extract(to=Parquet(tmp_path))

    assert sorted((row["id"], row["ID_2"], row["Id_3"]) for row in read(tmp_path)) == [(1, "1", None), (2, '"x"', 3)]


async def test_nested_json_stores_objects_and_lists_as_text(tmp_path: Path):
    await extract([{"o": {"a": [1.50]}, "l": [1], "s": "x"}], tmp_path, nested="json")

    assert read(tmp_path) == [{"o": '{"a":[1.5]}', "l": "[1]", "s": "x"}]


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", None])
def test_compression_option_sets_codec(tmp_path: Path, compression: Any):
    asyncio.run(extract([{"id": 1}], tmp_path, compression=compression))

    [path] = (tmp_path / "rows").glob("*.parquet")
    codec = pyarrow.parquet.read_metadata(path).row_group(0).column(0).compression
    assert codec == {"zstd": "ZSTD", "snappy": "SNAPPY", "gzip": "GZIP", None: "UNCOMPRESSED"}[compression]


def test_whole_number_of_declared_integer_is_an_integer():
    fields = {"a": {"type": ["null", "integer"]}, "b": {"type": "array", "items": {"type": "integer"}}}
    columns = Columns.from_schema({"properties": fields}, nested=True)

    table = columns.table(b'{"a":2.0,"b":[1.0]}\n{"a":3,"b":[2]}\n')

    assert columns.types == {"a": "integer", "b": ["integer"]}
    assert table.to_pylist() == [{"a": 2, "b": [1]}, {"a": 3, "b": [2]}]


async def test_too_many_columns_are_refused_with_hint(tmp_path: Path):
    with pytest.raises(OutputWriteError, match=r"10,000 different fields.*\n.*into one object field"):
        await extract([{f"f{n}": n for n in range(10_000)}], tmp_path)


async def test_object_with_many_keys_is_stored_as_text(tmp_path: Path):
    await extract([{"by_day": {f"d{n}": n for n in range(300)}}], tmp_path)

    assert columns_of(tmp_path) == {"by_day": "string"}


@pytest.mark.parametrize(
    "options", [{"nested": "text"}, {"row_group_size": 0}, {"compression": "lz5"}, {"part_size": 7}, {"mode": "upsert"}]
)
def test_invalid_parquet_option_raises_config_error(options: Any):
    with pytest.raises(ConfigError, match=rf"Parquet\({next(iter(options))}="):
        Parquet("out/", **options)


def test_missing_pyarrow_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'asyncstreams\[parquet\]'"):
        Parquet("out/")


@examples(full=60, short=12)
@given(st.lists(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=4), min_size=1, max_size=4))
def test_property_tables_equal_lines_for_any_batches(batches: list[list[Any]]):
    columns = Columns({}, nested=True)
    tables = []
    for batch in batches:
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in batch)
        tables.append((columns.table(lines), columns.types))
    found = [row for table, types in tables for row in columns.recast(table, types).to_pylist()]

    rows = [row for batch in batches for row in batch]
    for row, stored in zip(rows, found, strict=True):
        for name, kind in columns.types.items():
            assert stored_value(stored[name], kind) == expected_value(row.get(name), kind)


@examples(full=25, short=10)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=5))
def test_property_parquet_files_equal_json_lines(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]):
    folder = tmp_path_factory.mktemp("both")

    async def extract_to_both() -> None:
        await RowsStream(rows).extract(to=JsonLines(folder / "lines"))
        await RowsStream(rows).extract(to=Parquet(folder / "parquet"))

    asyncio.run(extract_to_both())
    lines = [row for path in sorted((folder / "lines" / "rows").glob("part-*")) for row in lines_of(path)]
    parts = sorted((folder / "parquet" / "rows").glob("part-*"))
    found = [row for path in parts for row in pyarrow.parquet.read_table(path).to_pylist()]
    kinds = json.loads(pyarrow.parquet.read_schema(parts[0]).metadata[b"asyncstreams"])
    names = column_names(kinds)
    for line, stored in zip(lines, found, strict=True):
        for name, kind in kinds.items():
            assert stored_value(stored[names[name]], kind) == expected_value(line.get(name), kind)


@examples(full=200, short=40)
@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_property_join_types_is_order_independent(a: Any, b: Any, c: Any):
    first, second, third = type_of(a), type_of(b), type_of(c)

    assert join_types(first, second) == join_types(second, first)
    assert join_types(join_types(first, second), third) == join_types(first, join_types(second, third))
    assert join_types(first, first) == first


def test_declared_types_of_schema_keywords():
    schema = {
        "properties": {
            "any": {},
            "ref": {"$ref": "#/$defs/money"},
            "self": {"$ref": "#"},
            "one_of": {"anyOf": [{"type": "null"}, {"type": "integer"}, {"type": "number"}]},
            "mixed": {"type": ["string", "integer"]},
            "enum": {"enum": ["a", "b", None]},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "items": {"type": "array"},
            "naive": {"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"},
        },
        "$defs": {"money": {"properties": {"amount": {"type": "number"}}}},
    }
    found = declared_types(schema)

    assert found.pop("self")["ref"] == {"amount": "number"}
    assert found == {
        "any": "null",
        "ref": {"amount": "number"},
        "one_of": "number",
        "mixed": "json",
        "enum": "text",
        "map": "null",
        "items": ["null"],
        "naive": "text",
    }


def test_lines_that_match_columns_are_not_decoded(monkeypatch: pytest.MonkeyPatch):
    columns = Columns({}, nested=True)
    first = columns.table(b'{"id":1,"o":{"a":[1.5]},"s":"x","n":null}\n')

    def fail(lines: bytes) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr("asyncstreams.destinations.arrow_columns.decode_records", fail)
    second = columns.table(b'{"id":2,"s":"y","o":null}\n{"o":{"a":[]}}\n')

    assert first.schema == second.schema
    assert second.to_pylist() == [
        {"id": 2, "o": None, "s": "y", "n": None},
        {"id": None, "o": {"a": []}, "s": None, "n": None},
    ]
    for unexpected in (b'{"n":"x"}', b'{"id":9007199254740993}', b'{"new":1}', b'{"id":1.5}', b'{"o":{"b":1}}'):
        with pytest.raises(AssertionError, match="decoded"):
            columns.table(unexpected + b"\n")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**53, "integer"),
        (-(2**53), "integer"),
        (2**53 + 1, "bigint"),
        (-(2**53) - 1, "bigint"),
        (2**63 - 1, "bigint"),
        (-(2**63), "bigint"),
        (2**63, "json"),
        (-(2**63) - 1, "json"),
    ],
)
def test_integer_type_follows_the_range(value: int, kind: str):
    assert type_of([value]) == kind
