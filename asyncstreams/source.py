"""Several streams of one API: checked, described and read together, over the same connections."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import deepcopy
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias, Unpack, cast
from weakref import WeakKeyDictionary

from .clock import SystemClock
from .declaration.catalog import CheckReport, StreamCheck, StreamDescription, named
from .declaration.checks import check_options, check_reading, check_source
from .destinations.base import Destination
from .destinations.sink import Sink
from .errors import AsyncStreamsError, ConfigError
from .events import Listener
from .execution.acknowledgement import Ack, acknowledged
from .execution.read_handle import ReadHandle
from .execution.report import RunReport
from .execution.scheduler import OnError, Scheduler
from .extraction.extraction import Extraction
from .extraction.sink_loop import check_destination, into_sink, unless_terminated
from .http.session import Session, SessionPool
from .models import Page, Record, key_paths
from .records.record_validation import schema_of
from .schemas.config_spec import check_config
from .state.state_file import State, select
from .streams.http_stream import HttpStream, lease_of
from .streams.options import ListenerList, SessionOwner, StreamOptions

PerStream: TypeAlias = Mapping[str, Any] | None


class Source:
    """Streams that belong together. Made from streams, or subclassed with `spec` and `streams(config)`.

    While it is open (`async with source:`), its connections, its tokens and what it has learnt of the
    API live on from one reading to the next; a reading on a closed one opens and closes for itself.
    A stream may be in several Sources, and be read by one of them at a time.
    """

    spec: ClassVar[Mapping[str, Any] | None] = None
    """The JSON schema of the configuration, of a subclass that takes one."""

    def __init__(
        self,
        given: Iterable[HttpStream] | Mapping[str, Any] | None = None,
        /,
        *more: HttpStream,
        **options: Unpack[StreamOptions],
    ) -> None:
        owner = type(self).__name__
        if more:
            raise ConfigError(f"{owner}: several streams are given one by one", hint="a list is needed: Source([a, b])")
        check_source(type(self), Source, StreamOptions.__annotations__)
        check_options(type(self), options, StreamOptions.__annotations__)
        self._streams = _by_name(owner, self._made_from(given))
        own = {name: getattr(self, name) for name in StreamOptions.__annotations__ if hasattr(type(self), name)}
        self._options = _agreed(owner, {**own, **options}, self._streams.values())
        self._sessions = SessionPool(self._new_session)
        self._listeners = ListenerList()
        self._readings = 0
        self._lock = threading.Lock()
        self._undo: list[Callable[[], None]] = []
        self._opened: WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncExitStack]] = WeakKeyDictionary()

    def streams(self, config: Mapping[str, Any]) -> Iterable[HttpStream]:
        """The streams for a configuration that fits `spec`; to be overridden."""
        raise ConfigError(
            f"{type(self).__name__}.streams is missing",
            hint="pass the streams themselves, Source([Orders(), Customers()]), or add `def streams(self, config)`",
        )

    async def check(self, *names: str) -> CheckReport:
        """Whether each stream, or those named, can be read and, if not, why: one request for each."""
        chosen = self._chosen(names)
        async with self._lease():
            return CheckReport(tuple([await self._checked(stream) for stream in chosen]))

    async def discover(self) -> dict[str, StreamDescription]:
        """What each stream gives: its schema and its primary key. Raises ConfigError for a schema that is none."""
        found: dict[str, StreamDescription] = {}
        chosen = self._chosen(())
        async with self._lease():
            for stream in chosen:
                schema = await schema_of(stream)
                found[stream.name] = StreamDescription(
                    stream.name, None if schema is None else deepcopy(schema.json), key_paths(stream.primary_key)
                )
        return found

    def pages(
        self,
        *names: str,
        limit: int | None = None,
        slices: PerStream = None,
        state: PerStream = None,
        on_error: OnError = "continue",
        ack: Ack = "auto",
    ) -> ReadHandle[Page]:
        """The pages of all streams, or of those named, side by side.

        `limit` bounds the records of each stream. `slices` and `state` map names of streams to what
        `stream.pages` takes, or `state` is a State of all of them; `on_error` and `ack` are as there. A
        stream that is unavailable is skipped with a warning, and named in the reading's `unavailable`;
        StreamUnavailable is raised when there is no other.
        """
        chosen = self._chosen(names)
        most = self._options.get("max_concurrency", HttpStream.max_concurrency)
        check_reading(type(self).__name__, limit, on_error, most)
        self._check_per_stream("slices", slices)
        if not isinstance(state, State):
            self._check_per_stream("state", state)
        given, known = slices or {}, state or {}
        selected = [
            select(one, given.get(one.name), state if isinstance(state, State) else known.get(one.name), limit)
            for one in chosen
        ]
        scheduler = Scheduler(selected, lease_of, most, stop_on_error=on_error == "stop")
        return ReadHandle("pages", scheduler, partial(self._open_pages, state=state, ack=ack))

    async def read(
        self,
        *names: str,
        limit: int | None = None,
        slices: PerStream = None,
        state: PerStream = None,
        on_error: OnError = "continue",
    ) -> dict[str, list[Record]]:
        """All records of each stream, for small ones; streams that are unavailable are not in it. See `pages`."""
        reading = self.pages(*names, limit=limit, slices=slices, state=state, on_error=on_error, ack="manual")
        acks: list[Callable[[], None]] = []
        found: dict[str, list[Record]] = {stream.name: [] for stream in self._chosen(names)}
        async with reading as pages:
            async for page in pages:
                found[page.stream] += page.records
                acks.append(page.ack)
            for ack in acks:
                ack()
        return {name: records for name, records in found.items() if name not in reading.unavailable}

    async def extract(
        self, *names: str, to: Destination | Sink, state: State | None = None, on_error: OnError = "continue"
    ) -> RunReport:
        """All streams, or those named, into files, or into a destination of your own: `to=JsonLines("out/")`.

        Into files each record is written exactly once, whatever ends the process: what is read and how far belong to
        the same commits, and the next `extract` into the same folder goes on from the last one. Into a Sink each
        page comes at least once, and `state` moves when it has been taken.

        SIGTERM ends it in an orderly way, with exit code 143, unless somebody else looks after that signal. Raises
        what `pages` raises; OutputLocked, OutputMissing, OutputWriteError, StateCorrupt and StateIncompatible.
        """
        check_destination(type(self).__name__, to, state)
        if not isinstance(to, Destination):
            return await into_sink(to, self.pages(*names, state=state, on_error=on_error, ack="manual"))
        chosen = self._chosen(names)
        most = self._options.get("max_concurrency", HttpStream.max_concurrency)
        check_reading(type(self).__name__, None, on_error, most)
        async with self._lease():
            extraction = Extraction(to, chosen, self._options.get("clock") or SystemClock())
            work = partial(extraction.run, lease_of, most, stop_on_error=on_error == "stop")
            return await unless_terminated(work)

    def clear_cache(self, *names: str) -> None:
        """Forget what is kept of all streams with `use_cache` and of their parents, or of those named."""
        chosen = self._chosen(names)
        with self._at_home():
            for stream in _with_parents(chosen):
                if stream.use_cache:
                    stream.clear_cache()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """From now on `listener` is called with each event of the readings of all streams; returns what ends that."""
        return self._listeners.add(listener)

    def __getitem__(self, name: str) -> HttpStream:
        return named(self._streams, name, type(self).__name__)

    def __contains__(self, stream: object) -> bool:
        return stream in self._streams if isinstance(stream, str) else stream in self._streams.values()

    def __iter__(self) -> Iterator[HttpStream]:
        return iter(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._lease())
            self._opened.setdefault(asyncio.get_running_loop(), []).append(stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened[asyncio.get_running_loop()].pop().aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._streams)}>"

    def _made_from(self, given: Iterable[HttpStream] | Mapping[str, Any] | None) -> Iterable[HttpStream]:
        owner = type(self).__name__
        if type(self).streams is not Source.streams:
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(
                    f"{owner} takes its configuration, a mapping, and makes its streams itself",
                    hint=f'such as {owner}({{"token": "..."}})',
                )
            config = cast(Mapping[str, Any], given or {})
            check_config(owner, self.spec, config)
            return self.streams(config)
        if given is None or isinstance(given, Mapping):
            return self.streams({})
        return given

    def _chosen(self, names: Iterable[str]) -> list[HttpStream]:
        if not hasattr(self, "_streams"):
            owner = type(self).__name__
            raise ConfigError(
                f"{owner}.__init__ does not call its super()", hint="begin it with super().__init__(config, **options)"
            )
        chosen = [self[name] for name in names]
        return list(dict.fromkeys(chosen)) or list(self)

    async def _checked(self, stream: HttpStream) -> StreamCheck:
        try:
            available, reason = await stream.check_availability(self)
            schema = await schema_of(stream) if available else None
        except AsyncStreamsError as error:
            return StreamCheck(stream.name, False, str(error), None, failed=True)
        except Exception as error:  # a hook of this stream's; the others are looked at all the same
            return StreamCheck(
                stream.name, False, f"one of its hooks raised {type(error).__name__}: {error}", None, True
            )
        return StreamCheck(stream.name, available, reason, schema is not None if available else None)

    def _new_session(self) -> Session:
        clock = self._options.get("clock") or SystemClock()
        return Session(clock, Random(self._options.get("seed")), self._listeners)

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[None]:
        """The running loop's session, shared by all streams, which are the Source's own meanwhile."""
        with self._at_home():
            async with self._sessions.lease():
                yield

    @contextmanager
    def _at_home(self) -> Generator[None]:
        with self._lock:
            if not self._readings:
                self._take_in()
            self._readings += 1
        try:
            yield
        finally:
            with self._lock:
                self._readings -= 1
                if not self._readings:
                    self._let_go()

    def _take_in(self) -> None:
        """Give every stream the Source's connections, and what it leaves to the Source; all of them, or none."""
        try:
            for stream in _with_parents(self):
                if hasattr(stream, "home"):  # else leasing it says what is wrong
                    self._take(stream)
        except BaseException:
            self._let_go()
            raise

    def _take(self, stream: HttpStream) -> None:
        home = stream.home
        if home.source is not None or home.sessions.is_open:
            reader = "by itself" if home.source is None else "by another Source"
            raise ConfigError(
                f"stream {stream.name!r} is being read {reader} at this moment",
                hint="make another instance of it for this Source",
            )
        lent = {name: value for name, value in self._options.items() if not _declares(stream, name)}
        self._undo.append(partial(setattr, stream, "home", home))
        stream.home = SessionOwner(self._sessions, self, self._at_home, frozenset(lent))
        for name, value in lent.items():
            setattr(stream, name, value)
            self._undo.append(partial(_take_back, stream, name, value))

    def _let_go(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _check_per_stream(self, argument: str, told: object) -> None:
        if told is not None and not isinstance(told, Mapping):
            owner, kind = type(self).__name__, type(told).__name__
            raise ConfigError(
                f"{owner}: {argument} is a {kind}: a mapping from names of streams is needed",
                hint=f'such as {argument}={{"{next(iter(self._streams))}": ...}}',
            )
        for name in cast(Mapping[str, Any], told or {}):
            self[name]  # raises for a name that is no stream's

    @asynccontextmanager
    async def _open_pages(
        self, scheduler: Scheduler, *, state: PerStream, ack: Ack
    ) -> AsyncGenerator[AsyncIterator[Page]]:
        clock = self._options.get("clock") or SystemClock()
        async with self._lease(), acknowledged(scheduler, state, ack, clock) as pages:
            yield pages


def _with_parents(streams: Iterable[HttpStream]) -> list[HttpStream]:
    """The streams, their parents, and theirs, each once."""
    found: dict[int, HttpStream] = {}
    rest = list(streams)
    while rest:
        stream = rest.pop(0)
        if id(stream) not in found:
            found[id(stream)] = stream
            rest += stream.parents
    return list(found.values())


def _take_back(stream: HttpStream, option: str, value: object) -> None:
    """Unless somebody has set it to something else meanwhile: then it stays."""
    if vars(stream).get(option) is value:
        delattr(stream, option)


def _by_name(owner: str, streams: object) -> dict[str, HttpStream]:
    """Raises ConfigError for what is no stream, for two of one name, and for none at all."""
    found: dict[str, HttpStream] = {}
    hint = "a list of streams is needed: Source([Orders(), Customers()]), or streams(config) that returns one"
    if inspect.iscoroutine(streams):
        streams.close()
        raise ConfigError(
            f"{owner}.streams is async: it is a plain method, which does no I/O",
            hint="what must be asked for, an async stream_slices or get_json_schema of a stream can ask",
        )
    if not isinstance(streams, Iterable) or isinstance(streams, type):
        kind = streams.__name__ if isinstance(streams, type) else type(streams).__name__
        raise ConfigError(f"{owner}: {kind} is no list of streams", hint=hint)
    for stream in cast(Iterable[object], streams):
        if not isinstance(stream, HttpStream):
            kind = stream.__name__ if isinstance(stream, type) else type(stream).__name__
            called = f"{kind}(...)" if isinstance(stream, type) else "Source([Orders(), Customers()])"
            raise ConfigError(f"{owner}: {kind} is no stream", hint=f"write {called}")
        if stream.name in found:
            raise ConfigError(
                f"{owner} has two streams named {stream.name!r}", hint="give one of them a `name` of its own"
            )
        found[stream.name] = stream
    if not found:
        raise ConfigError(f"{owner} has no streams", hint=hint)
    return found


def _declares(stream: HttpStream, option: str) -> bool:
    """Whether a stream, or a class of its author's, says something about an option."""
    kinds = type(stream).__mro__[: type(stream).__mro__.index(HttpStream)]
    own = option in vars(stream) and not (hasattr(stream, "home") and option in stream.home.lent)
    return own or any(option in vars(kind) for kind in kinds)


def _agreed(owner: str, options: dict[str, Any], streams: Iterable[HttpStream]) -> dict[str, Any]:
    """The options with the one clock and the one seed of a run, which its streams may bring."""
    for name in ("clock", "seed"):
        told = [getattr(stream, name) for stream in streams if _declares(stream, name)]
        told = [options[name], *told] if name in options else told
        if any(value is not told[0] and value != told[0] for value in told):
            raise ConfigError(f"{owner}: its streams differ in their {name}, and a run has one: give it to the Source")
        if told:
            options[name] = told[0]
    return options
