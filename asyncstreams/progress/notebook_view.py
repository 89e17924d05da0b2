"""The live view in a notebook: an HTML table below the cell, which updates."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

_MIN_INTERVAL_S = 0.5
_IDLE_INTERVAL_S = 1.0


class DisplayHandle(Protocol):
    """IPython's handle of an output that can be replaced."""

    def update(self, obj: object) -> None:
        """Show another object in place of this one."""
        ...


class HtmlTable:
    """HTML for a notebook, with a text for clients that cannot show it."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class NotebookView:
    """Shows what `get_table` returns below the cell, and updates it twice a second while something changes.

    It draws in the event loop, because the kernel assigns the output of other threads to no cell.
    """

    def __init__(self, get_table: Callable[[], HtmlTable]) -> None:
        self._get_table = get_table
        self._handle: DisplayHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_changed = False

    def start(self) -> None:
        self._handle = _display(self._get_table())

    def update(self) -> None:
        """Note that the table has changed."""
        self._has_changed = True
        if self._timer is None:
            self._draw()

    def stop(self) -> None:
        """Show the final table."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._show()

    def _draw(self) -> None:
        """Show the table, and again after the shortest interval in which something changes."""
        interval = _MIN_INTERVAL_S if self._has_changed else _IDLE_INTERVAL_S
        self._has_changed = False
        self._show()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # events that a test or a program sends itself
            return
        self._timer = loop.call_later(interval, self._draw)

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self._get_table())


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. A terminal that runs IPython is none."""
    ipython = sys.modules.get("IPython")
    get_ipython = cast(Callable[[], Any] | None, getattr(ipython, "get_ipython", None))
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


def _display(table: HtmlTable) -> DisplayHandle:
    # IPython is imported, since its kernel runs; it is no requirement of this package.
    display = cast(Callable[..., DisplayHandle], importlib.import_module("IPython.display").display)
    return display(table, display_id=True)
