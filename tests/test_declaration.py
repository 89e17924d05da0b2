"""Is a wrong declaration refused before anything is sent, in words that say what to write instead?"""

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
    """A stream class `Wrong` with these attributes on top of a right declaration."""
    return type("Wrong", (Users,), attributes)


async def refusal(cls: type[HttpStream], **options: object) -> str:
    """What the ConfigError says; nothing is mocked, so any request would raise something else."""
    with pytest.raises(ConfigError) as caught:
        await cls(**options).read()
    return str(caught.value)


@pytest.fixture(autouse=True)
def _no_network(respx_mock) -> None:
    """Whatever a test here sends without having mocked it raises, and not a ConfigError."""


async def test_a_stream_without_a_path_is_told_to_add_one():
    class Pathless(HttpStream):
        url_base = "https://api.example.com/v1/"

    told = await refusal(Pathless)

    assert "Pathless.path is missing" in told
    assert "def path(self, context)" in told


async def test_a_stream_without_url_base_is_told_to_add_one():
    class Nowhere(HttpStream):
        def path(self, context):
            return "users"

    told = await refusal(Nowhere)

    assert "Nowhere.url_base is missing" in told
    assert 'url_base = "https://' in told


@pytest.mark.parametrize(
    "base",
    ["/v1/", "api.example.com/v1", "ftp://api.example.com/", "https:///v1", "https://api.example.com:port/", 7],
)
async def test_a_url_base_that_is_no_absolute_url_is_refused(base):
    told = await refusal(declared(url_base=base))

    assert "Wrong.url_base" in told
    assert "https://" in told


@pytest.mark.parametrize("base", ["https://api.example.com/v1?key=1", "https://api.example.com/v1#top"])
async def test_a_url_base_with_a_query_or_fragment_is_refused(base):
    told = await refusal(declared(url_base=base))

    assert "Wrong.url_base" in told


async def test_a_url_base_with_a_password_is_refused_without_showing_it():
    told = await refusal(declared(url_base="https://ann:sesame@api.example.com/v1/"))

    assert "Wrong.url_base" in told
    assert "sesame" not in told


async def test_an_unknown_option_suggests_the_one_that_was_meant():
    told = await refusal(Users, authenticatr=None)

    assert "Users(authenticatr=...)" in told
    assert "'authenticator'" in told


async def test_an_unknown_option_lists_the_known_ones():
    told = await refusal(Users, flavour="vanilla")

    assert "flavour" in told
    for known in ("authenticator", "timeouts", "transport", "allowed_origins"):
        assert known in told


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("request_param", "request_params"),
        ("parse_respons", "parse_response"),
        ("next_page_tokens", "next_page_token"),
        ("stream_slice", "stream_slices"),
        ("clasify", "classify"),
        ("request_header", "request_headers"),
    ],
)
async def test_a_misspelt_hook_suggests_the_one_that_was_meant(written, meant):
    told = await refusal(declared(**{written: lambda self, context: None}))

    assert f"Wrong.{written}" in told
    assert f"{meant!r}" in told


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
async def test_a_hook_with_the_signature_of_the_cdk_is_refused(hook, function):
    told = await refusal(declared(**{hook: function}))

    assert f"Wrong.{hook}" in told
    assert "hint: write `def " in told


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
async def test_a_hook_with_the_positional_signature_of_the_cdk_is_refused(hook, function):
    told = await refusal(declared(**{hook: function}))

    assert f"Wrong.{hook}" in told


async def test_a_plain_hook_that_is_async_is_refused():
    async def path(self, context):
        return "users"

    told = await refusal(declared(path=path))

    assert "Wrong.path is async" in told


async def test_a_hook_that_is_a_value_is_told_to_become_a_method():
    told = await refusal(declared(path="users"))

    assert "Wrong.path" in told
    assert "def path(self, context): return 'users'" in told


async def test_max_retries_names_max_tries_and_one_more():
    told = await refusal(declared(max_retries=5))

    assert "Wrong.max_retries" in told
    assert "max_tries = 6" in told


async def test_max_retries_as_an_option_names_max_tries():
    told = await refusal(Users, max_retries=5)

    assert "max_tries" in told


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
        ("middleware", print),
    ],
)
async def test_an_attribute_of_the_wrong_kind_is_refused(attribute, value):
    told = await refusal(declared(**{attribute: value}))

    assert f"Wrong.{attribute}" in told


@pytest.mark.parametrize(("attribute", "value"), [("timeouts", 30), ("body_limits", 1000), ("backoff", 5)])
async def test_a_bare_number_where_a_value_object_is_due_is_refused(attribute, value):
    told = await refusal(declared(**{attribute: value}))

    assert f"Wrong.{attribute}" in told


