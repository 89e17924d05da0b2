"""The examples: complete results from fake APIs, and their exact output."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from api_server import CHARGES, GAMES, ISSUES, KEY, REPOS, TOKEN, ApiServer
from loopback import Connection, LoopbackRequest, http_response, serve

from asyncstreams import AuthError, BasicHttpAuthenticator, HttpStatusError, TokenAuthenticator
from asyncstreams.testing import VirtualClock

EXAMPLES = Path(__file__).parent.parent / "examples"
CREDENTIALS = {"GITHUB_TOKEN": TOKEN, "STRIPE_API_KEY": KEY}
PRINTED = {
    "github_repos": """\
250 repositories of encode, 125,875 stars
     999  repo-27
     998  repo-54
     997  repo-81
""",
    "stripe_charges": """\
350 charges
eur      3,080.00
usd      3,062.50
""",
    "graphql_issues": "300 issues of pallets/click: 100 open, 200 closed\n",
    "ndjson_export": """\
500 games of DrNykterstein
     214  mate
     143  resign
     143  draw
""",
    "analyse": """\
customers: 300 rows
orders: 600 rows

Countries with the most customers
     country   customers
          NG          65
          JP          51
          PE          49

Customers with orders, orders and revenue by plan
        plan   customers      orders       total
        team          87         207      102678
        free          78         195       96778
         pro          71         198       95159

Customers without orders
   customers       first
          64    Ada Park
""",
    "tree": """\
  25 projects  in   3 requests
 178 issues    in  25 requests
  38 releases  in  25 requests
 460 comments  in 178 requests
most comments: Lena, with 125
requests for projects, the parent of two streams: 3
""",
}

LAST_PAGE = {"nodes": [{"number": 1}], "pageInfo": {"hasNextPage": False, "endCursor": None}}


def last_issue_page() -> httpx.Response:
    return httpx.Response(200, json={"data": {"repository": {"issues": LAST_PAGE}}})


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def run_example(name: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr of the example as a program, with its own server."""
    async with serve(ApiServer()) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", EXAMPLES / f"{name}.py", server.url),
            env={**os.environ, **CREDENTIALS},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def test_all_examples_are_covered() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "resume"}


async def test_each_example_prints_exactly_its_result() -> None:
    results = await asyncio.gather(*map(run_example, PRINTED))

    assert dict(zip(PRINTED, results, strict=True)) == {name: (0, text, "") for name, text in PRINTED.items()}


async def test_github_example_reads_all_pages() -> None:
    async with serve(ApiServer()) as server:
        repos = await load_example("github_repos").Repos("encode", server.url).read()

    assert [repo["id"] for repo in repos] == [repo["id"] for repo in REPOS]
    assert len(server.requests) == 3


async def test_github_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_wrong")

    async with serve(ApiServer()) as server:
        with pytest.raises(AuthError, match="Bad credentials"):
            await load_example("github_repos").main(server.url)


async def test_github_example_works_without_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)

    async with serve(ApiServer()) as server:
        await load_example("github_repos").main(server.url)

    assert capsys.readouterr().out == PRINTED["github_repos"]
    assert "authorization" not in {name.lower() for request in server.requests for name, _ in request.headers}


async def test_stripe_example_reads_all_with_key_as_user_name() -> None:
    async with serve(ApiServer()) as server:
        charges = await load_example("stripe_charges").Charges(KEY, server.url).read()

    assert [charge["id"] for charge in charges] == [charge["id"] for charge in CHARGES]
    assert len(server.requests) == 4


async def test_passed_authenticator_overrides_the_key() -> None:
    async with serve(ApiServer()) as server:
        charges = load_example("stripe_charges").Charges(
            KEY, server.url, authenticator=BasicHttpAuthenticator("sk_other")
        )

        with pytest.raises(AuthError, match="Invalid API Key"):
            await charges.read()


async def test_graphql_example_retries_an_error_in_a_200() -> None:
    async with serve(ApiServer()) as server:
        issues = load_example("graphql_issues").Issues(
            "pallets", "click", server.url, authenticator=TokenAuthenticator(TOKEN)
        )
        found = await issues.read()

    assert [issue["number"] for issue in found] == [issue["number"] for issue in ISSUES]
    assert len(server.requests) == 3 + 1


async def test_graphql_error_contains_the_message_of_the_api() -> None:
    async with serve(ApiServer()) as server:
        issues = load_example("graphql_issues").Issues(
            "pallets", "clique", server.url, authenticator=TokenAuthenticator(TOKEN)
        )

        with pytest.raises(HttpStatusError, match="Could not resolve to a Repository"):
            await issues.read()

    assert len(server.requests) == 1


LIMITED = {"type": "RATE_LIMITED", "message": "API rate limit exceeded"}


async def test_rate_limit_in_a_200_waits_without_using_a_try(virtual_clock: VirtualClock) -> None:
    limited = httpx.Response(200, headers={"Retry-After": "60"}, json={"errors": [LIMITED]})
    answers = [limited] * 6 + [last_issue_page()]
    api = httpx.MockTransport(lambda request: answers.pop(0))
    issues = load_example("graphql_issues").Issues("pallets", "click", transport=api, clock=virtual_clock)

    found = await issues.read()

    assert [issue["number"] for issue in found] == [1]
    assert virtual_clock.monotonic() >= 6 * 60


async def test_malformed_json_read_by_classify_is_retried(virtual_clock: VirtualClock) -> None:
    answers = [httpx.Response(200, content=b'{"data":'), last_issue_page()]
    api = httpx.MockTransport(lambda request: answers.pop(0))
    issues = load_example("graphql_issues").Issues("pallets", "click", transport=api, clock=virtual_clock)

    found = await issues.read()

    assert [issue["number"] for issue in found] == [1]


def test_repr_hides_key_used_as_user_name() -> None:
    charges = load_example("stripe_charges").Charges(KEY)

    assert KEY not in repr(charges.authenticator)


async def test_export_is_read_completely() -> None:
    games = load_example("ndjson_export").Games
    async with serve(ApiServer()) as server, games("DrNykterstein", server.url).records() as records:
        ids = [game["id"] async for game in records]

    assert ids == [game["id"] for game in GAMES]
    assert len(server.requests) == 1


async def test_export_yields_records_before_the_body_ends() -> None:
    received = asyncio.Event()

    async def send_in_two_parts(request: LoopbackRequest, connection: Connection) -> None:
        lines = b"".join(b'{"id":"game%d"}\n' % number for number in range(1500))
        await connection.send(http_response(lines, f"Content-Length: {2 * len(lines)}"))
        await received.wait()
        await connection.send(lines)

    games = load_example("ndjson_export").Games
    async with (
        asyncio.timeout(10),
        serve(send_in_two_parts) as server,
        games("player", server.url).records() as records,
    ):
        first = await anext(records)
        received.set()
        count = 1 + len([game async for game in records])

    assert first == {"id": "game0"}
    assert count == 3000


def test_extraction_killed_twice_writes_each_order_once() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "resume.py")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    killed = re.findall(r"run \d: +(\d+) requests, +([\d,]+) orders in the files; killed", done.stdout)
    assert len(killed) == 2
    assert all(0 < int(orders.replace(",", "")) < 1800 for _, orders in killed)
    assert done.stdout.endswith("1,800 orders in the API: each is in the files once\n")
