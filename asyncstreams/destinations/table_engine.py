"""Database engines as a TableWriter uses them, and the primary keys of their tables."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, cast

from .._json import as_object
from ..errors import ConfigError, LocalError, OutputWriteError
from ..state.stream_state import value_at
from ..storage.filesystem import write_errors
from .column_names import ColumnNames
from .writer_protocol import StreamSchema

RESERVED_PREFIX = "_asyncstreams"
"""Prefix of all tables that do not belong to a stream."""
_log = logging.getLogger("asyncstreams")


class Engine(ABC):
    """A database engine. Blocking; one caller at a time. Raises LocalError with a message for the user.

    `driver_error` is the base class of the exceptions of the driver.
    """

    block_bytes: ClassVar[int]
    """Approximate size of the blocks of lines that a table loads at once."""
    copies_tables: ClassVar[bool]
    """Whether a table may be copied in any mode, and so lose what others added to it."""
    begin_statement: ClassVar[str] = "BEGIN"

    def __init__(self, path: Path, driver_error: type[Exception]) -> None:
        self._path, self._driver_error = path, driver_error
        self._connection: Any = None

    @abstractmethod
    def open(self) -> None: ...

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """A transaction: committed when the block ends, rolled back if it raises."""
        with self._translate_errors():
            self._connection.execute(self.begin_statement)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(self._driver_error):
                    self._connection.execute("ROLLBACK")
                raise

    def execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Execute one statement with `?` placeholders, and return its rows."""
        with self._translate_errors():
            return cast(Sequence[Sequence[Any]], self._connection.execute(statement, list(values)).fetchall())

    @abstractmethod
    def table_names(self) -> set[str]:
        """The names of all tables, and of everything that shares their names, such as views."""

    @abstractmethod
    def column_names(self, table: str) -> Sequence[str]:
        """The names of the columns that a table has; empty if it is not a table."""

    @abstractmethod
    def constraints(self, table: str) -> Sequence[str]:
        """What others added to a table that is lost when the table is replaced, except columns."""

    @abstractmethod
    def has_dependents(self, table: str) -> bool:
        """Whether others made views, indexes or triggers that use a table."""

    def replace_table(self, old: str, new: str) -> None:
        """Drop table `old` and give its name to `new`; indexes and triggers that others made are created again."""
        objects = self._objects_on(old)
        self.execute(f"DROP TABLE IF EXISTS {quote_name(old)}")
        self.execute(f"ALTER TABLE {quote_name(new)} RENAME TO {quote_name(old)}")
        for kind, name, statement in objects:
            try:
                self.execute(statement)
            except OutputWriteError as error:
                cause = str(error.__cause__).partition("\n")[0]
                raise OutputWriteError(
                    f"{self._path}: {kind} {name} of table {old} does not fit its new rows: {cause}",
                    hint=f"drop the {kind}, and run again: the rows are ready, and replace the table when it fits",
                ) from error

    @abstractmethod
    def refresh_views(self) -> None:
        """Make views valid whose tables have changed; outside of a transaction."""

    @abstractmethod
    def open_table(self, name: str, schema: StreamSchema, known: Any, earlier: Any, *, is_keyed: bool) -> EngineTable:
        """A table; `known` is the stored result of `EngineTable.to_json`, or None if the table does not exist yet.

        `earlier` is that of the table that it will replace, or None. Fields keep the column names of that table.
        """

    @abstractmethod
    def _objects_on(self, table: str) -> Sequence[Sequence[str]]:
        """Type, name and SQL of the indexes and triggers of a table, all of which others made."""

    @abstractmethod
    def _translate(self, error: Exception) -> LocalError:
        """The error for the user in place of an exception of the driver."""

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """Raise errors of the driver and the file system as LocalErrors."""
        try:
            with write_errors(self._path):
                yield
        except self._driver_error as error:
            raise self._translate(error) from error


class EngineTable(ABC):
    """The table of one stream, or of its replacement."""

    def __init__(
        self, name: str, schema: StreamSchema, known: Mapping[str, Any] | None, names: ColumnNames, *, is_keyed: bool
    ) -> None:
        self.name, self._names = name, names
        self._key = TableKey(name, schema.key, names, known, is_keyed=is_keyed)
        self._exists = known is not None

    @property
    def column_names(self) -> Collection[str]:
        """The names of its columns."""
        return [*self._names.fields.values(), *self._names.nested.values()]

    @abstractmethod
    def prepare(self) -> None:
        """Make a table that exists ready for its primary key, or for rows that share a key.

        Raises ConfigError if rows share a key in a keyed table.
        """

    @abstractmethod
    def load(self, lines: bytes) -> int:
        """Insert records, adding the columns that they need; return their number.

        In a keyed table they replace rows with the same key. Raises OutputWriteError for records that do not fit into a
        table.
        """

    @abstractmethod
    def create(self) -> None:
        """Create the table without rows, with the columns known so far."""

    @abstractmethod
    def keep_columns(self) -> None:
        """Add the columns of the earlier table that this one replaces."""

    def to_json(self) -> dict[str, Any] | None:
        """The columns, as a JSON value to be stored; None: the table does not exist."""
        return {**self._names.to_json(), "key": self._key.stored} if self._exists else None


