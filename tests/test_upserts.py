"""Tests of upserts into SQLite and DuckDB: which version of a row stays, and which rows have the same key."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples
from table_harness import DESTINATIONS, RowsStream, query, read_table, row_order, write_runs

from asyncstreams import ConfigError, OutputWriteError

ENGINES = [".sqlite", ".duckdb"]


@pytest.fixture(params=ENGINES)
def out(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / f"out{request.param}"


def to(out: Path, **options: Any) -> Any:
    return DESTINATIONS[out.suffix](out, **options)


class KeyedStream(RowsStream):
    """Rows with a primary key; `refuse` fails the test at the first request."""

    def __init__(self, rows: Any, key: Any = "id") -> None:
        super().__init__(rows)
        self.primary_key = key

    def refuse(self) -> KeyedStream:
        self.answer = lambda request: pytest.fail("a request was sent")  # type: ignore[method-assign]
        return self


async def extract(out: Path, rows: Any, key: Any = "id", mode: Any = "upsert") -> list[dict[str, Any]]:
    await KeyedStream(rows, key).extract(to=to(out, mode=mode))
    return read_table(out)


ORDERS: dict[str, tuple[str, list[Any]]] = {
    "offsets": ("iso", ["2025-11-02T01:50:00-04:00", "2025-11-02T01:10:00-05:00", "2025-11-02T06:20:00Z"]),
    "fractions": ("iso", ["2025-11-02T01:50:00Z", "2025-11-02T01:50:00.05Z", "2025-11-02T01:50:00.5Z"]),
    "nanoseconds": ("iso", [f"2025-11-02T01:50:00.123456{rest}Z" for rest in ("", "0019", "01")]),
    "epochs in nanoseconds": ("epoch_ns", [17 * 10**17, 17 * 10**17 + 2, str(17 * 10**17 + 10)]),
    "day first": ("%d.%m.%Y", ["31.01.2025", "02.02.2025", "01.03.2025"]),
    "numbers": ("number", [-1, 9, 10.5, 11]),
    "epochs in text": ("epoch", ["999999999", "1000000000", "1000000000.5"]),
    "dates": ("date", ["0001-01-01", "2025-01-01", "2026-01-01"]),
    "end of time": ("iso", [None, "9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
    "clock ahead": ("iso", ["soon", "2025-12-31T23:00:00Z", "2026-01-01T09:00:00Z"]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_versions_are_ranked_by_point(name: str):
    cursor_format, values = ORDERS[name]
    order = row_order(["at"], cursor_format)
    newest_first = values[::-1]

    assert sorted(newest_first, key=order.rank) == values


@pytest.mark.parametrize(
    ("name", "path"), [("offsets", ["at"]), ("end of time", ["at"]), ("day first", ["meta", "changed", "at"])]
)
def test_newest_version_stays_whatever_the_order(out: Path, name: str, path: list[str]):
    cursor_format, values = ORDERS[name]
    versions = [
        {"id": number, "version": version, **nested(path, value)}
        for number, order in enumerate(itertools.permutations(enumerate(values)))
        for version, value in order
    ]
    halves = [versions[: len(versions) // 2], versions[len(versions) // 2 :]]

    found = write_runs(out, [[halves[0]], [halves[1]]], order=row_order(path, cursor_format))

    assert {row["version"] for row in found} == {len(values) - 1}


def nested(path: list[str], value: Any) -> Any:
    return {path[0]: nested(path[1:], value)} if path else value


def test_equal_version_replaces_the_stored_one(out: Path):
    first = [{"id": 1, "at": "2025-01-01T00:00:00Z", "n": 1}, {"id": 1, "at": "2025-01-01T01:00:00+01:00", "n": 2}]

    found = write_runs(out, [[first], [[{**first[0], "n": 3}]]], order=row_order())

    assert [row["n"] for row in found] == [3]


def test_version_without_cursor_is_refused_with_warning(out: Path, caplog: pytest.LogCaptureFixture):
    rows = [[{"id": 1, "at": "2025-01-01T00:00:00Z"}], [{"id": 1, "at": None}], [{"id": 1}]]

    found = write_runs(out, [rows], order=row_order())

    assert found == [{"id": 1, "at": read_table(out)[0]["at"]}]
    assert found[0]["at"] is not None
    assert [record.getMessage() for record in caplog.records] == [
        "rows: a record without a valid cursor value at does not replace a row that has one"
    ]


def test_order_follows_schema_types(tmp_path: Path):
    schema = {"properties": {"at": {"type": "string", "format": "date-time"}}}
    rows = [{"id": 1, "at": "2025-06-01T10:00:00+02:00"}, {"id": 1, "at": "2025-06-01T09:00:00Z"}]
    out = tmp_path / "out.duckdb"

    found = write_runs(out, [[rows], [rows[:1]]], order=row_order(), schema=schema)

    assert found[0]["at"].isoformat().endswith("09:00:00+00:00")
    assert query(out, 'SELECT typeof("at") FROM rows') == [("TIMESTAMP WITH TIME ZONE",)]


def test_any_field_name_can_be_upserted(out: Path):
    fields = ["new", "stored", "number", "cursor", "_asyncstreams_number", "excluded", "rowid"]
    row = {"id": 1, "at": "2025-01-02T00:00:00Z", **{name: {"id": 1} for name in fields}}

    found = write_runs(out, [[[row]], [[row]]], order=row_order())

    assert [list(row) for row in found] == [["id", "at", *fields]]


@st.composite
def written_times(draw: st.DrawFn) -> str | None:
    """A time with any offset and precision, before or after the run, or nothing."""
    if draw(st.integers(0, 9)) == 0:
        return None
    moment = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(
        microseconds=draw(st.sampled_from([0, 1, 999_999])), minutes=draw(st.sampled_from([0, 30, 60, 10_000_000]))
    )
    text = moment.astimezone(timezone(timedelta(minutes=draw(st.sampled_from([0, 90, -300]))))).isoformat()
    return text.replace("+00:00", "Z") if draw(st.booleans()) else text


KEY_VALUES = st.sampled_from([None, 0, 1, 2, 1.5, "x", "", "1", "é", "2.5", 2**53, 2**70, "null"])


def same_key(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


@examples(full=400, short=4)
@given(
    st.lists(st.tuples(KEY_VALUES, KEY_VALUES, written_times()), max_size=12),
    st.lists(st.integers(0, 12), max_size=3),
    st.sampled_from(ENGINES),
    st.sampled_from([["at"], ["meta", "at"]]),
    st.randoms(use_true_random=False),
)
def test_property_table_does_not_depend_on_arrival(
    tmp_path_factory: pytest.TempPathFactory, versions: Any, cuts: Any, engine: str, path: Any, chance: Any
):
    order = row_order(path)
    rows = [{"a": a, "b": {"c": c}, "n": number, **nested(path, at)} for number, (a, c, at) in enumerate(versions)]
    by_key: dict[Any, Any] = {}
    for row in rows:
        key, rank = (same_key(row["a"]), same_key(row["b"]["c"])), order.rank(at_path(row, path))
        by_key.setdefault(key, []).append((rank, row["n"]))
    shuffled = chance.sample(rows, len(rows))
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    commits = [shuffled[start:end] for start, end in itertools.pairwise(bounds)]

    found = (
        write_runs(
            tmp_path_factory.mktemp("order") / f"out{engine}",
            [commits[:1], commits[1:]],
            key=[["a"], ["b", "c"]],
            order=order,
        )
        if rows
        else []
    )

    kept = sorted(row["n"] for row in found)
    newest = [{n for rank, n in ranked if rank == max(ranked)[0]} for ranked in by_key.values()]
    assert len(kept) == len(newest)
    assert all(len(numbers & set(kept)) == 1 for numbers in newest)


def at_path(row: Any, path: list[str]) -> Any:
    for name in path:
        row = row[name]
    return row


@pytest.mark.parametrize(
    ("first", "then", "keys"),
    [
        ([1, 2], ["1"], ["1", "2"]),
        ([1.5, 2, 3, None], ["x", 2, 1.5, 3.0, None], ["1.5", "2", "3", "None", "x"]),
        ([2**70, {"a": 1, "b": 2}], [str(2**70), {"b": 2, "a": 1}], [str(2**70), '{"a":1,"b":2}']),
    ],
)
async def test_equal_keys_are_one_row(out: Path, first: Any, then: Any, keys: list[str]):
    await extract(out, [{"id": value, "n": 1} for value in first])

    found = await extract(out, [{"id": value, "n": 2} for value in then])

    assert sorted(str(row["id"]) for row in found) == keys
    assert [row["n"] for row in found].count(2) == len(then)


async def test_composite_key_with_null_is_one_row(out: Path):
    for cost in (1, 2, 3):
        found = await extract(out, [{"a": 7, "b": None, "cost": cost}, {"a": 7, "cost": cost + 10}], ["a", "b"])

    assert [row["cost"] for row in found] == [13]


async def test_records_without_key_are_one_row_with_warning(out: Path, caplog: pytest.LogCaptureFixture):
    found = await extract(out, [{"id": None, "n": 1}, {"n": 2}, {"id": 3}])

    assert sorted(str(row["id"]) for row in found) == ["3", "None"]
    assert "rows: 2 records have no value of the primary key id, and are one row: null equals null" in caplog.text


@pytest.mark.parametrize("key", ["ident", [["meta", "id"]]])
async def test_key_that_no_record_has_is_refused(out: Path, key: Any):
    with pytest.raises(OutputWriteError, match=r"none of the first records has the primary key"):
        await extract(out, [{"id": 1, "meta": {}}, {"id": 2}], key)


async def test_nested_key_has_a_column_of_its_own(out: Path):
    key = [["meta", "id"], ["kind"]]
    await extract(out, [{"meta": {"id": 1}, "kind": "a", "n": 1}, {"meta": {"id": 2}, "kind": "a"}, {"kind": "a"}], key)

    found = await extract(out, [{"meta": {"id": 1, "x": [1]}, "kind": "a", "n": 2}, {"meta": None, "kind": "a"}], key)

    assert sorted((str(row["meta.id"]), row["n"]) for row in found) == [("1", 2), ("2", None), ("None", None)]


async def test_time_key_stays_equal_when_column_becomes_text(tmp_path: Path):
    out = tmp_path / "out.duckdb"
    for values in (["2025-01-01T00:00:00.000Z"], ["soon"], ["2025-01-01T00:00:00.000Z", "2025-01-01T01:00:00+01:00"]):
        stream = KeyedStream([{"id": value} for value in values])
        stream.get_json_schema = lambda: {"properties": {"id": {"type": "string", "format": "date-time"}}}
        stream.validation = "off"
        await stream.extract(to=to(out, mode="upsert"))

    assert sorted(row["id"] for row in read_table(out)) == ["2025-01-01T00:00:00Z", "soon"]


async def test_changed_key_applies_to_later_runs(out: Path):
    for key, rows in (
        ("id", [{"id": 1, "code": "a"}, {"id": 2, "code": "b"}]),
        ("code", [{"id": 1, "code": "c"}, {"id": 3, "code": "a"}]),
        (["id", "code"], [{"id": 1, "code": "c", "n": 1}, {"id": 1, "code": "d"}]),
    ):
        found = await extract(out, rows, key)

    assert sorted((row["id"], row["code"]) for row in found) == [(1, "c"), (1, "d"), (2, "b"), (3, "a")]


async def test_append_after_upsert_adds_rows(out: Path):
    await extract(out, [{"id": 1, "n": 1}])

    found = await extract(out, [{"id": 1, "n": 2}], mode="append")

    assert [row["n"] for row in found] == [1, 2]


async def test_upsert_after_append_continues_without_duplicates(out: Path):
    await extract(out, [{"id": 1, "n": 1}, {"id": 2, "n": 1}], mode="append")

    found = await extract(out, [{"id": 1, "n": 2}])

    assert sorted((row["id"], row["n"]) for row in found) == [(1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("rows", "key", "problem"),
    [
        ([{"id": 1}, {"id": "1"}], "id", r"several rows for 1 value of the primary key id"),
        ([{"id": 1, "meta": {"id": 1}}], [["meta", "id"]], r"wrote the rows of table rows without the key meta\.id"),
    ],
)
async def test_key_that_cannot_be_kept_is_refused(out: Path, rows: Any, key: Any, problem: str):
    await extract(out, rows, mode="append")

    with pytest.raises(ConfigError, match=rf'rows: mode="upsert" cannot be kept: .*{problem}'):
        await KeyedStream([], key).refuse().extract(to=to(out, mode="upsert"))
    found = await extract(out, rows, key, mode="append")

    assert len(found) == 2 * len(rows)


async def test_refused_upsert_can_start_over_with_replace(out: Path):
    await extract(out, [{"id": 1}, {"id": 1}], mode="append")
    with pytest.raises(ConfigError, match="cannot be kept"):
        await extract(out, [{"id": 1}])

    await extract(out, [{"id": 1}], mode="replace")
    found = await extract(out, [{"id": 1, "n": 2}])

    assert [(row["id"], row["n"]) for row in found] == [(1, 2)]


async def test_whole_number_of_declared_integer_is_an_integer(out: Path):
    stream = RowsStream(b'[{"a": 2.0, "b": [1.0], "c": 2.0, "d": 2.5}, {"a": 3, "b": [2], "c": 1, "d": 1.0}]')
    integer = {"type": ["null", "integer"]}
    fields = {"a": integer, "b": {"type": "array", "items": integer}, "d": integer}
    stream.get_json_schema = lambda: {"properties": fields}
    stream.validation = "off"

    await stream.extract(to=to(out))

    found = json.dumps([list(row.values()) for row in read_table(out)]).replace('"', "")
    assert found == "[[2, [1], 2.5, 2.0], [3, [2], 1.0, 1.0]]" or out.suffix == ".sqlite"
    assert found == "[[2, [1], 2.5, 2.0], [3, [2], 1, 1]]" or out.suffix == ".duckdb"
