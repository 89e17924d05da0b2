"""How did a player's games end? An export of any length, read line by line while it arrives.

python examples/ndjson_export.py                           # the real API
python examples/ndjson_export.py http://127.0.0.1:8000/    # a server of your own
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
    """The games of a player on Lichess, the newest first."""

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

    # An async generator is given the body while it arrives: no more than a part of it is ever held.
    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for game in ndjson(response):
            yield game


async def main(url: str = LICHESS) -> None:
    games = Games("DrNykterstein", url)
    endings = Counter[str]()

    async with games.records() as records:
        async for game in records:
            endings[game["status"]] += 1

    print(f"{endings.total()} games of {games.player}")
    for ending, count in endings.most_common(3):
        print(f"{count:>8,}  {ending}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
