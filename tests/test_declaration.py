"""Checks of stream declarations: errors before the first request, with a hint."""

from __future__ import annotations

import pytest

from asyncstreams import (
    ConfigError,
    Continuation,
    Cursor,
    HttpStream,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    Source,
    TokenAuthenticator,
)

URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


def declared(**attributes: object) -> type[HttpStream]:
    """A stream class `Wrong` with these attributes added to a valid declaration."""
    return type("Wrong", (Users,), attributes)


async def config_error(cls: type[HttpStream], **options: object) -> str:
    """The message of the ConfigError. Nothing is mocked, so a request would raise another error."""
    with pytest.raises(ConfigError) as caught:
        await cls(**options).read()
    return str(caught.value)


@pytest.fixture(autouse=True)
def _no_network(respx_mock) -> None:
    """Requests that a test has not mocked raise an error other than ConfigError."""


async def test_missing_path_is_refused_with_hint():
    class Pathless(HttpStream):
        url_base = "https://api.example.com/v1/"

    message = await config_error(Pathless)

    assert "Pathless.path is missing" in message
    assert "def path(self, context)" in message


async def test_missing_url_base_is_refused_with_hint():
    class Nowhere(HttpStream):
        def path(self, context):
            return "users"

    message = await config_error(Nowhere)

    assert "Nowhere.url_base is missing" in message
    assert 'url_base = "https://' in message


@pytest.mark.parametrize(
    "base",
    ["/v1/", "api.example.com/v1", "ftp://api.example.com/", "https:///v1", "https://api.example.com:port/", 7],
)
async def test_url_base_that_is_not_absolute_is_refused(base):
    message = await config_error(declared(url_base=base))

    assert "Wrong.url_base" in message
    assert "https://" in message


@pytest.mark.parametrize("base", ["https://api.example.com/v1?key=1", "https://api.example.com/v1#top"])
async def test_url_base_with_query_or_fragment_is_refused(base):
    message = await config_error(declared(url_base=base))

    assert "Wrong.url_base" in message


async def test_url_base_with_password_is_refused_without_showing_it():
    message = await config_error(declared(url_base="https://ann:sesame@api.example.com/v1/"))

    assert "Wrong.url_base" in message
    assert "sesame" not in message


async def test_unknown_option_suggests_similar_option():
    message = await config_error(Users, authenticatr=None)

    assert "Users(authenticatr=...)" in message
    assert "'authenticator'" in message


async def test_unknown_option_error_lists_options():
    message = await config_error(Users, flavour="vanilla")

    assert "flavour" in message
    for known in ("authenticator", "timeouts", "transport", "allowed_origins"):
        assert known in message


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("request_param", "request_params"),
        ("parse_respons", "parse_response"),
        ("next_page_tokens", "next_page_token"),
        ("stream_slice", "stream_slices"),
        ("clasify", "classify"),
        ("request_header", "request_headers"),
    ],
)
async def test_misspelt_hook_suggests_right_hook(name, suggestion):
    message = await config_error(declared(**{name: lambda self, context: None}))

    assert f"Wrong.{name}" in message
    assert f"{suggestion!r}" in message


def path_keywords(self, *, stream_state=None, stream_slice=None, next_page_token=None): ...
def path_any(self, **kwargs): ...
def params_keywords(self, *, stream_state, stream_slice=None, next_page_token=None): ...
def parse_any(self, response, **kwargs): ...
def parse_keywords(self, response, *, stream_state, stream_slice=None, next_page_token=None): ...
def token_alone(self, response): ...
def slices_keywords(self, *, sync_mode, cursor_field=None, stream_state=None): ...


@pytest.mark.parametrize(
    ("hook", "function"),
    [
        ("path", path_keywords),
        ("path", path_any),
        ("request_params", params_keywords),
        ("request_headers", path_any),
        ("parse_response", parse_any),
        ("parse_response", parse_keywords),
        ("next_page_token", token_alone),
        ("stream_slices", slices_keywords),
    ],
)
async def test_hook_with_cdk_keywords_is_refused(hook, function):
    message = await config_error(declared(**{hook: function}))

    assert f"Wrong.{hook}" in message
    assert "hint: write `def " in message


