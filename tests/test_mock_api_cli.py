"""Does `python -m asyncstreams.testing` serve, say what it serves, and end with a table?"""

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
    """The process, its URL, and all that it says when it starts."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        try:
            while line := process.stdout.readline():
                said += line
                if line.startswith("print("):
                    break
            yield process, said.split()[1].rstrip(","), said
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_shop_and_ends_with_a_table(number: signal.Signals) -> None:
    with running() as (process, url, said):
        page = httpx.get(url + "customers")
        process.send_signal(number)
        table, complaints = process.communicate(timeout=10)

    assert len(page.json()["data"]) == 100
    assert f'\ncurl "{url}customers"\n' in said
    for place in ("customers/{id}/orders", "products", "events", "reviews/export", "payouts"):
        assert url + place in said
    assert "/customers" in table
    assert "status 200" in table
    assert (process.returncode, complaints) == (0, "")


@pytest.mark.parametrize("auth", ["none", "token", "basic", "key", "oauth2"])
def test_the_file_that_it_prints_reads_the_resource_as_often_as_one_likes(auth: str, tmp_path: Path) -> None:
    with running("--resources", "users=250:offset,log=30:ndjson", "--auth", auth) as (_, _, said):
        file = tmp_path / "printed.py"
        file.write_text(said[said.index("import asyncio\n") :])
        told = [subprocess.run([sys.executable, file], capture_output=True, text=True, check=True) for _ in range(2)]

    assert [one.stdout for one in told] == ["250 records\n"] * 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("auth", ["none", "token", "basic", "key", "oauth2"])
def test_the_command_that_it_prints_gets_a_page(auth: str) -> None:
    with running("--resources", "users=5", "--auth", auth) as (_, _, said):
        command = next(line for line in said.splitlines() if line.startswith("curl"))
        told = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)

    assert '"id":5' in told.stdout


def test_the_credentials_that_it_prints_are_asked_for() -> None:
    with running("--resources", "users=5", "--auth", "basic") as (_, url, said):
        assert f'\ncurl -u "user:secret" "{url}users"\n' in said
        assert httpx.get(url + "users", auth=("user", "secret")).status_code == 200
        assert httpx.get(url + "users").status_code == 401


def test_options_are_heard() -> None:
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
    ("arguments", "complaint"),
    [
        (["--latncy", "3"], "there is no --latncy; is it --latency?"),
        (["--latency", "3x"], "'3x' is no time: write 20ms"),
        (["--latency", "30ms-20ms"], "is no time"),
        (["--quota", "5"], "'5' is no quota: write 100/10"),
        (["--quota", "5/0"], "is no quota"),
        (["--faults", "200%"], "'200%' is no share: write 2% or 0.02"),
        (["--port", "99999"], "'99999' is no port: a whole number from 0 to 65535"),
        (["--auth", "magic"], "invalid choice: 'magic'"),
        (["--scale", "0"], "'0' is no number above 0"),
        (["--resources", "a=5:foo"], "'a=5:foo' is no resource: write orders=5000:cursor"),
        (["--resources", "a"], "'a' is no resource"),
        (["--resources", "a=1,a=2"], "there are two of this name"),
        (["--resources", "_a=1"], "does not begin with _"),
        (["--host", "203.0.113.1"], "cannot listen there"),
    ],
)
def test_a_mistake_is_told_with_what_to_write(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "python -m asyncstreams.testing --auth oauth2 --quota 100/10" in told
    assert "2% or 0.02" in told
