"""Paging when parse_response drops records, and unusual records and slices."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from asyncstreams import (
    ConfigError,
    Continuation,
    Header,
    HttpStream,
    Offset,
    PageNumber,
    PageRequest,
    UnexpectedContent,
    json_items,
    ndjson,
)

ALL = [{"id": number} for number in range(10)]


def respond_by_offset(request: httpx.Request) -> httpx.Response:
    offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
    return httpx.Response(200, json={"items": ALL[offset : offset + limit], "warnings": []})


def respond_by_page(request: httpx.Request) -> httpx.Response:
    page = int(request.url.params["page"])
    return httpx.Response(200, json={"items": ALL[page * 2 - 2 : page * 2], "warnings": []})


class Filtered(HttpStream):
    url_base = "https://api.example.com/"
    records_path = "items"

    def path(self, context):
        return "things"

    def parse_response(self, response, context):
        return [item for item in response.json()["items"] if item["id"] in (0, 1, 8, 9)]


class FilteredByOffset(Filtered):
    paginator = Offset(limit=4)


class FilteredByPage(Filtered):
    paginator = PageNumber()


async def test_offset_advances_by_records_sent_not_by_records_kept():
    records = await FilteredByOffset(transport=httpx.MockTransport(respond_by_offset)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


async def test_page_with_no_kept_records_is_not_the_last():
    records = await FilteredByPage(transport=httpx.MockTransport(respond_by_page)).read()

    assert [record["id"] for record in records] == [0, 1, 8, 9]


ROWS = [{"id": number, "lines": [{"sku": f"{number}-a"}, {"sku": f"{number}-b"}]} for number in range(25)]


class Api(httpx.MockTransport):
    """Pages of at most 10 rows, as `wrap` puts them into a body."""

    def __init__(self, wrap: Any, **headers: str) -> None:
        self.requests = 0

        def respond(request: httpx.Request) -> httpx.Response:
            self.requests += 1
            params = request.url.params
            offset = int(params["offset"]) if "offset" in params else int(params["page"]) * 10 - 10
            body = wrap(ROWS[offset : offset + min(10, int(params.get("limit", 10)))])
            return (
                httpx.Response(200, content=body, headers=headers)
                if isinstance(body, bytes)
                else httpx.Response(200, json=body, headers=headers)
            )

        super().__init__(respond)


def stream_of(paginator: Any, api: Api, **attributes: Any) -> HttpStream:
    """A stream whose parse_response gives a record for each line of each row."""

    def parse_response(self: Any, response: Any, context: Any) -> Any:
        for row in response.json()["orders"]:
            yield from row["lines"]

    members = {"url_base": "https://api.test/", "path": lambda self, context: "orders", "paginator": paginator}
    members |= {"parse_response": parse_response, "parallel_pages": False, **attributes}
    return type("Orders", (HttpStream,), members)(transport=api)


BODIES = {
    "array": (lambda rows: {"orders": rows}, "orders", lambda body: body["orders"]),
    "nested array": (lambda rows: {"a": {"orders": rows}}, "a.orders", lambda body: body["a"]["orders"]),
    "mapping": (
        lambda rows: {"orders": {str(row["id"]): row for row in rows}},
        "orders",
        lambda body: body["orders"].values(),
    ),
    "null at the end": (lambda rows: {"orders": rows or None}, "orders", lambda body: body["orders"] or []),
    "bare array": (lambda rows: rows, None, lambda body: body),
}


@pytest.mark.parametrize(("wrap", "path", "rows_of"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    "paginator",
    [PageNumber(), PageNumber(size=10, stop_on_short_page=True), Offset(limit=10), Offset(limit=100)],
    ids=["page", "short", "offset", "capped"],
)
async def test_exploded_rows_count_as_sent(paginator, wrap, path, rows_of):
    def parse_response(self: Any, response: Any, context: Any) -> Any:
        for row in rows_of(response.json()):
            yield from row["lines"]

    stream = stream_of(paginator, Api(wrap), records_path=path, parse_response=parse_response)

    records = await stream.read()

    assert [record["sku"] for record in records] == [line["sku"] for row in ROWS for line in row["lines"]]


@pytest.mark.parametrize("paginator", [PageNumber(), Offset(limit=10)], ids=["page", "offset"])
@pytest.mark.parametrize(
    ("wrap", "path", "hint"),
    [
        (lambda rows: {"orders": rows}, None, "records_path = 'orders'"),
        (lambda rows: {"took": 3, "result": {"orders": rows}}, None, "records_path = 'result.orders'"),
        (lambda rows: {"columns": [1, 2], "orders": rows}, None, "records_path = 'orders' (or 'columns')"),
        (lambda rows: {"orders": []}, None, "records_path = 'orders'"),
        (lambda rows: {"orders": rows}, "order", "records_path = 'orders'"),
        (lambda rows: {"order": "none", "orders": rows}, "order", "records_path = 'orders'"),
        (lambda rows: rows, "orders", "remove records_path"),
        (lambda rows: b"<orders/>", None, "more="),
    ],
)
async def test_rows_at_unknown_place_are_refused_on_first_page(paginator, wrap, path, hint):
    api, received = Api(wrap), []
    stream = stream_of(paginator, api, records_path=path, parse_response=lambda self, response, context: [{"id": 1}])

    with pytest.raises(ConfigError) as caught:  # noqa: PT012  # the block collects the pages before the error
        async with stream.pages() as pages:
            async for page in pages:
                received += page.records

    assert (api.requests, received) == (1, [])
    assert hint in str(caught.value)
    assert "records_path" in str(caught.value)


async def test_refusal_does_not_depend_on_limit_or_check():
    def make() -> HttpStream:
        return stream_of(PageNumber(), Api(lambda rows: {"orders": rows}))

    with pytest.raises(ConfigError, match="parse_response is overridden"):
        await make().read(limit=5)
    with pytest.raises(ConfigError, match="parse_response is overridden"):
        await make().check_availability()


@pytest.mark.parametrize(
    "paginator",
    [
        PageNumber(total_pages=Header("X-Pages")),
        PageNumber(size=10, total_items=Header("X-Items")),
        Offset(limit=10, total=Header("X-Items")),
        PageNumber(more=lambda response: len(response.json()["orders"]) == 10),
        Offset(limit=10, more=lambda response: len(response.json()["orders"]) == 10),
        Offset(limit=10, step="limit", total=Header("X-Items")),
    ],
    ids=["pages", "items", "total", "page more", "offset more", "limit"],
)
async def test_total_or_flag_stands_in_for_countable_rows(caplog, paginator):
    api = Api(lambda rows: {"orders": rows}, **{"X-Pages": "3", "X-Items": "25"})

    records = await stream_of(paginator, api).read()

    assert (len(records), api.requests, caplog.records) == (50, 3, [])


UNVERIFIED = [PageNumber(size=20, total_items=Header("X-Items")), Offset(limit=20, total=Header("X-Items"))]


@pytest.mark.parametrize("paginator", UNVERIFIED, ids=["page", "offset"])
async def test_capped_pages_are_refused_if_rows_are_unknown(paginator):
    api = Api(lambda rows: {"orders": rows}, **{"X-Items": "25"})

    with pytest.raises(ConfigError, match="no array has the 20 rows of a full page"):
        await stream_of(paginator, api).read()

    assert api.requests == 1


async def test_page_size_of_other_formats_is_assumed_with_a_warning(caplog):
    api = Api(lambda rows: b"<rows/>" * len(rows), **{"X-Items": "25"})
    stream = stream_of(
        Offset(limit=10, total=Header("X-Items")),
        api,
        parse_response=lambda self, response, context: [{"size": len(response.content)}],
    )

    assert (len(await stream.read()), api.requests) == (3, 3)  # the first two records are equal
    assert ["each page is assumed to have 10" in record.getMessage() for record in caplog.records] == [True]


async def test_total_of_zero_is_not_believed_if_rows_are_unknown():
    api = Api(lambda rows: {"orders": rows, "pages": 0})
    stream = stream_of(PageNumber(total_pages="pages"), api, parse_response=lambda self, response, context: [])

    with pytest.raises(ConfigError, match="no total is declared"):
        await stream.read()


async def test_empty_last_page_beside_other_arrays_is_the_end():
    api = Api(lambda rows: {"columns": [{"name": "id"}], "orders": rows})

    records = await stream_of(
        PageNumber(), api, records_path="orders", parse_response=lambda self, response, context: []
    ).read()

    assert (records, api.requests) == ([], 4)


async def test_later_page_without_rows_at_their_place_raises():
    api = Api(lambda rows: {"orders": rows} if len(rows) == 10 else {"orders": "error"})
    stream = stream_of(PageNumber(), api, records_path="orders", parse_response=lambda self, response, context: [])

    with pytest.raises(UnexpectedContent, match="a JSON string at records_path = 'orders'"):
        await stream.read()


async def parse_some_items(self, response, context):
    async for row in json_items(response, "orders"):
        if row["id"] % 10 == 0:
            yield row


async def parse_some_lines(self, response, context):
    async for row in ndjson(response):
        if row["id"] % 10 == 0:
            yield row


async def parse_chunks(self, response, context):
    async for _ in response.aiter_bytes():
        yield {"id": 1}


def as_lines(rows: Any) -> bytes:
    return b"".join(b'{"id": %d}\n' % row["id"] for row in rows)


@pytest.mark.parametrize("paginator", [PageNumber(), Offset(limit=10)], ids=["page", "offset"])
@pytest.mark.parametrize(
    ("parse", "wrap"), [(parse_some_items, lambda rows: {"orders": rows}), (parse_some_lines, as_lines)]
)
async def test_rows_of_a_streamed_body_are_counted_by_its_parser(paginator, parse, wrap):
    records = await stream_of(paginator, Api(wrap), parse_response=parse).read()

    assert [record["id"] for record in records] == [0, 10, 20]


async def test_own_streaming_parser_is_refused_before_its_records():
    received = []

    with pytest.raises(ConfigError, match="cannot count"):  # noqa: PT012
        async with stream_of(PageNumber(), Api(as_lines), parse_response=parse_chunks).pages() as pages:
            async for page in pages:
                received += page.records

    assert received == []


async def parse_whole_body(self, response, context):
    await response.aread()
    for row in response.json():
        for number in range(250):
            yield {"id": row["id"], "number": number}


async def test_body_that_is_read_whole_is_counted_in_batches():
    records = await stream_of(PageNumber(), Api(lambda rows: rows), parse_response=parse_whole_body).read()

    assert len(records) == 25 * 250


class OwnPaginator:
    """A paginator of a user."""

    def first(self) -> int:
        return 1

    def next(self, token: Any, response: Any, count: int) -> int | None:
        return None if len(response.json()["orders"]) < 10 else token + 1

    def apply(self, token: Any) -> PageRequest:
        return PageRequest(params={"page": token})


async def test_own_paginator_is_refused_unless_it_does_not_count():
    with pytest.raises(ConfigError, match="counts_rows = False"):
        await stream_of(OwnPaginator(), Api(lambda rows: {"orders": rows})).read()

    paginator = type("TokenPaginator", (OwnPaginator,), {"counts_rows": False})()

    assert len(await stream_of(paginator, Api(lambda rows: {"orders": rows})).read()) == 50


async def test_token_paginator_needs_no_countable_rows():
    stream = stream_of(
        Continuation(), Api(lambda rows: {"orders": rows}), request_params=lambda self, context: {"page": 1}
    )

    assert len(await stream.read()) == 20


@pytest.mark.parametrize("value", [2**70, [[[0]]], -(2**65)])
async def test_large_integer_in_record_is_read_exactly(value):
    class SingleRecord(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "one"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=f'[{{"id": {value}}}]'))

    assert await SingleRecord(transport=transport).read() == [{"id": value}]


async def test_array_item_that_is_no_object_raises():
    class Numbers(HttpStream):
        url_base = "https://api.example.com/"

        def path(self, context):
            return "numbers"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}, 2]))

    with pytest.raises(UnexpectedContent, match="item 1 is a JSON integer"):
        await Numbers(transport=transport).read()


async def test_stream_slices_may_be_a_coroutine():
    class Sliced(HttpStream):
        url_base = "https://api.example.com/"

        async def stream_slices(self, state):
            return [{"part": "a"}, {"part": "b"}]

        def path(self, context):
            return context.stream_slice["part"]

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"at": request.url.path}]))

    assert await Sliced(transport=transport).read() == [{"at": "/a"}, {"at": "/b"}]
