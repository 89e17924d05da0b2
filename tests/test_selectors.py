"""Does a selector find what it names, and nothing where there is nothing?"""

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


def answer(body: Any = None, headers: dict[str, str] | None = None, content: bytes | None = None) -> Response:
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
def test_a_path_finds_what_lies_there_or_none(path: str, found: Any) -> None:
    body = {
        "meta": {"next": "abc"},
        "data": [{"id": 1}, {"id": 2, "tags": ["x"]}],
        "@odata.nextLink": "u",
        "@odata": {"nextLink": "wrong"},
        "zero": 0,
        "no": False,
        "null": None,
    }

    assert select_value(path, answer(body)) == found


def test_a_path_reaches_into_a_body_that_is_an_array() -> None:
    assert select_value("[-1].id", answer([{"id": 1}, {"id": 2}])) == 2


@often
@given(value=values, data=st.data())
def test_the_path_to_any_value_of_a_body_finds_that_value(value: Any, data: st.DataObject) -> None:
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
def test_no_path_raises_on_any_value(value: Any, path: str) -> None:
    select_path(path, value)


def test_a_header_is_found_whatever_its_case() -> None:
    response = answer([], {"Next-Page": "7"})

    assert select_value(Header("next-page"), response) == "7"
    assert select_value(Header("Other"), response) is None


def test_a_function_is_given_the_response() -> None:
    response = answer({"a": 1})

    assert select_value(lambda given: (given is response, given.json()["a"]), response) == (True, 1)


def test_a_path_into_a_body_that_is_no_json_raises_malformed_json() -> None:
    with pytest.raises(MalformedJSON):
        select_value("meta.next", answer(content=b"<html>"))


@pytest.mark.parametrize("selector", ["next", "meta.next", "data[-1].id", "[0]", "a[0][1].b", "@odata.nextLink", "a b"])
def test_a_path_is_accepted(selector: str) -> None:
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
def test_what_is_no_selector_is_refused_with_the_name_of_the_argument(selector: Any) -> None:
    with pytest.raises(ConfigError, match=r"Cursor\(token="):
        Cursor(selector)


@pytest.mark.parametrize("selector", [Header("X"), lambda response: None, "a.b"])
def test_paths_headers_and_functions_are_selectors(selector: Any) -> None:
    check_selector("Cursor", "token", selector)
    Cursor("token", more=selector)
