"""Schemas of records: loading, checks before the first request, and no access to files or the network."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from asyncstreams import ConfigError, HttpStream, RequestContext, TransformConfig, TypeTransformer
from asyncstreams.schemas.record_schema import RecordSchema

API = "https://api.test/v1/"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"
GOOD: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "integer"}}}


class Items(HttpStream):
    url_base = API

    def path(self, context: RequestContext) -> str:
        return "items"


def declare(get_json_schema: Any, **declared: Any) -> HttpStream:
    return type("Items", (Items,), {"get_json_schema": get_json_schema, **declared})()


# `get_json_schema`


async def test_get_json_schema_may_be_async_and_call_the_api(respx_mock: Any) -> None:
    async def fetch_schema(self: HttpStream) -> Any:
        fields = (await self.request("items/fields")).json()
        return {"properties": {field["name"]: {"type": field["type"]} for field in fields}}

    fields = respx_mock.get(API + "items/fields").respond(json=[{"name": "size", "type": "integer"}])
    respx_mock.get(API + "items").respond(json=[{"size": 1}, {"size": "L"}])

    async with declare(fetch_schema, validation="quarantine").pages() as pages:
        [page] = [page async for page in pages]

    assert (page.records, [quarantined.record for quarantined in page.quarantined]) == ([{"size": 1}], [{"size": "L"}])
    assert fields.call_count == 1


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("mode", ["report", "quarantine", "fail"])
async def test_get_json_schema_may_return_none(respx_mock: Any, is_async: bool, mode: str) -> None:
    async def no_schema_async(self: HttpStream) -> None:
        return None

    def no_schema(self: HttpStream) -> None:
        return None

    respx_mock.get(API + "items").respond(json=[{"id": 1}, {}])

    records = await declare(no_schema_async if is_async else no_schema, validation=mode).read()

    assert records == [{"id": 1}, {}]


@pytest.mark.parametrize("is_async", [False, True])
async def test_get_json_schema_error_propagates_with_note(respx_mock: Any, is_async: bool) -> None:
    problem = RuntimeError("no fields today")

    async def fail_async(self: HttpStream) -> Any:
        raise problem

    def fail(self: HttpStream) -> Any:
        raise problem

    with pytest.raises(RuntimeError) as caught:
        await declare(fail_async if is_async else fail).read()

    assert caught.value is problem
    assert any("items" in note and "get_json_schema" in note for note in problem.__notes__)
    assert respx_mock.calls.call_count == 0


async def test_get_json_schema_is_called_once_per_run(respx_mock: Any) -> None:
    calls = []

    def counting(self: HttpStream) -> Any:
        calls.append(1)
        return GOOD

    respx_mock.get(API + "items").respond(json=[{"id": 1}])
    stream = declare(counting, stream_slices=lambda self, state: [{"part": 1}, {"part": 2}])

    await stream.read()
    await stream.read()

    assert len(calls) == 2


async def test_changed_schema_applies_from_next_run(respx_mock: Any) -> None:
    schemas = [{"properties": {"id": {"type": "integer"}}}, {"properties": {"id": {"type": "string"}}}]
    respx_mock.get(API + "items").respond(json=[{"id": 1}])
    stream = declare(lambda self: schemas.pop(0), validation="quarantine")

    assert await stream.read() == [{"id": 1}]
    assert await stream.read() == []


# Invalid schemas

INVALID: list[tuple[Any, str]] = [
    ([], "list"),
    ("{}", "str"),
    (7, "int"),
    (True, "bool"),
    (type, "type"),
    ({"type": "text"}, "/type"),
    ({"properties": {"a/b": {"type": "text"}}}, "/properties/a~1b/type"),
    ({"properties": {"a": {"items": {"minimum": "1"}}}}, "/properties/a/items/minimum"),
    ({"properties": {"a": {"anyOf": []}}}, "/properties/a/anyOf"),
    ({"properties": {"a": 7}}, "/properties/a"),
    ({"properties": []}, "/properties"),
    ({"required": "id"}, "/required"),
    ({"required": [1]}, "/required/0"),
    ({"properties": {"a": {"multipleOf": 0}}}, "/properties/a/multipleOf"),
    ({"allOf": [{}, {"maxLength": -1}]}, "/allOf/1/maxLength"),
    ({"type": "array", "items": {}}, "array"),
    ({"type": ["array", "null"]}, "array"),
    ({"type": "string"}, "string"),
    ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft-03"),
    ({"$schema": "https://api.test/our/schema"}, "https://api.test/our/schema"),
    ({"$schema": 7}, "7"),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": True}}, "/properties/a"),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 1}, "exclusiveMinimum"),
    ({"$schema": DRAFT_2020, "items": [{}]}, "/items"),
    ({"properties": {"a": {"$ref": "#/definitions/none"}}}, "/definitions/none"),
    ({"properties": {"a": {"$ref": "none.json"}}}, "none.json"),
]
PARTIAL_POINTERS: list[tuple[Any, str]] = [
    ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern"),
    ({"patternProperties": {"(": {}}}, "/patternProperties"),
    ({"properties": {"a": {"$ref": "#/definitions/none"}}}, "/properties/a"),
]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        *INVALID,
        *(pytest.param(*row) for row in PARTIAL_POINTERS),
    ],
)
async def test_invalid_schema_is_rejected_before_first_page(respx_mock: Any, schema: Any, expected: str) -> None:
    respx_mock.get(API + "items").respond(json=[{"id": 1}])

    async with declare(lambda self: schema).pages() as pages:
        with pytest.raises(ConfigError) as caught:
            await anext(aiter(pages))

    assert expected in str(caught.value)
    assert "items" in str(caught.value)


@pytest.mark.parametrize("schema", [GOOD, {"$schema": DRAFT_2020, **GOOD}, {"$schema": DRAFT_2020 + "#", **GOOD}, {}])
def test_draft_uri_is_recognized_with_and_without_fragment(schema: dict[str, Any]) -> None:
    assert RecordSchema(schema).is_valid({"id": 1})


@pytest.mark.parametrize(
    "uri",
    [
        "http://json-schema.org/schema#",
        "http://json-schema.org/schema",
        "https://json-schema.org/schema#",
        "https://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft-07/schema",
    ],
)
def test_schema_without_draft_in_its_uri_is_draft_7(uri: str) -> None:
    draft_7_only = {"properties": {"id": {"if": {"minimum": 5}, "then": {"multipleOf": 5}}}}

    schema = RecordSchema({"$schema": uri, **draft_7_only})

    assert schema.is_valid({"id": 10})
    assert not schema.is_valid({"id": 6})


def test_schema_may_be_any_mapping() -> None:
    assert not RecordSchema(MappingProxyType(GOOD)).is_valid({"id": "x"})


def test_schema_is_copied() -> None:
    schema: dict[str, Any] = {"properties": {"id": {"$ref": "#/definitions/n"}}, "definitions": {"n": {"type": "null"}}}
    compiled = RecordSchema(schema)

    assert schema == {"properties": {"id": {"$ref": "#/definitions/n"}}, "definitions": {"n": {"type": "null"}}}
    schema["definitions"]["n"]["type"] = "integer"
    assert compiled.is_valid({"id": None})


# No access to the network or to files


@pytest.fixture
def schema_server() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server with a schema, and the list of requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", paths
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "URL"}}},
        {"$ref": "URL#/definitions/x"},
        {"$schema": DRAFT_2020, "properties": {"a": {"$dynamicRef": "URL"}}},
        {"properties": {"a": {"enum": [{"$ref": "URL"}], "default": {"$ref": "URL"}}}},
        {"$id": "URL", "properties": {"a": {"$ref": "other.json"}}},
        pytest.param({"properties": {"default": {"$ref": "URL"}}}),
        pytest.param({"definitions": {"enum": {"$ref": "URL"}}, "$ref": "#/definitions/enum"}),
        pytest.param({"$id": "URL", "properties": {"const": {"$ref": "other.json"}}}),
        pytest.param({"$schema": DRAFT_2020, "properties": {"a": {"$schema": "URL"}}}),
    ],
)
def test_no_reference_is_downloaded(schema: dict[str, Any], schema_server: tuple[str, list[str]]) -> None:
    url, paths = schema_server

    with contextlib.suppress(ConfigError):
        RecordSchema(json.loads(json.dumps(schema).replace("URL", url))).is_valid({"a": {}})

    assert paths == []


@pytest.mark.parametrize("name", ["a", pytest.param("default")])
def test_no_file_url_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.json").write_text("{}")

    with pytest.raises(ConfigError):
        RecordSchema({"properties": {name: {"$ref": (tmp_path / "secret.json").as_uri()}}})


# Violations, and values without a JSON form


def test_violation_has_pointer_and_keyword() -> None:
    schema = {"properties": {"a/b": {"items": {"properties": {"~": {"type": "null"}}}}}, "required": ["id"]}

    found = RecordSchema(schema).find_violations({"a/b": [{}, {"~": 1}]})

    assert sorted((problem.pointer, problem.keyword) for problem in found) == [
        ("/a~1b/1/~0", "type"),
        ("/id", "required"),
    ]


@pytest.mark.parametrize("value", [Decimal("1.5"), (1, 2), 1e999, float("nan"), 10**400, {"a": (Decimal(1),)}])
def test_nearly_json_values_are_validated(value: Any) -> None:
    schema = RecordSchema({"properties": {"a": {"type": "null"}}})

    assert not schema.is_valid({"a": value})
    assert not schema.all_valid([{"a": value}])
    assert schema.find_violations({"a": value})


NON_JSON = [datetime.now(UTC), date(2026, 1, 1), b"x", {1}, UUID(int=1), object(), "\ud800", 1j]


ODD_RECORDS: list[dict[Any, Any]] = [*({"a": value} for value in NON_JSON), {"a": [NON_JSON[0]]}, {1: 2}]


@pytest.mark.parametrize("record", ODD_RECORDS)
@pytest.mark.parametrize("mode", ["report", "quarantine"])
async def test_non_json_value_is_a_violation(respx_mock: Any, record: dict[Any, Any], mode: str) -> None:
    respx_mock.get(API + "items").respond(json=[])
    stream = declare(
        lambda self: {"properties": {"a": {"type": ["boolean", "null"]}, "id": {"type": "integer"}}},
        parse_response=lambda self, response, context: [{"id": 1}, record, {"id": 3}],
        validation=mode,
    )

    async with stream.pages() as pages:
        [page] = [page async for page in pages]

    assert [page.records[0], page.records[-1]] == [{"id": 1}, {"id": 3}]
    assert len(page.records) + len(page.quarantined) == 3


DEEP = '{"a":' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        ({"type": "string", "maxLength": 0}, '"\\ud83d\\ude00"'),
        pytest.param({"type": "integer"}, DEEP),
        pytest.param({"enum": [1]}, DEEP),
        pytest.param({"const": 1}, DEEP),
        pytest.param({"uniqueItems": True}, f"[{DEEP}, {DEEP}]"),
    ],
)
async def test_extreme_values_do_not_crash_validation(respx_mock: Any, schema: dict[str, Any], body: str) -> None:
    respx_mock.get(API + "items").respond(text=f'[{{"a": {body}}}, {{"id": 2}}]')
    stream = declare(lambda self: {"properties": {"a": schema}}, validation="quarantine")

    assert await stream.read() == [{"id": 2}]


def test_deep_record_is_validated() -> None:
    schema = RecordSchema({"type": "object", "properties": {"a": {"$ref": "#"}}})
    record: dict[str, Any] = {}
    for _ in range(900):
        record = {"a": record}

    assert (schema.is_valid(record), schema.all_valid([record])) == (True, True)


# Hostile values

HOSTILE_PATTERNS = ["^(a+)+$", "^(a|a)*$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(a*)*b", "^(?!x)(a+)+$", r"^(a|aa)+\1$"]


@pytest.mark.parametrize(
    "pattern",
    HOSTILE_PATTERNS,
)
def test_pattern_matching_time_is_bounded(pattern: str) -> None:
    schema = RecordSchema({"properties": {"a": {"pattern": pattern}}})
    record = {"a": "a" * 30_000 + "!"}
    started = time.perf_counter()

    assert not schema.is_valid(record)

    assert time.perf_counter() - started < 0.5


# When a schema is loaded


@pytest.mark.parametrize("transforms", [False, True])
async def test_validation_off_loads_schema_only_for_transformer(respx_mock: Any, transforms: bool) -> None:
    calls: list[int] = []
    respx_mock.get(API + "items").respond(json=[{"id": "3"}])
    transformer = TypeTransformer(
        TransformConfig.DefaultSchemaNormalization if transforms else TransformConfig.NoTransform
    )
    stream = declare(lambda self: calls.append(1) or GOOD, validation="off", transformer=transformer)

    records = await stream.read()

    assert (records, len(calls)) == (([{"id": 3}], 1) if transforms else ([{"id": "3"}], 0))


@pytest.mark.parametrize("mode", ["strict", "Report", None, True, ["fail"]])
@pytest.mark.parametrize("on_instance", [False, True])
async def test_unknown_validation_mode_error_lists_modes(mode: Any, on_instance: bool) -> None:
    async def read() -> None:
        stream = declare(lambda self: GOOD, **({} if on_instance else {"validation": mode}))
        stream.validation = mode
        await stream.read()

    with pytest.raises(ConfigError) as caught:
        await read()

    assert all(f"'{word}'" in str(caught.value) for word in ("report", "quarantine", "fail", "off"))