def path_positional(self, stream_state=None, stream_slice=None, next_page_token=None):
    return "users"


def params_positional(self, stream_state, stream_slice=None, next_page_token=None):
    return {}


def parse_positional(self, response, stream_state, stream_slice=None, next_page_token=None):
    return []


def slices_positional(self, sync_mode, cursor_field=None, stream_state=None):
    return [{}]


@pytest.mark.parametrize(
    ("hook", "function"),
    [
        ("path", path_positional),
        ("request_params", params_positional),
        ("parse_response", parse_positional),
        ("stream_slices", slices_positional),
    ],
)
async def test_hook_with_cdk_positional_arguments_is_refused(hook, function):
    message = await config_error(declared(**{hook: function}))

    assert f"Wrong.{hook}" in message


async def test_async_plain_hook_is_refused():
    async def path(self, context):
        return "users"

    message = await config_error(declared(path=path))

    assert "Wrong.path is async" in message


async def test_hook_that_is_a_value_is_refused_with_hint():
    message = await config_error(declared(path="users"))

    assert "Wrong.path" in message
    assert "def path(self, context): return 'users'" in message


async def test_max_retries_hint_gives_max_tries_plus_one():
    message = await config_error(declared(max_retries=5))

    assert "Wrong.max_retries" in message
    assert "max_tries = 6" in message


async def test_max_retries_option_suggests_max_tries():
    message = await config_error(Users, max_retries=5)

    assert "max_tries" in message


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("max_tries", 0),
        ("max_tries", "5"),
        ("max_tries", True),
        ("max_time", 0),
        ("max_server_wait", -1),
        ("max_pages", 0),
        ("http_method", None),
        ("allowed_origins", "https://files.example.com"),
        ("allowed_origins", ("files.example.com",)),
        ("uncredentialed_origins", "https://files.example.com"),
        ("uncredentialed_origins", ("files.example.com",)),
        ("cookies", "no"),
        ("middleware", print),
    ],
)
async def test_setting_of_wrong_type_or_range_is_refused(attribute, value):
    message = await config_error(declared(**{attribute: value}))

    assert f"Wrong.{attribute}" in message


@pytest.mark.parametrize(("attribute", "value"), [("timeouts", 30), ("body_limits", 1000), ("backoff", 5)])
async def test_number_instead_of_value_object_is_refused(attribute, value):
    message = await config_error(declared(**{attribute: value}))

    assert f"Wrong.{attribute}" in message


@pytest.mark.parametrize(
    "authenticator",
    [
        "t0k",
        ("ann", "pass"),
        pytest.param(TokenAuthenticator),
    ],
)
async def test_invalid_authenticator_is_refused_without_showing_it(authenticator):
    message = await config_error(Users, authenticator=authenticator)

    assert "authenticator" in message
    assert "TokenAuthenticator(" in message
    assert "t0k" not in message
    assert "pass'" not in message


async def test_paginator_class_is_refused_with_hint():
    message = await config_error(declared(paginator=PageNumber))

    assert "Wrong.paginator" in message
    assert "PageNumber(...)" in message


async def test_invalid_paginator_error_names_required_methods():
    message = await config_error(declared(paginator="next"))

    assert "Wrong.paginator" in message
    assert "first()" in message


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: PageNumber(total_items="meta.total"), r"PageNumber\(total_items.*size="),
        (lambda: PageNumber(stop_on_short_page=True), r"PageNumber\(stop_on_short_page.*size="),
        (lambda: PageNumber(size=0), r"PageNumber\(size=0\)"),
        (lambda: PageNumber(param=""), r"PageNumber\(param=''\)"),
        pytest.param(lambda: PageNumber(size=10, size_param=""), r"PageNumber\(size_param"),
        (lambda: Offset(limit=0), r"Offset\(limit=0\)"),
        (lambda: Offset(limit_param=""), r"Offset\(limit_param"),
        (lambda: Cursor(""), r"Cursor\(token=''\)"),
        (lambda: Cursor(None), r"Cursor\(token=None\)"),
        (lambda: Cursor("next", into="body"), r"Cursor\(into='body'\).*\"params\""),
        (lambda: Cursor("next", more=7), r"Cursor\(more=7\)"),
        (lambda: NextUrl(""), r"NextUrl\(url="),
        (lambda: Continuation(3), r"Continuation\(fields=3\)"),
        pytest.param(lambda: LinkHeader(rel=""), r"LinkHeader\(rel="),
    ],
)
def test_invalid_paginator_argument_is_refused_on_creation(make, pattern):
    with pytest.raises(ConfigError, match=pattern):
        make()


