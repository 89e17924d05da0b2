"""How are files and state committed together, so that a kill at any moment leaves both or neither?

A part is written where nobody looks, and synced. One record of the journal then says that it counts, with what is known
because of it. Only after that it gets its name in the folder of its stream. Recovery does again whatever
followed the record, and forgets what came before it.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from .._json import encode
from ..errors import ConfigError, OutputMissing, StateCorrupt
from ..storage.file_lock import OutputLock
from ..storage.filesystem import FileSystem, write_file, writing
from .journal import Journal
from .ledger import Ledger, Part, Record
from .part_files import PartFormat, PartInfo, PartInProgress

_OWN = ".asyncstreams"
_NAME = re.compile(r"(?:part|quarantined)-(\d{6})-(\d{6})\.")
_log = logging.getLogger("asyncstreams")


class SealedParts(NamedTuple):
    """What a commit brings for one stream: parts that are sealed, and its record without them."""

    told: Mapping[str, Any]
    sealed: Sequence[tuple[str, PartInfo]]


class OutputFolder:
    """A folder of parts, with its journal, held by one process at a time.

    Blocking; one caller at a time. Raises OutputWriteError, after which it is only to be closed.
    """

    def __init__(
        self, path: Path, fs: FileSystem, format_: PartFormat, *, synced: bool, ignore_missing_parts: bool
    ) -> None:
        self.path, self._fs, self._synced = path, fs, synced
        self._format, self._accept_missing = format_, ignore_missing_parts
        self.describe = format_.describe
        self._own = path / _OWN
        self._in_progress = self._own / "in-progress"
        self._journal = Journal(fs, self._own, synced=synced)
        self._lock: OutputLock | None = None
        self._made = 0
        self._folders: set[Path] = set()
        self._learnt: set[str] = set()
        self.ledger = Ledger()

    def open(self, now: float) -> None:
        """Hold it, and bring it to where its journal says that it is.

        Raises OutputLocked, OutputMissing, StateCorrupt, StateIncompatible too.
        """
        with writing(self.path):
            new = [folder for folder in (self._in_progress, *self._in_progress.parents) if not folder.exists()]
            for folder in (self._own, self._in_progress):
                self._fs.make_folder(folder, 0o700)
            if self._synced:
                for folder in new:
                    self._fs.sync_folder(folder.parent)
            self._lock = OutputLock(self._own / "lock", now)
        try:
            self.ledger = self._journal.recover()
            self.ledger.salt = self.ledger.salt or secrets.token_hex(16)
            with writing(self.path):
                self._settle_all()
            self._journal.snapshot(self.ledger)
        except BaseException:
            self.close()
            raise

    def begin(self, record: Record) -> None:
        """A run begins.

        Raises StateCorrupt where a stream that nobody has read has parts, ConfigError where two would share a folder.
        """
        self._refuse_shared([*self.ledger.streams, *record["names"]])
        for name in record["streams"]:
            if name not in self.ledger.streams:
                self._refuse_unknown(name, self.path / folder_name(name), (0, 0))
        self._happened(record)
        with writing(self.path):
            for name in record["streams"]:
                self._folder_of(name)
                self._remove_retired(name)

    def new_part(self, stream: str, kind: str) -> PartInProgress:
        """A part of the stream; nobody sees it."""
        self._learn(stream)
        return self._format.part(stream, kind, self._new_path)

    def commit(self, streams: Mapping[str, SealedParts]) -> Record:
        """From now on these parts count, with all that is known because of them.

        The record that is given back is yet to be applied to the ledger, by whoever reads that.
        """
        parts = {name: self._named(name, one.sealed) for name, one in streams.items()}
        told = {name: {**one.told, "parts": [part.to_json() for part in parts[name]]} for name, one in streams.items()}
        if self._synced and any(parts.values()):
            with writing(self._in_progress):
                self._fs.sync_folder(self._in_progress)
        record = {"op": "commit", "streams": told}
        self._journal.append(record)
        with writing(self.path):
            for name, made in parts.items():
                if self.ledger.streams[name].hidden is None:
                    self._show(name, made)
        return record

    def finish(self, stream: str, parents: Mapping[str, Any]) -> None:
        """A stream has been read as a whole: what is hidden of it takes the place of what can be seen.

        `parents` is the state of those of which it reads only new ones, as JSON values.
        """
        self._rewrite_outdated(stream)
        was_hidden = self.ledger.streams[stream].hidden is not None
        self._happened({"op": "finish", "stream": stream, **({"parents": parents} if parents else {})})
        with writing(self.path):
            if was_hidden:
                self._show(stream, self.ledger.streams[stream].parts)
            self._write_manifest(stream)
            self._remove_retired(stream)

    def end(self) -> None:
        """The run has come to its end: the next one begins anew."""
        self._happened({"op": "end"})

    def tidy(self, *, is_end: bool = False) -> None:
        """A snapshot, where it is time for one; at the end of a run the manifests as well."""
        if is_end:
            with writing(self.path):
                for name in self.ledger.streams:
                    self._write_manifest(name)
        if self._journal.is_due:
            self._journal.snapshot(self.ledger)

    def close(self) -> None:
        try:
            with suppress(OSError):
                self._journal.close()
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def _happened(self, record: Record) -> None:
        self._journal.append(record)
        self.ledger.apply(record)

    def _new_path(self) -> Path:
        self._made += 1
        return self._in_progress / f"{self._journal.number}-{self._made}"

    def _learn(self, name: str) -> None:
        if name not in self._learnt:
            self._learnt.add(name)
            written = [part for part in self.ledger.streams[name].written if part.kind == "part"]
            self._format.learn(name, (self._path_of(name, part) for part in written))

    def _path_of(self, name: str, part: Part) -> Path:
        """Where a part of what is being written is."""
        hidden = self.ledger.streams[name].hidden
        return self.path / folder_name(name) / part.name if hidden is None else self._in_progress / part.temp

    def _rewrite_outdated(self, name: str) -> None:
        """Give all parts the form of the last one, in another commit."""
        self._learn(name)
        one = self.ledger.streams[name]
        parts = [part for part in one.written if part.kind == "part"]
        outdated = [part for part in parts if self._format.is_outdated(name, self._path_of(name, part))]
        if not outdated:
            return
        sealed: list[tuple[str, PartInfo]] = []
        for part in outdated:
            made = self._format.rewritten(name, self._path_of(name, part), self._new_path, synced=self._synced)
            sealed.append((part.kind, made))
        new = self._named(name, sealed)
        if self._synced:
            with writing(self._in_progress):
                self._fs.sync_folder(self._in_progress)
        told = {"parts": [part.to_json() for part in new], "replaces": [part.name for part in outdated]}
        self._happened({"op": "rewrite", "stream": name, **told})
        with writing(self.path):
            if one.hidden is None:
                self._show(name, new)
            self._write_manifest(name)
            self._remove_retired(name)

    def _named(self, name: str, sealed: Iterable[tuple[str, PartInfo]]) -> list[Part]:
        one = self.ledger.streams[name]
        numbered = enumerate(sealed, one.next_part)
        return [
            Part(kind, one.generation, number, self._format.suffix(kind), *told) for number, (kind, told) in numbered
        ]

    def _folder_of(self, name: str) -> Path:
        folder = self.path / folder_name(name)
        if folder not in self._folders:
            self._fs.make_folder(folder)
            if self._synced:
                self._fs.sync_folder(self.path)
            self._folders.add(folder)
        return folder

    def _show(self, name: str, parts: Sequence[Part]) -> None:
        """Give parts their names, where that has not been done."""
        folder = self._folder_of(name)
        for part in parts:
            self._fs.rename(self._in_progress / part.temp, folder / part.name)
        if self._synced and parts:
            self._fs.sync_folder(folder)

    def _settle_all(self) -> None:
        """Do again what follows the records of the journal, and remove what no record speaks of."""
        missing: dict[str, list[Part]] = {}
        for name, one in self.ledger.streams.items():
            folder = self._folder_of(name)
            self._refuse_unknown(name, folder, (one.generation, one.next_part - 1))
            lost = [part for part in one.parts if not self._is_there(folder / part.name, part)]
            found = [part for part in lost if self._is_there(self._in_progress / part.temp, part)]
            self._show(name, found)
            gone = [part for part in lost if part not in found]
            gone += [part for part in one.hidden or () if not self._is_there(self._in_progress / part.temp, part)]
            if gone:
                missing[name] = gone
        if missing:
            self._are_missing(missing)
        kept = {part.temp for one in self.ledger.streams.values() for part in one.hidden or ()}
        for path in sorted(self._in_progress.iterdir()):
            if path.name not in kept:
                self._fs.unlink(path)
        for name in self.ledger.streams:
            self._write_manifest(name)
            self._remove_retired(name)

    def _is_there(self, path: Path, part: Part) -> bool:
        try:
            return path.stat().st_size == part.bytes
        except FileNotFoundError:
            return False

    def _are_missing(self, missing: Mapping[str, Sequence[Part]]) -> None:
        count = sum(map(len, missing.values()))
        name, parts = next(iter(missing.items()))
        told = f"{self.path / folder_name(name) / parts[0].name}" + (f" and {count - 1} more" if count > 1 else "")
        if not self._accept_missing:
            raise OutputMissing(
                f"{told}: committed, and not there any more, or of another size",
                hint="put it back; where it was taken away on purpose, ignore_missing_parts=True goes on without it",
            ).locate(stream=name)
        _log.warning("%s: not there any more, and no longer part of the output", told)
        self.ledger.forget(missing)

    def _refuse_unknown(self, name: str, folder: Path, last: tuple[int, int]) -> None:
        """A part has its name only after the journal told of it: what told of one beyond the last is lost."""
        for path in folder.iterdir() if folder.is_dir() else ():
            if (found := _NAME.match(path.name)) and (int(found[1]), int(found[2])) > last:
                raise StateCorrupt(
                    f"the journal in {self._own} has lost what it said last: it does not know {path}",
                    hint="restore the folder from a copy; or remove such files, and what they held is read again",
                ).locate(stream=name)

    def _refuse_shared(self, names: Iterable[str]) -> None:
        """Capitals make no difference in the file systems of many machines, which this folder may be copied to."""
        taken: dict[str, str] = {}
        for name in names:
            other = taken.setdefault(folder_name(name).casefold(), name)
            if other != name:
                raise ConfigError(
                    f"streams {other!r} and {name!r} would share a folder of {self.path}",
                    hint="names of folders are the same in capitals: give one of them another `name`",
                )

    def _remove_retired(self, name: str) -> None:
        one = self.ledger.streams[name]
        if not one.retired:
            return
        for part in one.retired:
            for path in (self.path / folder_name(name) / part.name, self._in_progress / part.temp):
                with suppress(FileNotFoundError):
                    self._fs.unlink(path)
        if self._synced:  # nobody remembers them from now on
            self._fs.sync_folder(self.path / folder_name(name))
        one.retired = []

    def _write_manifest(self, name: str) -> None:
        """The parts that can be seen, with what is in them; unless that is what it says."""
        one = self.ledger.streams[name]
        parts = [part for part in one.parts if part.kind == "part"]
        told = {
            "stream": name,
            "generation": one.shown_generation,
            "complete": one.visible_complete,
            "rows": sum(part.rows for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "parts": [_told(part) for part in parts],
            "quarantined": [_told(part) for part in one.parts if part.kind != "part"],
        }
        text = encode(told) + b"\n"
        path = self.path / folder_name(name) / self._format.manifest
        with suppress(FileNotFoundError):
            if path.read_bytes() == text:
                return
        partial = self._own / f"manifest-{folder_name(name)}"
        with suppress(FileNotFoundError):
            self._fs.unlink(partial)
        write_file(self._fs, partial, text, synced=self._synced)
        self._fs.rename(partial, path)
        if self._synced:
            self._fs.sync_folder(path.parent)


def folder_name(stream: str) -> str:
    """Where the parts of a stream are: its name, but for what no folder may be called."""
    quoted = quote(stream, safe=" !#$&'()+,;=@[]^_`{}~-.")
    return quoted if not quoted.startswith(".") else f"%2E{quoted[1:]}"


def _told(part: Part) -> dict[str, Any]:
    return {"file": part.name, "rows": part.rows, "bytes": part.bytes, "sha256": part.sha256}
