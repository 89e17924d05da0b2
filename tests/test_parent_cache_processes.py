"""The parent cache shared by two processes, and after a process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncstreams.testing import MockApi, Resource

PROGRAM = Path(__file__).parent / "support" / "cached_tree.py"
CUSTOMERS, PAGES = 200, 10


def customers_api(latency: float = 0.0) -> MockApi:
    """Ten pages of customers, with two orders for each."""
    return MockApi(
        Resource("customers", CUSTOMERS, total=True),
        Resource("orders", 2, parent="customers", total=True),
        latency=latency,
    )


def start_process(served: MockApi, folder: Path, streams: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), served.url, str(folder), streams],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return out


def request_count(served: MockApi, name: str = "customers") -> int:
    return served.counts.by_resource.get(name, 0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def cached_files(folder: Path, suffix: str = ".parents") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == suffix)


ALL_ORDERS = f"orders {2 * CUSTOMERS} 1\n"


def test_second_process_uses_cached_log_of_the_first(tmp_path: Path) -> None:
    with customers_api() as served:
        assert output_of(start_process(served, tmp_path, "customers")) == f"customers {CUSTOMERS} 1\n"
        assert request_count(served) == PAGES

        assert output_of(start_process(served, tmp_path, "orders")) == ALL_ORDERS

        assert request_count(served) == PAGES


@pytest.mark.parametrize("names", [("orders", "orders"), ("customers", "orders"), ("both", "orders")])
def test_concurrent_processes_are_correct_and_leave_one_file(tmp_path: Path, names: tuple[str, str]) -> None:
    with customers_api(latency=0.01) as served:
        printed = [output_of(process) for process in [start_process(served, tmp_path, name) for name in names]]

        expected = {"customers": f"customers {CUSTOMERS} 1\n", "orders": ALL_ORDERS}
        expected["both"] = expected["customers"] + expected["orders"]
        assert printed == [expected[name] for name in names]
        assert request_count(served) in (PAGES, 2 * PAGES)
        assert (len(cached_files(tmp_path)), cached_files(tmp_path, ".partial")) == (1, [])
        before = request_count(served)
        assert output_of(start_process(served, tmp_path, "orders")) == ALL_ORDERS
        assert request_count(served) == before


@pytest.mark.parametrize("pages", [1, 5, 9])
def test_run_after_kill_while_reading_parent_is_complete(tmp_path: Path, pages: int) -> None:
    with customers_api(latency=0.02) as served:
        process = start_process(served, tmp_path, "orders")
        wait_until(lambda: request_count(served) >= pages)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if request_count(served) < PAGES:
            assert cached_files(tmp_path) == []
        before = request_count(served)

        assert output_of(start_process(served, tmp_path, "orders")) == ALL_ORDERS

        assert request_count(served) - before in (0, PAGES)
        assert len(cached_files(tmp_path)) == 1


def test_cached_parent_is_used_after_kill_while_reading_child(tmp_path: Path) -> None:
    with customers_api(latency=0.02) as served:
        process = start_process(served, tmp_path, "orders")
        wait_until(lambda: bool(tmp_path.exists() and cached_files(tmp_path)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert request_count(served, "orders") < 2 * CUSTOMERS

        assert output_of(start_process(served, tmp_path, "orders")) == ALL_ORDERS

        assert request_count(served) == PAGES


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_while_reading_parent_leaves_no_file(tmp_path: Path) -> None:
    with customers_api(latency=0.05) as served:
        process = start_process(served, tmp_path, "orders")
        wait_until(lambda: request_count(served) >= 3)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert [path.name for path in tmp_path.iterdir() if path.name != "salt"] == []
