"""State of several streams, stored in a file between runs."""

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
from .compatibility import check_compatible, identity_of, identity_with_credential
from .stream_selection import ReadOutcome, StreamSelection, state_of
from .stream_state import StreamState, empty_state

_FORMAT = 2
_MIN_SAVE_INTERVAL_S = 1.0
_SAVE_INTERVAL_PER_DURATION = 20  # saves take at most 1/20 of the time


class State(Mapping[str, StreamState]):
    """The progress of several streams: a mapping from stream names to StreamState, optionally stored in a file.

    Pass it as `state=` when reading. It advances in place as pages are acknowledged, never past a page that is
    not. A state that was loaded from a file is saved periodically and when the read is closed; `await save()`
    saves it at once.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._allow_credential_change = False
        self._salt = secrets.token_hex(16)
        self._streams: dict[str, StreamState] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._unbound: dict[str, Any] = {}  # loaded states of streams that have not been read yet
        self._parents: dict[str, Mapping[str, StreamState]] = {}  # of finished streams: the states of their parents
        self._has_unsaved_changes = False
        self._saved_at: float | None = None
        self._save_duration = 0.0

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_credential_change: bool = False) -> Self:
        """The state in a file; an empty state that will be saved there, if the file does not exist.

        With `allow_credential_change` the state remains valid if the credential of a stream has changed. Raises
        StateCorrupt, StateIncompatible, and OSError if the file cannot be read.
        """
        state = cls()
        state._path, state._allow_credential_change = Path(path), allow_credential_change
        with suppress(FileNotFoundError):
            state._read_text(state._path.read_bytes())
        return state

    async def save(self) -> None:
        """Write the state to its file and flush it to disk, atomically; does nothing without a file.

        Raises OutputWriteError, which leaves the previous file unchanged.
        """
        if self._path is None:
            return
        path, text = self._path, self._to_text()
        self._has_unsaved_changes = False
        try:
            await anyio.to_thread.run_sync(_replace_file, path, text)
        except OSError as error:
            self._has_unsaved_changes = True
            raise OutputWriteError(
                f"state: cannot write {path}: {error.strerror or error}",
                hint=f"free {len(text):,} bytes, or check the permissions; the previous file is unchanged",
            ) from error

    async def save_when_due(self, clock: Clock) -> None:
        """Save changes, at most once a second and for at most 1/20 of the time. Raises OutputWriteError."""
        if not self._has_unsaved_changes or self._path is None:
            return
        now = clock.monotonic()
        if self._saved_at is not None and now - self._saved_at < max(
            _MIN_SAVE_INTERVAL_S, _SAVE_INTERVAL_PER_DURATION * self._save_duration
        ):
            return
        await self.save()
        self._saved_at = clock.monotonic()
        self._save_duration = self._saved_at - now

    async def save_if_changed(self) -> None:
        """Save unsaved changes. Raises OutputWriteError."""
        if self._has_unsaved_changes:
            await self.save()

    def of(self, stream: Stream) -> StreamState:
        """The state of a stream; empty if it was never read. Raises StateIncompatible and StateCorrupt."""
        state = self._streams.get(stream.name)
        if state is None:
            state = empty_state(identity_of(stream))
            if stream.name in self._unbound:
                stored = self._unbound[stream.name]
                check_compatible(stream.name, stored["identity"], identity_of(stream))
                state.merge_json(stored["partitions"])
                self._identities[stream.name] = stored["identity"]
                del self._unbound[stream.name]
            self._streams[stream.name] = state
        return state

    def check_stream(self, stream: Stream) -> None:
        """Check the identity and credential of a stream against its state. Raises StateIncompatible."""
        identity = identity_with_credential(stream, self._salt)
        known = self._identities.get(stream.name, identity)
        check_compatible(stream.name, known, identity, allow_credential_change=self._allow_credential_change)
        self._identities[stream.name] = identity
        self.of(stream).use_salt(bytes.fromhex(self._salt))

    @property
    def needs_schema(self) -> bool:
        """False: a state does not depend on schemas."""
        return False

    def describe_stream(self, stream: Stream, schema: Mapping[str, Any] | None) -> None:
        """Does nothing."""

    def mark_progress(self, stream: str) -> None:
        """Note that the state has unsaved changes."""
        self._has_unsaved_changes = True

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """Remember the parents' states; `restart` applies them once every page is acknowledged."""
        self._parents[stream] = parents

    def restart(self, stream: str) -> None:
        """After a complete read: forget partitions without intervals, and continue from the parents' states."""
        self._streams[stream].restart(self._parents.pop(stream, None))
        self._has_unsaved_changes = True

    def to_json(self) -> dict[str, Any]:
        """The complete state, as JSON values."""
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
        payload = encode(self.to_json())
        return b'{"sum": "' + _checksum(payload).encode() + b'", "state": ' + payload + b"}\n"

    def _read_text(self, text: bytes) -> None:
        payload = self._verified(text)
        if payload.get("format") != _FORMAT:
            raise StateIncompatible(
                f"state: {self._path} has format {payload.get('format')!r}; this version reads format {_FORMAT}",
                field="format",
                hint="if a newer version of asyncstreams wrote it, use that version",
            )
        self._salt, self._unbound = payload["salt"], dict(payload["streams"])

    def _verified(self, text: bytes) -> dict[str, Any]:
        try:
            document = as_object(decode(text)) or {}
        except MalformedJSON:
            document = {}
        payload = as_object(document.get("state"))
        if payload is not None and document.get("sum") == _checksum(encode(payload)):
            return payload
        assert self._path is not None
        previous = _previous_path(self._path)
        restore = f"restore the previous save, {previous}, or " if previous.exists() else ""
        raise StateCorrupt(
            f"state: {self._path} is corrupt: its checksum does not match its content",
            hint=f"{restore}delete the state files to read everything again; rows will then be delivered twice",
        )


def select_stream(
    stream: Stream, slices: SliceInput | None, state: Mapping[str, Any] | None, limit: int | None
) -> StreamSelection:
    """A stream selected for a read; `state` is a State, or a mapping of the caller. Raises ConfigError."""
    if isinstance(state, State):
        return StreamSelection(stream, slices, state.of(stream), limit, state_store=state)
    return StreamSelection(stream, slices, state_of(stream, state), limit)


def _checksum(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _replace_file(path: Path, text: bytes) -> None:
    """Replace a file atomically and durably; its previous content stays beside it as `.previous`."""
    fs = FileSystem()
    fs.make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    write_file(fs, partial, text, synced=True)
    with suppress(OSError):  # no previous file, or a file system without hard links
        link = partial.with_suffix(".link")
        os.link(path, link)
        fs.rename(link, _previous_path(path))
    fs.rename(partial, path)
    fs.sync_folder(path.parent)
