"""Conversion of values to the types of their schema."""

from __future__ import annotations

import logging
from datetime import date
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest

from asyncstreams import ConfigError
from asyncstreams.schemas.type_transformer import TransformConfig, TypeTransformer

DEFAULT = TransformConfig.DefaultSchemaNormalization
CUSTOM = TransformConfig.CustomSchemaNormalization
LONG = 123456789012345678901234567890


class Level(IntEnum):
    HIGH = 3


def convert(value: Any, schema: Any, **root: Any) -> Any:
    """The result for a value in a field with this schema; `root` is merged into the root schema."""
    record = {"field": value}
    TypeTransformer(DEFAULT).transform(record, {"type": "object", "properties": {"field": schema}, **root})
    return record["field"]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "asyncstreams"]


def same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)


@pytest.mark.parametrize(
    ("value", "types", "result"),
    [
        (12, "string", "12"),
        (LONG, "string", str(LONG)),
        (1.5, "string", "1.5"),
        (12.0, "string", "12.0"),
        (True, "string", "true"),
        (False, "string", "false"),
        ({"a": [1, None, LONG]}, "string", f'{{"a":[1,null,{LONG}]}}'),
        (["ä"], "string", '["ä"]'),
        (date(2026, 1, 2), "string", "2026-01-02"),
        (Decimal("1.10"), "string", "1.10"),
        ("12", "integer", 12),
        (" -12\n", "integer", -12),
        (str(LONG), "integer", LONG),
        ("12.0", "integer", 12),
        (12.0, "integer", 12),
        ("1.5", "number", 1.5),
        (" 1e3 ", "number", 1000.0),
        ("12", "number", 12),
        (str(LONG), "number", LONG),
        ("Yes", "boolean", True),
        (" ON ", "boolean", True),
        ("t", "boolean", True),
        ("1", "boolean", True),
        (1, "boolean", True),
        ("n", "boolean", False),
        ("FALSE", "boolean", False),
        (0, "boolean", False),
        (0.0, "boolean", False),
        ("x", "array", ["x"]),
        (1, ["null", "array"], [1]),
        ("12", ["null", "integer"], 12),
    ],
)
def test_value_is_converted_to_schema_type(value: Any, types: Any, result: Any) -> None:
    found = convert(value, {"type": types})

    assert same(found, result)


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (12.5, "integer"),
        ("12.5", "integer"),
        ("1e3", "integer"),
        ("1_000", "integer"),
        ("007", "integer"),
        ("+5", "integer"),
        ("\u0661", "integer"),
        ("", "integer"),
        (True, "integer"),
        (float("inf"), "integer"),
        pytest.param("9" * 5000, "integer", id="more digits than Python reads"),
        ("nan", "number"),
        ("inf", "number"),
        ("1_000", "number"),
        (".5", "number"),
        ("1e400", "number"),
        (True, "number"),
        (Decimal("1.5"), "number"),
        (float("nan"), "string"),
        ({"a": float("inf")}, "string"),
        pytest.param(10**5000, "string", id="more digits than Python writes"),
        (["\ud800"], "string"),
        (object, "string"),
        (2, "boolean"),
        ("maybe", "boolean"),
        ([], "boolean"),
        ("{}", "object"),
        (1, "object"),
        ({}, "array"),
        (1, "null"),
    ],
)
def test_lossy_conversion_keeps_value(value: Any, types: Any) -> None:
    found = convert(value, {"type": types})

    assert found is value


@pytest.mark.parametrize("types", ["string", "integer", "number", "boolean", "array", "object", ["string", "integer"]])
def test_none_is_unchanged(types: Any) -> None:
    found = convert(None, {"type": types})

    assert found is None


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (1, "number"),
        (LONG, "number"),
        ("2026-01-02T03:04:05+01:00", "string"),
        (Level.HIGH, "integer"),
        ((1, 2), "array"),
        ("12", ["integer", "string", "null"]),
        (12, ["string", "integer"]),
        (True, ["integer", "boolean"]),
    ],
)
def test_valid_value_is_same_object(value: Any, types: Any) -> None:
    found = convert(value, {"type": types, "format": "date-time"})

    assert found is value


