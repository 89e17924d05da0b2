"""Signs of further pages in streams that declare no pagination."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from asyncstreams import (
    ConfigError,
    Cursor,
    HttpStream,
    HttpSubStream,
    JsonLines,
    PageNumber,
    PaginationUndeclared,
    Source,
    json_items,
)
from asyncstreams.pagination.undeclared import may_have_sign

ROWS = [{"id": 1}, {"id": 2}]


class Items(HttpStream):
    url_base = "https://api.test/"
    records_path = "data"

    def path(self, context):
        return "items"


def serve(body: Any, **headers: str) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, json=body, headers=headers))


def declare(body: Any, headers: dict[str, str] | None = None, **attributes: Any) -> HttpStream:
    return type("Items", (Items,), attributes)(transport=serve(body, **headers or {}))


LINK = {"Link": '<https://api.test/items?page=2>; rel="next"'}
CERTAIN = [
    ({}, LINK, "LinkHeader()"),
    ({}, {"X-Next-Page": "2"}, 'Cursor(Header("X-Next-Page"), param="page")'),
    ({"next": "https://api.test/items?page=2"}, {}, "NextUrl('next')"),
    ({"meta": {"next": "abc"}}, {}, "Cursor('meta.next', param='cursor')"),
    ({"nextPageToken": "abc"}, {}, "Cursor('nextPageToken', param='page_token')"),
    ({"response_metadata": {"next_cursor": "abc"}}, {}, "Cursor('response_metadata.next_cursor', param='cursor')"),
    ({"next_page": 2}, {}, "Cursor('next_page', param='page')"),
    ({"next_offset": 2.0}, {}, "Cursor('next_offset', param='offset')"),
    ({"nextRecordsUrl": "/q/2"}, {}, "NextUrl('nextRecordsUrl')"),
    ({"@odata.nextLink": "https://api.test/?s=2"}, {}, "NextUrl('@odata.nextLink')"),
    ({"_links": {"next": {"href": "/items?page=2"}}}, {}, "NextUrl('_links.next.href')"),
    ({"link": [{"relation": "next", "url": "/b"}]}, {}, "NextUrl(lambda response"),
    ({"continue": {"offset": 2}}, {}, "Continuation('continue')"),
    ({"has_more": True}, {}, "PageNumber(more='has_more')"),
    ({"hasNextPage": True}, {}, "PageNumber(more='hasNextPage')"),
    ({"isLast": False}, {}, "PageNumber(more=lambda response: not response.json()['isLast'])"),
    ({"x": {"y": {"pageInfo": {"hasNextPage": True}}}}, {}, "PageNumber(more='x.y.pageInfo.hasNextPage')"),
    ({"total": 9, "page": 1}, {}, "PageNumber(size=..., total_items='total')"),
    ({"meta": {"total_count": 9.0}, "per_page": 2}, {}, "PageNumber(size=..., total_items='meta.total_count')"),
    ({"total": 9, "limit": 2, "offset": 0}, {}, "Offset(total='total')"),
    ({"total": 9, "pages": 5}, {}, "PageNumber(total_pages='pages')"),
    ({"totalPages": 5, "number": 0, "size": 2, "totalElements": 9}, {}, "PageNumber(total_pages='totalPages')"),
    ({"totalPages": "5", "page": "1"}, {}, "PageNumber(total_pages='totalPages')"),
    ({"info": {"more_records": True}}, {}, "PageNumber(more='info.more_records')"),
    ({"more_items_in_collection": True}, {}, "PageNumber(more='more_items_in_collection')"),
    ({"nextCursorMark": "abc"}, {}, "Cursor('nextCursorMark', param='cursor')"),
    ({"_links": {"next": [{"href": "/b"}]}}, {}, "NextUrl('_links.next[0].href')"),
    ({"result_total": 9, "resultsPerPage": 2}, {}, "PageNumber(size=..., total_items='result_total')"),
    ({}, {"X-Pagination-Next-Page": "2"}, 'Cursor(Header("X-Pagination-Next-Page"), param="page")'),
    ({}, {"x-ms-continuation": "abc"}, 'Cursor(Header("X-Ms-Continuation"), param="cursor")'),
    ({}, {"X-Next-Link": "/items?page=2"}, 'NextUrl(Header("X-Next-Link"))'),
    ({}, {"X-Has-More": "true"}, 'PageNumber(more=Header("X-Has-More"))'),
    ({}, {"X-WP-Total": "9", "X-WP-TotalPages": "5"}, 'PageNumber(total_pages=Header("X-Wp-Totalpages"))'),
    ({}, {"X-Total": "9", "X-Page": "1"}, 'Offset(total=Header("X-Total"))'),
    ({}, {"Content-Range": "items 0-1/9"}, "Offset(total=lambda response: ...)"),
    ({}, {"X-Pagination": '{"TotalPages": 5, "HasNext": true}'}, "PageNumber(more=lambda response: ...)"),
]


@pytest.mark.parametrize(("more", "headers", "paginator"), CERTAIN, ids=str)
async def test_named_next_page_is_an_error_before_any_record(more, headers, paginator):
    received = []

    with pytest.raises(PaginationUndeclared) as caught:  # noqa: PT012  # the block collects the records before the error
        async with declare({"data": ROWS, **more}, headers).pages() as pages:
            async for page in pages:
                received += page.records

    assert received == []
    assert f"set paginator = {paginator}" in str(caught.value.hint)
    assert "single_page = True" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ({"total": 9}, {}),
        ({"hits": {"total": {"value": 9, "relation": "eq"}}}, {}),
        ({"meta": {"pagination": {"totalCount": 9.0}}}, {}),
        ({"total": 9, "page": 1, "has_more": False}, {}),
        ({"total": 9, "page": 1, "pages": 1}, {}),
        ({"total_pages": 5}, {}),
        ({"meta": {"total": "9"}}, {}),
        ({"cursor": "abc"}, {}),
        ({"offset": "itr/rec"}, {}),
        ({}, {"X-Total-Count": "9"}),
        ({}, {"X-Total-Pages": "5"}),
    ],
    ids=str,
)
async def test_larger_total_alone_is_one_warning(caplog, more, headers):
    records = await declare({"data": ROWS, **more}, headers).read(slices=[{"n": 1}, {"n": 2}])

    assert records == ROWS * 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the stream has no paginator" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {"data": ROWS, "next": None, "has_more": False, "total": 2, "page": 1, "pages": 1},
        {"data": ROWS, "next": "", "nextPageToken": 0, "links": {"next": {}}, "isLast": True},
        {"data": ROWS, "total": "many", "count": True, "total_pages": -1, "offset": "0"},
        {"data": ROWS, "cursor": "of the changes", "has_more": False},
        {"data": [{"id": 1, "next": "a field of the record", "total": 100, "page": 3}]},
        {"data": ROWS, "a": {"b": {"c": {"next": "too far down"}}}},
        {"data": ROWS, "continue": True, "nextdoor": "x"},
    ],
    ids=str,
)
async def test_single_page_is_read_without_a_word(caplog, body):
    assert await declare(body).read() == body["data"]
    assert caplog.records == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Next-Page": "", "X-Total": "2", "X-Total-Pages": "1", "X-Page": "1"},
        {"X-Next-Page": "0", "X-Has-More": "false"},
        {"Content-Range": "items 0-1/2"},
        {"Content-Range": "bytes 0-1/900"},
        {"X-Pagination": '{"TotalPages": 1, "HasNext": false}'},
        {"X-Pagination": "none"},
        {"X-Nextjs-Cache": "HIT", "X-Count": "9"},
    ],
    ids=str,
)
async def test_headers_of_a_single_page_are_no_sign(caplog, headers):
    assert await declare({"data": ROWS}, headers).read() == ROWS
    assert caplog.records == []


async def test_fields_of_rows_in_a_mapping_are_no_sign(caplog):
    body = {"data": {"a": {"id": 1, "next": "b"}, "b": {"id": 2, "next": "c"}}}

    stream = declare(body, parse_response=lambda self, response, context: list(response.json()["data"].values()))

    assert len(await stream.read()) == 2
    assert caplog.records == []


@pytest.mark.parametrize("body", [{"data": ROWS, "has_more": True}, {"data": ROWS, "total": 9}])
async def test_single_page_attribute_permits_every_sign(caplog, body):
    assert await declare(body, LINK, single_page=True).read() == ROWS
    assert caplog.records == []


async def test_limit_and_check_only_warn(caplog):
    body = {"data": ROWS, "has_more": True}

    assert await declare(body).read(limit=50) == ROWS
    assert await declare(body).check_availability() == (True, None)
    assert len([record for record in caplog.records if "the response has 'has_more'" in record.getMessage()]) == 2


async def test_parents_of_a_limited_read_only_warn(caplog):
    class Parts(HttpSubStream):
        url_base = "https://api.test/"

        def path(self, context):
            return "parts"

    parts = Parts(declare({"data": ROWS, "has_more": True}), transport=serve([{"id": 7}]))

    assert await parts.read(limit=1) == [{"id": 7}]
    with pytest.raises(PaginationUndeclared):
        await parts.read()
    assert (await parts.check_availability())[0]


async def test_undeclared_pages_end_their_stream_only(tmp_path):
    class Shop(Source):
        def streams(self, config):
            return [declare({"data": ROWS, "has_more": True}, name="bad"), declare({"data": ROWS}, name="good")]

    with pytest.raises(Exception, match="has_more") as caught:
        await Shop({}).extract(to=JsonLines(tmp_path, fsync="none"))

    assert caught.value.errors[0].stream == "bad"
    assert {stream.stream: stream.records for stream in caught.value.report.streams} == {"bad": 0, "good": 2}


async def test_exploded_records_are_not_compared_with_the_total(caplog):
    def explode(self, response, context):
        return [{"id": row["id"], "n": n} for row in response.json()["data"] for n in range(5)]

    with pytest.raises(PaginationUndeclared):
        await declare({"data": ROWS, "total": 9, "page": 1}, parse_response=explode).read()
    assert (
        len(await declare({"data": ROWS, "total": 2, "page": 1}, parse_response=explode, records_path=None).read())
        == 10
    )
    assert caplog.records == []


async def test_body_that_the_author_decodes_is_searched(caplog):
    stream = declare({"data": ROWS, "has_more": True}, parse_response=lambda self, response, context: [{"n": 1}])

    with pytest.raises(PaginationUndeclared):
        await stream.read()


async def test_link_of_a_streamed_body_is_an_error_before_any_record():
    async def parse_response(self, response, context):
        async for _ in response.aiter_bytes():
            for number in range(2500):
                yield {"id": number}

    received = []

    with pytest.raises(PaginationUndeclared):  # noqa: PT012  # the block collects the records before the error
        async with declare(ROWS, LINK, parse_response=parse_response).pages() as pages:
            async for page in pages:
                received += page.records

    assert received == []


@pytest.mark.parametrize("more", [{"has_more": True}, {"total": 9, "page": 1}, {"meta": {"next": "abc"}}], ids=str)
async def test_sign_beside_streamed_items_is_an_error(more):
    async def parse_response(self, response, context):
        async for item in json_items(response, "data"):
            yield item

    received = []

    with pytest.raises(PaginationUndeclared):  # noqa: PT012  # the block collects the records before the error
        async with declare({"data": ROWS, **more}, parse_response=parse_response).pages() as pages:
            async for page in pages:
                received += page.records

    assert received == []


async def test_total_is_compared_with_the_rows_of_a_streamed_body(caplog):
    async def parse_response(self, response, context):
        async for item in json_items(response, "data"):
            if item["id"] == 1:
                yield item

    stream = declare({"data": ROWS, "total": 2, "page": 1}, parse_response=parse_response)

    assert await stream.read() == ROWS[:1]
    assert caplog.records == []


SAME = {"data": ROWS, "next": None, "more": {"next_cursor": None}, "meta": {"total": 2, "page": 1}}


@pytest.mark.parametrize("paginator", [None, Cursor("next")])
@pytest.mark.parametrize(
    "body", [SAME | {"more": {"next_cursor": "abc"}}, SAME | {"has_more": True}], ids=["other value", "other key"]
)
async def test_sign_in_a_later_slice_is_reported(caplog, paginator, body):
    bodies = [SAME, SAME, body]
    stream = type("Items", (Items,), {"paginator": paginator})(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json=bodies.pop(0)))
    )

    await stream.read(slices=[{"id": number} for number in range(3)], limit=10)

    assert ["the first page is treated as the only one" in record.getMessage() for record in caplog.records] == [True]


async def test_total_above_a_later_slice_of_fewer_rows_is_reported(caplog):
    bodies = [SAME, SAME, SAME | {"data": ROWS[:1]}]
    stream = Items(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=bodies.pop(0))))

    await stream.read(slices=[{"id": number} for number in range(3)], limit=10)

    assert ["a total of 2" in record.getMessage() for record in caplog.records] == [True]


async def test_own_next_page_token_is_not_checked(caplog):
    stream = declare({"data": ROWS, "has_more": True}, next_page_token=lambda self, response, context: None)

    assert await stream.read() == ROWS
    assert caplog.records == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"single_page": True, "paginator": PageNumber()},
        {"single_page": True, "next_page_token": lambda self, response, context: None},
        {"single_page": 1},
    ],
)
async def test_single_page_beside_pagination_is_refused(attributes):
    with pytest.raises(ConfigError, match="single_page"):
        await declare({"data": ROWS}, **attributes).read()


def test_search_of_an_undecoded_body_is_limited_to_its_edges():
    rows = b",".join(b'{"next": "x", "total": %d}' % number for number in range(100))
    body = b'{"count": 100, "data": [%s]%s}'

    assert not may_have_sign(body % (rows, b', "has_more": false, "links": {"next": null}'), 100)
    assert may_have_sign(body % (rows, b', "has_more": true'), 100)
    assert may_have_sign(body % (rows, b', "meta": {"next": "b"}'), 100)
    assert may_have_sign(body % (rows, b', "total": 101'), 100)
    assert may_have_sign(body % (rows, b', "total": "101"'), 100)
    assert may_have_sign(body % (rows, b', "cursor": "b"'), 100)
    assert not may_have_sign(b"[%s]" % rows, 100)
