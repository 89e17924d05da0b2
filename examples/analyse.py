"""Parents and children from a mock API into SQLite, then three SQL queries. It needs no network.

python examples/analyse.py
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from asyncstreams import HttpStream, HttpSubStream, PageNumber, RequestContext, Source, SQLite
from asyncstreams.testing import MockApi, Resource

QUERIES = {
    "Countries with the most customers": """
        SELECT json_extract(city, '$.country') AS country, count(*) AS customers
        FROM customers GROUP BY country ORDER BY customers DESC, country LIMIT 3""",
    "Customers with orders, orders and revenue by plan": """
        SELECT customers.plan, count(DISTINCT customer_id) AS customers, count(*) AS orders,
            CAST(sum(orders.total) AS INTEGER) AS total
        FROM customers JOIN orders ON customer_id = customers.id GROUP BY customers.plan ORDER BY 4 DESC""",
    "Customers without orders": """
        SELECT count(*) AS customers, min(name) AS first
        FROM customers WHERE id NOT IN (SELECT customer_id FROM orders)""",
}


class Customers(HttpStream):
    records_path = "data"
    primary_key = "id"
    paginator = PageNumber(total_pages="meta.pages")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return "customers"


class Orders(HttpSubStream):
    """The orders of each customer."""

    records_path = "data"
    primary_key = "id"
    parent_fields = ("id",)
    paginator = PageNumber(total_pages="meta.pages")

    def __init__(self, customers: Customers) -> None:
        super().__init__(parent=customers)
        self.url_base = customers.url_base

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


async def extract(url: str, database: Path) -> None:
    customers = Customers(url)
    report = await Source([customers, Orders(customers)]).extract(to=SQLite(database))
    for stream in report.streams:
        print(f"{stream.stream}: {stream.records:,} rows")


def run_queries(database: Path) -> None:
    with closing(sqlite3.connect(database)) as shop:
        for title, query in QUERIES.items():
            rows = shop.execute(query)
            print(f"\n{title}")
            print("  " + "  ".join(f"{column[0]:>10}" for column in rows.description))
            for row in rows:
                print("  " + "  ".join(f"{value!s:>10}" for value in row))


def main() -> int:
    orders = Resource("orders", (0, 4), parent="customers")
    with tempfile.TemporaryDirectory() as folder, MockApi(Resource("customers", 300), orders, process=True) as api:
        database = Path(folder) / "shop.sqlite"
        asyncio.run(extract(api.url, database))
        run_queries(database)
    return 0


if __name__ == "__main__":
    sys.exit(main())
