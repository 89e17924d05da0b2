"""Databases that break, and what must be in them: what tests of tables have in common."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import httpx
from crash_harness import Killed, World
from hypothesis import strategies as st

from asyncstreams import DuckDB, HttpStream, SQLite
from asyncstreams.destinations.ledger import Ledger

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8).filter(str.isprintable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\"'", max_size=2), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text("abAB_ \"'%é", max_size=3)


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


KINDS: dict[str, Any] = {".sqlite": SQLite, ".duckdb": DuckDB}
CONNECT: dict[str, Any] = {".sqlite": sqlite3.connect, ".duckdb": duckdb.connect}


def query(out: Path, statement: str) -> list[Any]:
    """Rows as tuples, from either."""
    connection = CONNECT[out.suffix](out)
    try:
        found = connection.execute(statement).fetchall()
        connection.commit() if out.suffix == ".sqlite" else None
        return found
    finally:
        connection.close()


def tables_of(out: Path) -> set[str]:
    return {
        name
        for (name,) in query(
            out,
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            if out.suffix == ".sqlite"
            else "SELECT table_name FROM information_schema.tables",
        )
    }


def table(out: Path, name: str = "rows") -> list[dict[str, Any]]:
    """All rows, by their columns."""
    connection = CONNECT[out.suffix](out)
    try:
        cursor = connection.execute(f'SELECT * FROM "{name}"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        connection.close()


@dataclass
class TableWorld(World):
    """A World whose output is a database."""

    def destination(self, fs: Any = None) -> Any:
        kind = KINDS[self.out.suffix]
        return kind(self.out, **{"fsync": "full", **self.options}, **({} if fs is None else {"connect": fs.connect}))

    def tables(self) -> set[str]:
        return tables_of(self.out)

    def known(self) -> Ledger:
        output = self.destination().output()
        output.open(0)
        try:
            return output.ledger
        finally:
            output.close()

    def visible(self, name: str) -> list[Any]:
        return [one for (one,) in query(self.out, f'SELECT id FROM "{name}"')] if name in self.tables() else []

    def check_now(self) -> None:
        """No id comes twice, and what the state calls done is there."""
        for name in self.names:
            assert [one for one, count in Counter(self.visible(name)).items() if count > 1] == []

    def check_end(self) -> None:
        assert list(self.known().names) == []
        for name in self.names:
            assert Counter(self.visible(name)) == Counter(row["id"] for row in self.api.rows(name)), name
        assert [name for name in self.tables() if name.startswith("_asyncstreams_new_")] == []


ERRORS: dict[str, Exception] = {
    ".sqlite": sqlite3.OperationalError("database or disk is full"),
    ".duckdb": duckdb.IOException("IO Error: could not write: No space left on device"),
}


class BrokenSql:
    """Counts statements; the one with the number `at` goes wrong in some `way`.

    "before" and "after": the process is killed; "torn": in the midst of many rows; "full": there is no space.
    """

    def __init__(self, at: int = 0, way: str = "before") -> None:
        self.at, self.way = at, way
        self.count = 0
        self.is_dead = False
        self.was_hit = False

    def connect(self, *given: Any, **options: Any) -> Any:
        path = Path(given[0])
        return _Connection(CONNECT[path.suffix](*given, **options), self, ERRORS[path.suffix])


class _Connection:
    def __init__(self, inner: Any, broken: BrokenSql, error: Exception) -> None:
        self._inner, self._broken, self._error = inner, broken, error

    def __getattr__(self, name: str) -> Any:
        if self._broken.is_dead:
            raise Killed
        return getattr(self._inner, name)

    def execute(self, statement: str, *given: Any) -> Any:
        return self._do(lambda: self._inner.execute(statement, *given), lambda: None)

    def executemany(self, statement: str, rows: Iterable[Any]) -> Any:
        rows = list(rows)
        half = rows[: len(rows) // 2]
        return self._do(
            lambda: self._inner.executemany(statement, rows), lambda: self._inner.executemany(statement, half)
        )

    def close(self) -> None:
        self._inner.close()

    def _do(self, operation: Callable[[], Any], torn: Callable[[], Any]) -> Any:
        broken = self._broken
        if broken.is_dead:
            raise Killed
        broken.count += 1
        if broken.count != broken.at:
            return operation()
        broken.was_hit = True
        if broken.way == "full":
            raise self._error
        if broken.way != "before":
            (operation if broken.way == "after" else torn)()
        broken.is_dead = True
        self._inner.close()  # the system does that for a process that is gone
        raise Killed


def as_column(value: Any, kind: Any) -> Any:
    """What a value is in a column of a type, as JSON has it; what is missing is null."""
    if value is None:
        return None
    if kind == "json":
        return json.loads(json.dumps(value))
    if isinstance(kind, list):
        return [as_column(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {name: as_column(value.get(name), one) for name, one in kind.items()}
    return value


def from_column(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json.loads(value)
    if isinstance(kind, list):
        return [from_column(item, kind[0]) for item in value]
    if isinstance(kind, dict):
        return {name: from_column(value[name], one) for name, one in kind.items()}
    return value
