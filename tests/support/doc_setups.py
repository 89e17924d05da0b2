"""Setups for the scripts of the documentation: mocked routes, under the name that a test comment gives.

A setup runs before its script, in the same process. respx is started by then: a request to another machine fails
unless its URL is mocked.
"""

from __future__ import annotations

GITHUB = """
import respx

repos = [{"id": number, "name": f"repo-{number}", "stargazers_count": number} for number in range(1, 151)]
first, second = "https://api.github.com/orgs/encode/repos", "https://api.github.com/organizations/1/repos?page=2"
respx.get(second).respond(json=repos[100:])
respx.get(first).respond(json=repos[:100], headers={"Link": f'<{second}>; rel="next"'})
"""

# For a script that continues the one above it in the document.
REPOS = """
import asyncio
from asyncstreams import HttpStream, LinkHeader


class Repos(HttpStream):
    url_base = "https://api.github.com/"
    paginator = LinkHeader()

    def path(self, context):
        return "orgs/encode/repos"
"""

SHOP = """
import gzip
import json

import httpx
import respx

base = "https://api.example.com/v1"


def customers(request):
    number = int(request.url.params["page"])
    rows = [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}, {"id": 3, "name": "Cid"}]
    return httpx.Response(200, json={"data": rows[number * 2 - 2 : number * 2], "meta": {"total": 3}})


def orders(request):
    if request.url.params.get("after") == "o-2":
        return httpx.Response(200, json={"orders": [{"id": "o-3"}], "after": None})
    return httpx.Response(200, json={"orders": [{"id": "o-1"}, {"id": "o-2"}], "after": "o-2"})


def invoices(request):
    assert request.headers["Authorization"] == "Bearer fresh-token"
    return httpx.Response(200, json=[{"id": "i-1"}])


events = [{"id": 1, "kind": "sale"}, {"id": 2, "kind": "ping"}, {"id": 3, "kind": "refund"}]
respx.get(f"{base}/customers").mock(side_effect=customers)
respx.get(f"{base}/orders").mock(side_effect=orders)
respx.get(f"{base}/projects").respond(json=[{"key": "a"}, {"key": "b/c"}])
respx.get(f"{base}/projects/a/issues").respond(json=[{"id": "a-1"}])
respx.get(f"{base}/projects/b%2Fc/issues").respond(json=[{"id": "b/c-1"}])
respx.get(f"{base}/projects/gone/issues").respond(404)
respx.get(f"{base}/export.ndjson").respond(text="".join(json.dumps(event) + "\\n" for event in events))
respx.get(f"{base}/sales.csv.gz").respond(content=gzip.compress("id;name;;\\n1;Zoë;;\\n".encode("latin-1")),
    headers={"Content-Type": "text/csv; charset=ISO-8859-1"})
respx.get(f"{base}/invoices").mock(side_effect=invoices)
respx.post("https://auth.example.com/token").respond(
    json={"access_token": "fresh-token", "refresh_token": "rotated", "expires_in": 3600}
)
respx.get(f"{base}/payouts").respond(403, json={"message": "the scope payouts:read is missing"})
respx.get("https://api.telegram.org/bot110201543%3AAAHdqTcv/getUpdates").respond(404, json={"description": "Not Found"})
respx.get(f"{base}/payments").respond(
    json=[
        {"id": 1, "amount": "9.50", "paid": "yes"},
        {"id": 2, "amount": 12, "paid": True},
        {"id": "3", "amount": None},
    ]
)
respx.post("https://api.example.com/graphql").respond(
    json={"data": None, "errors": [{"message": "Field 'nmae' doesn't exist on type 'Customer'"}]}
)
respx.get(f"{base}/reports").mock(
    side_effect=[httpx.Response(200, json={"error": message}) for message in ("not ready", "no such report")]
)
"""

TROUBLESHOOTING = """
import asyncio
import gzip

import httpx
import respx
from asyncstreams import *

base = "https://api.example.com/v1"
rows = [{"id": 1, "total": "9.50"}, {"id": 2, "total": 12.0}]


class Shop(HttpStream):
    url_base = base


def orders(request):
    if request.headers.get("Authorization") != "Bearer s3cret":
        return httpx.Response(401, json={"message": "Invalid token"})
    return httpx.Response(200, json={"data": rows, "next": None})


respx.get(f"{base}/orders").mock(side_effect=orders)
respx.get(f"{base}/payouts").respond(403, json={"message": "the scope payouts:read is missing"})
respx.get(f"{base}/coupons").respond(
    403, html="<!doctype html><title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1>"
)
respx.get(f"{base}/ordres").respond(404, json={"message": "no such resource"})
respx.get(f"{base}/export").respond(302, headers={"Location": "http://files.example.net/7?signature=0a1b"})
respx.get(f"{base}/items").respond(json=rows)
respx.get(f"{base}/customers").respond(json=[{"id": 1}, {"name": "Ann"}])
respx.get(f"{base}/customers/1/orders").respond(json=[])
respx.get(f"{base}/charges").respond(json=[{"id": 1, "created": 1_760_000_000}])
respx.get(f"{base}/refunds").respond(json={"data": rows, "meta": {"next": "c-2"}})
for name, text in (
    ("wide.csv", "id,name,\\n1,Ann,x\\n"), ("twice.csv", "id,name,id\\n1,Ann,2\\n"), ("latin.csv", "name\\nZoë\\n")
):
    respx.get(f"{base}/{name}").respond(content=text.encode("latin-1"))
respx.get(f"{base}/posts").respond(text='[{"text": "cut in two \\\\ud83d"}]')
respx.get(f"{base}/nested.gz").respond(content=gzip.compress(gzip.compress(b"[]")))
respx.get(f"{base}/zeros.gz").respond(content=gzip.compress(bytes(2**23)))
respx.get("https://www.example.com/orders").respond(
    text="<!doctype html><title>Example Shop</title>", headers={"Content-Type": "text/html"}
)


def show_error(make):
    try:
        result = make()
        asyncio.run(result.read() if isinstance(result, HttpStream) else result)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("no error")
"""

