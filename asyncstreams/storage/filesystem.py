"""Through what does everything pass that an output does to a disk? One operation each, so that each can be broken."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputWriteError


class FileSystem:
    """The file system, one operation at a time. All of them block, and raise OSError.

    Tests kill the process between any two operations, or let one of them fail.
    """

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """With its parents; nothing, where it is there."""
        path.mkdir(mode=mode, parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """A descriptor of a new file, which must not be there yet, for its owner alone."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)

    def write(self, file: int, data: bytes | memoryview) -> int:
        """How many bytes were written; it may be fewer."""
        return os.write(file, data)

    def sync(self, file: int) -> None:
        """What was written outlives a loss of power."""
        os.fsync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, path: Path, to: Path) -> None:
        """At once, in place of what is there."""
        os.replace(path, to)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def sync_folder(self, path: Path) -> None:
        """The names in a folder outlive a loss of power."""
        if os.name != "posix":
            return
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_all(fs: FileSystem, file: int, data: bytes) -> None:
    """All of it, however many writes that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[fs.write(file, rest) :]


def write_file(fs: FileSystem, path: Path, data: bytes, *, synced: bool) -> None:
    """A whole new file; nothing of it is left where that fails."""
    file = fs.create(path)
    try:
        try:
            write_all(fs, file, data)
            if synced:
                fs.sync(file)
        finally:
            fs.close(file)
    except BaseException:
        with suppress(OSError):
            fs.unlink(path)
        raise


@contextmanager
def writing(path: Path, needed: int = 0) -> Generator[None]:
    """What goes wrong with the disk in here is an OutputWriteError that names the file, and the bytes needed."""
    try:
        yield
    except OSError as error:
        more = f"{needed:,} bytes were to be written; " if needed else ""
        raise OutputWriteError(
            f"{error.filename or path} cannot be written: {error.strerror or error}",
            hint=f"{more}what was committed before is intact, and the next run goes on from there",
        ) from error
