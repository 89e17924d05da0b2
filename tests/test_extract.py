"""Tests of `extract` into files: content, recovery, state, locking and errors."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import CrashHarness, FaultyFileSystem, ProcessKilled, RegionsApi, lines_of
from hypothesis import given
from hypothesis import strategies as st
from simulation import examples

from asyncstreams import (
    ConfigError,
    HttpStatusError,
    HttpStream,
    JsonLines,
    OutputLocked,
    OutputMissing,
    OutputWriteError,
    PageNumber,
    Parquet,
    PartialFailure,
    Source,
    StateCorrupt,
    StateIncompatible,
    TokenAuthenticator,
    UnexpectedContent,
)
from asyncstreams.storage.file_lock import OutputLock
from asyncstreams.storage.filesystem import FileSystem, file_name


class Regions(HttpStream):
    """One slice of one page for each region."""

    url_base = "https://api.test/"
    primary_key = "id"
    max_concurrency = 4

    def __init__(self, handler: Any, regions: int = 4, **options: Any) -> None:
        super().__init__(transport=httpx.MockTransport(handler), **options)
        self.regions = regions

    def path(self, context: Any) -> Any:
        return ("regions", context.stream_slice["region"])

    def stream_slices(self, state: Any) -> Any:
        return [{"region": number} for number in range(self.regions)]


class FakeApi:
    """Two records for each region, or those in `records`; the requests of broken regions fail."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.requests: list[int] = []
        self.records: dict[int, list[Any]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        region = int(request.url.path.rpartition("/")[2])
        self.requests.append(region)
        if region in self.broken:
            return httpx.Response(400)
        default = [{"id": f"{region}-{n}"} for n in range(2)]
        return httpx.Response(200, json=self.records.get(region, default))


def ids(out: Path, stream: str = "regions", kind: str = "part") -> list[Any]:
    return sorted(row["id"] for path in out.glob(f"{stream}/{kind}-*") for row in lines_of(path))


def files(out: Path, pattern: str) -> list[Path]:
    return sorted(out.glob(pattern))


def description_of(out: Path, stream: str = "regions") -> Path:
    return out / ".asyncstreams" / "streams" / stream


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110  files raise no event
        await asyncio.sleep(0.01)


def all_of(*regions: int) -> list[str]:
    return [f"{region}-{n}" for region in sorted(regions) for n in range(2)]


def is_locked(out: Path) -> bool:
    try:
        OutputLock(out / ".asyncstreams" / "lock", 0).release()
    except OutputLocked:
        return True
    return False


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


async def test_each_stream_gets_folder_with_parts_and_manifest(out: Path):
    harness = CrashHarness(out)

    report = await harness.extract()

    harness.check_complete()
    written = {stream.stream: stream.written for stream in report.streams}
    assert {name: (report.rows, report.path) for name, report in written.items()} == {
        "customers": (24, out / "customers"),
        "events": (24, out / "events"),
        "tags": (10, out / "tags"),
    }
    assert written["tags"].bytes == sum(path.stat().st_size for path in files(out, "tags/part-*"))
    parts = len(files(out, "customers/part-*"))
    assert f"24 rows in {parts} {'part' if parts == 1 else 'parts'}, " in str(report)


def named(name: str, regions: int = 1) -> Regions:
    stream = Regions(FakeApi(), regions)
    stream.name = name
    return stream


def folder_names(out: Path) -> dict[str, str]:
    return json.loads((out / ".asyncstreams" / "streams.json").read_bytes())


@pytest.mark.parametrize("first", ["orders", "Orders"])
async def test_names_that_differ_only_in_case_get_two_folders(out: Path, first: str):
    second = first.swapcase()
    await named(first).extract(to=JsonLines(out))

    for _ in range(2):
        await Source([named(second), named(first, 2)]).extract(to=JsonLines(out))

    folders = folder_names(out)
    assert folders[first] == first
    assert folders[second].startswith(f"{second}~")
    assert ids(out, first) == all_of(0, 1)
    assert ids(out, folders[second]) == all_of(0)
    assert json.loads((description_of(out, folders[second]) / "manifest.json").read_bytes())["stream"] == second


LONG_NAMES = ["q" * 5_000, "q" * 4_999, "売上明細と顧客からの問い合わせの一覧表" * 3, "a/" * 100, "%" * 100]


@pytest.mark.parametrize("name", LONG_NAMES)
async def test_long_stream_name_gets_short_folder(out: Path, name: str):
    for _ in range(2):
        report = await named(name).extract(to=JsonLines(out))

    folder = folder_names(out)[name]
    assert len(folder) <= 140
    assert report.streams[0].written.path == out / folder
    assert ids(out, folder) == all_of(0)


@given(st.lists(st.text("aAäÄ.%/ ~e\u0301é=[con", max_size=6), min_size=2, max_size=6, unique=True))
def test_property_folders_of_distinct_names_are_distinct(names: list[str]):
    used: list[str] = []
    for name in names:
        used.append(file_name(name, used).lower())

    assert len(set(used)) == len(names)
    assert all(re.fullmatch(r"[^./\\:*?\"<>|\[\]{}=][^/\\:*?\"<>|\[\]{}=]*", folder, re.ASCII) for folder in used)
    assert not [folder for folder in used if folder.endswith((".", " ")) or folder == "con"]


@pytest.mark.parametrize(("first", "second"), [(JsonLines, Parquet), (Parquet, JsonLines)])
async def test_folder_with_files_of_another_kind_is_refused(out: Path, first: Any, second: Any):
    await named("orders").extract(to=first(out))
    before = {path: path.read_bytes() for path in files(out, "**/*") if path.is_file()}

    for stream in ("orders", "items"):
        with pytest.raises(StateIncompatible, match=r"out holds .* files of earlier runs, and cannot take") as error:
            await named(stream).extract(to=second(out, mode="replace"))

    assert error.value.field == "destination"
    assert {path: path.read_bytes() for path in files(out, "**/*") if path.is_file()} == before


async def test_stream_without_rows_has_one_empty_part(out: Path):
    api = FakeApi()
    api.records = {0: []}

    for _ in range(2):
        await Regions(api, 1).extract(to=JsonLines(out, mode="append"))
    empty = files(out, "regions/*")
    api.records = {}
    await Regions(api, 1).extract(to=JsonLines(out, mode="append"))

    assert [path.name for path in empty] == ["part-000001-000001.jsonl"]
    assert [path.name for path in files(out, "regions/*")] == ["part-000001-000002.jsonl"]
    assert ids(out) == all_of(0)


async def test_stream_name_with_lone_surrogate_is_refused(out: Path):
    with pytest.raises(ConfigError, match="contains a lone surrogate"):
        await named("posts \ud83d").extract(to=JsonLines(out))


@pytest.fixture
def umask() -> Iterator[int]:
    earlier = os.umask(0o027)
    yield 0o027
    os.umask(earlier)


@pytest.mark.skipif(os.name != "posix", reason="file modes exist on POSIX only")
async def test_data_follows_umask_and_state_is_private(out: Path, umask: int):
    await CrashHarness(out).extract()

    data = [path for path in files(out, "*/*") if path.parent.name != ".asyncstreams"]
    assert {mode_of(path) for path in data} == {0o666 & ~umask}
    assert {mode_of(path.parent) for path in data} == {0o777 & ~umask}
    assert {mode_of(path) for path in files(out, ".asyncstreams/**/*") if path.is_file()} == {0o600}
    assert mode_of(out / ".asyncstreams") == 0o700


async def test_full_refresh_replaces_old_parts_once_complete(out: Path):
    api = FakeApi()
    await Regions(api).extract(to=JsonLines(out))
    api.records = {region: [{"id": f"new-{region}"}] for region in range(4)}
    api.broken = {3}

    with pytest.raises(PartialFailure):
        await Regions(api).extract(to=JsonLines(out))
    while_incomplete = ids(out)
    api.broken = set()
    await Regions(api).extract(to=JsonLines(out))

    assert while_incomplete == all_of(0, 1, 2, 3)
    assert ids(out) == [f"new-{region}" for region in range(4)]
    manifest = json.loads((description_of(out) / "manifest.json").read_bytes())
    assert (manifest["generation"], manifest["complete"], manifest["rows"]) == (2, True, 4)


async def test_first_extraction_publishes_parts_despite_failures(out: Path):
    with pytest.raises(PartialFailure) as failure:
        await Regions(FakeApi(1)).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 2, 3)
    assert json.loads((description_of(out) / "manifest.json").read_bytes())["complete"] is False
    (stream,) = failure.value.report.streams
    assert (stream.failed, stream.written.rows) == (1, 6)


