"""Is what is kept right, and used, where two processes share it, and where one of them is killed?"""

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


def api(latency: float = 0.0) -> MockApi:
    """Ten pages of customers, with two orders for each."""
    return MockApi(
        Resource("customers", CUSTOMERS, total=True),
        Resource("orders", 2, parent="customers", total=True),
        latency=latency,
    )


def begun(served: MockApi, folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), served.url, str(folder), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return out


def asked(served: MockApi, name: str = "customers") -> int:
    return served.counts.by_resource.get(name, 0)


def until(happened: Callable[[], bool]) -> None:
    patience = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < patience
        time.sleep(0.002)


def kept(folder: Path, suffix: str = ".parents") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == suffix)


ALL_ORDERS = f"orders {2 * CUSTOMERS} 1\n"


def test_another_process_finds_what_the_first_has_kept(tmp_path: Path) -> None:
    with api() as served:
        assert ended(begun(served, tmp_path, "customers")) == f"customers {CUSTOMERS} 1\n"
        assert asked(served) == PAGES

        assert ended(begun(served, tmp_path, "orders")) == ALL_ORDERS

        assert asked(served) == PAGES


@pytest.mark.parametrize("what", [("orders", "orders"), ("customers", "orders"), ("both", "orders")])
def test_two_processes_at_once_are_both_right_and_leave_one_whole_file(tmp_path: Path, what: tuple[str, str]) -> None:
    with api(latency=0.01) as served:
        printed = [ended(process) for process in [begun(served, tmp_path, one) for one in what]]

        everything = {"customers": f"customers {CUSTOMERS} 1\n", "orders": ALL_ORDERS}
        everything["both"] = everything["customers"] + everything["orders"]
        assert printed == [everything[one] for one in what]
        assert asked(served) in (PAGES, 2 * PAGES)
        assert (len(kept(tmp_path)), kept(tmp_path, ".partial")) == (1, [])
        before = asked(served)
        assert ended(begun(served, tmp_path, "orders")) == ALL_ORDERS
        assert asked(served) == before


@pytest.mark.parametrize("pages", [1, 5, 9])
def test_after_a_kill_in_mid_parent_the_next_run_is_complete_and_takes_nothing_for_whole(
    tmp_path: Path, pages: int
) -> None:
    with api(latency=0.02) as served:
        process = begun(served, tmp_path, "orders")
        until(lambda: asked(served) >= pages)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if asked(served) < PAGES:
            assert kept(tmp_path) == []
        before = asked(served)

        assert ended(begun(served, tmp_path, "orders")) == ALL_ORDERS

        assert asked(served) - before in (0, PAGES)
        assert len(kept(tmp_path)) == 1


def test_after_a_kill_in_mid_child_the_parent_that_was_kept_is_used(tmp_path: Path) -> None:
    with api(latency=0.02) as served:
        process = begun(served, tmp_path, "orders")
        until(lambda: bool(tmp_path.exists() and kept(tmp_path)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert asked(served, "orders") < 2 * CUSTOMERS

        assert ended(begun(served, tmp_path, "orders")) == ALL_ORDERS

        assert asked(served) == PAGES


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM ends a process at once elsewhere")
def test_ctrl_c_in_mid_parent_leaves_no_file_behind(tmp_path: Path) -> None:
    with api(latency=0.05) as served:
        process = begun(served, tmp_path, "orders")
        until(lambda: asked(served) >= 3)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert [path.name for path in tmp_path.iterdir() if path.name != "salt"] == []
