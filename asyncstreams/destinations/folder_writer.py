"""Which file does a line go into: one that many slices share, or that of a slice too large to be held?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from .ledger import Ledger, Record
from .output_folder import OutputFolder, SealedParts, folder_name
from .part_files import PartInfo, PartInProgress
from .writer_protocol import Chunk, CommitPayload

_AT_ONCE = 2**20
"""Bytes that are written with one call, about."""


class FolderWriter:
    """An Output of files: the folder with what is whole, and the files in progress."""

    def __init__(self, folder: OutputFolder, *, synced: bool, part_size: int) -> None:
        self._folder, self._synced, self._part_size = folder, synced, part_size
        self._files: dict[Hashable, dict[str, PartInProgress]] = {}
        self._sealed: dict[Hashable, list[tuple[str, PartInfo]]] = {}
        self.open, self.begin, self.describe = folder.open, folder.begin, folder.describe
        self.finish, self.end, self.tidy = folder.finish, folder.end, folder.tidy

    @property
    def ledger(self) -> Ledger:
        return self._folder.ledger

    def write(self, stream: str, owner: Hashable, chunks: Iterable[Chunk]) -> None:
        """Put lines into the owner's files; where one is large enough the next ones go into another."""
        held: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            held.setdefault(chunk.kind, []).append(chunk)
        for kind, some in held.items():
            while some:
                size, count = 0, 0
                while count < len(some) and size < _AT_ONCE:
                    size += len(some[count].lines)
                    count += 1
                self._put(stream, owner, kind, some[:count])
                some = some[count:]

    def drop(self, owner: Hashable) -> None:
        """What the owner has written is not wanted."""
        for file in self._files.pop(owner, {}).values():
            file.abandon()
        self._sealed.pop(owner, None)  # what is sealed is removed when the folder is opened again

    def commit(self, streams: Mapping[str, CommitPayload]) -> Record:
        """What the owners have written, and all that is brought, in parts of their own."""
        committed: dict[str, SealedParts] = {}
        for name, brought in streams.items():
            sealed: list[tuple[str, PartInfo]] = []
            for owner, chunks in brought.chunks.items():
                self.write(name, owner, chunks)
                sealed += self._all_of(owner)
            committed[name] = SealedParts(brought.told, sealed)
        return self._folder.commit(committed)

    def close(self) -> None:
        """Give up what was not committed."""
        try:
            for owner in list(self._files):
                self.drop(owner)
        finally:
            self._folder.close()

    def place_of(self, stream: str) -> tuple[Path, str]:
        return self._folder.path / folder_name(stream), ""

    def _put(self, stream: str, owner: Hashable, kind: str, chunks: Sequence[Chunk]) -> None:
        files = self._files.setdefault(owner, {})
        file = files.get(kind)
        if file is None:
            file = files[kind] = self._folder.new_part(stream, kind)
        file.write(b"".join(chunk.lines for chunk in chunks), sum(chunk.rows for chunk in chunks))
        if file.size >= self._part_size:
            self._seal(owner, kind)

    def _seal(self, owner: Hashable, kind: str) -> None:
        file = self._files[owner].pop(kind)
        self._sealed.setdefault(owner, []).extend((kind, one) for one in file.seal(synced=self._synced))

    def _all_of(self, owner: Hashable) -> Sequence[tuple[str, PartInfo]]:
        for kind in list(self._files.get(owner, {})):
            self._seal(owner, kind)
        self._files.pop(owner, None)
        return self._sealed.pop(owner, ())
