"""Builds the documentation site in build/site, with a Markdown copy of each page and llms.txt.

Pages are staged in build/docs first: those of docs/, and as pages of their own the examples, the benchmarks,
CONTRIBUTING and CHANGELOG, to which the guides link. A warning, such as a broken link, fails the build.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGED, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
EXTRA_PAGES = {
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
}
TEST_MARK = re.compile(r"^ *<!-- test\b.*-->\n", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]*)(#[^)\s]*)?\)")
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def main() -> int:
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    stage()
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout)
        return 1
    pages = write_markdown()
    print(f"{pages} pages in {SITE.relative_to(ROOT)}, each also as Markdown, and llms.txt")
    return 0


def stage() -> None:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        write(path.relative_to(ROOT / "docs"), path.read_text("utf-8"), path)
    for name, path in EXTRA_PAGES.items():
        write(Path(name), path.read_text("utf-8"), path)
    write(Path("examples.md"), examples(), ROOT / "docs" / "examples.md")


def write(page: Path, text: str, source: Path) -> None:
    """Stage a page, with its links to files of the repository turned into links to pages."""
    depth = len(page.parts) - 1

    def to_page(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        found = (source.parent / target).resolve() if target else source
        return f"]({'../' * depth}{page_of(found, anchor, source)})" if target else link[0]

    (STAGED / page).parent.mkdir(parents=True, exist_ok=True)
    (STAGED / page).write_text(LINK.sub(to_page, TEST_MARK.sub("", text)), "utf-8")


def page_of(path: Path, anchor: str, source: Path) -> str:
    """The page that shows a file. Raises SystemExit for a file that is on none."""
    for name, original in EXTRA_PAGES.items():
        if path == original:
            return name + anchor
    if path == ROOT / "README.md":
        return "index.md" + anchor
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix() + anchor
    if path == ROOT / "examples":
        return "examples.md"
    if path.is_relative_to(ROOT / "examples") and path.is_file():
        return f"examples.md#{slug(path)}"
    raise SystemExit(f"{source.relative_to(ROOT)}: the link to {path} leads to no page")


def slug(path: Path) -> str:
    """The anchor of an example's heading."""
    return re.sub(r"[^\w-]", "", path.relative_to(ROOT).as_posix())


def examples() -> str:
    """One section for each program, with its docstring and its source."""
    parts = ["# Examples\n\nWhole programs. Each is run by the tests.\n"]
    for path in sorted((ROOT / "examples").rglob("*.py")):
        source = path.read_text("utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        name = path.relative_to(ROOT).as_posix()
        parts.append(f"\n## {name} {{ #{slug(path)} }}\n\n{docstring}\n\n```python\n{source}```\n")
    return "".join(parts)


def write_markdown() -> int:
    """Copy each page of the navigation as Markdown, and list all of them in llms.txt."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    lines = [f"# {settings['site_name']}", "", f"> {settings['site_description']}", "", "## Documentation", ""]
    pages = list(navigation(settings["nav"]))
    missing = {path.relative_to(STAGED).as_posix() for path in STAGED.rglob("*.md")} - {page for _, page in pages}
    if missing:
        raise SystemExit(f"mkdocs.yml: not in the navigation: {', '.join(sorted(missing))}")
    for title, page in pages:
        text = DIRECTIVE.sub(lambda directive: reference(directive[1]), (STAGED / page).read_text("utf-8"))
        (SITE / page).parent.mkdir(parents=True, exist_ok=True)
        (SITE / page).write_text(text, "utf-8")
        lines.append(f"- [{title}]({page}): {summary(text)}")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return len(pages)


def navigation(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    pages: list[tuple[str, str]] = []
    for entry in entries:
        for title, target in entry.items():
            pages += [(title, target)] if isinstance(target, str) else navigation(target)
    return pages


def summary(text: str) -> str:
    """The first sentence of a page."""
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", text))
    prose = next((part for part in paragraphs if part and part[0] not in "#|<-" and part[:3] != "```"), "")
    return re.split(r"(?<=[.:])\s", " ".join(prose.split()), maxsplit=1)[0]


def reference(name: str) -> str:
    """Signature, docstring and public members of a name, as Markdown."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    parts = [f"## {attribute}\n\n{signature(attribute, found)}{inspect.getdoc(found) or ''}\n"]
    if isinstance(found, type) and not issubclass(found, Exception):
        for member in sorted(member for member in vars(found) if not member.startswith("_")):
            value = getattr(found, member)
            if inspect.isroutine(value) and (text := inspect.getdoc(value)):
                parts.append(f"\n### {attribute}.{member}\n\n{signature(member, value)}{text}\n")
    return "".join(parts)


def signature(name: str, found: Any) -> str:
    try:
        return f"```python\n{name}{inspect.signature(found)}\n```\n\n" if callable(found) else ""
    except (TypeError, ValueError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