@pytest.mark.parametrize(
    "authenticator",
    [
        "t0k",
        ("ann", "pass"),
        pytest.param(TokenAuthenticator),
    ],
)
async def test_what_is_no_authenticator_is_refused(authenticator):
    told = await refusal(Users, authenticator=authenticator)

    assert "authenticator" in told
    assert "TokenAuthenticator(" in told
    assert "t0k" not in told
    assert "pass'" not in told


async def test_a_paginator_class_is_told_to_become_an_instance():
    told = await refusal(declared(paginator=PageNumber))

    assert "Wrong.paginator" in told
    assert "PageNumber(...)" in told


async def test_what_is_no_paginator_is_told_what_one_has():
    told = await refusal(declared(paginator="next"))

    assert "Wrong.paginator" in told
    assert "first()" in told


@pytest.mark.parametrize(
    ("make", "told"),
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
def test_a_paginator_that_lacks_a_parameter_is_refused_where_it_is_made(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


async def test_an_unknown_key_of_request_kwargs_lists_the_known_ones():
    told = await refusal(declared(request_kwargs=lambda self, context: {"retries": 3}))

    assert "Wrong.request_kwargs" in told
    assert "'retries'" in told
    known = ("timeout", "follow_redirects", "extensions", "verify", "cert", "proxy", "http2")
    for name in (*known, "allow_redirects", "proxies", "stream"):
        assert name in told


async def test_two_bodies_are_refused():
    told = await refusal(
        declared(http_method="POST", request_json=lambda self, context: {}, request_data=lambda self, context: {"a": 1})
    )

    assert "Wrong" in told
    assert "request_json" in told
    assert "request_data" in told


@pytest.mark.parametrize(
    ("returned", "told", "remedy"),
    [
        (None, "NoneType", "return"),
        ({"id": 1}, "dict", "[record]"),
        (["a", "b"], "str", "dict"),
        ([[{"id": 1}]], "list", "yield from"),
        ("text", "str", "dict"),
        (7, "int", "dict"),
    ],
)
async def test_a_parse_response_that_returns_no_records_is_told_so_after_one_request(
    respx_mock, returned, told, remedy
):
    route = respx_mock.get(URL).respond(json=[])

    text = await refusal(declared(parse_response=lambda self, response, context: returned))

    assert "Wrong.parse_response" in text
    assert told in text
    assert remedy in text
    assert route.call_count == 1


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (("users", None), "NoneType"),
        (("users", ""), "empty"),
        (("users", True), "bool"),
        (("users", 1.5), "float"),
        (("users", ["a"]), "list"),
        (None, "NoneType"),
        (7, "int"),
        (["users"], "list"),
        ("../admin", "upwards"),
    ],
)
async def test_a_path_that_names_no_place_is_refused(path, told):
    text = await refusal(declared(path=lambda self, context: path))

    assert "Wrong.path" in text
    assert told in text


@pytest.mark.parametrize("value", ["sesame\r\nX-Admin: yes", "sesame\nopen", "sesame\x00open", "sesame\u20acopen"])
async def test_a_header_that_cannot_be_sent_hides_its_value(value):
    text = await refusal(declared(request_headers=lambda self, context: {"X-Tenant": value}))

    assert "Wrong.request_headers" in text
    assert "X-Tenant" in text
    assert "sesame" not in text


async def test_a_parameter_that_is_a_mapping_is_refused():
    text = await refusal(declared(request_params=lambda self, context: {"filter": {"a": 1}}))

    assert "Wrong" in text
    assert "'filter'" in text


async def test_a_classify_that_returns_no_action_is_refused(respx_mock):
    respx_mock.get(URL).respond(json=[])

    text = await refusal(declared(classify=lambda self, response, context: True))

    assert "Wrong.classify" in text
    assert "ResponseAction" in text


@pytest.mark.parametrize("slices", [None, 7, ["a"], "ab"])
async def test_slices_that_are_no_mappings_are_refused(slices):
    text = await refusal(declared(stream_slices=lambda self, state: slices))

    assert "Wrong" in text
    assert "slice" in text


@pytest.mark.parametrize(
    ("name", "value"), [("max_concurrency", 0), ("max_concurrency", "8"), ("weight", 0), ("max_failed_slices", -1)]
)
async def test_a_number_that_would_stop_all_work_is_refused(name, value):
    stream = type("Items", (HttpStream,), {"url_base": "https://api.test/", "path": lambda self, context: "items"})()
    setattr(stream, name, value)

    with pytest.raises(ConfigError, match=name):
        await stream.read()


async def test_a_source_that_lets_nobody_work_is_refused():
    kind = type("Items", (HttpStream,), {"url_base": "https://api.test/", "path": lambda self, context: "items"})

    with pytest.raises(ConfigError, match="max_concurrency = 0"):
        await Source([kind(max_concurrency=8)], max_concurrency=0).read()
