"""The Python snippets of README.md and docs/: each one runs, and prints the text below it.

- A fence that defines a test is a test module. One pytest process runs all of these modules.
- Any other Python fence is a script. It runs in its own process, which reaches servers of this machine only.
- `<!-- test: NAME -->` before a script names a setup in `doc_setups` that runs first, such as a mocked API.
- `<!-- test: notebook -->` before a fence: it is a cell. The cells of a document run in order in one process, and
  may use `await` outside a function.
- `<!-- test: skip REASON -->` before a fence: the fence is only compiled, and may use `await` outside a function.
- A `text` fence right after a script is the output that the script must print.
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
from typing import Literal, TypeAlias

import doc_process
import pytest
from doc_setups import SETUPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE_START = re.compile(r"(?P<indent> *)(?P<ticks>`{3,})\s*(?P<language>[\w+-]*)[^`]*")
MARK = re.compile(r"\s*<!--\s*test:\s*(.*?)\s*-->\s*")
Kind: TypeAlias = Literal["skipped", "cell", "test", "script"]


@dataclass(frozen=True)
class Fence:
    """A Python snippet of a document.

    `line` is the line of the opening fence, from 1. `mark` is the text of the test comment, `expected` the text of
    the output fence. Raises ValueError for a combination that has no meaning.
    """

    document: str
    line: int
    source: str
    mark: str | None = None
    expected: str | None = None

    def __post_init__(self) -> None:
        if self.mark == "skip":
            raise ValueError(f"{self}: a skip needs a reason: <!-- test: skip REASON -->")
        if self.kind == "test" and self.mark is not None:
            raise ValueError(f"{self}: a test cannot have a setup: it defines its own mocks")
        if self.kind == "test" and self.expected is not None:
            raise ValueError(f"{self}: a test cannot have expected output")
        if self.kind == "cell" and self.expected is not None:
            raise ValueError(f"{self}: a cell cannot have expected output")
        if self.kind == "script" and self.mark not in (None, *SETUPS):
            raise ValueError(f"{self}: doc_setups.py has no setup {self.mark!r}; known are {', '.join(SETUPS)}")

    @property
    def kind(self) -> Kind:
        if self.mark is not None and self.mark.startswith("skip"):
            return "skipped"
        if self.mark == "notebook":
            return "cell"
        return "test" if "def test_" in self.source else "script"

    @property
    def file_name(self) -> str:
        return f"test_{re.sub(r'[^a-z0-9]', '_', self.document.lower())}_line_{self.line}.py"

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def find_fences(document: str, text: str) -> list[Fence]:
    """All Python fences of a document, in order.

    Raises ValueError for a fence that is not closed, and for a test comment without a fence.
    """
    found: list[Fence] = []
    mark: str | None = None
    follows_python = False
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if not line.strip():
            continue
        opening = FENCE_START.fullmatch(line)
        language = opening["language"] if opening else None
        if mark is not None and language not in ("python", "py"):
            raise ValueError(f"{document}:{number}: <!-- test: {mark} --> is not followed by a Python fence")
        if opening is not None:
            body = read_body(opening, lines, f"{document}:{number}")
            if language in ("python", "py"):
                found.append(Fence(document, number, body, mark))
            elif language == "text" and follows_python:
                found[-1] = replace(found[-1], expected=body)
        follows_python = language in ("python", "py")
        comment = MARK.fullmatch(line)
        mark = comment[1] if comment else None
    if mark is not None:
        raise ValueError(f"{document}: <!-- test: {mark} --> is not followed by a Python fence")
    return found


def read_body(opening: re.Match[str], lines: Iterator[tuple[int, str]], location: str) -> str:
    """Consume `lines` up to the closing fence; return them without the indent of the opening fence.

    Raises ValueError when the fence is not closed.
    """
    body: list[str] = []
    for _, line in lines:
        if re.fullmatch(rf" *`{{{len(opening['ticks'])},}}\s*", line):
            return "".join(body)
        body.append(re.sub(rf"^ {{0,{len(opening['indent'])}}}", "", line) + "\n")
    raise ValueError(f"{location}: the fence is not closed")


def run_script(fence: Fence, directory: Path) -> None:
    """Run a script, or the cells of a notebook, in its own process.

    Raises AssertionError when it fails, warns or prints unexpected text.
    """
    setup, script = directory / "setup.py", directory / fence.file_name
    setup.write_text("" if fence.mark in (None, "notebook") else SETUPS[fence.mark], encoding="utf-8")
    script.write_text(fence.source, encoding="utf-8")
    processes = multiprocessing.get_context("forkserver")
    out, err = directory / "stdout.txt", directory / "stderr.txt"
    run = doc_process.run_notebook if fence.kind == "cell" else doc_process.run_script
    process = processes.Process(target=run, args=(setup, script, out, err))
    process.start()
    process.join(120)
    printed, errors = out.read_text("utf-8"), err.read_text("utf-8")
    assert process.exitcode == 0, f"{fence} failed:\n{printed}{errors}"
    if fence.expected is not None:
        assert strip_lines(printed) == strip_lines(fence.expected), f"{fence}: unexpected output"


def run_tests(tests: Sequence[Fence], directory: Path) -> None:
    """Run test modules in one pytest process. Raises AssertionError, with pytest's output, unless all pass."""
    names = [fence.file_name for fence in tests]
    for fence in tests:
        (directory / fence.file_name).write_text(fence.source, encoding="utf-8")
    asyncio_mode = ("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    # Loading the hypothesis plugin takes a second.
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "error", *asyncio_mode)
    done = run_python("-m", "pytest", *options, str(directory), directory=directory)
    assert done.returncode == 0, f"{', '.join(names)}:\n{done.stdout}{done.stderr}"


