"""Parent logs: completeness and order of pages for every reader, disk errors, files and projections."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams.parents import log as log_module
from asyncstreams.parents.log import ParentLog, merge_pages
from asyncstreams.parents.log_file import LogFile, open_complete
from asyncstreams.parents.projection import IncompleteRecord, decoder_for
from asyncstreams.storage.framing import CorruptData, LogFooter


def page(number: int, size: int = 1) -> bytes:
    return json.dumps([{"id": number, "text": "x" * size}]).encode()


class FullDiskFile(LogFile):
    """A file on a disk with `free_bytes` left; an append that exceeds them writes half of its data and fails."""

    free_bytes = 0

    def append(self, data: bytes) -> None:
        if len(data) > self.free_bytes:
            self._file.seek(self.size)
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free_bytes -= len(data)
        super().append(data)


def file_opener(free_bytes: int | None) -> Callable[[], LogFile]:
    def open_file() -> LogFile:
        if free_bytes is None:
            return LogFile.create_temporary()
        file = FullDiskFile(LogFile.create_temporary()._file)
        file.free_bytes = free_bytes
        return file

    return open_file


async def read(log: ParentLog, delays: list[int], max_pages: int | None = None) -> list[int]:
    """The ids that one reader gets; after each page it pauses for one of `delays`, in passes of the event loop."""
    updated = asyncio.Event()
    reader = log.add_reader(decoder_for("parent", None), updated)

    async def collect() -> list[int]:
        found: list[int] = []
        pages = merge_pages([reader], updated)
        async for _, records in pages:
            found += [record["id"] for record in records]
            if max_pages is not None and len(found) >= max_pages:
                break
            for _ in range(delays[len(found) % len(delays)] if delays else 0):
                await asyncio.sleep(0)
        await pages.aclose()
        return found

    return await asyncio.create_task(collect())


SMALL_LIMITS = {
    "_FLUSH_BYTES": 2000,
    "_READ_BYTES": 1500,
    "_RECENT_BYTES": 3000,
    "_MAX_LEAD_ON_DISK_BYTES": 20_000,
    "_MAX_LEAD_IN_MEMORY_BYTES": 9000,
}
sizes = st.sampled_from([1, 10, 300, 5000])
scenarios = st.fixed_dictionaries(
    {
        "pages": st.lists(sizes, max_size=60),
        "readers": st.lists(st.lists(st.integers(0, 4), max_size=5), max_size=4),
        "pages_before_close": st.integers(0, 10),
        "free_bytes": st.none() | st.integers(0, 40_000),
        "writer_delay": st.integers(0, 3),
    }
)


@examples(full=150, short=30)
@given(scenario=scenarios)
def test_every_reader_gets_every_page_once_and_in_order(scenario: dict[str, Any]) -> None:
    warnings: list[OSError] = []

    async def run() -> list[list[int]]:
        log = ParentLog(file_opener(scenario["free_bytes"]), warnings.append)
        readers = [asyncio.create_task(read(log, delays)) for delays in scenario["readers"]]
        early = asyncio.create_task(read(log, [], scenario["pages_before_close"] + 1))
        await asyncio.sleep(0)
        for number, size in enumerate(scenario["pages"]):
            await log.wait_for_capacity()
            await log.append(page(number, size), 1)
            for _ in range(scenario["writer_delay"]):
                await asyncio.sleep(0)
        await log.finish(None)
        found = await asyncio.gather(*readers)
        found_early = await early
        assert found_early == list(range(len(found_early)))
        assert log.records == len(scenario["pages"])
        assert not log.has_readers
        log.close()
        return found

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_LIMITS.items():
            patch.setattr(log_module, name, value)
        found = asyncio.run(run())

    assert found == [list(range(len(scenario["pages"])))] * len(scenario["readers"])
    assert len(warnings) <= 1


async def test_writer_waits_for_slowest_open_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_module, "_MAX_LEAD_ON_DISK_BYTES", 1000)
    log = ParentLog(file_opener(None), pytest.fail)
    slow = log.add_reader(decoder_for("parent", None), asyncio.Event())
    written = 0

    async def write() -> None:
        nonlocal written
        for number in range(100):
            await log.wait_for_capacity()
            await log.append(page(number, 100), 1)
            written += 1

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.01)
    assert 0 < written < 20
    before = written
    await slow.read_page()
    await asyncio.sleep(0.01)
    assert written == before + 1

    slow.close()
    await asyncio.wait_for(writing, 5)
    log.close()


async def test_small_log_opens_no_file() -> None:
    def refuse() -> LogFile:
        pytest.fail("a file was opened")

    log = ParentLog(refuse, pytest.fail)
    await log.append(page(1), 1)
    await log.finish(None)

    assert await read(log, []) == [1]


async def test_demand_when_all_is_read_or_no_reader_is_open() -> None:
    log = ParentLog(file_opener(None), pytest.fail)
    updated = asyncio.Event()
    reader = log.add_reader(decoder_for("parent", None), updated)
    pages = merge_pages([reader], updated)
    await log.append(page(1), 1)
    demand = asyncio.create_task(log.wait_for_demand())
    await anext(pages)
    await asyncio.sleep(0)
    assert not demand.done()

    following = asyncio.create_task(anext(pages))
    await asyncio.wait_for(demand, 1)

    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await pages.aclose()
    await asyncio.wait_for(log.wait_for_demand(), 1)


async def finalized(path: Path, pages: int) -> Path:
    """A finalized log at `path`, with one record on each page."""

    def open_file() -> LogFile:
        return LogFile.create_partial(path.with_suffix(".partial"), 5.0)

    log = ParentLog(open_file, pytest.fail)
    for number in range(pages):
        await log.append(page(number), 1)
    await log.finish(lambda file, footer: file.finalize(path, footer))
    log.close()
    return path


@pytest.mark.parametrize("pages", [0, 1, 50])
async def test_finalized_log_is_read_again_by_many_readers(tmp_path: Path, pages: int) -> None:
    file, header, footer, start = open_complete(await finalized(tmp_path / "a.parents", pages))

    log = ParentLog.from_file(file, start, footer)

    assert (header.started_at, footer) == (5.0, LogFooter(pages, pages))
    assert await asyncio.gather(read(log, []), read(log, [3])) == [list(range(pages))] * 2
    log.close()


async def test_log_closed_early_leaves_no_file(tmp_path: Path) -> None:
    log = ParentLog(lambda: LogFile.create_partial(tmp_path / "a.partial", 5.0), pytest.fail)
    await log.append(page(1, 300_000), 1)
    assert os.listdir(tmp_path) == ["a.partial"]

    log.close()

    assert os.listdir(tmp_path) == []


async def test_any_changed_byte_or_truncation_is_detected(tmp_path: Path) -> None:
    path = await finalized(tmp_path / "a.parents", 3)
    good = path.read_bytes()
    corrupted = [good[:end] for end in range(len(good))] + [good + b"x"]
    corrupted += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]

    for content in corrupted:
        path.write_bytes(content)
        with pytest.raises(CorruptData):
            open_complete(path)

    path.write_bytes(good)
    open_complete(path)[0].close()


async def test_symlink_is_not_followed(tmp_path: Path) -> None:
    path = await finalized(tmp_path / "a.parents", 1)
    link = tmp_path / "b.parents"
    link.symlink_to(path)

    with pytest.raises(OSError, match=r"symbolic|link"):
        open_complete(link)


RECORD = {"id": 2**70, "name": "a", "owner": {"login": "x", "site": {"url": "u", "z": 1}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (None, RECORD),
        (("id",), {"id": 2**70}),
        (("name", "id"), {"name": "a", "id": 2**70}),
        (("owner.login",), {"owner": {"login": "x"}}),
        (("id", "owner.login", "owner.site.z"), {"id": 2**70, "owner": {"login": "x", "site": {"z": 1}}}),
    ],
)
def test_child_gets_the_fields_in_parent_fields(fields: tuple[str, ...] | None, expected: dict[str, Any]) -> None:
    assert decoder_for("parent", fields)(json.dumps([RECORD] * 2).encode()) == [expected] * 2


@pytest.mark.parametrize("field", ["idd", "owner.log", "name.first", "no.such"])
def test_record_without_a_field_is_complete_and_says_why(field: str) -> None:
    decode = decoder_for("parent", ("id", field))

    [record] = decode(json.dumps([RECORD]).encode())

    assert isinstance(record, IncompleteRecord)
    assert record == RECORD
    assert record.problem == f"parent_fields: {field!r} is not in a record of parent, which has id, name, owner"


def test_incomplete_record_leaves_others_of_its_page_projected() -> None:
    decode = decoder_for("parent", ("id", "name"))

    records = decode(json.dumps([RECORD, {"id": 2}]).encode())

    assert records == [{"id": 2**70, "name": "a"}, {"id": 2}]
    assert [type(record) for record in records] == [dict, IncompleteRecord]
