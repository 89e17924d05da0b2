"""Coordination of parent and child streams within one run: parent logs, their writers and readers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import anyio

from .._json import encode
from ..auth.identity import NotFingerprintable
from ..cursors.durations import parse_duration
from ..errors import ConfigError, LocalError
from ..models import Page, Record
from ..parents.fingerprint import fingerprint, process_fingerprint
from ..parents.log import ParentLog, merge_pages
from ..parents.log_file import CacheDir, LogFile, resolve_cache_dir
from ..parents.projection import decoder_for
from ..protocols import Stream
from ..records.json_lines import EncodedLines, encoding_error
from ..state.compatibility import identity_of
from ..state.stream_selection import StreamSelection, state_of
from ..state.stream_state import StreamState, empty_state
from ..storage.framing import CorruptData, LogFooter
from .page_queue import PageQueueSender
from .slots import Slot

_log = logging.getLogger("asyncstreams")


class ParentFeed:
    """The parent records that one substream reads in one run."""

    def __init__(self, stream: Stream, parents: Sequence[tuple[Stream, ParentLog]]) -> None:
        self._logs = [log for _, log in parents]
        self._updated = asyncio.Event()
        self._readers = [
            log.add_reader(decoder_for(parent.name, stream.parent_fields), self._updated) for parent, log in parents
        ]
        self._name = stream.name
        self._parents = parents
        self._reported = -1, False

    @property
    def incomplete_parents(self) -> list[Stream]:
        """The parents that ended without being read completely."""
        return [parent for parent, log in self._parents if log.is_closed and not log.is_complete]

    @property
    def has_update(self) -> bool:
        """Whether the parent count or its completeness changed since `mark_reported`."""
        return self._reported != (self.parent_count, self.is_complete)

    def mark_reported(self) -> None:
        self._reported = self.parent_count, self.is_complete

    @property
    def parent_count(self) -> int:
        """The number of parent records known so far."""
        return sum(log.records for log in self._logs)

    @property
    def is_complete(self) -> bool:
        """Whether all parents were read completely."""
        return all(log.is_complete for log in self._logs)

    async def read_pages(self) -> AsyncGenerator[tuple[int, list[Record]]]:
        """Yield pages of parent records, each with the index of the parent stream. Raises LocalError."""
        try:
            async with aclosing(merge_pages(self._readers, self._updated)) as pages:
                async for page in pages:
                    yield page
        except (OSError, CorruptData) as error:
            raise LocalError(f"{self._name}: cannot read its parent records from disk: {error}") from error

    def close(self) -> None:
        """Stop reading."""
        for reader in self._readers:
            reader.close()


class ParentPageSender:
    """Writes the pages of a parent into its log and, if the parent itself was requested, sends them to the consumer."""

    replays_delivered = True

    def __init__(
        self, writer: ParentWriter, consumer: PageQueueSender | None, limit: int | None, *, on_demand: bool
    ) -> None:
        self.log, self.children_state, self._consumer, self._remaining = (
            writer.log,
            writer.children_state,
            consumer,
            limit,
        )
        self._on_demand, self._is_cached = on_demand, writer.cache is not None

    @property
    def has_demand(self) -> bool:
        """Whether the consumer, a child or the cache needs another page."""
        if self._consumer is not None and (self._remaining is None or self._remaining > 0):
            return True
        return self._is_cached or self.log.has_readers

    async def wait_for_capacity(self) -> None:
        if self._consumer is not None and self._remaining != 0:
            await self._consumer.wait_for_capacity()

    async def put_already_delivered(self, page: Page) -> None:
        """Log a page that an earlier run delivered: only the children need it."""
        await self._append(page)

    async def _append(self, page: Page) -> None:
        if page.records:
            # As JSON: the consumer may change its records, but children get them unchanged.
            records: object = page.records
            try:
                text = records.to_json_array() if isinstance(records, EncodedLines) else encode(records)
            except TypeError as error:
                failure = encoding_error(error, page.records).locate(stream=page.stream, page=page.number)
                raise failure from None
            await self.log.append(text, len(page.records))

    async def put(self, page: Page, size: int, on_delivered: Callable[[Page], None]) -> None:
        await self._append(page)
        if self._consumer is None:
            on_delivered(page)
            return
        if self._remaining == 0:
            return
        if self._remaining is not None:
            page = page.truncate(self._remaining)
            self._remaining -= len(page.records)
        await self._consumer.put(page, size, on_delivered)

    async def wait_for_demand(self, slot: Slot) -> None:
        """Wait, without a slot, until the children have caught up or, with a record limit, need more."""
        if self._on_demand and not self._remaining:
            slot.release()
            await self.log.wait_for_demand()
        elif not self.log.has_capacity:
            slot.release()
            await self.log.wait_for_capacity()


class ParentWriter(NamedTuple):
    """A stream that is written to a log. `children_state` is its state as its children keep it."""

    selection: StreamSelection
    log: ParentLog
    cache: CachedLog | None
    children_state: StreamState | None


class ParentCoordinator:
    """Adds the parents to the streams of a run, so that each parent is read once.

    Children that need all records of a parent share one read of it. So do children that need its new records since
    the same state. If the parent itself was requested with the same state, they share that read too.
    """

    def __init__(self, selections: Sequence[StreamSelection]) -> None:
        self.selections = list(selections)
        self._writers: dict[int, ParentWriter] = {}
        self._cached_logs: dict[int, ParentLog] = {}
        self._feeds: dict[int, ParentFeed] = {}
        self._incremental_parents: dict[int, dict[str, ParentWriter]] = {}
        self._fingerprints: dict[int, str | None] = {}
        self._caches: dict[int, CachedLog | None] = {}
        self._has_limit = any(selection.limit is not None for selection in selections)

    @asynccontextmanager
    async def resolve_parents(self) -> AsyncGenerator[None]:
        """Find all parents on entry, close their logs on exit. Raises ConfigError."""
        try:
            # Those that need only new parents first: in a first run, others can share their read.
            pending = deque(sorted(self.selections, key=lambda selection: not selection.stream.incremental_dependency))
            while pending:
                before = len(self.selections)
                await self._connect_parents(pending.popleft())
                pending += self.selections[before:]
            yield
        finally:
            for log in (*(writer.log for writer in self._writers.values()), *self._cached_logs.values()):
                log.close()

    def feed_for(self, selection: StreamSelection) -> ParentFeed | None:
        return self._feeds.get(id(selection))

    def parent_states(self, selection: StreamSelection) -> dict[str, StreamState]:
        """The states of the parents that a stream reads incrementally, by name."""
        found: dict[str, StreamState] = {}
        for name, writer in self._incremental_parents.get(id(selection), {}).items():
            assert writer.children_state is not None
            found[name] = writer.children_state.copy()
            found[name].parents = self.parent_states(writer.selection)
        return found

    def sender_for(
        self, selection: StreamSelection, add_sender: Callable[[float], PageQueueSender]
    ) -> PageQueueSender | ParentPageSender:
        """The sender for the pages of a stream."""
        sender = add_sender(selection.stream.weight)
        writer = self._writers.get(id(selection))
        if writer is None:
            return sender
        consumer = sender if selection.is_emitted else None
        return ParentPageSender(writer, consumer, selection.limit, on_demand=self._has_limit)

    def max_records(self, selection: StreamSelection) -> int | None:
        """The record limit of a stream; a parent in a limited run is read on demand instead."""
        if id(selection) in self._writers and self._has_limit:
            return sys.maxsize
        return selection.limit

    async def finish(self, selection: StreamSelection, *, is_complete: bool) -> None:
        """End the log of a stream that was read, completely or not."""
        if (writer := self._writers.get(id(selection))) is None:
            return
        if is_complete:
            await writer.log.finish(None if writer.cache is None else writer.cache.store)
        else:
            writer.log.abort()

    def close_stream(self, selection: StreamSelection) -> None:
        """End the log of a stream and its own feed, whatever the outcome."""
        if (writer := self._writers.get(id(selection))) is not None:
            writer.log.abort()
        if (feed := self.feed_for(selection)) is not None:
            feed.close()

    async def _connect_parents(self, selection: StreamSelection) -> None:
        stream = selection.stream
        if stream.use_cache and id(selection) not in self._writers and selection.reads_everything:
            await self._add_writer(selection)
        if stream.parents and selection.slices is None:
            logs = [(parent, await self._log_for(parent, selection)) for parent in stream.parents]
            self._feeds[id(selection)] = ParentFeed(stream, logs)

    async def _log_for(self, parent: Stream, child: StreamSelection) -> ParentLog:
        """The log of a parent: of a stream of this run, from the cache, or of a parent that is added to the run."""
        required = _required_state(child, parent)
        for selection in self.selections:
            is_equivalent = selection.stream is parent or self._are_equivalent(selection.stream, parent)
            if not is_equivalent and selection.stream.name == parent.name:
                raise ConfigError(
                    f"two different streams named {parent.name!r} in one run: one of them is a parent",
                    hint="give one of them another `name`, or use the same stream for both",
                )
            if is_equivalent and _satisfies(selection, required, has_state_store=child.has_state_store):
                return (await self._writer_for(selection, child, required)).log
        if required is not None:
            hidden = StreamSelection(
                parent,
                None,
                required.copy(),
                None,
                is_emitted=False,
                replaces_surrogates=child.replaces_surrogates,
                feeds_children=child.has_state_store,
            )
        else:
            if id(parent) in self._cached_logs:
                return self._cached_logs[id(parent)]
            hidden = StreamSelection(
                parent,
                None,
                state_of(parent, None),
                None,
                is_emitted=False,
                replaces_surrogates=child.replaces_surrogates,
            )
            if parent.use_cache and (cached := await self._find_cached(parent)) is not None:
                self._cached_logs[id(parent)] = cached
                return cached
        self.selections.append(hidden)
        return (await self._writer_for(hidden, child, required)).log

    async def _writer_for(
        self, parent: StreamSelection, child: StreamSelection, required: StreamState | None
    ) -> ParentWriter:
        """The writer of a parent, which also tracks the state that the child keeps of it."""
        writer = self._writers.get(id(parent)) or await self._add_writer(parent)
        if required is not None and child.has_state_store:
            if writer.children_state is None:
                writer = self._writers[id(parent)] = writer._replace(children_state=required.copy())
            self._incremental_parents.setdefault(id(child), {})[parent.stream.name] = writer
        return writer

    async def _add_writer(self, selection: StreamSelection) -> ParentWriter:
        stream = selection.stream
        cache: CachedLog | None = None
        if stream.use_cache and selection.reads_everything and not self._has_limit:
            cache = await self._cache_for(stream)
        log = (
            ParentLog(LogFile.create_temporary, _warn_once(stream.name))
            if cache is None
            else ParentLog(cache.open, cache.warn)
        )
        writer = self._writers[id(selection)] = ParentWriter(selection, log, cache, None)
        return writer

    async def _cache_for(self, stream: Stream) -> CachedLog | None:
        """The cache entry of a stream; None, with a warning, if it cannot be cached."""
        if id(stream) not in self._caches:
            self._caches[id(stream)] = await self._open_cache(stream)
        return self._caches[id(stream)]

    async def _open_cache(self, stream: Stream) -> CachedLog | None:
        try:
            return await anyio.to_thread.run_sync(CachedLog, stream)
        except NotFingerprintable as error:
            _log.warning("%s is not cached: it has no stable fingerprint: %s", stream.name, error)
        except OSError as error:
            _warn_once(stream.name)(error)
        return None

    async def _find_cached(self, stream: Stream) -> ParentLog | None:
        cache = await self._cache_for(stream)
        if cache is None:
            return None
        try:
            found = await anyio.to_thread.run_sync(cache.find)
        except OSError as error:
            cache.warn(error)
            return None
        return None if found is None else ParentLog.from_file(*found)

    def _are_equivalent(self, first: Stream, second: Stream) -> bool:
        if type(first) is not type(second) or first.name != second.name:
            return False
        key = self._fingerprint(first)
        return key is not None and key == self._fingerprint(second)

    def _fingerprint(self, stream: Stream) -> str | None:
        if id(stream) not in self._fingerprints:
            try:
                self._fingerprints[id(stream)] = process_fingerprint(stream)
            except NotFingerprintable:
                self._fingerprints[id(stream)] = None
        return self._fingerprints[id(stream)]


def _required_state(child: StreamSelection, parent: Stream) -> StreamState | None:
    """The parent state after which a child needs new records; None if it needs all records."""
    if not child.stream.incremental_dependency or not isinstance(child.state, StreamState):
        return None
    required = child.state.parents.get(parent.name) or empty_state(identity_of(parent))
    if required and child.stream.parent_lookback is not None:
        if not required.cursor.is_time:
            raise ConfigError(
                f"{type(child.stream).__name__}.parent_lookback: the cursor of parent {parent.name!r} is a number",
                hint="remove parent_lookback, which is a duration",
            ).locate(stream=child.stream.name)
        required = required.copy()
        required.rewind(required.cursor.distance(parent_lookback_of(child.stream)))
    return required if child.has_state_store or required else None


def parent_lookback_of(stream: Stream) -> timedelta:
    """`parent_lookback` as a timedelta; 0 if it is None. Raises ValueError, TypeError and OverflowError."""
    lookback = stream.parent_lookback
    if lookback is None or isinstance(lookback, timedelta):
        return lookback or timedelta(0)
    duration = parse_duration(lookback)
    if duration.months:
        raise ValueError("months have no fixed length")
    return duration.mean_length


def _satisfies(parent: StreamSelection, required: StreamState | None, *, has_state_store: bool) -> bool:
    """Whether reading this selection of a parent yields the records that a child needs."""
    only_new = parent.has_state_store and bool(parent.stream.cursor_field)
    if required is None:
        # Before the first read, what is new is everything.
        return not parent.state or (not only_new and parent.is_emitted)
    if only_new != has_state_store or (parent.is_emitted and not has_state_store):
        return False
    return isinstance(parent.state, StreamState) and parent.state.is_equivalent(required)


class CachedLog:
    """The cached log of one stream between runs. Blocking. Raises OSError, NotFingerprintable and ConfigError."""

    def __init__(self, stream: Stream) -> None:
        self.warn = _warn_once(stream.name)
        self._clock, self._ttl = stream.clock, stream.cache_ttl
        self._folder = CacheDir(resolve_cache_dir(stream.cache_dir))
        self.path: Path = self._folder.log_path(
            stream.cache_filename or stream.name, fingerprint(stream, self._folder.load_or_create_salt())
        )
        self._created_at = self._clock.wall()

    def find(self) -> tuple[LogFile, int, LogFooter] | None:
        return self._folder.find(self.path, self._clock.wall(), self._ttl)

    def open(self) -> LogFile:
        """A file for a new log; a temporary one if the cache folder is not writable."""
        try:
            return self._folder.create_partial(self.path, self._created_at, self._clock.wall())
        except OSError as error:
            self.warn(error)
            return LogFile.create_temporary()

    def store(self, file: LogFile, counts: LogFooter) -> None:
        if file.path is not None:
            file.finalize(self.path, counts)

    def clear(self) -> None:
        self._folder.clear(self.path)


def _warn_once(name: str) -> Callable[[OSError], None]:
    """A callback that logs the first disk error only, since later ones follow from it."""
    warned: list[OSError] = []

    def warn(error: OSError) -> None:
        if not warned:
            warned.append(error)
            _log.warning(
                "%s: its records cannot be written to disk for its substreams (%s); the run continues without",
                name,
                error,
            )

    return warn
