"""Properties of every run, for random slices, latencies, failures and consumers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
from fake_api import Api, NamedItems, real_timeout, slices, subclass
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import Cursor, HttpStatusError, Offset, PageNumber, Source
from asyncstreams.errors import PartialFailure
from asyncstreams.testing import VirtualClock

PAGINATORS = [Cursor("next", param="page"), PageNumber(start=0, total_pages="pages"), Offset(limit=1), None]


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, Any]:
    """Streams as page counts of their slices, failing pages with their number of failures, latencies and pauses."""
    streams = draw(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=4))
    all_pages = [(s, i, n) for s, pages in enumerate(streams) for i, count in enumerate(pages) for n in range(count)]
    return {
        "streams": streams,
        "paginators": draw(st.lists(st.sampled_from(PAGINATORS), min_size=4, max_size=4)),
        "failures": draw(st.dictionaries(st.sampled_from(all_pages), st.sampled_from([1, 2, 9]), max_size=6)),
        "latencies": draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0, 7.0]), min_size=1, max_size=7)),
        "pauses": draw(st.lists(st.sampled_from([0.0, 0.0, 0.3, 5.0]), min_size=1, max_size=5)),
        "max_concurrency": draw(st.integers(1, 9)),
        "leave_after": draw(st.none() | st.integers(1, 60)),
    }


class Simulation:
    """One run of a workload."""

    def __init__(self, workload: dict[str, Any]) -> None:
        self.workload = workload
        self.attempts: Counter[tuple[int, int, int]] = Counter()
        self.log: list[Any] = []
        self.clock = VirtualClock()
        self.api = Api(self.answer, self.latency)
        self.left_open = 0
        self.error: BaseException | None = None

    def page_of(self, request: httpx.Request) -> tuple[int, int, int]:
        stream, number = request.url.path[1:].split("/")
        params = request.url.params
        return int(stream[1:]), int(number), int(params.get("page", params.get("offset", 0)))

    def latency(self, request: httpx.Request) -> float:
        return self.workload["latencies"][sum(self.page_of(request)) % len(self.workload["latencies"])]

    def answer(self, request: httpx.Request) -> httpx.Response:
        s, i, n = page = self.page_of(request)
        self.attempts[page] += 1
        self.log.append((page, round(self.clock.monotonic(), 3)))
        if self.attempts[page] <= self.workload["failures"].get(page, 0):
            return httpx.Response(500)
        count = self.page_count(s, i)
        found = [{"id": n}] if n < count else []
        return httpx.Response(200, json={"items": found, "next": n + 1 if n + 1 < count else None, "pages": count})

    def page_count(self, s: int, i: int) -> int:
        return self.workload["streams"][s][i] if self.workload["paginators"][s] is not None else 1

    def failing_page(self, s: int, i: int) -> int | None:
        """The page at which a slice fails for good, or None."""
        return min(
            (n for (a, b, n), times in self.workload["failures"].items() if (a, b) == (s, i) and times > 2),
            default=None,
        )

    @property
    def comparable_log(self) -> list[str]:
        """The log without error texts, which contain addresses of objects."""
        return [str(event).partition("error=")[0] for event in self.log]

    async def run(self) -> list[tuple[int, int, int]]:
        clock = self.clock
        clock.monotonic()
        streams = [
            subclass(
                NamedItems,
                paginator=self.workload["paginators"][s],
                max_tries=3,
                backoff_time=lambda self, response: 4.0,
            )(f"s{s}", self.api, clock)
            for s in range(len(self.workload["streams"]))
        ]
        source = Source(streams, max_concurrency=self.workload["max_concurrency"], seed=7)
        source.subscribe(self.log.append)
        given = {f"s{s}": slices(range(len(pages))) for s, pages in enumerate(self.workload["streams"])}
        found: list[tuple[int, int, int]] = []
        try:
            async with asyncio.timeout(1e6), source.pages(slices=given) as pages:
                async for page in pages:
                    if page.records:
                        found.append((int(page.stream[1:]), page.stream_slice["at"], page.records[0]["id"]))
                    if self.workload["leave_after"] == len(found):
                        break
                    await asyncio.sleep(self.workload["pauses"][len(found) % len(self.workload["pauses"])])
        except (PartialFailure, HttpStatusError) as error:
            self.error = error
        self.left_open = self.api.in_flight
        return found


def run(workload: dict[str, Any]) -> tuple[Simulation, list[tuple[int, int, int]]]:
    simulation = Simulation(workload)
    with real_timeout(30):
        return simulation, asyncio.run(simulation.run())


@examples(full=60, short=12)
@given(workloads())
def test_property_pages_are_complete_unique_and_ordered(workload):
    simulation, found = run(workload)

    assert len(set(found)) == len(found)
    complete = []
    for s, pages in enumerate(workload["streams"]):
        for i in range(len(pages)):
            own = [n for a, b, n in found if (a, b) == (s, i)]
            assert own == list(range(len(own)))
            failing_page = simulation.failing_page(s, i)
            count = simulation.page_count(s, i)
            complete += [(s, i, n) for n in range(count if failing_page is None else min(count, failing_page))]
    left_early = workload["leave_after"] is not None and workload["leave_after"] <= len(complete)
    assert left_early or sorted(found) == sorted(complete)


@examples(full=60, short=12)
@given(workloads())
def test_property_slots_bound_requests_and_none_stays_open(workload):
    simulation, _ = run(workload)

    assert simulation.api.peak_in_flight <= workload["max_concurrency"]
    assert simulation.left_open == 0


@examples(full=40, short=10)
@given(workloads())
def test_property_same_seed_gives_same_events(workload):
    workload |= {"leave_after": None}  # the order of cancellations does not depend on the seed
    (first_run, first_pages), (second_run, second_pages) = run(workload), run(workload)

    assert first_pages == second_pages
    assert first_run.comparable_log == second_run.comparable_log


@examples(full=40, short=10)
@given(workloads())
def test_property_exactly_the_failed_slices_are_raised(workload):
    simulation, _ = run(workload | {"leave_after": None})

    failing = [
        (s, i)
        for s, pages in enumerate(workload["streams"])
        for i in range(len(pages))
        if (failing_page := simulation.failing_page(s, i)) is not None and failing_page < simulation.page_count(s, i)
    ]
    if sum(map(len, workload["streams"])) > 1:
        errors = simulation.error.errors if isinstance(simulation.error, PartialFailure) else ()
        assert sorted((int(error.stream[1:]), error.stream_slice["at"]) for error in errors) == failing
