"""The commands that inspect a Source: check, discover, spec, preview, schema infer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import command_shop
import pytest
from typer.testing import CliRunner, Result

import asyncstreams
from asyncstreams.cli.app import new_app
from asyncstreams.cli.record_table import record_table
from asyncstreams.cli.stdout_tables import to_json_text
from asyncstreams.schemas.record_schema import RecordSchema
from asyncstreams.testing import BearerAuth, MockApi, Resource

SHOP = f"{command_shop.__file__}:Shop"
TOKEN = "s3cret-token"
HOSTILE = "\x1b[31mred\x9b2J[bold]x[/bold]\u202e"
MODULE = """
from asyncstreams import HttpStream, PageNumber, Source, TokenAuthenticator

class Items(HttpStream):
    records_path = "data"
    primary_key = "id"
    cursor_field = "updated_at"
    paginator = PageNumber(size=100)

    def path(self, context):
        return self.name

class Described(Items):
    cursor_field = None

    def get_json_schema(self):
        return {"properties": {"id": {"type": "string"}, "gone": {"type": "null"}}}

class Forbidden(Items):
    cursor_field = None

class Nothing(Items):
    cursor_field = None

class Inspected(Source):
    spec = {
        "type": "object",
        "required": ["url", "token"],
        "properties": {
            "url": {"type": "string", "description": "Address of [bold]the[/bold] API"},
            "token": {"type": "string", "airbyte_secret": True, "default": "changeme"},
            "start": {"type": "string", "default": "2026-01-01"},
            "auth": {
                "oneOf": [
                    {"required": ["kind", "key"], "properties": {"kind": {"const": "key"}, "key": {"type": "string"}}},
                    {"required": ["kind"], "properties": {"kind": {"const": "none"}}},
                ]
            },
        },
    }

    def streams(self, config):
        for stream in (found := [Items(), Described(), Forbidden(), Nothing()]):
            stream.url_base = config["url"]
            stream.authenticator = TokenAuthenticator(config["token"])
        return found

class Bare(Source):
    def streams(self, config):
        return [Items()]
