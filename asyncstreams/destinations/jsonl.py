"""JSON Lines destination, and its files: counted, hashed and compressed while they are written, then sealed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

from ..errors import ConfigError
from ..storage.filesystem import DATA_MODE, PRIVATE_MODE, FileSystem, write_all, write_errors
from .base import Destination, OutputMode, check_part_size
from .output_folder import OutputFolder
from .part_files import FolderFiles, NewPath, PartInfo, PartInProgress
from .writer_protocol import StreamSchema

Compression: TypeAlias = Literal["gzip", "zstd"] | None
_GZIP_WBITS = zlib.MAX_WBITS | 16
_GZIP_LEVEL = 6
_SUFFIXES = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}


@dataclass(frozen=True, slots=True)
class JsonLines(Destination):
    """JSON Lines files in `path`, one subfolder per stream and one record per line; each record exactly once.

    A run that did not finish is resumed by the next one.

    Options:

    - mode (None): None appends to streams with a cursor, and replaces other streams once they have been read
      completely. "append" or "replace" does that to all streams; "fail" raises ConfigError if a stream exists already.
    - compression (None): None, "gzip" or "zstd".
    - part_size (128 MiB): approximate size of a file in bytes, before compression; at least 1 MiB.
    - fsync ("commit"): "commit" syncs once per commit, which may hold many slices; "full" commits and syncs each slice
      by itself; "none" never syncs, which survives a kill of the process but not a loss of power.
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - ignore_missing_parts (False): True continues without files that were removed after their commit; False raises
      OutputMissing for them.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
    - fs: the file system operations, to be replaced in tests.

    Raises ConfigError for other values, and for "zstd" if it is not installed. `extract` raises OutputLocked,
    OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: Compression = field(default=None, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    ignore_missing_parts: bool = field(default=False, kw_only=True)
    fs: FileSystem = field(default_factory=FileSystem, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check_choices(compression=(None, "gzip", "zstd"))
        check_part_size(self, self.part_size)
        new_compressor(self.compression)

    def new_writer(self) -> OutputFolder:
        """A writer for the folder, not opened yet."""
        return OutputFolder(
            FolderFiles(Path(self.path), self.fs, synced=self.fsync != "none"),
            LinesFormat(self.fs, self.compression),
            part_size=self.part_size,
            ignore_missing_parts=self.ignore_missing_parts,
        )


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


class Compressor(Protocol):
    """A streaming compressor: that of zlib or zstd."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


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
