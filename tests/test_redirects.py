"""Redirects and origins without the credential: what may be requested, and what goes along."""

import logging
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
import respx

from asyncstreams import (
    ApiKeyAuthenticator,
    AsyncStreamsError,
    BasicHttpAuthenticator,
    ConfigError,
    CrossOriginLink,
    HostUnavailable,
    HttpStatusError,
    HttpStream,
    MalformedJSON,
    MultipleTokenAuthenticator,
    NextUrl,
    Source,
    TokenAuthenticator,
)
from asyncstreams.http.redirects import carries_secret
from tests.support.loopback import Items, http_response, serve

ITEMS = "https://api.test/v1/items"
BUCKET = "https://bucket.test/exports/7?X-Amz-Signature=0a1b&X-Amz-Credential=AKIA"
ONE = [{"id": 1}]
FOLLOW = {"request_kwargs": lambda self, context: {"follow_redirects": True}}


def declare(**attributes: Any) -> HttpStream:
    defaults = {"url_base": "https://api.test/v1", "path": lambda self, context: "items", "max_tries": 1}
    return type("Items", (HttpStream,), defaults | FOLLOW | attributes)()


def redirect(location: str | bytes, status: int = 302, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=[("Location", location), *headers.items()])


def requested(respx_mock: respx.MockRouter) -> list[str]:
    return [str(call.request.url) for call in respx_mock.calls]


async def read_redirected(respx_mock: respx.MockRouter, location: str | bytes, **attributes: Any) -> AsyncStreamsError:
    """The error of a stream whose request is redirected; nothing may be requested beyond it."""
    start = attributes.get("url_base", "https://api.test/v1") + "/items"
    respx_mock.route(url=start).mock(side_effect=[redirect(location, attributes.pop("status", 302))])
    with pytest.raises(AsyncStreamsError) as caught:
        await declare(**attributes).read()

    assert len(respx_mock.calls) == 1
    return caught.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_other_origin_gets_no_credential_cookie_or_header(respx_mock, status):
    respx_mock.get(ITEMS).mock(return_value=redirect(BUCKET, status, **{"Set-Cookie": "sid=1; Path=/"}))
    bucket = respx_mock.get(BUCKET).respond(json=ONE, headers={"Set-Cookie": "b=1"})
    stream = declare(
        authenticator=TokenAuthenticator("t0ken"),
        request_headers=lambda self, context: {
            "X-Tenant": "7",
            "Cookie": "a=1",
            "Accept": "text/csv",
            "User-Agent": "me",
        },
    )

    assert await stream.read() == ONE

    headers = bucket.calls.last.request.headers
    assert set(headers) - {"host"} == {"accept", "accept-encoding", "user-agent"}
    assert headers["accept"] == "*/*"
    assert headers["user-agent"].startswith("asyncstreams/")


async def test_credential_does_not_return_with_the_chain(respx_mock):
    respx_mock.get(ITEMS).mock(return_value=redirect("https://other.test/a"))
    respx_mock.get("https://other.test/a").mock(return_value=redirect("https://api.test/v1/admin"))
    admin = respx_mock.get("https://api.test/v1/admin").respond(json=ONE)

    assert await declare(authenticator=TokenAuthenticator("t0ken")).read() == ONE

    assert "authorization" not in admin.calls.last.request.headers


async def test_allowed_origin_keeps_credential_and_headers(respx_mock):
    respx_mock.get(ITEMS).mock(return_value=redirect("https://files.test/7"))
    files = respx_mock.get("https://files.test/7").respond(json=ONE)
    stream = declare(
        authenticator=TokenAuthenticator("t0ken"),
        allowed_origins=("https://files.test",),
        request_headers=lambda self, context: {"X-Tenant": "7"},
    )

    await stream.read()

    headers = files.calls.last.request.headers
    assert (headers["authorization"], headers["x-tenant"]) == ("Bearer t0ken", "7")


