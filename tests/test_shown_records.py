"""What messages show of records: keys, never whole records."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest

from asyncstreams import AsyncStreamsError, HttpStream, HttpSubStream, JsonLines, Secret, Slice, Source, State

CANARIES = ("whsec_canary", "ann@example.com", "xxxx")
HOOK = {"id": 1, "secret": "whsec_canary", "owner": {"mail": "ann@example.com"}, "note": "x" * 3_000}


class Hooks(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"

    def path(self, context: Any) -> Any:
        return "hooks"


class Deliveries(HttpSubStream):
    url_base = "https://api.test/"
    max_tries = 1

    def path(self, context: Any) -> Any:
        parent = context.stream_slice.get("parent") or context.stream_slice["parents"][0]
        return ("hooks", parent["id"], "deliveries")


class Extended(Deliveries):
    """With the record of the parent, and a part of it, under other names."""

    async def stream_slices(self, state: Any) -> Any:
        async for stream_slice in super().stream_slices(state):
            parent = stream_slice["parent"]
            yield stream_slice | {"hook": parent, "owner": parent["owner"], "hooks": [parent], "year": 2026}


class Rebuilt(Deliveries):
    """With slices of its own, in a plain stream's form."""

    async def stream_slices(self, state: Any) -> Any:
        async for stream_slice in super().stream_slices(state):
            yield {"hook": stream_slice["parent"]}

    def path(self, context: Any) -> Any:
        return ("hooks", context.stream_slice["hook"]["id"], "deliveries")


class Batched(Deliveries):
    parent_batch_size = 4


class Split(Batched):
    """Whose batches are refused as too large."""


class Needy(Deliveries):
    """That needs a key which no record has."""

    def path(self, context: Any) -> Any:
        return ("hooks", context.stream_slice["parent"]["account"]["id"])


class Partial(Deliveries):
    parent_fields = ("id", "secret", "owner", "gone")


def respond(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/hooks":
        return httpx.Response(200, json=[HOOK | {"id": number} for number in (1, 2, 3)])
    if request.url.path == "/hooks/2/deliveries" or request.url.path.startswith("/split"):
        return httpx.Response(413 if "split" in request.url.path else 500, json={})
    if request.url.path == "/hooks/3/deliveries":
        return httpx.Response(404, json={})
    return httpx.Response(200, json=[])


def text_of(error: BaseException) -> str:
    notes = "".join(getattr(error, "__notes__", ()))
    inner = "".join(map(text_of, getattr(error, "errors", ())))
    return f"{error} {error!r} {getattr(error, 'stream_slice', '')!r} {notes} {inner}"


@pytest.mark.parametrize("key", ["id", "uid", None])
@pytest.mark.parametrize("kind", [Deliveries, Extended, Rebuilt, Batched, Split, Needy, Partial])
@pytest.mark.parametrize("way", ["read", "state", "extract"])
async def test_no_message_shows_a_parent(
    kind: type[Deliveries], key: str | None, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transport = httpx.MockTransport(respond)
    hooks = type("Hooks", (Hooks,), {"primary_key": key})(transport=transport)
    path = {"path": lambda self, context: "split"} if kind is Split else {}
    deliveries = type(kind.__name__, (kind,), path)(hooks, transport=transport)
    source = Source([hooks, deliveries])
    shown: list[str] = []

    with caplog.at_level(logging.DEBUG, "asyncstreams"):
        try:
            if way == "extract":
                shown.append(f"{await source.extract(to=JsonLines(tmp_path / 'out'))!r}")
            else:
                async with source.pages(state=State() if way == "state" else None) as pages:
                    async for page in pages:
                        shown += [repr(page), repr(page.stream_slice), pages.explain()]
        except AsyncStreamsError as error:
            copies = [error, copy.copy(error), pickle.loads(pickle.dumps(error))]
            shown += map(text_of, copies)
            shown.append(f"{getattr(error, 'report', '')!r} {getattr(error, 'report', '')}")

    text = "".join(shown) + "".join(record.getMessage() for record in caplog.records)
    assert "Deliveries" in text or deliveries.name in text
    assert [canary for canary in CANARIES if canary in text] == []
    assert max(map(len, (record.getMessage() for record in caplog.records))) < 1_000


async def test_records_in_slices_of_a_plain_stream_are_not_shown() -> None:
    class Accounts(Hooks):
        max_tries = 1

        def stream_slices(self, state: Any) -> Any:
            return [{"account": HOOK | {"id": 2}, "day": "2026-01-01"}, {"account": {"name": "x", "mail": CANARIES[1]}}]

        def path(self, context: Any) -> Any:
            return ("hooks", 2, "deliveries")

    with pytest.raises(AsyncStreamsError) as caught:
        await Accounts(transport=httpx.MockTransport(respond)).read()

    text = text_of(caught.value)
    assert "{'account': {'id': 2}, 'day': '2026-01-01'}" in text
    assert "a record with the fields name, mail" in text
    assert [canary for canary in CANARIES if canary in text] == []


async def test_wrong_slices_argument_does_not_show_the_record() -> None:
    transport = httpx.MockTransport(respond)

    with pytest.raises(AsyncStreamsError) as caught:
        await Deliveries(Hooks(transport=transport), transport=transport).read(slices={"parent": HOOK})  # type: ignore[arg-type]

    assert [canary for canary in CANARIES if canary in text_of(caught.value)] == []


def test_pickled_error_with_a_secret_in_its_slice_shows_label() -> None:
    stream_slice = Slice({"parent": HOOK | {"key": Secret("s3cret")}}, labels={"parent": {"id": 1}})
    error = AsyncStreamsError("failed", stream_slice=stream_slice)

    text = text_of(pickle.loads(pickle.dumps(error)))

    assert "{'parent': {'id': 1}}" in text
    assert [canary for canary in (*CANARIES, "s3cret") if canary in text] == []
