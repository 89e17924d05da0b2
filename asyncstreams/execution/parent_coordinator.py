"""Which parents does a run read, who writes down what they say, and who reads that?"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import anyio

from .._json import encode
from ..auth.identity import NotFingerprintable
from ..errors import ConfigError, LocalError
from ..models import Page, Record
from ..parents.cache_dir import CacheDir, cache_folder
from ..parents.fingerprint import fingerprint
from ..parents.log import ParentLog, pages_of
from ..parents.log_file import LogFile
from ..parents.projection import decode_of
from ..protocols import Stream
from ..records.json_lines import EncodedLines
from ..state.compatibility import identity_of
from ..state.stream_selection import StreamSelection, state_of
from ..state.stream_state import StreamState, empty_state
from ..storage.framing import CorruptData, LogFooter
from .page_queue import PageQueueSender
from .slots import Slot

_log = logging.getLogger("asyncstreams")
_feed: ContextVar[tuple[object, ParentFeed | None]] = ContextVar("feed")


def feed_of(stream: object) -> ParentFeed | None:
    """What the run, of which the caller is a part, gives a substream of its parents; None outside of a run."""
    of, feed = _feed.get((None, None))
    return feed if of is stream else None


class ParentFeed:
    """What one substream reads of its parents in one run."""

    def __init__(self, stream: Stream, parents: Sequence[tuple[Stream, ParentLog]]) -> None:
        self._logs = [log for _, log in parents]
        self._news = asyncio.Event()
        self._readers = [
            log.reader(decode_of(stream.name, parent.name, stream.parent_fields), self._news) for parent, log in parents
        ]
        self._name = stream.name
        self._parents = parents
        self._told = -1, False

    @property
    def missing(self) -> list[Stream]:
        """The parents that have ended, and not with all there is."""
        return [parent for parent, log in self._parents if log.is_closed and not log.is_complete]

    def is_news(self) -> bool:
        """Whether more is known than when it was asked last."""
        before, self._told = self._told, (self.known, self.is_all)
        return self._told != before

    @property
    def known(self) -> int:
        """How many parents there are, as far as is known."""
        return sum(log.records for log in self._logs)

    @property
    def is_all(self) -> bool:
        """Whether there are no more."""
        return all(log.is_complete for log in self._logs)

    async def parents(self) -> AsyncGenerator[tuple[int, list[Record]]]:
        """Their records, page by page, each with the number of its parent. Raises LocalError."""
        try:
            async with aclosing(pages_of(self._readers, self._news)) as pages:
                async for page in pages:
                    yield page
        except (OSError, CorruptData) as error:
            raise LocalError(f"{self._name}: what its parents said cannot be read any more: {error}") from error

    def close(self) -> None:
        """It reads no more."""
        for reader in self._readers:
            reader.close()


class ParentPageSender:
    """The way of a parent's pages: into its log, and to the consumer where it is read for itself too."""

    wants_known = True

    def __init__(
        self, writer: ParentWriter, emitted: PageQueueSender | None, limit: int | None, *, on_demand: bool
    ) -> None:
        self.log, self.carried, self._emitted, self._left = writer.log, writer.carried, emitted, limit
        self._on_demand, self._kept = on_demand, writer.keeping is not None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody wants another page."""
        if self._emitted is not None and (self._left is None or self._left > 0):
            return True
        return self._kept or self.log.is_wanted

    async def room(self) -> None:
        if self._emitted is not None and self._left != 0:
            await self._emitted.room()

    async def put_known(self, page: Page) -> None:
        """A page that was handed over in an earlier run: its children have it now."""
        if page.records:
            # As JSON: the consumer may change its records, and children see them as they came.
            records: object = page.records
            text = records.as_array() if isinstance(records, EncodedLines) else encode(records)
            await self.log.append(text, len(page.records))

    async def put(self, page: Page, size: int, handed: Callable[[Page], None]) -> None:
        await self.put_known(page)
        if self._emitted is None:
            handed(page)
            return
        if self._left == 0:
            return
        if self._left is not None:
            page = page.cut(self._left)
            self._left -= len(page.records)
        await self._emitted.put(page, size, handed)

    async def next_may_come(self, place: Slot) -> None:
        """Wait, without a place, until the children are near enough, or ask for more."""
        if self._on_demand and not self._left:
            place.give()
            await self.log.demand()
        elif not self.log.has_room:
            place.give()
            await self.log.room()


class ParentWriter(NamedTuple):
    """A stream whose records are written down; `carried` is its state as its children will keep it."""

    selected: StreamSelection
    log: ParentLog
    keeping: CachedLog | None
    carried: StreamState | None


class ParentCoordinator:
    """The streams of one run with all their parents, each of which is read once.

    Children that want all of a parent share one reading of it, and so do those that want what is new since the same
    time; one that is read for itself is theirs too, where it is read from there.
    """

    def __init__(self, selected: Sequence[StreamSelection]) -> None:
        self.selected = list(selected)
        self._writers: dict[int, ParentWriter] = {}
        self._kept: dict[int, ParentLog] = {}
        self._feeds: dict[int, ParentFeed] = {}
        self._carrying: dict[int, dict[str, ParentWriter]] = {}
        self._keys: dict[int, str | None] = {}
        self._keepings: dict[int, CachedLog | None] = {}
        self._is_limited = any(one.limit is not None for one in selected)

    @asynccontextmanager
    async def gathered(self) -> AsyncGenerator[None]:
        """Find all parents, and let go of what was written down when the run is over. Raises ConfigError."""
        try:
            for one in self.selected:  # which grows meanwhile
                await self._gather(one)
            yield
        finally:
            for log in (*(writer.log for writer in self._writers.values()), *self._kept.values()):
                log.close()

    def here(self, selected: StreamSelection) -> None:
        """What the calling task, and those it starts, find of the parents of this stream."""
        _feed.set((selected.stream, self.feed(selected)))

    def feed(self, selected: StreamSelection) -> ParentFeed | None:
        return self._feeds.get(id(selected))

    def states_of_parents(self, selected: StreamSelection) -> dict[str, StreamState]:
        """The parents of which a stream reads only what is new: how far they have been read for it."""
        found: dict[str, StreamState] = {}
        for name, writer in self._carrying.get(id(selected), {}).items():
            assert writer.carried is not None
            found[name] = writer.carried.copy()
            found[name].parents = self.states_of_parents(writer.selected)
        return found

    def lane(
        self, selected: StreamSelection, make: Callable[[float], PageQueueSender]
    ) -> PageQueueSender | ParentPageSender:
        """Where the pages of a stream go."""
        lane = make(selected.stream.weight)
        writer = self._writers.get(id(selected))
        if writer is None:
            return lane
        emitted = lane if selected.is_emitted else None
        return ParentPageSender(writer, emitted, selected.limit, on_demand=self._is_limited)

    def most(self, selected: StreamSelection) -> int | None:
        """The records that are read of a stream, at most; a parent is read on demand, for its children."""
        if id(selected) in self._writers and self._is_limited:
            return sys.maxsize
        return selected.limit

    async def ended(self, selected: StreamSelection, *, is_complete: bool) -> None:
        """A stream has been read, to its end or not."""
        if (writer := self._writers.get(id(selected))) is None:
            return
        if is_complete:
            await writer.log.finish(None if writer.keeping is None else writer.keeping.keep)
        else:
            writer.log.end()

    def cut_off(self, selected: StreamSelection) -> None:
        """A stream's reading is over, however it ended; and it reads no more of its own parents."""
        if (writer := self._writers.get(id(selected))) is not None:
            writer.log.end()
        if (feed := self.feed(selected)) is not None:
            feed.close()

    async def _gather(self, selected: StreamSelection) -> None:
        stream = selected.stream
        if stream.use_cache and id(selected) not in self._writers and selected.reads_everything:
            await self._write(selected)
        if stream.parents and selected.slices is None:
            logs = [(parent, await self._log_of(parent, selected)) for parent in stream.parents]
            self._feeds[id(selected)] = ParentFeed(stream, logs)

    async def _log_of(self, parent: Stream, child: StreamSelection) -> ParentLog:
        """The log of a parent: of the stream that is read in this run, or of one that was kept, or a new one."""
        need = _need_of(child, parent)
        for one in self.selected:
            is_same = one.stream is parent or self._are_same(one.stream, parent)
            if not is_same and one.stream.name == parent.name:
                raise ConfigError(
                    f"two streams named {parent.name!r} are read at once: one of them is a parent",
                    hint="give one of them a `name` of its own, or use the same for both",
                )
            if is_same and _gives(one, need, is_kept=child.is_kept):
                return (await self._written(one, child, need)).log
        if need is not None:
            hidden = StreamSelection(parent, None, need.copy(), None, is_emitted=False, is_carried=child.is_kept)
        else:
            if id(parent) in self._kept:
                return self._kept[id(parent)]
            hidden = StreamSelection(parent, None, state_of(parent, None), None, is_emitted=False)
            if parent.use_cache and (kept := await self._found(parent)) is not None:
                self._kept[id(parent)] = kept
                return kept
        self.selected.append(hidden)
        return (await self._written(hidden, child, need)).log

    async def _written(self, parent: StreamSelection, child: StreamSelection, need: StreamState | None) -> ParentWriter:
        """A parent that is written down for a child, which may keep its state."""
        writer = self._writers.get(id(parent)) or await self._write(parent)
        if need is not None and child.is_kept:
            if writer.carried is None:
                writer = self._writers[id(parent)] = writer._replace(carried=need.copy())
            self._carrying.setdefault(id(child), {})[parent.stream.name] = writer
        return writer

    async def _write(self, selected: StreamSelection) -> ParentWriter:
        stream = selected.stream
        keeping: CachedLog | None = None
        if stream.use_cache and selected.reads_everything and not self._is_limited:
            keeping = await self._keeping(stream)
        log = (
            ParentLog(LogFile.temporary, _warn_once(stream.name))
            if keeping is None
            else ParentLog(keeping.open, keeping.warn)
        )
        writer = self._writers[id(selected)] = ParentWriter(selected, log, keeping, None)
        return writer

    async def _keeping(self, stream: Stream) -> CachedLog | None:
        """Where the log of a stream is kept; None, with a warning, where it cannot be."""
        if id(stream) not in self._keepings:
            self._keepings[id(stream)] = await self._made(stream)
        return self._keepings[id(stream)]

    async def _made(self, stream: Stream) -> CachedLog | None:
        try:
            return await anyio.to_thread.run_sync(CachedLog, stream)
        except NotFingerprintable as error:
            _log.warning("%s is not kept: nobody can tell whether %s", stream.name, error)
        except OSError as error:
            _warn_once(stream.name)(error)
        return None

    async def _found(self, stream: Stream) -> ParentLog | None:
        keeping = await self._keeping(stream)
        if keeping is None:
            return None
        try:
            found = await anyio.to_thread.run_sync(keeping.find)
        except OSError as error:
            keeping.warn(error)
            return None
        return None if found is None else ParentLog.kept(*found)

    def _are_same(self, one: Stream, other: Stream) -> bool:
        if type(one) is not type(other) or one.name != other.name:
            return False
        key = self._key(one)
        return key is not None and key == self._key(other)

    def _key(self, stream: Stream) -> str | None:
        if id(stream) not in self._keys:
            try:
                self._keys[id(stream)] = fingerprint(stream)
            except NotFingerprintable:
                self._keys[id(stream)] = None
        return self._keys[id(stream)]


