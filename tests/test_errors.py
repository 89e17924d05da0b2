"""Errors of failing APIs: message, location and hint."""

from __future__ import annotations

import copy
import json
import pickle

import httpx
import pytest
from httpx import Response

import asyncstreams
from asyncstreams import (
    AsyncStreamsError,
    AuthError,
    ConfigError,
    CrossOriginLink,
    DecodeError,
    HostUnavailable,
    HttpStatusError,
    HttpStream,
    LinkHeader,
    MalformedJSON,
    Oauth2Authenticator,
    PageNumber,
    PaginationLoop,
    RateLimitWaitTooLong,
    RemoteError,
    ResponseTooLarge,
    Slice,
    StallTimeout,
    TokenAuthenticator,
    TruncatedBody,
    UnexpectedContent,
)
from asyncstreams.errors import PartialFailure
from asyncstreams.execution.report import RunReport, StreamReport, WriteReport

URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"

    def request_params(self, context):
        return {"filter": "private-matter"}


async def failure_of(stream: HttpStream) -> AsyncStreamsError:
    with pytest.raises(AsyncStreamsError) as caught:
        await stream.read()
    return caught.value


@pytest.mark.parametrize("status", [400, 402, 404, 405, 409, 410, 414, 422, 451])
async def test_4xx_is_not_retried_and_error_has_location(respx_mock, status):
    route = respx_mock.get(URL).respond(status, json={"message": "no such thing"})

    error = await failure_of(Users())

    assert type(error) is HttpStatusError
    assert route.call_count == 1
    assert (error.stream, error.method, error.url, error.status, error.tries) == ("users", "GET", URL, status, 1)
    for text in ("users", "GET", URL, str(status), "no such thing"):
        assert text in str(error)
    assert "private-matter" not in f"{error} {error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"title": "Out of credit", "detail": "Your balance is 30", "type": "about:blank"}, "Your balance is 30"),
        ({"title": "Out of credit", "status": 403}, "Out of credit"),
        ({"message": "plain"}, "plain"),
        ({"messages": ["one", "two"]}, "one, two"),
        ({"error": "plain"}, "plain"),
        ({"error": {"code": 7, "message": "nested"}}, "nested"),
        ({"errors": [{"message": "first"}, {"message": "second"}]}, "first, second"),
        ({"errors": {"message": "nested"}}, "nested"),
        ({"failure": "plain"}, "plain"),
        ({"failures": ["plain"]}, "plain"),
        ({"detail": "plain"}, "plain"),
        ({"error": "invalid_request", "error_description": "scope is missing"}, "scope is missing"),
        ([{"message": "in a list"}], "in a list"),
    ],
)
async def test_api_message_is_shown(respx_mock, body, expected):
    respx_mock.get(URL).respond(400, json=body)

    error = await failure_of(Users())

    assert expected in str(error)


@pytest.mark.parametrize("message", ["Token expired", "Invalid token provided", "Basic authentication is switched off"])
async def test_api_message_about_tokens_is_not_redacted(respx_mock, message):
    respx_mock.get(URL).respond(401, json={"message": message})

    error = await failure_of(Users())

    assert message in str(error)


async def test_failing_token_endpoint_shows_its_message(respx_mock, virtual_clock):
    respx_mock.post("https://auth.test/token").respond(503, json={"message": "closed, id s3cret-value"})
    login = Oauth2Authenticator("https://auth.test/token", "client", "s3cret-value")

    error = await failure_of(Users(authenticator=login, clock=virtual_clock))

    assert 'the token endpoint answered 503: "closed, id ***"' in str(error)


async def test_hint_never_proposes_errors_as_records(respx_mock):
    respx_mock.get(URL).respond(json={"data": None, "errors": [{"message": "no such shop"}]})

    error = await failure_of(Users())

    assert "ResponseAction.FAIL" in (error.hint or "")
    assert "records_path = 'errors'" not in str(error)


async def test_keys_in_a_hint_are_shown_as_escapes(respx_mock):
    respx_mock.get(URL).respond(json={"\x1b[2J": 1})

    error = await failure_of(Users())

    assert r"\x1b[2J" in str(error)
    assert "\x1b" not in str(error)


