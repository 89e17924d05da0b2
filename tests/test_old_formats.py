"""Tests with files of formats 1 and 2, which earlier versions wrote: they are refused or fetched again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncstreams import (
    HttpStream,
    HttpSubStream,
    JsonLines,
    Oauth2Authenticator,
    Parquet,
    SQLite,
    State,
    StateIncompatible,
    TokenAuthenticator,
)
from asyncstreams.auth.identity import credential_id

DATA = Path(__file__).parent / "data"
FILES = DATA / "format_1"
ROWS = [{"id": 1, "updated": "2026-01-01T00:00:00Z"}, {"id": 2, "updated": "2026-01-02T00:00:00Z"}]


class Orders(HttpStream):
    url_base = "https://api.example.com/"
    primary_key = "id"
    cursor_field = "updated"

    def path(self, context: Any) -> str:
        return "orders"


class Shops(HttpStream):
    url_base = "https://api.example.com/"
    primary_key = "id"
    use_cache = True
    cache_ttl = 1e9

    def path(self, context: Any) -> str:
        return "shops"


class Items(HttpSubStream):
    url_base = "https://api.example.com/"

    def path(self, context: Any) -> tuple[str, ...]:
        return ("shops", str(context.stream_slice["parent"]["id"]), "items")


def unreachable(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.url} was requested")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(FILES, tmp_path / "old")


def test_state_file_of_format_1_is_refused(old: Path) -> None:
    with pytest.raises(StateIncompatible, match=r"format 1; this version reads formats 2 and 3"):
        State.load(old / "state.json")


def tree_of(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("output", "name", "found"),
    [(JsonLines, "format_1/lines", 1), (JsonLines, "format_2/lines", 2), (Parquet, "format_2/parquet", 2)],
)
async def test_folder_of_old_format_is_refused_and_unchanged(
    tmp_path: Path, output: Any, name: str, found: int
) -> None:
    out = shutil.copytree(DATA / name, tmp_path / "out")
    before = tree_of(out)

    with pytest.raises(StateIncompatible, match=f"out has format {found}; this version reads format 3") as error:
        await Orders(transport=httpx.MockTransport(unreachable)).extract(to=output(out))

    assert "extract to another folder" in str(error.value)
    assert before
    assert tree_of(out) == before


async def test_database_of_format_1_is_refused_and_unchanged(old: Path) -> None:
    path = old / "shop.sqlite"
    before = path.read_bytes()

    with pytest.raises(StateIncompatible, match=r"format 1; this version reads format"):
        await Orders(transport=httpx.MockTransport(unreachable)).extract(to=SQLite(path))

    assert path.read_bytes() == before


async def test_parent_cache_of_format_1_is_fetched_again(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    requested: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.path)
        return httpx.Response(200, json=[{"id": 7}])

    transport = httpx.MockTransport(handler)
    parent = Shops(transport=transport, cache_dir=old / "cache")
    (cached,) = (old / "cache").glob("shops-*.parents")

    # The fingerprint of a stream names its module and Python version: give the old file the name that is looked for.
    await Items(parent, transport=transport).read()
    (current,) = set((old / "cache").glob("shops-*.parents")) - {cached}
    cached.replace(current)
    requested.clear()
    with caplog.at_level(logging.WARNING, "asyncstreams"):
        children = await Items(parent, transport=transport).read()

    assert requested == ["/shops", "/shops/7/items"]
    assert children == [{"id": 7}]
    assert "has format 1, but this version reads format 2" in caplog.text


@pytest.mark.parametrize(
    ("authenticator", "stored"),
    [
        (TokenAuthenticator("x"), "9ea2a54bf425f525acc57984e8025885"),
        (Oauth2Authenticator("https://api.test/token", "a", "b", "c"), "9780a6e51067152ecbb9adc3f260ab2c"),
    ],
)
def test_credential_id_of_stored_states_stays(authenticator: httpx.Auth, stored: str) -> None:
    assert credential_id(Orders(authenticator=authenticator), b"salt") == stored