async def test_next_run_requests_only_failed_slices(out: Path):
    api = FakeApi(1, 2)
    with pytest.raises(PartialFailure):
        await Regions(api).extract(to=JsonLines(out))
    api.broken, api.requests = set(), []

    await Regions(api).extract(to=JsonLines(out))

    assert sorted(api.requests) == [1, 2]
    assert ids(out) == all_of(0, 1, 2, 3)


@examples(full=40, short=10)
@given(st.permutations(range(5)), st.sets(st.integers(0, 4)))
async def test_next_run_requests_the_rest_in_any_finish_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], failing: set[int]
):
    out = tmp_path_factory.mktemp("out")
    api = FakeApi(*failing)

    async def in_order(request: httpx.Request) -> httpx.Response:
        region = int(request.url.path.rpartition("/")[2])
        for _ in range(3 * order.index(region)):
            await asyncio.sleep(0)
        return api(request)

    stream = Regions(in_order, 5)
    try:
        await stream.extract(to=JsonLines(out, fsync="none"))
    except (PartialFailure, HttpStatusError):
        assert failing
    api.broken, api.requests = set(), []
    await stream.extract(to=JsonLines(out, fsync="none"))

    assert sorted(api.requests) == (sorted(failing) if failing else list(range(5)))
    assert ids(out) == all_of(*range(5))


