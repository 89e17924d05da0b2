"""Clean cancellation: at every step of a run, in every way to leave it, and many times over."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from fake_api import Api, Items, NamedItems, collect_pages, paged_api, real_timeout, slices
from loopback import Connection, LoopbackRequest, http_response, serve
from simulation import sample

from asyncstreams import AuthError, HttpStream, Offset, PageNumber, RequestContext, Source


class BodyError(Exception):
    pass


@pytest.fixture(autouse=True)
def fail_on_hang_or_warning() -> Iterator[None]:
    with real_timeout(90), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


@asynccontextmanager
async def no_task_leak() -> AsyncIterator[None]:
    """Assert that the block leaves no task behind."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() <= before


class CountedItems(Items):
    """Items whose pages are read concurrently."""

    paginator = Offset(limit=1, total="total")


def faulty_api() -> Any:
    """Slice b waits in backoff, slice c for a pause, slice d fails, the others succeed."""
    refusals = itertools.count()

    def answer(request: httpx.Request) -> httpx.Response:
        name, number = request.url.path[1:], int(request.url.params.get("page", request.url.params.get("offset", 0)))
        if name == "b" and number == 1:
            return httpx.Response(503)
        if name == "c" and number == 1 and next(refusals) < 2:
            return httpx.Response(429, headers={"Retry-After": "3"})
        if name == "d" and number == 2:
            return httpx.Response(404)
        following = number + 1 if number < 3 else None
        return httpx.Response(200, json={"items": [{"id": number}], "next": following, "total": 4})

    return answer


async def advance(step: int) -> None:
    """Wait for `step // 12` half seconds, then for `step % 12` iterations of the loop."""
    await asyncio.sleep(step // 12 / 2)
    for _ in range(step % 12):
        await asyncio.sleep(0)


async def consume(stream: HttpStream, pause: float) -> None:
    with suppress(Exception):
        async with stream.pages(slices=slices("abcde")) as pages:
            async for _ in pages:
                await asyncio.sleep(pause)


@pytest.mark.simulation
@pytest.mark.parametrize("kind", [Items, CountedItems])
@pytest.mark.parametrize("pause", [0, 0.7])
async def test_run_can_be_cancelled_at_every_step(virtual_clock, kind, pause):
    kind = type(kind.__name__, (kind,), {"max_tries": 3, "backoff_time": lambda self, response: 1.5})
    for step in range(0, 1000, sample(full=1, short=7)):
        api = Api(faulty_api())
        stream = kind(api, virtual_clock, max_concurrency=3, seed=1)
        async with no_task_leak():
            task = asyncio.create_task(consume(stream, pause))
            await advance(step)
            is_done = task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        assert api.in_flight == 0, f"at step {step}"
        assert is_done or task.cancelled(), f"at step {step} the cancellation was lost"
        if is_done:
            break
    assert 30 < step < 999


WAYS = ["break", "exception", "cancel", "timeout"]


async def leave(way: str, run: Any, after: int, ready: Any = None) -> None:
    """Leave a run after more than `after` pages, once `ready` completes."""
    task = asyncio.current_task()
    assert task is not None
    seen = 0
    async with run as pages:
        async for _ in pages:
            seen += 1
            if seen <= after:
                continue
            if ready is not None:
                await ready
            if way == "break":
                break
            if way == "exception":
                raise BodyError
            if way == "cancel":
                task.cancel()
            async with asyncio.timeout(0.5 if way == "timeout" else None):
                await asyncio.sleep(10)


OUTCOMES = {"break": None, "exception": BodyError, "cancel": asyncio.CancelledError, "timeout": TimeoutError}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Items, CountedItems])
async def test_exit_after_any_page_ends_all_requests(virtual_clock, way, kind):
    kind = type(kind.__name__, (kind,), {"max_tries": 3, "backoff_time": lambda self, response: 1.5})
    for after in range(14):
        api = Api(faulty_api())
        async with no_task_leak():
            task = asyncio.create_task(leave(way, kind(api, virtual_clock).pages(slices=slices("abcde")), after))
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
            outcome = asyncio.CancelledError if task.cancelled() else task.exception() and type(task.exception())
        requested = len(api.requested)
        await asyncio.sleep(1000)

        assert (outcome, api.in_flight, len(api.requested)) == (OUTCOMES[way], 0, requested)


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.2, 4.0, 5.5])
async def test_timeout_ends_a_waiting_consumer_on_time(virtual_clock, seconds):
    api = Api(faulty_api(), latency=1.0)
    stream = Items(api, virtual_clock, max_concurrency=2)
    started_at = virtual_clock.monotonic()

    async with no_task_leak():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await stream.read(slices=slices("abcbcbcbcbcbc" * 3))

    assert virtual_clock.monotonic() - started_at == pytest.approx(seconds, abs=0.01)
    assert api.in_flight == 0


