"""Reports of recorded runs: a page of HTML, and tables for the terminal."""

from __future__ import annotations

from .html_page import render_html
from .terminal_tables import print_tables

__all__ = ["print_tables", "render_html"]
