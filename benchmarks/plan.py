"""The benchmark jobs, their sizes and their aims."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from asyncstreams.testing import Fault, Quota, Resource

PAGE_SIZE = 100
Measure: TypeAlias = Literal["wall", "cpu", "peak_mb"]


@dataclass(frozen=True, slots=True)
class Aim:
    """A measure, divided by that of `against`, should be at most `maximum`.

    `against` is "ideal" (the seconds that latency and a declared rate take), "aiohttp script" (that on the same
    event loop), the name of another contender, "smaller" (the same contender on the first size of the job, with
    CPU counted per slice), or "" for the measure itself.
    """

    measure: Measure
    against: str
    maximum: float
    contender: str = "asyncstreams"
    """The start of the names of the contenders that the aim is for."""

    @property
    def name(self) -> str:
        """The measure or the ratio in words."""
        measure = {"wall": "wall", "cpu": "CPU", "peak_mb": "peak memory"}[self.measure]
        if not self.against:
            return {"wall": "wall s", "cpu": "CPU s", "peak_mb": "peak MB"}[self.measure]
        if self.against != "smaller":
            return f"{measure} to {self.against}"
        return f"{measure} per slice to few slices" if self.measure == "cpu" else f"{measure} to few pages"


@dataclass(frozen=True, slots=True)
class Size:
    """A size of a job: `slices` slices with `pages` pages each."""

    slices: int
    pages: int

    def scaled(self, scale: float) -> Size:
        """Fewer slices, at least two, and then fewer pages of each."""
        if self.slices == 1:
            return Size(1, max(3, round(self.pages * scale)))
        slices = max(2, round(self.slices * scale))
        return Size(slices, max(1, min(self.pages, round(self.slices * self.pages * scale / slices))))

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
    timeout: float = 0.0
    """Seconds that every contender waits for a response or its next part; 0: its own default."""
    rate: float = 0.0
    """Requests a second that every contender declares or spaces out; 0: no limit."""
    quota: Quota | None = None
    faults: tuple[Fault, ...] = ()
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
        if self.rate:
            parts.append(f"declared {self.rate:g} requests/s")
        if self.faults:
            kinds = ", ".join(fault.kind for fault in self.faults)
            parts.append(f"faults ({kinds}) in {sum(fault.share or 0 for fault in self.faults):.0%} of the responses")
        if self.timeout:
            parts.append(f"a limit of {self.timeout:g} s for each response")
        return f"{' or '.join(map(str, sizes))}, {', '.join(parts)}"

    def record_count(self, size: Size) -> int:
        return size.slices * size.pages * self.page_size

    def path(self, size: Size) -> str:
        return f"customers/{{}}/orders-{size.pages}" if self.shape in ("slices", "numbered") else f"events-{size.pages}"

    def ideal_seconds(self, size: Size) -> float:
        """The seconds that latency, with all connections busy, or the declared rate takes."""
        if self.shape == "pages":
            return (1 + math.ceil((size.pages - 1) / self.concurrency)) * self.latency
        pages = size.slices * size.pages
        seconds = pages / min(self.concurrency, size.slices) * self.latency
        return max(seconds, pages / self.rate) if self.rate else seconds

    def resources(self, sizes: tuple[Size, ...]) -> list[Resource]:
        """The resources of the API; each number of pages is a resource of its own."""
        record = tiny_record if self.tiny_records else None
        paging: Literal["page", "cursor"] = "page" if self.shape in ("pages", "numbered") else "cursor"
        if self.shape in ("slices", "numbered"):
            orders = [
                Resource(
                    f"orders-{pages}",
                    pages * self.page_size,
                    parent="customers",
                    page_size=self.page_size,
                    paging=paging,
                    total=paging == "page",
                )
                for pages in sorted({size.pages for size in sizes})
            ]
            return [Resource("customers", max(size.slices for size in sizes)), *orders]
        return [
            Resource(self.path(size), self.record_count(size), paging=paging, total=paging == "page", record=record)
            for size in sizes
        ]

    def arguments(self, size: Size) -> list[str]:
        values = {"path": self.path(size), "slices": size.slices, "concurrency": self.concurrency}
        values |= {"pause": self.pause, "every": self.every, "timeout": self.timeout, "rate": self.rate}
        return [f"--{name}={value}" for name, value in values.items()]


def tiny_record(number: int, rng: random.Random) -> dict[str, object]:
    """A record that is cheap to generate, send and decode."""
    return {"id": number, "name": "customer"}


OURS = ("asyncstreams", "asyncstreams, asyncio loop")
DECODED, RAW = "extract, decoded records", "extract, raw passthrough"
AIOHTTP_SCRIPT = "aiohttp script"
AIOHTTP_SCRIPTS = (AIOHTTP_SCRIPT, "aiohttp script, asyncio loop")
HTTPX_SCRIPT, MSGSPEC_SCRIPT = "httpx script", "msgspec script"
FAULTS = tuple(
    make(share=0.01)
    for make in (Fault.hang, Fault.reset, partial(Fault.reset, mid_body=True), Fault.cut, partial(Fault.status, 503))
)
"""One response in twenty has a fault, and one in a hundred is silent. All of these are repeated up to five times."""

READ_PLANS = (
    Plan("slices", "slices", (Size(1000, 5),), 100, (Aim("wall", "ideal", 1.10),), latency=0.05, rounds=3),
    Plan("cpu", "slices", (Size(20, 100),), 20, (Aim("cpu", AIOHTTP_SCRIPT, 1.25), Aim("cpu", "airbyte-cdk", 0.1))),
    Plan(
        "numbered slices",
        "numbered",
        (Size(1000, 5),),
        100,
        (Aim("wall", AIOHTTP_SCRIPT, 1.05), Aim("cpu", AIOHTTP_SCRIPT, 1.0), Aim("peak_mb", "", 70)),
        latency=0.05,
        rounds=3,
    ),
    Plan(
        "numbered cpu",
        "numbered",
        (Size(20, 100),),
        20,
        (Aim("cpu", AIOHTTP_SCRIPT, 0.85), Aim("peak_mb", "", 65)),
    ),
    Plan(
        "pages",
        "pages",
        (Size(1, 500),),
        20,
        (Aim("wall", "ideal", 1.10), Aim("wall", AIOHTTP_SCRIPT, 1.03)),
        latency=0.05,
    ),
    Plan(
        "cursor",
        "cursor",
        (Size(1, 200),),
        1,
        (Aim("wall", "ideal", 1.03), Aim("wall", AIOHTTP_SCRIPT, 1.02)),
        latency=0.05,
        pause=0.02,
        rounds=3,
    ),
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
        only=(*OURS, *AIOHTTP_SCRIPTS, HTTPX_SCRIPT),
    ),
    Plan(
        "records",
        "numbered",
        (Size(20, 100), Size(20, 1_000)),
        20,
        (Aim("cpu", AIOHTTP_SCRIPT, 0.9), Aim("peak_mb", "smaller", 1.1)),
        rounds=3,
        only=(*OURS, *AIOHTTP_SCRIPTS),
    ),
    Plan(
        "many",
        "slices",
        (Size(1_000, 1), Size(100_000, 1)),
        100,
        (Aim("cpu", "smaller", 1.2), Aim("cpu", AIOHTTP_SCRIPT, 2.0)),
        page_size=1,
        rounds=3,
        only=(*OURS, *AIOHTTP_SCRIPTS),
    ),
    Plan(
        "declared",
        "numbered",
        (Size(100, 30),),
        20,
        (Aim("wall", AIOHTTP_SCRIPT, 1.02), Aim("wall", "ideal", 1.02)),
        latency=0.02,
        rate=200.0,
        quota=Quota(200, burst=50, headers="none"),
        rounds=3,
        only=(*OURS, *AIOHTTP_SCRIPTS),
    ),
    Plan(
        "faults",
        "numbered",
        (Size(20, 100),),
        20,
        (Aim("wall", AIOHTTP_SCRIPT, 0.5),),
        timeout=2.0,
        faults=FAULTS,
        only=(*OURS, *AIOHTTP_SCRIPTS),
    ),
)
EXTRACT_PLANS = (
    Plan(
        "files",
        "slices",
        (Size(20, 100),),
        20,
        (
            Aim("cpu", AIOHTTP_SCRIPT, 0.9, DECODED),
            Aim("cpu", AIOHTTP_SCRIPT, 0.5, RAW),
            Aim("cpu", MSGSPEC_SCRIPT, 1.0, RAW),
        ),
    ),
)
