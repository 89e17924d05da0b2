"""A simulated API with a tree of resources, such as customers with orders, and the streams that read it."""

from __future__ import annotations

from typing import Any

import httpx
from fake_api import Api, Items, Responder

from asyncstreams import Cursor, HttpSubStream, RequestContext


class Customers(Items):
    """`customers?page=0`, `customers?page=1`, ...; each page names the next one."""


class Shops(Items):
    pass


class Orders(HttpSubStream):
    """`customers/7/orders`: one record on each page."""

    url_base = "https://api.test/"
    records_path = "items"
    paginator = Cursor("next", param="page")
    max_tries = 1
    adaptive = False

    def __init__(self, api: Api, clock: Any, parent: Any, **options: Any) -> None:
        super().__init__(parent=parent, transport=api, clock=clock, **options)

    def path(self, context: RequestContext) -> Any:
        parent_name = context.stream_slice.get("parent_stream", self.parents[0].name)
        return (parent_name, context.stream_slice["parent"]["id"], self.name)


class Invoices(Orders):
    pass


class Lines(Orders):
    pass


def tree_responder(pages: int = 3, size: int = 2, child_pages: int = 1, fields: Any = ()) -> Responder:
    """`pages` pages of `size` parents with an id and `fields`; each parent has `child_pages` pages of one record."""

    def respond(request: httpx.Request) -> httpx.Response:
        *ancestors, _ = request.url.path[1:].split("/")
        number = int(request.url.params.get("page", 0))
        if ancestors:
            items, count = [{"id": f"{ancestors[-1]}-{number}"}], child_pages
        else:
            items = [{"id": number * size + n, **dict(fields)} for n in range(size if pages else 0)]
            count = pages
        return httpx.Response(200, json={"items": items, "next": number + 1 if number + 1 < count else None})

    return respond


def requested_pages(api: Api, name: str) -> list[str]:
    """The requested pages of a stream, in order, such as `0` for parents and `customers/3/orders/0` for children."""
    pages = [page for page in api.requested if page.split("/")[-2] == name]
    return [page.rpartition("/")[2] if page.count("/") == 1 else page for page in pages]


def request_time(api: Api, page: str) -> float:
    """Seconds between the first request and the request for this page."""
    return api.request_times[api.requested.index(page)] - api.request_times[0]


def sorted_ids(records: Any) -> list[Any]:
    return sorted(record["id"] for record in records)
