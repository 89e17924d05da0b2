"""Credentials stay hidden in errors, logs, reprs and pickles."""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import httpx
import pytest
from httpx import Response

from asyncstreams import (
    ApiKeyAuthenticator,
    AsyncStreamsError,
    BasicHttpAuthenticator,
    ConfigError,
    DecodeError,
    HttpStream,
    MultipleTokenAuthenticator,
    NextUrl,
    Oauth2Authenticator,
    Secret,
    TokenAuthenticator,
    ndjson,
)

CANARY = "cAnArY+0/9=q~s%3cr3t"
TOKEN_URL = "https://auth.example.com/token"
URL = "https://api.example.com/v1/users"
PLAIN_FORMS = (CANARY, quote(CANARY), quote(CANARY, safe=""), quote_plus(CANARY))
BASE64_FORMS = (
    base64.b64encode(CANARY.encode()).decode(),
    base64.urlsafe_b64encode(CANARY.encode()).decode(),
    base64.b64encode(f"ann:{CANARY}".encode()).decode(),
)
FORMS = {*PLAIN_FORMS, *BASE64_FORMS}


class Custom(httpx.Auth):
    def auth_flow(self, request):
        request.headers["X-Own-Thing"] = CANARY
        yield request


def oauth() -> Oauth2Authenticator:
    return Oauth2Authenticator(TOKEN_URL, "app", CANARY, CANARY)


AUTHENTICATORS = {
    "token": lambda: TokenAuthenticator(CANARY),
    "multiple": lambda: MultipleTokenAuthenticator([CANARY, CANARY]),
    "basic": lambda: BasicHttpAuthenticator("ann", CANARY),
    "key-header": lambda: ApiKeyAuthenticator(CANARY, "X-Odd"),
    "key-query": lambda: ApiKeyAuthenticator(CANARY, "k", into="query"),
    "key-cookie": lambda: ApiKeyAuthenticator(CANARY, "sid", into="cookie"),
    "oauth": oauth,
    "httpx-basic": lambda: httpx.BasicAuth("ann", CANARY),
    "httpx-custom": Custom,
}
ECHO = f"you sent {CANARY} or {quote(CANARY, safe='')} to https://ann:{CANARY}@h.example/x?k={CANARY}"
JSON_ECHO = {"message": ECHO, "errors": [{"message": ECHO}], "token": CANARY}
ELSEWHERE = f"https://files.example.net/users?sig={quote(CANARY, safe='')}"

FAILURES = {
    "401": Response(401, json=JSON_ECHO),
    "403-problem": Response(403, json={"title": "Forbidden", "detail": ECHO}),
    "404-text": Response(404, text=ECHO),
    "422-list": Response(422, json=[ECHO, {"message": ECHO}]),
    "500": Response(500, json=JSON_ECHO),
    "429-for-ages": Response(429, json=JSON_ECHO, headers={"Retry-After": "1000000"}),
    "network": httpx.ReadError("connection reset"),
    "timeout": httpx.ReadTimeout("timed out"),
    "malformed": Response(200, text=f'[{{"you": "{CANARY}"}}, oops]'),
    "invalid-utf-8": Response(200, content=b'[{"you": "\xff' + CANARY.encode() + b'"}]'),
    "html": Response(200, html=f"<p>Hello {ECHO}</p>"),
    "login-page": Response(200, html=f'<form action="/login?was={CANARY}"><input type="password" value="{CANARY}">'),
    "object-for-array": Response(200, json={"you": CANARY, "items": [CANARY]}),
    "wrong-record": Response(200, json=[CANARY]),
    "redirect": Response(302, headers={"Location": ELSEWHERE}),
    "next-other-origin": Response(200, json={"items": [{"id": 1}], "next": ELSEWHERE}),
    "next-with-password": Response(
        200, json={"items": [{}], "next": f"https://ann:{quote(CANARY, '')}@api.example.com/2"}
    ),
    "next-with-raw-password": Response(200, json={"items": [{}], "next": f"https://ann:{CANARY}@api.example.com/2"}),
}


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


class Paged(Users):
    records_path = "items"
    paginator = NextUrl("next")


class Lines(Users):
    async def parse_response(self, response, context):
        async for record in ndjson(response):
            yield record


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from chain_of(error.__cause__)
        error = error.__context__


def text_of(error: BaseException) -> str:
    """Everything that can be printed of an error and its causes."""
    text = "".join(traceback.format_exception(error))
    for linked in chain_of(error):
        text += f"{linked!s} {linked!r} {linked.args!r} {vars(linked)!r} {getattr(linked, '__notes__', '')!r}\n"
    return text


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)!r} {record.exc_text}" for record in caplog.records)


