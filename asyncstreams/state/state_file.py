"""Where is the state of streams kept between runs, and is it still that of the same streams?"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import anyio

from .._json import as_object, decode, encode
from ..clock import Clock
from ..errors import MalformedJSON, OutputWriteError, StateCorrupt, StateIncompatible
from ..protocols import SliceInput, Stream
from ..storage.filesystem import FileSystem, write_file
from .compatibility import compare, identity_of, with_credential
from .stream_selection import ReadOutcome, StreamSelection, state_of
from .stream_state import StreamState, empty_state

_FORMAT = 2
_LEAST_PAUSE = 1.0  # seconds between two saves
_SHARE = 20  # saving takes at most this part of the time


class State(Mapping[str, StreamState]):
    """What has been read of streams, by their names; kept in a file where it was loaded from one.

    Pass it as `state=` to a reading: it moves in place as pages are acknowledged, never past one that is not, and
    writes itself back from time to time and when the reading is left. `await save()` when it must be sure.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._any_credential = False
        self._salt = secrets.token_hex(16)
        self._streams: dict[str, StreamState] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._unbound: dict[str, Any] = {}  # what was loaded of streams that nobody has read yet
        self._parents: dict[str, Mapping[str, StreamState]] = {}  # what those that have ended were read of
        self._is_moved = False
        self._saved_at: float | None = None
        self._took = 0.0

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_credential_change: bool = False) -> Self:
        """The state in a file, or a new one that will be kept there.

        With `allow_credential_change` it is taken over by a credential that has changed. Raises StateCorrupt and
        StateIncompatible; OSError where the file cannot be read.
        """
        state = cls()
        state._path, state._any_credential = Path(path), allow_credential_change
        with suppress(FileNotFoundError):
            state._take(state._path.read_bytes())
        return state

    async def save(self) -> None:
        """Write it down, so that it outlives a loss of power. Raises OutputWriteError; what was there stays then."""
        if self._path is None:
            return
        path, text = self._path, self._to_text()
        self._is_moved = False
        try:
            await anyio.to_thread.run_sync(_replace, path, text)
        except OSError as error:
            self._is_moved = True
            raise OutputWriteError(
                f"the state cannot be written to {path}: {error.strerror or error}",
                hint=f"{len(text):,} bytes are needed; what was written there before is intact",
            ) from error

    async def saved_when_due(self, clock: Clock) -> None:
        """Save what has moved, if that was not done a moment ago. Raises OutputWriteError."""
        if not self._is_moved or self._path is None:
            return
        now = clock.monotonic()
        if self._saved_at is not None and now - self._saved_at < max(_LEAST_PAUSE, _SHARE * self._took):
            return
        await self.save()
        self._saved_at = clock.monotonic()
        self._took = self._saved_at - now

    async def saved_if_moved(self) -> None:
        """At the end of a reading. Raises OutputWriteError."""
        if self._is_moved:
            await self.save()

    def of(self, stream: Stream) -> StreamState:
        """The state of a stream, which is empty when it was never read. Raises StateIncompatible and StateCorrupt."""
        found = self._streams.get(stream.name)
        if found is None:
            found = empty_state(identity_of(stream))
            if stream.name in self._unbound:
                told = self._unbound[stream.name]
                compare(stream.name, told["identity"], identity_of(stream))
                found.read_json(told["partitions"])
                self._identities[stream.name] = told["identity"]
                del self._unbound[stream.name]
            self._streams[stream.name] = found
        return found

    def check(self, stream: Stream) -> None:
        """Raises StateIncompatible for a stream that is not the one whose state this is."""
        now = with_credential(stream, self._salt)
        compare(stream.name, self._identities.get(stream.name, now), now, allow_credential_change=self._any_credential)
        self._identities[stream.name] = now

    @property
    def needs_schema(self) -> bool:
        return False

    def described(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        """A state is the same whatever records look like."""

    def moved(self, stream: str) -> None:
        self._is_moved = True

    def ended(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """Whether all of a reading is safe is known at its end."""
        self._parents[stream] = parents

    def begin_anew(self, stream: str) -> None:
        """All of a stream has been read: forget its slices without a cursor, and go on from where its parents are."""
        self._streams[stream].begin_anew(self._parents.pop(stream, None))
        self._is_moved = True

    def to_json(self) -> dict[str, Any]:
        """All that is known, as JSON values."""
        streams = dict(self._unbound)
        for name, state in self._streams.items():
            streams[name] = {"identity": self._identities.get(name, {}), "partitions": state.to_json()}
        return {"format": _FORMAT, "salt": self._salt, "streams": streams}

    def __getitem__(self, name: str) -> StreamState:
        return self._streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def __bool__(self) -> bool:
        return any(self._streams.values()) or bool(self._unbound)

    def __repr__(self) -> str:
        names = ", ".join(sorted({*self._streams, *self._unbound}))
        return f"<State of {names or 'nothing'}>"

    def _to_text(self) -> bytes:
        told = encode(self.to_json())
        return b'{"sum": "' + _sum(told).encode() + b'", "state": ' + told + b"}\n"

    def _take(self, text: bytes) -> None:
        told = self._checked(text)
        if told.get("format") != _FORMAT:
            raise StateIncompatible(
                f"the state in {self._path} has format {told.get('format')!r}, and this version writes {_FORMAT}",
                field="format",
                hint="was it written by a newer version? then read it with that one",
            )
        self._salt, self._unbound = told["salt"], dict(told["streams"])

    def _checked(self, text: bytes) -> dict[str, Any]:
        try:
            told = as_object(decode(text)) or {}
        except MalformedJSON:
            told = {}
        inner = as_object(told.get("state"))
        if inner is not None and told.get("sum") == _sum(encode(inner)):
            return inner
        assert self._path is not None
        previous = _previous(self._path)
        kept = f"; the one that was saved before it is {previous}" if previous.exists() else ""
        raise StateCorrupt(
            f"what is in {self._path} is not the state that was written there{kept}",
            hint="put that in its place, or remove both to read everything again: rows will come twice",
        )


def select(
    stream: Stream, slices: SliceInput | None, told: Mapping[str, Any] | None, limit: int | None
) -> StreamSelection:
    """A stream that is to be read, with its state: one that is kept, or what the caller tells. Raises ConfigError."""
    if isinstance(told, State):
        return StreamSelection(stream, slices, told.of(stream), limit, keeper=told)
    return StreamSelection(stream, slices, state_of(stream, told), limit)


def _sum(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _replace(path: Path, text: bytes) -> None:
    """Write a file anew, at once and for good; what was in it before is kept beside it."""
    fs = FileSystem()
    fs.make_folder(path.parent)
    own = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    write_file(fs, own, text, synced=True)
    with suppress(OSError):  # where there is none yet, or no links
        link = own.with_suffix(".link")
        os.link(path, link)
        fs.rename(link, _previous(path))
    fs.rename(own, path)
    fs.sync_folder(path.parent)
