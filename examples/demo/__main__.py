"""Reads a whole shop from an API on this machine that is no pleasure to read, and shows how it goes.

    python examples/demo                    # about 15 seconds
    python examples/demo --scale 5 --out /tmp/shop

The shop has access tokens that last five seconds, allows 25 requests a second, breaks 2 % of its
answers, and keeps one stream to itself. The orders of its best customers are read afterwards, from
what is known of the customers by then. All of it is in a SQLite database then, which is asked a question.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from shop import Orders, Shop

from asyncstreams import SQLite
from asyncstreams.progress import Progress
from asyncstreams.testing import MockApi, shop

STREAMS = ("customers", "products", "events", "reviews", "payouts")
QUESTION = """\
SELECT kind, count(*) AS reviews, round(avg(stars), 2) AS stars
FROM reviews JOIN products ON products.id = reviews.product_id
GROUP BY kind ORDER BY stars DESC, kind LIMIT 5"""


async def extract(api: MockApi, database: Path, kept: str, console: Console) -> None:
    """Read everything. `kept` is the folder for the parents."""
    config = {"url": api.url, "client_id": "client", "client_secret": "secret", "refresh_token": "refresh-0"}
    async with Shop(config, cache_dir=kept) as source:
        with Progress(source, console=console):
            # Each demo has a shop of its own, so what an interrupted one left is no use to the next.
            await source.extract(*STREAMS, to=SQLite(database, mode="replace", resume=False))
        before = await asyncio.to_thread(lambda: api.counts)
        report = await source.extract("orders", to=SQLite(database, mode="replace", resume=False))
        after = await asyncio.to_thread(lambda: api.counts)
    repeated = after.by_resource["customers"] - before.by_resource["customers"]
    console.print(
        f"\nThen the orders of the {report.streams[0].slices} best customers, who were known by then "
        f"({repeated} requests for customers).\n",
        highlight=False,
        soft_wrap=True,
    )


def expected(api: MockApi, stream: str) -> list[object]:
    """The ids of what the shop has of a stream."""
    if stream != "orders":
        return list(api.ids(stream))
    best = [record["id"] for record in api.records("customers") if record["rank"] >= Orders.least_rank]
    return [number for customer in best for number in api.ids("orders", customer)]


def answer(shop: sqlite3.Connection) -> Table:
    """What the database says to the question."""
    cursor = shop.execute(QUESTION)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in cursor.description:
        table.add_column(column[0], justify="left" if column[0] == "kind" else "right")
    for row in cursor:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return table


def conclude(api: MockApi, database: Path, seconds: float, console: Console) -> bool:
    """Say what came of it; whether the database holds exactly what the shop has."""
    counts = api.counts
    broken = sum(counts.by_fault.values())
    python = os.path.relpath(sys.executable)
    lines = [
        f"It took {seconds:.1f} s.",
        f"The shop answered {counts.requests:,} requests and gave out {counts.tokens_issued} tokens.",
        f"It refused {counts.refused_by_quota:,} requests for its quota, and broke {broken}.",
        "",
        f"The tables of {database}, held against what the shop really has:",
    ]
    are_whole = True
    with closing(sqlite3.connect(database)) as shop:
        for stream in [resource.name for resource in api.resources if not resource.forbidden]:
            ids = [number for (number,) in shop.execute(f"SELECT id FROM {stream}")]
            is_whole = Counter(ids) == Counter(expected(api, stream))
            are_whole &= is_whole
            said = "[green]complete, nothing twice" if is_whole else "[red]NOT what the shop has"
            lines.append(f"  {stream:12} {len(ids):7,} rows  {said}")
        lines += ["", "Which products please most?", "", *(f"  {line}" for line in QUESTION.splitlines()), ""]
        console.print(*lines, sep="\n", highlight=False, soft_wrap=True)
        console.print(Padding(answer(shop), (0, 0, 0, 2)))
    look = f'import sqlite3; print(sqlite3.connect("{database}").execute("SELECT * FROM orders").fetchone())'
    console.print(
        "",
        "What to try next:",
        f"  {python} -c '{look}'",
        "  less examples/demo/shop.py     how the six streams are declared, in 130 lines",
        f"  {python} -m asyncstreams.testing     the same data to play with, and a stream that reads it",
        "  less README.md                 from twelve lines to a connector",
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )
    return are_whole


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder for the database (default: out)")
    parser.add_argument("--scale", type=float, default=1.0, help="how large the shop is (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other data and other faults (default: 1)")
    given = parser.parse_args()
    if not 0 < given.scale < math.inf:
        parser.error("--scale must be a number above 0")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {given.out} cannot be used: {error.strerror}")
    logging.basicConfig(level=logging.ERROR)  # the table tells what would be warned of
    console = Console()
    with shop(seed=given.seed, scale=given.scale, process=True) as api:
        console.print(
            f"A shop at {api.url}: tokens of 5 s, 25 requests a second, 2 % of the answers broken.\n", soft_wrap=True
        )
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as kept:
            asyncio.run(extract(api, database := given.out / "shop.sqlite", kept, console))
        return 0 if conclude(api, database, time.monotonic() - began, console) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; the database holds what was committed until then", file=sys.stderr)
        sys.exit(130)
