"""How a script of the documents runs: in a process that has what it imports already."""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from pathlib import Path

import respx

import asyncstreams  # noqa: F401  for those who are forked from here
from asyncstreams.testing.respx_mocker import make_default


def run(setup: Path, script: Path, out: Path, err: Path) -> None:
    """In a process of its own: `out` and `err` are for what it prints. Warnings are errors.

    What a setup does not mock is refused, so that no script ever reaches the network.
    """
    for number, path, stream in ((1, out, sys.stdout), (2, err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        stream.reconfigure(encoding="utf-8")
    os.chdir(script.parent)
    warnings.simplefilter("error")
    sys.argv = [str(script)]
    make_default()
    respx.start()
    runpy.run_path(str(script), runpy.run_path(str(setup)), "__main__")
