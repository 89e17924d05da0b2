"""Records encoded as JSON Lines, for streams whose records only go into files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import msgspec

from .._json import (
    SURROGATES_HINT,
    LoneSurrogate,
    ValueWithoutJSON,
    decode_lines,
    encode,
    encode_lines,
    has_lone_surrogate,
)
from ..errors import AsyncStreamsError, ConfigError, UnexpectedContent
from ..models import QuarantinedRecord, Record, shorten
from .raw_records import are_raw

_encoder = msgspec.json.Encoder()


class EncodedLines(Sequence[Record]):
    """The records of one page as newline-delimited JSON in `data`; indexing decodes them, slicing does not."""

    __slots__ = ("_count", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data, self._count = data, count

    def to_json_array(self) -> bytes:
        """The records as one JSON array."""
        return b"[" + self.data[:-1].replace(b"\n", b",") + b"]"

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedLines: ...
    def __getitem__(self, index: int | slice) -> Record | EncodedLines:
        if isinstance(index, int):
            record: Record = decode_lines(self.data)[index]
            return record
        lines = self.data.splitlines(keepends=True)[index]
        return EncodedLines(b"".join(lines), len(lines))

    def __repr__(self) -> str:
        return f"<EncodedLines({self._count:,} records)>"


def encode_records(records: Sequence[Record], *, is_json: bool) -> EncodedLines:
    """Encode one record per line; raw records are copied. Raises TypeError for a record without a JSON form.

    `is_json`: the records are unmodified output of the JSON decoder, so that the check is unnecessary.
    """
    if is_json or are_raw(records):
        return EncodedLines(_encoder.encode_lines(records), len(records))
    return EncodedLines(encode_lines(records), len(records))


def encoding_error(error: TypeError, records: Sequence[Record]) -> AsyncStreamsError:
    """The error for records of a page that have no JSON form: `error` is the one of their encoder."""
    hint = "convert it in parse_response, or add a transformer"
    if not isinstance(error, ValueWithoutJSON):
        return ConfigError(f"a record has no form in JSON: {error}", hint=hint)
    is_surrogate = isinstance(error, LoneSurrogate)
    places = (
        f"record {number} of its page, field {shorten(repr(name))}"
        for number, record in enumerate(records)
        for name, value in record.items()
        if (has_lone_surrogate({name: value}) if is_surrogate else _is_without_json(value))
    )
    where = next(places, "a record of its page")
    if not is_surrogate:
        return UnexpectedContent(f"sent a record that has no form in JSON: {error}: {where}", hint=hint)
    return UnexpectedContent(f"sent a text with a lone surrogate, such as half an emoji: {where}", hint=SURROGATES_HINT)


def _is_without_json(value: Any) -> bool:
    try:
        encode(value)
    except TypeError as error:
        return isinstance(error, ValueWithoutJSON)
    return False


def encode_quarantined(records: Sequence[QuarantinedRecord]) -> EncodedLines:
    """Encode one quarantined record per line, with its schema violations. Raises TypeError."""
    entries = [
        {
            "record": quarantined.record,
            "problems": [
                {"pointer": problem.pointer, "keyword": problem.keyword, "detail": problem.detail}
                for problem in quarantined.problems
            ],
        }
        for quarantined in records
    ]
    return encode_records(entries, is_json=False)
