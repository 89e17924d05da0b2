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
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import orjson
from rich.console import Console
from shop import Orders, Shop

from asyncstreams.progress import Progress
from asyncstreams.testing import MockApi, shop

FILES = ("customers", "products", "events", "reviews", "payouts")


async def extract(api: MockApi, folder: Path, kept: str, console: Console) -> bool:
    """Read everything; whether the orders are what the shop has. `kept` is the folder for the parents."""
    config = {"url": api.url, "client_id": "client", "client_secret": "secret", "refresh_token": "refresh-0"}
    async with Shop(config, cache_dir=kept) as source:
        await save(source, folder, console)
        return await read_orders(source, api, console)


async def save(source: Shop, folder: Path, console: Console) -> None:
    """Write every stream as JSON lines, under its final name when it is whole, below a live table."""
    parts: dict[str, anyio.AsyncFile[bytes]] = {}
    async with AsyncExitStack() as files:
        with Progress(source, console=console):
            async with source.pages(*FILES) as pages:
                async for page in pages:
                    if page.stream not in parts:
                        part = anyio.Path(folder / f"{page.stream}.jsonl.part")
                        parts[page.stream] = await files.enter_async_context(await part.open("wb"))
                    lines = b"".join(orjson.dumps(record) + b"\n" for record in page.records)
                    await parts[page.stream].write(lines)
    for name in parts:
        await anyio.Path(folder / f"{name}.jsonl.part").rename(folder / f"{name}.jsonl")


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


def is_whole(api: MockApi, path: Path) -> bool:
    """Whether a file holds what the shop has: every record, and each once."""
    with path.open("rb") as file:
        return sorted(orjson.loads(line)["id"] for line in file) == sorted(api.ids(path.stem))


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
    paths = [folder / f"{resource.name}.jsonl" for resource in api.resources]
    found = {path: is_whole(api, path) for path in paths if path.exists()}
    for path, whole in found.items():
        told = "[green]complete, nothing twice" if whole else "[red]NOT what the shop has"
        lines.append(f"  {path!s:30} {path.stat().st_size / 1e3:7,.0f} kB  {told}")
    lines += [
        "",
        "What to try next:",
        f"  head -2 {folder / 'customers.jsonl'}",
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
        for old in given.out.glob("*.jsonl.part"):
            old.unlink()
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
        print("\ninterrupted; files that end in .part are not complete", file=sys.stderr)
        sys.exit(130)
