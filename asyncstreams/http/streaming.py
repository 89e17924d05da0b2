"""Incremental parsers of response bodies: JSON Lines, CSV, and the items of one JSON array."""

from __future__ import annotations

import codecs
import csv
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Literal, Protocol

from .. import _json
from ..content.charsets import find_charset, invalid_charset_hint
from ..errors import ConfigError, MalformedJSON, UnexpectedContent
from ..messages import Response
from ..models import Record
from .json_items import ItemScanner, PathsOutside
from .response_errors import check_streamed_graphql
from .text_stream import END_OF_TEXT, text_pieces

_log = logging.getLogger("asyncstreams")
# The beginnings of HTML, XML, a JSON object and a JSON array; a plain CSV field may begin with a bracket.
_OTHER_FORMAT = re.compile(r'\s*(?:<[A-Za-z!?]|\{\s*"|\[\s*[\[{"])')
_LINE_END = re.compile(r"\n|\r\n|\r(?=.)", re.DOTALL)
_DELIMITER_LINE = re.compile("sep=(.)", re.IGNORECASE)
_MAX_LINE_BYTES = 16 * 2**20
_COMMON_DELIMITERS = ";\t|,"


def ndjson(response: Response, *, members: str | None = None) -> AsyncGenerator[Record]:
    """Yield one record for each line of newline-delimited JSON; blank lines are skipped.

    Files and charsets are handled as in `csv_rows`. Raises MalformedJSON, which names the line, also for a truncated
    last line, and UnexpectedContent for a line of more than 16 MiB.
    """
    return _parse(response, response.charset, lambda: _LineParser(response.repair_json), MalformedJSON, members)


def csv_rows(
    response: Response,
    *,
    delimiter: str = ",",
    quotechar: str | None = '"',
    encoding: str | None = None,
    extra_columns: Literal["error", "drop"] = "error",
    members: str | None = None,
) -> AsyncGenerator[Record]:
    """Yield one record of strings for each row; the first row names the fields. Quoted fields may span lines.

    delimiter, quotechar: one character each; None for files without quotes.
    encoding: charset of the text; None for the one that Content-Type declares, or UTF-8. A byte order mark wins.
    extra_columns: columns without a name, and fields beyond the last name, are left out if they are empty. For a
        value there, "error" raises UnexpectedContent, and "drop" leaves it out, too.
    members: which files of a ZIP file are read, by a pattern for their names such as "*.csv" or "data/orders-*.csv".
        Raises UnexpectedContent if no name matches, or if the body is no ZIP file. None: all.

    A gzip, bzip2 or zstd file is decompressed, and the files of a ZIP file (at most 1,000) are read one after the
    other, each with its own header, except those that macOS and Windows add. `body_limits` holds for all of them
    together. A first line such as `sep=;`, which Excel writes, is skipped.

    Raises UnexpectedContent for a field name that occurs twice, a row with too few or too many fields, an unclosed
    quote, a row of more than 16 MiB, bytes that are invalid in the encoding, and for encrypted ZIP files and files
    within files. Raises ConfigError for an invalid argument.
    """
    charset = response.charset if encoding is None else find_charset(encoding)
    if encoding is not None and charset is None:
        raise ConfigError(f"csv_rows(encoding={encoding!r}): unknown encoding")
    _check_dialect(delimiter, quotechar, extra_columns)

    def new_parser() -> _CsvParser:
        return _CsvParser(response, delimiter, quotechar, drops_extra=extra_columns == "drop")

    return _parse(response, charset, new_parser, UnexpectedContent, members)


def json_items(response: Response, path: str = "", *, members: str | None = None) -> AsyncGenerator[Record]:
    """Yield the items of the array at a dotted path (`""`: the body itself), without holding the array.

    Files and charsets are handled as in `csv_rows`. Raises MalformedJSON for a malformed or truncated body. Raises
    UnexpectedContent if there is no array at the path, or for more than 16 MiB in one item or outside the array.
    Raises HttpStatusError at the end if the body has errors of GraphQL, as they would fail a response that is not
    streamed. What stands beside the array, such as the token of the next page, is read by the paginator at the end.
    """

    def new_scanner() -> ItemScanner:
        return ItemScanner(path, response.repair_json, keep_rest)

    def keep_rest(rest: Any) -> None:
        check_streamed_graphql(response, rest)
        response.set_partial_json(rest, PathsOutside(path))

    return _parse(response, response.charset, new_scanner, MalformedJSON, members)


class _Parser(Protocol):
    """An incremental parser of one text in UTF-8."""

    def feed(self, piece: bytes) -> Iterable[Any]: ...

    def finish(self) -> Iterable[Any]: ...


