"""Traces and metrics of runs by OpenTelemetry (extra `otel`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Protocol, Self

import httpx

from .._version import __version__
from ..clock import Clock, SystemClock
from ..content.error_text import shown_text
from ..errors import ConfigError
from ..events import Event, Listener
from ..http.request_builder import Attempt
from ..messages import Request

try:
    from opentelemetry import context as context_api
    from opentelemetry import metrics, propagate, trace
except ImportError as error:  # pragma: no cover  # an extra
    raise ImportError('telemetry requires opentelemetry-api: pip install "asyncstreams[otel]"') from error

from .run_metrics import RunMetrics
from .span_tree import SpanTree

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

P = ParamSpec("P")
_log = logging.getLogger("asyncstreams")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


class Observable(Protocol):
    """Anything that emits events of its runs: a stream or a Source."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send all events to the listener until the returned function is called."""
        ...


class Telemetry:
    """Records whatever `source`, a stream or a Source, reads inside the `with` block, as a trace and as metrics.

        with Telemetry(source):
            await source.extract(to=JsonLines("out/"))

    The block is the run: its span is a child of the span that is current, and is current inside the block. Below it is
    a span for each stream, then for each slice, then for each request. `max_spans` bounds the spans of slices and
    requests; a tenth as many spans of failed requests are recorded beyond it. Metrics count everything.

    `propagate=True` sends the context of the request's span (`traceparent`, and whatever the global propagator adds) to
    the origin of `url_base` of a stream, and to no other. The providers are the global ones by default. An error of the
    SDK or of a propagator is logged once and does not affect the run. Raises ConfigError if the block is entered twice
    at the same time.
    """

    def __init__(
        self,
        source: Observable,
        *,
        propagate: bool = False,
        max_spans: int = 10_000,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        clock: Clock | None = None,
    ) -> None:
        if max_spans < 0:
            raise ConfigError(
                f"Telemetry: max_spans is {max_spans}, which is negative", hint="0 records no slices and requests"
            )
        self._source, self._propagates, self._max_spans = source, propagate, max_spans
        self._clock = clock or SystemClock()
        self._tracer = trace.get_tracer("asyncstreams", __version__, tracer_provider)
        self._metrics = RunMetrics(metrics.get_meter("asyncstreams", __version__, meter_provider))
        self._spans: SpanTree | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._token: Token[Context] | None = None
        self._has_warned = False

    def __enter__(self) -> Self:
        if self._unsubscribe is not None:
            raise ConfigError(
                "Telemetry: the block is entered again before it has ended", hint="create a Telemetry for each block"
            )
        self._unsubscribe = self._source.subscribe(self)
        self._guard(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._guard(self._metrics.close)
        self._guard(self._end, error)

    def __call__(self, event: Event) -> None:
        """Record one event."""
        self._guard(self._metrics.record, event)
        if self._spans is not None:
            self._guard(self._spans.handle, event)

    def before_request(self, request: httpx.Request) -> None:
        """Add the headers of the trace to a request that is about to be sent."""
        if self._propagates and self._spans is not None:
            self._guard(self._inject, request, self._spans)

    def _begin(self) -> None:
        self._spans = SpanTree(self._tracer, self._clock, self._name, self._max_spans)
        self._token = context_api.attach(self._spans.context)

    def _end(self, error: BaseException | None) -> None:
        spans, token = self._spans, self._token
        self._spans = self._token = None
        if token is not None:
            context_api.detach(token)
        if spans is not None:
            spans.close(error)

    @property
    def _name(self) -> str:
        """The name of a stream, or the class of a Source."""
        name = getattr(self._source, "name", None)
        return name if isinstance(name, str) else type(self._source).__name__

    def _inject(self, request: httpx.Request, spans: SpanTree) -> None:
        attempt: Attempt = request.extensions["asyncstreams"]
        stream_slice, number = attempt.context.stream_slice, attempt.context.attempt
        headers: dict[str, str] = {}
        propagate.inject(headers, spans.begin_request(attempt.stream.name, stream_slice, request.method, number))
        for name, value in headers.items():
            if _HEADER_VALUE.fullmatch(value) is None:
                continue  # of a propagator that does not encode its values
            if isinstance(request, Request):
                request.set_header(name, value)
            else:
                request.headers[name] = value

    def _guard(self, record: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function. Its errors, such as those of an exporter, are logged once: they must not end a run."""
        try:
            record(*args, **kwargs)
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "telemetry: a part of it is lost, %s: %s; further errors are not logged",
                    type(error).__name__,
                    shown_text(str(error)),
                )
