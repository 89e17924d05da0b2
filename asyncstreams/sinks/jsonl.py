"""Where do JSON lines go, and what does their owner want of them?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .destination import Destination, OutputMode, check_part_size
from .folder import OutputFolder
from .fs import Fs
from .parts import Compression, LinesFormat, compressor
from .writer import FolderOutput


@dataclass(frozen=True, slots=True)
class JsonLines(Destination):
    """A folder with one folder for each stream, of files that hold one record in each line: each record exactly once.

    mode: None appends to streams with a cursor and replaces the others, when all has been read; "append" and
    "replace" do that to all; "fail" refuses where there is something already. A run that did not come to its end
    is gone on with. compression: None, "gzip" or "zstd". fsync: "commit" syncs what many slices
    brought at once, "full" each slice by itself, and "none" nothing: that survives a kill, and no loss of power.
    part_size: bytes of a file, about, before compression. any_credential: another credential may go on.
    accept_missing: parts that were taken away are forgotten, where they are an OutputMissing else. resume: False
    begins anew what was to be replaced, and was not read to its end.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: Compression = field(default=None, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    accept_missing: bool = field(default=False, kw_only=True)
    fs: Fs = field(default_factory=Fs, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check(compression=(None, "gzip", "zstd"))
        check_part_size(self, self.part_size)
        compressor(self.compression)

    def output(self) -> FolderOutput:
        """The folder, which is yet to be opened."""
        synced = self.fsync != "none"
        folder = OutputFolder(
            Path(self.path),
            self.fs,
            LinesFormat(self.fs, self.compression),
            synced=synced,
            accept_missing=self.accept_missing,
        )
        return FolderOutput(folder, synced=synced, part_size=self.part_size)
