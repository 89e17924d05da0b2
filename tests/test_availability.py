"""Availability: unavailable streams are distinguished from errors, without extra requests."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from asyncstreams import (
    AuthError,
    Backoff,
    ConfigError,
    Header,
    HostUnavailable,
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    PageNumber,
    RemoteError,
    RequestContext,
    Source,
    StreamUnavailable,
)
from asyncstreams.errors import PartialFailure

ITEMS = "https://api.test/v1/items"
REFUSED = httpx.Response(403, json={"message": "the scope items:read is missing"})
ONE = httpx.Response(200, json=[{"id": 1}])
NONE = httpx.Response(200, json=[])


class Items(HttpStream):
    """Numbered pages until one is empty; retries without delay."""

    url_base = "https://api.test/v1"
    paginator = PageNumber()
    backoff = Backoff(base=0, cap=0)

    def path(self, context: RequestContext) -> str:
        return self.name

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return dict(context.stream_slice)


class Others(Items):
    pass


def declare(**declared: Any) -> HttpStream:
    return type("Items", (Items,), declared)()


class Plans(HttpAvailabilityStrategy):
    """A strategy that also treats 404 as unavailable."""

    def reasons_for_unavailable_status_codes(self, stream, logger, source, error):
        known = super().reasons_for_unavailable_status_codes(stream, logger, source, error)
        return {**known, 404: f"{stream.name} are part of the Business plan."}


class RecordingStrategy:
    """A strategy with its own check, which records its calls."""

    def __init__(self, answer: Any = (True, None)) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    async def check_availability(self, stream, logger, source=None):
        self.calls.append((stream, logger, source))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class RecordingSyncStrategy(RecordingStrategy):
    """The same with a synchronous check, as in Airbyte connectors."""

    def check_availability(self, stream, logger, source=None):  # type: ignore[override]
        self.calls.append((stream, logger, source))
        return self.answer


@pytest.fixture
def route(respx_mock):
    respx_mock.assert_all_called = False
    return respx_mock.route(url__startswith=ITEMS)


async def read_all(stream: HttpStream, how: str) -> list[Any]:
    if how == "read":
        return await stream.read()
    async with getattr(stream, how)() as items:
        return [item async for item in items]


async def test_stream_with_first_page_is_available(route):
    route.side_effect = [ONE]

    assert await Items().check_availability() == (True, None)


async def test_check_stops_after_empty_first_page(route):
    route.mock(return_value=httpx.Response(200, json=[], headers={"X-Pages": "3"}))
    stream = declare(paginator=PageNumber(total_pages=Header("X-Pages")))

    assert await stream.check_availability() == (True, None)
    assert route.call_count == 1


@pytest.mark.parametrize("first", [ONE, NONE], ids=["records", "empty"])
async def test_many_slices_need_one_request(route, first):
    route.mock(return_value=first)
    stream = declare(stream_slices=lambda self, state: [{"shop": shop} for shop in "abc"])

    assert await stream.check_availability() == (True, None)
    assert [str(call.request.url.params["shop"]) for call in route.calls] == ["a"]


async def test_stream_without_slices_is_unavailable_without_request(route):
    available, reason = await declare(stream_slices=lambda self, state: []).check_availability()

    assert not available
    assert reason is not None
    assert "slice" in reason
    assert route.call_count == 0


async def test_403_is_unavailable_with_status_message_and_meaning(route):
    route.mock(return_value=REFUSED)

    available, reason = await Items().check_availability()

    assert available is False
    assert reason is not None
    assert "403" in reason
    assert "the scope items:read is missing" in reason
    assert "permission" in reason
    assert route.call_count == 1


@pytest.mark.parametrize(("status", "meaning"), [(404, "items are part of the Business plan."), (403, "permission")])
async def test_subclass_adds_reasons(route, status, meaning):
    route.mock(return_value=httpx.Response(status, json={"message": "the API's own words"}))

    available, reason = await declare(availability_strategy=Plans()).check_availability()

    assert not available
    assert reason is not None
    assert all(part in reason for part in (str(status), "the API's own words", meaning))


async def test_reasons_hook_receives_stream_logger_source_and_error(route):
    seen: list[Any] = []

    class Recording(HttpAvailabilityStrategy):
        def reasons_for_unavailable_status_codes(self, stream, logger, source, error):
            seen.extend((stream, logger, source, error.status))
            return super().reasons_for_unavailable_status_codes(stream, logger, source, error)

    route.mock(return_value=REFUSED)
    stream = declare(availability_strategy=Recording())
    source = Source([stream])

    await source.check()

    assert seen[0] == stream
    assert isinstance(seen[1], logging.Logger)
    assert seen[2:] == [source, 403]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([httpx.Response(404)], HttpStatusError),
        ([httpx.Response(500)] * 5, HttpStatusError),
        ([httpx.Response(401)], AuthError),
        ([httpx.ConnectError("refused")] * 5, HostUnavailable),
    ],
    ids=["404", "500", "401", "network"],
)
async def test_unrecognized_error_is_raised_like_in_read(route, answers, error):
    route.side_effect = answers * 2

    with pytest.raises(error) as checked:
        await Items().check_availability()
    with pytest.raises(error) as read:
        await Items().read()

    assert type(checked.value) is type(read.value)
    assert str(checked.value) == str(read.value)
    assert not isinstance(checked.value, StreamUnavailable)


async def test_handle_http_error_decides_about_any_error(route):
    class Lenient(HttpAvailabilityStrategy):
        def handle_http_error(self, stream, logger, source, error):
            return False, f"closed with {error.status}"

    route.mock(return_value=httpx.Response(418))
    stream = declare(availability_strategy=Lenient())

    with pytest.raises(StreamUnavailable) as caught:
        await stream.read()

    assert await stream.check_availability() == (False, "closed with 418")
    assert caught.value.reason == "closed with 418"


async def test_error_handled_as_available_still_fails_read(route):
    class Trusting(HttpAvailabilityStrategy):
        def handle_http_error(self, stream, logger, source, error):
            return True, None

    route.mock(return_value=httpx.Response(404))
    stream = declare(availability_strategy=Trusting())

    assert await stream.check_availability() == (True, None)
    with pytest.raises(HttpStatusError):
        await stream.read()


def as_property(strategy):
    return property(lambda self: strategy)


def as_method(strategy):
    return lambda self: strategy


@pytest.mark.parametrize("shape", [lambda strategy: strategy, as_property, as_method], ids=["attr", "prop", "method"])
async def test_strategy_is_attribute_property_or_method(route, shape):
    route.mock(return_value=httpx.Response(404))
    stream = declare(availability_strategy=shape(Plans()))

    with pytest.raises(StreamUnavailable, match="Business plan"):
        await stream.read()

    assert (await stream.check_availability())[0] is False


@pytest.mark.parametrize("shape", [lambda strategy: strategy, as_property, as_method], ids=["attr", "prop", "method"])
async def test_403_is_ordinary_error_without_strategy(route, respx_mock, shape):
    respx_mock.route(url__startswith="https://api.test/v1/others").mock(return_value=NONE)
    route.mock(return_value=REFUSED)
    stream = declare(availability_strategy=shape(None))

    with pytest.raises(HttpStatusError, match="403"):
        await stream.read()
    with pytest.raises(PartialFailure) as of_source:
        await Source([stream, Others()]).read()

    (error,) = of_source.value.errors
    assert isinstance(error, HttpStatusError)
    assert (error.stream, error.status) == ("items", 403)
    assert of_source.value.report.unavailable == {}


@pytest.mark.parametrize("shape", [lambda strategy: strategy, as_property, as_method], ids=["attr", "prop", "method"])
@pytest.mark.parametrize(
    "wrong", [HttpAvailabilityStrategy, "http", 3, object()], ids=["class", "str", "int", "object"]
)
async def test_invalid_strategy_is_refused_with_hint(route, shape, wrong):
    route.mock(return_value=ONE)
    stream = declare(availability_strategy=shape(wrong))

    with pytest.raises(ConfigError) as caught:
        await stream.read()

    assert "availability_strategy" in str(caught.value)
    assert "HttpAvailabilityStrategy()" in str(caught.value.hint)
    assert route.call_count == 0


@pytest.mark.parametrize("how", ["read", "records", "pages"])
async def test_refused_first_request_raises_stream_unavailable(route, how):
    route.mock(return_value=REFUSED)

    with pytest.raises(StreamUnavailable) as caught:
        await read_all(Items(), how)

    error = caught.value
    assert isinstance(error, RemoteError)
    assert (error.stream, error.status, error.url) == ("items", 403, ITEMS)
    assert "the scope items:read is missing" in error.reason
    assert error.reason in str(error)
    assert route.call_count == 1


async def test_403_on_later_page_is_ordinary_error(route):
    route.side_effect = [ONE, REFUSED]

    with pytest.raises(HttpStatusError) as caught:
        await Items().read()

    assert (caught.value.status, caught.value.page) == (403, 1)


@pytest.mark.parametrize("first", [[ONE], [NONE]], ids=["records", "empty"])
async def test_403_in_later_slice_is_ordinary_error(route, first):
    route.side_effect = [*first, REFUSED]
    stream = declare(paginator=None, stream_slices=lambda self, state: [{"shop": "a"}, {"shop": "b"}])

    with pytest.raises(PartialFailure) as caught:
        await stream.read()

    (error,) = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert (error.status, error.stream_slice) == (403, {"shop": "b"})


@pytest.mark.parametrize("kind", [RecordingStrategy, RecordingSyncStrategy])
async def test_custom_check_runs_before_read(route, kind):
    strategy = kind((False, "closed on Sundays"))
    stream = declare(availability_strategy=strategy)
    source = Source([stream])

    with pytest.raises(StreamUnavailable, match="closed on Sundays") as caught:
        await stream.read()
    with pytest.raises(StreamUnavailable, match="closed on Sundays"):
        await source.read()

    assert (caught.value.reason, caught.value.stream) == ("closed on Sundays", "items")
    assert route.call_count == 0
    assert [(call[0], call[2]) for call in strategy.calls] == [(stream, None), (stream, source)]


@pytest.mark.parametrize("kind", [RecordingStrategy, RecordingSyncStrategy])
async def test_successful_custom_check_does_not_affect_read(route, kind):
    route.side_effect = [ONE, NONE]
    strategy = kind()

    assert await declare(availability_strategy=strategy).read() == [{"id": 1}]
    assert await declare(availability_strategy=strategy).check_availability() == (True, None)
    assert (len(strategy.calls), route.call_count) == (2, 2)


async def test_error_of_custom_check_is_raised_unchanged(route):
    mistake = KeyError("mine")
    stream = declare(availability_strategy=RecordingStrategy(mistake))

    with pytest.raises(KeyError) as checked:
        await stream.check_availability()
    with pytest.raises(KeyError) as read:
        await stream.read()

    assert checked.value is read.value is mistake


@pytest.mark.parametrize("method", ["check_availability", "read"])
@pytest.mark.parametrize("answer", [True, None, "yes", (True,), (1, 2, 3)], ids=repr)
async def test_invalid_answer_is_refused_with_hint(route, method, answer):
    route.mock(return_value=NONE)
    stream = declare(availability_strategy=RecordingStrategy(answer))

    with pytest.raises(ConfigError) as caught:
        await getattr(stream, method)()

    assert "check_availability" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("answer", [False, None, "closed"], ids=repr)
async def test_invalid_answer_of_handle_http_error_is_refused(route, answer):
    class Short(HttpAvailabilityStrategy):
        def handle_http_error(self, stream, logger, source, error):
            return answer

    route.mock(return_value=REFUSED)

    with pytest.raises(ConfigError, match="handle_http_error"):
        await declare(availability_strategy=Short()).read()


class Preflight(HttpAvailabilityStrategy):
    """Requests the settings first, then calls super()."""

    async def check_availability(self, stream, logger, source=None):
        settings = (await stream.request("settings")).json()
        if not settings["api"]:
            return False, "the API is switched off"
        return await super().check_availability(stream, logger, source)


@pytest.mark.parametrize("is_on", [True, False])
async def test_subclass_check_can_call_super(route, respx_mock, is_on):
    respx_mock.get("https://api.test/v1/settings").respond(json={"api": is_on})
    route.mock(return_value=REFUSED)
    stream = declare(availability_strategy=Preflight())

    available, reason = await stream.check_availability()

    assert not available
    assert reason is not None
    assert ("403" in reason) is is_on
    assert route.call_count == is_on


async def test_check_calling_super_does_not_recurse_in_read(route, respx_mock):
    respx_mock.get("https://api.test/v1/settings").respond(json={"api": True})
    route.side_effect = [ONE, ONE, NONE]

    assert await declare(availability_strategy=Preflight()).read() == [{"id": 1}]
