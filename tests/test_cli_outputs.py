"""The commands for what runs have left: state, runs, report."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import command_shop
import pytest
from typer.testing import CliRunner, Result

import asyncstreams
from asyncstreams import JsonLines, State
from asyncstreams.cli.app import new_app
from asyncstreams.event_log.run_record import RunRecord, StreamRecord
from asyncstreams.testing import BearerAuth, MockApi

SHOP = f"{command_shop.__file__}:Shop"
TOKEN = "s3cret-token"
DESTINATIONS = ["out", "shop.sqlite", "shop.duckdb", "parts"]
RECORD = RunRecord(
    "20261201T021058.000Z-3f9a",
    "Shop",
    "JsonLines out",
    "2026-12-01T02:10:58.000Z",
    "complete",
    seconds=3725.0,
    verdict="limited by \x1b[31mmax_concurrency[/red]",
    streams=(StreamRecord("products", "complete", records=1_200),),
)


class Command(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*command_shop.RESOURCES, auth=BearerAuth(TOKEN)) as running:
        yield running


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(new_app(), [*arguments])
        assert "\x1b" not in result.output
        return result

    return run


@pytest.fixture
def read(api: MockApi, command: Command) -> Command:
    def run(*arguments: str) -> Result:
        result = command("read", SHOP, "--set", f"url={api.url}", "--set", f"token={TOKEN}", "-q", *arguments)
        assert result.exit_code == 0, result.output
        return result

    return run


def read_to(read: Command, dest: str, *names: str) -> None:
    read("--to", dest, "-s", ",".join(names), *(("--format", "parquet") if dest == "parts" else ()))


def rows_of(command: Command, dest: str) -> dict[str, int]:
    streams = json.loads(command("state", "show", dest, "--json").stdout)["streams"]
    return {name: stream["rows"] for name, stream in streams.items()}


@pytest.mark.parametrize("dest", DESTINATIONS)
def test_state_shows_rows_and_cursor(dest: str, read: Command, command: Command) -> None:
    read_to(read, dest, "customers", "products")

    result = command("state", "show", dest)
    state = json.loads(command("state", "show", dest, "--json").stdout)

    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["stream", "rows", "status"],
        ["customers", "250", "complete"],
        ["products", "120", "complete"],
    ]
    customers = state["streams"]["customers"]
    assert customers["rows"] == 250
    assert customers["partitions"][0]["cursor"] == customers["cursor"] is not None
    assert state["last_run"]["streams"] == ["customers", "products"]


@pytest.mark.parametrize("dest", ["parts", "shop.duckdb"])
def test_reset_keeps_rows_and_drop_removes_them(dest: str, read: Command, command: Command) -> None:
    read_to(read, dest, "customers", "products")

    kept = command("state", "reset", dest, "customers", "--yes")
    after_reset = rows_of(command, dest)
    dropped = command("state", "reset", dest, "customers", "--drop", "--yes")

    assert "customers was reset: its 250 rows stay until the next run has replaced them" in kept.stderr
    assert after_reset == {"customers": 250, "products": 120}
    assert "its 250 rows were removed" in dropped.stderr
    assert rows_of(command, dest) == {"products": 120}


def test_reset_needs_a_confirmation(read: Command, command: Command) -> None:
    read_to(read, "out", "products")

    result = command("state", "reset", "out", "products")

    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert "complete" in command("state", "show", "out").stdout


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_reset_asks_on_a_terminal(read: Command, command: Command) -> None:
    read_to(read, "out", "products")
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")

    done = subprocess.run(
        process("state", "reset", "out", "products"),
        env=environ(),
        stdin=theirs,
        stderr=theirs,
        stdout=subprocess.PIPE,
        check=False,
    )
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 1
    assert "Forget what was read of products of out? [y/N]" in shown
    assert "nothing was changed" in shown
    assert "complete" in command("state", "show", "out").stdout


def test_unknown_stream_is_not_reset(read: Command, command: Command) -> None:
    read_to(read, "out", "products")

    result = command("state", "reset", "out", "product", "--yes")

    assert result.exit_code == 2
    assert "its streams: products" in result.stderr


@pytest.mark.parametrize("subcommand", ["state show", "runs", "report", "state export"])
def test_missing_output_is_an_error(subcommand: str, read: Command, command: Command, tmp_path: Path) -> None:
    read_to(read, "output", "products")
    before = sorted(os.listdir(tmp_path))

    result = command(*subcommand.split(), "outputs")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: outputs: there is no such output\n  hint: did you mean output?")
    assert sorted(os.listdir(tmp_path)) == before


def test_other_folder_is_no_output(command: Command, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()

    assert "src: is not an output" in command("state", "show", "src").stderr


def test_damaged_state_is_one_message(command: Command, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"sum": "0", "state": {}}')

    result = command("state", "show", "state.json")

    assert result.exit_code == 1
    assert "error: state: state.json is corrupt" in result.stderr


def test_exported_state_continues_in_another_output(read: Command, command: Command) -> None:
    read_to(read, "out", "customers", "products")

    exported = command("state", "export", "out", "--out", "moved.json")
    refused = command("state", "export", "out", "--out", "moved.json")
    for other in DESTINATIONS:
        imported = command("state", "import", f"new-{other}", "moved.json")
        shown = command("state", "show", f"new-{other}")
        read("--to", f"new-{other}", "-s", "customers")

        assert imported.exit_code == 0, imported.stderr
        assert [line.split()[:3] for line in shown.stdout.splitlines()][1:] == [["customers", "0", "unfinished"]]
        assert rows_of(command, f"new-{other}") == {"customers": 0}
    assert "products is left out: it has no cursor" in exported.stderr
    assert refused.exit_code == 2


def test_exported_state_continues_on_stdout(read: Command, command: Command, tmp_path: Path) -> None:
    read_to(read, "out", "customers")

    command("state", "export", "out", "--out", "moved.json")
    shown = command("state", "show", "moved.json")

    assert read("-s", "customers", "--state", "moved.json").stdout == ""
    assert shown.stdout.splitlines()[1].split()[::2] == ["customers", "1"]
    assert (tmp_path / "moved.json").stat().st_mode & 0o777 == 0o600


def test_state_file_moves_into_an_output(read: Command, command: Command) -> None:
    read("-s", "customers", "--state", "state.json")

    command("state", "import", "out", "state.json")
    read("--to", "out", "-s", "customers")

    assert rows_of(command, "out") == {"customers": 0}


def test_import_next_to_other_streams(read: Command, command: Command) -> None:
    read("-s", "customers", "--state", "state.json")
    read_to(read, "out", "products")

    result = command("state", "import", "out", "state.json")
    read_to(read, "out", "customers", "products")

    assert result.exit_code == 0, result.stderr
    assert rows_of(command, "out") == {"customers": 0, "products": 120}


@pytest.mark.parametrize("dest", ["out", "shop.duckdb"])
def test_import_is_refused_where_rows_are(dest: str, read: Command, command: Command) -> None:
    read("-s", "customers", "--state", "state.json")
    read_to(read, dest, "customers")
    before = command("state", "show", dest, "--json").stdout

    refused = command("state", "import", dest, "state.json")
    after = command("state", "show", dest, "--json").stdout
    command("state", "reset", dest, "customers", "--drop", "--yes")
    accepted = command("state", "import", dest, "state.json")
    again = command("state", "import", dest, "state.json")

    assert refused.exit_code == 2
    assert "the output has 250 rows of the stream" in refused.stderr
    assert before == after
    assert accepted.exit_code == 0, accepted.stderr
    assert "the output has a state of the stream" in again.stderr


def test_stream_without_cursor_is_not_imported(read: Command, command: Command, tmp_path: Path) -> None:
    read("-s", "products,customers", "--state", "state.json")

    result = command("state", "import", "out", "state.json")

    assert result.exit_code == 2
    assert "products: state import: it has no cursor" in result.stderr
    assert not (tmp_path / "out").exists()


def test_airbyte_state_begins_an_output(read: Command, command: Command, api: MockApi) -> None:
    read_to(read, "out", "customers")
    Path("airbyte.json").write_text(command("state", "export", "out", "--format", "airbyte").stdout)
    config = ("--set", f"url={api.url}", "--set", f"token={TOKEN}")

    without_source = command("state", "import", "new", "airbyte.json")
    imported = command("state", "import", "new", "airbyte.json", "--source", SHOP, *config)
    read("--to", "new", "-s", "customers")
    into_file = command("state", "import", "state.json", "airbyte.json")

    assert json.loads(Path("airbyte.json").read_text())[0]["stream"]["stream_descriptor"] == {"name": "customers"}
    assert "name the Source with --source" in without_source.stderr
    assert imported.exit_code == into_file.exit_code == 0, imported.stderr
    assert rows_of(command, "new") == {"customers": 0}
    assert "customers" in command("state", "show", "state.json").stdout
    assert json.loads(command("state", "export", "state.json", "--format", "airbyte").stdout) == json.loads(
        Path("airbyte.json").read_text()
    )


def test_state_of_a_sample_is_left_out(read: Command, command: Command) -> None:
    read("--to", "out", "-s", "customers", "--limit", "5")

    result = command("state", "export", "out")

    assert "customers is left out: its rows are a sample" in result.stderr
    assert json.loads(result.stdout)["state"]["streams"] == {}


def test_secret_partitions_are_not_imported(command: Command) -> None:
    done = [{"partition": {"account": "secret:" + "0" * 32}, "done": [[None, "2026-01-01T00:00:00Z"]]}]
    identity = {"url_base": "https://x/", "cursor_field": "id", "cursor_format": None, "cursor_timezone": None}
    payload = {"format": 3, "salt": "00" * 16, "streams": {"users": {"identity": identity, "partitions": done}}}
    Path("state.json").write_bytes(State.from_json(payload).to_text())

    result = command("state", "import", "out", "state.json")

    assert result.exit_code == 2
    assert "users: state import: its partitions contain secrets" in result.stderr


@pytest.mark.parametrize("text", ["", "[1]", '{"orders": 1}', "\x1b[31m", '{"sum": 1, "state": 2}'])
def test_other_file_is_not_imported(text: str, command: Command, tmp_path: Path) -> None:
    Path("given.json").write_text(text)

    result = command("state", "import", "out", "given.json")

    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_stream_of_a_state_file_is_reset(read: Command, command: Command) -> None:
    read("-s", "customers,products", "--state", "state.json")

    refused = command("state", "reset", "state.json", "customers", "--drop", "--yes")
    unknown = command("state", "reset", "state.json", "orders", "--yes")
    result = command("state", "reset", "state.json", "customers", "--yes")

    assert "which has no rows" in refused.stderr
    assert "its streams: customers, products" in unknown.stderr
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(command("state", "show", "state.json", "--json").stdout)["streams"]) == ["products"]
    assert len(read("-s", "customers", "--state", "state.json").stdout.splitlines()) == 250


@pytest.mark.parametrize("dest", ["out", "shop.sqlite"])
def test_runs_are_listed_newest_first(dest: str, read: Command, command: Command) -> None:
    read_to(read, dest, "products")
    read_to(read, dest, "customers")

    lines = command("runs", dest).stdout.splitlines()
    runs = json.loads(command("runs", dest, "--json", "--limit", "1").stdout)

    assert [line.split()[:2] for line in lines[:1]] == [["run", "began"]]
    assert len(lines) == 3
    assert lines[1].split()[0] == runs[0]["id"] > lines[2].split()[0]
    assert runs[0]["records"] == {"customers": 250}
    assert runs[0]["outcome"] == "complete"


def test_output_without_runs_is_said(command: Command) -> None:
    JsonLines("out").new_writer().open(0.0)

    result = command("runs", "out")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "has no record of a run" in result.stderr
    assert "has no record of a run" in command("report", "out").stderr


@pytest.fixture
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the module of reports, so that these tests do not depend on what reports look like."""
    module: Any = types.ModuleType("asyncstreams.observability.report")
    module.render_html = lambda record: f"<html>{record.id}</html>"
    module.print_tables = lambda record, console: console.print(f"tables of {record.id}")
    monkeypatch.setitem(sys.modules, "asyncstreams.observability.report", module)


