"""Part files: counted, hashed and compressed while they are written, then sealed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

from ..errors import ConfigError
from ..storage.filesystem import DATA_MODE, PRIVATE_MODE, FileSystem, write_all, write_errors
from .writer_protocol import StreamSchema

Compression: TypeAlias = Literal["gzip", "zstd"] | None
_GZIP_WBITS = zlib.MAX_WBITS | 16
_GZIP_LEVEL = 6
_SUFFIXES = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}


class Compressor(Protocol):
    """A streaming compressor: that of zlib or zstd."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class PartInfo(NamedTuple):
    """A sealed part: its temporary name, and what it contains."""

    temp: str
    rows: int
    bytes: int
    sha256: str


class PartInProgress(Protocol):
    """A part that is being written and not visible yet, of about `size` bytes.

    Blocking; one caller at a time. Raises OutputWriteError.
    """

    size: int

    def write(self, data: bytes, rows: int) -> None:
        """Append `rows` complete lines."""
        ...

    def seal(self, *, synced: bool) -> Sequence[PartInfo]:
        """Close the part, which may consist of several files."""
        ...

    def abandon(self) -> None:
        """Close and remove the part."""
        ...


NewPath: TypeAlias = Callable[[], Path]
"""Returns the path of a file that does not exist."""


class PartFormat(Protocol):
    """The file format of the parts in a folder."""

    files: str
    """What the parts are called in messages."""

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        """Accept the schema of a stream; called before its first part."""
        ...

    def suffix(self, kind: str) -> str:
        """The file name suffix of parts of this kind."""
        ...

    def observe_parts(self, stream: str, parts: Iterable[Path]) -> None:
        """Take note of the parts of the current generation that exist already; called before the first new part."""
        ...

    def new_part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress: ...

    def write_empty_part(self, stream: str, new_path: NewPath, *, synced: bool) -> PartInfo:
        """Write a part without records, which has the columns known so far."""
        ...

    def column_names(self, part: Path) -> Mapping[str, str]:
        """The fields of the records by the name of their column in this part, where the two differ."""
        ...

    def is_outdated(self, stream: str, part: Path) -> bool:
        """Whether later parts have columns that this one lacks, so that it must be rewritten."""
        ...

    def rewrite_part(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        """Write the records of a part to a new file with the current columns."""
        ...


class LinesFormat:
    """JSON Lines: chunks are written as they are."""

    files = "JSON Lines files"

    def __init__(self, fs: FileSystem, compression: Compression) -> None:
        self._fs = fs
        self._compression: Compression = compression

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        """Does nothing: lines need no schema."""

    def suffix(self, kind: str) -> str:
        return _SUFFIXES[self._compression]

    def observe_parts(self, stream: str, parts: Iterable[Path]) -> None:
        """Does nothing: lines do not depend on earlier lines."""

    def new_part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress:
        # Quarantined records lie in a private folder.
        mode = DATA_MODE if kind == "part" else PRIVATE_MODE
        return PartFile(self._fs, new_path(), self._compression, mode)

    def write_empty_part(self, stream: str, new_path: NewPath, *, synced: bool) -> PartInfo:
        (info,) = PartFile(self._fs, new_path(), self._compression).seal(synced=synced)
        return info

    def column_names(self, part: Path) -> Mapping[str, str]:
        return {}

    def is_outdated(self, stream: str, part: Path) -> bool:
        return False

    def rewrite_part(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        raise AssertionError("a part of lines is never outdated")


class PartFile:
    """A file in progress: `bytes` on disk so far, `size` before compression.

    Blocking; one caller at a time. Raises OutputWriteError.
    """

    def __init__(self, fs: FileSystem, path: Path, compression: Compression, mode: int = DATA_MODE) -> None:
        self._fs, self._path = fs, path
        self._compressor = new_compressor(compression)
        self._digest = hashlib.sha256()
        self.rows = self.bytes = self.size = 0
        with write_errors(path):
            self._file = fs.create(path, mode)

    def write(self, data: bytes, rows: int) -> None:
        """Append `rows` complete lines."""
        self._append(data if self._compressor is None else self._compressor.compress(data))
        self.rows += rows
        self.size += len(data)

    def seal(self, *, synced: bool) -> Sequence[PartInfo]:
        """Close the file."""
        if self._compressor is not None:
            self._append(self._compressor.flush())
        with write_errors(self._path, self.bytes):
            try:
                if synced:
                    self._fs.sync(self._file)
            finally:
                self._fs.close(self._file)
        return [PartInfo(self._path.name, self.rows, self.bytes, self._digest.hexdigest())]

    def abandon(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):
            self._fs.close(self._file)
        with suppress(OSError):
            self._fs.unlink(self._path)

    def _append(self, data: bytes) -> None:
        if data:
            with write_errors(self._path, len(data)):
                write_all(self._fs, self._file, data)
            self._digest.update(data)
            self.bytes += len(data)


def new_compressor(compression: Compression) -> Compressor | None:
    """A new compressor, or None. Raises ConfigError for "zstd" if no package provides it."""
    if compression is None:
        return None
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WBITS)
    module = next((name for name in ("compression.zstd", "backports.zstd") if _is_installed(name)), None)
    if module is None:
        raise ConfigError(
            "zstd is not installed", hint="run pip install 'asyncstreams[zstd]', or use compression='gzip'"
        )
    return cast(Compressor, cast(Any, import_module(module)).ZstdCompressor())


def _is_installed(module: str) -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec(module) is not None
    return False
