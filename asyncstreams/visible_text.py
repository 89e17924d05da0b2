"""Texts from elsewhere, made harmless for terminals and logs: control characters are shown, never obeyed."""

from __future__ import annotations

import unicodedata


def escape_controls(text: str, *, keep_lines: bool = False) -> str:
    r"""The text on one line, with everything that is not printable as an escape, such as `\x1b` of terminals.

    That includes line ends, C1 control characters, the marks that reverse the direction of text (`\u202e`), invisible
    characters and lone surrogates. Spaces of other widths become plain spaces. With `keep_lines`, line feeds and tabs
    stay. The result contains no ANSI code; it may contain rich markup and HTML, which rich's `Text` and `html.escape`
    show.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if keep_lines else ""
    return "".join([char if char.isprintable() or char in kept else _escape(char) for char in text])


def _escape(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode("ascii")
