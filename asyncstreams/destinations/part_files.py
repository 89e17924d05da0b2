"""Part files of an output folder: written in batches, sealed, and made visible by renaming them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from .._json import encode
from ..storage.filesystem import FileSystem, write_errors, write_file
from .ledger import Part, StreamParts
from .writer_protocol import Chunk, StreamSchema

_WRITE_BYTES = 2**20
"""Approximate size of one write call."""


class PartInfo(NamedTuple):
    """A sealed part: its temporary name, and what it contains."""

    temp: str
    rows: int
    bytes: int
    sha256: str


class PartInProgress(Protocol):
    """A part that is being written and not visible yet, of about `size` bytes.

    Blocking; one caller at a time. Raises OutputWriteError.
    """

    size: int

    def write(self, data: bytes, rows: int) -> None:
        """Append `rows` complete lines."""
        ...

    def seal(self, *, synced: bool) -> Sequence[PartInfo]:
        """Close the part, which may consist of several files."""
        ...

    def abandon(self) -> None:
        """Close and remove the part."""
        ...


NewPath: TypeAlias = Callable[[], Path]
"""Returns the path of a file that does not exist."""


class PartFormat(Protocol):
    """The file format of the parts in a folder."""

    files: str
    """What the parts are called in messages."""

    def describe_stream(self, stream: str, schema: StreamSchema) -> None:
        """Accept the schema of a stream; called before its first part."""
        ...

    def suffix(self, kind: str) -> str:
        """The file name suffix of parts of this kind."""
        ...

    def observe_parts(self, stream: str, parts: Iterable[Path]) -> None:
        """Take note of the parts of the current generation that exist already; called before the first new part."""
        ...

    def new_part(self, stream: str, kind: str, new_path: NewPath) -> PartInProgress: ...

    def write_empty_part(self, stream: str, new_path: NewPath, *, synced: bool) -> PartInfo:
        """Write a part without records, which has the columns known so far."""
        ...

    def column_names(self, part: Path) -> Mapping[str, str]:
        """The fields of the records by the name of their column in this part, where the two differ."""
        ...

    def is_outdated(self, stream: str, part: Path) -> bool:
        """Whether later parts have columns that this one lacks, so that it must be rewritten."""
        ...

    def rewrite_part(self, stream: str, part: Path, new_path: NewPath, *, synced: bool) -> PartInfo:
        """Write the records of a part to a new file with the current columns."""
        ...


class PartBatches:
    """The parts in progress by batch id. Blocking; one caller at a time. Raises OutputWriteError."""

    def __init__(self, format_: PartFormat, new_path: NewPath, *, part_size: int, synced: bool) -> None:
        self._format, self._new_path, self._part_size, self._synced = format_, new_path, part_size, synced
        self._files: dict[Hashable, dict[str, PartInProgress]] = {}
        self._sealed: dict[Hashable, list[tuple[str, PartInfo]]] = {}

    def write(self, stream: str, batch_id: Hashable, chunks: Iterable[Chunk]) -> None:
        """Append lines to the files of a batch; a file that has reached its size is sealed, and another one begins."""
        by_kind: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            by_kind.setdefault(chunk.kind, []).append(chunk)
        for kind, rest in by_kind.items():
            while rest:
                size, count = 0, 0
                while count < len(rest) and size < _WRITE_BYTES:
                    size += len(rest[count].lines)
                    count += 1
                self._append(stream, batch_id, kind, rest[:count])
                rest = rest[count:]

    def drop(self, batch_id: Hashable) -> None:
        """Discard the files of a batch."""
        for file in self._files.pop(batch_id, {}).values():
            file.abandon()
        self._sealed.pop(batch_id, None)  # sealed files are removed when the folder is opened again

    def pop_sealed(self, batch_id: Hashable) -> Sequence[tuple[str, PartInfo]]:
        """Seal the open files of a batch; remove and return all its parts."""
        for kind in list(self._files.get(batch_id, {})):
            self._seal(batch_id, kind)
        self._files.pop(batch_id, None)
        return self._sealed.pop(batch_id, ())

    def close(self) -> None:
        """Discard the files of all batches."""
        for batch_id in list(self._files):
            self.drop(batch_id)

    def _append(self, stream: str, batch_id: Hashable, kind: str, chunks: Sequence[Chunk]) -> None:
        files = self._files.setdefault(batch_id, {})
        file = files.get(kind)
        if file is None:
            file = files[kind] = self._format.new_part(stream, kind, self._new_path)
        file.write(b"".join(chunk.lines for chunk in chunks), sum(chunk.rows for chunk in chunks))
        if file.size >= self._part_size:
            self._seal(batch_id, kind)

    def _seal(self, batch_id: Hashable, kind: str) -> None:
        file = self._files[batch_id].pop(kind)
        self._sealed.setdefault(batch_id, []).extend((kind, part) for part in file.seal(synced=self._synced))


class FolderFiles:
    """The files of an output folder, and the syncs that make them durable. Blocking. Raises OSError."""

    def __init__(self, path: Path, fs: FileSystem, *, synced: bool) -> None:
        self.path, self.fs, self.synced = path, fs, synced
        self.private = path / ".asyncstreams"
        self.in_progress, self._descriptions = self.private / "in-progress", self.private / "streams"
        self._folders: set[Path] = set()

    def create(self) -> None:
        """Create the folders that do not exist."""
        folders = self.in_progress, self._descriptions
        new = [folder for folder in (*folders, *self.in_progress.parents) if not folder.exists()]
        for folder in (self.private, *folders):
            self.fs.make_folder(folder, 0o700)
        if self.synced:
            for folder in new:
                self.fs.sync_folder(folder.parent)

    def folders_of(self, stream: StreamParts) -> tuple[Path, Path]:
        """The folder of the parts of a stream, and that of what describes it: its manifest and quarantined records."""
        return self.path / stream.folder, self._descriptions / stream.folder

    def visible_path(self, stream: StreamParts, part: Part) -> Path:
        """The path of a part once it is visible."""
        records, description = self.folders_of(stream)
        return (records if part.kind == "part" else description) / part.name

    def current_path(self, stream: StreamParts, part: Part) -> Path:
        """The path of a part of the generation that is being written."""
        return self.visible_path(stream, part) if stream.hidden is None else self.in_progress / part.temp

    def is_visible(self, stream: StreamParts, part: Part) -> bool:
        return _has_size(self.visible_path(stream, part), part.bytes)

    def is_in_progress(self, part: Part) -> bool:
        return _has_size(self.in_progress / part.temp, part.bytes)

    def ensure_folders(self, folders: Iterable[Path]) -> None:
        """Create folders whose parents exist; their names are durable afterwards."""
        new = [folder for folder in folders if folder not in self._folders]
        for folder in new:
            self.fs.make_folder(folder)
        if self.synced:  # also if they exist: an earlier process may have ended before
            for parent in dict.fromkeys(folder.parent for folder in new):
                self.fs.sync_folder(parent)
        self._folders.update(new)

    def sync_in_progress(self) -> None:
        """Make the names of all parts in progress durable."""
        if self.synced:
            with write_errors(self.in_progress):
                self.fs.sync_folder(self.in_progress)

    def publish(self, stream: StreamParts, parts: Iterable[Part]) -> None:
        """Make parts visible: rename them into the folders of their stream."""
        paths = {part.temp: self.visible_path(stream, part) for part in parts}
        folders = dict.fromkeys(path.parent for path in paths.values())
        self.ensure_folders(folders)
        for temp, path in paths.items():
            self.fs.rename(self.in_progress / temp, path)
        if self.synced:
            for folder in folders:
                self.fs.sync_folder(folder)

    def remove_retired(self, stream: StreamParts) -> None:
        """Remove the retired parts of a stream."""
        retired = stream.pop_retired()
        paths = [self.visible_path(stream, part) for part in retired]
        for path in (*paths, *(self.in_progress / part.temp for part in retired)):
            with suppress(FileNotFoundError):
                self.fs.unlink(path)
        if self.synced:  # the next snapshot no longer lists them, so the removal must be durable
            for folder in {path.parent for path in paths} & self._folders:
                self.fs.sync_folder(folder)

    def remove_uncommitted(self, kept: Collection[str]) -> None:
        """Remove all files in progress except those with the names `kept`."""
        for path in sorted(self.in_progress.iterdir()):
            if path.name not in kept:
                self.fs.unlink(path)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace the content of a file, unless it is this value already."""
        text = encode(value) + b"\n"
        with suppress(FileNotFoundError):
            if path.read_bytes() == text:
                return
        self.replace(path, text)

    def replace(self, path: Path, text: bytes) -> None:
        """Replace the content of a file as a whole."""
        partial = path.with_suffix(".partial")
        with suppress(FileNotFoundError):
            self.fs.unlink(partial)
        write_file(self.fs, partial, text, synced=self.synced)
        self.fs.rename(partial, path)
        if self.synced:
            self.fs.sync_folder(path.parent)


def _has_size(path: Path, size: int) -> bool:
    """Whether a file exists and has this size."""
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
