"""Journal of one output: an append-only file of records, and periodic snapshots of the whole ledger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._json import as_object, decode, encode
from ..errors import MalformedJSON, StateCorrupt, StateIncompatible
from ..storage.filesystem import FileSystem, write_all, write_errors, write_file
from ..storage.framing import CorruptData, frame, has_frame_after, iter_frames
from .ledger import JournalRecord, Ledger

_FORMAT = 3
_HEADER, _RECORD, _SNAPSHOT = b"H", b"J", b"S"
_SNAPSHOT_AFTER_RECORDS, _LARGE_SNAPSHOT_BYTES = 1000, 2**20
_KEPT_SNAPSHOTS = 2
_MAX_HEADER_BYTES = 4096


class SnapshotTrigger:
    """Decides when the next snapshot is due: after 1,000 records.

    After a snapshot of more than 1 MiB, as many bytes of records must have been written too, so that the cost of all
    snapshots stays proportional to the cost of the records.
    """

    def __init__(self) -> None:
        self.records = self._bytes = self._min_bytes = 0

    @property
    def is_due(self) -> bool:
        return self.records >= _SNAPSHOT_AFTER_RECORDS and self._bytes >= self._min_bytes

    def reset(self, size: int) -> None:
        """Start over after a snapshot of `size` bytes."""
        self.records, self._bytes, self._min_bytes = 0, 0, size if size > _LARGE_SNAPSHOT_BYTES else 0

    def add_record(self, size: int) -> None:
        """Count a record of `size` bytes."""
        self.records += 1
        self._bytes += size


class Journal:
    """The journal of one output and its snapshots; `snapshot-n` is the ledger at the moment when `journal-n` began.

    The last two snapshots and their journals are kept. `files` is the kind of the files whose commits it records.

    Blocking; one caller at a time. After an error the journal must not be used again: only reading it from the disk
    shows what it contains.
    """

    def __init__(self, fs: FileSystem, folder: Path, *, synced: bool, files: str = "") -> None:
        self._fs, self._folder, self._synced, self._files = fs, folder, synced, files
        self.number, self._trigger = 0, SnapshotTrigger()
        self._file: int | None = None

    def check_header(self) -> None:
        """Raises StateIncompatible for an output of another format or with other files; changes nothing.

        Does nothing if there is no journal, or one that cannot be read, which `recover` reports.
        """
        path = self._path("journal", self._last_number())
        with suppress(CorruptData, OSError, MalformedJSON), path.open("rb") as file:
            for kind, payload, _ in iter_frames(file.read(_MAX_HEADER_BYTES)):
                if kind == _HEADER:
                    self._check_format(as_object(decode(payload)) or {})
                return

    def _last_number(self) -> int:
        return max((_number(path) for path in self._folder.glob("snapshot-*")), default=0)

    def recover(self) -> Ledger:
        """Everything that has been committed. Raises StateCorrupt, StateIncompatible and OutputWriteError."""
        self.number = self._last_number()
        if not self.number:
            return Ledger()  # a journal without a snapshot was never used
        try:
            ledger = self._read_snapshot(self.number)
        except (CorruptData, FileNotFoundError) as error:
            raise self._corrupt(self._path("snapshot", self.number), error) from None
        path = self._path("journal", self.number)
        try:
            self._replay(path.read_bytes(), ledger)
        except (CorruptData, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise self._corrupt(path, error) from None
        return ledger

    @property
    def needs_snapshot(self) -> bool:
        return self._trigger.is_due

    def write_snapshot(self, ledger: Ledger) -> None:
        """Write the whole ledger, and begin a new journal."""
        number = self.number + 1
        journal, path = self._path("journal", number), self._path("snapshot", number)
        header = {"format": _FORMAT, "files": self._files, "number": number}
        text = frame(_SNAPSHOT, encode({**header, "ledger": ledger.to_json()}))
        with write_errors(path, len(text)):
            # The journal exists before its snapshot: a missing journal was removed, and is an error.
            partial = path.with_suffix(".partial")
            for leftover in (journal, partial):
                with suppress(FileNotFoundError):
                    self._fs.unlink(leftover)
            file = self._fs.create(journal)
            try:
                write_all(self._fs, file, frame(_HEADER, encode(header)))
                if self._synced:
                    self._fs.sync(file)
                    self._fs.sync_folder(self._folder)
                write_file(self._fs, partial, text, synced=self._synced)
                self._fs.rename(partial, path)
                if self._synced:
                    self._fs.sync_folder(self._folder)
            except BaseException:
                self._fs.close(file)
                raise
            self.close()
            self._file, self.number = file, number
            self._trigger.reset(len(text))
            self._remove_old_files()

    def append(self, record: JournalRecord) -> None:
        """Write a record; it is durable when this returns, if the journal is synced."""
        assert self._file is not None
        text = frame(_RECORD, encode(record))
        with write_errors(self._path("journal", self.number), len(text)):
            write_all(self._fs, self._file, text)
            if self._synced:
                self._fs.sync(self._file)
        self._trigger.add_record(len(text))

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            self._fs.close(file)

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}"

    def _read_snapshot(self, number: int) -> Ledger:
        fields = _read_single_frame(self._path("snapshot", number).read_bytes())
        self._check_format(fields)
        try:
            return Ledger.from_json(fields["ledger"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(str(error)) from None

    def _replay(self, data: bytes, ledger: Ledger) -> None:
        """Apply all records to the ledger; a record that is cut off at the end was never committed.

        Raises CorruptData.
        """
        has_header, end = False, 0
        try:
            for kind, payload, end in iter_frames(data):  # noqa: B007  the end of the last complete frame
                if has_header:
                    ledger.apply(as_object(decode(payload)) or {})
                elif kind == _HEADER:
                    self._check_format(as_object(decode(payload)) or {})
                    has_header = True
        except CorruptData:
            pass
        if not has_header:
            raise CorruptData("no journal header")
        if has_frame_after(data, _RECORD, end + 1):
            raise CorruptData("a damaged record is followed by intact ones")

    def _check_format(self, fields: Mapping[str, Any]) -> None:
        found, files = fields.get("format"), fields.get("files")
        if found != _FORMAT:
            version = "an earlier version" if isinstance(found, int) and found < _FORMAT else "another version"
            raise StateIncompatible(
                f"{self._folder.parent} has format {found!r}; this version reads format {_FORMAT}",
                field="format",
                hint=f"{version} of asyncstreams wrote it, and nothing was changed: extract to another folder, which "
                "reads everything again, or keep using that version for this one",
            )
        if self._files and files and files != self._files:
            raise StateIncompatible(
                f"{self._folder.parent} holds {files} of earlier runs, and cannot take {self._files} too",
                field="destination",
                hint="extract to another folder; nothing was changed in this one",
            )

    def _corrupt(self, path: Path, error: Exception) -> StateCorrupt:
        """The error for a damaged file, which is left unchanged."""
        good = next((n for n in range(self.number, 0, -1) if self._is_good(n)), None)
        last_good = f"; the last good snapshot is {self._path('snapshot', good)}" if good else ""
        reason = "the file is missing" if isinstance(error, FileNotFoundError) else str(error)
        return StateCorrupt(
            f"{path} is corrupt: {reason}{last_good}",
            hint="restore the folder from a copy, or remove the whole output to read everything again",
        )

    def _is_good(self, number: int) -> bool:
        try:
            self._read_snapshot(number)
        except (CorruptData, OSError, StateIncompatible, StateCorrupt):
            return False
        return True

    def _remove_old_files(self) -> None:
        """Remove everything older than the snapshots to keep."""
        for path in (*self._folder.glob("snapshot-*"), *self._folder.glob("journal-*")):
            if _number(path) <= self.number - _KEPT_SNAPSHOTS:
                with suppress(FileNotFoundError):
                    self._fs.unlink(path)


def _number(path: Path) -> int:
    number = path.name.partition("-")[2]
    return int(number) if number.isdigit() else 0


def _read_single_frame(data: bytes) -> Mapping[str, Any]:
    """The content of a snapshot file. Raises CorruptData."""
    for kind, payload, end in iter_frames(data):
        if kind == _SNAPSHOT and end == len(data):
            return as_object(decode(payload)) or {}
    raise CorruptData("incomplete snapshot")
