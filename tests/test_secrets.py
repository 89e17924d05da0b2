"""Does a credential ever show: in an error, a log, or the repr of anything that holds it?"""

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
    "next-elsewhere": Response(200, json={"items": [{"id": 1}], "next": ELSEWHERE}),
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


def told_by(error: BaseException) -> str:
    """All that anybody could print of an error and of those before it."""
    told = "".join(traceback.format_exception(error))
    for each in chain_of(error):
        told += f"{each!s} {each!r} {each.args!r} {vars(each)!r} {getattr(each, '__notes__', '')!r}\n"
    return told


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()} {vars(record)!r} {record.exc_text}" for record in caplog.records)


def leaks(text: str, forms: object = FORMS) -> list[str]:
    return [form for form in forms if form in text]


async def failure_of(stream: HttpStream) -> AsyncStreamsError:
    with pytest.raises(AsyncStreamsError) as caught:
        await stream.read()
    return caught.value


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def mock_api(router, answer: Response | Exception) -> None:
    router.post(TOKEN_URL).respond(json={"access_token": CANARY, "refresh_token": CANARY})
    route = router.get(url__startswith=URL)
    route.side_effect = lambda request: _answer(answer)


def _answer(answer: Response | Exception) -> Response:
    if isinstance(answer, Exception):
        raise answer
    return Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("failure", list(FAILURES))
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_no_failure_shows_the_credential(respx_mock, virtual_clock, caplog, authenticator, failure):
    mock_api(respx_mock, FAILURES[failure])
    kind = Paged if failure.startswith("next") else Users
    stream = kind(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock)

    error = await failure_of(stream)

    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.parametrize("coding", ["gzip", "zip"])
async def test_a_body_that_cannot_be_decoded_shows_no_credential(virtual_clock, caplog, coding):
    def answer(request: httpx.Request) -> Response:
        return Response(200, headers={"Content-Encoding": coding}, stream=httpx.ByteStream(CANARY.encode()))

    stream = Users(authenticator=TokenAuthenticator(CANARY), clock=virtual_clock, transport=httpx.MockTransport(answer))

    error = await failure_of(stream)

    assert type(error) is DecodeError
    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_no_echo_in_base64_is_shown(respx_mock, virtual_clock, caplog, authenticator, status):
    # Only basic authentication sends the pair, and can be asked to hide it.
    sent = BASE64_FORMS if "basic" in authenticator else BASE64_FORMS[:2]
    mock_api(respx_mock, Response(status, json={"message": f"you sent {' and '.join(sent)}"}))

    error = await failure_of(Users(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock))

    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("authenticator", AUTHENTICATORS)
async def test_what_a_foreign_transport_says_is_not_shown_as_it_is(respx_mock, virtual_clock, caplog, authenticator):
    mock_api(respx_mock, httpx.ConnectError(f"cannot reach {URL}?k={quote(CANARY)} with {CANARY}"))

    error = await failure_of(Users(authenticator=AUTHENTICATORS[authenticator](), clock=virtual_clock))

    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.parametrize("before", range(184, 200, 4))
async def test_an_excerpt_that_is_cut_within_the_credential_shows_no_part_of_it(respx_mock, before):
    respx_mock.get(URL).respond(200, html="<p>".ljust(before, ".") + CANARY)

    error = await failure_of(Users(authenticator=TokenAuthenticator(CANARY)))

    assert CANARY[:4] not in str(error)


async def test_a_line_of_a_streamed_body_is_not_shown(respx_mock, virtual_clock, caplog):
    respx_mock.get(URL).respond(200, text=f'{{"id": 1}}\n{{"you": "{CANARY}" oops}}\n')

    error = await failure_of(Lines(authenticator=TokenAuthenticator(CANARY), clock=virtual_clock))

    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


TOKEN_FAILURES = {
    "refused": Response(400, json={"error": "invalid_grant", "error_description": ECHO}),
    "odd-code": Response(401, json={"error": CANARY}),
    "echo": Response(403, text=ECHO),
    "sick": Response(503, text=ECHO),
    "html": Response(200, html=ECHO),
    "other-name": Response(200, json={"acces_token": CANARY}),
    "bad-token": Response(200, json={"access_token": f"{CANARY} and\nmore"}),
    "invalid-utf-8": Response(200, content=b'{"access_token": "\xff' + CANARY.encode() + b'"}'),
    "network": httpx.ReadError("connection reset"),
    "foreign-words": httpx.ConnectError(f"cannot reach {TOKEN_URL}?client_secret={quote(CANARY)}: {CANARY}"),
}


