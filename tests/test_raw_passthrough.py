"""Tests of raw passthrough: records that are written undecoded equal decoded ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import lines_of
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import (
    Continuation,
    Cursor,
    Header,
    HttpStream,
    HttpSubStream,
    JsonLines,
    LinkHeader,
    MalformedJSON,
    NextUrl,
    NumberRanges,
    Offset,
    PageNumber,
    PaginationLoop,
    PartialFailure,
    Source,
    TransformConfig,
    TypeTransformer,
    UnexpectedContent,
)
from asyncstreams._json import decode


def stream_of(*pages: bytes | httpx.Response, is_decoded: bool = False, **attributes: Any) -> HttpStream:
    """A stream whose pages have these bodies; `is_decoded`: its own parse_response prevents raw passthrough."""
    bodies = [page if isinstance(page, httpx.Response) else httpx.Response(200, content=page) for page in pages]
    rest = list(bodies)
    members = {"url_base": "https://api.test/", "path": lambda self, context: "rows", "name": "rows", **attributes}
    if is_decoded:

        def parse_response(self: Any, response: Any, context: Any) -> Any:
            return HttpStream.parse_response(self, response, context)

        members["parse_response"] = parse_response
    return type("Rows", (HttpStream,), members)(transport=httpx.MockTransport(lambda _: rest.pop(0)))


def rows_in(out: Path, stream: str = "rows") -> list[Any]:
    return [row for path in sorted(out.glob(f"{stream}/part-*")) for row in lines_of(path)]


def content_of(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("rows/part-*")))


async def extract(stream: HttpStream, out: Path) -> tuple[list[Any], str]:
    """Extract; return the records in the files, and why they were decoded ("" for raw passthrough)."""
    report = await stream.extract(to=JsonLines(out, fsync="none"))
    assert report.streams[0].raw_passthrough == (not report.streams[0].not_raw_because)
    return rows_in(out), report.streams[0].not_raw_because


async def extract_both_ways(tmp_path: Path, *pages: bytes, **attributes: Any) -> list[Any]:
    """The records of a raw extraction, which must equal those of a decoded one."""
    raw, why_decoded = await extract(stream_of(*pages, **attributes), tmp_path / "raw")
    decoded, reason = await extract(stream_of(*pages, is_decoded=True, **attributes), tmp_path / "decoded")
    assert why_decoded == ""
    assert reason == "it has a parse_response of its own"
    assert raw == decoded
    return raw


def page(*ids: int, **more: Any) -> bytes:
    return json.dumps({"data": [{"id": id_} for id_ in ids], **more}).encode()


text = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@examples(full=150, short=30)
@given(
    st.lists(st.dictionaries(text, values, max_size=4), max_size=5),
    st.sampled_from([None, 2, "\t"]),
    st.booleans(),
    st.sampled_from([None, "data", "result.items", "a.b.c"]),
)
async def test_raw_and_decoded_records_are_equal(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], indent: Any, is_ascii: bool, path: str | None
):
    body: Any = records
    for step in reversed(path.split(".") if path else []):
        body = {"before": [{"x": 1}], step: body, "after": {"data": "}"}}
    content = json.dumps(body, indent=indent, ensure_ascii=is_ascii).encode()
    if indent == 2:
        content = content.replace(b"\n", b"\r\n") + b"\r\n"

    found = await extract_both_ways(tmp_path_factory.mktemp("out"), content, records_path=path)

    assert found == [decode(json.dumps(record).encode()) for record in records]


async def test_numbers_and_escapes_are_written_unchanged(tmp_path: Path):
    body = rb'[{"a": 1.50, "b": 1e2, "c": 123456789012345678901234567890, "d": "\u0065\/"}]'

    await extract(stream_of(body), tmp_path)

    assert content_of(tmp_path) == body[1:-1] + b"\n"


@pytest.mark.parametrize(
    ("paginator", "pages"),
    [
        (Cursor("meta.next"), [page(1, meta={"next": "b"}), page(2, meta={"next": None})]),
        (Cursor("next", more="has_more"), [page(1, next=5, has_more=True), page(2, next=6, has_more=False)]),
        (Cursor("@odata.next"), [page(1, **{"@odata.next": "b"}), page(2)]),
        (Cursor("links[0].next"), [page(1, links=[{"next": "b"}]), page(2, links=[])]),
        (Cursor("paging.next"), [page(1, paging={"next": "b"}), page(2, paging=None)]),
        (Cursor(Header("X-Next")), [httpx.Response(200, content=page(1), headers={"X-Next": "b"}), page(2)]),
        (NextUrl("next"), [page(1, next="/rows?page=2"), page(2, next="")]),
        (Continuation(), [page(1, **{"continue": {"from": 2}}), page(2)]),
        (PageNumber(total_pages="meta.pages"), [page(1, meta={"pages": 2}), page(2, meta={"pages": 2})]),
        (PageNumber(), [page(1), page(2), page()]),
        (Offset(limit=1, total="total"), [page(1, total=2), page(2, total=2)]),
        (LinkHeader(), [page(1)]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
async def test_page_tokens_are_found_beside_records(tmp_path: Path, paginator: Any, pages: list[Any]):
    found, why_decoded = await extract(
        stream_of(*pages, paginator=paginator, records_path="data", parallel_pages=False), tmp_path
    )

    assert why_decoded == ""
    assert [row["id"] for row in found] == [1, 2][: len(pages)]


async def test_page_token_may_lie_next_to_records(tmp_path: Path):
    bodies = [
        json.dumps({"result": {"items": [{"id": n}], "next": after}}).encode() for n, after in ((1, "b"), (2, None))
    ]

    found = await extract_both_ways(tmp_path, *bodies, paginator=Cursor("result.next"), records_path="result.items")

    assert found == [{"id": 1}, {"id": 2}]


class CustomPaginator(PageNumber):
    """A paginator that the library does not know."""


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"parse_response": lambda self, response, context: response.json()["data"]}, "a parse_response of its own"),
        ({"next_page_token": lambda self, response, context: None}, "a next_page_token of its own"),
        ({"transformer": TypeTransformer(TransformConfig.DefaultSchemaNormalization)}, "a transformer"),
        ({"get_json_schema": lambda self: {"type": "object"}}, "validated against a schema"),
        ({"paginator": Cursor("data[-1].next")}, "cannot be separated"),
        ({"paginator": Cursor(lambda response: None)}, "inspects complete responses"),
        ({"paginator": Cursor("next", stop_when=lambda response: True)}, "inspects complete responses"),
        ({"paginator": CustomPaginator()}, "inspects complete responses"),
        (
            {
                "cursor_field": "id",
                "cursor_format": "number",
                "windows": NumberRanges(step=5, end=5),
            },
            "no primary_key",
        ),
    ],
)
async def test_report_states_why_records_were_decoded(tmp_path: Path, attributes: Any, reason: str):
    if "transformer" in attributes:
        attributes["get_json_schema"] = lambda self: {"properties": {"id": {"type": "integer"}}}
    found, why_decoded = await extract(stream_of(page(1), page(), **{"records_path": "data", **attributes}), tmp_path)

    assert found == [{"id": 1}]
    assert reason in why_decoded


async def test_schema_without_validation_keeps_raw_passthrough(tmp_path: Path):
    stream = stream_of(page(1), records_path="data", validation="off", get_json_schema=lambda self: {"type": "object"})

    assert await extract(stream, tmp_path) == ([{"id": 1}], "")


@pytest.mark.parametrize(
    ("body", "path", "error", "message"),
    [
        (b'{"data": [{"id": 1}, null]}', "data", UnexpectedContent, "item 1 is a JSON null"),
        (b'{"data": {"id": 1}}', "data", UnexpectedContent, "a JSON object"),
        (b'{"rows": [{"id": 1}]}', "data", UnexpectedContent, "records_path = 'rows'"),
        (b'[{"id": 1}]', "data", UnexpectedContent, "remove records_path"),
        (b'{"data": [{"id": 1}', "data", MalformedJSON, "malformed"),
        (b'[{"id": 01}]', None, MalformedJSON, "malformed"),
        (b'[{"id": "\xff"}]', None, MalformedJSON, "not UTF-8"),
        (b"<html>", None, UnexpectedContent, "HTML"),
    ],
)
async def test_unexpected_body_raises_the_usual_error(tmp_path: Path, body: bytes, path: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        await extract(stream_of(body, body, records_path=path), tmp_path)


async def test_number_beyond_a_double_is_written_unchanged(tmp_path: Path):
    await extract(stream_of(b'{"data": [{"a": 1e999}]}', records_path="data"), tmp_path)

    assert content_of(tmp_path) == b'{"a": 1e999}\n'


async def test_byte_order_mark_is_skipped(tmp_path: Path):
    found, _ = await extract(stream_of(b"\xef\xbb\xbf" + page(1), records_path="data"), tmp_path)

    assert found == [{"id": 1}]


async def test_repeated_page_raises_pagination_loop(tmp_path: Path):
    with pytest.raises(PaginationLoop, match="the same page"):
        await extract(
            stream_of(page(1), *[page(2, 3)] * 4, records_path="data", paginator=PageNumber(), parallel_pages=False),
            tmp_path,
        )


async def test_repeated_last_page_is_left_out_of_raw_records(tmp_path: Path):
    pages = stream_of(
        page(1), *[page(2)] * 4, records_path="data", paginator=PageNumber(), primary_key="id", parallel_pages=False
    )

    found, why_decoded = await extract(pages, tmp_path)

    assert (found, why_decoded) == ([{"id": 1}, {"id": 2}], "")


@pytest.mark.parametrize("more", [{"has_more": True}, {"meta": {"next": "b"}}, {"total": 9, "page": 1}], ids=str)
async def test_undeclared_pages_of_a_later_slice_are_an_error(tmp_path: Path, more: dict[str, Any]):
    pages = stream_of(
        page(1, has_more=False, meta={"next": None}, total=1),
        page(2, **more),
        records_path="data",
        stream_slices=lambda self, state: [{"n": 1}, {"n": 2}],
    )

    with pytest.raises(PartialFailure, match="the stream has no paginator"):
        await extract(pages, tmp_path)


async def test_moved_rows_log_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pages = [page(1, 2), page(2, 3), page()]
    with caplog.at_level(logging.WARNING):
        await extract(
            stream_of(*pages, records_path="data", paginator=PageNumber(), primary_key="id", parallel_pages=False),
            tmp_path,
        )

    assert "were on an earlier page" in caplog.text


async def test_unused_next_page_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        await extract(
            stream_of(page(1, next_page="2"), records_path="data", paginator=Cursor("next", param="page")), tmp_path
        )

    assert "the first page is treated as the only one" in caplog.text


async def test_windows_write_each_record_in_range_once(tmp_path: Path):
    everything = json.dumps([{"id": n, "number": n // 2, "more": {"n": n}} for n in range(12)]).encode()

    class WindowedStream(HttpStream):
        url_base = "https://api.test/"
        name = "rows"
        primary_key = "id"
        cursor_field = "number"
        cursor_format = "number"
        windows = NumberRanges(step=2, end=5)

        def path(self, context: Any) -> str:
            return "rows"

    stream = WindowedStream(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=everything)))
    found, why_decoded = await extract(stream, tmp_path)

    assert why_decoded == ""
    assert sorted(row["id"] for row in found) == list(range(10))
    assert all(row["more"] == {"n": row["id"]} for row in found)


async def test_substream_reads_parents_with_raw_passthrough(tmp_path: Path):
    class Children(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context: Any) -> Any:
            return ("rows", context.stream_slice["parent"]["id"])

    rows = stream_of(page(1, 2), records_path="data")
    requests: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request.url.path)
        return httpx.Response(200, json=[{"of": request.url.path}])

    report = await Source([rows, Children(rows, transport=httpx.MockTransport(handle))]).extract(to=JsonLines(tmp_path))

    assert [stream.raw_passthrough for stream in report.streams] == [True, True]
    assert sorted(requests) == ["/rows/1", "/rows/2"]
    assert {row["of"] for row in rows_in(tmp_path, "children")} == set(requests)