async def test_rfc_9457_title_and_detail_are_shown(respx_mock):
    problem = {"type": "https://example.com/credit", "title": "Out of credit", "detail": "30 left, 50 needed"}
    respx_mock.get(URL).respond(403, content=json.dumps(problem), headers={"Content-Type": "application/problem+json"})

    error = await failure_of(Users())

    assert "Out of credit" in str(error)
    assert "30 left, 50 needed" in str(error)


async def test_long_api_message_is_shortened(respx_mock):
    respx_mock.get(URL).respond(400, json={"message": "blah " * 10_000})

    error = await failure_of(Users())

    assert "blah blah" in str(error)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("content", [b"<h1>gone</h1>", b"", b"[1, 2", b"\xff\xfe\x00", b"null", b"7"])
async def test_non_json_error_body_does_not_hide_status(respx_mock, content):
    respx_mock.get(URL).respond(404, content=content)

    error = await failure_of(Users())

    assert type(error) is HttpStatusError
    assert "404 Not Found" in str(error)


async def test_error_names_slice_and_page(respx_mock):
    class Tagged(Users):
        paginator = PageNumber()

        def stream_slices(self, state):
            return [{"tag": "a"}, {"tag": "b"}]

        def request_params(self, context):
            return {"tag": context.stream_slice["tag"]}

    respx_mock.get(URL, params={"tag": "a", "page": "1"}).respond(json=[])
    respx_mock.get(URL, params={"tag": "b", "page": "1"}).respond(json=[{"id": 1}])
    respx_mock.get(URL, params={"tag": "b", "page": "2"}).respond(404)

    failure = await failure_of(Tagged())

    assert isinstance(failure, PartialFailure)
    (error,) = failure.errors
    assert isinstance(error, HttpStatusError)
    assert (error.stream_slice, error.page) == ({"tag": "b"}, 1)
    assert "'tag': 'b'" in str(error)
    assert "page 1" in str(error)


@pytest.mark.parametrize("content", [b"<h1>hello</h1>", b"", b"[oops", b"{}", b'<input type="password">'])
async def test_body_error_has_location(respx_mock, virtual_clock, content):
    respx_mock.get(URL).respond(200, content=content)

    error = await failure_of(Users(clock=virtual_clock))

    assert (error.stream, error.method, error.url, error.status) == ("users", "GET", URL, 200)


async def test_html_with_200_error_shows_type_and_start(respx_mock):
    respx_mock.get(URL).respond(200, html="<!DOCTYPE html><title>Maintenance tonight</title>" + "x" * 5000)

    error = await failure_of(Users())

    assert type(error) is UnexpectedContent
    assert "text/html" in str(error)
    assert "Maintenance tonight" in str(error)
    assert "x" * 200 not in str(error)


async def test_login_page_with_200_raises_auth_error(respx_mock):
    respx_mock.get(URL).respond(200, html='<html><form action="/login"><input type="password"></form></html>')

    error = await failure_of(Users())

    assert type(error) is AuthError
    assert "login page" in str(error)


async def test_empty_body_for_json_raises_unexpected_content(respx_mock):
    respx_mock.get(URL).respond(200, content=b"")

    error = await failure_of(Users())

    assert isinstance(error, UnexpectedContent)
    assert "empty body" in str(error)


async def test_empty_body_is_passed_to_custom_parse_response(respx_mock):
    class Lenient(Users):
        def parse_response(self, response, context):
            return response.json() if response.content else []

    respx_mock.get(URL).respond(200, content=b"")

    records = await Lenient().read()

    assert records == []


async def test_object_for_array_error_suggests_records_path(respx_mock):
    respx_mock.get(URL).respond(json={"total": 2, "items": [{"id": 1}, {"id": 2}]})

    error = await failure_of(Users())

    assert type(error) is UnexpectedContent
    assert "records_path = 'items'" in str(error)


async def test_wrong_records_path_error_suggests_another(respx_mock):
    class Wrapped(Users):
        records_path = "data"

    respx_mock.get(URL).respond(json={"items": [{"id": 1}]})

    error = await failure_of(Wrapped())

    assert type(error) is UnexpectedContent
    assert "records_path = 'data'" in str(error)
    assert "records_path = 'items'" in str(error)


async def test_malformed_json_is_retried_once_and_error_has_offset(respx_mock, virtual_clock):
    route = respx_mock.get(URL).respond(200, content=b'[{"id": 1}, {"id": oops}]')

    error = await failure_of(Users(clock=virtual_clock))

    assert type(error) is MalformedJSON
    assert error.offset == 19
    assert "byte 19" in str(error)
    assert route.call_count == error.tries == 2


