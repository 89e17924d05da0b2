"""The commands of README.md and docs/command-line.md: each one runs, and writes the text below it.

- A fence with a title, such as ```` ```python title="shop.py" ````, is a file.
- In a `console` fence each line after `$ ` is a command. The lines up to the next one are what it must write to stdout
  and stderr, without log lines; `...` stands for any text. The commands run in order, in one folder.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from asyncstreams import Record
from asyncstreams.cli.app import new_app
from asyncstreams.testing import BearerAuth, MockApi, Resource

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("docs/command-line.md", "README.md")}
URL = "https://api.example.com/v1/"
FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL)
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+ (INFO|WARNING) ")
MOMENT = re.compile(r"until=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def order(number: int, rng: Random) -> Record:
    return {"id": number, "total": f"{number * 11.5:.2f}", "updated_at": f"2026-01-01T00:{number - 1:02}:00Z"}


def item(number: int, rng: Random) -> Record:
    return {"id": number, "quantity": number}


def commands(page: str) -> Iterator[tuple[str, str]]:
    """The commands of a page, each with its output."""
    for fence in FENCE.finditer(PAGES[page]):
        if fence["language"] == "console":
            for part in re.split(r"^\$ ", fence["body"], flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def matches(expected: str, written: str) -> bool:
    lines = [line for line in written.splitlines() if not LOG_LINE.match(line)]
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, MOMENT.sub("until=2026-12-01T00:00:00Z", "\n".join(lines)), re.DOTALL) is not None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The files of the page in the current folder, and the URL of an API in place of that of the page."""
    resources = (
        Resource("orders", 5, total=True, record=order),
        Resource("items", 2, total=True, record=item, parent="orders", parent_field="order_id"),
    )
    with MockApi(*resources, auth=BearerAuth("s3cret-token")) as api:
        for fence in FENCE.finditer(PAGES["docs/command-line.md"]):
            if fence["title"]:
                (tmp_path / fence["title"]).write_text(fence["body"].replace(URL, api.url))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SHOP_TOKEN", "s3cret-token")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        yield api.url
    sys.modules.pop("shop", None)


@pytest.mark.parametrize("page", PAGES)
def test_commands_write_what_the_page_shows(folder: str, page: str) -> None:
    for command, expected in commands(page):
        program, *arguments = shlex.split(command)
        assert program == "asyncstreams"

        written = CliRunner(env={"COLUMNS": "100"}).invoke(new_app(), arguments).output.replace(folder, URL)

        assert matches(expected, written), f"{command}\n{written}"


def test_page_has_commands() -> None:
    assert len(list(commands("docs/command-line.md"))) >= 6
    assert len(list(commands("README.md"))) >= 2
