"""Who writes to an output: one process at a time, and which?"""

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
        os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond what the holder says, so that others can read it
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)


class OutputLock:
    """Held from its making until `release`, or until the process ends, however it does. Blocking.

    `path` is a file of the lock's own, and `of` what is locked, where that is not the folder above its own.

    Raises OutputLocked, which names who holds it and since when.
    """

    def __init__(self, path: Path, now: float, *, of: Path | None = None) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError) as error:  # anything else is the disk's
            told = os.pread(self._file, 4096, 0) if hasattr(os, "pread") else path.read_bytes()
            os.close(self._file)
            raise _locked(of or path.parent.parent, told) from error
        since = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        holder = encode({"process": os.getpid(), "host": socket.gethostname(), "since": since})
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, holder)

    def release(self) -> None:
        os.close(self._file)


def _locked(output: Path, told: bytes) -> OutputLocked:
    try:
        fields = as_object(decode(told)) or {}
    except Exception:  # it is just being written
        fields = {}
    known = bool(fields)
    holder = f"process {fields.get('process')} on {fields.get('host')}" if known else "another process"
    since = fields.get("since")
    return OutputLocked(
        f"{output} is being written to by {holder}" + (f" since {since}" if since else ""),
        holder=holder,
        since=since,
        hint="wait until it has ended, or give this one an output of its own",
    )
