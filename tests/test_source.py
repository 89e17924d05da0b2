"""Sources: concurrent reads, shared sessions, unavailable streams and cleanup."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from loopback import Connection, LoopbackRequest, LoopbackServer, http_response, serve

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
    """A stream of two pages with one record each."""

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
    """A stream that sends further requests from its hooks."""

    async def stream_slices(self, state: Any) -> AsyncIterator[dict[str, str]]:
        await self.request("shops")
        yield {"shop": "a"}

    async def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
        await self.request("detail")
        return response.json()


REFUSED = httpx.Response(403, json={"message": "a scope is missing"})
READ = {"orders": [{"id": "orders1"}, {"id": "orders2"}], "users": [{"id": "users1"}, {"id": "users2"}]}


def respond(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=[{"id": f"{request.url.path[1:]}{request.url.params['page']}"}])


async def answer_all(request: LoopbackRequest, connection: Connection) -> None:
    """Answer at once; a POST is a token request."""
    token = {"access_token": "abc", "expires_in": 3600}
    await connection.send(http_response(json.dumps(token if request.method == "POST" else [{"id": 1}]).encode()))


async def answer_first_pages(request: LoopbackRequest, connection: Connection) -> None:
    """Answer the first page of each stream, and never the second."""
    await (connection.wait_for_disconnect() if "page=2" in request.target else answer_all(request, connection))


def source_of(*kinds: type[Orders], **options: Any) -> Source:
    return Source([kind() for kind in kinds], **options)


def server_source(server: LoopbackServer, **options: Any) -> Source:
    return Source([Orders(server.url), Users(server.url)], **options)


@pytest.fixture
def api(respx_mock):
    """Orders and users are available, payouts are refused."""
    respx_mock.assert_all_called = False
    respx_mock.get(path="/payouts").mock(return_value=REFUSED)
    return respx_mock.get(host="api.test").mock(side_effect=respond)


async def test_read_returns_records_of_all_or_named_streams(api):
    source = source_of(Orders, Users)

    assert await source.read() == READ
    assert await source.read("users") == {"users": READ["users"]}
    assert await source.read("users", "orders", "users") == READ


async def test_pages_of_each_stream_arrive_in_order(api):
    async with source_of(Orders, Users).pages() as pages:
        found = [(page.stream, page.number, page.records) async for page in pages]

    # Sorting is stable: the pages of each stream stay in their order of arrival.
    assert sorted(found, key=lambda page: page[0]) == [
        (name, number, [READ[name][number]]) for name in READ for number in (0, 1)
    ]


async def test_limit_applies_per_stream_without_extra_requests(api):
    assert await source_of(Orders, Users).read(limit=1) == {name: found[:1] for name, found in READ.items()}
    assert api.call_count == 2


async def test_slices_and_state_apply_to_named_streams(api):
    await source_of(Orders, Users).read(slices={"orders": [{"shop": "a"}]}, state={"users": {"since": "3"}}, limit=1)

    assert [dict(call.request.url.params) for call in api.calls] == [
        {"page": "1", "shop": "a"},
        {"page": "1", "since": "3"},
    ]


async def test_unavailable_stream_is_skipped_with_one_warning(api, caplog):
    source = source_of(Orders, Payouts, Users)
    handle = source.pages()

    async with handle as pages:
        found = [page.stream async for page in pages]

    warnings = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert found == ["orders"] * 2 + ["users"] * 2
    assert list(handle.unavailable) == ["payouts"]
    assert "a scope is missing" in handle.unavailable["payouts"]
    assert len(warnings) == 1
    assert "payouts" in warnings[0]
    assert await source.read() == READ


@pytest.mark.parametrize(("kinds", "names"), [([Payouts], []), ([Orders, Payouts], ["payouts"])])
async def test_single_unavailable_stream_raises(api, kinds, names):
    with pytest.raises(StreamUnavailable, match="a scope is missing") as caught:
        await source_of(*kinds).read(*names)

    assert (caught.value.stream, caught.value.status) == ("payouts", 403)


async def test_error_names_all_unavailable_streams(api):
    api.side_effect = None
    api.return_value = REFUSED

    with pytest.raises(StreamUnavailable, match="a scope is missing") as caught:
        await source_of(Orders, Payouts).read()

    assert all(name in caught.value.reason for name in ("orders", "payouts"))


def without_page_two_of_orders(request: httpx.Request) -> httpx.Response:
    refused = request.url.path == "/orders" and request.url.params["page"] == "2"
    return httpx.Response(403) if refused else respond(request)


async def test_other_stream_error_is_raised_at_end(api):
    api.side_effect = without_page_two_of_orders
    found = []

    with pytest.raises(PartialFailure) as caught:  # noqa: PT012  # the block collects the pages before the error
        async with source_of(Orders, Users).pages() as pages:
            async for page in pages:
                found.append((page.stream, page.number))  # noqa: PERF401

    (error,) = caught.value.errors
    assert isinstance(error, HttpStatusError)
    assert (error.stream, error.page, error.status) == ("orders", 1, 403)
    assert sorted(found) == [("orders", 0), ("users", 0), ("users", 1)]


async def test_on_error_stop_raises_first_error(api):
    api.side_effect = without_page_two_of_orders

    with pytest.raises(HttpStatusError) as caught:
        await source_of(Orders, Users).read(on_error="stop")

    assert (caught.value.stream, caught.value.page) == ("orders", 1)


async def test_stream_with_delivered_pages_is_not_skipped(api):
    class Joined(Orders):
        async def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
            more = await Payouts().read() if context.next_page_token else []
            return response.json() + more

    with pytest.raises(PartialFailure) as caught:
        await source_of(Joined, Users).read()

    (error,) = caught.value.errors
    assert isinstance(error, StreamUnavailable)
    assert caught.value.report.unavailable == {}


async def test_open_source_shares_one_connection():
    async with serve(answer_all) as server:
        async with server_source(server, max_concurrency=1) as source:
            await source.read()
            await source["orders"].read()
            await source.check()
            await source.read("users")

        assert (len(server.requests), server.connections) == (10, 1)
        await server.wait_all_closed()


async def test_streams_share_one_token():
    async with serve(answer_all) as server:
        oauth = Oauth2Authenticator(f"{server.url}token", "client", "secret")
        async with server_source(server, authenticator=oauth) as source:
            await source.read()
            await source.read()

        assert [request.method for request in server.requests].count("POST") == 1
        assert ("Authorization", "Bearer abc") in server.requests[-1].headers


async def test_read_of_closed_source_opens_and_closes_once():
    async with serve(answer_all) as server:
        await server_source(server, max_concurrency=1).read()

        assert (len(server.requests), server.connections) == (4, 1)
        await server.wait_all_closed()


async def test_check_of_closed_source_opens_once():
    async with serve(answer_all) as server:
        await server_source(server).check()

        assert (len(server.requests), server.connections) == (2, 1)


async def test_hook_requests_use_source_connections():
    async with serve(answer_all) as server:
        source = Source([Detailed(server.url), Users(server.url)])
        await source.read()

        assert len(server.requests) == 7
        assert server.connections <= 2, "one connection per stream, whatever its hooks request"


async def test_source_opened_twice_stays_open_until_second_exit():
    async with serve(answer_all) as server:
        async with server_source(server, max_concurrency=1) as source:
            async with source:
                await source.read()
            await source.read()
            assert server.connections == 1

        await server.wait_all_closed()
        await source.read()
        assert server.connections == 2


def test_source_is_read_in_second_event_loop(respx_mock):
    respx_mock.get(host="api.test").mock(side_effect=respond)
    source = source_of(Orders, Users, authenticator=TokenAuthenticator("t"))

    async def read_open() -> Any:
        async with source:
            return await source.read()

    assert [asyncio.run(read_open()), asyncio.run(source.read()), asyncio.run(read_open())] == [READ] * 3


async def test_source_is_entered_and_exited_in_different_tasks():
    async with serve(answer_all) as server:
        source = server_source(server, max_concurrency=1)

        await asyncio.create_task(source.__aenter__())
        await asyncio.create_task(source.read())
        await asyncio.create_task(source.__aexit__(None, None, None))

        assert server.connections == 1
        await server.wait_all_closed()


async def test_concurrent_reads_of_source_are_independent(api):
    source = source_of(Orders, Users, Payouts)

    found = await asyncio.gather(source.read(), source.read("users"), source["orders"].read(), source.read())

    assert found == [READ, {"users": READ["users"]}, READ["orders"], READ]


async def test_read_continues_after_another_read_ends(api):
    stream = Orders()
    source = Source([stream, Users()], authenticator=TokenAuthenticator("t"))

    async with source.pages("orders") as pages:
        await anext(pages)
        await source.read("users")
        await anext(pages)

    assert {call.request.headers["Authorization"] for call in api.calls} == {"Bearer t"}


async def exit_by_break(source: Source, server: LoopbackServer) -> None:
    async with source.pages() as pages:
        async for _ in pages:
            break


async def exit_by_an_exception(source: Source, server: LoopbackServer) -> None:
    with pytest.raises(KeyError):  # noqa: PT012  # the block is the code of the reader
        async with source.pages() as pages:
            async for _ in pages:
                raise KeyError("mine")


async def exit_by_cancellation(source: Source, server: LoopbackServer) -> None:
    handle = asyncio.create_task(source.read())
    await server.wait_until(lambda server: any("page=2" in target for target in server.targets))
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle


async def exit_by_a_timeout(source: Source, server: LoopbackServer) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), source:
            await source.read()


@pytest.mark.parametrize("leave", [exit_by_break, exit_by_an_exception, exit_by_cancellation, exit_by_a_timeout])
async def test_early_exit_closes_connections_and_restores_streams(leave):
    async with serve(answer_first_pages) as server:
        source = server_source(server, authenticator=TokenAuthenticator("t"), allow_insecure=True)
        before = [dict(vars(stream)) for stream in source]

        await leave(source, server)

        await server.wait_all_closed()
        assert [vars(stream) for stream in source] == before


async def test_stream_is_unchanged_after_source_read(api):
    stream = Orders()
    source = Source([stream], authenticator=TokenAuthenticator("t"))
    before = dict(vars(stream))

    await source.read()

    assert vars(stream) == before
    assert await stream.read() == READ["orders"]
    assert await Source([stream], authenticator=TokenAuthenticator("u")).read() == {"orders": READ["orders"]}
    assert [call.request.headers.get("Authorization") for call in api.calls[::2]] == ["Bearer t", None, "Bearer u"]


async def test_several_sources_read_one_stream_at_once(api):
    users, orders = Users(), Orders()
    first = Source([users], authenticator=TokenAuthenticator("first"))
    second = Source([orders, users], authenticator=TokenAuthenticator("second"))
    before = dict(vars(orders)), dict(vars(users))

    async with first.pages() as pages:
        await anext(pages)
        assert await second.read() == READ
        assert await anext(pages)

    assert (vars(orders), vars(users)) == before
    credentials = [call.request.headers["Authorization"] for call in api.calls if "users" in call.request.url.path]
    assert sorted(credentials) == ["Bearer first"] * 2 + ["Bearer second"] * 2


async def test_stream_of_several_open_sources_names_none(api):
    users = Users()

    async with Source([users]), Source([users]):
        with pytest.raises(ConfigError, match="'users': it belongs to several Sources that are open"):
            await users.read()


async def test_source_accepts_streams_in_use_by_another(api):
    stream = Orders()

    async with Source([stream], seed=1):
        other = Source([stream], seed=2)

    assert await other.read() == {"orders": READ["orders"]}


async def test_stream_read_keeps_options_after_source_exit(api):
    source = source_of(Orders, authenticator=TokenAuthenticator("t"))
    handle = source["orders"].pages()

    await source.__aenter__()
    async with handle as pages:
        await anext(pages)
        await source.__aexit__(None, None, None)
        await anext(pages)

    assert [call.request.headers.get("Authorization") for call in api.calls] == ["Bearer t"] * 2


async def test_stream_read_keeps_options_when_source_opens(api):
    source = source_of(Orders, authenticator=TokenAuthenticator("t"))

    async with source["orders"].pages() as pages:
        await anext(pages)
        with suppress(ConfigError):
            async with source:
                await anext(pages)

    assert {call.request.headers.get("Authorization") for call in api.calls} == {None}
