"""Reading a stream: records, pages, slices, errors, middleware and redirects."""

import asyncio
from contextlib import nullcontext
from itertools import count
from typing import Any

import httpx
import pytest
import respx

from asyncstreams import (
    ConfigError,
    Header,
    HttpStatusError,
    HttpStream,
    PageNumber,
    Slice,
    TokenAuthenticator,
)

ITEMS = "https://api.test/v1/items"
SLICES = [{"shop": "a"}, {"shop": "b"}]


def declare(**attributes: Any) -> HttpStream:
    """Pages of two records, three in each slice; their ids begin with the shop."""
    defaults = {
        "url_base": "https://api.test/v1",
        "path": lambda self, context: "items",
        "request_params": lambda self, context: {"shop": context.stream_slice.get("shop", "")},
        "paginator": PageNumber(total_pages=Header("X-Pages")),
    }
    return type("Items", (HttpStream,), defaults | attributes)()


def ids(shop: str, *pages: int) -> list[dict[str, str]]:
    return [{"id": f"{shop}{page}{n}"} for page in pages for n in "xy"]


def answer(request: httpx.Request) -> httpx.Response:
    page, shop = request.url.params.get("page", "1"), request.url.params.get("shop", "")
    return httpx.Response(200, json=ids(shop, int(page)), headers={"X-Pages": "3"})


async def collect_pages(stream: HttpStream, **options: Any) -> list[Any]:
    async with stream.pages(**options) as pages:
        return [page async for page in pages]


@pytest.fixture
def route(respx_mock):
    return respx_mock.route(url=ITEMS).mock(side_effect=answer)


async def test_read_returns_records_of_all_slices_in_order(route):
    records = await declare(stream_slices=lambda self, state: SLICES).read()

    assert records == ids("a", 1, 2, 3) + ids("b", 1, 2, 3)


async def test_page_has_stream_slice_number_and_is_last(route):
    pages = await collect_pages(declare(), slices=SLICES)

    assert [(page.stream, page.stream_slice, page.number, page.is_last) for page in pages] == [
        ("items", shop, number, number == 2) for shop in SLICES for number in (0, 1, 2)
    ]
    assert pages[4].records == ids("b", 2)


@pytest.mark.parametrize(
    ("limit", "requests"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (7, 4), (12, 6), (13, 6), (None, 6)]
)
async def test_limit_sends_no_extra_request(respx_mock, limit, requests):
    route = respx_mock.route(url=ITEMS, name="items").mock(side_effect=answer)
    respx_mock.assert_all_called = False
    everything = ids("a", 1, 2, 3) + ids("b", 1, 2, 3)

    records = await declare().read(slices=SLICES, limit=limit)

    assert records == everything[:limit]
    assert route.call_count == requests


async def test_page_truncated_by_limit_is_not_last(route):
    pages = await collect_pages(declare(), limit=5)

    assert [(len(page.records), page.is_last) for page in pages] == [(2, False), (2, False), (1, False)]


async def test_records_respects_the_limit(route):
    async with declare().records(limit=3) as records:
        record_ids = [record["id"] async for record in records]

    assert record_ids == ["1x", "1y", "2x"]


async def generate(*slices):
    for stream_slice in slices:
        yield stream_slice


ITERABLES = [list, tuple, iter, lambda given: generate(*given), lambda given: map(Slice, given)]


@pytest.mark.parametrize("kind", ITERABLES, ids=["list", "tuple", "iterator", "async generator", "Slices"])
@pytest.mark.parametrize("given_as", ["argument", "hook"])
async def test_slices_from_any_iterable(route, kind, given_as):
    if given_as == "hook":
        pages = await collect_pages(declare(stream_slices=lambda self, state: kind(SLICES)))
    else:
        pages = await collect_pages(declare(), slices=kind(SLICES))

    assert [page.stream_slice for page in pages] == [SLICES[0]] * 3 + [SLICES[1]] * 3
    assert all(isinstance(page.stream_slice, Slice) for page in pages)


@pytest.mark.parametrize(("slices", "expected"), [([None], ids("", 1)), ([], [])])
async def test_none_is_one_empty_slice_and_empty_list_is_none(respx_mock, slices, expected):
    respx_mock.route(url=ITEMS).mock(side_effect=answer)
    respx_mock.assert_all_called = False

    assert await declare(stream_slices=lambda self, state: slices, paginator=None).read() == expected
    assert respx_mock.calls.call_count == len(slices)


async def test_slices_argument_overrides_stream_slices(route):
    records = await declare(stream_slices=lambda self, state: [{"shop": "z"}]).read(slices=[{"shop": "a"}])

    assert records == ids("a", 1, 2, 3)


