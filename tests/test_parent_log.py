"""Does every reader of a parent log get every page once and in order, whatever the disk does?"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import ConfigError
from asyncstreams.parents import log as log_module
from asyncstreams.parents.log import ParentLog, merge_pages
from asyncstreams.parents.log_file import LogFile, open_complete
from asyncstreams.parents.projection import decoder_for
from asyncstreams.storage.framing import CorruptData, LogFooter

often = settings(max_examples=150, deadline=None)


def page(number: int, size: int = 1) -> bytes:
    return json.dumps([{"id": number, "text": "x" * size}]).encode()


class Full(LogFile):
    """A disk that takes so many bytes, and half of what is too much."""

    left = 0

    def append(self, data: bytes) -> None:
        if len(data) > self.left:
            self._file.seek(self.size)
            self._file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= len(data)
        super().append(data)


def disk(space: int | None) -> Callable[[], LogFile]:
    def opened() -> LogFile:
        if space is None:
            return LogFile.create_temporary()
        file = Full(LogFile.create_temporary()._file)
        file.left = space
        return file

    return opened


async def read(log: ParentLog, turns: list[int], most: int | None = None) -> list[int]:
    """The ids that one reader finds, who rests for so many turns of the loop after each page."""
    news = asyncio.Event()
    reader = log.add_reader(decoder_for("child", "parent", None), news)

    async def all_of_it() -> list[int]:
        found: list[int] = []
        pages = merge_pages([reader], news)
        async for _, records in pages:
            found += [record["id"] for record in records]
            if most is not None and len(found) >= most:
                break
            for _ in range(turns[len(found) % len(turns)] if turns else 0):
                await asyncio.sleep(0)
        await pages.aclose()
        return found

    return await asyncio.create_task(all_of_it())


sizes = st.sampled_from([1, 10, 300, 5000])
worlds = st.fixed_dictionaries(
    {
        "pages": st.lists(sizes, max_size=60),
        "readers": st.lists(st.lists(st.integers(0, 4), max_size=5), max_size=4),
        "leaving": st.integers(0, 10),
        "space": st.none() | st.integers(0, 40_000),
        "rest": st.integers(0, 3),
    }
)


@often
@given(world=worlds)
def test_every_reader_gets_every_page_once_and_in_order(world: dict[str, Any]) -> None:
    warned: list[OSError] = []

    async def live() -> list[list[int]]:
        log = ParentLog(disk(world["space"]), warned.append)
        readers = [asyncio.create_task(read(log, turns)) for turns in world["readers"]]
        leaving = asyncio.create_task(read(log, [], world["leaving"] + 1))
        await asyncio.sleep(0)
        for number, size in enumerate(world["pages"]):
            await log.wait_for_capacity()
            await log.append(page(number, size), 1)
            for _ in range(world["rest"]):
                await asyncio.sleep(0)
        await log.finish(None)
        found = await asyncio.gather(*readers)
        left = await leaving
        assert left == list(range(len(left)))
        assert log.records == len(world["pages"])
        assert not log.has_readers
        log.close()
        return found

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_WRITTEN": 2000, "_CHUNK": 1500, "_KEPT": 3000, "_MOST_ON_DISK": 20_000}.items():
            patch.setattr(log_module, name, value)
        patch.setattr(log_module, "_MOST_IN_MEMORY", 9000)
        found = asyncio.run(live())

    assert found == [list(range(len(world["pages"])))] * len(world["readers"])
    assert len(warned) <= 1


async def test_a_writer_waits_for_the_slowest_reader_and_for_nobody_who_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_module, "_MOST_ON_DISK", 1000)
    log = ParentLog(disk(None), pytest.fail)
    slow = log.add_reader(decoder_for("child", "parent", None), asyncio.Event())
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


async def test_a_small_log_is_never_on_disk() -> None:
    def never() -> LogFile:
        pytest.fail("a file was opened")

    log = ParentLog(never, pytest.fail)
    await log.append(page(1), 1)
    await log.finish(None)

    assert await read(log, []) == [1]


async def test_a_demand_ends_when_all_has_been_read_or_nobody_reads() -> None:
    log = ParentLog(disk(None), pytest.fail)
    news = asyncio.Event()
    reader = log.add_reader(decoder_for("child", "parent", None), news)
    pages = merge_pages([reader], news)
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


async def kept(path: Path, pages: int) -> Path:
    def opened() -> LogFile:
        return LogFile.create_partial(path.with_suffix(".partial"), 5.0)

    log = ParentLog(opened, pytest.fail)
    for number in range(pages):
        await log.append(page(number), 1)
    await log.finish(lambda file, counts: file.finalize(path, counts))
    log.close()
    return path


@pytest.mark.parametrize("pages", [0, 1, 50])
async def test_what_was_kept_is_read_again_by_many(tmp_path: Path, pages: int) -> None:
    file, begin, counts, start = open_complete(await kept(tmp_path / "a.parents", pages))

    log = ParentLog.from_file(file, start, counts)

    assert (begin.started_at, counts) == (5.0, LogFooter(pages, pages))
    assert await asyncio.gather(read(log, []), read(log, [3])) == [list(range(pages))] * 2
    log.close()


async def test_one_that_is_left_early_leaves_no_file(tmp_path: Path) -> None:
    log = ParentLog(lambda: LogFile.create_partial(tmp_path / "a.partial", 5.0), pytest.fail)
    await log.append(page(1, 300_000), 1)
    assert os.listdir(tmp_path) == ["a.partial"]

    log.close()

    assert os.listdir(tmp_path) == []


async def test_any_byte_that_is_changed_and_any_cut_is_noticed(tmp_path: Path) -> None:
    path = await kept(tmp_path / "a.parents", 3)
    good = path.read_bytes()
    bad = [good[:end] for end in range(len(good))] + [good + b"x"]
    bad += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]

    for content in bad:
        path.write_bytes(content)
        with pytest.raises(CorruptData):
            open_complete(path)

    path.write_bytes(good)
    open_complete(path)[0].close()


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = await kept(tmp_path / "a.parents", 1)
    link = tmp_path / "b.parents"
    link.symlink_to(path)

    with pytest.raises(OSError, match=r"symbolic|link"):
        open_complete(link)


RECORD = {"id": 2**70, "name": "a", "owner": {"login": "x", "site": {"url": "u", "z": 1}}}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        (None, RECORD),
        (("id",), {"id": 2**70}),
        (("name", "id"), {"name": "a", "id": 2**70}),
        (("owner.login",), {"owner": {"login": "x"}}),
        (("id", "owner.login", "owner.site.z"), {"id": 2**70, "owner": {"login": "x", "site": {"z": 1}}}),
    ],
)
def test_a_child_gets_the_fields_that_it_names(fields: tuple[str, ...] | None, part: dict[str, Any]) -> None:
    assert decoder_for("child", "parent", fields)(json.dumps([RECORD] * 2).encode()) == [part] * 2


@pytest.mark.parametrize("field", ["idd", "owner.log", "name.first", "no.where"])
def test_a_field_that_a_record_lacks_is_an_error_that_says_what_there_is(field: str) -> None:
    decode = decoder_for("child", "parent", ("id", field))

    with pytest.raises(ConfigError, match=rf"{field}.*record of parent.*it has id, name, owner"):
        decode(json.dumps([RECORD]).encode())
