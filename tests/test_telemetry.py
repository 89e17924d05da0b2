"""OpenTelemetry: the spans of a run form one tree, metrics count everything, and traceparent goes to the API only."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import httpx
import pytest
from fake_api import Api, Items, NamedItems, paged_api, slices
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from asyncstreams import (
    ConfigError,
    HttpStream,
    JsonLines,
    Oauth2Authenticator,
    PageRead,
    PartialFailure,
    ProgressSampled,
    RateLimit,
    RequestContext,
    RequestFinished,
    RetryScheduled,
    Secret,
    Slice,
    SliceFinished,
    SliceStarted,
    Source,
    StreamFinished,
    StreamStarted,
    StreamUnavailable,
    WaitStarted,
)
from asyncstreams.clock import SystemClock
from asyncstreams.observability.telemetry import Telemetry
from asyncstreams.testing import Fault, Resource

API = "https://api.test/v1/"


class SpanRecorder:
    """The SDK with in-memory exporters."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self._reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def telemetry(self, source: Any, **options: Any) -> Telemetry:
        return Telemetry(source, tracer_provider=self.tracers, meter_provider=self.meters, **options)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, prefix: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith(prefix)]

    def only(self, prefix: str) -> ReadableSpan:
        (span,) = self.named(prefix)
        return span

    def check_tree(self) -> None:
        """One root, parents that exist, children within the time of their parents, each span ended once."""
        by_id = {span.context.span_id: span for span in self.spans}
        assert len(by_id) == len(self.spans)
        assert len({span.context.trace_id for span in self.spans}) == 1
        assert [span.name[:3] for span in self.spans if span.parent is None] == ["run"]
        for span in self.spans:
            if span.parent is not None:
                parent = by_id[span.parent.span_id]
                assert ends(parent) >= ends(span) >= starts(span) >= starts(parent)

    def parent_name(self, span: ReadableSpan) -> str:
        return next(each.name for each in self.spans if span.parent and each.context.span_id == span.parent.span_id)

    @cached_property
    def metrics(self) -> Any:
        """The metrics, which are collected once: the first versions of the SDK give the value of a gauge only once."""
        return self._reader.get_metrics_data()

    def points(self, name: str) -> list[Any]:
        data = self.metrics
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        assert [scope.scope.name for scope in scopes] == ["asyncstreams"]
        return [
            point
            for scope in scopes
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def values(self, name: str, key: str) -> dict[Any, Any]:
        """The values of a metric by one of its attributes."""
        return {(point.attributes or {}).get(key): point.value for point in self.points(name)}


def starts(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def ends(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def recorder() -> SpanRecorder:
    return SpanRecorder()


class Things(HttpStream):
    """One page of each slice."""

    url_base = API
    max_tries = 1

    def path(self, context: RequestContext) -> Any:
        return ("things", *map(str, context.stream_slice.values()))


def things(respond: Callable[[httpx.Request], httpx.Response], **options: Any) -> Things:
    return type("Things", (Things,), options)(transport=httpx.MockTransport(respond))


def one(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=[{"id": 1}])


def request_finished(**changed: Any) -> RequestFinished:
    values = {
        "stream": "orders",
        "stream_slice": None,
        "method": "GET",
        "url": "https://api.test/orders",
        "attempt": 1,
        "status": 200,
        "error": "",
        "is_refused": False,
        "size": 10,
        "queued_s": 0.0,
        "limited_s": 0.0,
        "server_s": 0.25,
        "body_s": 0.05,
    }
    return RequestFinished(**values | changed)


def sampled(in_flight: int, max_rate: float | None) -> ProgressSampled:
    return ProgressSampled("orders", 1.0, 0, 0, 0, 1, None, None, in_flight, 0, "", 0.0, (), max_rate, "")


class TickingClock(SystemClock):
    """A clock on which a second passes whenever it is read."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1_000.0)

    def wall(self) -> float:
        return next(self._seconds)


class Emitter:
    """A source of events that a test makes up."""

    def subscribe(self, listener: Any) -> Callable[[], None]:
        self.listener = listener
        return lambda: None


@pytest.fixture
def emit(recorder: SpanRecorder) -> Iterator[Callable[..., None]]:
    emitter = Emitter()
    with recorder.telemetry(emitter, clock=TickingClock()):
        yield lambda *events: [emitter.listener(event) for event in events]
    recorder.check_tree()


# Trees of real runs.


async def test_spans_of_a_whole_run_are_one_tree(recorder, mock_api, tmp_path):
    mock_api.add(Resource("users", 30, page_size=10, paging="cursor"))
    mock_api.add(Resource("orders", 20, page_size=10, paging="cursor"))
    names: dict[str, Any] = {}
    exec(mock_api.stream_source("users") + mock_api.stream_source("orders"), names)
    source = Source([names["users"], names["orders"]])

    with recorder.telemetry(source):
        await source.extract(to=JsonLines(tmp_path))

    recorder.check_tree()
    assert {span.name for span in recorder.spans} == {
        "run Source",
        *("stream users", "stream orders", "slice users", "slice orders", "GET"),
    }
    assert len(recorder.named("GET")) == mock_api.counts.requests
    run = attributes(recorder.only("run"))
    assert (run["asyncstreams.records"], run["asyncstreams.outcome"]) == (50, "complete")
    assert attributes(recorder.only("slice users"))["asyncstreams.pages"] == 3
    assert {span.status.status_code for span in recorder.spans} == {StatusCode.UNSET}


async def test_requests_of_overlapping_slices_have_their_parent(recorder, virtual_clock):
    api = Api(paged_api(3))
    stream = Items(api, virtual_clock)

    with recorder.telemetry(stream, clock=virtual_clock):
        await stream.read(slices=slices("abcdef"))

    recorder.check_tree()
    assert api.peak_in_flight > 3
    by_id = {span.context.span_id: span for span in recorder.spans}
    for span in recorder.named("GET"):
        assert span.parent is not None
        letter = attributes(span)["url.full"][-1]
        assert attributes(by_id[span.parent.span_id])["asyncstreams.slice"] == f"{{'at': '{letter}'}}"


@pytest.mark.parametrize("propagate", [True, False])
async def test_pages_read_ahead_belong_to_their_slice(propagate, recorder, mock_api):
    mock_api.add(Resource("users", 200, page_size=10, total=True))
    mock_api.latency = 0.002
    names: dict[str, Any] = {}
    exec(mock_api.stream_source("users"), names)
    stream = names["users"]

    with recorder.telemetry(stream, propagate=propagate):
        await stream.read()

    recorder.check_tree()
    requests = recorder.named("GET")
    assert len(requests) >= 20
    assert not propagate or len(requests) == mock_api.counts.requests
    assert {recorder.parent_name(span) for span in requests} == {"slice users"}


async def test_run_is_a_child_of_the_current_span(recorder):
    tracer = recorder.tracers.get_tracer("app")
    inside = None

    with tracer.start_as_current_span("job") as job:
        stream = things(one)
        with recorder.telemetry(stream):
            inside = trace.get_current_span()
            await stream.read()
        assert trace.get_current_span() is job

    run = recorder.only("run things")
    assert run.parent is not None
    assert run.parent.span_id == job.get_span_context().span_id
    assert inside is not None
    assert inside.get_span_context() == run.context


async def test_failed_slice_is_an_error_and_the_run_partial(recorder, virtual_clock):
    stream = Items(Api(paged_api(2, b_1=500)), virtual_clock)

    with pytest.raises(PartialFailure), recorder.telemetry(stream, clock=virtual_clock):
        await stream.read(slices=slices("abc"))

    recorder.check_tree()
    failed = [span for span in recorder.named("slice") if span.status.status_code is StatusCode.ERROR]
    assert [attributes(span)["asyncstreams.slice"] for span in failed] == ["{'at': 'b'}"]
    assert "500" in (failed[0].status.description or "")
    assert attributes(failed[0])["error.type"] == "HttpStatusError"
    stream_span, run = recorder.only("stream"), recorder.only("run")
    assert attributes(stream_span)["asyncstreams.outcome"] == attributes(run)["asyncstreams.outcome"] == "partial"
    assert run.status.status_code is StatusCode.ERROR


async def test_failure_that_the_block_handles_is_partial(recorder, virtual_clock):
    stream = Items(Api(paged_api(2, b_1=500)), virtual_clock)

    with recorder.telemetry(stream, clock=virtual_clock), pytest.raises(PartialFailure):
        await stream.read(slices=slices("abc"))

    assert attributes(recorder.only("run"))["asyncstreams.outcome"] == "partial"
    assert recorder.only("run").status.status_code is StatusCode.UNSET


async def test_text_of_an_unknown_error_is_not_shown(recorder):
    stream = things(one, parse_response=lambda self, response, context: int("4711-secret"))

    with pytest.raises(ValueError, match="4711"), recorder.telemetry(stream):
        await stream.read()

    recorder.check_tree()
    assert "secret" not in repr([(span.status.description, span.attributes, span.events) for span in recorder.spans])
    assert "ValueError" in (recorder.only("run").status.description or "")


@pytest.mark.parametrize("propagate", [True, False])
async def test_all_spans_end_after_a_cancellation(propagate, recorder, virtual_clock):
    stream = Items(Api(paged_api(9)), virtual_clock)

    async def read() -> None:
        with recorder.telemetry(stream, propagate=propagate, clock=virtual_clock):
            await stream.read(slices=slices("abcd"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3.5):
            await read()

    recorder.check_tree()
    outcomes = {
        name: attributes(recorder.named(name)[0])["asyncstreams.outcome"] for name in ("run", "stream", "slice")
    }
    assert outcomes == dict.fromkeys(("run", "stream", "slice"), "interrupted")
    assert {span.status.status_code for span in recorder.spans} == {StatusCode.UNSET}
    answered = [span for span in recorder.named("GET") if "http.response.status_code" in attributes(span)]
    assert len(recorder.named("GET")) == len(answered) + (4 if propagate else 0)


async def test_break_interrupts_the_run(recorder, virtual_clock):
    stream = Items(Api(paged_api(9)), virtual_clock)

    with recorder.telemetry(stream, clock=virtual_clock):
        async with stream.pages(slices=slices("ab")) as pages:
            async for _ in pages:
                break

    recorder.check_tree()
    assert attributes(recorder.only("run"))["asyncstreams.outcome"] == "interrupted"


async def test_unavailable_stream_has_its_reason(recorder, virtual_clock):
    api = Api(lambda request: httpx.Response(403) if "secret" in request.url.path else paged_api(1)(request))
    source = Source([NamedItems(name, api, virtual_clock) for name in ("open", "secret")])

    with recorder.telemetry(source, clock=virtual_clock):
        await source.read()

    recorder.check_tree()
    span = recorder.only("stream secret")
    assert attributes(span)["asyncstreams.outcome"] == "unavailable"
    assert "permission" in attributes(span)["asyncstreams.unavailable_reason"]
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(recorder.only("run"))["asyncstreams.outcome"] == "complete"


async def test_spans_that_are_open_end_with_the_block(recorder, virtual_clock):
    stream = Items(Api(paged_api(9)), virtual_clock)

    async with stream.pages(slices=slices("ab")) as pages:
        with recorder.telemetry(stream, clock=virtual_clock, propagate=True):
            emitter = recorder.telemetry(Emitter())
            emitter.__enter__()
            emitter(StreamStarted("orders"))
            emitter(SliceStarted("orders", Slice({"a": 1})))
            emitter.__exit__(None, None, None)
            await anext(pages)
        before = len(recorder.spans)
        async for _ in pages:
            pass

    assert len(recorder.spans) == before
    assert attributes(recorder.only("slice orders"))["asyncstreams.outcome"] == "interrupted"


async def test_check_of_a_source_belongs_to_the_run(recorder):
    source = Source([things(one)])

    with recorder.telemetry(source):
        await source.check()

    recorder.check_tree()
    assert recorder.parent_name(recorder.only("GET")) == "run Source"


async def test_retries_are_requests_of_their_own(recorder, mock_api):
    mock_api.add(Resource("users", 5, paging="cursor"))
    mock_api.faults = [Fault.status(503, at=[1])]
    names: dict[str, Any] = {}
    exec(mock_api.stream_source("users"), names)
    stream = names["users"]

    with recorder.telemetry(stream):
        await stream.read()

    recorder.check_tree()
    first, second = sorted(recorder.named("GET"), key=starts)
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert attributes(first)["error.type"] == "503"
    assert "http.request.resend_count" not in attributes(first)
    assert attributes(second)["http.request.resend_count"] == 1
    assert attributes(recorder.only("run"))["asyncstreams.retries"] == 1


# Attributes, driven by events.


def test_request_has_the_attributes_of_the_conventions(emit, recorder):
    orders = Slice({"shop": 7})

    emit(StreamStarted("orders"), SliceStarted("orders", orders))
    emit(
        request_finished(
            stream_slice=orders, method="POST", url="http://[::1]:8080/orders", queued_s=1.0, limited_s=2.0
        )
    )

    span = recorder.only("POST")
    assert span.kind is SpanKind.CLIENT
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.full": "http://[::1]:8080/orders",
        "server.address": "::1",
        "server.port": 8080,
        "url.scheme": "http",
        "http.response.status_code": 200,
        "asyncstreams.stream": "orders",
        "asyncstreams.outcome": "complete",
        "asyncstreams.response.size": 10,
        "asyncstreams.request.queue_time": 1.0,
        "asyncstreams.request.limit_time": 2.0,
        "asyncstreams.request.server_time": 0.25,
        "asyncstreams.request.body_time": 0.05,
    }


def test_span_of_a_request_lasts_from_sending_to_its_body():
    recorder, emitter = SpanRecorder(), Emitter()
    with recorder.telemetry(emitter):
        emitter.listener(request_finished(queued_s=5.0, limited_s=7.0))

    span = recorder.only("GET")
    assert (ends(span) - starts(span)) / 1e9 == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "kind", "status"),
    [
        ({"status": 204}, None, StatusCode.UNSET),
        ({"status": 304}, None, StatusCode.UNSET),
        ({"status": 404}, "404", StatusCode.ERROR),
        ({"status": 429, "error": "HttpStatusError", "is_refused": True}, "429", StatusCode.ERROR),
        ({"status": None, "error": "StallTimeout"}, "StallTimeout", StatusCode.ERROR),
        ({"status": 200, "error": "MalformedJSON"}, "MalformedJSON", StatusCode.ERROR),
    ],
)
def test_status_of_a_request_follows_the_conventions(changed, kind, status, emit, recorder):
    emit(request_finished(**changed))

    span = recorder.only("GET")
    assert attributes(span).get("error.type") == kind
    assert attributes(span).get("http.response.status_code") == changed["status"]
    assert span.status.status_code is status
    assert span.status.description is None
    (point,) = recorder.points("http.client.request.duration")
    assert point.attributes.get("error.type") == kind


def test_unknown_method_is_named_http(emit, recorder):
    emit(request_finished(method="BREW"))

    span = recorder.only("HTTP")
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "BREW"


def test_hostile_names_and_slices_are_shown_escaped(emit, recorder):
    hostile = "a\x1b[31m\n\udc80" + "b" * 1000
    emit(StreamStarted(hostile), SliceStarted(hostile, Slice({"at": hostile, "link": "https://x.test/?token=abc"})))
    emit(request_finished(stream=hostile, url=f"https://api.test/{hostile}"))
    emit(SliceFinished(hostile, Slice()), StreamFinished(hostile, StreamUnavailable(hostile)))

    texts = [span.name for span in recorder.spans]
    texts += [value for span in recorder.spans for value in attributes(span).values() if isinstance(value, str)]
    assert all(text.isprintable() and len(text) < 600 for text in texts)
    assert any(r"\x1b[31m\n\udc80" in text for text in texts)
    assert "abc" not in "".join(texts)


async def test_secrets_of_path_and_query_are_not_exported(recorder):
    class Tokens(Things):
        def path(self, context: RequestContext) -> Any:
            return ("bot", Secret("s3cr3t-token"), "updates")

        def request_params(self, context: RequestContext) -> Any:
            return {"key": Secret("an0ther-secret")}

    stream = Tokens(transport=httpx.MockTransport(one))
    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    assert attributes(recorder.only("GET"))["url.full"] == "https://api.test/v1/bot/***/updates"
    exported = "".join(span.to_json() for span in recorder.spans)
    assert "s3cr3t" not in exported
    assert "an0ther" not in exported


def test_spans_beyond_the_bound_are_left_out_and_counted(recorder):
    emitter = Emitter()
    with recorder.telemetry(emitter, max_spans=9, clock=TickingClock()):
        emitter.listener(StreamStarted("orders"))
        for number in range(20):
            part = Slice({"n": number})
            emitter.listener(SliceStarted("orders", part))
            emitter.listener(request_finished(stream_slice=part))
            emitter.listener(request_finished(stream_slice=part, status=500))
            emitter.listener(SliceFinished("orders", part))

    recorder.check_tree()
    assert len(recorder.named("slice") + recorder.named("GET")) == 10
    assert recorder.parent_name(recorder.named("GET")[-1]) == "stream orders"
    run = attributes(recorder.only("run"))
    assert (run["asyncstreams.spans_left_out"], run["asyncstreams.requests"]) == (50, 40)
    assert sum(recorder.values("asyncstreams.requests", "asyncstreams.status_class").values()) == 40


# Metrics.


async def test_metrics_of_a_real_run(recorder, virtual_clock):
    stream = Items(Api(paged_api(4)), virtual_clock, rate_limit=RateLimit(2, per=1))

    with recorder.telemetry(stream, clock=virtual_clock):
        await stream.read(slices=slices("ab"))

    by_stream = "asyncstreams.stream"
    assert recorder.values("asyncstreams.requests", "asyncstreams.status_class") == {"2xx": 8}
    assert recorder.values("asyncstreams.records", by_stream) == {"items": 8}
    assert recorder.values("asyncstreams.slices", "asyncstreams.outcome") == {"complete": 2}
    assert recorder.values("asyncstreams.request.active", by_stream) == {"items": 0}
    assert recorder.values("asyncstreams.request.limit", by_stream) == {"items": pytest.approx(2, rel=0.1)}
    assert recorder.values("asyncstreams.response.size", by_stream)["items"] > 8 * 20
    (duration,) = recorder.points("http.client.request.duration")
    assert isinstance(duration, HistogramDataPoint)
    assert (duration.count, duration.sum) == (8, pytest.approx(8.0))
    assert duration.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert dict(duration.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "api.test",
        "server.port": 443,
        "url.scheme": "https",
        "http.response.status_code": 200,
    }


def test_metrics_of_waits_quarantine_and_retries(emit, recorder):
    emit(PageRead("orders", Slice(), 0, 7, 3), RetryScheduled("orders", "it failed", 1.0, 1))
    emit(WaitStarted("orders", "the declared rate_limit", 3.0), WaitStarted("orders", "the next try", float("inf")))
    emit(
        request_finished(limited_s=2.0, queued_s=0.5),
        request_finished(limited_s=1.0, status=None, error="StallTimeout"),
    )
    emit(sampled(3, 8.0), sampled(5, None))  # counters follow at samples

    assert recorder.values("asyncstreams.quarantined_records", "asyncstreams.stream") == {"orders": 3}
    assert recorder.values("asyncstreams.retries", "asyncstreams.stream") == {"orders": 1}
    reasons = recorder.values("asyncstreams.waits", "asyncstreams.wait.reason")
    assert reasons == {"the declared rate_limit": 1, "the next try": 1}
    assert recorder.values("asyncstreams.request.wait_time", "asyncstreams.wait.kind") == {"limit": 3.0, "queue": 0.5}
    assert recorder.values("asyncstreams.requests", "asyncstreams.status_class") == {"2xx": 1, "none": 1}
    assert recorder.values("asyncstreams.request.active", "asyncstreams.stream") == {"orders": 5}
    assert recorder.values("asyncstreams.request.limit", "asyncstreams.stream") == {"orders": 8.0}


def test_no_request_is_in_flight_after_the_block(recorder):
    emitter = Emitter()
    with recorder.telemetry(emitter):
        emitter.listener(sampled(5, None))

    assert recorder.values("asyncstreams.request.active", "asyncstreams.stream") == {"orders": 0}


def test_servers_and_reasons_of_metrics_are_bounded(emit, recorder):
    for number in range(300):
        emit(request_finished(url=f"https://bucket-{number}.test/x"), WaitStarted("orders", f"reason {number}", 1.0))
    emit(StreamFinished("orders"))

    servers = {point.attributes["server.address"] for point in recorder.points("http.client.request.duration")}
    assert len(servers) == 101
    assert "_OTHER" in servers
    assert len(recorder.points("asyncstreams.waits")) == 51
    assert attributes(recorder.named("GET")[-1])["server.address"] == "bucket-299.test"


# Propagation.


class HeaderLog(dict[str, list[httpx.Headers]]):
    """A transport's function that stores the headers of requests by host."""

    def __init__(self, respond: Callable[[httpx.Request], httpx.Response] = one) -> None:
        super().__init__()
        self._respond = respond

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.setdefault(request.url.host, []).append(request.headers)
        return self._respond(request)


def parent_id(headers: httpx.Headers) -> str:
    return headers["traceparent"].split("-")[2]


def span_id(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


async def test_each_request_carries_the_id_of_its_span(recorder):
    seen: dict[str, str] = {}

    def respond(request: httpx.Request) -> httpx.Response:
        seen[str(request.url)] = parent_id(request.headers)
        return one(request)

    stream = things(respond)
    with recorder.telemetry(stream, propagate=True):
        await stream.read(slices=[{"n": number} for number in range(20)])

    recorder.check_tree()
    assert {attributes(span)["url.full"]: span_id(span) for span in recorder.named("GET")} == seen
    assert len(set(seen.values())) == 20


async def test_nothing_is_sent_without_propagate(recorder):
    log = HeaderLog()
    stream = things(log)

    with recorder.telemetry(stream):
        await stream.read()
    with recorder.telemetry(stream, propagate=True):
        pass
    await stream.read()

    assert [headers.get("traceparent") for headers in log["api.test"]] == [None, None]


async def test_baggage_is_sent_with_the_context(recorder):
    log = HeaderLog()
    stream = things(log)

    token = context.attach(baggage.set_baggage("tenant", "a b"))
    try:
        with recorder.telemetry(stream, propagate=True):
            await stream.read()
    finally:
        context.detach(token)

    assert log["api.test"][0]["baggage"] == "tenant=a+b"


async def test_context_of_the_caller_is_sent_without_an_sdk():
    log = HeaderLog()
    stream = things(log)
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))

    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
    try:
        with Telemetry(stream, propagate=True):
            await stream.read()
    finally:
        context.detach(token)

    assert log["api.test"][0]["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"


async def test_redirect_elsewhere_does_not_carry_traceparent(recorder):
    targets = {"/v1/things": "https://api.test/v1/moved", "/v1/moved": "https://bucket.test/x"}

    def respond(request: httpx.Request) -> httpx.Response:
        target = targets.get(request.url.path)
        return one(request) if target is None else httpx.Response(302, headers={"Location": target})

    log = HeaderLog(respond)
    stream = things(log, request_kwargs=lambda self, context: {"follow_redirects": True})
    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    recorder.check_tree()
    span = recorder.only("GET")
    assert [parent_id(headers) for headers in log["api.test"]] == [span_id(span)] * 2
    assert "traceparent" not in log["bucket.test"][0]
    assert attributes(span)["server.address"] == "bucket.test"


@pytest.mark.parametrize("option", ["allowed_origins", "uncredentialed_origins"])
async def test_links_to_other_origins_do_not_carry_traceparent(option, recorder):
    log = HeaderLog()
    stream = things(log, path=lambda self, context: "https://files.test/export", **{option: ("https://files.test",)})

    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    assert "traceparent" not in log["files.test"][0]
    recorder.check_tree()
    assert recorder.parent_name(recorder.only("GET")) == "slice things"


async def test_redirect_to_an_allowed_origin_drops_traceparent(recorder):
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.host == "api.test":
            return httpx.Response(302, headers={"Location": "https://files.test/x"})
        return one(request)

    log = HeaderLog(respond)
    options = {"follow_redirects": True}
    stream = things(log, request_kwargs=lambda self, context: options, allowed_origins=("https://files.test",))
    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    assert "traceparent" in log["api.test"][0]
    assert "traceparent" not in log["files.test"][0]


async def test_token_request_does_not_carry_traceparent(recorder, respx_mock):
    token = respx_mock.post("https://auth.test/token").respond(json={"access_token": "t", "expires_in": 3600})
    api = respx_mock.get(f"{API}things").respond(json=[{"id": 1}])
    auth = Oauth2Authenticator("https://auth.test/token", "id", "secret", "refresh")
    stream = Things(authenticator=auth)

    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    assert "traceparent" in api.calls[0].request.headers
    assert "traceparent" not in token.calls[0].request.headers


async def test_request_of_a_middleware_carries_its_span(recorder):
    async def replaced(request: Any, send: Any) -> Any:
        return await asyncio.create_task(
            send(httpx.Request("GET", request.url, headers={"X-Own": "1"}, extensions=request.extensions))
        )

    log = HeaderLog()
    stream = things(log, middleware=(replaced,))
    with recorder.telemetry(stream, propagate=True):
        await stream.read()

    recorder.check_tree()
    assert parent_id(log["api.test"][0]) == span_id(recorder.only("GET"))


async def test_request_whose_middleware_fails_ends_its_span(recorder):
    async def failing(request: Any, send: Any) -> Any:
        await send(request)
        raise ValueError("broken")

    stream = things(one, middleware=(failing,))
    with pytest.raises(ValueError, match="broken"), recorder.telemetry(stream, propagate=True):
        await stream.read()

    recorder.check_tree()
    assert attributes(recorder.only("GET"))["asyncstreams.outcome"] == "interrupted"


# Errors of the SDK, and use.


class BrokenTracers(trace.TracerProvider):
    def get_tracer(self, *arguments: Any, **options: Any) -> Any:
        class Broken(trace.NoOpTracer):
            def start_span(self, *arguments: Any, **options: Any) -> Any:
                raise RuntimeError("the SDK is\nbroken")

        return Broken()


class BreakingTracers(trace.TracerProvider):
    """Breaks after the span of the run."""

    def get_tracer(self, *arguments: Any, **options: Any) -> Any:
        real = TracerProvider().get_tracer("real")

        class Breaking(trace.NoOpTracer):
            def start_span(self, name: str, *arguments: Any, **options: Any) -> Any:
                if name.startswith("run"):
                    return real.start_span(name, *arguments, **options)
                raise RuntimeError("the SDK is\nbroken")

        return Breaking()


@pytest.mark.parametrize("tracers", [BrokenTracers(), BreakingTracers()])
async def test_error_of_the_sdk_is_logged_once(tracers, caplog):
    stream = things(one)

    with Telemetry(stream, tracer_provider=tracers, propagate=True):
        records = await stream.read(slices=[{"n": number} for number in range(5)])

    assert len(records) == 5
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged == [
        r"telemetry: a part of it is lost, RuntimeError: the SDK is broken; further errors are not logged"
    ]


async def test_block_that_is_entered_twice_is_refused(recorder):
    telemetry = recorder.telemetry(things(one))

    with telemetry, pytest.raises(ConfigError, match="entered again before it has ended"):
        telemetry.__enter__()
    with telemetry:
        pass

    assert len(recorder.named("run")) == 2


def test_negative_bound_is_refused():
    with pytest.raises(ConfigError, match="max_spans is -1, which is negative"):
        Telemetry(Emitter(), max_spans=-1)


async def test_run_without_an_sdk_is_unaffected():
    stream = things(one)

    with Telemetry(stream, propagate=True):
        assert await stream.read() == [{"id": 1}]


async def test_run_that_is_not_sampled_has_no_spans():
    log = HeaderLog()
    stream = things(log)
    with Telemetry(stream, propagate=True, tracer_provider=TracerProvider(sampler=ALWAYS_OFF)):
        await stream.read()

    flags = log["api.test"][0]["traceparent"].rpartition("-")[2]
    assert int(flags, 16) & trace.TraceFlags.SAMPLED == 0


def test_only_the_api_is_needed_and_the_extra_is_named():
    code = """
import sys
sys.modules["opentelemetry"] = None
try:
    import asyncstreams.observability.telemetry
except ImportError as error:
    print(error)
del sys.modules["opentelemetry"]
import asyncstreams.observability.telemetry
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == 'telemetry requires opentelemetry-api: pip install "asyncstreams[otel]"\n[]\n'