@pytest.mark.parametrize("status", [503, 429])
async def test_exit_while_all_slices_wait_is_immediate(virtual_clock, status):
    def waiting(request: httpx.Request) -> httpx.Response:
        succeeds = request.url.path == "/a"
        return paged_api(1)(request) if succeeds else httpx.Response(status, headers={"Retry-After": "500"})

    api = Api(waiting)
    stream = type("Items", (Items,), {"max_tries": 9})(api, virtual_clock)

    async with no_task_leak(), stream.pages(slices=slices("abcdef")) as pages:
        await anext(pages)
        await asyncio.sleep(20)
        assert api.in_flight == 0
        before = virtual_clock.monotonic()

    assert virtual_clock.monotonic() == before


async def test_timed_out_anext_loses_no_page(virtual_clock):
    found = []

    async with Items(Api(paged_api(6), latency=3), virtual_clock).pages(slices=slices("ab")) as pages:
        while True:
            try:
                found.append(await asyncio.wait_for(anext(pages), 0.7))
            except TimeoutError:
                continue
            except StopAsyncIteration:
                break

    assert sorted((page.stream_slice["at"], page.number) for page in found) == [
        (name, n) for name in "ab" for n in range(6)
    ]


BODY_ERRORS = [
    BodyError("plain"),
    KeyError("x"),
    AuthError("from the body"),
    ExceptionGroup("from the body", [BodyError("a"), BodyError("b")]),
    ExceptionGroup("from the body", [BodyError("a")]),
    StopAsyncIteration("from the body"),
    RuntimeError("from the body"),
    GeneratorExit("from the body"),
]


@pytest.mark.parametrize("kind", ["pages", "records", "source"])
@pytest.mark.parametrize("error", BODY_ERRORS, ids=lambda error: type(error).__name__)
async def test_body_exception_propagates_unchanged(virtual_clock, kind, error):
    api = Api(paged_api(5))
    stream = Items(api, virtual_clock)
    run = {"pages": stream.pages, "records": stream.records, "source": Source([stream]).pages}[kind]()
    cause = LookupError("before")

    with pytest.raises(type(error)) as caught:  # noqa: PT012  # the place of the raise matters
        async with run as items:
            await anext(items)
            try:
                raise cause
            except LookupError:
                raise error  # noqa: B904  # its __context__ is checked

    assert caught.value is error
    assert error.__context__ is cause
    assert api.in_flight == 0


async def test_body_exception_wins_over_slice_failures(virtual_clock):
    api = Api(paged_api(5, a_2=401))
    error = BodyError()

    with pytest.raises(BodyError) as caught:  # noqa: PT012  # the place of the raise matters
        async with Items(api, virtual_clock).pages(slices=slices("ab")) as pages:
            await anext(pages)
            await asyncio.sleep(100)
            raise error

    assert caught.value is error
    assert caught.value.__context__ is None


async def test_slice_error_is_the_same_object_inside_and_outside(virtual_clock):
    error = AuthError("no")
    api = Api(paged_api(5, a_2=error))
    inside: list[BaseException] = []

    with pytest.raises(AuthError) as caught:  # noqa: PT012  # the place of the raise matters
        async with Items(api, virtual_clock).pages(slices=slices("ab")) as pages:
            try:
                async for _ in pages:
                    pass
            except BaseException as found:
                inside.append(found)
                raise

    assert inside == [caught.value]
    assert caught.value is error


