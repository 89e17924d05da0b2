"""Base class of all destinations: the options that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from ..errors import ConfigError
from .writer_protocol import DestinationWriter

OutputMode: TypeAlias = Literal["append", "replace", "fail"] | None
TableMode: TypeAlias = Literal["append", "replace", "upsert", "fail"] | None
Durability: TypeAlias = Literal["full", "commit", "none"]
_MIN_PART_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Destination(ABC):
    """The options that all destinations share. `path` is a folder or a file.

    Raises ConfigError for an option that is not one of the allowed values.
    """

    path: str | os.PathLike[str]
    mode: TableMode = field(default=None, kw_only=True)
    fsync: Durability = field(default="commit", kw_only=True)
    allow_credential_change: bool = field(default=False, kw_only=True)
    resume: bool = field(default=True, kw_only=True)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "fail", None)
    needs_schema: ClassVar[bool] = False
    """Whether the writer needs the JSON schema of a stream before its first record."""
    commit_bytes: ClassVar[int] = 8 * 2**20
    """Bytes of lines that trigger a commit, however little time has passed since the last one."""

    def __post_init__(self) -> None:
        self._check_choices(mode=self.modes, fsync=("full", "commit", "none"))

    @abstractmethod
    def new_writer(self) -> DestinationWriter:
        """A writer for this destination, not opened yet."""

    def _check_choices(self, **allowed: tuple[Any, ...]) -> None:
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                choices = ", ".join(map(repr, values))
                raise ConfigError(f"{type(self).__name__}({name}={getattr(self, name)!r}): must be one of {choices}")


def check_part_size(destination: Destination, size: object) -> None:
    """Raises ConfigError for a part size that is not an int, or below 1 MiB."""
    if not isinstance(size, int) or size < _MIN_PART_BYTES:
        raise ConfigError(
            f"{type(destination).__name__}(part_size={size!r}): must be a number of bytes, at least {_MIN_PART_BYTES:,}"
        )
