"""Paginators as pure functions: tokens, ends and page counts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
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
ALL_PAGINATORS = [
    PageNumber(size=10, total_pages="pages"),
    Offset(total="total"),
    Cursor("next"),
    LinkHeader(),
    NextUrl("next"),
    Continuation(),
]


def make_response(
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


def link_response(url: str = "https://api.example.com/t", /, **targets: str) -> Response:
    return make_response([], {"Link": ", ".join(f'<{target}>; rel="{rel}"' for rel, target in targets.items())}, url)


@pytest.mark.parametrize("paginator", ALL_PAGINATORS, ids=lambda paginator: type(paginator).__name__)
def test_paginator_is_frozen(paginator: Any) -> None:
    field = dataclasses.fields(paginator)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(paginator, field, "other")


@pytest.mark.parametrize(
    "sort",
    [
        '[9223372036854775807,"a"]',
        "[-9223372036854775808,1.10]",
        '{"at":[1E+2,1e5],"id":123456789012345678901.50}',
        "-2.5e-07",
    ],
)
def test_numbers_within_a_token_are_sent_as_they_are_written(sort: str) -> None:
    paginator = Cursor("hits[-1].sort", param="search_after", into="json")
    response = make_response()
    response.set_body(f'{{"hits": [{{"sort": {sort}}}]}}'.encode())

    token = paginator.next(None, response, 1)

    assert msgspec.json.encode(paginator.apply(token).json) == f'{{"search_after":{sort}}}'.encode()


@pytest.mark.parametrize(
    "header", ['<https://api.example.com/b; rel="next"', '/b; title="x"; rel=next', "</b> rel=next"]
)
def test_next_link_that_cannot_be_read_is_an_error(header: str) -> None:
    with pytest.raises(UnexpectedContent, match="Link header whose link with rel='next' cannot be read"):
        LinkHeader().next(None, make_response([], {"Link": header}), 1)


@pytest.mark.parametrize(
    "header",
    [
        '</a?rel=next>; rel="prev"',
        '</a>; rel="next-month"',
        '</a>; rel="next"; anchor="/x"',
        '</a>; title="the rel"',
        "<>; rel=next",
    ],
)
def test_header_without_a_next_link_is_the_end(header: str) -> None:
    assert LinkHeader().next(None, make_response([], {"Link": header}), 1) is None


@pytest.mark.parametrize("paginator", ALL_PAGINATORS, ids=lambda paginator: type(paginator).__name__)
def test_equal_arguments_give_equal_tokens(paginator: Any) -> None:
    body = {"pages": 9, "total": 900, "next": "/b", "continue": {"a": "b"}}
    response = make_response(body, {"Link": '</b>; rel="next"'})
    token = paginator.first()

    tokens = [paginator.next(token, response, 10) for _ in range(3)]

    assert tokens[0] is not None
    assert tokens[0] == tokens[1] == tokens[2]
    assert paginator.apply(tokens[0]) == paginator.apply(tokens[0])
    assert paginator.first() == token


@often
@given(counts=counts, start=st.integers(0, 3), size=st.none() | st.integers(1, 5))
def test_page_number_without_total_ends_at_first_empty_page(counts: list[int], start: int, size: int | None) -> None:
    paginator = PageNumber(start=start, size=size)
    token: Any = paginator.first()
    seen = []
    for count in [*counts, 0]:
        seen.append(token)
        token = paginator.next(token, make_response([]), count)
        if token is None:
            break

    expected = [*counts, 0].index(0) + 1
    assert token is None
    assert seen == list(range(start, start + expected))


@often
@given(pages=st.integers(0, 8), counts=st.lists(st.integers(0, 3), min_size=9, max_size=9), start=st.integers(0, 2))
def test_page_number_reads_total_pages_of_any_size(pages: int, counts: list[int], start: int) -> None:
    paginator = PageNumber(start=start, total_pages="meta.pages")
    response = make_response({"meta": {"pages": pages}})
    token: Any = paginator.first()
    seen = []
    while token is not None:
        seen.append(token)
        token = paginator.next(token, response, counts[len(seen) - 1])

    assert seen == list(range(start, start + max(pages, 1)))


@often
@given(total=totals, counts=counts, size=st.integers(1, 9), short=st.booleans(), use_items=st.booleans())
def test_page_number_ends_for_any_counts_and_totals(
    total: Any, counts: list[int], size: int, short: bool, use_items: bool
) -> None:
    name = "total_items" if use_items else "total_pages"
    paginator = PageNumber(size=size, stop_on_short_page=short, **{name: "total"})
    token: Any = paginator.first()
    requests = 0
    while token is not None and requests < 200:
        count = counts[requests] if requests < len(counts) else 0
        following = paginator.next(token, make_response({"total": total}), count)
        assert following is None or following > token
        token, requests = following, requests + 1

    assert token is None


@often
@given(total=totals, counts=counts, limit=st.integers(1, 9), short=st.booleans())
def test_offset_ends_for_any_counts_and_totals(total: Any, counts: list[int], limit: int, short: bool) -> None:
    paginator = Offset(limit=limit, total="total", stop_on_short_page=short)
    token: Any = paginator.first()
    requests = 0
    while token is not None and requests < 200:
        count = counts[requests] if requests < len(counts) else 0
        following = paginator.next(token, make_response({"total": total}), count)
        assert following is None or following > token
        token, requests = following, requests + 1

    assert token is None


@often
@given(items=st.integers(0, 60), limit=st.integers(1, 20), cap=st.integers(1, 20), has_total=st.booleans())
def test_offset_reads_each_record_once_if_limit_is_capped(items: int, limit: int, cap: int, has_total: bool) -> None:
    paginator = Offset(limit=limit, total="total" if has_total else None)
    token: Any = paginator.first()
    read: list[int] = []
    while token is not None:
        params = paginator.apply(token).params
        page = range(items)[params["offset"] : params["offset"] + min(params["limit"], cap)]
        read += page
        token = paginator.next(token, make_response({"total": items}), len(page))

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
def test_short_page_ends_only_with_stop_on_short_page(paginator: Any, count: int, following: int | None) -> None:
    assert paginator.next(paginator.first(), make_response([]), count) == following


@often
@given(items=st.integers(0, 80), size=st.integers(1, 9), start=st.integers(0, 2), as_text=st.booleans())
def test_page_number_tokens_match_sequential_reading(items: int, size: int, start: int, as_text: bool) -> None:
    paginator = PageNumber(start=start, size=size, total_items="total")
    response = make_response({"total": str(items) if as_text else items})
    tokens, token = [], paginator.first()
    while token is not None:
        tokens.append(token)
        token = paginator.next(token, response, min(size, items - size * (token - start)))

    pages = paginator.page_count(response, min(size, items))
    assert pages == -(-items // size)
    assert list(map(paginator.predict_tokens(response), range(max(pages, 1)))) == tokens


@often
@given(items=st.integers(0, 80), limit=st.integers(1, 9))
def test_offset_tokens_match_sequential_reading(items: int, limit: int) -> None:
    paginator = Offset(limit=limit, total="total")
    response = make_response({"total": items})
    tokens, token = [], paginator.first()
    while token is not None:
        tokens.append(token)
        token = paginator.next(token, response, min(limit, items - token))

    pages = paginator.page_count(response, min(limit, items))
    assert pages == -(-items // limit)
    assert list(map(paginator.predict_tokens(response), range(max(pages, 1)))) == tokens


@often
@given(pages=st.integers(3, 12), start=st.integers(0, 1), before=st.text(max_size=5), after=st.text(max_size=5))
def test_link_header_tokens_match_sequential_reading(pages: int, start: int, before: str, after: str) -> None:
    def url(number: int) -> str:
        return str(httpx.URL("https://api.example.com/t", params={"q": before, "page": start + number, "z": after}))

    paginator = LinkHeader()
    first = link_response(url(0), next=url(1), last=url(pages - 1))
    tokens = [url(0)]
    while True:
        here = len(tokens) - 1
        more = {"next": url(here + 1)} if here + 1 < pages else {}
        token = paginator.next(tokens[-1], link_response(**more, last=url(pages - 1)), 5)
        if token is None:
            break
        tokens.append(token)

    assert paginator.page_count(first, 5) == len(tokens) == pages
    for number, token in enumerate(tokens):
        url_parts = urlsplit(paginator.predict_tokens(first)(number))
        assert parse_qsl(url_parts.query, True) == parse_qsl(urlsplit(token).query, True)
        assert url_parts[:3] == urlsplit(token)[:3]


def test_short_first_page_gives_no_page_count() -> None:
    response = make_response({"total": 250})

    assert PageNumber(size=100, total_items="total").page_count(response, 50) is None
    assert Offset(limit=100, total="total").page_count(response, 50) is None


def test_capped_page_size_is_read_beyond_total() -> None:
    paginator = PageNumber(size=100, total_items="total")
    response = make_response({"total": 280})
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
def test_link_header_without_numbers_gives_no_page_count(targets: dict[str, str]) -> None:
    assert LinkHeader().page_count(link_response(**targets), 5) is None


def test_link_header_does_not_treat_offsets_as_page_numbers() -> None:
    # 900 records, 100 a page: next begins at 100, last at 800.
    pages = LinkHeader().page_count(link_response(next="/t?offset=100", last="/t?offset=800"), 100)

    assert pages in (None, 9)


def test_link_header_follows_relation_until_absent() -> None:
    paginator = LinkHeader(rel="Older")

    assert paginator.next(None, link_response(next="/a", older="/b"), 1) == "/b"
    assert paginator.next("/b", link_response(next="/a"), 1) is None
    assert paginator.next("/b", make_response([]), 1) is None
    assert paginator.apply("/b").url == "/b"


@pytest.mark.parametrize("more", [True, 1, "true", "yes"])
@pytest.mark.parametrize("token", [None, "", "absent"])
def test_cursor_with_more_but_no_token_raises(more: Any, token: Any) -> None:
    body = {"has_more": more} if token == "absent" else {"has_more": more, "next": token}

    with pytest.raises(UnexpectedContent, match="has_more"):
        Cursor("next", more="has_more").next("a", make_response(body), 5)


@pytest.mark.parametrize("more", [False, 0, "", "0", "no", "false", "False"])
def test_cursor_ends_if_more_is_false(more: Any) -> None:
    assert Cursor("next", more="has_more").next("a", make_response({"has_more": more, "next": "b"}), 5) is None


@pytest.mark.parametrize("body", [{}, {"next": None}, {"next": ""}, {"meta": {}}, []])
def test_cursor_ends_without_token(body: Any) -> None:
    assert Cursor("next").next("a", make_response(body), 5) is None


def test_cursor_ends_if_stop_when_is_true() -> None:
    paginator = Cursor("next", stop_when=lambda response: response.json()["done"])

    assert paginator.next(None, make_response({"next": "b", "done": False}), 5) == "b"
    assert paginator.next(None, make_response({"next": "b", "done": True}), 5) is None


def test_empty_page_with_token_does_not_end_cursor() -> None:
    assert Cursor(Header("X-Next")).next("a", make_response([], {"X-Next": "b"}), 0) == "b"


def test_cursor_token_is_sent_as_into_declares() -> None:
    assert Cursor("n", param="after").apply("t").params == {"after": "t"}
    assert Cursor("n", param="after", into="headers").apply(7).headers == {"after": "7"}
    assert Cursor("n", param="after", into="data").apply("t").data == {"after": "t"}
    assert Cursor("n", param="variables.page.after", into="json").apply("t").json == {
        "variables": {"page": {"after": "t"}}
    }


@pytest.mark.parametrize("into", ["params", "headers", "data", "json"])
def test_first_cursor_page_sends_no_token(into: Any) -> None:
    request = Cursor("n", into=into).apply(None)

    assert not any((request.params, request.headers, request.data, request.json, request.url))


def test_first_numbered_page_sends_parameters() -> None:
    assert PageNumber(size=50).apply(1).params == {"page": 1, "per_page": 50}
    assert PageNumber().apply(1).params == {"page": 1}
    assert Offset(limit=50).apply(0).params == {"offset": 0, "limit": 50}


@pytest.mark.parametrize("body", [{}, {"next": None}, {"next": ""}, []])
def test_next_url_ends_without_url(body: Any) -> None:
    assert NextUrl("next").next(None, make_response(body), 5) is None


@pytest.mark.parametrize("found", [7, True, ["/a"], {"href": "/a"}])
def test_next_url_of_wrong_type_raises(found: Any) -> None:
    with pytest.raises(UnexpectedContent, match="next"):
        NextUrl("next").next(None, make_response({"next": found}), 5)


@often
@given(fields=st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), min_size=1))
def test_continuation_is_merged_into_params_unchanged(fields: dict[str, str]) -> None:
    paginator = Continuation()

    token = paginator.next(None, make_response({"continue": fields}), 5)

    assert paginator.apply(token).params == fields


def test_continuation_ends_if_absent_and_raises_if_no_object() -> None:
    assert Continuation().next({"a": "b"}, make_response({"query": []}), 5) is None
    with pytest.raises(UnexpectedContent, match="continue"):
        Continuation().next(None, make_response({"continue": "abc"}), 5)


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
def test_invalid_paginator_is_refused_on_creation(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**arguments)
