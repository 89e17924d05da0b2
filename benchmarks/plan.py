"""The benchmark jobs, their sizes and their aims."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

from asyncstreams.testing import Resource

PAGE_SIZE = 100
Measure: TypeAlias = Literal["wall", "cpu", "peak_mb"]


@dataclass(frozen=True, slots=True)
class Aim:
    """A measure, divided by that of `against`, should be at most `max_ratio`.

    `against` is "ideal" (the seconds that latency alone takes), the name of a contender, or "smaller": the
    same contender on the first size of the job, with CPU counted per slice.
    """

    measure: Measure
    against: str
    max_ratio: float
    contender: str = ""
    """The contender that the aim is for; empty: each asyncstreams contender."""

    @property
    def name(self) -> str:
        """The ratio in words."""
        measure = {"wall": "wall", "cpu": "CPU", "peak_mb": "peak memory"}[self.measure]
        if self.against != "smaller":
            return f"{measure} to {self.against}"
        return f"{measure} per slice to few slices" if self.measure == "cpu" else f"{measure} to few pages"


@dataclass(frozen=True, slots=True)
class Size:
    """A size of a job: `slices` slices with `pages` pages each."""

    slices: int
    pages: int

    def scaled(self, scale: float) -> Size:
        if self.slices > 1:
            return Size(max(2, round(self.slices * scale)), self.pages)
        return Size(1, max(3, round(self.pages * scale)))

    def __str__(self) -> str:
        pages = f"{self.pages:,} page" + "s" * (self.pages > 1)
        return pages if self.slices == 1 else f"{self.slices:,} slices of {pages}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A job. `shape` is its kind in the programs. `only` names the contenders that run it; empty means all."""

    name: str
    shape: Literal["slices", "numbered", "pages", "cursor"]
    sizes: tuple[Size, ...]
    concurrency: int
    aims: tuple[Aim, ...]
    latency: float = 0.0
    page_size: int = PAGE_SIZE
    pause: float = 0.0
    every: int = 1
    tiny_records: bool = False
    rounds: int = 5
    only: tuple[str, ...] = ()

    def describe(self, sizes: tuple[Size, ...]) -> str:
        """The job with these sizes, in words."""
        latency = f"latency {self.latency * 1000:g} ms" if self.latency else "no latency"
        parts = [f"pages of {self.page_size}" if self.page_size > 1 else "pages of one record", latency]
        parts.append(f"{self.concurrency} connections" if self.concurrency > 1 else "sequential pages")
        if self.pause:
            interval = "each page" if self.every == 1 else f"every {self.every} pages"
            parts.append(f"the consumer takes {self.pause * 1000:g} ms for {interval}")
        return f"{' or '.join(map(str, sizes))}, {', '.join(parts)}"

    def record_count(self, size: Size) -> int:
        return size.slices * size.pages * self.page_size

    def path(self, size: Size) -> str:
        return "customers/{}/orders" if self.shape in ("slices", "numbered") else f"events-{size.pages}"

    def ideal_seconds(self, size: Size) -> float:
        """The seconds that latency alone takes with all connections busy."""
        if self.shape == "pages":
            return (1 + math.ceil((size.pages - 1) / self.concurrency)) * self.latency
        return size.slices * size.pages / min(self.concurrency, size.slices) * self.latency

    def resources(self, sizes: tuple[Size, ...]) -> list[Resource]:
        """The resources of the API. A job with slices has as many parents as its largest size has slices."""
        record = tiny_record if self.tiny_records else None
        paging: Literal["page", "cursor"] = "page" if self.shape in ("pages", "numbered") else "cursor"
        if self.shape in ("slices", "numbered"):
            largest = max(sizes, key=lambda size: size.slices)
            count = largest.pages * self.page_size
            orders = Resource(
                "orders", count, parent="customers", page_size=self.page_size, paging=paging, total=paging == "page"
            )
            return [Resource("customers", largest.slices), orders]
        return [
            Resource(self.path(size), self.record_count(size), paging=paging, total=paging == "page", record=record)
            for size in sizes
        ]

    def arguments(self, size: Size) -> list[str]:
        values = {"path": self.path(size), "slices": size.slices, "concurrency": self.concurrency}
        values |= {"pause": self.pause, "every": self.every}
        return [f"--{name}={value}" for name, value in values.items()]


def tiny_record(number: int, rng: random.Random) -> dict[str, object]:
    """A record that is cheap to generate, send and decode."""
    return {"id": number, "name": "customer"}


OURS = ("asyncstreams", "asyncstreams, asyncio loop")
EXTRACT = ("extract, decoded records", "extract, raw passthrough")
HAND_WRITTEN = ("aiohttp script", "aiohttp script, asyncio loop", "httpx script", "msgspec script")
READ_PLANS = (
    Plan("slices", "slices", (Size(1000, 5),), 100, (Aim("wall", "ideal", 1.10),), latency=0.05, rounds=3),
    Plan("cpu", "slices", (Size(20, 100),), 20, (Aim("cpu", "aiohttp script", 1.25), Aim("cpu", "airbyte-cdk", 0.1))),
    Plan(
        "numbered slices",
        "numbered",
        (Size(1000, 5),),
        100,
        (
            Aim("wall", "aiohttp script", 1.05),
            Aim("cpu", "aiohttp script", 1.0),
            Aim("wall", "aiohttp script, asyncio loop", 1.05, OURS[1]),
            Aim("cpu", "aiohttp script, asyncio loop", 1.0, OURS[1]),
        ),
        latency=0.05,
        rounds=3,
    ),
    Plan(
        "numbered cpu",
        "numbered",
        (Size(20, 100),),
        20,
        (Aim("cpu", "aiohttp script", 0.85), Aim("cpu", "aiohttp script, asyncio loop", 0.85, OURS[1])),
    ),
    Plan("pages", "pages", (Size(1, 500),), 20, (Aim("wall", "ideal", 1.10),), latency=0.05),
    Plan("cursor", "cursor", (Size(1, 200),), 1, (Aim("wall", "ideal", 1.03),), latency=0.05, pause=0.02, rounds=3),
    Plan(
        "memory",
        "pages",
        (Size(1, 2_000), Size(1, 20_000)),
        20,
        (Aim("peak_mb", "smaller", 1.2),),
        pause=0.02,
        every=50,
        tiny_records=True,
        rounds=3,
        only=(*OURS, *HAND_WRITTEN),
    ),
    Plan(
        "many",
        "slices",
        (Size(1_000, 1), Size(100_000, 1)),
        100,
        (Aim("cpu", "smaller", 1.2),),
        page_size=1,
        rounds=3,
        only=(*OURS, *HAND_WRITTEN[:2]),
    ),
)
EXTRACT_PLANS = (
    Plan(
        "files",
        "slices",
        (Size(20, 100),),
        20,
        (
            Aim("cpu", "aiohttp script", 1.25, EXTRACT[0]),
            Aim("cpu", "aiohttp script", 1.0, EXTRACT[1]),
            Aim("cpu", "msgspec script", 1.0, EXTRACT[1]),
        ),
    ),
)
