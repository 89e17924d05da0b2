"""An extraction that is killed twice and resumed: the files hold each record once. It needs no network.

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
    """The orders of each customer. Each customer is a slice, so finished ones are not requested again."""

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
    """The ids in the committed files."""
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
            requests_before, orders_before = api.counts.requests, len(ids(out))
            process = processes.Process(target=extract, args=(api.url, str(out)))
            process.start()
            while process.is_alive() and (run == 3 or len(ids(out)) <= orders_before):
                time.sleep(0.01)
            process.kill()
            process.join()
            requests, end = api.counts.requests - requests_before, "finished" if run == 3 else "killed"
            print(f"run {run}: {requests:3} requests, {len(ids(out)):5,} orders in the files; {end}")
        written, expected = sorted(ids(out)), sorted(api.ids("orders"))
    verdict = "each is in the files once" if written == expected else "the files DIFFER from the API"
    print(f"{len(expected):,} orders in the API: {verdict}")
    return 0 if written == expected else 1


if __name__ == "__main__":
    sys.exit(main())
