"""A program that reads a MockApi's customers, who are kept, and their orders: `cached_tree.py URL FOLDER WHAT`.

`WHAT` is `customers`, `orders` or `both`. Prints how many records of each it has found, and how often the same one.
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


class Below(HttpSubStream):
    records_path = "data"
    paginator = PageNumber(size=20, total_items="meta.total")
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> tuple[str, Any, str]:
        return (self.parents[0].name, context.stream_slice["parent"]["id"], self.name)


class Orders(Below):
    pass


class Visits(Below):
    pass


def streams(url: str, folder: Path) -> tuple[Customers, Orders, Visits]:
    customers = Customers(cache_dir=folder)
    made = (customers, Orders(parent=customers), Visits(parent=customers))
    for stream in made:
        stream.url_base = url
    return made


async def main(url: str, folder: str, what: str) -> None:
    customers, orders, _ = streams(url, Path(folder))
    wanted: dict[str, list[HttpStream]] = {
        "customers": [customers],
        "orders": [orders],
        "both": [customers, orders],
    }
    found = await Source(wanted[what]).read()
    for name, records in found.items():
        ids = Counter(str(record["id"]) for record in records)
        print(name, len(records), max(ids.values(), default=0))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
