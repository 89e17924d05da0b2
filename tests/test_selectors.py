"""Selectors: paths, headers and functions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import ConfigError, Cursor, Header, MalformedJSON, NextUrl, Response
from asyncstreams.pagination.selectors import check_selector, select_path, select_value

often = settings(max_examples=100, deadline=None)
keys = st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cs"]), min_size=1, max_size=6)
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


def make_response(body: Any = None, headers: dict[str, str] | None = None, content: bytes | None = None) -> Response:
    response = Response(
        200,
        headers=[(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        stream=httpx.ByteStream(b""),
        request=httpx.Request("GET", "https://api.example.com/"),
    )
    response.set_body(json.dumps(body).encode() if content is None else content)
    return response


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("meta.next", "abc"),
        ("data[0].id", 1),
        ("data[-1].id", 2),
        ("data[1].tags[0]", "x"),
        ("data", [{"id": 1}, {"id": 2, "tags": ["x"]}]),
        ("@odata.nextLink", "u"),
        ("zero", 0),
        ("no", False),
        ("meta.nothing", None),
        ("meta.next.deeper", None),
        ("data[2].id", None),
        ("data[-3].id", None),
        ("data.id", None),
        ("meta[0]", None),
        ("null.x", None),
        ("absent", None),
    ],
)
def test_path_selects_value_or_none(path: str, found: Any) -> None:
    body = {
        "meta": {"next": "abc"},
        "data": [{"id": 1}, {"id": 2, "tags": ["x"]}],
        "@odata.nextLink": "u",
        "@odata": {"nextLink": "wrong"},
        "zero": 0,
        "no": False,
        "null": None,
    }

    assert select_value(path, make_response(body)) == found


def test_path_selects_from_array_body() -> None:
    assert select_value("[-1].id", make_response([{"id": 1}, {"id": 2}])) == 2


@often
@given(value=values, data=st.data())
def test_path_to_any_value_selects_it(value: Any, data: st.DataObject) -> None:
    path, at = "", value
    while isinstance(at, dict | list) and at:
        if isinstance(at, dict):
            key = data.draw(st.sampled_from(sorted(at)))
            path, at = f"{path}.{key}" if path else key, at[key]
        else:
            index = data.draw(st.integers(-len(at), len(at) - 1))
            path, at = f"{path}[{index}]", at[index]
        if data.draw(st.booleans()):
            break

    if path:
        check_selector("Cursor", "token", path)
        assert select_path(path, value) == at


@often
@given(value=values, path=st.text(alphabet="ab.[]-01", max_size=8))
def test_select_path_never_raises(value: Any, path: str) -> None:
    select_path(path, value)


def test_header_is_case_insensitive() -> None:
    response = make_response([], {"Next-Page": "7"})

    assert select_value(Header("next-page"), response) == "7"
    assert select_value(Header("Other"), response) is None


def test_function_receives_response() -> None:
    response = make_response({"a": 1})

    assert select_value(lambda received: (received is response, received.json()["a"]), response) == (True, 1)


def test_path_into_non_json_body_raises_malformed_json() -> None:
    with pytest.raises(MalformedJSON):
        select_value("meta.next", make_response(content=b"<html>"))


@pytest.mark.parametrize("selector", ["next", "meta.next", "data[-1].id", "[0]", "a[0][1].b", "@odata.nextLink", "a b"])
def test_valid_path_is_accepted(selector: str) -> None:
    assert NextUrl(selector).url == selector


@pytest.mark.parametrize(
    "selector",
    [
        "",
        ".",
        "..",
        "a]",
        "a[]",
        "a[x]",
        "a[ 0]",
        *(pytest.param(text) for text in ("a[0", "a[", "data[-1.id", "a..b", "a.", ".a")),
        5,
        None,
        ["a"],
        b"a",
    ],
)
def test_invalid_selector_error_names_argument(selector: Any) -> None:
    with pytest.raises(ConfigError, match=r"Cursor\(token="):
        Cursor(selector)


@pytest.mark.parametrize("selector", [Header("X"), lambda response: None, "a.b"])
def test_paths_headers_and_functions_are_selectors(selector: Any) -> None:
    check_selector("Cursor", "token", selector)
    Cursor("token", more=selector)
