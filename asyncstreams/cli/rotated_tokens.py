"""Tokens that a Source has written back to its configuration, kept for the next command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from .._json import as_array, as_object, decode, encode_canonical
from ..errors import ConfigError, MalformedJSON, OutputWriteError, StateCorrupt
from ..models import Secret
from ..storage.filesystem import FileSystem, write_file
from .configuration import Configuration, read_config_file, set_value
from .failures import CommandOutput
from .references import is_reference
from .spec_fields import Path as FieldPath
from .spec_fields import child, pointer, steps
from .state_folder import make_private_folder

_FORMAT = 1
_YAML = (".yaml", ".yml")
Report: TypeAlias = Callable[[FieldPath, Any], None]


class WatchedObject(dict[str, Any]):
    """An object of a configuration that reports each value that is set in it."""

    def __init__(self, values: dict[str, Any], path: FieldPath, report: Report) -> None:
        super().__init__({name: watched(value, (*path, name), report) for name, value in values.items()})
        self._path, self._report = path, report

    def __setitem__(self, name: str, value: Any) -> None:
        path = (*self._path, name)
        super().__setitem__(name, watched(value, path, self._report))
        self._report(path, value)

    def setdefault(self, name: str, default: Any = None, /) -> Any:
        """The value of a name; the default is set, and watched, if there is none."""
        if name not in self:
            super().__setitem__(name, watched(default, (*self._path, name), self._report))
        return self[name]


def watched(value: Any, path: FieldPath, report: Report) -> Any:
    """A copy of a value whose objects report what is set in them."""
    if (fields := as_object(value)) is not None:
        return WatchedObject(fields, path, report)
    if (items := as_array(value)) is not None:
        return [watched(item, (*path, number), report) for number, item in enumerate(items)]
    return value


class RotatedTokens:
    """Keeps what a Source sets in its configuration while it reads, such as a refresh token that is valid once.

    Each value is on the disk before the Source uses it: in a file beside the states, readable by the user only, and
    with `writes_config` also in the file of --config. A kept value applies as long as the secrets of its object in the
    configuration are those that the user wrote: a new authorization replaces it.

    `folder` is that of the files, and `prefix` the beginning of their names. Each value is masked in `output`.
    """

    def __init__(
        self,
        configuration: Configuration,
        folder: Path,
        prefix: str,
        output: CommandOutput,
        *,
        writes_config: bool = False,
    ) -> None:
        self._configuration, self._folder, self._prefix = configuration, folder, prefix
        self._output = output
        self._config_file = _writable_file(configuration.file) if writes_config else None
        self._files = {path: self._file_of(path) for path in _objects(configuration.values)}
        self._kept: dict[FieldPath, dict[FieldPath, Any]] = {}
        self._is_reading = False

    def apply(self) -> dict[str, Any]:
        """The configuration with the values that were kept. Raises StateCorrupt."""
        values = self._configuration.values
        for owner, file in self._files.items():
            for inner, value in _read(file):
                self._kept.setdefault(owner, {})[inner] = value
                set_value(values, (*owner, *inner), value)
                self._output.hide(str(value))
        return WatchedObject(values, (), self._keep)

    def begin(self) -> None:
        """Keep what is set from now on. What `streams(config)` sets before, such as a default, is not kept."""
        self._is_reading = True

    def _keep(self, path: FieldPath, value: Any) -> None:
        if not self._is_reading:
            return
        plain = value.reveal() if isinstance(value, Secret) else value
        if isinstance(plain, str):
            self._output.hide(plain)
        owner = max((known for known in self._files if path[: len(known)] == known), key=len)
        kept = self._kept.setdefault(owner, {})
        kept[path[len(owner) :]] = plain
        make_private_folder(self._folder)
        content = {"format": _FORMAT, "values": [[list(inner), item] for inner, item in kept.items()]}
        _replace(self._files[owner], json.dumps(content).encode())
        if self._config_file is not None:
            self._write_config(self._config_file, path, plain)

    def _write_config(self, file: Path, path: FieldPath, value: Any) -> None:
        document = read_config_file(file)
        present: Any = document
        for step in path:
            present = child(present, step)
        if isinstance(present, str) and is_reference(present):
            self._output.warn(
                f"--write-config: {pointer(path)} is a reference, which stays: the new value is kept in {self._folder}"
            )
            return
        set_value(document, path, value)
        if file.suffix.lower() in _YAML:
            text = import_module("yaml").safe_dump(document, sort_keys=False, allow_unicode=True)
        else:
            text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        _replace(file, text.encode())

    def _file_of(self, path: FieldPath) -> Path:
        """The file of an object of the configuration: its name depends on where it is and on its secrets."""
        leaves = self._configuration.fields.leaves(self._configuration.values)
        below = [[pointer(inner), value, is_secret] for inner, value, is_secret in leaves if inner[: len(path)] == path]
        identity = [leaf for leaf in below if leaf[2]] or below
        digest = hashlib.blake2b(encode_canonical([pointer(path), identity]), digest_size=16).hexdigest()
        return self._folder / f"{self._prefix}-{digest}.tokens.json"


def _objects(value: Any, path: FieldPath = ()) -> Iterator[FieldPath]:
    """The paths of all objects in a configuration; that of the configuration itself is the first."""
    if as_object(value) is not None:
        yield path
    if isinstance(value, dict | list):
        for step in steps(value):
            yield from _objects(child(value, step), (*path, step))


def _read(file: Path) -> Iterator[tuple[FieldPath, Any]]:
    try:
        content = as_object(decode(file.read_bytes()))
    except FileNotFoundError:
        return
    except (OSError, MalformedJSON):
        content = None
    values = None if content is None or content.get("format") != _FORMAT else as_array(content.get("values"))
    if values is None:
        raise StateCorrupt(
            f"tokens: {file}: cannot be read as a file of tokens",
            hint="restore the file, or delete it and authorize again: an old refresh token may be refused",
        )
    for inner, value in values:
        yield tuple(inner), value


def _writable_file(file: Path | None) -> Path:
    """The file of --config, if it can be written back. Raises ConfigError."""
    if file is None:
        raise ConfigError("--write-config: there is no --config to write to")
    if file.suffix.lower() == ".toml":
        raise ConfigError(f"--write-config: {file} is TOML, which is only read", hint="use a JSON or YAML file")
    return file.resolve()  # a link stays, and the file that it names is replaced


def _replace(path: Path, data: bytes) -> None:
    """Replace a file atomically, flushed to the disk, with the mode of the old one. Raises OutputWriteError."""
    fs, new_path = FileSystem(), path.with_name(f".{path.name}.new")
    try:
        with suppress(FileNotFoundError):
            fs.unlink(new_path)  # of a process that was killed
        write_file(fs, new_path, data, synced=True)
        with suppress(FileNotFoundError):
            new_path.chmod(path.stat().st_mode & 0o777)
        fs.rename(new_path, path)
        fs.sync_folder(path.parent)
    except OSError as error:
        raise OutputWriteError(
            f"tokens: {path} cannot be written: {error.strerror or error}",
            hint="check permissions and free space; a rotated token that is lost requires a new authorization",
        ) from error