class TableKey:
    """The primary key of one table. A nested key has a column of its own, which only a keyed table needs.

    In a table that `is_keyed`, rows with the same key replace one another. `stored` is the key for which the table is
    ready, as a JSON value; None: for none. `names` has the columns.
    """

    def __init__(
        self,
        table: str,
        paths: Sequence[Sequence[str]],
        names: ColumnNames,
        known: Mapping[str, Any] | None,
        *,
        is_keyed: bool,
    ) -> None:
        self._table, self._paths, self._names, self.is_keyed = table, paths, names, is_keyed
        self.stored: Any = known["key"] if known is not None else None
        self._is_new, self._is_warned = known is None, False

    @property
    def fields(self) -> Sequence[str]:
        """The fields of the key that are not nested."""
        return [path[0] for path in self._paths if len(path) == 1]

    @property
    def nested(self) -> Sequence[Sequence[str]]:
        """The nested paths of the key, if it is that of the table."""
        return [path for path in self._paths if len(path) > 1] if self.is_keyed else ()

    @property
    def missing_nested(self) -> Sequence[Sequence[str]]:
        """The nested paths that have no column yet."""
        return [path for path in self.nested if self._names.of_path(path) is None]

    @property
    def columns(self) -> Sequence[str]:
        """The columns of the key, in the order of its paths."""
        return [self._names.of_path(path) or "" for path in self._paths]

    @property
    def is_ready(self) -> bool:
        """Whether the table is ready for this key, or for none if it is not keyed."""
        return bool(self.stored == self._wanted)

    def mark_ready(self) -> None:
        self.stored = self._wanted

    def check_stored_rows(self, engine: Engine) -> None:
        """Raises ConfigError if the table has rows that were written without a nested key."""
        missing = self.missing_nested
        if missing and engine.execute(f"SELECT 1 FROM {quote_name(self._table)} LIMIT 1"):
            raise ConfigError(
                f'mode="upsert" cannot be kept: earlier runs wrote the rows of table {self._table} without the key '
                f"{'.'.join(missing[0])}",
                hint='use mode="replace" once to read everything again',
            )

    def check_unique(self, engine: Engine, key: str) -> None:
        """Raises ConfigError if several rows of the table have the same values of the expressions `key`."""
        query = f"SELECT 1 FROM {quote_name(self._table)} GROUP BY {key} HAVING count(*) > 1"
        [[count]] = engine.execute(f"SELECT count(*) FROM ({query})")
        if count:
            raise ConfigError(
                f'mode="upsert" cannot be kept: table {self._table} has several rows for {count:,} '
                f"value{'s' * (count > 1)} of the primary key {self._shown}",
                hint='remove the duplicates, or use mode="append", or mode="replace" to read everything again',
            )

    def check_records(self, without_key: int, records: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Check a block with this number of records whose key is null, or missing.

        Raises OutputWriteError if the key is missing in all of the first records: primary_key is a mistake then.
        """
        is_first, self._is_new = self._is_new, False
        if without_key < 2:
            return
        if is_first and not any(_has_path(record, path) for record in records() for path in self._paths):
            raise OutputWriteError(
                f"table {self._table}: none of the first records has the primary key {self._shown}",
                hint="correct primary_key: records without a key would all be the same row",
            )
        if not self._is_warned:
            self._is_warned = True
            _log.warning(
                "%s: %d records have no value of the primary key %s, and are one row: null equals null",
                self._table,
                without_key,
                self._shown,
            )

    @property
    def _wanted(self) -> Any:
        return list(map(list, self._paths)) if self.is_keyed else None

    @property
    def _shown(self) -> str:
        return ", ".join(".".join(path) for path in self._paths)


def _has_path(record: Mapping[str, Any], path: Sequence[str]) -> bool:
    parent = as_object(value_at(record, path[:-1]))
    return parent is not None and path[-1] in parent


def quote_name(name: str) -> str:
    """The name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def unwritable(path: Path, problem: str) -> OutputWriteError:
    """The error for a file that cannot be written."""
    return OutputWriteError(
        f"{path} cannot be written: {problem}",
        hint="everything committed before is intact, and the next run resumes from there",
    )