async def _parse(
    response: Response,
    charset: str | None,
    new_parser: Callable[[], _Parser],
    error: type[UnexpectedContent],
    members: str | None,
) -> AsyncGenerator[Any]:
    """Yield the records of each text in the body, from a parser of its own."""
    parser = new_parser()
    async with aclosing(text_pieces(response, charset, error, members)) as pieces:
        async for piece in pieces:
            if piece is END_OF_TEXT:
                records = parser.finish()
                parser = new_parser()
            else:
                records = parser.feed(piece)
            if isinstance(records, list):
                response.count_rows(len(records))
            for record in records:
                yield record


class _LineParser:
    """Parses newline-delimited JSON, the lines of one piece in one call."""

    def __init__(self, repair: Callable[[bytes], bytes | None]) -> None:
        self._repair = repair
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._line = 1

    def feed(self, piece: bytes) -> list[Any]:
        complete, newline, tail = piece.rpartition(b"\n")
        if not newline:
            self._rest.append(piece)
            self._rest_size += len(piece)
            _check_length(self._rest_size, "line")
            return []
        block = b"".join((*self._rest, complete))
        self._rest, self._rest_size = [tail], len(tail)
        first = self._line
        self._line += block.count(b"\n") + 1
        return self._decode(block, first)

    def finish(self) -> list[Any]:
        return self._decode(b"".join(self._rest), self._line)

    def _decode(self, block: bytes, first: int) -> list[Any]:
        try:
            records: list[Any] = _json.decode_repaired(block, self._repair, _json.decode_lines)
            return records
        except MalformedJSON:
            for number, text in enumerate(block.split(b"\n"), first):
                try:
                    if text.strip():
                        _json.decode(text)
                except MalformedJSON as error:
                    message = f"{error.message}, in line {number}"
                    raise MalformedJSON(message, offset=error.offset, hint=error.hint) from None
            raise


class _CsvParser:
    """Parses CSV into records; the lines of a row whose quote is still open stay pending."""

    def __init__(self, response: Response, delimiter: str, quotechar: str | None, *, drops_extra: bool) -> None:
        self._response = response
        self._delimiter, self._quotechar, self._drops_extra = delimiter, quotechar, drops_extra
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending: list[str] = []
        self._rest = self._line_end = ""
        self._number = 0
        self._header: _CsvHeader | None = None

    def feed(self, piece: bytes) -> Iterable[Record]:
        self._rest += self._decode(piece)
        self._line_end = self._line_end or _first_line_end(self._rest)
        if not self._line_end:
            _check_length(len(self._rest), "row")
            return ()
        *lines, self._rest = self._rest.split(self._line_end)
        self._pending += [line + self._line_end for line in lines]
        rows, used = self._parse_pending(final=False)
        del self._pending[:used]
        _check_length(len(self._rest) + sum(map(len, self._pending)), "row")
        return self._records(rows)

    def finish(self) -> Iterable[Record]:
        self._rest += self._decode(b"", final=True)
        if self._rest:
            self._pending.append(self._rest)
        rows, _ = self._parse_pending(final=True)
        return self._records(rows)

    def _decode(self, piece: bytes, *, final: bool = False) -> str:
        try:
            return self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            reason = error.reason
        raise UnexpectedContent(f"sent a text that is not valid utf-8: {reason}", hint=invalid_charset_hint())

    def _parse_pending(self, *, final: bool) -> tuple[list[list[str]], int]:
        """The complete rows, and the number of lines they used. An incomplete last row is left out."""
        reader = csv.reader(
            self._pending,
            delimiter=self._delimiter,
            quotechar=self._quotechar,
            quoting=csv.QUOTE_NONE if self._quotechar is None else csv.QUOTE_MINIMAL,
            strict=True,
        )
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
                raise UnexpectedContent(
                    f"sent malformed CSV: {error}",
                    hint="if the file has another dialect, pass delimiter=... and quotechar=... to csv_rows",
                ) from None
        finally:
            csv.field_size_limit(usual_limit)
        return rows, used

    def _records(self, rows: list[list[str]]) -> Iterator[Record]:
        while rows and self._header is None:
            self._number += 1
            row = rows.pop(0)
            if not (self._number == 1 and self._declares_delimiter(row)):
                self._header = self._read_header(row)
        self._response.count_rows(len(rows))
        first, self._number = self._number + 1, self._number + len(rows)
        return iter(()) if self._header is None else self._header.records(rows, first)

    def _declares_delimiter(self, row: list[str]) -> bool:
        """Whether a row is a line such as `sep=;`. Raises UnexpectedContent if it declares another delimiter."""
        match = _DELIMITER_LINE.fullmatch(self._delimiter.join(row))
        if match is not None and match[1] != self._delimiter:
            raise UnexpectedContent(
                f"sent CSV whose first line declares the delimiter {match[1]!r}",
                hint=f"pass delimiter={match[1]!r} to csv_rows",
            )
        return match is not None

    def _read_header(self, row: list[str]) -> _CsvHeader:
        if _OTHER_FORMAT.match(row[0]):
            kind = self._response.headers.get("content-type", "no content type")
            raise UnexpectedContent(f"sent HTML, XML or JSON instead of CSV ({kind})")
        if len(row) == 1 and (other := next((char for char in _COMMON_DELIMITERS if char in row[0]), None)):
            _log.warning(
                "csv_rows: the header is one column that contains %r; if that separates the columns, pass delimiter=%r",
                other,
                other,
            )
        return _CsvHeader(row, drops_extra=self._drops_extra)


