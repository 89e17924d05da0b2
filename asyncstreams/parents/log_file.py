"""Where do the pages of a parent lie that are not in memory? Blocking: to be called in threads."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

from ..storage.framing import (
    HEAD_SIZE,
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

_CHUNK = 1 << 20
_LARGEST = 1 << 31  # bytes of a frame: more is a length that is damaged
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class LogFile:
    """Bytes that are appended by one, and read from anywhere by many.

    What could not be appended whole does not count: `size` stays where it was.
    """

    def __init__(self, file: IO[bytes] | FileIO, path: Path | None = None, size: int = 0) -> None:
        self._file, self.path, self.size = cast(Any, file), path, size
        self._lock = threading.Lock()

    @classmethod
    def temporary(cls) -> LogFile:
        """One that has no name, where the system can do that, and is gone with the process. Raises OSError."""
        return cls(tempfile.TemporaryFile(buffering=0, prefix="asyncstreams-"))

    @classmethod
    def partial(cls, path: Path, at: float) -> LogFile:
        """A new one that is to be kept, once it is whole. Raises OSError."""
        made = cls(FileIO(_opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "rb+"), path)
        try:
            made.append(header_frame(at))
        except BaseException:
            made.close()
            raise
        return made

    def append(self, data: bytes) -> None:
        """Raises OSError."""
        with self._lock:
            self._file.seek(self.size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.size += len(data)

    def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes of what was appended. Raises OSError."""
        with self._lock:
            self._file.seek(offset)
            parts: list[bytes] = []
            left = min(size, self.size - offset)
            while left > 0 and (part := self._file.read(left)):
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def keep(self, to: Path, counts: LogFooter) -> None:
        """It is whole: end it, and give it its name. Raises OSError."""
        assert self.path is not None
        self.append(footer_frame(counts))
        os.fsync(self._file.fileno())
        os.replace(self.path, to)
        self.path = None

    def close(self) -> None:
        """What was not kept is gone."""
        with self._lock:
            self._file.close()
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)
            self.path = None


def whole(path: Path) -> tuple[LogFile, LogHeader, LogFooter, int]:
    """A log that was kept, read once from end to end; with where its pages begin.

    Raises Damaged, and FileNotFoundError and other OSErrors.
    """
    file = FileIO(_opened(path, os.O_RDONLY), "rb")
    try:
        size = os.fstat(file.fileno()).st_size
        log = LogFile(file, size=size)
        begin, counts, start = _checked(log)
    except BaseException:
        file.close()
        raise
    return log, begin, counts, start


def _checked(log: LogFile) -> tuple[LogHeader, LogFooter, int]:
    offset, pages, start = 0, 0, 0
    begin: LogHeader | None = None
    while offset < log.size:
        data = log.read(offset, _CHUNK)
        if len(data) >= HEAD_SIZE and (length := frame_length_at(data, 0)) > len(data):
            if length > min(_LARGEST, log.size - offset):
                raise CorruptData("it is cut short")
            data = log.read(offset, length)
        read = 0
        for kind, payload, read in iter_frames(memoryview(data)):
            if begin is None:
                if not is_header(kind):
                    raise CorruptData("it is no parent log")
                begin, start = read_header(bytes(payload)), read
            elif is_footer(kind):
                counts = read_footer(bytes(payload))
                if counts.pages != pages or offset + read != log.size:
                    raise CorruptData("it does not end where it says")
                return begin, counts, start
            else:
                pages += is_page(kind)
        if not read:
            break
        offset += read
    raise CorruptData("it is cut short")


def _opened(path: Path, flags: int) -> int:
    return os.open(path, flags | _NO_LINKS | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600)