@pytest.mark.parametrize("invalid", ["ab", [3], 7, {"shop": "a"}], ids=repr)
async def test_invalid_slices_are_refused(invalid):
    with pytest.raises(ConfigError):
        await declare(stream_slices=lambda self, state: invalid).read()


@pytest.mark.parametrize("given", [None, {"day": 3}])
async def test_hooks_get_the_state_argument(route, given):
    seen = []
    stream = declare(
        stream_slices=lambda self, state: seen.append(state) or [{}],
        request_headers=lambda self, context: seen.append(context.stream_state),
    )

    await stream.read(state=given, limit=1)

    assert seen == [given or {}, given or {}]


@pytest.mark.parametrize("method", ["pages", "records"])
async def test_iterating_without_async_with_shows_the_usage(method):
    lines = f"    async with stream.{method}() as {method}:\n        async for {method[:-1]} in {method}: ..."

    with pytest.raises(TypeError) as caught:
        async for _ in getattr(declare(), method)():
            pass

    assert lines in str(caught.value)


async def test_request_uses_the_stream_client(respx_mock, virtual_clock):
    detail = respx_mock.get("https://api.test/v1/items/a%2Fb").mock(
        side_effect=[httpx.Response(503), httpx.Response(200, json={"id": 7})]
    )
    stream = declare(clock=virtual_clock, authenticator=TokenAuthenticator("t"))

    response = await stream.request(("items", "a/b"), params={"all": True})

    assert response.json() == {"id": 7}
    assert str(detail.calls.last.request.url).endswith("?all=true")
    assert detail.calls.last.request.headers["authorization"] == "Bearer t"


async def test_request_may_post_and_raises_like_read(respx_mock):
    route = respx_mock.post(ITEMS).respond(422, json={"message": "no such field"})

    with pytest.raises(HttpStatusError, match="no such field"):
        await declare().request("items", method="POST", json={"q": 1}, headers={"X-Mine": "yes"})

    request = route.calls.last.request
    assert (request.content, request.headers["x-mine"]) == (b'{"q":1}', "yes")


async def test_parse_response_may_send_detail_requests(route, respx_mock):
    respx_mock.get(url__regex=r".*/items/\w+$").respond(json={"more": 1})

    async def parse_response(self, response, context):
        return [record | (await self.request(("items", record["id"]))).json() for record in response.json()]

    records = await declare(parse_response=parse_response, paginator=None).read()

    assert records == [{"id": "1x", "more": 1}, {"id": "1y", "more": 1}]


HOOKS = """path request_params request_headers request_json request_data request_kwargs parse_response
next_page_token classify should_retry backoff_time middleware stream_slices"""


@pytest.mark.parametrize("hook", HOOKS.split())
async def test_hook_error_propagates_with_a_note(respx_mock, virtual_clock, hook):
    route = respx_mock.route(url=ITEMS).respond(500 if hook == "backoff_time" else 200, json=[])
    respx_mock.assert_all_called = False
    original = KeyError("original")

    def fail(*arguments):
        raise original

    with pytest.raises(KeyError) as caught:
        await declare(clock=virtual_clock, **{hook: (fail,) if hook == "middleware" else fail}).read()

    assert caught.value is original
    assert any("'items'" in note for note in getattr(original, "__notes__", ()))
    assert route.call_count <= 1


async def test_error_names_stream_slice_page_and_request(route):
    route.side_effect = [answer(httpx.Request("GET", f"{ITEMS}?shop=b")), httpx.Response(404)]

    with pytest.raises(HttpStatusError) as caught:
        await declare().read(slices=[{"shop": "b"}])

    error = caught.value
    assert (error.stream, error.stream_slice, error.page) == ("items", {"shop": "b"}, 1)
    assert (error.method, error.url, error.status, error.tries) == ("GET", ITEMS, 404, 1)


async def test_error_in_the_async_with_block_propagates_unchanged(route):
    original = KeyError("original")

    with pytest.raises(KeyError) as caught:  # noqa: PT012  # the block is what is tested
        async with declare().records() as records:
            async for _ in records:
                raise original

    assert caught.value is original


async def test_early_exit_cancels_requests_and_closes_slices(route):
    closed, hanging, three_hang = [], set(), asyncio.Event()

    async def one_page(request):
        if route.call_count == 0:
            return answer(request)
        hanging.add(request)
        try:
            if len(hanging) == 3:
                three_hang.set()
            return await asyncio.Event().wait()
        finally:
            hanging.remove(request)

    async def slices():
        try:
            for number in count():
                yield {"shop": number}
        finally:
            closed.append(True)

    route.mock(side_effect=one_page)
    before = asyncio.all_tasks()
    async with declare().records(slices=slices()) as records:
        async for _ in records:
            await three_hang.wait()
            break

    assert hanging == set()
    assert closed == [True]
    assert asyncio.all_tasks() == before


