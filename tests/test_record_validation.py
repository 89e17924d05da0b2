"""Records that do not match their schema: delivery, quarantine, failure, and messages without values."""

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
from simulation import sample

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


def respond(*bodies: Any, requests: list[httpx.Request] | None = None) -> httpx.MockTransport:
    """A transport that responds with one of the bodies to each request, then with empty pages."""
    left = list(bodies)

    def answer(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        return httpx.Response(200, json=left.pop(0) if left else [])

    return httpx.MockTransport(answer)


async def pages_of(stream: HttpStream, **options: Any) -> list[Page]:
    async with stream.pages(**options) as pages:
        return [page async for page in pages]


async def failure_of(stream: HttpStream) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        await stream.read()
    return caught.value


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncstreams" and record.levelno == logging.WARNING
    ]


# "report"


async def test_default_delivers_records_and_warns_once_per_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = {"lines": [{"sum": 1}, {"sum": "x"}, {"sum": "y"}]}
    first, second = [GOOD, BAD, BAD, lines], [{"id": "x"}, lines, BAD]
    stream = declare(transport=respond(first, second), paginator=PageNumber())

    pages = await pages_of(stream)

    assert [page.records for page in pages] == [first, second, []]
    assert all(page.quarantined == () for page in pages)
    *each, summary = warnings_of(caplog)
    assert len(each) == 3
    assert "/size: type" in each[0]
    assert "/sum: type" in each[1]
    assert "/id: type" in each[2]
    assert all("items" in warning for warning in each)
    assert "6" in summary


async def test_valid_records_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert await declare(transport=respond([GOOD] * 3)).read() == [GOOD] * 3

    assert warnings_of(caplog) == []


async def test_summary_is_logged_when_run_stops_early(caplog: pytest.LogCaptureFixture) -> None:
    async def one_page(request: httpx.Request) -> httpx.Response:
        if request.url.params["page"] != "1":
            await asyncio.Event().wait()
        return httpx.Response(200, json=[BAD])

    stream = declare(transport=httpx.MockTransport(one_page), paginator=PageNumber())

    async with stream.records() as records:
        await anext(aiter(records))

    assert len(warnings_of(caplog)) == 2


async def test_each_run_logs_its_own_warnings(caplog: pytest.LogCaptureFixture) -> None:
    stream = declare(transport=respond([BAD], [BAD]))

    await stream.read()
    await stream.read()

    assert len(warnings_of(caplog)) == 4


@pytest.mark.simulation
async def test_many_distinct_keys_keep_log_and_memory_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def parse(self: HttpStream, response: Response, context: RequestContext) -> AsyncIterator[dict[str, Any]]:
        for number in range(sample(full=2_000, short=500)):
            yield {f"key-{number}-{index}": "x" for index in range(50)}

    schema = {"additionalProperties": {"type": "integer"}}
    stream = declare(transport=respond(), parse_response=parse, get_json_schema=lambda self: schema)
    tracemalloc.start()

    async with stream.records() as records:
        async for _ in records:
            pass

    memory = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert memory < sample(full=4_000_000, short=1_500_000)
    assert len(warnings_of(caplog)) <= 102
    assert max(map(len, warnings_of(caplog))) < 2_000


@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_long_property_name_is_shortened_in_messages(caplog: pytest.LogCaptureFixture, mode: str) -> None:
    stream = declare(
        transport=respond([{"k" * 1_000_000: "x"}]),
        get_json_schema=lambda self: {"additionalProperties": {"type": "integer"}},
        validation=mode,
        max_quarantined=0,
    )

    output = "" if mode == "report" else str(await failure_of(stream))
    if mode == "report":
        await stream.read()

    assert len(output) + sum(map(len, warnings_of(caplog))) < 4_000


# "quarantine"


async def test_quarantined_records_are_separate(caplog: pytest.LogCaptureFixture) -> None:
    stream = declare(transport=respond([BAD, GOOD, {"id": "x", "size": "y"}]), validation="quarantine")

    [page] = await pages_of(stream)

    assert page.records == [GOOD]
    assert [type(quarantined) for quarantined in page.quarantined] == [QuarantinedRecord, QuarantinedRecord]
    assert [quarantined.record for quarantined in page.quarantined] == [BAD, {"id": "x", "size": "y"}]
    places = [
        sorted((problem.pointer, problem.keyword) for problem in quarantined.problems)
        for quarantined in page.quarantined
    ]
    assert places == [[("/size", "type")], [("/id", "type"), ("/size", "type")]]
    assert any("2" in warning for warning in warnings_of(caplog))
    assert "'y'" not in repr(page) + repr(page.quarantined)


async def test_read_and_records_omit_quarantined_records() -> None:
    stream = declare(transport=respond([BAD, GOOD], [GOOD, BAD]), validation="quarantine")

    read = await stream.read()
    async with stream.records() as records:
        delivered = [record async for record in records]

    assert (read, delivered) == ([GOOD], [GOOD])


async def test_validation_may_be_set_on_instance() -> None:
    stream = declare(transport=respond([BAD, GOOD]))
    stream.validation = "quarantine"

    assert await stream.read() == [GOOD]


