"""Demo: reads a complete mock shop API on this machine into a SQLite database and shows the progress.

    python examples/demo                    # about 15 seconds
    python examples/demo --scale 5 --out /tmp/shop

The API has access tokens that last five seconds, a quota of 25 requests a second, faults in 2 % of its
responses, and one resource that answers 403. A second run reads the orders of the best customers, with the
customers from the parent cache. At the end the demo checks the tables and runs a query.
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
QUERY = """\
SELECT kind, count(*) AS reviews, round(avg(stars), 2) AS stars
FROM reviews JOIN products ON products.id = reviews.product_id
GROUP BY kind ORDER BY stars DESC, kind LIMIT 5"""


async def extract(api: MockApi, database: Path, cache_dir: str, console: Console) -> None:
    """Read all streams. `cache_dir` is the folder of the parent cache."""
    config = {"url": api.url, "client_id": "client", "client_secret": "secret", "refresh_token": "refresh-0"}
    async with Shop(config, cache_dir=cache_dir) as source:
        with Progress(source, console=console):
            # Each demo starts a new API, so it cannot resume an interrupted one.
            await source.extract(*STREAMS, to=SQLite(database, mode="replace", resume=False))
        before = await asyncio.to_thread(lambda: api.counts)
        report = await source.extract("orders", to=SQLite(database, mode="replace", resume=False))
        after = await asyncio.to_thread(lambda: api.counts)
    repeated = after.by_resource["customers"] - before.by_resource["customers"]
    console.print(
        f"\nThen read the orders of the {report.streams[0].slices} best customers, with the customers from the "
        f"parent cache ({repeated} requests for customers).\n",
        highlight=False,
        soft_wrap=True,
    )


def expected(api: MockApi, stream: str) -> list[object]:
    """The ids of all records that the API has for a stream."""
    if stream != "orders":
        return list(api.ids(stream))
    best = [record["id"] for record in api.records("customers") if record["rank"] >= Orders.min_rank]
    return [id_ for customer in best for id_ in api.ids("orders", customer)]


def run_query(shop: sqlite3.Connection) -> Table:
    """The result of the query as a table."""
    cursor = shop.execute(QUERY)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in cursor.description:
        table.add_column(column[0], justify="left" if column[0] == "kind" else "right")
    for row in cursor:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    return table


def print_results(api: MockApi, database: Path, seconds: float, console: Console) -> bool:
    """Print the results. True if the database holds exactly the records of the API."""
    counts = api.counts
    faults = sum(counts.by_fault.values())
    python = os.path.relpath(sys.executable)
    lines = [
        f"Total time: {seconds:.1f} s",
        f"The API received {counts.requests:,} requests and issued {counts.tokens_issued} access tokens.",
        f"It refused {counts.refused_by_quota:,} requests over its quota and injected {faults} faults.",
        "",
        f"Tables in {database}, compared with the records of the API:",
    ]
    all_complete = True
    with closing(sqlite3.connect(database)) as shop:
        for stream in [resource.name for resource in api.resources if not resource.forbidden]:
            ids = [id_ for (id_,) in shop.execute(f"SELECT id FROM {stream}")]
            is_complete = Counter(ids) == Counter(expected(api, stream))
            all_complete &= is_complete
            verdict = "[green]complete, no duplicates" if is_complete else "[red]DIFFERS from the API"
            lines.append(f"  {stream:12} {len(ids):7,} rows  {verdict}")
        lines += ["", "The kinds of products with the best reviews:", ""]
        lines += [*(f"  {line}" for line in QUERY.splitlines()), ""]
        console.print(*lines, sep="\n", highlight=False, soft_wrap=True)
        console.print(Padding(run_query(shop), (0, 0, 0, 2)))
    show_order = f'import sqlite3; print(sqlite3.connect("{database}").execute("SELECT * FROM orders").fetchone())'
    console.print(
        "",
        "Next steps:",
        f"  {python} -c '{show_order}'",
        "  less examples/demo/shop.py     the declarations of the six streams, in 130 lines",
        f"  {python} -m asyncstreams.testing     serve the same API, and print a program that reads it",
        "  less README.md                 the documentation, from a first stream to a connector",
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )
    return all_complete


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder for the database (default: out)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of records (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the data and the faults (default: 1)")
    args = parser.parse_args()
    if not 0 < args.scale < math.inf:
        parser.error("--scale must be a number above 0")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out}: cannot create the folder: {error.strerror}")
    logging.basicConfig(level=logging.ERROR)  # the table shows what the warnings would say
    console = Console()
    with shop(seed=args.seed, scale=args.scale, process=True) as api:
        console.print(
            f"Reading a mock shop API at {api.url}: tokens last 5 s, 25 requests a second, 2 % of responses faulty.\n",
            soft_wrap=True,
        )
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as cache_dir:
            asyncio.run(extract(api, database := args.out / "shop.sqlite", cache_dir, console))
        return 0 if print_results(api, database, time.monotonic() - started, console) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted. The database holds what was committed before.", file=sys.stderr)
        sys.exit(130)
