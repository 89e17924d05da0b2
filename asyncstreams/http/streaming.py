"""Incremental parsers of response bodies: JSON Lines, CSV, and the items of one JSON array."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import AsyncGenerator
from typing import Any

from .. import _json
from ..errors import ConfigError, MalformedJSON, UnexpectedContent
from ..messages import Response
from ..models import Record
from .json_items import ItemScanner

# The beginnings of HTML, XML, a JSON object and a JSON array; a plain CSV field may begin with a bracket.
_OTHER_FORMAT = re.compile(r'\s*(?:<[A-Za-z!?]|\{\s*"|\[\s*[\[{"])')
_MAX_LINE_BYTES = 16 * 2**20


async def ndjson(response: Response) -> AsyncGenerator[Record]:
    """Yield one record for each line of newline-delimited JSON; blank lines are skipped.

    Raises MalformedJSON, which names the line, also for a truncated last line, and UnexpectedContent
    for a line of more than 16 MiB.
    """
    rest: bytes = b""
    line = 1
    async for piece in response.aiter_bytes():
        complete, newline, tail = piece.rpartition(b"\n")
        if not newline:
            rest += piece
            _check_length(len(rest), "line")
            continue
        block = rest + complete
        rest = tail
        for record in _decode_lines(block, line):
            yield record
        line += block.count(b"\n") + 1
    for record in _decode_lines(rest, line):
        yield record


async def csv_rows(
    response: Response, *, delimiter: str = ",", quotechar: str = '"', encoding: str = "utf-8"
) -> AsyncGenerator[Record]:
    """Yield one record of strings for each row; the first row names the fields. Quoted fields may span lines.

    Raises UnexpectedContent for duplicate field names, a row whose length differs from the header, an
    unclosed quote, a row of more than 16 MiB, or bytes that are invalid in the encoding. Raises ConfigError
    for an unknown encoding.
    """
    header: list[str] | None = None
    number = 0
    async for row in _rows(response, delimiter, quotechar, encoding):
        number += 1
        if header is None:
            header = row
            if _OTHER_FORMAT.match(row[0]):
                kind = response.headers.get("content-type", "no content type")
                raise UnexpectedContent(f"sent HTML, XML or JSON instead of CSV ({kind})")
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise UnexpectedContent(
                    f"sent CSV whose header names {twice!r} twice: one of the columns would be lost"
                )
            continue
        if len(row) != len(header):
            raise UnexpectedContent(f"sent CSV whose row {number} has {len(row)} fields; the header has {len(header)}")
        yield dict(zip(header, row, strict=True))


async def json_items(response: Response, path: str = "") -> AsyncGenerator[Record]:
    """Yield the items of the array at a dotted path (`""`: the body itself), without holding the array.

    Raises MalformedJSON for a malformed or truncated body. Raises UnexpectedContent if there is no array at
    the path, or for more than 16 MiB in one item or outside the array.
    """
    scanner = ItemScanner(path)
    async for piece in response.aiter_bytes():
        for item in scanner.feed(piece):
            yield item
    for item in scanner.finish():
        yield item


def _decode_lines(block: bytes, first: int) -> list[Any]:
    try:
        return _json.decode_lines(block)
    except MalformedJSON:
        for number, text in enumerate(block.split(b"\n"), first):
            try:
                if text.strip():
                    _json.decode(text)
            except MalformedJSON as error:
                raise MalformedJSON(f"{error.message}, in line {number}", offset=error.offset) from None
        raise


async def _rows(response: Response, delimiter: str, quotechar: str, encoding: str) -> AsyncGenerator[list[str]]:
    """Yield complete rows; lines of a row whose quote is still open stay pending."""
    decoder = _decoder(encoding)
    pending: list[str] = []
    rest = ""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + _decode_text(decoder, piece)).split("\n")
        pending += [f"{line}\n" for line in lines]
        rows, used = _parse_rows(pending, delimiter, quotechar, final=False)
        del pending[:used]
        for row in rows:
            yield row
        _check_length(len(rest) + sum(map(len, pending)), "row")
    rest += _decode_text(decoder, b"", final=True)
    rows, _ = _parse_rows([*pending, rest] if rest else pending, delimiter, quotechar, final=True)
    for row in rows:
        yield row


def _parse_rows(lines: list[str], delimiter: str, quotechar: str, *, final: bool) -> tuple[list[list[str]], int]:
    """The complete rows, and the number of lines they used. An incomplete last row is left out."""
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quotechar, strict=True)
    rows: list[list[str]] = []
    used = 0
    # The limit is global to the process: it is changed only while one piece is parsed.
    usual_limit = csv.field_size_limit(_MAX_LINE_BYTES)
    try:
        for row in reader:
            used = reader.line_num
            if row:
                rows.append(row)
    except csv.Error as error:
        if final or "unexpected end of data" not in str(error):
            raise UnexpectedContent(f"sent malformed CSV: {error}") from None
    finally:
        csv.field_size_limit(usual_limit)
    return rows, used


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        return codecs.getincrementaldecoder(name)()
    except LookupError:
        raise ConfigError(f"csv_rows(encoding={encoding!r}): unknown encoding") from None


def _decode_text(decoder: codecs.IncrementalDecoder, piece: bytes, *, final: bool = False) -> str:
    try:
        return decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        raise UnexpectedContent(f"sent bytes that are not valid {error.encoding}: {error.reason}") from None


def _check_length(length: int, unit: str) -> None:
    if length > _MAX_LINE_BYTES:
        raise UnexpectedContent(f"sent a {unit} of more than {_MAX_LINE_BYTES:,} bytes")
