"""Creation, options, check and discovery of Sources."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import closing
from typing import Any, ClassVar

import httpx
import pytest

from asyncstreams import (
    BodyLimits,
    ConfigError,
    CrossOriginLink,
    HttpStream,
    RequestContext,
    ResponseTooLarge,
    Secret,
    Source,
    StallTimeout,
    StreamDescription,
    Timeouts,
    TokenAuthenticator,
)
from asyncstreams.testing import VirtualClock


class Orders(HttpStream):
    url_base = "https://api.test/"
    max_tries = 1

    def path(self, context: RequestContext) -> str:
        return self.name


class Users(Orders):
    primary_key = "id"

    def get_json_schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"id": {"type": "integer"}}}


class Payouts(Orders):
    pass


CREDENTIALS = {"type": "object", "required": ["client_id"], "properties": {"client_id": {"type": "string"}}}
SPEC = {
    "type": "object",
    "required": ["token"],
    "properties": {
        "token": {"type": "string", "minLength": 8, "pattern": "^tok"},
        "region": {"enum": ["eu", "us"]},
        "days": {"type": "integer", "maximum": 30},
        "credentials": CREDENTIALS,
    },
    "additionalProperties": False,
}


class Shop(Source):
    """A Source that is created from a configuration."""

    spec = SPEC

    def streams(self, config: Any) -> Any:
        return [Orders(authenticator=TokenAuthenticator(config["token"]))]


def create_orders(source: Source, config: Any) -> Any:
    return [Orders()]


@pytest.fixture
def api(respx_mock):
    """Orders and users are available, payouts are refused."""
    respx_mock.assert_all_called = False
    respx_mock.get(path="/payouts").respond(403, json={"message": "a scope is missing"})
    return respx_mock.get(host="api.test").respond(json=[{"id": 1}])


def config_error(make: Any, *arguments: Any, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make(*arguments, **options)
    return caught.value


@pytest.mark.parametrize("token", ["tok-secret-1", Secret("tok-secret-1")], ids=["str", "Secret"])
async def test_valid_configuration_creates_streams(api, token):
    shop = Shop({"token": token, "region": "eu"})

    assert await shop.read() == {"orders": [{"id": 1}]}
    assert api.calls.last.request.headers["Authorization"] == "Bearer tok-secret-1"
    assert "secret" not in repr(shop) + repr(list(shop))


@pytest.mark.parametrize(
    ("config", "pointer", "rule"),
    [
        ({}, "/token", "required"),
        (None, "/token", "required"),
        ({"token": 51423}, "/token", "type"),
        ({"token": Secret("tok")}, "/token", "minLength"),
        ({"token": Secret("s3cret-value")}, "/token", "pattern"),
        ({"token": "tok-secret-1", "region": "s3cret-value"}, "/region", "enum"),
        ({"token": "tok-secret-1", "days": 51423}, "/days", "maximum"),
        ({"token": "tok-secret-1", "credentials": {}}, "/credentials/client_id", "required"),
        ({"token": "tok-secret-1", "color": "s3cret-value"}, "/color", "additionalProperties"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_config_error_names_pointer_and_rule_without_value(config, pointer, rule):
    error = config_error(Shop, config)

    text = "".join(traceback.format_exception(error)) + repr(error) + str(error.hint)
    assert f"{pointer}: {rule}" in str(error)
    assert not any(value in text for value in ("s3cret-value", "tok-secret-1", "51423"))


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        ("2024-02-29T12:00:00Z", True),
        ("2024-02-29T12:00:00.123+02:00", True),
        ("2023-02-29T12:00:00Z", False),
        ("2024-02-29", False),
        ("yesterday", False),
    ],
)
def test_date_time_in_configuration_is_checked(value, is_valid):
    class Dated(Source):
        streams = create_orders
        spec: ClassVar = {"properties": {"since": {"format": "date-time"}, "mail": {"format": "email"}}}

    config = {"since": value, "mail": "not an address: other formats are annotations"}

    if is_valid:
        Dated(config)
    else:
        assert "/since: format: not a date-time such as 2026-01-31T12:00:00Z" in str(config_error(Dated, config))


@pytest.mark.parametrize(("value", "is_valid"), [("2024-02-29", True), ("2024-02-30", False), ("29.02.2024", False)])
def test_date_in_connection_specification_is_checked(value, is_valid):
    class Dated(Source):
        streams = create_orders
        spec: ClassVar = {"connectionSpecification": {"properties": {"day": {"type": "string", "format": "date"}}}}

    if is_valid:
        Dated({"day": value})
    else:
        assert "/day: format: not a date such as 2026-01-31" in str(config_error(Dated, {"day": value}))


@pytest.mark.parametrize(
    ("config", "suggestion"),
    [
        ({"tokn": "tok-secret-1"}, "token"),
        ({"token": "tok-secret-1", "regoin": "eu"}, "region"),
        ({"token": "tok-secret-1", "credentials": {"clientid": "x"}}, "client_id'"),
    ],
    ids=["required", "optional", "nested"],
)
def test_misspelt_key_suggests_right_key(config, suggestion):
    assert suggestion in str(config_error(Shop, config).hint)


def test_misspelt_optional_key_is_named():
    assert "'regoin'" in str(config_error(Shop, {"token": "tok-secret-1", "regoin": "eu"}).hint)


@pytest.mark.parametrize("key", [1, None], ids=repr)
def test_non_string_key_is_refused(key):
    config_error(Shop, {key: "x"})


async def test_spec_in_connection_specification_is_accepted(api):
    kind = type("Wrapped", (Shop,), {"spec": {"connectionSpecification": SPEC, "documentationUrl": "https://x.test"}})

    assert await kind({"token": "tok-secret-1"}).read()
    assert "/token: required" in str(config_error(kind, {}))


WRONG = [{"type": "strin"}, {"required": "token"}, {"connectionSpecification": {"type": 3}}]


@pytest.mark.parametrize("spec", [*WRONG, ["token"], "object"])
def test_invalid_spec_is_refused(spec):
    assert "spec" in str(config_error(type("Wrong", (Shop,), {"spec": spec}), {"token": "tok-secret-1"}))


async def test_streams_may_be_generator_without_spec(api):
    class Simple(Source):
        def streams(self, config):
            yield Orders()
            yield from ([Users()] if config.get("users") else [])

    assert list(await Simple().read()) == ["orders"]
    assert list(await Simple({"users": True}).read()) == ["orders", "users"]


def returning(streams: Any) -> Any:
    return lambda: type("Shop", (Source,), {"streams": lambda self, config: streams})()


async def listed() -> list[Orders]:
    return [Orders()]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Source([Orders]),
        lambda: Source([Orders(), None]),
        lambda: Source(["orders"]),
        lambda: Source("orders"),
        lambda: Source([Orders(), Orders()]),
        lambda: Source(),
        lambda: Source({"token": "t"}),
        returning([Orders]),
        lambda: Source([]),
        returning([]),
        lambda: Shop([Orders()]),
        lambda: Source(Orders()),
        lambda: Source(Orders),
        returning(Orders()),
        returning(None),
    ],
)
def test_invalid_streams_are_refused_with_hint(make):
    assert config_error(make).hint


def test_async_streams_method_is_refused_with_hint():
    with closing(listed()) as streams:
        assert config_error(returning(streams)).hint


@pytest.mark.parametrize(("option", "suggestion"), [("timeout", "timeouts"), ("authentcator", "authenticator")])
def test_unknown_option_suggests_right_option(option, suggestion):
    error = config_error(Source, [Orders()], **{option: None})

    assert (option in str(error), suggestion in str(error.hint)) == (True, True)


UNKNOWN = {
    "pages": lambda source: source.pages("ordes"),
    "slices": lambda source: source.pages(slices={"ordes": []}),
    "state": lambda source: source.pages(state={"ordes": {}}),
    "[]": lambda source: source["ordes"],
}


@pytest.mark.parametrize("call", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_stream_suggests_right_stream(call):
    error = config_error(call, Source([Orders(), Users()]))

    assert "'ordes'" in str(error)
    assert "did you mean 'orders'" in str(error.hint)


@pytest.mark.parametrize("method", ["read", "check"])
async def test_unknown_stream_is_refused_before_first_request(api, method):
    with pytest.raises(ConfigError, match="did you mean 'orders'"):
        await getattr(Source([Orders(), Users()]), method)("orders", "ordes")

    assert api.call_count == 0


@pytest.mark.parametrize("wrong", [{"slices": [{"shop": "a"}]}, {"slices": 3}, {"state": 3}], ids=repr)
def test_slices_and_state_without_names_are_refused(wrong):
    assert config_error(Source([Orders()]).pages, **wrong).hint


@pytest.mark.parametrize("call", [lambda source: source.pages(["orders"]), lambda source: source[0]])
def test_non_string_stream_name_is_refused(call):
    assert config_error(call, Source([Orders()])).hint


def test_source_is_collection_of_streams():
    orders, users = Orders(), Users()
    source = Source((orders, users), authenticator=TokenAuthenticator("s3cret-value"))

    assert (list(source), len(source), source["users"]) == ([orders, users], 2, users)
    assert "orders" in repr(source)
    assert "s3cret" not in repr(source)


def test_source_contains_stream_names():
    source = Source([Orders()])

    assert "orders" in source
    assert "users" not in source


async def pass_through(request: Any, send: Any) -> Any:
    return await send(request)


OPTIONS: dict[str, Any] = {
    "authenticator": lambda level: TokenAuthenticator(f"t{level}"),
    "timeouts": lambda level: Timeouts(connect=1 + level),
    "body_limits": lambda level: BodyLimits(wire=100 + level),
    "transport": lambda level: httpx.MockTransport(lambda request: httpx.Response(200, json=[])),
    "middleware": lambda level: [pass_through] * level,
    "allowed_origins": lambda level: (f"https://{level}.test",),
    "allow_insecure": lambda level: level % 2 == 0,
    "uncredentialed_origins": lambda level: (f"https://{level}.test",),
    "cookies": lambda level: level % 2 == 0,
}


@pytest.mark.parametrize("nearest", range(4), ids=["stream's", "stream class's", "Source's", "Source class's"])
@pytest.mark.parametrize("option", OPTIONS)
async def test_nearest_option_wins_only_while_reading(api, option, nearest):
    seen: list[Any] = []
    values = [OPTIONS[option](level) for level in range(4)]
    options: list[dict[str, Any]] = [{option: values[level]} if level >= nearest else {} for level in range(4)]
    path = {"path": lambda self, context: seen.append(getattr(self, option)) or "orders"}
    stream = type("Orders", (Orders,), path | options[1])(**options[0])
    before = dict(vars(stream)), getattr(stream, option)

    await type("Shop", (Source,), options[3])([stream], **options[2]).read()

    assert seen == [values[nearest]]
    assert (dict(vars(stream)), getattr(stream, option)) == before


async def test_stream_option_none_overrides_source_option(api):
    await Source([Orders(authenticator=None)], authenticator=TokenAuthenticator("t")).read()

    assert "Authorization" not in api.calls.last.request.headers


async def test_source_applies_authenticator_middleware_transport():
    sent: list[httpx.Request] = []
    transport = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200, json=[]))

    async def marked(request: Any, send: Any) -> Any:
        request.headers["X-Mine"] = "yes"
        return await send(request)

    auth = TokenAuthenticator("t")
    await Source([Orders(), Users()], authenticator=auth, middleware=[marked], transport=transport).read()

    assert [(request.headers["Authorization"], request.headers["X-Mine"]) for request in sent] == [
        ("Bearer t", "yes")
    ] * 2


async def test_source_limits_apply_to_streams(virtual_clock):
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(20)
        return httpx.Response(200, json=[{"id": 1}])

    elsewhere = type("Elsewhere", (Orders,), {"path": lambda self, context: "https://cdn.test/orders"})
    plain = type("Plain", (Orders,), {"url_base": "http://api.test/", "authenticator": TokenAuthenticator("t")})
    common: Any = {"transport": httpx.MockTransport(slow), "clock": virtual_clock}

    for stream, short, enough, error in (
        (Orders, {"timeouts": Timeouts(connect=1, first_byte=2)}, {}, StallTimeout),
        (Orders, {"body_limits": BodyLimits(wire=3)}, {}, ResponseTooLarge),
        (elsewhere, {}, {"allowed_origins": ("https://cdn.test",)}, CrossOriginLink),
        (plain, {}, {"allow_insecure": True}, ConfigError),
    ):
        with pytest.raises(error):
            await Source([stream()], **common, **short).read()
        assert await Source([stream()], **common, **enough).read()


@pytest.mark.parametrize("option", ["clock", "seed"])
async def test_run_has_one_clock_and_one_seed(api, option):
    first, second = {"clock": (VirtualClock(), VirtualClock()), "seed": (1, 2)}[option]

    assert await Source([Orders(**{option: first}), Users()]).read()
    assert await Source([Orders(**{option: first}), Users(**{option: first})], **{option: first}).read()
    assert option in str(config_error(Source, [Orders(**{option: first}), Users(**{option: second})]))
    assert option in str(config_error(Source, [Orders(**{option: first})], **{option: second}))


async def test_check_reports_each_stream_as_table(api):
    report = await Source([Orders(), Payouts(), Users()]).check()

    lines = str(report).splitlines()
    assert not report
    assert [(check.stream, check.available) for check in report] == [
        ("orders", True),
        ("payouts", False),
        ("users", True),
    ]
    assert (report["orders"].reason, report["orders"].has_schema, report["users"].has_schema) == (None, False, True)
    assert "a scope is missing" in str(report["payouts"].reason)
    assert [line.split()[1] for line in lines] == ["available", "unavailable", "available"]
    assert ["schema" in line for line in lines] == [True, False, False]
    assert await Source([Orders(), Payouts(), Users()]).check("orders", "users")


async def test_broken_stream_does_not_stop_check_of_others(api, respx_mock):
    respx_mock.get(host="down.test").mock(side_effect=httpx.ConnectError("no"))
    respx_mock.get(host="expired.test").respond(401)
    wrong = [
        type("Down", (Orders,), {"url_base": "https://down.test"}),
        type("Expired", (Orders,), {"url_base": "https://expired.test"}),
        type("Misdeclared", (Orders,), {"availability_strategy": 3}),
        type("Unschemed", (Orders,), {"get_json_schema": lambda self: {"type": "nothing"}}),
        type("Unmade", (Orders,), {"__init__": lambda self: None}),
    ]

    report = await Source([*(kind() for kind in wrong), Users()]).check()

    assert [check.available for check in report] == [False] * 5 + [True]
    assert all(check.reason for check in report if not check.available)
    assert "401" in str(report["expired"].reason)


async def test_report_suggests_checked_stream_for_unknown_name(api):
    report = await Source([Orders()]).check()

    assert "orders" in str(config_error(lambda: report["ordes"]).hint)


async def test_discover_describes_streams():
    keyed = type("Keyed", (Orders,), {"primary_key": [["a", "b"], ["c"]]})

    found = await Source([Orders(), Users(), keyed()]).discover()

    assert found["orders"] == StreamDescription("orders", None, [])
    assert found["users"].json_schema == Users().get_json_schema()
    assert (found["users"].primary_key, found["keyed"].primary_key) == ([["id"]], [["a", "b"], ["c"]])
