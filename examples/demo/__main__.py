"""Reads a whole shop from an API on this machine that is no pleasure to read, and shows how it goes.

    python examples/demo                    # about 15 seconds
    python examples/demo --scale 5 --out /tmp/shop

The shop has access tokens that last five seconds, allows 25 requests a second, breaks 2 % of its
answers, and keeps one stream to itself. The orders of its best customers are read afterwards, from
what is known of the customers by then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import orjson
from rich.console import Console
from shop import Orders, Shop

from asyncstreams import JsonLines
from asyncstreams.progress import Progress
from asyncstreams.testing import MockApi, shop

FILES = ("customers", "products", "events", "reviews", "payouts")


async def extract(api: MockApi, folder: Path, kept: str, console: Console) -> bool:
    """Read everything; whether the orders are what the shop has. `kept` is the folder for the parents."""
    config = {"url": api.url, "client_id": "client", "client_secret": "secret", "refresh_token": "refresh-0"}
    async with Shop(config, cache_dir=kept) as source:
        with Progress(source, console=console):
            # Each demo has a shop of its own, so what an interrupted one left is no use to the next.
            await source.extract(*FILES, to=JsonLines(folder, mode="replace", resume=False))
        return await read_orders(source, api, console)


async def read_orders(source: Shop, api: MockApi, console: Console) -> bool:
    """Read the orders of the best customers, and say what became of that; whether they are what the shop has."""
    before = await asyncio.to_thread(lambda: api.counts)
    found: list[int] = []
    customers: set[int] = set()
    async with source.pages("orders") as pages:
        async for page in pages:
            customers.add(page.stream_slice["parent"]["id"])
            found += [order["id"] for order in page.records]
    after = await asyncio.to_thread(lambda: api.counts)
    repeated = after.by_resource["customers"] - before.by_resource["customers"]
    best = [record["id"] for record in api.records("customers") if record["rank"] >= Orders.least_rank]
    is_right = sorted(found) == sorted(number for customer in best for number in api.ids("orders", customer))
    told = "[green]all there, each once" if is_right else "[red]NOT what the shop has"
    console.print(
        f"\nThen the orders of the {len(customers)} best customers, who were known by then "
        f"({repeated} requests for customers):\n  {len(found)} orders  {told}",
        highlight=False,
        soft_wrap=True,
    )
    return is_right


def is_whole(api: MockApi, folder: Path) -> bool:
    """Whether the files of a stream hold what the shop has: every record, and each once."""
    lines = [line for path in folder.glob("part-*.jsonl") for line in path.read_bytes().splitlines()]
    return sorted(orjson.loads(line)["id"] for line in lines) == sorted(api.ids(folder.name))


def conclude(api: MockApi, folder: Path, seconds: float, console: Console) -> bool:
    """Say what came of it; whether the files hold exactly what the shop has."""
    counts = api.counts
    broken = sum(counts.by_fault.values())
    python = os.path.relpath(sys.executable)
    lines = [
        f"It took {seconds:.1f} s.",
        f"The shop answered {counts.requests:,} requests and gave out {counts.tokens_issued} tokens.",
        f"It refused {counts.refused_by_quota:,} requests for its quota, and broke {broken}.",
        "",
        "The files, held against what the shop really has:",
    ]
    read = [folder / resource.name for resource in api.resources if resource.name in FILES and not resource.forbidden]
    found = {path: is_whole(api, path) for path in read}
    for path, whole in found.items():
        manifest = orjson.loads((path / "manifest.json").read_bytes())
        told = "[green]complete, nothing twice" if whole else "[red]NOT what the shop has"
        lines.append(f"  {path!s:20} {manifest['rows']:7,} rows {manifest['bytes'] / 1e3:7,.0f} kB  {told}")
    lines += [
        "",
        "What to try next:",
        f"  head -2 {folder / 'customers' / 'part-*.jsonl'}",
        "  less examples/demo/shop.py     how the six streams are declared, in 130 lines",
        f"  {python} -m asyncstreams.testing     the same data to play with, and a stream that reads it",
        "  less README.md                 from twelve lines to a connector",
    ]
    console.print("", *lines, sep="\n", highlight=False, soft_wrap=True)
    return all(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder for the JSON lines (default: out)")
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
            are_right = asyncio.run(extract(api, given.out, kept, console))
        is_right = conclude(api, given.out, time.monotonic() - began, console)
        return 0 if is_right and are_right else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; the files hold what was committed until then", file=sys.stderr)
        sys.exit(130)
