"""Where is a stream's schema file, and what do its references into shared files become?"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from .._json import as_object, decode, json_name
from ..errors import ConfigError, MalformedJSON

_ALMOST = 0.8  # `order` is almost `orders`, `products` is not `payouts`
# Keywords whose values are data, in which "$ref" is a key like any other.
DATA = frozenset(("const", "enum", "default", "examples"))
# Keywords whose values map names of the author's to schemas: a property may be called "default".
OF_NAMES = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependencies", "dependentSchemas"))


def find_schema(cls: type, base: type, name: str) -> dict[str, Any] | None:
    """What `schemas/<name>.json` holds, beside the module of `cls`, or of a class between it and `base`.

    Files in `schemas/` and `schemas/shared/` that it refers to are taken into its "$defs", so that
    it stands by itself; a file that refers to itself stays finite. None where there is no such file.
    Raises ConfigError for files that are no JSON, and for references that lead nowhere or elsewhere.
    """
    if "/" in name or "\\" in name:
        return None  # a name is one file's, and leads nowhere else
    for folder in _folders(cls, base):
        if (file := folder / f"{name}.json").is_file():
            return bundled(_load(file), folder, f"schemas/{name}.json")
    return None


def similar_files(cls: type, base: type, name: str) -> list[str]:
    """The schema files whose names are almost the one that was sought."""
    names = [file.name for folder in _folders(cls, base) for file in folder.iterdir()]
    lowered = {file.lower().removesuffix(".json"): file for file in names if file.lower().endswith(".json")}
    return [lowered[close] for close in difflib.get_close_matches(name.lower(), lowered, 3, _ALMOST)]


def bundled(schema: object, folder: Traversable | None = None, where: str = "get_json_schema()") -> dict[str, Any]:
    """A copy of the schema with all files that it refers to in its "$defs".

    Raises ConfigError for a schema that is no object, and for a reference to anything but itself
    and files in `folder` or in its `shared/`; nothing is ever fetched.
    """
    if not isinstance(schema, Mapping):
        kind = "nothing" if schema is None else f"a {type(schema).__name__}"
        raise ConfigError(f"{where} holds {kind}: a JSON schema is an object")
    bundling = _Bundling(cast(Mapping[str, Any], schema), folder)
    root = cast(dict[str, Any], bundling.rewritten(schema, None, f"{where}: at "))
    if bundling.taken:
        root = {**root, "$defs": {**(as_object(root.get("$defs")) or {}), **bundling.taken}}
    return root


class _Bundling:
    """Rewrites references to files into references to where their content now stands."""

    def __init__(self, root: Mapping[str, Any], folder: Traversable | None) -> None:
        self._root = root
        self._folder = folder
        self.taken: dict[str, Any] = {}

    def rewritten(self, node: Any, file: str | None, where: str, *, of_names: bool = False) -> Any:
        """A copy of `node`, which stands in `file`, or with None in the schema itself.

        `where` tells the place in messages; `of_names`: the node maps names to schemas.
        """
        if isinstance(node, list | tuple):
            items = enumerate(cast(list[Any], node))
            return [self.rewritten(item, file, f"{where}/{number}") for number, item in items]
        if not isinstance(node, Mapping):
            return node
        fields = cast(Mapping[str, Any], node)
        if of_names:
            return {name: self.rewritten(value, file, f"{where}/{name}") for name, value in fields.items()}
        return {key: self._keyword(key, value, file, where) for key, value in fields.items()}

    def _keyword(self, key: str, value: Any, file: str | None, where: str) -> Any:
        if key in DATA:
            return value
        if key == "$ref" and isinstance(value, str):
            return self._reference(value, file, where)
        return self.rewritten(value, file, f"{where}/{key}", of_names=key in OF_NAMES)

    def _reference(self, reference: str, file: str | None, where: str) -> str:
        target, _, fragment = reference.partition("#")
        if not target or (file is None and target == str(self._root.get("$id", "")).rstrip("#")):
            if file is not None:
                return _pointer(file, fragment)
            self._check_leads_somewhere(reference, fragment, where)
            return f"#{fragment}"
        found = self._sought(unquote(target), file, reference, where)
        if fragment and not fragment.startswith("/"):
            raise ConfigError(
                f"{where}: $ref {reference!r} names an anchor of another file",
                hint="write a pointer: money.json#/definitions/euro",
            )
        if found not in self.taken:
            self.taken[found] = {}  # it may refer to itself
            self.taken[found] = self.rewritten(self._shared(found), found, f"schemas/{found}: at ")
        return _pointer(found, fragment)

    def _shared(self, found: str) -> Any:
        inner = _load(self._file(found))
        if isinstance(inner, bool):
            return inner
        if (fields := as_object(inner)) is None:
            raise ConfigError(f"schemas/{found} holds a {json_name(inner)}: a JSON schema is an object")
        # Its own base would turn the rewritten references into something else.
        return {key: value for key, value in fields.items() if key not in ("$id", "id", "$schema")}

    def _check_leads_somewhere(self, reference: str, fragment: str, where: str) -> None:
        """Raises ConfigError for a pointer into the schema at whose end there is nothing."""
        if not fragment.startswith("/"):
            return
        at: Any = self._root
        for step in fragment[1:].split("/"):
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(at, list | tuple) and key.isdecimal() and int(key) < len(cast(list[Any], at)):
                at = cast(list[Any], at)[int(key)]
            elif isinstance(at, Mapping) and key in at:
                at = cast(Mapping[str, Any], at)[key]
            else:
                raise ConfigError(f"{where}: $ref {reference!r} leads to nothing in the schema")

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
    name = quote(file.replace("~", "~0").replace("/", "~1"), safe="~")
    return f"#/$defs/{name}{quote(fragment, safe='/~%$')}"


def _folders(cls: type, base: type) -> Iterator[Traversable]:
    """The folders `schemas/` beside the modules of a class and of those it is made from."""
    for kind in cls.__mro__[: cls.__mro__.index(base)]:
        if (folder := _beside(kind.__module__)) is not None and (folder / "schemas").is_dir():
            yield folder / "schemas"


def _beside(name: str) -> Traversable | None:
    module = sys.modules.get(name)
    if module is None:
        return None
    package = getattr(module, "__package__", None)
    if package and package in sys.modules:
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
