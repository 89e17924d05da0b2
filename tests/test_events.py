"""What is told of a reading while it goes on, in which order, and what is never told?"""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError, fields
from typing import Any

import httpx
import pytest

from asyncstreams import (
    Event,
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    PageNumber,
    PageRead,
    RequestContext,
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


def number_of(request: httpx.Request) -> int:
    return int(request.url.params["page"])


async def one_page(request: httpx.Request) -> httpx.Response:
    """The first page; the others never come."""
    if number_of(request) > 1:
        await asyncio.Event().wait()
    return page(1)


REFUSED = httpx.Response(403, json={"message": "not for you"})


class Heard(list[Event]):
    """A listener that keeps what it hears."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if type(event) is kind]

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self]


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def items(respx_mock):
    respx_mock.assert_all_called = False
    return respx_mock.route(url__startswith=f"{API}items")


@pytest.fixture
def others(respx_mock):
    return respx_mock.route(url__startswith=f"{API}others")


async def test_events_of_a_complete_read(items, heard):
    items.side_effect = [page(1, 2), page(3), page()]
    stream = Items()
    stream.subscribe(heard)

    await stream.read()

    assert heard == [
        StreamStarted("items"),
        SliceStarted("items", Slice()),
        PageRead("items", Slice(), 0, 2, 0),
        PageRead("items", Slice(), 1, 1, 0),
        PageRead("items", Slice(), 2, 0, 0),
        SliceFinished("items", Slice(), None),
        StreamFinished("items", None),
    ]


async def test_page_event_has_slice_and_number(items, heard):
    items.side_effect = lambda request: page(1) if dict(request.url.params) == {"page": "1", "shop": "a"} else page()
    stream = declare(request_params=lambda self, context: context.stream_slice)
    stream.subscribe(heard)

    await stream.read(slices=[{"shop": "a"}, {"shop": "b"}])

    # Slices interleave, but each begins, has its pages in order, and ends.
    for shop, numbers in (("a", [0, 1]), ("b", [0])):
        stream_slice = Slice({"shop": shop})
        of_slice = [event for event in heard if getattr(event, "stream_slice", None) == stream_slice]
        assert [getattr(event, "number", None) for event in of_slice] == [None, *numbers, None]
        assert (of_slice[0], of_slice[-1]) == (
            SliceStarted("items", stream_slice),
            SliceFinished("items", stream_slice),
        )


async def test_quarantined_records_are_counted(items, heard):
    items.side_effect = [httpx.Response(200, json=[{"id": 1}, {"id": "x"}, {"id": 3}])]
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}}
    stream = declare(paginator=None, validation="quarantine", get_json_schema=lambda self: schema)
    stream.subscribe(heard)

    await stream.read()

    assert [(event.records, event.quarantined) for event in heard.of(PageRead)] == [(2, 1)]


async def test_retry_event_has_reason_delay_and_attempt(items, heard, virtual_clock):
    items.side_effect = [httpx.Response(503), httpx.ConnectError("no"), page(1)]
    stream = declare(paginator=None, clock=virtual_clock, seed=2)
    stream.subscribe(heard)

    await stream.read()

    first, second = heard.of(RetryScheduled)
    assert heard.kinds == [
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


async def test_final_failure_emits_no_retry_event(items, heard, virtual_clock):
    items.side_effect = [httpx.Response(500)] * 5
    stream = declare(clock=virtual_clock)
    stream.subscribe(heard)

    with pytest.raises(HttpStatusError) as caught:
        await stream.read()

    assert [event.attempt for event in heard.of(RetryScheduled)] == [1, 2, 3, 4]
    assert heard[-1] == StreamFinished("items", caught.value)


async def test_retry_after_emits_a_wait_event_with_seconds(items, heard, virtual_clock):
    items.side_effect = [httpx.Response(429, headers={"Retry-After": "120"}), page(1)]
    stream = declare(paginator=None, clock=virtual_clock)
    stream.subscribe(heard)

    await stream.read()

    (waiting,) = heard.of(WaitStarted)
    assert waiting.stream == "items"
    assert waiting.seconds == pytest.approx(120, rel=0.1)
    assert waiting.reason
    assert virtual_clock.monotonic() >= 120


async def test_each_stream_in_a_shared_pause_emits_its_wait(items, others, heard, virtual_clock):
    asked = asyncio.Event()

    async def refuse_once(request):
        if not asked.is_set():
            asked.set()
            return httpx.Response(429, headers={"Retry-After": "60"})
        return page(1)

    items.mock(side_effect=refuse_once)
    others.mock(return_value=page(2))
    # Those who wait pass one after the other when the pause is over: by this chance, soon enough to be told once.
    streams = [declare(paginator=None), type("Others", (Items,), {"paginator": None})()]
    source = Source(streams, clock=virtual_clock, seed=2)
    source.subscribe(heard)

    async def other() -> None:
        await asked.wait()
        await asyncio.sleep(1)
        await source.read("others")

    async with source:
        await asyncio.gather(source.read("items"), other())

    assert {event.stream for event in heard.of(WaitStarted)} == {"items", "others"}
    assert {round(event.seconds, -1) for event in heard.of(WaitStarted)} == {60}


async def test_streams_and_sources_notify_their_own_listeners(items, others):
    items.mock(return_value=page())
    others.mock(return_value=page())
    of_stream, of_source, stream = Heard(), Heard(), Items()
    source = Source([stream, Others()])
    stream.subscribe(of_stream)
    source.subscribe(of_source)

    await source.read()
    await stream.read()

    one_reading = [StreamStarted, SliceStarted, PageRead, SliceFinished, StreamFinished]
    assert [type(event) for event in of_source if event.stream == "items"] == one_reading
    assert [type(event) for event in of_source if event.stream == "others"] == one_reading
    assert {event.stream for event in of_stream} == {"items"}
    assert of_stream.kinds == one_reading * 2


async def test_skipped_stream_is_reported_and_others_continue(items, others, heard):
    items.mock(return_value=REFUSED)
    others.side_effect = [page(1), page()]
    source = Source([Items(), Others()])
    source.subscribe(heard)

    async with (reading := source.pages()) as pages:
        assert [each.stream async for each in pages] == ["others"] * 2

    assert heard.of(StreamSkipped) == [StreamSkipped("items", reading.unavailable["items"])]
    assert [type(event.error) for event in heard.of(StreamFinished)] == [StreamUnavailable, type(None)]


async def test_skipped_stream_emits_finished_last(items, others, heard):
    items.mock(return_value=REFUSED)
    others.mock(return_value=page())
    source = Source([Items(), Others()])
    source.subscribe(heard)

    await source.read()

    of_items = [type(event) for event in heard if event.stream == "items"]
    assert of_items == [StreamStarted, SliceStarted, SliceFinished, StreamSkipped, StreamFinished]


async def test_lone_unavailable_stream_finishes_with_its_error(items, heard):
    items.mock(return_value=REFUSED)
    stream = Items()
    stream.subscribe(heard)

    with pytest.raises(StreamUnavailable) as caught:
        await stream.read()

    assert heard.kinds == [StreamStarted, SliceStarted, SliceFinished, StreamFinished]
    assert heard[-1] == StreamFinished("items", caught.value)


@pytest.mark.parametrize("of", ["stream", "source"])
@pytest.mark.parametrize("how", ["break", "exception"])
async def test_early_exit_finishes_with_an_error(items, heard, of, how):
    items.side_effect = one_page
    stream = Items()
    read = {"stream": stream, "source": Source([stream])}[of]
    read.subscribe(heard)

    async def leave() -> None:
        async with read.pages() as pages:
            async for _ in pages:
                if how == "break":
                    break
                raise KeyError("mine")

    if how == "break":
        await leave()
    else:
        with pytest.raises(KeyError):
            await leave()

    assert heard.kinds == [StreamStarted, SliceStarted, PageRead, SliceFinished, StreamFinished]
    assert heard[-1].error is not None
    assert heard[-2].error is not None


async def test_cancelled_read_finishes_with_an_error(items, heard):
    async def leave(request):
        reading.cancel()
        await asyncio.Event().wait()

    items.mock(side_effect=leave)
    source = Source([Items()])
    source.subscribe(heard)
    reading = asyncio.create_task(source.read())

    with pytest.raises(asyncio.CancelledError):
        await reading

    assert heard.kinds == [StreamStarted, SliceStarted, SliceFinished, StreamFinished]
    assert isinstance(heard[-1].error, asyncio.CancelledError)


async def test_unsubscribed_listener_gets_no_events(items, heard):
    items.mock(return_value=page())
    stream, still = Items(), Heard()
    end = stream.subscribe(heard)
    stream.subscribe(still)

    await stream.read()
    end()
    await stream.read()

    assert (len(heard), len(still)) == (5, 10)


async def test_listeners_may_change_during_a_read(items, heard):
    go_on = asyncio.Event()

    async def two_pages(request):
        if number_of(request) > 1:
            await go_on.wait()
        return page(number_of(request)) if number_of(request) < 3 else page()

    items.side_effect = two_pages
    stream, later = Items(), Heard()
    end = stream.subscribe(heard)

    async with stream.pages() as pages:
        await anext(pages)
        assert heard.kinds == [StreamStarted, SliceStarted, PageRead]
        end()
        stream.subscribe(later)
        go_on.set()
        async for _ in pages:
            pass

    assert heard.kinds == [StreamStarted, SliceStarted, PageRead]
    assert later.kinds == [PageRead, PageRead, SliceFinished, StreamFinished]


@pytest.mark.parametrize("of", [Items, lambda: Source([Items()])], ids=["stream", "source"])
async def test_unsubscribing_twice_is_harmless(items, heard, of):
    items.mock(return_value=page())
    end = (read := of()).subscribe(heard)

    end()
    end()

    await read.read()
    assert heard == []


async def test_check_emits_no_stream_events(items, heard):
    items.mock(return_value=page(1))
    source = Source([Items()])
    source.subscribe(heard)

    assert await source.check()

    assert not heard.of(StreamStarted)
    assert not heard.of(StreamFinished)


async def test_preflight_strategy_does_not_finish_the_stream(items, heard):
    class Preflight(HttpAvailabilityStrategy):
        async def check_availability(self, stream, logger, source=None):
            return await super().check_availability(stream, logger, source)

    items.side_effect = [page(1), page(1), page()]
    stream = declare(availability_strategy=Preflight())
    stream.subscribe(heard)

    await stream.read()

    assert heard.kinds == [StreamStarted, SliceStarted, PageRead, PageRead, SliceFinished, StreamFinished]
    assert heard[-1] == StreamFinished("items")


async def test_events_contain_no_secret_and_no_query(items, heard, virtual_clock):
    echo = {"json": {"message": "no tok3n-of-mine, no query-value-of-mine"}}
    items.side_effect = [
        httpx.Response(429, headers={"Retry-After": "5"}, **echo),
        httpx.Response(503, **echo),
        httpx.ConnectError(f"{API}items?api_key=query-value-of-mine: tok3n-of-mine"),
        httpx.Response(404, **echo),
    ]
    stream = declare(clock=virtual_clock, request_params=lambda self, context: {"api_key": "query-value-of-mine"})
    stream.authenticator = TokenAuthenticator("tok3n-of-mine")
    stream.subscribe(heard)

    with pytest.raises(HttpStatusError):
        await stream.read()

    told = " ".join(f"{event!r} {getattr(event, 'error', '')}" for event in heard)
    retried = [RetryScheduled, WaitStarted, RetryScheduled, RetryScheduled]
    assert heard.kinds == [StreamStarted, SliceStarted, *retried, SliceFinished, StreamFinished]
    assert "tok3n-of-mine" not in told
    assert "query-value-of-mine" not in told
    assert "api_key" not in told


EVENTS: list[Event] = [
    StreamStarted("a"),
    SliceStarted("a", Slice()),
    PageRead("a", Slice(), 0, 1, 0),
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