async def test_resumed_run_skips_streams_already_read(out: Path):
    api = RegionsApi()

    class DyingFileSystem(FaultyFileSystem):
        """Kills the process once a stream has been finished."""

        def rename(self, path: Path, to: Path) -> None:
            super().rename(path, to)
            self.is_dead = to.name == "manifest.json"

    with pytest.raises(ProcessKilled):
        await CrashHarness(out, api).extract(DyingFileSystem())
    ledger = CrashHarness(out, api).read_ledger()
    read = {name for name, stream in ledger.streams.items() if stream.is_read}
    api.requests.clear()

    report = await CrashHarness(out, api).extract()

    assert read
    assert not {request.split()[0] for request in api.requests} & read
    CrashHarness(out, api).check_complete()
    assert {stream.stream for stream in report.streams if stream.written.was_read} == read
    assert "already complete" in str(report)


async def test_finished_run_is_followed_by_a_full_read(out: Path):
    api = FakeApi()
    for _ in range(2):
        await Regions(api).extract(to=JsonLines(out))

    assert Counter(api.requests) == dict.fromkeys(range(4), 2)
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_incremental_stream_appends_new_records(out: Path):
    harness = CrashHarness(out)
    await harness.extract()
    before = sorted(path.name for path in files(out, "events/part-*"))
    harness.api.version = 2
    harness.api.requests.clear()

    await harness.extract()

    assert {request for request in harness.api.requests if request.startswith("events")} == {
        f"events {since}" for since in range(24, 48, 6)
    }
    assert sorted(path.name for path in files(out, "events/part-*"))[: len(before)] == before
    harness.check_complete()


async def test_append_mode_adds_to_earlier_run(out: Path):
    for _ in range(2):
        await Regions(FakeApi()).extract(to=JsonLines(out, mode="append"))

    assert ids(out) == sorted(all_of(0, 1, 2, 3) * 2)


async def test_fail_mode_refuses_existing_but_resumes_unfinished(out: Path):
    api = FakeApi(1)
    with pytest.raises(PartialFailure):
        await Regions(api).extract(to=JsonLines(out, mode="fail"))
    api.broken = set()
    await Regions(api).extract(to=JsonLines(out, mode="fail"))

    with pytest.raises(ConfigError, match=r"out already contains stream"):
        await Regions(api).extract(to=JsonLines(out, mode="fail"))
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_append_to_unfinished_replacement_is_refused(out: Path):
    with pytest.raises(PartialFailure):
        await Regions(FakeApi(1)).extract(to=JsonLines(out))

    with pytest.raises(ConfigError, match="has not finished stream"):
        await Regions(FakeApi()).extract(to=JsonLines(out, mode="append"))


