"""Records encoded as JSON Lines, for streams whose records only go into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from .._json import (
    SURROGATES_HINT,
    LoneSurrogate,
    ValueWithoutJSON,
    encode,
    encode_lines,
    has_lone_surrogate,
)
from ..errors import AsyncStreamsError, ConfigError, UnexpectedContent
from ..models import Page, QuarantinedRecord, Record, shorten
from .raw_records import RawRecords

_encoder = msgspec.json.Encoder()


class EncodedLines:
    """The records of one page as newline-delimited JSON in `data`."""

    __slots__ = ("_count", "data")

    def __init__(self, data: bytes = b"", count: int = 0) -> None:
        self.data, self._count = data, count

    def to_json_array(self) -> bytes:
        """The records as one JSON array."""
        return b"[" + self.data[:-1].replace(b"\n", b",") + b"]"

    def truncate(self, max_records: int) -> EncodedLines:
        """The first records, at most `max_records`."""
        lines = self.data.splitlines(keepends=True)[:max_records]
        return EncodedLines(b"".join(lines), len(lines))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<EncodedLines({self._count:,} records)>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EncodedPage(Page):
    """A page that only goes into files: `lines` and `quarantined_lines`, and no decoded records."""

    lines: EncodedLines
    quarantined_lines: EncodedLines

    def truncate(self, max_records: int) -> EncodedPage:
        """The page with at most `max_records` records, as of `Page.truncate`."""
        if len(self.lines) <= max_records:
            return self
        if self.checkpoint is not None:
            self.checkpoint.discard_last()
        return replace(self, lines=self.lines.truncate(max_records), is_last=False)


def page_counts(page: Page) -> tuple[int, int]:
    """The numbers of records and of quarantined records of a page."""
    if isinstance(page, EncodedPage):
        return len(page.lines), len(page.quarantined_lines)
    return len(page.records), len(page.quarantined)


def encode_records(records: Sequence[Record], *, is_json: bool) -> EncodedLines:
    """Encode one record per line. Raises TypeError for a record without a JSON form.

    `is_json`: the records are unmodified output of the JSON decoder, so that the check is unnecessary.
    """
    return EncodedLines(_encoder.encode_lines(records) if is_json else encode_lines(records), len(records))


def copy_raw(records: RawRecords) -> EncodedLines:
    """Copy one raw record per line."""
    return EncodedLines(_encoder.encode_lines(records.items), len(records))


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
