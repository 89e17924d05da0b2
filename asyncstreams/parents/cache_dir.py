"""The cache folder of parent logs between runs. All functions block: call them in a thread."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError
from ..storage.filesystem import file_name
from ..storage.framing import LOG_FORMAT, CorruptData, LogFooter
from .log_file import LogFile, open_complete

_log = logging.getLogger("asyncstreams")
_SUFFIX, _PARTIAL, _DAMAGED = ".parents", ".partial", ".damaged"
_ABANDONED_AFTER_S = 86_400.0  # since the last write to a partial file


def resolve_cache_dir(configured: str | os.PathLike[str] | None) -> Path:
    """The configured folder, or REQUEST_CACHE_PATH of the environment, or the user's cache folder, in this order.

    The Airbyte CDK uses the same variable.
    """
    if path := configured or os.environ.get("REQUEST_CACHE_PATH"):
        return Path(path)
    import platformdirs

    return platformdirs.user_cache_path("asyncstreams", appauthor=False)


class CacheDir:
    """The folder of cached parent logs. All methods may raise OSError, and ConfigError if others can write into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load_or_create_salt(self) -> bytes:
        """The random salt of this folder, with which fingerprints are keyed. It is created on first use."""
        self._create()
        path = self.path / "salt"
        for _ in range(2):
            with suppress(FileNotFoundError):
                return path.read_bytes()
            own = self.path / f"salt-{secrets.token_hex(8)}{_PARTIAL}"
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(32))
            finally:
                os.close(descriptor)
            try:
                os.link(own, path)  # fails if another process was faster: its salt is used
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(own, path)
            with suppress(OSError):
                os.unlink(own)
        return path.read_bytes()

    def log_path(self, stream: str, key: str) -> Path:
        return self.path / f"{file_name(stream)}-{key}{_SUFFIX}"

    def find(self, path: Path, now: float, ttl: float) -> tuple[LogFile, int, LogFooter] | None:
        """The log at `path`, the offset of its pages, and its footer; None if it is missing, unusable or too old.

        A log is too old when `ttl` seconds have passed since its read began. A corrupted log is renamed to `.damaged`,
        with a warning.
        """
        try:
            log, header, footer, start = open_complete(path)
        except FileNotFoundError:
            return None
        except CorruptData as error:
            renamed = path.with_suffix(_DAMAGED)
            _log.warning(
                "parent log %s is corrupted: %s; it is renamed to %s and the parent is fetched again",
                path.name,
                error,
                renamed.name,
            )
            os.replace(path, renamed)
            return None
        if header.format == LOG_FORMAT and 0 <= now - header.started_at < ttl:
            return log, start, footer
        log.close()
        if header.format != LOG_FORMAT:
            _log.warning(
                "parent log %s has format %d, but this version reads format %d; the parent is fetched again",
                path.name,
                header.format,
                LOG_FORMAT,
            )
        return None

    def create_partial(self, path: Path, started_at: float, now: float) -> LogFile:
        """A new log that `LogFile.finalize` can rename to `path`; `started_at` is when its read began."""
        self._create()
        self._remove_abandoned(now)
        return LogFile.create_partial(path.with_name(f"{path.stem}-{secrets.token_hex(8)}{_PARTIAL}"), started_at)

    def clear(self, path: Path) -> None:
        """Remove the log at `path` and its corrupted predecessor."""
        for file in (path, path.with_suffix(_DAMAGED)):
            with suppress(FileNotFoundError):
                os.unlink(file)

    def _create(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ConfigError(
                f"cache_dir {str(self.path)!r}: it is a symbolic link, or other users can write into it",
                hint="use a folder that only you can write into (chmod go-w)",
            )

    def _remove_abandoned(self, now: float) -> None:
        """Remove partial files of processes that ended without removing them."""
        for path in self.path.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                if now - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()
