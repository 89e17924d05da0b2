"""Output folder: parts and state are committed together, so that a kill at any moment leaves both or neither.

A part is written to a private folder and synced. One journal record then commits it, together with the state. Only
after that is the part renamed into the folder of its stream. Recovery repeats the renames that follow the last record,
and removes the files that no record names.

The folder of a stream holds parts only, so that a reader can open it as a whole. Everything else lies in
`.asyncstreams`: manifests and quarantined records below `streams`, the folder of each stream in `streams.json`.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .._json import encode
from ..errors import ConfigError, OutputMissing, StateCorrupt
from ..storage.file_lock import OutputLock
from ..storage.file_names import file_name
from ..storage.filesystem import FileSystem, write_errors, write_file
from .journal import Journal
from .ledger import JournalRecord, Ledger, Part, StreamLedger
from .part_files import PartFormat, PartInfo, PartInProgress
from .writer_protocol import MAX_FAILURES_KEPT, FailedSlice, OutputContents

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
        self._in_progress, self._descriptions = self._private / "in-progress", self._private / "streams"
        self._journal = Journal(fs, self._private, synced=synced, files=format_.files)
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
            self._journal.check_header()
            folders = self._in_progress, self._descriptions
            new = [folder for folder in (*folders, *self._in_progress.parents) if not folder.exists()]
            for folder in (self._private, *folders):
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
        """Record the start of a run, and choose the folders of its new streams.

        Raises StateCorrupt if there are parts of a stream that the journal does not know, and ConfigError for a stream
        name with a lone surrogate.
        """
        new = self._choose_folders(name for name in record["streams"] if name not in self.ledger.streams)
        for name, folder in new.items():
            self._check_known_parts(name, self.path / folder, (0, 0))
        streams = {
            name: {**entry, "folder": new[name]} if name in new else entry for name, entry in record["streams"].items()
        }
        self._append({**record, "streams": streams})
        with write_errors(self.path):
            self._write_folder_names()
            self._ensure_folders(map(self.path_of, record["streams"]))
            for name in record["streams"]:
                if self.ledger.streams[name].retired:
                    self._write_manifest(name)
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

    def finish_stream(self, record: JournalRecord) -> None:
        """Mark a stream as completely read; its hidden parts replace the visible ones."""
        stream = record["stream"]
        self._rewrite_parts(stream)
        was_hidden = self.ledger.streams[stream].hidden is not None
        self._append(record)
        with write_errors(self.path):
            if was_hidden:
                self._publish(stream, self.ledger.streams[stream].parts)
            self._write_manifest(stream)
            self._remove_retired(stream)

    def end_run(self, record: JournalRecord) -> None:
        """Record the end of the run, so that the next run does not resume it."""
        self._append(record)

    def record_failures(self, failures: Sequence[FailedSlice]) -> None:
        """Append failed slices to `errors.jsonl`, which keeps the last 10,000."""
        path = self._private / "errors.jsonl"
        lines = [encode(failure._asdict()) + b"\n" for failure in failures]
        with write_errors(path):
            with suppress(FileNotFoundError):
                lines = [*path.read_bytes().splitlines(keepends=True), *lines]
            self._replace_file(path, b"".join(lines[-MAX_FAILURES_KEPT:]))

    def inspect(self) -> OutputContents:
        """What the journal records, without opening the folder."""
        self._journal.check_header()
        ledger = self._journal.recover()
        rows = {
            name: sum(part.rows for part in stream.parts if part.kind == "part")
            for name, stream in ledger.streams.items()
        }
        return OutputContents(ledger, rows)

    def reset(self, record: JournalRecord) -> None:
        """Forget the state of streams, and remove the parts that do not stay."""
        self._append(record)
        with write_errors(self.path):
            for name in record["streams"]:
                self._write_manifest(name)
                self._remove_retired(name)

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

    def path_of(self, stream: str) -> Path:
        """The folder of the parts of a stream."""
        known = self.ledger.streams.get(stream)
        return self.path / (file_name(stream) if known is None else known.folder)

    def _private_path_of(self, stream: StreamLedger) -> Path:
        """The folder of what describes a stream: its manifest and its quarantined records."""
        return self._descriptions / stream.folder

    def _visible_path(self, stream: StreamLedger, part: Part) -> Path:
        """The path of a part once it is visible."""
        return (self.path / stream.folder if part.kind == "part" else self._private_path_of(stream)) / part.name

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
            self._format.observe_parts(name, (self._current_path(name, part) for part in parts))

    def _current_path(self, name: str, part: Part) -> Path:
        """The path of a part of the generation that is being written."""
        stream = self.ledger.streams[name]
        return self._visible_path(stream, part) if stream.hidden is None else self._in_progress / part.temp

    def _rewrite_parts(self, name: str) -> None:
        """Replace parts, in a commit of its own, so that all of them have the columns of the last one.

        A stream without records has one empty part.
        """
        self._observe_parts(name)
        stream = self.ledger.streams[name]
        parts = [part for part in stream.current_parts if part.kind == "part"]
        empty = [part for part in parts if not part.rows] if any(part.rows for part in parts) else []
        outdated = [
            part
            for part in parts
            if part not in empty and self._format.is_outdated(name, self._current_path(name, part))
        ]
        if parts and not outdated and not empty:
            return
        sealed: list[tuple[str, PartInfo]] = []
        for part in outdated:
            path = self._current_path(name, part)
            sealed.append((part.kind, self._format.rewrite_part(name, path, self._new_path, synced=self._synced)))
        if not parts:
            sealed.append(("part", self._format.write_empty_part(name, self._new_path, synced=self._synced)))
        new = self._name_parts(name, sealed)
        if self._synced:
            with write_errors(self._in_progress):
                self._fs.sync_folder(self._in_progress)
        changes = {"parts": [part.to_json() for part in new], "replaces": [part.name for part in (*outdated, *empty)]}
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

    def _ensure_folders(self, folders: Iterable[Path]) -> None:
        """Create folders whose parents exist; their names are durable afterwards."""
        new = [folder for folder in folders if folder not in self._folders]
        for folder in new:
            self._fs.make_folder(folder)
        if self._synced:  # also if they exist: an earlier process may have ended before
            for parent in dict.fromkeys(folder.parent for folder in new):
                self._fs.sync_folder(parent)
        self._folders.update(new)

    def _publish(self, name: str, parts: Sequence[Part]) -> None:
        """Make parts visible: rename them into the folders of their stream."""
        stream = self.ledger.streams[name]
        paths = {part.temp: self._visible_path(stream, part) for part in parts}
        folders = dict.fromkeys(path.parent for path in paths.values())
        self._ensure_folders(folders)
        for temp, path in paths.items():
            self._fs.rename(self._in_progress / temp, path)
        if self._synced:
            for folder in folders:
                self._fs.sync_folder(folder)

    def _restore_files(self) -> None:
        """Repeat the renames that follow the last record of the journal, and remove files that no record names."""
        missing: dict[str, list[Part]] = {}
        streams = self.ledger.streams
        self._ensure_folders([*map(self.path_of, streams), *map(self._private_path_of, streams.values())])
        for name, stream in streams.items():
            for folder in (self.path_of(name), self._private_path_of(stream)):
                self._check_known_parts(name, folder, (stream.generation, stream.next_part - 1))
            unpublished = [part for part in stream.parts if not self._exists(self._visible_path(stream, part), part)]
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
        self._write_folder_names()
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
        first = self._visible_path(self.ledger.streams[name], parts[0])
        files = f"{first}" + (f" and {count - 1} more" if count > 1 else "")
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

    def _choose_folders(self, names: Iterable[str]) -> dict[str, str]:
        """The folders of new streams: different ones also where case makes no difference. Raises ConfigError."""
        used = {stream.folder.lower() for stream in self.ledger.streams.values()}
        folders: dict[str, str] = {}
        for name in names:
            try:
                folder = folders[name] = file_name(name, used)
            except UnicodeEncodeError:
                raise ConfigError(
                    f"stream {name!r}: the name contains a lone surrogate", hint="give it another `name`"
                ) from None
            used.add(folder.lower())
        return folders

    def _remove_retired(self, name: str) -> None:
        stream = self.ledger.streams[name]
        if not stream.retired:
            return
        for part in stream.retired:
            for path in (self._visible_path(stream, part), self._in_progress / part.temp):
                with suppress(FileNotFoundError):
                    self._fs.unlink(path)
        if self._synced:  # the next snapshot no longer lists them, so the removal must be durable
            for folder in {self._visible_path(stream, part).parent for part in stream.retired}:
                if folder in self._folders:
                    self._fs.sync_folder(folder)
        stream.retired = []

    def _write_manifest(self, name: str) -> None:
        """Write the manifest of the visible parts, unless it is up to date."""
        stream = self.ledger.streams[name]
        parts = [part for part in stream.parts if part.kind == "part"]
        manifest = {
            "stream": name,
            "folder": stream.folder,
            "generation": stream.visible_generation,
            "complete": stream.visible_complete,
            "missing_children": dict(stream.missing_children),
            "rows": sum(part.rows for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "parts": [_manifest_entry(part) for part in parts],
            "quarantined": [_manifest_entry(part) for part in stream.parts if part.kind != "part"],
            "columns": self._format.column_names(self._visible_path(stream, parts[-1])) if parts else {},
        }
        folder = self._private_path_of(stream)
        self._ensure_folders([folder])
        self._write_json(folder / "manifest.json", manifest)

    def _write_folder_names(self) -> None:
        """Write the folder of each stream, unless the file is up to date."""
        folders = {name: stream.folder for name, stream in self.ledger.streams.items()}
        self._write_json(self._private / "streams.json", folders)

    def _write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace the content of a file, unless it is this value already."""
        text = encode(value) + b"\n"
        with suppress(FileNotFoundError):
            if path.read_bytes() == text:
                return
        self._replace_file(path, text)

    def _replace_file(self, path: Path, text: bytes) -> None:
        partial = path.with_suffix(".partial")
        with suppress(FileNotFoundError):
            self._fs.unlink(partial)
        write_file(self._fs, partial, text, synced=self._synced)
        self._fs.rename(partial, path)
        if self._synced:
            self._fs.sync_folder(path.parent)


def _manifest_entry(part: Part) -> dict[str, Any]:
    return {"file": part.name, "rows": part.rows, "bytes": part.bytes, "sha256": part.sha256}
