"""Are values brought to the types of their schema, and left alone where that would lose something?"""

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


def cast(value: Any, schema: Any, **around: Any) -> Any:
    """What becomes of a value in a field with this schema; `around` goes to the root."""
    record = {"field": value}
    TypeTransformer(DEFAULT).transform(record, {"type": "object", "properties": {"field": schema}, **around})
    return record["field"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "asyncstreams"]


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


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
def test_a_value_is_cast_to_the_type_of_its_schema(value: Any, types: Any, result: Any) -> None:
    found = cast(value, {"type": types})

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
def test_what_cannot_be_cast_without_loss_is_kept(value: Any, types: Any) -> None:
    found = cast(value, {"type": types})

    assert found is value


@pytest.mark.parametrize("types", ["string", "integer", "number", "boolean", "array", "object", ["string", "integer"]])
def test_none_stays_none_whatever_the_type(types: Any) -> None:
    found = cast(None, {"type": types})

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
def test_a_value_that_fits_is_the_same_object_after(value: Any, types: Any) -> None:
    found = cast(value, {"type": types, "format": "date-time"})

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
        ("12", {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/whole"}]}, 12),
        ("12", {"anyOf": [{"type": "integer"}, {"const": "12"}]}, "12"),
        ("12", {"anyOf": [{"type": "integer"}, True]}, "12"),
        ("x", {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "integer"}]}, "x"),
    ],
)
def test_a_union_takes_the_first_type_into_which_nothing_is_lost(value: Any, schema: Any, result: Any) -> None:
    found = cast(value, schema, **{"$defs": {"whole": {"type": "integer"}}})

    assert same(found, result)


def test_the_one_alternative_to_null_is_entered() -> None:
    schema = {"anyOf": [{"type": "object", "properties": {"id": {"type": "integer"}}}, {"type": "null"}]}

    found = cast({"id": "1"}, schema)

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
def test_a_scalar_becomes_an_array_of_one_where_items_are_simple(value: Any, schema: Any, result: Any) -> None:
    assert cast(value, schema) == result


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
def test_the_inside_of_objects_and_arrays_is_cast_too(value: Any, schema: Any, result: Any) -> None:
    found = cast(value, schema)

    assert same(found, result)


@pytest.mark.parametrize(
    "pointer", ["#/$defs/a~1b", "#/%24defs/a~1b", "#/$defs/a%7E1b", "#/$defs/via", "#/$defs/list/0", "#/$defs/m~0n"]
)
def test_a_local_pointer_is_followed(pointer: str) -> None:
    whole = {"type": "integer"}
    defs = {"a/b": whole, "via": {"$ref": "#/$defs/a~1b"}, "list": [whole], "m~n": whole}

    found = cast("1", {"$ref": pointer}, **{"$defs": defs})

    assert found == 1


@pytest.mark.parametrize(
    "pointer", ["#/$defs/none", "https://example.com/x.json", "#anchor", "#/$defs/list/7", "#/$defs/loop", 7]
)
def test_a_pointer_that_leads_nowhere_changes_nothing(pointer: Any) -> None:
    found = cast("1", {"$ref": pointer}, **{"$defs": {"list": [], "loop": {"$ref": "#/$defs/loop"}}})

    assert found == "1"


def test_a_recursive_schema_goes_as_deep_as_the_data_without_the_stack() -> None:
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


def test_what_nests_too_deeply_for_a_text_is_kept() -> None:
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]

    found = cast(value, {"type": "string"})

    assert found is value


def test_every_part_of_all_of_counts() -> None:
    schema = {
        "properties": {"a": {"type": "integer"}},
        "allOf": [{"properties": {"b": {"type": "integer"}}}, {"properties": {"a": {"type": ["string", "number"]}}}],
    }

    found = cast({"a": "1", "b": "2"}, schema)

    assert found == {"a": 1, "b": 2}


@pytest.mark.parametrize("types", [["string", "number"], ["number", "string"]])
def test_types_that_all_of_excludes_are_no_targets(types: Any) -> None:
    found = cast("12", {"type": types, "allOf": [{"type": ["integer", "boolean"]}]})

    assert found == 12


