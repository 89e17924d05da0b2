"""Do the streams of a Source read together: over the same connections, past what is unavailable, and out again?"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from loopback import Loopback, Received, Wire, answer, serve

from asyncstreams import (
    Backoff,
    ConfigError,
    HttpStatusError,
    HttpStream,
    Oauth2Authenticator,
    RequestContext,
    Response,
    Source,
    StreamUnavailable,
    TokenAuthenticator,
)
from asyncstreams.errors import PartialFailure


class Orders(HttpStream):
    """Two pages, of one record each."""

    backoff = Backoff(base=0, cap=0)
    url_base = "https://api.test/"

    def __init__(self, url: str = "", **options: Any) -> None:
        self.url_base = url or self.url_base
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return self.name

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"page": context.next_page_token or 1, **context.stream_slice, **context.stream_state}

    def next_page_token(self, response: Response, context: RequestContext) -> int | None:
        return 2 if context.next_page_token is None else None


class Payouts(Orders):
    pass


class Users(Orders):
    pass


class Detailed(Orders):
    """Asks for more while it is sliced and parsed."""

    async def stream_slices(self, state: Any) -> AsyncIterator[dict[str, str]]:
        await self.request("shops")
        yield {"shop": "a"}

    async def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
        await self.request("detail")
        return response.json()


REFUSED = httpx.Response(403, json={"message": "a scope is missing"})
READ = {"orders": [{"id": "orders1"}, {"id": "orders2"}], "users": [{"id": "users1"}, {"id": "users2"}]}


def records(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=[{"id": f"{request.url.path[1:]}{request.url.params['page']}"}])


async def well(request: Received, wire: Wire) -> None:
    """Answers at once, and takes a POST for one to the token endpoint."""
    token = {"access_token": "abc", "expires_in": 3600}
    await wire.send(answer(json.dumps(token if request.method == "POST" else [{"id": 1}]).encode()))


async def hanging(request: Received, wire: Wire) -> None:
    """Answers first pages; the second one never comes."""
    await (wire.gone() if "page=2" in request.target else well(request, wire))


def all_of(*kinds: type[Orders], **options: Any) -> Source:
    return Source([kind() for kind in kinds], **options)


def of(server: Loopback, **options: Any) -> Source:
    return Source([Orders(server.url), Users(server.url)], **options)


@pytest.fixture
def api(respx_mock):
    """Orders and users come, payouts are refused."""
    respx_mock.assert_all_called = False
    respx_mock.get(path="/payouts").mock(return_value=REFUSED)
    return respx_mock.get(host="api.test").mock(side_effect=records)


async def test_read_gives_all_records_of_each_stream_or_of_those_named(api):
    source = all_of(Orders, Users)

    assert await source.read() == READ
    assert await source.read("users") == {"users": READ["users"]}
    assert await source.read("users", "orders", "users") == READ


async def test_pages_come_with_their_stream_each_streams_own_in_order(api):
    async with all_of(Orders, Users).pages() as pages:
        found = [(page.stream, page.number, page.records) async for page in pages]

    # Sorting is stable: the pages of each stream stay in the order in which they came.
    assert sorted(found, key=lambda page: page[0]) == [
        (name, number, [READ[name][number]]) for name in READ for number in (0, 1)
    ]


async def test_a_limit_is_for_each_stream_and_sends_no_request_more(api):
    assert await all_of(Orders, Users).read(limit=1) == {name: found[:1] for name, found in READ.items()}
    assert api.call_count == 2


async def test_slices_and_state_are_for_the_streams_that_they_name(api):
    await all_of(Orders, Users).read(slices={"orders": [{"shop": "a"}]}, state={"users": {"since": "3"}}, limit=1)

    assert [dict(call.request.url.params) for call in api.calls] == [
        {"page": "1", "shop": "a"},
        {"page": "1", "since": "3"},
    ]


async def test_a_stream_that_is_unavailable_is_skipped_with_one_warning(api, caplog):
    source = all_of(Orders, Payouts, Users)
    reading = source.pages()

    async with reading as pages:
        found = [page.stream async for page in pages]

    warnings = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert found == ["orders"] * 2 + ["users"] * 2
    assert list(reading.unavailable) == ["payouts"]
    assert "a scope is missing" in reading.unavailable["payouts"]
    assert len(warnings) == 1
    assert "payouts" in warnings[0]
    assert await source.read() == READ


@pytest.mark.parametrize(("kinds", "names"), [([Payouts], []), ([Orders, Payouts], ["payouts"])])
async def test_the_only_stream_that_is_unavailable_raises(api, kinds, names):
    with pytest.raises(StreamUnavailable, match="a scope is missing") as caught:
        await all_of(*kinds).read(*names)

    assert (caught.value.stream, caught.value.status) == ("payouts", 403)


async def test_where_all_streams_are_unavailable_the_error_names_them(api):
    api.side_effect = None
    api.return_value = REFUSED

    with pytest.raises(StreamUnavailable, match="a scope is missing") as caught:
        await all_of(Orders, Payouts).read()

    assert all(name in caught.value.reason for name in ("orders", "payouts"))


def without_page_two_of_orders(request: httpx.Request) -> httpx.Response:
    refused = request.url.path == "/orders" and request.url.params["page"] == "2"
    return httpx.Response(403) if refused else records(request)


async def test_another_error_of_a_stream_leaves_the_others_and_is_told_at_the_end(api):
    api.side_effect = without_page_two_of_orders
    found = []

    with pytest.raises(PartialFailure) as caught:  # noqa: PT012  # a reading takes a few lines
        async with all_of(Orders, Users).pages() as pages:
            async for page in pages:
                found.append((page.stream, page.number))  # noqa: PERF401

    (error,) = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert (error.stream, error.page, error.status) == ("orders", 1, 403)
    assert sorted(found) == [("orders", 0), ("users", 0), ("users", 1)]


async def test_another_error_of_a_stream_ends_the_run_for_those_who_want_that(api):
    api.side_effect = without_page_two_of_orders

    with pytest.raises(HttpStatusError) as caught:
        await all_of(Orders, Users).read(on_error="stop")

    assert (caught.value.stream, caught.value.page) == ("orders", 1)


async def test_a_stream_of_which_pages_were_handed_over_is_not_skipped_any_more(api):
    class Joined(Orders):
        async def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
            more = await Payouts().read() if context.next_page_token else []
            return response.json() + more

    with pytest.raises(PartialFailure) as caught:
        await all_of(Joined, Users).read()

    (error,) = caught.value.errors
    assert isinstance(error, StreamUnavailable)
    assert caught.value.report.unavailable == {}


async def test_streams_share_one_connection_while_the_source_is_open():
    async with serve(well) as server:
        async with of(server, max_concurrency=1) as source:
            await source.read()
            await source["orders"].read()
            await source.check()
            await source.read("users")

        assert (len(server.requests), server.connections) == (10, 1)
        await server.all_closed()


async def test_streams_share_one_token():
    async with serve(well) as server:
        oauth = Oauth2Authenticator(f"{server.url}token", "client", "secret")
        async with of(server, authenticator=oauth) as source:
            await source.read()
            await source.read()

        assert [request.method for request in server.requests].count("POST") == 1
        assert ("Authorization", "Bearer abc") in server.requests[-1].headers


async def test_a_reading_of_a_closed_source_opens_once_and_closes():
    async with serve(well) as server:
        await of(server, max_concurrency=1).read()

        assert (len(server.requests), server.connections) == (4, 1)
        await server.all_closed()


async def test_a_check_of_a_closed_source_opens_once():
    async with serve(well) as server:
        await of(server).check()

        assert (len(server.requests), server.connections) == (2, 1)


async def test_requests_within_hooks_use_the_connections_of_the_source():
    async with serve(well) as server:
        source = Source([Detailed(server.url), Users(server.url)])
        await source.read()

        assert len(server.requests) == 7
        assert server.connections <= 2, "one for each stream, however much it asks"


async def test_a_source_that_is_opened_twice_is_open_until_it_is_left_twice():
    async with serve(well) as server:
        async with of(server, max_concurrency=1) as source:
            async with source:
                await source.read()
            await source.read()
            assert server.connections == 1

        await server.all_closed()
        await source.read()
        assert server.connections == 2


def test_a_source_is_read_in_a_second_event_loop(respx_mock):
    respx_mock.get(host="api.test").mock(side_effect=records)
    source = all_of(Orders, Users, authenticator=TokenAuthenticator("t"))

    async def opened() -> Any:
        async with source:
            return await source.read()

    assert [asyncio.run(opened()), asyncio.run(source.read()), asyncio.run(opened())] == [READ] * 3


async def test_a_source_may_be_entered_in_one_task_and_left_in_another():
    async with serve(well) as server:
        source = of(server, max_concurrency=1)

        await asyncio.create_task(source.__aenter__())
        await asyncio.create_task(source.read())
        await asyncio.create_task(source.__aexit__(None, None, None))

        assert server.connections == 1
        await server.all_closed()


async def test_readings_of_a_source_at_the_same_time_do_not_disturb_each_other(api):
    source = all_of(Orders, Users, Payouts)

    found = await asyncio.gather(source.read(), source.read("users"), source["orders"].read(), source.read())

    assert found == [READ, {"users": READ["users"]}, READ["orders"], READ]


async def test_a_reading_goes_on_when_another_of_the_same_source_ends(api):
    stream = Orders()
    source = Source([stream, Users()], authenticator=TokenAuthenticator("t"))

    async with source.pages("orders") as pages:
        await anext(pages)
        await source.read("users")
        await anext(pages)

    assert {call.request.headers["Authorization"] for call in api.calls} == {"Bearer t"}


async def left_by_break(source: Source, server: Loopback) -> None:
    async with source.pages() as pages:
        async for _ in pages:
            break


async def left_by_an_exception(source: Source, server: Loopback) -> None:
    with pytest.raises(KeyError):  # noqa: PT012  # the block is the reader's
        async with source.pages() as pages:
            async for _ in pages:
                raise KeyError("mine")


async def left_by_cancellation(source: Source, server: Loopback) -> None:
    reading = asyncio.create_task(source.read())
    await server.until(lambda server: any("page=2" in target for target in server.targets))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def left_by_a_timeout(source: Source, server: Loopback) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), source:
            await source.read()


@pytest.mark.parametrize("leave", [left_by_break, left_by_an_exception, left_by_cancellation, left_by_a_timeout])
async def test_leaving_early_closes_all_connections_and_gives_the_streams_back(leave):
    async with serve(hanging) as server:
        source = of(server, authenticator=TokenAuthenticator("t"), allow_insecure=True)
        before = [dict(vars(stream)) for stream in source]

        await leave(source, server)

        await server.all_closed()
        assert [vars(stream) for stream in source] == before


async def test_after_a_reading_a_stream_is_as_it_was(api):
    stream = Orders()
    source = Source([stream], authenticator=TokenAuthenticator("t"))
    before = dict(vars(stream))

    await source.read()

    assert vars(stream) == before
    assert await stream.read() == READ["orders"]
    assert await Source([stream], authenticator=TokenAuthenticator("u")).read() == {"orders": READ["orders"]}
    assert [call.request.headers.get("Authorization") for call in api.calls[::2]] == ["Bearer t", None, "Bearer u"]


async def test_a_stream_is_read_by_one_source_at_a_time(api):
    users, orders = Users(), Orders()
    one, other = Source([users]), Source([orders, users])
    before = dict(vars(orders))

    async with one.pages() as pages:
        await anext(pages)
        with pytest.raises(ConfigError, match="users") as caught:
            await other.read()
        assert await anext(pages)

    assert "another" in str(caught.value)
    assert vars(orders) == before
    assert await other.read() == READ


async def test_a_source_may_be_made_of_streams_that_another_one_is_reading(api):
    stream = Orders()

    async with Source([stream], seed=1):
        other = Source([stream], seed=2)

    assert await other.read() == {"orders": READ["orders"]}


async def test_a_streams_own_reading_keeps_its_options_when_its_source_is_left(api):
    source = all_of(Orders, authenticator=TokenAuthenticator("t"))
    reading = source["orders"].pages()

    await source.__aenter__()
    async with reading as pages:
        await anext(pages)
        await source.__aexit__(None, None, None)
        await anext(pages)

    assert [call.request.headers.get("Authorization") for call in api.calls] == ["Bearer t"] * 2


async def test_a_streams_own_reading_keeps_its_options_when_its_source_is_opened(api):
    source = all_of(Orders, authenticator=TokenAuthenticator("t"))

    async with source["orders"].pages() as pages:
        await anext(pages)
        with suppress(ConfigError):
            async with source:
                await anext(pages)

    assert {call.request.headers.get("Authorization") for call in api.calls} == {None}