async def test_resume_false_starts_unfinished_run_over(out: Path):
    api = FakeApi(1)
    with pytest.raises(PartialFailure):
        await Regions(api).extract(to=JsonLines(out))
    api.broken, api.requests = set(), []

    await Regions(api).extract(to=JsonLines(out, resume=False))

    assert sorted(api.requests) == [0, 1, 2, 3]
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_ended_slices_are_committed_without_further_pages(out: Path):
    may_end = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/1"):
            await may_end.wait()
        return FakeApi()(request)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(Regions(handle).extract(to=JsonLines(out)))
        await until(lambda: files(out, "regions/part-*"))
        before = ids(out)
        may_end.set()

    assert before == all_of(0, 2, 3)
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_slow_disk_delays_end_of_run_until_files_written(out: Path, monkeypatch: pytest.MonkeyPatch):
    class SlowFileSystem(FileSystem):
        def sync(self, file: int) -> None:
            time.sleep(0.1)

    monkeypatch.setattr("asyncstreams.extraction.extraction._SHUTDOWN_GRACE_S", 0.01)
    api = FakeApi()

    await Regions(api).extract(to=JsonLines(out, fsync="full", fs=SlowFileSystem()))
    requests = len(api.requests)
    written = ids(out)
    await Regions(api).extract(to=JsonLines(out))

    assert written == all_of(0, 1, 2, 3)
    assert len(api.requests) == 2 * requests  # the first run had ended, so the second one read everything again


async def test_cancelled_run_with_stuck_disk_ends_within_grace(out: Path, monkeypatch: pytest.MonkeyPatch):
    may_write = threading.Event()

    api = FakeApi()

    class StuckFileSystem(FileSystem):
        is_stuck = False

        def sync(self, file: int) -> None:
            if api.requests:
                self.is_stuck = True
                may_write.wait(10)

    monkeypatch.setattr("asyncstreams.extraction.extraction._SHUTDOWN_GRACE_S", 0.01)
    fs = StuckFileSystem()
    loop_errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loop_errors.append(context))

    task = asyncio.create_task(Regions(api).extract(to=JsonLines(out, fs=fs)))
    await until(lambda: fs.is_stuck)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    may_write.set()
    await until(lambda: not is_locked(out))
    await Regions(FakeApi()).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 1, 2, 3)
    assert loop_errors == []


async def test_cancellation_of_every_task_lets_final_commit_end(out: Path):
    syncing, may_sync = threading.Event(), threading.Event()
    api = FakeApi()

    class SlowFileSystem(FileSystem):
        def sync(self, file: int) -> None:
            if len(api.requests) == 4:
                syncing.set()
                may_sync.wait(10)
            super().sync(file)

    before = asyncio.all_tasks()
    task = asyncio.create_task(Regions(api).extract(to=JsonLines(out, fs=SlowFileSystem())))
    await until(syncing.is_set)
    for _ in range(3):  # as `asyncio.run` does at its end
        for each in asyncio.all_tasks() - before:
            each.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    may_sync.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ids(out) == all_of(0, 1, 2, 3)
    assert not is_locked(out)


@pytest.mark.filterwarnings("ignore:coroutine 'ProtectedTask.run' was never awaited")  # anyio's task never began
async def test_extraction_cancelled_at_its_start_keeps_no_lock(out: Path):
    before = asyncio.all_tasks()
    for steps in range(5):
        task = asyncio.create_task(Regions(FakeApi()).extract(to=JsonLines(out)))
        for _ in range(steps):
            await asyncio.sleep(0)
        for each in asyncio.all_tasks() - before:
            each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await Regions(FakeApi()).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 1, 2, 3)


