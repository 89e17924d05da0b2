"""Authenticators that sign the final request, and handshakes that are bound to a connection."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter

import httpx
import pytest
from httpx import Response

from asyncstreams import (
    AbstractHeaderAuthenticator,
    AuthError,
    ConfigError,
    HttpStream,
    LinkHeader,
    Source,
    TokenAuthenticator,
)
from tests.support.loopback import Connection, LoopbackRequest, http_response, serve

URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


class Recording(httpx.Auth):
    """Records what it sees, and applies a change."""

    requires_request_body = True

    def __init__(self, change=lambda request: None) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self._change = change

    def auth_flow(self, request):
        self.seen.append((request.method, str(request.url), dict(request.headers), request.content))
        yield self._change(request) or request


def signature(method: str, target: str, headers: dict[str, str], body: bytes) -> str:
    signed = [f"{name}:{headers[name]}" for name in ("host", "content-length", "content-type") if name in headers]
    return hmac.new(b"k3y", "\n".join([method, target, *signed, ""]).encode() + body, "sha256").hexdigest()


class Signature(httpx.Auth):
    """Signs method, target, Host, Content-Length, Content-Type and body, as HMAC schemes do."""

    requires_request_body = True

    def auth_flow(self, request):
        target = request.url.raw_path.decode()
        request.headers["X-Signature"] = signature(request.method, target, dict(request.headers), request.content)
        yield request


@pytest.mark.parametrize("target", ["/v1/users", "/v1/a%20b%2Fc|d?q=[x]'y\"&n=ü", "/v1/x%zz;p=1,2"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_signature_covers_request_as_sent(method, target):
    received = []

    async def answer(request: LoopbackRequest, connection: Connection) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        expected = signature(request.method, request.target, headers, request.body)
        received.append(headers.get("x-signature") == expected)
        await connection.send(http_response(b"[]"))

    async with serve(answer) as server:

        class Signed(HttpStream):
            url_base = server.url
            http_method = method

            def path(self, context):
                return f"{server.url}{target.removeprefix('/')}"

            def request_json(self, context):
                return {"q": "\u00fc"} if method == "POST" else None

        await Signed(authenticator=Signature()).read()

    assert received == [True]


async def test_custom_auth_sees_all_final_headers(respx_mock):
    class Search(Users):
        http_method = "POST"

        def request_headers(self, context):
            return {"X-Version": "7"}

        def request_data(self, context):
            return {"q": "a b"}

    route = respx_mock.post(URL).respond(json=[])
    auth = Recording()

    await Search(authenticator=auth).read()

    method, url, headers, body = auth.seen[0]
    sent = route.calls.last.request
    assert (method, url, body) == ("POST", URL, b"q=a+b") == (sent.method, str(sent.url), sent.content)
    assert headers == dict(sent.headers)
    assert headers.keys() >= {"host", "content-length", "content-type", "user-agent", "accept", "x-version"}


async def test_host_of_stream_is_the_one_that_is_signed(respx_mock):
    class Virtual(Users):
        def request_headers(self, context):
            return {"Host": "virtual.example.com"}

    route = respx_mock.get(URL).respond(json=[])
    auth = Recording()

    await Virtual(authenticator=auth).read()

    assert auth.seen[0][2]["host"] == "virtual.example.com"
    assert route.calls.last.request.headers.get_list("host") == ["virtual.example.com"]


def replace_body(request: httpx.Request) -> None:
    request.stream = httpx.ByteStream(b"changed")
    request.headers["Content-Length"] = "7"


def replace_body_by_async_stream(request: httpx.Request) -> None:
    class Chunks(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"chan"
            yield b"ged"

    request.stream = Chunks()
    request.headers["Content-Length"] = "7"


def replace_request(request: httpx.Request) -> httpx.Request:
    return httpx.Request("POST", request.url, headers={"Host": "signed.example.com"}, content=b"changed")


def replace_request_by_chunks(request: httpx.Request) -> httpx.Request:
    async def chunks():
        yield b"changed"

    return httpx.Request("POST", request.url, headers={"Host": "signed.example.com"}, content=chunks())


def replace_url_and_host(request: httpx.Request) -> None:
    request.url = request.url.copy_with(path="/v1/other", query=b"sig=1")
    request.headers["Host"] = "signed.example.com"


@pytest.mark.parametrize(
    ("change", "target", "host", "body"),
    [
        (replace_body, "/v1/users", None, b"changed"),
        (replace_body_by_async_stream, "/v1/users", None, b"changed"),
        (replace_request, "/v1/users", "signed.example.com", b"changed"),
        (replace_request_by_chunks, "/v1/users", "signed.example.com", b"changed"),
        (replace_url_and_host, "/v1/other?sig=1", "signed.example.com", b"body"),
    ],
)
async def test_what_an_auth_changes_is_sent(change, target, host, body):
    async with serve([http_response(b"[]")]) as server:

        class Search(HttpStream):
            url_base = f"{server.url}v1/"
            http_method = "POST"

            def path(self, context):
                return "users"

            def request_data(self, context):
                return b"body"

        await Search(authenticator=Recording(change)).read()

    received = server.requests[0]
    headers = [(name.lower(), value) for name, value in received.headers]
    assert (received.target, received.body) == (target, body)
    assert [value for name, value in headers if name == "host"] == [host or server.url[7:-1]]
    assert [value for name, value in headers if name == "content-length"] == [str(len(body))]
    assert "transfer-encoding" not in dict(headers)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Content-Length", "3", "Content-Length of the signed request is 3, but its body has 0 bytes"),
        ("Transfer-Encoding", "chunked", "Transfer-Encoding"),
    ],
)
@pytest.mark.respx(assert_all_called=False)
async def test_framing_that_contradicts_the_body_is_refused(respx_mock, name, value, message):
    route = respx_mock.get(URL).respond(json=[])
    auth = Recording(lambda request: request.headers.update({name: value}))

    with pytest.raises(ConfigError, match=message):
        await Users(authenticator=auth).read()

    assert not route.called


async def test_response_to_replaced_request_has_its_context(respx_mock):
    class Named(Users):
        def parse_response(self, response, context):
            return [{"slice": response.context.stream_slice["part"]}]

    respx_mock.get(URL).respond(json=[])
    auth = Recording(lambda request: httpx.Request(request.method, request.url, headers=request.headers))

    records = await Named(authenticator=auth).read(slices=[{"part": 1}])

    assert records == [{"slice": 1}]


async def test_own_flow_of_an_authenticator_subclass_is_used(respx_mock):
    class Twice(TokenAuthenticator):
        def auth_flow(self, request):
            request.headers["X-Step"] = "1"
            yield from super().auth_flow(request)

    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=Twice("t0k")).read()

    assert route.calls.last.request.headers["X-Step"] == "1"
    assert route.calls.last.request.headers["Authorization"] == "Bearer t0k"


async def test_own_sign_sees_the_final_request(respx_mock):
    class HostSigner(AbstractHeaderAuthenticator):
        token = "unused"

        def sign(self, request):
            request.headers["X-Signed-Host"] = request.headers["Host"]

    route = respx_mock.get(URL).respond(json=[])

    await Users(authenticator=HostSigner()).read()

    assert route.calls.last.request.headers["X-Signed-Host"] == "api.example.com"


async def test_every_attempt_and_page_is_signed_again(respx_mock, virtual_clock):
    class Paged(Users):
        paginator = LinkHeader()

    second = {"Link": f'<{URL}?page=2>; rel="next"'}
    responses = [Response(500), Response(200, json=[{"id": 1}], headers=second), Response(200, json=[])]
    respx_mock.get(URL).mock(side_effect=responses)
    auth = Recording()

    await Paged(authenticator=auth, clock=virtual_clock).read()

    assert [url for _, url, _, _ in auth.seen] == [URL, URL, f"{URL}?page=2"]


def test_auth_of_synchronous_clients_only_is_refused():
    class Synchronous(httpx.Auth):
        def sync_auth_flow(self, request):
            yield request

    with pytest.raises(ConfigError, match="sync_auth_flow"):
        asyncio.run(Users(authenticator=Synchronous()).read())


class ConnectionHandshake(httpx.Auth):
    """A handshake of three requests that authenticates the connection, as NTLM does."""

    def auth_flow(self, request):
        response = yield request
        if response.status_code != 401:
            return
        request.headers["Authorization"] = "NTLM negotiate"
        response = yield request
        challenge = response.headers.get("WWW-Authenticate", "")
        request.headers["Authorization"] = f"NTLM answer to {challenge}"
        yield request


class HandshakeServer:
    """A server that issues a challenge for each connection, and accepts its answer on that connection only."""

    def __init__(self) -> None:
        self.challenges: dict[int, str] = {}
        self.authenticated: set[int] = set()
        self.without_credential: list[int] = []

    async def answer(self, request: LoopbackRequest, connection: Connection) -> None:
        sent = dict(request.headers).get("Authorization", "")
        number = request.connection
        await asyncio.sleep(0.001)
        if request.target == "/open":
            self.without_credential.append(number)
            await connection.send(http_response(b"[]"))
        elif number in self.authenticated or sent == f"NTLM answer to NTLM c{number}-{self.challenges.get(number)}":
            self.authenticated.add(number)
            await connection.send(http_response(b'[{"id": 1}]'))
        elif sent == "NTLM negotiate":
            self.challenges[number] = request.target.strip("/")
            challenge = f"WWW-Authenticate: NTLM c{number}-{self.challenges[number]}"
            await connection.send(http_response(b"", challenge, status="401 Unauthorized"))
        else:
            await connection.send(http_response(b"", "WWW-Authenticate: NTLM", status="401 Unauthorized"))


def part_stream(url: str, idempotent: bool = True) -> type[HttpStream]:
    class Parts(HttpStream):
        url_base = url

        def path(self, context):
            return str(context.stream_slice["part"])

        def stream_slices(self, state):
            return [{"part": part} for part in range(40)]

    Parts.idempotent = idempotent
    return Parts


@pytest.mark.respx(assert_all_called=False)
async def test_flow_that_ends_without_the_request_is_refused(respx_mock):
    class Other(httpx.Auth):
        def auth_flow(self, request):
            yield httpx.Request("POST", request.url)

    respx_mock.post(URL).respond(json=[{"id": 1}])

    with pytest.raises(ConfigError, match="auth_flow ended without the request of the stream"):
        await Users(authenticator=Other()).read()


@pytest.mark.parametrize("idempotent", [True, False])
async def test_connection_handshake_works_under_concurrency(idempotent):
    handshakes = HandshakeServer()

    async with serve(handshakes.answer) as server:
        stream = part_stream(server.url, idempotent)(authenticator=ConnectionHandshake(), max_concurrency=8)

        records = await stream.read()

    assert len(records) == 40
    if idempotent:
        assert server.connections <= 8
        assert len(server.requests) <= 40 + 2 * server.connections


async def test_authenticated_connection_serves_no_other_credential():
    handshakes = HandshakeServer()

    async with serve(handshakes.answer) as server:

        class Open(part_stream(server.url)):
            def path(self, context):
                return "open"

        parts = part_stream(server.url)(authenticator=ConnectionHandshake())
        await Source([parts, Open(authenticator=TokenAuthenticator("t0k"))], max_concurrency=8).read()

    signed = {request.connection for request in server.requests if request.target != "/open"}
    assert handshakes.without_credential
    assert signed.isdisjoint(handshakes.without_credential)


async def test_refused_handshake_is_an_auth_error():
    refused = http_response(b"", "WWW-Authenticate: NTLM", status="401 Unauthorized")

    async with serve([refused]) as server:
        with pytest.raises(AuthError):
            await part_stream(server.url)(authenticator=ConnectionHandshake()).read()

    assert Counter(request.connection for request in server.requests).most_common(1)[0][1] >= 3
