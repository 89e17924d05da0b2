"""Writing of pages to stdout: lines, acknowledgement, failures and a reader that is slow."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from asyncstreams import OutputWriteError, Page, PartialFailure, Slice, UnexpectedContent
from asyncstreams.cli import stdout_records
from asyncstreams.cli.stdout_records import LineWriter, write_pages


class Checkpoint:
    """The numbers of the pages that were acknowledged."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def ack(self, number: int) -> None:
        self.numbers.append(number)

    def discard_last(self) -> None:
        raise AssertionError


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint()


def page(number: int, records: Sequence[dict[str, Any]], checkpoint: Checkpoint, stream: str = "orders") -> Page:
    return Page(stream, Slice(), number, list(records), False, checkpoint=checkpoint)


async def iterate(pages: Sequence[Page], error: Exception | None = None) -> AsyncIterator[Page]:
    for one_page in pages:
        yield one_page
        await asyncio.sleep(0)
    if error is not None:
        raise error


def writer_to(monkeypatch: pytest.MonkeyPatch, write: Callable[[bytes], None]) -> LineWriter:
    monkeypatch.setattr(stdout_records, "_stdout_write", lambda: write)
    return LineWriter()


async def test_lines_name_their_stream(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    written: list[bytes] = []
    pages = [
        page(0, [{"text": "a\nb"}, {"id": 2}], checkpoint),
        page(1, [], checkpoint),
        page(2, [{"id": 3}], checkpoint, 'it"ems'),
    ]

    await write_pages(iterate(pages), writer_to(monkeypatch, written.append), names_streams=True)

    assert b"".join(written).splitlines() == [
        rb'{"stream":"orders","record":{"text":"a\nb"}}',
        b'{"stream":"orders","record":{"id":2}}',
        rb'{"stream":"it\"ems","record":{"id":3}}',
    ]
    assert checkpoint.numbers == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), BrokenPipeError),
        (OSError(errno.ENOSPC, "No space left on device"), OutputWriteError),
    ],
)
async def test_failed_write_acknowledges_nothing(
    error: OSError, raised: type[Exception], monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    def write(data: bytes) -> None:
        raise error

    with pytest.raises(raised):
        await write_pages(
            iterate([page(0, [{"id": 1}], checkpoint)] * 3), writer_to(monkeypatch, write), names_streams=False
        )

    assert checkpoint.numbers == []


async def test_record_without_json_is_an_error(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    pages = [page(0, [{"x": float("nan")}], checkpoint)]

    with pytest.raises(UnexpectedContent, match="stdout: a record cannot be written as JSON"):
        await write_pages(iterate(pages), writer_to(monkeypatch, lambda data: None), names_streams=False)

    assert checkpoint.numbers == []


async def test_pages_before_a_failure_are_written(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    written: list[bytes] = []
    pages = iterate([page(0, [{"id": 1}], checkpoint)], PartialFailure("some failed", (), None))

    with pytest.raises(PartialFailure):
        await write_pages(pages, writer_to(monkeypatch, written.append), names_streams=False)

    assert (written, checkpoint.numbers) == ([b'{"id":1}\n'], [0])


async def test_slow_reader_stops_reading_at_the_bound(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    released, taken = threading.Event(), 0

    async def pages() -> AsyncIterator[Page]:
        nonlocal taken
        for number in range(30):
            taken += 1
            yield page(number, [{"id": number}] * 1_000, checkpoint)
            await asyncio.sleep(0)

    writer = writer_to(monkeypatch, lambda data: released.wait(10) and None)
    task = asyncio.create_task(write_pages(pages(), writer, names_streams=False))
    await asyncio.sleep(0.1)
    while_blocked = taken
    released.set()
    await task

    assert 10 <= while_blocked <= 21
    assert checkpoint.numbers == list(range(30))


async def test_cancelled_write_that_ends_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    began = threading.Event()

    def write(data: bytes) -> None:
        began.set()
        threading.Event().wait(0.1)

    async def pages() -> AsyncIterator[Page]:
        yield page(0, [{"id": 1}], checkpoint)
        await asyncio.sleep(60)

    task = asyncio.create_task(write_pages(pages(), writer_to(monkeypatch, write), names_streams=False))
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert checkpoint.numbers == [0]


async def test_blocked_write_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    monkeypatch.setattr(stdout_records, "_WRITE_GRACE_S", 0.05)
    began, released = threading.Event(), threading.Event()

    def write(data: bytes) -> None:
        began.set()
        released.wait(10)

    task = asyncio.create_task(
        write_pages(iterate([page(0, [{"id": 1}], checkpoint)]), writer_to(monkeypatch, write), names_streams=False)
    )
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    released.set()

    assert checkpoint.numbers == []