@pytest.mark.parametrize(
    ("value", "schema", "result"),
    [
        (12.0, {"type": ["integer", "string"]}, 12),
        (12.5, {"type": ["integer", "string"]}, "12.5"),
        ("yes", {"type": ["integer", "boolean"]}, True),
        ("1", {"type": ["integer", "boolean"]}, 1),
        ("1", {"type": ["boolean", "integer"]}, True),
        (True, {"type": ["integer", "string"]}, "true"),
        ("12", {"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, 12),
        ("12", {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/integer"}]}, 12),
        ("12", {"anyOf": [{"type": "integer"}, {"const": "12"}]}, "12"),
        ("12", {"anyOf": [{"type": "integer"}, True]}, "12"),
        ("x", {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "integer"}]}, "x"),
    ],
)
def test_union_uses_first_lossless_type(value: Any, schema: Any, result: Any) -> None:
    found = convert(value, schema, **{"$defs": {"integer": {"type": "integer"}}})

    assert same(found, result)


def test_single_alternative_to_null_is_transformed() -> None:
    schema = {"anyOf": [{"type": "object", "properties": {"id": {"type": "integer"}}}, {"type": "null"}]}

    found = convert({"id": "1"}, schema)

    assert found == {"id": 1}


@pytest.mark.parametrize(
    ("value", "schema", "result"),
    [
        (1, {"type": "array", "items": {"type": ["string", "null"]}}, ["1"]),
        ("x", {"type": "array", "items": True}, ["x"]),
        ("x", {"type": "array", "items": {"type": "object"}}, "x"),
        ("x", {"type": "array", "items": [{"type": "string"}]}, "x"),
        ("x", {"type": "array", "items": {"type": "array"}}, "x"),
        ("x", {"type": "array", "items": False}, "x"),
        ({"a": 1}, {"type": "array"}, {"a": 1}),
    ],
)
def test_scalar_is_wrapped_if_items_are_scalars(value: Any, schema: Any, result: Any) -> None:
    assert convert(value, schema) == result


@pytest.mark.parametrize(
    ("value", "schema", "result"),
    [
        ({"a": {"b": "1"}}, {"properties": {"a": {"properties": {"b": {"type": "integer"}}}}}, {"a": {"b": 1}}),
        (["1", 2, None], {"items": {"type": "integer"}}, [1, 2, None]),
        ([["1"]], {"items": {"items": {"type": "integer"}}}, [[1]]),
        (["1", 2, "3"], {"items": [{"type": "integer"}, {"type": "string"}]}, [1, "2", "3"]),
        (["1", "2", "3"], {"items": [{}], "additionalItems": {"type": "integer"}}, ["1", 2, 3]),
        (["1", "2"], {"prefixItems": [{"type": "integer"}], "items": {"type": "boolean"}}, [1, "2"]),
        (["1"], {"prefixItems": [{"type": "string"}, {"type": "integer"}]}, ["1"]),
        (
            {"a": "1", "b": "2"},
            {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
            {"a": "1", "b": 2},
        ),
        (
            {"n_a": "1", "s_a": 2, "x": 0},
            {
                "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}},
                "additionalProperties": {"type": "boolean"},
            },
            {"n_a": 1, "s_a": "2", "x": False},
        ),
        ({"n": "1"}, {"properties": {"n": True}, "patternProperties": {"n": {"type": "integer"}}}, {"n": 1}),
        (
            {"n": "1", "x": "1"},
            {"patternProperties": {r"\p{L}": {}}, "additionalProperties": {"type": "integer"}},
            {"n": "1", "x": "1"},
        ),
        ({1: "1"}, {"additionalProperties": {"type": "integer"}}, {1: "1"}),
    ],
)
def test_nested_values_are_converted(value: Any, schema: Any, result: Any) -> None:
    found = convert(value, schema)

    assert same(found, result)


@pytest.mark.parametrize(
    "pointer", ["#/$defs/a~1b", "#/%24defs/a~1b", "#/$defs/a%7E1b", "#/$defs/via", "#/$defs/list/0", "#/$defs/m~0n"]
)
def test_local_ref_is_resolved(pointer: str) -> None:
    integer = {"type": "integer"}
    defs = {"a/b": integer, "via": {"$ref": "#/$defs/a~1b"}, "list": [integer], "m~n": integer}

    found = convert("1", {"$ref": pointer}, **{"$defs": defs})

    assert found == 1


@pytest.mark.parametrize(
    "pointer", ["#/$defs/none", "https://example.com/x.json", "#anchor", "#/$defs/list/7", "#/$defs/loop", 7]
)
def test_unresolvable_ref_keeps_value(pointer: Any) -> None:
    found = convert("1", {"$ref": pointer}, **{"$defs": {"list": [], "loop": {"$ref": "#/$defs/loop"}}})

    assert found == "1"


def test_recursive_schema_has_no_depth_limit() -> None:
    schema = {"properties": {"id": {"type": "integer"}, "children": {"items": {"$ref": "#"}}}}
    record: dict[str, Any] = {"id": "0"}
    for _ in range(20_000):
        record = {"id": "0", "children": [record]}

    TypeTransformer(DEFAULT).transform(record, schema)

    depth, node = 0, record
    while node.get("children"):
        assert node["id"] == 0
        depth, node = depth + 1, node["children"][0]
    assert (depth, node["id"]) == (20_000, 0)


def test_too_deep_value_is_not_converted_to_string() -> None:
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]

    found = convert(value, {"type": "string"})

    assert found is value


def test_all_parts_of_all_of_apply() -> None:
    schema = {
        "properties": {"a": {"type": "integer"}},
        "allOf": [{"properties": {"b": {"type": "integer"}}}, {"properties": {"a": {"type": ["string", "number"]}}}],
    }

    found = convert({"a": "1", "b": "2"}, schema)

    assert found == {"a": 1, "b": 2}


@pytest.mark.parametrize("types", [["string", "number"], ["number", "string"]])
def test_types_excluded_by_all_of_are_not_used(types: Any) -> None:
    found = convert("12", {"type": types, "allOf": [{"type": ["integer", "boolean"]}]})

    assert found == 12


def test_contradictory_types_keep_value() -> None:
    assert convert(12, {"allOf": [{"type": "string"}, {"type": "boolean"}]}) == 12


@pytest.mark.parametrize(
    "schema",
    [True, False, {}, {"type": "date"}, {"type": []}, {"type": 7}, {"nullable": True}, {"enum": [1]}, {"x-y": 1}, None],
)
def test_schema_without_types_keeps_value(schema: Any) -> None:
    value = {"a": ["1"]}

    found = convert(value, schema)

    assert found is value
    assert value == {"a": ["1"]}


def test_failed_conversion_is_logged_once_without_value(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"properties": {"a/b": {"items": {"properties": {"n": {"type": ["integer", "boolean"]}}}}}}
    transform_page = TypeTransformer(DEFAULT).compile(schema)
    assert transform_page is not None

    transform_page([{"a/b": [{"n": "hunter2"}, {"n": "hunter3"}]}, {"a/b": [{"n": "hunter4"}]}])

    assert logged(caplog) == [
        "/a~1b/*/n: a value of type string was kept: it cannot be converted to integer or boolean"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_undeclared_keys_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    convert({"ann@example.com": "x"}, {"additionalProperties": {"type": "integer"}})

    assert logged(caplog) == ["/field/*: a value of type string was kept: it cannot be converted to integer"]


def test_log_separates_fields_that_share_a_definition(caplog: pytest.LogCaptureFixture) -> None:
    address = {"$ref": "#/$defs/address"}
    schema = {
        "properties": {"to": address, "from": address},
        "$defs": {"address": {"properties": {"zip": {"type": "integer"}}}},
    }

    TypeTransformer(DEFAULT).transform({"to": {"zip": "x"}, "from": {"zip": "y"}}, schema)

    assert {message.partition(":")[0] for message in logged(caplog)} == {"/to/zip", "/from/zip"}


def test_none_and_valid_values_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    convert(None, {"type": "string"})
    convert("x", {"type": "string"})

    assert logged(caplog) == []


def test_no_transform_compiles_to_none() -> None:
    transformer = TypeTransformer(TransformConfig.NoTransform)
    record = {"a": "1"}
    schema = {"properties": {"a": {"type": "integer"}}}

    transformer.transform(record, schema)

    assert record == {"a": "1"}
    assert transformer.compile(schema) is None


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"properties": {"a": {}}, "additionalProperties": False}])
def test_schema_without_types_compiles_to_none(schema: Any) -> None:
    assert TypeTransformer(DEFAULT).compile(schema) is None


