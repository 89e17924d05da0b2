"""The part of its streams that an extraction reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias

from ..declaration.stream import Stream
from ..destinations.ledger import Mode
from ..errors import ConfigError
from ..protocols import SliceInput

RangeBound: TypeAlias = str | date | float | None
"""A bound of `since` or `until`: a time in ISO 8601, a date or datetime, or a number; None: no bound."""


@dataclass(frozen=True, slots=True)
class RunScope:
    """What the arguments of `extract` select.

    limit: the maximum number of records of each stream.
    slices: the slices to read in place of `stream_slices`, by stream.
    since, until: the range of the cursor to read, without `until`.
    refresh: the streams that are read from the beginning, and replaced when they are complete.
    """

    limit: int | None = None
    slices: Mapping[str, SliceInput] = field(default_factory=dict[str, SliceInput])
    since: RangeBound = None
    until: RangeBound = None
    refresh: Collection[str] = ()

    @property
    def is_range(self) -> bool:
        return self.since is not None or self.until is not None

    @property
    def is_partial(self) -> bool:
        """Whether the run leaves an unfinished run of all streams as it is, because it does not read all of them."""
        return self.limit is not None or bool(self.slices) or self.is_range

    def is_sample(self, stream: str, mode: Mode) -> bool:
        """Whether the run reads a stream without moving its state, so that a later run reads its records again."""
        return self.limit is not None or stream in self.slices or (self.is_range and mode == "replace")

    def check(self, class_name: str, streams: Sequence[Stream]) -> None:
        """Raises ConfigError for arguments that contradict each other or the streams."""
        names = [stream.name for stream in streams]
        refresh: object = self.refresh
        if isinstance(refresh, str) or not isinstance(refresh, Collection):
            raise ConfigError(
                f"{class_name}.extract(refresh={refresh!r}): expected names of streams, not a {type(refresh).__name__}",
                hint=f'write refresh=("{refresh if isinstance(refresh, str) else names[0]}",)',
            )
        for name in [*self.refresh, *self.slices]:
            if name not in names:
                raise ConfigError(
                    f"{class_name}.extract: {name!r} is not one of the streams to extract",
                    hint=f"they are: {', '.join(names)}",
                )
        if self.refresh and self.is_partial:
            raise ConfigError(
                f"{class_name}.extract: refresh cannot be combined with limit, slices, since or until",
                hint="a refresh reads the whole stream: use two calls",
            )
        if not self.is_range:
            return
        for stream in streams:
            if not stream.resolved.cursor_field:
                raise ConfigError(
                    f"{class_name}.extract: since and until need a cursor; stream {stream.name!r} has no cursor_field",
                    hint="name the streams to extract, or declare cursor_field",
                )


def reason_not_to_write(stream: Stream, mode: Mode) -> str:
    """Why the records of a sample are not written to a stream that has rows already; "" if they are.

    Upserts may be repeated, and without a cursor every run with mode="append" adds all records.
    """
    if mode == "upsert" or (
        mode == "append" and not stream.resolved.cursor_field and not stream.resolved.incremental_dependency
    ):
        return ""
    if mode == "replace":
        return "a run that is narrowed finishes no replacement"
    return "the next run would append them again"
