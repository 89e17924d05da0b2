"""JSON Lines destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..storage.filesystem import FileSystem
from .base import Destination, OutputMode, check_part_size
from .folder_writer import FolderWriter
from .output_folder import OutputFolder
from .part_files import Compression, LinesFormat, new_compressor


@dataclass(frozen=True, slots=True)
class JsonLines(Destination):
    """JSON Lines files in `path`, one subfolder per stream and one record per line; each record exactly once.

    A run that did not finish is resumed by the next one.

    Options:

    - mode (None): None appends to streams with a cursor, and replaces other streams once they have been read
      completely. "append" or "replace" does that to all streams; "fail" raises ConfigError if a stream exists already.
    - compression (None): None, "gzip" or "zstd".
    - part_size (128 MiB): approximate size of a file in bytes, before compression; at least 1 MiB.
    - fsync ("commit"): "commit" syncs once per commit, which may hold many slices; "full" commits and syncs each slice
      by itself; "none" never syncs, which survives a kill of the process but not a loss of power.
    - allow_credential_change (False): True accepts a run with another credential than the earlier ones.
    - ignore_missing_parts (False): True continues without files that were removed after their commit; False raises
      OutputMissing for them.
    - resume (True): False starts unfinished replacements over instead of resuming them.
    - surrogates ("refuse"): a lone surrogate, such as half an emoji, has no form in UTF-8. "refuse" fails the slice
      with UnexpectedContent; "replace" writes U+FFFD instead.
    - fs: the file system operations, to be replaced in tests.

    Raises ConfigError for other values, and for "zstd" if it is not installed. `extract` raises OutputLocked,
    OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible.
    """

    mode: OutputMode = field(default=None, kw_only=True)
    compression: Compression = field(default=None, kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    ignore_missing_parts: bool = field(default=False, kw_only=True)
    fs: FileSystem = field(default_factory=FileSystem, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        Destination.__post_init__(self)
        self._check_choices(compression=(None, "gzip", "zstd"))
        check_part_size(self, self.part_size)
        new_compressor(self.compression)

    def new_writer(self) -> FolderWriter:
        """A writer for the folder, not opened yet."""
        synced = self.fsync != "none"
        folder = OutputFolder(
            Path(self.path),
            self.fs,
            LinesFormat(self.fs, self.compression),
            synced=synced,
            ignore_missing_parts=self.ignore_missing_parts,
        )
        return FolderWriter(folder, synced=synced, part_size=self.part_size)
