"""How does a ledger outlive the process: what happened, one record after the other, and now and then all of it?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._json import as_object, decode, encode
from ..errors import StateCorrupt, StateIncompatible
from ..storage.filesystem import FileSystem, write_all, write_file, writing
from ..storage.framing import CorruptData, frame, frames, is_followed
from .ledger import Ledger, Record

_FORMAT = 2
_HEAD, _RECORD, _SNAPSHOT = b"H", b"J", b"S"
_MOST_RECORDS, _SMALL = 1000, 2**20
_KEPT = 2


class SnapshotTrigger:
    """How much has been written after the last snapshot, and whether that is enough for the next one.

    A large one is written again when as much has come after it, so that all of them together stay in proportion.
    """

    def __init__(self) -> None:
        self.records = self._size = self._enough = 0

    @property
    def is_due(self) -> bool:
        return self.records >= _MOST_RECORDS and self._size >= self._enough

    def snapshot(self, size: int) -> None:
        """One of so many bytes has been written."""
        self.records, self._size, self._enough = 0, 0, size if size > _SMALL else 0

    def record(self, size: int) -> None:
        """A record of so many bytes is written after it."""
        self.records += 1
        self._size += size


class Journal:
    """The journal of one output, and its snapshots: `snapshot-n` is all that was known when `journal-n` began.

    The last two are kept. Blocking; one caller at a time. After an error it is not used again: what is on the disk
    then, only reading it tells.
    """

    def __init__(self, fs: FileSystem, folder: Path, *, synced: bool) -> None:
        self._fs, self._folder, self._synced = fs, folder, synced
        self.number, self._since = 0, SnapshotTrigger()
        self._file: int | None = None

    def recover(self) -> Ledger:
        """What has been committed. Raises StateCorrupt, StateIncompatible, OutputWriteError."""
        self.number = max((_number(path) for path in self._folder.glob("snapshot-*")), default=0)
        if not self.number:
            return Ledger()  # a journal without a snapshot was never used
        try:
            ledger = self._snapshot_of(self.number)
        except (CorruptData, FileNotFoundError) as error:
            raise self._corrupt(self._path("snapshot", self.number), error) from None
        path = self._path("journal", self.number)
        try:
            self._replay(path.read_bytes(), ledger)
        except (CorruptData, FileNotFoundError, KeyError, TypeError, ValueError) as error:
            raise self._corrupt(path, error) from None
        return ledger

    @property
    def is_due(self) -> bool:
        """Whether it is time for a snapshot."""
        return self._since.is_due

    def snapshot(self, ledger: Ledger) -> None:
        """Write down all that is known, and begin a new journal."""
        number = self.number + 1
        journal, path = self._path("journal", number), self._path("snapshot", number)
        text = frame(_SNAPSHOT, encode({"format": _FORMAT, "number": number, "ledger": ledger.to_json()}))
        with writing(path, len(text)):
            # The journal is there before the snapshot that it follows: one that is missing was taken away.
            partial = path.with_suffix(".partial")
            for left in (journal, partial):
                with suppress(FileNotFoundError):
                    self._fs.unlink(left)
            file = self._fs.create(journal)
            try:
                write_all(self._fs, file, frame(_HEAD, encode({"format": _FORMAT, "number": number})))
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
            self._since.snapshot(len(text))
            self._tidy()

    def append(self, record: Record) -> None:
        """It has happened, and stays so."""
        assert self._file is not None
        text = frame(_RECORD, encode(record))
        with writing(self._path("journal", self.number), len(text)):
            write_all(self._fs, self._file, text)
            if self._synced:
                self._fs.sync(self._file)
        self._since.record(len(text))

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            self._fs.close(file)

    def _path(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}"

    def _snapshot_of(self, number: int) -> Ledger:
        told = _only(self._path("snapshot", number).read_bytes())
        self._check_format(told)
        try:
            return Ledger.from_json(told["ledger"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(str(error)) from None

    def _replay(self, data: bytes, ledger: Ledger) -> None:
        """Raises Damaged; a record that was cut at the end never happened."""
        is_begun, end = False, 0
        try:
            for kind, payload, end in frames(data):  # noqa: B007  where the last whole one ends
                if is_begun:
                    ledger.apply(as_object(decode(payload)) or {})
                elif kind == _HEAD:
                    self._check_format(as_object(decode(payload)) or {})
                    is_begun = True
        except CorruptData:
            pass
        if not is_begun:
            raise CorruptData("it does not begin as a journal")
        if is_followed(data, _RECORD, end + 1):
            raise CorruptData("a record in its midst is not what was written")

    def _check_format(self, told: Mapping[str, Any]) -> None:
        if told.get("format") != _FORMAT:
            raise StateIncompatible(
                f"the output in {self._folder.parent} has format {told.get('format')!r}, and this version "
                f"writes {_FORMAT}",
                field="format",
                hint="was it written by a newer version? then go on with that one",
            )

    def _corrupt(self, path: Path, error: Exception) -> StateCorrupt:
        """The file stays as it is."""
        good = next((n for n in range(self.number, 0, -1) if self._is_good(n)), None)
        told = f"; the last good snapshot is {self._path('snapshot', good)}" if good else ""
        why = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
        return StateCorrupt(
            f"{path} is not what was written there: {why}{told}",
            hint="restore the folder from a copy, or remove all of the output to read everything again",
        )

    def _is_good(self, number: int) -> bool:
        try:
            self._snapshot_of(number)
        except (CorruptData, OSError, StateIncompatible, StateCorrupt):
            return False
        return True

    def _tidy(self) -> None:
        """Remove what is older than the last two snapshots."""
        for path in (*self._folder.glob("snapshot-*"), *self._folder.glob("journal-*")):
            if _number(path) <= self.number - _KEPT:
                with suppress(FileNotFoundError):
                    self._fs.unlink(path)


def _number(path: Path) -> int:
    number = path.name.partition("-")[2]
    return int(number) if number.isdigit() else 0


def _only(data: bytes) -> Mapping[str, Any]:
    """What the only frame of a file holds. Raises Damaged."""
    for kind, payload, end in frames(data):
        if kind == _SNAPSHOT and end == len(data):
            return as_object(decode(payload)) or {}
    raise CorruptData("it is not whole")
