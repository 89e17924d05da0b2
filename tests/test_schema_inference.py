"""Inference of schemas from records: what is inferred, what fits it, and how it differs from declared schemas."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.schemas import schema_inference
from asyncstreams.schemas.record_schema import RecordSchema
from asyncstreams.schemas.schema_inference import SchemaInference, find_differences

TIMES = st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+02:00", "2026-01-31", "2026-02-30", "", "x"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TIMES
NAMES = st.text("abcdefgh", min_size=1, max_size=2)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=12
)
RECORDS = st.lists(st.dictionaries(NAMES, VALUES, max_size=8), max_size=12)


def inferred(*records: dict[str, Any]) -> dict[str, Any]:
    inference = SchemaInference()
    inference.add(records)
    return inference.to_json()


def column(*values: Any) -> Any:
    return inferred(*({"c": value} for value in values))["properties"]["c"]


def check_all_fit(records: list[dict[str, Any]]) -> None:
    schema = inferred(*records)
    validator, with_formats = jsonschema.Draft7Validator(schema), RecordSchema(schema, checks_times=True)
    for record in records:
        validator.validate(record)
        assert with_formats.is_valid(record)


@examples(3_000, 20)
@given(RECORDS)
def test_every_record_fits_its_inferred_schema(records: list[dict[str, Any]]) -> None:
    check_all_fit(records)


@examples(3_000, 20)
@given(RECORDS, st.integers(0, 4), st.integers(0, 12), st.integers(1, 4))
def test_every_record_fits_beyond_the_limits(
    records: list[dict[str, Any]], depth: int, schemas: int, properties: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema_inference, "MAX_DEPTH", depth)
        patch.setattr(schema_inference, "MAX_SCHEMAS", schemas)
        patch.setattr(schema_inference, "MAX_PROPERTIES", properties)
        patch.setattr(schema_inference, "MAX_COLUMNS", properties + 1)
        check_all_fit(records)


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([2.0], {"type": "number"}),
        ([True, None], {"type": ["boolean", "null"]}),
        (["a", 1], {"type": ["integer", "string"]}),
        (["2026-01-31"], {"type": "string", "format": "date"}),
        (["2026-01-31T12:00:00Z", None], {"type": ["string", "null"], "format": "date-time"}),
        (["2026-01-31T12:00:00.25-08:00"], {"type": "string", "format": "date-time"}),
        (["2026-01-31", "2026-01-31T12:00:00Z"], {"type": "string"}),
        (["2026-01-31T12:00:00"], {"type": "string"}),
        (["2026-02-30"], {"type": "string"}),
        (["2026-01-31", ""], {"type": "string"}),
        ([[]], {"type": "array"}),
        ([[1], ["a"]], {"type": "array", "items": {"type": ["integer", "string"]}}),
        ([{"b": 1}, {"a": None}], {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}}}),
        ([{}], {"type": "object"}),
        ([object()], {}),
    ],
)
def test_schema_of_a_column(values: list[Any], schema: dict[str, Any]) -> None:
    assert column(*values) == schema


def test_properties_stand_in_order_of_appearance() -> None:
    schema = inferred({"z": 1, "b": 2}, {"a": 3, "b": 4})

    assert list(schema["properties"]) == ["z", "b", "a"]
    assert "required" not in schema


def test_object_with_many_keys_is_a_map() -> None:
    values = column(*({str(n): {"n": n} for n in range(k, k + 150)} for k in (0, 150)))

    assert values == {
        "type": "object",
        "additionalProperties": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }


def test_record_may_have_many_columns() -> None:
    schema = inferred({f"c{n}": n for n in range(1_000)})

    assert len(schema["properties"]) == 1_000


def test_deep_nesting_is_cut_and_said() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    inference = SchemaInference()
    inference.add([{"c": value}])

    assert not inference.is_complete
    assert len(str(inference.to_json())) < 1_000


DECLARED = {
    "properties": {
        "id": {"type": "integer"},
        "total": {"$ref": "#/$defs/shared~1money.json"},
        "at": {"type": ["string", "null"], "format": "date-time"},
        "plan": {"enum": ["free", "pro"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "any": {},
    },
    "$defs": {"shared/money.json": {"properties": {"amount": {"type": "number"}, "unit": {"type": "string"}}}},
}
FITTING = {
    "id": 1,
    "total": {"amount": 2, "unit": "EUR"},
    "at": "2026-01-31T12:00:00Z",
    "plan": "pro",
    "tags": ["a"],
    "any": 1,
}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, []),
        ({"at": None}, []),
        ({"id": "1"}, [("id", "integer", "string")]),
        ({"id": None}, [("id", "integer", "null")]),
        ({"at": "yesterday"}, [("at", "string date-time or null", "string")]),
        ({"plan": 3}, [("plan", "string", "integer")]),
        ({"tags": [1]}, [("tags[]", "string", "integer")]),
        ({"total": {"amount": "2", "unit": ""}}, [("total.amount", "number", "string")]),
        ({"total": {"amount": 2}}, [("total.unit", "string", "")]),
        ({"new": 1.5}, [("new", "", "number")]),
    ],
)
def test_difference_to_a_declared_schema(changes: dict[str, Any], difference: list[Any]) -> None:
    assert find_differences(DECLARED, inferred(FITTING | changes)) == difference


def test_recursive_schema_ends() -> None:
    node: dict[str, Any] = {"properties": {"child": {"$ref": "#"}, "$ref": {"$ref": "#"}}, "allOf": [{"$ref": "#"}]}

    assert find_differences(node, inferred({"child": {"child": {"child": 1}}})) != []
