"""Benchmark of Parquet, DuckDB and SQLite against the same work done by their libraries alone.

    python benchmarks/tables.py [--rounds 7] [--records 200000]

The same JSON lines go through a destination, in commits of the size that a run makes, and through a short hand-written
script without any guarantee. Both run in turn, each in a process of its own; the result is the median of the ratios of
all rounds. A second table measures whole extractions from a server on this machine, and by how much the event loop is
late meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from asyncstreams import DuckDB, HttpStream, JsonLines, PageNumber, Parquet, SQLite
from asyncstreams.destinations.base import Destination
from asyncstreams.destinations.writer_protocol import Chunk, CommitPayload, StreamSchema
from asyncstreams.testing import MockApi, Resource

BATCH_BYTES, PAGE_BYTES = 8 * 2**20, 20_000
Job = Callable[[Path, Path], None]
DESTINATIONS: dict[str, Any] = {"Parquet": Parquet, "DuckDB": DuckDB, "SQLite": SQLite}


def record(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"Customer {number}",
        "email": f"customer{number}@example.com",
        "active": number % 3 == 0,
        "score": number / 7,
        "note": None if number % 2 else "says hello",
        "city": {"name": "Lisbon", "country": "PT"},
        "tags": ["a", "b"][: number % 3],
        "updated_at": f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
    }


def batches(lines: Path) -> Iterator[list[Chunk]]:
    """Pages of records, grouped into batches of about BATCH_BYTES."""
    batch: list[Chunk] = []
    size = 0
    with lines.open("rb") as file:
        while text := file.read(PAGE_BYTES):
            text += file.readline()
            batch.append(Chunk("part", text, text.count(b"\n")))
            size += len(text)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def write_with_destination(to: Destination, lines: Path) -> None:
    writer = to.new_writer()
    writer.open(0)
    writer.begin_run({"op": "begin", "names": ["rows"], "streams": {"rows": {"identity": {}, "mode": "replace"}}})
    writer.describe_stream("rows", StreamSchema([["id"]]))
    batch_id, size = object(), 0
    for chunks in batches(lines):
        size += sum(len(chunk.lines) for chunk in chunks)
        if size < to.commit_bytes:
            writer.write("rows", batch_id, chunks)
        else:
            writer.ledger.apply(writer.commit({"rows": CommitPayload({}, {batch_id: chunks})}))
            batch_id, size = object(), 0
    writer.ledger.apply(writer.commit({"rows": CommitPayload({}, {batch_id: []})}))
    writer.finish_stream({"op": "finish", "stream": "rows"})
    writer.end_run({"op": "end"})
    writer.maintain(is_end=True)
    writer.close()


def with_destination(kind: str) -> Job:
    return lambda lines, out: write_with_destination(DESTINATIONS[kind](out, fsync="none"), lines)


def pyarrow_alone(lines: Path, out: Path) -> None:
    """Read and write each batch with pyarrow."""
    import io

    import pyarrow.json
    import pyarrow.parquet

    out.mkdir()
    for number, chunks in enumerate(batches(lines)):
        data = b"".join(chunk.lines for chunk in chunks)
        table = pyarrow.json.read_json(io.BytesIO(data))
        pyarrow.parquet.write_table(table, out / f"{number}.parquet", compression="zstd")


def duckdb_alone(lines: Path, out: Path) -> None:
    """Let DuckDB read the whole file."""
    import duckdb

    connection = duckdb.connect(str(out))
    connection.execute(f"CREATE TABLE rows AS SELECT * FROM read_json_auto('{lines}')").fetchall()
    connection.close()


def sqlite_alone(lines: Path, out: Path) -> None:
    """Insert the rows of each batch, decoded by orjson."""
    import sqlite3

    import orjson

    connection = sqlite3.connect(out)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    names = list(record(0))
    connection.execute(f"CREATE TABLE rows ({', '.join(names)})")
    for chunks in batches(lines):
        rows = [
            [
                orjson.dumps(value).decode() if isinstance(value, dict | list) else value
                for value in map(orjson.loads(text).get, names)
            ]
            for chunk in chunks
            for text in chunk.lines.splitlines()
        ]
        with connection:
            connection.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(names))})", rows)
    connection.close()


JOBS: dict[str, tuple[Job, Job, float | None]] = {
    "Parquet": (with_destination("Parquet"), pyarrow_alone, 1.3),
    "DuckDB": (with_destination("DuckDB"), duckdb_alone, 1.3),
    "SQLite": (with_destination("SQLite"), sqlite_alone, None),
}


def load_libraries() -> None:
    """Import the libraries, so that neither side pays for it."""
    for module in ("duckdb", "pyarrow.json", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset", "pandas"):
        import_module(module)


def measure(job: str, side: int, lines: Path, out: Path, connection: Any) -> None:
    load_libraries()
    work = JOBS[job][side]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work(lines, out)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    connection.send((time.perf_counter() - started, cpu, after.ru_maxrss / (1 if sys.platform == "darwin" else 1024)))


def run(job: str, side: int, lines: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds, and peak memory in MiB."""
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = processes.Process(target=measure, args=(job, side, lines, Path(folder) / "out", sender))
        process.start()
        result: tuple[float, float, float] = receiver.recv()
        process.join()
        return result


