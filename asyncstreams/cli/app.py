"""The application of the command line: its commands, and the options before them."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from .doctor import add_doctor
from .inspect_source import add_inspection
from .outputs import add_outputs
from .read import add_read

_HELP = """Extract whole HTTP APIs: read a Source from the shell, from cron or in a container.

SOURCE is module:Class or path/file.py:Class.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 partial, 4 host unavailable,
5 threshold missed, 130 Ctrl-C, 141 closed pipe, 143 SIGTERM."""


def new_app() -> typer.Typer:
    """The application with all commands."""
    app = typer.Typer(
        name="asyncstreams",
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_before_commands)
    # Each module has one function that adds its commands.
    for add_commands in (add_read, add_inspection, add_outputs, add_doctor):
        add_commands(app)
    return app


def run_app() -> None:
    """Run the command of this process, and end it with the exit code of the command."""
    new_app()()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncstreams {__version__}")
        raise typer.Exit


def _before_commands(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""
