"""Command line: `asyncstreams`, or `python -m asyncstreams` (extra `cli`)."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from ..launch import ExitCode

_REQUIRED = ("typer", "rich", "yaml")


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    if not all(map(_is_installed, _REQUIRED)):
        print('the command line requires typer and rich: pip install "asyncstreams[cli]"', file=sys.stderr)
        sys.exit(ExitCode.USAGE)
    # Imported here, because the extra may be missing.
    import_module(".app", __name__).run_app()


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # of a module that was made impossible to import
        return False
