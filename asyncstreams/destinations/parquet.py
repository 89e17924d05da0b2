"""Parquet destination; all parts of a stream have the same columns once it has been read completely."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, cast

from .._json import decode, encode
from ..errors import ConfigError, OutputMissing
from ..storage.filesystem import DATA_MODE, FileSystem, write_all, write_errors
from .arrow_columns import Columns, import_pyarrow
from .base import Destination, OutputMode, check_part_size
from .column_names import column_names
from .column_types import ColumnType
from .jsonl import LinesFormat
from .output_folder import OutputFolder
from .part_files import FolderFiles, NewPath, PartInfo, PartInProgress
from .writer_protocol import StreamSchema

ParquetCompression: TypeAlias = Literal["zstd", "snappy", "gzip"] | None
Nested: TypeAlias = Literal["struct", "json"]
_TYPES_KEY = b"asyncstreams"
_MAX_ROW_GROUP_BYTES = 16 * 2**20
"""Buffered bytes from which on a row group is written before it has all its rows."""


@dataclass(frozen=True, slots=True)
class Parquet(Destination):
    """Parquet files in `path`, one subfolder per stream; each record exactly once. Requires pyarrow.

    A run that did not finish is resumed by the next one. Column types come from the stream's JSON schema, and for
    fields that it does not describe from the records. If values do not fit, the column is widened. Parts with narrower
    columns are rewritten once the stream has been read completely; then all parts have the same columns.

    Options:

    - mode (None): None appends to streams with a cursor, and replaces other streams once they have been read
      completely. "append" or "replace" does that to all streams; "fail" raises ConfigError if a stream exists already.
    - compression ("zstd"): "zstd", "snappy", "gzip" or None.
    - nested ("struct"): "struct" gives objects and lists Parquet types of their own; "json" stores them as JSON text.
    - row_group_size (131,072): maximum number of rows in a row group; at least 1.
    - part_size (128 MiB): approximate size of a file in bytes; at least 1 MiB.
    - fsync ("commit"): "commit" syncs once per commit, which may hold many slices; "full" commits and syncs each slice
      by itself; "none" never syncs, which survives a kill of the process but not a loss of power.
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - ignore_missing_parts (False): True continues without files that were removed after their commit; False raises
      OutputMissing for them.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
    - fs: the file system operations, to be replaced in tests.

    Raises ConfigError for other values, and if pyarrow is not installed. `extract` raises OutputLocked, OutputMissing,
    OutputWriteError, StateCorrupt and StateIncompatible.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: ParquetCompression = field(default="zstd", kw_only=True)
    nested: Nested = field(default="struct", kw_only=True)
    row_group_size: int = field(default=131_072, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    ignore_missing_parts: bool = field(default=False, kw_only=True)
    fs: FileSystem = field(default_factory=FileSystem, kw_only=True, repr=False, compare=False)

    needs_schema: ClassVar[bool] = True
    commit_bytes: ClassVar[int] = 64 * 2**20  # readers of Parquet prefer few parts with large row groups

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check_choices(compression=("zstd", "snappy", "gzip", None), nested=("struct", "json"))
        check_part_size(self, self.part_size)
        size: object = self.row_group_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"Parquet(row_group_size={size!r}): must be a number of rows, at least 1")
        import_pyarrow("parquet")

    def new_writer(self) -> OutputFolder:
        """A writer for the folder, not opened yet."""
        return OutputFolder(
            FolderFiles(Path(self.path), self.fs, synced=self.fsync != "none"),
            ParquetFormat(self),
            part_size=self.part_size,
            ignore_missing_parts=self.ignore_missing_parts,
        )


