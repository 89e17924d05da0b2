"""The configuration of a command, from a file, the environment and flags."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from .._json import as_array, as_object
from ..errors import ConfigError
from . import spec_fields
from .references import is_reference, resolve_reference
from .spec_fields import SpecFields, pointer

ENVIRONMENT_PREFIX = "ASYNCSTREAMS_CONFIG_"
_MIN_SIMILARITY = 0.6


@dataclass(slots=True)
class Configuration:
    """A configuration with its references resolved.

    values: what the Source receives.
    file, document: the file of --config, and its content as it was read.
    secrets: the texts of all secret fields, to be masked.
    warnings: what was left as it is, and why.
    """

    values: dict[str, Any]
    fields: SpecFields
    file: Path | None = None
    document: dict[str, Any] = field(default_factory=dict[str, Any])
    secrets: list[str] = field(default_factory=list[str], repr=False)
    warnings: list[str] = field(default_factory=list[str])

    def without_secrets(self) -> list[tuple[str, Any]]:
        """The values that are not secret, by JSON pointer: what identifies the configuration."""
        leaves = self.fields.leaves(self.values)
        return sorted((pointer(path), value) for path, value, is_secret in leaves if not is_secret)


def load_config(
    spec: Mapping[str, Any] | None,
    file: Path | None = None,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """The configuration from a file, the environment and flags; each of them replaces values of the ones before.

    `spec` is the JSON schema of the configuration: it decides the types of texts, and the fields in which references
    are resolved. `flags` are texts such as `credentials.token=env:TOKEN`. A value of the environment is not a
    reference. The configuration is not validated: the Source does that. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    document = {} if file is None else read_config_file(file)
    loaded = Configuration(_copied(document), SpecFields(spec), file, document)
    from_environment = _add_environment(loaded, environ)
    from_flags = _add_flags(loaded, flags)
    config_folder = Path.cwd() if file is None else file.resolve().parent
    for path, value, is_secret in list(loaded.fields.leaves(loaded.values)):
        if not isinstance(value, str):
            if is_secret and value is not None and not isinstance(value, bool):
                loaded.secrets.append(str(value))
            continue
        where = pointer(path)
        if path not in from_environment:
            folder = Path.cwd() if path in from_flags else config_folder
            if is_secret and spec is not None:
                value = resolve_reference(value, where, folder, environ)
                set_value(loaded.values, path, value)
            elif is_reference(value):
                loaded.warnings.append(_unresolved(where, value, spec))
        if is_secret and value:
            loaded.secrets.append(value)
    return loaded


def read_config_file(file: Path) -> dict[str, Any]:
    """The object in a JSON, YAML or TOML file. Raises ConfigError, whose message never contains a value."""
    parsers: Mapping[str, Callable[[str], Any]] = {
        ".json": _parse_json,
        ".yaml": _parse_yaml,
        ".yml": _parse_yaml,
        ".toml": _parse_toml,
    }
    parse = parsers.get(file.suffix.lower())
    if parse is None:
        raise ConfigError(f"--config {file}: unknown suffix {file.suffix!r}; use one of {', '.join(parsers)}")
    try:
        content = _as_json(parse(file.read_text("utf-8-sig")))
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {file}: is not text in UTF-8") from None
    except _Malformed as error:
        raise ConfigError(f"--config {file}: {error}") from None
    fields = {} if content is None and file.suffix.lower() != ".json" else as_object(content)
    if fields is None:
        raise ConfigError(f"--config {file}: is not an object of keys and values")
    return fields


