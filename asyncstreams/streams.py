"""What an author declares: where a stream is, how it pages, how it is parsed."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any, TypedDict, Unpack

import httpx

from .clock import Clock, SystemClock
from .contracts import Middleware, Paginator, Parsed, Routes, Slices
from .declaration import check_class, check_options, check_values, snake_case
from .errors import AsyncStreamsError, ConfigError, UnexpectedContent
from .exact_json import as_array, as_object
from .http.chain import Chain
from .http.outcome import default_action, is_transient
from .http.request import Body
from .http.session import Session, Sessions
from .messages import Request, Response
from .model import Backoff, BodyLimits, Page, Params, Record, RequestContext, ResponseAction, Slice, Timeouts
from .run.reading import Reading, records_of, stream_pages
from .selectors import select_path


class StreamOptions(TypedDict, total=False):
    """What every stream takes as a keyword, and may have as a class attribute; the keyword wins."""

    authenticator: httpx.Auth | None
    timeouts: Timeouts
    body_limits: BodyLimits
    transport: httpx.AsyncBaseTransport | Routes | None
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    allow_insecure: bool
    clock: Clock
    seed: int | None


class HttpStream:
    """One resource of an HTTP API. Subclass it: `url_base` and `path` are required.

    An instance may be read any number of times, several times at once, and in several event loops.
    Hooks are called anew for each attempt, and see what it is for in their RequestContext.
    """

    name: str = ""
    """The class name in snake case, unless set."""
    url_base: str = ""
    """Where all paths begin; nothing of it is ever dropped."""
    http_method: str = "GET"
    paginator: Paginator | None = None
    """How one page leads to the next; without one, and without `next_page_token`, there is one page."""
    records_path: str | None = None
    """Where in the body the array of records lies, as a dotted path; None: the body is the array."""
    primary_key: str | list[str] | None = None
    loop_guard: bool = True
    """Whether the same non-empty page three times in a row is an error."""
    max_pages: int = 100_000
    """Pages of one slice, at most."""
    max_tries: int = 5
    """Requests in all for one page; waits that the server orders spend none."""
    max_time: float = 600.0
    """Seconds for one page, with its retries; waits that the server orders do not count."""
    max_server_wait: float = 900.0
    """Seconds that one ordered wait may last; four times as much without a success in between."""
    backoff: Backoff = Backoff()
    idempotent: bool = True
    """Whether a request may be sent again; streams read, so it usually may, whatever the method."""
    authenticator: httpx.Auth | None = None
    timeouts: Timeouts = Timeouts()
    body_limits: BodyLimits = BodyLimits()
    transport: httpx.AsyncBaseTransport | Routes | None = None
    """What sends, in place of our own; it is borrowed and not closed."""
    middleware: Sequence[Middleware] = ()
    """Extra links of the chain, the first one outermost."""
    allowed_origins: tuple[str, ...] = ()
    """Other origins that links, redirects and paths may lead to; the credential goes there too."""
    allow_insecure: bool = False
    """Whether a credential may go out over plain http to a host that is not this machine."""
    clock: Clock = SystemClock()
    seed: int | None = None
    """Seeds all chance of a reading, such as the jitter of retries; None: by chance."""

    def __init__(self, **options: Unpack[StreamOptions]) -> None:
        check_options(type(self), options, StreamOptions.__annotations__)
        check_class(type(self), HttpStream)
        for name, value in options.items():
            setattr(self, name, value)
        if not self.name:
            self.name = snake_case(type(self).__name__)
        self._streams_body = inspect.isasyncgenfunction(type(self).parse_response)
        self._pages_itself = type(self).next_page_token is HttpStream.next_page_token
        self._sessions = Sessions(self._new_session)

    def path(self, context: RequestContext) -> str | tuple[str | int, ...]:
        """Where below `url_base`: a str, or a tuple of segments, each of which is percent-encoded.

        An absolute URL is fetched only from an allowed origin.
        """
        raise ConfigError(f"{type(self).__name__}.path is missing")

    def request_params(self, context: RequestContext) -> Params | None:
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

    def parse_response(self, response: Response, context: RequestContext) -> Parsed:
        """The records: an iterable of dicts. An async generator is given the body while it arrives.

        By default the array at `records_path`. Raises UnexpectedContent where there is none.
        """
        return _array(type(self).__name__, response.json(), self.records_path)

    def classify(self, response: Response, context: RequestContext) -> ResponseAction:
        """What to do about a response; override it for errors that hide inside a 200.

        By default: success for 2xx; where `should_retry` says so, RETRY, or THROTTLED for 429 and
        for 503 with Retry-After; IGNORE for 304; FAIL for the rest.
        """
        return default_action(self, response)

    def should_retry(self, response: Response) -> bool:
        """Whether the request is to be sent again: for 408, 425, 429 and every 5xx."""
        return is_transient(response.status_code)

    def backoff_time(self, response: Response) -> float | None:
        """Seconds until then; None or 0 leaves it to the response's headers, and to `backoff`."""
        return None

    def stream_slices(self, state: Mapping[str, Any]) -> Slices:
        """The parts that are read one by one: mappings or Slices, from an iterable or async generator."""
        return [Slice()]

    def pages(
        self, *, limit: int | None = None, slices: Slices | None = None, state: Mapping[str, Any] | None = None
    ) -> Reading[Page]:
        """The stream's pages: `async with stream.pages() as pages: async for page in pages: ...`.

        `limit` bounds the records, and sends no request beyond; `slices` takes the place of
        `stream_slices`; `state` is what the hooks find as `context.stream_state`.
        """
        return Reading("pages", lambda: self._open_pages(limit, slices, state))

    def records(
        self, *, limit: int | None = None, slices: Slices | None = None, state: Mapping[str, Any] | None = None
    ) -> Reading[Record]:
        """The stream's records, in flat memory: `async with stream.records() as records: ...`. See `pages`."""
        return Reading("records", lambda: self._open_records(limit, slices, state))

    async def read(
        self, *, limit: int | None = None, slices: Slices | None = None, state: Mapping[str, Any] | None = None
    ) -> list[Record]:
        """All records at once, for small streams. See `pages`. Raises what reading raises, and keeps nothing then."""
        found: list[Record] = []
        async with self.pages(limit=limit, slices=slices, state=state) as pages:
            async for page in pages:
                found += page.records
        return found

    async def request(
        self,
        path: str | tuple[str | int, ...],
        *,
        method: str = "GET",
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, Any] | str | bytes | None = None,
    ) -> Response:
        """One more request through the same chain, such as a detail call; its whole body has been read.

        Raises as reading does: a response that comes back is one that `classify` let pass.
        """
        async with self._lease() as chain:
            url = chain.builder.url(path, params or {})

            def make(context: RequestContext) -> Request:
                kwargs = self.request_kwargs(context)
                return chain.builder.request(method, url, headers or {}, Body(json, data), context, kwargs)

            answer = await chain.fetch(make, chain.tries(RequestContext()))
            return answer.response

    @property
    def streams_body(self) -> bool:
        """Whether `parse_response` wants the body while it is still arriving."""
        return self._streams_body

    @property
    def pages_itself(self) -> bool:
        """Whether `paginator` pages the stream, and not a `next_page_token` of the author's."""
        return self._pages_itself

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def _new_session(self) -> Session:
        return Session(self.clock, Random(self.seed), self.transport)

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[Chain]:
        """The chain of the running loop's session, which is open meanwhile."""
        if not hasattr(self, "_sessions"):
            owner = type(self).__name__
            raise ConfigError(
                f"{owner}.__init__ does not call its super()", hint="begin it with super().__init__(**options)"
            )
        check_values(self)
        async with self._sessions.lease() as session:
            try:
                chain = session.kept_for(self, lambda: Chain(self, session))
            except AsyncStreamsError as error:
                error.locate(stream=self.name)
                raise
            yield chain

    @asynccontextmanager
    async def _open_pages(
        self, limit: int | None, slices: Slices | None, state: Mapping[str, Any] | None
    ) -> AsyncGenerator[AsyncGenerator[Page]]:
        if limit is not None and limit < 0:
            raise ConfigError(f"{self.name}: limit={limit}: a number of records from 0")
        known: Mapping[str, Any] = {} if state is None else state
        async with self._lease() as chain, aclosing(stream_pages(self, chain, slices, known, limit)) as pages:
            yield pages

    @asynccontextmanager
    async def _open_records(
        self, limit: int | None, slices: Slices | None, state: Mapping[str, Any] | None
    ) -> AsyncGenerator[AsyncGenerator[Record]]:
        async with self._open_pages(limit, slices, state) as pages, aclosing(records_of(pages)) as records:
            yield records


def _array(owner: str, body: Any, path: str | None) -> list[Record]:
    found = body if path is None else select_path(path, body)
    if (array := as_array(found)) is not None:
        other = next((number for number, item in enumerate(array) if not isinstance(item, dict)), None)
        if other is None:
            return array
        kind = type(array[other]).__name__
        raise UnexpectedContent(
            f"sent an array whose item {other} is a {kind}, where objects should be",
            hint=f"override {owner}.parse_response",
        )
    told = "nothing" if found is None else f"a JSON {type(found).__name__}"
    where = "where the body should be an array" if path is None else f"at records_path = {path!r}"
    raise UnexpectedContent(f"sent {told} {where}", hint=_where_arrays_are(owner, body))


def _where_arrays_are(owner: str, body: Any) -> str:
    fields = as_object(body)
    if fields is None:
        return f"override {owner}.parse_response"
    arrays = [key for key, value in fields.items() if isinstance(value, list)]
    if arrays:
        return f"records_path = {arrays[0]!r}" + (f" (or {', '.join(map(repr, arrays[1:]))})" if arrays[1:] else "")
    return f"the body has the keys {sorted(fields)[:20]}: set records_path, or override parse_response"