class ParquetFormat:
    """PartFormat of Parquet files. Quarantined records have no types, and are written as JSON lines."""

    files = "Parquet files"

    def __init__(self, options: Parquet) -> None:
        self._options, self._lines = options, LinesFormat(options.fs, None)
        self._parquet: Any = import_module("pyarrow.parquet")
        self._columns: dict[str, Columns] = {}

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        columns = Columns.from_schema(schema.schema, nested=self._options.nested == "struct")
        if stream in self._columns:
            columns.widen(self._columns[stream].types)
        self._columns[stream] = columns

    def suffix(self, kind: str) -> str:
        return ".parquet" if kind == "part" else self._lines.suffix(kind)

    def observe_parts(self, stream: str, parts: Iterable[Path]) -> None:
        for part in parts:
            self._columns_of(stream).widen(self._types_of(part))

    def new_part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress:
        if kind != "part":
            return self._lines.new_part(stream, kind, new_path)
        return ParquetPart(self._options, self._columns_of(stream), new_path)

    def write_empty_part(self, stream: str, new_path: NewPath, *, synced: bool) -> PartInfo:
        return ParquetFile(self._options, self._columns_of(stream), new_path()).seal(synced=synced)

    def column_names(self, part: Path) -> Mapping[str, str]:
        try:
            names = column_names(self._types_of(part))
        except OutputMissing:  # reported when the stream is read
            return {}
        return {column: field for field, column in names.items() if column != field}

    def is_outdated(self, stream: str, part: Path) -> bool:
        types = self._types_of(part)
        return list(types.items()) != list(self._columns_of(stream).types.items())

    def rewrite_part(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        columns, types = self._columns_of(stream), self._types_of(part)
        new = ParquetFile(self._options, columns, new_path())
        try:
            with self._parquet.ParquetFile(part) as file:
                for batch in file.iter_batches(self._options.row_group_size):
                    if batch.num_rows:
                        table = import_module("pyarrow").Table.from_batches([batch]).rename_columns(list(types))
                        new.write(columns.recast(table, types))
        except BaseException:
            new.abandon()
            raise
        return new.seal(synced=synced)

    def _columns_of(self, stream: str) -> Columns:
        if stream not in self._columns:
            self._columns[stream] = Columns({}, nested=self._options.nested == "struct")
        return self._columns[stream]

    def _types_of(self, part: Path) -> Mapping[str, ColumnType]:
        """The column types stored in a part. Raises OutputMissing if they cannot be read."""
        try:
            metadata: Any = self._parquet.read_metadata(part).metadata or {}
            found: bytes = metadata[_TYPES_KEY]
        except (OSError, KeyError, import_module("pyarrow").ArrowInvalid) as error:
            raise OutputMissing(
                f"{part}: committed, but changed since then: {error}", hint="restore the file from a copy"
            ) from None
        return cast(Mapping[str, ColumnType], decode(found))


class ParquetPart:
    """PartInProgress of Parquet files: rows buffered for the next row group, and the file of the earlier rows.

    When the columns change, the rows after that go into another file.
    """

    def __init__(self, options: Parquet, columns: Columns, new_path: NewPath) -> None:
        self._options, self._columns, self._new_path = options, columns, new_path
        self._pa: Any = import_module("pyarrow")
        self._buffer: list[tuple[Any, Mapping[str, ColumnType]]] = []
        self._buffered_rows = self._buffered_bytes = 0
        self._file: ParquetFile | None = None
        self._complete: list[ParquetFile] = []
        self.size = 0

    def write(self, data: bytes, rows: int) -> None:
        table = self._columns.table(data)
        self._buffer.append((table, self._columns.types))
        self._buffered_rows += table.num_rows
        self._buffered_bytes += table.nbytes
        if self._buffered_rows >= self._options.row_group_size or self._buffered_bytes >= _MAX_ROW_GROUP_BYTES:
            self._flush()

    def seal(self, *, synced: bool) -> list[PartInfo]:
        self._flush()
        return [file.seal(synced=synced) for file in self._files()]

    def abandon(self) -> None:
        for file in self._files():
            file.abandon()

    def _files(self) -> list[ParquetFile]:
        return [*self._complete, *([] if self._file is None else [self._file])]

    def _flush(self) -> None:
        if not self._buffer:
            return
        types = self._columns.types
        tables = [table if known == types else self._columns.recast(table, known) for table, known in self._buffer]
        self._buffer, self._buffered_rows, self._buffered_bytes = [], 0, 0
        if self._file is not None and self._file.types != types:
            self._complete.append(self._file)
            self._file = None
        if self._file is None:
            self._file = ParquetFile(self._options, self._columns, self._new_path())
        self._file.write(self._pa.concat_tables(tables))
        self.size = sum(file.bytes for file in (*self._complete, self._file))


class ParquetFile:
    """One file in progress, whose columns are final. Raises OutputWriteError."""

    def __init__(self, options: Parquet, columns: Columns, path: Path) -> None:
        self._options, self._path, self.types = options, path, columns.types
        self.rows = 0
        # A file must have a column.
        self._names = list(column_names(self.types).values()) or ["_"]
        types = columns.arrow_schema.types or [import_module("pyarrow").string()]
        schema = import_module("pyarrow").schema(zip(self._names, types, strict=True))
        schema = schema.with_metadata({_TYPES_KEY: encode(self.types)})
        with write_errors(path), ExitStack() as cleanup:
            self._file = _OutputFile(options.fs, path)
            cleanup.callback(self._file.close_file)
            self._writer: Any = import_module("pyarrow.parquet").ParquetWriter(
                self._file, schema, compression=options.compression or "none", store_schema=True
            )
            cleanup.pop_all()

    @property
    def bytes(self) -> int:
        return self._file.size

    def write(self, table: Any) -> None:
        """Append the rows of a table, as one row group or more."""
        with write_errors(self._path, table.nbytes):
            self._writer.write_table(table.rename_columns(self._names), row_group_size=self._options.row_group_size)
        self.rows += table.num_rows

    def seal(self, *, synced: bool) -> PartInfo:
        """Close the file."""
        with write_errors(self._path, self.bytes):
            try:
                self._writer.close()
                if synced:
                    self._file.sync()
            finally:
                self._file.close_file()
        return PartInfo(self._path.name, self.rows, self.bytes, self._file.digest.hexdigest())

    def abandon(self) -> None:
        """Close and remove the file."""
        self._file.is_abandoned = True
        with suppress(Exception):
            self._writer.close()
        with suppress(OSError):
            self._file.close_file()
        with suppress(OSError):
            self._options.fs.unlink(self._path)


class _OutputFile(io.RawIOBase):
    """A new file for pyarrow, whose operations all go through a FileSystem."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs, self._descriptor = fs, fs.create(path, DATA_MODE)
        self.digest = hashlib.sha256()
        self.size = 0
        self.is_abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        if not self.is_abandoned:
            write_all(self._fs, self._descriptor, content)
            self.digest.update(content)
            self.size += len(content)
        return len(content)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        """Does nothing when pyarrow calls it: the owner calls `close_file`."""

    def sync(self) -> None:
        self._fs.sync(self._descriptor)

    def close_file(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._fs.close(descriptor)
