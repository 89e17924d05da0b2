"""The Source that a command names: `module:Class` or `path/file.py:Class`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError
from ..source import Source

_MIN_SIMILARITY = 0.6
_USAGE = "write module:Class, such as shop:Shop, or path/file.py:Class"


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A class of a Source, or a Source that its module has made; `import_path` is such as "shop:Shop"."""

    import_path: str
    target: type[Source] | Source

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.source_class.__name__

    @property
    def source_class(self) -> type[Source]:
        return self.target if isinstance(self.target, type) else type(self.target)

    @property
    def spec(self) -> Mapping[str, Any] | None:
        """The JSON schema of the configuration, without the envelope of an Airbyte spec; None without one."""
        spec = self.target.spec
        if not isinstance(spec, Mapping):
            return None  # none, or one that the Source refuses
        schema: Mapping[str, Any] = spec.get("connectionSpecification", spec)
        return schema

    def create(self, config: Mapping[str, Any], **options: Any) -> Source:
        """The Source for a configuration. `options` are those of `Source` that differ from what the author chose.

        Raises ConfigError, also if the Source exists already and cannot be given a configuration or options.
        """
        if isinstance(self.target, type):
            return self._call(self.target, config, options)
        if config or options:
            given = "a configuration" if config else f"the option {next(iter(options))!r}"
            raise ConfigError(
                f"{self.import_path} is a Source that its module has made: it cannot be given {given}",
                hint="name a class with `spec` and `streams(config)`, or set it where the Source is made",
            )
        return self.target

    def _call(self, source_class: type[Source], config: Mapping[str, Any], options: Mapping[str, Any]) -> Source:
        """Create the Source; an `__init__` of the author may accept neither a configuration nor options."""
        signature = inspect.signature(source_class)
        choices: list[list[Any]] = [[config]] if config else [[config], []]
        for arguments in choices:
            try:
                signature.bind(*arguments, **options)
            except TypeError:
                continue
            return source_class(*arguments, **options)
        missing = f"the option {next(iter(options))!r}" if options else "a configuration"
        raise ConfigError(
            f"{self.name}.__init__ does not accept {missing}",
            hint="define it as `def __init__(self, config, **options)`, and pass both on to super().__init__",
        )


def load_source_class(text: str) -> LoadedSource:
    """Import the Source that `module:Class` or `path/file.py:Class` names.

    Without `:Class` the module must define exactly one Source. The current folder can be imported from, as with
    `python -m`, and so can the folder of the file. Raises ConfigError.
    """
    location, name = _split(text)
    if not location:
        raise ConfigError(f"SOURCE {text!r}: names no module", hint=_USAGE)
    module = _import_file(location) if location.endswith(".py") else _import_module(location)
    name = name or _only_source(module, location)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{location}: has no {name!r}", hint=_suggestion(module, name))
        found = getattr(found, part)
    if isinstance(found, Source) or (isinstance(found, type) and issubclass(found, Source) and found is not Source):
        return LoadedSource(f"{location}:{name}", found)
    kind = "a class that is not a subclass of Source" if isinstance(found, type) else "not a Source"
    kind = "the base class of all Sources" if found is Source else kind
    raise ConfigError(f"{location}: {name} is {kind}", hint=_suggestion(module, name))


def _split(text: str) -> tuple[str, str]:
    """The module or file, and the name in it; the name is empty without one. A drive such as `C:` is no module."""
    if text.endswith(".py"):
        return text, ""
    location, colon, name = text.rpartition(":")
    return (location, name) if colon else (text, "")


def _import_module(name: str) -> ModuleType:
    if "/" in name or os.sep in name:
        raise ConfigError(f"SOURCE {name!r}: a path must end in .py", hint=_USAGE)
    _add_to_path(Path.cwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            file = Path(*name.split(".")).with_suffix(".py")
            hint = "run the command in the folder that has the module, or write path/file.py:Class"
            raise ConfigError(
                f"{name}: no module of this name in {Path.cwd()} or installed: {file}", hint=hint
            ) from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _import_file(location: str) -> ModuleType:
    path = Path(location)
    if not path.is_file():
        folder = path.parent
        names = [file.name for file in folder.glob("*.py")] if folder.is_dir() else []
        close = difflib.get_close_matches(path.name, names, 1, _MIN_SIMILARITY)
        hint = f"did you mean {folder / close[0]}?" if close else f"the path is relative to {Path.cwd()}"
        raise ConfigError(f"{location}: there is no such file", hint=hint)
    _add_to_path(Path.cwd())
    _add_to_path(path.resolve().parent)
    name = path.stem
    if name in sys.modules or not name.isidentifier():
        name = f"source_{hashlib.blake2b(os.fsencode(path.resolve()), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None  # of a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_error(location, error) from error
    return module


def _add_to_path(folder: Path) -> None:
    """Import from a folder first, unless Python does so already."""
    if not any(Path(entry or ".").resolve() == folder for entry in sys.path):
        sys.path.insert(0, str(folder))


def _import_error(location: str, error: BaseException) -> ConfigError:
    """What an import raised, and the line; the frames of the import machinery and of this module are left out."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[:1] != "<"]
    own = [
        frame for frame in frames if frame.filename != __file__ and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}, line {error.lineno})"
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return ConfigError(
        f"{location} cannot be imported: {type(error).__name__}: {message}{where}",
        hint="--debug shows the traceback",
    )


def _sources_of(module: ModuleType) -> list[str]:
    """The names of the Sources that a module defines, those that it imports from elsewhere left out."""
    found: list[str] = []
    for name, value in vars(module).items():
        is_own = isinstance(value, type) and issubclass(value, Source) and value.__module__ == module.__name__
        if is_own or (isinstance(value, Source) and not name.startswith("_")):
            found.append(name)
    return found


def _only_source(module: ModuleType, location: str) -> str:
    names = _sources_of(module)
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{location}: defines no Source", hint="a Source is a subclass of asyncstreams.Source")
    shown = " or ".join(f"{location}:{name}" for name in names)
    raise ConfigError(f"{location}: defines {len(names)} Sources", hint=f"write {shown}")


def _suggestion(module: ModuleType, name: str) -> str:
    names = _sources_of(module)
    if close := difflib.get_close_matches(name, names, 1, _MIN_SIMILARITY):
        return f"did you mean {close[0]!r}?"
    return f"its Sources are {', '.join(names)}" if names else "the module defines no Source"