def leaks(text: str, forms: object = FORMS) -> list[str]:
    return [form for form in forms if form in text]


async def failure_of(stream: HttpStream) -> AsyncStreamsError:
    with pytest.raises(AsyncStreamsError) as caught:
        await stream.read()
    return caught.value


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def mock_api(router, response: Response | Exception) -> None:
    router.post(TOKEN_URL).respond(json={"access_token": CANARY, "refresh_token": CANARY})
    route = router.get(url__startswith=URL)
    route.side_effect = lambda request: _respond(response)


def _respond(response: Response | Exception) -> Response:
    if isinstance(response, Exception):
        raise response
    return Response(response.status_code, headers=response.headers, content=response.content)


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("failure", list(FAILURES))
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_failure_does_not_show_the_credential(respx_mock, virtual_clock, caplog, authenticator, failure):
    mock_api(respx_mock, FAILURES[failure])
    kind = Paged if failure.startswith("next") else Users
    stream = kind(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock)

    error = await failure_of(stream)

    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.parametrize("coding", ["gzip", "zip"])
async def test_undecodable_body_does_not_show_the_credential(virtual_clock, caplog, coding):
    def respond(request: httpx.Request) -> Response:
        return Response(200, headers={"Content-Encoding": coding}, stream=httpx.ByteStream(CANARY.encode()))

    stream = Users(
        authenticator=TokenAuthenticator(CANARY), clock=virtual_clock, transport=httpx.MockTransport(respond)
    )

    error = await failure_of(stream)

    assert type(error) is DecodeError
    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_base64_echo_of_the_credential_is_hidden(respx_mock, virtual_clock, caplog, authenticator, status):
    # Only basic authentication sends the encoded pair, so only there it is known as a secret.
    sent = BASE64_FORMS if "basic" in authenticator else BASE64_FORMS[:2]
    mock_api(respx_mock, Response(status, json={"message": f"you sent {' and '.join(sent)}"}))

    error = await failure_of(Users(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock))

    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_secrets_in_transport_errors_are_hidden(respx_mock, virtual_clock, caplog, authenticator):
    mock_api(respx_mock, httpx.ConnectError(f"cannot reach {URL}?k={quote(CANARY)} with {CANARY}"))

    error = await failure_of(Users(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock))

    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.parametrize("before", range(184, 200, 4))
async def test_excerpt_shows_no_part_of_a_cut_credential(respx_mock, before):
    respx_mock.get(URL).respond(200, html="<p>".ljust(before, ".") + CANARY)

    error = await failure_of(Users(authenticator=TokenAuthenticator(CANARY)))

    assert CANARY[:4] not in str(error)


async def test_malformed_line_of_a_stream_is_not_shown(respx_mock, virtual_clock, caplog):
    respx_mock.get(URL).respond(200, text=f'{{"id": 1}}\n{{"you": "{CANARY}" oops}}\n')

    error = await failure_of(Lines(authenticator=TokenAuthenticator(CANARY), clock=virtual_clock))

    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


TOKEN_FAILURES = {
    "refused": Response(400, json={"error": "invalid_grant", "error_description": ECHO}),
    "odd-code": Response(401, json={"error": CANARY}),
    "echo": Response(403, text=ECHO),
    "unavailable": Response(503, text=ECHO),
    "html": Response(200, html=ECHO),
    "other-name": Response(200, json={"acces_token": CANARY}),
    "bad-token": Response(200, json={"access_token": f"{CANARY} and\nmore"}),
    "invalid-utf-8": Response(200, content=b'{"access_token": "\xff' + CANARY.encode() + b'"}'),
    "network": httpx.ReadError("connection reset"),
    "foreign-text": httpx.ConnectError(f"cannot reach {TOKEN_URL}?client_secret={quote(CANARY)}: {CANARY}"),
}


