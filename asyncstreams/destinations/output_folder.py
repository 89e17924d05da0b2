"""Output folder: parts and state are committed together, so that a kill at any moment leaves both or neither.

A part is written to a private folder and synced. One journal record then commits it, together with the state. Only
after that is the part renamed into the folder of its stream. Recovery repeats the renames that follow the last record,
and removes the files that no record names.
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
from ..storage.filesystem import FileSystem, write_errors, write_file
from .journal import Journal
from .ledger import JournalRecord, Ledger, Part
from .part_files import PartFormat, PartInfo, PartInProgress

_PRIVATE_FOLDER = ".asyncstreams"
_PART_NAME = re.compile(r"(?:part|quarantined)-(\d{6})-(\d{6})\.")
_log = logging.getLogger("asyncstreams")


class SealedParts(NamedTuple):
    """What a commit adds to one stream: its journal entry without the parts, and the sealed parts by kind."""

    journal_entry: Mapping[str, Any]
    parts: Sequence[tuple[str, PartInfo]]


class OutputFolder:
    """A folder of parts with its journal, held by one process at a time.

    Blocking; one caller at a time. Raises OutputWriteError; after it the folder can only be closed.
    """

    def __init__(
        self, path: Path, fs: FileSystem, format_: PartFormat, *, synced: bool, ignore_missing_parts: bool
    ) -> None:
        self.path, self._fs, self._synced = path, fs, synced
        self._format, self._ignore_missing_parts = format_, ignore_missing_parts
        self.describe_stream = format_.describe_stream
        self._private = path / _PRIVATE_FOLDER
        self._in_progress = self._private / "in-progress"
        self._journal = Journal(fs, self._private, synced=synced)
        self._lock: OutputLock | None = None
        self._file_count = 0
        self._folders: set[Path] = set()
        self._observed: set[str] = set()
        self.ledger = Ledger()

    def open(self, now: float) -> None:
        """Lock the folder, and restore it to what its journal records.

        Raises OutputLocked, OutputMissing, StateCorrupt and StateIncompatible too.
        """
        with write_errors(self.path):
            new = [folder for folder in (self._in_progress, *self._in_progress.parents) if not folder.exists()]
            for folder in (self._private, self._in_progress):
                self._fs.make_folder(folder, 0o700)
            if self._synced:
                for folder in new:
                    self._fs.sync_folder(folder.parent)
            self._lock = OutputLock(self._private / "lock", now)
        try:
            self.ledger = self._journal.recover()
            self.ledger.salt = self.ledger.salt or secrets.token_hex(16)
            with write_errors(self.path):
                self._restore_files()
            self._journal.write_snapshot(self.ledger)
        except BaseException:
            self.close()
            raise

    def begin_run(self, record: JournalRecord) -> None:
        """Record the start of a run.

        Raises StateCorrupt if there are parts of a stream that the journal does not know, and ConfigError if two
        streams would share a folder.
        """
        self._check_folder_names([*self.ledger.streams, *record["names"]])
        for name in record["streams"]:
            if name not in self.ledger.streams:
                self._check_known_parts(name, self.path / folder_name(name), (0, 0))
        self._append(record)
        with write_errors(self.path):
            for name in record["streams"]:
                self._ensure_folder(name)
                self._remove_retired(name)

    def new_part(self, stream: str, kind: str) -> PartInProgress:
        """A new part of the stream, which is not visible yet."""
        self._observe_parts(stream)
        return self._format.new_part(stream, kind, self._new_path)

    def commit(self, streams: Mapping[str, SealedParts]) -> JournalRecord:
        """Commit parts and state together; return the record, which the caller has yet to apply to the ledger."""
        parts = {name: self._name_parts(name, sealed.parts) for name, sealed in streams.items()}
        entries = {
            name: {**sealed.journal_entry, "parts": [part.to_json() for part in parts[name]]}
            for name, sealed in streams.items()
        }
        if self._synced and any(parts.values()):
            with write_errors(self._in_progress):
                self._fs.sync_folder(self._in_progress)
        record = {"op": "commit", "streams": entries}
        self._journal.append(record)
        with write_errors(self.path):
            for name, new_parts in parts.items():
                if self.ledger.streams[name].hidden is None:
                    self._publish(name, new_parts)
        return record

    def finish_stream(self, stream: str, parents: Mapping[str, Any]) -> None:
        """Mark a stream as completely read; its hidden parts replace the visible ones.

        `parents` holds the states of incremental parents as JSON values.
        """
        self._rewrite_outdated(stream)
        was_hidden = self.ledger.streams[stream].hidden is not None
        self._append({"op": "finish", "stream": stream, **({"parents": parents} if parents else {})})
        with write_errors(self.path):
            if was_hidden:
                self._publish(stream, self.ledger.streams[stream].parts)
            self._write_manifest(stream)
            self._remove_retired(stream)

    def end_run(self) -> None:
        """Record the end of the run, so that the next run does not resume it."""
        self._append({"op": "end"})

    def maintain(self, *, is_end: bool = False) -> None:
        """Write a snapshot if one is due; at the end of a run write the manifests too."""
        if is_end:
            with write_errors(self.path):
                for name in self.ledger.streams:
                    self._write_manifest(name)
        if self._journal.needs_snapshot:
            self._journal.write_snapshot(self.ledger)

    def close(self) -> None:
        try:
            with suppress(OSError):
                self._journal.close()
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def _append(self, record: JournalRecord) -> None:
        self._journal.append(record)
        self.ledger.apply(record)

    def _new_path(self) -> Path:
        self._file_count += 1
        return self._in_progress / f"{self._journal.number}-{self._file_count}"

    def _observe_parts(self, name: str) -> None:
        if name not in self._observed:
            self._observed.add(name)
            parts = [part for part in self.ledger.streams[name].current_parts if part.kind == "part"]
            self._format.observe_parts(name, (self._path_of(name, part) for part in parts))

    def _path_of(self, name: str, part: Part) -> Path:
        """The path of a part of the generation that is being written."""
        hidden = self.ledger.streams[name].hidden
        return self.path / folder_name(name) / part.name if hidden is None else self._in_progress / part.temp

    def _rewrite_outdated(self, name: str) -> None:
        """Rewrite parts whose columns differ from those of the last one, in a commit of its own."""
        self._observe_parts(name)
        stream = self.ledger.streams[name]
        parts = [part for part in stream.current_parts if part.kind == "part"]
        outdated = [part for part in parts if self._format.is_outdated(name, self._path_of(name, part))]
        if not outdated:
            return
        sealed: list[tuple[str, PartInfo]] = []
        for part in outdated:
            path = self._path_of(name, part)
            sealed.append((part.kind, self._format.rewrite_part(name, path, self._new_path, synced=self._synced)))
        new = self._name_parts(name, sealed)
        if self._synced:
            with write_errors(self._in_progress):
                self._fs.sync_folder(self._in_progress)
        changes = {"parts": [part.to_json() for part in new], "replaces": [part.name for part in outdated]}
        self._append({"op": "rewrite", "stream": name, **changes})
        with write_errors(self.path):
            if stream.hidden is None:
                self._publish(name, new)
            self._write_manifest(name)
            self._remove_retired(name)

    def _name_parts(self, name: str, sealed: Iterable[tuple[str, PartInfo]]) -> list[Part]:
        """Parts with the next free numbers of the stream."""
        stream = self.ledger.streams[name]
        return [
            Part(kind, stream.generation, number, self._format.suffix(kind), *info)
            for number, (kind, info) in enumerate(sealed, stream.next_part)
        ]

    def _ensure_folder(self, name: str) -> Path:
        folder = self.path / folder_name(name)
        if folder not in self._folders:
            self._fs.make_folder(folder)
            if self._synced:
                self._fs.sync_folder(self.path)
            self._folders.add(folder)
        return folder

    def _publish(self, name: str, parts: Sequence[Part]) -> None:
        """Make parts visible: rename them into the folder of their stream."""
        folder = self._ensure_folder(name)
        for part in parts:
            self._fs.rename(self._in_progress / part.temp, folder / part.name)
        if self._synced and parts:
            self._fs.sync_folder(folder)

    def _restore_files(self) -> None:
        """Repeat the renames that follow the last record of the journal, and remove files that no record names."""
        missing: dict[str, list[Part]] = {}
        for name, stream in self.ledger.streams.items():
            folder = self._ensure_folder(name)
            self._check_known_parts(name, folder, (stream.generation, stream.next_part - 1))
            unpublished = [part for part in stream.parts if not self._exists(folder / part.name, part)]
            found = [part for part in unpublished if self._exists(self._in_progress / part.temp, part)]
            self._publish(name, found)
            lost = [part for part in unpublished if part not in found]
            lost += [part for part in stream.hidden or () if not self._exists(self._in_progress / part.temp, part)]
            if lost:
                missing[name] = lost
        if missing:
            self._handle_missing(missing)
        kept = {part.temp for stream in self.ledger.streams.values() for part in stream.hidden or ()}
        for path in sorted(self._in_progress.iterdir()):
            if path.name not in kept:
                self._fs.unlink(path)
        for name in self.ledger.streams:
            self._write_manifest(name)
            self._remove_retired(name)

    def _exists(self, path: Path, part: Part) -> bool:
        """Whether the file of a part exists and has its size."""
        try:
            return path.stat().st_size == part.bytes
        except FileNotFoundError:
            return False

    def _handle_missing(self, missing: Mapping[str, Sequence[Part]]) -> None:
        """Remove missing parts from the ledger if `ignore_missing_parts` is set; otherwise raise OutputMissing."""
        count = sum(map(len, missing.values()))
        name, parts = next(iter(missing.items()))
        files = f"{self.path / folder_name(name) / parts[0].name}" + (f" and {count - 1} more" if count > 1 else "")
        if not self._ignore_missing_parts:
            raise OutputMissing(
                f"{files}: committed, but missing or of another size now",
                hint="restore the files; if they were removed on purpose, set ignore_missing_parts=True",
            ).locate(stream=name)
        _log.warning("%s: missing, and no longer part of the output", files)
        self.ledger.forget_parts(missing)

    def _check_known_parts(self, name: str, folder: Path, last: tuple[int, int]) -> None:
        """Raises StateCorrupt for a part that is newer than `last`, a (generation, number).

        A part gets its name only after its record is in the journal, so the journal must have lost that record.
        """
        for path in folder.iterdir() if folder.is_dir() else ():
            if (found := _PART_NAME.match(path.name)) and (int(found[1]), int(found[2])) > last:
                raise StateCorrupt(
                    f"the journal in {self._private} has lost its last records: it does not contain {path}",
                    hint="restore the folder from a copy; or remove such files: their records are then read again",
                ).locate(stream=name)

    def _check_folder_names(self, names: Iterable[str]) -> None:
        """Raises ConfigError for names that differ only in case: many file systems treat them as equal."""
        by_folder: dict[str, str] = {}
        for name in names:
            other = by_folder.setdefault(folder_name(name).casefold(), name)
            if other != name:
                raise ConfigError(
                    f"streams {other!r} and {name!r} would share a folder of {self.path}",
                    hint="folder names are case-insensitive on many systems: give one of the streams another `name`",
                )

    def _remove_retired(self, name: str) -> None:
        stream = self.ledger.streams[name]
        if not stream.retired:
            return
        for part in stream.retired:
            for path in (self.path / folder_name(name) / part.name, self._in_progress / part.temp):
                with suppress(FileNotFoundError):
                    self._fs.unlink(path)
        if self._synced:  # the next snapshot no longer lists them, so the removal must be durable
            self._fs.sync_folder(self.path / folder_name(name))
        stream.retired = []

    def _write_manifest(self, name: str) -> None:
        """Write the manifest of the visible parts, unless it is up to date."""
        stream = self.ledger.streams[name]
        parts = [part for part in stream.parts if part.kind == "part"]
        manifest = {
            "stream": name,
            "generation": stream.visible_generation,
            "complete": stream.visible_complete,
            "rows": sum(part.rows for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "parts": [_manifest_entry(part) for part in parts],
            "quarantined": [_manifest_entry(part) for part in stream.parts if part.kind != "part"],
        }
        text = encode(manifest) + b"\n"
        path = self.path / folder_name(name) / self._format.manifest
        with suppress(FileNotFoundError):
            if path.read_bytes() == text:
                return
        partial = self._private / f"manifest-{folder_name(name)}"
        with suppress(FileNotFoundError):
            self._fs.unlink(partial)
        write_file(self._fs, partial, text, synced=self._synced)
        self._fs.rename(partial, path)
        if self._synced:
            self._fs.sync_folder(path.parent)


def folder_name(stream: str) -> str:
    """The folder of a stream: its name, percent-encoded where a folder name must not contain a character."""
    quoted = quote(stream, safe=" !#$&'()+,;=@[]^_`{}~-.")
    return quoted if not quoted.startswith(".") else f"%2E{quoted[1:]}"


def _manifest_entry(part: Part) -> dict[str, Any]:
    return {"file": part.name, "rows": part.rows, "bytes": part.bytes, "sha256": part.sha256}
