"""Proxies: their URLs, what they receive and refuse, and the choice of the environment."""

from __future__ import annotations

import importlib.util
from base64 import b64decode
from typing import Any

import httpx
import pytest
from environment import clear_network_variables
from hypothesis import example, given
from hypothesis import strategies as st
from located_items import LocatedItems
from loopback import http_response, serve

from asyncstreams import ConfigError
from asyncstreams.errors import HostUnavailable
from asyncstreams.wire.proxies import environment_proxy, parse_proxy

PROXY = "http://proxy.test:3128"
ONE = http_response(b'[{"id":1}]')


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    clear_network_variables(monkeypatch)


@pytest.mark.parametrize(
    ("url", "shown", "pair"),
    [
        ("http://proxy.test", "http://proxy.test:80", None),
        ("https://proxy.test", "https://proxy.test:443", None),
        ("SOCKS5://proxy.test", "socks5://proxy.test:1080", None),
        ("http://[::1]:3128", "http://[::1]:3128", None),
        ("http://us%40er:p%23w%2F%25:x@proxy.test:1", "http://proxy.test:1", b"us@er:p#w/%:x"),
        ("http://user@proxy.test:1", "http://proxy.test:1", b"user:"),
    ],
)
def test_url_of_a_proxy_is_parsed(url, shown, pair):
    proxy = parse_proxy(url, "proxy")

    assert str(proxy) == shown
    assert "authorization" not in repr(proxy)
    assert pair == (proxy.authorization and b64decode(proxy.authorization.removeprefix("Basic ")))


@pytest.mark.parametrize(
    "url", ["proxy:3128", "ftp://u:hunter22@proxy", "http://", "http://u:hunter22@proxy:x", "[::1"]
)
def test_malformed_url_of_a_proxy_is_not_quoted(url):
    with pytest.raises(ConfigError, match="not the URL of a proxy") as caught:
        parse_proxy(url, "proxy")

    assert "hunter22" not in str(caught.value)


HOST = st.sampled_from(["example.com", "api.example.com", "badexample.com", "10.1.2.3", "10.1.2.30", "fd00::1"])
ENTRY = st.sampled_from(
    ["example.com", ".example.com", "api.example.com:8080", "example.com:8080", "Example.COM", "com", "localhost"]
    + ["http://example.com", "https://api.example.com", "all://example.com", "", "*"]
    + ["10.1.2.3", "10.1.2.3:8080", "fd00::1"]
)


def choice_of_httpx(url: str) -> bool:
    """Whether httpx sends the request to a proxy of the environment."""
    with httpx.Client(trust_env=True) as client:
        return client._transport_for_url(httpx.URL(url)) is not client._transport


@given(
    st.sampled_from(["http", "https"]),
    HOST,
    st.sampled_from([80, 443, 8080]),
    st.lists(ENTRY, max_size=3),
    st.sets(st.sampled_from(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"])),
)
@example("http", "badexample.com", 80, ["example.com"], {"HTTP_PROXY"})
@example("http", "example.com", 80, [".example.com"], {"ALL_PROXY"})
def test_property_environment_is_read_like_httpx(scheme, host, port, excluded, names):
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        clear_network_variables(patch)
        for name in names:
            patch.setenv(name, PROXY)
        patch.setenv("NO_PROXY", ", ".join(excluded))

        chosen = environment_proxy(scheme, host, port)

        assert (chosen == PROXY) is choice_of_httpx(f"{scheme}://{netloc}/")


@pytest.mark.parametrize(
    ("excluded", "is_direct"),
    [("10.0.0.0/8", True), ("10.1.0.0/16:80", True), ("192.168.0.0/16", False), ("10.0.0.0/x", False)],
)
def test_network_in_no_proxy_covers_its_addresses(monkeypatch, excluded, is_direct):
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", excluded)

    assert (environment_proxy("http", "10.1.2.3", 80) is None) is is_direct


def test_http_proxy_is_ignored_where_request_method_is_set(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("REQUEST_METHOD", "GET")

    assert environment_proxy("http", "example.com", 80) is None


def test_proxy_without_scheme_in_the_environment_is_http(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "proxy.test:3128")

    assert environment_proxy("https", "example.com", 443) == PROXY


async def test_loopback_never_uses_a_proxy_of_the_environment(monkeypatch):
    async with serve([ONE]) as server, serve([]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)

        assert await LocatedItems(server.url).read() == [{"id": 1}]

    assert proxy.requests == []


async def test_trust_env_false_ignores_the_environment(monkeypatch):
    class Isolated(LocatedItems):
        trust_env = False
        max_tries = 1

    async with serve([ONE]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises((ConfigError, HostUnavailable)):
            await Isolated("http://shop.invalid/").read()

    assert proxy.requests == []


async def test_password_goes_to_the_proxy_in_absolute_form():
    async with serve([ONE]) as proxy:
        url = proxy.url.replace("http://", "http://user:s3cret@")
        assert await LocatedItems("http://shop.test:8080/", proxy=url).read() == [{"id": 1}]

    (request,) = proxy.requests
    headers = dict(request.headers)
    assert request.target.startswith("http://shop.test:8080/")
    assert headers["Host"] == "shop.test:8080"
    assert b64decode(headers["Proxy-Authorization"].removeprefix("Basic ")) == b"user:s3cret"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("user", "problem"), [("", "demands a user name"), ("user:s3cret@", "rejects the user name")])
async def test_407_is_a_config_error_after_one_request(scheme, user, problem):
    refusal = http_response(b"", "Proxy-Authenticate: Basic", status="407 Proxy Authentication Required")
    async with serve([refusal]) as proxy:
        url = proxy.url.replace("http://", f"http://{user}").rstrip("/")
        with pytest.raises(ConfigError, match=problem) as caught:
            await LocatedItems(f"{scheme}://shop.test/", proxy=url).read()

    assert proxy.url.rstrip("/") in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert len(proxy.requests) == 1


async def test_refused_tunnel_names_the_proxy_and_is_not_retried():
    async with serve([http_response(b"no", status="403 Forbidden")]) as proxy:
        with pytest.raises(HostUnavailable, match=r"answered 403 to CONNECT shop\.test:443") as caught:
            await LocatedItems("https://shop.test/", proxy=proxy.url).read()

    assert proxy.url.rstrip("/") in str(caught.value)
    assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "shop.test:443")]


async def test_tunnel_to_a_server_that_is_down_is_tried_again():
    async with serve([http_response(b"", status="503 Service Unavailable")]) as proxy:
        with pytest.raises(HostUnavailable, match=r"cannot connect to shop\.test:443 \(503\)"):
            await LocatedItems("https://shop.test/", proxy=proxy.url).read()

    assert len(proxy.requests) == 2


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nbytes before TLS"])
async def test_proxy_that_opens_no_proper_tunnel_is_named(answer):
    async with serve([answer]) as proxy:
        with pytest.raises(HostUnavailable, match=r"the proxy http://127\.0\.0\.1"):
            await LocatedItems("https://shop.test/", proxy=proxy.url).read()

    assert len(proxy.requests) == 1


async def test_socks_without_its_extra_names_the_extra(monkeypatch):
    def find_spec(name: str, *args: Any) -> Any:
        return None if name == "socksio" else found(name, *args)

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    with pytest.raises(ConfigError, match="speaks SOCKS") as caught:
        await LocatedItems("http://shop.test/", proxy="socks5://127.0.0.1:1").read()

    assert caught.value.hint == 'pip install "asyncstreams[socks]"'
