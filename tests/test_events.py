"""Events of a run: their order, their content, and what they never contain."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError, fields
from typing import Any

import httpx
import pytest

from asyncstreams import (
    Backoff,
    Ceiling,
    Event,
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    PageNumber,
    PageRead,
    ProgressSampled,
    RequestContext,
    RequestFinished,
    RetryScheduled,
    Slice,
    Source,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
    StreamUnavailable,
    TokenAuthenticator,
    WaitStarted,
)
from asyncstreams.events import SliceFinished, SliceStarted

API = "https://api.test/v1/"


class Items(HttpStream):
    """Pages by number, until one is empty."""

    url_base = API
    paginator = PageNumber()

    def path(self, context: RequestContext) -> str:
        return self.name


class Others(Items):
    pass


def declare(**declared: Any) -> HttpStream:
    return type("Items", (Items,), declared)()


def page(*ids: int) -> httpx.Response:
    return httpx.Response(200, json=[{"id": each} for each in ids])


def page_number(request: httpx.Request) -> int:
    return int(request.url.params["page"])


async def one_page(request: httpx.Request) -> httpx.Response:
    """Return the first page; all others hang."""
    if page_number(request) > 1:
        await asyncio.Event().wait()
    return page(1)


FORBIDDEN = httpx.Response(403, json={"message": "not for you"})


class EventRecorder(list[Event]):
    """A listener that stores all events; those that measure are kept apart, since their times vary."""

    def __init__(self) -> None:
        super().__init__()
        self.measured: list[RequestFinished | ProgressSampled] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, RequestFinished | ProgressSampled):
            self.measured.append(event)
        else:
            self.append(event)

    @property
    def requests(self) -> list[RequestFinished]:
        return [event for event in self.measured if isinstance(event, RequestFinished)]

    @property
    def samples(self) -> list[ProgressSampled]:
        return [event for event in self.measured if isinstance(event, ProgressSampled)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if type(event) is kind]

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self]


@pytest.fixture
def recorder():
    return EventRecorder()


@pytest.fixture
def items(respx_mock):
    respx_mock.assert_all_called = False
    return respx_mock.route(url__startswith=f"{API}items")


@pytest.fixture
def others(respx_mock):
    return respx_mock.route(url__startswith=f"{API}others")


async def test_events_of_a_complete_read(items, recorder):
    items.side_effect = [page(1, 2), page(3), page()]
    stream = Items()
    stream.subscribe(recorder)

    await stream.read()

    assert recorder == [
        StreamStarted("items"),
        SliceStarted("items", Slice()),
        PageRead("items", Slice(), 0, 2, 0),
        PageRead("items", Slice(), 1, 1, 0),
        PageRead("items", Slice(), 2, 0, 0),
        SliceFinished("items", Slice(), None),
        StreamFinished("items", None),
    ]


async def test_page_event_has_slice_and_number(items, recorder):
    items.side_effect = lambda request: page(1) if dict(request.url.params) == {"page": "1", "shop": "a"} else page()
    stream = declare(request_params=lambda self, context: context.stream_slice)
    stream.subscribe(recorder)

    await stream.read(slices=[{"shop": "a"}, {"shop": "b"}])

    # Slices interleave, but each starts, has its pages in order, and finishes.
    for shop, numbers in (("a", [0, 1]), ("b", [0])):
        stream_slice = Slice({"shop": shop})
        slice_events = [event for event in recorder if getattr(event, "stream_slice", None) == stream_slice]
        assert [getattr(event, "number", None) for event in slice_events] == [None, *numbers, None]
        assert (slice_events[0], slice_events[-1]) == (
            SliceStarted("items", stream_slice),
            SliceFinished("items", stream_slice),
        )


async def test_quarantined_records_are_counted(items, recorder):
    items.side_effect = [httpx.Response(200, json=[{"id": 1}, {"id": "x"}, {"id": 3}])]
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}}
    stream = declare(paginator=None, validation="quarantine", get_json_schema=lambda self: schema)
    stream.subscribe(recorder)

    await stream.read()

    assert [(event.records, event.quarantined) for event in recorder.of(PageRead)] == [(2, 1)]


async def test_retry_event_has_reason_delay_and_attempt(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(503), httpx.ConnectError("no"), page(1)]
    stream = declare(paginator=None, clock=virtual_clock, seed=2)
    stream.subscribe(recorder)

    await stream.read()

    first, second = recorder.of(RetryScheduled)
    assert recorder.kinds == [
        StreamStarted,
        SliceStarted,
        RetryScheduled,
        RetryScheduled,
        PageRead,
        SliceFinished,
        StreamFinished,
    ]
    assert (first.stream, first.attempt, second.attempt) == ("items", 1, 2)
    assert "503" in first.reason
    assert "503" not in second.reason
    assert second.reason
    assert first.delay >= 0
    assert first.delay + second.delay == pytest.approx(virtual_clock.monotonic(), abs=0.01)


async def test_final_failure_emits_no_retry_event(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(500)] * 5
    stream = declare(clock=virtual_clock)
    stream.subscribe(recorder)

    with pytest.raises(HttpStatusError) as caught:
        await stream.read()

    assert [event.attempt for event in recorder.of(RetryScheduled)] == [1, 2, 3, 4]
    assert recorder[-1] == StreamFinished("items", caught.value)


async def test_retry_after_emits_a_wait_event_with_seconds(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(429, headers={"Retry-After": "120"}), page(1)]
    stream = declare(paginator=None, clock=virtual_clock)
    stream.subscribe(recorder)

    await stream.read()

    (wait,) = recorder.of(WaitStarted)
    assert wait.stream == "items"
    assert wait.seconds == pytest.approx(120, rel=0.1)
    assert wait.reason
    assert virtual_clock.monotonic() >= 120


async def test_each_stream_in_a_shared_pause_emits_its_wait(items, others, recorder, virtual_clock):
    refused = asyncio.Event()

    async def refuse_once(request):
        if not refused.is_set():
            refused.set()
            return httpx.Response(429, headers={"Retry-After": "60"})
        return page(1)

    items.mock(side_effect=refuse_once)
    others.mock(return_value=page(2))
    # Waiting requests are released one by one after the pause. With this seed, early enough for a single event.
    streams = [declare(paginator=None), type("Others", (Items,), {"paginator": None})()]
    source = Source(streams, clock=virtual_clock, seed=2)
    source.subscribe(recorder)

    async def other() -> None:
        await refused.wait()
        await asyncio.sleep(1)
        await source.read("others")

    async with source:
        await asyncio.gather(source.read("items"), other())

    assert {event.stream for event in recorder.of(WaitStarted)} == {"items", "others"}
    assert {round(event.seconds, -1) for event in recorder.of(WaitStarted)} == {60}


async def test_streams_and_sources_notify_their_own_listeners(items, others):
    items.mock(return_value=page())
    others.mock(return_value=page())
    stream_events, source_events, stream = EventRecorder(), EventRecorder(), Items()
    source = Source([stream, Others()])
    stream.subscribe(stream_events)
    source.subscribe(source_events)

    await source.read()
    await stream.read()

    one_run = [StreamStarted, SliceStarted, PageRead, SliceFinished, StreamFinished]
    assert [type(event) for event in source_events if event.stream == "items"] == one_run
    assert [type(event) for event in source_events if event.stream == "others"] == one_run
    assert {event.stream for event in stream_events} == {"items"}
    assert stream_events.kinds == one_run * 2


async def test_skipped_stream_is_reported_and_others_continue(items, others, recorder):
    items.mock(return_value=FORBIDDEN)
    others.side_effect = [page(1), page()]
    source = Source([Items(), Others()])
    source.subscribe(recorder)

    async with (run := source.pages()) as pages:
        assert [each.stream async for each in pages] == ["others"] * 2

    assert recorder.of(StreamSkipped) == [StreamSkipped("items", run.unavailable["items"])]
    assert [type(event.error) for event in recorder.of(StreamFinished)] == [StreamUnavailable, type(None)]


async def test_skipped_stream_emits_finished_last(items, others, recorder):
    items.mock(return_value=FORBIDDEN)
    others.mock(return_value=page())
    source = Source([Items(), Others()])
    source.subscribe(recorder)

    await source.read()

    item_events = [type(event) for event in recorder if event.stream == "items"]
    assert item_events == [StreamStarted, SliceStarted, SliceFinished, StreamSkipped, StreamFinished]


async def test_lone_unavailable_stream_finishes_with_its_error(items, recorder):
    items.mock(return_value=FORBIDDEN)
    stream = Items()
    stream.subscribe(recorder)

    with pytest.raises(StreamUnavailable) as caught:
        await stream.read()

    assert recorder.kinds == [StreamStarted, SliceStarted, SliceFinished, StreamFinished]
    assert recorder[-1] == StreamFinished("items", caught.value)


@pytest.mark.parametrize("read_through", ["stream", "source"])
@pytest.mark.parametrize("exit_by", ["break", "exception"])
async def test_early_exit_finishes_with_an_error(items, recorder, read_through, exit_by):
    items.side_effect = one_page
    stream = Items()
    read = {"stream": stream, "source": Source([stream])}[read_through]
    read.subscribe(recorder)

    async def leave() -> None:
        async with read.pages() as pages:
            async for _ in pages:
                if exit_by == "break":
                    break
                raise KeyError("original")

    if exit_by == "break":
        await leave()
    else:
        with pytest.raises(KeyError):
            await leave()

    assert recorder.kinds == [StreamStarted, SliceStarted, PageRead, SliceFinished, StreamFinished]
    assert recorder[-1].error is not None
    assert recorder[-2].error is not None


async def test_cancelled_read_finishes_with_an_error(items, recorder):
    async def leave(request):
        run.cancel()
        await asyncio.Event().wait()

    items.mock(side_effect=leave)
    source = Source([Items()])
    source.subscribe(recorder)
    run = asyncio.create_task(source.read())

    with pytest.raises(asyncio.CancelledError):
        await run

    assert recorder.kinds == [StreamStarted, SliceStarted, SliceFinished, StreamFinished]
    assert isinstance(recorder[-1].error, asyncio.CancelledError)


async def test_unsubscribed_listener_gets_no_events(items, recorder):
    items.mock(return_value=page())
    stream, other_recorder = Items(), EventRecorder()
    unsubscribe = stream.subscribe(recorder)
    stream.subscribe(other_recorder)

    await stream.read()
    unsubscribe()
    await stream.read()

    assert (len(recorder), len(other_recorder)) == (5, 10)


async def test_listeners_may_change_during_a_read(items, recorder):
    resume = asyncio.Event()

    async def two_pages(request):
        if page_number(request) > 1:
            await resume.wait()
        return page(page_number(request)) if page_number(request) < 3 else page()

    items.side_effect = two_pages
    stream, late_recorder = Items(), EventRecorder()
    unsubscribe = stream.subscribe(recorder)

    async with stream.pages() as pages:
        await anext(pages)
        assert recorder.kinds == [StreamStarted, SliceStarted, PageRead]
        unsubscribe()
        stream.subscribe(late_recorder)
        resume.set()
        async for _ in pages:
            pass

    assert recorder.kinds == [StreamStarted, SliceStarted, PageRead]
    assert late_recorder.kinds == [PageRead, PageRead, SliceFinished, StreamFinished]


class Stamper:
    """A listener that adds a header to requests, and stores whether they were signed."""

    def __init__(self) -> None:
        self.were_signed: list[bool] = []

    def __call__(self, event: Event) -> None:
        pass

    def before_request(self, request: httpx.Request) -> None:
        self.were_signed.append("Authorization" in request.headers)
        request.headers["X-Stamp"] = str(request.extensions["asyncstreams"].context.attempt)


@pytest.mark.parametrize("wrap", [lambda stream: stream, lambda stream: Source([stream])], ids=["stream", "source"])
async def test_listener_adds_headers_before_signing(items, wrap):
    items.side_effect = [httpx.Response(503), page()]
    reader, stamper = wrap(declare(authenticator=TokenAuthenticator("t"), backoff=Backoff(base=0, cap=0))), Stamper()
    unsubscribe = reader.subscribe(stamper)

    await reader.read()
    unsubscribe()
    items.side_effect = [page()]
    await reader.read()

    assert [call.request.headers.get("X-Stamp") for call in items.calls] == ["1", "2", None]
    assert stamper.were_signed == [False, False]
    assert {call.request.headers["Authorization"] for call in items.calls} == {"Bearer t"}


@pytest.mark.parametrize("make_reader", [Items, lambda: Source([Items()])], ids=["stream", "source"])
async def test_unsubscribing_twice_is_harmless(items, recorder, make_reader):
    items.mock(return_value=page())
    unsubscribe = (read := make_reader()).subscribe(recorder)

    unsubscribe()
    unsubscribe()

    await read.read()
    assert recorder == []


async def test_check_emits_no_stream_events(items, recorder):
    items.mock(return_value=page(1))
    source = Source([Items()])
    source.subscribe(recorder)

    assert await source.check()

    assert not recorder.of(StreamStarted)
    assert not recorder.of(StreamFinished)


async def test_preflight_strategy_does_not_finish_the_stream(items, recorder):
    class Preflight(HttpAvailabilityStrategy):
        async def check_availability(self, stream, logger, source=None):
            return await super().check_availability(stream, logger, source)

    items.side_effect = [page(1), page(1), page()]
    stream = declare(availability_strategy=Preflight())
    stream.subscribe(recorder)

    await stream.read()

    assert recorder.kinds == [StreamStarted, SliceStarted, PageRead, PageRead, SliceFinished, StreamFinished]
    assert recorder[-1] == StreamFinished("items")


async def test_events_contain_no_secret_and_no_query(items, recorder, virtual_clock):
    echo = {"json": {"message": "no tok3n-of-mine, no query-value-of-mine"}}
    items.side_effect = [
        httpx.Response(429, headers={"Retry-After": "5"}, **echo),
        httpx.Response(503, **echo),
        httpx.ConnectError(f"{API}items?api_key=query-value-of-mine: tok3n-of-mine"),
        httpx.Response(404, **echo),
    ]
    stream = declare(clock=virtual_clock, request_params=lambda self, context: {"api_key": "query-value-of-mine"})
    stream.authenticator = TokenAuthenticator("tok3n-of-mine")
    stream.subscribe(recorder)

    with pytest.raises(HttpStatusError):
        await stream.read()

    output = " ".join(f"{event!r} {getattr(event, 'error', '')}" for event in [*recorder, *recorder.measured])
    retried = [RetryScheduled, WaitStarted, RetryScheduled, RetryScheduled]
    assert recorder.kinds == [StreamStarted, SliceStarted, *retried, SliceFinished, StreamFinished]
    assert "tok3n-of-mine" not in output
    assert "query-value-of-mine" not in output
    assert "api_key" not in output


async def test_each_attempt_emits_a_request(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(429, headers={"Retry-After": "5"}), httpx.ConnectError("x"), page(1), page()]
    stream = declare(clock=virtual_clock)
    stream.subscribe(recorder)

    await stream.read()

    refused, failed, first, last = recorder.requests
    assert (refused.status, refused.error, refused.is_refused) == (429, "HttpStatusError", True)
    assert (failed.status, failed.error, failed.is_refused) == (None, "HostUnavailable", False)
    assert (first.status, first.error, first.attempt, first.size) == (200, "", 3, len(page(1).content))
    assert (last.attempt, last.method, last.url) == (1, "GET", f"{API}items")
    assert 5 <= failed.limited_s <= 5.5
    assert [request.stream_slice for request in recorder.requests] == [Slice()] * 4


async def test_times_of_a_request_are_kept_apart(recorder, virtual_clock):
    class SlowBody(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"["
            await virtual_clock.sleep(3)
            yield b"]"

    async def answer(request: httpx.Request) -> httpx.Response:
        await virtual_clock.sleep(2)
        return httpx.Response(200, headers={"Content-Type": "application/json"}, stream=SlowBody())

    stream = declare(clock=virtual_clock, transport=httpx.MockTransport(answer), adaptive_timeouts=False)
    stream.subscribe(recorder)

    await stream.read()

    (request,) = recorder.requests
    assert (request.server_s, request.body_s) == pytest.approx((2, 3))
    assert request.size == 2
    assert request.queued_s == request.limited_s == 0


async def test_last_sample_has_the_totals_of_the_stream(items, recorder):
    items.side_effect = [page(1, 2), page(3), page()]
    stream = Items()
    stream.subscribe(recorder)

    await stream.read()

    last = recorder.samples[-1]
    assert (last.pages, last.records, last.slices_done, last.slices_open, last.slices_known) == (3, 3, 1, 0, 1)
    assert last.in_flight == last.waiting == 0


async def test_sample_during_a_pause_names_the_quota(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(429, headers={"Retry-After": "60"}), page(1), page()]
    stream = declare(clock=virtual_clock)
    stream.subscribe(recorder)

    await stream.read()

    waiting = [sample for sample in recorder.samples if sample.waiting]
    assert {sample.ceilings for sample in waiting} == {(Ceiling.REPORTED_QUOTA,)}
    assert 50 < max(sample.wait_s for sample in waiting) < 62
    assert waiting[0].wait_reason == "the API's pause to end"
    assert sum(sample.seconds for sample in recorder.samples) > 60


async def test_idle_stream_is_sampled_less_often(items, recorder, virtual_clock):
    items.side_effect = [httpx.Response(429, headers={"Retry-After": "500"}), page(1), page()]
    stream = declare(clock=virtual_clock, max_server_wait=1_000)
    stream.subscribe(recorder)

    await stream.read()

    assert 8 < len(recorder.samples) < 40


@pytest.mark.parametrize("kind", [ProgressSampled, RequestFinished])
async def test_failing_listener_of_a_measurement_is_raised(items, virtual_clock, kind):
    def fail(event: Event) -> None:
        if isinstance(event, kind):
            raise ValueError("a broken listener")

    items.side_effect = [httpx.Response(429, headers={"Retry-After": "5"}), page(1), page()]
    stream = declare(clock=virtual_clock)
    stream.subscribe(fail)

    with pytest.raises(ValueError, match="a broken listener"):
        await stream.read()


async def test_reported_total_is_expected(items, recorder):
    pages = [[{"id": 1}, {"id": 2}], [{"id": 3}, {"id": 4}], [{"id": 5}]]
    items.side_effect = [httpx.Response(200, json={"total": 5, "rows": rows}) for rows in pages]
    stream = declare(records_path="rows", paginator=PageNumber(size=2, total_items="total"))
    stream.subscribe(recorder)

    await stream.read()

    assert recorder.samples[-1].records_expected == 5


async def test_number_of_listed_slices_is_known_at_once(items, recorder):
    items.side_effect = lambda request: page()
    stream = declare(paginator=None, stream_slices=lambda self, state=None: [{"n": n} for n in range(5)])
    stream.subscribe(recorder)

    async with stream.pages() as pages:
        async for _ in pages:
            await asyncio.sleep(0.1)

    assert {sample.slices_known for sample in recorder.samples} == {5}
    assert recorder.samples[-1].slices_done == 5


EVENTS: list[Event] = [
    StreamStarted("a"),
    SliceStarted("a", Slice()),
    PageRead("a", Slice(), 0, 1, 0),
    RequestFinished("a", Slice(), "GET", f"{API}items", 1, 200, "", False, 10, 0.0, 0.0, 0.1, 0.0),
    ProgressSampled("a", 0.2, 1, 1, 1, 0, 1, 1, 0, 0, "", 0.0, (), None, ""),
    RetryScheduled("a", "503", 1.0, 1),
    WaitStarted("a", "429", 1.0),
    SliceFinished("a", Slice()),
    StreamSkipped("a", "403"),
    StreamFinished("a"),
]


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_events_are_frozen(event):
    for each in fields(event):
        with pytest.raises(FrozenInstanceError):
            setattr(event, each.name, None)
