"""Exclusive locks on outputs and files: one process writes to them at a time, and others can see which."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from .._json import as_object, decode, encode
from ..clock import SystemClock
from ..errors import OutputLocked, OutputWriteError, StateIncompatible
from .filesystem import FileSystem, write_file

if sys.platform != "win32":
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a forked process has inherited the file

else:
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 30, os.SEEK_SET)  # beyond the holder's entry, which other processes must be able to read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        """Nothing to do: closing the file releases the lock."""


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
        """Release the lock; not to be called twice."""
        with suppress(OSError):  # closing it releases the lock in any case
            _unlock(self._file)
        os.close(self._file)


class LockedFile:
    """A file that several tasks of one process replace, and other programs only while nothing here holds its lock.

    It is written atomically and durably, and readable by its owner only; its previous content stays beside it as
    `.previous`. Blocking.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self.path, self._subject = path, subject
        self._lock: OutputLock | None = None
        self._holders = self._last_number = self._written_number = 0
        self._holding, self._writing = threading.Lock(), threading.Lock()
        self._stat: tuple[int, ...] | None = None
        self._digest = _digest(None)

    @property
    def is_locked(self) -> bool:
        """Whether something in this process holds the lock."""
        return self._holders > 0

    def read(self) -> bytes | None:
        """The content, which counts as known from now on; None if there is no file. Raises OSError."""
        self._stat, text = _read(self.path)
        self._digest = _digest(text)
        return text

    def has_changed(self) -> bool:
        """Whether the content is another one than that which was read or written here last. Raises OSError."""
        if _stat_of(self.path) == self._stat:
            return False
        stat, text = _read(self.path)
        if _digest(text) != self._digest:
            return True
        self._stat = stat
        return False

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lock, which all holders in this process share.

        Raises OutputLocked, OutputWriteError, and StateIncompatible if another program has changed the file.
        """
        with self._holding:
            if self._holders == 0:
                self._acquire()
            self._holders += 1
        try:
            yield
        finally:
            with self._holding:
                self._holders -= 1
                if self._holders == 0 and self._lock is not None:
                    self._lock.release()
                    self._lock = None

    def next_number(self) -> int:
        """A number for the content as it is now, for `replace`."""
        self._last_number += 1
        return self._last_number

    def replace(self, number: int, make_text: Callable[[bytes], bytes], payload: bytes) -> None:
        """Write `make_text(payload)`, unless the content with a higher number is already written.

        Raises OutputWriteError, which leaves the previous file unchanged.
        """
        with self._writing:
            if number < self._written_number:
                return
            text = make_text(payload)
            try:
                _replace_file(self.path, text)
                self._stat = _stat_of(self.path)
            except OSError as error:
                raise OutputWriteError(
                    f"{self._subject}: cannot write {self.path}: {error.strerror or error}",
                    hint=f"free {len(text):,} bytes, or check the permissions; the previous file is unchanged",
                ) from error
            self._digest, self._written_number = _digest(text), number

    @staticmethod
    def previous_path(path: Path) -> Path:
        """The file with the content before the last `replace`."""
        return path.with_name(f"{path.name}.previous")

    def _acquire(self) -> None:
        lock_path = self.path.with_name(f"{self.path.name}.lock")
        try:
            FileSystem().make_folder(self.path.parent)
            lock = OutputLock(lock_path, SystemClock().wall(), locked_path=self.path)
        except OutputLocked as error:
            error.hint = f"wait until that run has ended, or use another {self._subject} file"
            raise
        except OSError as error:
            raise OutputWriteError(
                f"{self._subject}: cannot lock {lock_path}: {error.strerror or error}",
                hint="check the permissions of its folder",
            ) from error
        try:
            if self.has_changed():
                raise StateIncompatible(
                    f"{self._subject}: another program has changed {self.path} since it was loaded",
                    field="file",
                    hint="load it again, just before it is read with",
                )
        except BaseException:
            lock.release()
            raise
        self._lock = lock


def _stat_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> tuple[tuple[int, ...] | None, bytes | None]:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            return (found.st_ino, found.st_size, found.st_mtime_ns), file.read()
    except FileNotFoundError:
        return None, None


def _digest(text: bytes | None) -> bytes:
    return b"" if text is None else hashlib.blake2b(text, digest_size=16).digest()


def _replace_file(path: Path, text: bytes) -> None:
    fs = FileSystem()
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    write_file(fs, partial, text, synced=True)
    with suppress(OSError):  # no previous file, or a file system without hard links
        link = partial.with_suffix(".link")
        os.link(path, link)
        fs.rename(link, LockedFile.previous_path(path))
    fs.rename(partial, path)
    fs.sync_folder(path.parent)


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
