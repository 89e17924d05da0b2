"""Does each way of paging visit every record once, and come to an end?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import (
    ConfigError,
    Continuation,
    Cursor,
    Header,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    Response,
    UnexpectedContent,
)

often = settings(max_examples=100, deadline=None)
counts = st.lists(st.integers(0, 7), max_size=12)
totals = st.one_of(st.none(), st.integers(-3, 60), st.integers(0, 60).map(str), st.just("many"), st.booleans())
EVERY_KIND = [
    PageNumber(size=10, total_pages="pages"),
    Offset(total="total"),
    Cursor("next"),
    LinkHeader(),
    NextUrl("next"),
    Continuation(),
]


def answer(
    body: Any = None, headers: Mapping[str, str] | None = None, url: str = "https://api.example.com/things"
) -> Response:
    response = Response(
        200,
        headers=[(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        stream=httpx.ByteStream(b""),
        request=httpx.Request("GET", url),
    )
    response.set_body(json.dumps(body).encode())
    return response


def links(url: str = "https://api.example.com/t", /, **targets: str) -> Response:
    return answer([], {"Link": ", ".join(f'<{target}>; rel="{rel}"' for rel, target in targets.items())}, url)


@pytest.mark.parametrize("paginator", EVERY_KIND, ids=lambda paginator: type(paginator).__name__)
def test_a_paginator_is_frozen(paginator: Any) -> None:
    field = dataclasses.fields(paginator)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(paginator, field, "other")


@pytest.mark.parametrize("paginator", EVERY_KIND, ids=lambda paginator: type(paginator).__name__)
def test_the_same_arguments_give_the_same_answer(paginator: Any) -> None:
    body = {"pages": 9, "total": 900, "next": "/b", "continue": {"a": "b"}}
    response = answer(body, {"Link": '</b>; rel="next"'})
    token = paginator.first()

    answers = [paginator.next(token, response, 10) for _ in range(3)]

    assert answers[0] is not None
    assert answers[0] == answers[1] == answers[2]
    assert paginator.apply(answers[0]) == paginator.apply(answers[0])
    assert paginator.first() == token


@often
@given(counts=counts, start=st.integers(0, 3), size=st.none() | st.integers(1, 5))
def test_page_number_without_a_total_ends_at_the_first_empty_page_and_at_no_other(
    counts: list[int], start: int, size: int | None
) -> None:
    paginator = PageNumber(start=start, size=size)
    token: Any = paginator.first()
    seen = []
    for count in [*counts, 0]:
        seen.append(token)
        token = paginator.next(token, answer([]), count)
        if token is None:
            break

    expected = [*counts, 0].index(0) + 1
    assert token is None
    assert seen == list(range(start, start + expected))


@often
@given(pages=st.integers(0, 8), counts=st.lists(st.integers(0, 3), min_size=9, max_size=9), start=st.integers(0, 2))
def test_page_number_reads_as_many_pages_as_are_told_whatever_they_hold(
    pages: int, counts: list[int], start: int
) -> None:
    paginator = PageNumber(start=start, total_pages="meta.pages")
    response = answer({"meta": {"pages": pages}})
    token: Any = paginator.first()
    seen = []
    while token is not None:
        seen.append(token)
        token = paginator.next(token, response, counts[len(seen) - 1])

    assert seen == list(range(start, start + max(pages, 1)))


@often
@given(total=totals, counts=counts, size=st.integers(1, 9), short=st.booleans(), use_items=st.booleans())
def test_page_number_comes_to_an_end_for_any_counts_and_totals(
    total: Any, counts: list[int], size: int, short: bool, use_items: bool
) -> None:
    name = "total_items" if use_items else "total_pages"
    paginator = PageNumber(size=size, stop_on_short_page=short, **{name: "total"})
    token: Any = paginator.first()
    requests = 0
    while token is not None and requests < 200:
        count = counts[requests] if requests < len(counts) else 0
        following = paginator.next(token, answer({"total": total}), count)
        assert following is None or following > token
        token, requests = following, requests + 1

    assert token is None


@often
@given(total=totals, counts=counts, limit=st.integers(1, 9), short=st.booleans())
def test_offset_comes_to_an_end_for_any_counts_and_totals(
    total: Any, counts: list[int], limit: int, short: bool
) -> None:
    paginator = Offset(limit=limit, total="total", stop_on_short_page=short)
    token: Any = paginator.first()
    requests = 0
    while token is not None and requests < 200:
        count = counts[requests] if requests < len(counts) else 0
        following = paginator.next(token, answer({"total": total}), count)
        assert following is None or following > token
        token, requests = following, requests + 1

    assert token is None


@often
@given(items=st.integers(0, 60), limit=st.integers(1, 20), cap=st.integers(1, 20), told=st.booleans())
def test_offset_neither_skips_nor_repeats_where_a_server_caps_the_limit(
    items: int, limit: int, cap: int, told: bool
) -> None:
    paginator = Offset(limit=limit, total="total" if told else None)
    token: Any = paginator.first()
    read: list[int] = []
    while token is not None:
        params = paginator.apply(token).params
        page = range(items)[params["offset"] : params["offset"] + min(params["limit"], cap)]
        read += page
        token = paginator.next(token, answer({"total": items}), len(page))

    assert read == list(range(items))


@pytest.mark.parametrize(
    ("paginator", "count", "following"),
    [
        (PageNumber(size=10), 9, 2),
        (PageNumber(size=10, stop_on_short_page=True), 9, None),
        (PageNumber(size=10, stop_on_short_page=True), 10, 2),
        (Offset(limit=10), 9, 9),
        (Offset(limit=10, stop_on_short_page=True), 9, None),
        (Offset(limit=10, stop_on_short_page=True), 10, 10),
    ],
)
def test_a_short_page_ends_only_where_that_was_asked_for(paginator: Any, count: int, following: int | None) -> None:
    assert paginator.next(paginator.first(), answer([]), count) == following


@often
@given(items=st.integers(0, 80), size=st.integers(1, 9), start=st.integers(0, 2), as_text=st.booleans())
def test_page_counts_and_tokens_of_page_number_agree_with_reading_page_by_page(
    items: int, size: int, start: int, as_text: bool
) -> None:
    paginator = PageNumber(start=start, size=size, total_items="total")
    response = answer({"total": str(items) if as_text else items})
    tokens, token = [], paginator.first()
    while token is not None:
        tokens.append(token)
        token = paginator.next(token, response, min(size, items - size * (token - start)))

    pages = paginator.page_count(response, min(size, items))
    assert pages == -(-items // size)
    assert [paginator.token_at(number, response) for number in range(max(pages, 1))] == tokens


@often
@given(items=st.integers(0, 80), limit=st.integers(1, 9))
def test_page_counts_and_tokens_of_offset_agree_with_reading_page_by_page(items: int, limit: int) -> None:
    paginator = Offset(limit=limit, total="total")
    response = answer({"total": items})
    tokens, token = [], paginator.first()
    while token is not None:
        tokens.append(token)
        token = paginator.next(token, response, min(limit, items - token))

    pages = paginator.page_count(response, min(limit, items))
    assert pages == -(-items // limit)
    assert [paginator.token_at(number, response) for number in range(max(pages, 1))] == tokens


@often
@given(pages=st.integers(3, 12), start=st.integers(0, 1), before=st.text(max_size=5), after=st.text(max_size=5))
def test_page_counts_and_tokens_of_link_header_agree_with_reading_page_by_page(
    pages: int, start: int, before: str, after: str
) -> None:
    def url(number: int) -> str:
        return str(httpx.URL("https://api.example.com/t", params={"q": before, "page": start + number, "z": after}))

    paginator = LinkHeader()
    first = links(url(0), next=url(1), last=url(pages - 1))
    tokens = [url(0)]
    while True:
        here = len(tokens) - 1
        more = {"next": url(here + 1)} if here + 1 < pages else {}
        token = paginator.next(tokens[-1], links(**more, last=url(pages - 1)), 5)
        if token is None:
            break
        tokens.append(token)

    assert paginator.page_count(first, 5) == len(tokens) == pages
    for number, token in enumerate(tokens):
        made = urlsplit(paginator.token_at(number, first))
        assert parse_qsl(made.query, True) == parse_qsl(urlsplit(token).query, True)
        assert made[:3] == urlsplit(token)[:3]


def test_a_first_page_that_is_short_of_its_size_tells_no_page_count() -> None:
    response = answer({"total": 250})

    assert PageNumber(size=100, total_items="total").page_count(response, 50) is None
    assert Offset(limit=100, total="total").page_count(response, 50) is None


def test_a_server_that_caps_the_page_size_is_read_to_its_end_despite_the_total() -> None:
    paginator = PageNumber(size=100, total_items="total")
    response = answer({"total": 280})
    counts, token = [50, 50, 50, 50, 50, 30, 0], paginator.first()

    for count in counts[:-1]:
        token = paginator.next(token, response, count)
        assert token is not None

    assert paginator.next(token, response, 0) is None


@pytest.mark.parametrize(
    "targets",
    [
        {},
        {"next": "/t?page=2"},
        {"last": "/t?page=9"},
        {"next": "/t?cursor=abc", "last": "/t?cursor=xyz"},
        {"next": "/t?page=2&by=1", "last": "/t?page=9&by=2"},
        {"next": "/t?page=2", "last": "/other?page=9"},
        {"next": "https://a.example/t?page=2", "last": "https://b.example/t?page=9"},
        {"next": "/t?page=2", "last": "/t?page=-9"},
    ],
)
def test_link_header_knows_no_page_count_where_the_links_are_not_numbered(targets: dict[str, str]) -> None:
    assert LinkHeader().page_count(links(**targets), 5) is None


def test_link_header_does_not_take_offsets_for_page_numbers() -> None:
    # 900 records, 100 a page: next begins at 100, last at 800.
    pages = LinkHeader().page_count(links(next="/t?offset=100", last="/t?offset=800"), 100)

    assert pages in (None, 9)


def test_link_header_follows_its_relation_until_there_is_none() -> None:
    paginator = LinkHeader(rel="Older")

    assert paginator.next(None, links(next="/a", older="/b"), 1) == "/b"
    assert paginator.next("/b", links(next="/a"), 1) is None
    assert paginator.next("/b", answer([]), 1) is None
    assert paginator.apply("/b").url == "/b"


@pytest.mark.parametrize("more", [True, 1, "true", "yes"])
@pytest.mark.parametrize("token", [None, "", "absent"])
def test_a_cursor_that_says_more_but_gives_no_token_raises(more: Any, token: Any) -> None:
    body = {"has_more": more} if token == "absent" else {"has_more": more, "next": token}

    with pytest.raises(UnexpectedContent, match="has_more"):
        Cursor("next", more="has_more").next("a", answer(body), 5)


@pytest.mark.parametrize("more", [False, None, 0, "", "false", "False"])
def test_a_cursor_ends_where_more_is_falsy_whatever_the_token(more: Any) -> None:
    assert Cursor("next", more="has_more").next("a", answer({"has_more": more, "next": "b"}), 5) is None


@pytest.mark.parametrize("body", [{}, {"next": None}, {"next": ""}, {"meta": {}}, []])
def test_a_cursor_ends_where_there_is_no_token(body: Any) -> None:
    assert Cursor("next").next("a", answer(body), 5) is None


def test_a_cursor_ends_where_stop_when_says_so() -> None:
    paginator = Cursor("next", stop_when=lambda response: response.json()["done"])

    assert paginator.next(None, answer({"next": "b", "done": False}), 5) == "b"
    assert paginator.next(None, answer({"next": "b", "done": True}), 5) is None


def test_an_empty_page_with_a_token_does_not_end_a_cursor() -> None:
    assert Cursor(Header("X-Next")).next("a", answer([], {"X-Next": "b"}), 0) == "b"


def test_a_cursors_token_goes_where_into_says() -> None:
    assert Cursor("n", param="after").apply("t").params == {"after": "t"}
    assert Cursor("n", param="after", into="headers").apply(7).headers == {"after": "7"}
    assert Cursor("n", param="after", into="data").apply("t").data == {"after": "t"}
    assert Cursor("n", param="variables.page.after", into="json").apply("t").json == {
        "variables": {"page": {"after": "t"}}
    }


@pytest.mark.parametrize("into", ["params", "headers", "data", "json"])
def test_the_first_page_of_a_cursor_has_no_token_to_send(into: Any) -> None:
    request = Cursor("n", into=into).apply(None)

    assert not any((request.params, request.headers, request.data, request.json, request.url))


def test_the_first_page_of_counted_paginators_sends_its_parameters_too() -> None:
    assert PageNumber(size=50).apply(1).params == {"page": 1, "per_page": 50}
    assert PageNumber().apply(1).params == {"page": 1}
    assert Offset(limit=50).apply(0).params == {"offset": 0, "limit": 50}


@pytest.mark.parametrize("body", [{}, {"next": None}, {"next": ""}, []])
def test_next_url_ends_where_there_is_none(body: Any) -> None:
    assert NextUrl("next").next(None, answer(body), 5) is None


@pytest.mark.parametrize("found", [7, True, ["/a"], {"href": "/a"}])
def test_a_next_url_that_is_no_text_raises(found: Any) -> None:
    with pytest.raises(UnexpectedContent, match="next"):
        NextUrl("next").next(None, answer({"next": found}), 5)


@often
@given(fields=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), min_size=1))
def test_a_continuation_is_merged_into_the_params_as_it_is(fields: dict[str, str]) -> None:
    paginator = Continuation()

    token = paginator.next(None, answer({"continue": fields}), 5)

    assert paginator.apply(token).params == fields


def test_a_continuation_ends_where_it_is_absent_and_raises_where_it_is_no_object() -> None:
    assert Continuation().next({"a": "b"}, answer({"query": []}), 5) is None
    with pytest.raises(UnexpectedContent, match="continue"):
        Continuation().next(None, answer({"continue": "abc"}), 5)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (PageNumber, {"param": ""}),
        (PageNumber, {"size": 0}),
        (PageNumber, {"total_items": "total"}),
        (PageNumber, {"stop_on_short_page": True}),
        (PageNumber, {"total_pages": "a[x]"}),
        pytest.param(
            PageNumber,
            {"size": 5, "size_param": ""},
        ),
        (Offset, {"limit": 0}),
        (Offset, {"limit_param": ""}),
        (Offset, {"total": 7}),
        (Cursor, {"token": "next", "into": "body"}),
        (Cursor, {"token": "next", "param": ""}),
        (Cursor, {"token": "next", "more": 7}),
        (NextUrl, {"url": ""}),
        (Continuation, {"fields": None}),
    ],
)
def test_a_wrong_declaration_fails_before_the_first_request(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**arguments)
