"""Substreams of a real API: Datasette over linked tables of customers, orders and lines."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from datasette_server import datasette

from asyncstreams import Cursor, HttpStream, HttpSubStream, NextUrl, Record, RequestContext, Send, Source

CUSTOMERS, PAGE = 300, 40
SETTINGS = {"max_returned_rows": PAGE, "suggest_facets": "off", "sql_time_limit_ms": 10_000, "num_sql_threads": 4}
NAMES = ("Ann O'Neil & söhne", "\u2028 %2F ?a=b#c", "\U0001f600\u200d\U0001f468", "a\u0301 vs \xe1", "null", "", "-1,2")


class Rows:
    """The rows of a table; requested URLs are recorded in `sent`."""

    paginator: Any = NextUrl("next_url")
    records_path = "rows"
    sent: list[httpx.URL]

    def __init__(self, url: str, **options: Any) -> None:
        self.sent = []
        super().__init__(middleware=(self._record_url,), **options)
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return f"shop/{self.name}.json"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"_shape": "objects", "_size": PAGE, **self.filter_params(context.stream_slice)}

    def filter_params(self, stream_slice: Any) -> dict[str, Any]:
        return {}

    async def _record_url(self, request: httpx.Request, send: Send) -> httpx.Response:
        self.sent.append(request.url)
        return await send(request)


class Customers(Rows, HttpStream):
    pass


class Orders(Rows, HttpSubStream):
    def filter_params(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer_id__exact": stream_slice["parent"]["id"]}


class BatchedOrders(Rows, HttpSubStream):
    name = "orders"
    parent_batch_size = 70

    def filter_params(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer_id__in": ",".join(str(parent["id"]) for parent in stream_slice["parents"])}


class BatchedLines(Rows, HttpSubStream):
    name = "lines"
    paginator = Cursor("next", param="_next")
    parent_batch_size = 100
    parent_fields = ("id",)

    def filter_params(self, stream_slice: Any) -> dict[str, Any]:
        return {"order_id__in": ",".join(str(parent["id"]) for parent in stream_slice["parents"])}


class Notes(Rows, HttpSubStream):
    """Notes filtered by the customer's name, which may contain any character."""

    parent_fields = ("name",)

    def filter_params(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer__exact": stream_slice["parent"]["name"]}


def order_count(number: int) -> int:
    """The number of orders of a customer by its position: 0 for every third one, more than a page for some."""
    if number % 3 == 0:
        return 0
    return PAGE + number if number % 60 == 1 else number % 7


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasette") / "shop.db"
    connection = sqlite3.connect(path)
    ids = [n * 3 + n % 3 for n in range(1, CUSTOMERS + 1)]
    owners = [customer for n, customer in enumerate(ids) for _ in range(order_count(n))]
    orders = list(enumerate(owners, 1))
    lines = [order for order, _ in orders for _ in range(order % 3 if order < 60 else 0)]
    with connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, title TEXT)")
        connection.execute("CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INTEGER, title TEXT)")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, customer TEXT)")
        connection.executemany("INSERT INTO customers VALUES (?, ?)", [(id_, name_of(id_)) for id_ in ids])
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)", [(order, customer, name_of(order)) for order, customer in orders]
        )
        connection.executemany(
            "INSERT INTO lines VALUES (?, ?, ?)", [(n, order, name_of(n)) for n, order in enumerate(lines)]
        )
        connection.executemany("INSERT INTO notes (customer) VALUES (?)", [(name_of(id_),) for id_ in ids[::2]])
        connection.execute("CREATE INDEX by_customer ON orders (customer_id)")
    connection.close()
    return path


def name_of(number: int) -> str:
    return f"{NAMES[number % len(NAMES)]} {number}"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    with datasette(database, SETTINGS) as served:
        yield served


def query(database: Path, sql: str) -> list[Record]:
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute(sql)]
    connection.close()
    return rows


ORDERS = "SELECT orders.* FROM orders JOIN customers ON customers.id = orders.customer_id ORDER BY orders.id"
LINES = "SELECT lines.* FROM lines JOIN orders ON orders.id = lines.order_id ORDER BY lines.id"


def by_id(rows: list[Record]) -> list[Record]:
    return sorted(rows, key=lambda row: row["id"])


