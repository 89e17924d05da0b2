"""Harness of the table tests: streams of given rows, databases that fail, and checks of their content."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import httpx
from crash_harness import CrashHarness, ProcessKilled
from hypothesis import strategies as st

from asyncstreams import DuckDB, HttpStream, SQLite
from asyncstreams.cursors.cursor_format import CursorFormat
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.destinations.row_order import RowOrder
from asyncstreams.destinations.writer_protocol import Chunk, CommitPayload, StreamSchema
from asyncstreams.state.stream_state import StreamState

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8).filter(str.isprintable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\"'", max_size=2), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text("abAB_ \"'%é", max_size=3)
NOW = 1_767_225_600
"""2026-01-01T00:00:00Z."""


class RowsStream(HttpStream):
    """One page with the content of `rows`."""

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


class ChangingStream(RowsStream):
    """Rows with a time of change; the API returns those within the window."""

    primary_key = "id"
    cursor_field = "updated_at"

    def request_params(self, context: Any) -> Any:
        since, until = context.stream_slice.bounds
        return {"since": since, "until": until}

    def answer(self, request: httpx.Request) -> httpx.Response:
        since, until = request.url.params.get("since", "0"), request.url.params["until"]
        return httpx.Response(200, json=[row for row in self.rows if since <= row["updated_at"] <= until])


DESTINATIONS: dict[str, Any] = {".sqlite": SQLite, ".duckdb": DuckDB}
CONNECTORS: dict[str, Any] = {".sqlite": sqlite3.connect, ".duckdb": duckdb.connect}


def query(out: Path, statement: str) -> list[Any]:
    """Execute a statement in either kind of database; return its rows as tuples."""
    connection = CONNECTORS[out.suffix](out)
    try:
        rows = connection.execute(statement).fetchall()
        connection.commit() if out.suffix == ".sqlite" else None
        return rows
    finally:
        connection.close()


def table_names(out: Path) -> set[str]:
    return {
        name
        for (name,) in query(
            out,
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            if out.suffix == ".sqlite"
            else "SELECT table_name FROM information_schema.tables",
        )
    }


def read_table(out: Path, name: str = "rows") -> list[dict[str, Any]]:
    """All rows of a table as dicts."""
    connection = CONNECTORS[out.suffix](out)
    try:
        cursor = connection.execute(f'SELECT * FROM "{name}"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        connection.close()


def write_runs(
    out: Path, runs: Iterable[Iterable[Sequence[Any]]], connect: Any = None, **described: Any
) -> list[dict[str, Any]]:
    """Write rows through the writer of an upserted table, given by run and commit; return the rows of the table.

    `described` are fields of the StreamSchema.
    """
    schema = StreamSchema(**{"key": [["id"]], **described})
    options = {} if connect is None else {"connect": connect}
    for commits in runs:
        writer = DESTINATIONS[out.suffix](out, mode="upsert", **options).new_writer()
        writer.open(0)
        try:
            begun = {"rows": {"identity": {}, "mode": "upsert"}}
            writer.begin_run({"op": "begin", "names": ["rows"], "streams": begun, "keys": {"rows": schema.key}})
            writer.describe_stream("rows", schema)
            for rows in commits:
                lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
                payload = CommitPayload({}, {"batch": [Chunk("part", lines, len(rows))]})
                writer.ledger.apply(writer.commit({"rows": payload}))
            writer.end_run({"op": "end"})
        finally:
            writer.close()
    return read_table(out)


def row_order(path: Sequence[str] = ("at",), cursor_format: str = "iso", now: float = NOW) -> RowOrder:
    """The order of versions by a cursor, in a run that begins at `now`."""
    return RowOrder("rows", path, StreamState(list(path), CursorFormat(cursor_format)), now)


@dataclass
class TableHarness(CrashHarness):
    """A CrashHarness whose output is a database."""

    def destination(self, fs: Any = None) -> Any:
        kind = DESTINATIONS[self.out.suffix]
        return kind(self.out, **{"fsync": "full", **self.options}, **({} if fs is None else {"connect": fs.connect}))

    def tables(self) -> set[str]:
        return table_names(self.out)

    def read_ledger(self) -> Ledger:
        writer = self.destination().new_writer()
        writer.open(0)
        try:
            return writer.ledger
        finally:
            writer.close()

    def visible_ids(self, name: str) -> list[Any]:
        return [id_ for (id_,) in query(self.out, f'SELECT id FROM "{name}"')] if name in self.tables() else []

    def check_invariants(self) -> None:
        """Assert that no id is in the table twice."""
        for name in self.names:
            assert [id_ for id_, count in Counter(self.visible_ids(name)).items() if count > 1] == []

    def check_complete(self) -> None:
        assert list(self.read_ledger().names) == []
        for name in self.names:
            assert Counter(self.visible_ids(name)) == Counter(row["id"] for row in self.api.rows(name)), name
        assert [name for name in self.tables() if name.startswith("_asyncstreams_new_")] == []


ERRORS: dict[str, Exception] = {
    ".sqlite": sqlite3.OperationalError("database or disk is full"),
    ".duckdb": duckdb.IOException("IO Error: could not write: No space left on device"),
}


class FaultyDatabase:
    """Connections whose statement number `at` fails in the given way.

    "before", "after" and "torn" kill the process: before the statement, after it, or half-way through its rows. "full"
    raises the error of a full disk.
    """

    def __init__(self, at: int = 0, way: str = "before") -> None:
        self.at, self.way = at, way
        self.count = 0
        self.is_dead = False
        self.was_triggered = False

    def connect(self, *arguments: Any, **options: Any) -> Any:
        path = Path(arguments[0])
        return _FaultyConnection(CONNECTORS[path.suffix](*arguments, **options), self, ERRORS[path.suffix])


class _FaultyConnection:
    def __init__(self, inner: Any, database: FaultyDatabase, error: Exception) -> None:
        self._inner, self._database, self._error = inner, database, error

    def __getattr__(self, name: str) -> Any:
        if self._database.is_dead:
            raise ProcessKilled
        return getattr(self._inner, name)

    def execute(self, statement: str, *values: Any) -> Any:
        return self._do(lambda: self._inner.execute(statement, *values), lambda: None)

    def executemany(self, statement: str, rows: Iterable[Any]) -> Any:
        rows = list(rows)
        half = rows[: len(rows) // 2]
        return self._do(
            lambda: self._inner.executemany(statement, rows), lambda: self._inner.executemany(statement, half)
        )

    def close(self) -> None:
        self._inner.close()

    def _do(self, operation: Callable[[], Any], torn: Callable[[], Any]) -> Any:
        database = self._database
        if database.is_dead:
            raise ProcessKilled
        database.count += 1
        if database.count != database.at:
            return operation()
        database.was_triggered = True
        if database.way == "full":
            raise self._error
        if database.way != "before":
            (operation if database.way == "after" else torn)()
        database.is_dead = True
        self._inner.close()  # the operating system closes the files of a killed process
        raise ProcessKilled


def expected_value(value: Any, kind: Any) -> Any:
    """The JSON value that a value must have in a column of this type; missing fields are null."""
    if value is None:
        return None
    if kind == "json":
        return without_nulls(json.loads(json.dumps(value)))
    if isinstance(kind, list):
        return [expected_value(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {name: expected_value(value.get(name), field) for name, field in kind.items()}
    return value


def without_nulls(value: Any) -> Any:
    """The value without null fields: a column of objects that became one of texts does not know which were missing."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return value


def stored_value(value: Any, kind: Any) -> Any:
    """The JSON value of what was read from a column of this type."""
    if value is None:
        return None
    if kind == "json":
        return without_nulls(json.loads(value))
    if isinstance(kind, list):
        return [stored_value(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {name: stored_value(value[name], field) for name, field in kind.items()}
    return value
