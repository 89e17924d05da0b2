"""State of several streams, stored in a file between runs."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import anyio
from anyio.lowlevel import checkpoint

from .._json import as_object, decode, encode
from ..clock import Clock
from ..declaration.stream import Stream
from ..errors import ConfigError, MalformedJSON, StateCorrupt, StateIncompatible
from ..models import Slice
from ..protocols import SliceInput
from ..storage.file_lock import LockedFile
from .airbyte_state import StateInput, by_stream_name, merge_airbyte_state
from .compatibility import check_compatible, identity_of, identity_with_credential, use_declared_cursor
from .stream_selection import ReadOutcome, StreamSelection, state_of
from .stream_state import StreamState, empty_state

_FORMAT = 3
_READABLE_FORMATS = (2, 3)
_MIN_SAVE_INTERVAL_S = 1.0
_SAVE_INTERVAL_PER_DURATION = 20  # saves take at most 1/20 of the time
_BEGINNING = b'{"sum":'
_MAX_PIECES_PER_TURN = 200  # a millisecond or two, so that the event loop stays responsive
_loaded: WeakValueDictionary[Path, State] = WeakValueDictionary()
"""The states of files in this process: two States of one file would overwrite each other."""
_loading = threading.Lock()


class State(Mapping[str, StreamState]):
    """The progress of several streams: a mapping from stream names to StreamState, optionally stored in a file.

    Pass it as `state=` when reading. It advances in place as pages are acknowledged, never past a page that is
    not. A state that was loaded from a file is saved periodically and when the read is closed; `await save()`
    saves it at once.

    While it is read with, its file is locked: another process that reads with it gets OutputLocked. Several reads of
    one process may share a State. A file that was changed by others since it was loaded is refused with
    StateIncompatible, whose `field` is "file".
    """

    def __init__(self) -> None:
        self._file: LockedFile | None = None
        self._allow_credential_change = False
        self._salt = secrets.token_hex(16)
        self._streams: dict[str, StreamState] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._unbound: dict[str, Any] = {}  # loaded states of streams that have not been read yet
        self._airbyte: dict[str, Mapping[str, Any]] = {}  # those that are still in the form of Airbyte
        self._parents: dict[str, Mapping[str, StreamState]] = {}  # of finished streams: the states of their parents
        self._has_unsaved_changes = False
        self._restarts = 0
        self._saved_at: float | None = None
        self._save_duration = 0.0

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_credential_change: bool = False) -> Self:
        """The state in a file; an empty state that will be saved there, if the file does not exist.

        A file that this process has loaded before gives the same State, unless another program has changed the file.
        With `allow_credential_change` the state remains valid if the credential of a stream has changed.

        Blocking: a file with 100,000 slices takes about a second. Raises StateCorrupt, StateIncompatible, and OSError
        if the file cannot be read.
        """
        with _loading:
            state = _loaded.get(Path(path).resolve())
            if not isinstance(state, cls) or not state._is_current:
                state = cls()
                state._open(path)
            state._allow_credential_change = state._allow_credential_change or allow_credential_change
            return state

    @classmethod
    def from_airbyte(cls, state: StateInput, path: str | os.PathLike[str] | None = None) -> Self:
        """The state of several streams from Airbyte: its state messages, or a mapping from stream names to states.

        `state` may also be the JSON text of these. Each stream converts its part when it is first read, and logs what
        it cannot use. With `path` the result is saved in that file, which must not exist; later runs load it.

        Raises ConfigError.
        """
        converted = cls()
        converted._airbyte = dict(by_stream_name(state))
        if path is not None:
            hint = "use State.load for a state that was converted before, or delete the file to convert again"
            converted._begin_file(path, ConfigError(f"State.from_airbyte: {path} exists", hint=hint))
        return converted

    @classmethod
    def from_json(cls, state: Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> Self:
        """The state in a result of `to_json`. With `path` it is saved in that file, which must not exist.

        Raises ConfigError, StateCorrupt and StateIncompatible.
        """
        restored = cls()
        restored._read_json("the given state", state)
        if path is not None:
            hint = "use State.load for the state in this file, or pass another path"
            restored._begin_file(path, ConfigError(f"State.from_json: {path} exists", hint=hint))
        return restored

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of the file, if there is one.

        Raises OutputLocked, OutputWriteError, and StateIncompatible if another program has changed the file.
        """
        return nullcontext() if self._file is None else self._file.locked()

    async def save(self) -> None:
        """Write the state to its file and flush it to disk, atomically; does nothing without a file.

        Raises OutputWriteError, which leaves the previous file unchanged, OutputLocked if another process reads with
        it, and StateIncompatible if another program has changed it.
        """
        if self._file is None:
            return
        with self._file.locked():
            number = self._file.next_number()
            self._has_unsaved_changes = False
            try:
                payload = await self._encode()
                await anyio.to_thread.run_sync(self._file.replace, number, _to_text, payload)
            except BaseException:
                self._has_unsaved_changes = True
                raise

    async def save_when_due(self, clock: Clock) -> None:
        """Save changes, at most once a second and for at most 1/20 of the time. Raises OutputWriteError."""
        if not self._has_unsaved_changes or self._file is None:
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
        """The state of a stream; empty if it was never read.

        Raises StateIncompatible, StateCorrupt, and ConfigError for a state of Airbyte that cannot be used.
        """
        name, identity = stream.name, identity_of(stream)
        stored = self._unbound.get(name, {})
        check_compatible(name, stored.get("identity") or self._identities.get(name, {}), identity)
        new, known = empty_state(identity), self._streams.get(name)
        if known is not None and known.has_parents_of(new):
            use_declared_cursor(known, stream)
            return known
        if known is not None:  # the stream has other parents now
            new.merge_json(known.to_json())
        elif stored:
            new.merge_json(stored["partitions"])
            self._identities[name] = stored["identity"]
        elif name in self._airbyte:
            merge_airbyte_state(stream, new, self._airbyte[name])
        self._unbound.pop(name, None)
        self._airbyte.pop(name, None)
        self._streams[name] = new
        return new

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

    def record_failure(self, stream: Stream, stream_slice: Slice, error: Exception) -> None:
        """Does nothing: the caller receives the errors."""

    def finish_stream(self, stream: str, read: ReadOutcome, parents: Mapping[str, StreamState]) -> None:
        """Remember the parents' states; `restart` applies them once every page is acknowledged."""
        self._parents[stream] = parents

    async def restart(self, stream: str) -> None:
        """After a complete read: forget partitions without intervals, and continue from the parents' states."""
        self._restarts += 1
        for _ in self._streams[stream].restart_in_steps(self._parents.pop(stream, None)):
            await checkpoint()
        self._restarts += 1  # a text that was begun in between is begun again
        self._has_unsaved_changes = True

    def forget(self, *names: str) -> None:
        """Forget what has been read of these streams, so that the next read begins at their first records.

        `await save()` stores it. Raises ConfigError for a stream that the state does not have.
        """
        parts: tuple[dict[str, Any], ...] = (self._streams, self._identities, self._unbound, self._airbyte)
        known = sorted({name for part in parts for name in part})
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"State.forget: there is no stream {name!r}",
                    hint=f"its streams: {', '.join(known)}" if known else None,
                )
        for name in names:
            for part in parts:
                part.pop(name, None)
        self._restarts += 1  # a text that was begun before is begun again
        self._has_unsaved_changes = True

    def to_text(self) -> bytes:
        """The complete state, as it is stored in a file."""
        return _to_text(encode(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """The complete state, as JSON values."""
        streams = dict(self._unbound)
        for name, state in self._streams.items():
            streams[name] = {"identity": self._identities.get(name, {}), "partitions": state.to_json()}
        return {**self._header, "streams": streams}

    def __getitem__(self, name: str) -> StreamState:
        return self._streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def __bool__(self) -> bool:
        return any(self._streams.values()) or bool(self._unbound) or bool(self._airbyte)

    def __repr__(self) -> str:
        names = ", ".join(sorted({*self._streams, *self._unbound, *self._airbyte}))
        return f"<State of {names or 'nothing'}>"

    @property
    def _is_current(self) -> bool:
        """Whether the file is in use, or as this state left it."""
        return self._file is not None and (self._file.is_locked or not self._file.has_changed())

    def _begin_file(self, path: str | os.PathLike[str], exists: ConfigError) -> None:
        """Keep a file that does not exist as the file of this state; otherwise raise `exists`."""
        with _loading:
            if Path(path).exists():
                raise exists
            self._open(path)
        self._has_unsaved_changes = True

    def _open(self, path: str | os.PathLike[str]) -> None:
        """Read the file, if it exists, and keep it as the file of this state."""
        self._file = LockedFile(Path(path), "state")
        text = self._file.read()
        if text is not None:
            self._read_text(self._file.path, text)
        _loaded[Path(path).resolve()] = self

    @property
    def _header(self) -> dict[str, Any]:
        return {"format": _FORMAT, "salt": self._salt, **({"airbyte": self._airbyte} if self._airbyte else {})}

    async def _encode(self) -> bytes:
        """The JSON text of `to_json`, made in turns with the other tasks of the event loop."""
        while True:
            restarts, pieces = self._restarts, list[bytes]()
            for piece in self._encoded():
                pieces.append(piece)
                if len(pieces) % _MAX_PIECES_PER_TURN == 0:
                    await checkpoint()
                    if self._restarts != restarts:
                        break
            else:
                return b"".join(pieces)

    def _encoded(self) -> Iterator[bytes]:
        yield encode({**self._header, "streams": {}})[:-2]
        separator = b""
        for name, stored in tuple(self._unbound.items()):
            yield separator + encode(name) + b":" + encode(stored)
            separator = b","
        for name, state in tuple(self._streams.items()):
            identity = encode(self._identities.get(name, {}))
            yield separator + encode(name) + b':{"identity":' + identity + b',"partitions":'
            yield from state.encoded()
            yield b"}"
            separator = b","
        yield b"}}"

    def _read_text(self, path: Path, text: bytes) -> None:
        self._read_json(str(path), _verified(path, text))

    def _read_json(self, location: str, payload: Mapping[str, Any]) -> None:
        """Take over a result of `to_json`. Raises StateCorrupt and StateIncompatible."""
        if payload.get("format") not in _READABLE_FORMATS:
            raise StateIncompatible(
                f"state: {location} has format {payload.get('format')!r}; this version reads formats "
                f"{' and '.join(map(str, _READABLE_FORMATS))}",
                field="format",
                hint="if a newer version of asyncstreams wrote it, use that version",
            )
        self._salt, self._airbyte = payload["salt"], dict(payload.get("airbyte", {}))
        for name, stored in payload["streams"].items():
            try:
                state = empty_state(stored["identity"])
            except ConfigError:  # the stream may have another declaration now
                self._unbound[name] = stored
                continue
            state.merge_json(stored["partitions"])
            self._streams[name], self._identities[name] = state, stored["identity"]


def state_json(salt: str, streams: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `State.to_json` returns for these streams: each has its `identity` and its `partitions`.

    `salt` is that of the fingerprints in them.
    """
    return {"format": _FORMAT, "salt": salt, "streams": dict(streams)}


def select_stream(stream: Stream, slices: SliceInput | None, state: StateInput, limit: int | None) -> StreamSelection:
    """A stream selected for a read; `state` is a State, or a state of the caller. Raises ConfigError."""
    if isinstance(state, State):
        return StreamSelection(stream, slices, state.of(stream), limit, state_store=state)
    return StreamSelection(stream, slices, state_of(stream, state), limit)


def _checksum(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _to_text(payload: bytes) -> bytes:
    return _BEGINNING + b' "' + _checksum(payload).encode() + b'", "state": ' + payload + b"}\n"


def _verified(path: Path, text: bytes) -> dict[str, Any]:
    """The state in a file. Raises StateCorrupt."""
    try:
        document = as_object(decode(text)) or {}
    except MalformedJSON:
        document = {}
    payload = as_object(document.get("state"))
    if payload is not None and document.get("sum") == _checksum(encode(payload)):
        return payload
    previous = LockedFile.previous_path(path)
    if text.strip() and not text.startswith(_BEGINNING) and not previous.exists():
        raise StateCorrupt(
            f"state: {path} is not a state of asyncstreams",
            hint="to convert a state of Airbyte, pass its text to State.from_airbyte(text, path), with another path",
        )
    restore = f"restore the previous save, {previous}, or " if previous.exists() else ""
    raise StateCorrupt(
        f"state: {path} is corrupt: its checksum does not match its content",
        hint=f"{restore}delete the state files to read everything again; rows will then be delivered twice",
    )
