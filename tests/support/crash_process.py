"""An extraction of a stream tree, to be run in a process that the test kills."""

from __future__ import annotations

import asyncio
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
)
from asyncstreams.testing import Resource

RESOURCES = (
    Resource("customers", 300, page_size=20),
    Resource("orders", (0, 7), parent="customers", page_size=5),
    Resource("events", 2_000, page_size=25),
)


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


class Events(PagedStream):
    """Forty partitions that the API does not have: each one reads two pages of the whole list."""

    def stream_slices(self, state: Any) -> Any:
        return [{"part": number} for number in range(40)]

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"page": context.stream_slice["part"] * 2 + (context.next_page_token or 1)}

    def next_page_token(self, response: Any, context: RequestContext) -> Any:
        return 2 if context.next_page_token is None else None


class Orders(HttpSubStream):
    primary_key = "id"
    records_path = "data"
    paginator = PageNumber()
    parent_fields = ("id",)

    def __init__(self, url: str, parent: HttpStream) -> None:
        super().__init__(parent=parent)
        self.url_base = url

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


DESTINATIONS: dict[str, Any] = {"lines": JsonLines, "parquet": Parquet, ".sqlite": SQLite, ".duckdb": DuckDB}


def extract(url: str, out: str, kind: str, options: dict[str, Any]) -> None:
    """Run one extraction to its end."""
    customers = Customers(url)
    source = Source([customers, Events(url), Orders(url, customers)])
    asyncio.run(source.extract(to=DESTINATIONS[kind](out, **options)))