@pytest.mark.parametrize("options", [{}, {"client_auth": "basic"}, {"send_as": "json"}, {"send_as": "query"}], ids=str)
@pytest.mark.parametrize(
    "failure",
    [
        *(name for name in TOKEN_FAILURES if name != "foreign-words"),
        pytest.param("foreign-words"),
    ],
)
async def test_no_failure_of_a_token_endpoint_shows_the_credential(respx_mock, virtual_clock, caplog, failure, options):
    respx_mock.post(url__startswith=TOKEN_URL).side_effect = lambda request: _answer(TOKEN_FAILURES[failure])
    authenticator = Oauth2Authenticator(TOKEN_URL, "app", CANARY, CANARY, **options)

    error = await failure_of(Users(authenticator=authenticator, clock=virtual_clock))

    assert leaks(told_by(error)) == []
    assert leaks(logged(caplog)) == []


@pytest.mark.respx(assert_all_called=False)
@pytest.mark.parametrize("authenticator", [name for name in AUTHENTICATORS if not name.startswith("httpx")])
async def test_nothing_that_holds_the_credential_shows_it(respx_mock, authenticator):
    shown: list[str] = []

    class Watching(Paged):
        def next_page_token(self, response, context):
            return response.json()["next"]

        def request_params(self, context):
            return {"page": context.next_page_token or ""}

        def parse_response(self, response, context):
            request = response.request
            for held in (response, context, request, request.headers, response.headers, self.authenticator, self):
                shown.append(f"{held!r} {held!s} {held}")
            return response.json()["items"]

    second = [{"items": [{"you": CANARY}], "next": CANARY}, {"items": [], "next": None}]
    respx_mock.post(TOKEN_URL).respond(json={"access_token": CANARY, "refresh_token": CANARY})
    headers = {"Set-Cookie": f"sid={CANARY}", "X-Echo": CANARY}
    respx_mock.get(url__startswith=URL).side_effect = [Response(200, json=body, headers=headers) for body in second]

    async with Watching(authenticator=AUTHENTICATORS[authenticator]()).pages() as pages:
        shown += [f"{page!r} {page!s}" async for page in pages]

    assert len(shown) == 16
    assert leaks("\n".join(shown)) == []


@pytest.mark.parametrize("authenticator", [name for name in AUTHENTICATORS if not name.startswith("httpx")])
def test_an_authenticator_of_ours_is_not_pickled_with_its_secret(authenticator):
    with pytest.raises(TypeError):
        pickle.dumps(AUTHENTICATORS[authenticator]())


async def test_a_header_with_a_line_break_is_not_shown():
    class Broken(Users):
        def request_headers(self, context):
            return {"X-Key": f"{CANARY}\r\nX-Admin: 1"}

    error = await failure_of(Broken())

    assert type(error) is ConfigError
    assert leaks(told_by(error)) == []


async def test_a_secret_in_the_base_url_is_not_shown():
    class Keyed(Users):
        url_base = f"http://api.example.com/v1/?key={CANARY}"

    error = await failure_of(Keyed(authenticator=TokenAuthenticator("t0k")))

    assert type(error) is ConfigError
    assert leaks(told_by(error)) == []


async def test_the_canary_would_be_seen_in_an_error_and_in_a_log(respx_mock, caplog):
    respx_mock.get(URL).respond(401, json={"message": f"you are {CANARY}"})

    error = await failure_of(Users(authenticator=TokenAuthenticator("t0k")))
    logging.getLogger("asyncstreams").warning("%s", CANARY)

    assert CANARY in leaks(told_by(error))
    assert CANARY in leaks(logged(caplog))


def test_a_secret_shows_itself_to_reveal_only():
    secret = Secret(CANARY)

    shown = f"{secret} {secret!r} {secret!s} {secret:>40} {[secret]}"

    assert secret.reveal() == CANARY
    assert leaks(shown) == []


def test_a_secret_is_not_pickled():
    with pytest.raises(TypeError, match="reveal") as caught:
        pickle.dumps({"token": Secret(CANARY)})

    assert leaks(told_by(caught.value)) == []


def test_a_secret_is_no_json():
    with pytest.raises(TypeError) as caught:
        json.dumps({"token": Secret(CANARY)})

    assert leaks(told_by(caught.value)) == []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, Secret], ids=["copy", "deepcopy", "Secret"])
def test_a_copy_of_a_secret_is_as_secret_and_equal(copied):
    secret = Secret(CANARY)

    other = copied(secret)

    assert other == secret
    assert other.reveal() == CANARY
    assert leaks(f"{other} {other!r}") == []


def test_secrets_are_equal_by_value_and_to_no_string():
    secret = Secret("\u00e4b\u00e7")

    assert secret == Secret("\u00e4b\u00e7")
    assert secret != Secret("other")
    assert secret != "\u00e4b\u00e7"
    assert len({secret, Secret("\u00e4b\u00e7")}) == 1


def test_an_empty_secret_is_falsy():
    assert not Secret("")
    assert Secret("x")


def test_a_secret_of_bytes_is_refused_without_being_shown():
    with pytest.raises(ConfigError) as caught:
        Secret(CANARY.encode())

    assert leaks(told_by(caught.value)) == []