def test_types_that_contradict_each_other_change_nothing() -> None:
    assert cast(12, {"allOf": [{"type": "string"}, {"type": "boolean"}]}) == 12


@pytest.mark.parametrize(
    "schema",
    [True, False, {}, {"type": "date"}, {"type": []}, {"type": 7}, {"nullable": True}, {"enum": [1]}, {"x-y": 1}, None],
)
def test_a_schema_that_names_no_type_changes_nothing(schema: Any) -> None:
    value = {"a": ["1"]}

    found = cast(value, schema)

    assert found is value
    assert value == {"a": ["1"]}


def test_a_failed_cast_is_told_once_with_pointer_and_types_but_not_the_value(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"properties": {"a/b": {"items": {"properties": {"n": {"type": ["integer", "boolean"]}}}}}}
    page = TypeTransformer(DEFAULT).compile(schema)
    assert page is not None

    page([{"a/b": [{"n": "hunter2"}, {"n": "hunter3"}]}, {"a/b": [{"n": "hunter4"}]}])

    assert told(caplog) == ["/a~1b/*/n: a value of type string is kept: it cannot become integer or boolean"]
    assert caplog.records[0].levelno == logging.WARNING


def test_keys_that_no_schema_names_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    cast({"ann@example.com": "x"}, {"additionalProperties": {"type": "integer"}})

    assert told(caplog) == ["/field/*: a value of type string is kept: it cannot become integer"]


def test_two_places_that_share_a_definition_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    place = {"$ref": "#/$defs/place"}
    schema = {
        "properties": {"to": place, "from": place},
        "$defs": {"place": {"properties": {"zip": {"type": "integer"}}}},
    }

    TypeTransformer(DEFAULT).transform({"to": {"zip": "x"}, "from": {"zip": "y"}}, schema)

    assert {message.partition(":")[0] for message in told(caplog)} == {"/to/zip", "/from/zip"}


def test_none_and_what_fits_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    cast(None, {"type": "string"})
    cast("x", {"type": "string"})

    assert told(caplog) == []


def test_no_transform_leaves_nothing_to_do() -> None:
    transformer = TypeTransformer(TransformConfig.NoTransform)
    record = {"a": "1"}
    schema = {"properties": {"a": {"type": "integer"}}}

    transformer.transform(record, schema)

    assert record == {"a": "1"}
    assert transformer.compile(schema) is None


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"properties": {"a": {}}, "additionalProperties": False}])
def test_a_schema_without_types_leaves_nothing_to_do(schema: Any) -> None:
    assert TypeTransformer(DEFAULT).compile(schema) is None


def test_absent_properties_stay_absent() -> None:
    record: dict[str, Any] = {}

    TypeTransformer(DEFAULT).transform(record, {"properties": {"a": {"type": "string"}}})

    assert record == {}


def test_no_transform_is_not_combined() -> None:
    with pytest.raises(ConfigError, match="NoTransform"):
        TypeTransformer(TransformConfig.NoTransform | DEFAULT)


def test_a_custom_function_needs_its_flag() -> None:
    transformer = TypeTransformer(DEFAULT)

    with pytest.raises(ConfigError, match="CustomSchemaNormalization"):
        transformer.register_custom_transform(lambda value, schema: value)


def test_a_custom_flag_without_a_function_is_an_error_when_it_is_needed() -> None:
    transformer = TypeTransformer(CUSTOM)

    with pytest.raises(ConfigError, match="no custom transform") as caught:
        transformer.compile({})

    assert "register_custom_transform" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="no custom transform"):
        transformer.transform({}, {})


def test_a_coroutine_function_is_no_custom_transform() -> None:
    async def later(value: Any, field_schema: Any) -> Any:
        return value

    with pytest.raises(ConfigError, match="plain function"):
        TypeTransformer(CUSTOM).register_custom_transform(later)


