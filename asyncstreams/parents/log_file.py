"""Files of parent logs, and the folder that caches them between runs. All functions block: call them in a thread."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

from ..errors import ConfigError
from ..storage.filesystem import file_name
from ..storage.framing import (
    HEAD_SIZE,
    LOG_FORMAT,
    CorruptData,
    LogFooter,
    LogHeader,
    footer_frame,
    frame_length_at,
    header_frame,
    is_footer,
    is_header,
    is_page,
    iter_frames,
    read_footer,
    read_header,
)

_log = logging.getLogger("asyncstreams")
_SUFFIX, _PARTIAL, _DAMAGED = ".parents", ".partial", ".damaged"
_ABANDONED_AFTER_S = 86_400.0  # since the last write to a partial file
_READ_BYTES = 1 << 20  # at a time, when a file is verified
_MAX_FRAME_BYTES = 1 << 31  # a longer frame has a corrupted length
_NO_FOLLOW_FLAG = getattr(os, "O_NOFOLLOW", 0)


class LogFile:
    """An append-only file that several threads may read at any offset.

    A failed append leaves `size` unchanged: bytes that were partly written are overwritten by the next one.
    """

    def __init__(self, file: IO[bytes] | FileIO, path: Path | None = None, size: int = 0) -> None:
        self._file, self.path, self.size = cast(Any, file), path, size
        self._lock = threading.Lock()

    @classmethod
    def create_temporary(cls) -> LogFile:
        """A file that disappears with the process, and has no name if the system supports that. Raises OSError."""
        return cls(tempfile.TemporaryFile(buffering=0, prefix="asyncstreams-"))

    @classmethod
    def create_partial(cls, path: Path, started_at: float) -> LogFile:
        """A new file at `path` with a header; `finalize` renames it, `close` deletes it otherwise. Raises OSError."""
        log = cls(FileIO(_open_descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "rb+"), path)
        try:
            log.append(header_frame(started_at))
        except BaseException:
            log.close()
            raise
        return log

    def append(self, data: bytes) -> None:
        """Raises OSError."""
        with self._lock:
            self._file.seek(self.size)
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
            self.size += len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` appended bytes from `offset` on. Raises OSError."""
        with self._lock:
            self._file.seek(offset)
            parts: list[bytes] = []
            remaining = min(size, self.size - offset)
            while remaining > 0 and (part := self._file.read(remaining)):
                parts.append(part)
                remaining -= len(part)
        return b"".join(parts)

    def finalize(self, path: Path, footer: LogFooter) -> None:
        """Append the footer, sync, and rename the file to `path`. Raises OSError."""
        assert self.path is not None
        self.append(footer_frame(footer))
        os.fsync(self._file.fileno())
        os.replace(self.path, path)
        self.path = None

    def close(self) -> None:
        """Close the file, and delete it if it was created by `create_partial` and not finalized."""
        with self._lock:
            self._file.close()
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)
            self.path = None


def open_complete(path: Path) -> tuple[LogFile, LogHeader, LogFooter, int]:
    """Open a finalized log and verify all of it. Returns the log, its header and footer, and the offset of its pages.

    Raises CorruptData, FileNotFoundError and other OSErrors. Symbolic links are not followed.
    """
    file = FileIO(_open_descriptor(path, os.O_RDONLY), "rb")
    try:
        size = os.fstat(file.fileno()).st_size
        log = LogFile(file, size=size)
        header, footer, start = _verify(log)
    except BaseException:
        file.close()
        raise
    return log, header, footer, start


