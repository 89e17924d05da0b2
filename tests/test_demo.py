"""Does the demo read the whole shop, and say so?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo"


def demo(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "utf8", "-W", "error", str(DEMO), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", timeout=120, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return demo("--scale", "0.2", "--seed", "3", directory=directory), directory / "out"


def test_it_ends_well_and_every_file_is_complete(done):
    process, out = done

    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("complete, nothing twice") == 4
    with_parts = {path.parent.name for path in out.glob("*/part-*.jsonl")}
    assert with_parts == {"customers", "products", "events", "reviews"}


def test_its_files_are_json_lines(done):
    _, out = done

    lines = [line for path in out.glob("customers/part-*.jsonl") for line in path.read_bytes().splitlines()]

    assert [orjson.loads(line)["id"] for line in lines] == list(range(1, 801))


def test_its_table_has_a_row_for_each_stream_and_says_why_one_is_missing(done):
    process, _ = done

    rows = {match[1]: match[2] for match in re.finditer(r"(?m)^(\w+) +\d+ +([\d,]+) ", process.stdout)}

    assert rows == {"customers": "800", "products": "1,200", "events": "2,400", "reviews": "4,000", "payouts": "0"}
    assert "unavailable: answered 403" in process.stdout


def test_the_orders_of_the_best_customers_are_read_without_asking_for_customers_again(done):
    process, _ = done

    assert re.search(r"orders of the \d+ best customers, who were known by then \(0 requests for", process.stdout)
    assert re.search(r"[1-9]\d* orders  all there, each once", process.stdout)


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
