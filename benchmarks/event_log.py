"""CPU of an extraction into JSON Lines: without an event log, with it, and with the live view as well.

    python benchmarks/event_log.py                   # 40 rounds of 50,000 records
    python benchmarks/event_log.py --records 10000 --rounds 2

The contenders alternate within one process, so that a machine whose speed varies affects all of them. The API is a
transport within the process, so that nothing but the extraction costs CPU: with sockets the ratios are closer to 1.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=50_000, help="of one extraction (default: 50000)")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    for contender in CONTENDERS:  # imports are not measured
        asyncio.run(extract(contender, PAGE_SIZE))
    rounds = [
        {contender: asyncio.run(extract(contender, args.records)) for contender in CONTENDERS}
        for _ in range(args.rounds)
    ]
    for contender in CONTENDERS:
        seconds = [result[contender] for result in rounds]
        ratios = [result[contender] / result["no event log"] for result in rounds]
        aim = f"  aim {AIMS[contender]}" if contender in AIMS else ""
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        print(
            f"{contender:14} {sum(seconds):6.2f} s CPU"
            f"  ratio {statistics.median(ratios):.2f} (quartiles {low:.2f}-{high:.2f}){aim}"
        )


if __name__ == "__main__":
    main()