@pytest.mark.usefixtures("rendering")
def test_report_is_a_page_of_the_last_run(read: Command, command: Command, tmp_path: Path) -> None:
    read_to(read, "out", "products")
    read_to(read, "out", "products")
    first, last = (run["id"] for run in reversed(json.loads(command("runs", "out", "--json").stdout)))

    result = command("report", "out")
    command("report", "out", "--run", first, "--out", "first.html")
    unknown = command("report", "out", "--run", "x")

    assert result.exit_code == 0, result.stderr
    name = f"report-{last.replace('.', '_')}.html"
    assert f"the report was written to {name}" in result.stderr
    assert (tmp_path / name).read_text() == f"<html>{last}</html>"
    assert (tmp_path / "first.html").read_text() == f"<html>{first}</html>"
    assert command("report", "out", "--out", "-").stdout == f"<html>{last}</html>"
    assert unknown.exit_code == 2
    assert last in unknown.stderr


@pytest.mark.usefixtures("rendering")
def test_report_without_the_extra_is_tables(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("run.json").write_bytes(RECORD.to_bytes())
    monkeypatch.setattr("asyncstreams.cli.outputs.find_spec", lambda name: None)

    result = command("report", "run.json")
    refused = command("report", "run.json", "--out", "x.html")

    assert result.stdout == f"tables of {RECORD.id}\n"
    assert 'pip install "asyncstreams[report]"' in result.stderr
    assert refused.exit_code == 2


def test_report_as_json_is_the_record(command: Command) -> None:
    Path("run.json").write_bytes(RECORD.to_bytes())

    result = command("report", "run.json", "--json")

    assert json.loads(result.stdout) == json.loads(RECORD.to_bytes())


def test_damaged_record_is_one_message(command: Command) -> None:
    Path("run.json").write_text("{}")

    result = command("report", "run.json")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: run.json: not a record of a run")


def test_texts_of_a_run_are_inert(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    JsonLines("out").new_writer().open(0.0)

    async def runs(self: object, *, limit: int) -> tuple[RunRecord, ...]:
        return (RECORD,)

    monkeypatch.setattr(JsonLines, "runs", runs)

    line = command("runs", "out").stdout.splitlines()[1]

    assert "\\x1b[31mmax_concurrency[/red]" in line
    assert " 1 h 02 min  complete  1,200 " in line


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "asyncstreams", *arguments]


def environ() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(asyncstreams.__file__).parent.parent)}


@pytest.mark.program
def test_commands_as_processes(read: Command) -> None:
    read("--to", "out", "-s", "products")
    read("--to", "other", "-s", "products")
    read("-s", "customers", "--state", "s.json")
    Path("run.json").write_bytes(RECORD.to_bytes())
    prints = {
        "state show out": True,
        "state export out": True,
        "state reset other products -y": False,
        "state import new s.json": False,
        "runs out": True,
        "report run.json --json": True,
    }

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        command = process(*arguments.split())
        return subprocess.run(command, env=environ(), capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        for done, has_output in zip(pool.map(run, prints), prints.values(), strict=True):
            assert done.returncode == 0, done.stderr
            assert (done.stdout != "") == has_output
            assert "Traceback" not in done.stderr
