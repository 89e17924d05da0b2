"""Source text of functions, and the global names that it uses."""

from __future__ import annotations

import ast
import linecache
import symtable
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import resolve_name
from types import CodeType, FunctionType
from typing import NamedTuple, TypeAlias

from ..auth.identity import NotFingerprintable, code_parts

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Path: TypeAlias = tuple[str, ...]


class FunctionSource(NamedTuple):
    """The text of a function with its decorators, and the names that it takes from elsewhere."""

    text: str
    globals: Sequence[_Path]
    """Dotted names that begin with a global or builtin name: ("re", "compile") for `re.compile`."""
    imports: Sequence[str]
    """The modules that the function itself imports."""


class SourceFiles:
    """Source files, each parsed once."""

    def __init__(self) -> None:
        self._files: dict[str, _SourceFile] = {}

    def find(self, function: FunctionType) -> FunctionSource:
        """The source of a function. Raises NotFingerprintable if it cannot be found, or is newer than the function."""
        code, package = function.__code__, str(function.__globals__.get("__package__") or "")
        if (file := self._files.get(code.co_filename)) is None:
            linecache.checkcache(code.co_filename)
            text = "".join(linecache.getlines(code.co_filename, function.__globals__))
            try:
                file = self._files[code.co_filename] = _SourceFile(text, code.co_filename)
            except (SyntaxError, ValueError):
                raise NotFingerprintable(_changed(code)) from None
        return file.find(code, package)


class _SourceFile:
    def __init__(self, text: str, name: str) -> None:
        tree = ast.parse(text, name)
        self._text, self._lines = text, text.splitlines(keepends=True)
        self._codes = defaultdict[tuple[str, int], list[CodeType]](list)
        for code in _nested_codes(compile(tree, name, "exec", dont_inherit=True)):
            self._codes[code.co_name, code.co_firstlineno].append(code)
        self._nodes = defaultdict[tuple[str, int], list[_Function]](list)
        for node in ast.walk(tree):
            if isinstance(node, _Function):
                self._nodes[_name_of(node), _first_line(node)].append(node)
        self._scopes = defaultdict[tuple[str, int], list[symtable.SymbolTable]](list)
        for scope in _nested_scopes(symtable.symtable(text, name, "exec")):
            self._scopes[scope.get_name(), scope.get_lineno()].append(scope)

    def find(self, code: CodeType, package: str) -> FunctionSource:
        key = code.co_name, code.co_firstlineno
        if not self._text:
            raise NotFingerprintable(f"the source of {code.co_qualname} cannot be found")
        # The file may have changed since it was imported: its text counts only if it has this code.
        if not any(list(code_parts(found)) == list(code_parts(code)) for found in self._codes[key]):
            raise NotFingerprintable(_changed(code))
        node = _node_of(code, self._nodes[key])
        if isinstance(node, ast.Lambda):
            text = ast.get_source_segment(self._text, node) or ""
        else:
            text = "".join(self._lines[code.co_firstlineno - 1 : node.end_lineno])
        # A scope has no column: of several lambdas on one line, the names of all count.
        scopes = self._scopes[_name_of(node).strip("<>"), node.lineno]
        names = {name for scope in scopes for name in _global_names(scope)}
        paths = {path for path in _dotted_names(node) if path[0] in names}
        return FunctionSource(
            text, sorted(paths | {(name,) for name in names - {path[0] for path in paths}}), _imports(node, package)
        )


def _changed(code: CodeType) -> str:
    return f"the source of {code.co_qualname} differs from the code that runs; its file may have changed"


def _nested_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested_codes(constant)


def _nested_scopes(scope: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield scope
    for child in scope.get_children():
        yield from _nested_scopes(child)


def _global_names(scope: symtable.SymbolTable) -> set[str]:
    return {
        symbol.get_name() for nested in _nested_scopes(scope) for symbol in nested.get_symbols() if symbol.is_global()
    }


def _name_of(node: _Function) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _first_line(node: _Function) -> int:
    """The line at which the code of a function begins: that of its first decorator."""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _node_of(code: CodeType, nodes: Sequence[_Function]) -> _Function:
    """The node of this code. Of several lambdas on one line, it is the smallest one around its instructions."""
    if len(nodes) == 1:
        return nodes[0]
    spans = [
        ((line, column), (end, end_column))
        for line, end, column, end_column in code.co_positions()
        if line is not None and end is not None and column is not None and end_column
    ]
    around = [
        (end[0] - start[0], end[1] - start[1], node)
        for node in nodes
        if isinstance(node, ast.Lambda)
        for start, end in [_span(node.body)]
        if spans and all(start <= first and last <= end for first, last in spans)
    ]
    if not around:
        raise NotFingerprintable(f"the source of {code.co_qualname} is ambiguous: there are several on one line")
    return min(around, key=lambda item: item[:2])[2]


def _span(node: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _dotted_names(node: ast.AST) -> Iterator[_Path]:
    """The names of a syntax tree, each with the attributes that are read of it."""
    path, root = list[str](), node
    while isinstance(root, ast.Attribute):
        path.insert(0, root.attr)
        root = root.value
    if isinstance(root, ast.Name):
        yield (root.id, *path)
        return
    for child in ast.iter_child_nodes(root):
        yield from _dotted_names(child)


def _imports(node: ast.AST, package: str) -> Sequence[str]:
    found = list[str]()
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            found += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            name = "." * statement.level + (statement.module or "")
            found.append(resolve_name(name, package) if statement.level else name)
    return found
