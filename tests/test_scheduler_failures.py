"""Failures within a run: what they end and what is raised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_api import (
    Api,
    Items,
    NamedItems,
    collect_pages,
    page_key,
    paged_api,
    real_timeout,
    record_ids,
    slices,
    subclass,
)

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
def fail_on_hang() -> Iterator[None]:
    with real_timeout(60):
        yield


async def test_failed_slice_is_raised_after_its_siblings(virtual_clock):
    run = Items(Api(paged_api(3, b_1=404, c_0=410)), virtual_clock).pages(slices=slices("abcd"))

    pages, failure = await collect_pages(run, PartialFailure)

    assert sorted(record_ids(pages)) == ["a/0", "a/1", "a/2", "b/0", "d/0", "d/1", "d/2"]
    assert [type(error) for error in failure.errors] == [HttpStatusError] * 2
    assert {(error.stream_slice["at"], error.page, error.status) for error in failure.errors} == {
        ("b", 1, 404),
        ("c", 0, 410),
    }
    assert failure.report == run.report
    assert run.report.streams == (StreamReport("items", 7, 7, 0, 2, 2),)


async def test_lone_slice_raises_its_error_after_earlier_pages(virtual_clock):
    pages, error = await collect_pages(Items(Api(paged_api(3, items_2=404)), virtual_clock).pages(), HttpStatusError)

    assert record_ids(pages) == ["items/0", "items/1"]
    assert (error.page, error.__cause__, error.__suppress_context__ or error.__context__) == (2, None, None)


async def test_hook_error_fails_only_its_slice(virtual_clock):
    def parse(self: Any, response: Response, context: RequestContext) -> Any:
        return [1 / 0] if context.stream_slice["at"] == "b" else [{"id": 1}]

    kind = subclass(Items, parse_response=parse, paginator=None)
    pages, failure = await collect_pages(
        kind(Api(paged_api(1)), virtual_clock).pages(slices=slices("abc")), PartialFailure
    )

    assert len(pages) == 2
    assert [type(error) for error in failure.errors] == [ZeroDivisionError]


async def test_stream_slices_error_keeps_earlier_slices(virtual_clock):
    class Broken(Items):
        def stream_slices(self, state: Any) -> Any:
            yield from slices("ab")
            raise LookupError("no c")

    pages, error = await collect_pages(Broken(Api(paged_api(3)), virtual_clock).pages(), Exception)

    failed = error.errors if isinstance(error, PartialFailure) else (error,)
    assert [type(failure) for failure in failed] == [LookupError]
    assert sorted(record_ids(pages)) == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]


async def test_stream_slices_error_keeps_other_streams(virtual_clock):
    def broken(self: Any, state: Any) -> Any:
        raise LookupError("no slices")

    api = Api(paged_api(3))
    failing = subclass(NamedItems, stream_slices=broken)("failing", api, virtual_clock)
    pages, error = await collect_pages(Source([failing, NamedItems("healthy", api, virtual_clock)]).pages(), Exception)

    failed = error.errors if isinstance(error, PartialFailure) else (error,)
    assert [type(failure) for failure in failed] == [LookupError]
    assert record_ids(pages) == ["healthy/0/0", "healthy/0/1", "healthy/0/2"]


async def test_on_error_stop_raises_first_failure_at_once(virtual_clock):
    api = Api(paged_api(50, b_1=404, c_5=404))

    pages, error = await collect_pages(
        Items(api, virtual_clock).pages(slices=slices("abcd"), on_error="stop"), HttpStatusError
    )

    assert (error.stream_slice["at"], error.page) == ("b", 1)
    assert "a/0" in record_ids(pages)
    assert virtual_clock.monotonic() < 5
    assert api.in_flight == 0


async def test_max_failed_slices_ends_only_that_stream(virtual_clock):
    def answer(request: httpx.Request) -> httpx.Response:
        failing = page_key(request).startswith("failing/") and page_key(request) != "failing/0/0"
        return httpx.Response(404) if failing else paged_api(30)(request)

    failing = subclass(NamedItems, max_failed_slices=3)
    api = Api(answer)
    source = Source(
        [failing("failing", api, virtual_clock), NamedItems("healthy", api, virtual_clock)], max_concurrency=2
    )
    pages, failure = await collect_pages(source.pages(slices={"failing": slices(range(500))}), AsyncStreamsError)

    assert sum(page.stream == "healthy" for page in pages) == 30
    assert isinstance(failure, PartialFailure)
    assert 4 <= sum(key.startswith("failing") and key != "failing/0/0" for key in api.requested) <= 4 + 2


def raise_config_error(request: httpx.Request) -> httpx.Response:
    raise ConfigError("wrong")


def raise_assertion_error(request: httpx.Request) -> httpx.Response:
    raise AssertionError("not mocked")


def refuse_connection(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


FATAL_ERRORS: list[Any] = [
    (lambda request: httpx.Response(401), AuthError),
    (raise_config_error, ConfigError),
    (raise_assertion_error, AssertionError),
    (refuse_connection, HostUnavailable),
]


@pytest.mark.parametrize(("fault", "error"), FATAL_ERRORS, ids=[error.__name__ for _, error in FATAL_ERRORS])
@pytest.mark.parametrize("in_source", [False, True])
async def test_fatal_error_ends_the_run_at_once(virtual_clock, fault, error, in_source):
    api = Api(lambda request: (fault if "b/2" in page_key(request) else paged_api(100))(request))
    stream, other = (NamedItems(name, api, virtual_clock) for name in ("one", "other"))
    given = slices("abc")
    run = Source([stream, other]).pages(slices={"one": given}) if in_source else stream.pages(slices=given)

    pages, caught = await collect_pages(run, error)

    assert type(caught) is error
    assert {"one/a/0", "one/a/1", "one/b/0", "one/b/1"} <= set(record_ids(pages))
    assert virtual_clock.monotonic() < 6
    assert api.in_flight == 0


@pytest.mark.parametrize("on_error", ["continue", "stop"])
async def test_pages_before_a_fatal_error_are_delivered_first(virtual_clock, on_error):
    api = Api(paged_api(6, b_3=401))
    found: list[str] = []

    with pytest.raises(AuthError):  # noqa: PT012  # the pages are checked too
        async with Items(api, virtual_clock).pages(slices=slices("ab"), on_error=on_error) as pages:
            async for page in pages:
                found += record_ids([page])
                await asyncio.sleep(50)

    assert {"a/0", "a/1", "a/2", "b/0", "b/1", "b/2"} <= set(found)
    assert [key for key in found if key[0] == "a"] == [f"a/{n}" for n in range(sum(key[0] == "a" for key in found))]


def reject_b(self: Any) -> Any:
    return {"type": "object", "properties": {"id": {"not": {"const": "one/b/1"}}}}


STREAM_ERRORS: list[Any] = [
    (httpx.Response(200, json={"items": [{"id": "one/b/1"}], "next": 2}), SchemaError),
    (httpx.Response(429, headers={"Retry-After": "100000"}), RateLimitWaitTooLong),
]


@pytest.mark.parametrize(("response", "error"), STREAM_ERRORS, ids=[error.__name__ for _, error in STREAM_ERRORS])
async def test_error_that_ends_a_stream_leaves_the_others(virtual_clock, response, error):
    def failing_api(request: httpx.Request) -> httpx.Response:
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    api = Api(lambda request: (failing_api if page_key(request) == "one/b/1" else paged_api(100))(request))
    failing = subclass(NamedItems, validation="fail", get_json_schema=reject_b, quota_group="own")
    healthy = Api(paged_api(20))
    source = Source([failing("one", api, virtual_clock), NamedItems("other", healthy, virtual_clock)])
    pages, failure = await collect_pages(source.pages(slices={"one": slices("abc")}), PartialFailure)

    assert {type(inner) for inner in failure.errors} == {error}
    assert sum(page.stream == "other" for page in pages) == 20
    assert len(api.requested) < 20


async def test_lone_stream_raises_its_schema_error(virtual_clock):
    kind = subclass(NamedItems, validation="fail", get_json_schema=reject_b)
    run = kind("one", Api(paged_api(100)), virtual_clock).pages(slices=slices("abc"))

    _, error = await collect_pages(run, AsyncStreamsError)

    assert type(error) is SchemaError or [type(failure) for failure in error.errors] == [SchemaError]
    assert virtual_clock.monotonic() < 6


async def test_unavailable_stream_is_skipped_and_reported(virtual_clock):
    api = Api(paged_api(3, shut_0_0=403))
    run = Source([NamedItems(name, api, virtual_clock) for name in ("open", "shut")]).pages()

    pages, _ = await collect_pages(run)

    assert len(pages) == 3
    assert list(run.report.unavailable) == ["shut"]
    assert [line.stream for line in run.report.streams] == ["open"]
    assert api.requested.count("shut/0/0") == 1


async def test_failure_and_unavailable_stream_are_both_reported(virtual_clock):
    api = Api(paged_api(3, shut_0_0=403, failing_0_1=404))
    run = Source([NamedItems(name, api, virtual_clock) for name in ("open", "shut", "failing")]).pages()

    pages, failure = await collect_pages(run, PartialFailure)

    assert [error.status for error in failure.errors] == [404]
    assert list(failure.report.unavailable) == ["shut"]
    assert len(pages) == 4


async def test_report_counts_delivered_not_fetched_pages(virtual_clock):
    api = Api(paged_api(50))
    run = Items(api, virtual_clock).pages(slices=slices("ab"))

    async with run as pages:
        await anext(pages)
        await asyncio.sleep(100)
        fetched = len(api.requested)
        line = run.report.streams[0]

    assert fetched > 5
    assert (line.pages, line.records, line.slices) == (1, 1, 0)


async def test_records_reports_and_raises_like_pages(virtual_clock):
    run = Items(Api(paged_api(2, b_1=404)), virtual_clock).records(slices=slices("ab"))
    found: list[Any] = []

    with pytest.raises(PartialFailure):  # noqa: PT012  # the records are checked too
        async with run as records:
            async for record in records:
                found.append(record["id"])  # noqa: PERF401  # records before the error are kept

    assert sorted(found) == ["a/0", "a/1", "b/0"]
    assert run.report.streams[0].records == 3


async def test_read_raises_if_a_slice_failed(virtual_clock):
    with pytest.raises(PartialFailure) as caught:
        await Items(Api(paged_api(2, b_1=404)), virtual_clock).read(slices=slices("ab"))

    assert len(caught.value.errors) == 1


async def test_all_failed_slices_are_raised(virtual_clock):
    _, failure = await collect_pages(
        Items(Api(lambda request: httpx.Response(404)), virtual_clock).pages(slices=slices("abc")), PartialFailure
    )

    assert len(failure.errors) == 3


async def test_raising_listener_ends_the_run(virtual_clock):
    class ListenerError(Exception):
        pass

    def listen(event: object) -> None:
        if isinstance(event, PageRead) and event.number == 1:
            raise ListenerError

    stream = Items(Api(paged_api(3)), virtual_clock)
    stream.subscribe(listen)

    _, error = await collect_pages(stream.pages(slices=slices("ab")), Exception)

    assert isinstance(error, ListenerError) or all(isinstance(inner, ListenerError) for inner in error.errors)


async def test_body_sees_no_exception_group(virtual_clock):
    def broken(self: Any, state: Any) -> Any:
        raise LookupError("no slices")

    stream = subclass(Items, stream_slices=broken)(Api(paged_api(3)), virtual_clock)

    async with stream.pages() as pages:
        with pytest.raises(LookupError):
            await anext(pages)


@pytest.mark.parametrize("cause", ["one slice", "schema"])
async def test_incomplete_stream_finishes_with_an_error(virtual_clock, cause):
    events: list[Any] = []
    kind = subclass(NamedItems, validation="fail", get_json_schema=reject_b) if cause == "schema" else NamedItems
    stream = kind("one", Api(paged_api(4) if cause == "schema" else paged_api(4, one_b_1=404)), virtual_clock)
    stream.subscribe(events.append)

    with pytest.raises(AsyncStreamsError):
        await stream.read(slices=slices("abc"))

    assert isinstance(events[-1], StreamFinished)
    assert events[-1].error is not None
