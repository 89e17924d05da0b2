"""How is a part written: into a file that nobody sees, counted, compressed, and then sealed?"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

from ..errors import ConfigError
from ..storage.filesystem import FileSystem, write_all, writing
from .writer_protocol import StreamSchema

Compression: TypeAlias = Literal["gzip", "zstd"] | None
_GZIP = zlib.MAX_WBITS | 16
_GZIP_LEVEL = 6
_SUFFIXES = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}


class Compressor(Protocol):
    """What makes fewer bytes of many: zlib's, and zstandard's."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class PartInfo(NamedTuple):
    """What is in a part that will not change any more."""

    temp: str
    rows: int
    bytes: int
    sha256: str


class PartInProgress(Protocol):
    """A part that nobody sees yet, of about `size` bytes. Blocking; one caller at a time. Raises OutputWriteError."""

    size: int

    def write(self, data: bytes, rows: int) -> None:
        """So many lines, each with its end."""
        ...

    def seal(self, *, synced: bool) -> Sequence[PartInfo]:
        """It is whole, and may have become several files."""
        ...

    def abandon(self) -> None:
        """Nobody wants it any more."""
        ...


NewPath: TypeAlias = Callable[[], Path]
"""The path of a file that is not there."""


class PartFormat(Protocol):
    """What is in the parts of a folder."""

    manifest: str
    """The name of the file that names the parts: what reads a whole folder of such parts passes over it."""

    def describe(self, stream: str, shape: StreamSchema) -> None:
        """Comes before the first part of a stream."""
        ...

    def suffix(self, kind: str) -> str:
        """How the names of such parts end."""
        ...

    def learn(self, stream: str, parts: Iterable[Path]) -> None:
        """What has been written already of what is being written; comes before the first new part."""
        ...

    def part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress: ...

    def is_outdated(self, stream: str, part: Path) -> bool:
        """Whether what came later made another form of it necessary."""
        ...

    def rewritten(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        """The same in the form that is necessary now."""
        ...


class LinesFormat:
    """JSON lines: what comes is what is written."""

    manifest = "manifest.json"

    def __init__(self, fs: FileSystem, compression: Compression) -> None:
        self._fs = fs
        self._compression: Compression = compression

    def describe(self, stream: str, shape: StreamSchema) -> None:
        """Any record has a line."""

    def suffix(self, kind: str) -> str:
        return _SUFFIXES[self._compression]

    def learn(self, stream: str, parts: Iterable[Path]) -> None:
        """Lines say nothing of other lines."""

    def part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress:
        return PartFile(self._fs, new_path(), self._compression)

    def is_outdated(self, stream: str, part: Path) -> bool:
        return False

    def rewritten(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        raise AssertionError("no line is outdated")


class PartFile:
    """A file in progress, of `bytes` bytes, and of `size` before they are compressed.

    Blocking; one caller at a time. Raises OutputWriteError.
    """

    def __init__(self, fs: FileSystem, path: Path, compression: Compression) -> None:
        self._fs, self._path = fs, path
        self._compressor = compressor(compression)
        self._digest = hashlib.sha256()
        self.rows = self.bytes = self.size = 0
        with writing(path):
            self._file = fs.create(path)

    def write(self, data: bytes, rows: int) -> None:
        """So many lines, each with its end."""
        self._put(data if self._compressor is None else self._compressor.compress(data))
        self.rows += rows
        self.size += len(data)

    def seal(self, *, synced: bool) -> Sequence[PartInfo]:
        """It is whole."""
        if self._compressor is not None:
            self._put(self._compressor.flush())
        with writing(self._path, self.bytes):
            try:
                if synced:
                    self._fs.sync(self._file)
            finally:
                self._fs.close(self._file)
        return [PartInfo(self._path.name, self.rows, self.bytes, self._digest.hexdigest())]

    def abandon(self) -> None:
        """Nobody wants it any more."""
        with suppress(OSError):
            self._fs.close(self._file)
        with suppress(OSError):
            self._fs.unlink(self._path)

    def _put(self, data: bytes) -> None:
        if data:
            with writing(self._path, len(data)):
                write_all(self._fs, self._file, data)
            self._digest.update(data)
            self.bytes += len(data)


def compressor(compression: Compression) -> Compressor | None:
    """Raises ConfigError for zstd where nothing can do it."""
    if compression is None:
        return None
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
    module = next((name for name in ("compression.zstd", "backports.zstd") if _is_there(name)), None)
    if module is None:
        raise ConfigError("zstd is not installed", hint="pip install 'asyncstreams[zstd]', or compression='gzip'")
    return cast(Compressor, cast(Any, import_module(module)).ZstdCompressor())


def _is_there(module: str) -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec(module) is not None
    return False