def page_count(rows: int) -> int:
    return max(1, -(-rows // PAGE))


async def test_orders_of_all_customers_equal_the_join_of_both_tables(url: str, database: Path) -> None:
    customers = Customers(url)
    orders = Orders(url, parent=customers)

    rows = await orders.read()

    expected = query(database, ORDERS)
    assert len(expected) > 1000
    assert by_id(rows) == expected
    assert len(customers.sent) == len(set(customers.sent)) == page_count(CUSTOMERS)
    order_counts = Counter(row["customer_id"] for row in expected)
    without_orders = CUSTOMERS - len(order_counts)
    assert len(orders.sent) == sum(map(page_count, order_counts.values())) + without_orders


async def test_batches_of_customers_give_the_same_orders(url: str, database: Path) -> None:
    customers = Customers(url)
    orders = BatchedOrders(url, parent=customers)
    batches: dict[tuple[int, ...], list[Record]] = {}

    async with orders.pages() as pages:
        async for page in pages:
            batch = tuple(parent["id"] for parent in page.stream_slice["parents"])
            batches.setdefault(batch, []).extend(page.records)

    assert by_id([row for rows in batches.values() for row in rows]) == query(database, ORDERS)
    assert sorted(map(len, batches)) == [CUSTOMERS % 70, *[70] * (CUSTOMERS // 70)]
    # Pages arrive in the order of the responses; the parents in each batch are in order.
    assert sum(sorted(batches), ()) == tuple(
        row["id"] for row in query(database, "SELECT id FROM customers ORDER BY id")
    )
    assert all(row["customer_id"] in batch for batch, rows in batches.items() for row in rows)
    assert len(customers.sent) == page_count(CUSTOMERS)
    assert len(orders.sent) == sum(page_count(len(rows)) for rows in batches.values())


async def test_slice_contains_the_customer_as_in_the_database(url: str, database: Path) -> None:
    expected = {row["id"]: row for row in query(database, "SELECT * FROM customers")}

    async with Orders(url, parent=Customers(url)).pages() as pages:
        found = {page.stream_slice["parent"]["id"]: page.stream_slice["parent"] async for page in pages}

    assert found == expected


async def test_unusual_parent_names_reach_the_child_requests_intact(url: str, database: Path) -> None:
    notes = await Notes(url, parent=Customers(url)).read()

    assert by_id(notes) == query(database, "SELECT * FROM notes ORDER BY id")
    assert len(notes) == CUSTOMERS / 2


@pytest.mark.parametrize("selected", [False, True], ids=["lines-only", "all"])
async def test_three_levels_are_complete_with_one_request_per_page(url: str, database: Path, selected: bool) -> None:
    customers = Customers(url)
    orders = BatchedOrders(url, parent=customers)
    source = Source([customers, orders, BatchedLines(url, parent=orders)])

    found = await source.read(*([] if selected else ["lines"]))

    assert by_id(found.pop("lines")) == query(database, LINES)
    assert found == {} or by_id(found.pop("orders")) == query(database, ORDERS)
    assert found == {} or found == {"customers": query(database, "SELECT * FROM customers ORDER BY id")}
    assert len(customers.sent) == page_count(CUSTOMERS)
    assert len(orders.sent) == len(set(orders.sent))


async def test_one_read_of_the_customers_serves_two_children(url: str, database: Path) -> None:
    customers = Customers(url)
    source = Source([BatchedOrders(url, parent=customers), Notes(url, parent=customers), customers])

    found = await source.read()

    assert {name: by_id(rows) for name, rows in found.items()} == {
        "orders": query(database, ORDERS),
        "notes": query(database, "SELECT * FROM notes ORDER BY id"),
        "customers": query(database, "SELECT * FROM customers ORDER BY id"),
    }
    assert len(customers.sent) == page_count(CUSTOMERS)


@pytest.mark.parametrize(("limit", "requests"), [(1, 1), (113, 1), (114, 2), (400, 4)])
async def test_limit_requests_only_the_customer_pages_it_needs(url: str, limit: int, requests: int) -> None:
    customers = Customers(url)

    rows = await Orders(url, parent=customers).read(limit=limit)

    assert len({row["id"] for row in rows}) == len(rows) == limit
    assert len(customers.sent) == requests
