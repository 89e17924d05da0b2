"""CPU of an extraction into JSON Lines: without an event log, with it, and with the live view as well.

    python benchmarks/event_log.py                   # 2,000,000 records, 5 rounds
    python benchmarks/event_log.py --records 100000 --rounds 1

Each contender is a process of its own, and the contenders alternate in each round. The API is a transport within the
process, so that nothing but the extraction costs CPU: with sockets the ratios are closer to 1.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext

import httpx

from asyncstreams import HttpStream, JsonLines, PageNumber, RequestContext, Source

PAGE_SIZE = 100
CONTENDERS = ("no event log", "event log", "live view")
AIMS = {"event log": 1.10, "live view": 1.15}


class Customers(HttpStream):
    """Numbered pages of 100 records."""

    url_base = "http://127.0.0.1/"
    records_path = "data"
    paginator = PageNumber(size=PAGE_SIZE, total_pages="pages")
    detect_loops = False

    def path(self, context: RequestContext) -> str:
        return "customers"


def transport(pages: int) -> httpx.MockTransport:
    records = [
        {
            "id": n,
            "name": f"customer number {n}",
            "amount": n + 0.5,
            "tags": ["a", "b"],
            "created": "2026-01-01T00:00:00Z",
        }
        for n in range(PAGE_SIZE)
    ]
    body = json.dumps({"data": records, "pages": pages}).encode()

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "application/json"}, content=body)

    return httpx.MockTransport(answer)


def live_view(source: Source) -> AbstractContextManager[object]:
    from rich.console import Console

    from asyncstreams.progress import Progress

    return Progress(source, console=Console(file=io.StringIO(), force_terminal=True, width=120))


async def extract(contender: str, records: int) -> float:
    """CPU seconds of one extraction."""
    source = Source([Customers(transport=transport(records // PAGE_SIZE))])
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        with live_view(source) if contender == "live view" else nullcontext():
            await source.extract(to=JsonLines(f"{folder}/out", fsync="none"), event_log=contender != "no event log")
        return time.process_time() - began


def measure(contender: str, records: int) -> float:
    command = [sys.executable, __file__, "--contender", contender, "--records", str(records)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contender", choices=CONTENDERS, help="measure this one in this process")
    args = parser.parse_args()
    if args.contender:
        print(asyncio.run(extract(args.contender, args.records)))
        return
    rounds = [{contender: measure(contender, args.records) for contender in CONTENDERS} for _ in range(args.rounds)]
    for contender in CONTENDERS:
        seconds = [result[contender] for result in rounds]
        ratios = [result[contender] / result["no event log"] for result in rounds]
        aim = f"  aim {AIMS[contender]}" if contender in AIMS else ""
        least = min(seconds) / min(result["no event log"] for result in rounds)
        print(
            f"{contender:14} {statistics.median(seconds):6.2f} s CPU"
            f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), of the minima {least:.2f}{aim}"
        )


if __name__ == "__main__":
    main()
