"""Sources: several streams of one API that share connections, credentials and limits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias, Unpack, cast
from weakref import WeakKeyDictionary

from .clock import SystemClock
from .declaration.catalog import CheckReport, StreamCheck, StreamDescription, find_named
from .declaration.checks import check_options, check_read_arguments, check_source
from .declaration.settings import StreamOptions
from .destinations.base import Destination, Sink
from .errors import AsyncStreamsError, ConfigError
from .event_log.run_record import RunOrigin
from .events import Listener
from .execution.acknowledgement import Ack, open_pages
from .execution.read_handle import ReadHandle
from .execution.report import RunReport
from .execution.scheduler import OnError, Scheduler
from .extraction.extraction import Extraction
from .extraction.run_recording import listening, new_recording
from .extraction.run_scope import RangeBound, RunScope
from .extraction.signals import exit_on_signals
from .extraction.sink_loop import check_destination, extract_to_sink
from .http.send_options import check_transport_options
from .http.session import Session
from .models import Page, Record, key_paths
from .records.record_validation import load_schema
from .schemas.config_spec import check_config
from .state.airbyte_state import StateInput, select_states
from .state.state_file import State, select_stream
from .streams.http_stream import HttpStream, bind, client_for
from .streams.reader import ListenerList, Reader

PerStream: TypeAlias = Mapping[str, Any] | None
"""An argument for each stream, by its name."""


class Source:
    """A collection of streams of one API. Pass the streams, or subclass it with `spec` and `streams(config)`.

    `async with source:` keeps connections, tokens and observed limits from one read to the next. Without it, each
    read opens and closes a session of its own. A stream may belong to several Sources, which may read it at the same
    time.
    """

    spec: ClassVar[Mapping[str, Any] | None] = None
    """JSON schema of the configuration of a subclass; None: the configuration is not validated."""

    def __init__(
        self,
        given: Iterable[HttpStream] | Mapping[str, Any] | None = None,
        /,
        *more: HttpStream,
        **options: Unpack[StreamOptions],
    ) -> None:
        class_name = type(self).__name__
        if more:
            raise ConfigError(f"{class_name}: expected a list of streams", hint="write Source([a, b])")
        check_source(type(self), Source, StreamOptions.__annotations__)
        check_options(type(self), options, StreamOptions.__annotations__)
        self._streams = _streams_by_name(class_name, self._make_streams(given))
        own = {name: getattr(self, name) for name in StreamOptions.__annotations__ if hasattr(type(self), name)}
        self._options = _resolve_run_options(class_name, {**own, **options}, self._streams.values())
        check_transport_options(class_name, options, self._options.get("transport"))
        members = [stream.own_reader for stream in _with_parents(self) if hasattr(stream, "own_reader")]
        self._reader = Reader(self._new_session, self._options, self, members)
        self._listeners = ListenerList()
        self._exit_stacks: WeakKeyDictionary[asyncio.AbstractEventLoop, list[AsyncExitStack]] = WeakKeyDictionary()

    def streams(self, config: Mapping[str, Any]) -> Iterable[HttpStream]:
        """Create the streams for a configuration that is valid for `spec`. Subclasses override it."""
        raise ConfigError(
            f"{type(self).__name__}.streams is missing",
            hint="pass a list of streams, Source([Orders(), Customers()]), or add `def streams(self, config)`",
        )

    async def check(self, *names: str) -> CheckReport:
        """Check the availability of all streams, or of the named ones, with one request each. Raises ConfigError."""
        streams = bind(self._select_streams(names), self._reader)
        async with self._lease():
            return CheckReport(tuple([await self._check_stream(stream) for stream in streams]))

    async def discover(self) -> dict[str, StreamDescription]:
        """The schema and primary key of each stream, by name. Raises ConfigError for an invalid schema."""
        descriptions: dict[str, StreamDescription] = {}
        streams = bind(self._select_streams(()), self._reader)
        async with self._lease():
            for stream in streams:
                schema = await load_schema(stream)
                descriptions[stream.name] = StreamDescription(
                    stream.name, None if schema is None else deepcopy(schema.json), key_paths(stream.primary_key)
                )
        return descriptions

    def pages(
        self,
        *names: str,
        limit: int | None = None,
        slices: PerStream = None,
        state: StateInput = None,
        on_error: OnError = "continue",
        ack: Ack = "auto",
    ) -> ReadHandle[Page]:
        """The pages of all streams, or of the named ones, read concurrently.

        `limit` bounds the number of records of each stream. `slices` and `state` map stream names to the arguments of
        `HttpStream.pages`; `state` may also be a State, or state messages of Airbyte. `on_error` and `ack` are those of
        `HttpStream.pages`.

        A stream that is unavailable is skipped with a warning and listed in `unavailable` of the returned handle.
        Raises StreamUnavailable if no stream is available, and the errors of `HttpStream.pages`.
        """
        streams = bind(self._select_streams(names), self._reader)
        max_concurrency = self._options.get("max_concurrency", HttpStream.max_concurrency)
        check_read_arguments(type(self).__name__, limit, on_error, max_concurrency)
        self._check_per_stream("slices", slices)
        if not isinstance(state, State):
            state = cast(PerStream, select_states(self._streams, state))
            self._check_per_stream("state", state)
        slices_of, state_of = slices or {}, cast(Mapping[str, Any], state or {})
        selections = [
            select_stream(
                stream,
                slices_of.get(stream.name),
                state if isinstance(state, State) else state_of.get(stream.name),
                limit,
            )
            for stream in streams
        ]
        scheduler = Scheduler(selections, client_for, max_concurrency, stop_on_error=on_error == "stop")
        return ReadHandle("pages", scheduler, partial(self._open_pages, state=state, ack=ack))

    async def read(
        self,
        *names: str,
        limit: int | None = None,
        slices: PerStream = None,
        state: StateInput = None,
        on_error: OnError = "continue",
    ) -> dict[str, list[Record]]:
        """The records of each stream as a list, by name, for small streams. Omits unavailable streams. See `pages`."""
        handle = self.pages(*names, limit=limit, slices=slices, state=state, on_error=on_error, ack="manual")
        acks: list[Callable[[], None]] = []
        records: dict[str, list[Record]] = {stream.name: [] for stream in self._select_streams(names)}
        async with handle as pages:
            async for page in pages:
                records[page.stream] += page.records
                acks.append(page.ack)
            for ack in acks:
                ack()
        return {name: rows for name, rows in records.items() if name not in handle.unavailable}

    async def extract(
        self,
        *names: str,
        to: Destination | Sink,
        limit: int | None = None,
        slices: PerStream = None,
        since: RangeBound = None,
        until: RangeBound = None,
        refresh: Collection[str] = (),
        state: State | None = None,
        on_error: OnError = "continue",
        require: Sequence[str] = (),
        event_log: bool | RunOrigin = True,
    ) -> RunReport:
        """Write all streams, or the named ones, to a destination, such as `to=JsonLines("out/")`, or to a Sink.

        A destination stores each record exactly once, even if the process is killed: records and progress are
        committed together, and the next `extract` to the same destination resumes after the last commit. A Sink
        receives each page at least once, and `state` advances after the sink has accepted the page.

        `limit` and `slices` are those of `pages`. A run that they narrow moves no state and finishes no replacement, so
        the next run reads the same records again. It writes what it reads if that can be repeated: into a stream that
        has no other rows, which the next run removes, or as upserts. With `since` (inclusive) and
        `until` (exclusive) streams with a cursor are read between these values only, as far as they have not been read,
        and only that is marked as read. The streams in `refresh` are read from the beginning; their earlier rows stay
        visible until they are complete.

        `require` are thresholds, such as "orders.records >= 0.9 * last": a run that misses one raises ThresholdMissed
        when everything is committed. With `event_log`, `record` of the report says what the run did over time and what
        limited it. A destination stores the records of its last 100 runs; see `Destination.runs`. A RunOrigin adds how
        the run was started.

        SIGTERM ends the run in an orderly way, with exit code 143, unless the program handles that signal. Raises the
        errors of `pages`, OutputLocked, OutputMissing, OutputWriteError, StateCorrupt, StateIncompatible and
        ThresholdMissed.
        """
        class_name = type(self).__name__
        self._check_per_stream("slices", slices)
        given = {name: value for name, value in (slices or {}).items() if value is not None}
        scope = RunScope(limit, given, since, until, refresh)
        check_destination(class_name, to, state, scope)
        streams = bind(self._select_streams(names), self._reader)
        clock = self._options.get("clock") or SystemClock()
        scope.check(class_name, streams)
        is_whole = not scope.is_partial and len(streams) == len(self)
        recording = new_recording(self, to, streams, clock, require=require, event_log=event_log, is_whole=is_whole)
        if not isinstance(to, Destination):
            pages = self.pages(*names, limit=limit, slices=slices, state=state, on_error=on_error, ack="manual")
            with listening(recording, self.subscribe):
                return await extract_to_sink(to, pages, recording)
        max_concurrency = self._options.get("max_concurrency", HttpStream.max_concurrency)
        check_read_arguments(class_name, limit, on_error, max_concurrency)
        async with self._lease():
            extraction = Extraction(to, streams, clock, scope, recording)
            run = partial(extraction.run, client_for, max_concurrency, stop_on_error=on_error == "stop")
            with listening(recording, self.subscribe):
                return await exit_on_signals(run)

    def clear_cache(self, *names: str) -> None:
        """Delete the cached records of all streams with `use_cache`, or of the named ones, and of their parents."""
        for stream in bind(_with_parents(self._select_streams(names)), self._reader):
            if stream.use_cache:
                stream.clear_cache()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event of all streams; returns a function that removes it."""
        return self._listeners.add(listener)

    def __getitem__(self, name: str) -> HttpStream:
        return find_named(self._streams, name, type(self).__name__)

    def __contains__(self, stream: object) -> bool:
        return stream in self._streams if isinstance(stream, str) else stream in self._streams.values()

    def __iter__(self) -> Iterator[HttpStream]:
        return iter(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._lease())
            self._exit_stacks.setdefault(asyncio.get_running_loop(), []).append(stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit_stacks[asyncio.get_running_loop()].pop().aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._streams)}>"

    def _make_streams(self, given: Iterable[HttpStream] | Mapping[str, Any] | None) -> Iterable[HttpStream]:
        class_name = type(self).__name__
        if type(self).streams is not Source.streams:
            if given is not None and not isinstance(given, Mapping):
                raise ConfigError(
                    f"{class_name}: expected a configuration, since the class defines streams(config)",
                    hint=f'pass a mapping such as {class_name}({{"token": "..."}})',
                )
            config = cast(Mapping[str, Any], given or {})
            check_config(class_name, self.spec, config)
            return self.streams(config)
        if given is None or isinstance(given, Mapping):
            return self.streams({})
        return given

    def _select_streams(self, names: Iterable[str]) -> list[HttpStream]:
        if not hasattr(self, "_streams"):
            raise ConfigError(
                f"{type(self).__name__}.__init__ does not call super().__init__",
                hint="start it with super().__init__(config, **options)",
            )
        streams = [self[name] for name in names]
        return list(dict.fromkeys(streams)) or list(self)

    async def _check_stream(self, stream: HttpStream) -> StreamCheck:
        try:
            available, reason = await stream.check_availability(self)
            schema = await load_schema(stream) if available else None
        except AsyncStreamsError as error:
            return StreamCheck(stream.name, False, str(error), None, failed=True)
        except Exception as error:  # from a hook of this stream; the other streams are still checked
            return StreamCheck(
                stream.name, False, f"one of its hooks raised {type(error).__name__}: {error}", None, True
            )
        return StreamCheck(stream.name, available, reason, schema is not None if available else None)

    def _new_session(self) -> Session:
        clock = self._options.get("clock") or SystemClock()
        return Session(clock, Random(self._options.get("seed")), self._listeners)

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[None]:
        """Hold the session of the running loop open for all streams."""
        with self._reader.joined():
            async with self._reader.sessions.lease():
                yield

    def _check_per_stream(self, argument: str, value: object) -> None:
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(
                f"{type(self).__name__}: {argument} is of type {type(value).__name__}, not a mapping of stream names",
                hint=f'for example {argument}={{"{next(iter(self._streams))}": ...}}',
            )
        for name in cast(Mapping[str, Any], value or {}):
            self[name]  # raises for unknown names

    @asynccontextmanager
    async def _open_pages(
        self, scheduler: Scheduler, *, state: StateInput, ack: Ack
    ) -> AsyncGenerator[AsyncIterator[Page]]:
        clock = self._options.get("clock") or SystemClock()
        async with self._lease(), open_pages(scheduler, state, ack, clock) as pages:
            yield pages


