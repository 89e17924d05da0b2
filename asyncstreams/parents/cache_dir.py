"""Where are parent logs kept between runs, and which of them may be used? Blocking: to be called in threads."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

from ..errors import ConfigError
from ..storage.framing import LOG_FORMAT, CorruptData, LogFooter
from .log_file import LogFile, whole

_log = logging.getLogger("asyncstreams")
_SUFFIX, _PARTIAL, _DAMAGED = ".parents", ".partial", ".damaged"
_ABANDONED = 86_400.0  # seconds since a partial was written to last


def cache_folder(given: str | os.PathLike[str] | None) -> Path:
    """`given`, else the environment's REQUEST_CACHE_PATH, as with the Airbyte CDK, else the user's cache folder."""
    told = given or os.environ.get("REQUEST_CACHE_PATH")
    return Path(told) if told else platformdirs.user_cache_path("asyncstreams", appauthor=False)


class CacheDir:
    """The folder of a stream's kept logs. All may raise OSError, and ConfigError where others can write into it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def salt(self) -> bytes:
        """What makes the keys of this folder its own; made when it is first asked for."""
        self._make()
        path = self.path / "salt"
        for _ in range(2):
            with suppress(FileNotFoundError):
                return path.read_bytes()
            own = self.path / f"salt-{secrets.token_hex(8)}{_PARTIAL}"
            made = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(made, secrets.token_bytes(32))
            finally:
                os.close(made)
            try:
                os.link(own, path)  # unless another process was faster: then its salt counts
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(own, path)
            with suppress(OSError):
                os.unlink(own)
        return path.read_bytes()

    def file(self, beginning: str, key: str) -> Path:
        return self.path / f"{beginning}-{key}{_SUFFIX}"

    def find(self, path: Path, now: float, ttl: float) -> tuple[LogFile, int, LogFooter] | None:
        """A kept log that is whole and young enough; one that is damaged is set aside, with a warning."""
        try:
            log, begin, counts, start = whole(path)
        except FileNotFoundError:
            return None
        except CorruptData as error:
            aside = path.with_suffix(_DAMAGED)
            _log.warning("the parent log %s is damaged: %s; it is set aside as %s", path.name, error, aside.name)
            os.replace(path, aside)
            return None
        if begin.format == LOG_FORMAT and 0 <= now - begin.started_at < ttl:
            return log, start, counts
        log.close()
        if begin.format != LOG_FORMAT:
            _log.warning(
                "the parent log %s has format %d and this version reads format %d; the parent is fetched again",
                path.name,
                begin.format,
                LOG_FORMAT,
            )
        return None

    def partial(self, path: Path, at: float, now: float) -> LogFile:
        """A new log that is to become `path`; what it holds was asked for from `at` on."""
        self._make()
        self._tidy(now)
        return LogFile.partial(path.with_name(f"{path.stem}-{secrets.token_hex(8)}{_PARTIAL}"), at)

    def clear(self, path: Path) -> None:
        """Remove what is kept, and what was set aside."""
        for one in (path, path.with_suffix(_DAMAGED)):
            with suppress(FileNotFoundError):
                os.unlink(one)

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        told = os.lstat(self.path)
        if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid() or told.st_mode & 0o022:
            raise ConfigError(
                f"cache_dir {str(self.path)!r} is a link, or others can write into it: parents are not kept there",
                hint="give a folder of your own, which nobody else can write into (chmod go-w)",
            )

    def _tidy(self, now: float) -> None:
        """Remove what a process that is gone has left."""
        for path in self.path.glob(f"*{_PARTIAL}"):
            with suppress(OSError):
                if now - path.stat().st_mtime > _ABANDONED:
                    path.unlink()
