"""Base class of all destinations, with the options that they share; and the Protocol of those that users write."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import anyio
import anyio.to_thread

from ..clock import SystemClock
from ..errors import ConfigError
from ..event_log.run_record import RunRecord
from ..models import Page
from .output_state import OutputState, output_state
from .writer_protocol import DestinationWriter

OutputMode: TypeAlias = Literal["append", "replace", "fail"] | None
TableMode: TypeAlias = Literal["append", "replace", "upsert", "fail"] | None
Durability: TypeAlias = Literal["full", "commit", "none"]
SurrogateMode: TypeAlias = Literal["refuse", "replace"]
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
    surrogates: SurrogateMode = field(default="refuse", kw_only=True)

    modes: ClassVar[tuple[TableMode, ...]] = ("append", "replace", "fail", None)
    needs_schema: ClassVar[bool] = False
    """Whether the writer needs the JSON schema of a stream before its first record."""
    commit_bytes: ClassVar[int] = 8 * 2**20
    """Bytes of lines that trigger a commit, however little time has passed since the last one."""

    def __post_init__(self) -> None:
        self._check_choices(mode=self.modes, fsync=("full", "commit", "none"), surrogates=("refuse", "replace"))

    async def state(self) -> OutputState:
        """What the output holds: streams, rows, cursors, partitions and the last run. It may be read during a run.

        An output that does not exist is empty. Raises StateCorrupt and StateIncompatible, and OutputLocked for a DuckDB
        file that another process has open.
        """
        contents = await anyio.to_thread.run_sync(self.new_writer().inspect)
        return output_state(self.path, contents)

    async def runs(self, *, limit: int = 20) -> tuple[RunRecord, ...]:
        """The records of the last runs, the newest first; of 100 kept ones at most `limit`. See RunRecord.

        They may be read during a run. Raises StateCorrupt for a damaged record, and OutputLocked for a DuckDB file that
        another process has open.
        """
        stored = await anyio.to_thread.run_sync(self.new_writer().load_runs, limit)
        return tuple(RunRecord.from_bytes(run.record, run.location) for run in stored)

    async def reset(self, *names: str, drop: bool = False) -> None:
        """Forget what has been read of these streams, so that the next run reads them from the beginning.

        Their rows stay visible until the next run has replaced them. With `drop` they are removed at once. Raises
        ConfigError for a stream that the output does not have, OutputLocked during a run, OutputMissing,
        OutputWriteError, StateCorrupt and StateIncompatible.
        """
        await anyio.to_thread.run_sync(self._reset, names, drop)

    @abstractmethod
    def new_writer(self) -> DestinationWriter:
        """A writer for this destination, not opened yet."""

    def way_out(self, stream: str) -> str:
        """How to go on with a stream whose stored state does not fit any more, for the hint of StateIncompatible."""
        shown = f"{type(self).__name__}({os.fspath(self.path)!r})"
        return (
            f'to read {stream} from the beginning and replace its rows, call extract(refresh=("{stream}",)) once, or '
            f'await {shown}.reset("{stream}", drop=True); to keep them, extract to another path'
        )

    def _reset(self, names: Sequence[str], drop: bool) -> None:
        writer = self.new_writer()
        held = sorted(writer.inspect().ledger.streams)
        unknown = [name for name in names if name not in held]
        if unknown or not names:
            problem = f"{self.path} has no stream {unknown[0]!r}" if unknown else "no stream is named"
            raise ConfigError(f"reset: {problem}", hint=f"its streams: {', '.join(held)}" if held else None)
        try:
            writer.open(SystemClock().wall())
            writer.reset({"op": "reset", "streams": names, "drop": drop})
        finally:
            writer.close()

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


@runtime_checkable
class Sink(Protocol):
    """A custom destination: `await source.extract(to=sink, state=State.load("state.json"))`.

    Delivery is at least once. When `write` returns, the page counts as stored and the state advances past it. If the
    process ends before the state is saved, the next run writes the page again with the same `batch_id`. One page is
    written at a time, and the pages of a slice come in order. An exception from `write` ends the extraction and
    propagates unchanged.
    """

    async def write(self, page: Page, batch_id: str) -> None:
        """Store the records of a page; `batch_id` is the same whenever the same page of the same slice is written."""
        ...