async def test_concurrent_reads_are_independent(route):
    stream = declare()

    first, second = await asyncio.gather(stream.read(slices=[{"shop": "a"}]), stream.read(slices=[{"shop": "b"}]))

    assert (first, second) == (ids("a", 1, 2, 3), ids("b", 1, 2, 3))


def test_stream_can_be_read_in_a_second_event_loop(respx_mock):
    respx_mock.route(url=ITEMS).mock(side_effect=answer)
    stream = declare(authenticator=TokenAuthenticator("t"))

    first, second = asyncio.run(stream.read()), asyncio.run(stream.read())

    assert first == second == ids("", 1, 2, 3)


async def test_given_transport_is_used_and_not_closed():
    class UnclosableTransport(httpx.MockTransport):
        async def aclose(self):
            raise AssertionError

    stream = declare(transport=UnclosableTransport(answer))

    assert await stream.read() == ids("", 1, 2, 3)
    assert await stream.read() == ids("", 1, 2, 3)


async def test_respx_router_as_transport():
    router = respx.Router()
    router.get(ITEMS).mock(side_effect=answer)

    assert await declare(transport=router).read() == ids("", 1, 2, 3)


async def test_middleware_wraps_each_attempt_first_outermost(route, virtual_clock):
    route.side_effect = [httpx.Response(500), answer]
    seen = []

    def named_middleware(name):
        async def middleware(request, send):
            seen.append((name, request.headers.get("x-mark")))
            request.headers["X-Mark"] = name
            response = await send(request)
            seen.append((name, response.status_code))
            return response

        return middleware

    await declare(middleware=(named_middleware("outer"), named_middleware("inner")), clock=virtual_clock).read(limit=1)

    before_send = [("outer", None), ("inner", "outer")]
    assert seen == [*before_send, ("inner", 500), ("outer", 500), *before_send, ("inner", 200), ("outer", 200)]
    assert route.calls.last.request.headers["x-mark"] == "inner"


async def test_middleware_and_hooks_get_each_attempts_context(route, virtual_clock):
    route.side_effect = [httpx.Response(500), answer]
    seen = []

    async def middleware(request, send):
        origin = request.extensions["asyncstreams"]
        context = origin.context
        seen.append((origin.stream, context.stream_slice, context.attempt, request.headers["x-attempt"]))
        return await send(request)

    stream = declare(
        middleware=(middleware,),
        clock=virtual_clock,
        request_headers=lambda self, context: {"X-Attempt": str(context.attempt)},
    )
    await stream.read(slices=[{"shop": "a"}], limit=1)

    assert seen == [(stream, {"shop": "a"}, 1, "1"), (stream, {"shop": "a"}, 2, "2")]


async def test_middleware_may_replace_the_response(route):
    async def middleware(request, send):
        return httpx.Response(200, json=[*(await send(request)).json(), {"id": "added"}])

    records = await declare(middleware=(middleware,), paginator=None).read()

    assert records == [*ids("", 1), {"id": "added"}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_an_error_that_names_its_target(respx_mock, status):
    respx_mock.get(ITEMS).respond(status, headers={"Location": "/v2/items?key=s3cret"})

    with pytest.raises(HttpStatusError, match="/v2/items") as caught:
        await declare().read()

    assert caught.value.status == status
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("option", ["follow_redirects", "allow_redirects"])
@pytest.mark.parametrize(("hops", "succeeds"), [(1, True), (5, True), (6, False)])
async def test_enabled_redirects_follow_at_most_five_hops(respx_mock, option, hops, succeeds):
    steps = [httpx.Response(302, headers={"Location": f"{ITEMS}?hop={n}"}) for n in range(hops)]
    route = respx_mock.get(ITEMS).mock(side_effect=[*steps, httpx.Response(200, json=[{"id": 1}])])
    attributes = {"request_kwargs": lambda self, context: {option: True}, "paginator": None}

    with nullcontext() if succeeds else pytest.raises(HttpStatusError):
        assert await declare(authenticator=TokenAuthenticator("t"), **attributes).read() == [{"id": 1}]

    assert [call.request.headers["authorization"] for call in route.calls] == ["Bearer t"] * min(hops + 1, 6)


@pytest.mark.parametrize("status", [204, 304])
async def test_204_and_304_end_the_slice_unparsed(route, status):
    route.side_effect = [httpx.Response(status), *[answer] * 3]
    parsed = []
    stream = declare(
        parse_response=lambda self, response, context: parsed.append(response.status_code) or response.json(),
        next_page_token=lambda self, response, context: parsed.append(response.status_code),
    )

    pages = await collect_pages(stream, slices=SLICES)

    assert [(page.number, len(page.records), page.is_last) for page in pages] == [(0, 0, True), (0, 2, True)]
    assert parsed == [200, 200]