@pytest.mark.parametrize("status", [307, 308])
async def test_repeated_post_to_another_origin_names_the_target(respx_mock, status):
    error = await read_redirected(
        respx_mock,
        "https://eu.test/v1/items?key=s3cret",
        status=status,
        http_method="POST",
        request_json=lambda self, context: {"q": 1},
    )

    assert isinstance(error, CrossOriginLink)
    assert "https://eu.test/v1/items" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("location", ["https://eu.test/v1/items", "/v1/other"])
async def test_post_that_would_become_a_get_names_the_target(respx_mock, location):
    error = await read_redirected(respx_mock, location, http_method="POST", request_data=lambda self, context: "x")

    assert isinstance(error, HttpStatusError)
    assert location in str(error)


@pytest.mark.parametrize(
    ("location", "status"), [("https://eu.test/", 302), ("/other", 303), ("https://eu.test/", 307)]
)
async def test_get_with_a_body_is_not_redirected_without_it(respx_mock, location, status):
    error = await read_redirected(respx_mock, location, status=status, request_json=lambda self, context: {"q": 1})

    assert "GET with a body" in str(error)


async def test_repeated_post_within_the_origin_keeps_its_body(respx_mock):
    respx_mock.post(ITEMS).mock(return_value=redirect("/v2/items", 308))
    moved = respx_mock.post("https://api.test/v2/items").respond(json=ONE)

    await declare(http_method="POST", request_json=lambda self, context: {"q": 1}).read()

    assert moved.calls.last.request.content == b'{"q":1}'


@pytest.mark.parametrize("location", ["http://bucket.test/x?a=s3cret", "http://api.test:8080/x", "//bucket.test:80/x"])
async def test_https_is_never_left_for_http(respx_mock, location):
    target = location if location.startswith("http") else f"http:{location}"

    error = await read_redirected(respx_mock, target, allowed_origins=(), authenticator=None)

    assert isinstance(error, CrossOriginLink)
    assert "from https to http" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    "location", ["http://api.test/v2/items", "http://API.test:80/v2/items", "http://api.test:443/v2/items"]
)
async def test_http_redirect_of_the_own_https_host_goes_over_https(respx_mock, location):
    respx_mock.get(ITEMS).mock(return_value=redirect(location))
    moved = respx_mock.get("https://api.test/v2/items").respond(json=ONE)

    await declare(authenticator=TokenAuthenticator("t0ken")).read()

    assert moved.calls.last.request.headers["authorization"] == "Bearer t0ken"


async def test_http_api_may_redirect_to_https_without_the_credential(respx_mock):
    respx_mock.get("http://api.test/v1/items").mock(return_value=redirect("https://api.test/v1/items"))
    secure = respx_mock.get(ITEMS).respond(json=ONE)

    await declare(url_base="http://api.test/v1", authenticator=TokenAuthenticator("t0ken"), allow_insecure=True).read()

    assert "authorization" not in secure.calls.last.request.headers


PRIVATE = [
    *("127.0.0.1", "localhost", "db.localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1"),
    *("10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0"),
    *("[::1]", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "[::]", "[2002:7f00:1::]"),
]


@pytest.mark.parametrize("host", PRIVATE)
async def test_private_addresses_are_not_reached_from_public_ones(respx_mock, host):
    error = await read_redirected(respx_mock, f"https://{host}/latest?token=s3cret")

    assert isinstance(error, CrossOriginLink)
    assert "not public" in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("base", ["http://127.0.0.1:8080", "http://10.0.0.1", "https://[fd00::1]"])
async def test_private_addresses_are_reached_from_private_ones(respx_mock, base):
    respx_mock.get(f"{base}/items").mock(return_value=redirect("https://192.168.0.1/x"))
    other = respx_mock.get("https://192.168.0.1/x").respond(json=ONE)

    await declare(url_base=base).read()

    assert other.called


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1111]", "api2.test", "10.0.0.1.test", "12345678901234567890.test"]
)
async def test_public_hosts_are_reached(respx_mock, host):
    respx_mock.get(ITEMS).mock(return_value=redirect(f"https://{host}/x"))
    other = respx_mock.get(f"https://{host}/x").respond(json=ONE)

    await declare().read()

    assert other.called