def _verify(log: LogFile) -> tuple[LogHeader, LogFooter, int]:
    offset, pages, start = 0, 0, 0
    header: LogHeader | None = None
    while offset < log.size:
        data = log.read(offset, _READ_BYTES)
        if len(data) >= HEAD_SIZE and (length := frame_length_at(data, 0)) > len(data):
            if length > min(_MAX_FRAME_BYTES, log.size - offset):
                raise CorruptData("the file is truncated")
            data = log.read(offset, length)
        read = 0
        for kind, payload, read in iter_frames(memoryview(data)):
            if header is None:
                if not is_header(kind):
                    raise CorruptData("not a parent log")
                header, start = read_header(bytes(payload)), read
            elif is_footer(kind):
                footer = read_footer(bytes(payload))
                if footer.pages != pages or offset + read != log.size:
                    raise CorruptData("the footer does not match the pages or is not at the end")
                return header, footer, start
            else:
                pages += is_page(kind)
        if not read:
            break
        offset += read
    raise CorruptData("the file is truncated")


def _open_descriptor(path: Path, flags: int) -> int:
    return os.open(path, flags | _NO_FOLLOW_FLAG | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600)


def resolve_cache_dir(configured: str | os.PathLike[str] | None) -> Path:
    """The configured folder, or REQUEST_CACHE_PATH of the environment, or the user's cache folder, in this order.

    The Airbyte CDK uses the same variable.
    """
    if path := configured or os.environ.get("REQUEST_CACHE_PATH"):
        return Path(path)
    import platformdirs

    return platformdirs.user_cache_path("asyncstreams", appauthor=False)


class CacheDir:
    """The folder of cached parent logs. All methods may raise OSError, and ConfigError if others can write into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load_or_create_salt(self) -> bytes:
        """The random salt of this folder, with which fingerprints are keyed. It is created on first use."""
        self._create()
        path = self.path / "salt"
        for _ in range(2):
            with suppress(FileNotFoundError):
                return path.read_bytes()
            own = self.path / f"salt-{secrets.token_hex(8)}{_PARTIAL}"
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(32))
            finally:
                os.close(descriptor)
            try:
                os.link(own, path)  # fails if another process was faster: its salt is used
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(own, path)
            with suppress(OSError):
                os.unlink(own)
        return path.read_bytes()

    def log_path(self, stream: str, key: str) -> Path:
        return self.path / f"{file_name(stream)}-{key}{_SUFFIX}"

    def find(self, path: Path, now: float, ttl: float) -> tuple[LogFile, int, LogFooter] | None:
        """The log at `path`, the offset of its pages, and its footer; None if it is missing, unusable or too old.

        A log is too old when `ttl` seconds have passed since its read began. A corrupted log is renamed to `.damaged`,
        with a warning.
        """
        try:
            log, header, footer, start = open_complete(path)
        except FileNotFoundError:
            return None
        except CorruptData as error:
            renamed = path.with_suffix(_DAMAGED)
            _log.warning(
                "parent log %s is corrupted: %s; it is renamed to %s and the parent is fetched again",
                path.name,
                error,
                renamed.name,
            )
            os.replace(path, renamed)
            return None
        if header.format == LOG_FORMAT and 0 <= now - header.started_at < ttl:
            return log, start, footer
        log.close()
        if header.format != LOG_FORMAT:
            _log.warning(
                "parent log %s has format %d, but this version reads format %d; the parent is fetched again",
                path.name,
                header.format,
                LOG_FORMAT,
            )
        return None

    def create_partial(self, path: Path, started_at: float, now: float) -> LogFile:
        """A new log that `LogFile.finalize` can rename to `path`; `started_at` is when its read began."""
        self._create()
        self._remove_abandoned(now)
        return LogFile.create_partial(path.with_name(f"{path.stem}-{secrets.token_hex(8)}{_PARTIAL}"), started_at)

    def clear(self, path: Path) -> None:
        """Remove the log at `path` and its corrupted predecessor."""
        for file in (path, path.with_suffix(_DAMAGED)):
            with suppress(FileNotFoundError):
                os.unlink(file)

    def _create(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ConfigError(
                f"cache_dir {str(self.path)!r}: it is a symbolic link, or other users can write into it",
                hint="use a folder that only you can write into (chmod go-w)",
            )

    def _remove_abandoned(self, now: float) -> None:
        """Remove partial files of processes that ended without removing them."""
        for path in self.path.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                if now - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()