@pytest.mark.parametrize("options", [{}, {"client_auth": "basic"}, {"send_as": "json"}, {"send_as": "query"}], ids=str)
@pytest.mark.parametrize(
    "failure",
    [
        *(name for name in TOKEN_FAILURES if name != "foreign-text"),
        pytest.param("foreign-text"),
    ],
)
async def test_token_endpoint_failure_hides_the_credential(respx_mock, virtual_clock, caplog, failure, options):
    respx_mock.post(url__startswith=TOKEN_URL).side_effect = lambda request: _respond(TOKEN_FAILURES[failure])
    authenticator = Oauth2Authenticator(TOKEN_URL, "app", CANARY, CANARY, **options)

    error = await failure_of(Users(authenticator=authenticator, clock=virtual_clock))

    assert leaks(text_of(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("authenticator", [name for name in AUTHENTICATORS if not name.startswith("httpx")])
async def test_reprs_of_credential_holders_hide_the_credential(respx_mock, authenticator):
    shown: list[str] = []

    class Collecting(Paged):
        def next_page_token(self, response, context):
            return response.json()["next"]

        def request_params(self, context):
            return {"page": context.next_page_token or ""}

        def parse_response(self, response, context):
            request = response.request
            for holder in (response, context, request, request.headers, response.headers, self.authenticator, self):
                shown.append(f"{holder!r} {holder!s} {holder}")
            return response.json()["items"]

    bodies = [{"items": [{"you": CANARY}], "next": CANARY}, {"items": [], "next": None}]
    respx_mock.post(TOKEN_URL).respond(json={"access_token": CANARY, "refresh_token": CANARY})
    headers = {"Set-Cookie": f"sid={CANARY}", "X-Echo": CANARY}
    respx_mock.get(url__startswith=URL).side_effect = [Response(200, json=body, headers=headers) for body in bodies]

    async with Collecting(authenticator=AUTHENTICATORS[authenticator]()).pages() as pages:
        shown += [f"{page!r} {page!s}" async for page in pages]

    assert len(shown) == 16
    assert leaks("\n".join(shown)) == []


@pytest.mark.parametrize("authenticator", [name for name in AUTHENTICATORS if not name.startswith("httpx")])
def test_built_in_authenticator_cannot_be_pickled(authenticator):
    with pytest.raises(TypeError):
        pickle.dumps(AUTHENTICATORS[authenticator]())


async def test_header_with_a_line_break_is_not_shown():
    class Broken(Users):
        def request_headers(self, context):
            return {"X-Key": f"{CANARY}\r\nX-Admin: 1"}

    error = await failure_of(Broken())

    assert type(error) is ConfigError
    assert leaks(text_of(error)) == []


async def test_secret_in_url_base_is_not_shown():
    class Keyed(Users):
        url_base = f"http://api.example.com/v1/?key={CANARY}"

    error = await failure_of(Keyed(authenticator=TokenAuthenticator("t0k")))

    assert type(error) is ConfigError
    assert leaks(text_of(error)) == []


async def test_canary_is_detected_in_an_error_and_in_a_log(respx_mock, caplog):
    respx_mock.get(URL).respond(401, json={"message": f"you are {CANARY}"})

    error = await failure_of(Users(authenticator=TokenAuthenticator("t0k")))
    logging.getLogger("asyncstreams").warning("%s", CANARY)

    assert CANARY in leaks(text_of(error))
    assert CANARY in leaks(logged(caplog))


def test_secret_is_shown_only_by_reveal():
    secret = Secret(CANARY)

    shown = f"{secret} {secret!r} {secret!s} {secret:>40} {[secret]}"

    assert secret.reveal() == CANARY
    assert leaks(shown) == []


def test_secret_cannot_be_pickled():
    with pytest.raises(TypeError, match="reveal") as caught:
        pickle.dumps({"token": Secret(CANARY)})

    assert leaks(text_of(caught.value)) == []


def test_secret_cannot_be_encoded_as_json():
    with pytest.raises(TypeError) as caught:
        json.dumps({"token": Secret(CANARY)})

    assert leaks(text_of(caught.value)) == []


@pytest.mark.parametrize("copy_secret", [copy.copy, copy.deepcopy, Secret], ids=["copy", "deepcopy", "Secret"])
def test_copy_of_a_secret_is_hidden_and_equal(copy_secret):
    secret = Secret(CANARY)

    other = copy_secret(secret)

    assert other == secret
    assert other.reveal() == CANARY
    assert leaks(f"{other} {other!r}") == []


def test_secrets_compare_by_value_and_differ_from_strings():
    secret = Secret("\u00e4b\u00e7")

    assert secret == Secret("\u00e4b\u00e7")
    assert secret != Secret("other")
    assert secret != "\u00e4b\u00e7"
    assert len({secret, Secret("\u00e4b\u00e7")}) == 1


def test_empty_secret_is_falsy():
    assert not Secret("")
    assert Secret("x")


def test_secret_of_bytes_is_refused_without_its_value():
    with pytest.raises(ConfigError) as caught:
        Secret(CANARY.encode())

    assert leaks(text_of(caught.value)) == []