@pytest.mark.parametrize(("address", "is_reached"), [("10.0.0.1", False), ("93.184.216.35", True), ("fd00::1", False)])
async def test_addresses_of_a_name_decide_whether_it_is_public(monkeypatch, address, is_reached):
    async def look_up(loop, host, port, **options):
        return [(2, 1, 6, "", ("93.184.216.34" if host == "api.test" else address, port))]

    def dial(host, port, **options):  # whatever the addresses are, the servers are on this machine
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async with serve([http_response(b'[{"id": 1}]')]) as other:
        location = other.url.replace("127.0.0.1", "other.test")
        head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        async with serve([head.encode()]) as server:
            monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", look_up)
            monkeypatch.setattr("socket.getaddrinfo", dial)
            stream = declare(url_base=server.url.replace("127.0.0.1", "api.test"))
            with nullcontext() if is_reached else pytest.raises(CrossOriginLink, match="not public"):
                assert await stream.read() == ONE

    assert other.connections == is_reached


async def test_five_hops_are_followed_over_origins(respx_mock):
    for number in range(7):
        url = ITEMS if number == 0 else f"https://host{number}.test/x"
        respx_mock.get(url).mock(return_value=redirect(f"https://host{number + 1}.test/x?key=s3cret"))

    with pytest.raises(HttpStatusError, match="more than 5 times") as caught:
        await declare().read()

    assert len(respx_mock.calls) == 6
    assert caught.value.url == "https://host5.test/x"
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            httpx.Response(404, text="<Code>NoSuchKey</Code>", headers={"Content-Type": "application/xml"}),
            HttpStatusError,
        ),
        (httpx.Response(200, text='{"id": 1'), MalformedJSON),
        (httpx.ConnectError("refused"), HostUnavailable),
    ],
    ids=["status", "body", "connection"],
)
async def test_error_after_a_hop_names_the_url_that_answered(respx_mock, virtual_clock, answer, kind):
    respx_mock.get(ITEMS).mock(return_value=redirect(BUCKET))
    respx_mock.get(BUCKET).mock(side_effect=[answer] * 2)

    with pytest.raises(kind) as caught:
        await declare(clock=virtual_clock).read()

    assert caught.value.url == "https://bucket.test/exports/7"
    assert "0a1b" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
async def test_refusal_by_another_origin_does_not_blame_the_credential(respx_mock, status):
    respx_mock.get(ITEMS).mock(return_value=redirect(BUCKET))
    respx_mock.get(BUCKET).respond(status)

    with pytest.raises(HttpStatusError, match="not sent to this origin") as caught:
        await Source([declare(authenticator=MultipleTokenAuthenticator(["t0ken", "u0ken"]))]).read()

    assert caught.value.url == "https://bucket.test/exports/7"
    assert len(respx_mock.calls) == 2


@pytest.mark.parametrize(
    ("authenticator", "value"),
    [
        (ApiKeyAuthenticator("a+b/c=%&", "api_key", into="query"), "a+b/c=%&"),
        (ApiKeyAuthenticator("k3y-of-the-api"), "k3y-of-the-api"),
        (TokenAuthenticator("t0ken/with+signs"), "t0ken/with+signs"),
        (BasicHttpAuthenticator("user", "passw0rd"), "passw0rd"),
        (httpx.BasicAuth("user", "passw0rd"), "dXNlcjpwYXNzdzByZA=="),
    ],
    ids=["query", "header", "token", "basic", "httpx"],
)
async def test_redirect_that_passes_the_credential_on_is_refused(respx_mock, authenticator, value):
    respx_mock.route(host="api.test").mock(
        return_value=redirect(str(httpx.URL("https://evil.test/", params={"k": value})))
    )

    with pytest.raises(CrossOriginLink, match="with the credential") as caught:
        await declare(authenticator=authenticator).read()

    assert len(respx_mock.calls) == 1
    assert value not in str(caught.value)


