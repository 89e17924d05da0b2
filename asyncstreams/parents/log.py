"""Parent logs: the pages of one parent, written once and read by several children while the log grows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeAlias

import anyio

from ..models import Record
from ..storage.framing import HEAD_SIZE, CorruptData, LogFooter, footer_frame, frame_length_at, iter_frames, page_frame
from .log_file import LogFile

_FLUSH_BYTES = 256 * 1024  # more unwritten bytes than this are written, in one hop to a thread
_READ_BYTES = 1 << 20  # read from the file in one hop to a thread
_RECENT_BYTES = 1 << 20  # kept in memory after they are written, for readers that keep up
# How far the writer may be ahead of the slowest reader.
_MAX_LEAD_ON_DISK_BYTES, _MAX_LEAD_IN_MEMORY_BYTES = 1 << 30, 32 << 20

Decode: TypeAlias = Callable[["bytes | memoryview[int]"], list[Record]]


class ParentLog:
    """The pages of one parent, with one writer and any number of readers.

    Each reader starts at the first page. A small log stays in memory; a larger one goes to a file, which is opened on
    first use. If the file cannot be written, the pages that are not in it stay in memory until all readers have read
    them. The writer is then bounded by 32 MiB.
    """

    def __init__(self, open_file: Callable[[], LogFile], warn: Callable[[OSError], None]) -> None:
        self._memory = _MemoryFrames()
        self._disk = _DiskFrames(open_file, warn)
        self._readers: dict[LogReader, None] = {}
        self._pages = 0
        self._writer_wakeup: asyncio.Event = asyncio.Event()
        self.records = 0
        """The number of parent records so far."""
        self.is_closed = False
        """Whether no more pages will be appended."""
        self.is_complete = False
        """Whether the parent was read completely."""

    @classmethod
    def from_file(cls, file: LogFile, start: int, footer: LogFooter) -> ParentLog:
        """A complete log from a verified file, whose pages lie between `start` and the footer."""
        log = cls(lambda: file, lambda _: None)  # neither is called, since nothing is written
        log._disk.adopt(file, start, file.size - start - len(footer_frame(footer)))
        log._memory = _MemoryFrames(log._disk.size)
        log._pages, log.records = footer.pages, footer.records
        log.is_closed = log.is_complete = True
        return log

    def add_reader(self, decode: Decode, updated: asyncio.Event) -> LogReader:
        """A reader that starts at the first page; `updated` is set when pages may have been added.

        Add all readers before the first page is written: the writer waits only for readers that it knows.
        """
        reader = LogReader(self, decode, updated)
        self._readers[reader] = None
        return reader

    def remove_reader(self, reader: LogReader) -> None:
        self._readers.pop(reader, None)
        self.wake_writer()

    @property
    def has_readers(self) -> bool:
        """Whether a reader is still open."""
        return bool(self._readers)

    async def wait_for_capacity(self) -> None:
        """Wait until the writer is not too far ahead of the slowest reader."""
        while not self.has_capacity:
            self._writer_wakeup.clear()
            await self._writer_wakeup.wait()

    async def wait_for_demand(self) -> None:
        """Wait until a reader has read all pages, or until no reader is open."""
        while self._readers and not any(reader.is_waiting for reader in self._readers):
            self._writer_wakeup.clear()
            await self._writer_wakeup.wait()

    async def append(self, page: bytes, record_count: int) -> None:
        """Add a page, which is a JSON array of `record_count` records."""
        self._memory.append(page_frame(page))
        self._pages += 1
        self.records += record_count
        self._notify_readers()
        await self._disk.flush(self._memory, _FLUSH_BYTES)
        self._trim_memory()

    async def finish(self, store: Callable[[LogFile, LogFooter], None] | None) -> None:
        """Close the log as complete. If it is to be cached, `store` is called in a thread with the file."""
        self.is_closed = self.is_complete = True
        self._notify_readers()
        if store is not None:
            await self._disk.flush(self._memory, 0)
            await self._disk.store(store, LogFooter(self._pages, self.records))

    def abort(self) -> None:
        """Close the log as incomplete; no effect after `finish`."""
        if not self.is_closed:
            self.is_closed = True
            self._notify_readers()

    def close(self) -> None:
        """Close the file, which deletes it unless it was stored."""
        self.abort()
        self._disk.close()

    @property
    def size(self) -> int:
        """The size of all pages so far, in bytes of frames."""
        return self._memory.end

    async def frames_at(self, offset: int) -> list[tuple[memoryview[int], int]]:
        """One or more pages from `offset` on, with the sizes of their frames. Raises OSError and CorruptData."""
        frame = self._memory.get(offset)
        data = await self._disk.read(offset) if frame is None else frame
        pages: list[tuple[memoryview[int], int]] = []
        start = 0
        for _, payload, end in iter_frames(memoryview(data), already_checked=self._disk.is_verified):
            pages.append((payload, end - start))
            start = end
        if not pages:
            raise CorruptData("truncated page")
        return pages

    def wake_writer(self) -> None:
        """Free memory that no reader needs, and let a waiting writer check its conditions again."""
        self._trim_memory()
        self._writer_wakeup.set()

    @property
    def has_capacity(self) -> bool:
        """Whether another page may be written: the slowest reader is not too far behind."""
        if self._disk.has_failed:
            return self.size - max(self._slowest, self._disk.size) < _MAX_LEAD_IN_MEMORY_BYTES
        return self.size - self._slowest < _MAX_LEAD_ON_DISK_BYTES

    @property
    def _slowest(self) -> int:
        """The offset up to which all readers have read."""
        return min([reader.offset for reader in self._readers], default=self.size)

    def _trim_memory(self) -> None:
        """Drop old frames that are on disk or, after a disk error, that all readers have read."""
        self._memory.trim(self._disk.size, self._slowest if self._disk.has_failed else 0)

    def _notify_readers(self) -> None:
        for reader in self._readers:
            reader.is_waiting = False
            reader.updated.set()


class _MemoryFrames:
    """The latest frames of a log: those that are not on disk, and recent ones for readers that keep up."""

    def __init__(self, end: int = 0) -> None:
        self._frames: dict[int, bytes] = {}  # in order, by offset
        self._size = 0
        self.end = end
        """The offset of the next frame: the size of the log."""

    def append(self, frame: bytes) -> None:
        self._frames[self.end] = frame
        self._size += len(frame)
        self.end += len(frame)

    def get(self, offset: int) -> bytes | None:
        """The frame at `offset`; None if it is only on disk."""
        return self._frames.get(offset)

    def since(self, offset: int) -> bytes:
        """All frames from `offset` on."""
        return b"".join([frame for start, frame in self._frames.items() if start >= offset])

    def trim(self, disk_size: int, read_size: int) -> None:
        """Drop frames before `read_size`, and those before `disk_size` that are not recent."""
        while self._frames:
            offset = next(iter(self._frames))
            after = offset + len(self._frames[offset])
            if after > read_size and (after > disk_size or self._size <= _RECENT_BYTES):
                return
            self._size -= len(self._frames.pop(offset))


class _DiskFrames:
    """The frames of a log that are in its file. After a failed write, of which it warns, no more are added."""

    def __init__(self, open_file: Callable[[], LogFile], warn: Callable[[OSError], None]) -> None:
        self._open_file, self._warn = open_file, warn
        self._file: LogFile | None = None
        self._start = 0  # offset of the first frame in the file
        self.size = 0
        self._is_flushing = False
        self.has_failed = False
        """Whether a write has failed."""
        self.is_verified = False
        """Whether the checksums of the file were verified when it was opened, so that readers skip them."""

    def adopt(self, file: LogFile, start: int, size: int) -> None:
        """Use a verified file, with frames of this size from `start` on."""
        self._file, self._start, self.size, self.is_verified = file, start, size, True

    async def read(self, offset: int) -> bytes:
        """One or more frames from `offset` on; the last one may be incomplete. Raises OSError."""
        file = self._file
        assert file is not None
        max_bytes = self.size - offset

        def read() -> bytes:
            data = file.read(self._start + offset, min(_READ_BYTES, max_bytes))
            if len(data) >= HEAD_SIZE and (length := frame_length_at(data, 0)) > len(data):
                data = file.read(self._start + offset, min(length, max_bytes))
            return data

        return await anyio.to_thread.run_sync(read)

    async def flush(self, memory: _MemoryFrames, threshold: int) -> None:
        """Write all frames that are not on disk if they exceed `threshold` bytes; 0 also creates an empty log's file.

        A call during a flush returns at once: the running flush writes its frames too.
        """
        if self._is_flushing or self.has_failed:
            return
        self._is_flushing = True
        try:
            while memory.end - self.size > threshold or (self._file is None and not threshold):
                await anyio.to_thread.run_sync(self._append, memory.since(self.size))
        except OSError as error:
            self.has_failed = True
            self._warn(error)
        finally:
            self._is_flushing = False

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._open_file()
            self._start = self._file.size
        self._file.append(data)
        self.size += len(data)

    async def store(self, store: Callable[[LogFile, LogFooter], None], footer: LogFooter) -> None:
        """Call `store` in a thread with the complete file, if it could be written."""
        if self._file is None or self.has_failed:
            return
        try:
            await anyio.to_thread.run_sync(store, self._file, footer)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Close the file, which deletes it unless it was stored."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LogReader:
    """One child's position in a parent log."""

    def __init__(self, log: ParentLog, decode: Decode, updated: asyncio.Event) -> None:
        self._log, self._decode, self.updated = log, decode, updated
        self.offset = 0
        self.is_waiting = False
        self._buffer: deque[tuple[memoryview[int], int]] = deque()  # pages read in advance, with their frame sizes

    @property
    def has_unread_page(self) -> bool:
        """Whether the log has a page that this reader has not read yet."""
        return self.offset < self._log.size

    @property
    def is_exhausted(self) -> bool:
        return self._log.is_closed and not self.has_unread_page

    def mark_waiting(self) -> None:
        """Report that this reader has read all pages so far and waits for more."""
        self.is_waiting = True
        self._log.wake_writer()

    async def read_page(self) -> list[Record]:
        """Read the next page, which must exist. Raises OSError and CorruptData."""
        if not self._buffer:
            self._buffer.extend(await self._log.frames_at(self.offset))
        payload, size = self._buffer.popleft()
        self.offset += size
        self._log.wake_writer()
        return self._decode(payload)

    def close(self) -> None:
        self._buffer.clear()
        self._log.remove_reader(self)


async def merge_pages(readers: Sequence[LogReader], updated: asyncio.Event) -> AsyncGenerator[tuple[int, list[Record]]]:
    """The pages of several logs as they become available, each with the index of its reader."""
    open_readers = dict(enumerate(readers))
    try:
        while open_readers:
            updated.clear()
            ready = [index for index, reader in open_readers.items() if reader.has_unread_page]
            for index in ready:
                yield index, await open_readers[index].read_page()
            for index in [index for index, reader in open_readers.items() if reader.is_exhausted]:
                open_readers.pop(index).close()
            if not ready and open_readers:
                for reader in open_readers.values():
                    reader.mark_waiting()
                await updated.wait()
    finally:
        for reader in readers:
            reader.close()
