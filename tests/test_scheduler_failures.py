"""What becomes of a run in which something fails, and what is told of it?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import Api, Items, NamedItems, page_key, subclass, record_ids, slices, collect_pages, paged_api, real_timeout

from asyncstreams import (
    AsyncStreamsError,
    AuthError,
    ConfigError,
    HostUnavailable,
    HttpStatusError,
    RateLimitWaitTooLong,
    RequestContext,
    Response,
    SchemaError,
    Source,
)
from asyncstreams.errors import PartialFailure
from asyncstreams.events import PageRead, StreamFinished
from asyncstreams.execution.report import StreamReport


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_a_failing_slice_leaves_its_siblings_and_is_told_at_the_end(virtual_clock):
    reading = Items(Api(paged_api(3, b_1=404, c_0=410)), virtual_clock).pages(slices=slices("abcd"))

    pages, failure = await collect_pages(reading, PartialFailure)

    assert sorted(record_ids(pages)) == ["a/0", "a/1", "a/2", "b/0", "d/0", "d/1", "d/2"]
    assert [type(error) for error in failure.errors] == [HttpStatusError] * 2
    assert {(error.stream_slice["at"], error.page, error.status) for error in failure.errors} == {
        ("b", 1, 404),
        ("c", 0, 410),
    }
    assert failure.report == reading.report
    assert reading.report.streams == (StreamReport("items", 7, 7, 0, 2, 2),)


async def test_a_run_of_one_slice_raises_its_own_error_after_the_pages_before(virtual_clock):
    pages, error = await collect_pages(Items(Api(paged_api(3, items_2=404)), virtual_clock).pages(), HttpStatusError)

    assert record_ids(pages) == ["items/0", "items/1"]
    assert (error.page, error.__cause__, error.__suppress_context__ or error.__context__) == (2, None, None)


async def test_an_error_of_a_hook_is_a_failure_of_its_slice(virtual_clock):
    def parse(self: Any, response: Response, context: RequestContext) -> Any:
        return [1 / 0] if context.stream_slice["at"] == "b" else [{"id": 1}]

    kind = subclass(Items, parse_response=parse, paginator=None)
    pages, failure = await collect_pages(kind(Api(paged_api(1)), virtual_clock).pages(slices=slices("abc")), PartialFailure)

    assert len(pages) == 2
    assert [type(error) for error in failure.errors] == [ZeroDivisionError]


async def test_an_error_of_stream_slices_leaves_the_slices_before_whole(virtual_clock):
    class Broken(Items):
        def stream_slices(self, state: Any) -> Any:
            yield from slices("ab")
            raise LookupError("no c")

    pages, error = await collect_pages(Broken(Api(paged_api(3)), virtual_clock).pages(), Exception)

    failed = error.errors if isinstance(error, PartialFailure) else (error,)
    assert [type(one) for one in failed] == [LookupError]
    assert sorted(record_ids(pages)) == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]


async def test_an_error_of_stream_slices_leaves_the_other_streams_whole(virtual_clock):
    def broken(self: Any, state: Any) -> Any:
        raise LookupError("no slices")

    api = Api(paged_api(3))
    sick = subclass(NamedItems, stream_slices=broken)("sick", api, virtual_clock)
    pages, error = await collect_pages(Source([sick, NamedItems("well", api, virtual_clock)]).pages(), Exception)

    failed = error.errors if isinstance(error, PartialFailure) else (error,)
    assert [type(one) for one in failed] == [LookupError]
    assert record_ids(pages) == ["well/0/0", "well/0/1", "well/0/2"]


async def test_stop_raises_the_first_failure_at_once(virtual_clock):
    api = Api(paged_api(50, b_1=404, c_5=404))

    pages, error = await collect_pages(Items(api, virtual_clock).pages(slices=slices("abcd"), on_error="stop"), HttpStatusError)

    assert (error.stream_slice["at"], error.page) == ("b", 1)
    assert "a/0" in record_ids(pages)
    assert virtual_clock.monotonic() < 5
    assert api.in_flight == 0


async def test_a_stream_ends_when_too_many_of_its_slices_have_failed_and_others_go_on(virtual_clock):
    def answer(request: httpx.Request) -> httpx.Response:
        sick = page_key(request).startswith("sick/") and page_key(request) != "sick/0/0"
        return httpx.Response(404) if sick else paged_api(30)(request)

    sick = subclass(NamedItems, max_failed_slices=3)
    api = Api(answer)
    source = Source([sick("sick", api, virtual_clock), NamedItems("well", api, virtual_clock)], max_concurrency=2)
    pages, failure = await collect_pages(source.pages(slices={"sick": slices(range(500))}), AsyncStreamsError)

    assert sum(page.stream == "well" for page in pages) == 30
    assert isinstance(failure, PartialFailure)
    assert 4 <= sum(one.startswith("sick") and one != "sick/0/0" for one in api.requested) <= 4 + 2


def config_error(request: httpx.Request) -> httpx.Response:
    raise ConfigError("wrong")


def assertion(request: httpx.Request) -> httpx.Response:
    raise AssertionError("not mocked")


def refused_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody there")


FATAL: list[Any] = [
    (lambda request: httpx.Response(401), AuthError),
    (config_error, ConfigError),
    (assertion, AssertionError),
    (refused_connection, HostUnavailable),
]


@pytest.mark.parametrize(("fault", "error"), FATAL, ids=[error.__name__ for _, error in FATAL])
@pytest.mark.parametrize("in_source", [False, True])
async def test_what_concerns_everybody_ends_the_run_at_once(virtual_clock, fault, error, in_source):
    api = Api(lambda request: (fault if "b/2" in page_key(request) else paged_api(100))(request))
    stream, other = (NamedItems(name, api, virtual_clock) for name in ("one", "other"))
    given = slices("abc")
    reading = Source([stream, other]).pages(slices={"one": given}) if in_source else stream.pages(slices=given)

    pages, caught = await collect_pages(reading, error)

    assert type(caught) is error
    assert {"one/a/0", "one/a/1", "one/b/0", "one/b/1"} <= set(record_ids(pages))
    assert virtual_clock.monotonic() < 6
    assert api.in_flight == 0


@pytest.mark.parametrize("on_error", ["continue", "stop"])
async def test_what_was_read_before_is_handed_over_before_the_error(virtual_clock, on_error):
    api = Api(paged_api(6, b_3=401))
    found: list[str] = []

    with pytest.raises(AuthError):  # noqa: PT012  # the pages are wanted too
        async with Items(api, virtual_clock).pages(slices=slices("ab"), on_error=on_error) as pages:
            async for page in pages:
                found += record_ids([page])
                await asyncio.sleep(50)

    assert {"a/0", "a/1", "a/2", "b/0", "b/1", "b/2"} <= set(found)
    assert [one for one in found if one[0] == "a"] == [f"a/{n}" for n in range(sum(one[0] == "a" for one in found))]


def schema_of_b(self: Any) -> Any:
    return {"type": "object", "properties": {"id": {"not": {"const": "one/b/1"}}}}


ENDING: list[Any] = [
    (httpx.Response(200, json={"items": [{"id": "one/b/1"}], "next": 2}), SchemaError),
    (httpx.Response(429, headers={"Retry-After": "100000"}), RateLimitWaitTooLong),
]


@pytest.mark.parametrize(("response", "error"), ENDING, ids=[error.__name__ for _, error in ENDING])
async def test_what_concerns_a_stream_ends_it_and_leaves_the_others(virtual_clock, response, error):
    def api_of(request: httpx.Request) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    api = Api(lambda request: (api_of if page_key(request) == "one/b/1" else paged_api(100))(request))
    sick = subclass(NamedItems, validation="fail", get_json_schema=schema_of_b, quota_group="own")
    well = Api(paged_api(20))
    source = Source([sick("one", api, virtual_clock), NamedItems("other", well, virtual_clock)])
    pages, failure = await collect_pages(source.pages(slices={"one": slices("abc")}), PartialFailure)

    assert {type(one) for one in failure.errors} == {error}
    assert sum(page.stream == "other" for page in pages) == 20
    assert len(api.requested) < 20


async def test_a_lone_stream_ended_by_its_schema_raises_what_ended_it(virtual_clock):
    kind = subclass(NamedItems, validation="fail", get_json_schema=schema_of_b)
    reading = kind("one", Api(paged_api(100)), virtual_clock).pages(slices=slices("abc"))

    _, error = await collect_pages(reading, AsyncStreamsError)

    assert type(error) is SchemaError or [type(one) for one in error.errors] == [SchemaError]
    assert virtual_clock.monotonic() < 6


async def test_an_unavailable_stream_among_several_is_skipped_and_named(virtual_clock):
    api = Api(paged_api(3, shut_0_0=403))
    reading = Source([NamedItems(name, api, virtual_clock) for name in ("open", "shut")]).pages()

    pages, _ = await collect_pages(reading)

    assert len(pages) == 3
    assert list(reading.report.unavailable) == ["shut"]
    assert [line.stream for line in reading.report.streams] == ["open"]
    assert api.requested.count("shut/0/0") == 1


async def test_a_failure_and_an_unavailable_stream_are_both_told(virtual_clock):
    api = Api(paged_api(3, shut_0_0=403, sick_0_1=404))
    reading = Source([NamedItems(name, api, virtual_clock) for name in ("open", "shut", "sick")]).pages()

    pages, failure = await collect_pages(reading, PartialFailure)

    assert [error.status for error in failure.errors] == [404]
    assert list(failure.report.unavailable) == ["shut"]
    assert len(pages) == 4


async def test_the_report_counts_what_was_handed_over_not_what_was_fetched(virtual_clock):
    api = Api(paged_api(50))
    reading = Items(api, virtual_clock).pages(slices=slices("ab"))

    async with reading as pages:
        await anext(pages)
        await asyncio.sleep(100)
        fetched = len(api.requested)
        line = reading.report.streams[0]

    assert fetched > 5
    assert (line.pages, line.records, line.slices) == (1, 1, 0)


async def test_records_report_and_raise_as_pages_do(virtual_clock):
    reading = Items(Api(paged_api(2, b_1=404)), virtual_clock).records(slices=slices("ab"))
    found: list[Any] = []

    with pytest.raises(PartialFailure):  # noqa: PT012  # the records are wanted too
        async with reading as records:
            async for record in records:
                found.append(record["id"])  # noqa: PERF401  # those before the error are wanted too

    assert sorted(found) == ["a/0", "a/1", "b/0"]
    assert reading.report.streams[0].records == 3


async def test_read_raises_and_gives_nothing_where_a_slice_failed(virtual_clock):
    with pytest.raises(PartialFailure) as caught:
        await Items(Api(paged_api(2, b_1=404)), virtual_clock).read(slices=slices("ab"))

    assert len(caught.value.errors) == 1


async def test_when_all_slices_fail_all_are_told(virtual_clock):
    _, failure = await collect_pages(
        Items(Api(lambda request: httpx.Response(404)), virtual_clock).pages(slices=slices("abc")), PartialFailure
    )

    assert len(failure.errors) == 3


async def test_a_listener_that_raises_does_not_hang_the_run(virtual_clock):
    class Tired(Exception):
        pass

    def listen(event: object) -> None:
        if isinstance(event, PageRead) and event.number == 1:
            raise Tired

    stream = Items(Api(paged_api(3)), virtual_clock)
    stream.subscribe(listen)

    _, error = await collect_pages(stream.pages(slices=slices("ab")), Exception)

    assert isinstance(error, Tired) or all(isinstance(one, Tired) for one in error.errors)


async def test_no_group_of_exceptions_is_seen_inside_the_body_either(virtual_clock):
    def broken(self: Any, state: Any) -> Any:
        raise LookupError("no slices")

    stream = subclass(Items, stream_slices=broken)(Api(paged_api(3)), virtual_clock)

    async with stream.pages() as pages:
        with pytest.raises(LookupError):
            await anext(pages)


@pytest.mark.parametrize("how", ["one slice", "schema"])
async def test_a_stream_that_was_not_read_whole_ends_with_an_error(virtual_clock, how):
    heard: list[Any] = []
    kind = subclass(NamedItems, validation="fail", get_json_schema=schema_of_b) if how == "schema" else NamedItems
    stream = kind("one", Api(paged_api(4) if how == "schema" else paged_api(4, one_b_1=404)), virtual_clock)
    stream.subscribe(heard.append)

    with pytest.raises(AsyncStreamsError):
        await stream.read(slices=slices("abc"))

    assert isinstance(heard[-1], StreamFinished)
    assert heard[-1].error is not None