"""


def item(number: int, rng: Any) -> dict[str, Any]:
    return {
        "name": HOSTILE,
        "id": number,
        "updated_at": f"2026-01-{number % 28 + 1:02}T00:00:00Z",
        "tags": ["a", {"b": None}],
        "price": number + 0.5 if number > 5 else None,
        "echo": TOKEN,
        "text": "y" * 500,
    }


RESOURCES = [
    Resource("items", 250, record=item),
    Resource("described", 3, record=item),
    Resource("forbidden", 1, forbidden=True),
    Resource("nothing", 0),
]


class Command(Protocol):
    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*RESOURCES, auth=BearerAuth(TOKEN)) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "inspected.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def command(api: MockApi, folder: Path) -> Command:
    def run(*arguments: str) -> Result:
        config = () if arguments[0] == "spec" else ("--set", f"url={api.url}", "--set", f"token={TOKEN}")
        result = CliRunner().invoke(new_app(), [*arguments, *config])
        assert TOKEN not in result.output
        assert not {"\x1b", "\x9b", "\u202e"} & set(result.output)
        return result

    return run


def rows(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def test_check_lists_the_availability_of_each_stream(command: Command) -> None:
    result = command("check", "inspected.py:Inspected")

    assert result.exit_code == 1
    assert [row[:2] for row in rows(result)] == [
        ["stream", "status"],
        ["items", "available"],
        ["described", "available"],
        ["forbidden", "unavailable"],
        ["nothing", "available"],
    ]
    assert "without a schema, records are not validated" in result.stdout
    assert "403" in result.stdout


def test_check_succeeds_if_selected_streams_are_available(command: Command) -> None:
    result = command("check", "inspected.py:Inspected", "--select", "items,described", "--json")

    assert result.exit_code == 0
    assert [stream["available"] for stream in json.loads(result.stdout)] == [True, True]


def test_check_of_an_unknown_stream_suggests_a_name(command: Command) -> None:
    result = command("check", "inspected.py:Inspected", "--select", "itemz")

    assert result.exit_code == 2
    assert "did you mean 'items'?" in result.stderr
    assert result.stdout == ""


def test_discover_lists_streams_and_schemas(command: Command) -> None:
    table = rows(command("discover", "inspected.py:Inspected"))
    streams = json.loads(command("discover", "inspected.py:Inspected", "--json").stdout)

    assert table[1:3] == [["items", "id", "updated_at", "no", "schema"], ["described", "id", "2"]]
    assert streams[0]["cursor_field"] == ["updated_at"]
    assert set(streams[1]["json_schema"]["properties"]) == {"id", "gone"}


def test_discover_names_parents(folder: Path) -> None:
    config = ("--set", "url=http://127.0.0.1:9/", "--set", "token=x")

    result = CliRunner().invoke(new_app(), ["discover", SHOP, *config])

    assert ["orders", "id", "customers", "no", "schema"] in rows(result)


def test_spec_is_a_table_of_keys(command: Command) -> None:
    lines = command("spec", "inspected.py:Inspected").stdout.splitlines()

    assert [line.split()[:3] for line in lines] == [
        ["key", "type", "required"],
        ["url", "string", "yes"],
        ["token", "string", "yes"],
        ["start", "string", "no"],
        ["auth", "any", "no"],
        ["auth.kind", "string", "depends"],
        ["auth.key", "string", "depends"],
    ]
    assert "[bold]the[/bold]" in lines[1]
    assert lines[2].split()[3:] == ["***", "secret"]
    assert lines[3].split()[3:] == ['"2026-01-01"']
    assert lines[5].endswith('"key" or "none"')


def test_spec_as_json_is_the_schema(command: Command) -> None:
    spec = json.loads(command("spec", "inspected.py:Inspected", "--json").stdout)

    assert list(spec["properties"]) == ["url", "token", "start", "auth"]
    assert json.loads(command("spec", "inspected.py:Bare", "--json").stdout) == {}
    assert "Bare has no spec" in command("spec", "inspected.py:Bare").stderr


def test_preview_shows_records_requests_and_types(command: Command, api: MockApi) -> None:
    result = command("preview", "inspected.py:Inspected", "items", "--limit", "2")
    lines = result.stdout.splitlines()

    assert result.exit_code == 0
    assert lines[0] == "2 records"
    assert lines[1].split()[:3] == ["id", "updated_at", "name"]  # the key and the cursor come first
    assert lines[2].startswith("1   2026-01-02T00:00:00Z  \\x1b[31mred\\x9b2J[bold]x[/bold]\\u202e")
    assert max(map(len, lines[:4])) <= 80
    assert "columns do not fit" in lines[4]
    assert ["items", "GET", f"{api.url.rstrip('/')}/items", "200"] in [row[:4] for row in rows(result)]
    assert "no schema is declared; inferred from 2 records" in lines
    assert ["updated_at", "string", "date-time"] in rows(result)


def test_preview_compares_with_the_declared_schema(command: Command) -> None:
    result = command("preview", "inspected.py:Inspected", "described")

    assert result.exit_code == 0
    assert "the declared schema differs from 3 records" in result.stdout
    table = rows(result)
    assert ["id", "string", "integer"] in table
    assert ["name", "not", "declared", "string"] in table
    assert ["gone", "null", "not", "seen"] in table


def test_preview_as_json_has_whole_records(command: Command) -> None:
    preview = json.loads(command("preview", "inspected.py:Inspected", "described", "-n", "1", "--json").stdout)

    assert preview["records"] == [item(1, None) | {"echo": "***"}]
    assert preview["requests"][0]["status"] == 200
    assert {"path": "gone", "declared": "null", "inferred": ""} in preview["differences"]


def test_failed_preview_shows_its_requests(command: Command) -> None:
    result = command("preview", "inspected.py:Inspected", "forbidden")

    assert result.exit_code == 1
    assert "403, HttpStatusError" in result.stdout
    assert result.stderr.startswith("error: forbidden: ")


def test_preview_of_an_empty_stream(command: Command) -> None:
    result = command("preview", "inspected.py:Inspected", "nothing")

    assert result.exit_code == 0
    assert result.stdout.startswith("the stream has no records\n\n1 request\n")


def test_preview_of_an_unknown_stream_suggests_a_name(command: Command) -> None:
    result = command("preview", "inspected.py:Inspected", "describd")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean 'described'?" in result.stderr


def test_inferred_schema_is_found_by_its_stream(command: Command, folder: Path) -> None:
    result = command("schema", "infer", "inspected.py:Inspected", "items", "--limit", "150")

    path = folder / "schemas" / "items.json"
    schema = json.loads(path.read_text())
    assert result.exit_code == 0
    assert f"the schema of 150 records, with 7 columns was written to {path}" in result.stderr
    assert list(schema["properties"]) == list(item(1, None))
    assert schema["properties"]["price"] == {"type": ["number", "null"]}
    assert all(RecordSchema(schema, checks_times=True).is_valid(item(number, None)) for number in range(1, 151))
    assert command("check", "inspected.py:Inspected", "-s", "items", "--json").stdout.count('"has_schema": true') == 1
    assert "the declared schema fits the 5 records" in command("preview", "inspected.py:Inspected", "items").stdout


def test_schema_file_is_replaced_only_with_force(command: Command, folder: Path) -> None:
    path = folder / "schemas" / "items.json"
    path.parent.mkdir()
    path.write_text("{}")

    refused = command("schema", "infer", "inspected.py:Inspected", "items")
    kept = path.read_text()
    forced = command("schema", "infer", "inspected.py:Inspected", "items", "--force")

    assert (refused.exit_code, kept) == (2, "{}")
    assert "--force replaces it" in refused.stderr
    assert forced.exit_code == 0
    assert json.loads(path.read_text())["type"] == "object"
    assert os.listdir(path.parent) == ["items.json"]


def test_schema_is_written_elsewhere(command: Command, folder: Path) -> None:
    printed = command("schema", "infer", "inspected.py:Inspected", "items", "-n", "1", "--out", "-")
    command("schema", "infer", "inspected.py:Inspected", "items", "-n", "1", "--out", "deep/x.json")

    assert json.loads(printed.stdout) == json.loads((folder / "deep" / "x.json").read_text())
    assert not (folder / "schemas").exists()


def test_no_schema_without_records(command: Command, folder: Path) -> None:
    result = command("schema", "infer", "inspected.py:Inspected", "nothing")

    assert result.exit_code == 1
    assert "no record was read" in result.stderr
    assert not (folder / "schemas").exists()


def test_no_schema_beside_an_installed_module(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = folder / "site-packages"
    installed.mkdir()
    (folder / "inspected.py").rename(installed / "inspected_lib.py")
    monkeypatch.syspath_prepend(installed)

    result = command("schema", "infer", "inspected_lib:Inspected", "items")

    assert result.exit_code == 2
    assert "name a file with --out" in result.stderr


@pytest.mark.program
def test_commands_as_processes(api: MockApi, folder: Path) -> None:
    commands = [
        "check inspected",
        "discover inspected",
        "spec inspected",
        "preview inspected items",
        "schema infer inspected items --out -",
    ]
    environ = os.environ | {
        "PYTHONPATH": str(Path(asyncstreams.__file__).parent.parent),
        "ASYNCSTREAMS_CONFIG_URL": api.url,
        "ASYNCSTREAMS_CONFIG_TOKEN": TOKEN,
    }

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "asyncstreams", *arguments.split()]
        command[command.index("inspected")] += ":Inspected"
        return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        for arguments, done in zip(commands, pool.map(run, commands), strict=True):
            assert done.returncode == arguments.startswith("check"), done.stderr
            assert TOKEN not in done.stdout + done.stderr
            assert "\x1b" not in done.stdout + done.stderr
            assert done.stdout != ""


def test_columns_that_do_not_fit_are_named() -> None:
    records = [{"a": 1, "b": "x" * 100, "c": None}, {"c": [1], "d": "\n\x1b"}]

    table = record_table(records, ["d", "nested"], 30)

    assert table.columns == ["d", "a"]
    assert [[cell.text for cell in row] for row in table.rows if isinstance(row[0], tuple)] == [
        ["", "1"],
        ["\\n\\x1b", ""],
    ]
    assert table.left_out == ["b", "c"]


def test_json_escapes_what_a_terminal_obeys() -> None:
    value = {"a": HOSTILE, "b": "\x7f\ud800é\n", "c": [1.5, float("nan"), None]}

    text = to_json_text(value)

    assert all(char.isprintable() or char == "\n" for char in text)
    assert "é" in text
    assert json.loads(text) == {**value, "c": [1.5, "nan", None]}
