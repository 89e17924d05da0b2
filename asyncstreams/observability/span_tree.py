"""The spans of one run: run, streams, slices and requests, as one tree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry.context import get_current
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from ..clock import Clock
from ..errors import StreamUnavailable
from ..event_log.recorder import describe_error, outcome_of
from ..events import (
    Event,
    PageRead,
    RequestFinished,
    RetryScheduled,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamStarted,
)
from ..models import Slice
from .http_attributes import Attributes, ServerTable, error_type, method_name, shown, span_attributes
from .run_metrics import outcome_of_part

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

_FAILED_SHARE = 0.1  # spans of failed requests beyond the bound, as a share of it


@dataclass(slots=True)
class SpanTally:
    """What is counted within a run, a stream or a slice; retries not of slices."""

    pages: int = 0
    records: int = 0
    quarantined: int = 0
    requests: int = 0
    refused: int = 0
    retries: int = 0

    def attributes(self) -> Attributes:
        """The counts as attributes of a span."""
        return {
            "asyncstreams.pages": self.pages,
            "asyncstreams.records": self.records,
            "asyncstreams.quarantined_records": self.quarantined,
            "asyncstreams.requests": self.requests,
            "asyncstreams.refused_requests": self.refused,
        }


@dataclass(slots=True, eq=False)
class SpanNode:
    """A run, a stream, a slice or a request that has not ended.

    context: that of its span or, if that is None because it was left out, of the nearest span above it.
    stream_slice: kept, so that its id is not used again.
    attempt: from 1 for a request; 0 for all others. task: that sends the request.
    """

    parent: SpanNode | None
    context: Context
    span: Span | None = None
    stream: str = ""
    stream_slice: Slice | None = None
    attempt: int = 0
    task: object = None
    outcome: str = "complete"
    tally: SpanTally = field(default_factory=SpanTally)
    children: dict[SpanNode, None] = field(default_factory=dict["SpanNode", None])

    def with_ancestors(self) -> Iterator[SpanNode]:
        """This node and all above it."""
        node: SpanNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def note_outcome(self, outcome: str) -> None:
        """Note the outcome of a part: a failure counts more than an interruption."""
        if outcome in ("failed", "partial"):
            self.outcome = "partial"
        elif outcome == "interrupted" and self.outcome == "complete":
            self.outcome = outcome


class SentRequests:
    """The requests that have a span before they are answered, because its id is sent with them."""

    def __init__(self) -> None:
        self._by_task: dict[object, list[SpanNode]] = {}

    def add(self, node: SpanNode) -> None:
        """Add a request that the current task sends."""
        node.task = _current_task()
        self._by_task.setdefault(node.task, []).append(node)

    def remove(self, node: SpanNode) -> None:
        """Remove a request."""
        nodes = self._by_task.get(node.task, [])
        if node in nodes:
            nodes.remove(node)
            if not nodes:
                del self._by_task[node.task]

    def find(
        self, stream: str, stream_slice: Slice | None, attempt: int, *, of_any_task: bool = False
    ) -> SpanNode | None:
        """The request of an attempt that the current task sends, or that any task sends: a middleware may start one."""
        if not self._by_task:
            return None
        task = _current_task()
        tasks = [task, *[each for each in self._by_task if each is not task]] if of_any_task else [task]
        for each in tasks:
            for node in reversed(self._by_task.get(each, [])):
                if node.stream_slice is stream_slice and node.attempt == attempt and node.stream == stream:
                    return node
        return None


class SpanTree:
    """The spans of one run, below the span that is current when the run begins.

    Parents are given explicitly: slices overlap, in tasks of their own. At most `max_spans` slices and requests have a
    span, and a tenth as many failed requests beyond that. If the span of the run is not recorded, there is no other.
    """

    def __init__(self, tracer: Tracer, clock: Clock, source: str, max_spans: int) -> None:
        self._tracer, self._clock, self._max_spans = tracer, clock, max_spans
        self._servers, self._sent = ServerTable(), SentRequests()
        self._spans_begun = self._spans_left_out = 0
        self._streams: list[SpanNode] = []
        self._slices: dict[int, SpanNode] = {}
        self._run = SpanNode(None, get_current())
        name = shown(source)
        self._start(self._run, f"run {name}", {"asyncstreams.source": name})
        self._is_recording = self._run.span is not None and self._run.span.is_recording()

    @property
    def context(self) -> Context:
        """The context of the run."""
        return self._run.context

    def handle(self, event: Event) -> None:
        """Begin, complete or end the spans that an event is about."""
        if not self._is_recording:
            return
        match event:
            case RequestFinished():
                self._finish_request(event)
            case PageRead():
                self._count_page(event)
            case SliceStarted():
                self._start_slice(event)
            case SliceFinished():
                self._finish_slice(event)
            case RetryScheduled():
                for node in self._parent_of(event.stream).with_ancestors():
                    node.tally.retries += 1
            case StreamStarted():
                node = self._child(self._run, event.stream)
                name = shown(event.stream)
                self._start(node, f"stream {name}", {"asyncstreams.stream": name})
                self._streams.append(node)
            case StreamFinished():
                self._finish_stream(event)
            case _:
                pass

    def begin_request(self, stream: str, stream_slice: Slice, method: str, attempt: int) -> Context:
        """The context that a request is sent with: that of its span, which begins now."""
        parent = self._parent_of(stream, stream_slice)
        if not self._is_recording:
            return parent.context
        # The second one of an attempt follows a redirect.
        node = self._sent.find(stream, stream_slice, attempt)
        if node is None:
            if not self._may_begin():
                return parent.context
            node = self._child(parent, stream, stream_slice, attempt)
            self._start(node, _span_name(method), {}, SpanKind.CLIENT)
            self._sent.add(node)
        return node.context

    def close(self, error: BaseException | None) -> None:
        """End all spans; `error` ended the run."""
        for stream in [*self._streams]:
            self._end_stream(stream, "interrupted")
        if self._spans_left_out and self._run.span is not None:
            self._run.span.set_attribute("asyncstreams.spans_left_out", self._spans_left_out)
        self._end(self._run, self._run.outcome if error is None else outcome_of(error), error)
        self._slices.clear()

    def _now(self) -> int:
        """Nanoseconds since 1970."""
        return int(self._clock.wall() * 1e9)

    def _may_begin(self, *, is_failed: bool = False) -> bool:
        """Count a span of a slice or a request, and whether it is within the bound."""
        bound = self._max_spans * (1 + _FAILED_SHARE) if is_failed else self._max_spans
        if self._spans_begun >= bound:
            self._spans_left_out += 1
            return False
        self._spans_begun += 1
        return True

    @staticmethod
    def _child(parent: SpanNode, stream: str, stream_slice: Slice | None = None, attempt: int = 0) -> SpanNode:
        node = SpanNode(parent, parent.context, stream=stream, stream_slice=stream_slice, attempt=attempt)
        parent.children[node] = None
        return node

    def _start(
        self,
        node: SpanNode,
        name: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        start_time: int | None = None,
    ) -> None:
        start_time = self._now() if start_time is None else start_time
        node.span = self._tracer.start_span(name, node.context, kind, attributes, start_time=start_time)
        if node.span.get_span_context().is_valid:  # without an SDK, the context of the caller is passed on
            node.context = set_span_in_context(node.span, node.context)

    def _end(
        self, node: SpanNode, outcome: str, error: BaseException | None = None, end_time: int | None = None
    ) -> None:
        """End a node and what is open below it."""
        end_time = self._now() if end_time is None else end_time
        for child in [*node.children]:
            self._end(child, "interrupted", end_time=end_time)
        if node.parent is not None:
            node.parent.children.pop(node, None)
        if node.attempt:
            self._sent.remove(node)
        if node.span is None:
            return
        node.span.set_attribute("asyncstreams.outcome", outcome)
        if not node.attempt:
            node.span.set_attributes(node.tally.attributes())
            if node.stream_slice is None:
                node.span.set_attribute("asyncstreams.retries", node.tally.retries)
        if isinstance(error, Exception) and outcome != "unavailable":
            node.span.set_attribute("error.type", type(error).__name__)
            node.span.set_status(Status(StatusCode.ERROR, shown(describe_error(error))))
        node.span.end(end_time)

    def _parent_of(self, stream: str, stream_slice: Slice | None = None) -> SpanNode:
        """The slice that is read, or else its stream, or the run."""
        node = self._slices.get(id(stream_slice))
        if node is not None:
            return node
        return next((node for node in reversed(self._streams) if node.stream == stream), self._run)

    def _start_slice(self, event: SliceStarted) -> None:
        node = self._child(self._parent_of(event.stream), event.stream, event.stream_slice)
        self._slices[id(event.stream_slice)] = node
        if self._may_begin():
            name = shown(event.stream)
            text = shown(str(event.stream_slice))
            self._start(node, f"slice {name}", {"asyncstreams.stream": name, "asyncstreams.slice": text})

    def _count_page(self, event: PageRead) -> None:
        for node in self._parent_of(event.stream, event.stream_slice).with_ancestors():
            tally = node.tally
            tally.pages += 1
            tally.records += event.records
            tally.quarantined += event.quarantined

    def _finish_request(self, event: RequestFinished) -> None:
        parent = self._parent_of(event.stream, event.stream_slice)
        for node in parent.with_ancestors():
            node.tally.requests += 1
            node.tally.refused += event.is_refused
        now, kind = self._now(), error_type(event)
        request = self._sent.find(event.stream, event.stream_slice, event.attempt, of_any_task=True)
        if request is None and not self._may_begin(is_failed=bool(kind)):
            return
        attributes = span_attributes(event, self._servers.of(event.url))
        if request is None:
            request = self._child(parent, event.stream, event.stream_slice, event.attempt)
            began = now - int((event.server_s + event.body_s) * 1e9)
            self._start(request, _span_name(event.method), attributes, SpanKind.CLIENT, began)
        elif request.span is not None:
            request.span.set_attributes(attributes)
        if kind and request.span is not None:
            request.span.set_status(Status(StatusCode.ERROR))
        self._end(request, "failed" if kind else "complete", end_time=now)

    def _finish_slice(self, event: SliceFinished) -> None:
        node = self._slices.pop(id(event.stream_slice), None)
        if node is None:
            return
        outcome = outcome_of_part(event.error)
        if node.parent is not None:
            node.parent.note_outcome(outcome)
        self._end(node, outcome, event.error)

    def _finish_stream(self, event: StreamFinished) -> None:
        node = next((node for node in self._streams if node.stream == event.stream), None)
        if node is None:
            return
        outcome = outcome_of_part(event.error)
        if isinstance(event.error, StreamUnavailable):
            outcome = "unavailable"
            if node.span is not None:
                node.span.set_attribute("asyncstreams.unavailable_reason", shown(event.error.reason))
        elif outcome == "failed" and node.tally.pages:
            outcome = "partial"
        self._end_stream(node, outcome, event.error)

    def _end_stream(self, node: SpanNode, outcome: str, error: BaseException | None = None) -> None:
        self._streams.remove(node)
        for child in node.children:
            self._slices.pop(id(child.stream_slice), None)
        self._run.note_outcome(outcome)
        self._end(node, outcome, error)


def _span_name(method: str) -> str:
    """The method, or HTTP for one that HTTP does not define."""
    name = method_name(method)
    return "HTTP" if name.startswith("_") else name


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop
        return None
