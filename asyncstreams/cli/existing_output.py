"""Outputs and state files that exist already, as DEST of a command."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TypeAlias

from ..destinations.base import Destination
from ..errors import ConfigError, StateCorrupt, StateIncompatible
from ..state.state_file import State
from .destination_argument import STDOUT, destination_for

ExistingOutput: TypeAlias = Destination | State
_STATE_SUFFIX, _STATE_BEGINNING = ".json", b'{"sum":'
_PRIVATE_FOLDER = ".asyncstreams"
_MIN_SIMILARITY = 0.6


def open_output(text: str) -> ExistingOutput:
    """The output that DEST names, or the State in a file of `--state`.

    Raises ConfigError if there is none, StateCorrupt and StateIncompatible.
    """
    path = check_exists(text)
    return load_state(path) if is_state_file(path) else open_destination(text)


def open_destination(text: str) -> Destination:
    """The output that DEST names. Raises ConfigError if there is none, or if it is a file with a state."""
    path = check_exists(text)
    if is_state_file(path):
        raise ConfigError(f"{path}: is a file with a state, which has no runs", hint="name a folder or a database")
    if path.is_dir() and not (path / _PRIVATE_FOLDER).is_dir():
        raise ConfigError(f"{path}: is not an output: it has no folder {_PRIVATE_FOLDER}", hint=_suggestion(path))
    destination = destination_for(text)
    assert destination is not None  # since it is not "-"
    if path.is_dir() and next(path.glob("*/part-*"), None) is None:
        # Without a part nothing but the journal says what the folder is for.
        try:
            destination.new_writer().inspect()
        except StateIncompatible as error:
            if error.field != "destination":
                raise
            destination = destination_for(text, "parquet")
            assert destination is not None
    return destination


def check_exists(text: str) -> Path:
    """The path of DEST. Raises ConfigError if there is nothing."""
    if text == STDOUT:
        raise ConfigError("DEST -: stdout keeps nothing", hint="name a folder, a database, or a file of --state")
    path = Path(text).expanduser()
    if not path.exists():
        raise ConfigError(f"{path}: there is no such output", hint=_suggestion(path))
    return path


def is_state_file(path: Path) -> bool:
    """Whether a path is a file with a state, or would become one: by its suffix, or by its first bytes."""
    if path.suffix.lower() == _STATE_SUFFIX and not path.is_dir():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_STATE_BEGINNING)) == _STATE_BEGINNING


def load_state(path: Path) -> State:
    """The State in a file. Raises StateCorrupt and StateIncompatible."""
    try:
        return State.load(path)
    except OSError as error:
        raise StateCorrupt(f"state: {path} cannot be read: {error.strerror or type(error).__name__}") from error


def _suggestion(path: Path) -> str | None:
    """A hint at an entry of the same folder with a similar name, or at the outputs there."""
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    if close := difflib.get_close_matches(path.name, [name for name in names if name != path.name], 1, _MIN_SIMILARITY):
        return f"did you mean {folder / close[0]}?"
    return None
