"""Layout of the package and language of its texts."""

from __future__ import annotations

import ast
import io
import re
import token
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "asyncstreams"

# From the top; a module may import from its own floor and from those below.
FLOORS = [
    ("testing",),
    ("__main__", "cli"),
    ("observability",),
    ("",),
    ("source", "progress", "launch"),
    ("streams",),
    ("extraction",),
    ("execution",),
    ("records", "parents", "destinations", "event_log"),
    ("http",),
    ("rate_limits",),
    ("pagination", "auth", "schemas", "state"),
    ("declaration", "storage", "wire"),
    ("protocols",),
    ("cursors",),
    ("events",),
    ("messages",),
    ("content",),
    ("models", "urls", "_json", "html_tables"),
    ("errors", "clock", "redaction", "visible_text", "_version"),
]
MODULES = sorted(PACKAGE.rglob("*.py"))
# The pytest plugin is beside the package, because importing a submodule would import the package.
PLUGIN_MODULES = sorted((ROOT / "pytest_asyncstreams").rglob("*.py"))
PYTHON = sorted(
    path
    for folder in ("asyncstreams", "pytest_asyncstreams", "benchmarks", "examples", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
PROSE = [
    path
    for path in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/**/*.md"))
    if not {"build", ".venv", ".bench"} & set(path.parts)
]
# Words of a private dialect. This file is exempt, since it lists them.
DIALECT = re.compile(
    r"\b(told|whoever|somebody|nobody|anew|gone on with|heard out|let go|let on|as ever|mend(s|ed|ing)?)\b",
    re.IGNORECASE,
)
DIALECT_NAMES = {"told", "whoever", "somebody", "nobody", "anew", "mend"}
TEXTS = {token.STRING, token.COMMENT, getattr(token, "FSTRING_MIDDLE", token.STRING)}
MAX_TEST_NAME = 60
MAX_ATTRIBUTES = 12
EXEMPT_FROM_MAX_ATTRIBUTES = {
    "StreamSettings",  # the table of options
    "Response",  # parts that are parsed on first access
    "StreamReport",  # one field for each figure
    *("RequestFinished", "ProgressSampled", "RunRecord", "StreamRecord"),  # the same
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


@cache
def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    room = module.partition(".")[0]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> Iterator[str]:
    """The modules of our own that a file imports, dotted from the package."""
    here = path.relative_to(PACKAGE).parent.parts
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            if node.module:
                yield ".".join((*base, node.module))
            else:
                yield from (".".join((*base, alias.name)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asyncstreams"):
            pytest.fail(f"{path.name} imports the package by its name")


@cache
def modules_imported(path: Path) -> set[str]:
    known = {dotted(module) for module in MODULES}
    return {name if name in known else name.rpartition(".")[0] for name in imports(path)}


def test_every_module_stands_on_a_floor() -> None:
    rooms = {room for rooms in FLOORS for room in rooms}

    homeless = [dotted(path) for path in MODULES if dotted(path).partition(".")[0] not in rooms]

    assert homeless == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_imports_from_its_floor_or_below(path: Path) -> None:
    upwards = [name for name in modules_imported(path) if floor(name) < floor(dotted(path))]

    assert upwards == []


def test_no_module_is_part_of_a_cycle() -> None:
    below = {dotted(path): modules_imported(path) - {dotted(path)} for path in MODULES}
    done: set[str] = set()

    while ready := {name for name, needed in below.items() if name not in done and needed <= done}:
        done |= ready

    assert set(below) - done == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_function_imports_our_own_package(path: Path) -> None:
    hidden = [
        f"{path.name}:{node.lineno}"
        for function in nodes(path)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert hidden == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(parsed(path)) or path.name == "__init__.py"


@pytest.mark.parametrize("path", PLUGIN_MODULES, ids=lambda path: path.name)
def test_plugin_has_docstrings_and_imports_public_names(path: Path) -> None:
    imported = {node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom) and not node.level}

    assert ast.get_docstring(parsed(path))
    assert {name for name in imported if name.startswith("asyncstreams")} <= {"asyncstreams.testing"}


@pytest.mark.parametrize("path", [p for p in MODULES if dotted(p) not in ("clock", "http.retry")], ids=dotted)
def test_time_and_chance_come_from_clock_and_session(path: Path) -> None:
    forbidden = {
        ("time", "time"),
        ("time", "monotonic"),
        ("time", "sleep"),
        ("random", "random"),
        ("random", "uniform"),
    }

    used = [
        f"{path.name}:{node.lineno}"
        for node in nodes(path)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in forbidden
    ]

    # `self._random.uniform` is the session's; a bare `random.uniform` would be the module's.
    assert used == []


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.stem for path in MODULES + PLUGIN_MODULES if not path.stem.startswith("__"))

    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_classes_have_the_same_name() -> None:
    names = Counter(
        node.name for path in MODULES + PLUGIN_MODULES for node in nodes(path) if isinstance(node, ast.ClassDef)
    )

    assert [name for name, count in names.items() if count > 1] == []


def test_classes_have_few_attributes() -> None:
    classes = [node for path in MODULES + PLUGIN_MODULES for node in nodes(path) if isinstance(node, ast.ClassDef)]

    counts = {node.name: len(attributes(node)) for node in classes if not is_structural(node)}

    too_many = {name: count for name, count in counts.items() if count > MAX_ATTRIBUTES}
    assert {name: count for name, count in too_many.items() if name not in EXEMPT_FROM_MAX_ATTRIBUTES} == {}
    assert len(EXEMPT_FROM_MAX_ATTRIBUTES) <= 7


def is_structural(node: ast.ClassDef) -> bool:
    """Whether a class only describes the attributes of others: a Protocol or a TypedDict."""
    return any(ast.unparse(base).partition("[")[0] in ("Protocol", "TypedDict") for base in node.bases)


def attributes(node: ast.ClassDef) -> set[str]:
    """Names assigned on `self` in a class, its annotated fields except ClassVars, and its slots."""
    names: set[str] = set()
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not ast.unparse(statement.annotation).startswith("ClassVar"):
                names.add(statement.target.id)
        elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__":
            names |= {slot.value for slot in ast.walk(statement.value) if isinstance(slot, ast.Constant)}
    for part in own_nodes(node):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and ast.unparse(part.value) == "self":
            names.add(part.attr)
    return names


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, without those of nested classes."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef):
            yield child
            yield from own_nodes(child)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_docstring_is_no_question(path: Path) -> None:
    first_line = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]

    assert "?" not in first_line


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_is_in_plain_english(path: Path) -> None:
    found = [
        f"{path.name}:{piece.start[0]}: {word[0]}"
        for piece in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        if path != Path(__file__)
        for word in (DIALECT.finditer(piece.string) if piece.type in TEXTS else dialect_names(piece))
    ]

    assert found == []


def dialect_names(piece: tokenize.TokenInfo) -> list[list[str]]:
    """Parts of an identifier that are words of the dialect."""
    if piece.type != token.NAME:
        return []
    return [[part] for part in piece.string.lower().split("_") if part in DIALECT_NAMES]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_is_in_plain_english(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()

    assert [f"{path.name}:{number}: {line}" for number, line in enumerate(lines, 1) if DIALECT.search(line)] == []


def test_modules_named_in_the_architecture_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawings = "".join(re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    named = re.findall(r"\b([a-z_]+/[a-z0-9_]*)", drawings)

    assert len(named) > 60
    assert [name for name in named if not any((PACKAGE / f"{name}{end}").exists() for end in ("", ".py"))] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.name)
def test_names_of_tests_are_short(path: Path) -> None:
    functions = (node.name for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    assert [name for name in functions if name.startswith("test_") and len(name) > MAX_TEST_NAME] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_do_not_import_from_tests(path: Path) -> None:
    imported = {
        name
        for node in nodes(path)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }

    assert [name for name in imported if name.rpartition(".")[2].startswith("test_")] == []
