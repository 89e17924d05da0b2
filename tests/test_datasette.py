"""A real API, Datasette with 25,000 rows, read with each of its paginations."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from datasette_server import datasette

from asyncstreams import Cursor, HttpStream, LinkHeader, NextUrl, Paginator, Record, RequestContext, Send

ROWS, PAGE = 25_000, 1000
SETTINGS = {"max_returned_rows": PAGE, "suggest_facets": "off", "sql_time_limit_ms": 10_000}


class Rows(HttpStream):
    """The rows of a table. With `array`, each page is a bare array."""

    def __init__(self, url: str, paginator: Paginator, *, array: bool = False) -> None:
        self.sent: list[httpx.URL] = []
        super().__init__(middleware=(self._record_url,))
        self.url_base, self.paginator = url, paginator
        self._shape = "array" if array else "objects"
        self.records_path = None if array else "rows"

    def path(self, context: RequestContext) -> str:
        return "shop/orders.json"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"_shape": self._shape, "_size": PAGE}

    async def _record_url(self, request: httpx.Request, send: Send) -> httpx.Response:
        self.sent.append(request.url)
        return await send(request)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose ids have gaps and whose customers are unordered."""
    path = tmp_path_factory.mktemp("datasette") / "shop.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)")
        rows = ((n * 3 + n % 3, f"customer {n * 7919 % 1013} & söhne", n * 101 % 9973) for n in range(1, ROWS + 1))
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    connection.close()
    return path


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    with datasette(database, SETTINGS) as server_url:
        yield server_url


@pytest.fixture(scope="module")
def orders(database: Path) -> list[Record]:
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM orders ORDER BY id")]
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("paginator", "array"),
    [
        pytest.param(NextUrl("next_url"), False, id="by the next URL"),
        pytest.param(Cursor("next", param="_next"), False, id="by a cursor"),
        pytest.param(LinkHeader(), True, id="by the Link header"),
    ],
)
async def test_every_row_is_read_once_and_in_order(
    url: str, orders: list[Record], paginator: Paginator, array: bool
) -> None:
    stream = Rows(url, paginator, array=array)

    rows = await stream.read()

    assert len(rows) == len(orders) == ROWS
    assert sum(row["id"] for row in rows) == sum(order["id"] for order in orders)
    assert rows == orders
    assert len(stream.sent) == ROWS / PAGE


@pytest.mark.parametrize("paginator", [NextUrl("next_url"), Cursor("next", param="_next")], ids=["next URL", "cursor"])
@pytest.mark.parametrize(("limit", "requests"), [(0, 0), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
async def test_limit_sends_no_unneeded_request(
    url: str, orders: list[Record], paginator: Paginator, limit: int, requests: int
) -> None:
    stream = Rows(url, paginator)

    rows = await stream.read(limit=limit)

    assert rows == orders[:limit]
    assert len(stream.sent) == requests


async def test_only_the_last_page_has_is_last(url: str) -> None:
    async with Rows(url, NextUrl("next_url")).pages() as pages:
        pages_read = [(page.number, len(page.records), page.is_last) async for page in pages]

    assert pages_read == [(number, PAGE, number == 24) for number in range(25)]


async def test_break_stops_all_further_requests(url: str) -> None:
    stream = Rows(url, Cursor("next", param="_next"))
    before = asyncio.all_tasks()

    async with stream.records() as records:
        async for record in records:
            if record["id"] > 4500:
                break

    # Two pages were consumed, at most sixteen are queued, and one waits for space in the queue.
    assert 2 <= len(stream.sent) <= 2 + 16 + 1
    assert asyncio.all_tasks() == before
