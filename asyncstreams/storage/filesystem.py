"""File system operations of an output, one method each, so that tests can break any of them; names of its files."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

from ..errors import OutputWriteError

PRIVATE_MODE, DATA_MODE = 0o600, 0o666
"""Modes of new files: state, caches and journals are for their owner only, data files follow the umask."""
_MAX_CHARS = 140
"""Encrypted file systems allow 143 bytes for a name, all others 255."""
_PLAIN_CHARS = " !#$&'()+,;@^_`~-."
"""Characters besides letters and digits that all systems allow, and that have no meaning in the patterns of readers."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


class FileSystem:
    """The file system, one operation at a time. All methods block, and raise OSError.

    Tests kill the process between any two operations, or make one of them fail.
    """

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Create a folder and its parents, unless it exists."""
        path.mkdir(mode=mode, parents=True, exist_ok=True)

    def create(self, path: Path, mode: int = PRIVATE_MODE) -> int:
        """Create a file that must not exist; return its descriptor. The umask of the process applies to `mode`."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)

    def write(self, file: int, data: bytes | memoryview) -> int:
        """Write some of the data; return the number of bytes written, which may be fewer than given."""
        return os.write(file, data)

    def sync(self, file: int) -> None:
        """Flush a file to the disk, so that its content survives a loss of power."""
        os.fsync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, path: Path, to: Path) -> None:
        """Rename a file atomically; an existing target is replaced."""
        os.replace(path, to)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def sync_folder(self, path: Path) -> None:
        """Flush a folder to the disk, so that the names in it survive a loss of power; POSIX only."""
        if os.name != "posix":
            return
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_all(fs: FileSystem, file: int, data: bytes) -> None:
    """Write all of the data, with as many writes as that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[fs.write(file, rest) :]


def write_file(fs: FileSystem, path: Path, data: bytes, *, synced: bool) -> None:
    """Create a file with this content; remove it again if that fails."""
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
def write_errors(path: Path, size: int = 0) -> Generator[None]:
    """Raise an OSError of the block as OutputWriteError; it names the file, and the `size` in bytes if given."""
    try:
        yield
    except OSError as error:
        needed = f"{size:,} bytes were to be written; " if size else ""
        raise OutputWriteError(
            f"{error.filename or path} cannot be written: {error.strerror or error}",
            hint=f"{needed}everything committed before is intact, and the next run resumes from there",
        ) from error


def file_name(name: str, used: Collection[str] = ()) -> str:
    """The name as a file name in ASCII: percent-encoded where a file name must not contain a character.

    A name that is too long, or that is in `used` (in lower case), ends with a hash instead. Raises UnicodeEncodeError
    for a lone surrogate.
    """
    quoted = [quote(char, safe=_PLAIN_CHARS) for char in name]
    if name.startswith(".") or name.partition(".")[0].lower() in _DEVICES:
        quoted[0] = f"%{ord(name[0]):02X}"
    if name.endswith((".", " ")):
        quoted[-1] = f"%{ord(name[-1]):02X}"
    plain = "".join(quoted)
    if plain and len(plain) <= _MAX_CHARS and plain.lower() not in used:
        return plain
    ending = f"~{short_hash(name)}"
    sizes = accumulate(map(len, quoted))
    kept = [char for char, size in zip(quoted, sizes, strict=True) if size <= _MAX_CHARS - len(ending)]
    return "".join(kept) + ending


def short_hash(name: str) -> str:
    """16 characters that are different for different names."""
    return blake2b(name.encode(), digest_size=8).hexdigest()
