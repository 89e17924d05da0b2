"""The folder of the user in which commands keep states and rotated tokens."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from .._json import encode_canonical
from ..errors import OutputWriteError
from .configuration import Configuration
from .source_loader import LoadedSource


def state_folder() -> Path:
    """The folder of the user, such as ~/.local/state/asyncstreams; it may not exist."""
    import platformdirs

    return platformdirs.user_state_path("asyncstreams", appauthor=False)


def state_path(loaded: LoadedSource, configuration: Configuration) -> Path:
    """The file of `--state auto`: one for each Source and configuration. Secrets do not count: they may be renewed."""
    identity = [source_id(loaded), configuration.without_secrets()]
    return state_folder() / f"{_readable(loaded)}-{_digest(identity)}.state.json"


def token_prefix(loaded: LoadedSource) -> str:
    """The beginning of the names of the files with the rotated tokens of a Source."""
    return f"{_readable(loaded)}-{_digest(source_id(loaded))}"


def make_private_folder(path: Path) -> None:
    """Create a folder that only the user can read. Raises OutputWriteError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutputWriteError(
            f"{path}: cannot be created: {error.strerror or error}",
            hint="check permissions, or set XDG_STATE_HOME to a folder that can be written",
        ) from error


def source_id(loaded: LoadedSource) -> str:
    """What identifies a Source: its class, and its file unless it is installed: projects may use the same names."""
    module = sys.modules[loaded.source_class.__module__]
    file = getattr(module, "__file__", None) or ""
    name = loaded.import_path.rpartition(":")[2]
    if {"site-packages", "dist-packages"} & set(Path(file).parts):
        return f"{module.__name__}:{name}"
    return f"{os.path.realpath(file)}:{name}"


def _readable(loaded: LoadedSource) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", loaded.name)[:60]


def _digest(identity: object) -> str:
    return hashlib.blake2b(encode_canonical(identity), digest_size=8).hexdigest()