def run_python(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", timeout=120, check=False)


def check_syntax(fence: Fence) -> None:
    """Raises SyntaxError."""
    compile(fence.source, str(fence), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def strip_lines(text: str) -> list[str]:
    """The lines of a text, without trailing white space and trailing empty lines."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


FENCES = [
    fence
    for path in DOCUMENTS
    for fence in find_fences(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
]


def fences_of_kind(kind: Kind) -> list[Fence]:
    return [fence for fence in FENCES if fence.kind == kind]


@pytest.mark.parametrize("fence", fences_of_kind("script"), ids=str)
def test_doc_script_prints_expected_output(fence: Fence, tmp_path: Path) -> None:
    run_script(fence, tmp_path)


@pytest.mark.parametrize("document", sorted({fence.document for fence in fences_of_kind("cell")}))
def test_doc_notebook_runs(document: str, tmp_path: Path) -> None:
    cells = [fence for fence in fences_of_kind("cell") if fence.document == document]

    run_script(replace(cells[0], source="\n".join(cell.source for cell in cells)), tmp_path)


def test_doc_test_modules_pass(tmp_path: Path) -> None:
    tests = fences_of_kind("test")

    assert any(fence.document == "docs/testing.md" for fence in tests)
    run_tests(tests, tmp_path)


def test_skipped_snippets_compile() -> None:
    for fence in fences_of_kind("skipped"):
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
not the output
```

1. In a list:

   ```py
   if True:
       print(2)
   ```

````markdown
```python
not a snippet of this document
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


def test_all_python_fences_are_found_with_mark_and_output() -> None:
    found = find_fences("a.md", DOCUMENT)

    assert found == [
        Fence("a.md", 6, "print(1)\n", "github", "1\n"),
        Fence("a.md", 20, "if True:\n    print(2)\n"),
        Fence("a.md", 32, "await something\n", "skip it needs a key"),
        Fence("a.md", 35, "def test_it(): ...\n"),
    ]
    assert [fence.kind for fence in found] == ["script", "script", "skipped", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n", "a.md:1: the fence is not closed"),
        ("<!-- test: github -->\ntext\n```python\n```\n", "a.md:2: .* is not followed by a Python fence"),
        ("<!-- test: github -->\n```text\n```\n", "a.md:2: .* is not followed by a Python fence"),
        ("<!-- test: github -->\n", "is not followed by a Python fence"),
        ("<!-- test: gitlab -->\n```python\n```\n", "no setup 'gitlab'"),
        ("<!-- test: skip -->\n```python\n```\n", "needs a reason"),
        ("<!-- test: github -->\n```python\ndef test_x(): ...\n```\n", "cannot have a setup"),
        ("```python\ndef test_x(): ...\n```\n```text\n.\n```\n", "cannot have expected output"),
        ("<!-- test: notebook -->\n```python\n1\n```\n```text\n.\n```\n", "cannot have expected output"),
    ],
)
def test_malformed_document_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_fences("a.md", text)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", "DeprecationWarning: old"),
        ("import httpx\nhttpx.get('https://api.example.com/')", "a.md:7 failed:[^$]*not mocked"),
        ("print('one')\nprint('three')", "a.md:7: unexpected output"),
    ],
)
def test_incorrect_script_fails(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        run_script(Fence("a.md", 7, source, expected="one\ntwo\n"), tmp_path)


def test_setup_runs_first_and_trailing_space_is_ignored(tmp_path: Path) -> None:
    source = "from __future__ import annotations\nprint(len(repos), ' ')\nprint(__name__)\nprint()"

    run_script(Fence("a.md", 1, source, "github", "150\n__main__\n"), tmp_path)


def test_failing_doc_test_is_named_by_document_and_line(tmp_path: Path) -> None:
    passing, failing = "async def test_it(virtual_clock): ...", "async def test_it():\n    assert 1 == 2"

    with pytest.raises(AssertionError, match=r"test_docs_a_md_line_9\.py::test_it[^$]*1 failed, 1 passed"):
        run_tests([Fence("README.md", 1, passing), Fence("docs/a.md", 9, failing)], tmp_path)


def test_skipped_snippet_with_syntax_error_fails() -> None:
    check_syntax(Fence("a.md", 1, "async with stream.pages() as pages: ...", "skip a fragment"))

    with pytest.raises(SyntaxError):
        check_syntax(Fence("a.md", 1, "async with stream.pages() as pages", "skip a fragment"))
