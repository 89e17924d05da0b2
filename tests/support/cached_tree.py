"""A program that reads cached customers and their orders from a MockApi: `cached_tree.py URL FOLDER STREAMS`.

`STREAMS` is `customers`, `orders` or `both`. Prints for each stream its name, the number of its records, and how often
the most frequent id came.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from asyncstreams import HttpStream, HttpSubStream, PageNumber, RequestContext, Source


class Customers(HttpStream):
    records_path = "data"
    paginator = PageNumber(size=20, total_items="meta.total")
    use_cache = True

    def path(self, context: RequestContext) -> str:
        return "customers"


class CustomerChild(HttpSubStream):
    records_path = "data"
    paginator = PageNumber(size=20, total_items="meta.total")
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> tuple[str, Any, str]:
        return (self.parents[0].name, context.stream_slice["parent"]["id"], self.name)


class Orders(CustomerChild):
    pass


class Visits(CustomerChild):
    pass


def streams(url: str, folder: Path) -> tuple[Customers, Orders, Visits]:
    customers = Customers(cache_dir=folder)
    created = (customers, Orders(parent=customers), Visits(parent=customers))
    for stream in created:
        stream.url_base = url
    return created


async def main(url: str, folder: str, names: str) -> None:
    customers, orders, _ = streams(url, Path(folder))
    selections: dict[str, list[HttpStream]] = {
        "customers": [customers],
        "orders": [orders],
        "both": [customers, orders],
    }
    found = await Source(selections[names]).read()
    for name, records in found.items():
        ids = Counter(str(record["id"]) for record in records)
        print(name, len(records), max(ids.values(), default=0))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
