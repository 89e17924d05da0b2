"""Scripted server of the four APIs in the examples, with a few hundred records each."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlencode

from loopback import Connection, LoopbackRequest, http_response

TOKEN = "ghp_test"
KEY = "sk_test_key"
REPOS = [{"id": n, "name": f"repo-{n}", "stargazers_count": n * 37 % 1000} for n in range(1, 251)]
CHARGES = [{"id": f"ch_{n:04}", "currency": ("eur", "usd")[n % 2], "amount": n * 10} for n in range(350, 0, -1)]
ISSUES = [{"number": n, "state": "CLOSED" if n % 3 else "OPEN"} for n in range(1, 301)]
GAMES = [{"id": f"game{n:03}", "status": ("mate", "resign", "draw")[n % 7 % 3]} for n in range(1, 501)]
OUT_OF_TIME = {"data": None, "errors": [{"message": "Something went wrong while executing your query."}]}


class ApiServer:
    """A script for `loopback.serve` that implements GitHub, Stripe and Lichess, as documented by them."""

    def __init__(self) -> None:
        self.graphql_queries = 0

    async def __call__(self, request: LoopbackRequest, connection: Connection) -> None:
        path, _, query = request.target.partition("?")
        params = {name: values[-1] for name, values in parse_qs(query).items()}
        headers = {name.lower(): value for name, value in request.headers}
        routes = {
            ("GET", "/orgs/encode/repos"): self._repos,
            ("GET", "/v1/charges"): self._charges,
            ("POST", "/graphql"): self._graphql,
            ("GET", "/api/games/user/DrNykterstein"): self._games,
        }
        route = routes.get((request.method, path))
        if route is None:
            await connection.send(error_response("404 Not Found", f"no {request.method} {path} here"))
            return
        for piece in route(params, headers, request.body):
            await connection.send(piece)

    def _repos(self, params: dict[str, str], headers: dict[str, str], body: bytes) -> list[bytes]:
        if headers.get("authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            return [error_response("401 Unauthorized", "Bad credentials")]
        number, size = int(params.get("page", 1)), int(params.get("per_page", 30))
        rows = REPOS[(number - 1) * size : number * size]
        following = f"http://{headers['host']}/orgs/encode/repos?{urlencode({**params, 'page': number + 1})}"
        link = [f'Link: <{following}>; rel="next"'] if number * size < len(REPOS) else []
        return [json_response(rows, *link)]

    def _charges(self, params: dict[str, str], headers: dict[str, str], body: bytes) -> list[bytes]:
        if headers.get("authorization") != f"Basic {base64.b64encode(f'{KEY}:'.encode()).decode()}":
            return [error_response("401 Unauthorized", "Invalid API Key provided")]
        ids = [charge["id"] for charge in CHARGES]
        start = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        end = start + int(params.get("limit", 10))
        return [json_response({"object": "list", "data": CHARGES[start:end], "has_more": end < len(CHARGES)})]

    def _graphql(self, params: dict[str, str], headers: dict[str, str], body: bytes) -> list[bytes]:
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return [error_response("401 Unauthorized", "Bad credentials")]
        payload = json.loads(body)
        variables = payload["variables"]
        if (variables["owner"], variables["name"]) != ("pallets", "click"):
            error = {"type": "NOT_FOUND", "message": "Could not resolve to a Repository"}
            return [json_response({"data": {"repository": None}, "errors": [error]})]
        self.graphql_queries += 1
        if self.graphql_queries == 2:
            return [json_response(OUT_OF_TIME)]
        assert "issues(first: 100, after: $after)" in payload["query"]
        start = int(variables.get("after") or 0)
        page_info = {"endCursor": str(start + 100), "hasNextPage": start + 100 < len(ISSUES)}
        issues = {"nodes": ISSUES[start : start + 100], "pageInfo": page_info}
        return [json_response({"data": {"repository": {"issues": issues}}})]

    def _games(self, params: dict[str, str], headers: dict[str, str], body: bytes) -> list[bytes]:
        if headers.get("accept") != "application/x-ndjson":
            return [http_response(b"1. e4 e5", "Content-Type: application/x-chess-pgn")]
        lines = b"".join(json.dumps(game).encode() + b"\n" for game in GAMES[: int(params["max"])])
        # The chunks end within lines.
        pieces = [lines[at : at + 1000] for at in range(0, len(lines), 1000)]
        head = http_response(b"", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked")
        return [head, *[b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces], b"0\r\n\r\n"]


def json_response(body: Any, *headers: str) -> bytes:
    return http_response(json.dumps(body).encode(), "Content-Type: application/json", *headers)


def error_response(status: str, message: str) -> bytes:
    return http_response(json.dumps({"message": message}).encode(), "Content-Type: application/json", status=status)
