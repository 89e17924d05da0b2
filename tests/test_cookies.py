"""Cookies: parsing of Set-Cookie, what is sent where, and what is kept."""

import logging
import pickle
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import (
    ApiKeyAuthenticator,
    AsyncStreamsError,
    HttpStatusError,
    HttpStream,
    MultipleTokenAuthenticator,
    PageNumber,
    Source,
    TokenAuthenticator,
)
from asyncstreams.http.cookies import CookieJar, parse_cookie_date
from asyncstreams.http.origin import Origin, origin_of

ITEMS = "https://api.test/v1/items"
NOW = 1_700_000_000.0


def jar_with(*headers: str, url: str = ITEMS) -> CookieJar:
    jar = CookieJar(origin_of(url))
    jar.store([header.encode("latin-1") for header in headers], url, NOW)
    return jar


def sent(jar: CookieJar, url: str = ITEMS, given: str = "", now: float = NOW) -> str:
    return jar.header(url, now, given)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1", "a=1"),
        ("a=1; Path=/; HttpOnly; SameSite=Lax; Partitioned", "a=1"),
        ("  a  =  1  ;Path=/", "a=1"),
        ('a="quoted; Path=/', 'a="quoted'),
        ("a=b=c==; path=/", "a=b=c=="),
        ('prefs={"lang":"en"}; Path=/', 'prefs={"lang":"en"}'),
        ("a[0]/b:c@d=1", "a[0]/b:c@d=1"),
        ("a=", "a="),
        ("flag", "flag"),
        ("=value", "value"),
        ("a=1; expires", "a=1"),
        ("a=1; Max-Age=soon; Expires=tomorrow", "a=1"),
        ("a=1; Max-Age=+5", "a=1"),
        ("a=1; domain=API.test", "a=1"),
        ("a=1; Domain=.test", "a=1"),
        ("a=1; Domain=; Secure", "a=1"),
        ("a=1; Path=v1", "a=1"),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=10", "a=1"),
    ],
)
def test_set_cookie_is_read_as_browsers_do(header: str, expected: str) -> None:
    assert sent(jar_with(header)) == expected


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "neither name nor value"),
        ("=", "neither name nor value"),
        ("a=\x01", "control character"),
        ("a=\u00e9", "outside ASCII"),
        ("a=1; Domain=other.test", "domain"),
        ("a=1; Domain=pi.test", "domain"),
        ("a=1; Domain=x.api.test", "domain"),
        (f"a={'x' * 4096}", "4,096 bytes"),
    ],
)
def test_cookie_that_is_not_kept_is_a_warning(caplog: pytest.LogCaptureFixture, header: str, reason: str) -> None:
    jar = jar_with(header, "b=2", header)

    assert sent(jar) == "b=2"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert reason in caplog.text
    assert "a=" not in caplog.text


@pytest.mark.parametrize(
    ("set_at", "attribute", "path", "is_sent"),
    [
        ("/v1/items", "", "/v1/items", True),
        ("/v1/items", "", "/v1/users?x=/v2", True),
        ("/v1/items", "", "/v1", True),
        ("/v1/items", "", "/v10/items", False),
        ("/v1/items", "", "/", False),
        ("/items", "", "/users", True),
        ("/v1/items", "; Path=/", "/v2", True),
        ("/v1/items", "; Path=/v1/items/", "/v1/items/7", True),
        ("/v1/items", "; Path=/v1/items/", "/v1/items", False),
        ("/v1/items", "; Path=/v2; Path=/v1", "/v1/a/b", True),
        ("/v1/items", "; Path=/other", "/v1/items", False),
    ],
)
def test_cookie_is_sent_below_its_path(set_at: str, attribute: str, path: str, is_sent: bool) -> None:
    jar = jar_with(f"a=1{attribute}", url=f"https://api.test{set_at}")

    assert sent(jar, f"https://api.test{path}") == ("a=1" if is_sent else "")


def test_longer_path_comes_first_then_the_older_cookie() -> None:
    jar = jar_with("a=1; Path=/", "b=2; Path=/v1", "c=3; Path=/", "a=4; Path=/")

    assert sent(jar) == "b=2; a=4; c=3"


def test_secure_cookie_needs_https(caplog: pytest.LogCaptureFixture) -> None:
    plain = "http://api.test/v1/items"

    assert sent(jar_with("a=1; Secure")) == "a=1"
    assert sent(jar_with("a=1; Secure", url=plain), plain) == ""
    assert "https only" in caplog.text


