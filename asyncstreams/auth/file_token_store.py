"""Store of OAuth2 tokens in a file that only its owner can read, with a lock over processes."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

from .._json import as_object, decode, encode
from ..clock import Clock, SystemClock
from ..errors import ConfigError, MalformedJSON, OutputLocked, OutputWriteError, StateCorrupt
from ..models import Secret
from ..storage.file_lock import OutputLock
from ..storage.filesystem import FileSystem, write_file
from .tokens import Oauth2Tokens

_FORMAT = 1
_POLL_S = 0.05
_READABLE_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class FileTokenStore:
    """A TokenStore in one file, with mode 0600, for any number of clients and accounts.

    A lock beside it, `<path>.lock`, is held during each renewal: processes on one machine renew a token one after
    the other, and the later one finds the token of the earlier. The file is replaced atomically, and flushed to the
    disk before the new token is used.

    lock_timeout: seconds to wait for the renewal of another process; then OutputLocked names it.

    Raises ConfigError if others may read the file, StateCorrupt if it cannot be understood, and OutputWriteError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lock_timeout: float = 120.0, clock: Clock | None = None
    ) -> None:
        if not lock_timeout > 0:
            raise ConfigError(f"FileTokenStore(lock_timeout={lock_timeout!r}): must be seconds > 0")
        self._path = Path(path)
        self._lock_timeout = lock_timeout
        self._clock: Clock = clock or SystemClock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileTokenStore) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __repr__(self) -> str:
        return f"FileTokenStore({os.fspath(self._path)!r})"

    @asynccontextmanager
    async def exclusive(self, key: str, /) -> AsyncGenerator[Oauth2Tokens | None]:
        """Hold the lock of the file, and give the tokens that it has for this key."""
        lock = await self._acquire_lock()
        try:
            yield await anyio.to_thread.run_sync(self._load, key)
        finally:
            lock.release()

    async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
        """Write the tokens of this key to the file; those of other keys remain."""
        await anyio.to_thread.run_sync(self._replace, key, tokens)

    async def _acquire_lock(self) -> OutputLock:
        lock_path = self._path.with_name(f"{self._path.name}.lock")
        give_up_at = self._clock.monotonic() + self._lock_timeout
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                try:
                    # Not in a thread: a cancellation would lose the lock with its result.
                    return OutputLock(lock_path, self._clock.wall(), locked_path=self._path)
                except OutputLocked as error:
                    if self._clock.monotonic() >= give_up_at:
                        error.args = (f"{error.message}, and was not released for {self._lock_timeout:g} s",)
                        error.hint = "wait until that run has ended"
                        raise
                await self._clock.sleep(_POLL_S)
        except OSError as error:
            raise self._write_error(error) from error

    def _load(self, key: str) -> Oauth2Tokens | None:
        fields = as_object(self._load_all().get(key))
        if fields is None:
            return None
        access, refresh = fields.get("access_token"), fields.get("refresh_token")
        lifetime, expires_at = fields.get("lifetime"), fields.get("expires_at")
        if not isinstance(access, str) or not isinstance(lifetime, int | float):
            raise self._corrupt("an entry has no token")
        return Oauth2Tokens(
            Secret(access),
            Secret(refresh) if isinstance(refresh, str) else None,
            float(lifetime),
            float(expires_at) if isinstance(expires_at, int | float) else None,
        )

    def _load_all(self) -> dict[str, Any]:
        try:
            file = os.open(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._corrupt(error.strerror or "it cannot be read") from error
        with os.fdopen(file, "rb") as opened:
            if os.name == "posix" and os.fstat(opened.fileno()).st_mode & _READABLE_BY_OTHERS:
                raise ConfigError(
                    f"FileTokenStore: other users can read the tokens in {self._path}",
                    hint=f"run chmod 600 {self._path}",
                )
            text = opened.read()
        try:
            content = as_object(decode(text))
        except MalformedJSON:
            content = None
        tokens = None if content is None or content.get("format") != _FORMAT else as_object(content.get("tokens"))
        if tokens is None:
            raise self._corrupt("it is not a file of tokens")
        return tokens

    def _replace(self, key: str, tokens: Oauth2Tokens) -> None:
        refresh = tokens.refresh_token
        entry = {
            "access_token": tokens.access_token.reveal(),
            "refresh_token": None if refresh is None else refresh.reveal(),
            "lifetime": tokens.lifetime,
            "expires_at": tokens.expires_at,
        }
        text = encode({"format": _FORMAT, "tokens": {**self._load_all(), key: entry}})
        fs, new_path = FileSystem(), self._path.with_name(f"{self._path.name}.new")
        try:
            with suppress(FileNotFoundError):
                fs.unlink(new_path)  # of a process that was killed
            write_file(fs, new_path, text, synced=True)
            fs.rename(new_path, self._path)
            fs.sync_folder(self._path.parent)
        except OSError as error:
            raise self._write_error(error) from error

    def _write_error(self, error: OSError) -> OutputWriteError:
        return OutputWriteError(
            f"FileTokenStore: cannot write {self._path}: {error.strerror or error}",
            hint="check permissions and free space; a rotated token that is lost requires a new authorization",
        )

    def _corrupt(self, problem: str) -> StateCorrupt:
        return StateCorrupt(
            f"FileTokenStore: {self._path}: {problem}",
            hint="restore the file, or delete it and authorize again: an old refresh token may be refused",
        )