async def test_redirect_that_passes_a_key_of_the_stream_on_is_refused(respx_mock):
    respx_mock.route(host="api.test").mock(return_value=redirect("https://evil.test/?x=my-own-key"))

    with pytest.raises(CrossOriginLink):
        await declare(request_params=lambda self, context: {"api_key": "my-own-key"}).read()


async def test_parameters_that_are_no_secret_may_be_passed_on(respx_mock):
    respx_mock.route(host="api.test").mock(return_value=redirect("https://eu.test/?page_token=abcd&shop=acme"))
    respx_mock.route(host="eu.test").respond(json=ONE)

    stream = declare(
        request_params=lambda self, context: {"page_token": "abcd", "shop": "acme"},
        request_headers=lambda self, context: {"X-Tenant": "acme"},
    )

    assert await stream.read() == ONE


@pytest.mark.parametrize(
    ("url", "is_found"),
    [
        ("https://a.test/?k=s3cr", True),
        ("https://a.test/?k=xs3cr", False),
        ("https://a.test/s3cr", False),
        ("https://a.test/bot0123456789abcdef/x", True),
        ("https://a.test/?x=%30123456789abcdef", True),
        ("https://a.test/?k=abc", False),
    ],
)
def test_secret_is_found_in_a_url(url, is_found):
    assert carries_secret(url, ["s3cr", "0123456789abcdef", "abc"]) is is_found


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/v1/my file.json?q=Zürich", "/v1/my%20file.json?q=Z%C3%BCrich"),
        ("/v1/Zürich".encode(), "/v1/Z%C3%BCrich"),
        ("/v1/Zürich".encode("latin-1"), "/v1/Z%FCrich"),
        ("HTTPS://API.TEST/v1/x", "/v1/x"),
        ("?page=2#top", "/v1/items?page=2"),
        ("", "/v1/items"),
    ],
)
async def test_location_is_requested_as_browsers_do(respx_mock, location, expected):
    raw = location if isinstance(location, bytes) else location.encode()
    respx_mock.route(host="api.test").mock(side_effect=[redirect(raw), httpx.Response(200, json=ONE)])

    await declare().read()

    assert respx_mock.calls.last.request.url.raw_path.decode() == expected


@pytest.mark.parametrize("location", ["ftp://api.test/x", "https://u:pw@api.test/x", "https://a b/", "mailto:x"])
async def test_location_that_cannot_be_requested_is_an_error(respx_mock, location):
    error = await read_redirected(respx_mock, location)

    assert isinstance(error, CrossOriginLink)
    assert "pw" not in str(error)


async def test_client_certificate_and_sni_do_not_go_along(respx_mock):
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return redirect(BUCKET) if len(seen) == 1 else httpx.Response(200, json=ONE)

    kwargs = {"follow_redirects": True, "extensions": {"sni_hostname": "inner.test"}}

    await declare(request_kwargs=lambda self, context: kwargs, transport=httpx.MockTransport(respond)).read()

    assert ["sni_hostname" in request.extensions for request in seen] == [True, False]


async def test_export_of_a_bucket_is_read_on_sockets():
    async with serve([http_response(b'[{"id": 1}]')]) as bucket:
        head = (
            f"HTTP/1.1 302 Found\r\nLocation: {bucket.url}exports/7?X-Amz-Signature=0a1b\r\nContent-Length: 0\r\n\r\n"
        )
        async with serve([head.encode()]) as server:

            class Export(Items):
                authenticator = TokenAuthenticator("t0ken")

                def request_kwargs(self, context):
                    return {"follow_redirects": True, "cert": None}

            records = await Export(server.url).read()

    assert records == ONE
    assert bucket.targets == ["/exports/7?X-Amz-Signature=0a1b"]
    assert "authorization" not in {name.lower() for name, _ in bucket.requests[0].headers}


