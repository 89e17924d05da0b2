"""What is in the lines of a stream: records again, whatever is in them."""

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


def blocks(chunks: Iterable[Chunk], size: int) -> Iterator[tuple[str, bytes]]:
    """The lines of all by their kind, about so many bytes at once."""
    held: dict[str, list[bytes]] = {}
    sizes: Counter[str] = Counter()
    for kind, lines, _ in chunks:
        held.setdefault(kind, []).append(lines)
        sizes[kind] += len(lines)
        if sizes[kind] >= size:
            yield kind, b"".join(held.pop(kind))
            sizes[kind] = 0
    for kind, some in held.items():
        yield kind, b"".join(some)


def records_of(lines: bytes) -> list[dict[str, Any]]:
    """The records, one of each line.

    Integers of any size are exact; a number that no double holds (`1e999`) is the text of it.
    """
    try:
        return _decode_all(b"[" + lines[:-1].replace(b"\n", b",") + b"]")
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return [_careful(line) for line in lines[:-1].split(b"\n")]
    except RecursionError:
        raise OutputWriteError(
            "a record is nested so deeply that no table can hold it",
            hint="take it apart in parse_response; what was committed before is intact",
        ) from None


def _careful(line: bytes) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(line, parse_float=_number))


def _number(text: str) -> float | str:
    number = float(text)
    return text if math.isinf(number) else number
