"""Builds the documentation site in build/site, with a Markdown copy of each page and llms.txt.

Pages are staged in build/docs first: those of docs/, and as pages of their own the examples, the benchmarks,
CONTRIBUTING and CHANGELOG, to which the guides link. A warning, such as a broken link, fails the build.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import yaml

from asyncstreams.declaration.settings import SETTINGS

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
    shutil.copytree(ROOT / "docs" / "images", STAGED / "images")
    for name, path in EXTRA_PAGES.items():
        write(Path(name), path.read_text("utf-8"), path)
    write(Path("examples.md"), examples(), ROOT / "docs" / "examples.md")
    write(Path("reference", "settings.md"), settings_reference(), ROOT / "docs" / "reference" / "settings.md")


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
    parts = ["# Examples\n\nComplete programs, with their source. The tests run each of them.\n"]
    for path in sorted((ROOT / "examples").rglob("*.py")):
        source = path.read_text("utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        name = path.relative_to(ROOT).as_posix()
        parts.append(f"\n## {name} {{ #{slug(path)} }}\n\n{docstring}\n\n```python\n{source}```\n")
    return "".join(parts)


def settings_reference() -> str:
    """The table of the settings of streams, one row each."""
    members = package()["declaration.settings"]["StreamSettings"].members
    lines = [
        "# Settings\n",
        "The attributes of a stream, which a class or an instance sets. A Source accepts those that are marked so for",
        "all its streams. Those of the records decide which records a stream has: cached ones of another value are not",
        "used.\n",
        "| setting | default | of a Source | of the records | meaning |",
        "|---|---|---|---|---|",
    ]
    for row in SETTINGS.values():
        found = members[row.name]
        meaning = " ".join(docstring(found).split("\n\n")[0].split()).replace("|", "\\|")
        kind = value_type(found).replace("|", "\\|")
        marks = "yes" if row.is_shared else "", "yes" if row.is_in_fingerprint else ""
        lines.append(f"| `{row.name}`: `{kind}` | `{found.value}` | {' | '.join(marks)} | {meaning} |")
    return "\n".join(lines) + "\n"


def value_type(attribute: Any) -> str:
    """The type of an attribute as it is declared, without what `Annotated` adds."""
    text = str(attribute.annotation)
    if not text.startswith("Annotated["):
        return text
    declared_type = ast.parse(text, mode="eval").body
    assert isinstance(declared_type, ast.Subscript)
    assert isinstance(declared_type.slice, ast.Tuple)
    return ast.unparse(declared_type.slice.elts[0])


@cache
def settings() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def is_hidden(name: str) -> bool:
    """Whether the filters of mkdocstrings leave a member out of the reference."""
    (plugin,) = (plugin["mkdocstrings"] for plugin in settings()["plugins"] if "mkdocstrings" in plugin)
    filters = plugin["handlers"]["python"]["options"]["filters"]
    return any(re.search(pattern.removeprefix("!"), name) for pattern in filters)


def write_markdown() -> int:
    """Copy each page of the navigation as Markdown, and list all of them in llms.txt."""
    lines = [f"# {settings()['site_name']}", "", f"> {settings()['site_description']}"]
    pages = navigation(settings()["nav"])
    missing = {path.relative_to(STAGED).as_posix() for path in STAGED.rglob("*.md")} - {page for _, _, page in pages}
    if missing:
        raise SystemExit(f"mkdocs.yml: not in the navigation: {', '.join(sorted(missing))}")
    current = None
    for section, title, page in pages:
        if section != current:
            lines += ["", f"## {section}", ""]
            current = section
        text = DIRECTIVE.sub(lambda directive: reference(directive[1]), (STAGED / page).read_text("utf-8"))
        (SITE / page).parent.mkdir(parents=True, exist_ok=True)
        (SITE / page).write_text(text, "utf-8")
        lines.append(f"- [{title}]({page}): {summary(text)}")
    (SITE / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return len(pages)


def navigation(entries: list[dict[str, Any]], section: str = "Documentation") -> list[tuple[str, str, str]]:
    """Section, title and page of each entry, in order."""
    pages: list[tuple[str, str, str]] = []
    for entry in entries:
        for title, target in entry.items():
            pages += [(section, title, target)] if isinstance(target, str) else navigation(target, title)
    return pages


def summary(text: str) -> str:
    """The first sentence of a page."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", without_code))
    prose = next((part for part in paragraphs if part and part[0] not in "#|<-"), "")
    return re.split(r"(?<=\.)\s", " ".join(prose.split()), maxsplit=1)[0]


@cache
def package() -> griffe.Module:
    return griffe.load("asyncstreams", search_paths=[ROOT], resolve_aliases=True)


def reference(name: str) -> str:
    """Signature, docstring, attributes and methods of a public name, as Markdown."""
    found = package()[name.removeprefix("asyncstreams.")]
    found = found.final_target if found.is_alias else found
    parts = [f"## {found.name}\n", definition(found), docstring(found)]
    if found.is_class:
        members = {**found.inherited_members, **found.members}
        for member in members.values():
            is_documented = member.docstring is not None or found.name == "StreamOptions"
            if is_hidden(member.name) or not is_documented:
                continue
            if member.is_function:
                parts += [f"### {found.name}.{member.name}\n", definition(member), docstring(member)]
            elif member.is_attribute:
                parts.append(f"- `{declared(member)}`: {' '.join(docstring(member).split())}\n".replace(": \n", "\n"))
    return "\n".join(part for part in parts if part)


def definition(found: Any) -> str:
    if found.is_attribute:
        return f"```python\n{found.name} = {found.value}\n```\n"
    if found.is_class:
        bases = f"({', '.join(map(str, found.bases))})" if found.bases else ""
        parameters = [parameter for parameter in found.parameters if parameter.name != "self"]
        if not parameters or bases.endswith(("Error)", "Enum)", "Flag)", "Protocol)", "TypedDict)")):
            return f"```python\nclass {found.name}{bases}\n```\n"
        return f"```python\nclass {found.name}{bases}\n{found.signature()}\n```\n"
    prefix = "async def " if "async" in found.labels else "def "
    return f"```python\n{prefix}{found.signature()}\n```\n"


def declared(attribute: Any) -> str:
    annotation = f": {value_type(attribute)}" if attribute.annotation is not None else ""
    value = f" = {attribute.value}" if attribute.value is not None and "property" not in attribute.labels else ""
    return f"{attribute.name}{annotation}{value}"


def docstring(found: Any) -> str:
    return f"{inspect.cleandoc(found.docstring.value)}\n" if found.docstring else ""


if __name__ == "__main__":
    sys.exit(main())
