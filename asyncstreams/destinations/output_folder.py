"""Output folder: parts and state are committed together, so that a kill at any moment leaves both or neither.

A part is written to a private folder and synced. One journal record then commits it, together with the state. Only
after that is the part renamed into the folder of its stream. Recovery repeats the renames that follow the last record,
and removes the files that no record names.

The folder of a stream holds parts only, so that a reader can open it as a whole. Everything else lies in
`.asyncstreams`: manifests and quarantined records below `streams`, the folder of each stream in `streams.json`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._json import encode
from ..errors import ConfigError, OutputMissing, StateCorrupt
from ..storage.file_lock import OutputLock
from ..storage.filesystem import PRIVATE_MODE, file_name, write_errors
from .journal import Journal
from .ledger import JournalRecord, Ledger, Part
from .part_files import FolderFiles, PartBatches, PartFormat, PartInfo
from .writer_protocol import (
    MAX_FAILURES_KEPT,
    MAX_RUNS_KEPT,
    Chunk,
    CommitPayload,
    FailedSlice,
    OutputContents,
    StoredRun,
    StreamSchema,
)

_PART_NAME = re.compile(r"(?:part|quarantined)-(\d{6})-(\d{6})\.")
_log = logging.getLogger("asyncstreams")


class OutputFolder:
    """A DestinationWriter of files: a folder of parts with its journal, held by one process at a time.

    Blocking; one caller at a time. Raises OutputWriteError; after it the folder can only be closed.
    """

    def __init__(self, files: FolderFiles, format_: PartFormat, *, part_size: int, ignore_missing_parts: bool) -> None:
        self._files, self._format, self._ignore_missing_parts = files, format_, ignore_missing_parts
        self._journal = Journal(files.fs, files.private, synced=files.synced, files=format_.files)
        self._batches = PartBatches(format_, self._new_path, part_size=part_size, synced=files.synced)
        self._lock: OutputLock | None = None
        self._file_count = 0
        self._observed: set[str] = set()
        self.ledger = Ledger()

    def open(self, now: float) -> None:
        """Lock the folder, and restore it to what its journal records.

        Raises OutputLocked, OutputMissing, StateCorrupt and StateIncompatible too.
        """
        with write_errors(self._files.path):
            self._journal.check_header()
            self._files.create()
            self._lock = OutputLock(self._files.private / "lock", now)
        try:
            self.ledger = self._journal.recover()
            self.ledger.salt = self.ledger.salt or secrets.token_hex(16)
            with write_errors(self._files.path):
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
            self._check_known_parts(name, self._files.path / folder, (0, 0))
        streams = {
            name: {**entry, "folder": new[name]} if name in new else entry for name, entry in record["streams"].items()
        }
        self._append({**record, "streams": streams})
        with write_errors(self._files.path):
            self._write_folder_names()
            self._files.ensure_folders(self.location_of(name)[0] for name in record["streams"])
            for name in record["streams"]:
                if self.ledger.streams[name].parts.retired:
                    self._update_files(name)

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        self._format.describe_stream(stream, schema)

    def write(self, stream: str, batch_id: Hashable, chunks: Iterable[Chunk]) -> None:
        self._observe_parts(stream)
        self._batches.write(stream, batch_id, chunks)

    def drop(self, batch_id: Hashable) -> None:
        self._batches.drop(batch_id)

    def commit(self, streams: Mapping[str, CommitPayload]) -> JournalRecord:
        """Seal the files of all batches, and commit them as parts, together with the state."""
        parts: dict[str, list[Part]] = {}
        for name, payload in streams.items():
            sealed: list[tuple[str, PartInfo]] = []
            for batch_id, chunks in payload.chunks.items():
                self.write(name, batch_id, chunks)
                sealed += self._batches.pop_sealed(batch_id)
            parts[name] = self._name_parts(name, sealed)
        if any(parts.values()):
            self._files.sync_in_progress()
        entries = {
            name: {**payload.journal_entry, "parts": [part.to_json() for part in parts[name]]}
            for name, payload in streams.items()
        }
        record = {"op": "commit", "streams": entries}
        self._journal.append(record)
        with write_errors(self._files.path):
            for name, new in parts.items():
                if not self.ledger.streams[name].is_replaced:
                    self._files.publish(self.ledger.streams[name].parts, new)
        return record

    def finish_stream(self, record: JournalRecord) -> None:
        stream = record["stream"]
        self._rewrite_parts(stream)
        was_replaced = self.ledger.streams[stream].is_replaced
        self._append(record)
        with write_errors(self._files.path):
            if was_replaced:
                parts = self.ledger.streams[stream].parts
                self._files.publish(parts, parts.visible)
            self._update_files(stream)

    def end_run(self, record: JournalRecord) -> None:
        self._append(record)

    def record_failures(self, failures: Sequence[FailedSlice]) -> None:
        """Append failed slices to `errors.jsonl`, which keeps the last 10,000."""
        path = self._files.private / "errors.jsonl"
        lines = [encode(failure._asdict()) + b"\n" for failure in failures]
        with write_errors(path):
            with suppress(FileNotFoundError):
                lines = [*path.read_bytes().splitlines(keepends=True), *lines]
            self._files.replace(path, b"".join(lines[-MAX_FAILURES_KEPT:]))

    def save_run(self, run: StoredRun) -> None:
        """Write the record of a run. It is not synced: no commit depends on it."""
        path = self._runs / f"{run.id}.json"
        partial = path.with_suffix(".partial")
        with write_errors(path, len(run.record)):
            self._runs.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_MODE), "wb") as file:
                file.write(run.record + b"\n")
            partial.replace(path)
            for old in sorted(self._runs.glob("*.json"))[:-MAX_RUNS_KEPT]:
                old.unlink(missing_ok=True)

    def load_runs(self, limit: int) -> Sequence[StoredRun]:
        newest = sorted(self._runs.glob("*.json"), reverse=True)[:limit]
        return [StoredRun(path.stem, path.read_bytes(), str(path)) for path in newest]

    @property
    def _runs(self) -> Path:
        return self._files.private / "runs"

    def inspect(self) -> OutputContents:
        """What the journal records, without opening the folder."""
        self._journal.check_header()
        ledger = self._journal.recover()
        rows = {
            name: sum(part.rows for part in stream.parts.visible if part.kind == "part")
            for name, stream in ledger.streams.items()
        }
        return OutputContents(ledger, rows)

    def reset(self, record: JournalRecord) -> None:
        self._append(record)
        with write_errors(self._files.path):
            for name in record["streams"]:
                self._update_files(name)

    def maintain(self, *, is_end: bool = False) -> None:
        """Write a snapshot if one is due; at the end of a run write the manifests too."""
        if is_end:
            with write_errors(self._files.path):
                for name in self.ledger.streams:
                    self._write_manifest(name)
        if self._journal.needs_snapshot:
            self._journal.write_snapshot(self.ledger)

    def close(self) -> None:
        try:
            self._batches.close()
            with suppress(OSError):
                self._journal.close()
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def location_of(self, stream: str) -> tuple[Path, str]:
        known = self.ledger.streams.get(stream)
        return self._files.path / (file_name(stream) if known is None else known.parts.folder), ""

    def _append(self, record: JournalRecord) -> None:
        self._journal.append(record)
        self.ledger.apply(record)

    def _new_path(self) -> Path:
        self._file_count += 1
        return self._files.in_progress / f"{self._journal.number}-{self._file_count}"

    def _observe_parts(self, name: str) -> None:
        if name not in self._observed:
            self._observed.add(name)
            parts = self.ledger.streams[name].parts
            existing = [part for part in parts.current if part.kind == "part"]
            self._format.observe_parts(name, (self._files.current_path(parts, part) for part in existing))

    def _rewrite_parts(self, name: str) -> None:
        """Replace parts, in a commit of its own, so that all of them have the columns of the last one.

        A stream without records has one empty part.
        """
        self._observe_parts(name)
        stream, synced = self.ledger.streams[name].parts, self._files.synced
        parts = [part for part in stream.current if part.kind == "part"]
        empty = [part for part in parts if not part.rows] if any(part.rows for part in parts) else []
        paths = {part: self._files.current_path(stream, part) for part in parts if part not in empty}
        outdated = {part: path for part, path in paths.items() if self._format.is_outdated(name, path)}
        if parts and not outdated and not empty:
            return
        sealed = [
            (part.kind, self._format.rewrite_part(name, path, self._new_path, synced=synced))
            for part, path in outdated.items()
        ]
        if not parts:
            sealed.append(("part", self._format.write_empty_part(name, self._new_path, synced=synced)))
        new = self._name_parts(name, sealed)
        self._files.sync_in_progress()
        changes = {"parts": [part.to_json() for part in new], "replaces": [part.name for part in (*outdated, *empty)]}
        self._append({"op": "rewrite", "stream": name, **changes})
        with write_errors(self._files.path):
            if stream.hidden is None:
                self._files.publish(stream, new)
            self._update_files(name)

    def _name_parts(self, name: str, sealed: Iterable[tuple[str, PartInfo]]) -> list[Part]:
        """Parts with the next free numbers of the stream."""
        stream = self.ledger.streams[name].parts
        return [
            Part(kind, stream.generation, number, self._format.suffix(kind), *info)
            for number, (kind, info) in enumerate(sealed, stream.next_number)
        ]

    def _restore_files(self) -> None:
        """Repeat the renames that follow the last record of the journal, and remove files that no record names."""
        files, missing = self._files, dict[str, list[Part]]()
        streams = {name: stream.parts for name, stream in self.ledger.streams.items()}
        files.ensure_folders(folder for stream in streams.values() for folder in files.folders_of(stream))
        for name, stream in streams.items():
            for folder in files.folders_of(stream):
                self._check_known_parts(name, folder, (stream.generation, stream.next_number - 1))
            unpublished = [part for part in stream.visible if not files.is_visible(stream, part)]
            found = [part for part in unpublished if files.is_in_progress(part)]
            files.publish(stream, found)
            lost = [part for part in unpublished if part not in found]
            lost += [part for part in stream.hidden or () if not files.is_in_progress(part)]
            if lost:
                missing[name] = lost
        if missing:
            self._handle_missing(missing)
        files.remove_uncommitted({part.temp for stream in streams.values() for part in stream.hidden or ()})
        self._write_folder_names()
        for name in streams:
            self._update_files(name)

    def _handle_missing(self, missing: Mapping[str, Sequence[Part]]) -> None:
        """Remove missing parts from the ledger if `ignore_missing_parts` is set; otherwise raise OutputMissing."""
        count = sum(map(len, missing.values()))
        name, parts = next(iter(missing.items()))
        first = self._files.visible_path(self.ledger.streams[name].parts, parts[0])
        files = f"{first}" + (f" and {count - 1} more" if count > 1 else "")
        if not self._ignore_missing_parts:
            raise OutputMissing(
                f"{files}: committed, but missing or of another size now",
                hint="restore the files; if they were removed on purpose, set ignore_missing_parts=True",
            ).locate(stream=name)
        _log.warning("%s: missing, and no longer part of the output", files)
        for name, parts in missing.items():
            self.ledger.streams[name].parts.forget(parts)

    def _check_known_parts(self, name: str, folder: Path, last: tuple[int, int]) -> None:
        """Raises StateCorrupt for a part that is newer than `last`, a (generation, number).

        A part gets its name only after its record is in the journal, so the journal must have lost that record.
        """
        for path in folder.iterdir() if folder.is_dir() else ():
            if (found := _PART_NAME.match(path.name)) and (int(found[1]), int(found[2])) > last:
                raise StateCorrupt(
                    f"the journal in {self._files.private} has lost its last records: it does not contain {path}",
                    hint="restore the folder from a copy; or remove such files: their records are then read again",
                ).locate(stream=name)

    def _choose_folders(self, names: Iterable[str]) -> dict[str, str]:
        """The folders of new streams: different ones also where case makes no difference. Raises ConfigError."""
        used = {stream.parts.folder.lower() for stream in self.ledger.streams.values()}
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

    def _update_files(self, name: str) -> None:
        """Write the manifest of a stream, then remove its retired parts."""
        self._write_manifest(name)
        self._files.remove_retired(self.ledger.streams[name].parts)

    def _write_manifest(self, name: str) -> None:
        """Write the manifest of the visible parts, unless it is up to date."""
        stream = self.ledger.streams[name]
        parts = [part for part in stream.parts.visible if part.kind == "part"]
        quarantined = [part for part in stream.parts.visible if part.kind != "part"]
        manifest = {
            "stream": name,
            "folder": stream.parts.folder,
            "generation": stream.parts.visible_generation,
            "complete": stream.visible_complete,
            "missing_children": dict(stream.last_complete.missing_children),
            "rows": sum(part.rows for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "parts": list(map(_manifest_entry, parts)),
            "quarantined": list(map(_manifest_entry, quarantined)),
            "columns": self._format.column_names(self._files.visible_path(stream.parts, parts[-1])) if parts else {},
        }
        _, folder = self._files.folders_of(stream.parts)
        self._files.ensure_folders([folder])
        self._files.write_json(folder / "manifest.json", manifest)

    def _write_folder_names(self) -> None:
        """Write the folder of each stream, unless the file is up to date."""
        folders = {name: stream.parts.folder for name, stream in self.ledger.streams.items()}
        self._files.write_json(self._files.private / "streams.json", folders)


def _manifest_entry(part: Part) -> dict[str, Any]:
    return {"file": part.name, "rows": part.rows, "bytes": part.bytes, "sha256": part.sha256}
