"""The demo: complete tables, progress, printed results and rejected options."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo"


def run_demo(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-W", "error", str(DEMO), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return run_demo("--scale", "0.2", "--seed", "3", directory=directory), directory / "out"


def test_every_table_is_complete(demo_run):
    process, out = demo_run

    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("complete, no duplicates") == 5
    with closing(sqlite3.connect(out / "shop.sqlite")) as shop:
        assert shop.execute("SELECT count(*), min(id), max(id) FROM customers").fetchall() == [(800, 1, 800)]


def test_query_result_is_printed(demo_run):
    process, out = demo_run

    shown = process.stdout.partition("with the best reviews:")[2].partition("Next steps:")[0]
    query = shown[shown.index("SELECT") : shown.index("LIMIT 5")] + "LIMIT 5"
    with closing(sqlite3.connect(out / "shop.sqlite")) as shop:
        rows = shop.execute(query).fetchall()

    assert len(rows) == 5
    printed = [line.split() for line in shown.splitlines()]
    assert [[kind, f"{count:,}", str(stars)] for kind, count, stars in rows] == printed[-6:-1]


def test_progress_table_shows_every_stream_and_the_403(demo_run):
    process, _ = demo_run

    rows = {match[1]: match[2] for match in re.finditer(r"(?m)^(\w+) +\d+ +([\d,]+) ", process.stdout)}

    assert rows == {"customers": "800", "products": "1,200", "events": "2,400", "reviews": "4,000", "payouts": "0"}
    assert "unavailable: answered 403" in process.stdout


def test_orders_take_their_parents_from_the_cache(demo_run):
    process, _ = demo_run

    assert re.search(r"orders of the \d+ best customers, .* parent cache \(0 requests for", process.stdout)
    assert re.search(r"(?m)^  orders +[1-9]\d* rows  complete, no duplicates", process.stdout)


def test_records_match_their_schemas(demo_run):
    process, _ = demo_run

    assert "fit" not in process.stdout + process.stderr


def test_invalid_scale_is_rejected(tmp_path):
    process = run_demo("--scale", "0", directory=tmp_path)

    assert process.returncode == 2
    assert "--scale must be a number above 0" in process.stderr


def test_out_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "out").write_text("mine")

    process = run_demo("--out", "out", directory=tmp_path)

    assert (process.returncode, "Traceback" in process.stderr) == (2, False)
    assert "--out out: cannot create the folder" in process.stderr
