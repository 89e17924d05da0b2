"""Strict and lossless JSON decoding and encoding."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import MalformedJSON, Response
from asyncstreams._json import decode, encode, encode_lines

default_settings = settings(max_examples=70, deadline=None)
digits = st.integers(1, 4000).flatmap(lambda n: st.integers(10 ** (n - 1), 10**n - 1))
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
BOM = b"\xef\xbb\xbf"


def strict_loads(body: bytes) -> Any:
    """Decode with the standard library, but reject NaN, overflow to infinity and lone surrogates."""

    def reject(constant: str) -> Any:
        raise ValueError(constant)

    def finite(text: str) -> float:
        number = float(text)
        return reject(text) if math.isinf(number) else number

    value = json.loads(body.decode("utf-8"), parse_constant=reject, parse_float=finite)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


@default_settings
@given(value=values, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_decode_matches_standard_library(value: Any, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()

    # repr distinguishes 1, 1.0 and True, and -0.0 and 0.0.
    assert repr(decode(body)) == repr(json.loads(body))


@default_settings
@given(value=values)
def test_standard_library_reads_encoded_value(value: Any) -> None:
    assert repr(json.loads(encode(value))) == repr(value)


@default_settings
@given(
    value=values, position=st.integers(0), octet=st.sampled_from(b'[]{},:"\\ 01-.eEnt\x00\xff\n'), insert=st.booleans()
)
def test_damaged_text_is_malformed_or_matches_standard_library(
    value: Any, position: int, octet: int, insert: bool
) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    position %= len(body)
    body = body[:position] + bytes([octet]) + body[position if insert else position + 1 :]
    try:
        expected = repr(strict_loads(body))
    except ValueError:
        with pytest.raises(MalformedJSON):
            decode(body)
        return

    assert repr(decode(body)) == expected


@default_settings
@given(value=values, data=st.data())
def test_truncated_object_is_malformed(value: Any, data: st.DataObject) -> None:
    body = json.dumps({"value": value}).encode()
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(MalformedJSON):
        decode(body[:cut])


@settings(max_examples=30, deadline=None)
@given(number=digits, negative=st.booleans())
def test_integers_of_any_size_are_exact(number: int, negative: bool) -> None:
    number = -number if negative else number

    found = decode(f'{{"id":{number}}}'.encode())["id"]

    assert type(found) is int
    assert found == number
    assert encode([number]) == f"[{number}]".encode()


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63) - 1, -(2**64)])
def test_integers_around_64_bits_are_exact(number: int) -> None:
    assert decode(str(number).encode()) == number
    assert encode(number) == str(number).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"[NaN]",
        b"Infinity",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b'{"a":1E999}',
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\\ud800\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc3"',
        b"",
        b"  ",
        b"1 2",
        b"{}{}",
        b"[] x",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b'"\x01"',
        b'"a\nb"',
        b'"\\x"',
        b"// c\n1",
        b"nul",
        b"True",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"9" * 5000,
        "[1]".encode("utf-16"),
        b"\x00",
        BOM,
        b"1" + BOM,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_non_strict_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJSON):
        decode(body)


def test_byte_order_mark_is_skipped() -> None:
    assert decode(BOM + b'{"a":1}') == {"a": 1}


def test_second_byte_order_mark_is_malformed() -> None:
    with pytest.raises(MalformedJSON):
        decode(BOM + BOM + b"1")


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b'{"a":x}', 5),
        (b"NaN", 0),
        (b"[1,2] 3", 6),
        ('{"é":x}'.encode(), 6),
        ('["\U0001f600€",x]'.encode(), 11),
        (b"[1,2", 4),
        (b"", 0),
        pytest.param(BOM + b'{"a":x}', 8),
        pytest.param(b'["\xff"]', 2),
    ],
)
def test_error_has_byte_offset(body: bytes, offset: int) -> None:
    with pytest.raises(MalformedJSON, match=f"at byte {offset} of {len(body)}") as caught:
        decode(body)

    assert caught.value.offset == offset


def test_last_of_equal_keys_wins() -> None:
    assert decode(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize("value", [object(), 1j, [object()], {"a": print}, {None: 1}, {(1, 2): 3}])
def test_values_without_json_form_raise_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_not_encoded(value: float) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode({"price": value})


@dataclass
class Point:
    x: float


@pytest.mark.parametrize("invalid", [math.nan, [math.inf], {"deep": (1, -math.inf)}, Point(math.nan)])
@pytest.mark.parametrize("other_fields", [{}, {"none": None}, {"text": "null"}, {"deep": [None]}])
def test_nan_and_infinity_are_not_encoded_in_lines(invalid: Any, other_fields: dict[str, Any]) -> None:
    good = {"number": 1.5, "none": None, "text": "null", "deep": [None, {"point": Point(1.0)}]}

    assert encode_lines([good, other_fields]).splitlines()[0] == encode(good)
    with pytest.raises(TypeError, match="no number for"):
        encode_lines([good, {"invalid": invalid, **other_fields}, good])


def make_response(body: bytes) -> Response:
    response = Response(
        200, headers=[], stream=httpx.ByteStream(b""), request=httpx.Request("GET", "https://api.example.com/")
    )
    response.set_body(body)
    return response


def test_response_json_is_decoded_once() -> None:
    response = make_response(b'[{"id":18446744073709551617}]')

    assert response.json() == [{"id": 2**64 + 1}]
    assert response.json() is response.json()


def test_response_json_error_has_byte_offset() -> None:
    with pytest.raises(MalformedJSON, match="at byte 7 of 8"):
        make_response(b'{"a": 1x').json()


def test_response_json_with_arguments_uses_standard_library() -> None:
    assert make_response(b"[1.5]").json(parse_float=str) == ["1.5"]
