"""End of pagination: totals, flags, tokens and repeated pages as APIs send them, and what hooks see of a page."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from asyncstreams import (
    ConfigError,
    Continuation,
    Cursor,
    Header,
    HttpStream,
    JsonLines,
    NextUrl,
    Offset,
    PageNumber,
    PaginationLoop,
)


class Api(httpx.MockTransport):
    """25 rows in pages of 10; `declare` makes fields of the number of each page, from 0."""

    def __init__(self, declare: Any = lambda number: {}, rows: int = 25, first: int = 0, repeats: bool = False) -> None:
        self.requested: list[dict[str, str]] = []

        def respond(request: httpx.Request) -> httpx.Response:
            params = dict(request.url.params) or json.loads(request.content or "{}")
            self.requested.append(params)
            offset = int(params["offset"]) - first if "offset" in params else int(params.get("page", 1)) * 10 - 10
            if repeats:
                offset = min(offset, (rows - 1) // 10 * 10)
            found = [{"id": number} for number in range(offset, min(offset + 10, rows))]
            fields = declare(offset // 10)
            body = fields if isinstance(fields, str) else json.dumps({"data": found, **fields})
            return httpx.Response(404) if offset > rows + 10 else httpx.Response(200, text=body)

        super().__init__(respond)


def stream_of(paginator: Any, api: httpx.MockTransport, **attributes: Any) -> HttpStream:
    members = {"url_base": "https://api.test/", "path": lambda self, context: "items", "records_path": "data"}
    members |= {"paginator": paginator, "parallel_pages": False, "max_tries": 1, **attributes}
    return type("Items", (HttpStream,), members)(transport=api)


def ids_of(records: list[dict[str, Any]]) -> list[Any]:
    return [record["id"] for record in records]


TOTALS = [PageNumber(total_pages="pages"), PageNumber(size=10, total_items="total"), Offset(limit=10, total="total")]


@pytest.mark.parametrize("parallel_pages", [False, True])
@pytest.mark.parametrize("paginator", TOTALS, ids=["pages", "items", "offset"])
async def test_total_of_zero_beside_rows_is_not_believed(caplog, paginator, parallel_pages):
    api = Api(lambda number: {"pages": 0, "total": 0})

    records = await stream_of(paginator, api, parallel_pages=parallel_pages).read(slices=[{"n": 1}, {"n": 2}])

    assert sorted(ids_of(records)) == sorted([*range(25)] * 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "a total of 0, but sent" in caplog.text


@pytest.mark.parametrize("paginator", TOTALS, ids=["pages", "items", "offset"])
async def test_total_below_the_rows_received_is_not_believed(caplog, paginator):
    totals = [{"pages": 3, "total": 25}, {"pages": 1, "total": 11}, {"pages": 1, "total": 11}, {}]

    records = await stream_of(paginator, Api(lambda number: totals[number])).read()

    assert ids_of(records) == [*range(25)]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("paginator", TOTALS, ids=["pages", "items", "offset"])
async def test_total_of_zero_without_rows_ends_the_slice(caplog, paginator):
    api = Api(lambda number: {"pages": 0, "total": 0}, rows=0)

    assert await stream_of(paginator, api).read() == []
    assert (len(api.requested), caplog.records) == (1, [])


@pytest.mark.parametrize("parallel_pages", [False, True])
@pytest.mark.parametrize("paginator", TOTALS, ids=["pages", "items", "offset"])
@pytest.mark.parametrize("on_page", [0, 1])
async def test_total_holds_until_another_is_given(paginator, on_page, parallel_pages):
    api = Api(lambda number: {"pages": 3, "total": 25} if number == on_page else {"pages": None})

    records = await stream_of(paginator, api, parallel_pages=parallel_pages).read()

    assert ids_of(records) == [*range(25)]
    assert parallel_pages or len(api.requested) == 3


async def test_later_total_replaces_an_earlier_one():
    api = Api(lambda number: {"total": 15 if number == 0 else 25})

    assert ids_of(await stream_of(TOTALS[2], api).read()) == [*range(25)]
    assert len(api.requested) == 3


@pytest.mark.parametrize("paginator", TOTALS, ids=["pages", "items", "offset"])
@pytest.mark.parametrize("form", ["%d.0", '"%d"', '"%d.0"', "%d.0e0"])
async def test_whole_numbers_in_other_forms_are_totals(paginator, form):
    def body(number: int) -> str:
        rows = [{"id": id_} for id_ in range(number * 10, min(number * 10 + 10, 25))]
        return f'{{"data": {json.dumps(rows)}, "pages": {form % 3}, "total": {form % 25}}}'

    api = Api(body)

    assert ids_of(await stream_of(paginator, api).read()) == [*range(25)]
    assert len(api.requested) == 3


@pytest.mark.parametrize("total", ["many", True, 3.5, {"value": 25}, [25]], ids=str)
async def test_unreadable_total_is_one_warning(caplog, total):
    assert len(await stream_of(TOTALS[2], Api(lambda number: {"total": total})).read()) == 25

    (record,) = caplog.records
    assert "'total' is a JSON" in record.getMessage()


async def test_misspelt_total_is_one_warning(caplog):
    await stream_of(Offset(limit=10, total="totl"), Api(lambda number: {"total": 25})).read()

    assert "'totl' is not in the body, but 'total' is" in caplog.text


@pytest.mark.parametrize("total", [None, -1], ids=str)
async def test_unknown_total_is_no_warning(caplog, total):
    assert len(await stream_of(TOTALS[2], Api(lambda number: {"total": total})).read()) == 25
    assert caplog.records == []


@pytest.mark.parametrize("paginator", [PageNumber(more="more"), Offset(limit=10, more="more")], ids=["page", "offset"])
@pytest.mark.parametrize("flags", [[True, True, False], ["true", 1, 0], ["1", "yes", "0"]], ids=str)
async def test_flag_ends_counted_pages(paginator, flags):
    api = Api(lambda number: {"more": flags[number]})

    assert ids_of(await stream_of(paginator, api).read()) == [*range(25)]
    assert len(api.requested) == 3


@pytest.mark.parametrize("paginator", [PageNumber(more="more"), Offset(limit=10, more="more")], ids=["page", "offset"])
async def test_absent_flag_leaves_the_end_to_the_rows(paginator):
    api = Api(lambda number: {"more": True} if number == 0 else {})

    assert ids_of(await stream_of(paginator, api).read()) == [*range(25)]
    assert len(api.requested) == 4


@pytest.mark.parametrize("more", ["more", "meta.more", Header("X-More"), lambda response: response.json().get("more")])
@pytest.mark.parametrize("fields", [{}, {"more": None, "meta": None}], ids=str)
async def test_absent_flag_of_a_cursor_is_not_false(more, fields):
    api = Api(lambda number: fields | ({"next": number + 2} if number < 2 else {}))

    records = await stream_of(Cursor("next", param="page", more=more), api).read()

    assert ids_of(records) == [*range(25)]


@pytest.mark.parametrize("end", [None, False, 0, 0.0, "", [], {}], ids=str)
@pytest.mark.parametrize("paginator", [Cursor("next"), NextUrl("next"), Continuation("next")])
async def test_falsy_token_or_url_is_the_end(paginator, end):
    api = Api(lambda number: {"next": end})

    assert len(await stream_of(paginator, api).read()) == 10


@pytest.mark.parametrize("paginator", [PageNumber(), Offset(limit=10), Offset(limit=4)], ids=["page", "offset", "more"])
@pytest.mark.parametrize("rows", [25, 30])
@pytest.mark.parametrize("key", ["id", ["id"], [["id"], ["shop"]]], ids=str)
@pytest.mark.parametrize("parallel_pages", [False, True])
async def test_repeated_last_page_is_the_end(caplog, tmp_path, paginator, rows, key, parallel_pages):
    stream = stream_of(paginator, Api(rows=rows, repeats=True), primary_key=key, parallel_pages=parallel_pages)

    report = await stream.extract(to=JsonLines(tmp_path, fsync="none"))

    assert (report.streams[0].records, report.streams[0].repeated_pages) == (rows, 1)
    assert "1 repeated left out" in str(report)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "repeats page" in caplog.text


async def test_repeated_last_page_of_filtered_records_is_the_end():
    def parse_response(self: Any, response: Any, context: Any) -> Any:
        return [row for row in response.json()["data"] if row["id"] < 5]

    stream = stream_of(PageNumber(), Api(repeats=True), primary_key="id", parse_response=parse_response)

    assert ids_of(await stream.read()) == [*range(5)]


@pytest.mark.parametrize(
    ("paginator", "attributes"),
    [
        (PageNumber(), {}),
        (PageNumber(more="more"), {"primary_key": "id"}),
        (PageNumber(total_pages="pages"), {"primary_key": "id"}),
        (Cursor("next", param="page"), {"primary_key": "id"}),
        (PageNumber(), {"primary_key": "key"}),
    ],
    ids=["no key", "more", "total", "cursor", "keys are missing"],
)
async def test_repeated_page_raises_loop_unless_it_is_beyond_the_end(paginator, attributes):
    tokens = iter(range(2, 100))
    api = Api(lambda number: {"more": True, "pages": 9, "next": next(tokens)}, repeats=True)

    with pytest.raises(PaginationLoop, match="3 times in a row"):
        await stream_of(paginator, api, **attributes).read()


@pytest.mark.parametrize("paginator", [PageNumber(), Offset(limit=10), Offset(limit=10, total="total")])
@pytest.mark.parametrize("key", [None, "id"])
async def test_second_page_equal_to_first_raises_before_its_rows(paginator, key):
    received = []

    with pytest.raises(PaginationLoop, match="parameter is ignored"):  # noqa: PT012
        async with stream_of(
            paginator, Api(lambda number: {"total": 60}, rows=10, repeats=True), primary_key=key
        ).pages() as pages:
            async for page in pages:
                received += page.records

    assert ids_of(received) == [*range(10)]


async def test_other_rows_between_equal_ones_are_no_repeated_page():
    pages = [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15], [11, 22, 13, 24, 15], []]
    api = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": [{"id": id_} for id_ in pages.pop(0)]}))

    records = await stream_of(PageNumber(), api, primary_key="id").read()

    assert ids_of(records) == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 11, 22, 13, 24, 15]


@pytest.mark.parametrize("parallel_pages", [False, True])
@pytest.mark.parametrize("total", [None, "total"])
async def test_offset_starts_where_declared(total, parallel_pages):
    api = Api(lambda number: {"total": 25}, first=1)

    records = await stream_of(Offset(limit=10, start=1, total=total), api, parallel_pages=parallel_pages).read()

    assert ids_of(records) == [*range(25)]
    assert [params["offset"] for params in api.requested[:3]] == ["1", "11", "21"]


@pytest.mark.parametrize("parallel_pages", [False, True])
@pytest.mark.parametrize("paginator", [Offset(limit=10, step="limit"), Offset(limit=10, step="limit", total="total")])
async def test_step_limit_moves_by_the_limit(paginator, parallel_pages):
    def keep_even(number: int) -> dict[str, Any]:
        ids = [id_ for id_ in range(number * 10, min(number * 10 + 10, 25)) if id_ % 2 == 0]
        return {"data": [{"id": id_} for id_ in ids], "total": 25}

    records = await stream_of(paginator, Api(keep_even), parallel_pages=parallel_pages).read()

    assert ids_of(records) == [*range(0, 25, 2)]


async def test_step_limit_does_not_repeat_rows_if_limit_is_ignored():
    api = Api(lambda number: {"total": 25})

    assert ids_of(await stream_of(Offset(limit=4, step="limit", total="total"), api).read()) == [*range(25)]


LITERALS = ["1.50", "1e3", "1700000000.123456789", "-2.5E-3"]


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("token", ["next", "meta.next", "meta.all[-1]"])
async def test_number_as_cursor_keeps_its_literal_text(literal, token):
    pages = [f'{{"data": [], "next": {literal}, "meta": {{"next": {literal}, "all": [1, {literal}]}}}}', '{"data": []}']
    sent: list[httpx.Request] = []
    api = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200, text=pages[len(sent) - 1]))

    await stream_of(Cursor(token), api).read()

    assert sent[1].url.params["cursor"] == literal


async def test_number_as_cursor_stays_a_number_in_json():
    pages = ['{"data": [], "next": 1700000000.123456789}', '{"data": []}']
    sent: list[bytes] = []
    api = httpx.MockTransport(
        lambda request: sent.append(request.content) or httpx.Response(200, text=pages[len(sent) - 1])
    )

    await stream_of(
        Cursor("next", param="page.after", into="json"),
        api,
        http_method="POST",
        request_json=lambda self, context: {"q": None},
    ).read()

    assert sent[1] == b'{"q":null,"page":{"after":1700000000.123456789}}'


async def test_number_in_continuation_keeps_its_literal_text():
    pages = ['{"data": [], "continue": {"at": 1.50, "n": 2, "s": "x"}}', '{"data": []}']
    sent: list[httpx.Request] = []
    api = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200, text=pages[len(sent) - 1]))

    await stream_of(Continuation(), api).read()

    assert dict(sent[1].url.params) == {"at": "1.50", "n": "2", "s": "x"}


@pytest.mark.parametrize(
    "stop_when",
    [
        lambda response: response.json()["data"][-1]["id"] >= 19,
        lambda response, records: records[-1]["id"] >= 19,
        lambda response, records=(): response.json()["data"][-1]["id"] >= 19 and not records,
        lambda response: response.context.page_records[-1]["id"] >= 19,
    ],
    ids=["response", "records", "default", "context"],
)
async def test_stop_when_sees_the_response_or_its_records(stop_when):
    api = Api(lambda number: {"next": number + 2})

    records = await stream_of(Cursor("next", param="page", stop_when=stop_when), api).read()

    assert ids_of(records) == [*range(20)]


async def test_next_page_token_sees_the_parsed_records():
    def next_page_token(self: Any, response: Any, context: Any) -> Any:
        assert context is response.context
        return {"page": 2} if context.page_records[0] == {"id": 0, "n": 1} else None

    stream = stream_of(
        None,
        Api(),
        next_page_token=next_page_token,
        parse_response=lambda self, response, context: [{**row, "n": 1} for row in response.json()["data"]],
        request_params=lambda self, context: context.next_page_token,
    )

    assert ids_of(await stream.read()) == [*range(20)]


async def stop_later(response):
    return True


@pytest.mark.parametrize(
    "arguments",
    [
        {"stop_when": lambda: True},
        {"stop_when": lambda a, b, c: True},
        {"stop_when": True},
        {"stop_when": stop_later},
    ],
)
def test_stop_when_that_cannot_be_called_is_refused(arguments):
    with pytest.raises(ConfigError, match="stop_when"):
        Cursor("next", **arguments)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Offset, {"start": -1}),
        (Offset, {"start": "1"}),
        (Offset, {"step": "page"}),
        (Offset, {"limit": "100"}),
        (Offset, {"more": 7}),
        (PageNumber, {"start": True}),
        (PageNumber, {"size": 2.5}),
        (PageNumber, {"more": "a[x]"}),
    ],
)
def test_invalid_paginator_argument_is_refused(kind, arguments):
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**arguments)
