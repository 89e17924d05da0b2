"""Lookup of schema files, and bundling of the files that they refer to."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from .._json import as_object, decode, json_type_name
from ..errors import ConfigError, MalformedJSON

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_MIN_SIMILARITY = 0.8  # accepts `order` for `orders`, but not `products` for `payouts`
# Keywords whose values are data, in which "$ref" is an ordinary key.
DATA_KEYWORDS = frozenset(("const", "enum", "default", "examples"))
# Keywords whose values map arbitrary names to schemas: a property may be called "default".
NAME_MAP_KEYWORDS = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependencies", "dependentSchemas")
)


def find_schema(cls: type, base: type, name: str) -> dict[str, Any] | None:
    """The schema in `schemas/<name>.json` next to the module of `cls`, or of a class between it and `base`.

    Files in `schemas/` and `schemas/shared/` that it refers to are copied into its "$defs", so that the result is
    self-contained; recursive references remain finite. None if there is no such file.
    Raises ConfigError for a file that is not JSON, and for a reference that is unresolvable or leaves `schemas/`.
    """
    if "/" in name or "\\" in name:
        return None  # a name must not lead to another folder
    for folder in _schema_folders(cls, base):
        if _is_file(file := folder / f"{name}.json"):
            return bundle(_load(file), folder, f"schemas/{name}.json")
    return None


def schema_path(cls: type, name: str) -> Path:
    """The file in which `find_schema` looks first. Raises ConfigError if there cannot be one, or in a zip file."""
    if "/" in name or "\\" in name:
        raise ConfigError(f"stream {name!r}: a schema file cannot have this name", hint="give it another `name`")
    folder = _module_folder(cls.__module__)
    if not isinstance(folder, Path):
        raise ConfigError(f"{cls.__module__}: the module of {cls.__name__} is not in a folder")
    return folder / "schemas" / f"{name}.json"


def _is_file(file: Traversable) -> bool:
    with suppress(OSError):  # its name is too long for a file
        return file.is_file()
    return False


def similar_files(cls: type, base: type, name: str) -> list[str]:
    """Names of up to 3 schema files similar to `<name>.json`, best first, for hints at spelling mistakes."""
    names = [file.name for folder in _schema_folders(cls, base) for file in folder.iterdir()]
    lowered = {file.lower().removesuffix(".json"): file for file in names if file.lower().endswith(".json")}
    return [lowered[close] for close in difflib.get_close_matches(name.lower(), lowered, 3, _MIN_SIMILARITY)]


def bundle(schema: object, folder: Traversable | None = None, where: str = "get_json_schema()") -> dict[str, Any]:
    """A copy of the schema with all files that it refers to in its "$defs". Nothing is ever downloaded.

    Raises ConfigError for a schema that is not an object, and for a reference to anything but the schema itself
    and files in `folder` or in its `shared/`. `where` is the location for messages.
    """
    if not isinstance(schema, Mapping):
        kind = "nothing" if schema is None else f"a {type(schema).__name__}"
        raise ConfigError(f"{where}: a JSON schema must be an object, not {kind}")
    bundling = _Bundler(cast(Mapping[str, Any], schema), folder)
    root = cast(dict[str, Any], bundling.rewrite(schema, None, f"{where}: at "))
    if bundling.definitions:
        root = {**root, "$defs": {**(as_object(root.get("$defs")) or {}), **bundling.definitions}}
    return root


class _Bundler:
    """Rewrites references to files into references to `definitions`, which collects their contents."""

    def __init__(self, root: Mapping[str, Any], folder: Traversable | None) -> None:
        self._root = root
        self._folder = folder
        self.definitions: dict[str, Any] = {}

    def rewrite(self, node: Any, file: str | None, where: str, *, is_name_map: bool = False) -> Any:
        """A copy of `node` with rewritten references.

        `file` contains the node; None: the root schema contains it. `where` is the location for messages.
        `is_name_map`: the node maps names to schemas.
        """
        if isinstance(node, list | tuple):
            items = enumerate(cast(list[Any], node))
            return [self.rewrite(item, file, f"{where}/{number}") for number, item in items]
        if not isinstance(node, Mapping):
            return node
        fields = cast(Mapping[str, Any], node)
        if is_name_map:
            return {name: self.rewrite(value, file, f"{where}/{name}") for name, value in fields.items()}
        return {key: self._rewrite_keyword(key, value, file, where) for key, value in fields.items()}

    def _rewrite_keyword(self, key: str, value: Any, file: str | None, where: str) -> Any:
        if key in DATA_KEYWORDS:
            return value
        if key == "$ref" and isinstance(value, str):
            return self._rewrite_reference(value, file, where)
        return self.rewrite(value, file, f"{where}/{key}", is_name_map=key in NAME_MAP_KEYWORDS)

    def _rewrite_reference(self, reference: str, file: str | None, where: str) -> str:
        target, _, fragment = reference.partition("#")
        if not target or (file is None and target == str(self._root.get("$id", "")).rstrip("#")):
            if file is not None:
                return _definition_pointer(file, fragment)
            self._check_target_exists(reference, fragment, where)
            return f"#{fragment}"
        path = self._find_file(unquote(target), file, reference, where)
        if fragment and not fragment.startswith("/"):
            raise ConfigError(
                f"{where}: $ref {reference!r} is an anchor in another file, which is not supported",
                hint="use a JSON pointer, such as money.json#/definitions/euro",
            )
        if path not in self.definitions:
            self.definitions[path] = {}  # stops the recursion if the file refers to itself
            self.definitions[path] = self.rewrite(self._load_shared(path), path, f"schemas/{path}: at ")
        return _definition_pointer(path, fragment)

    def _load_shared(self, path: str) -> Any:
        schema = _load(self._file(path))
        if isinstance(schema, bool):
            return schema
        if (fields := as_object(schema)) is None:
            raise ConfigError(f"schemas/{path}: a JSON schema must be an object, not {json_type_name(schema)}")
        # A base URI of the file would change the meaning of the rewritten references.
        return {key: value for key, value in fields.items() if key not in ("$id", "id", "$schema")}

    def _check_target_exists(self, reference: str, fragment: str, where: str) -> None:
        """Raise ConfigError for a pointer to a location that does not exist in the schema."""
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
                raise ConfigError(f"{where}: $ref {reference!r} does not exist in the schema")

    def _find_file(self, target: str, file: str | None, reference: str, where: str) -> str:
        """The path below `schemas/` of the referenced file: next to the referring one, or in `shared/`."""
        parts = [part for part in target.split("/") if part not in ("", ".")]
        is_relative = "://" not in target and not target.startswith("/") and ".." not in parts and "\\" not in target
        if self._folder is not None and is_relative and parts:
            own_folder = "shared/" if file is not None and file.startswith("shared/") else ""
            for path in dict.fromkeys(f"{folder}{'/'.join(parts)}" for folder in (own_folder, "shared/", "")):
                if self._file(path).is_file():
                    return path
        raise ConfigError(
            f"{where}: $ref {reference!r}: no such file in schemas/ or schemas/shared/",
            hint="refer to a file there, or to #/...; URLs are not downloaded",
        )

    def _file(self, path: str) -> Traversable:
        assert self._folder is not None
        return self._folder.joinpath(*path.split("/"))


def _definition_pointer(file: str, fragment: str) -> str:
    name = quote(file.replace("~", "~0").replace("/", "~1"), safe="~")
    return f"#/$defs/{name}{quote(fragment, safe='/~%$')}"


def _schema_folders(cls: type, base: type) -> Iterator[Traversable]:
    """The `schemas/` folders next to the modules of a class and of its bases below `base`."""
    for kind in cls.__mro__[: cls.__mro__.index(base)]:
        if (folder := _module_folder(kind.__module__)) is not None and (folder / "schemas").is_dir():
            yield folder / "schemas"


def _module_folder(name: str) -> Traversable | None:
    module = sys.modules.get(name)
    if module is None:
        return None
    package = getattr(module, "__package__", None)
    if package and package in sys.modules:
        from importlib.resources import files

        return files(package)  # also where the package is a zip file
    file = getattr(module, "__file__", None)
    # A notebook and the interactive interpreter have no file: use the working directory.
    return Path(file).parent if file else Path.cwd()


def _load(file: Traversable) -> Any:
    failure: ConfigError
    try:
        return decode(file.read_bytes())
    except MalformedJSON as error:
        failure = ConfigError(f"{file}: not valid JSON: {error.message.removeprefix('sent JSON that is ')}")
    except OSError as error:
        failure = ConfigError(f"{file}: cannot be read: {error.strerror or error}")
    raise failure
