"""Does every piece of Python in the README and under docs/ run, and print what stands below it?

- A fence that defines a test is a module of its own; pytest runs them all.
- Any other is a script: run by itself, without a network. `<!-- test: NAME -->` before it names a
  setup of `doc_setups`, which runs first, such as one that mocks an API.
- `<!-- test: skip REASON -->` before it: it is only compiled; it may use `await` outside a function.
- A text fence right after a script is what it prints.
"""

from __future__ import annotations

import ast
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import doc_process
import pytest
from doc_setups import SETUPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
OPENING = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})\s*(?P<language>[\w+-]*)[^`]*")
MARK = re.compile(r"\s*<!--\s*test:\s*(.*?)\s*-->\s*")


@dataclass(frozen=True)
class Fence:
    """A piece of Python; `line` is where its fence opens, from 1. Raises ValueError where it makes no sense."""

    document: str
    line: int
    source: str
    mark: str | None = None
    printed: str | None = None

    def __post_init__(self) -> None:
        if self.mark == "skip":
            raise ValueError(f"{self}: a skip tells its reason: <!-- test: skip REASON -->")
        if self.kind == "test" and self.mark is not None:
            raise ValueError(f"{self}: a test takes no setup; its mocks are its own")
        if self.kind == "test" and self.printed is not None:
            raise ValueError(f"{self}: a test prints nothing that could be compared")
        if self.kind == "script" and self.mark not in (None, *SETUPS):
            raise ValueError(f"{self}: no setup {self.mark!r} in doc_setups.py; known are {', '.join(SETUPS)}")

    @property
    def kind(self) -> Literal["skipped", "test", "script"]:
        if self.mark is not None and self.mark.startswith("skip"):
            return "skipped"
        return "test" if "def test_" in self.source else "script"

    @property
    def file_name(self) -> str:
        return f"test_{re.sub(r'[^a-z0-9]', '_', self.document.lower())}_line_{self.line}.py"

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def fences(document: str, text: str) -> list[Fence]:
    """All Python of a document. Raises ValueError for a fence without end, and a comment without fence."""
    found: list[Fence] = []
    mark: str | None = None
    after_python = False
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if not line.strip():
            continue
        opening = OPENING.fullmatch(line)
        language = opening["language"] if opening else None
        if mark is not None and language not in ("python", "py"):
            raise ValueError(f"{document}:{number}: <!-- test: {mark} --> has no Python right after it")
        if opening is not None:
            body = body_of(opening, lines, f"{document}:{number}")
            if language in ("python", "py"):
                found.append(Fence(document, number, body, mark))
            elif language == "text" and after_python:
                found[-1] = replace(found[-1], printed=body)
        after_python = language in ("python", "py")
        told = MARK.fullmatch(line)
        mark = told[1] if told else None
    if mark is not None:
        raise ValueError(f"{document}: <!-- test: {mark} --> has no Python right after it")
    return found


def body_of(opening: re.Match[str], lines: Iterator[tuple[int, str]], where: str) -> str:
    """The lines up to the closing fence, which are taken from `lines`, without the fence's indent."""
    body: list[str] = []
    for _, line in lines:
        if re.fullmatch(rf" *`{{{len(opening['ticks'])},}}\s*", line):
            return "".join(body)
        body.append(re.sub(rf"^ {{0,{len(opening['indent'])}}}", "", line) + "\n")
    raise ValueError(f"{where}: this fence has no end")


def run_script(fence: Fence, directory: Path) -> None:
    """Raises AssertionError when it fails, warns, or prints something else than it should."""
    setup, script = directory / "setup.py", directory / fence.file_name
    setup.write_text(SETUPS[fence.mark] if fence.mark else "", encoding="utf-8")
    script.write_text(fence.source, encoding="utf-8")
    processes = multiprocessing.get_context("forkserver")
    out, err = directory / "what it prints", directory / "what it complains of"
    process = processes.Process(target=doc_process.run, args=(setup, script, out, err))
    process.start()
    process.join(120)
    printed, told = out.read_text("utf-8"), err.read_text("utf-8")
    assert process.exitcode == 0, f"{fence} fails:\n{printed}{told}"
    if fence.printed is not None:
        assert trimmed(printed) == trimmed(fence.printed), f"{fence} prints something else"


def run_tests(tests: Sequence[Fence], directory: Path) -> None:
    """Raises AssertionError with what pytest says when one fails, or has no test that runs."""
    names = [fence.file_name for fence in tests]
    for fence in tests:
        (directory / fence.file_name).write_text(fence.source, encoding="utf-8")
    asyncio_mode = ("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    # The plugin of hypothesis takes a second to load.
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "error", *asyncio_mode)
    done = run_python("-m", "pytest", *options, str(directory), directory=directory)
    assert done.returncode == 0, f"{', '.join(names)}:\n{done.stdout}{done.stderr}"


def run_python(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", timeout=120, check=False)


def check_syntax(fence: Fence) -> None:
    """Raises SyntaxError."""
    compile(fence.source, str(fence), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


FENCES = [
    fence for path in DOCUMENTS for fence in fences(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
]


def of_kind(kind: Literal["skipped", "test", "script"]) -> list[Fence]:
    return [fence for fence in FENCES if fence.kind == kind]


@pytest.mark.parametrize("fence", of_kind("script"), ids=str)
def test_a_script_of_the_documents_runs_and_prints_what_it_says(fence: Fence, tmp_path: Path) -> None:
    run_script(fence, tmp_path)


def test_the_tests_of_the_documents_pass(tmp_path: Path) -> None:
    tests = of_kind("test")

    assert any(fence.document == "docs/testing.md" for fence in tests)
    run_tests(tests, tmp_path)


def test_python_that_is_not_run_can_be_compiled() -> None:
    for fence in of_kind("skipped"):
        check_syntax(fence)


DOCUMENT = """
Text, and `code` within it.

<!-- test: github -->

```python
print(1)
```

```text
1
```

```text
not what is printed
```

1. In a list:

   ```py
   if True:
       print(2)
   ```

````markdown
```python
not Python of this document
```
````

<!-- test: skip it needs a key -->
```python
await something
```
```python
def test_it(): ...
```
"""


def test_every_piece_of_python_is_found_with_what_belongs_to_it() -> None:
    found = fences("a.md", DOCUMENT)

    assert found == [
        Fence("a.md", 6, "print(1)\n", "github", "1\n"),
        Fence("a.md", 20, "if True:\n    print(2)\n"),
        Fence("a.md", 32, "await something\n", "skip it needs a key"),
        Fence("a.md", 35, "def test_it(): ...\n"),
    ]
    assert [fence.kind for fence in found] == ["script", "script", "skipped", "test"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nx = 1\n", "a.md:1: this fence has no end"),
        ("<!-- test: github -->\ntext\n```python\n```\n", "a.md:2: .* has no Python right after it"),
        ("<!-- test: github -->\n```text\n```\n", "a.md:2: .* has no Python right after it"),
        ("<!-- test: github -->\n", "has no Python right after it"),
        ("<!-- test: gitlab -->\n```python\n```\n", "no setup 'gitlab'"),
        ("<!-- test: skip -->\n```python\n```\n", "tells its reason"),
        ("<!-- test: github -->\n```python\ndef test_x(): ...\n```\n", "takes no setup"),
        ("```python\ndef test_x(): ...\n```\n```text\n.\n```\n", "prints nothing"),
    ],
)
def test_what_would_silently_not_be_tested_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fences("a.md", text)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", "DeprecationWarning: old"),
        ("import httpx\nhttpx.get('https://api.example.com/')", "a.md:7 fails:[^$]*not mocked"),
        ("print('one')\nprint('three')", "prints something else"),
    ],
)
def test_a_script_that_is_not_right_fails(source: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_script(Fence("a.md", 7, source, printed="one\ntwo\n"), tmp_path)


def test_a_setup_runs_before_its_script_and_white_space_at_the_ends_does_not_count(tmp_path: Path) -> None:
    source = "from __future__ import annotations\nprint(len(repos), ' ')\nprint(__name__)\nprint()"

    run_script(Fence("a.md", 1, source, "github", "150\n__main__\n"), tmp_path)


def test_a_test_that_fails_is_named_by_its_document_and_line(tmp_path: Path) -> None:
    well, sick = "async def test_it(virtual_clock): ...", "async def test_it():\n    assert 1 == 2"

    with pytest.raises(AssertionError, match=r"test_docs_a_md_line_9\.py::test_it[^$]*1 failed, 1 passed"):
        run_tests([Fence("README.md", 1, well), Fence("docs/a.md", 9, sick)], tmp_path)


def test_python_that_cannot_be_compiled_fails_although_it_is_skipped() -> None:
    check_syntax(Fence("a.md", 1, "async with stream.pages() as pages: ...", "skip a fragment"))

    with pytest.raises(SyntaxError):
        check_syntax(Fence("a.md", 1, "async with stream.pages() as pages", "skip a fragment"))
