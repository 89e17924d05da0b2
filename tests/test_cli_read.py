"""The command `read` within the test process: destinations, state, narrowed runs, dry runs, errors."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import command_shop
import pytest
from typer.testing import CliRunner, Result

from asyncstreams import JsonLines
from asyncstreams.cli.app import new_app
from asyncstreams.cli.failures import CommandOutput
from asyncstreams.cli.log_lines import CommandLog
from asyncstreams.cli.times import parse_bound, parse_seconds
from asyncstreams.errors import ConfigError
from asyncstreams.testing import BearerAuth, Fault, MockApi, OAuth2

SHOP = f"{command_shop.__file__}:Shop"
ARCHIVE = f"{command_shop.__file__}:Archive"
TOKEN = "s3cret-token"


class Read(Protocol):
    def __call__(self, *arguments: str, source: str = SHOP) -> Result: ...


@pytest.fixture(scope="module")
def api() -> Iterator[MockApi]:
    with MockApi(*command_shop.RESOURCES, auth=BearerAuth(TOKEN)) as running:
        yield running


@pytest.fixture
def read(api: MockApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str, source: str = SHOP) -> Result:
        config = ("--set", f"url={api.url}", "--set", f"token={TOKEN}")
        result = CliRunner().invoke(new_app(), ["read", source, *config, *arguments])
        assert TOKEN not in result.output
        return result

    return run


def records(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_stream_is_written_as_plain_records(read: Read) -> None:
    result = read("--select", "products")

    assert result.exit_code == 0
    assert [record["id"] for record in records(result)] == list(range(1, 121))
    assert "products  120 records in 2 pages of 1 slice" in result.stderr


def test_several_streams_are_named_on_each_line(read: Read) -> None:
    lines = records(read("-s", "products,customers"))

    assert {frozenset(line) for line in lines} == {frozenset(("stream", "record"))}
    for stream, count in (("products", 120), ("customers", 250)):
        assert sorted(line["record"]["id"] for line in lines if line["stream"] == stream) == list(range(1, count + 1))


def test_limit_is_per_stream(read: Read) -> None:
    lines = records(read("--limit", "3"))

    assert sorted(line["stream"] for line in lines) == ["customers"] * 3 + ["orders"] * 3 + ["products"] * 3


def test_range_of_the_cursor_is_read_to_stdout(read: Read, api: MockApi) -> None:
    result = read("-s", "customers", "--since", "2026-01-01T00:10:00Z", "--until", "2026-01-01T00:20:00Z")

    assert [record["updated_at"][14:16] for record in records(result)] == [str(minute) for minute in range(10, 20)]


def test_slices_replace_those_of_the_stream(read: Read) -> None:
    result = read("-s", "orders", "--slices", '[{"parent": {"id": 7}}]')

    assert {record["customer_id"] for record in records(result)} <= {7}
    assert "of 1 slice" in result.stderr


def test_output_of_the_author_is_no_record(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cli_loud.py").write_text(
        "print('at import')\nfrom command_shop import *\nclass Loud(Shop):\n    def streams(self, config):\n"
        "        print('at start')\n        return [Noisy(config)]\nclass Noisy(Products):\n    name = 'products'\n"
        "    def path(self, context):\n        print('in a hook')\n        return 'products'\n"
    )

    result = read(source="cli_loud.py:Loud")

    assert len(records(result)) == 120
    assert all(text in result.stderr for text in ("at import", "at start", "in a hook"))


def test_state_continues_where_the_last_run_ended(read: Read, tmp_path: Path) -> None:
    first = read("-s", "customers", "--state", "customers.json")
    second = read("-s", "customers", "--state", "customers.json")

    assert (len(records(first)), len(records(second))) == (250, 0)
    assert (tmp_path / "customers.json").exists()


def test_automatic_state_belongs_to_the_configuration(read: Read, tmp_path: Path) -> None:
    assert len(records(read("-s", "customers", "--state", "auto"))) == 250
    assert len(records(read("-s", "customers", "--state", "auto"))) == 0
    assert len(records(read("-s", "customers", "--state", "auto", "--set", "label=other"))) == 250
    assert len(list((tmp_path / "state" / "asyncstreams").glob("Shop-*.state.json"))) == 2


def test_damaged_state_is_refused(read: Read, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"sum": "0", "state": {}}')

    result = read("--state", "state.json")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: state: state.json is corrupt: its checksum does not match its content" in result.stderr
    assert "nothing was written" in result.stderr


def test_damaged_output_is_refused(read: Read, tmp_path: Path) -> None:
    read("--to", "out/", "-s", "products")
    journal = next((tmp_path / "out" / ".asyncstreams").glob("journal*"))
    journal.write_bytes(b"damaged" + journal.read_bytes())

    result = read("--to", "out/", "-s", "products")

    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "nothing was written" in result.stderr


@pytest.mark.parametrize(
    ("to", "more"), [("out/", ()), ("out", ("--format", "parquet")), ("shop.duckdb", ()), ("shop.db", ())]
)
def test_destination_keeps_its_own_state(to: str, more: tuple[str, ...], read: Read, tmp_path: Path) -> None:
    arguments = ("--to", to, *more, "-s", "customers,products")

    first, second = read(*arguments), read(*arguments)

    assert (first.exit_code, first.stdout, second.exit_code) == (0, "", 0)
    assert "250 rows" in first.stderr
    assert "customers  0 records" in second.stderr


def test_rows_are_in_the_table(read: Read, tmp_path: Path) -> None:
    read("--to", "shop.sqlite", "--mode", "append", "-s", "products")
    read("--to", "shop.sqlite", "--mode", "append", "-s", "products")

    connection = sqlite3.connect(tmp_path / "shop.sqlite")
    assert connection.execute("SELECT count(*) FROM products").fetchone() == (240,)
    connection.close()


def test_refresh_reads_again_from_the_beginning(read: Read) -> None:
    read("--to", "out/", "-s", "customers")

    result = read("--to", "out/", "-s", "customers", "--refresh", "customers")

    assert "250 rows" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-s", "custmers"), "error: Shop has no stream 'custmers'\n  hint: did you mean 'customers'?"),
        (("-s", ","), "--select: names no stream"),
        (("--refresh", "nothing"), "Shop has no stream 'nothing'"),
        (("--to", "out/", "--state", "auto"), "--state auto: out keeps its own state"),
        (("--to", "records.csv"), "destination records.csv: no destination has the suffix '.csv'"),
        (("--to", "file.txt"), "destination file.txt: is a file, where a folder is expected"),
        (("--to", "folder.sqlite"), "is a folder, where a file of SQLite is expected"),
        (("--to", "other.duckdb"), "is a file of SQLite, and its suffix is that of DuckDB"),
        (("--to", "shop.sqlite", "--format", "jsonl"), "--format is for folders"),
        (("--format", "parquet"), "stdout has no --format parquet"),
        (("--mode", "append"), "stdout has no --mode"),
        (("--to", "out/", "--mode", "upsert"), "mode='upsert'"),
        (("--state", "auto", "--limit", "5"), "moves no state"),
        (("--state", "missing/state.json"), "there is no folder missing"),
        (("--refresh", "customers"), "--refresh: a read to stdout replaces nothing"),
        (("--require", "x > 1"), "--require: a read to stdout has no history"),
        (("--slices", "{"), "--slices: is not JSON"),
        (("--slices", "[{}]"), "--slices: expected an object with a list of slices for each stream"),
        (("--slices", '{"order": []}'), "'order'"),
        (("--deadline", "soon"), "--deadline 'soon': is not a duration above 0"),
        (("--since", "yesterday"), "--since 'yesterday': is not a time"),
        (("--since", "2026-01-01"), "stream 'orders' has no cursor_field"),
        (("--set", "page=x"), "/page: type: got string, expected integer"),
        (("--set", "tokn=x"), "/tokn: additionalProperties: unknown property"),
        (("--set", "broken"), "--set ...: expected key=value"),
        (("--config", "none.json"), "--config none.json: cannot be read"),
        (("--write-config",), "--write-config: there is no --config to write to"),
    ],
)
def test_wrong_usage_is_one_message(arguments: tuple[str, ...], message: str, read: Read, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "other.duckdb").write_bytes(b"SQLite format 3\0")
    before = sorted(tmp_path.iterdir())

    result = read(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_debug_shows_the_traceback_without_secrets(read: Read) -> None:
    result = read("--debug", "-s", "nothing")

    assert "Traceback (most recent call last)" in result.stderr


def test_wrong_token_is_a_problem_of_configuration(read: Read) -> None:
    result = read("--set", "token=wrong-token", "-s", "products", "-q")

    assert result.exit_code == 2
    assert "answered 401" in result.stderr
    assert "wrong-token" not in result.output


def test_failed_slices_make_the_run_partial(read: Read, api: MockApi) -> None:
    api.faults.append(Fault.status(400, resource="orders", at=[3]))
    try:
        result = read("--to", "out/", "-s", "orders", "-q")
    finally:
        api.faults.clear()

    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert "the next run reads the failed slices again" in result.stderr


def test_missed_threshold_has_its_own_exit_code(read: Read) -> None:
    result = read("--to", "out/", "-s", "products", "--require", "products.records >= 500", "--quiet")

    lines = result.stderr.splitlines()
    assert result.exit_code == 5
    assert lines[0] == "error: the run misses 1 of its thresholds: products.records >= 500: found 120, required >= 500"
    assert lines[1] == "  hint: the rows are committed, and the next run goes on from there"
    assert lines[2].startswith("products  120 records")
    assert "MISSED" not in result.stderr


def test_wrong_threshold_is_refused_before_the_run(read: Read) -> None:
    result = read("--to", "out/", "--require", "products.rcords >= 5")

    assert result.exit_code == 2
    assert not Path("out").exists()


def test_record_of_the_run_has_the_command(read: Read, api: MockApi) -> None:
    read("--to", "out/", "-s", "products", "--set", "label=a b", "--concurrency", "3")

    [record] = asyncio.run(JsonLines("out").runs())
    assert record.import_path == SHOP
    assert record.command == (
        f"asyncstreams read {SHOP} --select products --set url={api.url} --set 'token=***' --set 'label=a b' "
        "--to out/ --concurrency 3"
    )


@pytest.mark.parametrize("arguments", [("--to", "out/"), ("--state", "state.json")], ids=["folder", "stdout"])
def test_deadline_ends_the_run_in_order(arguments: tuple[str, ...], read: Read, api: MockApi) -> None:
    api.latency = 0.05
    try:
        first = read(*arguments, "--deadline", "0.5s", source=ARCHIVE)
    finally:
        api.latency = 0.0
    second = read(*arguments, source=ARCHIVE)

    assert (first.exit_code, second.exit_code) == (3, 0)
    assert "the deadline of 0.5s has passed" in first.stderr
    assert "batches: " in first.stderr
    assert "the next run resumes after it" in first.stderr
    ids = [record["id"] for record in records(first) + records(second)]
    if "out/" in arguments:
        texts = [file.read_text() for file in Path("out/batches").glob("*.jsonl")]
        ids = [json.loads(line)["id"] for line in "".join(texts).splitlines()]
    assert sorted(ids) == list(range(1, 6_001))
    assert 0 < len(records(second)) < 6_000 or "out/" in arguments


def test_host_that_is_down_has_its_own_exit_code(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cli_down.py").write_text(
        "from command_shop import *\nclass Down(Shop):\n    def streams(self, config): return [Closed(config)]\n"
        "class Closed(Products):\n    outage_timeout = 0.2\n    url_base = 'http://127.0.0.1:9'\n"
        "    def __init__(self, config): super().__init__({**config, 'url': 'http://127.0.0.1:9'})\n"
    )

    result = read("--to", "out/", source="cli_down.py:Down")

    assert result.exit_code == 4
    assert "no record was read" in result.stderr


def test_exception_of_a_hook_names_its_line(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cli_wrong.py").write_text(
        "from command_shop import *\nclass Wrong(Shop):\n    def streams(self, config): return [Bad(config)]\n"
        "class Bad(Products):\n    def path(self, context):\n"
        "        raise ValueError('no\\x1b[31m ' + 's3cret-token')\n"
    )

    result = read(source="cli_wrong.py")

    assert result.exit_code == 1
    assert r"error: ValueError: no\x1b[31m ***" in result.stderr
    assert f"  at: {tmp_path / 'cli_wrong.py'}, line 6" in result.stderr
    assert "no record was read" in result.stderr


def test_dry_run_sends_nothing(read: Read, api: MockApi) -> None:
    before = api.counts.requests

    result = read("--dry-run", "-s", "customers,orders")

    assert (result.exit_code, api.counts.requests) == (0, before)
    first, second = result.stdout.split("\n\n")
    assert first.startswith(f"customers: GET {api.url}customers?until=2")
    assert "  Authorization: Bearer ***" in first.splitlines()
    assert second == "orders: one read for each record of customers, which a dry run does not have\n"


def test_dry_run_starts_from_the_state(read: Read) -> None:
    read("-s", "customers", "--state", "state.json")
    read("-s", "customers", "--to", "out/", "--until", "2026-01-01T01:00:00Z")

    shown = read("-s", "customers", "--dry-run", "--to", "out/").stdout
    assert "customers?since=2026-01-01T01:00:00Z&until=" in shown
    shown = read("-s", "customers", "--dry-run", "--state", "state.json").stdout
    assert "nothing to read" in shown or "customers?since=" in shown  # a second after the first run there is some
    assert "since=" not in read("-s", "customers", "--dry-run", "--to", "out/", "--refresh", "customers").stdout
    assert "since=2025-05-05" in read("-s", "customers", "--dry-run", "--since", "2025-05-05").stdout


DRY = """
from asyncstreams import *
import httpx

