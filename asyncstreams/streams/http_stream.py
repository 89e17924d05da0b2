"""What an author declares: where a stream is, how it pages, how it is parsed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from random import Random
from typing import Any, Unpack, cast

from ..declaration.availability import Availability, HttpAvailabilityStrategy, answered, strategy_of
from ..declaration.checks import check_class, check_options, check_reading, check_values, snake_case
from ..destinations.base import Destination
from ..destinations.sink import Sink
from ..errors import AsyncStreamsError, ConfigError, HttpStatusError
from ..events import Listener
from ..execution.acknowledgement import Ack, acknowledged
from ..execution.parent_coordinator import CachedLog
from ..execution.read_handle import ReadHandle, records_of
from ..execution.report import RunReport
from ..execution.scheduler import OnError, Scheduler
from ..execution.sequential import first_page
from ..extraction.extraction import Extraction
from ..extraction.sink_loop import check_destination, into_sink, unless_terminated
from ..http.client import HttpClient
from ..http.request_builder import RequestBody
from ..http.response_errors import default_action, should_be_retried
from ..http.session import Session, SessionPool
from ..messages import Request, Response
from ..models import (
    Page,
    ParamsInput,
    Record,
    RequestContext,
    ResponseAction,
    Slice,
)
from ..pagination.record_path import records_at
from ..protocols import ParsedRecords, SliceInput, Stream
from ..schemas.schema_files import find_schema, similar_files
from ..state.state_file import State, select
from .options import ListenerList, SessionOwner, StreamOptions
from .settings import StreamSettings

_log = logging.getLogger("asyncstreams")
_asked: ContextVar[frozenset[int]] = ContextVar("asked", default=frozenset())


class HttpStream(StreamSettings):
    """One resource of an HTTP API. Subclass it: `url_base` and `path` are required.

    An instance may be read any number of times, several times at once, and in several event loops.
    Hooks are called anew for each attempt, and see what it is for in their RequestContext.
    """

    parents: tuple[HttpStream, ...] = ()
    """The streams whose records are this one's slices: those of an HttpSubStream."""

    def __init__(self, **options: Unpack[StreamOptions]) -> None:
        check_options(type(self), options, StreamOptions.__annotations__)
        check_class(type(self), HttpStream)
        for name, value in options.items():
            try:
                setattr(self, name, value)
            except AttributeError:
                owner = type(self).__name__
                raise ConfigError(f"{owner}({name}=...): the class says it itself, as a property") from None
        if not self.name:
            self.name = snake_case(type(self).__name__)
        self._streams_body = inspect.isasyncgenfunction(type(self).parse_response)
        self._uses_paginator = type(self).next_page_token is HttpStream.next_page_token
        self.home = SessionOwner(SessionPool(self._new_session))
        self.listeners = ListenerList()

    def path(self, context: RequestContext) -> str | tuple[str | int, ...]:
        """Where below `url_base`: a str, or a tuple of segments, each of which is percent-encoded.

        An absolute URL is fetched only from an allowed origin.
        """
        raise ConfigError(f"{type(self).__name__}.path is missing")

    def request_params(self, context: RequestContext) -> ParamsInput | None:
        """The query. None values are left out, lists repeat the name; a paginator's parameters win."""
        return None

    def request_headers(self, context: RequestContext) -> Mapping[str, str] | None:
        """Further headers; the authenticator's win."""
        return None

    def request_json(self, context: RequestContext) -> Any:
        """A JSON body; None is no body, `{}` is one."""
        return None

    def request_data(self, context: RequestContext) -> Mapping[str, Any] | str | bytes | None:
        """A form, from a mapping, or a body as it is. Not together with `request_json`."""
        return None

    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]:
        """How to send: `timeout`, `follow_redirects`, `extensions`, `verify`, `cert`, `proxy`, `http2`.

        `allow_redirects` and `proxies` are other names for two of them; `stream` is accepted and
        does nothing, since an async generator as `parse_response` selects that.
        """
        return {}

    def next_page_token(self, response: Response, context: RequestContext) -> Any:
        """What the next page's hooks find as `context.next_page_token`; anything falsy ends the slice.

        A page number 0 is falsy: return {"page": 0}. Overriding this wins over `paginator`.
        """
        return None

    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords:
        """The records: an iterable of dicts. An async generator is given the body while it arrives.

        By default the array at `records_path`. Raises UnexpectedContent where there is none.
        """
        return records_at(self.records_path, response.json(), type(self).__name__)

    def classify(self, response: Response, context: RequestContext) -> ResponseAction:
        """What to do about a response; override it for errors that hide inside a 200.

        By default: success for 2xx; where `should_retry` says so, RETRY, or THROTTLED for 429 and
        for 503 with Retry-After; THROTTLED for a 403 that says that a limit is used up; IGNORE for
        304; FAIL for the rest.
        """
        return default_action(self, response)

    def should_retry(self, response: Response) -> bool:
        """Whether the request is to be sent again: for 408, 425, 429 and every 5xx, or as Stripe-Should-Retry says."""
        return should_be_retried(response)

    def backoff_time(self, response: Response) -> float | None:
        """Seconds until then; None or 0 leaves it to the response's headers, and to `backoff`."""
        return None

    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput:
        """The parts that are read one by one: mappings or Slices, from an iterable or async generator."""
        return [Slice()]

    def get_json_schema(self) -> Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None:
        """The JSON schema of one record; None where there is none. It may be async, and ask the API.

        By default that of `schemas/<name>.json` beside the module of the class, with what it refers
        to in `schemas/shared/`.
        """
        schema = find_schema(type(self), HttpStream, self.name)
        if schema is None and (similar := similar_files(type(self), HttpStream, self.name)):
            _log.warning("%s: there is no schemas/%s.json, but %s", self.name, self.name, ", ".join(similar))
        return schema

    async def check_availability(self, source: object = None) -> Availability:
        """Whether the stream can be read and, if not, why; asks for its first page.

        Raises what a reading raises, where the strategy does not know what it means.
        """
        strategy = strategy_of(self)
        if strategy is None:
            return True, None
        # A strategy may read the stream itself: those readings do not ask it again.
        asked = _asked.set(_asked.get() | {id(self)})
        try:
            async with self.lease():
                told: Any = strategy.check_availability(self, _log, self.home.source if source is None else source)
                if inspect.isawaitable(told):
                    told = await told
                return answered(strategy, "check_availability", told)
        finally:
            _asked.reset(asked)

    async def first_page(self) -> Page | None:
        """The first page of the first slice; None where there are no slices. Asks no availability strategy."""
        async with self.lease() as chain:
            return await first_page(self, chain)

    async def probe(self) -> str | None:
        """Why the stream is unavailable, as a strategy with a `check_availability` of its own says; else None."""
        strategy = strategy_of(self)
        own: Any = getattr(type(strategy), "check_availability", None)
        if strategy is None or own is HttpAvailabilityStrategy.check_availability or id(self) in _asked.get():
            return None  # the first request tells
        available, reason = await self.check_availability()
        return None if available else reason or "its availability strategy says so"

    def why_unavailable(self, error: HttpStatusError) -> str | None:
        """What the strategy makes of an error of the first request; None where that is just an error."""
        strategy = None if id(self) in _asked.get() or not error.of_page else strategy_of(self)
        handle = getattr(strategy, "handle_http_error", None)
        if handle is None:
            return None
        try:
            available, reason = answered(strategy, "handle_http_error", handle(self, _log, self.home.source, error))
        except HttpStatusError:
            return None
        return None if available else reason or f"the API answered {error.status}"

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """From now on `listener` is called with each event of this stream's readings; returns what ends that."""
        return self.listeners.add(listener)

    def pages(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: Mapping[str, Any] | None = None,
        on_error: OnError = "continue",
        ack: Ack = "auto",
    ) -> ReadHandle[Page]:
        """The stream's pages: `async with stream.pages() as pages: async for page in pages: ...`.

        Pages of one slice come in order, slices side by side. `limit` bounds the records, and sends
        no request beyond; `slices` takes the place of `stream_slices`; `state` is what the hooks find
        as `context.stream_state`. Of a State only what is new is read, and it moves as pages are
        acknowledged: when the next one is asked for or, with `ack="manual"`, by `page.ack()`. When a
        slice fails the others are read, and PartialFailure is raised at the end; with
        `on_error="stop"`, what the first one failed with, at once.
        """
        return ReadHandle(
            "pages", self._scheduler(limit, slices, state, on_error), partial(self._open_pages, state=state, ack=ack)
        )

    def records(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: Mapping[str, Any] | None = None,
        on_error: OnError = "continue",
    ) -> ReadHandle[Record]:
        """The stream's records, in flat memory: `async with stream.records() as records: ...`. See `pages`."""
        opened = partial(self._open_records, state=state)
        return ReadHandle("records", self._scheduler(limit, slices, state, on_error), opened)

    async def read(
        self,
        *,
        limit: int | None = None,
        slices: SliceInput | None = None,
        state: Mapping[str, Any] | None = None,
        on_error: OnError = "continue",
    ) -> list[Record]:
        """All records at once, for small streams. See `pages`.

        Raises what reading raises, and keeps nothing then: a State has not moved.
        """
        found: list[Record] = []
        acks: list[Callable[[], None]] = []
        async with self.pages(limit=limit, slices=slices, state=state, on_error=on_error, ack="manual") as pages:
            async for page in pages:
                found += page.records
                acks.append(page.ack)
            for ack in acks:
                ack()
        return found

    async def extract(
        self, *, to: Destination | Sink, state: State | None = None, on_error: OnError = "continue"
    ) -> RunReport:
        """The stream into files, or into a destination of your own: `await stream.extract(to=JsonLines("out/"))`.

        See `Source.extract`.
        """
        check_destination(self.name, to, state)
        if not isinstance(to, Destination):
            return await into_sink(to, self.pages(state=state, on_error=on_error, ack="manual"))
        check_reading(self.name, None, on_error, self.max_concurrency)
        lease = partial(lease_at, lambda: self.home)
        async with self.lease():
            extraction = Extraction(to, [self], self.clock)
            work = partial(extraction.run, lease, self.max_concurrency, stop_on_error=on_error == "stop")
            return await unless_terminated(work)

    async def request(
        self,
        path: str | tuple[str | int, ...],
        *,
        method: str = "GET",
        params: ParamsInput | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, Any] | str | bytes | None = None,
    ) -> Response:
        """One more request through the same chain, such as a detail call; its whole body has been read.

        Raises as reading does: a response that comes back is one that `classify` let pass.
        """
        async with self.lease() as chain:
            url = chain.builder.url(path, params or {})

            def make(context: RequestContext) -> Request:
                kwargs = self.request_kwargs(context)
                return chain.builder.request(method, url, headers or {}, RequestBody(json, data), context, kwargs)

            try:
                answer = await chain.fetch(make, chain.tries(RequestContext()))
            except HttpStatusError as error:
                error.of_page = False
                raise
            return answer.response

    def split_slice(self, stream_slice: Slice, error: HttpStatusError) -> Sequence[Slice]:
        """The parts to read in place of a slice that the API refused with its first request; none: it has failed."""
        return ()

    def partitions_of(self, stream_slice: Slice) -> Sequence[Mapping[str, Any]]:
        """What a state knows a slice by: what it is read of, without the interval."""
        return (stream_slice.partition,)

    def clear_cache(self) -> None:
        """Forget what `use_cache` keeps of this stream, with its declaration and credential as they are."""
        CachedLog(self).clear()

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` wants the body while it is still arriving."""
        return self._streams_body

    @property
    def uses_paginator(self) -> bool:
        """Whether `paginator` pages the stream, and not a `next_page_token` of the author's."""
        return self._uses_paginator

    @property
    def uses_default_parser(self) -> bool:
        """Whether the records are what the body holds at `records_path`, and no `parse_response` of the author's."""
        return type(self).parse_response is HttpStream.parse_response

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @asynccontextmanager
    async def lease(self, home: SessionOwner | None = None) -> AsyncGenerator[HttpClient]:
        """The chain of the running loop's session, which is open meanwhile; `home`: a child's. Raises ConfigError."""
        if not hasattr(self, "home"):
            owner = type(self).__name__
            raise ConfigError(
                f"{owner}.__init__ does not call its super()", hint="begin it with super().__init__(**options)"
            )
        home = self.home if home is None else home
        with home.hold():
            check_values(self)
            async with home.sessions.lease() as session:
                yield self._chain(session)

    def _chain(self, session: Session) -> HttpClient:
        try:
            return session.kept_for(self, lambda: HttpClient(self, session))
        except AsyncStreamsError as error:
            error.locate(stream=self.name)
            raise

    def _new_session(self) -> Session:
        return Session(self.clock, Random(self.seed))

    def _scheduler(
        self, limit: int | None, slices: SliceInput | None, state: Mapping[str, Any] | None, on_error: OnError
    ) -> Scheduler:
        check_reading(self.name, limit, on_error, self.max_concurrency)
        selected = select(self, slices, state, limit)
        # Its parents are read over the same connections, and share what is known of the API.
        lease = partial(lease_at, lambda: self.home)
        return Scheduler([selected], lease, self.max_concurrency, stop_on_error=on_error == "stop")

    @asynccontextmanager
    async def _open_pages(
        self, scheduler: Scheduler, *, state: Mapping[str, Any] | None, ack: Ack
    ) -> AsyncGenerator[AsyncIterator[Page]]:
        async with self.lease(), acknowledged(scheduler, state, ack, self.clock) as pages:
            yield pages

    @asynccontextmanager
    async def _open_records(
        self, scheduler: Scheduler, *, state: Mapping[str, Any] | None
    ) -> AsyncGenerator[AsyncIterator[Record]]:
        async with (
            self._open_pages(scheduler, state=state, ack="auto") as pages,
            aclosing(records_of(pages)) as records,
        ):
            yield records


def lease_of(stream: Stream) -> AbstractAsyncContextManager[HttpClient]:
    """The chain of a stream that `run/` knows only as a Protocol."""
    return cast(HttpStream, stream).lease()


def lease_at(home: Callable[[], SessionOwner], stream: Stream) -> AbstractAsyncContextManager[HttpClient]:
    """The same, at somebody else's home."""
    return cast(HttpStream, stream).lease(home())
