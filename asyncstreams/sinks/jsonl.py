"""Where do JSON lines go, and what does their owner want of them?"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ..errors import ConfigError
from .folder import OutputFolder
from .fs import Fs
from .parts import Compression, compressor

OutputMode: TypeAlias = Literal["append", "replace", "fail"] | None
Durability: TypeAlias = Literal["full", "commit", "none"]
_SUFFIXES = {None: ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}
_LEAST_PART = 2**20


@dataclass(frozen=True, slots=True)
class JsonLines:
    """A folder with one folder for each stream, of files that hold one record in each line: each record exactly once.

    mode: None appends to streams with a cursor and replaces the others, when all has been read; "append" and
    "replace" do that to all; "fail" refuses where there is something already. A run that did not come to its end
    is gone on with. compression: None, "gzip" or "zstd". fsync: "commit" syncs what many slices
    brought at once, "full" each slice by itself, and "none" nothing: that survives a kill, and no loss of power.
    part_size: bytes of a file, about, before compression. any_credential: another credential may go on.
    accept_missing: parts that were taken away are forgotten, where they are an OutputMissing else. resume: False
    begins anew what was to be replaced, and was not read to its end.
    """

    path: str | os.PathLike[str]
    mode: OutputMode = field(default=None, kw_only=True)
    compression: Compression = field(default=None, kw_only=True)
    fsync: Durability = field(default="commit", kw_only=True)
    part_size: int = field(default=128 * 2**20, kw_only=True)
    any_credential: bool = field(default=False, kw_only=True)
    accept_missing: bool = field(default=False, kw_only=True)
    resume: bool = field(default=True, kw_only=True)
    fs: Fs = field(default_factory=Fs, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", ("append", "replace", "fail", None)),
            ("compression", (None, "gzip", "zstd")),
            ("fsync", ("full", "commit", "none")),
        ):
            if getattr(self, name) not in known:
                shown = ", ".join(repr(one) for one in known)
                raise ConfigError(f"JsonLines({name}={getattr(self, name)!r}): one of {shown} is needed")
        if not isinstance(self.part_size, int) or self.part_size < _LEAST_PART:
            raise ConfigError(f"JsonLines(part_size={self.part_size!r}): bytes, and {_LEAST_PART:,} at least")
        compressor(self.compression)

    def folder(self) -> OutputFolder:
        """The folder, which is yet to be opened."""
        return OutputFolder(
            Path(self.path),
            self.fs,
            suffix=_SUFFIXES[self.compression],
            compression=self.compression,
            synced=self.fsync != "none",
            accept_missing=self.accept_missing,
        )
