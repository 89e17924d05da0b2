"""Streaming parsers: equal records for any chunking, and errors for malformed bodies."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asyncstreams import (
    AsyncStreamsError,
    ConfigError,
    Cursor,
    HttpStream,
    MalformedJSON,
    RequestContext,
    Response,
    UnexpectedContent,
    csv_rows,
    json_items,
    ndjson,
)
from asyncstreams.http.json_items import PathsOutside

often = settings(max_examples=60, deadline=None)
names = st.characters(exclude_characters=".", exclude_categories=["Cs"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=6) | st.text(alphabet='[]{}",:\\\n\ré', max_size=6)
keys = texts | st.sampled_from(["data", "items", "a.b"])
values = st.recursive(
    leaves | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
records = st.lists(st.dictionaries(keys, values, max_size=3), max_size=5)
cuts = st.lists(st.integers(0, 400), max_size=6)
BOM = b"\xef\xbb\xbf"


def in_one(body: bytes) -> list[bytes]:
    return [body]


def byte_by_byte(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def in_pieces(body: bytes, at: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(cut for cut in at if cut < len(body))})
    return [body[start:end] for start, end in pairwise(edges)]


any_chunking = pytest.mark.parametrize("pieces", [in_one, byte_by_byte])
Chunking = Callable[[bytes], list[bytes]]


def streamed_response(pieces: Sequence[bytes]) -> Response:
    async def body() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    response = Response(
        200, headers=[], stream=httpx.ByteStream(b""), request=httpx.Request("GET", "https://api.example.com/")
    )
    response.set_chunks(body())
    return response


async def collect_until_error(items: AsyncIterator[Any]) -> tuple[list[Any], AsyncStreamsError | None]:
    found = []
    try:
        async for item in items:
            found.append(item)  # noqa: PERF401  (items before the error are kept)
    except AsyncStreamsError as error:
        return found, error
    return found, None


@often
@given(records=records, end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), last=st.booleans(), at=cuts)
async def test_ndjson_records_do_not_depend_on_chunking(
    records: list[Any], end: str, last: bool, at: list[int]
) -> None:
    text = end.join(json.dumps(record, ensure_ascii=False) for record in records) + (end if last else "")

    found = [record async for record in ndjson(streamed_response(in_pieces(text.encode(), at)))]

    assert repr(found) == repr(records)


@often
@given(record=st.dictionaries(keys, values, min_size=1, max_size=3), before=st.integers(0, 3), data=st.data())
async def test_truncated_last_line_of_ndjson_is_named(record: dict[str, Any], before: int, data: st.DataObject) -> None:
    last = json.dumps(record).encode()
    body = b'{"id":1}\n' * before + last[: data.draw(st.integers(1, len(last) - 1))]

    found, error = await collect_until_error(ndjson(streamed_response(in_pieces(body, data.draw(cuts)))))

    assert isinstance(error, MalformedJSON)
    assert f"line {before + 1}" in str(error)
    assert found in ([], [{"id": 1}] * before, *([{"id": 1}] * n for n in range(before)))


@any_chunking
@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b'{"a":NaN}',
        b'{"a":1},',
        b'{"a":"\xff"}',
        b'{"a":1e400}',
        b'{"a":1} {"a":2}',
    ],
)
async def test_malformed_line_of_ndjson_is_named(line: bytes, pieces: Chunking) -> None:
    body = b'{"id":1}\n\n{"id":2}\r\n' + line + b'\n{"id":3}\n'

    _, error = await collect_until_error(ndjson(streamed_response(pieces(body))))

    assert isinstance(error, MalformedJSON)
    assert "line 4" in str(error)


async def test_ndjson_value_across_lines_in_bytes_is_malformed() -> None:
    _, error = await collect_until_error(ndjson(streamed_response(byte_by_byte(b'{"a":\n1}\n'))))

    assert isinstance(error, MalformedJSON)
    assert "line 1" in str(error)


async def test_ndjson_value_across_lines_in_one_chunk_is_malformed() -> None:
    _, error = await collect_until_error(ndjson(streamed_response([b'{"a":\n1}\n'])))

    assert isinstance(error, MalformedJSON)


@any_chunking
@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n \n"])
async def test_ndjson_of_blank_lines_has_no_records(body: bytes, pieces: Chunking) -> None:
    assert await collect_until_error(ndjson(streamed_response(pieces(body)))) == ([], None)


@often
@given(
    header=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    cells=st.lists(st.text(max_size=5) | st.text(alphabet='",\r\n é', max_size=5), max_size=16),
    style=st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL)]),
    mark=st.sampled_from([b"", BOM]),
    at=cuts,
)
async def test_csv_rows_equal_those_of_the_standard_library(
    header: list[str], cells: list[str], style: tuple[str, int], mark: bytes, at: list[int]
) -> None:
    # A header that begins like HTML or JSON is considered HTML or JSON.
    assume(header[0].lstrip()[:1] not in ("<", "{", "["))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=style[0], quoting=style[1])  # type: ignore[arg-type]
    width = len(header)
    writer.writerows([header, *(cells[i : i + width] for i in range(0, len(cells) - width + 1, width))])
    body = mark + text.getvalue().encode()

    found = [row async for row in csv_rows(streamed_response(in_pieces(body, at)))]

    assert found == list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline="")))


@any_chunking
@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b'id,text\n1,"two\nlines"\n2,"say ""hi"", then"\n', [("1", "two\nlines"), ("2", 'say "hi", then')]),
        (b'id,text\r\n1,"a\r\n\r\nb"\r\n', [("1", "a\r\n\r\nb")]),
        (BOM + b"id,text\n1,x", [("1", "x")]),
        (b"id,text\n\n1,x\n\n", [("1", "x")]),
        (b"id,text\n1,\n", [("1", "")]),
        (b"id,text\n", []),
        (b"", []),
        ("id,text\n1,\u2028\x0b\x85é\n".encode(), [("1", "\u2028\x0b\x85é")]),
    ],
)
async def test_csv_keeps_quoted_content(body: bytes, rows: list[tuple[str, str]], pieces: Chunking) -> None:
    found, error = await collect_until_error(csv_rows(streamed_response(pieces(body))))

    assert error is None
    assert found == [{"id": number, "text": text} for number, text in rows]


@any_chunking
@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("id;name\n1;'a;b'\n".encode("latin-1"), {"delimiter": ";", "quotechar": "'", "encoding": "latin-1"}),
        ("id\tname\n1\ta;b\n".encode("utf-16"), {"delimiter": "\t", "encoding": "utf-16"}),
    ],
)
async def test_csv_dialect_and_encoding_are_respected(body: bytes, options: dict[str, str], pieces: Chunking) -> None:
    assert [row async for row in csv_rows(streamed_response(pieces(body)), **options)] == [{"id": "1", "name": "a;b"}]


@any_chunking
@pytest.mark.parametrize("body", [b"id,name\r1,a\r2,b\r", b"id,name\r1,a\r2,b", b"sep=,\r\nid,name\r\n1,a\r\n2,b\r\n"])
async def test_csv_of_old_macs_and_of_excel_is_read(body: bytes, pieces: Chunking) -> None:
    found, error = await collect_until_error(csv_rows(streamed_response(pieces(body))))

    assert (found, error) == ([{"id": "1", "name": "a"}, {"id": "2", "name": "b"}], None)


@any_chunking
async def test_line_break_within_a_quoted_field_is_kept(pieces: Chunking) -> None:
    body = b'id,name\r\n1,"a\rb\nc\r\n"\r\n'

    assert [row async for row in csv_rows(streamed_response(pieces(body)))] == [{"id": "1", "name": "a\rb\nc\r\n"}]


@any_chunking
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"sep=;\nid;name\n1;a\n", "declares the delimiter ';'"),
        (b"a,b\n1,2\n3\n", "row 3 has 1"),
        (b"a,b\n1,2,3\n", "row 2 has 3"),
        (b'a,b\n"x\ny",2\n1,2,3\n', "row 3 has 3"),
        (b'a,b\n1,"never closed\n2,3\n', "CSV"),
        (b'a,b\n1,"x"y\n', "CSV"),
        (b"a,b\n1,\xff\n", "utf-8"),
        (b",,\n1,2,3\n", "no names"),
        (b"a,b\n1,\xc3", "utf-8"),
    ],
)
async def test_malformed_csv_is_unexpected_content(body: bytes, message: str, pieces: Chunking) -> None:
    _, error = await collect_until_error(csv_rows(streamed_response(pieces(body))))

    assert isinstance(error, UnexpectedContent)
    assert message in str(error)


async def test_csv_field_of_200_kb_is_read() -> None:
    body = b"id,text\n1," + b"x" * 200_000 + b"\n"

    found, error = await collect_until_error(csv_rows(streamed_response(in_pieces(body, [100_000]))))

    assert error is None
    assert len(found[0]["text"]) == 200_000


@any_chunking
@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"id,name,,\n1,Ann,,\n2,Bob,,\n", [{"id": "1", "name": "Ann"}, {"id": "2", "name": "Bob"}]),
        (b"id,name,\n1,Ann,\n", [{"id": "1", "name": "Ann"}]),
        (b"id,name\n1,Ann,,\n2,Bob\n", [{"id": "1", "name": "Ann"}, {"id": "2", "name": "Bob"}]),
        (b"id,name,,\n1,Ann\n", [{"id": "1", "name": "Ann"}]),
        (b"id,,name,,x\n1,,Ann,,\n", [{"id": "1", "name": "Ann", "x": ""}]),
        (b",id\n0,1\n", [{"": "0", "id": "1"}]),
    ],
)
async def test_empty_csv_columns_without_a_name_are_left_out(
    body: bytes, rows: list[dict[str, str]], pieces: Chunking
) -> None:
    assert await collect_until_error(csv_rows(streamed_response(pieces(body)))) == (rows, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"id,,\n1,,x\n", "field 3"), (b"id\n1,x\n", "field 2"), (b"id,,a,,b\n1,x,2,,3\n", "field 2")],
)
async def test_csv_value_without_a_name_is_an_error_or_dropped(body: bytes, field: str) -> None:
    _, error = await collect_until_error(csv_rows(streamed_response([body])))
    dropped = [row async for row in csv_rows(streamed_response([body]), extra_columns="drop")]

    assert isinstance(error, UnexpectedContent)
    assert field in error.message
    assert 'extra_columns="drop"' in (error.hint or "")
    assert [row["id"] for row in dropped] == ["1"]
    assert "" not in dropped[0]


@pytest.mark.parametrize("extra_columns", ["error", "drop"])
async def test_csv_name_that_occurs_twice_is_an_error(extra_columns: Any) -> None:
    body = b"id,name,id,\n1,Ann,2,\n"

    _, error = await collect_until_error(csv_rows(streamed_response([body]), extra_columns=extra_columns))

    assert isinstance(error, UnexpectedContent)
    assert "'id' twice, in columns 1 and 3" in error.message


async def test_csv_without_quotes_keeps_quote_characters() -> None:
    body = b'id\ttext\n1\tsay "hi\n2\t"x" y\n'

    found = [row async for row in csv_rows(streamed_response([body]), delimiter="\t", quotechar=None)]

    assert [row["text"] for row in found] == ['say "hi', '"x" y']


@pytest.mark.parametrize(
    "options",
    [
        *({"delimiter": value} for value in (";;", "", "\n", None, 1)),
        *({"quotechar": value} for value in ("", "''", "\r", 1)),
        {"delimiter": '"'},
        {"extra_columns": "ignore"},
        {"encoding": "hex"},
        {"encoding": "idna"},
    ],
)
async def test_invalid_csv_argument_is_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        [row async for row in csv_rows(streamed_response([b"a\n1\n"]), **options)]


async def test_csv_header_of_one_column_warns_of_the_delimiter(caplog: pytest.LogCaptureFixture) -> None:
    assert [row async for row in csv_rows(streamed_response([b"id;name\n1;Ann\n"]))] == [{"id;name": "1;Ann"}]

    assert "pass delimiter=';'" in caplog.text


async def test_unknown_csv_encoding_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="klingon"):
        [row async for row in csv_rows(streamed_response([b"a\n1\n"]), encoding="klingon")]


@often
@given(
    items=st.lists(values, max_size=5),
    path=st.lists(
        st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), max_size=4).filter(bool), max_size=3
    ),
    siblings=st.dictionaries(texts, values, max_size=3),
    first=st.booleans(),
    indent=st.none() | st.just(1),
    ascii_only=st.booleans(),
    at=cuts,
)
async def test_json_items_do_not_depend_on_chunking(
    items: list[Any],
    path: list[str],
    siblings: dict[str, Any],
    first: bool,
    indent: Any,
    ascii_only: bool,
    at: list[int],
) -> None:
    dotted = ".".join(path)
    body: Any = items
    for key in reversed(path):
        others = {name: value for name, value in siblings.items() if name not in (key, dotted)}
        body = {**others, key: body} if first else {key: body, **others}
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()

    found = [item async for item in json_items(streamed_response(in_pieces(text, at)), dotted)]

    assert repr(found) == repr(items)


@any_chunking
@pytest.mark.parametrize(
    ("path", "body", "items"),
    [
        ("", b"[]", []),
        ("", b" [ ] ", []),
        ("", BOM + b"[1]", [1]),
        ("data", b'{"data":[ ]}', []),
        ("data", b'{"x":{"data":[1]},"y":[{"data":[2]}],"data":[3],"z":{"data":[4]}}', [3]),
        ("data", b'{"data":[{"data":[1]},{"data":{"data":[]}}]}', [{"data": [1]}, {"data": {"data": []}}]),
        ("data", b'{"note":"{\\"data\\":[1]}","data":["]","\\"],[","\\\\"]}', ["]", '"],[', "\\"]),
        ("data", b'{"d\\u0061ta":[1]}', [1]),
        ("a.b", b'{"b":[0],"a":{"x":{"b":[1]},"b":[2]}}', [2]),
        ("a.b", b'{"a.b":[1]}', [1]),
        ("a", b'{"a":[18446744073709551617,[2,[3]],null,-1.5e3]}', [2**64 + 1, [2, [3]], None, -1500.0]),
    ],
)
async def test_json_items_finds_only_the_array_at_the_path(
    path: str, body: bytes, items: list[Any], pieces: Chunking
) -> None:
    assert await collect_until_error(json_items(streamed_response(pieces(body)), path)) == (items, None)


@pytest.mark.parametrize(
    ("body", "pieces"),
    [
        *(
            (body, pieces)
            for pieces in (in_one, byte_by_byte)
            for body in (
                *(b"", b"[", b"[" * 5000, b"[1,]", b"[1, ]", b"[,]", b"[1 2]", b"[1:2]", b"[1}", b"[{]}]", b"[[1}]"),
                *(b"[1]]", b"[1] 2", b"[1][2]", b"[NaN]", b"[1e400]", b"[01]", b'["a]', b'["\xff"]', b'["\\ud800"]'),
                b'[{"a":1,}]',
            )
        ),
        (b"[1,,2]", in_one),
        (b"[,1]", in_one),
        pytest.param(b"[1,,2]", byte_by_byte),
        pytest.param(b"[,1]", byte_by_byte),
    ],
)
async def test_malformed_array_is_malformed_json(body: bytes, pieces: Chunking) -> None:
    _, error = await collect_until_error(json_items(streamed_response(pieces(body))))

    assert isinstance(error, MalformedJSON)


@any_chunking
@pytest.mark.parametrize(
    "body",
    [b'{"data":[1}', b'{"data":[1]]', b'{"data":[1],}', b'{"data" [1]}', b'{"data":[1]} x', b'{"x":NaN,"data":[1]}'],
)
async def test_malformed_text_outside_the_array_is_malformed_json(body: bytes, pieces: Chunking) -> None:
    _, error = await collect_until_error(json_items(streamed_response(pieces(body)), "data"))

    assert isinstance(error, MalformedJSON)


@any_chunking
async def test_json_truncated_at_any_byte_is_malformed_json(pieces: Chunking) -> None:
    body = '{"n":[1,{"data":[0]}],"data":[{"a":"],\\"}"},[1,[]],"é\\\\",12,{}],"z":{"k":null}}'.encode()

    ends = [
        (await collect_until_error(json_items(streamed_response(pieces(body[:cut])), "data")))[1]
        for cut in range(len(body))
    ]

    assert [cut for cut, error in enumerate(ends) if not isinstance(error, MalformedJSON)] == []


async def test_token_beside_streamed_items_leads_to_the_next_page() -> None:
    class Items(HttpStream):
        url_base = "https://api.example.com/"
        paginator = Cursor("meta.next", param="page")

        def path(self, context):
            return "items"

        async def parse_response(self, response, context):
            async for item in json_items(response, "data.items"):
                yield item

    def answer(request: httpx.Request) -> httpx.Response:
        page = int(float(request.url.params.get("page", 1)))
        body = {"data": {"items": [{"id": page}]}, "meta": {"next": page + 1.0 if page < 3 else None}}
        return httpx.Response(200, json=body)

    assert await Items(transport=httpx.MockTransport(answer)).read() == [{"id": 1}, {"id": 2}, {"id": 3}]


@any_chunking
async def test_null_beside_an_error_is_no_empty_array(pieces: Chunking) -> None:
    body = b'{"data": null, "error": "the report is too large"}'

    found, error = await collect_until_error(json_items(streamed_response(pieces(body)), "data"))

    assert found == []
    assert "sent null where 'data' should be an array, and 'error'" in str(error)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("meta.next", True), ("items", True), ("data.next", True), ("data.items2", True)]
    + [("data", False), ("data.items", False), ("data.items[0].id", False)],
)
def test_partial_json_is_complete_outside_of_the_items(path: str, expected: bool) -> None:
    assert (path in PathsOutside("data.items")) is expected
    assert path not in PathsOutside("")


@any_chunking
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("data", b'{"items":[1],"total":2}'),
        ("data", b'{"items":{"data":[1]},"total":2}'),
        ("items.data", b'{"items":[{"data":[1]}],"total":2}'),
        ("items.data", b'{"items":{},"total":2}'),
        ("items", b'{"items":{},"total":2}'),
        ("", b'{"items":[1],"total":2}'),
    ],
)
async def test_path_without_an_array_names_the_keys_of_the_body(path: str, body: bytes, pieces: Chunking) -> None:
    found, error = await collect_until_error(json_items(streamed_response(pieces(body)), path))

    assert found == []
    assert type(error) is UnexpectedContent
    assert "items" in str(error)
    assert "total" in str(error)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (ndjson, b'{"id":"1"}\n{"id":"2"}\n'),
        (csv_rows, b"id\n1\n2\n"),
        (lambda response: json_items(response, "data"), b'{"data":[{"id":"1"},{"id":"2"}]}'),
    ],
)
async def test_stream_parses_the_body_while_it_arrives(read: Any, body: bytes) -> None:
    class ByteWise(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in byte_by_byte(body):
                yield piece

    class Things(HttpStream):
        url_base = "https://api.example.com"

        def path(self, context: RequestContext) -> str:
            return "things"

        async def parse_response(self, response: Response, context: RequestContext) -> AsyncGenerator[Any]:
            async for record in read(response):
                yield record

    things = Things(transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=ByteWise())))

    assert await things.read() == [{"id": "1"}, {"id": "2"}]
