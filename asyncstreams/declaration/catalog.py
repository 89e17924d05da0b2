"""Results of `Source.check` and `Source.discover`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError
from ..html_tables import html_table

T = TypeVar("T")


def find_named(known: Mapping[str, T], name: object, class_name: str) -> T:
    """The value with this name. Raises ConfigError, which suggests a similar name."""
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str):
        hint = f'pass names such as "{next(iter(known))}", each as a separate argument'
        raise ConfigError(f"{class_name} has no stream {name!r}", hint=hint)
    close = difflib.get_close_matches(name, known, 1, 0.6)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"{class_name} has no stream {name!r}", hint=f"{suggestion}the streams are {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """The name, schema and primary key of a stream, as `Source.discover` returns it."""

    name: str
    json_schema: dict[str, Any] | None
    """JSON schema of one record, or None."""
    primary_key: list[list[str]]
    """The paths of the key fields, as in the Airbyte protocol; empty without a key."""


@dataclass(frozen=True, slots=True)
class StreamCheck:
    """The availability of one stream, as `Source.check` returns it."""

    stream: str
    available: bool
    reason: str | None
    """The reason why the stream is not available, or None."""
    has_schema: bool | None
    """Whether the stream has a schema; None if that is unknown."""
    failed: bool = False
    """Whether the check itself failed, so that the availability is unknown."""

    def __str__(self) -> str:
        if not self.available:
            return f"{'failed' if self.failed else 'unavailable':11}  {self.reason}"
        return "available" if self.has_schema else "available    without a schema, records are not validated"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The checks of all streams, by name; true if all streams are available. `str()` gives one line per stream."""

    streams: tuple[StreamCheck, ...]

    def __bool__(self) -> bool:
        return all(stream.available for stream in self.streams)

    def __iter__(self) -> Iterator[StreamCheck]:
        return iter(self.streams)

    def __getitem__(self, name: str) -> StreamCheck:
        return find_named({stream.stream: stream for stream in self.streams}, name, "the report")

    def __str__(self) -> str:
        width = max(len(stream.stream) for stream in self.streams)
        indent = "\n" + " " * (width + 2)
        return "\n".join(f"{stream.stream:{width}}  {str(stream).replace(chr(10), indent)}" for stream in self.streams)

    def _repr_html_(self) -> str:
        rows = [
            (stream.stream, *(part.strip() for part in str(stream).partition("  ")[::2])) for stream in self.streams
        ]
        return html_table(("stream", "status", "details"), rows)