def test_absent_properties_stay_absent() -> None:
    record: dict[str, Any] = {}

    TypeTransformer(DEFAULT).transform(record, {"properties": {"a": {"type": "string"}}})

    assert record == {}


def test_no_transform_cannot_be_combined() -> None:
    with pytest.raises(ConfigError, match="NoTransform"):
        TypeTransformer(TransformConfig.NoTransform | DEFAULT)


def test_custom_transform_requires_its_flag() -> None:
    transformer = TypeTransformer(DEFAULT)

    with pytest.raises(ConfigError, match="CustomSchemaNormalization"):
        transformer.register_custom_transform(lambda value, schema: value)


def test_custom_flag_requires_registered_function() -> None:
    transformer = TypeTransformer(CUSTOM)

    with pytest.raises(ConfigError, match="no custom transform") as caught:
        transformer.compile({})

    assert "register_custom_transform" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="no custom transform"):
        transformer.transform({}, {})


def test_async_custom_transform_is_rejected() -> None:
    async def later(value: Any, field_schema: Any) -> Any:
        return value

    with pytest.raises(ConfigError, match="plain function"):
        TypeTransformer(CUSTOM).register_custom_transform(later)


def test_custom_transform_follows_conversion_parents_first() -> None:
    transformer = TypeTransformer(DEFAULT | CUSTOM)
    calls: list[tuple[Any, Any]] = []
    number = {"type": "integer"}
    tags = {"type": "array", "items": number}
    schema = {"properties": {"tags": tags, "none": number, "absent": number}}

    @transformer.registerCustomTransform
    def record_call(value: Any, field_schema: Any) -> Any:
        calls.append((list(value) if isinstance(value, list) else value, field_schema))
        return value

    transformer.transform({"tags": ["1", "2"], "none": None, "other": 1}, schema)

    assert calls == [(["1", "2"], tags), (None, number), (1, number), (2, number)]
    assert calls[0][1] is tags


