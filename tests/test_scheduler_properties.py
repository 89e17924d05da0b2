"""Whatever slices, pages, latencies, failures and consumers there are: what always holds?"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
from fake_api import Api, NamedItems, subclass, slices, real_timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import Cursor, HttpStatusError, Offset, PageNumber, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock

PAGINATORS = [Cursor("next", param="page"), PageNumber(start=0, total_pages="pages"), Offset(limit=1), None]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Streams with the numbers of pages of their slices; what is sick; how slow everybody is."""
    streams = draw(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=4))
    places = [(s, i, n) for s, pages in enumerate(streams) for i, count in enumerate(pages) for n in range(count)]
    return {
        "streams": streams,
        "paginators": draw(st.lists(st.sampled_from(PAGINATORS), min_size=4, max_size=4)),
        "sick": draw(st.dictionaries(st.sampled_from(places), st.sampled_from([1, 2, 9]), max_size=6)),
        "latencies": draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0, 7.0]), min_size=1, max_size=7)),
        "pauses": draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 5.0]), min_size=1, max_size=5)),
        "most": draw(st.integers(1, 9)),
        "leave": draw(st.none() | st.integers(1, 60)),
    }


class World:
    """One run in such a world."""

    def __init__(self, world: dict[str, Any]) -> None:
        self.world = world
        self.tries: Counter[tuple[int, int, int]] = Counter()
        self.log: list[Any] = []
        self.clock = VirtualClock()
        self.api = Api(self.answer, self.seconds)
        self.waiting = 0
        self.error: BaseException | None = None

    def place(self, request: httpx.Request) -> tuple[int, int, int]:
        stream, one = request.url.path[1:].split("/")
        params = request.url.params
        return int(stream[1:]), int(one), int(params.get("page", params.get("offset", 0)))

    def seconds(self, request: httpx.Request) -> float:
        return self.world["latencies"][sum(self.place(request)) % len(self.world["latencies"])]

    def answer(self, request: httpx.Request) -> httpx.Response:
        s, i, n = place = self.place(request)
        self.tries[place] += 1
        self.log.append((place, round(self.clock.monotonic(), 3)))
        if self.tries[place] <= self.world["sick"].get(place, 0):
            return httpx.Response(500)
        count = self.expected(s, i)
        found = [{"id": n}] if n < count else []
        return httpx.Response(200, json={"items": found, "next": n + 1 if n + 1 < count else None, "pages": count})

    def expected(self, s: int, i: int) -> int:
        return self.world["streams"][s][i] if self.world["paginators"][s] is not None else 1

    def dead(self, s: int, i: int) -> int | None:
        """The page at which a slice fails."""
        return min(
            (n for (a, b, n), times in self.world["sick"].items() if (a, b) == (s, i) and times > 2), default=None
        )

    @property
    def told(self) -> list[str]:
        """The log without what an error says of tasks and objects."""
        return [str(event).partition("error=")[0] for event in self.log]

    async def run(self) -> list[tuple[int, int, int]]:
        clock = self.clock
        clock.monotonic()
        streams = [
            subclass(
                NamedItems, paginator=self.world["paginators"][s], max_tries=3, backoff_time=lambda self, response: 4.0
            )(f"s{s}", self.api, clock)
            for s in range(len(self.world["streams"]))
        ]
        source = Source(streams, max_concurrency=self.world["most"], seed=7)
        source.subscribe(self.log.append)
        made = {f"s{s}": slices(range(len(pages))) for s, pages in enumerate(self.world["streams"])}
        found: list[tuple[int, int, int]] = []
        try:
            async with asyncio.timeout(1e6), source.pages(slices=made) as pages:
                async for page in pages:
                    if page.records:
                        found.append((int(page.stream[1:]), page.stream_slice["at"], page.records[0]["id"]))
                    if self.world["leave"] == len(found):
                        break
                    await asyncio.sleep(self.world["pauses"][len(found) % len(self.world["pauses"])])
        except (PartialFailure, HttpStatusError) as error:
            self.error = error
        self.waiting = self.api.in_flight
        return found


def run(world: dict[str, Any]) -> tuple[World, list[tuple[int, int, int]]]:
    lived = World(world)
    with real_timeout(30):
        return lived, asyncio.run(lived.run())


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_property_pages_are_complete_unique_and_ordered(world):
    lived, found = run(world)

    assert len(set(found)) == len(found)
    whole = []
    for s, pages in enumerate(world["streams"]):
        for i in range(len(pages)):
            own = [n for a, b, n in found if (a, b) == (s, i)]
            assert own == list(range(len(own)))
            dead = lived.dead(s, i)
            count = lived.expected(s, i)
            whole += [(s, i, n) for n in range(count if dead is None else min(count, dead))]
    left = world["leave"] is not None and world["leave"] <= len(whole)
    assert left or sorted(found) == sorted(whole)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_property_slots_bound_requests_and_none_stays_open(world):
    lived, _ = run(world)

    assert lived.api.peak_in_flight <= world["most"]
    assert lived.waiting == 0


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_property_same_seed_gives_same_events(world):
    world |= {"leave": None}  # who is cancelled first is not told by the seed
    (one, first), (other, second) = run(world), run(world)

    assert first == second
    assert one.told == other.told


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_property_exactly_the_failed_slices_are_raised(world):
    lived, _ = run(world | {"leave": None})

    failing = [
        (s, i)
        for s, pages in enumerate(world["streams"])
        for i in range(len(pages))
        if (dead := lived.dead(s, i)) is not None and dead < lived.expected(s, i)
    ]
    if sum(map(len, world["streams"])) > 1:
        errors = lived.error.errors if isinstance(lived.error, PartialFailure) else ()
        assert sorted((int(one.stream[1:]), one.stream_slice["at"]) for one in errors) == failing
