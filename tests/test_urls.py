"""URLs of requests: paths, parameters, origins and links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, unquote_to_bytes, urlencode, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import ConfigError, CrossOriginLink, HttpStream, NextUrl, PageNumber, RequestContext
from asyncstreams.http.origin import Origin, allowed_origins, origin_of, resolve
from asyncstreams.urls import join, with_params

often = settings(max_examples=60, deadline=None)
through_a_stream = settings(max_examples=20, deadline=None)

BASE = "https://api.example.com"
ALLOWED = frozenset([origin_of(BASE)])
segments = st.one_of(
    st.text(min_size=1, max_size=12),
    st.text(alphabet="./%?#\\ &=+ä\U0001f600\n", min_size=1, max_size=6),
    st.sampled_from([".", "..", "/", "//", "../..", "%2e%2e", "%", "%2F", "a/b", "?x=1", "#f", " ", "\x00"]),
    st.integers(),
)
bases = st.lists(st.from_regex(r"[a-z0-9.]{1,5}", fullmatch=True).filter(lambda s: s.strip(".")), max_size=3).map(
    lambda parts: "/".join([BASE, *parts])
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.lists(st.text(max_size=5), max_size=3)
)


async def requested_urls(path: Any, params: Any = None, base: str = f"{BASE}/v1", **attributes: Any) -> list[httpx.URL]:
    seen: list[httpx.URL] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json=[])

    class Things(HttpStream):
        url_base = base
        paginator = attributes.get("paginator")

        def path(self, context: RequestContext) -> Any:
            return path

        def request_params(self, context: RequestContext) -> Any:
            return params

    await Things(transport=httpx.MockTransport(respond)).read()
    return seen


@often
@given(base=bases, slash=st.sampled_from(["", "/"]), path=st.lists(segments, min_size=1, max_size=4).map(tuple))
def test_tuple_segments_round_trip(base: str, slash: str, path: tuple[str | int, ...]) -> None:
    url = join("Things", base + slash, path)

    path_part = url.removeprefix(f"{base}/")
    assert url.startswith(f"{base}/")
    assert [unquote(part) for part in path_part.split("/")] == [str(segment) for segment in path]


@often
@given(base=bases, slash=st.sampled_from(["", "/"]), lead=st.sampled_from(["", "/"]), data=st.data())
def test_every_segment_of_base_and_str_path_is_kept(base: str, slash: str, lead: str, data: st.DataObject) -> None:
    own = data.draw(st.lists(st.from_regex(r"[A-Za-z0-9_~:@!$&'()*+,;=-]{1,6}", fullmatch=True), min_size=1))

    url = join("Things", base + slash, lead + "/".join(own))

    assert url == "/".join([base, *own])


@through_a_stream
@given(path=st.lists(segments, min_size=1, max_size=3).map(tuple))
async def test_tuple_segments_arrive_at_the_transport(path: tuple[str | int, ...]) -> None:
    (url,) = await requested_urls(path)

    raw = url.raw_path.decode("ascii")
    assert url.host == "api.example.com"
    assert [unquote(part) for part in raw.split("/")] == ["", "v1", *map(str, path)]


@often
@given(text=st.text(max_size=20).filter(lambda s: "%" not in s and "?" not in s and not s.startswith("/")))
def test_unsafe_characters_of_a_str_path_are_encoded(text: str) -> None:
    if {".", ".."} & set(text.split("/")):
        with pytest.raises(ConfigError):
            join("Things", BASE, text)
        return

    url = join("Things", f"{BASE}/", text)

    assert url.isascii()
    assert not set(url) & set(' "<>\\^`{|}#\n\r\t\x00')
    assert unquote(url.removeprefix(f"{BASE}/")) == text


@often
@given(octets=st.binary(min_size=1, max_size=5))
def test_percent_escapes_of_a_str_path_are_kept(octets: bytes) -> None:
    escaped = "".join(f"%{octet:02X}" for octet in octets)

    assert join("Things", BASE, f"a/{escaped}/b") == f"{BASE}/a/{escaped}/b"
    assert join("Things", BASE, f"a?q={escaped}") == f"{BASE}/a?q={escaped}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("50%", "50%25"),
        ("100%/x%2Fy", "100%25/x%2Fy"),
        ("a b/ü", "a%20b/%C3%BC"),
        ("a#b", "a%23b"),
        *(("users/", "users/"), ("/users", "users")),
        ("search?q=a b", "search?q=a%20b"),
        ("", ""),
    ],
)
def test_str_path_is_encoded_where_necessary(path: str, expected: str) -> None:
    assert join("Things", f"{BASE}/v1/", path) == f"{BASE}/v1/{expected}"


def test_stray_percent_sign_in_a_path_query_is_encoded() -> None:
    assert join("Things", BASE, "search?q=50%") == f"{BASE}/search?q=50%25"


@pytest.mark.parametrize("path", ["..", ".", "../users", "users/..", "a/./b", "/../x", "a/../b?x=1", "../"])
async def test_str_path_with_dot_segments_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"path"):
        await requested_urls(path)


@pytest.mark.parametrize("segment", ["", None, True, 1.5, b"x", ["a"]])
async def test_segment_that_is_empty_or_of_a_wrong_type_is_refused(segment: Any) -> None:
    with pytest.raises(ConfigError, match="segment"):
        await requested_urls(("users", segment))


@pytest.mark.parametrize("segment", [True, 1.0])
async def test_wrong_segment_type_is_refused_after_an_equal_int(segment: Any) -> None:
    await requested_urls(("users", 1))

    with pytest.raises(ConfigError, match="segment"):
        await requested_urls(("users", segment))


@pytest.mark.parametrize("path", [None, 7, ["users", "1"], b"users"])
async def test_path_of_a_wrong_type_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="path"):
        await requested_urls(path)


@often
@given(params=st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=4))
def test_params_round_trip_without_none_and_with_repeated_lists(params: dict[str, Any]) -> None:
    expected = [
        (name, str(item).lower() if isinstance(item, bool) else str(item))
        for name, value in params.items()
        for item in (value if isinstance(value, list) else [value])
        if item is not None
    ]

    url = with_params("Things", f"{BASE}/a", params)

    assert url.partition("?")[0] == f"{BASE}/a"
    assert parse_qsl(url.partition("?")[2], keep_blank_values=True) == expected


@often
@given(
    own=st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=5)), max_size=4),
    params=st.dictionaries(st.sampled_from("bcd"), st.text(max_size=5), min_size=1),
)
def test_params_replace_equal_names_in_the_path_query(own: list[tuple[str, str]], params: dict[str, str]) -> None:
    url = with_params("Things", f"{BASE}?{urlencode(own)}", params)

    kept = [pair for pair in own if pair[0] not in params]
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [*kept, *params.items()]


async def test_path_query_and_paginator_parameters_are_combined() -> None:
    (url,) = await requested_urls("users?active=true&page=9", {"sort": "id"}, paginator=PageNumber(size=5))

    assert parse_qs(url.query.decode()) == {"active": ["true"], "sort": ["id"], "page": ["1"], "per_page": ["5"]}


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ([("id", 1), ("sort", "a"), ("id", 2)], "id=1&sort=a&id=2"),
        ((("id", [1, 2]), ["flag", True], ("none", None)), "id=1&id=2&flag=true"),
        (httpx.QueryParams("id=1&id=2&sort=a b"), "id=1&id=2&sort=a%20b"),
        ("id=1&sort=a&id=2", "id=1&sort=a&id=2"),
        ("?flag&$filter=a eq 'ü'&b=50%&c=%2F+d#e", "flag&$filter=a%20eq%20'%C3%BC'&b=50%25&c=%2F+d%23e"),
        ({"id": 1}.items(), "id=1"),
        *((empty, "") for empty in ({}, [], (), "", "?", httpx.QueryParams())),
    ],
)
async def test_params_in_each_form_are_sent(params: Any, query: str) -> None:
    (url,) = await requested_urls("users", params)

    assert url.raw_path.decode() == (f"/v1/users?{query}" if query else "/v1/users")


@pytest.mark.parametrize("params", ["page=9&id=1", [("page", 9), ("id", 1)], httpx.QueryParams({"page": 9, "id": 1})])
async def test_paginator_parameters_replace_those_in_each_form(params: Any) -> None:
    (url,) = await requested_urls("users", params, paginator=PageNumber())

    assert url.query == b"id=1&page=1"


@pytest.mark.parametrize(
    "params", [b"id=1", 7, ["id=1"], [("id", 1, 2)], [("id",)], {"ab", "cd"}, {1: "x"}, [(1, "x")]]
)
async def test_params_of_another_form_are_a_config_error(params: Any) -> None:
    with pytest.raises(ConfigError, match="parameter"):
        await requested_urls("users", params)


@pytest.mark.parametrize("paginated", [False, True])
@pytest.mark.parametrize("form", [[("id", 1), ("id", 2)], httpx.QueryParams("id=1&id=2")])
async def test_form_fields_may_be_repeated(form: Any, paginated: bool) -> None:
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, json=[])

    class Search(HttpStream):
        url_base = BASE
        http_method = "POST"
        paginator = PageNumber(into="data") if paginated else None

        def path(self, context: RequestContext) -> str:
            return "search"

        def request_data(self, context: RequestContext) -> Any:
            return form

    await Search(transport=httpx.MockTransport(respond)).read()

    assert bodies == [b"id=1&id=2&page=1" if paginated else b"id=1&id=2"]


def test_percent_escapes_of_a_query_survive_added_params() -> None:
    url = with_params("Things", join("Things", BASE, "search?q=%FF"), {"page": 1})

    assert unquote_to_bytes(urlsplit(url).query) == b"q=\xff&page=1"


@pytest.mark.parametrize("value", [{"a": 1}, b"x", [{"a": 1}]])
def test_parameter_without_a_text_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match="'filter'"):
        with_params("Things", BASE, {"filter": value})


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.example.com", ("https", "api.example.com", 443)),
        ("https://api.example.com:443/x", ("https", "api.example.com", 443)),
        ("HTTPS://API.Example.COM/x", ("https", "api.example.com", 443)),
        ("https://M\u00dcNCHEN.example/x", ("https", "xn--mnchen-3ya.example", 443)),
        ("https://XN--MNCHEN-3ya.example/x", ("https", "xn--mnchen-3ya.example", 443)),
        ("https://[0:0:0:0:0:0:0:1]/x", ("https", "::1", 443)),
        ("http://api.example.com", ("http", "api.example.com", 80)),
        ("http://api.example.com:443", ("http", "api.example.com", 443)),
        ("https://[2001:DB8::1]:8443/", ("https", "2001:db8::1", 8443)),
        ("https://user:pw@api.example.com/", ("https", "api.example.com", 443)),
    ],
)
def test_origin_is_scheme_host_and_port(url: str, origin: tuple[str, str, int]) -> None:
    assert origin_of(url) == Origin(*origin)


@often
@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.one_of(st.from_regex(r"[a-z][a-z0-9.-]{0,8}[a-z]", fullmatch=True), st.ip_addresses(v=6).map(str)),
    port=st.integers(1, 65535),
)
def test_text_of_an_origin_has_the_same_origin(scheme: str, host: str, port: int) -> None:
    origin = Origin(scheme, host, port)

    assert origin_of(str(origin)) == origin
    assert origin_of(f"{origin}/path?x=http://other.example/") == origin


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "users",
            "/users",
            "//api.example.com/x",
            "ftp://api.example.com/",
            "file:///x",
            "https://",
            "https:///x",
        ),
        "https://api.example.com:99999/",
        "https://api.example.com:x/",
        "https://api.example.com\\@evil.example/",
        "https://evil.example\\.api.example.com/",
        "https://api.example.com /",
        "https://api.exam\tple.com/",
        "https://api.example.com/a\r\nHost: evil",
        "https://[::1/",
    ],
)
def test_url_that_is_not_absolute_http_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        origin_of(url)


def test_port_0_is_not_the_default_port() -> None:
    with pytest.raises(CrossOriginLink):
        resolve(f"{BASE}:0/x", BASE, ALLOWED)


@pytest.mark.parametrize(
    "link",
    [
        *("https://evil.example/", "//evil.example/x", "\t//evil.example/x", "ht\ntps://evil.example/x"),
        *("http://api.example.com:8080/", "http://www.api.example.com/", "http://evil.example/"),
        "https://api.example.com:8443/",
        "https://api.example.com@evil.example/",
        "https://api.example.com:443@evil.example/",
        "https://user:pw@api.example.com/",
        "https://evil.example#@api.example.com/",
        "https://evil.example?@api.example.com/",
        "https://evil.example\\@api.example.com/",
        "https://api.example.com.evil.example/",
        *("https://evilapi.example.com/", "https://example.com/", "https://api.example.com./"),
        "https://api%2eexample.com/",
        *("https://[::1]/", "https://127.0.0.1/"),
        *("file:///etc/passwd", "data:application/json,[]", "javascript:alert(1)"),
    ],
)
def test_link_to_another_origin_is_refused(link: str) -> None:
    with pytest.raises(CrossOriginLink):
        resolve(link, f"{BASE}/v1/users?page=1", ALLOWED)


@pytest.mark.parametrize(
    "link",
    [
        *("https://[evil/", "https://ap\u2100i.example.com/", "//[::1", "/users\x7f", "/users\x00", "/\ud800"),
        *("https://api.example .com/", "https://api.example\u00a0.com/", "https://-\u00fc-.example/"),
    ],
)
def test_link_that_is_not_a_url_is_refused(link: str) -> None:
    with pytest.raises(CrossOriginLink):
        resolve(link, f"{BASE}/v1/users", ALLOWED)


@often
@given(
    link=st.text(alphabet="https:/\\@.#?[]apievl-com0489%\t ", max_size=24)
    | st.text(max_size=24).filter(lambda text: "\x7f" not in text)
)
def test_resolved_link_has_an_allowed_origin_for_httpx(link: str) -> None:
    try:
        url = resolve(link, f"{BASE}/v1/users", ALLOWED)
    except (CrossOriginLink, ValueError):
        return

    seen = httpx.URL(url)
    assert (seen.scheme, seen.host, seen.userinfo) == ("https", "api.example.com", b"")
    assert seen.port in (None, 0)  # port 0 has its own test


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("?page=2", f"{BASE}/v1/users?page=2"),
        ("users?page=2", f"{BASE}/v1/users?page=2"),
        ("/v2/users", f"{BASE}/v2/users"),
        ("../v2/users", f"{BASE}/v2/users"),
        ("//api.example.com/x", f"{BASE}/x"),
        (f"  {BASE}/x  ", f"{BASE}/x"),
        (f"{BASE}:443/x#part", f"{BASE}:443/x"),
        ("https://API.EXAMPLE.COM/x", "https://API.EXAMPLE.COM/x"),
        ("Things?$filter=name eq 'Z\u00fcrich' & x", f"{BASE}/v1/Things?$filter=name%20eq%20'Z%C3%BCrich'%20&%20x"),
        ("/a b?q=a+b&c=%20&d=100%", f"{BASE}/a%20b?q=a+b&c=%20&d=100%"),
        ("HTTPS://Api.Example.Com/a\u00a0b", "https://Api.Example.Com/a%C2%A0b"),
        ("/v1\n/users\t?a=1", f"{BASE}/v1/users?a=1"),
        ("http://api.example.com/v1/users?page=2", f"{BASE}/v1/users?page=2"),
        ("HTTP://API.example.com:80/v1/a b", f"{BASE}/v1/a%20b"),
        ("http://api.example.com:443/v1", f"{BASE}/v1"),
    ],
)
def test_link_within_the_origin_is_resolved_per_rfc_3986(link: str, expected: str) -> None:
    assert resolve(link, f"{BASE}/v1/users?page=1", ALLOWED) == expected


def test_unicode_and_punycode_hosts_are_equal() -> None:
    allowed = allowed_origins("Things", "https://M\u00fcnchen.example", ())

    for host in ("m\u00fcnchen.example", "M\u00dcNCHEN.example", "xn--mnchen-3ya.EXAMPLE"):
        url = resolve(f"https://{host}/\u00fc", BASE, allowed)
        assert httpx.URL(url).raw_host == b"xn--mnchen-3ya.example"
        assert url.endswith("/%C3%BC")


def test_http_api_keeps_its_http_links() -> None:
    allowed = allowed_origins("Things", "http://api.example.com", ())

    assert resolve("http://api.example.com/x", BASE, allowed) == "http://api.example.com/x"
    with pytest.raises(CrossOriginLink):
        resolve("https://api.example.com/x", BASE, allowed)


@pytest.mark.parametrize(
    ("url_base", "requested"),
    [
        ("HTTPS://Api.Example.COM:443/v1/", "https://api.example.com/v1/things"),
        ("https://m\u00fcnchen.example/\u00fc", "https://xn--mnchen-3ya.example/%C3%BC/things"),
    ],
)
async def test_url_base_as_it_is_written(url_base: str, requested: str) -> None:
    urls: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        urls.append(f"{request.url.scheme}://{request.url.raw_host.decode()}{request.url.raw_path.decode()}")
        return httpx.Response(200, json=[])

    class Things(HttpStream):
        def path(self, context: RequestContext) -> str:
            return "things"

    Things.url_base = url_base
    await Things(transport=httpx.MockTransport(respond)).read()

    assert urls == [requested]


def test_refused_link_is_shown_without_query_and_user_info() -> None:
    with pytest.raises(CrossOriginLink) as caught:
        resolve("https://user:hunter2@evil.example/x?token=s3cr3t", BASE, ALLOWED)

    assert "evil.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_declared_origin_is_allowed_besides_url_base() -> None:
    allowed = allowed_origins("Things", f"{BASE}/v1", ("https://files.example.com",))

    assert resolve("https://files.example.com/a", BASE, allowed) == "https://files.example.com/a"
    assert resolve("/b", BASE, allowed) == f"{BASE}/b"


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://a b/",
        pytest.param(
            "https://[bad",
        ),
    ],
)
def test_url_base_that_is_not_http_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Things\.url_base"):
        allowed_origins("Things", url, ())


@pytest.mark.parametrize("host", ["localhost", "api.localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_loopback_hosts_are_recognized(host: str) -> None:
    assert origin_of(f"http://{host}:8080/").is_loopback


@pytest.mark.parametrize("host", ["localhost.a.example", "127.0.0.1.a.example", "evillocalhost", "0.0.0.0", "10.0.0.1"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not origin_of(f"http://{host}:8080/").is_loopback


@pytest.mark.parametrize("make_link", [lambda host: f"https://{host}/next", lambda host: f"//{host}/next"])
async def test_next_link_to_another_host_receives_no_request(make_link: Callable[[str], str]) -> None:
    hosts: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(200, json={"items": [{"id": 1}], "next": make_link("evil.example")})

    class Things(HttpStream):
        url_base = BASE
        records_path = "items"
        paginator = NextUrl("next")

        def path(self, context: RequestContext) -> str:
            return "things"

    with pytest.raises(CrossOriginLink):
        await Things(transport=httpx.MockTransport(respond)).read()

    assert hosts == ["api.example.com"]