def test_the_custom_function_sees_each_property_and_item_after_the_cast_and_parents_first() -> None:
    transformer = TypeTransformer(DEFAULT | CUSTOM)
    calls: list[tuple[Any, Any]] = []
    number = {"type": "integer"}
    tags = {"type": "array", "items": number}
    schema = {"properties": {"tags": tags, "none": number, "absent": number}}

    @transformer.registerCustomTransform
    def see(value: Any, field_schema: Any) -> Any:
        calls.append((list(value) if isinstance(value, list) else value, field_schema))
        return value

    transformer.transform({"tags": ["1", "2"], "none": None, "other": 1}, schema)

    assert calls == [(["1", "2"], tags), (None, number), (1, number), (2, number)]
    assert calls[0][1] is tags


def test_what_the_custom_function_returns_is_stored_and_entered() -> None:
    transformer = TypeTransformer(CUSTOM)

    @transformer.register_custom_transform
    def unpack(value: Any, field_schema: Any) -> Any:
        return {"b": "x"} if value == "packed" else value.upper() if field_schema.get("type") == "string" else value

    record = {"a": "packed"}
    transformer.transform(record, {"properties": {"a": {"properties": {"b": {"type": "string"}}}}})

    assert record == {"a": {"b": "X"}}


def test_the_custom_function_sees_what_a_ref_says_and_what_stands_beside_it() -> None:
    transformer = TypeTransformer(CUSTOM)
    seen: list[Any] = []
    schema = {
        "properties": {"a": {"$ref": "#/$defs/day", "title": "mine"}},
        "$defs": {"day": {"type": "string", "format": "date", "title": "theirs"}},
    }
    transformer.register_custom_transform(lambda value, field_schema: seen.append(dict(field_schema)))

    transformer.transform({"a": 1}, schema)

    assert seen == [{"type": "string", "format": "date", "title": "mine"}]


def test_items_without_a_schema_are_not_shown_to_the_custom_function() -> None:
    transformer = TypeTransformer(CUSTOM)
    seen: list[Any] = []

    @transformer.register_custom_transform
    def see(value: Any, field_schema: Any) -> Any:
        seen.append(value)
        return value

    transformer.transform({"a": {"x": [1, 2]}, "b": 1}, {"properties": {"a": {"properties": {"x": {"items": [{}]}}}}})

    assert seen == [{"x": [1, 2]}, [1, 2], 1]


def test_what_the_custom_function_raises_leaves_with_the_place_noted() -> None:
    transformer = TypeTransformer(CUSTOM)

    @transformer.register_custom_transform
    def fail(value: Any, field_schema: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        transformer.transform({"a": "secret"}, {"properties": {"a": {}}})

    assert caught.value.__notes__ == ["raised by the custom transform, at /a"]


def test_the_function_registered_last_counts() -> None:
    transformer = TypeTransformer(CUSTOM)
    schema = {"properties": {"a": {}}}
    record = {"a": 0}
    transformer.register_custom_transform(lambda value, field_schema: 1)
    transformer.transform(record, schema)

    transformer.register_custom_transform(lambda value, field_schema: 2)
    transformer.transform(record, schema)

    assert record == {"a": 2}


def test_an_equal_schema_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    transformer = TypeTransformer(DEFAULT)

    for _ in range(3):
        transformer.transform({"a": "x"}, {"properties": {"a": {"type": "integer"}}})

    assert len(told(caplog)) == 1


def test_more_schemas_than_are_remembered_still_work() -> None:
    transformer = TypeTransformer(DEFAULT)
    schemas = [{"properties": {f"a{n}": {"type": "integer"}}} for n in range(40)]
    records: list[dict[str, Any]] = [{f"a{n}": "1"} for n in range(40)]

    for record, schema in zip(records + records, schemas + schemas, strict=True):
        transformer.transform(record, schema)

    assert records == [{f"a{n}": 1} for n in range(40)]


def test_a_record_that_is_no_object_is_left_alone() -> None:
    records: Any = [None, 1, ["1"], {"a": "1"}]
    page = TypeTransformer(DEFAULT).compile({"properties": {"a": {"type": "integer"}}})
    assert page is not None

    page(records)

    assert records == [None, 1, ["1"], {"a": 1}]
