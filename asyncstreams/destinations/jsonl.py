"""Where do JSON lines go, and what does their owner want of them?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..storage.filesystem import FileSystem
from .base import Destination, OutputMode, check_part_size
from .folder_writer import FolderWriter
from .output_folder import OutputFolder
from .part_files import Compression, LinesFormat, compressor


@dataclass(frozen=True, slots=True)
class JsonLines(Destination):
    """A folder with one folder for each stream, of files that hold one record in each line: each record exactly once.

    mode: None appends to streams with a cursor and replaces the others, when all has been read; "append" and
    "replace" do that to all; "fail" refuses where there is something already. A run that did not come to its end
    is gone on with. compression: None, "gzip" or "zstd". fsync: "commit" syncs what many slices
    brought at once, "full" each slice by itself, and "none" nothing: that survives a kill, and no loss of power.
    part_size: bytes of a file, about, before compression. allow_credential_change: another credential may go on.
    ignore_missing_parts: parts that were taken away are forgotten, where they are an OutputMissing else. resume: False
    begins anew what was to be replaced, and was not read to its end.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: Compression = field(default=None, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    ignore_missing_parts: bool = field(default=False, kw_only=True)
    fs: FileSystem = field(default_factory=FileSystem, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check(compression=(None, "gzip", "zstd"))
        check_part_size(self, self.part_size)
        compressor(self.compression)

    def output(self) -> FolderWriter:
        """The folder, which is yet to be opened."""
        synced = self.fsync != "none"
        folder = OutputFolder(
            Path(self.path),
            self.fs,
            LinesFormat(self.fs, self.compression),
            synced=synced,
            ignore_missing_parts=self.ignore_missing_parts,
        )
        return FolderWriter(folder, synced=synced, part_size=self.part_size)
