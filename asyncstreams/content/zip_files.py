"""Reading of ZIP files member by member, within the limits of a body."""

from __future__ import annotations

import errno
import fnmatch
import importlib
import logging
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any

from ..errors import DecodeError, ResponseTooLarge, TruncatedBody, UnexpectedContent
from ..models import BodyLimits
from ..visible_text import escape_controls
from .body_meter import BodyMeter, decoded_exceeded

_log = logging.getLogger("asyncstreams")
_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_MAX_SHOWN_NAMES, _MAX_SHOWN_CHARS = 5, 80
_MAX_MEMBERS = 1000
_MAX_DIRECTORY_BYTES = 2**20
_PIECE_BYTES = 256 * 1024
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000  # also strong encryption, and a masked directory
_METHODS = {0: "stored", 8: "deflate"}
_DAMAGE = (EOFError, zlib.error, struct.error, ValueError, OverflowError, RuntimeError)


class ZipMembers:
    """The members of a ZIP file, in the order of its directory; with `pattern`, those whose name it matches.

    Files that macOS and Windows add to folders are left out. Names are compared, and never used as paths.

    Blocks while it reads and decompresses. The meter counts what all members together decompress to, as the output
    of its first stage. Raises ResponseTooLarge, TruncatedBody, DecodeError, UnexpectedContent.
    """

    def __init__(self, file: IO[bytes], limits: BodyLimits, meter: BodyMeter, pattern: str | None = None) -> None:
        self._meter = meter
        self._zipfile: Any = importlib.import_module("zipfile")  # on first use: few bodies are ZIP files
        with self._damage_as_error():
            self._archive = self._zipfile.ZipFile(_DirectoryBound(file))
        entries: list[Any] = self._archive.infolist()
        if len(entries) > _MAX_MEMBERS:
            raise _too_many(f"{len(entries):,} files")
        self._members = _data_files(entries, pattern)
        self._check_entries(limits)
        self._next = 0
        self._open: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def open_next(self) -> None:
        """Begin to read the next member."""
        with self._damage_as_error(self._next + 1):
            self._open = self._archive.open(self._members[self._next])
        self._next += 1

    def read_piece(self) -> bytes:
        """At most 256 KiB of the open member; empty at its end, after its checksum was compared."""
        assert self._open is not None, "open_next comes first"
        with self._damage_as_error(self._next):
            piece = self._open.read(_PIECE_BYTES)
        self._meter.count_decoded(0, len(piece))
        return piece

    def _check_entries(self, limits: BodyLimits) -> None:
        if any(entry.filename == "[Content_Types].xml" for entry in self._members):
            raise UnexpectedContent(
                "sent an Office document, such as an Excel workbook (.xlsx)",
                hint="request CSV or JSON, or read the document in parse_response from response.content",
            )
        if any(entry.flag_bits & _ENCRYPTED_FLAGS for entry in self._members):
            raise UnexpectedContent(
                "sent an encrypted ZIP file", hint="decrypt it in parse_response: response.content is the file as it is"
            )
        if unknown := sorted({entry.compress_type for entry in self._members} - {*_METHODS}):
            raise UnexpectedContent(
                f"sent a ZIP file whose files are compressed by method {unknown[0]}: only deflate (8) is read",
                hint="decompress it in parse_response: response.content is the file as it is",
            )
        if sum(entry.file_size for entry in self._members) > limits.decoded:
            raise decoded_exceeded(limits)

    @contextmanager
    def _damage_as_error(self, number: int | None = None) -> Generator[None]:
        """Raise DecodeError for a damaged file, TruncatedBody for one without its end; `number` counts the members."""
        try:
            yield
        except (self._zipfile.BadZipFile, OSError, *_DAMAGE) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which stands for an offset that is invalid
                raise
            # The text of zipfile's errors may contain the name of a member.
            if number is None and isinstance(error, self._zipfile.BadZipFile):
                problem = "sent a ZIP file without a valid directory at its end: it is truncated or damaged"
                raise TruncatedBody(problem) from None
            where = "" if number is None else f", in file {number}"
            raise DecodeError(f"sent a ZIP file that is damaged{where} ({type(error).__name__})") from None


def _data_files(entries: list[Any], pattern: str | None) -> list[Any]:
    """The files whose name matches the pattern, without those of operating systems. Raises UnexpectedContent."""
    files = [entry for entry in entries if entry.file_size or not entry.is_dir()]
    data = [entry for entry in files if not _is_of_system(entry.filename)]
    if len(data) < len(files):
        _log.info("%d files of macOS or Windows in a ZIP file are left out", len(files) - len(data))
    if pattern is None:
        return data
    if matching := [entry for entry in data if _matches(entry.filename, pattern)]:
        return matching
    names = escape_controls(", ".join([entry.filename[:_MAX_SHOWN_CHARS] for entry in data[:_MAX_SHOWN_NAMES]]))
    more = f" and {len(data) - _MAX_SHOWN_NAMES:,} more" if len(data) > _MAX_SHOWN_NAMES else ""
    raise UnexpectedContent(
        f"sent a ZIP file in which no name matches members={pattern!r}; it contains {names or 'no files'}{more}",
        hint="* stands for any characters; a pattern is compared with the whole name and with its last part",
    )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)


def _is_of_system(name: str) -> bool:
    """Whether a file is one that an operating system adds to folders, such as the attributes of a file on macOS."""
    folder, last = name.partition("/")[0], name.rpartition("/")[2]
    return folder == "__MACOSX" or last.startswith("._") or last in _SYSTEM_FILES


class _DirectoryBound:
    """A file whose single reads are bounded: zipfile reads the whole directory, of any size, at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_DIRECTORY_BYTES:
            raise _too_many(f"a directory of {size:,} bytes")
        return self._read(size)


def _too_many(found: str) -> ResponseTooLarge:
    return ResponseTooLarge(
        f"sent a ZIP file with {found}: at most {_MAX_MEMBERS:,} files are read", hint="request fewer files at once"
    )
