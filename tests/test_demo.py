"""Does the demo read the whole shop, and say so?"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo"


def demo(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-W", "error", str(DEMO), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return demo("--scale", "0.2", "--seed", "3", directory=directory), directory / "out"


def test_it_ends_well_and_every_table_is_complete(done):
    process, out = done

    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("complete, nothing twice") == 5
    with closing(sqlite3.connect(out / "shop.sqlite")) as shop:
        assert shop.execute("SELECT count(*), min(id), max(id) FROM customers").fetchall() == [(800, 1, 800)]


def test_it_ends_with_a_question_that_the_database_answers(done):
    process, out = done

    shown = process.stdout.partition("Which products please most?")[2].partition("What to try next")[0]
    query = shown[shown.index("SELECT") : shown.index("LIMIT 5")] + "LIMIT 5"
    with closing(sqlite3.connect(out / "shop.sqlite")) as shop:
        rows = shop.execute(query).fetchall()

    assert len(rows) == 5
    told = [line.split() for line in shown.splitlines()]
    assert [[kind, f"{count:,}", str(stars)] for kind, count, stars in rows] == told[-6:-1]


def test_its_table_has_a_row_for_each_stream_and_says_why_one_is_missing(done):
    process, _ = done

    rows = {match[1]: match[2] for match in re.finditer(r"(?m)^(\w+) +\d+ +([\d,]+) ", process.stdout)}

    assert rows == {"customers": "800", "products": "1,200", "events": "2,400", "reviews": "4,000", "payouts": "0"}
    assert "unavailable: answered 403" in process.stdout


def test_the_orders_of_the_best_customers_are_read_without_asking_for_customers_again(done):
    process, _ = done

    assert re.search(r"orders of the \d+ best customers, who were known by then \(0 requests for", process.stdout)
    assert re.search(r"(?m)^  orders +[1-9]\d* rows  complete, nothing twice", process.stdout)


def test_its_records_fit_their_schemas(done):
    process, _ = done

    assert "fit" not in process.stdout + process.stderr


def test_an_option_that_makes_no_sense_is_refused(tmp_path):
    process = demo("--scale", "0", directory=tmp_path)

    assert process.returncode == 2
    assert "--scale must be a number above 0" in process.stderr


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")

    process = demo("--out", "out", directory=tmp_path)

    assert (process.returncode, "Traceback" in process.stderr) == (2, False)
    assert "--out out cannot be used" in process.stderr
