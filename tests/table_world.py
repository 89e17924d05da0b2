"""Databases that break, and what must be in them: what tests of tables have in common."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash_world import Killed, World

from asyncstreams import SQLite
from asyncstreams.sinks.ledger import Ledger


@dataclass
class TableWorld(World):
    """A World whose output is a database."""

    def destination(self, fs: Any = None) -> Any:
        options = {"fsync": "full", "mode": "append", **self.options}
        if options["mode"] == "append":
            del options["mode"]
        return SQLite(self.out, **options, **({} if fs is None else {"connect": fs.connect}))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.out)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def tables(self) -> set[str]:
        return {name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def known(self) -> Ledger:
        output = self.destination().output()
        output.open(0)
        try:
            return output.ledger
        finally:
            output.close()

    def visible(self, name: str) -> list[Any]:
        return [one for (one,) in self.query(f'SELECT id FROM "{name}"')] if name in self.tables() else []

    def check_now(self) -> None:
        """No id comes twice, and what the state calls done is there."""
        for name in self.names:
            assert [one for one, count in Counter(self.visible(name)).items() if count > 1] == []

    def check_end(self) -> None:
        assert list(self.known().names) == []
        for name in self.names:
            assert Counter(self.visible(name)) == Counter(row["id"] for row in self.api.rows(name)), name
        assert [name for name in self.tables() if name.startswith("_asyncstreams_new_")] == []


class BrokenSql:
    """Counts statements; the one with the number `at` goes wrong in some `way`.

    "before" and "after": the process is killed; "torn": in the midst of many rows; "full": there is no space.
    """

    error: Callable[[], Exception] = staticmethod(lambda: sqlite3.OperationalError("database or disk is full"))

    def __init__(self, at: int = 0, way: str = "before") -> None:
        self.at, self.way = at, way
        self.count = 0
        self.is_dead = False
        self.was_hit = False

    def connect(self, *given: Any, **options: Any) -> Any:
        return _Connection(sqlite3.connect(*given, **options), self)


class _Connection:
    def __init__(self, inner: Any, broken: BrokenSql) -> None:
        self._inner, self._broken = inner, broken

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
            raise broken.error()
        if broken.way != "before":
            (operation if broken.way == "after" else torn)()
        broken.is_dead = True
        self._inner.close()  # the system does that for a process that is gone
        raise Killed


def world_at(path: Path, **options: Any) -> TableWorld:
    return TableWorld(path / "out.sqlite", options=options)
