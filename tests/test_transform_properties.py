"""Does the transform, for any data and schema, keep what fits, come to rest, raise nothing and lose nothing?"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, validators

from asyncstreams._json import decode
from asyncstreams.schemas.type_transformer import TransformConfig, TypeTransformer

often = settings(max_examples=120, deadline=None)
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
    some = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return st.fixed_dictionaries({"type": st.sampled_from(names) | some})


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
    whole = {"type": st.just("array")}
    # Without positions `additionalItems` says nothing, and the oracle stumbles over it.
    arrays = st.fixed_dictionaries({"items": inner}, optional=whole) | st.fixed_dictionaries(
        {"items": several}, optional={**whole, "additionalItems": inner}
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


def transformed(record: Any, schema: Any) -> Any:
    made = deepcopy(record)
    TypeTransformer(TransformConfig.DefaultSchemaNormalization).transform(made, schema)
    return made


def cast(value: Any, types: Any) -> Any:
    return transformed({"v": value}, {"properties": {"v": {"type": types}}})["v"]


@often
@given(ROOTS, RECORDS)
def test_property_a_record_that_fits_its_schema_is_unchanged(schema: Any, record: Any) -> None:
    try:
        fits = STRICT(schema).is_valid(record)
    except RecursionError:
        return

    made = transformed(record, schema)

    assert not fits or repr(made) == repr(record)


@often
@given(ROOTS, RECORDS)
def test_property_what_was_cast_into_fitting_stays(schema: Any, record: Any) -> None:
    once = transformed(record, schema)

    twice = transformed(once, schema)

    assert repr(twice) == repr(once)


@often
@given(ROOTS, st.dictionaries(KEYS | st.integers(), VALUES | ODD | st.lists(ODD), max_size=5) | VALUES)
def test_property_no_data_makes_it_raise(schema: Any, record: Any) -> None:
    keys = list(record) if isinstance(record, dict) else None

    made = transformed(record, schema)

    assert keys is None or list(made) == keys


@often
@given(VALUES, st.sampled_from(["string", "integer", "number", "boolean"]))
def test_property_a_cast_leads_to_the_type_or_keeps_the_value(value: Any, name: str) -> None:
    made = cast(value, name)

    assert repr(made) == repr(value) or STRICT({"type": name}).is_valid(made)


@often
@given(st.integers())
def test_property_integers_survive_as_text_and_back(value: int) -> None:
    assert cast(value, "string") == str(value)
    assert repr(cast(str(value), "integer")) == repr(value)
    assert repr(cast(f" {value} ", "number")) == repr(value)
    assert cast(f"{value}.0", "integer") == value


@often
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_property_floats_survive_as_text_and_back(value: float) -> None:
    text = cast(value, "string")

    assert isinstance(text, str)
    assert cast(text, "number") == value
    assert cast(value, "integer") == value


@often
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).filter(lambda v: type(v) is list))
def test_property_arrays_survive_as_text(value: Any) -> None:
    text = cast(value, "string")

    assert decode(text.encode()) == json.loads(text) == value


@often
@given(st.booleans())
def test_property_booleans_survive_as_text_and_back(value: bool) -> None:
    assert cast(cast(value, "string"), "boolean") is value


@often
@given(st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False))
def test_property_a_scalar_is_the_one_item_of_its_array(value: Any) -> None:
    assert cast(value, "array") == [value]
