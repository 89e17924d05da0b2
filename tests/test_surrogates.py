"""Tests of lone surrogates, such as half an emoji: refused with a place, or replaced by U+FFFD."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import lines_of
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import (
    AsyncStreamsError,
    ConfigError,
    DuckDB,
    HttpStream,
    HttpSubStream,
    JsonLines,
    Parquet,
    Source,
    SQLite,
    UnexpectedContent,
    json_items,
    ndjson,
)
from asyncstreams._json import decode, encode, has_lone_surrogate, replace_escaped_surrogates, replace_surrogates

CUT, WHOLE = "cut in two \ud83d", "whole \U0001f600 \\ud83d"
ROWS = [{"id": 1, "text": WHOLE, "more": None}, {"id": 2, "text": CUT, "more": {"\ude00": [CUT]}}]
REPLACED = [ROWS[0], {"id": 2, "text": "cut in two \ufffd", "more": {"\ufffd": ["cut in two \ufffd"]}}]
DESTINATIONS = [JsonLines, Parquet, SQLite, DuckDB]


def rows_in(folder: Path, pattern: str = "posts/*") -> list[Any]:
    return [row for path in folder.glob(pattern) for row in lines_of(path)]


class Posts(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"

    def __init__(self, rows: Any = ROWS, **options: Any) -> None:
        body = json.dumps(rows) if self.is_array else "\n".join(map(json.dumps, rows))
        super().__init__(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=body)), **options)

    is_array = True
    name = "posts"

    def path(self, context: Any) -> str:
        return "posts"


class OwnParser(Posts):
    def parse_response(self, response: Any, context: Any) -> Any:
        return json.loads(response.text)


class Lines(Posts):
    is_array = False

    async def parse_response(self, response: Any, context: Any) -> AsyncIterator[Any]:
        async for row in ndjson(response):
            yield row


class Items(Posts):
    async def parse_response(self, response: Any, context: Any) -> AsyncIterator[Any]:
        async for row in json_items(response):
            yield row


PARSERS = [Posts, OwnParser, Lines, Items]


@pytest.mark.parametrize(
    ("parser", "destination"),
    [*((parser, JsonLines) for parser in PARSERS), *((OwnParser, to) for to in DESTINATIONS[1:]), (Posts, DuckDB)],
)
async def test_lone_surrogate_is_refused_with_place(tmp_path: Path, destination: Any, parser: type[Posts]) -> None:
    with pytest.raises(UnexpectedContent, match=r"lone surrogate|among the items") as error:
        await parser().extract(to=destination(tmp_path / "out"))

    assert (error.value.stream, error.value.page) == ("posts", 0)
    assert 'surrogates="replace"' in str(error.value)
    assert "cut in two" not in error.value.message


async def test_refusal_names_record_and_field(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedContent, match="record 1 of its page, field 'text'"):
        await OwnParser().extract(to=JsonLines(tmp_path))


@pytest.mark.parametrize("parser", PARSERS)
async def test_replacement_is_written_and_logged_once(
    tmp_path: Path, parser: type[Posts], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asyncstreams"):
        await parser().extract(to=JsonLines(tmp_path, surrogates="replace"))

    assert rows_in(tmp_path) == REPLACED
    assert [record.getMessage() for record in caplog.records] == [
        "posts: lone surrogates are written as U+FFFD (surrogates='replace')"
    ]


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("parser", [Posts, OwnParser])
async def test_every_destination_writes_replacement(tmp_path: Path, destination: Any, parser: type[Posts]) -> None:
    report = await parser().extract(to=destination(tmp_path / "out", surrogates="replace"))

    assert report.streams[0].written.rows == 2
    if destination is SQLite:
        connection = sqlite3.connect(tmp_path / "out")
        assert connection.execute("SELECT text FROM posts ORDER BY id").fetchall() == [
            (row["text"],) for row in REPLACED
        ]
        connection.close()


@pytest.mark.parametrize("surrogates", ["refuse", "replace"])
async def test_invalid_record_with_surrogate_is_quarantined(tmp_path: Path, surrogates: Any) -> None:
    class Validated(OwnParser):
        validation = "quarantine"

        def get_json_schema(self) -> Any:
            return {"properties": {"id": {"type": "string"}}}

    destination = JsonLines(tmp_path, surrogates=surrogates)
    if surrogates == "refuse":
        with pytest.raises(UnexpectedContent, match="lone surrogate"):
            await Validated().extract(to=destination)
        return
    await Validated().extract(to=destination)

    entries = rows_in(tmp_path, ".asyncstreams/streams/posts/quarantined-*")
    assert [entry["record"] for entry in entries] == REPLACED


@pytest.mark.parametrize("is_selected", [True, False])
@pytest.mark.parametrize("parser", [Posts, OwnParser])
async def test_surrogates_of_parents_are_handled_too(tmp_path: Path, parser: type[Posts], is_selected: bool) -> None:
    class Comments(HttpSubStream):
        url_base = "https://api.test/"
        partition_key = "post"

        def path(self, context: Any) -> Any:
            return ("posts", context.stream_slice["parent"]["id"], "comments")

    parent = parser()
    comments = Comments(parent, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=[{"id": 7}])))
    source = Source([parent, comments] if is_selected else [comments])

    with pytest.raises(AsyncStreamsError, match="lone surrogate"):
        await source.extract(to=JsonLines(tmp_path / "refused"))
    report = await source.extract(to=JsonLines(tmp_path / "out", surrogates="replace"))

    assert report.streams[-1].written.rows == 2


def test_unknown_surrogate_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"surrogates='ignore'\): must be one of 'refuse', 'replace'"):
        JsonLines("out", surrogates="ignore")  # type: ignore[arg-type]


async def test_read_keeps_what_the_parser_returns() -> None:
    assert await OwnParser().read() == ROWS


texts = st.text(st.sampled_from('a\\"/u\ud83d\ude00\U0001f600 d8\n'), max_size=8)
values = st.recursive(
    texts | st.integers(0, 9), lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=4
)


@examples(full=300, short=40)
@given(values)
def test_property_text_and_value_are_repaired_alike(value: Any) -> None:
    value = json.loads(json.dumps(value))  # joins halves that belong together

    repaired = replace_surrogates(value)

    assert decode(replace_escaped_surrogates(json.dumps(value).encode())) == repaired
    assert decode(encode(repaired)) == repaired
    assert has_lone_surrogate(value) == (value != repaired)
