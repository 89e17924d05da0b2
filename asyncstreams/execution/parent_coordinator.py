"""Coordination of parent and child streams within one run: parent logs, their writers and readers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import anyio

from .._json import encode
from ..auth.identity import NotFingerprintable
from ..cursors.durations import parse_duration
from ..declaration.stream import Stream
from ..errors import ConfigError, LocalError
from ..models import Page, Record
from ..parents.fingerprint import fingerprint, process_fingerprint
from ..parents.log import ParentLog, merge_pages
from ..parents.log_file import CacheDir, LogFile, resolve_cache_dir
from ..parents.projection import decoder_for
from ..records.json_lines import EncodedPage, encoding_error, page_counts
from ..state.compatibility import identity_of
from ..state.stream_selection import StreamSelection, state_of
from ..state.stream_state import StreamState, empty_state
from ..storage.framing import CorruptData, LogFooter
from .page_queue import PageQueue, PageQueueSender
from .slots import Slot

_log = logging.getLogger("asyncstreams")


class ParentFeed:
    """The parent records that one substream reads in one run."""

    def __init__(self, stream: Stream, parents: Sequence[tuple[Stream, ParentLog]]) -> None:
        self._logs = [log for _, log in parents]
        self._updated = asyncio.Event()
        self._readers = [
            log.add_reader(decoder_for(parent.name, stream.resolved.parent_fields), self._updated)
            for parent, log in parents
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
        self,
        log: ParentLog,
        consumer: PageQueueSender | None,
        limit: int | None,
        *,
        children_state: StreamState | None,
        on_demand: bool,
        is_cached: bool,
    ) -> None:
        self.log, self._consumer, self._remaining = log, consumer, limit
        self.children_state, self._on_demand, self._is_cached = children_state, on_demand, is_cached

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
        # As JSON: the consumer may change its records, but children get them unchanged.
        if isinstance(page, EncodedPage):
            if page.lines:
                await self.log.append(page.lines.to_json_array(), len(page.lines))
        elif page.records:
            try:
                text = encode(page.records)
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
            self._remaining -= page_counts(page)[0]
        await self._consumer.put(page, size, on_delivered)

    async def wait_for_demand(self, slot: Slot) -> None:
        """Wait, without a slot, until the children have caught up or, with a record limit, need more."""
        if self._on_demand and not self._remaining:
            slot.release()
            await self.log.wait_for_demand()
        elif not self.log.has_capacity:
            slot.release()
            await self.log.wait_for_capacity()


class StreamNode:
    """A stream of a run among its parents and children: the log that it writes, and the feed that it reads."""

    def __init__(self, selection: StreamSelection, *, is_limited_run: bool) -> None:
        self.selection, self._is_limited_run = selection, is_limited_run
        self.feed: ParentFeed | None = None
        """The records of its parents, if its slices are made from them."""
        self.log: ParentLog | None = None
        """The log of its records, if children or the cache need them."""
        self._cache: CachedLog | None = None
        self._children_state: StreamState | None = None
        self._incremental_parents: list[StreamNode] = []

    def write_to(self, log: ParentLog, cache: CachedLog | None) -> ParentLog:
        """Write the records of the stream into a log."""
        self.log, self._cache = log, cache
        return log

    def connect(self, feed: ParentFeed) -> None:
        """Read the slices of the stream from a feed of its parents."""
        self.feed = feed

    def add_incremental_parent(self, parent: StreamNode, state: StreamState) -> None:
        """Keep the state of a parent, which is read from `state` on, together with that of the stream."""
        if parent._children_state is None:
            parent._children_state = state.copy()
        if parent not in self._incremental_parents:
            self._incremental_parents.append(parent)

    def parent_states(self) -> dict[str, StreamState]:
        """The states of the parents that the stream reads incrementally, by name."""
        found: dict[str, StreamState] = {}
        for parent in self._incremental_parents:
            assert parent._children_state is not None
            state = found[parent.selection.stream.name] = parent._children_state.copy()
            state.parents = parent.parent_states()
        return found

    def sender_to(self, queue: PageQueue) -> PageQueueSender | ParentPageSender:
        """The sender for the pages of the stream."""
        selection = self.selection
        sender = queue.add_sender(selection.stream.resolved.weight)
        if self.log is None:
            return sender
        return ParentPageSender(
            self.log,
            sender if selection.is_emitted else None,
            selection.limit,
            children_state=self._children_state,
            on_demand=self._is_limited_run,
            is_cached=self._cache is not None,
        )

    @property
    def max_records(self) -> int | None:
        """The record limit of the stream; a parent in a limited run is read on demand instead."""
        return sys.maxsize if self.log is not None and self._is_limited_run else self.selection.limit

    async def finish(self, *, is_complete: bool) -> None:
        """End the log of a stream that was read, completely or not."""
        if self.log is not None and is_complete:
            await self.log.finish(None if self._cache is None else self._cache.store)
        elif self.log is not None:
            self.log.abort()

    def close(self) -> None:
        """End the log and the feed of the stream, whatever the outcome."""
        if self.log is not None:
            self.log.abort()
        if self.feed is not None:
            self.feed.close()


class ParentCoordinator:
    """Adds the parents to the streams of a run, so that each parent is read once.

    Children that need all records of a parent share one read of it. So do children that need its new records since
    the same state. If the parent itself was requested with the same state, they share that read too.
    """

    def __init__(self, selections: Sequence[StreamSelection]) -> None:
        self._is_limited = any(selection.limit is not None for selection in selections)
        self._nodes = [StreamNode(selection, is_limited_run=self._is_limited) for selection in selections]
        self._lookups: list[CacheLookup] = []

    @asynccontextmanager
    async def resolve_parents(self) -> AsyncGenerator[Sequence[StreamNode]]:
        """Find all parents on entry, and yield all streams; close their logs on exit. Raises ConfigError."""
        try:
            # Those that need only new parents first: in a first run, others can share their read.
            pending = deque(
                sorted(self._nodes, key=lambda node: not node.selection.stream.resolved.incremental_dependency)
            )
            while pending:
                before = len(self._nodes)
                await self._connect_parents(pending.popleft())
                pending += self._nodes[before:]
            yield self._nodes
        finally:
            logs = [node.log for node in self._nodes] + [lookup.log for lookup in self._lookups]
            for log in logs:
                if log is not None:
                    log.close()

    async def _connect_parents(self, node: StreamNode) -> None:
        selection, stream = node.selection, node.selection.stream
        if stream.resolved.use_cache and node.log is None and selection.reads_everything:
            await self._open_log(node)
        if stream.parents and selection.slices is None:
            node.connect(ParentFeed(stream, [(parent, await self._log_for(parent, node)) for parent in stream.parents]))

    async def _log_for(self, parent: Stream, child: StreamNode) -> ParentLog:
        """The log of a parent: of a stream of this run, from the cache, or of a parent that is added to the run."""
        selection = child.selection
        required = _required_state(selection, parent)
        for node in self._nodes:
            stream = node.selection.stream
            is_equivalent = stream is parent or self._are_equivalent(stream, parent)
            if not is_equivalent and stream.name == parent.name:
                raise ConfigError(
                    f"two different streams named {parent.name!r} in one run: one of them is a parent",
                    hint="give one of them another `name`, or use the same stream for both",
                )
            if is_equivalent and _satisfies(node.selection, required, has_state_store=selection.has_state_store):
                return await self._share_log(node, child, required)
        if required is None:
            lookup = self._lookup(parent)
            if parent.resolved.use_cache and (cached := await lookup.find_log()) is not None:
                return cached
        hidden = StreamSelection(
            parent,
            None,
            state_of(parent, None) if required is None else required.copy(),
            None,
            is_emitted=False,
            replaces_surrogates=selection.replaces_surrogates,
            feeds_children=required is not None and selection.has_state_store,
        )
        node = StreamNode(hidden, is_limited_run=self._is_limited)
        self._nodes.append(node)
        return await self._share_log(node, child, required)

    async def _share_log(self, parent: StreamNode, child: StreamNode, required: StreamState | None) -> ParentLog:
        """The log of a parent, which also tracks the state that the child keeps of it."""
        log = parent.log or await self._open_log(parent)
        if required is not None and child.selection.has_state_store:
            child.add_incremental_parent(parent, required)
        return log

    async def _open_log(self, node: StreamNode) -> ParentLog:
        stream = node.selection.stream
        cache: CachedLog | None = None
        if stream.resolved.use_cache and node.selection.reads_everything and not self._is_limited:
            cache = await self._lookup(stream).find_entry()
        if cache is None:
            return node.write_to(ParentLog(LogFile.create_temporary, _warn_once(stream.name)), None)
        return node.write_to(ParentLog(cache.open, cache.warn), cache)

    def _are_equivalent(self, first: Stream, second: Stream) -> bool:
        if type(first) is not type(second) or first.name != second.name:
            return False
        key = self._lookup(first).fingerprint
        return key is not None and key == self._lookup(second).fingerprint

    def _lookup(self, stream: Stream) -> CacheLookup:
        found = next((lookup for lookup in self._lookups if lookup.stream is stream), None)
        if found is None:
            found = CacheLookup(stream)
            self._lookups.append(found)
        return found


class CacheLookup:
    """What a run knows of the cache of one stream object: fingerprint, entry and log, each found once."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.log: ParentLog | None = None
        """The log of an earlier run, once it was found."""
        self._entry: CachedLog | None = None
        self._is_opened = False

    @cached_property
    def fingerprint(self) -> str | None:
        """The fingerprint of the stream; None if it has none."""
        try:
            return process_fingerprint(self.stream)
        except NotFingerprintable:
            return None

    async def find_entry(self) -> CachedLog | None:
        """The cache entry of the stream; None, with a warning, if it cannot be cached."""
        if not self._is_opened:
            self._entry, self._is_opened = await self._open_entry(), True
        return self._entry

    async def find_log(self) -> ParentLog | None:
        """The log of an earlier run; None without one."""
        if self.log is None and (entry := await self.find_entry()) is not None:
            try:
                found = await anyio.to_thread.run_sync(entry.find)
            except OSError as error:
                entry.warn(error)
            else:
                self.log = None if found is None else ParentLog.from_file(*found)
        return self.log

    async def _open_entry(self) -> CachedLog | None:
        try:
            return await anyio.to_thread.run_sync(CachedLog, self.stream)
        except NotFingerprintable as error:
            _log.warning("%s is not cached: it has no stable fingerprint: %s", self.stream.name, error)
        except OSError as error:
            _warn_once(self.stream.name)(error)
        return None


def _required_state(child: StreamSelection, parent: Stream) -> StreamState | None:
    """The parent state after which a child needs new records; None if it needs all records."""
    if not child.stream.resolved.incremental_dependency or not isinstance(child.state, StreamState):
        return None
    required = child.state.parents.get(parent.name) or empty_state(identity_of(parent))
    if required and child.stream.resolved.parent_lookback is not None:
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
    lookback = stream.resolved.parent_lookback
    if lookback is None or isinstance(lookback, timedelta):
        return lookback or timedelta(0)
    duration = parse_duration(lookback)
    if duration.months:
        raise ValueError("months have no fixed length")
    return duration.mean_length


def _satisfies(parent: StreamSelection, required: StreamState | None, *, has_state_store: bool) -> bool:
    """Whether reading this selection of a parent yields the records that a child needs."""
    only_new = parent.has_state_store and bool(parent.stream.resolved.cursor_field)
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
        self._clock, self._ttl = stream.resolved.clock, stream.resolved.cache_ttl
        self._folder = CacheDir(resolve_cache_dir(stream.resolved.cache_dir))
        self.path: Path = self._folder.log_path(
            stream.resolved.cache_filename or stream.name, fingerprint(stream, self._folder.load_or_create_salt())
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
