"""The file of a State: one process at a time, and no save is lost."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.lowlevel import checkpoint

from asyncstreams import ConfigError, HttpStream, OutputLocked, OutputWriteError, State, StateCorrupt, StateIncompatible
from asyncstreams.execution.slice_source import pending_slices
from asyncstreams.state.state_file import select_stream
from asyncstreams.state.stream_state import StateDelta
from asyncstreams.storage.file_lock import LockedFile, OutputLock


def stream_of(name: str, requests: list[Any] | None = None) -> HttpStream:
    def answer(request: httpx.Request) -> httpx.Response:
        if requests is not None:
            requests.append(request)
        return httpx.Response(200, json=[{"id": 1, "at": "2026-01-01T00:00:00Z"}])

    class Rows(HttpStream):
        url_base = "https://api.test/"
        primary_key = "id"
        cursor_field = "at"

        def path(self, context: Any) -> str:
            return self.name

    Rows.name = name
    return Rows(transport=httpx.MockTransport(answer))


class Finished(HttpStream):
    """Slices without a cursor, all of which are done."""

    url_base = "https://api.test/"
    count = 0

    def path(self, context: Any) -> str:
        return "rows"

    def stream_slices(self, state: Any) -> Any:
        return ({"number": number} for number in range(self.count))


def finished(count: int, state: State) -> Finished:
    stream = Finished()
    stream.count = count
    progress = state.of(stream)
    for number in range(count):
        progress.apply(StateDelta({"number": number}))
    return stream


def reload(path: Path, to: str = "copy.json") -> State:
    """The state in a copy of the file, since a path that is known gives the same State."""
    copied = path.with_name(to)
    copied.write_bytes(path.read_bytes())
    return State.load(copied)


async def test_same_path_gives_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    state = State.load("state.json")

    assert State.load(tmp_path / "state.json") is state
    assert State.load(tmp_path / "other.json") is not state


async def test_two_reads_with_one_path_both_remain(tmp_path: Path):
    path = tmp_path / "state.json"

    await asyncio.gather(*(stream_of(name).read(state=State.load(path)) for name in ("a", "b")))

    assert set(reload(path)) == {"a", "b"}


async def test_locked_file_is_refused_before_a_request(tmp_path: Path):
    path, requests = tmp_path / "state.json", list[Any]()
    lock = OutputLock(tmp_path / "state.json.lock", 0, locked_path=path)

    with pytest.raises(OutputLocked, match=rf"state\.json is being written to by process {os.getpid()}") as caught:
        await stream_of("a", requests).read(state=State.load(path))
    lock.release()
    found = await stream_of("a").read(state=State.load(path))

    assert (requests, len(found)) == ([], 1)
    assert caught.value.hint == "wait until that run has ended, or use another state file"


async def test_file_is_locked_from_first_request_to_last_save(tmp_path: Path):
    path = tmp_path / "state.json"

    async with stream_of("a").pages(state=State.load(path)) as pages:
        with pytest.raises(OutputLocked):
            OutputLock(tmp_path / "state.json.lock", 0)
        async with stream_of("b").pages(state=State.load(path)):
            pass
        with pytest.raises(OutputLocked):
            OutputLock(tmp_path / "state.json.lock", 0)
        assert [page.records async for page in pages]

    OutputLock(tmp_path / "state.json.lock", 0).release()


async def test_changed_file_is_refused_until_loaded_again(tmp_path: Path):
    path, requests = tmp_path / "state.json", list[Any]()
    state = State.load(path)
    await stream_of("other").read(state=State.load(tmp_path / "other.json"))
    (tmp_path / "other.json").rename(path)

    with pytest.raises(StateIncompatible, match="another program has changed") as caught:
        await stream_of("mine", requests).read(state=state)
    with pytest.raises(StateIncompatible):
        await state.save()
    again = State.load(path)
    await stream_of("mine").read(state=again)

    assert (caught.value.field, requests) == ("file", [])
    assert again is not state
    assert set(reload(path)) == {"mine", "other"}


async def test_deleted_file_is_refused_until_loaded_again(tmp_path: Path):
    path = tmp_path / "state.json"
    state = State.load(path)
    await stream_of("a").read(state=state)
    path.unlink()

    with pytest.raises(StateIncompatible):
        await stream_of("a").read(state=state)

    assert len(await stream_of("a").read(state=State.load(path))) == 1


async def test_file_with_equal_content_is_unchanged(tmp_path: Path):
    path = tmp_path / "state.json"
    state = State.load(path)
    await stream_of("a").read(state=state)
    path.write_bytes(path.read_bytes())

    assert await stream_of("a").read(state=state) == []


async def test_lock_is_released_after_an_error(tmp_path: Path):
    path = tmp_path / "state.json"

    with suppress(KeyError):
        async with stream_of("a").pages(state=State.load(path)) as pages:
            async for _ in pages:
                raise KeyError

    OutputLock(tmp_path / "state.json.lock", 0).release()


async def test_folder_that_is_a_file_is_an_error_before_a_request(tmp_path: Path):
    requests: list[Any] = []
    state = State.load(tmp_path / "folder" / "state.json")
    (tmp_path / "folder").write_text("")

    with pytest.raises(OutputWriteError, match="cannot lock"):
        await stream_of("a", requests).read(state=state)

    assert requests == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_does_not_keep_the_lock(tmp_path: Path):
    lock = OutputLock(tmp_path / "lock", 0)
    inherited = os.dup(lock._file)  # what a forked process has

    lock.release()

    OutputLock(tmp_path / "lock", 0).release()
    os.close(inherited)


def test_older_content_does_not_replace_newer(tmp_path: Path):
    file = LockedFile(tmp_path / "state.json", "state")
    older, newer = file.next_number(), file.next_number()

    file.replace(newer, bytes, b"newer")
    file.replace(older, bytes, b"older")

    assert file.read() == b"newer"


async def test_saving_many_slices_lets_other_tasks_run(tmp_path: Path):
    path = tmp_path / "state.json"
    state = State.load(path)
    finished(5_000, state)
    turns = 0

    saving = asyncio.create_task(state.save())
    while not saving.done():
        await checkpoint()
        turns += 1

    assert turns > 20
    assert reload(path).to_json() == state.to_json()


async def test_save_during_end_of_read_has_no_finished_slices(tmp_path: Path):
    path = tmp_path / "state.json"
    state = State.load(path)
    stream = finished(2_000, state)

    saving = asyncio.create_task(state.save())
    for _ in range(5):
        await checkpoint()
    await state.restart(stream.name)
    await saving

    assert reload(path).to_json()["streams"]["finished"]["partitions"] == []


async def test_skipping_finished_slices_lets_other_tasks_run():
    state, turns = State(), 0
    stream = finished(5_000, state)

    async def skip() -> list[Any]:
        return [pending async for pending in pending_slices(select_stream(stream, None, state, None), None)]

    skipping = asyncio.create_task(skip())
    while not skipping.done():
        await checkpoint()
        turns += 1

    assert await skipping == []
    assert turns > 20


async def test_cost_of_a_finished_slice_does_not_grow():
    async def cpu_each(count: int) -> float:
        state = State()
        selection = select_stream(finished(count, state), None, state, None)
        gc.collect()
        started = time.thread_time()
        async for _ in pending_slices(selection, None):
            pass
        return (time.thread_time() - started) / count

    few, many = [min([await cpu_each(count) for _ in range(2)]) for count in (500, 4_000)]

    assert many < 3 * few  # with the square it is 8 times as much


async def test_state_of_format_2_is_continued(tmp_path: Path):
    path = tmp_path / "state.json"
    path.write_bytes((Path(__file__).parent / "data" / "format_2" / "state.json").read_bytes())

    state = State.load(path)
    await state.save()

    assert state["orders"]["updated"] == "2026-02-28T23:59:00Z"
    assert json.loads(path.read_text())["state"]["format"] == 3
    assert [dict(state["readings"].of({"sensor": number})) for number in (1, 2, 3)] == [{"at": 1772323140}] * 2 + [{}]


def test_file_of_airbyte_is_named_with_the_way_to_convert_it(tmp_path: Path):
    (tmp_path / "state.json").write_text('[{"type": "STREAM", "stream": {}}]')

    with pytest.raises(StateCorrupt, match="is not a state of asyncstreams") as caught:
        State.load(tmp_path / "state.json")

    assert "State.from_airbyte(text, path)" in str(caught.value.hint)


async def test_forgotten_stream_is_read_again(tmp_path: Path):
    state = State.load(tmp_path / "state.json")
    kept, forgotten = stream_of("kept"), stream_of("forgotten")
    for stream in (kept, forgotten):
        await stream.read(state=state)

    state.forget("forgotten")
    await state.save()

    loaded = State.from_json(json.loads((tmp_path / "state.json").read_bytes())["state"])
    assert list(loaded) == ["kept"]
    assert await kept.read(state=loaded) == []
    assert len(await forgotten.read(state=loaded)) == 1
    with pytest.raises(ConfigError, match="there is no stream 'other'"):
        state.forget("kept", "other")
    assert "kept" in state


async def test_state_is_restored_from_its_json(tmp_path: Path):
    state, stream = State(), stream_of("rows")
    await stream.read(state=state)

    restored = State.from_json(state.to_json(), tmp_path / "state.json")
    await restored.save()

    assert (tmp_path / "state.json").read_bytes() == state.to_text() == restored.to_text()
    assert await stream.read(state=State.load(tmp_path / "state.json")) == []
    with pytest.raises(ConfigError, match="exists"):
        State.from_json(state.to_json(), tmp_path / "state.json")
    with pytest.raises(StateIncompatible, match="the given state has format 9"):
        State.from_json({"format": 9})
