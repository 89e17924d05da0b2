"""Where is a stream's schema file, and what do its references into shared files become?"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from .errors import ConfigError, MalformedJSON
from .exact_json import as_array, as_object, decode

_ALMOST = 0.85  # `order` is almost `orders`, `products` is not `payouts`
# Data, in which "$ref" is a key like any other.
_DATA = frozenset(("const", "enum", "default", "examples"))


def find_schema(cls: type, base: type, name: str) -> dict[str, Any] | None:
    """What `schemas/<name>.json` holds, beside the module of `cls`, or of a class between it and `base`.

    Files in `schemas/` and `schemas/shared/` that it refers to are taken into its "$defs", so that
    it stands by itself; a file that refers to itself stays finite. None where there is no such file.
    Raises ConfigError for files that are no JSON, and for references that lead nowhere or elsewhere.
    """
    for folder in _folders(cls, base):
        if (file := folder / f"{name}.json").is_file():
            return bundled(_load(file), folder, f"schemas/{name}.json")
    return None


def similar_files(cls: type, base: type, name: str) -> list[str]:
    """The schema files whose names are almost the one that was sought."""
    names = [file.name for folder in _folders(cls, base) for file in folder.iterdir() if file.name.endswith(".json")]
    lowered = {file.removesuffix(".json").lower(): file for file in names}
    return [lowered[close] for close in difflib.get_close_matches(name.lower(), lowered, 3, _ALMOST)]


def bundled(schema: Any, folder: Traversable | None = None, where: str = "get_json_schema()") -> dict[str, Any]:
    """The schema with all files that it refers to in its "$defs".

    Raises ConfigError for a schema that is no object, and for a reference to anything but a file
    in `folder` or in its `shared/`; nothing is ever fetched.
    """
    root = as_object(schema)
    if root is None:
        kind = "nothing" if schema is None else f"a {type(schema).__name__}"
        raise ConfigError(f"{where} holds {kind}: a JSON schema is an object")
    taken: dict[str, Any] = {}
    root = cast(dict[str, Any], _Bundling(folder, taken).rewritten(root, None, where))
    if taken:
        root = {**root, "$defs": {**(as_object(root.get("$defs")) or {}), **taken}}
    return root


class _Bundling:
    """Rewrites references to files into references to where their content now stands."""

    def __init__(self, folder: Traversable | None, taken: dict[str, Any]) -> None:
        self._folder = folder
        self._taken = taken

    def rewritten(self, node: Any, file: str | None, where: str) -> Any:
        """A copy of `node`, which stands in `file`; None: in the schema itself."""
        if (items := as_array(node)) is not None:
            return [self.rewritten(item, file, where) for item in items]
        if (fields := as_object(node)) is None:
            return node
        return {
            key: self._reference(value, file, where)
            if key == "$ref" and isinstance(value, str)
            else value
            if key in _DATA
            else self.rewritten(value, file, where)
            for key, value in fields.items()
        }

    def _reference(self, reference: str, file: str | None, where: str) -> str:
        target, _, fragment = reference.partition("#")
        if not target:
            return reference if file is None else _pointer(file, fragment)
        found = self._sought(unquote(target), file, reference, where)
        if found not in self._taken:
            self._taken[found] = {}  # it may refer to itself
            inner = _load(self._file(found))
            if (fields := as_object(inner)) is not None:
                # Its own base would turn the rewritten references into something else.
                inner = {key: value for key, value in fields.items() if key not in ("$id", "id", "$schema")}
            self._taken[found] = self.rewritten(inner, found, f"schemas/{found}")
        return _pointer(found, fragment)

    def _sought(self, target: str, file: str | None, reference: str, where: str) -> str:
        """The file below `schemas/` that a reference means: beside the one it stands in, or in `shared/`."""
        parts = [part for part in target.split("/") if part not in ("", ".")]
        plain = "://" not in target and not target.startswith("/") and ".." not in parts and "\\" not in target
        if self._folder is not None and plain and parts:
            beside = "shared/" if file is not None and file.startswith("shared/") else ""
            for found in dict.fromkeys(f"{place}{'/'.join(parts)}" for place in (beside, "shared/", "")):
                if self._file(found).is_file():
                    return found
        raise ConfigError(
            f"{where}: $ref {reference!r} leads to no file in schemas/ or schemas/shared/",
            hint="references are files there, or begin with #; nothing is fetched",
        )

    def _file(self, path: str) -> Traversable:
        assert self._folder is not None
        return self._folder.joinpath(*path.split("/"))


def _pointer(file: str, fragment: str) -> str:
    name = file.replace("~", "~0").replace("/", "~1").replace("%", "%25")
    return f"#/$defs/{name}{fragment}"


def _folders(cls: type, base: type) -> Iterator[Traversable]:
    """The folders `schemas/` beside the modules of a class and of those it is made from."""
    for kind in cls.__mro__[: cls.__mro__.index(base)]:
        if (folder := _beside(kind.__module__)) is not None and (folder / "schemas").is_dir():
            yield folder / "schemas"


def _beside(name: str) -> Traversable | None:
    module = sys.modules.get(name)
    if module is None:
        return None
    if package := getattr(module, "__package__", None):
        return files(package)  # also where the package is a zip file
    file = getattr(module, "__file__", None)
    # A notebook and the interactive interpreter have no file: they stand where they were started.
    return Path(file).parent if file else Path.cwd()


def _load(file: Traversable) -> Any:
    failure: ConfigError
    try:
        return decode(file.read_bytes())
    except MalformedJSON as error:
        failure = ConfigError(f"{file} is not JSON: {error.message.removeprefix('sent JSON that is ')}")
    except OSError as error:
        failure = ConfigError(f"{file} cannot be read: {error.strerror or error}")
    raise failure
