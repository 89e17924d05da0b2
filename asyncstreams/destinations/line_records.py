"""The JSON lines of a stream: spilled to a temporary file, joined into blocks, and decoded back into records."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from ..errors import OutputWriteError
from .writer_protocol import Chunk

_decode_all = msgspec.json.Decoder(list[dict[str, Any]]).decode


def iter_blocks(chunks: Iterable[Chunk], size: int) -> Iterator[tuple[str, bytes]]:
    """The lines of all chunks by kind, joined into blocks of about `size` bytes."""
    pending: dict[str, list[bytes]] = {}
    sizes: Counter[str] = Counter()
    for kind, lines, _ in chunks:
        pending.setdefault(kind, []).append(lines)
        sizes[kind] += len(lines)
        if sizes[kind] >= size:
            yield kind, b"".join(pending.pop(kind))
            sizes[kind] = 0
    for kind, rest in pending.items():
        yield kind, b"".join(rest)


class SpillFile:
    """Lines that wait for their commit, in one temporary file per kind. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def write(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            file = self._files.get(chunk.kind)
            if file is None:
                file = self._files[chunk.kind] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  see close
            file.write(chunk.lines)

    def iter_blocks(self, size: int) -> Iterator[tuple[str, bytes]]:
        """All lines by kind, in blocks of about `size` bytes that end with a line."""
        for kind, file in self._files.items():
            file.seek(0)
            while lines := file.read(size):
                yield kind, lines + file.readline() if not lines.endswith(b"\n") else lines

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def decode_records(lines: bytes) -> list[dict[str, Any]]:
    """The records, one of each line.

    Integers of any size are exact; a number beyond the range of a double (`1e999`) becomes its text. Raises
    OutputWriteError for a record that is nested too deeply.
    """
    try:
        return _decode_all(b"[" + lines[:-1].replace(b"\n", b",") + b"]")
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return [_decode_exactly(line) for line in lines[:-1].split(b"\n")]
    except RecursionError:
        raise OutputWriteError(
            "a record is nested too deeply for a table",
            hint="flatten it in parse_response; everything committed before is intact",
        ) from None


def _decode_exactly(line: bytes) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(line, parse_float=_parse_number))


def _parse_number(text: str) -> float | str:
    number = float(text)
    return text if math.isinf(number) else number