def test_custom_result_is_stored_and_transformed() -> None:
    transformer = TypeTransformer(CUSTOM)

    @transformer.register_custom_transform
    def unpack(value: Any, field_schema: Any) -> Any:
        return {"b": "x"} if value == "packed" else value.upper() if field_schema.get("type") == "string" else value

    record = {"a": "packed"}
    transformer.transform(record, {"properties": {"a": {"properties": {"b": {"type": "string"}}}}})

    assert record == {"a": {"b": "X"}}


def test_custom_transform_gets_ref_merged_with_siblings() -> None:
    transformer = TypeTransformer(CUSTOM)
    seen: list[Any] = []
    schema = {
        "properties": {"a": {"$ref": "#/$defs/day", "title": "mine"}},
        "$defs": {"day": {"type": "string", "format": "date", "title": "theirs"}},
    }
    transformer.register_custom_transform(lambda value, field_schema: seen.append(dict(field_schema)))

    transformer.transform({"a": 1}, schema)

    assert seen == [{"type": "string", "format": "date", "title": "mine"}]


def test_custom_transform_skips_items_without_schema() -> None:
    transformer = TypeTransformer(CUSTOM)
    seen: list[Any] = []

    @transformer.register_custom_transform
    def record_call(value: Any, field_schema: Any) -> Any:
        seen.append(value)
        return value

    transformer.transform({"a": {"x": [1, 2]}, "b": 1}, {"properties": {"a": {"properties": {"x": {"items": [{}]}}}}})

    assert seen == [{"x": [1, 2]}, [1, 2], 1]


def test_custom_transform_error_propagates_with_note() -> None:
    transformer = TypeTransformer(CUSTOM)

    @transformer.register_custom_transform
    def fail(value: Any, field_schema: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        transformer.transform({"a": "secret"}, {"properties": {"a": {}}})

    assert caught.value.__notes__ == ["asyncstreams: in the custom transform, at /a"]


def test_last_registered_custom_transform_is_used() -> None:
    transformer = TypeTransformer(CUSTOM)
    schema = {"properties": {"a": {}}}
    record = {"a": 0}
    transformer.register_custom_transform(lambda value, field_schema: 1)
    transformer.transform(record, schema)

    transformer.register_custom_transform(lambda value, field_schema: 2)
    transformer.transform(record, schema)

    assert record == {"a": 2}


def test_equal_schema_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    transformer = TypeTransformer(DEFAULT)

    for _ in range(3):
        transformer.transform({"a": "x"}, {"properties": {"a": {"type": "integer"}}})

    assert len(logged(caplog)) == 1


def test_more_schemas_than_cache_size_work() -> None:
    transformer = TypeTransformer(DEFAULT)
    schemas = [{"properties": {f"a{n}": {"type": "integer"}}} for n in range(40)]
    records: list[dict[str, Any]] = [{f"a{n}": "1"} for n in range(40)]

    for record, schema in zip(records + records, schemas + schemas, strict=True):
        transformer.transform(record, schema)

    assert records == [{f"a{n}": 1} for n in range(40)]


def test_record_that_is_not_an_object_is_unchanged() -> None:
    records: Any = [None, 1, ["1"], {"a": "1"}]
    transform_page = TypeTransformer(DEFAULT).compile({"properties": {"a": {"type": "integer"}}})
    assert transform_page is not None

    transform_page(records)

    assert records == [None, 1, ["1"], {"a": 1}]
