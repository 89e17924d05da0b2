"""An extraction that is killed twice on purpose, and resumed: the files hold each record once. No network is needed.

python examples/resume.py
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from asyncstreams import HttpStream, JsonLines, PageNumber, RequestContext
from asyncstreams.testing import MockApi, Resource

CUSTOMERS = 60


class Orders(HttpStream):
    """The orders of each customer: a slice each, so that what is done need not be asked for again."""

    records_path = "data"
    primary_key = "id"
    paginator = PageNumber()
    max_concurrency = 4

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url_base = url

    def stream_slices(self, state: Any) -> list[dict[str, Any]]:
        return [{"customer": number} for number in range(1, CUSTOMERS + 1)]

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["customer"], "orders")


def extract(url: str, out: str) -> None:
    asyncio.run(Orders(url).extract(to=JsonLines(out)))


def ids(out: Path) -> list[int]:
    """What is in the files that anybody can see."""
    lines = [line for part in out.glob("orders/part-*.jsonl") for line in part.read_bytes().splitlines()]
    return [json.loads(line)["id"] for line in lines]


def main() -> int:
    processes = multiprocessing.get_context("spawn")
    orders = Resource("orders", 30, parent="customers", page_size=10)
    with (
        tempfile.TemporaryDirectory() as folder,
        MockApi(Resource("customers", CUSTOMERS), orders, latency=0.05, process=True) as api,
    ):
        out = Path(folder) / "out"
        for run in (1, 2, 3):
            asked, known = api.counts.requests, len(ids(out))
            process = processes.Process(target=extract, args=(api.url, str(out)))
            process.start()
            while process.is_alive() and (run == 3 or len(ids(out)) <= known):
                time.sleep(0.01)
            process.kill()
            process.join()
            ended = "came to its end" if run == 3 else "killed"
            print(
                f"run {run}: {api.counts.requests - asked:3} requests, {len(ids(out)):5,} orders in the files; {ended}"
            )
        found, expected = sorted(ids(out)), sorted(api.ids("orders"))
    print(
        f"{len(expected):,} orders in the shop: {'all there, each once' if found == expected else 'NOT what is there'}"
    )
    return 0 if found == expected else 1


if __name__ == "__main__":
    sys.exit(main())
