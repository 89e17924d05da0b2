"""Public names: sorted, documented, and usable by inspection, pickle and copy."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import re
import typing
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import asyncstreams
import asyncstreams.progress
import asyncstreams.testing

ROOT = Path(__file__).parent.parent
PUBLIC = {name: getattr(asyncstreams, name) for name in asyncstreams.__all__}
CLASSES = {name: public for name, public in PUBLIC.items() if isinstance(public, type)}
# A type alias has no docstring of its own: the string below its definition documents it.
ALIASES = {name for name, public in PUBLIC.items() if not isinstance(public, type) and not inspect.isroutine(public)}
VALUES: dict[str, Any] = {
    type(value).__name__: value
    for value in (
        asyncstreams.Backoff(base=0.5, cap=10.0),
        asyncstreams.BodyLimits(ratio=10),
        asyncstreams.Timeouts(connect=1.0),
        asyncstreams.RateLimit(100, per=60),
        asyncstreams.Slice({"id": 1}, ("2026-01-01", "2026-01-02")),
        asyncstreams.PageNumber(size=100, total_items="meta.total"),
        asyncstreams.Offset(limit=10),
        asyncstreams.Cursor("meta.next"),
        asyncstreams.LinkHeader(),
        asyncstreams.NextUrl("next"),
        asyncstreams.Continuation(),
        asyncstreams.Header("X-Next"),
        asyncstreams.TimeWindows(start="2026-01-01", step=timedelta(days=1)),
        asyncstreams.NumberRanges(step=100, end=1000),
        asyncstreams.PageRead("orders", asyncstreams.Slice({"id": 1}), 0, 100, 0),
        asyncstreams.RetryScheduled("orders", "answered 503", 0.25, 1),
        asyncstreams.SchemaViolation("/total", "type", "not a number"),
        asyncstreams.StreamReport("orders", 1, 100, 0, 1, 0),
        asyncstreams.WriteReport(Path("out/orders"), rows=100),
    )
}


@pytest.mark.parametrize("module", [asyncstreams, asyncstreams.testing], ids=lambda module: module.__name__)
def test_all_is_sorted_and_complete(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    imported = {
        alias.asname or alias.name
        # Imports for type checkers are of names that are imported on first use.
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    assert module.__all__ == sorted(set(module.__all__))
    assert {name for name in imported if not name.startswith("_") or name == "__version__"} == set(module.__all__)


def test_dir_and_star_import_have_every_public_name() -> None:
    namespace: dict[str, Any] = {}
    exec("from asyncstreams import *", namespace)

    assert set(PUBLIC) <= set(dir(asyncstreams))
    assert {name: namespace[name] for name in PUBLIC} == PUBLIC


def test_submodules_stay_importable() -> None:
    assert asyncstreams.errors.ConfigError is asyncstreams.ConfigError
    assert asyncstreams.testing.MockApi
    assert asyncstreams.progress.Progress


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - ALIASES))
def test_public_name_has_a_docstring(name: str) -> None:
    # A dataclass without a docstring gets its signature as one.
    assert (docstring := vars(PUBLIC[name])["__doc__"] if name in CLASSES else PUBLIC[name].__doc__)
    assert not docstring.startswith(f"{name}(")


@pytest.mark.parametrize("name", sorted(ALIASES - {"__version__"}))
def test_type_alias_has_a_docstring(name: str) -> None:
    assert name in documented_aliases()


@pytest.mark.parametrize("name", CLASSES)
def test_public_method_has_a_docstring(name: str) -> None:
    undocumented = [
        member
        for member, value in own_members(CLASSES[name])
        if not inspect.getdoc(getattr(CLASSES[name], member) if isinstance(value, property) else value)
    ]

    assert undocumented == []


def own_members(class_: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for member, value in vars(class_).items():
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            # Implementations of a protocol, such as a paginator's, are documented there.
            documented = (getattr(asyncstreams.Paginator, member, None), getattr(asyncstreams.Windows, member, None))
            if not any(inspect.getdoc(other) for other in documented if other is not None):
                yield member, value


@cache
def documented_aliases() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "asyncstreams").rglob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        for node, after in pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found.add(node.target.id)
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_shows_its_public_module(name: str) -> None:
    assert CLASSES[name].__module__ == "asyncstreams"
    assert repr(CLASSES[name]) in (f"<class 'asyncstreams.{name}'>", f"<enum '{name}'>", f"<flag '{name}'>")


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_has_type_hints(name: str) -> None:
    typing.get_type_hints(CLASSES[name])
    for value in vars(CLASSES[name]).values():
        if inspect.isroutine(value) and hasattr(value, "__annotations__"):
            typing.get_type_hints(value)


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_is_pickled_and_copied_by_name(name: str) -> None:
    assert pickle.loads(pickle.dumps(CLASSES[name])) is CLASSES[name]
    assert copy.copy(CLASSES[name]) is CLASSES[name]
    assert copy.deepcopy(CLASSES[name]) is CLASSES[name]


@pytest.mark.parametrize("name", VALUES)
def test_public_value_survives_pickle_and_copy(name: str) -> None:
    value = VALUES[name]

    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value


def test_traceback_shows_the_public_name_of_an_error() -> None:
    error = asyncstreams.ConfigError("no url_base")

    assert f"{type(error).__module__}.{type(error).__qualname__}" == "asyncstreams.ConfigError"


def test_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(asyncstreams.Secret("s3cret"))


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    listed = re.findall(r"^::: asyncstreams\.(\w+)$", text, re.MULTILINE)

    assert sorted(listed) == sorted(set(PUBLIC) - {"__version__"})


def test_typing_api_covers_every_public_name() -> None:
    tree = ast.parse((ROOT / "tests" / "typing_api.py").read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    assert set(PUBLIC) - {"__version__"} <= used
