"""Credentials stay hidden in errors, logs, reprs and pickles."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import hashlib
import itertools
import json
import logging
import pickle
import time
import traceback
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

import httpx
import msgspec
import orjson
import pytest
from httpx import Response
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncstreams import (
    AbstractHeaderAuthenticator,
    ApiKeyAuthenticator,
    AsyncStreamsError,
    BasicHttpAuthenticator,
    ConfigError,
    DecodeError,
    HttpStream,
    HttpSubStream,
    MultipleTokenAuthenticator,
    NextUrl,
    Oauth2Authenticator,
    PageRequest,
    PartialFailure,
    RequestContext,
    Secret,
    Slice,
    SliceStarted,
    State,
    StreamStarted,
    TokenAuthenticator,
    ndjson,
)
from asyncstreams.auth.identity import ValueEncoder, digest
from asyncstreams.records.record_validation import _record_label
from asyncstreams.redaction import scrub
from asyncstreams.testing import VirtualClock

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


async def failure_of(stream: HttpStream, **arguments: Any) -> AsyncStreamsError:
    with pytest.raises(AsyncStreamsError) as caught:
        await stream.read(**arguments)
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


MASKED = "***"
SECRET = Secret(CANARY)
PLACES = {
    "segment": {"path": lambda self, context: ("bots", SECRET, "users")},
    "path": {"path": lambda self, context: SECRET},
    "absolute path": {"path": lambda self, context: "https://api.example.com/v1/u?sig=" + SECRET},
    "part of a path": {"path": lambda self, context: ("bot" + SECRET, "users")},
    "param": {"request_params": lambda self, context: {"k": SECRET}},
    "param list": {"request_params": lambda self, context: {"k": ["a", SECRET]}},
    "header": {"request_headers": lambda self, context: {"X-Own": SECRET}},
    "part of a header": {"request_headers": lambda self, context: {"Authorization": "Bearer " + SECRET}},
    "cookie": {"request_headers": lambda self, context: {"Cookie": "sid=" + SECRET + "; lang=de"}},
    "json": {"request_json": lambda self, context: {"filter": [{"key": SECRET, "on": date(2024, 1, 1)}]}},
    "form": {"request_data": lambda self, context: {"key": SECRET}},
    "text": {"request_data": lambda self, context: "<key>" + SECRET + "</key>"},
    "paginator": {"paginator": Paged.paginator, "request_params": lambda self, context: {"k": SECRET}},
}


def stream_with(members: dict[str, Any], respond: Any, **options: Any) -> HttpStream:
    methods = {"http_method": "POST" if {"request_json", "request_data"} & set(members) else "GET"}
    return type("Users", (Users,), methods | members)(transport=httpx.MockTransport(respond), **options)


def sent_text(request: httpx.Request) -> str:
    """Everything of a request that goes over the network, decoded."""
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers.multi_items())
    return f"{unquote_plus(request.url.raw_path.decode())}\n{headers}\n{unquote_plus(request.content.decode())}"


@pytest.mark.parametrize("place", PLACES)
async def test_secret_in_a_request_is_sent_and_hidden(virtual_clock, caplog, place):
    sent: list[str] = []
    shown: list[str] = []

    def respond(request: httpx.Request) -> Response:
        sent.append(f"{request.url.raw_path} {request.headers.multi_items()} {request.content!r} {sent_text(request)}")
        shown.append(f"{request!r} {request.url!r} {request.headers!r} {request.extensions!r}")
        return Response(404, json={"message": f"no {request.url} for {CANARY} or {quote(CANARY)}, {BASE64_FORMS[0]}"})

    error = await failure_of(stream_with(PLACES[place], respond, clock=virtual_clock))

    assert any(form in sent[0] for form in (CANARY, CANARY.replace("+", " ")))
    assert error.status == 404
    assert leaks(text_of(error) + "".join(shown) + logged(caplog)) == []


async def test_secret_of_a_path_is_hidden_in_next_links(virtual_clock, caplog):
    pages = [{"items": [{"id": 1}], "next": f"/v1/bot{quote(CANARY, safe='')}/users?page=2"}, {"message": "down"}]
    shown: list[str] = []

    def respond(request: httpx.Request) -> Response:
        shown.append(f"{request!r} {request.url!r} {request.url.copy_with(query=None)!r} {request.url.join('x')!r}")
        return Response(200 if len(shown) == 1 else 404, json=pages[min(len(shown), 2) - 1])

    members = {"path": lambda self, context: ("bot" + SECRET, "users")}
    bots = type("Bots", (Paged,), members)(transport=httpx.MockTransport(respond), clock=virtual_clock)
    error = await failure_of(bots)

    assert error.url == "https://api.example.com/v1/bot***/users"
    assert leaks(text_of(error) + "".join(shown) + logged(caplog)) == []


async def test_short_secret_is_hidden_as_a_segment_and_a_word(virtual_clock):
    def respond(request: httpx.Request) -> Response:
        return Response(404, json={"message": "PIN 47 of 1947 is unknown"})

    error = await failure_of(
        stream_with({"path": lambda self, context: ("pins", Secret("47"), "rows")}, respond, clock=virtual_clock)
    )

    assert "GET https://api.example.com/v1/pins/***/rows" in str(error)
    assert '"PIN *** of 1947 is unknown"' in str(error)


async def test_url_of_the_request_in_a_hook_is_complete_as_text():
    seen: list[str] = []

    def parse(self, response, context):
        seen.append(str(response.url))
        return []

    members = {"path": lambda self, context: ("bot", SECRET), "parse_response": parse}
    await stream_with(members, lambda request: Response(200, json=[])).read()

    assert seen == [f"https://api.example.com/v1/bot/{quote(CANARY, safe='')}"]


async def test_token_of_an_authenticator_may_be_a_secret():
    class Own(AbstractHeaderAuthenticator):
        token = SECRET

    sent: list[str] = []

    def respond(request: httpx.Request) -> Response:
        sent.append(request.headers["Authorization"])
        return Response(200, json=[])

    await stream_with({}, respond, authenticator=Own()).read()

    assert sent == [CANARY]


FORMATTED = {
    "path": {"path": lambda self, context: f"bot{SECRET}/users"},
    "absolute path": {"path": lambda self, context: f"https://api.example.com/v1/u?sig={SECRET}"},
    "segment": {"path": lambda self, context: ("users", str(SECRET))},
    "param": {"request_params": lambda self, context: {"key": f"{SECRET}"}},
    "QueryParams": {"request_params": lambda self, context: httpx.QueryParams({"key": SECRET})},
    "header": {"request_headers": lambda self, context: {"Authorization": f"Bearer {SECRET}"}},
    "json": {"request_json": lambda self, context: {"auth": {"key": str(SECRET)}}},
    "form": {"request_data": lambda self, context: {"key": str(SECRET)}},
    "text": {"request_data": lambda self, context: str(SECRET)},
}


@pytest.mark.parametrize("place", FORMATTED)
async def test_formatted_secret_is_refused_before_it_is_sent(place):
    sent: list[httpx.Request] = []

    def respond(request: httpx.Request) -> Response:
        sent.append(request)
        return Response(200, json=[])

    error = await failure_of(stream_with(FORMATTED[place], respond))

    assert type(error) is ConfigError
    assert "'***', the text that is shown in place of a Secret" in str(error)
    assert sent == []


async def test_text_with_a_formatted_secret_is_sent_with_a_warning(caplog):
    stream = stream_with(
        {"request_params": lambda self, context: {"key": f"user:{SECRET}"}}, lambda request: Response(200, json=[])
    )

    await stream.read(slices=[{"of": 1}, {"of": 2}])

    warnings = [record.getMessage() for record in caplog.records if "in place of a Secret" in record.getMessage()]
    assert len(warnings) == 1


async def test_value_that_json_cannot_hold_is_still_refused():
    error = await failure_of(stream_with({"request_json": lambda self, context: {"key": SECRET, "on": object()}}, None))

    assert "request_json returned a value that JSON cannot represent" in str(error)


def test_text_and_secret_add_up_to_a_secret():
    secret = "Bearer " + SECRET + "/" + Secret("x")

    assert secret.reveal() == f"Bearer {CANARY}/x"
    assert str(secret) == MASKED
    with pytest.raises(TypeError):
        SECRET + 1


@pytest.mark.parametrize(
    "encode",
    [orjson.dumps, msgspec.json.encode, msgspec.to_builtins, json.dumps, pickle.dumps, Secret.__getstate__],
    ids=["orjson", "msgspec", "to_builtins", "json", "pickle", "getstate"],
)
def test_encoders_refuse_a_secret_without_its_text(encode):
    with pytest.raises(TypeError) as caught:
        encode(SECRET)

    assert leaks(text_of(caught.value)) == []


def test_encoders_with_a_default_show_the_mask():
    assert json.loads(json.dumps([SECRET], default=str)) == [MASKED]
    assert orjson.loads(orjson.dumps([SECRET], default=str)) == [MASKED]
    assert msgspec.json.encode([SECRET], enc_hook=str) == b'["***"]'
    assert dataclasses.asdict(StreamStarted(SECRET)) == {"stream": SECRET}


SIGNED = "https://files.example.net/a.gz?X-Amz-Signature=5ec2e7&n=1"
SHOWN_VALUES = {
    SIGNED: "'https://files.example.net/a.gz?***'",
    "s3://ann:pw@bucket/a?sig=5ec2e7": "'s3://***@bucket/a?***'",
    "https://h.example/cb#access_token=5ec2e7": "'https://h.example/cb?***'",
    "/files/a.gz?sig=5ec2e7": "'/files/a.gz?***'",
    "a.gz?X-Goog-Signature=5ec2e7": "'a.gz?***'",
    f"see {SIGNED} there": "'see https://files.example.net/a.gz?*** there'",
    "https://files.example.net/a.gz": "'https://files.example.net/a.gz'",
    "why? a=b": "'why? a=b'",
    "2024-01-01T00:00:00Z": "'2024-01-01T00:00:00Z'",
}


@pytest.mark.parametrize("value", SHOWN_VALUES)
def test_query_of_a_url_in_a_slice_is_not_shown(value):
    nested = Slice({"file": value, "more": [{"url": value}, (value, {value})], "secret": SECRET, 7: httpx.URL(SIGNED)})
    shown = SHOWN_VALUES[value]

    assert str(Slice({"file": value})) == f"{{'file': {shown}}}"
    assert repr(Slice({"file": value}, (1, 2))) == f"Slice({{'file': {shown}}}, interval=(1, 2))"
    for text in (repr(nested), str(nested), repr(SliceStarted("s", nested)), repr(RequestContext(nested))):
        assert "5ec2e7" not in text
        assert text.count(shown) >= 4
        assert leaks(text) == []


async def test_signed_url_in_a_slice_is_in_no_message(virtual_clock, caplog):
    seen: list[str] = []
    files = stream_with(
        {"path": lambda self, context: context.stream_slice["file"]},
        lambda request: Response(404),
        allowed_origins=("https://files.example.net",),
        clock=virtual_clock,
    )
    files.subscribe(lambda event: seen.append(repr(event)))
    slices = [{"file": SIGNED}, {"file": SIGNED.replace("a.gz", "b.gz")}]

    with pytest.raises(PartialFailure) as caught:
        await files.read(slices=slices)

    shown = text_of(caught.value) + "".join(map(text_of, caught.value.errors)) + f"{caught.value.report}"
    assert "{'file': 'https://files.example.net/b.gz?***'}" in str(caught.value)
    assert "5ec2e7" not in shown + logged(caplog) + "".join(seen)
    assert dict(caught.value.errors[0].stream_slice) in slices


class Hooks(HttpStream):
    url_base = "https://api.example.com/v1/"
    primary_key: str | None = "id"

    def path(self, context):
        return "hooks"


class Deliveries(HttpSubStream):
    url_base = "https://api.example.com/v1/"
    max_tries = 1

    def path(self, context):
        return ("hooks", context.stream_slice["parent"]["id"], "deliveries")


@pytest.mark.parametrize("key", ["id", None])
@pytest.mark.parametrize("batch_size", [None, 2])
async def test_parents_are_shown_by_their_keys(virtual_clock, caplog, key, batch_size):
    def respond(request: httpx.Request) -> Response:
        rows = [{"id": number, "signing": "5ec2e7", "note": "x" * 3000} for number in (1, 2, 3)]
        return Response(200, json=rows) if request.url.path == "/v1/hooks" else Response(500)

    class Some(Deliveries):
        parent_batch_size = batch_size

        def path(self, context):
            return "deliveries"

    transport = httpx.MockTransport(respond)
    hooks = Hooks(transport=transport, clock=virtual_clock)
    hooks.primary_key = key
    seen: list[str] = []
    deliveries = Some(hooks, transport=transport, clock=virtual_clock)
    deliveries.subscribe(lambda event: seen.append(repr(event)))

    with pytest.raises(PartialFailure) as caught:
        await deliveries.read()

    shown = "{'parent': {'id': 1}}" if batch_size is None else "{'parents': [{'id': 1}, {'id': 2}]}"
    assert shown in str(caught.value)
    assert any(shown in text for text in seen)
    assert "5ec2e7" not in str(caught.value) + logged(caplog) + "".join(seen)
    assert caught.value.errors[0].stream_slice[next(iter(caught.value.errors[0].stream_slice))]


def test_repr_of_a_page_request_hides_query_and_headers():
    page = PageRequest(params={"page": 2, "of": SIGNED, "key": SECRET}, headers={"X-Key": CANARY}, url=SIGNED)

    shown = "'https://files.example.net/a.gz?***'"
    params = f"{{'page': 2, 'of': {shown}, 'key': Secret('***')}}"
    assert repr(page) == f"PageRequest(params={params}, headers=['X-Key'], url={shown})"


def test_labels_follow_the_values_that_they_stand_for():
    labelled = Slice({"parent": {"id": 1, "note": "n"}}, labels={"parent": {"id": 1}})

    assert str(labelled | {"month": 2}) == "{'parent': {'id': 1}, 'month': 2}"
    assert str({"month": 2} | labelled) == "{'month': 2, 'parent': {'id': 1}}"
    assert str(Slice({"month": 2}) | labelled) == "{'month': 2, 'parent': {'id': 1}}"
    assert str(labelled | {"parent": {"id": 3}}) == "{'parent': {'id': 3}}"
    assert labelled == {"parent": {"id": 1, "note": "n"}}
    assert str(pickle.loads(pickle.dumps(labelled))) == str(copy.deepcopy(labelled)) == "{'parent': {'id': 1}}"


async def test_secret_in_a_slice_is_kept_in_a_state_as_a_hash(tmp_path, virtual_clock):
    sent: list[str] = []

    def respond(request: httpx.Request) -> Response:
        sent.append(request.headers["X-Key"])
        return Response(500 if request.headers["X-Key"] == "other-key" and len(sent) < 3 else 200, json=[{"id": 1}])

    members = {"request_headers": lambda self, context: {"X-Key": context.stream_slice["key"]}, "max_tries": 1}
    slices = [{"account": 1, "key": SECRET}, {"account": 1, "key": Secret("other-key")}]
    stream = stream_with(members, respond, clock=virtual_clock)

    with pytest.raises(PartialFailure):
        async with stream.pages(slices=slices, state=State.load(tmp_path / "state")) as pages:
            assert [len(page.records) async for page in pages]
    stored = (tmp_path / "state").read_text()
    await stream.read(slices=slices, state=State.load(tmp_path / "state"))

    assert sent == [CANARY, "other-key", "other-key"]
    assert '"key":"secret:' in stored
    assert leaks(stored) == []
    assert not any(hashed in stored for hashed in plain_hashes(CANARY))


def plain_hashes(text: str) -> list[str]:
    """Hashes without a key, which can be guessed."""
    digests = [hashlib.new(name, text.encode()) for name in ("sha256", "sha1", "md5", "blake2b")]
    return [digest.hexdigest()[:32] for digest in digests] + [str(hash(text))]


async def test_secret_in_a_slice_has_no_batch_id():
    class Keep:
        async def write(self, stream, records, batch_id):
            raise AssertionError

    members = {"stream_slices": lambda self, state: [{"key": SECRET}]}
    stream = stream_with(members, lambda request: Response(200, json=[{}]))

    with pytest.raises(ConfigError, match="a slice contains a Secret") as caught:
        await stream.extract(to=Keep())

    assert leaks(text_of(caught.value)) == []


async def test_error_with_a_secret_in_its_slice_can_be_pickled(virtual_clock):
    stream = stream_with({}, lambda request: Response(404), clock=virtual_clock)
    error = await failure_of(stream, slices=[{"account": 1, "key": SECRET}])

    pickled = pickle.dumps(error)

    assert pickle.loads(pickled).stream_slice == {"account": 1, "key": MASKED}
    assert CANARY.encode() not in pickled


def test_set_of_secrets_has_a_stable_fingerprint():
    # Their reprs are equal, so only their texts can give them an order.
    values = [Secret(text) for text in ("one", "two", "three", "four", "five")]

    digests = {
        digest(ValueEncoder().encode({"keys": set(order), "by": dict.fromkeys(order, 1)}, 0), b"salt")
        for order in itertools.permutations(values)
    }

    assert len(digests) == 1


class KeyedHooks(Hooks):
    """Sends a secret in every place that fits into one request."""

    http_method = "POST"
    use_cache = True

    def __init__(self, secret: Secret, **options):
        self.secret = secret
        super().__init__(**options)

    def path(self, context):
        return ("v1" + self.secret, self.secret, "hooks")

    def request_params(self, context):
        return {"key": self.secret, "keys": [self.secret, 1]}

    def request_json(self, context):
        return {"auth": {"key": self.secret, "keys": [self.secret]}}


class KeyedDeliveries(Deliveries):
    """Carries the secret in its slices, in a header, a cookie and a form."""

    http_method = "POST"
    state_checkpoint_interval = 1
    max_tries = 2

    async def stream_slices(self, state):
        async for stream_slice in super().stream_slices(state):
            yield stream_slice | {"key": self.parents[0].secret}

    def path(self, context):
        return ("hooks", context.stream_slice["parent"]["id"], context.stream_slice["key"])

    def request_headers(self, context):
        secret = Secret(quote(context.stream_slice["key"].reveal(), safe=" !#$&'()*+,/:;=?@[]\"\\<>{}|^`~"))
        return {"X-Key": secret, "Cookie": "sid=" + secret}

    def request_data(self, context):
        return {"key": context.stream_slice["key"]}


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=6, max_size=20),
    status=st.sampled_from([401, 403, 404, 429, 503]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="a  b\\\"'/%25+&=#?~<>", status=404)
@example(text="\u00e4\u2003\U0001f600 \u202e()[]{}", status=500)
def test_random_secret_is_shown_nowhere(caplog, tmp_path_factory, text, status):
    secret, folder = f"Zq{text}", tmp_path_factory.mktemp("kept")
    caplog.clear()

    shown = asyncio.run(read_keyed_streams(Secret(secret), folder, status))

    shown += logged(caplog)
    shown += "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())
    assert "deliveries" in shown
    assert leaks(shown, forms_of(secret)) == []


def forms_of(secret: str) -> set[str]:
    octets = secret.encode()
    encoded = {base64.b64encode(octets).decode(), base64.urlsafe_b64encode(octets).decode()}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    plain = {secret, " ".join(secret.split()), octets.decode("latin-1"), quote(secret), quote_plus(secret)}
    return {form for form in encoded | escaped | plain | {quote(secret, safe="")} if len(form) >= 6}


async def read_keyed_streams(secret: Secret, folder: Path, status: int) -> str:
    """Everything that is shown of a run, in which one child fails, and of requests and responses."""
    shown: list[str] = []

    def respond(request: httpx.Request) -> Response:
        shown.append(f"{request!r} {request.url!r} {request.headers!r} {request.extensions!r}")
        if request.url.path.endswith("/hooks"):
            return Response(200, json=[{"id": 1}, {"id": 2}])
        if request.url.path.startswith("/v1/hooks/1/"):
            return Response(200, json=[{"id": 1}])
        forms = " ".join(sorted(forms_of(secret.reveal())))
        return Response(status, json={"message": f"{forms} {request.url}", "you": request.content.decode()})

    def show(self, response, context):
        shown.append(f"{response!r} {response.request!r} {response.url!r} {context!r} {self!r} {vars(self)!r}")
        return response.json()

    transport, clock = httpx.MockTransport(respond), VirtualClock()
    KeyedDeliveries.parse_response = show
    hooks = KeyedHooks(secret, transport=transport, clock=clock, cache_dir=folder / "cache")
    deliveries = KeyedDeliveries(hooks, transport=transport, clock=clock)
    deliveries.subscribe(lambda event: shown.append(repr(event)))
    try:
        async with deliveries.pages(state=State.load(folder / "state")) as pages:
            shown += [f"{page!r} {pages.explain()}" async for page in pages]
    except AsyncStreamsError as error:
        shown.append(text_of(error) + "".join(map(text_of, getattr(error, "errors", ()))))
        shown.append(f"{getattr(error, 'report', '')!r} {getattr(error, 'report', '')!s}")
    else:
        assert status in (403, 404, 410), "the second child fails, unless it is left out"
    return "".join(shown)


def test_url_as_the_key_of_a_record_is_shown_without_its_query():
    key = _record_label(SIGNED, 0)

    assert key == "record 'https://files.example.net/a.gz?***'"


async def test_password_of_a_proxy_may_be_a_secret(virtual_clock):
    proxy = "http://ann:" + Secret("pr0xy-w0rd") + "@127.0.0.1:9"

    class Proxied(Users):
        url_base = "http://api.example.com/v1/"
        max_tries = 1

        def request_kwargs(self, context):
            return {"proxy": proxy, "cert": ["/none.pem", "/none.key", Secret("k3y-w0rd")]}

    error = await failure_of(Proxied(clock=virtual_clock))

    assert "the proxy http://127.0.0.1:9" in str(error)
    assert leaks(text_of(error), ["pr0xy-w0rd", "k3y-w0rd"]) == []


async def test_http2_libraries_do_not_log_headers(virtual_clock):
    class Second(Users):
        url_base = "http://127.0.0.1:9/"
        max_tries = 1

        def request_kwargs(self, context):
            return {"http2": True}

    await failure_of(Second(clock=virtual_clock))

    assert not any(logging.getLogger(f"hpack.{name}").isEnabledFor(logging.DEBUG) for name in ("hpack", "table"))


@pytest.mark.parametrize("send_as", ["form", "json", "query"])
async def test_secret_of_a_token_request_is_sent_and_hidden(virtual_clock, caplog, send_as):
    sent: list[str] = []

    def respond(request: httpx.Request) -> Response:
        sent.append(sent_text(request) + request.content.decode())
        return Response(400, json={"error": "invalid_client", "error_description": ECHO})

    authenticator = Oauth2Authenticator(
        TOKEN_URL,
        "app",
        "s3cret",
        refresh_request_body={"assertion": SECRET},
        refresh_request_headers={"X-Own": SECRET},
        send_as=send_as,
    )
    error = await failure_of(stream_with({}, respond, authenticator=authenticator, clock=virtual_clock))

    assert sent[0].count(CANARY) >= 2
    assert leaks(text_of(error) + logged(caplog)) == []


@pytest.mark.parametrize(
    "piece", ["x", "token", "secret-", "a.", "a://b@", "a:", "token=", '"', "Token ", "http://a?b"]
)
def test_long_texts_are_masked_in_linear_time(piece):
    text = (piece * 65_536)[:65_536]
    began = time.process_time()

    scrub(text, {"hunter22"})

    assert time.process_time() - began < 5  # a search that backtracks takes minutes
