"""Warnings and errors for mistakes that would otherwise go unnoticed."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import httpx
import pytest

from asyncstreams import (
    AuthError,
    ConfigError,
    Cursor,
    Header,
    HttpStream,
    LinkHeader,
    MalformedJSON,
    NextUrl,
    Oauth2Authenticator,
    Offset,
    PageNumber,
    TokenAuthenticator,
    UnexpectedContent,
    csv_rows,
)


class Users(HttpStream):
    url_base = "https://api.example.com/"

    def path(self, context):
        return "users"


def respond_with(response: httpx.Response) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: response)


def stream_with(paginator, body, **options):
    class Paged(Users):
        records_path = "items"

    stream = Paged(transport=respond_with(httpx.Response(200, json=body)), **options)
    stream.paginator = paginator
    return stream


ITEMS = [{"id": 1}]


@pytest.mark.parametrize(
    ("paginator", "body", "message"),
    [
        (Cursor("meta.next"), {"items": ITEMS, "next": "a"}, "'meta.next' is not in the body"),
        (NextUrl("links.next"), {"items": ITEMS, "next": "/b"}, "'links.next' is not in the body"),
        (Cursor("nxet"), {"items": ITEMS, "next": "a"}, "but 'next' is"),
    ],
)
async def test_suspicious_selector_is_warned_about(caplog, paginator, body, message):
    await stream_with(paginator, body).read()

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert message in record.getMessage()


@pytest.mark.parametrize(
    ("paginator", "body"),
    [
        (Cursor("meta.next"), {"items": ITEMS, "meta": {"next": None}}),
        (Cursor("meta.next"), {"items": ITEMS, "meta": {}}),
        (NextUrl("next"), {"items": ITEMS}),
        (Cursor("items[-1].token"), {"items": ITEMS}),
    ],
)
async def test_single_page_gives_no_selector_warning(caplog, paginator, body):
    await stream_with(paginator, body).read()

    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "value", "suggestion"),
    [
        ("pagination", PageNumber(), "paginator"),
        ("base_url", "https://api.example.com/", "url_base"),
        ("auth", TokenAuthenticator("t"), "authenticator"),
        ("url_bsae", "https://api.example.com/", "url_base"),
        ("max_trys", 3, "max_tries"),
        ("params", {"a": 1}, "request_params"),
        ("credential", TokenAuthenticator("t"), "authenticator"),
    ],
)
def test_misnamed_attribute_is_refused_with_a_suggestion(name, value, suggestion):
    kind = type("Wrong", (Users,), {name: value})

    with pytest.raises(ConfigError, match=f"did you mean '{suggestion}'"):
        kind()


def test_class_attribute_as_option_is_refused():
    with pytest.raises(ConfigError, match="a class attribute, not an option") as caught:
        Users(max_tries=3)

    assert "max_tries = ..." in str(caught.value)


def test_unrelated_attribute_names_are_accepted():
    kind = type("Fine", (Users,), {"page": 1, "record": {}, "names": [], "paths": [], "since": "2026"})

    assert kind().name == "fine"


@pytest.mark.parametrize("body", [b'[{"id": 1}]', b"<html><body>log in</body></html>\n", b'{"error": "no"}\n'])
async def test_other_content_instead_of_csv_is_refused(body):
    class Rows(Users):
        async def parse_response(self, response, context):
            async for row in csv_rows(response):
                yield row

    with pytest.raises(UnexpectedContent, match="instead of CSV"):
        await Rows(transport=respond_with(httpx.Response(200, content=body))).read()


async def test_csv_header_may_start_with_a_bracket():
    class Rows(Users):
        async def parse_response(self, response, context):
            async for row in csv_rows(response):
                yield row

    records = await Rows(transport=respond_with(httpx.Response(200, content=b"[,<\n1,2\n"))).read()

    assert records == [{"[": "1", "<": "2"}]


@pytest.mark.parametrize("paginator", [Offset(limit=2, into="json"), Offset(param="page.from", limit=2, into="json")])
async def test_offset_into_the_json_body(paginator):
    bodies = []

    def handler(request):
        bodies.append(request.read())
        return httpx.Response(200, json=[{"id": number} for number in range(2 if len(bodies) == 1 else 0)])

    class Search(Users):
        http_method = "POST"
        parallel_pages = False

        def request_json(self, context):
            return {"query": "*", "page": {"size": 2}}

    stream = Search(transport=httpx.MockTransport(handler))
    stream.paginator = paginator
    await stream.read()

    assert len(bodies) == 2
    assert b'"query":"*"' in bodies[1]
    assert (b'"offset":2' in bodies[1]) or (b'"page":{"size":2,"from":2}' in bodies[1])


async def test_json_lines_parsed_as_json_get_a_hint(virtual_clock):
    lines = httpx.Response(200, content=b'{"id":1}\n{"id":2}\n', headers={"Content-Type": "application/x-ndjson"})

    with pytest.raises(MalformedJSON, match="ndjson"):
        await Users(transport=respond_with(lines), clock=virtual_clock).read()


async def test_missing_token_endpoint_hints_at_its_url():
    oauth = Oauth2Authenticator("https://auth.example.com/nope", "app", "secret")
    stream = Users(authenticator=oauth, transport=respond_with(httpx.Response(404)))

    with pytest.raises(AuthError, match="check token_refresh_endpoint") as caught:
        await stream.read()

    assert caught.value.url == "https://auth.example.com/nope"
    assert caught.value.method == "POST"


async def test_middleware_returning_none_is_refused():
    async def return_nothing(request, send):
        await send(request)

    with pytest.raises(ConfigError, match="middleware returned NoneType"):
        await Users(middleware=(return_nothing,), transport=respond_with(httpx.Response(200, json=[]))).read()


async def test_long_wait_is_logged_as_a_warning(caplog, virtual_clock):
    answers = [httpx.Response(429, headers={"Retry-After": message}) for message in ("120", "1")]
    transport = httpx.MockTransport(lambda request: answers.pop(0) if answers else httpx.Response(200, json=[]))

    with caplog.at_level(logging.INFO, "asyncstreams"):
        await Users(transport=transport, clock=virtual_clock).read()

    announced = [record.levelno for record in caplog.records if hasattr(record, "delay")]
    assert announced == [logging.WARNING, logging.INFO]


def test_link_header_has_no_selector():
    assert not hasattr(LinkHeader(), "selector")


def one_page_api(body: Any, **headers: str) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(200, json=body, headers=headers))


RECORDS = [{"id": 1}]
IGNORED_NEXT_PAGES = [
    (Cursor("next"), {"data": RECORDS, "meta": {"next": "abc"}}, {}, "the response has 'meta.next', but Cursor"),
    (Cursor(Header("X-Nxt")), {"data": RECORDS, "next_page_token": "abc"}, {}, "the response has 'next_page_token'"),
    (NextUrl("next"), {"data": RECORDS, "links": {"next": "/items?page=2"}}, {}, "the response has 'links.next'"),
    (LinkHeader(), {"data": RECORDS, "nextPageToken": "abc"}, {}, "the response has 'nextPageToken'"),
    (Cursor("meta.nxt"), {"data": RECORDS, "meta": {"next": "abc"}}, {}, "but 'meta.next' is"),
]


@pytest.mark.parametrize(("paginator", "body", "headers", "message"), IGNORED_NEXT_PAGES)
async def test_ignored_next_page_is_warned_about_once(caplog, paginator, body, headers, message):
    class Items(HttpStream):
        url_base = "https://api.test/"
        records_path = "data"

        def path(self, context):
            return "items"

    stream = Items(transport=one_page_api(body, **headers))
    stream.paginator = paginator

    await stream.read(slices=[{"n": 1}, {"n": 2}])

    warnings = [record.getMessage() for record in caplog.records if "treated as the only one" in record.getMessage()]
    assert len(warnings) == 1
    assert message in warnings[0]


@pytest.mark.parametrize(
    ("paginator", "body"),
    [
        (None, {"data": RECORDS, "next": None, "has_more": False, "meta": {"total": 1}}),
        (Cursor("next"), {"data": RECORDS, "next": None}),
        (Cursor("next", more="has_more"), {"data": RECORDS, "next_url": "/items", "has_more": False}),
        (PageNumber(total_pages="pages"), {"data": RECORDS, "pages": 1, "next": 2}),
        (None, {"data": [{"id": 1, "next": "a field of the record"}]}),
    ],
)
async def test_real_single_page_gives_no_warning(caplog, paginator, body):
    class Items(HttpStream):
        url_base = "https://api.test/"
        records_path = "data"

        def path(self, context):
            return "items"

    stream = Items(transport=one_page_api(body))
    stream.paginator = paginator

    await stream.read()

    assert caplog.messages == []


@pytest.mark.parametrize("method", ["records", "pages"])
async def test_iterating_a_closed_read_raises(method):
    class Items(HttpStream):
        url_base = "https://api.test/"

        def path(self, context):
            return "items"

    async with getattr(Items(transport=one_page_api(RECORDS)), method)() as items:
        pass

    with pytest.raises(RuntimeError, match="the read is closed"):
        _ = [item async for item in items]
    with pytest.raises(RuntimeError, match="the read is closed"):
        await anext(items)


@pytest.mark.parametrize("attribute", ["state", "get_updated_state"])
def test_state_attributes_of_other_frameworks_are_refused(attribute):
    with pytest.raises(ConfigError, match=rf"Items\.{attribute} is not supported\n.*remove it: .* kept automatically"):
        type("Items", (HttpStream,), {"path": lambda self, context: "items", attribute: "updated_at"})()


def test_unclosed_source_ends_silently_with_its_loop(tmp_path):
    script = tmp_path / "left_open.py"
    script.write_text(
        "import asyncio, httpx\n"
        "from asyncstreams import HttpStream, Source\n"
        "class Items(HttpStream):\n"
        "    url_base = 'https://api.test/'\n"
        "    def path(self, context): return 'items'\n"
        "source = Source([Items(transport=httpx.MockTransport(lambda r: httpx.Response(200, json=[])))])\n"
        "async def main():\n"
        "    await source.__aenter__()\n"
        "    await source.read()\n"
        "asyncio.run(main())\n"
        "print(asyncio.run(source.read()))\n"
    )

    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("{'items': []}\n", "")