class _CsvHeader:
    """The names of the columns. A column without a name is an extra column, and is empty in a regular file.

    A single nameless column before the last name has the name "", because files with row numbers begin so.
    """

    def __init__(self, names: list[str], *, drops_extra: bool) -> None:
        self._drops_extra = drops_extra
        width = len(names)
        while width and not names[width - 1]:
            width -= 1
        self._names = names[:width]
        nameless = [at for at, name in enumerate(self._names) if not name]
        is_extra = drops_extra or len(nameless) > 1
        self._inner_extra = nameless if is_extra else []
        self._kept = [at for at in range(width) if at not in self._inner_extra]
        if not self._kept:
            raise UnexpectedContent("sent CSV whose header has no names")
        self._check_unique([self._names[at] for at in self._kept])

    def records(self, rows: list[list[str]], first: int) -> Iterator[Record]:
        """Yield the records of rows, of which the first has the number `first`.

        Raises UnexpectedContent for a row with too few or too many fields.
        """
        names = self._names
        width = -1 if self._inner_extra else len(names)
        for number, row in enumerate(rows, first):
            yield dict(zip(names, row, strict=True)) if len(row) == width else self._irregular_record(row, number)

    def _irregular_record(self, row: list[str], number: int) -> Record:
        names = self._names
        if len(row) < len(names):
            raise UnexpectedContent(
                f"sent CSV whose row {number} has {_fields(len(row))}; the header has {len(names)}: "
                "the row is incomplete",
                hint="if the fields are separated or quoted otherwise, pass delimiter=... and quotechar=...",
            )
        if not self._drops_extra:
            extra = [*self._inner_extra, *range(len(names), len(row))]
            filled = next((at for at in extra if row[at]), None)
            if filled is not None:
                raise UnexpectedContent(
                    f"sent CSV whose row {number} has {_fields(len(row))}; the header has {len(names)}: "
                    f"field {filled + 1} has a value but no name",
                    hint='to leave out values without a name, pass extra_columns="drop" to csv_rows',
                )
        if not self._inner_extra:
            return dict(zip(names, row, strict=False))
        return {names[at]: row[at] for at in self._kept}

    def _check_unique(self, names: list[str]) -> None:
        if len(set(names)) == len(names):
            return
        twice = next(name for name in names if names.count(name) > 1)
        first, second = [at + 1 for at, name in enumerate(self._names) if name == twice][:2]
        raise UnexpectedContent(
            f"sent CSV whose header names {twice!r} twice, in columns {first} and {second}: one of them would be lost",
            hint="request different columns, or parse the body in parse_response: csv.reader over "
            "(await response.aread()).decode().splitlines()",
        )


def _first_line_end(text: str) -> str:
    r"""The end of the first line: "\n", also for "\r\n", or "\r" as on old Macs; empty if it has not arrived."""
    found = _LINE_END.search(text)
    return "" if found is None else "\r" if found[0] == "\r" else "\n"


def _fields(count: int) -> str:
    return f"{count} field" if count == 1 else f"{count} fields"


def _check_dialect(delimiter: Any, quotechar: Any, extra_columns: Any) -> None:
    """Raise ConfigError for arguments that the csv module cannot use."""
    for name, value in (("delimiter", delimiter), ("quotechar", quotechar)):
        is_character = isinstance(value, str) and len(value) == 1 and value not in "\r\n\0"
        if not is_character and not (name == "quotechar" and value is None):
            raise ConfigError(f"csv_rows({name}={value!r}): must be one character other than a line break")
    if delimiter == quotechar:
        raise ConfigError(f"csv_rows(delimiter={delimiter!r}, quotechar={quotechar!r}): must be different characters")
    if extra_columns not in ("error", "drop"):
        raise ConfigError(f'csv_rows(extra_columns={extra_columns!r}): must be "error" or "drop"')


def _check_length(length: int, unit: str) -> None:
    if length > _MAX_LINE_BYTES:
        raise UnexpectedContent(f"sent a {unit} of more than {_MAX_LINE_BYTES:,} bytes")
