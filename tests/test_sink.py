"""Tests of custom sinks: at-least-once delivery, and stable batch ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import Customers, Events, PagedStream, RegionsApi, Tags

from asyncstreams import ConfigError, NumberRanges, Page, Sink, Source, State


class RecordingSink:
    """Records the pages that it gets; fails once, after `fails_at` pages."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.pages: list[tuple[str, list[Any]]] = []

    async def write(self, page: Page, batch_id: str) -> None:
        if len(self.pages) == self.fails_at:
            self.fails_at = None
            raise ZeroDivisionError("an error of the sink")
        self.pages.append((batch_id, [record["id"] for record in page.records]))

    @property
    def ids(self) -> list[Any]:
        return [id_ for _, ids in self.pages for id_ in ids]


def source(api: RegionsApi) -> Source:
    transport = httpx.MockTransport(api)
    events = Events(transport=transport)
    events.windows = NumberRanges(step=6, end=24)
    return Source([Customers(transport=transport), events, Tags(transport=transport)])


def all_ids(api: RegionsApi) -> list[Any]:
    return [row["id"] for stream in ("customers", "events", "tags") for row in api.rows(stream)]


async def test_sink_gets_each_page_with_unique_batch_id():
    api, sink = RegionsApi(), RecordingSink()

    report = await source(api).extract(to=sink)

    assert isinstance(sink, Sink)
    assert sorted(sink.ids, key=str) == sorted(all_ids(api), key=str)
    batch_ids = [batch_id for batch_id, _ in sink.pages]
    assert len(set(batch_ids)) == len(batch_ids)
    assert sum(stream.records for stream in report.streams) == len(sink.ids)


async def test_batch_ids_are_the_same_in_every_run():
    runs = []
    for _ in range(2):
        sink = RecordingSink()
        await source(RegionsApi()).extract(to=sink)
        runs.append(dict(sink.pages))

    assert runs[0] == runs[1]


@pytest.mark.parametrize("fails_at", [0, 5, 20])
async def test_sink_error_propagates_and_page_is_delivered_again(fails_at: int, tmp_path: Path):
    api, sink, path = RegionsApi(), RecordingSink(fails_at), tmp_path / "state.json"

    with pytest.raises(ZeroDivisionError, match=r"^an error of the sink$"):
        await source(api).extract(to=sink, state=State.load(path))
    before = dict(sink.pages)
    await source(api).extract(to=sink, state=State.load(path))

    assert set(sink.ids) == set(all_ids(api))
    repeated = {batch_id: ids for batch_id, ids in sink.pages[len(before) :] if batch_id in before}
    assert repeated == {batch_id: before[batch_id] for batch_id in repeated}
    assert len(sink.pages) - len(before) < 38 or fails_at < 20  # acknowledged pages are not delivered again


async def test_single_stream_extracts_to_sink():
    sink = RecordingSink()

    await Tags(transport=httpx.MockTransport(RegionsApi())).extract(to=sink)

    assert sink.ids == [row["id"] for row in RegionsApi().rows("tags")]


async def test_file_object_is_not_a_destination(tmp_path: Path):
    with (tmp_path / "out").open("w") as file, pytest.raises(ConfigError, match="TextIOWrapper is not a destination"):
        await PagedStream.extract(Tags(), to=file)  # type: ignore[arg-type]
