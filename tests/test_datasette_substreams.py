"""Is a real API, Datasette over linked tables, read completely from customers down to the lines of their orders?"""

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
    """Some table's rows; what is asked for is noted."""

    paginator: Any = NextUrl("next_url")
    records_path = "rows"
    sent: list[httpx.URL]

    def __init__(self, url: str, **options: Any) -> None:
        self.sent = []
        super().__init__(middleware=(self._note,), **options)
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return f"shop/{self.name}.json"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"_shape": "objects", "_size": PAGE, **self.below(context.stream_slice)}

    def below(self, stream_slice: Any) -> dict[str, Any]:
        return {}

    async def _note(self, request: httpx.Request, send: Send) -> httpx.Response:
        self.sent.append(request.url)
        return await send(request)


class Customers(Rows, HttpStream):
    pass


class Orders(Rows, HttpSubStream):
    def below(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer_id__exact": stream_slice["parent"]["id"]}


class OrdersOfMany(Rows, HttpSubStream):
    name = "orders"
    parent_batch_size = 70

    def below(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer_id__in": ",".join(str(one["id"]) for one in stream_slice["parents"])}


class LinesOfMany(Rows, HttpSubStream):
    name = "lines"
    paginator = Cursor("next", param="_next")
    parent_batch_size = 100
    parent_fields = ("id",)

    def below(self, stream_slice: Any) -> dict[str, Any]:
        return {"order_id__in": ",".join(str(one["id"]) for one in stream_slice["parents"])}


class Notes(Rows, HttpSubStream):
    """Found by the customer's name, whatever is in it."""

    parent_fields = ("name",)

    def below(self, stream_slice: Any) -> dict[str, Any]:
        return {"customer__exact": stream_slice["parent"]["name"]}


def orders_of(customer: int) -> int:
    """None of every third customer, and of some more than a page."""
    if customer % 3 == 0:
        return 0
    return PAGE + customer if customer % 60 == 1 else customer % 7


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasette") / "shop.db"
    connection = sqlite3.connect(path)
    ids = [n * 3 + n % 3 for n in range(1, CUSTOMERS + 1)]
    owners = [customer for n, customer in enumerate(ids) for _ in range(orders_of(n))]
    orders = list(enumerate(owners, 1))
    lines = [order for order, _ in orders for _ in range(order % 3 if order < 60 else 0)]
    with connection:
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, title TEXT)")
        connection.execute("CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INTEGER, title TEXT)")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, customer TEXT)")
        connection.executemany("INSERT INTO customers VALUES (?, ?)", [(one, name_of(one)) for one in ids])
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)", [(order, one, name_of(order)) for order, one in orders]
        )
        connection.executemany(
            "INSERT INTO lines VALUES (?, ?, ?)", [(n, order, name_of(n)) for n, order in enumerate(lines)]
        )
        connection.executemany("INSERT INTO notes (customer) VALUES (?)", [(name_of(one),) for one in ids[::2]])
        connection.execute("CREATE INDEX by_customer ON orders (customer_id)")
    connection.close()
    return path


def name_of(number: int) -> str:
    return f"{NAMES[number % len(NAMES)]} {number}"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    with datasette(database, SETTINGS) as served:
        yield served


def joined(database: Path, sql: str) -> list[Record]:
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute(sql)]
    connection.close()
    return rows


ORDERS = "SELECT orders.* FROM orders JOIN customers ON customers.id = orders.customer_id ORDER BY orders.id"
LINES = "SELECT lines.* FROM lines JOIN orders ON orders.id = lines.order_id ORDER BY lines.id"


def by_id(rows: list[Record]) -> list[Record]:
    return sorted(rows, key=lambda row: row["id"])


