"""Structured field values (RFC 9651)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.rate_limits.structured_fields import Item, parse_dictionary, parse_list

often = examples(full=300, short=60)

LOWER, UPPER, DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))

Serialized = tuple[str, object]  # the text of an item and its value


def serialize_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def serialize_display(text: str) -> str:
    octets = (chr(o) if 0x20 <= o < 0x7F and o not in b'%"' else f"%{o:02x}" for o in text.encode())
    return '%"' + "".join(octets) + '"'


def serialize_bytes(octets: bytes) -> str:
    return f":{base64.b64encode(octets).decode()}:"


def parse_item(text: str) -> object:
    """The value of a list with a single item; None if it is malformed."""
    items = parse_list(text)
    assert items is None or len(items) == 1
    return items and items[0].value


def plain(items: list[Item] | None) -> list[tuple[object, dict[str, object]]] | None:
    return None if items is None else [(item.value, dict(item.parameters)) for item in items]


def typed(value: object) -> tuple[type, object]:
    return type(value), value


keys = st.builds(str.__add__, st.sampled_from(LOWER + "*"), st.text(alphabet=LOWER + DIGITS + "_-.*", max_size=12))
integers = st.integers(-(10**15 - 1), 10**15 - 1)
decimals = st.decimals(-(10**12) + 1, 10**12 - 1, places=3)
strings = st.text(alphabet=PRINTABLE, max_size=20)
tokens = st.builds(
    str.__add__,
    st.sampled_from(LOWER + UPPER + "*"),
    st.text(alphabet=LOWER + UPPER + DIGITS + "!#$%&'*+-.^_`|~:/", max_size=12),
)
items_with_text: st.SearchStrategy[Serialized] = st.one_of(
    integers.map(lambda value: (str(value), value)),
    decimals.map(lambda value: (f"{value:.3f}", float(value))),
    strings.map(lambda value: (serialize_string(value), value)),
    tokens.map(lambda value: (value, value)),
    st.booleans().map(lambda value: (f"?{value:d}", value)),
    st.binary(max_size=20).map(lambda value: (serialize_bytes(value), value)),
    integers.map(lambda value: (f"@{value}", value)),
    st.text(st.characters(codec="utf-8"), max_size=12).map(lambda value: (serialize_display(value), value)),
)
parameters = st.dictionaries(keys, items_with_text | st.just(("", True)), max_size=3)
members = st.tuples(items_with_text, parameters)
commas = st.sampled_from([",", ", ", " ,", "\t,\t", " \t, \t "])
edges = st.sampled_from(["", " ", "   "])


def serialize_parameters(of: Mapping[str, Serialized], space: str) -> str:
    return "".join(f";{space}{key}={text}" if text else f";{space}{key}" for key, (text, _) in of.items())


def types_of(parameters: Mapping[str, object]) -> dict[str, tuple[type, object]]:
    return {key: typed(value) for key, value in parameters.items()}


def values(parameters: Mapping[str, Serialized]) -> dict[str, tuple[type, object]]:
    return types_of({key: value for key, (_, value) in parameters.items()})


@often
@given(content=st.lists(members, max_size=6), comma=commas, edge=edges)
def test_list_round_trip(content: list[tuple[Serialized, dict[str, Serialized]]], comma: str, edge: str) -> None:
    text = edge + comma.join(text + serialize_parameters(of, edge) for (text, _), of in content) + edge

    items = parse_list(text)

    assert items is not None
    found = [(typed(item.value), types_of(item.parameters)) for item in items]
    assert found == [(typed(value), values(of)) for (_, value), of in content]


@often
@given(content=st.dictionaries(keys, members | parameters, max_size=6), comma=commas, edge=edges)
def test_dictionary_round_trip(
    content: dict[str, tuple[Serialized, dict[str, Serialized]] | dict[str, Serialized]], comma: str, edge: str
) -> None:
    texts, expected = [], {}
    for key, member in content.items():
        (text, value), of = (("", True), member) if isinstance(member, dict) else member
        texts.append(f"{key}={text}" if text else key)
        texts[-1] += serialize_parameters(of, edge)
        expected[key] = (typed(value), values(of))

    items = parse_dictionary(edge + comma.join(texts) + edge)

    assert items is not None
    assert list(items) == list(content)
    assert {key: (typed(item.value), types_of(item.parameters)) for key, item in items.items()} == expected


FRAGMENTS = ["a", "Z", "*", "=", ";", ",", " ", "\t", "?1", "?", "@", ":", ":YQ==:", '"', "\\", '%"', "%c3%bc", "%"]
FRAGMENTS += ["1", "-", ".", "1.5", "9" * 15, "9" * 16, "(", ")", "\x00", "\x7f", "é", "\u0663", "\ud800", "\n"]
garbage = st.text(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join)


@often
@given(text=garbage)
def test_garbage_does_not_raise(text: str) -> None:
    items, entries = parse_list(text), parse_dictionary(text)

    found = [*(items or []), *(entries or {}).values()]
    bare_items = [value for item in found for value in (item.value, *item.parameters.values())]
    assert all(type(value) in (str, int, float, bool, bytes) for value in bare_items)
    assert all(math.isfinite(value) for value in bare_items if isinstance(value, (int, float)))


@pytest.mark.parametrize(
    "text",
    ["(" * 100_000, '"' * 99_999, "a," * 50_000, "a;" * 50_000, "a;b" + ";b" * 50_000 + "(", " " * 100_000 + "x x"]
    + ['"' + "\\" * 99_999, "1" * 100_000, "-" * 100_000, ":" + "A" * 99_999, '%"' + "%c3" * 30_000, "@" * 100_000],
    ids=lambda text: text[:5],
)
def test_long_garbage_is_rejected(text: str) -> None:
    assert parse_list(text) is None
    assert parse_dictionary(text) is None


@often
@given(text=st.text(alphabet=st.characters(min_codepoint=0x80), min_size=1, max_size=5), start=st.integers(0, 6))
def test_non_ascii_is_rejected(text: str, start: int) -> None:
    before, after = 'a="bc"'[:start], 'a="bc"'[start:]

    assert parse_dictionary(before + text + after) is None
    assert parse_list('"' + text + '"') is None


@pytest.mark.parametrize("text", ["", " ", "    "])
def test_empty_field_has_no_members(text: str) -> None:
    assert parse_list(text) == []
    assert parse_dictionary(text) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-0", 0),
        ("00042", 42),
        ("-042", -42),
        ("999999999999999", 999_999_999_999_999),
        ("-999999999999999", -999_999_999_999_999),
        ("4.5", 4.5),
        ("-0.0", 0.0),
        ("0.123", 0.123),
        ("000000000004.500", 4.5),
        ("123456789012.125", 123_456_789_012.125),
        ('"hello world"', "hello world"),
        ('""', ""),
        (r'"a\"b\\c"', r'a"b\c'),
        ('"a, b;c=d (e)"', "a, b;c=d (e)"),
        ("foo123/456", "foo123/456"),
        ("*foo:bar", "*foo:bar"),
        ("a_b-c.d!#$%&'*+^`|~", "a_b-c.d!#$%&'*+^`|~"),
        ("?1", True),
        ("?0", False),
        (":cHJldGVuZCB0aGlzIGlzIGJpbmFyeSBjb250ZW50Lg==:", b"pretend this is binary content."),
        ("::", b""),
        (":+/+/:", b"\xfb\xff\xbf"),
        ("@1659578233", 1_659_578_233),
        ("@0", 0),
        ("@-62135596800", -62_135_596_800),
        ('%"This is intended for display to %c3%bcsers."', "This is intended for display to üsers."),
        ('%""', ""),
        ('%"%22%25 \\"', '"% \\'),
    ],
)
def test_bare_items_have_their_types(text: str, value: object) -> None:
    assert typed(parse_item(text)) == typed(value)
    assert plain(parse_list(f"a;b={text}")) == [("a", {"b": value})]


@pytest.mark.parametrize("text", [":aGVsbG8:", ":iZ==:", ":iZ:"])
def test_bytes_with_wrong_padding_are_accepted(text: str) -> None:
    # RFC 9651, 4.2.7: parsers should not fail on either.
    assert parse_item(text) in (b"hello", b"\x89")


@pytest.mark.parametrize(
    "text",
    ["-", "--1", "+1", "- 1", "1000000000000000", "-1000000000000000", "0000000000000001", "1e3", "0x10", "1_000"]
    + ["1.", ".5", "-.5", "1.2345", "1.5.5", "1.-5", "1234567890123.1", "1..5", "NaN;", "1 2", "1a", "1,", "1;", "1=1"]
    + ['"a', 'a"', '"a"b', '"a" "b"', r'"\a"', '"\\', '"a\\"', '"\t"', '"\x00"', '"\x1f"', '"\x7f"', '"é"', "'a'"]
    + ["a b", "a(", "a@", "a[b]", "a{", "a\\b", 'a"b"', "a\x00", "a\x7f", "!a", "#a", "-a", "_a", ".a", "/a", ":a"]
    + ["?", "?2", "?T", "?true", "?10", "?01", "? 1", "??1"]
    + [":a=GVsbG8=:", ":=aGVsbG8=:", ":aGVsbG8=", "aGVsbG8=:", ":aGVsb G8=:", ":aGVsbG8=!:", ":_-Ah:", ":é:", ":"]
    + ["@", "@a", "@1.5", "@ 1", "@-", "@@1", "@1659578233.12", "@1000000000000000", '@"1"']
    + ['%"', "%a", '%"a', '% "a"', '%"%"', '%"%a"', '%"%zz"', '%"%C3%BC"', '%"%c3"', '%"%ff"', '%"\t"', '%"é"', "%a%"]
    + ["()", "(1 2)", "(", ")", "1, (2)", "(1);a", "\n1", "1\n", "\r\n1", "\xa01"],
)
def test_malformed_items_and_inner_lists_are_rejected(text: str) -> None:
    assert parse_list(text) is None
    assert parse_list(f"a, {text}") is None
    assert parse_dictionary(f"a=1, b={text}") is None
    assert parse_list(f"a;b={text}") is None


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "a,",
        ",a",
        "a,,b",
        "a, ,b",
        "a b",
        "a,b,",
        "a;;b",
        "a;",
        "a; ,b",
        "a;\tb",
        "a ;b",
        "a;b =1",
        "a;b= 1",
        "a;B",
    ],
)
def test_malformed_lists_are_rejected(text: str) -> None:
    assert parse_list(text) is None


def test_tab_before_the_first_member_is_rejected() -> None:
    # RFC 9651, 4.2: only spaces are discarded there; around commas tabs are too.
    assert plain(parse_list("1,\t2\t")) == [(1, {}), (2, {})]
    assert parse_list("\t1") is None


@pytest.mark.parametrize(
    "text",
    ["a=1,", ",a=1", "a=1,,b=2", "a=1 b=2", "a =1", "a= 1", "a=", "a=,b", "a==1", "=1", "A=1", "1=1", "a=1;B=2"]
    + ["-a=1", "_a=1", ".a=1", '"a"=1', "é=1", "a\x00=1", "aB=1", "a=1;b=", "a=1;", "a=1 ;b", "a=(1 2)", "a/b=1"],
)
def test_malformed_dictionaries_are_rejected(text: str) -> None:
    assert parse_dictionary(text) is None


@pytest.mark.parametrize("text", ["a,b", "a , b", "a\t,\tb", "  a,b  ", "a \t ,\t b"])
def test_space_around_commas_is_ignored(text: str) -> None:
    assert plain(parse_list(text)) == [("a", {}), ("b", {})]
    assert list(parse_dictionary(text) or {}) == ["a", "b"]


def test_parameters_with_and_without_values() -> None:
    expected = [("a", {"b": 1, "c": True, "d*_-.": "x;y"}), ("e", {"f": False})]

    assert plain(parse_list('a;b=1;c;  d*_-.="x;y", e; f=?0')) == expected


def test_last_of_equal_keys_counts() -> None:
    entries = parse_dictionary("a=1;x, b=2, a=3;y")

    assert entries is not None
    assert {key: (item.value, dict(item.parameters)) for key, item in entries.items()} == {
        "a": (3, {"y": True}),
        "b": (2, {}),
    }
    assert plain(parse_list("a;b=1;c=2;b=3")) == [("a", {"b": 3, "c": 2})]


def test_key_without_value_is_true_and_keeps_parameters() -> None:
    entries = parse_dictionary("a, b;c=1, d=?0")

    assert entries is not None
    assert [(key, item.value, dict(item.parameters)) for key, item in entries.items()] == [
        ("a", True, {}),
        ("b", True, {"c": 1}),
        ("d", False, {}),
    ]


def test_examples_of_the_drafts() -> None:
    state = parse_list('"burst";r=0;t=7, "daily";r=900;t=3000;pk=:cHsdsRa894==:')
    old = parse_dictionary("limit=100, remaining=50, reset=5")

    assert plain(state) == [
        ("burst", {"r": 0, "t": 7}),
        ("daily", {"r": 900, "t": 3000, "pk": base64.b64decode("cHsdsRa894==")}),
    ]
    assert old is not None
    assert {key: item.value for key, item in old.items()} == {"limit": 100, "remaining": 50, "reset": 5}
