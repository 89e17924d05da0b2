"""Which jobs are there, how large, and what is aimed at?"""

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
    """A measure, divided by the same one of `against`, is at most `most`.

    `against` is "ideal", the seconds that latency alone takes, a contender's name, or "smaller": the
    same contender's figure on the job's first size, for each slice where there are slices.
    """

    measure: Measure
    against: str
    most: float
    of: str = ""
    """The contender that it is of; none: each of ours."""

    @property
    def name(self) -> str:
        """What it is a ratio of."""
        measure = {"wall": "wall", "cpu": "CPU", "peak_mb": "peak memory"}[self.measure]
        if self.against != "smaller":
            return f"{measure} to {self.against}"
        return f"{measure} of a slice to that of few" if self.measure == "cpu" else f"{measure} to that of few pages"


@dataclass(frozen=True, slots=True)
class Size:
    """One form of a job: `slices` times `pages` pages."""

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
    """A job; `shape` is what the programs know it as, `only` the contenders that do it (none: all of them)."""

    name: str
    shape: Literal["slices", "pages", "cursor"]
    sizes: tuple[Size, ...]
    concurrency: int
    aims: tuple[Aim, ...]
    latency: float = 0.0
    page_size: int = PAGE_SIZE
    pause: float = 0.0
    every: int = 1
    tiny: bool = False
    rounds: int = 5
    only: tuple[str, ...] = ()

    def told(self, sizes: tuple[Size, ...]) -> str:
        """The job in these sizes, in words."""
        latency = f"latency {self.latency * 1000:g} ms" if self.latency else "no latency"
        told = [f"pages of {self.page_size}" if self.page_size > 1 else "pages of one record", latency]
        told.append(f"{self.concurrency} connections" if self.concurrency > 1 else "one page after the other")
        if self.pause:
            rest = "each page" if self.every == 1 else f"every {self.every} pages"
            told.append(f"the consumer takes {self.pause * 1000:g} ms for {rest}")
        return f"{' or '.join(map(str, sizes))}, {', '.join(told)}"

    def records(self, size: Size) -> int:
        return size.slices * size.pages * self.page_size

    def path(self, size: Size) -> str:
        return "customers/{}/orders" if self.shape == "slices" else f"events-{size.pages}"

    def ideal(self, size: Size) -> float:
        """Seconds that latency alone takes, with all connections busy."""
        if self.shape == "pages":
            return (1 + math.ceil((size.pages - 1) / self.concurrency)) * self.latency
        return size.slices * size.pages / min(self.concurrency, size.slices) * self.latency

    def resources(self, sizes: tuple[Size, ...]) -> list[Resource]:
        """What an API needs for it; children of as many parents as the largest size has slices."""
        record = tiny if self.tiny else None
        if self.shape == "slices":
            most = max(sizes, key=lambda size: size.slices)
            count = most.pages * self.page_size
            orders = Resource("orders", count, parent="customers", page_size=self.page_size, paging="cursor")
            return [Resource("customers", most.slices), orders]
        paging: Literal["page", "cursor"] = "page" if self.shape == "pages" else "cursor"
        return [
            Resource(self.path(size), self.records(size), paging=paging, total=paging == "page", record=record)
            for size in sizes
        ]

    def arguments(self, size: Size) -> list[str]:
        told = {"path": self.path(size), "slices": size.slices, "concurrency": self.concurrency}
        told |= {"pause": self.pause, "every": self.every}
        return [f"--{name}={value}" for name, value in told.items()]


def tiny(number: int, chance: random.Random) -> dict[str, object]:
    """A record that costs next to nothing to make, to send, and to decode."""
    return {"id": number, "name": "somebody"}


OURS = ("asyncstreams", "asyncstreams, asyncio's loop")
INTO_FILES = ("extract, ordinary lane", "extract, raw lane")
BY_HAND = ("aiohttp script", "httpx script", "msgspec script")
JOBS = (
    Plan("slices", "slices", (Size(1000, 5),), 100, (Aim("wall", "ideal", 1.10),), latency=0.05, rounds=3),
    Plan("cpu", "slices", (Size(20, 100),), 20, (Aim("cpu", "aiohttp script", 1.25), Aim("cpu", "airbyte-cdk", 0.1))),
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
        tiny=True,
        rounds=3,
        only=(*OURS, *BY_HAND),
    ),
    Plan(
        "many",
        "slices",
        (Size(1_000, 1), Size(100_000, 1)),
        100,
        (Aim("cpu", "smaller", 1.2),),
        page_size=1,
        rounds=3,
        only=(*OURS, "aiohttp script"),
    ),
)
FILES = (
    Plan(
        "files",
        "slices",
        (Size(20, 100),),
        20,
        (
            Aim("cpu", "aiohttp script", 1.25, INTO_FILES[0]),
            Aim("cpu", "aiohttp script", 1.0, INTO_FILES[1]),
            Aim("cpu", "msgspec script", 1.0, INTO_FILES[1]),
        ),
    ),
)
