"""Files of parent logs. All functions block: call them in a thread."""

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
