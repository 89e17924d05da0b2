"""DuckDB destination; rows are loaded through Arrow tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ConfigError, LocalError, OutputLocked, OutputWriteError, StateCorrupt
from .arrow_columns import import_pyarrow
from .base import Destination, TableMode
from .duckdb_table import BATCH, ArrowEngine, DuckTable
from .table_engine import quote_name, quote_text, unwritable
from .table_writer import TableWriter
from .writer_protocol import StreamSchema

_CHECKPOINT_THRESHOLD = "256MB"
_LOCK_HOLDER = re.compile(r"held in (.*?) ?\(PID (\d+)\)")


@dataclass(frozen=True, slots=True)
class DuckDB(Destination):
    """A DuckDB database file at `path`, one table per stream; rows and state are committed together.

    Requires duckdb and pyarrow. Column types come from the stream's JSON schema, and for fields that it does not
    describe from the records. If values do not fit, the column is widened. A run that did not finish is resumed by the
    next one. No other process can open the file while it is written.

    Options:

    - mode (None): None upserts streams with a cursor and a primary key, appends to streams with a cursor only, and
      replaces other streams once they have been read completely. "upsert" (replace rows with the same primary key, but
      never by an older version according to the cursor), "append" or "replace" does that to all streams; "fail" raises
      ConfigError if a stream exists already.
    - nested ("struct"): "struct" gives objects and lists DuckDB types of their own; "json" stores them as JSON.
    - fsync ("commit"): "full" commits each slice by itself, any other value may commit many at once. DuckDB syncs every
      commit, also with "none".
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
    - connect (None): opens the database, to be replaced in tests; None uses duckdb.connect.

    Raises ConfigError for other values, and if duckdb or pyarrow is not installed. `extract` raises OutputLocked,
    OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible.
    """

    nested: str = field(default="struct", kw_only=True)
    connect: Callable[..., Any] | None = field(default=None, kw_only=True, repr=False, compare=False)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "upsert", "fail", None)
    needs_schema: ClassVar[bool] = True
    commit_bytes: ClassVar[int] = 64 * 2**20  # large enough for DuckDB to write rows to their table, not to its log

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check_choices(nested=("struct", "json"))
        import_pyarrow("duckdb")
        _import_duckdb()

    def new_writer(self) -> TableWriter:
        """A writer for the database, not opened yet."""
        path = Path(self.path)
        connect = self.connect or _import_duckdb().connect
        return TableWriter(path, DuckEngine(path, connect, nested=self.nested == "struct"))


class DuckEngine(ArrowEngine):
    """Engine of DuckDB."""

    block_bytes = 2**20
    copies_tables = True

    def __init__(self, path: Path, connect: Callable[..., Any], *, nested: bool) -> None:
        self._module = _import_duckdb()
        super().__init__(path, self._module.Error)
        self._connect, self._nested = connect, nested

    def open(self) -> None:
        with self._translate_errors():
            self._connection = self._connect(str(self._path))
            # Commits go to the write-ahead log first; a higher threshold moves them into the tables less often.
            self._connection.execute(f"SET checkpoint_threshold = '{_CHECKPOINT_THRESHOLD}'").fetchall()

    def execute_with_table(self, table: Any, *statements: str) -> None:
        with self._translate_errors():
            self._connection.register(BATCH, table)
            try:
                for statement in statements:
                    self._connection.execute(statement).fetchall()
            except BaseException:
                with suppress(self._driver_error):  # it fails in a transaction that has failed
                    self._connection.unregister(BATCH)
                raise
            self._connection.unregister(BATCH)

    def fetch_arrow(self, query: str) -> Any:
        with self._translate_errors():
            return self._connection.sql(query).to_arrow_table()

    def table_names(self) -> set[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        return {name for (name,) in self.execute(query)}

    def column_names(self, table: str) -> Sequence[str]:
        query = "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'main' AND table_name = ?"
        if not self.execute(query, table):
            return ()
        with self._translate_errors():  # much faster than duckdb_columns()
            return [name for name, *_ in self._connection.sql(f"SELECT * FROM {quote_name(table)} LIMIT 0").description]

    def constraints(self, table: str) -> Sequence[str]:
        query = "SELECT constraint_text FROM duckdb_constraints() WHERE schema_name = 'main' AND table_name = ?"
        return [f"constraint {text}" for (text,) in self.execute(query, table)]

    def has_dependents(self, table: str) -> bool:
        query = "SELECT 1 FROM duckdb_views() WHERE NOT internal AND contains(lower(sql), lower(?)) LIMIT 1"
        return bool(self._objects_on(table) or self.execute(query, table))

    def replace_table(self, old: str, new: str) -> None:
        comments = self._comments_of(old)
        super().replace_table(old, new)
        kept = {name.casefold() for name in self.column_names(old)}
        for column, comment in comments:
            target = "TABLE" if column is None else "COLUMN"
            name = quote_name(old) if column is None else f"{quote_name(old)}.{quote_name(column)}"
            if column is None or column.casefold() in kept:
                self.execute(f"COMMENT ON {target} {name} IS {quote_text(comment)}")

    def refresh_views(self) -> None:
        # Before version 2 a view keeps the types of its columns, and fails if they change.
        views = self.execute("SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal")
        for _ in views:  # once for each, since views can use others
            outdated = [view for view in views if self._is_outdated(view[0], view[1])]
            for _, _, statement in outdated:
                with suppress(OutputWriteError):
                    self.execute(statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
            if not outdated:
                break

    def open_table(self, name: str, schema: StreamSchema, known: Any, earlier: Any, *, is_keyed: bool) -> DuckTable:
        return DuckTable(self, name, schema, known, earlier, is_keyed=is_keyed, nested=self._nested)

    def _comments_of(self, table: str) -> Sequence[Sequence[Any]]:
        """The comments on a table and on its columns, all of which others made; the column is null for the table."""
        columns = "schema_name = 'main' AND table_name = ? AND comment IS NOT NULL"
        return self.execute(
            f"SELECT NULL, comment FROM duckdb_tables() WHERE {columns} "
            f"UNION ALL SELECT column_name, comment FROM duckdb_columns() WHERE {columns}",
            table,
            table,
        )

    def _is_outdated(self, schema: str, view: str) -> bool:
        try:
            self.execute(f"SELECT 1 FROM {quote_name(schema)}.{quote_name(view)} LIMIT 0")
        except OutputWriteError as error:
            return "Contents of view were altered" in str(error)
        return False

    def _objects_on(self, table: str) -> Sequence[Sequence[str]]:
        query = "SELECT 'index', index_name, sql FROM duckdb_indexes() WHERE schema_name = 'main' AND table_name = ?"
        return [row for row in self.execute(query, table) if row[2]]

    def _unique_indexes(self) -> Sequence[str]:
        """The unique indexes, all of which others made; on another connection, since the transaction has failed."""
        query = "SELECT 'unique index ' || index_name FROM duckdb_indexes() WHERE is_unique ORDER BY index_name"
        return [name for (name,) in self._connection.cursor().execute(query).fetchall()]

    def _translate(self, error: Exception) -> LocalError:
        text = str(error).partition("\n")[0]
        if "different configuration" in text or "already attached" in text:
            return OutputLocked(
                f"{self._path} is open in this process, through another connection of duckdb",
                holder="this process",
                since=None,
                hint="close() that connection, or detach the file there, and run again",
            )
        if isinstance(error, self._module.TransactionException) and "conflict" in text.lower():
            return OutputLocked(
                f"{self._path}: another connection of this process is changing the same table: {text}",
                holder="this process",
                since=None,
                hint="commit or close() that connection, and run again: the run resumes from its last commit",
            )
        if isinstance(error, self._module.ConstraintException):
            indexes = ", ".join(self._unique_indexes()) or "a constraint"
            return OutputWriteError(
                f"{self._path}: new rows of the stream do not fit what others added to its table: {indexes}",
                hint="drop it, and run again: everything committed before is intact",
            )
        if "lock" in text and "Could not" in text:
            found = _LOCK_HOLDER.search(str(error))
            holder = f"process {found[2]} ({found[1]})" if found else "another process"
            return OutputLocked(
                f"{self._path} is opened by {holder}, and only one process can open a DuckDB file for writing",
                holder=holder,
                since=None,
                hint="close it in that process, or extract to another file",
            )
        if "not a valid DuckDB" in text or "extension" in text:  # an extension is suggested for other databases
            return StateCorrupt(
                f"{self._path}: {text}", hint="restore the file from a copy, or extract to another file"
            )
        return unwritable(self._path, text)


def _import_duckdb() -> Any:
    try:
        return import_module("duckdb")
    except ModuleNotFoundError:
        raise ConfigError("duckdb is not installed", hint="run pip install 'asyncstreams[duckdb]'") from None
