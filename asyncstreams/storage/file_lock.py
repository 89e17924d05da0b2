"""Exclusive lock on an output: one process writes to it at a time, and others can see which."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

from .._json import as_object, decode, encode
from ..errors import OutputLocked

if sys.platform != "win32":
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

else:
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond the holder's entry, which other processes must be able to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


class OutputLock:
    """A lock that is held from its creation until `release`, or until the process ends in any way. Blocking.

    `path` is the lock file. `locked_path` is the output that messages name; by default the folder above that of `path`.

    Raises OutputLocked, which names the holder and since when it holds the lock.
    """

    def __init__(self, path: Path, now: float, *, locked_path: Path | None = None) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError) as error:  # any other OSError is a disk error
            content = os.pread(self._file, 4096, 0) if hasattr(os, "pread") else path.read_bytes()
            os.close(self._file)
            raise _output_locked(locked_path or path.parent.parent, content) from error
        since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        holder = encode({"process": os.getpid(), "host": socket.gethostname(), "since": since})
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, holder)

    def release(self) -> None:
        os.close(self._file)


def _output_locked(output: Path, content: bytes) -> OutputLocked:
    try:
        fields = as_object(decode(content)) or {}
    except Exception:  # the holder is just writing its entry
        fields = {}
    holder = f"process {fields.get('process')} on {fields.get('host')}" if fields else "another process"
    since = fields.get("since")
    return OutputLocked(
        f"{output} is being written to by {holder}" + (f" since {since}" if since else ""),
        holder=holder,
        since=since,
        hint="wait until that run has ended, or extract to another path",
    )
