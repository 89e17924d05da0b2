"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

SourceArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="SOURCE", help="module:Class or path/file.py:Class.", show_default=False)
]
ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration as JSON, YAML or TOML.", show_default=False),
]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One value of the configuration, such as credentials.token=env:TOKEN. May be repeated.",
        show_default=False,
    ),
]
WriteConfigOption: TypeAlias = Annotated[
    bool, typer.Option("--write-config", help="Write rotated tokens to the file of --config.")
]
DebugOption: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and log all details.")]