async def test_interrupted_slice_resumes_from_last_checkpoint(out: Path):
    requested: list[int] = []
    may_continue = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params["page"])
        requested.append(page)
        if page == 6:
            await may_continue.wait()
        return httpx.Response(200, json=[{"id": f"{page}-{n}"} for n in range(2 if page < 8 else page == 8)])

    def tags() -> HttpStream:
        stream = Regions(handle, regions=1)
        stream.paginator, stream.parallel_pages = PageNumber(size=2), False
        stream.state_checkpoint_interval = 6  # checkpoints after pages 3 and 6
        return stream

    task = asyncio.create_task(tags().extract(to=JsonLines(out)))
    await until(lambda: 6 in requested)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before, requested[:] = requested[:], []
    may_continue.set()
    await tags().extract(to=JsonLines(out))

    assert before == [1, 2, 3, 4, 5, 6]
    assert requested == [4, 5, 6, 7, 8, 9]
    assert ids(out) == sorted(f"{page}-{n}" for page in range(1, 9) for n in range(2 if page < 8 else 1))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_parts_are_compressed_and_split_by_size(out: Path, compression: Any):
    api = FakeApi()
    text = os.urandom(300_000).hex()
    api.records = {region: [{"id": f"{region}-{n}", "text": text} for n in range(2)] for region in range(4)}

    await Regions(api).extract(to=JsonLines(out, compression=compression, part_size=2**20))

    parts = files(out, "regions/part-*")
    assert len(parts) > 2
    assert {path.name.partition(".")[2] for path in parts} == {{"gzip": "jsonl.gz", "zstd": "jsonl.zst"}[compression]}
    assert sum(path.stat().st_size for path in parts) < 8 * len(text) * 0.7
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_large_failed_slices_leave_no_records(out: Path):
    class LargeRegions(Regions):
        def next_page_token(self, response: Any, context: Any) -> Any:
            page = (context.next_page_token or {"page": 0})["page"] + 1
            return {"page": page} if page < 12 else None

        def request_params(self, context: Any) -> Any:
            return context.next_page_token

    text = "x" * 1_000_000

    def handle(request: httpx.Request) -> httpx.Response:
        region, page = int(request.url.path.rpartition("/")[2]), int(request.url.params.get("page", 0))
        if region == 2 and page == 11:
            return httpx.Response(400)
        return httpx.Response(200, json=[{"id": f"{region}-{page:02}", "text": text}])

    with pytest.raises(PartialFailure):
        await LargeRegions(handle).extract(to=JsonLines(out))

    assert ids(out, "large_regions") == [f"{region}-{page:02}" for region in (0, 1, 3) for page in range(12)]
    assert len(files(out, "large_regions/part-*")) >= 3


async def test_invalid_records_are_written_to_quarantine_files(out: Path):
    class ValidatedRegions(Regions):
        name = "regions"
        validation = "quarantine"

        def get_json_schema(self) -> Any:
            return {"properties": {"id": {"type": "string"}}}

    api = FakeApi()
    api.records = {2: [{"id": 7}, {"id": "2-0"}]}

    report = await ValidatedRegions(api).extract(to=JsonLines(out))

    assert ids(out) == sorted([*all_of(0, 1, 3), "2-0"])
    (path,) = files(description_of(out), "quarantined-*")
    (line,) = lines_of(path)
    assert line == {
        "record": {"id": 7},
        "problems": [{"pointer": "/id", "keyword": "type", "detail": line["problems"][0]["detail"]}],
    }
    manifest = json.loads((description_of(out) / "manifest.json").read_bytes())
    assert [part["rows"] for part in manifest["quarantined"]] == [1]
    assert report.streams[0].written.quarantined == 1


async def test_numbers_and_text_are_written_unchanged(out: Path):
    api = FakeApi()
    record = {"id": "0", "big": 2**64 + 1, "small": 1e-300, "text": 'é\n"\u2028\\', "none": None, "deep": [[{}]]}
    api.records = {0: [record]}

    await Regions(api, 1).extract(to=JsonLines(out))

    (path,) = files(out, "regions/part-*")
    assert json.loads(path.read_bytes()) == record


async def test_value_without_json_fails_its_slice(out: Path):
    class UnencodableRegions(Regions):
        name = "regions"
        broken_value: Any = math.nan

        def parse_response(self, response: Any, context: Any) -> Any:
            rows: list[dict[str, Any]] = response.json()
            return [*rows, {"id": "x", "n": self.broken_value}] if context.stream_slice["region"] == 3 else rows

    too_deep: Any = []
    for _ in range(5_000):
        too_deep = [too_deep]
    for value, reason in ((math.nan, "no number for nan"), (-math.inf, "no number for -inf"), (too_deep, "too deeply")):
        stream = UnencodableRegions(FakeApi())
        stream.broken_value = value

        with pytest.raises(PartialFailure, match=rf"{reason}: record 2 of its page, field 'n'") as error:
            await stream.extract(to=JsonLines(out, mode="replace", resume=False))

        assert isinstance(error.value.errors[0], UnexpectedContent)
        assert error.value.errors[0].page == 0
        assert len(error.value.errors) == 1


async def test_type_without_json_ends_the_run(out: Path):
    class UnencodableRegions(Regions):
        name = "odd"

        def parse_response(self, response: Any, context: Any) -> Any:
            return [{"id": object()}]

    with pytest.raises(ConfigError, match=r"has no form in JSON: .*object") as error:
        await UnencodableRegions(FakeApi()).extract(to=JsonLines(out))

    assert error.value.stream == "odd"
    assert error.value.page == 0


