"""How do records become Parquet files, of which all parts have the same columns when a stream has been read?"""

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
from ..storage.filesystem import FileSystem, write_all, writing
from .arrow_columns import Columns, needed
from .base import Destination, OutputMode, check_part_size
from .column_types import Type
from .folder_writer import FolderWriter
from .output_folder import OutputFolder
from .part_files import LinesFormat, NewPath, PartInfo, PartInProgress
from .writer_protocol import StreamSchema

ParquetCompression: TypeAlias = Literal["zstd", "snappy", "gzip"] | None
Nested: TypeAlias = Literal["struct", "json"]
_TYPES = b"asyncstreams"
_LARGE = 16 * 2**20
"""Bytes of a row group that is written though it has not all of its rows."""


@dataclass(frozen=True, slots=True)
class Parquet(Destination):
    """A folder with one folder for each stream, of Parquet files: each record exactly once. Needs pyarrow.

    Types are those of the stream's JSON schema, where it has one, and else what the records show; where they do not
    agree a column becomes as wide as it must be, and parts that are there already are written again when the stream
    has been read: then all have the same columns. nested: "struct" gives objects and lists types of their own, "json"
    makes them JSON text. compression: "zstd", "snappy", "gzip" or None. row_group_size: rows, at most. part_size:
    bytes of a file, about. The others are those of JsonLines.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: ParquetCompression = field(default="zstd", kw_only=True)
    nested: Nested = field(default="struct", kw_only=True)
    row_group_size: int = field(default=131_072, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    ignore_missing_parts: bool = field(default=False, kw_only=True)
    fs: FileSystem = field(default_factory=FileSystem, kw_only=True, repr=False, compare=False)

    needs_schema: ClassVar[bool] = True
    commit_size: ClassVar[int] = 64 * 2**20  # what reads Parquet wants few parts, with large row groups

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check(compression=("zstd", "snappy", "gzip", None), nested=("struct", "json"))
        check_part_size(self, self.part_size)
        size: object = self.row_group_size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"Parquet(row_group_size={size!r}): a number of rows from 1 is needed")
        needed("parquet")

    def output(self) -> FolderWriter:
        """The folder, which is yet to be opened."""
        synced = self.fsync != "none"
        folder = OutputFolder(
            Path(self.path), self.fs, ParquetFormat(self), synced=synced, ignore_missing_parts=self.ignore_missing_parts
        )
        return FolderWriter(folder, synced=synced, part_size=self.part_size)


class ParquetFormat:
    """See `PartFormat`. What a schema keeps back has no types, and stays in lines."""

    manifest = "_manifest.json"

    def __init__(self, to: Parquet) -> None:
        self._to, self._lines = to, LinesFormat(to.fs, None)
        self._parquet: Any = import_module("pyarrow.parquet")
        self._columns: dict[str, Columns] = {}

    def describe(self, stream: str, shape: StreamSchema) -> None:
        declared = Columns.declared(shape.schema, nested=self._to.nested == "struct")
        if stream in self._columns:
            declared.widen(self._columns[stream].types)
        self._columns[stream] = declared

    def suffix(self, kind: str) -> str:
        return ".parquet" if kind == "part" else self._lines.suffix(kind)

    def learn(self, stream: str, parts: Iterable[Path]) -> None:
        for part in parts:
            self._columns_of(stream).widen(self._types_of(part))

    def part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress:
        if kind != "part":
            return self._lines.part(stream, kind, new_path)
        return ParquetPart(self._to, self._columns_of(stream), new_path)

    def is_outdated(self, stream: str, part: Path) -> bool:
        types = self._types_of(part)
        return list(types.items()) != list(self._columns_of(stream).types.items())

    def rewritten(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        columns, types = self._columns_of(stream), self._types_of(part)
        new = ParquetFile(self._to, columns, new_path())
        try:
            with self._parquet.ParquetFile(part) as file:
                for batch in file.iter_batches(self._to.row_group_size):
                    new.write(columns.recast(import_module("pyarrow").Table.from_batches([batch]), types))
        except BaseException:
            new.abandon()
            raise
        return new.seal(synced=synced)

    def _columns_of(self, stream: str) -> Columns:
        if stream not in self._columns:
            self._columns[stream] = Columns({}, nested=self._to.nested == "struct")
        return self._columns[stream]

    def _types_of(self, part: Path) -> Mapping[str, Type]:
        """Raises OutputMissing for a file that is not what was written."""
        try:
            metadata: Any = self._parquet.read_metadata(part).metadata or {}
            found: bytes = metadata[_TYPES]
        except (OSError, KeyError, import_module("pyarrow").ArrowInvalid) as error:
            raise OutputMissing(
                f"{part}: committed, and not what was written there: {error}", hint="restore it from a copy"
            ) from None
        return cast(Mapping[str, Type], decode(found))


class ParquetPart:
    """See `PartInProgress`: rows that wait for their row group, and the file that has those before them.

    Another file begins where the columns have changed meanwhile.
    """

    def __init__(self, to: Parquet, columns: Columns, new_path: NewPath) -> None:
        self._to, self._columns, self._new_path = to, columns, new_path
        self._pa: Any = import_module("pyarrow")
        self._held: list[tuple[Any, Mapping[str, Type]]] = []
        self._held_rows = self._held_bytes = 0
        self._file: ParquetFile | None = None
        self._whole: list[ParquetFile] = []
        self.size = 0

    def write(self, data: bytes, rows: int) -> None:
        table = self._columns.table(data)
        self._held.append((table, self._columns.types))
        self._held_rows += table.num_rows
        self._held_bytes += table.nbytes
        if self._held_rows >= self._to.row_group_size or self._held_bytes >= _LARGE:
            self._flush()

    def seal(self, *, synced: bool) -> list[PartInfo]:
        self._flush()
        files = [*self._whole, *([] if self._file is None else [self._file])]
        return [file.seal(synced=synced) for file in files]

    def abandon(self) -> None:
        for file in (*self._whole, *([] if self._file is None else [self._file])):
            file.abandon()

    def _flush(self) -> None:
        if not self._held:
            return
        types = self._columns.types
        tables = [table if known == types else self._columns.recast(table, known) for table, known in self._held]
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        if self._file is not None and self._file.types != types:
            self._whole.append(self._file)
            self._file = None
        if self._file is None:
            self._file = ParquetFile(self._to, self._columns, self._new_path())
        self._file.write(self._pa.concat_tables(tables))
        self.size = sum(file.bytes for file in (*self._whole, self._file))


class ParquetFile:
    """One file in progress, of columns that do not change any more. Raises OutputWriteError."""

    def __init__(self, to: Parquet, columns: Columns, path: Path) -> None:
        self._to, self._path, self.types = to, path, columns.types
        self.rows = 0
        schema = columns.schema.with_metadata({_TYPES: encode(self.types)})
        with writing(path), ExitStack() as undo:
            self._sink = _Sink(to.fs, path)
            undo.callback(self._sink.end)
            self._writer: Any = import_module("pyarrow.parquet").ParquetWriter(
                self._sink, schema, compression=to.compression or "none", store_schema=True
            )
            undo.pop_all()

    @property
    def bytes(self) -> int:
        return self._sink.size

    def write(self, table: Any) -> None:
        """Some row groups."""
        with writing(self._path, table.nbytes):
            self._writer.write_table(table, row_group_size=self._to.row_group_size)
        self.rows += table.num_rows

    def seal(self, *, synced: bool) -> PartInfo:
        """It is whole."""
        with writing(self._path, self.bytes):
            try:
                self._writer.close()
                if synced:
                    self._sink.sync()
            finally:
                self._sink.end()
        return PartInfo(self._path.name, self.rows, self.bytes, self._sink.digest.hexdigest())

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._sink.is_wanted = False
        with suppress(Exception):
            self._writer.close()
        with suppress(OSError):
            self._sink.end()
        with suppress(OSError):
            self._to.fs.unlink(self._path)


class _Sink(io.RawIOBase):
    """What pyarrow writes into: a new file, through which everything passes that is done to the disk."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs, self._file = fs, fs.create(path)
        self.digest = hashlib.sha256()
        self.size = 0
        self.is_wanted = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        text = bytes(data)
        if self.is_wanted:
            write_all(self._fs, self._file, text)
            self.digest.update(text)
            self.size += len(text)
        return len(text)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        """Whoever has opened it ends it."""

    def sync(self) -> None:
        self._fs.sync(self._file)

    def end(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            self._fs.close(file)
