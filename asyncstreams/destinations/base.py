"""Where does an extraction go, and what does its owner want of it, whatever the format?"""

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
_LEAST_PART = 2**20


@dataclass(frozen=True, slots=True)
class Destination(ABC):
    """What destinations have in common; `path` is a folder, or a file."""

    path: str | os.PathLike[str]
    mode: TableMode = field(default=None, kw_only=True)
    fsync: Durability = field(default="commit", kw_only=True)
    allow_credential_change: bool = field(default=False, kw_only=True)
    resume: bool = field(default=True, kw_only=True)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "fail", None)
    needs_schema: ClassVar[bool] = False
    """Whether it asks for what the records look like before they come."""
    commit_size: ClassVar[int] = 8 * 2**20
    """Bytes of lines that are worth a commit, however little time has passed."""

    def __post_init__(self) -> None:
        self._check(mode=self.modes, fsync=("full", "commit", "none"))

    @abstractmethod
    def output(self) -> DestinationWriter:
        """The output, which is yet to be opened."""

    def _check(self, **known: tuple[Any, ...]) -> None:
        for name, values in known.items():
            if getattr(self, name) not in values:
                shown = ", ".join(repr(one) for one in values)
                owner = type(self).__name__
                raise ConfigError(f"{owner}({name}={getattr(self, name)!r}): one of {shown} is needed")


def check_part_size(owner: Destination, size: object) -> None:
    """Raises ConfigError for what is no size of a file."""
    if not isinstance(size, int) or size < _LEAST_PART:
        raise ConfigError(f"{type(owner).__name__}(part_size={size!r}): bytes, and {_LEAST_PART:,} at least")
