"""How do many read what one writes, from the first page on and while it grows, in flat memory?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeAlias

import anyio

from ..models import Record
from ..storage.framing import HEAD_SIZE, CorruptData, LogFooter, footer_frame, frame_length_at, iter_frames, page_frame
from .log_file import LogFile

_WRITTEN = 256 * 1024  # bytes that are written in one hop to a thread
_CHUNK = 1 << 20  # and that are read in one
_KEPT = 1 << 20  # bytes that stay in memory for those who keep up
_MOST_ON_DISK, _MOST_IN_MEMORY = 1 << 30, 32 << 20  # bytes by which the writer may be ahead of the slowest reader

Decode: TypeAlias = Callable[["bytes | memoryview[int]"], list[Record]]


class ParentLog:
    """The pages of one parent: one writer, and readers who each begin at the first page.

    Small logs never leave the memory. Larger ones go to a file, which is opened when it is needed; where
    it cannot be written, what is not in it stays in memory until everybody has read it, and the writer
    goes no faster than they.
    """

    def __init__(self, open_file: Callable[[], LogFile], warn: Callable[[OSError], None]) -> None:
        self._open_file, self._warn = open_file, warn
        self._file: LogFile | None = None
        self._base = 0  # where in the file the pages begin
        self._end = self._on_disk = 0
        self._tail: dict[int, bytes] = {}  # frames that are in memory, by where they begin
        self._tail_size = 0
        self._readers: dict[LogReader, None] = {}
        self._pages = 0
        self._is_writing = self._is_lost = False
        self._writer: asyncio.Event = asyncio.Event()
        self.records = 0
        """How many parents are known so far."""
        self.is_closed = False
        """Whether nothing more comes."""
        self.is_complete = False
        """Whether all there is has come."""
        self.is_checked = False
        """Whether the checksums of what is on disk have been looked at, when it was opened: once is enough."""

    @classmethod
    def kept(cls, file: LogFile, start: int, counts: LogFooter) -> ParentLog:
        """One that was found to be whole, by its checksums; its pages lie from `start` on, up to its end frame."""
        log = cls(_no_file, _ignore)
        log._file, log._base = file, start
        log._end = log._on_disk = file.size - start - _end_size(counts)
        log._pages, log.records = counts.pages, counts.records
        log.is_closed = log.is_complete = log.is_checked = True
        return log

    def reader(self, decode: Decode, news: asyncio.Event) -> LogReader:
        """Reads from the first page on; `news` is set when there may be more. All readers come before the writer."""
        reader = LogReader(self, decode, news)
        self._readers[reader] = None
        return reader

    def left(self, reader: LogReader) -> None:
        """Somebody reads no more."""
        self._readers.pop(reader, None)
        self.moved()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still reads."""
        return bool(self._readers)

    async def room(self) -> None:
        """Wait until the slowest reader is near enough."""
        while not self.has_room:
            self._writer.clear()
            await self._writer.wait()

    async def demand(self) -> None:
        """Wait until somebody has read all there is, or nobody reads."""
        while self._readers and not any(reader.is_hungry for reader in self._readers):
            self._writer.clear()
            await self._writer.wait()

    async def append(self, page: bytes, records: int) -> None:
        """A page of so many records, as a JSON array."""
        frame = page_frame(page)
        self._tail[self._end] = frame
        self._tail_size += len(frame)
        self._end += len(frame)
        self._pages += 1
        self.records += records
        self._tell()
        await self._write(_WRITTEN)
        self._trim()

    async def finish(self, keep: Callable[[LogFile, LogFooter], None] | None) -> None:
        """All has come. `keep` takes the file, in a thread, where it is to stay."""
        self.is_closed = self.is_complete = True
        self._tell()
        if keep is None or self._is_lost:
            return
        await self._write(0)
        if self._file is None or self._is_lost:
            return
        try:
            await anyio.to_thread.run_sync(keep, self._file, LogFooter(self._pages, self.records))
        except OSError as error:
            self._warn(error)

    def end(self) -> None:
        """Nothing more comes, though there may be more."""
        if not self.is_closed:
            self.is_closed = True
            self._tell()

    def close(self) -> None:
        """Let go of the file: what was not kept is gone."""
        self.end()
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._end

    def at(self, offset: int) -> bytes | None:
        """The frame that begins there, if it is in memory."""
        return self._tail.get(offset)

    async def from_disk(self, offset: int) -> bytes:
        """Frames from there on, at least one. Raises OSError, and Damaged where the file is not what was written."""
        file = self._file
        assert file is not None
        most = self._on_disk - offset

        def read() -> bytes:
            data = file.read(self._base + offset, min(_CHUNK, most))
            if len(data) >= HEAD_SIZE and (length := frame_length_at(data, 0)) > len(data):
                data = file.read(self._base + offset, min(length, most))
            return data

        return await anyio.to_thread.run_sync(read)

    def moved(self) -> None:
        """A reader is further, or waits: the writer may go on."""
        self._trim()
        self._writer.set()

    @property
    def has_room(self) -> bool:
        """Whether the slowest reader is near enough for another page."""
        slowest = min([reader.offset for reader in self._readers], default=self._end)
        if self._is_lost:
            return self._end - max(slowest, self._on_disk) < _MOST_IN_MEMORY
        return self._end - slowest < _MOST_ON_DISK

    async def _write(self, least: int) -> None:
        """Write what is not on disk yet, if it is at least so much; whoever comes meanwhile leaves it to us."""
        if self._is_writing or self._is_lost:
            return
        self._is_writing = True
        try:
            while self._end - self._on_disk > least or (self._file is None and not least):
                data = b"".join([frame for offset, frame in self._tail.items() if offset >= self._on_disk])
                await anyio.to_thread.run_sync(self._append, data)
        except OSError as error:
            self._is_lost = True
            self._warn(error)
        finally:
            self._is_writing = False

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._open_file()
            self._base = self._file.size
        self._file.append(data)
        self._on_disk += len(data)

    def _trim(self) -> None:
        """Forget what can be read from the disk, or what nobody needs any more."""
        while self._tail:
            offset = next(iter(self._tail))
            after = offset + len(self._tail[offset])
            is_read = all(reader.offset >= after for reader in self._readers) if self._is_lost else False
            if not is_read and (after > self._on_disk or self._tail_size <= _KEPT):
                return
            self._tail_size -= len(self._tail.pop(offset))

    def _tell(self) -> None:
        for reader in self._readers:
            reader.is_hungry = False
            reader.news.set()