@pytest.mark.parametrize(
    ("attribute", "lifetime"),
    [
        ("Max-Age=10", 10),
        ("Max-Age=10; Max-Age=20", 20),
        ("Expires=Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("Expires=Tue, 14 Nov 2033 22:13:30 GMT; Max-Age=10", 10),
        ("Expires=Tuesday, 14-Nov-23 22:13:30 GMT", 10),
    ],
)
def test_cookie_ends_when_it_expires(attribute: str, lifetime: float) -> None:
    jar = jar_with(f"a=1; {attribute}", "b=2")

    assert sent(jar, now=NOW + lifetime - 1) == "a=1; b=2"
    assert sent(jar, now=NOW + lifetime) == "b=2"
    assert len(jar) == 1


@pytest.mark.parametrize("attribute", ["Max-Age=0", "Max-Age=-1", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"])
def test_expired_cookie_deletes_the_one_of_its_name(attribute: str) -> None:
    jar = jar_with("a=1", f"a=; {attribute}")

    assert sent(jar) == ""
    assert len(jar) == 0


def test_50_cookies_are_kept_the_newest_ones(caplog: pytest.LogCaptureFixture) -> None:
    jar = jar_with(*(f"c{number}=1" for number in range(52)))

    assert len(jar) == 50
    assert sent(jar).startswith("c2=1; ")
    assert "more than 50" in caplog.text


def test_header_of_the_author_wins_and_is_completed() -> None:
    jar = jar_with("a=1", "b=2")

    assert sent(jar, given="b=mine; lang=en") == "b=mine; lang=en; a=1"


def test_jar_shows_no_cookie() -> None:
    jar = jar_with("sid=s3cret")

    assert repr(jar) == "CookieJar(https://api.test, 1 cookies)"
    assert "s3cret" not in repr(vars(jar))


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "06 nov 1994 8:49:37",
        "x 6 November 08:49:37pm 94",
    ],
)
def test_cookie_dates_of_all_forms(text: str) -> None:
    expected = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()

    assert parse_cookie_date(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "never",
        "31 Feb 2030 00:00:00",
        "1 Jan 1600 00:00:00",
        "1 Jan 2030 24:00:00",
        "1 Jan 2030",
        "0 Jan 2030 1:1:1",
    ],
)
def test_text_that_is_no_cookie_date(text: str) -> None:
    assert parse_cookie_date(text) is None


@given(st.integers(-8_000_000_000, 250_000_000_000))
def test_http_dates_are_read_to_the_second(seconds: int) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%a, %d %b ") + f"{moment.year:04} {moment:%H:%M:%S} GMT"

    assert parse_cookie_date(text) == seconds


@given(st.binary(max_size=60))
def test_any_bytes_give_a_header_that_can_be_sent(header: bytes) -> None:
    jar = CookieJar(Origin("https", "api.test", 443))
    jar.store([header], ITEMS, NOW)

    value = sent(jar)
    assert all(" " <= char <= "~" for char in value)
    httpx.Headers({"Cookie": value})


def declare(**attributes: Any) -> HttpStream:
    defaults = {
        "url_base": "https://api.test/v1",
        "path": lambda self, context: "items",
        "paginator": PageNumber(),
        "parallel_pages": False,
    }
    return type("Items", (HttpStream,), defaults | attributes)()


def with_cookie(page: int, *cookies: str) -> httpx.Response:
    return httpx.Response(
        200, json=[{"id": page}] if page < 3 else [], headers=[("Set-Cookie", cookie) for cookie in cookies]
    )


def cookies_sent(route: Any) -> list[str | None]:
    return [call.request.headers.get("cookie") for call in route.calls]


@pytest.fixture
def route(respx_mock):
    def respond(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params.get("page", "1"))
        return with_cookie(page, f"node={page}; Path=/", "lang=en")

    return respx_mock.route(host="api.test").mock(side_effect=respond)


async def test_cookies_come_back_with_the_next_page(route):
    await declare().read()

    assert cookies_sent(route) == [None, "lang=en; node=1", "lang=en; node=2"]


async def test_cookies_false_sends_none(route):
    await declare(cookies=False).read()

    assert cookies_sent(route) == [None] * 3


async def test_cookies_end_with_the_session(route):
    stream = declare(paginator=None)
    await stream.read()
    await stream.read()

    assert cookies_sent(route) == [None, None]