async def test_offset_counts_bytes_not_characters(respx_mock, virtual_clock):
    respx_mock.get(URL).respond(200, content='["\u00e4\u00e4", oops]'.encode())

    error = await failure_of(Users(clock=virtual_clock))

    assert error.offset == len('["\u00e4\u00e4", '.encode())


async def test_malformed_json_is_read_after_successful_retry(respx_mock, virtual_clock):
    respx_mock.get(URL).mock(side_effect=[Response(200, content=b'[{"id": 1}'), Response(200, json=[{"id": 1}])])

    records = await Users(clock=virtual_clock).read()

    assert records == [{"id": 1}]


@pytest.mark.parametrize(
    "content", [b"[NaN]", b"[1e400]", b'["\\ud800"]', b"[1] trailing", b"[" * 100_000 + b"]" * 100_000]
)
async def test_non_strict_json_raises_malformed_json(respx_mock, virtual_clock, content):
    respx_mock.get(URL).respond(200, content=content)

    error = await failure_of(Users(clock=virtual_clock))

    assert type(error) is MalformedJSON


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("m", hint="h"),
        AuthError("m", status=401),
        HttpStatusError("m", status=404, stream="users", stream_slice=Slice({"a": 1}, (0, 9)), page=3),
        TruncatedBody("m"),
        DecodeError("m", retryable=False, hint="h"),
        ResponseTooLarge("m"),
        UnexpectedContent("m"),
        MalformedJSON("m", offset=7, hint="h"),
        CrossOriginLink("m"),
        PaginationLoop("m"),
        StallTimeout("m"),
        RateLimitWaitTooLong("m", tries=2),
        HostUnavailable("m", method="GET", url=URL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_survives_pickling(error):
    error.locate(tries=4)
    error.add_note("a note")

    copied = pickle.loads(pickle.dumps(error))

    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)
    assert copied.retryable == error.retryable


async def test_error_of_a_read_survives_pickling(respx_mock):
    respx_mock.get(URL).respond(404, json={"message": "gone"})
    error = await failure_of(Users())

    copied = pickle.loads(pickle.dumps(error))

    assert (str(copied), vars(copied)) == (str(error), vars(error))


def test_error_classes_form_documented_tree():
    assert issubclass(AuthError, ConfigError)
    assert issubclass(MalformedJSON, UnexpectedContent)
    for kind in (HttpStatusError, TruncatedBody, DecodeError, ResponseTooLarge, UnexpectedContent, CrossOriginLink):
        assert issubclass(kind, RemoteError)
    assert not issubclass(RemoteError, ConfigError)


async def test_text_of_a_404(respx_mock):
    respx_mock.get(URL).respond(404, json={"message": "no such table"})

    error = await failure_of(Users())

    assert str(error) == (
        'users: GET https://api.example.com/v1/users answered 404 Not Found: "no such table"\n'
        "  at: page 0, 1 try\n"
        "  hint: check url_base and path(): the URL above is the one that was requested"
    )


async def test_text_of_a_401_on_a_later_page(respx_mock):
    class Tagged(Users):
        paginator = LinkHeader()

        def stream_slices(self, state):
            return [{"tag": "b"}]

    respx_mock.get(URL, params={"filter": "private-matter"}).respond(
        json=[{"id": 1}], headers={"Link": '<?page=2>; rel="next"'}
    )
    respx_mock.get(URL, params={"page": "2"}).respond(401, json={"error": {"message": "Please sign in"}})

    error = await failure_of(Tagged(authenticator=TokenAuthenticator("t0k")))

    assert str(error) == (
        'tagged: GET https://api.example.com/v1/users answered 401 Unauthorized: "Please sign in"\n'
        "  at: slice {'tag': 'b'}, page 1 (page 0 was delivered), 1 try\n"
        "  hint: the API rejects the credential: check that it is complete, still valid, and meant for this API"
    )


async def test_text_of_a_500_after_last_try(respx_mock, virtual_clock):
    respx_mock.get(URL).respond(500)

    error = await failure_of(Users(clock=virtual_clock))

    assert str(error) == (
        "users: GET https://api.example.com/v1/users answered 500 Internal Server Error\n"
        "  at: page 0, 5 tries\n"
        "  hint: the API is failing: start again later, or raise max_tries"
    )