def _with_parents(streams: Iterable[HttpStream]) -> list[HttpStream]:
    """The streams and all their ancestors, each once."""
    found = list(streams)
    for stream in found:  # the list grows during the iteration
        found += [parent for parent in stream.declared_parents if all(parent is not known for known in found)]
    return found


def _streams_by_name(class_name: str, streams: object) -> dict[str, HttpStream]:
    """The streams by name. Raises ConfigError for other objects, for duplicate names, and if there are no streams."""
    found: dict[str, HttpStream] = {}
    hint = "pass a list of streams, Source([Orders(), Customers()]), or return one from streams(config)"
    if inspect.iscoroutine(streams):
        streams.close()
        raise ConfigError(
            f"{class_name}.streams is async: expected a plain method, which does no I/O",
            hint="send requests from an async stream_slices or get_json_schema of a stream",
        )
    if not isinstance(streams, Iterable) or isinstance(streams, type):
        kind = streams.__name__ if isinstance(streams, type) else type(streams).__name__
        raise ConfigError(f"{class_name}: {kind} is not a list of streams", hint=hint)
    for stream in cast(Iterable[object], streams):
        if not isinstance(stream, HttpStream):
            kind = stream.__name__ if isinstance(stream, type) else type(stream).__name__
            example = f"{kind}(...)" if isinstance(stream, type) else "Source([Orders(), Customers()])"
            raise ConfigError(f"{class_name}: {kind} is not a stream", hint=f"write {example}")
        if stream.name in found:
            raise ConfigError(
                f"{class_name} has two streams named {stream.name!r}", hint="set the `name` of one of them"
            )
        found[stream.name] = stream
    if not found:
        raise ConfigError(f"{class_name} has no streams", hint=hint)
    return found


def _declares(stream: HttpStream, option: str) -> bool:
    """Whether a stream, or one of the author's classes, sets an option."""
    classes = type(stream).__mro__[: type(stream).__mro__.index(HttpStream)]
    return option in vars(stream) or any(option in vars(class_) for class_ in classes)


def _resolve_run_options(class_name: str, options: dict[str, Any], streams: Iterable[HttpStream]) -> dict[str, Any]:
    """The options of a run, with the clock and the seed that its streams may declare. Raises ConfigError."""
    for name in ("clock", "seed"):
        values = [getattr(stream, name) for stream in streams if _declares(stream, name)]
        values = [options[name], *values] if name in options else values
        if any(value is not values[0] and value != values[0] for value in values):
            raise ConfigError(
                f"{class_name}: the streams declare different values of {name}, but a run has only one",
                hint=f"pass {name} to the Source, and remove it from the streams",
            )
        if values:
            options[name] = values[0]
    return options