async def test_streams_of_a_source_share_cookies_of_equal_credentials(route):
    first, second = (declare(paginator=None, name=name, authenticator=TokenAuthenticator("t")) for name in "ab")
    async with Source([first, second], max_concurrency=1).pages() as pages:
        async for _ in pages:
            pass

    assert cookies_sent(route) == [None, "lang=en; node=1"]


async def test_other_credentials_and_origins_have_cookies_of_their_own(route, respx_mock):
    other = respx_mock.route(host="files.test").respond(json=[], headers={"Set-Cookie": "other=1; Path=/"})
    streams = [
        declare(name="a", paginator=None, authenticator=TokenAuthenticator("t")),
        declare(name="b", paginator=None, authenticator=TokenAuthenticator("u")),
        declare(name="c", paginator=None),
        declare(
            name="d",
            paginator=None,
            authenticator=TokenAuthenticator("t"),
            allowed_origins=("https://files.test",),
            path=lambda self, context: "https://files.test/v1/items",
        ),
    ]

    await Source(streams, max_concurrency=1).read()

    assert cookies_sent(route) == [None] * 3
    assert cookies_sent(other) == [None]


async def test_each_of_several_tokens_has_its_own_cookies(respx_mock):
    def respond(request: httpx.Request) -> httpx.Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        return with_cookie(int(request.url.params.get("page", "1")), f"user={token}")

    route = respx_mock.route(host="api.test").mock(side_effect=respond)

    await declare(authenticator=MultipleTokenAuthenticator(["t", "u"])).read()

    assert cookies_sent(route) == [None, None, "user=t"]


async def test_cookie_header_of_the_stream_is_completed(route):
    await declare(request_headers=lambda self, context: {"Cookie": "lang=de"}).read()

    assert cookies_sent(route) == ["lang=de", "lang=de; node=1", "lang=de; node=2"]


async def test_api_key_in_a_cookie_replaces_one_of_its_name(route):
    await declare(authenticator=ApiKeyAuthenticator("k3y", "node", into="cookie")).read()

    assert cookies_sent(route) == ["node=k3y", "lang=en; node=k3y", "lang=en; node=k3y"]


async def test_retry_sends_the_cookie_of_the_failure(respx_mock, virtual_clock):
    answers = [httpx.Response(503, headers={"Set-Cookie": "node=1"}), httpx.Response(200, json=[])]
    route = respx_mock.get(ITEMS).mock(side_effect=answers)

    await declare(paginator=None, clock=virtual_clock).read()

    assert cookies_sent(route) == [None, "node=1"]


async def test_middleware_that_sends_twice_gets_current_cookies(route):
    async def twice(request, send):
        await send(request)
        return await send(request)

    await declare(paginator=None, middleware=[twice]).read()

    assert cookies_sent(route) == [None, "lang=en; node=1"]


async def test_redirect_sends_the_cookie_that_it_set(respx_mock):
    answers = [
        httpx.Response(302, headers={"Location": ITEMS, "Set-Cookie": "seen=1"}),
        httpx.Response(200, json=[{"id": 1}]),
    ]
    route = respx_mock.get(ITEMS).mock(side_effect=answers)

    await declare(paginator=None, request_kwargs=lambda self, context: {"follow_redirects": True}).read()

    assert cookies_sent(route) == [None, "seen=1"]


async def test_cookie_expires_by_the_clock_of_the_stream(respx_mock, virtual_clock):
    answers = [
        httpx.Response(503, headers={"Set-Cookie": "a=1; Max-Age=5", "Retry-After": "60"}),
        httpx.Response(200, json=[]),
    ]
    route = respx_mock.get(ITEMS).mock(side_effect=answers)

    await declare(paginator=None, clock=virtual_clock).read()

    assert cookies_sent(route) == [None, None]


async def test_cookies_appear_in_no_error_log_or_pickle(respx_mock, caplog):
    caplog.set_level(logging.DEBUG)
    answers = [
        with_cookie(1, "sid=s3cret-cookie"),
        httpx.Response(400, json={"message": "bad session s3cret-cookie"}),
    ]
    respx_mock.route(host="api.test").mock(side_effect=answers)

    with pytest.raises(HttpStatusError) as caught:
        await declare().read()

    shown = [str(caught.value), repr(caught.value), caplog.text, repr(pickle.dumps(caught.value.args))]
    assert not [text for text in shown if "s3cret-cookie" in text]
    assert isinstance(caught.value, AsyncStreamsError)
