"""The Source of a command, created with the configuration of the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..source import Source
from .configuration import Configuration, load_config
from .failures import CommandOutput
from .rotated_tokens import RotatedTokens
from .source_loader import LoadedSource, load_source_class
from .state_folder import state_folder, state_path, token_prefix


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A Source, where it came from, its configuration, and the file of `--state auto`."""

    loaded: LoadedSource
    configuration: Configuration
    source: Source
    state_path: Path


def open_source(
    text: str,
    config_file: Path | None,
    flags: Sequence[str] | None,
    output: CommandOutput,
    *,
    write_config: bool = False,
    **options: Any,
) -> OpenedSource:
    """Import the Source that SOURCE names, and create it with the configuration of the command.

    The secrets of the configuration are masked in `output`, and its warnings shown. Tokens that the Source sets in the
    configuration later are kept for the next command; with `write_config` in the file of the configuration, too.
    `options` are those of Source. Raises ConfigError and StateCorrupt.
    """
    with redirect_stdout(sys.stderr):  # what its module prints is no record
        loaded = load_source_class(text)
    configuration = load_config(loaded.spec, config_file, flags or ())
    for secret in configuration.secrets:
        output.hide(secret)
    for warning in configuration.warnings:
        output.warn(warning)
    tokens = RotatedTokens(configuration, state_folder(), token_prefix(loaded), output, writes_config=write_config)
    path = state_path(loaded, configuration)  # before the kept values are added, which are not the user's
    with redirect_stdout(sys.stderr):
        source = loaded.create(tokens.apply(), **options)
    tokens.begin()
    return OpenedSource(loaded, configuration, source, path)


def select_names(source: Source, select: str | None) -> list[str]:
    """The names of `--select a,b`; empty for all streams. Raises ConfigError for an unknown stream."""
    names = [name.strip() for name in (select or "").split(",") if name.strip()]
    if select is not None and not names:
        raise ConfigError("--select: names no stream", hint=f"the streams are {', '.join(s.name for s in source)}")
    for name in names:
        source[name]  # raises for an unknown one
    return list(dict.fromkeys(names))