class _Malformed(Exception):
    """A file that cannot be parsed; the message has no text of the file."""


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise _Malformed(f"is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None


def _unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Malformed(f"the key {name!r} occurs twice in one object")
        found[name] = value
    return found


def _parse_yaml(text: str) -> Any:
    yaml = import_module("yaml")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # str(error) would show the line itself
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise _Malformed(f"is not YAML{where}") from None


def _parse_toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = str(error).rpartition("(")[2].rstrip(")")
        raise _Malformed(f"is not TOML: {where}") from None


def _as_json(value: Any) -> Any:
    """The value with dates and times as text in ISO 8601, and other keys than strings refused."""
    if (fields := as_object(value)) is not None:
        if not all(isinstance(key, str) for key in fields):
            raise _Malformed("a key is not a string")
        return {key: _as_json(inner) for key, inner in fields.items()}
    if (items := as_array(value)) is not None:
        return [_as_json(item) for item in items]
    return value.isoformat() if isinstance(value, date | time) else value


def _add_environment(loaded: Configuration, environ: Mapping[str, str]) -> set[spec_fields.Path]:
    """Add the values of variables such as ASYNCSTREAMS_CONFIG_CREDENTIALS__TOKEN; return their paths."""
    added: set[spec_fields.Path] = set()
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == ENVIRONMENT_PREFIX:
            continue
        path: spec_fields.Path = ()
        for part in name.removeprefix(ENVIRONMENT_PREFIX).split("__"):
            path = (*path, _declared_name(loaded, path, part, name))
        set_value(loaded.values, path, _typed(loaded, path, environ[name]))
        added |= _paths_below(loaded.values, path)
    return added


def _declared_name(loaded: Configuration, path: spec_fields.Path, part: str, variable: str) -> str | int:
    """The property of the spec that a part of a variable's name stands for; otherwise the part in lower case."""
    if part.isdigit():
        return int(part)
    names = loaded.fields.names_at(path, loaded.values)
    wanted = part.lower()
    for name in names:
        if name.lower().replace("-", "_").replace(".", "_") == wanted:
            return name
    if names:
        close = difflib.get_close_matches(wanted, names, 1, _MIN_SIMILARITY)
        suggestion = f": did you mean {close[0]!r}?" if close else f", which declares {', '.join(names)}"
        loaded.warnings.append(f"{variable}: {wanted!r} is not in the spec{suggestion}")
    return wanted


def _add_flags(loaded: Configuration, flags: Sequence[str]) -> set[spec_fields.Path]:
    """Add the values of `--set key=value`; return their paths."""
    added: set[spec_fields.Path] = set()
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals or not all(key.split(".")):
            shown = key if equals else "..."  # without "=", the text may be a secret
            raise ConfigError(
                f"--set {shown}: expected key=value", hint="for example --set credentials.token=env:TOKEN"
            )
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        set_value(loaded.values, path, _typed(loaded, path, text))
        added |= _paths_below(loaded.values, path)
    return added


def _typed(loaded: Configuration, path: spec_fields.Path, text: str) -> Any:
    """The value of a text, in the type of the spec; without a type as JSON, and as a text if it is none."""
    types = loaded.fields.types_at(path, loaded.values)
    if "string" in types:
        return text
    if types == {"boolean"} and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return _parse_json(text)
    except _Malformed:
        return text


def _paths_below(values: Mapping[str, Any], path: spec_fields.Path) -> set[spec_fields.Path]:
    """The path itself and all paths below it."""
    value: Any = values
    for step in path:
        value = spec_fields.child(value, step)
    below = {(*path, *rest) for rest, _, _ in SpecFields(None).leaves(value)}
    return below | {path}


def set_value(values: dict[str, Any], path: spec_fields.Path, value: Any) -> None:
    """Set the value at a path; objects on the way are created. Raises ConfigError if there is something else."""
    parent: Any = values
    for position, step in enumerate(path):
        is_last = position == len(path) - 1
        if (items := as_array(parent)) is not None and isinstance(step, int) and step < len(items):
            parent, index = items, step
            if is_last:
                parent[index] = value
            else:
                parent = parent[index]
            continue
        if not isinstance(parent, dict):
            raise ConfigError(
                f"configuration: {pointer(path)}: {pointer(path[:position]) or '/'} is not an object that has keys"
            )
        fields = cast(dict[str, Any], parent)
        if is_last:
            fields[str(step)] = value
        else:
            parent = fields.setdefault(str(step), {})


def _copied(value: Any) -> Any:
    if (fields := as_object(value)) is not None:
        return {key: _copied(inner) for key, inner in fields.items()}
    return [_copied(item) for item in items] if (items := as_array(value)) is not None else value


def _unresolved(where: str, value: str, spec: Mapping[str, Any] | None) -> str:
    kind = value.partition(":")[0]
    reason = "the Source has no spec" if spec is None else "the spec does not mark the field secret"
    return f"configuration: {where}: {kind}: is not resolved and stays a text, since {reason}"
