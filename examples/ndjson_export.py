"""The results of a player's games on Lichess: an NDJSON export of any length, parsed while it arrives.

python examples/ndjson_export.py                           # the real API
python examples/ndjson_export.py http://127.0.0.1:8000/    # another server
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Unpack

from asyncstreams import HttpStream, Record, RequestContext, Response, StreamOptions, ndjson

LICHESS = "https://lichess.org/"


class Games(HttpStream):
    """The games of a player on Lichess, newest first."""

    primary_key = "id"

    def __init__(self, player: str, url_base: str = LICHESS, **options: Unpack[StreamOptions]) -> None:
        super().__init__(**options)
        self.player, self.url_base = player, url_base

    def path(self, context: RequestContext) -> tuple[str, ...]:
        return ("api", "games", "user", self.player)

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"max": 500, "moves": False}

    def request_headers(self, context: RequestContext) -> dict[str, str]:
        return {"Accept": "application/x-ndjson"}

    # An async generator gets the response while it arrives, so memory use does not depend on its length.
    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for game in ndjson(response):
            yield game


async def main(url: str = LICHESS) -> None:
    games = Games("DrNykterstein", url)
    results = Counter[str]()

    async with games.records() as records:
        async for game in records:
            results[game["status"]] += 1

    print(f"{results.total()} games of {games.player}")
    for result, count in results.most_common(3):
        print(f"{count:>8,}  {result}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