def compare(rounds: int, records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.jsonl", Path(folder) / "many.jsonl"
        for path, count in ((few, records // 10), (many, records)):
            with path.open("w") as file:
                file.writelines(json.dumps(record(number), separators=(",", ":")) + "\n" for number in range(count))
        print(f"{records:,} records, {many.stat().st_size / 1e6:.0f} MB; {rounds} rounds\n")
        head = "wall s | CPU s | library alone: wall s | CPU s | wall ratio | spread | CPU ratio | spread"
        print(f"| destination | {head} | target |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        peaks: dict[str, list[float]] = {}
        for job, (_, _, target) in JOBS.items():
            pairs = [(run(job, 0, many), run(job, 1, many)) for _ in range(rounds)]
            peaks[job] = [run(job, 0, few)[2], statistics.median(ours[2] for ours, _ in pairs)]
            cells = [statistics.median(pair[side][metric] for pair in pairs) for side in (0, 1) for metric in (0, 1)]
            ratios = [[ours[metric] / alone[metric] for ours, alone in pairs] for metric in (0, 1)]
            shown = [f"{statistics.median(ratio):.2f} | {min(ratio):.2f} - {max(ratio):.2f}" for ratio in ratios]
            print(f"| {job} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {' | '.join(shown)} | {target or ''} |")
        print("\n| destination | peak MiB | peak MiB with ten times the records |\n|---|---|---|")
        for job, (small, large) in peaks.items():
            print(f"| {job} | {small:.0f} | {large:.0f} |")


class Customers(HttpStream):
    primary_key = "id"
    records_path = "data"
    paginator = PageNumber(size=500, total_pages="meta.pages")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url_base = url

    def path(self, context: Any) -> str:
        return "customers"


async def measure_lag(work: Any) -> list[float]:
    """Await `work`; return by how many milliseconds repeated sleeps of 5 ms were late meanwhile, sorted."""
    lags: list[float] = []

    async def sleeper() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append((time.perf_counter() - started - 0.005) * 1000)

    task = asyncio.create_task(sleeper())
    await work
    task.cancel()
    return sorted(lags)


@contextmanager
def gc_pauses() -> Generator[list[float]]:
    """The milliseconds that each run of the garbage collector takes within the block."""
    pauses: list[float] = []
    started = 0.0

    def record_pause(phase: str, _: Any) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            pauses.append((time.perf_counter() - started) * 1000)

    gc.callbacks.append(record_pause)
    try:
        yield pauses
    finally:
        gc.callbacks.remove(record_pause)


def compare_lags(records: int) -> None:
    """Run with pandas loaded, as analysts often have it: the garbage collector then traverses many objects."""
    load_libraries()
    head = "records/s | loop lag in ms: median | 99 % | maximum | longest garbage collection, ms"
    print(f"\n| destination | {head} | target |\n|---|---|---|---|---|---|---|")
    with MockApi(Resource("customers", records, page_size=500), process=True) as api:
        for is_frozen in (False, True):
            if is_frozen:
                gc.freeze()
            for name, kind in {"JsonLines": JsonLines, **DESTINATIONS}.items():
                with tempfile.TemporaryDirectory() as folder, gc_pauses() as pauses:
                    started = time.perf_counter()
                    lags = asyncio.run(measure_lag(Customers(api.url).extract(to=kind(Path(folder) / "out"))))
                    rate = records / (time.perf_counter() - started)
                shown = f"{statistics.median(lags):.1f} | {lags[int(len(lags) * 0.99)]:.1f} | {lags[-1]:.1f}"
                after = ", after gc.freeze()" if is_frozen else ""
                print(f"| {name}{after} | {rate:,.0f} | {shown} | {max(pauses):.1f} | 50 |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--records", type=int, default=200_000)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    compare(arguments.rounds, arguments.records)
    compare_lags(arguments.records)


if __name__ == "__main__":
    main()
