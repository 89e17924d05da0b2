"""References to secrets in a configuration: `env:NAME`, `file:PATH` and `cmd:...`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError

_REFERENCE = re.compile(r"(env|file|cmd):(:?)(.*)", re.DOTALL)
_COMMAND_TIMEOUT_S = 30
_MAX_FILE_BYTES = 2**20


def is_reference(text: str) -> bool:
    """Whether a text is a reference; one with two colons, `env::x`, is the text `env:x` instead."""
    return (match := _REFERENCE.fullmatch(text)) is not None and not match[2]


def resolve_reference(text: str, where: str, folder: Path, environ: Mapping[str, str]) -> str:
    """The value that a reference stands for; any other text is returned, with `env::x` as `env:x`.

    `where` names the field in messages, which never contain a value. A relative path of `file:` begins at `folder`. A
    command runs without a shell, for at most 30 s, without input; its messages on stderr are not shown. Raises
    ConfigError.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return text
    kind, escape, rest = match.groups()
    if escape:
        return f"{kind}:{rest}"
    try:
        value = {"env": _from_environment, "file": _from_file, "cmd": _from_command}[kind](rest, folder, environ)
    except _Unresolved as error:
        raise ConfigError(f"configuration: {where}: {error}", hint=error.hint) from None
    if not value:
        raise ConfigError(f"configuration: {where}: the reference {kind}: leads to an empty text")
    return value


class _Unresolved(Exception):
    """A reference that cannot be resolved."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


def _from_environment(name: str, folder: Path, environ: Mapping[str, str]) -> str:
    if name not in environ:
        shown = name if re.fullmatch(r"\w{1,64}", name) else "of this reference"
        raise _Unresolved(
            f"the environment variable {shown} is not set", f"export it, or write env::{shown} for a text"
        )
    return environ[name]


def _from_file(name: str, folder: Path, environ: Mapping[str, str]) -> str:
    path = folder / Path(name).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise _Unresolved(f"{path} has more than {_MAX_FILE_BYTES:,} bytes")
        return _without_newline(content.decode())
    except OSError as error:
        raise _Unresolved(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise _Unresolved(f"{path} is not text in UTF-8") from None


def _from_command(text: str, folder: Path, environ: Mapping[str, str]) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _Unresolved(f"the command cannot be split into words: {error}") from None
    if not words:
        raise _Unresolved("cmd: names no command")
    program = os.path.basename(words[0])  # without the arguments, which may be secret
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_TIMEOUT_S,
            env=dict(environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _Unresolved(f"the command {program!r} did not end within {_COMMAND_TIMEOUT_S} s") from None
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise _Unresolved(f"the command {program!r} cannot be started: {problem}", "it runs without a shell") from None
    if done.returncode:
        raise _Unresolved(
            f"the command {program!r} failed with exit code {done.returncode}", "run it yourself to see its messages"
        )
    try:
        return _without_newline(done.stdout.decode())
    except UnicodeDecodeError:
        raise _Unresolved(f"the output of the command {program!r} is not text in UTF-8") from None


def _without_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
