"""The base class of all streams: one resource of an HTTP API."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from random import Random
from types import MemberDescriptorType
from typing import Any, Self, Unpack, cast

from ..declaration.availability import Availability, HttpAvailabilityStrategy, checked_availability, strategy_of
from ..declaration.checks import check_class, check_options, check_read_arguments, snake_case
from ..declaration.settings import ResolvedSettings, StreamOptions, StreamSettings, check_settings
from ..declaration.stream import Stream
from ..destinations.base import Destination, Sink
from ..errors import AsyncStreamsError, ConfigError, HttpStatusError
from ..event_log.run_record import RunOrigin
from ..events import Listener
from ..execution.acknowledgement import Ack, open_pages
from ..execution.parent_coordinator import CachedLog
from ..execution.read_handle import ReadHandle, iter_records
from ..execution.report import RunReport
from ..execution.scheduler import OnError, Scheduler
from ..execution.sequential import first_page
from ..extraction.extraction import Extraction
from ..extraction.run_recording import listening, new_recording
from ..extraction.run_scope import RangeBound, RunScope
from ..extraction.signals import exit_on_signals
from ..extraction.sink_loop import check_destination, extract_to_sink
from ..http.client import HttpClient
from ..http.request_builder import RequestBody
from ..http.response_errors import default_action, should_be_retried
from ..http.retry import RetryState
from ..http.send_options import check_transport_options
from ..http.session import Session
from ..messages import Request, Response
from ..models import (
    Page,
    ParamsInput,
    Record,
    RequestContext,
    ResponseAction,
    Secret,
    Slice,
)
from ..pagination.record_path import records_at
from ..protocols import ParentPages, ParsedRecords, SliceInput
from ..schemas.schema_files import find_schema, similar_files
from ..state.airbyte_state import StateInput
from ..state.state_file import State, select_stream
from .reader import Binding, ListenerList, Reader

_log = logging.getLogger("asyncstreams")
# Streams whose strategy runs at the moment: it may read the stream itself, and these reads do not consult it again.
_in_check: ContextVar[frozenset[Reader]] = ContextVar("in_check", default=frozenset())


class HttpStream(StreamSettings):
    """One resource of an HTTP API. Subclasses must define `url_base` and `path`.

    An instance may be read any number of times, concurrently, and in several event loops.
    Hooks are called again for each attempt; their RequestContext holds the slice, the page token and the state.
    In hooks `self` has the attributes of the instance, and the options of the Source that reads it.
    """

    # A run reads a bound stream: an object with the same `__dict__`, and with a binding of its own.
    __slots__ = ("binding",)
    binding: Binding | None
    declared_parents: tuple[HttpStream, ...] = ()
    """The parents of an HttpSubStream as they were passed; empty for other streams."""

    def __init__(self, **options: Unpack[StreamOptions]) -> None:
        check_options(type(self), options, StreamOptions.__annotations__)
        check_class(type(self), HttpStream)
        object.__setattr__(self, "binding", None)
        for name, value in options.items():
            try:
                setattr(self, name, value)
            except AttributeError:
                class_name = type(self).__name__
                raise ConfigError(
                    f"{class_name}({name}=...): the class defines {name} as a property without a setter",
                    hint=f"remove the argument, or make {name} a plain attribute of {class_name}",
                ) from None
        check_transport_options(type(self).__name__, options, self.transport)
        if not self.name:
            self.name = snake_case(type(self).__name__)
        self._streams_body = inspect.isasyncgenfunction(type(self).parse_response)
        self._uses_paginator = type(self).next_page_token is HttpStream.next_page_token
        self.own_reader = Reader(self._new_session)
        self.listeners = ListenerList()

    def path(self, context: RequestContext) -> str | Secret | tuple[str | int | Secret, ...]:
        """The path below `url_base`: a str, or a tuple of segments that are percent-encoded one by one.

        A Secret as the path or as a segment is sent, and hidden in all messages. An absolute URL must belong to an
        allowed origin. Required.
        """
        raise ConfigError(f"{type(self).__name__}.path is missing")

    def request_params(self, context: RequestContext) -> ParamsInput | None:
        """Query parameters, which may be Secrets: a mapping, pairs, httpx.QueryParams, or the text of a query.

        None values are omitted, and lists repeat the name. Parameters of the paginator override them.
        """
        return None

    def request_headers(self, context: RequestContext) -> Mapping[str, str | Secret] | None:
        """Additional request headers, which may be Secrets. Headers of the authenticator override them."""
        return None

    def request_json(self, context: RequestContext) -> Any:
        """The JSON body of the request; None sends no body, `{}` an empty object. A Secret is sent as a string."""
        return None

    def request_data(
        self, context: RequestContext
    ) -> Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | Secret | None:
        """The request body: a mapping or pairs are sent as a form, str, bytes and a Secret unchanged.

        Excludes `request_json`.
        """
        return None

    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]:
        """Send options: `timeout`, `follow_redirects`, `extensions`, `verify`, `cert`, `proxy`, `http2`.

        `allow_redirects` and `proxies` are aliases. `stream` must agree with `parse_response`, which reads the body
        while it arrives if it is an async generator. ConfigError is raised for an option that could not be used, such
        as `verify` beside a `transport` of your own.
        """
        return {}

    def next_page_token(self, response: Response, context: RequestContext) -> Any:
        """The token of the next page, passed to hooks as `context.next_page_token`. A falsy value ends the slice.

        A page number 0 is falsy: return {"page": 0} instead. Overriding this method disables `paginator`.
        """
        return None

    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords:
        """The records of a response, as an iterable of dicts. An async generator reads the body while it arrives.

        Default: the array at `records_path`, see also `missing_records`. Raises UnexpectedContent if there is no array
        of objects.
        """
        return records_at(self.records_path, response.json(), type(self).__name__, self.missing_records)

    def classify(self, response: Response, context: RequestContext) -> ResponseAction:
        """The action for a response. Override it for APIs that report errors in a 200 response.

        Default: SUCCESS for 2xx. If `should_retry` returns true: THROTTLED for 429, and for 420 and 503 that order a
        wait, RETRY for other statuses. THROTTLED for a 403 that reports an exhausted limit. FAIL for errors of GraphQL,
        or THROTTLED if they say so. IGNORE for 304. FAIL for the rest.
        """
        return default_action(self, response)

    def should_retry(self, response: Response) -> bool:
        """Whether to send the request again.

        Default: for 408, 425, 429 and 5xx, and for any 4xx except 401 and 407 with a Retry-After, unless
        Stripe-Should-Retry decides.
        """
        return should_be_retried(response)

    def backoff_time(self, response: Response) -> float | None:
        """Seconds to wait before the next try. None or 0: use the response headers, then `backoff`."""
        return None

    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput:
        """The slices, as mappings or Slices, in an iterable or async generator. Default: one empty slice."""
        return [Slice()]

    def get_json_schema(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None:
        """The JSON schema of one record, or None. The method may be async and request it from the API.

        Default: the file `schemas/<name>.json` beside the module of the class. Its references are resolved in
        `schemas/shared/`.
        """
        schema = find_schema(type(self), HttpStream, self.name)
        if schema is None and (similar := similar_files(type(self), HttpStream, self.name)):
            _log.warning("%s: found no schemas/%s.json, only %s", self.name, self.name, ", ".join(similar))
        return schema

    async def check_availability(self, source: object = None) -> Availability:
        """Whether the stream can be read and, if not, the reason. The default strategy requests the first page.

        Raises what reading raises if the strategy does not recognize the error.
        """
        view = self._bind()
        strategy = strategy_of(view)
        if strategy is None:
            return True, None
        reset_token = _in_check.set(_in_check.get() | {self.own_reader})
        try:
            async with view.lease():
                source = view._reader().source if source is None else source
                answer: Any = strategy.check_availability(view, _log, source)
                if inspect.isawaitable(answer):
                    answer = await answer
                return checked_availability(strategy, "check_availability", answer)
        finally:
            _in_check.reset(reset_token)

    async def first_page(self) -> Page | None:
        """The first page of the first slice, or None if there are no slices. Ignores the availability strategy."""
        view = self._bind()
        async with view.lease() as client:
            return await first_page(view, client)

    async def probe(self) -> str | None:
        """The reason why the stream is unavailable, if its strategy has its own `check_availability`, or None."""
        strategy = strategy_of(self)
        own: Any = getattr(type(strategy), "check_availability", None)
        if strategy is None or own is HttpAvailabilityStrategy.check_availability or self.own_reader in _in_check.get():
            return None  # the response to the first request decides
        available, reason = await self.check_availability()
        return None if available else reason or "its availability strategy gave no reason"

    def why_unavailable(self, error: HttpStatusError) -> str | None:
        """The reason for unavailability that the strategy sees in an error of the first request; otherwise None."""
        is_applicable = error.from_page_request and self.own_reader not in _in_check.get()
        strategy = strategy_of(self) if is_applicable else None
        handle = getattr(strategy, "handle_http_error", None)
        if handle is None:
            return None
        try:
            answer = handle(self, _log, self._reader().source, error)
            available, reason = checked_availability(strategy, "handle_http_error", answer)
        except HttpStatusError:
            return None
        return None if available else reason or f"the API answered {error.status}"

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event of this stream; returns a function that removes it."""
        return self.listeners.add(listener)

    def pages(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: StateInput = None,
        on_error: OnError = "continue",
        ack: Ack = "auto",
    ) -> ReadHandle[Page]:
        """The pages of the stream: `async with stream.pages() as pages: async for page in pages: ...`.

        The pages of one slice arrive in order; slices are read concurrently. `limit` bounds the number of records,
        and no request is sent beyond it. `slices` replaces `stream_slices`. `state` is passed to hooks as
        `context.stream_state`.

        With a State only new records are read. The State advances as pages are acknowledged: when the next page is
        requested or, with `ack="manual"`, by `page.ack()`.

        If a slice fails, the others are still read, and PartialFailure is raised at the end. With
        `on_error="stop"`, the first error is raised at once.
        """
        view = self._bind()
        scheduler = view._new_scheduler(limit, slices, state, on_error)
        return ReadHandle("pages", scheduler, partial(view._open_pages, state=state, ack=ack))

    def records(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: StateInput = None,
        on_error: OnError = "continue",
    ) -> ReadHandle[Record]:
        """The records of the stream, in constant memory: `async with stream.records() as records: ...`. See `pages`."""
        view = self._bind()
        scheduler = view._new_scheduler(limit, slices, state, on_error)
        return ReadHandle("records", scheduler, partial(view._open_records, state=state))

    async def read(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: StateInput = None,
        on_error: OnError = "continue",
    ) -> list[Record]:
        """All records as a list, for small streams. See `pages`.

        If it raises, no records are returned and a State is unchanged.
        """
        records: list[Record] = []
        acks: list[Callable[[], None]] = []
        async with self.pages(limit=limit, slices=slices, state=state, on_error=on_error, ack="manual") as pages:
            async for page in pages:
                records += page.records
                acks.append(page.ack)
            for ack in acks:
                ack()
        return records

    async def extract(
        self,
        *,
        to: Destination | Sink,
        limit: int | None = None,
        slices: SliceInput | None = None,
        since: RangeBound = None,
        until: RangeBound = None,
        refresh: bool = False,
        state: State | None = None,
        on_error: OnError = "continue",
        require: Sequence[str] = (),
        event_log: bool | RunOrigin = True,
    ) -> RunReport:
        """Write the stream to a destination or a Sink: `await stream.extract(to=JsonLines("out/"))`.

        `refresh=True` reads it from the beginning. See `Source.extract` for the other arguments, guarantees and errors.
        """
        by_name = {} if slices is None else {self.name: slices}
        scope = RunScope(limit, by_name, since, until, (self.name,) if refresh else ())
        check_destination(self.name, to, state, scope)
        view = self._bind()
        scope.check(self.name, [view])
        is_whole = not scope.is_partial
        recording = new_recording(view, to, [view], view.clock, require=require, event_log=event_log, is_whole=is_whole)
        if not isinstance(to, Destination):
            pages = self.pages(limit=limit, slices=slices, state=state, on_error=on_error, ack="manual")
            with listening(recording, self.subscribe):
                return await extract_to_sink(to, pages, recording)
        check_read_arguments(self.name, limit, on_error, view.max_concurrency)
        async with view.lease():
            extraction = Extraction(to, [view], view.clock, scope, recording)
            run = partial(extraction.run, client_for, view.max_concurrency, stop_on_error=on_error == "stop")
            with listening(recording, self.subscribe):
                return await exit_on_signals(run)

    async def request(
        self,
        path: str | Secret | tuple[str | int | Secret, ...],
        *,
        method: str = "GET",
        params: ParamsInput | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        json: Any = None,
        data: Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | Secret | None = None,
    ) -> Response:
        """Send a further request, such as a detail call, with the retries, limits and credential of the stream.

        The body of the returned response is complete. Raises the same errors as reading, including those for
        statuses that `classify` does not accept.
        """
        self._reader()  # raises for a stream that is not initialized
        view = self if self.binding is not None else self._bind()
        async with view.lease() as client:
            url = client.builder.build_url(path, params or {})

            def make(context: RequestContext) -> Request:
                kwargs = view.request_kwargs(context)
                return client.builder.build_request(
                    method, url, headers or {}, RequestBody(json, data), context, kwargs
                )

            try:
                classified = await client.receive(make, RetryState(RequestContext()))
            except HttpStatusError as error:
                error.from_page_request = False
                raise
            return classified.response

    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]:
        """The smaller slices to read instead of one whose first request was refused; empty: the slice has failed."""
        return ()

    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """The partitions under which a state stores a slice: the slice without its interval."""
        return (stream_slice.partition,)

    def children_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """The children that a slice of a substream reads, each by the key of its parent; empty for other streams."""
        return ()

    def clear_cache(self) -> None:
        """Delete the cached records of this stream, as currently declared and with its current credential."""
        view = self._bind()
        if view.binding is not None:
            view.binding.begin(self._reader())
        CachedLog(view).clear()

    @property
    def parents(self) -> tuple[HttpStream, ...]:
        """The parents of an HttpSubStream, in hooks as the run reads them; empty for other streams."""
        binding = self._own_binding()
        return self.declared_parents if binding is None else binding.parents

    @property
    def resolved(self) -> ResolvedSettings:
        """The settings with which the run reads the stream; outside of a run, those that are declared now."""
        binding = self._own_binding()
        if binding is None:
            return ResolvedSettings(self)
        if binding.settings is None:
            binding.settings = ResolvedSettings(self)
        return binding.settings

    def read_parents_from(self, feed: ParentPages | None) -> None:
        """Make `stream_slices` use the pages of the parents that the run reads."""
        binding = self._own_binding()
        if binding is not None:
            binding.feed = feed

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` reads the body while it arrives."""
        return self._streams_body

    @property
    def uses_paginator(self) -> bool:
        """Whether `paginator` selects the next page, because `next_page_token` is not overridden."""
        return self._uses_paginator

    @property
    def uses_default_parser(self) -> bool:
        """Whether the records are the array at `records_path`, because `parse_response` is not overridden."""
        return type(self).parse_response is HttpStream.parse_response

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpStream) and vars(self) is vars(other)

    def __hash__(self) -> int:
        return id(vars(self))

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[HttpClient]:
        """Hold the running loop's session open and yield its client of this bound stream. Raises ConfigError."""
        reader, binding = self._reader(), self.binding
        assert binding is not None, "only a bound stream is read"
        if binding.reader is None:
            binding.begin(reader)
        if not binding.is_checked:
            check_settings(type(self).__name__, self.resolved, uses_paginator=self.uses_paginator)
            binding.is_checked = True
        with reader.reading():
            async with reader.sessions.lease() as session:
                yield self._client(session)

    def _client(self, session: Session) -> HttpClient:
        """The client of this stream in a session: one for all reads with the same settings."""
        # A copy of a stream has attributes of its own, but the same reader. The clients keep the attributes in memory.
        clients: list[HttpClient] = session.clients.setdefault(id(vars(self)), [])
        for client in clients:
            if client.stream is self:
                return client
            if client.stream.resolved.is_like(self.resolved) and _slots(client.stream) == _slots(self):
                return client
        try:
            clients.append(client := HttpClient(self, session))
        except AsyncStreamsError as error:
            error.locate(stream=self.name)
            raise
        return client

    def _own_binding(self) -> Binding | None:
        """The binding; None also for a stream that is not initialized, of which `lease` says so."""
        return getattr(self, "binding", None)

    def _reader(self) -> Reader:
        """What reads the stream now."""
        if not hasattr(self, "own_reader"):
            raise ConfigError(
                f"{type(self).__name__}.__init__ does not call super().__init__",
                hint="start it with super().__init__(**options)",
            )
        reader = None if self.binding is None else self.binding.reader
        return self.own_reader.choose(self.name) if reader is None else reader

    def _bind(self) -> Self:
        """This stream as a new run sees it; in hooks, the reader is that of the run that called them."""
        self._reader()  # raises for a stream that is not initialized
        return cast(Self, bind([self], None if self.binding is None else self.binding.reader)[0])

    def _new_session(self) -> Session:
        return Session(self.clock, Random(self.seed))

    def _new_scheduler(
        self, limit: int | None, slices: SliceInput | None, state: StateInput, on_error: OnError
    ) -> Scheduler:
        check_read_arguments(self.name, limit, on_error, self.max_concurrency)
        selection = select_stream(self, slices, state, limit)
        return Scheduler([selection], client_for, self.max_concurrency, stop_on_error=on_error == "stop")

    @asynccontextmanager
    async def _open_pages(
        self, scheduler: Scheduler, *, state: StateInput, ack: Ack
    ) -> AsyncGenerator[AsyncIterator[Page]]:
        async with self.lease(), open_pages(scheduler, state, ack, self.clock) as pages:
            yield pages

    @asynccontextmanager
    async def _open_records(self, scheduler: Scheduler, *, state: StateInput) -> AsyncGenerator[AsyncIterator[Record]]:
        async with (
            self._open_pages(scheduler, state=state, ack="auto") as pages,
            aclosing(iter_records(pages)) as records,
        ):
            yield records


def bind(streams: Iterable[HttpStream], reader: Reader | None) -> list[HttpStream]:
    """The streams as one run of a reader sees them: each with all attributes of the stream, which both share.

    A stream and its ancestors are bound once, also if it is the parent of several.
    """
    bound: dict[int, HttpStream] = {}

    def bind_one(stream: HttpStream) -> HttpStream:
        if not hasattr(stream, "own_reader"):
            return stream  # its `lease` says that __init__ does not call super()
        key = id(vars(stream))  # a copy of a stream is another one
        if key not in bound:
            parents = tuple(map(bind_one, stream.declared_parents))
            bound[key] = _bound_stream(stream, Binding(reader, parents))
        return bound[key]

    return list(map(bind_one, streams))


def _bound_stream(stream: HttpStream, binding: Binding) -> HttpStream:
    found: HttpStream = object.__new__(type(stream))
    object.__setattr__(found, "__dict__", vars(stream))
    for slot, value in _slots(stream):
        slot.__set__(found, value)
    object.__setattr__(found, "binding", binding)
    return found


def _slots(stream: object) -> list[tuple[MemberDescriptorType, Any]]:
    """The attributes in `__slots__` of the author's classes, which are not in `__dict__`."""
    slots = [
        slot
        for class_ in type(stream).__mro__
        if class_ is not HttpStream
        for slot in vars(class_).values()
        if isinstance(slot, MemberDescriptorType)
    ]
    return [(slot, slot.__get__(stream)) for slot in slots if _is_set(slot, stream)]


def _is_set(slot: MemberDescriptorType, stream: object) -> bool:
    try:
        slot.__get__(stream)
    except AttributeError:
        return False
    return True


def client_for(stream: Stream) -> AbstractAsyncContextManager[HttpClient]:
    """The client of a bound stream, for packages that know streams only as a Protocol."""
    return cast(HttpStream, stream).lease()
