"""Charsets of JSON, JSON Lines and CSV: declared, marked, or evident from NUL bytes."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import RawTransport

from asyncstreams import (
    ConfigError,
    HttpStream,
    JsonLines,
    MalformedJSON,
    Response,
    UnexpectedContent,
    csv_rows,
    json_items,
    ndjson,
)
from asyncstreams.content.charsets import declared_charset

NAME = "Café Müller"
RECORDS = [{"name": NAME}]


class Body(HttpStream):
    url_base = "https://api.example.com/"
    max_tries = 2

    def path(self, context):
        return "places"


class Lines(Body):
    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


class Items(Body):
    async def parse_response(self, response, context):
        async for record in json_items(response):
            yield record


class Table(Body):
    async def parse_response(self, response, context):
        async for record in csv_rows(response):
            yield record


TEXTS: dict[type[HttpStream], str] = {
    Body: json.dumps(RECORDS, ensure_ascii=False),
    Items: json.dumps(RECORDS, ensure_ascii=False),
    Lines: json.dumps(RECORDS[0], ensure_ascii=False) + "\n",
    Table: f"name\n{NAME}\n",
}
any_format = pytest.mark.parametrize("stream", list(TEXTS))


def byte_by_byte(body: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: (body[at : at + 1] for at in range(len(body)))


async def rows(stream: type[HttpStream], body: Any, content_type: str = "", **options: Any) -> list[Any]:
    headers = {"Content_Type": content_type} if content_type else {}
    return await stream(transport=RawTransport(body, **headers), **options).read()


@any_format
@pytest.mark.parametrize(
    "charset", ["ISO-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-16be", "utf-32", "cp037", "UTF-8", "utf8"]
)
async def test_text_is_read_in_its_declared_charset(stream, charset):
    body = TEXTS[stream].encode(charset)

    assert await rows(stream, body, f"text/x; charset={charset}") == RECORDS
    assert await rows(stream, byte_by_byte(body), f'text/x;a=b; Charset="{charset.upper()}" ; c=d') == RECORDS


@any_format
@pytest.mark.parametrize("declared", ["", "text/x; charset=utf-8", "text/x; charset=ISO-8859-1"])
@pytest.mark.parametrize(
    ("mark", "charset"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
async def test_byte_order_mark_wins_over_the_declared_charset(stream, declared, mark, charset):
    body = mark + TEXTS[stream].encode(charset)

    assert await rows(stream, body, declared) == RECORDS
    assert await rows(stream, byte_by_byte(body), declared) == RECORDS


@any_format
@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
async def test_utf_16_and_32_are_recognised_without_a_mark(stream, charset):
    assert await rows(stream, TEXTS[stream].encode(charset)) == RECORDS


@any_format
@pytest.mark.parametrize("charset", ["klingon", "binary", "none", "hex", "us-ascii", "unicode_escape"])
async def test_unknown_charset_and_ascii_are_read_as_utf_8(stream, charset):
    assert await rows(stream, TEXTS[stream].encode(), f"text/x; charset={charset}") == RECORDS


@any_format
async def test_charset_holds_for_the_text_of_a_compressed_file(stream):
    body = gzip.compress(TEXTS[stream].encode("latin-1"))

    assert await rows(stream, body, "text/x; charset=ISO-8859-1") == RECORDS


async def test_declared_charset_wins_over_bytes_that_are_also_utf_8():
    assert await rows(Body, '[{"a": "Ã©"}]'.encode("latin-1"), "application/json; charset=latin-1") == [{"a": "Ã©"}]


async def test_extracted_json_is_in_utf_8(tmp_path):
    stream = Body(transport=RawTransport(TEXTS[Body].encode("latin-1"), Content_Type="text/json; charset=latin-1"))

    report = await stream.extract(to=JsonLines(tmp_path))

    assert report.streams[0].raw_passthrough
    (part,) = (tmp_path / "body").glob("*.jsonl*")
    assert json.loads(part.read_text("utf-8")) == RECORDS[0]


@pytest.mark.parametrize(
    ("stream", "error"), [(Body, MalformedJSON), (Lines, MalformedJSON), (Table, UnexpectedContent)]
)
@pytest.mark.parametrize("charset", ["shift_jis", "utf-8"])
async def test_bytes_outside_the_charset_are_an_error(stream, error, charset, virtual_clock):
    with pytest.raises(error, match=r"(?i)not (valid )?utf-8|not valid shift_jis"):
        await rows(stream, TEXTS[stream].encode("latin-1"), f"text/x; charset={charset}", clock=virtual_clock)


async def test_encoding_of_csv_rows_replaces_the_declared_one():
    class Declared(Body):
        async def parse_response(self, response, context):
            async for record in csv_rows(response, encoding="latin-1"):
                yield record

    assert await rows(Declared, TEXTS[Table].encode("latin-1"), "text/csv; charset=utf-8") == RECORDS


@any_format
async def test_encoding_of_the_response_replaces_the_declared_one(stream):
    class Corrected(stream):
        def classify(self, response: Response, context: Any) -> Any:
            response.encoding = "utf-8"
            return super().classify(response, context)

    assert await rows(Corrected, TEXTS[stream].encode(), "text/x; charset=ISO-8859-1") == RECORDS


async def test_unknown_encoding_of_the_response_is_a_config_error():
    class Wrong(Body):
        def classify(self, response: Response, context: Any) -> Any:
            response.encoding = "klingon"
            return super().classify(response, context)

    with pytest.raises(ConfigError, match="klingon"):
        await rows(Wrong, b"[]")


@settings(max_examples=20)
@given(
    name=st.text(st.characters(codec="cp1252"), max_size=9),
    charset=st.sampled_from(["cp1252", "utf-16", "utf-16-be", "utf-32-le", "utf-8-sig", "utf-8"]),
    at=st.integers(0, 200),
)
async def test_lines_do_not_depend_on_charset_and_chunking(name, charset, at):
    body = (json.dumps({"name": name}, ensure_ascii=False) + "\n").encode(charset)
    records = await rows(Lines, lambda: [body[:at], body[at:]], f"text/x; charset={charset}")

    assert records == [{"name": name}]


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        (b"text/csv;charset=ISO-8859-1", "iso8859-1"),
        (b"text/csv; charset='windows-1252'", "cp1252"),
        (b"charset=gbk", "gbk"),
        (b"text/csv, text/csv; charset=gbk", "gbk"),
        (b"text/csv; x-charset=gbk", None),
        (b"text/csv; charset=", None),
        (b"text/csv; charset=utf-8; charset=gbk", None),
        (b"text/csv; charset=\xff", None),
        (b"text/csv; charset=a\x00b", None),
        (b"", None),
    ],
)
def test_charset_of_a_content_type(content_type, charset):
    assert declared_charset(content_type) == charset
