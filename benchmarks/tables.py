"""What do Parquet, DuckDB and SQLite cost beside the same work done by their libraries alone?

    python benchmarks/tables.py [--rounds 7] [--records 200000]

The same lines of JSON go through an output of ours, in commits as large as a run gives it, and through a few lines by
hand that promise nothing. Each runs in a process of its own, in turn, again and again; what counts is the median of
the ratios of each round. Then a whole extraction from a server on this machine, while somebody on the event loop notes
how long it is kept waiting.
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

PIECE, PAGE = 8 * 2**20, 20_000
Job = Callable[[Path, Path], None]
KINDS: dict[str, Any] = {"Parquet": Parquet, "DuckDB": DuckDB, "SQLite": SQLite}


def line(number: int) -> dict[str, Any]:
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


def pieces(lines: Path) -> Iterator[list[Chunk]]:
    """Pages of some records, so many as are held before they are written."""
    held: list[Chunk] = []
    size = 0
    with lines.open("rb") as file:
        while text := file.read(PAGE):
            text += file.readline()
            held.append(Chunk("part", text, text.count(b"\n")))
            size += len(text)
            if size >= PIECE:
                yield held
                held, size = [], 0
    if held:
        yield held


def ours(to: Destination, lines: Path) -> None:
    output = to.new_writer()
    output.open(0)
    output.begin_run({"op": "begin", "names": ["rows"], "streams": {"rows": {"identity": {}, "mode": "replace"}}})
    output.describe_stream("rows", StreamSchema(["id"]))
    owner, size = object(), 0
    for chunks in pieces(lines):
        size += sum(len(chunk.lines) for chunk in chunks)
        if size < to.commit_bytes:
            output.write("rows", owner, chunks)
        else:
            output.ledger.apply(output.commit({"rows": CommitPayload({}, {owner: chunks})}))
            owner, size = object(), 0
    output.ledger.apply(output.commit({"rows": CommitPayload({}, {owner: []})}))
    output.finish_stream("rows", {})
    output.end_run()
    output.maintain(is_end=True)
    output.close()


def ours_into(kind: str) -> Job:
    return lambda lines, out: ours(KINDS[kind](out, fsync="none"), lines)


def pyarrow_alone(lines: Path, out: Path) -> None:
    """The same batches, each read and written by pyarrow."""
    import io

    import pyarrow.json
    import pyarrow.parquet

    out.mkdir()
    for number, chunks in enumerate(pieces(lines)):
        data = b"".join(chunk.lines for chunk in chunks)
        table = pyarrow.json.read_json(io.BytesIO(data))
        pyarrow.parquet.write_table(table, out / f"{number}.parquet", compression="zstd")


def duckdb_alone(lines: Path, out: Path) -> None:
    """DuckDB reads the file itself."""
    import duckdb

    connection = duckdb.connect(str(out))
    connection.execute(f"CREATE TABLE rows AS SELECT * FROM read_json_auto('{lines}')").fetchall()
    connection.close()


def sqlite_alone(lines: Path, out: Path) -> None:
    """Rows of the same batches, decoded by orjson."""
    import sqlite3

    import orjson

    connection = sqlite3.connect(out)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    names = list(line(0))
    connection.execute(f"CREATE TABLE rows ({', '.join(names)})")
    for chunks in pieces(lines):
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
    "Parquet": (ours_into("Parquet"), pyarrow_alone, 1.3),
    "DuckDB": (ours_into("DuckDB"), duckdb_alone, 1.3),
    "SQLite": (ours_into("SQLite"), sqlite_alone, None),
}


def load_libraries() -> None:
    """Which takes half a second once, whoever needs it."""
    for module in ("duckdb", "pyarrow.json", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset", "pandas"):
        import_module(module)


def measured(job: str, which: int, lines: Path, out: Path, told: Any) -> None:
    load_libraries()
    work = JOBS[job][which]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work(lines, out)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told.send((time.perf_counter() - began, cpu, after.ru_maxrss / (1 if sys.platform == "darwin" else 1024)))


def run(job: str, which: int, lines: Path) -> tuple[float, float, float]:
    """Wall and CPU seconds, and MiB at the peak."""
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = processes.Process(target=measured, args=(job, which, lines, Path(folder) / "out", there))
        process.start()
        told: tuple[float, float, float] = here.recv()
        process.join()
        return told


def compare(rounds: int, records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.jsonl", Path(folder) / "many.jsonl"
        for path, count in ((few, records // 10), (many, records)):
            with path.open("w") as file:
                file.writelines(json.dumps(line(number), separators=(",", ":")) + "\n" for number in range(count))
        print(f"{records:,} records, {many.stat().st_size / 1e6:.0f} MB; {rounds} rounds\n")
        print("| output | wall s | CPU s | alone: wall s | CPU s | wall ratio | spread | CPU ratio | spread | aim |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        peaks: dict[str, list[float]] = {}
        for job, (_, _, aim) in JOBS.items():
            pairs = [(run(job, 0, many), run(job, 1, many)) for _ in range(rounds)]
            peaks[job] = [run(job, 0, few)[2], statistics.median(mine[2] for mine, _ in pairs)]
            cells = [statistics.median(pair[side][what] for pair in pairs) for side in (0, 1) for what in (0, 1)]
            ratios = [[mine[what] / alone[what] for mine, alone in pairs] for what in (0, 1)]
            shown = [f"{statistics.median(one):.2f} | {min(one):.2f} - {max(one):.2f}" for one in ratios]
            print(f"| {job} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {' | '.join(shown)} | {aim or ''} |")
        print("\n| output | MiB at the peak | of ten times as many records |\n|---|---|---|")
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


async def lag_of(work: Any) -> list[float]:
    """Milliseconds by which somebody who sleeps for 5 ms is late, again and again while it works."""
    late: list[float] = []

    async def sleeper() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append((time.perf_counter() - began - 0.005) * 1000)

    task = asyncio.create_task(sleeper())
    await work
    task.cancel()
    return sorted(late)


@contextmanager
def collected() -> Generator[list[float]]:
    """How many milliseconds each run of the garbage collector takes meanwhile."""
    took: list[float] = []
    began = 0.0

    def told(phase: str, _: Any) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            took.append((time.perf_counter() - began) * 1000)

    gc.callbacks.append(told)
    try:
        yield took
    finally:
        gc.callbacks.remove(told)


def lags(records: int) -> None:
    """As a process of analysts is, with pandas loaded, of which the collector looks at everything now and then."""
    load_libraries()
    head = "records/s | ms that the loop was late: median | 99 % | most | longest run of the garbage collector"
    print(f"\n| extracting into | {head} | aim |\n|---|---|---|---|---|---|---|")
    with MockApi(Resource("customers", records, page_size=500), process=True) as api:
        for is_frozen in (False, True):
            if is_frozen:
                gc.freeze()
            for name, kind in {"JsonLines": JsonLines, **KINDS}.items():
                with tempfile.TemporaryDirectory() as folder, collected() as took:
                    began = time.perf_counter()
                    late = asyncio.run(lag_of(Customers(api.url).extract(to=kind(Path(folder) / "out"))))
                    rate = records / (time.perf_counter() - began)
                shown = f"{statistics.median(late):.1f} | {late[int(len(late) * 0.99)]:.1f} | {late[-1]:.1f}"
                after = ", after gc.freeze()" if is_frozen else ""
                print(f"| {name}{after} | {rate:,.0f} | {shown} | {max(took):.1f} | 50 |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--records", type=int, default=200_000)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    compare(given.rounds, given.records)
    lags(given.records)


if __name__ == "__main__":
    main()