def pages_of(rows: int) -> int:
    return max(1, -(-rows // PAGE))


async def test_the_orders_of_all_customers_are_the_join_of_both_tables(url: str, database: Path) -> None:
    customers = Customers(url)
    orders = Orders(url, parent=customers)

    rows = await orders.read()

    expected = joined(database, ORDERS)
    assert len(expected) > 1000
    assert by_id(rows) == expected
    assert len(customers.sent) == len(set(customers.sent)) == pages_of(CUSTOMERS)
    each = Counter(row["customer_id"] for row in expected)
    without = CUSTOMERS - len(each)
    assert len(orders.sent) == sum(map(pages_of, each.values())) + without


async def test_customers_in_batches_give_the_same_orders_with_a_request_for_many(url: str, database: Path) -> None:
    customers = Customers(url)
    orders = OrdersOfMany(url, parent=customers)
    batches: dict[tuple[int, ...], list[Record]] = {}

    async with orders.pages() as pages:
        async for page in pages:
            asked = tuple(one["id"] for one in page.stream_slice["parents"])
            batches.setdefault(asked, []).extend(page.records)

    assert by_id([row for rows in batches.values() for row in rows]) == joined(database, ORDERS)
    assert sorted(map(len, batches)) == [CUSTOMERS % 70, *[70] * (CUSTOMERS // 70)]
    # Pages come as they are answered, each batch in the order of the parents.
    assert sum(sorted(batches), ()) == tuple(
        row["id"] for row in joined(database, "SELECT id FROM customers ORDER BY id")
    )
    assert all(row["customer_id"] in asked for asked, rows in batches.items() for row in rows)
    assert len(customers.sent) == pages_of(CUSTOMERS)
    assert len(orders.sent) == sum(pages_of(len(rows)) for rows in batches.values())


async def test_each_customer_is_in_the_slice_as_it_is_in_the_database(url: str, database: Path) -> None:
    known = {row["id"]: row for row in joined(database, "SELECT * FROM customers")}

    async with Orders(url, parent=Customers(url)).pages() as pages:
        found = {page.stream_slice["parent"]["id"]: page.stream_slice["parent"] async for page in pages}

    assert found == known


async def test_odd_names_of_parents_arrive_whole_in_the_requests_of_their_children(url: str, database: Path) -> None:
    notes = await Notes(url, parent=Customers(url)).read()

    assert by_id(notes) == joined(database, "SELECT * FROM notes ORDER BY id")
    assert len(notes) == CUSTOMERS / 2


@pytest.mark.parametrize("selected", [False, True], ids=["lines-only", "all"])
async def test_three_levels_are_read_whole_with_each_page_of_a_parent_asked_for_once(
    url: str, database: Path, selected: bool
) -> None:
    customers = Customers(url)
    orders = OrdersOfMany(url, parent=customers)
    source = Source([customers, orders, LinesOfMany(url, parent=orders)])

    found = await source.read(*([] if selected else ["lines"]))

    assert by_id(found.pop("lines")) == joined(database, LINES)
    assert found == {} or by_id(found.pop("orders")) == joined(database, ORDERS)
    assert found == {} or found == {"customers": joined(database, "SELECT * FROM customers ORDER BY id")}
    assert len(customers.sent) == pages_of(CUSTOMERS)
    assert len(orders.sent) == len(set(orders.sent))


async def test_one_read_of_the_customers_serves_their_orders_and_their_notes(url: str, database: Path) -> None:
    customers = Customers(url)
    source = Source([OrdersOfMany(url, parent=customers), Notes(url, parent=customers), customers])

    found = await source.read()

    assert {name: by_id(rows) for name, rows in found.items()} == {
        "orders": joined(database, ORDERS),
        "notes": joined(database, "SELECT * FROM notes ORDER BY id"),
        "customers": joined(database, "SELECT * FROM customers ORDER BY id"),
    }
    assert len(customers.sent) == pages_of(CUSTOMERS)


@pytest.mark.parametrize(("limit", "requests"), [(1, 1), (113, 1), (114, 2), (400, 4)])
async def test_a_limit_asks_for_no_more_pages_of_customers_than_it_needs(url: str, limit: int, requests: int) -> None:
    customers = Customers(url)

    rows = await Orders(url, parent=customers).read(limit=limit)

    assert len({row["id"] for row in rows}) == len(rows) == limit
    assert len(customers.sent) == requests