THRESHOLDS = """
import httpx
import respx

respx.get("https://api.example.com/v1/orders").mock(
    side_effect=[httpx.Response(200, json=[{"id": number} for number in range(count)]) for count in (1_000, 812)]
)
"""

TREE = """
import os
import tempfile
from collections import Counter

import httpx
import respx

folder = tempfile.TemporaryDirectory()
os.environ["REQUEST_CACHE_PATH"] = f"{folder.name}/parents"
base = "https://api.example.com"
calls = Counter()


def customers(request):
    calls["customers"] += 1
    number = int(request.url.params["page"])
    return httpx.Response(200, json={"data": [{"id": 1}, {"id": 2}] if number == 1 else [{"id": 3}], "pages": 2})


def balances(request):
    calls["balances"] += 1
    ids = request.url.params["ids"].split(",")
    if len(ids) > 4:
        calls["refused"] += 1
        return httpx.Response(400, json={"message": "too many ids"})
    return httpx.Response(200, json=[{"customer": int(number), "balance": 0} for number in ids])


respx.get(f"{base}/customers", params__contains={"page": "1"}).mock(side_effect=customers)
respx.get(f"{base}/customers", params__contains={"page": "2"}).mock(side_effect=customers)
respx.get(f"{base}/customers/export").respond(json={"customers": [{"id": number} for number in range(20)]})
respx.get(f"{base}/balances").mock(side_effect=balances)
for customer, orders in ((1, 1), (2, 0), (3, 3)):
    respx.get(f"{base}/customers/{customer}/orders").respond(json=[{"id": number} for number in range(orders)])
    respx.get(f"{base}/customers/{customer}/visits").respond(json=[{"id": customer}])
    coupons = {"json": [{"id": customer}]} if customer != 2 else {"status_code": 404}
    respx.get(f"{base}/customers/{customer}/coupons").respond(**coupons)
"""

CHANGES = """
import httpx
import respx

rows = [{"id": 1, "updated_at": "2026-01-10T08:00:00Z"}, {"id": 2, "updated_at": "2026-02-20T09:30:00Z"}]


def changes(request):
    since, until = request.url.params["since"], request.url.params["until"]
    return httpx.Response(200, json=[row for row in rows if since <= row["updated_at"] <= until])


respx.get("https://api.example.com/changes").mock(side_effect=changes)
"""

# Posts with ids from 1 to 1500, filtered by a range of ids.
POSTS = """
import httpx
import respx


def posts(request):
    since, until = int(request.url.params["since_id"]), int(request.url.params["max_id"])
    return httpx.Response(200, json=[{"id": number} for number in range(max(since, 1), min(until, 1501))])


respx.get("https://api.example.com/posts").mock(side_effect=posts)
"""

# Customers that can be filtered by the time of their last change, and the visits of each customer.
CHANGED_PARENTS = """
import httpx, respx

changed = {1: "2026-01-10T08:00:00Z", 2: "2026-02-20T09:30:00Z"}


def customers(request):
    since, until = request.url.params["since"], request.url.params["until"]
    rows = [{"id": number, "updated_at": at} for number, at in changed.items() if since <= at <= until]
    return httpx.Response(200, json=rows)


def visits(request, number):
    return httpx.Response(200, json=[{"customer": int(number), "visit": 1}])


respx.get("https://api.example.com/customers").mock(side_effect=customers)
respx.get(url__regex=r"https://api.example.com/customers/(?P<number>[0-9]+)/visits").mock(side_effect=visits)
"""

SETUPS = {
    "changed parents": CHANGED_PARENTS,
    "changes": CHANGES,
    "github": GITHUB,
    "posts": POSTS,
    "repos": GITHUB + REPOS,
    "shop": SHOP,
    "thresholds": THRESHOLDS,
    "tree": TREE,
    "troubleshooting": TROUBLESHOOTING,
}