async def test_unknown_request_kwargs_key_error_lists_keys():
    message = await config_error(declared(request_kwargs=lambda self, context: {"retries": 3}))

    assert "Wrong.request_kwargs" in message
    assert "'retries'" in message
    known = ("timeout", "follow_redirects", "extensions", "verify", "cert", "proxy", "http2")
    for name in (*known, "allow_redirects", "proxies", "stream"):
        assert name in message


async def test_json_and_data_together_are_refused():
    message = await config_error(
        declared(http_method="POST", request_json=lambda self, context: {}, request_data=lambda self, context: {"a": 1})
    )

    assert "Wrong" in message
    assert "request_json" in message
    assert "request_data" in message


@pytest.mark.parametrize(
    ("returned", "kind", "remedy"),
    [
        (None, "NoneType", "return"),
        ({"id": 1}, "dict", "[record]"),
        (["a", "b"], "str", "dict"),
        ([[{"id": 1}]], "list", "yield from"),
        ("text", "str", "dict"),
        (7, "int", "dict"),
    ],
)
async def test_invalid_parse_response_result_fails_after_one_request(respx_mock, returned, kind, remedy):
    route = respx_mock.get(URL).respond(json=[])

    message = await config_error(declared(parse_response=lambda self, response, context: returned))

    assert "Wrong.parse_response" in message
    assert kind in message
    assert remedy in message
    assert route.call_count == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("users", None), "NoneType"),
        (("users", ""), "empty"),
        (("users", True), "bool"),
        (("users", 1.5), "float"),
        (("users", ["a"]), "list"),
        (None, "NoneType"),
        (7, "int"),
        (["users"], "list"),
        ("../admin", "'..'"),
    ],
)
async def test_invalid_path_is_refused(path, reason):
    message = await config_error(declared(path=lambda self, context: path))

    assert "Wrong.path" in message
    assert reason in message


@pytest.mark.parametrize("value", ["sesame\r\nX-Admin: yes", "sesame\nopen", "sesame\x00open", "sesame\u20acopen"])
async def test_unsendable_header_is_refused_without_showing_it(value):
    message = await config_error(declared(request_headers=lambda self, context: {"X-Tenant": value}))

    assert "Wrong.request_headers" in message
    assert "X-Tenant" in message
    assert "sesame" not in message


async def test_mapping_as_parameter_is_refused():
    message = await config_error(declared(request_params=lambda self, context: {"filter": {"a": 1}}))

    assert "Wrong" in message
    assert "'filter'" in message


async def test_classify_result_that_is_no_action_is_refused(respx_mock):
    respx_mock.get(URL).respond(json=[])

    message = await config_error(declared(classify=lambda self, response, context: True))

    assert "Wrong.classify" in message
    assert "ResponseAction" in message


@pytest.mark.parametrize("slices", [None, 7, ["a"], "ab"])
async def test_slices_that_are_not_mappings_are_refused(slices):
    message = await config_error(declared(stream_slices=lambda self, state: slices))

    assert "Wrong" in message
    assert "slice" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_concurrency", 0), ("max_concurrency", "8"), ("weight", 0), ("max_failed_slices", -1)]
    + [("cache_version", True), ("cache_version", 1.5)],
)
async def test_number_that_would_block_reading_is_refused(name, value):
    stream = type("Items", (HttpStream,), {"url_base": "https://api.test/", "path": lambda self, context: "items"})()
    setattr(stream, name, value)

    with pytest.raises(ConfigError, match=name):
        await stream.read()


async def test_source_without_concurrency_is_refused():
    kind = type("Items", (HttpStream,), {"url_base": "https://api.test/", "path": lambda self, context: "items"})

    with pytest.raises(ConfigError, match="max_concurrency = 0"):
        await Source([kind(max_concurrency=8)], max_concurrency=0).read()