def _need_of(child: StreamSelection, parent: Stream) -> StreamState | None:
    """Since when a child wants what is new of a parent; None: it wants all."""
    if not child.stream.incremental_dependency or not isinstance(child.state, StreamState):
        return None
    need = child.state.parents.get(parent.name) or empty_state(identity_of(parent))
    return need if child.is_kept or need else None


def _gives(one: StreamSelection, need: StreamState | None, *, is_kept: bool) -> bool:
    """Whether a reading of a parent gives what a child wants."""
    is_of_new = one.is_kept and bool(one.stream.cursor_field)
    if need is None:
        return not is_of_new and (one.is_emitted or not one.state)
    if is_of_new != is_kept or (one.is_emitted and not is_kept):
        return False
    return isinstance(one.state, StreamState) and one.state.is_as(need)


class CachedLog:
    """Where the log of one stream is kept between runs. Blocking. Raises OSError, Untold, ConfigError."""

    def __init__(self, stream: Stream) -> None:
        self.warn = _warn_once(stream.name)
        self._clock, self._ttl = stream.clock, stream.cache_ttl
        self._folder = CacheDir(cache_folder(stream.cache_dir))
        self.path: Path = self._folder.file(
            stream.cache_filename or stream.name, fingerprint(stream, self._folder.salt())
        )
        self._at = self._clock.wall()

    def find(self) -> tuple[LogFile, int, LogFooter] | None:
        return self._folder.find(self.path, self._clock.wall(), self._ttl)

    def open(self) -> LogFile:
        """A file for a new log; where it cannot be kept, one that is not."""
        try:
            return self._folder.partial(self.path, self._at, self._clock.wall())
        except OSError as error:
            self.warn(error)
            return LogFile.temporary()

    def keep(self, file: LogFile, counts: LogFooter) -> None:
        if file.path is not None:
            file.keep(self.path, counts)

    def clear(self) -> None:
        self._folder.clear(self.path)


def _warn_once(name: str) -> Callable[[OSError], None]:
    """Tells what is wrong with the disk; the first thing, since others follow from it."""
    told: list[OSError] = []

    def warn(error: OSError) -> None:
        if not told:
            told.append(error)
            _log.warning(
                "%s: what it says cannot be written down for its substreams (%s): the run goes on without", name, error
            )

    return warn
