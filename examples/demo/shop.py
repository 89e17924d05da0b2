"""Connector for the API of a shop: six streams with different paginations, and their Source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, ClassVar, Unpack

from asyncstreams import (
    Cursor,
    HttpStream,
    HttpSubStream,
    LinkHeader,
    Oauth2Authenticator,
    Offset,
    PageNumber,
    Record,
    RequestContext,
    Response,
    Slice,
    Source,
    StreamOptions,
    ndjson,
)


class ShopStream(HttpStream):
    """Base class of the streams. Their schemas are in schemas/, next to this module."""

    primary_key = "id"
    records_path = "data"

    def __init__(self, url_base: str, **options: Unpack[StreamOptions]) -> None:
        self.url_base = url_base
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return self.name


class Customers(ShopStream):
    """Numbered pages; the API reports the total. The parent cache keeps the records for the orders."""

    paginator = PageNumber(size=100, total_items="meta.total")
    use_cache = True


class Orders(HttpSubStream):
    """The orders of the best customers, one slice for each. Each page links to the next one."""

    primary_key = "id"
    paginator = LinkHeader()
    parent_fields = ("id", "rank")
    min_rank = 124

    def __init__(self, customers: Customers, **options: Unpack[StreamOptions]) -> None:
        self.url_base = customers.url_base
        super().__init__(parent=customers, **options)

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        async for customer in super().stream_slices(state):
            if customer["parent"]["rank"] >= self.min_rank:
                yield customer

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


class Products(ShopStream):
    """Each page contains the cursor of the next one."""

    paginator = Cursor("meta.next")


class Events(ShopStream):
    """One slice for each day, read page by page."""

    paginator = Offset(limit=100, total="meta.total")
    first_day = date(2026, 1, 1)
    days = 30

    def stream_slices(self, state: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        for number in range(self.days):
            day = self.first_day + timedelta(number)
            yield {"since": f"{day}T00:00:00Z", "until": f"{day + timedelta(1)}T00:00:00Z"}

    def request_params(self, context: RequestContext) -> Mapping[str, Any]:
        return context.stream_slice


class Reviews(ShopStream):
    """One large JSON Lines response, parsed while it arrives."""

    def path(self, context: RequestContext) -> str:
        return "reviews/export"

    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for review in ndjson(response):
            yield review


class Payouts(ShopStream):
    """A resource that these credentials may not read."""

    paginator = PageNumber(size=100)


class Shop(Source):
    """All streams of the shop, which share one access token."""

    spec: ClassVar = {
        "type": "object",
        "required": ["url", "client_id", "client_secret", "refresh_token"],
        "properties": {
            "url": {"type": "string", "pattern": "^https?://"},
            "client_id": {"type": "string"},
            "client_secret": {"type": "string"},
            "refresh_token": {"type": "string"},
        },
    }

    def streams(self, config: Mapping[str, Any]) -> list[HttpStream]:
        url = config["url"]
        oauth = Oauth2Authenticator(
            f"{url}oauth/token", config["client_id"], config["client_secret"], config["refresh_token"]
        )
        customers = Customers(url, authenticator=oauth)
        others = [kind(url, authenticator=oauth) for kind in (Products, Events, Reviews, Payouts)]
        return [customers, *others, Orders(customers, authenticator=oauth)]