@pytest.mark.parametrize(("limit", "fails"), [(3, False), (2, True), (0, True)])
async def test_more_than_max_quarantined_raises(limit: int, fails: bool) -> None:
    bodies = [[BAD, GOOD], [BAD], [{**BAD, "page": 3}]]
    stream = declare(transport=respond(*bodies), paginator=PageNumber(), validation="quarantine", primary_key="id")
    stream.max_quarantined = limit
    pages: list[Page] = []

    async def read() -> None:
        async with stream.pages() as delivered:
            async for page in delivered:
                pages.append(page)  # noqa: PERF401

    if not fails:
        await read()
    else:
        with pytest.raises(SchemaError) as caught:
            await read()
        assert (caught.value.key, caught.value.pointer, caught.value.keyword) == (2, "/size", "type")

    assert len(pages) == (4 if not fails else limit)


async def test_default_max_quarantined_is_1000() -> None:
    assert await declare(transport=respond([BAD] * 1_000), validation="quarantine").read() == []

    await failure_of(declare(transport=respond([BAD] * 1_001), validation="quarantine"))


async def test_max_quarantined_applies_per_run() -> None:
    stream = declare(transport=respond([BAD], [BAD]), validation="quarantine", max_quarantined=1)

    assert await stream.read() == []
    assert await stream.read() == []


async def test_limit_counts_delivered_records() -> None:
    requests: list[httpx.Request] = []
    bodies = [[BAD, GOOD], [BAD, BAD], [GOOD, BAD, GOOD], [GOOD]]
    stream = declare(transport=respond(*bodies, requests=requests), paginator=PageNumber(), validation="quarantine")

    records = await stream.read(limit=2)

    assert (len(records), len(requests)) == (2, 3)


@pytest.mark.parametrize(
    "paginator", [PageNumber(size=2, stop_on_short_page=True), Offset(limit=2, stop_on_short_page=True), PageNumber()]
)
async def test_pagination_counts_quarantined_records(paginator: Any) -> None:
    requests: list[httpx.Request] = []
    bodies = [[BAD, BAD], [GOOD, BAD], [GOOD, GOOD]]
    stream = declare(
        transport=respond(*bodies, requests=requests),
        paginator=paginator,
        validation="quarantine",
        parallel_pages=False,
    )

    records = await stream.read()

    assert len(records) == 3
    assert len(requests) == 4
    if isinstance(paginator, Offset):
        assert [request.url.params["offset"] for request in requests] == ["0", "2", "4", "6"]


async def test_fully_quarantined_page_is_delivered() -> None:
    events: list[Any] = []
    bodies = [{"data": [BAD], "next": "b"}, {"data": [GOOD], "next": None}]
    paginator = Cursor("next")
    stream = declare(transport=respond(*bodies), paginator=paginator, records_path="data", validation="quarantine")
    stream.listeners.append(events.append)

    pages = await pages_of(stream)

    assert [(page.number, len(page.records), len(page.quarantined)) for page in pages] == [(0, 0, 1), (1, 1, 0)]
    assert [event.records for event in events if isinstance(event, PageRead)] == [0, 1]


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
async def test_fail_mode_error_has_key_pointer_and_keyword(primary_key: Any, key: Any) -> None:
    record = {"id": 7, "lang": "de", "by": {"name": "ann"}, "lines": [{"sum": 1}, {"sum": "x"}]}
    requests: list[httpx.Request] = []
    stream = declare(
        transport=respond([GOOD, record, BAD], requests=requests), primary_key=primary_key, validation="fail"
    )

    error = await failure_of(stream)

    assert (error.key, error.pointer, error.keyword) == (key, "/lines/1/sum", "type")
    assert (error.stream, error.page, isinstance(error, UnexpectedContent)) == ("items", 0, True)
    assert len(requests) == 1
    assert not error.retryable


async def test_pages_before_invalid_record_are_delivered() -> None:
    stream = declare(transport=respond([GOOD], [BAD]), paginator=PageNumber(), validation="fail")

    async with stream.records() as records:
        first = await anext(aiter(records))
        with pytest.raises(SchemaError):
            await anext(aiter(records))

    assert first == GOOD


SECRET = "hunter2-4111111111111111"
SECRET_NUMBER = 4111111111111111
LEAKS: list[tuple[Any, Any]] = [
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


@pytest.mark.parametrize(("field", "value"), LEAKS)
@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_no_value_appears_in_messages(
    caplog: pytest.LogCaptureFixture, field: Any, value: Any, mode: str
) -> None:
    schema = {"properties": {"card": field}, "definitions": {"n": {"type": "null"}}}
    stream = declare(
        transport=respond([{"id": 1, "card": value}]),
        get_json_schema=lambda self: schema,
        validation=mode,
        max_quarantined=0,
        primary_key="id",
    )
    output = ""

    try:
        await stream.read()
    except SchemaError as error:
        output = "".join(traceback.format_exception(error)) + repr((error, error.args, vars(error), error.pointer))

    output += (
        "".join(map(repr, warnings_of(caplog))) + caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    )
    assert "card" in output
    assert SECRET not in output
    assert str(SECRET_NUMBER) not in output


# Streamed bodies


async def parse_lines(self: HttpStream, response: Response, context: RequestContext) -> AsyncIterator[dict[str, Any]]:
    async for record in ndjson(response):
        yield record


@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_streamed_body_is_validated(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    body = "\n".join(json.dumps(record) for record in [GOOD] * 1_500 + [BAD] + [GOOD] * 10)
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, text=body)

    stream = declare(transport=httpx.MockTransport(answer), parse_response=parse_lines, validation=mode)

    if mode == "fail":
        assert (await failure_of(stream)).pointer == "/size"
    else:
        assert len(await stream.read()) == (1_511 if mode == "report" else 1_510)

    assert len(requests) == 1
    assert len(warnings_of(caplog)) == (0 if mode == "fail" else 2)
