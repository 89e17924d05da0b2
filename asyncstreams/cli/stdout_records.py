"""Records as JSON Lines on stdout, with acknowledgement of the pages that were written."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO

import anyio

from .._json import encode, encode_lines
from ..errors import OutputWriteError, UnexpectedContent
from ..models import Page
from .failures import stdout_error

_MAX_PENDING_RECORDS = 10_000
_WRITE_GRACE_S = 1.0
"""How long a write that has begun may go on after the run was stopped, so that no line is cut in two."""


async def write_pages(pages: AsyncIterator[Page], writer: LineWriter, *, names_streams: bool) -> None:
    """Write the records of all pages, and acknowledge each page once its lines were written.

    Reading goes on while a write waits for the reader of a pipe, up to 10,000 records. With `names_streams` each line
    is `{"stream": "orders", "record": {...}}`, otherwise the record itself. Raises what reading raises,
    BrokenPipeError for a closed pipe, and OutputWriteError.
    """
    buffer = _PageBuffer()
    failures: list[Exception] = []

    async def write_buffered() -> None:
        try:
            while batch := await buffer.pop():
                await writer.write(lambda: _lines(batch, names_streams=names_streams))
                for page in batch:
                    page.ack()
        except OSError as error:
            failures.append(error if isinstance(error, BrokenPipeError) else stdout_error(error))
            tasks.cancel_scope.cancel()
        except TypeError as error:
            problem = UnexpectedContent(f"stdout: a record cannot be written as JSON: {error}")
            problem.__cause__ = error
            failures.append(problem)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_buffered)
        try:
            async for page in pages:
                await buffer.put(page)
        except Exception as error:
            failures.append(error)  # raised once the pages before it are written
        buffer.close()
    if failures:
        raise failures[0]


class _PageBuffer:
    """The pages that wait to be written."""

    def __init__(self) -> None:
        self._pages: list[Page] = []
        self._records = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    async def put(self, page: Page) -> None:
        """Add a page, and wait until the pages have fewer than 10,000 records."""
        self._pages.append(page)
        self._records += len(page.records)
        self._changed.set()
        while self._records >= _MAX_PENDING_RECORDS:
            self._changed.clear()
            await self._changed.wait()

    async def pop(self) -> Sequence[Page]:
        """All pages, as soon as there are any; empty after the last one."""
        while not self._pages and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        pages, self._pages, self._records = self._pages, [], 0
        self._changed.set()
        return pages

    def close(self) -> None:
        """Note that no further page comes."""
        self._is_closed = True
        self._changed.set()


class LineWriter:
    """Writes to stdout in a thread of its own, which a full pipe may block for as long as it likes.

    The thread does not keep the process alive. Raises OutputWriteError if stdout is closed.
    """

    def __init__(self) -> None:
        self._write = _stdout_write()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="asyncstreams stdout", daemon=True).start()

    async def write(self, lines: Callable[[], bytes]) -> None:
        """Write the lines that the function returns, all of them before this returns. Raises OSError."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        def job() -> None:
            error: Exception | None = None
            try:
                self._write(lines())
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: the run was stopped
                loop.call_soon_threadsafe(settle, error)

        self._jobs.put(job)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({done}, timeout=_WRITE_GRACE_S)
            if not done.done() or done.exception() is not None:
                raise
            # Its pages were written: they are acknowledged before the cancellation goes on.

    def _run(self) -> None:
        while True:
            self._jobs.get()()


def _lines(pages: Sequence[Page], *, names_streams: bool) -> bytes:
    if not names_streams:
        return b"".join([encode_lines(page.records) for page in pages])
    blocks: list[bytes] = []
    for page in pages:
        if page.records:
            start, lines = b'{"stream":' + encode(page.stream) + b',"record":', encode_lines(page.records)
            blocks.append(start + lines[:-1].replace(b"\n", b"}\n" + start) + b"}\n")
    return b"".join(blocks)


def _stdout_write() -> Callable[[bytes], None]:
    """A function that writes all bytes to stdout before it returns."""
    if sys.stdout is None or sys.stdout.closed:
        raise OutputWriteError("stdout: is closed", hint="redirect it, or name a destination with --to")
    sys.stdout.flush()
    try:
        return partial(_write_file, sys.stdout.fileno())
    except OSError:  # an object in its place, as in tests
        return partial(_write_buffered, sys.stdout.buffer)


def _write_buffered(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


def _write_file(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except BlockingIOError:  # another process has set the pipe to not block
            select.select([], [file], [])
