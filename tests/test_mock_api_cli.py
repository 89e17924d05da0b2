"""Command line `python -m asyncstreams.testing`: output, options and errors."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from asyncstreams.testing.__main__ import main

COMMAND = [sys.executable, "-W", "error", "-m", "asyncstreams.testing", "--port", "0"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its URL, and the text that it prints at its start."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        try:
            while line := process.stdout.readline():
                printed += line
                if line.startswith("print("):
                    break
            yield process, printed.split()[1].rstrip(","), printed
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_the_shop_and_prints_counts_at_the_end(number: signal.Signals) -> None:
    with running() as (process, url, printed):
        page = httpx.get(url + "customers")
        process.send_signal(number)
        table, errors = process.communicate(timeout=10)

    assert len(page.json()["data"]) == 100
    assert f'\ncurl "{url}customers"\n' in printed
    for path in ("customers/{id}/orders", "products", "events", "reviews/export", "payouts"):
        assert url + path in printed
    assert "/customers" in table
    assert "status 200" in table
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("auth", ["none", "token", "basic", "key", "oauth2"])
def test_printed_program_reads_the_resource_repeatedly(auth: str, tmp_path: Path) -> None:
    with running("--resources", "users=250:offset,log=30:ndjson", "--auth", auth) as (_, _, printed):
        file = tmp_path / "printed.py"
        file.write_text(printed[printed.index("import asyncio\n") :])
        runs = [subprocess.run([sys.executable, file], capture_output=True, text=True, check=True) for _ in range(2)]

    assert [run.stdout for run in runs] == ["250 records\n"] * 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("auth", ["none", "token", "basic", "key", "oauth2"])
def test_printed_curl_command_fetches_a_page(auth: str) -> None:
    with running("--resources", "users=5", "--auth", auth) as (_, _, printed):
        command = next(line for line in printed.splitlines() if line.startswith("curl"))
        curl = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)

    assert '"id":5' in curl.stdout


def test_printed_credentials_are_required() -> None:
    with running("--resources", "users=5", "--auth", "basic") as (_, url, printed):
        assert f'\ncurl -u "user:secret" "{url}users"\n' in printed
        assert httpx.get(url + "users", auth=("user", "secret")).status_code == 200
        assert httpx.get(url + "users").status_code == 401


def test_options_are_applied() -> None:
    options = ["--quota", "2/100", "--quota-headers", "ratelimit-3", "--faults", "100%", "--latency", "1ms-2ms"]

    with running(*options, "--scale", "0.01", "--gzip", "--seed", "7") as (process, url, _):
        statuses: list[object] = []
        for _ in range(4):
            try:
                response = httpx.get(url + "products")
                statuses.append(response.status_code)
            except httpx.TransportError:
                statuses.append("broken")
        process.send_signal(signal.SIGINT)
        table, _ = process.communicate(timeout=10)

    assert response.headers["RateLimit-Limit"] == "2"
    assert statuses[2:] == [429, 429]
    assert 200 not in statuses
    assert "fault" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latncy", "3"], "unknown option --latncy (did you mean --latency?)"),
        (["--latency", "3x"], "invalid latency '3x': write 20ms"),
        (["--latency", "30ms-20ms"], "invalid latency"),
        (["--quota", "5"], "invalid quota '5': write 100/10"),
        (["--quota", "5/0"], "invalid quota"),
        (["--faults", "200%"], "invalid share '200%': write 2% or 0.02"),
        (["--port", "99999"], "invalid port '99999': use a whole number from 0 to 65535"),
        (["--auth", "magic"], "invalid choice: 'magic'"),
        (["--scale", "0"], "invalid number '0': use a number above 0"),
        (["--resources", "a=5:foo"], "invalid resource 'a=5:foo': write orders=5000:cursor"),
        (["--resources", "a"], "invalid resource 'a'"),
        (["--resources", "a=1,a=2"], "another resource has the same name"),
        (["--resources", "_a=1"], "must not start with _"),
        (["--host", "203.0.113.1"], "cannot listen on this address"),
    ],
)
def test_invalid_option_is_rejected_with_a_fix(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)

    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])

    help_ = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "python -m asyncstreams.testing --auth oauth2 --quota 100/10" in help_
    assert "2% or 0.02" in help_