async def test_unencodable_quarantined_record_fails_and_run_resumes(out: Path):
    class UnencodableRegions(Regions):
        name = "regions"
        validation = "quarantine"
        is_broken = True

        def parse_response(self, response: Any, context: Any) -> Any:
            return [{"id": float("nan")}] if self.is_broken and context.stream_slice["region"] == 3 else response.json()

        def get_json_schema(self) -> Any:
            return {"properties": {"id": {"type": "string"}}}

    api = FakeApi()
    stream = UnencodableRegions(api, max_concurrency=1)
    with pytest.raises(PartialFailure, match=r"has no form in JSON: .*nan") as error:
        await stream.extract(to=JsonLines(out))
    api.requests, stream.is_broken = [], False
    await stream.extract(to=JsonLines(out))

    assert error.value.errors[0].stream_slice == {"region": 3}
    assert api.requests == [3]
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_second_writer_gets_holder_of_lock(out: Path):
    may_end = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        await may_end.wait()
        return FakeApi()(request)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(Regions(handle).extract(to=JsonLines(out)))
        await until(lambda: files(out, "regions"))
        with pytest.raises(OutputLocked) as locked:
            await Regions(handle).extract(to=JsonLines(out))
        may_end.set()
    assert str(os.getpid()) in locked.value.holder
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", locked.value.since or "")
    assert first.result().streams[0].written is not None
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_missing_part_is_reported_before_any_request(out: Path):
    api = FakeApi()
    await Regions(api).extract(to=JsonLines(out))
    (part,) = files(out, "regions/part-*")
    part.unlink()
    api.requests = []

    with pytest.raises(OutputMissing, match=str(part)):
        await Regions(api).extract(to=JsonLines(out, mode="append"))
    requests = api.requests[:]
    await Regions(api).extract(to=JsonLines(out, mode="append", ignore_missing_parts=True))

    assert requests == []
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_full_disk_error_names_path_and_next_run_completes(out: Path):
    harness = CrashHarness(out)
    await harness.extract()
    harness.api.version = 2

    with pytest.raises(OutputWriteError, match=r"No space left on device") as error:
        await harness.extract(FaultyFileSystem(25, "ENOSPC"))
    harness.check_invariants()
    await harness.extract()

    assert str(out) in str(error.value)
    assert re.search(r"[\d,]+ bytes were to be written", str(error.value))
    harness.check_complete()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write anywhere")
def test_unwritable_folder_raises_output_write_error(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputWriteError, match="Permission denied"):
            asyncio.run(Regions(FakeApi()).extract(to=JsonLines(tmp_path / "out")))
    finally:
        tmp_path.chmod(0o700)


async def test_path_that_is_a_file_raises_output_write_error(tmp_path: Path):
    (tmp_path / "out").write_text("")

    with pytest.raises(OutputWriteError, match="out"):
        await Regions(FakeApi()).extract(to=JsonLines(tmp_path / "out"))


async def test_append_with_other_url_or_credential_is_refused(out: Path):
    def stream(token: str, base: str = "https://api.test/") -> HttpStream:
        regions = Regions(FakeApi(), authenticator=TokenAuthenticator(token))
        regions.url_base = base
        return regions

    await stream("secret-1").extract(to=JsonLines(out, mode="append"))

    with pytest.raises(StateIncompatible) as other_credential:
        await stream("secret-2").extract(to=JsonLines(out, mode="append"))
    with pytest.raises(StateIncompatible) as other_url:
        await stream("secret-1", "https://other.test/").extract(to=JsonLines(out, mode="append"))
    await stream("secret-2").extract(to=JsonLines(out, mode="append", allow_credential_change=True))
    await stream("secret-2").extract(to=JsonLines(out, mode="append"))

    assert other_credential.value.field == "credential"
    assert other_url.value.field == "url_base"
    assert ids(out) == sorted(all_of(0, 1, 2, 3) * 3)
    assert not any(b"secret-" in path.read_bytes() for path in files(out, "**/*") if path.is_file())


async def test_replacement_with_other_credential_is_accepted(out: Path):
    for token in ("one", "two"):
        await Regions(FakeApi(), authenticator=TokenAuthenticator(token)).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 1, 2, 3)


