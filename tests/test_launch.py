"""Extractions that scripts start: `asyncstreams.run` and `asyncstreams.main`."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_shop
import pytest

import asyncstreams
from asyncstreams import (
    AuthError,
    ConfigError,
    HostUnavailable,
    JsonLines,
    OutputLocked,
    Page,
    PartialFailure,
    RunRecord,
    RunReport,
    Source,
    StateCorrupt,
    StreamReport,
    StreamUnavailable,
    ThresholdMissed,
)
from asyncstreams.event_log.run_record import ThresholdRecord
from asyncstreams.launch import DeadlineReached, exit_code_of, failure_lines, summary_lines
from asyncstreams.testing import BearerAuth, Fault, MockApi

TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*command_shop.RESOURCES, auth=BearerAuth(TOKEN)) as running:
        yield running


@pytest.fixture
def shop(api: MockApi) -> Source:
    return command_shop.Shop({"url": api.url, "token": TOKEN})


def rows(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.glob("*.jsonl"))


def test_run_extracts_and_returns_the_report(shop: Source, tmp_path: Path) -> None:
    report = asyncstreams.run(shop, "products", "customers", to=JsonLines(tmp_path), limit=30)

    assert [(stream.stream, stream.records) for stream in report.streams] == [("products", 30), ("customers", 30)]
    assert rows(tmp_path / "products") == 30


def test_run_creates_a_source_from_its_class(api: MockApi, tmp_path: Path) -> None:
    class Configured(command_shop.Shop):
        def __init__(self) -> None:
            super().__init__({"url": api.url, "token": TOKEN})

    assert asyncstreams.run(Configured, "products", to=JsonLines(tmp_path)).streams[0].records == 120


def test_run_accepts_a_sink(shop: Source) -> None:
    class Pages:
        def __init__(self) -> None:
            self.records = 0

        async def write(self, page: Page, batch_id: str) -> None:
            self.records += len(page.records)

    sink = Pages()
    asyncstreams.run(shop, "products", to=sink)

    assert sink.records == 120


def test_run_logs_to_stderr_without_a_terminal(
    shop: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # pytest handles all logs
        asyncstreams.run(shop, "products", to=JsonLines(tmp_path))
        shown = capsys.readouterr()
        asyncstreams.run(shop, "products", to=JsonLines(tmp_path), quiet=True)

    assert " INFO    products: begins" in shown.err
    assert shown.out == ""
    assert capsys.readouterr().err == ""
    assert logging.getLogger("asyncstreams").handlers == []
    assert logging.getLogger("asyncstreams").propagate


def test_run_leaves_the_logging_of_the_program(
    shop: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asyncstreams")

    asyncstreams.run(shop, "products", to=JsonLines(tmp_path))

    assert capsys.readouterr().err == ""
    assert "products: begins" in caplog.text


def test_run_raises_what_extract_raises(api: MockApi, tmp_path: Path) -> None:
    wrong = command_shop.Shop({"url": api.url, "token": "wrong"})

    with pytest.raises(AuthError):
        asyncstreams.run(wrong, "products", to=JsonLines(tmp_path))


async def test_run_in_an_event_loop_names_extract(shop: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"an event loop is running\n.*`await source.extract\(...\)`"):
        asyncstreams.run(shop, to=JsonLines(tmp_path))


def test_run_of_anything_else_is_refused(tmp_path: Path) -> None:
    not_a_source: Any = command_shop.Products

    with pytest.raises(ConfigError, match="type is not a Source"):
        asyncstreams.run(not_a_source, to=JsonLines(tmp_path))


def exit_code(source: Source, *names: str, to: JsonLines, **arguments: Any) -> int:
    with pytest.raises(SystemExit) as raised:
        asyncstreams.main(source, *names, to=to, **arguments)
    code = raised.value.code
    assert isinstance(code, int)
    return code


def test_main_ends_the_process_with_the_report(
    shop: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(shop, "products", to=JsonLines(tmp_path)) == 0
    assert "products  120 records in 2 pages of 1 slice" in capsys.readouterr().err


def test_quiet_main_writes_failures_only(
    shop: Source, api: MockApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(shop, "products", to=JsonLines(tmp_path / "a"), quiet=True) == 0
    assert capsys.readouterr().err == ""
    api.faults.append(Fault.status(400, resource="orders", at=[3]))
    try:
        assert exit_code(shop, "orders", to=JsonLines(tmp_path / "b"), quiet=True) == 3
    finally:
        api.faults.clear()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: ")
    assert any(line.startswith("orders  ") for line in lines)


def test_main_ends_with_2_for_a_wrong_name(shop: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(shop, "prodcts", to=JsonLines(tmp_path)) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: Shop has no stream 'prodcts'"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (ValueError(), 1),
        (OSError(), 1),
        (StateCorrupt("x"), 1),
        (OutputLocked("x", holder="y", since=None), 1),
        (StreamUnavailable("x"), 1),
        (ConfigError("x"), 2),
        (AuthError("x"), 2),
        (ImportError("x"), 1),
        (ImportError('x: pip install "asyncstreams[x]"'), 2),
        (PartialFailure("x", (), None), 3),
        (DeadlineReached("x"), 3),
        (HostUnavailable("x"), 4),
        (ThresholdMissed("x", None), 5),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (SystemExit(143), 143),
        (SystemExit(), 0),
        (SystemExit("text"), 1),
    ],
    ids=repr,
)
def test_outcome_has_its_exit_code(error: BaseException | None, code: int) -> None:
    assert exit_code_of(error) == code


def test_missed_thresholds_come_first_in_the_summary() -> None:
    thresholds = (
        ThresholdRecord("orders.records >= 10", False, "5"),
        ThresholdRecord("refused <= 1%", True, "0 %"),
        ThresholdRecord("duration < last", None, "no earlier run"),
    )
    record = RunRecord(
        "id", "Shop", "out", "2026-01-01T00:00:00Z", "complete", thresholds=thresholds, verdict="Slow API."
    )
    report = RunReport((StreamReport("orders", 1, 5, 0, 1, 0),), record=record)

    assert summary_lines(report) == [
        "threshold orders.records >= 10: MISSED: 5",
        "threshold refused <= 1%: met: 0 %",
        "threshold duration < last: skipped: no earlier run",
        "orders  5 records in 1 page of 1 slice",
        "Slow API.",
    ]
    assert "MISSED" not in str(summary_lines(report, ThresholdMissed("missed", report)))


def test_failure_of_the_author_names_its_line() -> None:
    try:
        json.loads("{")
    except ValueError as error:
        lines = failure_lines(error)

    assert lines[0].startswith("error: JSONDecodeError: Expecting property name")
    assert lines[1].startswith("  at: ")


def test_missing_extra_is_one_line() -> None:
    assert failure_lines(ImportError('SQLite requires x: pip install "asyncstreams[x]"')) == [
        'error: SQLite requires x: pip install "asyncstreams[x]"'
    ]


PROGRAM = """
import sys
import asyncstreams
from asyncstreams import JsonLines
from command_shop import Archive

asyncstreams.main(Archive({"url": sys.argv[1], "token": "s3cret-token"}), to=JsonLines("out"))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code", "text"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_signal_ends_a_script_with_its_exit_code(
    number: signal.Signals, code: int, text: str, api: MockApi, tmp_path: Path
) -> None:
    folders = [str(Path(asyncstreams.__file__).parent.parent), str(Path(command_shop.__file__).parent)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, api.url]
    api.latency = 0.05
    try:
        with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            process.send_signal(number)
            rest = process.stderr.read()
    finally:
        api.latency = 0.0

    assert "batches: writing to out" in first
    assert process.returncode == code
    assert rest.splitlines()[-1] == f"stopped by {text}"


def test_launch_needs_neither_cli_nor_observability(tmp_path: Path) -> None:
    code = (
        "import asyncstreams, sys; asyncstreams.run; print(*(m for m in sys.modules if m.startswith('asyncstreams')))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {name.split(".")[1] for name in done.stdout.split() if "." in name} & {"cli", "observability"} == set()