UNCREDENTIALED = {
    "uncredentialed_origins": ("https://*.s3.test", "https://files.test:8443"),
    "request_kwargs": lambda *_: {},
}


@pytest.mark.parametrize(
    "link", ["https://exports.s3.test/7?sig=0a1b", "HTTPS://a.b.S3.test/7", "https://files.test:8443/7"]
)
async def test_next_link_to_an_uncredentialed_origin(respx_mock, link, caplog):
    caplog.set_level(logging.INFO, "asyncstreams")
    respx_mock.get(ITEMS).respond(json={"data": ONE, "next": link}, headers={"Set-Cookie": "a=1; Path=/"})
    other = respx_mock.get(link).respond(json={"data": [{"id": 2}]})
    stream = declare(
        **UNCREDENTIALED,
        records_path="data",
        paginator=NextUrl("next"),
        authenticator=TokenAuthenticator("t0ken"),
        request_headers=lambda self, context: {"X-Tenant": "7"},
    )

    assert await stream.read() == [{"id": 1}, {"id": 2}]

    assert set(other.calls.last.request.headers) - {"host"} == {"accept", "accept-encoding", "user-agent"}
    assert "go without credential, cookies and X-Tenant" in caplog.text


async def test_absolute_path_to_an_uncredentialed_origin(respx_mock):
    url = "https://exports.s3.test/7?X-Amz-Signature=0a1b"
    other = respx_mock.get(url).respond(json=ONE)
    stream = declare(**UNCREDENTIALED, path=lambda self, context: url, authenticator=TokenAuthenticator("t0ken"))

    assert await stream.read() == ONE

    assert str(other.calls.last.request.url) == url
    assert "authorization" not in other.calls.last.request.headers


@pytest.mark.parametrize(
    "link",
    [
        "https://s3.test/7",
        "https://exports.s3.test.evil.test/7",
        "http://exports.s3.test/7",
        "https://exports.s3.test:444/7",
    ],
)
async def test_other_origins_stay_refused(respx_mock, link):
    with pytest.raises(CrossOriginLink, match="uncredentialed_origins"):
        await declare(**UNCREDENTIALED, path=lambda self, context: link).read()

    assert not respx_mock.calls


async def test_body_does_not_go_to_an_uncredentialed_origin(respx_mock):
    stream = declare(
        **UNCREDENTIALED,
        path=lambda self, context: "https://exports.s3.test/7",
        http_method="POST",
        request_json=lambda self, context: {"key": "s3cret"},
    )

    with pytest.raises(ConfigError, match="only GET and HEAD"):
        await stream.read()

    assert not respx_mock.calls


async def test_link_with_the_credential_is_not_requested_without_it(respx_mock):
    stream = declare(
        **UNCREDENTIALED,
        path=lambda self, context: "https://exports.s3.test/7?key=t0ken",
        authenticator=TokenAuthenticator("t0ken"),
    )

    with pytest.raises(CrossOriginLink, match="with the credential"):
        await stream.read()

    assert not respx_mock.calls


@pytest.mark.parametrize(
    ("origins", "problem"),
    [
        ("https://files.test", "expected a tuple"),
        (("files.test",), "absolute http or https URL"),
        (("https://*.com",), "too many hosts"),
        (("https://files.*.test",), "not its first label"),
        (("https://api.test",), "also the origin of url_base"),
        (("https://u:p@files.test",), "user information"),
    ],
)
async def test_wrong_uncredentialed_origin_is_a_config_error(origins, problem):
    with pytest.raises(ConfigError, match=problem):
        await declare(uncredentialed_origins=origins).read()


async def test_failure_of_an_uncredentialed_origin_is_retried(respx_mock, virtual_clock):
    url = "https://exports.s3.test/7"
    route = respx_mock.get(url).mock(side_effect=[httpx.Response(503), httpx.Response(200, json=ONE)])
    stream = declare(**UNCREDENTIALED, path=lambda self, context: url, clock=virtual_clock, max_tries=2)

    assert await stream.read() == ONE
    assert route.call_count == 2
