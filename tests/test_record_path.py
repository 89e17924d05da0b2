"""Where the records are: paths, levels, single objects, and responses without rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncstreams import (
    ConfigError,
    HttpStream,
    JsonLines,
    PageNumber,
    UnexpectedContent,
    json_items,
)
from asyncstreams.pagination.record_path import records_at

ROWS = [{"id": 1}, {"id": 2}]
MORE = [{"id": 3}]


class Rows(HttpStream):
    url_base = "https://api.test/"
    single_page = True

    def path(self, context: Any) -> Any:
        return "rows"


def stream_of(body: Any, kind: type[HttpStream] = Rows, **settings: Any) -> HttpStream:
    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(body))

    return type(kind.__name__, (kind,), settings)(transport=httpx.MockTransport(respond))


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        (None, None, []),
        ("items", {"items": None}, []),
        ("data.items", {"data": None}, []),
        ("data.items", {"data": {"items": None}}, []),
        ("data[0].items", {"data": [None]}, []),
        ("$", {"id": 1}, [{"id": 1}]),
        ("$", None, []),
        ("data.$", {"data": {"id": 1}}, [{"id": 1}]),
        ("data.$", {"data": None}, []),
        ("data.$", {"data": ROWS}, ROWS),
        ("data.*.items", {"data": {"a": {"items": ROWS}, "b": {"items": MORE}}}, ROWS + MORE),
        ("data.*.items", {"data": [{"items": ROWS}, {"items": None}, {"items": MORE}]}, ROWS + MORE),
        ("data.*.items", {"data": {}}, []),
        ("data.*.items", {"data": None}, []),
        ("*.items", [{"items": ROWS}, {"items": MORE}], ROWS + MORE),
        ("*", {"a": {"id": 1}, "b": {"id": 2}}, ROWS),
        ("data.*", {"data": {"a": ROWS, "b": MORE, "c": None}}, ROWS + MORE),
        ("data.*.item.$", {"data": [{"item": ROWS[0]}, {"item": None}, {"item": ROWS[1]}]}, ROWS),
        ("a.*.*.rows", {"a": [[{"rows": ROWS}], {"x": {"rows": MORE}}]}, ROWS + MORE),
        ("data.*.items", {"data.*.items": ROWS}, ROWS),
        ("a*", {"a*": ROWS}, ROWS),
    ],
)
def test_path_selects_the_records(path: str | None, body: Any, found: Any) -> None:
    assert records_at(path, body, "Rows") == found


MISSING = [
    ("items", {}),
    ("data.items", {"data": {"total": 0}}),
    ("data.items", {"total": 0}),
    ("data.*.items", {"total": 0}),
    ("data.$", {"total": 0}),
    ("data.items", []),
]


@pytest.mark.parametrize(("path", "body"), MISSING)
def test_missing_key_is_an_error(path: str, body: Any) -> None:
    with pytest.raises(UnexpectedContent, match='set missing_records = "empty"'):
        records_at(path, body, "Rows")


@pytest.mark.parametrize(("path", "body"), MISSING)
def test_missing_key_is_no_rows_if_declared(path: str, body: Any) -> None:
    assert records_at(path, body, "Rows", "empty") == []


def test_missing_key_in_one_item_of_a_level() -> None:
    body = {"data": [{"items": ROWS}, {"name": "empty"}]}

    assert records_at("data.*.items", body, "Rows", "empty") == ROWS
    with pytest.raises(UnexpectedContent, match="sent nothing at records_path"):
        records_at("data.*.items", body, "Rows")


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("items", {}, "the body is an empty object"),
        ("data.items", {"data": [{"items": ROWS}]}, "what is below them is 'data.*.items'"),
        ("data[*].items", {"data": [{"items": ROWS}]}, "write records_path = 'data.*.items'"),
        ("data", {"data": {"items": ROWS}}, "set records_path = 'data.items'"),
        ("data", {"data": {"id": 1}}, "set records_path = 'data.$'; if its values are, 'data.*'"),
    ],
)
def test_hint_names_the_path_that_fits_the_body(path: str, body: Any, hint: str) -> None:
    with pytest.raises(UnexpectedContent) as caught:
        records_at(path, body, "Rows")

    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("body", [{"items": None, "error": "quota"}, {"errors": [{"code": 1}]}])
def test_missing_rows_of_a_body_with_an_error_are_no_empty_page(body: Any) -> None:
    with pytest.raises(UnexpectedContent, match="and 'error"):
        records_at("items", body, "Rows", "empty")


@pytest.mark.parametrize("body", [{"items": 5}, {"items": {"id": 1}}, [ROWS], "text", {"items": [1]}])
def test_other_value_is_an_error_in_any_case(body: Any) -> None:
    with pytest.raises(UnexpectedContent):
        records_at("items", body, "Rows", "empty")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"missing_records": "none"}, "missing_records = 'none': expected 'error' or 'empty'"),
        ({"missing_child": None}, "missing_child = None: expected 'skip' or 'fail'"),
        ({"records_path": "$.data.items"}, r"records_path = '\$\.data\.items': \$ is only possible as the last step"),
    ],
)
async def test_invalid_declaration_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        await stream_of([], **settings).read()


@pytest.mark.parametrize(
    ("body", "settings", "count"),
    [
        ({"items": None}, {"records_path": "items"}, 0),
        (None, {}, 0),
        ({"total": 0}, {"records_path": "items", "missing_records": "empty"}, 0),
        ({"id": 1, "next": "/rows?page=2", "total": 90}, {"records_path": "$", "single_page": False}, 1),
        ({"data": {"next": {"items": ROWS}, "b": {"items": MORE}}}, {"records_path": "data.*.items"}, 3),
        ({"data": [{"item": ROWS[0]}, {"item": ROWS[1]}]}, {"records_path": "data.*.item.$"}, 2),
    ],
)
async def test_records_are_written(body: Any, settings: dict[str, Any], count: int, tmp_path: Path) -> None:
    report = await stream_of(body, **settings).extract(to=JsonLines(tmp_path / "out"))

    assert report.streams[0].records == count


@pytest.mark.parametrize("path", ["items", "groups.*.items"])
async def test_null_ends_the_pages(path: str) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        items = ROWS if request.url.params["page"] == "1" else None
        return httpx.Response(200, json={"items": items, "groups": [{"items": items}]})

    kind = type("Rows", (Rows,), {"records_path": path, "paginator": PageNumber(), "single_page": False})

    assert await kind(transport=httpx.MockTransport(respond)).read() == ROWS


async def test_null_is_no_items_of_a_streamed_body() -> None:
    class Streamed(Rows):
        async def parse_response(self, response: Any, context: Any) -> Any:
            async for record in json_items(response, "data.items"):
                yield record

    assert await stream_of({"data": {"items": None}, "total": 0}, Streamed).read() == []
    with pytest.raises(UnexpectedContent, match="sent nothing"):
        await stream_of({"data": {"total": 0}}, Streamed).read()


async def test_empty_body_is_still_an_error() -> None:
    kind = type("Rows", (Rows,), {"max_tries": 1})

    with pytest.raises(UnexpectedContent, match="empty body"):
        await kind(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=b""))).read()
