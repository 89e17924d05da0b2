"""A Source for commands, with a spec: customers, their orders, and products, of a MockApi."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from asyncstreams import HttpStream, HttpSubStream, PageNumber, RequestContext, Source, TokenAuthenticator
from asyncstreams.testing import Resource

RESOURCES = (
    Resource("customers", 250, total=True),
    Resource("orders", (0, 2), parent="customers", total=True),
    Resource("products", 120, total=True),
    Resource("batches", 6_000),
    Resource("payouts", 10, forbidden=True),
)


class ShopStream(HttpStream):
    records_path = "data"
    primary_key = "id"
    paginator = PageNumber(total_pages="meta.pages")

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(authenticator=TokenAuthenticator(config["token"]))
        self.url_base = config["url"]


class Products(ShopStream):
    def path(self, context: RequestContext) -> str:
        return "products"


class Customers(ShopStream):
    cursor_field = "updated_at"

    def path(self, context: RequestContext) -> str:
        return "customers"

    def request_params(self, context: RequestContext) -> Mapping[str, Any]:
        since, until = context.bounds
        return {"since": since, "until": until}


class Batches(ShopStream):
    """6,000 records in 60 slices, each of which is complete on its own."""

    single_page = True
    paginator = None
    max_concurrency = 2

    def path(self, context: RequestContext) -> str:
        return "batches"

    def request_params(self, context: RequestContext) -> Mapping[str, Any]:
        return {"page": context.stream_slice["number"]}

    def stream_slices(self, state: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        return [{"number": number} for number in range(1, 61)]


class Orders(HttpSubStream):
    records_path = "data"
    primary_key = "id"
    parent_fields = ("id",)
    paginator = PageNumber(total_pages="meta.pages")

    def path(self, context: RequestContext) -> tuple[str | int, ...]:
        return ("customers", context.stream_slice["parent"]["id"], "orders")


class Shop(Source):
    spec: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "required": ["url", "token"],
        "additionalProperties": False,
        "properties": {
            "url": {"type": "string"},
            "token": {"type": "string", "airbyte_secret": True},
            "page": {"type": "integer"},
            "label": {"type": "string"},
        },
    }

    def streams(self, config: Mapping[str, Any]) -> Iterable[HttpStream]:
        customers = Customers(config)
        orders = Orders(customers, authenticator=customers.authenticator)
        orders.url_base = config["url"]
        return [customers, orders, Products(config)]


class Archive(Shop):
    """The same API, with one stream of many slices."""

    def streams(self, config: Mapping[str, Any]) -> Iterable[HttpStream]:
        return [Batches(config)]
