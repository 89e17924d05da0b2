"""Properties of the type transformer: valid data is unchanged, results are stable, and nothing is lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, validators
from simulation import examples

from asyncstreams._json import decode
from asyncstreams.schemas.type_transformer import TransformConfig, TypeTransformer

default_settings = examples(full=120, short=24)
SIMPLE = ["string", "integer", "number", "boolean", "null"]
KEYS = st.sampled_from(["a", "b", "c", "n_1", "a/b"])
TEXTS = st.sampled_from(["", "1", "-7.0", "1.5", "1e2", "yes", "0", "nan", " 12 ", "x"]) | st.text(max_size=4)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))
RECORDS = st.dictionaries(KEYS, VALUES, max_size=5)
ODD = st.just(object()) | st.binary() | st.sets(st.integers()) | st.dates() | st.tuples(TEXTS) | st.decimals()
STRICT = validators.extend(
    Draft7Validator,
    type_checker=Draft7Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def _typed(names: list[str]) -> st.SearchStrategy[Any]:
    several = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return st.fixed_dictionaries({"type": st.sampled_from(names) | several})


def _around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(KEYS, inner, max_size=4)
    objects = st.fixed_dictionaries(
        {"properties": named},
        optional={
            "type": st.just("object") | st.just(["object", "string"]),
            "additionalProperties": inner,
            "patternProperties": st.fixed_dictionaries({"^n_": inner}),
            "allOf": st.lists(st.fixed_dictionaries({"properties": named}), min_size=1, max_size=2),
        },
    )
    array_type = {"type": st.just("array")}
    # Without positional items `additionalItems` has no effect, and the oracle mishandles it.
    arrays = st.fixed_dictionaries({"items": inner}, optional=array_type) | st.fixed_dictionaries(
        {"items": several}, optional={**array_type, "additionalItems": inner}
    )
    choices = st.sampled_from(["anyOf", "oneOf", "allOf"]).flatmap(lambda word: st.fixed_dictionaries({word: several}))
    return objects | arrays | choices


SCHEMAS = st.recursive(
    st.booleans()
    | _typed(SIMPLE)
    | _typed([*SIMPLE, "array", "object"])
    | st.sampled_from([{"$ref": "#"}, {"$ref": "#/definitions/d"}, {}]),
    _around,
    max_leaves=8,
)
ROOTS = st.builds(
    lambda properties, definition, more: {"properties": properties, "definitions": {"d": definition}, **more},
    st.dictionaries(KEYS, SCHEMAS, min_size=1, max_size=5),
    _typed(SIMPLE) | _around(_typed(SIMPLE) | st.just({"$ref": "#/definitions/d"})),
    st.fixed_dictionaries({}, optional={"additionalProperties": SCHEMAS}),
)


def transform(record: Any, schema: Any) -> Any:
    result = deepcopy(record)
    TypeTransformer(TransformConfig.DefaultSchemaNormalization).transform(result, schema)
    return result


def convert(value: Any, types: Any) -> Any:
    return transform({"v": value}, {"properties": {"v": {"type": types}}})["v"]


@default_settings
@given(ROOTS, RECORDS)
def test_property_valid_record_is_unchanged(schema: Any, record: Any) -> None:
    try:
        is_valid = STRICT(schema).is_valid(record)
    except RecursionError:
        return

    result = transform(record, schema)

    assert not is_valid or repr(result) == repr(record)


@default_settings
@given(ROOTS, RECORDS)
def test_property_transform_is_idempotent(schema: Any, record: Any) -> None:
    once = transform(record, schema)

    twice = transform(once, schema)

    assert repr(twice) == repr(once)


@default_settings
@given(ROOTS, st.dictionaries(KEYS | st.integers(), VALUES | ODD | st.lists(ODD), max_size=5) | VALUES)
def test_property_no_data_raises(schema: Any, record: Any) -> None:
    keys = list(record) if isinstance(record, dict) else None

    result = transform(record, schema)

    assert keys is None or list(result) == keys


@default_settings
@given(VALUES, st.sampled_from(["string", "integer", "number", "boolean"]))
def test_property_value_is_converted_or_kept(value: Any, name: str) -> None:
    result = convert(value, name)

    assert repr(result) == repr(value) or STRICT({"type": name}).is_valid(result)


@default_settings
@given(st.integers())
def test_property_integers_round_trip_as_text(value: int) -> None:
    assert convert(value, "string") == str(value)
    assert repr(convert(str(value), "integer")) == repr(value)
    assert repr(convert(f" {value} ", "number")) == repr(value)
    assert convert(f"{value}.0", "integer") == value


@default_settings
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_property_floats_round_trip_as_text(value: float) -> None:
    text = convert(value, "string")

    assert isinstance(text, str)
    assert convert(text, "number") == value
    assert convert(value, "integer") == value


@default_settings
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).filter(lambda v: type(v) is list))
def test_property_arrays_become_equal_json_text(value: Any) -> None:
    text = convert(value, "string")

    assert decode(text.encode()) == json.loads(text) == value


@default_settings
@given(st.booleans())
def test_property_booleans_round_trip_as_text(value: bool) -> None:
    assert convert(convert(value, "string"), "boolean") is value


@default_settings
@given(st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False))
def test_property_scalar_becomes_array_of_one_item(value: Any) -> None:
    assert convert(value, "array") == [value]
