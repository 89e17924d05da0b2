"""Pagination of streams: every page is read once, and every slice ends."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import respx

from asyncstreams import (
    Continuation,
    CrossOriginLink,
    Cursor,
    Header,
    HttpStream,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    PaginationLoop,
    TokenAuthenticator,
    UnexpectedContent,
)

ITEMS = "https://api.test/v1/items"


def declare(paginator: Any = None, **declared: Any) -> HttpStream:
    own = {"url_base": "https://api.test/v1/", "path": lambda self, context: "items", "paginator": paginator}
    return type("Items", (HttpStream,), own | declared)()


def records_with(*ids: int) -> list[dict[str, int]]:
    return [{"id": number} for number in ids]


def body(following: Any, *ids: int) -> dict[str, Any]:
    return {"data": records_with(*ids), "next": following}


def sent_params(route: respx.Route, *names: str) -> list[tuple[str | None, ...]]:
    return [tuple(call.request.url.params.get(name) for name in names) for call in route.calls]


def serve(route: respx.Route, *bodies: Any, headers: Callable[[int], dict[str, str]] = lambda number: {}) -> None:
    """Answer the n-th request with the n-th body, and the headers of its number."""
    route.side_effect = [httpx.Response(200, json=body, headers=headers(n)) for n, body in enumerate(bodies)]


@pytest.fixture
def route(respx_mock):
    return respx_mock.route(url__regex=r"^https://api\.test/v1/items")


@pytest.mark.parametrize(
    ("paginator", "expected"),
    [
        (PageNumber(), ["page=1", "page=2", "page=3"]),
        (PageNumber(param="p", start=0, size=2, size_param="n"), ["p=0&n=2", "p=1&n=2", "p=2&n=2"]),
    ],
)
async def test_page_numbers_are_sent_until_empty_page(route, paginator, expected):
    serve(route, records_with(1, 2), records_with(3, 4), [])

    records = await declare(paginator).read()

    assert records == records_with(1, 2, 3, 4)
    assert [call.request.url.query.decode() for call in route.calls] == expected


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(
    "paging", [partial(PageNumber, size=2), partial(Offset, limit=2)], ids=["PageNumber", "Offset"]
)
async def test_short_page_ends_only_with_stop_on_short_page(route, paging, stops):
    serve(route, records_with(1, 2), records_with(3), records_with(4, 5), [])

    records = await declare(paging(stop_on_short_page=stops), parallel_pages=False).read()

    assert records == (records_with(1, 2, 3) if stops else records_with(1, 2, 3, 4, 5))
    assert route.call_count == (2 if stops else 4)


@pytest.mark.parametrize(
    "paginator",
    [
        PageNumber(total_pages="meta.pages"),
        PageNumber(total_pages=lambda response: response.json()["meta"]["pages"]),
        PageNumber(start=0, total_pages="meta.pages"),
        PageNumber(size=2, total_items="meta.items"),
        Offset(limit=2, total="meta.items"),
    ],
)
async def test_known_total_saves_request_for_empty_page(route, paginator):
    meta = {"pages": 2, "items": 3}
    pages = [{"meta": meta, "data": records_with(1, 2)}, {"meta": meta, "data": records_with(3)}]
    serve(route, *pages)

    records = await declare(paginator, records_path="data").read()

    assert records == records_with(1, 2, 3)
    assert route.call_count == 2


@pytest.mark.parametrize(
    "paginator", [PageNumber(total_pages=Header("X-Pages")), Offset(limit=2, total=Header("X-Items"))]
)
async def test_empty_page_before_total_does_not_end_slice(route, paginator):
    serve(route, records_with(1, 2), [], records_with(5, 6), headers=lambda number: {"X-Pages": "3", "X-Items": "6"})

    records = await declare(paginator).read()

    assert records == records_with(1, 2, 5, 6)


async def test_offset_counts_records_dropped_by_parse_response(route):
    serve(route, records_with(1, 2), records_with(3), records_with(4, 5), [])
    paginator = Offset(limit=100, param="skip", limit_param="take")

    records = await declare(paginator, parse_response=lambda self, response, context: response.json()[1:]).read()

    assert records == records_with(2, 5)
    assert sent_params(route, "skip", "take") == [("0", "100"), ("2", "100"), ("3", "100"), ("5", "100")]


@pytest.mark.parametrize("paginator", [PageNumber(param="page"), Offset(param="page"), Cursor("next", param="page")])
async def test_paginator_params_override_only_equal_names(route, paginator):
    serve(route, body("1", 1), {"data": []})
    params = {"page": "mine", "sort": "id"}

    await declare(paginator, records_path="data", request_params=lambda self, context: params).read()

    page, sort = sent_params(route, "page", "sort")[1]
    assert page != "mine"
    assert sort == "id"


@pytest.mark.parametrize(
    ("cursor", "end"),
    [
        (Cursor("next"), {}),
        (Cursor("next"), {"next": None}),
        (Cursor("next"), {"next": ""}),
        *((Cursor("next", more="more"), {"next": "d", "more": more}) for more in (False, 0, "0", "false")),
        (Cursor("next", stop_when=lambda response: "done" in response.json()), {"next": "d", "done": 1}),
    ],
)
async def test_cursor_is_sent_until_last_response(route, cursor, end):
    more = {"more": True}
    serve(route, body("b", 1) | more, body("c", 2) | more, {"data": records_with(3)} | end)

    records = await declare(cursor, records_path="data").read()

    assert records == records_with(1, 2, 3)
    assert sent_params(route, "cursor") == [(None,), ("b",), ("c",)]


@pytest.mark.parametrize(
    ("token", "second"),
    [("meta.next", "b"), ("data[-1].id", "7"), (Header("X-Next"), "h"), (lambda response: "f", "f")],
)
async def test_token_is_selected_by_path_header_or_function(route, token, second):
    first = {"data": records_with(1, 7), "meta": {"next": "b"}}
    serve(route, first, {"data": []}, headers=lambda number: {"X-Next": "h"} if number == 0 else {})

    await declare(Cursor(token, stop_when=lambda response: not response.json()["data"]), records_path="data").read()

    assert sent_params(route, "cursor") == [(None,), (second,)]


@pytest.mark.parametrize(
    ("into", "read"),
    [
        ("json", lambda request: json.loads(request.content)),
        ("data", lambda request: dict(parse_qsl(request.content.decode()))),
        ("headers", lambda request: {k: v for k, v in request.headers.items() if k in ("q", "cursor")}),
    ],
)
async def test_cursor_is_added_to_author_fields(route, into, read):
    serve(route, body("b c", 1), body(None, 2))
    own = {f"request_{into}": lambda self, context: {"q": "all"}}

    await declare(Cursor("next", into=into), http_method="POST", records_path="data", **own).read()

    assert [read(call.request) for call in route.calls] == [{"q": "all"}, {"q": "all", "cursor": "b c"}]


async def test_cursor_is_set_in_nested_json(route):
    serve(route, body("b", 1), body(None, 2))
    own = {"query": "q", "variables": {"first": 10}}
    cursor = Cursor("next", param="variables.after", into="json")

    await declare(cursor, http_method="POST", records_path="data", request_json=lambda self, context: own).read()

    assert json.loads(route.calls[1].request.content) == {"query": "q", "variables": {"first": 10, "after": "b"}}


async def test_more_without_token_raises(route):
    serve(route, {"data": records_with(1), "more": True})

    with pytest.raises(UnexpectedContent, match="no token"):
        await declare(Cursor("next", more="more"), records_path="data").read()


@pytest.mark.parametrize(
    "paginator", [LinkHeader(), NextUrl(Header("X-Next")), NextUrl(lambda response: response.headers.get("x-next"))]
)
async def test_next_url_is_sent_unchanged_with_headers_and_body(route, paginator):
    following = f"{ITEMS}?after=%C3%A9~x&sig=a%2Fb"
    headers = {"Link": f'<{ITEMS}>; rel="first", <{following}>; rel="next"', "X-Next": following}
    serve(route, records_with(1), records_with(2), headers=lambda number: headers if number == 0 else {})
    stream = declare(
        paginator,
        http_method="POST",
        authenticator=TokenAuthenticator("t"),
        request_params=lambda self, context: {"sort": "id"},
        request_headers=lambda self, context: {"X-Mine": "yes"},
        request_json=lambda self, context: {"q": 1},
    )

    records = await stream.read()

    second = route.calls[1].request
    assert records == records_with(1, 2)
    assert str(second.url) == following
    assert (second.headers["x-mine"], second.headers["authorization"]) == ("yes", "Bearer t")
    assert json.loads(second.content) == {"q": 1}


async def test_link_header_follows_declared_relation(route):
    links = f'<{ITEMS}?x=1>; rel="next", <{ITEMS}?x=2>; rel="older last"'
    serve(route, records_with(1), records_with(2), headers=lambda number: {"Link": links} if number == 0 else {})

    await declare(LinkHeader(rel="older")).read()

    assert sent_params(route, "x") == [(None,), ("2",)]


@pytest.mark.parametrize("link", ["/v1/items?page=2", "items?page=2", "?page=2", "//api.test/v1/items?page=2"])
async def test_relative_next_url_is_resolved_against_its_page(route, link):
    serve(route, body(link, 1), body(None, 2))

    await declare(NextUrl("next"), records_path="data").read()

    assert str(route.calls[1].request.url) == f"{ITEMS}?page=2"


async def test_continuation_sends_only_latest_fields(route):
    first = {"data": records_with(1), "continue": {"sroffset": 1, "continue": "-||"}}
    serve(route, first, {"data": records_with(2), "continue": {"rvcontinue": "x"}}, {"data": records_with(3)})
    own = {"action": "query"}

    records = await declare(Continuation(), records_path="data", request_params=lambda self, context: own).read()

    assert records == records_with(1, 2, 3)
    assert [dict(call.request.url.params) for call in route.calls] == [
        own,
        own | {"sroffset": "1", "continue": "-||"},
        own | {"rvcontinue": "x"},
    ]


async def test_next_page_token_overrides_paginator(route):
    serve(route, body({"page": 0}, 1), body(None, 2))
    stream = declare(
        PageNumber(),
        records_path="data",
        next_page_token=lambda self, response, context: response.json()["next"],
        request_params=lambda self, context: {"token": str(context.next_page_token)},
    )

    await stream.read()

    assert sent_params(route, "token", "page") == [("None", None), ("{'page': 0}", None)]


@pytest.mark.parametrize("token", [None, {}, 0, "", False])
async def test_falsy_next_page_token_ends_slice(route, token):
    serve(route, records_with(1), records_with(2))

    records = await declare(next_page_token=lambda self, response, context: token).read()

    assert records == records_with(1)


@pytest.mark.parametrize(("empty", "end"), [(1000, nullcontext()), (1001, pytest.raises(PaginationLoop))])
async def test_more_than_1000_empty_pages_in_a_row_raise(empty, end):
    def handler(request):
        number = int(request.url.params.get("cursor", 0))
        return httpx.Response(200, json=body(str(number + 1)) if number < empty else body(None, 1))

    stream = declare(Cursor("next"), records_path="data", transport=httpx.MockTransport(handler))

    with end:
        assert await stream.read() == records_with(1)


@pytest.mark.parametrize("paginator", [PageNumber(), Offset(limit=2)], ids=["PageNumber", "Offset"])
async def test_repeated_page_raises_loop_with_slice_and_page(route, paginator):
    serve(route, *[records_with(1, 2)] * 9, [])

    with pytest.raises(PaginationLoop) as caught:
        await declare(paginator, parallel_pages=False).read(slices=[{"shop": 7}])

    assert route.call_count == 2
    assert (caught.value.stream, caught.value.stream_slice, caught.value.page) == ("items", {"shop": 7}, 1)
    assert "the paging parameter is ignored" in str(caught.value)
    assert "slice {'shop': 7}, page 1" in str(caught.value)


async def test_later_page_three_times_in_a_row_raises_loop(route):
    serve(route, records_with(1), *[records_with(2)] * 9)

    with pytest.raises(PaginationLoop, match="3 times in a row"):
        await declare(PageNumber(), parallel_pages=False).read()

    assert route.call_count == 4


@pytest.mark.parametrize(("times", "detect_loops"), [(2, True), (5, False)])
async def test_two_equal_pages_are_read_and_more_without_guard(route, times, detect_loops):
    serve(route, records_with(2), *[records_with(1)] * times, records_with(2), *[records_with(1)] * times, [])

    records = await declare(PageNumber(), detect_loops=detect_loops).read()

    assert len(records) == 2 * times + 2


@pytest.mark.parametrize("into", ["params", "json"])
async def test_scroll_token_may_stay_the_same_without_loop_detection(route, into):
    serve(route, body("s", 1), body("s", 2), body("s"))
    cursor = Cursor("next", param="scroll", into=into, stop_when=lambda response: not response.json()["data"])

    records = await declare(cursor, records_path="data", http_method="POST", detect_loops=False).read()

    assert records == records_with(1, 2)


@pytest.mark.parametrize(
    ("tokens", "detect_loops"),
    [
        (["s3cret", "s3cret"], True),
        *((tokens, flag) for tokens in (["s3cret", "B", "s3cret"], ["A", "s3cret", "C", "s3cret"]) for flag in (0, 1)),
    ],
)
async def test_repeated_token_raises_loop_without_token_in_message(route, tokens, detect_loops):
    serve(route, *(body(token, n) for n, token in enumerate(tokens)))

    with pytest.raises(PaginationLoop) as caught:
        await declare(Cursor("next"), records_path="data", detect_loops=bool(detect_loops)).read()

    assert route.call_count == len(tokens)
    assert "s3cret" not in str(caught.value)


async def test_next_link_to_first_page_raises_loop(route):
    serve(
        route,
        records_with(1),
        records_with(2),
        headers=lambda n: {"Link": f'<{ITEMS}{"" if n else "?page=2"}>; rel="next"'},
    )

    with pytest.raises(PaginationLoop):
        await declare(LinkHeader()).read()


async def test_token_of_earlier_slice_is_not_a_loop(route):
    serve(route, *[body("b", 1), {"data": records_with(2)}] * 2)

    records = await declare(Cursor("next"), records_path="data").read(slices=[{"n": 1}, {"n": 2}])

    assert records == records_with(1, 2, 1, 2)


async def test_at_most_max_pages_are_delivered(route):
    serve(route, *(records_with(number) for number in range(1, 9)), [])
    received: list[dict[str, int]] = []

    with pytest.raises(PaginationLoop, match="max_pages"):  # noqa: PT012  # the block collects the pages before the error
        async with declare(PageNumber(), max_pages=4).pages() as pages:
            async for page in pages:
                received += page.records

    assert received == records_with(1, 2, 3, 4)


FOREIGN = {
    "host": "https://evil.test/v1/items?key=s3cret",
    "suffix": "https://api.test.evil.test/v1/items?key=s3cret",
    "userinfo": "https://api.test@evil.test/v1/items?key=s3cret",
    "own userinfo": "https://me:s3cret@api.test/v1/items",
    "backslash": "https://api.test\\@evil.test/v1/items?key=s3cret",
    "port": "https://api.test:8443/v1/items?key=s3cret",
    "plain http": "http://evil.test/v1/items?key=s3cret",
    "plain http on another port": "http://api.test:8080/v1/items?key=s3cret",
    "scheme-relative": "//evil.test/v1/items?key=s3cret",
    "file": "file:///etc/passwd?key=s3cret",
}


@pytest.mark.parametrize("link", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("paginator", [LinkHeader(), NextUrl(Header("X-Next"))], ids=["LinkHeader", "NextUrl"])
async def test_next_link_to_other_origin_is_not_requested(respx_mock, paginator, link):
    elsewhere = respx_mock.route(url__regex=".*", name="anything")
    elsewhere.respond(json=records_with(1), headers={"Link": f'<{link}>; rel="next"', "X-Next": link})

    with pytest.raises(CrossOriginLink) as caught:
        await declare(paginator, authenticator=TokenAuthenticator("t")).read()

    assert [str(call.request.url) for call in elsewhere.calls] == [ITEMS]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("paginator", [LinkHeader(), NextUrl(Header("X-Next"))], ids=["LinkHeader", "NextUrl"])
async def test_http_link_of_the_own_https_host_goes_over_https(respx_mock, paginator):
    link = "http://API.test/v1/items?q=Z\u00fcrich Nord"
    headers = [("Link", f'<{link}>; rel="next"'.encode()), ("X-Next", link.encode())]
    answers = [httpx.Response(200, json=records_with(1), headers=headers), httpx.Response(200, json=records_with(2))]
    respx_mock.route(host="api.test").mock(side_effect=answers)

    records = await declare(paginator, authenticator=TokenAuthenticator("t")).read()

    assert records == records_with(1, 2)
    assert str(respx_mock.calls.last.request.url) == f"{ITEMS}?q=Z%C3%BCrich%20Nord"


async def test_allowed_origin_is_requested_with_credential(respx_mock):
    following = "https://files.test/part?n=2"
    respx_mock.get(ITEMS).respond(json=records_with(1), headers={"Link": f'<{following}>; rel="next"'})
    other = respx_mock.get(following).respond(json=records_with(2))
    stream = declare(LinkHeader(), authenticator=TokenAuthenticator("t"), allowed_origins=("https://files.test",))

    records = await stream.read()

    assert records == records_with(1, 2)
    assert other.calls.last.request.headers["authorization"] == "Bearer t"
