"""Does a destination of one's own get each page at least once, each time under the same name?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import Api, Customers, Events, Listed, Tags

from asyncstreams import ConfigError, NumberRanges, Page, Sink, Source, State


class Kept:
    """Keeps what it is given; fails once, when so many pages are here."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.pages: list[tuple[str, list[Any]]] = []

    async def write(self, page: Page, batch_id: str) -> None:
        if len(self.pages) == self.fails_at:
            self.fails_at = None
            raise ZeroDivisionError("the destination's own")
        self.pages.append((batch_id, [record["id"] for record in page.records]))

    @property
    def ids(self) -> list[Any]:
        return [one for _, ids in self.pages for one in ids]


def source(api: Api) -> Source:
    transport = httpx.MockTransport(api)
    events = Events(transport=transport)
    events.windows = NumberRanges(step=6, end=24)
    return Source([Customers(transport=transport), events, Tags(transport=transport)])


def all_ids(api: Api) -> list[Any]:
    return [row["id"] for stream in ("customers", "events", "tags") for row in api.rows(stream)]


async def test_a_sink_has_each_page_under_a_name_of_its_own():
    api, sink = Api(), Kept()

    report = await source(api).extract(to=sink)

    assert isinstance(sink, Sink)
    assert sorted(sink.ids, key=str) == sorted(all_ids(api), key=str)
    names = [name for name, _ in sink.pages]
    assert len(set(names)) == len(names)
    assert sum(one.records for one in report.streams) == len(sink.ids)


async def test_the_names_of_the_same_pages_are_the_same_in_every_run():
    runs = []
    for _ in range(2):
        sink = Kept()
        await source(Api()).extract(to=sink)
        runs.append(dict(sink.pages))

    assert runs[0] == runs[1]


@pytest.mark.parametrize("fails_at", [0, 5, 20])
async def test_what_a_sink_raises_leaves_as_it_is_and_the_next_run_gives_the_page_again(fails_at: int, tmp_path: Path):
    api, sink, path = Api(), Kept(fails_at), tmp_path / "state.json"

    with pytest.raises(ZeroDivisionError, match=r"^the destination's own$"):
        await source(api).extract(to=sink, state=State.load(path))
    before = dict(sink.pages)
    await source(api).extract(to=sink, state=State.load(path))

    assert set(sink.ids) == set(all_ids(api))
    known = {name: ids for name, ids in sink.pages[len(before) :] if name in before}
    assert known == {name: before[name] for name in known}
    assert len(sink.pages) - len(before) < 38 or fails_at < 20  # what was safe does not come again


async def test_one_stream_goes_into_a_sink_too():
    sink = Kept()

    await Tags(transport=httpx.MockTransport(Api())).extract(to=sink)

    assert sink.ids == [row["id"] for row in Api().rows("tags")]


async def test_a_file_is_no_sink_though_it_can_write(tmp_path: Path):
    with (tmp_path / "out").open("w") as file, pytest.raises(ConfigError, match="TextIOWrapper is no destination"):
        await Listed.extract(Tags(), to=file)  # type: ignore[arg-type]