async def test_text_of_malformed_json(respx_mock, virtual_clock):
    respx_mock.get(URL).respond(200, content=b'[{"id": 1}, oops]', headers={"Content-Type": "application/json"})

    error = await failure_of(Users(clock=virtual_clock))

    assert (
        str(error)
        .splitlines()[0]
        .startswith("users: GET https://api.example.com/v1/users sent JSON that is malformed at byte 12 of 17: ")
    )
    assert str(error).endswith("  at: page 0, 2 tries")


async def test_text_of_an_unavailable_host(respx_mock, virtual_clock):
    respx_mock.get(URL).mock(side_effect=httpx.ConnectError("Connection refused"))

    error = await failure_of(Users(clock=virtual_clock))

    assert type(error) is HostUnavailable
    assert str(error) == (
        "users: GET https://api.example.com/v1/users did not answer: Connection refused\n"
        "  at: page 0, 5 tries\n"
        "  hint: nothing listens there: check that the server is running, and the host and port of url_base"
    )


CUSTOM_ARGUMENTS = {
    "MalformedJSON": {"offset": 12},
    "SchemaError": {"key": {"id": 7}, "pointer": "/id", "keyword": "type"},
    "OutputLocked": {"holder": "process 7", "since": None},
    "StateIncompatible": {"field": "url_base"},
    "PartialFailure": {"errors": (ConfigError("of a slice"), KeyError("id")), "report": None},
    "ThresholdMissed": {"report": None},
}
ERROR_CLASSES = [
    public
    for public in (getattr(asyncstreams, name) for name in asyncstreams.__all__)
    if isinstance(public, type) and issubclass(public, AsyncStreamsError)
]


class QuotaExceeded(HttpStatusError):
    """An error of an author, whose arguments are keyword-only."""

    def __init__(self, *, account: int) -> None:
        super().__init__(f"account {account} has no requests left", status=429)
        self.account = account


class NeedsArgument(Exception):
    """An exception that pickle cannot restore."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)


def pickled(error: AsyncStreamsError) -> AsyncStreamsError:
    return pickle.loads(pickle.dumps(error))


def example_of(error_class: type[AsyncStreamsError]) -> AsyncStreamsError:
    """An error of this class as the package raises it: located, with a note and a cause."""
    error = error_class("the problem", **CUSTOM_ARGUMENTS.get(error_class.__name__, {}))
    error.locate(stream="orders", stream_slice=Slice({"shop": 1}, ("a", "b")), page=3, url=URL, method="GET")
    error.add_note("in a hook")
    error.__cause__ = ConfigError("the cause")
    return error


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("error_class", ERROR_CLASSES, ids=lambda error_class: error_class.__name__)
def test_error_survives_copy_and_pickle(error_class, copied):
    error = example_of(error_class)

    twin = copied(error)

    assert type(twin) is error_class
    assert str(twin) == str(error)
    assert twin.__notes__ == ["in a hook"]
    assert str(twin.__cause__) == "the cause"
    assert {name: repr(value) for name, value in vars(twin).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])
def test_error_of_author_with_keyword_arguments_is_restored(copied):
    error = copied(QuotaExceeded(account=7).locate(page=2))

    assert (error.account, error.status, error.page) == (7, 429, 2)
    assert error.message == "account 7 has no requests left"


def test_what_pickle_cannot_restore_is_described():
    error = ConfigError("the problem", stream_slice={"shop": 1, "make": lambda: 1})
    error.__cause__ = NeedsArgument("no rows", code=3)

    restored = pickled(PartialFailure("1 of 2 failed", (error, NeedsArgument("no rows", code=3)), report=lambda: 1))

    first, second = restored.errors
    assert first.stream_slice == {"shop": 1, "make": "<builtins.function>"}
    assert str(first.__cause__) == str(second) == "test_errors.NeedsArgument: no rows"


def test_partial_failure_keeps_its_report(tmp_path):
    written = WriteReport(tmp_path, rows=3)
    report = RunReport((StreamReport("orders", 1, 3, 0, 1, 1, written=written),), {"refunds": "no scope"})

    restored = pickled(PartialFailure("1 of 2 failed", (ConfigError("of a slice"),), report))

    assert restored.report == report
