"""The process in which a script of the documentation runs, forked from one that has imported the package."""

from __future__ import annotations

import ast
import asyncio
import os
import runpy
import sys
import warnings
from pathlib import Path

import respx

import asyncstreams  # noqa: F401  imported here once, for all forked processes
from pytest_asyncstreams.respx_mocker import install_as_default


def run_script(setup: Path, script: Path, out: Path, err: Path) -> None:
    """Run `setup`, then `script`; standard output and error go to the files `out` and `err`. Warnings are errors."""
    _prepare(script, out, err)
    runpy.run_path(str(script), runpy.run_path(str(setup)), "__main__")


def run_notebook(setup: Path, script: Path, out: Path, err: Path) -> None:
    """The same for cells, which may use `await` outside a function."""
    _prepare(script, out, err)
    namespace = runpy.run_path(str(setup))
    code = compile(script.read_text("utf-8"), str(script), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    awaitable = eval(code, namespace)
    if awaitable is not None:
        asyncio.run(awaitable)


def _prepare(script: Path, out: Path, err: Path) -> None:
    """Redirect the output and mock the network: a request to another machine fails unless a setup mocks its URL."""
    for number, path, stream in ((1, out, sys.stdout), (2, err, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        stream.reconfigure(encoding="utf-8")
    os.chdir(script.parent)
    warnings.simplefilter("error")
    sys.argv = [str(script)]
    install_as_default()
    respx.start()
    respx.route(host="127.0.0.1").pass_through()