async def test_damaged_journal_is_left_unchanged_without_requests(out: Path):
    harness = CrashHarness(out)
    await harness.extract()
    (path,) = (out / ".asyncstreams").glob("journal-*")
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    damaged = path.read_bytes()
    harness.api.requests.clear()

    with pytest.raises(StateCorrupt, match=r"the last good snapshot is .*snapshot-1"):
        await harness.extract()

    assert path.read_bytes() == damaged
    assert harness.api.requests == []


async def test_damaged_snapshot_error_names_last_good_one(out: Path):
    harness = CrashHarness(out)
    for _ in range(2):
        await harness.extract()
    path = out / ".asyncstreams" / "snapshot-2"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(StateCorrupt, match=r"snapshot-2 is corrupt: .*the last good snapshot is .*snapshot-1"):
        await harness.extract()


async def test_truncated_journal_is_detected_by_unknown_parts(out: Path):
    await Regions(FakeApi()).extract(to=JsonLines(out))
    (journal,) = (out / ".asyncstreams").glob("journal-*")
    journal.write_bytes(journal.read_bytes()[:60])

    with pytest.raises(StateCorrupt, match="has lost its last records"):
        await Regions(FakeApi()).extract(to=JsonLines(out))


async def test_output_of_newer_format_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("asyncstreams.destinations.journal._FORMAT", 4)
        await Regions(FakeApi()).extract(to=JsonLines(out))

    with pytest.raises(StateIncompatible, match="format") as error:
        await Regions(FakeApi()).extract(to=JsonLines(out))
    assert error.value.field == "format"


async def test_foreign_files_are_left_in_place(out: Path):
    (out / "regions").mkdir(parents=True)
    (out / "regions" / "notes.txt").write_text("my notes")
    for _ in range(2):
        await Regions(FakeApi()).extract(to=JsonLines(out))

    assert (out / "regions" / "notes.txt").read_text() == "my notes"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".asyncstreams", "%2Easyncstreams"),
        ("Ünï", "%C3%9Cn%C3%AF"),
        ("a b", "a b"),
        ("a=[1].", "a%3D%5B1%5D%2E"),
        ("con", "%63on"),
    ],
)
async def test_stream_name_is_escaped_in_file_name(out: Path, name: str, folder: str):
    stream = Regions(FakeApi())
    stream.name = name

    await stream.extract(to=JsonLines(out))

    assert file_name(name) == folder
    assert ids(out, folder) == all_of(0, 1, 2, 3)


async def test_unavailable_stream_is_skipped_and_reported(out: Path):
    class Forbidden(Regions):
        pass

    report = await Source([Regions(FakeApi()), Forbidden(lambda _: httpx.Response(403))]).extract(to=JsonLines(out))

    assert list(report.unavailable) == ["forbidden"]
    assert [stream.stream for stream in report.streams] == ["regions"]
    assert ids(out) == all_of(0, 1, 2, 3)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("out/", r"JsonLines\('out/'\)"),
        (Path("out"), r"JsonLines\('out'\)"),
        (JsonLines, "JsonLines is not a destination"),
        (None, "NoneType is not a destination"),
    ],
)
async def test_invalid_destination_error_suggests_a_valid_one(to: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        await Regions(FakeApi()).extract(to=to)


async def test_state_argument_with_files_is_refused(out: Path):
    with pytest.raises(ConfigError, match="keeps its own state"):
        await Source([Regions(FakeApi())]).extract(to=JsonLines(out), state={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"mode": "overwrite"}, {"compression": "bz2"}, {"fsync": True}, {"part_size": 10}, {"part_size": "1 MB"}],
)
def test_invalid_jsonlines_option_raises_config_error(options: Any):
    with pytest.raises(ConfigError, match=next(iter(options))):
        JsonLines("out", **options)


class RecordingFileSystem(FileSystem):
    """A slow disk that keeps the order of journal records."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def write(self, file: int, data: bytes | memoryview) -> int:
        time.sleep(0.01)
        self.operations += [operation.decode() for operation in re.findall(rb'"op":"(\w+)"', data)]
        return super().write(file, data)


async def test_stream_is_finished_after_its_last_commit(out: Path):
    api, fs = FakeApi(), RecordingFileSystem()
    api.records = {region: [{"id": region, "text": "x" * 9_000_000}] for region in range(8)}

    await Regions(api, 8).extract(to=JsonLines(out, fsync="full", fs=fs))

    assert fs.operations.count("commit") > 1
    assert [operation for operation in fs.operations if operation != "begin"][-2:] == ["finish", "end"]