class LogReader:
    """One who reads a log."""

    def __init__(self, log: ParentLog, decode: Decode, news: asyncio.Event) -> None:
        self._log, self._decode, self.news = log, decode, news
        self.offset = 0
        self.is_hungry = False
        self._ahead: deque[tuple[memoryview[int], int]] = deque()  # pages that were read with others, with their sizes

    @property
    def log(self) -> ParentLog:
        return self._log

    @property
    def is_behind(self) -> bool:
        """Whether there is a page that it has not read."""
        return self.offset < self._log.size

    @property
    def has_ended(self) -> bool:
        return self._log.is_closed and not self.is_behind

    def waits(self) -> None:
        """It has read all there is."""
        self.is_hungry = True
        self._log.moved()

    async def take(self) -> list[Record]:
        """The next page; to be called where it is behind. Raises OSError and Damaged."""
        if not self._ahead:
            frame = self._log.at(self.offset)
            data = await self._log.from_disk(self.offset) if frame is None else frame
            before = 0
            for _, payload, end in iter_frames(memoryview(data), already_checked=self._log.is_checked):
                self._ahead.append((payload, end - before))
                before = end
            if not self._ahead:
                raise CorruptData("a page is cut short")
        payload, size = self._ahead.popleft()
        self.offset += size
        self._log.moved()
        return self._decode(payload)

    def close(self) -> None:
        self._ahead.clear()
        self._log.left(self)


async def pages_of(readers: Sequence[LogReader], news: asyncio.Event) -> AsyncGenerator[tuple[int, list[Record]]]:
    """The pages of all that are read, whichever has one first, each with the number of its reader."""
    reading = dict(enumerate(readers))
    try:
        while reading:
            news.clear()
            behind = [number for number, reader in reading.items() if reader.is_behind]
            for number in behind:
                yield number, await reading[number].take()
            for number in [number for number, reader in reading.items() if reader.has_ended]:
                reading.pop(number).close()
            if not behind and reading:
                for reader in reading.values():
                    reader.waits()
                await news.wait()
    finally:
        for reader in readers:
            reader.close()


def _end_size(counts: LogFooter) -> int:
    return len(footer_frame(counts))


def _no_file() -> LogFile:
    raise AssertionError("a log that is whole is not written")


def _ignore(error: OSError) -> None:
    raise AssertionError("a log that is whole is not written") from error
