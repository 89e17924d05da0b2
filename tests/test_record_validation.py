"""What becomes of records that do not fit their schema, and is nothing of their values ever told?"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from asyncstreams import (
    Cursor,
    HttpStream,
    Offset,
    Page,
    PageNumber,
    PageRead,
    QuarantinedRecord,
    RequestContext,
    Response,
    SchemaError,
    UnexpectedContent,
    ndjson,
)

API = "https://api.test/v1/"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "size": {"type": "integer"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"sum": {"type": "number"}}}},
    },
}
GOOD, BAD = {"id": 1, "size": 1}, {"id": 2, "size": "L"}


class Items(HttpStream):
    url_base = API

    def path(self, context: RequestContext) -> str:
        return "items"

    def get_json_schema(self) -> dict[str, Any]:
        return SCHEMA


def declare(**declared: Any) -> HttpStream:
    return type("Items", (Items,), declared)()


def answering(*bodies: Any, asked: list[httpx.Request] | None = None) -> httpx.MockTransport:
    """One body for each request, then empty pages."""
    left = list(bodies)

    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(request)
        return httpx.Response(200, json=left.pop(0) if left else [])

    return httpx.MockTransport(answer)


async def pages_of(stream: HttpStream, **narrowed: Any) -> list[Page]:
    async with stream.pages(**narrowed) as pages:
        return [page async for page in pages]


async def failure_of(stream: HttpStream) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        await stream.read()
    return caught.value


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncstreams" and record.levelno == logging.WARNING
    ]


# "report"


async def test_by_default_records_are_handed_over_and_each_place_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = {"lines": [{"sum": 1}, {"sum": "x"}, {"sum": "y"}]}
    first, second = [GOOD, BAD, BAD, lines], [{"id": "x"}, lines, BAD]
    stream = declare(transport=answering(first, second), paginator=PageNumber())

    pages = await pages_of(stream)

    assert [page.records for page in pages] == [first, second, []]
    assert all(page.quarantined == () for page in pages)
    *each, summary = told(caplog)
    assert len(each) == 3
    assert "/size: type" in each[0]
    assert "/sum: type" in each[1]
    assert "/id: type" in each[2]
    assert all("items" in warning for warning in each)
    assert "6" in summary


async def test_records_that_fit_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert await declare(transport=answering([GOOD] * 3)).read() == [GOOD] * 3

    assert told(caplog) == []


async def test_the_summary_is_told_also_when_a_reading_is_left_early(caplog: pytest.LogCaptureFixture) -> None:
    async def one_page(request: httpx.Request) -> httpx.Response:
        if request.url.params["page"] != "1":
            await asyncio.Event().wait()
        return httpx.Response(200, json=[BAD])

    stream = declare(transport=httpx.MockTransport(one_page), paginator=PageNumber())

    async with stream.records() as records:
        await anext(aiter(records))

    assert len(told(caplog)) == 2


async def test_each_reading_warns_anew(caplog: pytest.LogCaptureFixture) -> None:
    stream = declare(transport=answering([BAD], [BAD]))

    await stream.read()
    await stream.read()

    assert len(told(caplog)) == 4


async def test_any_number_of_distinct_keys_leaves_warnings_and_memory_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def parse(self: HttpStream, response: Response, context: RequestContext) -> AsyncIterator[dict[str, Any]]:
        for number in range(2_000):
            yield {f"key-{number}-{index}": "x" for index in range(50)}

    described = {"additionalProperties": {"type": "integer"}}
    stream = declare(transport=answering(), parse_response=parse, get_json_schema=lambda self: described)
    tracemalloc.start()

    async with stream.records() as records:
        async for _ in records:
            pass

    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 4_000_000
    assert len(told(caplog)) <= 102
    assert max(map(len, told(caplog))) < 2_000


@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_a_name_of_any_length_makes_no_long_message(caplog: pytest.LogCaptureFixture, mode: str) -> None:
    stream = declare(
        transport=answering([{"k" * 1_000_000: "x"}]),
        get_json_schema=lambda self: {"additionalProperties": {"type": "integer"}},
        validation=mode,
        max_quarantined=0,
    )

    shown = "" if mode == "report" else str(await failure_of(stream))
    if mode == "report":
        await stream.read()

    assert len(shown) + sum(map(len, told(caplog))) < 4_000


# "quarantine"


async def test_quarantined_records_are_kept_apart(caplog: pytest.LogCaptureFixture) -> None:
    stream = declare(transport=answering([BAD, GOOD, {"id": "x", "size": "y"}]), validation="quarantine")

    [page] = await pages_of(stream)

    assert page.records == [GOOD]
    assert [type(kept) for kept in page.quarantined] == [QuarantinedRecord, QuarantinedRecord]
    assert [kept.record for kept in page.quarantined] == [BAD, {"id": "x", "size": "y"}]
    places = [sorted((problem.pointer, problem.keyword) for problem in kept.problems) for kept in page.quarantined]
    assert places == [[("/size", "type")], [("/id", "type"), ("/size", "type")]]
    assert any("2" in warning for warning in told(caplog))
    assert "'y'" not in repr(page) + repr(page.quarantined)


async def test_neither_read_nor_records_give_what_is_quarantined() -> None:
    stream = declare(transport=answering([BAD, GOOD], [GOOD, BAD]), validation="quarantine")

    read = await stream.read()
    async with stream.records() as records:
        handed_over = [record async for record in records]

    assert (read, handed_over) == ([GOOD], [GOOD])


async def test_validation_may_be_set_on_the_instance() -> None:
    stream = declare(transport=answering([BAD, GOOD]))
    stream.validation = "quarantine"

    assert await stream.read() == [GOOD]


@pytest.mark.parametrize(("most", "ends"), [(3, False), (2, True), (0, True)])
async def test_more_than_max_quarantined_end_the_reading(most: int, ends: bool) -> None:
    bodies = [[BAD, GOOD], [BAD], [BAD]]
    stream = declare(transport=answering(*bodies), paginator=PageNumber(), validation="quarantine", primary_key="id")
    stream.max_quarantined = most
    pages: list[Page] = []

    async def read() -> None:
        async with stream.pages() as handed_over:
            async for page in handed_over:
                pages.append(page)  # noqa: PERF401

    if not ends:
        await read()
    else:
        with pytest.raises(SchemaError) as caught:
            await read()
        assert (caught.value.key, caught.value.pointer, caught.value.keyword) == (2, "/size", "type")

    assert len(pages) == (4 if not ends else most)


async def test_by_default_a_thousand_may_be_quarantined() -> None:
    assert await declare(transport=answering([BAD] * 1_000), validation="quarantine").read() == []

    await failure_of(declare(transport=answering([BAD] * 1_001), validation="quarantine"))


async def test_max_quarantined_counts_each_reading_alone() -> None:
    stream = declare(transport=answering([BAD], [BAD]), validation="quarantine", max_quarantined=1)

    assert await stream.read() == []
    assert await stream.read() == []


async def test_limit_counts_what_is_handed_over() -> None:
    asked: list[httpx.Request] = []
    bodies = [[BAD, GOOD], [BAD, BAD], [GOOD, BAD, GOOD], [GOOD]]
    stream = declare(transport=answering(*bodies, asked=asked), paginator=PageNumber(), validation="quarantine")

    records = await stream.read(limit=2)

    assert (len(records), len(asked)) == (2, 3)


@pytest.mark.parametrize(
    "paginator", [PageNumber(size=2, stop_on_short_page=True), Offset(limit=2, stop_on_short_page=True), PageNumber()]
)
async def test_paging_goes_by_what_the_api_sent(paginator: Any) -> None:
    asked: list[httpx.Request] = []
    bodies = [[BAD, BAD], [GOOD, BAD], [GOOD, GOOD]]
    stream = declare(
        transport=answering(*bodies, asked=asked), paginator=paginator, validation="quarantine", parallel_pages=False
    )

    records = await stream.read()

    assert len(records) == 3
    assert len(asked) == 4
    if isinstance(paginator, Offset):
        assert [request.url.params["offset"] for request in asked] == ["0", "2", "4", "6"]


async def test_a_page_of_which_all_is_quarantined_is_still_a_page() -> None:
    heard: list[Any] = []
    bodies = [{"data": [BAD], "next": "b"}, {"data": [GOOD], "next": None}]
    paginator = Cursor("next")
    stream = declare(transport=answering(*bodies), paginator=paginator, records_path="data", validation="quarantine")
    stream.listeners.append(heard.append)

    pages = await pages_of(stream)

    assert [(page.number, len(page.records), len(page.quarantined)) for page in pages] == [(0, 0, 1), (1, 1, 0)]
    assert [event.records for event in heard if isinstance(event, PageRead)] == [0, 1]


# "fail"

KEYS: list[Any] = [
    ("id", 7),
    (["id"], 7),
    (["id", "lang"], {"id": 7, "lang": "de"}),
    ([["id"], ["by", "name"]], {"id": 7, "by.name": "ann"}),
    ([["by", "name"]], "ann"),
    (None, None),
    ("missing", None),
]


@pytest.mark.parametrize(("primary_key", "key"), KEYS)
async def test_the_first_misfit_fails_with_its_key_place_and_keyword(primary_key: Any, key: Any) -> None:
    record = {"id": 7, "lang": "de", "by": {"name": "ann"}, "lines": [{"sum": 1}, {"sum": "x"}]}
    asked: list[httpx.Request] = []
    stream = declare(transport=answering([GOOD, record, BAD], asked=asked), primary_key=primary_key, validation="fail")

    error = await failure_of(stream)

    assert (error.key, error.pointer, error.keyword) == (key, "/lines/1/sum", "type")
    assert (error.stream, error.page, isinstance(error, UnexpectedContent)) == ("items", 0, True)
    assert len(asked) == 1
    assert not error.retryable


async def test_pages_before_the_misfit_are_handed_over() -> None:
    stream = declare(transport=answering([GOOD], [BAD]), paginator=PageNumber(), validation="fail")

    async with stream.records() as records:
        taken = await anext(aiter(records))
        with pytest.raises(SchemaError):
            await anext(aiter(records))

    assert taken == GOOD


SECRET = "hunter2-4111111111111111"
SECRET_NUMBER = 4111111111111111
TELLING: list[tuple[Any, Any]] = [
    ({"type": "integer"}, SECRET),
    ({"type": "string"}, SECRET_NUMBER),
    ({"type": ["null", "array"]}, {"inner": SECRET}),
    ({"enum": ["a", "b"]}, SECRET),
    ({"enum": [1, 2]}, SECRET_NUMBER),
    ({"const": "a"}, SECRET),
    ({"pattern": "^x$"}, SECRET),
    ({"format": "date", "maxLength": 3}, SECRET),
    ({"minimum": 10**20}, SECRET_NUMBER),
    ({"maximum": 1}, SECRET_NUMBER),
    ({"multipleOf": 2}, SECRET_NUMBER),
    ({"required": ["x"]}, {"inner": SECRET}),
    ({"additionalProperties": False}, {"inner": SECRET}),
    ({"patternProperties": {"^i": False}}, {"inner": SECRET}),
    ({"propertyNames": {"maxLength": 1}}, {"inner": SECRET}),
    ({"maxProperties": 0}, {"inner": SECRET}),
    ({"dependencies": {"inner": ["x"]}}, {"inner": SECRET}),
    ({"anyOf": [{"type": "null"}, {"const": 1}]}, SECRET),
    ({"oneOf": [{"type": "string"}, {"minLength": 1}]}, SECRET),
    ({"not": {"type": "string"}}, SECRET),
    ({"if": {"type": "string"}, "then": {"maxLength": 1}}, SECRET),
    ({"items": {"type": "null"}}, [SECRET]),
    ({"contains": {"type": "null"}}, [SECRET]),
    ({"uniqueItems": True}, [SECRET, SECRET]),
    (False, SECRET),
    ({"$ref": "#/definitions/n"}, SECRET),
]


@pytest.mark.parametrize(("field", "value"), TELLING)
@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_no_value_is_ever_told(caplog: pytest.LogCaptureFixture, field: Any, value: Any, mode: str) -> None:
    schema = {"properties": {"card": field}, "definitions": {"n": {"type": "null"}}}
    stream = declare(
        transport=answering([{"id": 1, "card": value}]),
        get_json_schema=lambda self: schema,
        validation=mode,
        max_quarantined=0,
        primary_key="id",
    )
    shown = ""

    try:
        await stream.read()
    except SchemaError as error:
        shown = "".join(traceback.format_exception(error)) + repr((error, error.args, vars(error), error.pointer))

    shown += "".join(map(repr, told(caplog))) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "card" in shown
    assert SECRET not in shown
    assert str(SECRET_NUMBER) not in shown


# A body that is parsed while it arrives


async def streamed(self: HttpStream, response: Response, context: RequestContext) -> AsyncIterator[dict[str, Any]]:
    async for record in ndjson(response):
        yield record


@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_a_streamed_body_is_held_against_the_schema(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    body = "\n".join(json.dumps(record) for record in [GOOD] * 1_500 + [BAD] + [GOOD] * 10)
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text=body)

    stream = declare(transport=httpx.MockTransport(answer), parse_response=streamed, validation=mode)

    if mode == "fail":
        assert (await failure_of(stream)).pointer == "/size"
    else:
        assert len(await stream.read()) == (1_511 if mode == "report" else 1_510)

    assert len(asked) == 1
    assert len(told(caplog)) == (0 if mode == "fail" else 2)
