"""Decoding of a stream's JSON lines back into records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, cast

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
