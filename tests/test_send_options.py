"""Options of requests and connections: each one is used, on every transport, or refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from located_items import LocatedItems
from loopback import Items, Lines, TwoPages, always, http_response, serve

from asyncstreams import ConfigError, HttpStream, Source, Timeouts
from asyncstreams.http.request_builder import SendOptions
from asyncstreams.http.send_options import parse_request_kwargs

ONE = http_response(b'[{"id":1}]')
URL = "https://api.example.com/items"
PROXY = "http://proxy.example.com:8080"


def parsed(url: str = URL, stream: HttpStream | None = None, **kwargs: Any) -> SendOptions:
    return parse_request_kwargs(stream or Items(URL), kwargs, SendOptions(Timeouts()), url)


def refusal(stream: HttpStream | None = None, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(stream=stream, **kwargs)
    return str(caught.value)


CONNECTION_OPTIONS = [("verify", False), ("cert", "client.pem"), ("proxy", PROXY), ("proxies", PROXY), ("http2", True)]


@pytest.mark.parametrize(("name", "value"), CONNECTION_OPTIONS)
async def test_connection_option_beside_a_transport_is_refused(name, value):
    async with httpx.AsyncHTTPTransport() as transport:
        stream = LocatedItems("http://127.0.0.1:9/", **{name: value})
        stream.transport = transport

        with pytest.raises(ConfigError, match="transport of your own") as caught:
            await stream.read()

    assert name.replace("proxies", "proxy") in str(caught.value)


@pytest.mark.parametrize(("name", "value"), CONNECTION_OPTIONS)
async def test_connection_option_is_accepted_by_a_mock(name, value):
    stream = LocatedItems(URL, **{name: value})
    stream.transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1}]))

    assert await stream.read() == [{"id": 1}]


@pytest.mark.parametrize("trust_env", [True, False])
def test_trust_env_beside_a_transport_is_refused(trust_env):
    transport = httpx.AsyncHTTPTransport()

    for make in (lambda **options: Items(URL, **options), lambda **options: Source([Items(URL)], **options)):
        with pytest.raises(ConfigError, match="trust_env"):
            make(transport=transport, trust_env=trust_env)


@pytest.mark.parametrize("name", ["trace", "target", "sni_host", "tag"])
def test_extension_that_nothing_reads_is_refused(name):
    assert repr(name) in refusal(extensions={name: "x"})


@pytest.mark.parametrize("name", ["trace", "target"])
def test_extension_of_httpx_is_accepted_where_httpx_sends(name):
    assert parsed(http2=True, extensions={name: "x"}).extensions == {name: "x"}
    assert parsed(proxy="socks5://127.0.0.1:9", extensions={name: "x"}).extensions == {name: "x"}
    assert parsed(stream=Items(URL, transport=httpx.AsyncHTTPTransport()), extensions={name: "x"}).extensions


def test_any_extension_is_accepted_beside_a_middleware():
    async def traced(request, send):
        return await send(request)

    assert parsed(stream=Items(URL, middleware=(traced,)), extensions={"tag": 1}).extensions == {"tag": 1}


@pytest.mark.parametrize("extensions", [{"timeout": 5}, {"asyncstreams": 1}, {"connected": 1}, {"sni_hostname": 1}, 7])
def test_extension_that_would_be_overwritten_is_refused(extensions):
    assert "extension" in refusal(extensions=extensions)


async def test_sni_hostname_with_http2_through_a_proxy_is_refused():
    kwargs = {"http2": True, "proxy": "http://127.0.0.1:9", "extensions": {"sni_hostname": "api.example.com"}}

    with pytest.raises(ConfigError, match="sni_hostname would be ignored"):
        await LocatedItems("https://127.0.0.1:9/", **kwargs).read()


@pytest.mark.parametrize(("kind", "value"), [(Items, True), (Lines, False)])
def test_stream_that_contradicts_parse_response_is_refused(kind, value):
    with pytest.raises(ConfigError, match="parse_response"):
        parse_request_kwargs(kind(URL), {"stream": value}, SendOptions(Timeouts()), URL)


def test_stream_that_agrees_with_parse_response_is_accepted():
    assert parse_request_kwargs(Lines(URL), {"stream": True}, SendOptions(Timeouts()), URL)
    assert parse_request_kwargs(Items(URL), {"stream": False}, SendOptions(Timeouts()), URL)


@pytest.mark.parametrize(
    ("first", "second"), [("follow_redirects", "allow_redirects"), ("proxy", "proxies"), ("proxies", "proxy")]
)
def test_option_and_its_alias_together_are_refused(first, second):
    assert "the same option" in refusal(**{first: None, second: None})


@pytest.mark.parametrize(("name", "value"), [("http2", "yes"), ("follow_redirects", 1), ("proxy", 8080)])
def test_option_of_a_wrong_type_is_refused(name, value):
    assert name in refusal(**{name: value})


@pytest.mark.parametrize(
    ("proxies", "url", "proxy"),
    [
        ({"http": "http://a", "https": "http://b"}, "http://api.example.com/", "http://a"),
        ({"http": "http://a", "https": "http://b"}, "https://api.example.com/", "http://b"),
        ({"http://": "http://a"}, "https://api.example.com/", None),
        ({"all://": "http://c"}, "https://api.example.com/", "http://c"),
        ({"https": None, "all": "http://c"}, "https://api.example.com/", "http://c"),
    ],
)
def test_proxy_of_a_mapping_is_that_of_the_scheme(proxies, url, proxy):
    assert parsed(url, proxies=proxies).client.proxy == proxy


def test_proxy_of_a_single_host_is_refused():
    assert "'https://api.example.com'" in refusal(proxies={"https://api.example.com": PROXY})


@pytest.mark.parametrize(
    ("timeout", "connect", "read"),
    [
        (7, 7, 7),
        ((3, 8), 3, 8),
        ([3, None], 3, 30),
        (None, 10, 30),
        (httpx.Timeout(5), 5, 5),
        (httpx.Timeout(5, read=9), 5, 9),
        (httpx.Timeout(None, connect=4), 4, 30),
        (Timeouts(connect=2, read=3), 2, 3),
    ],
)
def test_timeout_in_each_form_is_used(timeout, connect, read):
    timeouts = parsed(timeout=timeout).timeouts

    assert (timeouts.connect, timeouts.read) == (connect, read)


@pytest.mark.parametrize("timeout", [0, (0, 5), (5, 0), (1, 2, 3), "5", True, (1, "2"), httpx.Timeout(5, write=60)])
def test_timeout_that_cannot_be_used_is_refused(timeout):
    assert "timeout" in refusal(timeout=timeout)


@pytest.mark.parametrize("http2", [False, True], ids=["built-in", "of httpx"])
@pytest.mark.parametrize("idempotent", [True, False])
async def test_connections_are_reused_only_by_idempotent_requests(http2, idempotent):
    class Pages(TwoPages):
        def request_kwargs(self, context):
            return {"http2": http2}

    async with serve(always(ONE)) as server:
        stream = Pages(server.url)
        stream.idempotent = idempotent
        await stream.read()

    assert [request.connection for request in server.requests] == [0, 0 if idempotent else 1]
