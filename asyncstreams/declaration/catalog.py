"""What is told of the streams of a Source: can they be read, and what do they give?"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError

T = TypeVar("T")


def named(known: Mapping[str, T], name: object, owner: str) -> T:
    """What has this name. Raises ConfigError with the name that was probably meant."""
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str):
        hint = f'a name is needed, such as "{next(iter(known))}"; several are several arguments'
        raise ConfigError(f"{owner} has no stream {name!r}", hint=hint)
    close = difflib.get_close_matches(name, known, 1, 0.6)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"{owner} has no stream {name!r}", hint=f"{meant}there are {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What a stream gives: `json_schema` is that of one record, None where there is none.

    `primary_key` is a list of paths, as the Airbyte protocol has it; empty: there is no key.
    """

    name: str
    json_schema: dict[str, Any] | None
    primary_key: list[list[str]]


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """Whether a stream can be read and, if not, why. `has_schema` is None where nobody could look.

    `failed`: asking went wrong, so that nobody knows whether the stream is available.
    """

    stream: str
    available: bool
    reason: str | None
    has_schema: bool | None
    failed: bool = False

    def __str__(self) -> str:
        if not self.available:
            return f"{'failed' if self.failed else 'unavailable':11}  {self.reason}"
        return "available" if self.has_schema else "available    it has no schema: records are not checked"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One line for each stream; true when all of them can be read."""

    streams: tuple[StreamCheck, ...]

    def __bool__(self) -> bool:
        return all(stream.available for stream in self.streams)

    def __iter__(self) -> Iterator[StreamCheck]:
        return iter(self.streams)

    def __getitem__(self, name: str) -> StreamCheck:
        return named({stream.stream: stream for stream in self.streams}, name, "the report")

    def __str__(self) -> str:
        width = max(len(stream.stream) for stream in self.streams)
        indent = "\n" + " " * (width + 2)
        return "\n".join(f"{stream.stream:{width}}  {str(stream).replace(chr(10), indent)}" for stream in self.streams)
