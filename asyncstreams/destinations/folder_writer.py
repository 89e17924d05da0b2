"""Writer for a folder of part files: decides which file a line goes into."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from .ledger import JournalRecord, Ledger
from .output_folder import OutputFolder, SealedParts
from .part_files import PartInfo, PartInProgress
from .writer_protocol import Chunk, CommitPayload

_WRITE_BYTES = 2**20
"""Approximate size of one write call."""


class FolderWriter:
    """A DestinationWriter of files: an OutputFolder, and the parts in progress by batch id."""

    def __init__(self, folder: OutputFolder, *, synced: bool, part_size: int) -> None:
        self._folder, self._synced, self._part_size = folder, synced, part_size
        self._files: dict[Hashable, dict[str, PartInProgress]] = {}
        self._sealed: dict[Hashable, list[tuple[str, PartInfo]]] = {}
        self.open, self.begin_run, self.describe_stream = folder.open, folder.begin_run, folder.describe_stream
        self.finish_stream, self.end_run, self.maintain = folder.finish_stream, folder.end_run, folder.maintain
        self.record_failures, self.inspect, self.reset = folder.record_failures, folder.inspect, folder.reset

    @property
    def ledger(self) -> Ledger:
        return self._folder.ledger

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

    def commit(self, streams: Mapping[str, CommitPayload]) -> JournalRecord:
        """Seal the files of all batches, and commit them as parts."""
        sealed: dict[str, SealedParts] = {}
        for name, payload in streams.items():
            parts: list[tuple[str, PartInfo]] = []
            for batch_id, chunks in payload.chunks.items():
                self.write(name, batch_id, chunks)
                parts += self._pop_sealed(batch_id)
            sealed[name] = SealedParts(payload.journal_entry, parts)
        return self._folder.commit(sealed)

    def close(self) -> None:
        """Discard what was not committed, and release the folder."""
        try:
            for batch_id in list(self._files):
                self.drop(batch_id)
        finally:
            self._folder.close()

    def location_of(self, stream: str) -> tuple[Path, str]:
        return self._folder.path_of(stream), ""

    def _append(self, stream: str, batch_id: Hashable, kind: str, chunks: Sequence[Chunk]) -> None:
        files = self._files.setdefault(batch_id, {})
        file = files.get(kind)
        if file is None:
            file = files[kind] = self._folder.new_part(stream, kind)
        file.write(b"".join(chunk.lines for chunk in chunks), sum(chunk.rows for chunk in chunks))
        if file.size >= self._part_size:
            self._seal(batch_id, kind)

    def _seal(self, batch_id: Hashable, kind: str) -> None:
        file = self._files[batch_id].pop(kind)
        self._sealed.setdefault(batch_id, []).extend((kind, part) for part in file.seal(synced=self._synced))

    def _pop_sealed(self, batch_id: Hashable) -> Sequence[tuple[str, PartInfo]]:
        """Seal the open files of a batch; remove and return all its parts."""
        for kind in list(self._files.get(batch_id, {})):
            self._seal(batch_id, kind)
        self._files.pop(batch_id, None)
        return self._sealed.pop(batch_id, ())
