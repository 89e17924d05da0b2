"""Do imports go one way only, down the floors?"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "asyncstreams"

# From the top; a module may import from its own floor and from those below.
FLOORS = [
    ("testing",),
    ("",),
    ("source", "progress"),
    ("streams",),
    ("extraction",),
    ("execution",),
    ("records", "parents", "destinations"),
    ("http",),
    ("rate_limits",),
    ("pagination", "auth", "schemas", "state"),
    ("declaration", "storage"),
    ("protocols",),
    ("cursors",),
    ("events",),
    ("messages",),
    ("models", "redaction", "urls", "_json"),
    ("errors", "clock", "_version"),
]
MODULES = sorted(PACKAGE.rglob("*.py"))


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
def test_a_module_imports_from_its_own_floor_or_from_below(path: Path) -> None:
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


@pytest.mark.parametrize("path", [p for p in MODULES if dotted(p) not in ("clock", "http.retry")], ids=dotted)
def test_time_and_chance_come_only_from_the_clock_and_the_session(path: Path) -> None:
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
