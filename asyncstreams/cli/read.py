"""The command `read`: records of a Source as JSON Lines, files or tables."""

from __future__ import annotations

import typer

from .failures import command_output
from .opened_source import open_source
from .options import ConfigOption, DebugOption, SetOption, SourceArgument, WriteConfigOption


def add_read(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("read")(read)


def read(
    source: SourceArgument,
    config: ConfigOption = None,
    flags: SetOption = None,
    write_config: WriteConfigOption = False,
    debug: DebugOption = False,
) -> None:
    """Read the streams of a Source."""
    with command_output(debug=debug) as output:
        open_source(source, config, flags, output, write_config=write_config)
