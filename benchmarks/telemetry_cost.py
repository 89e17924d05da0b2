"""CPU per page with OpenTelemetry: without it, with its API only, and with the SDK and in-memory exporters.

One slice of pages with 100 records each, from responses in memory: each page is one request. The cases take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asyncstreams import Cursor, HttpStream, RequestContext
from asyncstreams.observability.telemetry import Telemetry

PAGE_SIZE = 100
Case = Callable[[HttpStream], AbstractContextManager[object]]


class Items(HttpStream):
    """Pages that name the next one."""

    url_base = "https://api.test/"
    records_path = "items"
    paginator = Cursor("next", param="page")
    adaptive = False

    def path(self, context: RequestContext) -> str:
        return "items"


def with_sdk(stream: HttpStream, *, propagate: bool = False, max_spans: int = 10_000) -> Telemetry:
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    meters = MeterProvider([InMemoryMetricReader()])
    return Telemetry(stream, propagate=propagate, max_spans=max_spans, tracer_provider=tracers, meter_provider=meters)


def with_listener(stream: HttpStream) -> AbstractContextManager[object]:
    """A listener that does nothing: what emitting the events costs."""
    stream.subscribe(lambda event: None)
    return nullcontext()


CASES: dict[str, Case] = {
    "no listener": lambda stream: nullcontext(),
    "a listener that does nothing": with_listener,
    "API only": Telemetry,
    "SDK, metrics only (`max_spans=0`)": lambda stream: with_sdk(stream, max_spans=0),
    "SDK": with_sdk,
    "SDK, `propagate=True`": lambda stream: with_sdk(stream, propagate=True),
}


def make_transport(pages: int) -> httpx.MockTransport:
    bodies: list[bytes] = []
    for number in range(pages):
        items = [
            {"id": number * PAGE_SIZE + row, "name": f"name {row}", "price": row * 1.5} for row in range(PAGE_SIZE)
        ]
        bodies.append(json.dumps({"items": items, "next": number + 1 if number + 1 < pages else None}).encode())
    headers = {"Content-Type": "application/json"}

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=bodies[int(request.url.params.get("page", 0))], headers=headers)

    return httpx.MockTransport(respond)


async def read_all(stream: HttpStream) -> int:
    records = 0
    async with stream.pages() as pages:
        async for page in pages:
            records += len(page.records)
    return records


def cpu_per_page(case: Case, transport: httpx.MockTransport, pages: int) -> float:
    """Microseconds of CPU."""
    stream = Items(transport=transport)
    gc.collect()
    began = time.process_time()
    with case(stream):
        records = asyncio.run(read_all(stream))
    cpu = time.process_time() - began
    if records != pages * PAGE_SIZE:
        raise SystemExit(f"{records} records instead of {pages * PAGE_SIZE}")
    return cpu / pages * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=2_000, help="pages of each run (default: 2000)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    args = parser.parse_args()
    transport = make_transport(args.pages)
    measured: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(args.rounds + 1):
        for name, case in CASES.items():
            cpu = cpu_per_page(case, transport, args.pages)
            if number:  # the first round imports and compiles
                measured[name].append(cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} cores")
    print(f"{args.pages:,} pages, {args.rounds} interleaved rounds\n")
    print("| telemetry | µs of CPU a page | spread | more than without |")
    print("|---|---|---|---|")
    reference = next(iter(measured.values()))
    for name, values in measured.items():
        more = statistics.median(value - before for value, before in zip(values, reference, strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} - {max(values):.0f} | {more:.0f} |")


if __name__ == "__main__":
    main()