async def test_iterator_stays_exhausted_after_an_error(virtual_clock):
    async with Items(Api(paged_api(1, items_0=401)), virtual_clock).pages() as pages:
        with pytest.raises(AuthError):
            await anext(pages)
        with pytest.raises(StopAsyncIteration):
            await anext(pages)


async def test_exit_before_a_queued_error_raises_nothing(virtual_clock):
    async with Items(Api(paged_api(5, a_2=401)), virtual_clock).pages(slices=slices("ab")) as pages:
        async for _ in pages:
            await asyncio.sleep(100)
            break


async def test_early_exit_closes_stream_slices(virtual_clock):
    closed: list[str] = []

    class Endless(Items):
        async def stream_slices(self, state: Any) -> Any:
            try:
                for n in itertools.count():
                    yield {"at": n}
            finally:
                closed.append("closed")

    async with Endless(Api(paged_api(2)), virtual_clock).pages() as pages:
        await anext(pages)

    assert closed == ["closed"]


class SocketItems(HttpStream):
    paginator: Any = PageNumber(total_pages="pages")
    records_path = "items"
    adaptive = False

    def __init__(self, url: str, **options: Any) -> None:
        self.url_base = url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return str(context.stream_slice.get("at", "items"))


def response_for(request: LoopbackRequest, pages: int = 10) -> bytes:
    return http_response(json.dumps({"items": [{"id": request.target, "text": "x" * 2000}], "pages": pages}).encode())


async def hang_after_first_pages(request: LoopbackRequest, connection: Connection) -> None:
    """Send first pages completely and others half or not at all; then wait until the client disconnects."""
    if request.target.endswith("page=1"):
        await connection.send(response_for(request))
    else:
        await connection.send(response_for(request)[: 900 if request.target.endswith(("2", "4", "6")) else 0])
        await connection.wait_for_disconnect()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", [0, 2])
async def test_early_exit_closes_every_socket(way, after):
    async with serve(hang_after_first_pages) as server, no_task_leak_besides(server):
        run = SocketItems(server.url, max_concurrency=48).pages(slices=slices("abcd"))
        eight_requests = server.wait_until(lambda server: len(server.requests) >= 8)
        task = asyncio.create_task(leave(way, run, after, eight_requests))
        await asyncio.wait([task], timeout=20)

        assert task.done()
        with suppress(BaseException):
            task.result()
        async with asyncio.timeout(10):
            await server.wait_all_closed()


@asynccontextmanager
async def no_task_leak_besides(server: Any) -> AsyncIterator[None]:
    """Assert that the block leaves no task behind, except those of the server."""
    before = asyncio.all_tasks()
    yield
    assert {task for task in asyncio.all_tasks() - before if task not in server._tasks} == set()


@pytest.mark.simulation
async def test_source_works_after_many_cancelled_requests():
    async def script(request: LoopbackRequest, connection: Connection) -> None:
        if request.target.startswith("/slow"):
            await asyncio.sleep(0.004)
        await connection.send(response_for(request, 3))

    async with serve(script) as server:
        stream = SocketItems(server.url, max_concurrency=16)
        async with Source([stream]) as source:
            cancellations = 0
            while len(server.requests) < sample(full=1000, short=250):
                cancellations += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.001 * (cancellations % 12)):
                        await source.read(slices={"socket_items": slices(f"slow{n}" for n in range(40))})
            async with asyncio.timeout(20):
                found = await source.read(slices={"socket_items": slices(f"fast{n}" for n in range(40))})

        assert cancellations > sample(full=50, short=12)
        assert len(found["socket_items"]) == 120


@pytest.mark.simulation
async def test_source_works_after_many_cancelled_reads(virtual_clock):
    api = Api(paged_api(5), latency=lambda request: 0.1 + len(request.url.path) % 7 / 10)
    source = Source([NamedItems(name, api, virtual_clock) for name in ("a", "bb", "ccc")], max_concurrency=8)
    given = {name: slices(range(20)) for name in ("a", "bb", "ccc")}

    async with source:
        for n in range(150):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.013 * n):
                    await source.read(slices=given)
            assert api.in_flight == 0
        pages, _ = await collect_pages(source.pages(slices=given))

    assert len(pages) == 300
    assert len(api.requested) > 2000
