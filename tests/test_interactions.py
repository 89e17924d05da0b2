"""Interactions of a stream with its Source, availability strategy and listeners."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from types import MappingProxyType

import httpx
import pytest

from asyncstreams import (
    ConfigError,
    HttpStatusError,
    HttpStream,
    PageNumber,
    Source,
    StreamFinished,
    StreamUnavailable,
    Timeouts,
    TokenAuthenticator,
)


class Items(HttpStream):
    url_base = "https://api.test/"

    def path(self, context):
        return self.name


def responding(*answers: httpx.Response | int) -> httpx.MockTransport:
    """A transport that returns one response per request and repeats the last; a status means an empty array."""
    remaining = list(answers)

    def api(request: httpx.Request) -> httpx.Response:
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return httpx.Response(answer, json=[]) if isinstance(answer, int) else answer

    return httpx.MockTransport(api)


async def test_property_authenticator_shares_one_pause(virtual_clock):
    class PrivateItems(Items):
        @property
        def authenticator(self):
            return TokenAuthenticator("s3cret")

    request_times = []

    def api(request):
        request_times.append(virtual_clock.monotonic())
        is_limited = len(request_times) < 3
        return httpx.Response(429, headers={"Retry-After": "5"}) if is_limited else httpx.Response(200, json=[])

    await PrivateItems(transport=httpx.MockTransport(api), clock=virtual_clock).read()

    assert all(after - before >= 5 for before, after in pairwise(request_times))


async def test_availability_strategy_may_read_its_stream():
    class ReadFirst:
        async def check_availability(self, stream, logger, source=None):
            return bool(await stream.read(limit=1)), "there is nothing"

    class CheckedItems(Items):
        availability_strategy = ReadFirst()

    assert await CheckedItems(transport=responding(httpx.Response(200, json=[{"id": 1}]))).read() == [{"id": 1}]
    with pytest.raises(StreamUnavailable, match="there is nothing"):
        await CheckedItems(transport=responding(200)).read()


async def test_403_of_a_detail_call_is_not_unavailability():
    class DetailedItems(Items):
        async def parse_response(self, response, context):
            return (await self.request("detail")).json()

    with pytest.raises(HttpStatusError) as caught:
        await DetailedItems(transport=responding(200, 403)).read()

    assert caught.value.url == "https://api.test/detail"


async def test_listener_error_does_not_replace_a_timeout(caplog):
    def listener(event):
        if isinstance(event, StreamFinished):
            raise RuntimeError("raised by a listener")

    async def one_page(request):
        if request.url.params["page"] != "1":
            await asyncio.Event().wait()
        return httpx.Response(200, json=[{"id": 1}])

    stream = Items(transport=httpx.MockTransport(one_page))
    stream.paginator = PageNumber()
    stream.subscribe(listener)

    with pytest.raises(TimeoutError), caplog.at_level(logging.ERROR):  # noqa: PT012  # a run takes a few lines
        async with asyncio.timeout(0.01), stream.pages() as pages:
            async for _ in pages:
                await asyncio.sleep(60)

    assert "a listener failed on the final event of a run" in caplog.text


async def test_source_option_is_not_written_to_a_stream():
    seen = []

    class ReadOnlyItems(Items):
        def __setattr__(self, name, value):
            if name == "timeouts":
                raise RuntimeError("read-only")
            super().__setattr__(name, value)

        def request_params(self, context):
            seen.append(self.timeouts)
            return {}

    stream, timeouts = ReadOnlyItems(transport=responding(200, 200)), Timeouts(connect=3)

    await Source([stream], timeouts=timeouts).read()
    await stream.read()

    assert seen == [timeouts, Timeouts()]


async def test_option_set_while_source_is_open_persists():
    stream, own = Items(transport=responding(200)), TokenAuthenticator("mine")

    async with Source([stream], authenticator=TokenAuthenticator("shared")):
        stream.authenticator = own

    assert stream.authenticator is own


async def test_source_authenticator_may_be_a_property():
    headers = []

    def api(request):
        headers.append(request.headers["Authorization"])
        return httpx.Response(200, json=[])

    class Shop(Source):
        @property
        def authenticator(self):
            return TokenAuthenticator("s3cret")

        def streams(self, config):
            return [Items(transport=httpx.MockTransport(api))]

    await Shop({}).read()

    assert headers == ["Bearer s3cret"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"streams": [Items()]}, "streams is not a method"),
        ({"authentcator": None}, "did you mean 'authenticator'"),
        ({"check_connection": lambda self, logger, config: (True, None)}, "check_connection is never called"),
        ({"__init__": lambda self: None, "streams": lambda self, config: []}, "does not call super().__init__"),
    ],
)
async def test_wrong_source_declaration_is_refused(attributes, message):
    with pytest.raises(ConfigError) as caught:
        await type("Shop", (Source,), attributes)().read()

    assert message in str(caught.value)


def test_source_of_separate_streams_is_refused():
    with pytest.raises(ConfigError, match="expected a list of streams"):
        Source(Items(), Items())


def test_reserved_attribute_name_is_refused():
    with pytest.raises(ConfigError, match=r"Homely\.binding is reserved"):
        type("Homely", (Items,), {"binding": "users"})()


def test_non_json_config_value_is_named_by_its_pointer():
    class Shop(Source):
        spec = {"type": "object"}  # noqa: RUF012  # the usual way to declare it

        def streams(self, config):
            return [Items()]

    with pytest.raises(ConfigError, match="the value at /paths/0 of the configuration is not JSON, but object"):
        Shop({"paths": [object()]})


async def test_discover_result_may_be_changed():
    class DescribedItems(Items):
        def get_json_schema(self):
            return MappingProxyType({"type": "object", "properties": {"id": {"type": "integer"}}})

    source = Source([DescribedItems(transport=responding(200))])
    found = (await source.discover())["described_items"].json_schema
    assert found is not None
    found["properties"].clear()

    assert (await source.discover())["described_items"].json_schema == DescribedItems().get_json_schema()


async def test_check_continues_after_a_failing_hook():
    class BrokenItems(Items):
        def request_params(self, context):
            raise KeyError("shop")

    report = await Source([BrokenItems(transport=responding(200)), Items(transport=responding(200))]).check()

    assert (report["broken_items"].available, report["items"].available) == (False, True)
    assert "KeyError" in str(report)