class Base(HttpStream):
    url_base = "https://api.example.com/v1"
    http_method = "POST"
    def path(self, context): return self.name

class Oauth(Base):
    @property
    def authenticator(self):
        return Oauth2Authenticator("https://auth.example.com/token", "client", "oauth-secret", "refresh-secret")
    def request_json(self, context): return {"filter": {"from": "2026"}, "api_key": "body-secret", "ids": [1]}

class Key(Base):
    authenticator = ApiKeyAuthenticator("query-secret", "k", into="query")
    def request_params(self, context): return {"q": "a b", "sig": "sig-secret", "page": 1}
    def request_data(self, context): return {"name": "x", "password": "form-secret"}

class Own(httpx.Auth):
    def auth_flow(self, request):
        request.headers["X-Mine"] = "own-secret"
        yield request

class Custom(Base):
    authenticator = Own()
    def request_headers(self, context): return {"X-Trace": "visible", "X-Hidden": Secret("header-secret")}
    def request_data(self, context): return b"\\xff\\xfe"

class Shop(Source):
    spec = None
    def streams(self, config): return [Oauth(), Key(), Custom()]
"""


def test_dry_run_masks_secrets_wherever_they_are(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cli_dry.py").write_text(DRY)

    result = read("--dry-run", source="cli_dry.py:Shop")

    oauth, key, custom = result.stdout.split("\n\n")[0:2], result.stdout, result.stdout
    assert result.exit_code == 0, result.output
    assert "-secret" not in result.output
    assert "oauth: POST https://api.example.com/v1/oauth\n" in oauth[0] + "\n"
    assert '{"filter":{"from":"2026"},"api_key":"***","ids":[1]}' in result.stdout
    assert "(its token would be requested first)" in result.stdout
    assert "key: POST https://api.example.com/v1/key?q=a%20b&sig=***&page=1&k=***" in key
    assert "name=x&password=***" in key
    assert "  X-Trace: visible\n" in custom
    assert "  X-Mine: ***\n" in custom
    assert "  X-Hidden: ***\n" in custom
    assert "(2 bytes)" in custom


ROTATING = """
from asyncstreams import *

