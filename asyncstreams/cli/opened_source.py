"""The Source of a command, created with the configuration of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..source import Source
from .configuration import Configuration, load_config
from .failures import CommandOutput
from .source_loader import LoadedSource, load_source_class


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A Source, where it came from, and its configuration."""

    loaded: LoadedSource
    configuration: Configuration
    source: Source


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

    The secrets of the configuration are masked in `output`, and its warnings shown. `options` are those of Source.
    Raises ConfigError.
    """
    loaded = load_source_class(text)
    configuration = load_config(loaded.spec, config_file, flags or ())
    for secret in configuration.secrets:
        output.hide(secret)
    for warning in configuration.warnings:
        output.note(f"warning: {warning}")
    return OpenedSource(loaded, configuration, loaded.create(configuration.values, **options))
