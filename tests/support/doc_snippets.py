"""The fenced snippets of a page of the documentation, in any language."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


@dataclass(frozen=True)
class Snippet:
    """A snippet below a heading. `file` is the name in its first line, such as `# shop.py`; "" without one."""

    heading: str
    language: str
    text: str

    @property
    def file(self) -> str:
        match = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return match[1] if match else ""


def read_snippets(page: str) -> list[Snippet]:
    """All snippets of `docs/<page>.md`, in order."""
    heading, found = "", list[Snippet]()
    text = (DOCS / f"{page}.md").read_text("utf-8")
    for match in re.finditer(r"^## (?P<heading>[^\n]*)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", text, re.M | re.S):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Snippet(heading, match["language"], match["text"]))
    return found


def snippet_of(page: str, *, heading: str | None = None, language: str | None = None, file: str | None = None) -> str:
    """The text of the only snippet that fits. Raises ValueError if there is not exactly one."""
    [found] = [
        snippet
        for snippet in read_snippets(page)
        if heading in (None, snippet.heading) and language in (None, snippet.language) and file in (None, snippet.file)
    ]
    return found.text
