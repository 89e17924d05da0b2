"""What does an API that is a tree see of a reading: customers, what lies below each of them, and so on?"""

from __future__ import annotations

from typing import Any

import httpx
from fake_api import Responder, Api, Items

from asyncstreams import Cursor, HttpSubStream, RequestContext


class Customers(Items):
    """`customers?page=0`, `customers?page=1`, ..., each of which tells the next."""


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
        above = context.stream_slice.get("parent_stream", self.parents[0].name)
        return (above, context.stream_slice["parent"]["id"], self.name)


class Invoices(Orders):
    pass


class Lines(Orders):
    pass


def tree(pages: int = 3, size: int = 2, each: int = 1, fields: Any = ()) -> Responder:
    """So many pages of so many parents, with these fields beside their ids; below each parent so many pages."""

    def answer(request: httpx.Request) -> httpx.Response:
        *above, _ = request.url.path[1:].split("/")
        number = int(request.url.params.get("page", 0))
        if above:
            found, count = [{"id": f"{above[-1]}-{number}"}], each
        else:
            found = [{"id": number * size + n, **dict(fields)} for n in range(size if pages else 0)]
            count = pages
        return httpx.Response(200, json={"items": found, "next": number + 1 if number + 1 < count else None})

    return answer


def asked_of(api: Api, name: str) -> list[str]:
    """What was asked of a stream: `3/orders/0`, or the parents' pages, `0`."""
    return [one.rpartition("/")[2] if one.count("/") == 1 else one for one in api.requested if one.split("/")[-2] == name]


def when(api: Api, page: str) -> float:
    return api.request_times[api.requested.index(page)] - api.request_times[0]


def ids(records: Any) -> list[Any]:
    return sorted(record["id"] for record in records)
