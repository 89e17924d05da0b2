"""Agreement of schema validation with `jsonschema`, in every draft.

The cases follow the JSON Schema Test Suite, for values of one field and for complete records. `DISAGREEMENTS` lists the
cases in which `jsonschema` itself deviates from the specification.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import ConfigError
from asyncstreams.schemas.record_schema import RecordSchema

DRAFTS: dict[str, tuple[str, Any]] = {
    "4": ("http://json-schema.org/draft-04/schema#", jsonschema.Draft4Validator),
    "6": ("http://json-schema.org/draft-06/schema#", jsonschema.Draft6Validator),
    "7": ("http://json-schema.org/draft-07/schema#", jsonschema.Draft7Validator),
    "2019": ("https://json-schema.org/draft/2019-09/schema", jsonschema.Draft201909Validator),
    "2020": ("https://json-schema.org/draft/2020-12/schema", jsonschema.Draft202012Validator),
}
ALL, FROM_6, FROM_7, FROM_2019 = "4 6 7 2019 2020", "6 7 2019 2020", "7 2019 2020", "2019 2020"
UP_TO_7, UP_TO_2019 = "4 6 7", "4 6 7 2019"
BIG = 2**64
ASTRAL = "\U0001f600"

Values = list[tuple[str, Any, list[Any], list[Any]]]
"""Drafts, schema, valid values, invalid values."""

SCALARS: Values = [
    (ALL, {"type": "integer"}, [0, -1, BIG, -(10**40)], [1.5, "1", True, None, [], {}]),
    (FROM_6, {"type": "integer"}, [1.0, -0.0, 1e22], [1.1, 1e-9]),
    ("4", {"type": "integer"}, [], [1.0]),
    (ALL, {"type": "number"}, [0, 1.5, BIG, 1e308], ["1.5", False, None]),
    (ALL, {"type": "string"}, ["", "1", ASTRAL, "\x00"], [1, None, ["a"], {"a": "b"}]),
    (ALL, {"type": "boolean"}, [True, False], [0, 1, "", "true", None]),
    (ALL, {"type": "null"}, [None], [0, "", False, "null", []]),
    (ALL, {"type": "array"}, [[], [1]], [{}, "a", None]),
    (ALL, {"type": "object"}, [{}, {"a": 1}], [[], "a", None]),
    (ALL, {"type": ["integer", "null"]}, [1, None], ["1", 1.5, False]),
    (ALL, {}, [None, 1, "a", [], {}], []),
    (
        ALL,
        {"enum": [1, "a", None, [1, 2], {"a": 1}]},
        [1, 1.0, "a", None, [1, 2], {"a": 1}],
        [2, "b", True, [2, 1], {}],
    ),
    (ALL, {"enum": [0, False]}, [0, 0.0, False], [True, 1, None]),
    (ALL, {"enum": [False]}, [False], [0, 0.0]),
    (ALL, {"enum": [[1]]}, [[1], [1.0]], [[True]]),
    (ALL, {"enum": [BIG]}, [BIG], [BIG + 1, BIG - 1]),
    (FROM_6, {"const": 1}, [1, 1.0], [True, "1", 2]),
    (FROM_6, {"const": True}, [True], [1, 1.0, "true"]),
    (FROM_6, {"const": None}, [None], [0, False]),
    (FROM_6, {"const": {"a": [False]}}, [{"a": [False]}], [{"a": [0]}, {"a": [False], "b": 1}]),
    (FROM_6, {"const": -2.0}, [-2, -2.0], [2]),
    (FROM_6, {"const": 10**40}, [10**40], [10**40 + 1]),
    (FROM_6, {"const": "é"}, ["\u00e9"], ["e\u0301"]),
    (ALL, {"minimum": 1.1}, [1.1, 2, BIG, "0", None], [1, 0.6, -BIG]),
    (ALL, {"maximum": BIG}, [BIG, -1, 1.5], [BIG + 1, 1e300]),
    (ALL, {"minimum": -(10**30)}, [-(10**30)], [-(10**30) - 1]),
    ("4", {"maximum": 3, "exclusiveMaximum": True}, [2.9], [3, 3.0]),
    ("4", {"minimum": 3, "exclusiveMinimum": False}, [3], [2.9]),
    (FROM_6, {"exclusiveMaximum": 3.0}, [2.999], [3, 3.0, 3.5]),
    (FROM_6, {"exclusiveMinimum": 0}, [1e-300, 1, True], [0, -0.0]),
    (ALL, {"multipleOf": 2}, [10, 0, -4, 4.0, "7"], [7, 1.5]),
    (ALL, {"multipleOf": 1.5}, [0, 4.5], [35]),
    (ALL, {"multipleOf": 0.5}, [1e300, 1.5], [0.7]),
    (ALL, {"multipleOf": 7}, [7 * 10**30], [7 * 10**30 + 1]),
    (ALL, {"minLength": 2}, ["ab", ASTRAL * 2, 1], ["a", ASTRAL, ""]),
    (ALL, {"maxLength": 2}, ["ab", ASTRAL * 2, [1, 2, 3]], ["abc", ASTRAL * 3]),
    (ALL, {"pattern": "^a*$"}, ["", "aaa", 1, None], ["abc"]),
    (ALL, {"pattern": "b+"}, ["abc"], ["aac"]),
    (ALL, {"pattern": "^[^@]+@[^@]+$"}, ["a@b"], ["a@b@c", "ab"]),
    (ALL, {"pattern": "^(?!no).*$"}, ["yes"], ["no", "nothing"]),
    (ALL, {"pattern": "^.$"}, [ASTRAL], [ASTRAL * 2]),
    (ALL, {"format": "date-time"}, ["yesterday", ""], []),
    (ALL, {"format": "email"}, ["no at sign"], []),
    (ALL, {"format": "ipv4"}, ["300.1.1.1"], []),
    (ALL, {"format": "uri"}, ["//::"], []),
    (ALL, {"unknown": 1, "title": "x", "default": []}, [1, "a"], []),
]

ARRAYS: Values = [
    (UP_TO_2019, {"items": {"type": "integer"}}, [[1, 2], [], "a"], [[1, "x"]]),
    (UP_TO_2019, {"items": [{"type": "integer"}, {"type": "string"}]}, [[1, "a"], [1], [], [1, "a", None]], [["a", 1]]),
    (UP_TO_2019, {"items": [{}], "additionalItems": False}, [[1], []], [[1, 2]]),
    (UP_TO_2019, {"items": [{}], "additionalItems": {"type": "null"}}, [["a", None]], [["a", 1]]),
    (UP_TO_2019, {"additionalItems": False}, [[1, 2]], []),
    ("6 7 2019", {"items": [True, False]}, [[1], []], [[1, 2]]),
    (FROM_6, {"items": False}, [[], 1], [[1]]),
    ("2020", {"prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[1, "a"], [1], [1, "a", 2]], [["a"]]),
    ("2020", {"prefixItems": [{}], "items": {"type": "null"}}, [["a"], ["a", None]], [["a", 1]]),
    ("2020", {"items": {"type": "integer"}}, [[1, 2.0]], [[1, "x"]]),
    ("2020", {"prefixItems": [{}], "unevaluatedItems": False}, [["a"]], [["a", 1]]),
    ("2019", {"items": [{}], "unevaluatedItems": False}, [["a"]], [["a", 1]]),
    (FROM_6, {"contains": {"minimum": 5}}, [[1, 5], [6, 6], "a"], [[], [1, 2]]),
    (FROM_6, {"contains": False}, [1], [[], [1]]),
    (FROM_2019, {"contains": {"const": 1}, "minContains": 2, "maxContains": 3}, [[1, 1], [1, 1, 1, 0]], [[1], [1] * 4]),
    (FROM_2019, {"contains": {"const": 1}, "minContains": 0}, [[], [2]], []),
    (ALL, {"minItems": 1}, [[1], ""], [[]]),
    (ALL, {"maxItems": 1}, [[1], []], [[1, 2]]),
    (ALL, {"uniqueItems": True}, [[1, 2], [1, True], [0, False], [[1], [True]], [{"a": 1}, {"a": 2}], []], [[1, 1]]),
    (ALL, {"uniqueItems": True}, [["1", 1], [None, 0]], [[1.0, 1], [BIG, BIG], [[1], [1]], [None, None]]),
    (ALL, {"uniqueItems": True}, [], [[{"a": 1, "b": 2}, {"b": 2, "a": 1}]]),
    (ALL, {"uniqueItems": False}, [[1, 1]], []),
    (ALL, {"items": {"items": {"type": "integer"}}}, [[[1], []]], [[[1], ["a"]]]),
]

COMBINED: Values = [
    (ALL, {"allOf": [{"minimum": 1}, {"maximum": 3}]}, [1, 3, "a"], [0, 4]),
    (ALL, {"anyOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5, "a"], [1.5]),
    (ALL, {"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5], [3, 1.5]),
    (ALL, {"not": {"type": ["integer", "boolean"]}}, ["a", 1.5], [1, True]),
    (ALL, {"not": {"not": {}}}, [1], []),
    (ALL, {"not": {}}, [], [1, None]),
    (FROM_6, True, [1, None, {}], []),
    (FROM_6, False, [], [1, None, {}]),
    (FROM_6, {"anyOf": [True, False]}, [1], []),
    (FROM_6, {"oneOf": [True, True]}, [], [1]),
    (FROM_7, {"if": {"type": "integer"}, "then": {"minimum": 5}, "else": {"type": "string"}}, [5, "a"], [4, None, 1.5]),
    (FROM_7, {"if": {"const": 0}, "else": {"minimum": 9}}, [0, 9], [1]),
    (FROM_7, {"then": False, "else": False}, [1], []),
    ("4 6", {"if": True, "then": False}, [1], []),
]

OBJECTS: Values = [
    (ALL, {"properties": {"a": {"type": "integer"}}}, [{"a": 1}, {}, {"b": "x"}, []], [{"a": "x"}]),
    (ALL, {"patternProperties": {"^n": {"type": "integer"}}}, [{"n1": 1}, {"x": "n"}], [{"n1": 1, "n2": "x"}]),
    (ALL, {"patternProperties": {"a": {}, "b": {"maxLength": 1}}}, [{"ab": "x"}], [{"ab": "xy"}]),
    (ALL, {"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {}], [{"a": 1, "b": 2}]),
    (
        ALL,
        {"patternProperties": {"^a": {}}, "additionalProperties": {"type": "null"}},
        [{"ab": 1, "c": None}],
        [{"c": 1}],
    ),
    (ALL, {"required": ["a"]}, [{"a": None}, [], "a"], [{}, {"b": 1}]),
    (ALL, {"required": ["toString", "__proto__"]}, [{"toString": 1, "__proto__": 1}], [{}, {"toString": 1}]),
    (
        ALL,
        {"required": ["a/b", "a~b", 'q"'], "properties": {"a/b": {"type": "null"}}},
        [{"a/b": None, "a~b": 1, 'q"': 1}],
        [{}],
    ),
    (ALL, {"minProperties": 1}, [{"a": 1}, []], [{}]),
    (ALL, {"maxProperties": 1}, [{"a": 1}, {}], [{"a": 1, "b": 2}]),
    (UP_TO_7, {"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 1}, {"b": 1}, {}], [{"a": 1}]),
    (UP_TO_7, {"dependencies": {"a": {"required": ["b"]}}}, [{"a": 1, "b": 1}], [{"a": 1}]),
    (FROM_2019, {"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 1}, {}], [{"a": 1}]),
    (FROM_2019, {"dependentSchemas": {"a": {"maxProperties": 1}}}, [{"a": 1}, {"b": 1, "c": 1}], [{"a": 1, "b": 1}]),
    (UP_TO_7, {"dependentRequired": {"a": ["b"]}}, [{"a": 1}], []),
    (FROM_6, {"propertyNames": {"maxLength": 2}}, [{"ab": 1}, {}], [{"abc": 1}]),
    (FROM_6, {"propertyNames": False}, [{}], [{"a": 1}]),
    (FROM_2019, {"properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
    (FROM_2019, {"unevaluatedProperties": {"type": "null"}}, [{"a": None}], [{"a": 1}]),
]

TREE: dict[str, Any] = {
    "type": "object",
    "required": ["n"],
    "properties": {"n": {"type": "integer"}, "next": {"$ref": "#"}},
}
DEFINITION: dict[str, Any] = {
    "definitions": {"n": {"type": "number"}},
    "properties": {"a": {"$ref": "#/definitions/n"}},
}
UNEVALUATED: dict[str, Any] = {
    "allOf": [{"properties": {"a": {}}}, {"anyOf": [{"required": ["b"], "properties": {"b": {}}}, True]}],
    "unevaluatedProperties": False,
}
ESCAPED: dict[str, Any] = {
    "definitions": {"a/b~c%": {"type": "null"}},
    "properties": {"a": {"$ref": "#/definitions/a~1b~0c%25"}},
}
REF_WITH_SIBLING: dict[str, Any] = {"$defs": {"n": {}}, "properties": {"a": {"$ref": "#/$defs/n", "maximum": 1}}}
MUTUAL: dict[str, Any] = {
    "$defs": {
        "a": {"type": ["object", "null"], "properties": {"b": {"$ref": "#/$defs/b"}}, "additionalProperties": False},
        "b": {"type": "array", "items": {"$ref": "#/$defs/a"}},
    },
    "properties": {"a": {"$ref": "#/$defs/a"}},
}
ANCHOR: dict[str, Any] = {"$defs": {"x": {"$anchor": "n", "type": "null"}}, "properties": {"a": {"$ref": "#n"}}}
DYNAMIC: dict[str, Any] = {"$dynamicAnchor": "node", "properties": {"c": {"$dynamicRef": "#node"}}, "required": ["n"]}

RECORDS: Values = [
    (ALL, TREE, [{"n": 1}, {"n": 1, "next": {"n": 2, "next": {"n": 3}}}], [{}, {"n": 1, "next": {"n": 2, "next": {}}}]),
    (ALL, DEFINITION, [{"a": 1}, {}], [{"a": "1"}]),
    (ALL, ESCAPED, [{"a": None}], [{"a": 1}]),
    (UP_TO_7, REF_WITH_SIBLING, [{"a": 2}], []),
    (FROM_2019, REF_WITH_SIBLING, [{"a": 1}], [{"a": 2}]),
    (ALL, MUTUAL, [{"a": {"b": [None, {"b": []}]}}], [{"a": {"b": [{"b": [{"c": 1}]}]}}, {"a": {"b": 1}}]),
    (FROM_2019, UNEVALUATED, [{"a": 1}, {"a": 1, "b": 1}], [{"a": 1, "c": 1}]),
    (FROM_2019, ANCHOR, [{"a": None}], [{"a": 1}]),
    ("2020", DYNAMIC, [{"n": 1, "c": {"n": 1}}], [{"n": 1, "c": {}}]),
    (ALL, {"properties": {"$ref": {"type": "string"}}}, [{"$ref": "a"}], [{"$ref": 1}]),
    (ALL, {"properties": {"a": {"enum": [{"$ref": "#/nowhere"}]}}}, [{"a": {"$ref": "#/nowhere"}}], [{"a": 1}]),
    (ALL, {"additionalProperties": False}, [{}], [{"a": 1}]),
    (ALL, {"minProperties": 2}, [{"a": 1, "b": 1}], [{}]),
    (ALL, {"required": ["id"], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, [{"id": 1, "b": 1}], [{"id": 1}]),
    (FROM_7, {"if": {"required": ["a"]}, "then": {"required": ["b"]}}, [{"a": 1, "b": 1}, {}], [{"a": 1}]),
    (FROM_2019, {"type": "object", "unevaluatedProperties": False, "properties": {"a": {}}}, [{"a": 1}], [{"b": 1}]),
]

DISAGREEMENTS: Values = [
    # JSON Schema requires ECMA 262, whose classes are ASCII; jsonschema uses those of Python, which are Unicode.
    (ALL, {"pattern": "^\\d$"}, ["1"], ["\u07c0"]),
    (ALL, {"pattern": "^\\w$"}, ["e"], ["é"]),
    (ALL, {"pattern": "^\\W$"}, ["é"], ["e"]),
    # In Python, `$` also matches before a final line feed.
    (ALL, {"pattern": "^a$"}, ["a"], ["a\n"]),
    # Decimal fractions are compared exactly, not as the nearest doubles.
    (ALL, {"multipleOf": 0.01}, [19.99, 4.02], [19.995]),
    # Newer drafts dropped "dependencies"; jsonschema-rs still supports it, which they allow.
    (FROM_2019, {"dependencies": {"a": ["b"]}}, [{"a": 1, "b": 1}], [{"a": 1}]),
    # "additionalProperties" evaluates all other properties; jsonschema ignores that in 2019-09.
    ("2019", {"additionalProperties": {"type": "null"}, "unevaluatedProperties": False}, [{"a": None}], [{"a": 1}]),
]


def cases(table: Values) -> list[tuple[str, Any, Any, bool]]:
    return [
        (draft, schema, value, is_valid)
        for drafts, schema, valid, invalid in table
        for draft in drafts.split()
        for values, is_valid in ((valid, True), (invalid, False))
        for value in values
    ]


def of_field(draft: str, schema: Any) -> dict[str, Any]:
    return {"$schema": DRAFTS[draft][0], "type": "object", "properties": {"field": schema}}


def verdicts(schema: dict[str, Any], record: Any) -> set[bool]:
    """Our verdicts on the record alone and on pages of it, and whether it has no violations."""
    compiled = RecordSchema(schema)
    alone = compiled.is_valid(record)
    return {
        alone,
        compiled.all_valid([record]),
        compiled.all_valid([record] * 3),
        alone or not compiled.find_violations(record),
    }


@pytest.mark.parametrize(("draft", "schema", "value", "is_valid"), cases(SCALARS + ARRAYS + COMBINED + OBJECTS))
def test_field_verdict_matches_jsonschema(draft: str, schema: Any, value: Any, is_valid: bool) -> None:
    document, record = of_field(draft, schema), {"field": value}

    found = verdicts(document, record)

    assert (found, DRAFTS[draft][1](document).is_valid(record)) == ({is_valid}, is_valid)


@pytest.mark.parametrize(("draft", "schema", "record", "is_valid"), cases(RECORDS))
def test_record_verdict_matches_jsonschema(draft: str, schema: Any, record: Any, is_valid: bool) -> None:
    document = {"$schema": DRAFTS[draft][0], **schema}

    found = verdicts(document, record)

    assert (found, DRAFTS[draft][1](document).is_valid(record)) == ({is_valid}, is_valid)


@pytest.mark.parametrize(("draft", "schema", "value", "is_valid"), cases(DISAGREEMENTS))
def test_specification_wins_over_jsonschema(draft: str, schema: Any, value: Any, is_valid: bool) -> None:
    found = verdicts(of_field(draft, schema), {"field": value})

    assert found == {is_valid}


@pytest.mark.parametrize("draft", ["6", "7"])
@pytest.mark.parametrize("schema", [{"contentEncoding": "base64"}, {"contentMediaType": "application/json"}])
def test_content_keywords_are_not_checked(draft: str, schema: Any) -> None:
    document = of_field(draft, schema)
    assert DRAFTS[draft][1](document).is_valid({"field": "%%%"})

    assert verdicts(document, {"field": "%%%"}) == {True}


def test_known_disagreements_still_exist() -> None:
    differing = {
        index
        for index, row in enumerate(DISAGREEMENTS)
        for draft, schema, value, is_valid in cases([row])
        if DRAFTS[draft][1](of_field(draft, schema)).is_valid({"field": value}) != is_valid
    }

    assert differing == set(range(len(DISAGREEMENTS)))


@pytest.mark.parametrize("draft", [*DRAFTS, None])
def test_schema_without_draft_is_draft_7(draft: str | None) -> None:
    schema: dict[str, Any] = {"properties": {"a": {"if": {"const": 0}, "then": False}, "b": {"items": [False]}}}
    document = schema if draft is None else {"$schema": DRAFTS[draft][0], **schema}

    try:
        found = [RecordSchema(document).is_valid(record) for record in ({"a": 0}, {"b": [0]})]
    except ConfigError:  # Drafts 4 and 2020-12 reject this schema.
        found = []

    assert (found == [False, False]) == (draft in (None, "7", "2019"))


NAMES = st.sampled_from(["a", "b", "cd"])
SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.0, 1e3, BIG, "", "a", "ab", ASTRAL])
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
RECORD = st.dictionaries(NAMES, VALUE, max_size=3)
SMALL = st.integers(0, 3)
KINDS = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=2)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "type": KINDS | st.lists(KINDS, min_size=1, max_size=3, unique=True),
        "enum": st.lists(VALUE, min_size=1, max_size=3),
        "const": VALUE,
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 3),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": SMALL,
        "maxLength": SMALL,
        "pattern": st.sampled_from(["^a", "b$", "^.$", "a|b"]),
        "minItems": SMALL,
        "maxItems": SMALL,
        "uniqueItems": st.booleans(),
        "contains": inner,
        "items": inner,
        "properties": st.dictionaries(NAMES, inner, max_size=2),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "d$"]), inner, max_size=1),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "minProperties": SMALL,
        "maxProperties": SMALL,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }
    names = st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True)
    return names.flatmap(lambda selected: st.fixed_dictionaries({name: optional[name] for name in selected}))


PLAIN = st.recursive(st.booleans() | keywords(st.just({})), keywords, max_leaves=6)
SCHEMA = st.recursive(st.just({"$ref": "#/definitions/shared"}) | keywords(st.just({})), keywords, max_leaves=8)


@given(SCHEMA, PLAIN, RECORD, st.sampled_from(sorted(DRAFTS.keys() - {"4"})))
@examples(full=400, short=80)
def test_random_schemas_match_jsonschema(
    schema: dict[str, Any], plain: Any, record: dict[str, Any], draft: str
) -> None:
    shared = {"allOf": [plain], "properties": {"a": {"$ref": "#/definitions/shared"}}}
    document: dict[str, Any] = {"$schema": DRAFTS[draft][0], "definitions": {"shared": shared}, "allOf": [schema]}

    assert verdicts(document, record) == {DRAFTS[draft][1](document).is_valid(record)}
