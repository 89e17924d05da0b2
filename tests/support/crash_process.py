"""An extraction of a tree of three levels, to be run in a process that the test kills."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from asyncstreams import (
    DuckDB,
    HttpStream,
    HttpSubStream,
    JsonLines,
    PageNumber,
    Parquet,
    RequestContext,
    Source,
    SQLite,
    TimeWindows,
)
from asyncstreams.testing import Resource

RESOURCES = (
    Resource("customers", 200, page_size=10, every=86_400),
    Resource("orders", (0, 5), parent="customers", page_size=3),
    Resource("lines", (0, 3), parent="orders", page_size=2),
    Resource("events", 2_000, page_size=25),
)
NAMES = tuple(resource.name for resource in RESOURCES)


class PagedStream(HttpStream):
    primary_key = "id"
    records_path = "data"
    paginator = PageNumber()

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url_base = url

    def path(self, context: RequestContext) -> str:
        return self.name


class Customers(PagedStream):
    """Read page by page, with checkpoints within the slice."""

    state_checkpoint_interval = 40


def bounds_of(context: RequestContext) -> dict[str, Any]:
    bounds = context.stream_slice.bounds
    return {} if bounds is None else {"since": bounds[0], "until": bounds[1]}


class ChangedCustomers(Customers):
    """Read in windows of 20 days, each of two pages, with checkpoints within the windows."""

    name = "customers"
    cursor_field = "updated_at"
    windows = TimeWindows(start="2026-01-01", step=timedelta(days=20))
    state_checkpoint_interval = 10

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return bounds_of(context)


class Events(PagedStream):
    """Forty partitions that the API does not have: each one reads two pages of the whole list."""

    def stream_slices(self, state: Any) -> Any:
        return [{"part": number} for number in range(40)]

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"page": context.stream_slice["part"] * 2 + (context.next_page_token or 1)}

    def next_page_token(self, response: Any, context: RequestContext) -> Any:
        return 2 if context.next_page_token is None else None


class SubStream(HttpSubStream):
    primary_key = "id"
    records_path = "data"
    paginator = PageNumber()

    def __init__(self, url: str, parent: HttpStream) -> None:
        super().__init__(parent=parent)
        self.url_base = url


class Orders(SubStream):
    parent_fields = ("id",)

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


class ChangedOrders(Orders):
    """Those of changed customers that have changed themselves."""

    name = "orders"
    cursor_field = "updated_at"
    incremental_dependency = True
    parent_fields = ("id", "updated_at")

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return bounds_of(context)


class Lines(SubStream):
    parent_fields = ("id", "customer_id")

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        order = context.stream_slice["parent"]
        return ("customers", order["customer_id"], "orders", order["id"], "lines")


class ChangedLines(Lines):
    name = "lines"
    incremental_dependency = True
    parent_fields = ("id", "customer_id", "updated_at")


DESTINATIONS: dict[str, Any] = {"lines": JsonLines, "parquet": Parquet, ".sqlite": SQLite, ".duckdb": DuckDB}


def extract(url: str, out: str, kind: str, options: dict[str, Any], is_incremental: bool) -> None:
    """Run one extraction to its end; with `is_incremental` children are read only below what has changed."""
    if is_incremental:
        customers = ChangedCustomers(url)
        orders = ChangedOrders(url, customers)
        streams = (customers, orders, ChangedLines(url, orders), Events(url))
    else:
        customers = Customers(url)
        orders = Orders(url, customers)
        streams = (customers, orders, Lines(url, orders), Events(url))
    asyncio.run(Source(streams).extract(to=DESTINATIONS[kind](out, **options)))
