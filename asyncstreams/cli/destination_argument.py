"""The destination that a command names: `-`, a folder, or a file of a database."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from ..destinations.base import Destination, TableMode
from ..errors import ConfigError

FolderFormat: TypeAlias = Literal["jsonl", "parquet"]
STDOUT = "-"
_DATABASES = {".duckdb": "DuckDB", ".sqlite": "SQLite", ".sqlite3": "SQLite", ".db": "SQLite"}
_FOLDERS: dict[FolderFormat, str] = {"jsonl": "JsonLines", "parquet": "Parquet"}
_MODULES = {"DuckDB": "duckdb", "JsonLines": "jsonl", "Parquet": "parquet", "SQLite": "sqlite"}
_DUCKDB_MAGIC = b"DUCK", 8  # and its position in the file
_USAGE = "write -, a folder such as out/, or a file such as shop.duckdb or shop.sqlite"


def destination_for(
    text: str,
    folder_format: FolderFormat | None = None,
    *,
    mode: TableMode = None,
    allow_credential_change: bool = False,
) -> Destination | None:
    """The destination of `--to`, or of DEST; None for `-`, which is stdout.

    A suffix of a database names a file, everything else a folder; without `folder_format` an existing folder says what
    it holds, and a new one is for JSON Lines. Raises ConfigError, also if the path exists and is of another kind.
    """
    if text == STDOUT:
        if folder_format == "parquet" or mode is not None:
            raise ConfigError(
                f"destination -: stdout has no {'--format parquet' if folder_format else '--mode'}",
                hint="name a destination",
            )
        return None
    path = Path(text).expanduser()
    kind = _DATABASES.get(path.suffix.lower())
    if kind is None:
        _check_folder(text, path)
        kind = _FOLDERS[_folder_format(text, path, folder_format)]
    else:
        if folder_format is not None:
            raise ConfigError(f"destination {text}: --format is for folders, and this is a file of {kind}")
        kind = _database_kind(text, path, kind)
    options: dict[str, Any] = {"mode": mode, "allow_credential_change": allow_credential_change}
    return cast(
        Destination, getattr(import_module(f"..destinations.{_MODULES[kind]}", __package__), kind)(path, **options)
    )


def _check_folder(text: str, path: Path) -> None:
    if not text:
        raise ConfigError("destination: is empty", hint=_USAGE)
    if path.is_dir():
        return
    if path.exists():
        raise ConfigError(f"destination {text}: is a file, where a folder is expected", hint=_USAGE)
    if path.suffix and not text.endswith(("/", "\\")):
        raise ConfigError(
            f"destination {text}: no destination has the suffix {path.suffix!r}",
            hint=f"{_USAGE}; a folder with a dot ends in /",
        )


def _folder_format(text: str, path: Path, wanted: FolderFormat | None) -> FolderFormat:
    """The format of a folder: what it holds, and for a new one what is wanted."""
    patterns: dict[FolderFormat, str] = {"jsonl": "*/part-*.jsonl*", "parquet": "*/part-*.parquet"}
    held: list[FolderFormat] = []
    for name, pattern in patterns.items():
        if path.is_dir() and next(path.glob(pattern), None) is not None:
            held.append(name)
    if len(held) != 1:
        return wanted or "jsonl"
    if wanted not in (None, held[0]):
        raise ConfigError(
            f"destination {text}: the folder holds {_FOLDERS[held[0]]} files, and --format is {wanted}",
            hint="use another folder for another format",
        )
    return held[0]


def _database_kind(text: str, path: Path, kind: str) -> str:
    """The kind of a file of a database; what an existing one begins with is more certain than its suffix."""
    if path.is_dir() or text.endswith(("/", "\\")):
        raise ConfigError(f"destination {text}: is a folder, where a file of {kind} is expected", hint=_USAGE)
    if not path.is_file():
        return kind
    magic, position = _DUCKDB_MAGIC
    with path.open("rb") as file:
        head = file.read(16)
    found = "DuckDB" if head[position : position + len(magic)] == magic else kind
    found = "SQLite" if head.startswith(b"SQLite format 3") else found
    if found != kind and path.suffix.lower() != ".db":
        raise ConfigError(
            f"destination {text}: is a file of {found}, and its suffix is that of {kind}", hint="rename it"
        )
    return found
