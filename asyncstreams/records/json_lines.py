"""How are records held that only go into a file? As the lines that they will be there: bytes, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import msgspec

from .._json import decode_lines, encode_lines
from ..models import QuarantinedRecord, Record
from .raw_records import are_raw

_encoder = msgspec.json.Encoder()


class EncodedLines(Sequence[Record]):
    """Records of one page; each is made when somebody looks at it."""

    __slots__ = ("_count", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data, self._count = data, count

    def as_array(self) -> bytes:
        """The same as one JSON array."""
        return b"[" + self.data[:-1].replace(b"\n", b",") + b"]"

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return decode_lines(self.data)[index]

    def __repr__(self) -> str:
        return f"<Lines of {self._count:,} records>"


def lines_of(records: Sequence[Record], *, is_decoded: bool) -> EncodedLines:
    """One line for each; records that were decoded, and not changed, have a form in JSON. Raises TypeError.

    Those that are still as they came stay so.
    """
    if is_decoded or are_raw(records):
        return EncodedLines(_encoder.encode_lines(records), len(records))
    return EncodedLines(encode_lines(records), len(records))


def quarantined_lines(records: Sequence[QuarantinedRecord]) -> EncodedLines:
    """The same of those that do not fit their schema, each with where it does not."""
    told = [
        {
            "record": one.record,
            "problems": [
                {"pointer": problem.pointer, "keyword": problem.keyword, "detail": problem.detail}
                for problem in one.problems
            ],
        }
        for one in records
    ]
    return lines_of(told, is_decoded=False)