class Products(HttpStream):
    records_path = "data"
    paginator = PageNumber(total_pages="meta.pages")
    def path(self, context): return "products"

class Shop(Source):
    spec = {"properties": {
        "url": {"type": "string"},
        "credentials": {"properties": {
            "client_secret": {"airbyte_secret": True}, "refresh_token": {"airbyte_secret": True}}},
    }}
    def streams(self, config):
        login = SingleUseRefreshTokenOauth2Authenticator(config, config["url"] + "oauth/token")
        products = Products(authenticator=login)
        products.url_base = config["url"]
        return [products]
"""


@pytest.mark.parametrize("writes", [False, True], ids=["state folder", "config file"])
@pytest.mark.program
def test_single_use_token_survives_from_command_to_command(
    writes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = OAuth2(expires_in=1, rotate=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "cli_rotating.py").write_text(ROTATING)
    with MockApi(*command_shop.RESOURCES, auth=auth) as api:
        credentials = {
            "client_id": auth.client_id,
            "client_secret": auth.client_secret,
            "refresh_token": auth.refresh_token,
        }
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"url": api.url, "credentials": credentials}))
        before = config.read_text()
        command = ["read", "cli_rotating.py:Shop", "--config", "config.json", *(["--write-config"] if writes else [])]

        first = CliRunner().invoke(new_app(), command)
        time.sleep(1.1)  # the access token expires
        second = CliRunner().invoke(new_app(), command)

        assert [len(result.stdout.splitlines()) for result in (first, second)] == [120, 120], second.stderr
        assert (api.counts.tokens_issued, api.counts.tokens_reused) == (2, 0)
        assert (config.read_text() != before) is writes


def test_log_lines_are_json(read: Read) -> None:
    result = read("-s", "products", "--log-json")

    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert {frozenset(line) for line in lines} == {frozenset(("time", "level", "message"))}
    assert lines[-1]["message"].startswith("products  120 records")


def test_failure_is_json_too(read: Read) -> None:
    result = read("-s", "nothing", "--log-json")

    [line] = [json.loads(line) for line in result.stderr.splitlines()]
    assert (line["level"], line["message"][:6]) == ("ERROR", "error:")


def test_quiet_run_says_nothing(read: Read) -> None:
    assert read("-s", "products", "--quiet").stderr == ""


def test_quiet_run_names_streams_that_are_unavailable(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cli_payouts.py").write_text(
        "from command_shop import *\nclass Payouts(Products):\n    def path(self, context): return 'payouts'\n"
        "class Both(Shop):\n    def streams(self, config): return [Products(config), Payouts(config)]\n"
    )

    result = read("--quiet", "--to", "out/", source="cli_payouts.py:Both")

    assert result.exit_code == 0
    assert result.stderr.startswith("payouts: unavailable: answered 403")


def test_log_of_the_run_is_escaped_and_masked(capsys: pytest.CaptureFixture[str]) -> None:
    output = CommandOutput()
    output.hide("s3cret")
    handler = CommandLog(output, has_times=True)
    record = logging.LogRecord("asyncstreams", logging.WARNING, "", 0, "%s", ("\x1b]0;x s3cret [bold]",), None)

    handler.emit(record)

    line = capsys.readouterr().err
    assert line.endswith(r"WARNING \x1b]0;x *** [bold]" + "\n")
    assert line[4] == "-"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), ("PT30M", 1800), ("2d", 172_800)]
)
def test_duration_is_read(text: str, seconds: float) -> None:
    assert parse_seconds("--deadline", text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "30", "-5m", "5 parsecs", "99999999w"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration above 0"):
        parse_seconds("--deadline", text)


def test_bound_is_a_time_a_number_or_a_time_ago() -> None:
    assert parse_bound("--since", None) is None
    assert parse_bound("--since", "2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"
    assert parse_bound("--since", "17") == 17
    assert parse_bound("--since", "1.5") == 1.5
    ago: Any = parse_bound("--since", "7d")
    assert (parse_bound("--since", "6d") - ago).total_seconds() == pytest.approx(86_400, abs=60)  # type: ignore[operator]
