"""Does `extract` leave files that hold what the API has, and go on where an earlier run ended?"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from crash_harness import CrashHarness, FaultyFileSystem, ProcessKilled, RegionsApi, lines_of
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import (
    ConfigError,
    HttpStatusError,
    HttpStream,
    JsonLines,
    OutputLocked,
    OutputMissing,
    OutputWriteError,
    PageNumber,
    PartialFailure,
    Source,
    StateCorrupt,
    StateIncompatible,
    TokenAuthenticator,
)
from asyncstreams.destinations.output_folder import folder_name
from asyncstreams.storage.file_lock import OutputLock
from asyncstreams.storage.filesystem import FileSystem


class Regions(HttpStream):
    """One slice for each region, of one page."""

    url_base = "https://api.test/"
    primary_key = "id"
    max_concurrency = 4

    def __init__(self, answer: Any, regions: int = 4, **options: Any) -> None:
        super().__init__(transport=httpx.MockTransport(answer), **options)
        self.regions = regions

    def path(self, context: Any) -> Any:
        return ("regions", context.stream_slice["region"])

    def stream_slices(self, state: Any) -> Any:
        return [{"region": number} for number in range(self.regions)]


class Answers:
    """Two records for each region; those of some regions fail."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.asked: list[int] = []
        self.records: dict[int, list[Any]] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        region = int(request.url.path.rpartition("/")[2])
        self.asked.append(region)
        if region in self.broken:
            return httpx.Response(400)
        default = [{"id": f"{region}-{n}"} for n in range(2)]
        return httpx.Response(200, json=self.records.get(region, default))


def ids(out: Path, stream: str = "regions", kind: str = "part") -> list[Any]:
    return sorted(row["id"] for path in out.glob(f"{stream}/{kind}-*") for row in lines_of(path))


def files(out: Path, pattern: str) -> list[Path]:
    return sorted(out.glob(pattern))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def until(happened: Callable[[], Any]) -> None:
    while not happened():  # noqa: ASYNC110  nobody tells of files
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
    world = CrashHarness(out)

    report = await world.extract()

    world.check_complete()
    told = {one.stream: one.written for one in report.streams}
    assert {name: (one.rows, one.path) for name, one in told.items()} == {
        "customers": (24, out / "customers"),
        "events": (24, out / "events"),
        "tags": (10, out / "tags"),
    }
    assert told["tags"].bytes == sum(path.stat().st_size for path in files(out, "tags/part-*"))
    parts = len(files(out, "customers/part-*"))
    assert f"24 rows in {parts} {'part' if parts == 1 else 'parts'}, " in str(report)


async def test_stream_names_that_differ_only_in_case_are_refused(out: Path):
    answers = Answers()
    await Regions(answers).extract(to=JsonLines(out))

    other = Regions(answers)
    other.name = "Regions"
    with pytest.raises(ConfigError, match="streams 'regions' and 'Regions' would share a folder") as caught:
        await other.extract(to=JsonLines(out))

    assert "another `name`" in str(caught.value)
    assert ids(out) == all_of(0, 1, 2, 3)


@pytest.mark.skipif(os.name != "posix", reason="modes are posix's")
async def test_files_are_readable_by_their_owner_only(out: Path):
    await CrashHarness(out).extract()

    assert {mode_of(path) for path in files(out, "**/*") if path.is_file()} == {0o600}
    assert mode_of(out / ".asyncstreams") == 0o700


async def test_full_refresh_replaces_old_parts_once_complete(out: Path):
    answers = Answers()
    await Regions(answers).extract(to=JsonLines(out))
    answers.records = {region: [{"id": f"new-{region}"}] for region in range(4)}
    answers.broken = {3}

    with pytest.raises(PartialFailure):
        await Regions(answers).extract(to=JsonLines(out))
    while_failing = ids(out)
    answers.broken = set()
    await Regions(answers).extract(to=JsonLines(out))

    assert while_failing == all_of(0, 1, 2, 3)
    assert ids(out) == [f"new-{region}" for region in range(4)]
    manifest = json.loads((out / "regions" / "manifest.json").read_bytes())
    assert (manifest["generation"], manifest["complete"], manifest["rows"]) == (2, True, 4)


async def test_first_extraction_publishes_parts_despite_failures(out: Path):
    with pytest.raises(PartialFailure) as failure:
        await Regions(Answers(1)).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 2, 3)
    assert json.loads((out / "regions" / "manifest.json").read_bytes())["complete"] is False
    (told,) = failure.value.report.streams
    assert (told.failed, told.written.rows) == (1, 6)


async def test_next_run_requests_only_failed_slices(out: Path):
    answers = Answers(1, 2)
    with pytest.raises(PartialFailure):
        await Regions(answers).extract(to=JsonLines(out))
    answers.broken, answers.asked = set(), []

    await Regions(answers).extract(to=JsonLines(out))

    assert sorted(answers.asked) == [1, 2]
    assert ids(out) == all_of(0, 1, 2, 3)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)), st.sets(st.integers(0, 4)))
async def test_next_run_requests_the_rest_in_any_finish_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], failing: set[int]
):
    out = tmp_path_factory.mktemp("out")
    answers = Answers(*failing)

    async def in_order(request: httpx.Request) -> httpx.Response:
        region = int(request.url.path.rpartition("/")[2])
        for _ in range(3 * order.index(region)):
            await asyncio.sleep(0)
        return answers(request)

    stream = Regions(in_order, 5)
    try:
        await stream.extract(to=JsonLines(out, fsync="none"))
    except (PartialFailure, HttpStatusError):
        assert failing
    answers.broken, answers.asked = set(), []
    await stream.extract(to=JsonLines(out, fsync="none"))

    assert sorted(answers.asked) == (sorted(failing) if failing else list(range(5)))
    assert ids(out) == all_of(*range(5))


async def test_resumed_run_skips_streams_already_read(out: Path):
    api = RegionsApi()

    class Dying(FaultyFileSystem):
        """Lives until a stream has been finished."""

        def rename(self, path: Path, to: Path) -> None:
            super().rename(path, to)
            self.is_dead = to.name == "manifest.json"

    with pytest.raises(ProcessKilled):
        await CrashHarness(out, api).extract(Dying())
    ledger = CrashHarness(out, api).read_ledger()
    read = {name for name, one in ledger.streams.items() if one.is_read}
    api.requests.clear()

    report = await CrashHarness(out, api).extract()

    assert read
    assert not {asked.split()[0] for asked in api.requests} & read
    CrashHarness(out, api).check_complete()
    assert {one.stream for one in report.streams if one.written.was_read} == read
    assert "already complete" in str(report)


async def test_finished_run_is_followed_by_a_full_read(out: Path):
    answers = Answers()
    for _ in range(2):
        await Regions(answers).extract(to=JsonLines(out))

    assert Counter(answers.asked) == dict.fromkeys(range(4), 2)
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_incremental_stream_appends_new_records(out: Path):
    world = CrashHarness(out)
    await world.extract()
    before = sorted(path.name for path in files(out, "events/part-*"))
    world.api.version = 2
    world.api.requests.clear()

    await world.extract()

    assert {asked for asked in world.api.requests if asked.startswith("events")} == {
        f"events {since}" for since in range(24, 48, 6)
    }
    assert sorted(path.name for path in files(out, "events/part-*"))[: len(before)] == before
    world.check_complete()


async def test_append_mode_adds_to_earlier_run(out: Path):
    for _ in range(2):
        await Regions(Answers()).extract(to=JsonLines(out, mode="append"))

    assert ids(out) == sorted(all_of(0, 1, 2, 3) * 2)


async def test_fail_mode_refuses_existing_but_resumes_unfinished(out: Path):
    answers = Answers(1)
    with pytest.raises(PartialFailure):
        await Regions(answers).extract(to=JsonLines(out, mode="fail"))
    answers.broken = set()
    await Regions(answers).extract(to=JsonLines(out, mode="fail"))

    with pytest.raises(ConfigError, match=r"out already contains stream"):
        await Regions(answers).extract(to=JsonLines(out, mode="fail"))
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_append_to_unfinished_replacement_is_refused(out: Path):
    with pytest.raises(PartialFailure):
        await Regions(Answers(1)).extract(to=JsonLines(out))

    with pytest.raises(ConfigError, match="has not finished stream"):
        await Regions(Answers()).extract(to=JsonLines(out, mode="append"))


async def test_resume_false_starts_unfinished_run_over(out: Path):
    answers = Answers(1)
    with pytest.raises(PartialFailure):
        await Regions(answers).extract(to=JsonLines(out))
    answers.broken, answers.asked = set(), []

    await Regions(answers).extract(to=JsonLines(out, resume=False))

    assert sorted(answers.asked) == [0, 1, 2, 3]
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_ended_slices_are_committed_without_further_pages(out: Path):
    may_end = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/1"):
            await may_end.wait()
        return Answers()(request)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(Regions(answer).extract(to=JsonLines(out)))
        await until(lambda: files(out, "regions/part-*"))
        before = ids(out)
        may_end.set()

    assert before == all_of(0, 2, 3)
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_slow_disk_delays_end_of_run_until_files_written(out: Path, monkeypatch: pytest.MonkeyPatch):
    class Slow(FileSystem):
        def sync(self, file: int) -> None:
            time.sleep(0.1)

    monkeypatch.setattr("asyncstreams.extraction.extraction._SHUTDOWN_GRACE_S", 0.01)
    answers = Answers()

    await Regions(answers).extract(to=JsonLines(out, fsync="full", fs=Slow()))
    asked = len(answers.asked)
    written = ids(out)
    await Regions(answers).extract(to=JsonLines(out))

    assert written == all_of(0, 1, 2, 3)
    assert len(answers.asked) == 2 * asked  # it had come to its end, and so the second read all anew


async def test_cancelled_run_with_stuck_disk_ends_within_grace(
    out: Path, monkeypatch: pytest.MonkeyPatch
):
    may_write = threading.Event()

    answers = Answers()

    class Stuck(FileSystem):
        is_stuck = False

        def sync(self, file: int) -> None:
            if answers.asked:
                self.is_stuck = True
                may_write.wait(10)

    monkeypatch.setattr("asyncstreams.extraction.extraction._SHUTDOWN_GRACE_S", 0.01)
    fs = Stuck()
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))

    task = asyncio.create_task(Regions(answers).extract(to=JsonLines(out, fs=fs)))
    await until(lambda: fs.is_stuck)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    may_write.set()
    await until(lambda: not is_locked(out))
    await Regions(Answers()).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 1, 2, 3)
    assert failed == []


async def test_interrupted_slice_resumes_from_last_checkpoint(out: Path):
    asked: list[int] = []
    is_open = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params["page"])
        asked.append(page)
        if page == 6:
            await is_open.wait()
        return httpx.Response(200, json=[{"id": f"{page}-{n}"} for n in range(2 if page < 8 else page == 8)])

    def tags() -> HttpStream:
        stream = Regions(answer, regions=1)
        stream.paginator, stream.parallel_pages = PageNumber(size=2), False
        stream.state_checkpoint_interval = 6  # after page 3, and after page 6
        return stream

    task = asyncio.create_task(tags().extract(to=JsonLines(out)))
    await until(lambda: 6 in asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    was_asked, asked[:] = asked[:], []
    is_open.set()
    await tags().extract(to=JsonLines(out))

    assert was_asked == [1, 2, 3, 4, 5, 6]
    assert asked == [4, 5, 6, 7, 8, 9]
    assert ids(out) == sorted(f"{page}-{n}" for page in range(1, 9) for n in range(2 if page < 8 else 1))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_parts_are_compressed_and_split_by_size(out: Path, compression: Any):
    answers = Answers()
    text = os.urandom(300_000).hex()
    answers.records = {region: [{"id": f"{region}-{n}", "text": text} for n in range(2)] for region in range(4)}

    await Regions(answers).extract(to=JsonLines(out, compression=compression, part_size=2**20))

    parts = files(out, "regions/part-*")
    assert len(parts) > 2
    assert {path.name.partition(".")[2] for path in parts} == {{"gzip": "jsonl.gz", "zstd": "jsonl.zst"}[compression]}
    assert sum(path.stat().st_size for path in parts) < 8 * len(text) * 0.7
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_large_failed_slices_leave_no_records(out: Path):
    class Large(Regions):
        def next_page_token(self, response: Any, context: Any) -> Any:
            page = (context.next_page_token or {"page": 0})["page"] + 1
            return {"page": page} if page < 12 else None

        def request_params(self, context: Any) -> Any:
            return context.next_page_token

    text = "x" * 1_000_000

    def answer(request: httpx.Request) -> httpx.Response:
        region, page = int(request.url.path.rpartition("/")[2]), int(request.url.params.get("page", 0))
        if region == 2 and page == 11:
            return httpx.Response(400)
        return httpx.Response(200, json=[{"id": f"{region}-{page:02}", "text": text}])

    with pytest.raises(PartialFailure):
        await Large(answer).extract(to=JsonLines(out))

    assert ids(out, "large") == [f"{region}-{page:02}" for region in (0, 1, 3) for page in range(12)]
    assert len(files(out, "large/part-*")) >= 3


async def test_invalid_records_are_written_to_quarantine_files(out: Path):
    class Checked(Regions):
        name = "regions"
        validation = "quarantine"

        def get_json_schema(self) -> Any:
            return {"properties": {"id": {"type": "string"}}}

    answers = Answers()
    answers.records = {2: [{"id": 7}, {"id": "2-0"}]}

    report = await Checked(answers).extract(to=JsonLines(out))

    assert ids(out) == sorted([*all_of(0, 1, 3), "2-0"])
    (path,) = files(out, "regions/quarantined-*")
    (line,) = lines_of(path)
    assert line == {
        "record": {"id": 7},
        "problems": [{"pointer": "/id", "keyword": "type", "detail": line["problems"][0]["detail"]}],
    }
    manifest = json.loads((out / "regions" / "manifest.json").read_bytes())
    assert [part["rows"] for part in manifest["quarantined"]] == [1]
    assert report.streams[0].written.quarantined == 1


async def test_numbers_and_text_are_written_unchanged(out: Path):
    answers = Answers()
    record = {"id": "0", "big": 2**64 + 1, "small": 1e-300, "text": 'é\n"\u2028\\', "none": None, "deep": [[{}]]}
    answers.records = {0: [record]}

    await Regions(answers, 1).extract(to=JsonLines(out))

    (path,) = files(out, "regions/part-*")
    assert json.loads(path.read_bytes()) == record


async def test_unencodable_record_error_names_stream_and_page(out: Path):
    class Odd(Regions):
        def parse_response(self, response: Any, context: Any) -> Any:
            return [{"id": float("nan")}]

    with pytest.raises(ConfigError, match=r"has no form in JSON: .*nan") as error:
        await Odd(Answers()).extract(to=JsonLines(out))
    assert error.value.stream == "odd"
    assert error.value.page == 0


async def test_unencodable_quarantined_record_fails_and_run_resumes(out: Path):
    class Odd(Regions):
        name = "regions"
        validation = "quarantine"
        odd = True

        def parse_response(self, response: Any, context: Any) -> Any:
            return [{"id": float("nan")}] if self.odd and context.stream_slice["region"] == 3 else response.json()

        def get_json_schema(self) -> Any:
            return {"properties": {"id": {"type": "string"}}}

    answers = Answers()
    stream = Odd(answers, max_concurrency=1)
    with pytest.raises(ConfigError, match=r"has no form in JSON: .*nan") as error:
        await stream.extract(to=JsonLines(out))
    answers.asked, stream.odd = [], False
    await stream.extract(to=JsonLines(out))

    assert error.value.stream_slice == {"region": 3}
    assert answers.asked == [3]
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_second_writer_gets_holder_of_lock(out: Path):
    may_end = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        await may_end.wait()
        return Answers()(request)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(Regions(answer).extract(to=JsonLines(out)))
        await until(lambda: files(out, "regions"))
        with pytest.raises(OutputLocked) as locked:
            await Regions(answer).extract(to=JsonLines(out))
        may_end.set()
    assert str(os.getpid()) in locked.value.holder
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", locked.value.since or "")
    assert first.result().streams[0].written is not None
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_missing_part_is_reported_before_any_request(out: Path):
    answers = Answers()
    await Regions(answers).extract(to=JsonLines(out))
    (part,) = files(out, "regions/part-*")
    part.unlink()
    answers.asked = []

    with pytest.raises(OutputMissing, match=str(part)):
        await Regions(answers).extract(to=JsonLines(out, mode="append"))
    asked = answers.asked[:]
    await Regions(answers).extract(to=JsonLines(out, mode="append", ignore_missing_parts=True))

    assert asked == []
    assert ids(out) == all_of(0, 1, 2, 3)


async def test_full_disk_error_names_path_and_next_run_completes(out: Path):
    world = CrashHarness(out)
    await world.extract()
    world.api.version = 2

    with pytest.raises(OutputWriteError, match=r"No space left on device") as error:
        await world.extract(FaultyFileSystem(25, "ENOSPC"))
    world.check_invariants()
    await world.extract()

    assert str(out) in str(error.value)
    assert re.search(r"[\d,]+ bytes were to be written", str(error.value))
    world.check_complete()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_unwritable_folder_raises_output_write_error(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputWriteError, match="Permission denied"):
            asyncio.run(Regions(Answers()).extract(to=JsonLines(tmp_path / "out")))
    finally:
        tmp_path.chmod(0o700)


async def test_path_that_is_a_file_raises_output_write_error(tmp_path: Path):
    (tmp_path / "out").write_text("")

    with pytest.raises(OutputWriteError, match="out"):
        await Regions(Answers()).extract(to=JsonLines(tmp_path / "out"))


async def test_append_with_other_url_or_credential_is_refused(out: Path):
    def stream(token: str, base: str = "https://api.test/") -> HttpStream:
        made = Regions(Answers(), authenticator=TokenAuthenticator(token))
        made.url_base = base
        return made

    await stream("secret-1").extract(to=JsonLines(out, mode="append"))

    with pytest.raises(StateIncompatible) as other_account:
        await stream("secret-2").extract(to=JsonLines(out, mode="append"))
    with pytest.raises(StateIncompatible) as other_url:
        await stream("secret-1", "https://other.test/").extract(to=JsonLines(out, mode="append"))
    await stream("secret-2").extract(to=JsonLines(out, mode="append", allow_credential_change=True))
    await stream("secret-2").extract(to=JsonLines(out, mode="append"))

    assert other_account.value.field == "credential"
    assert other_url.value.field == "url_base"
    assert ids(out) == sorted(all_of(0, 1, 2, 3) * 3)
    assert not any(b"secret-" in path.read_bytes() for path in files(out, "**/*") if path.is_file())


async def test_replacement_with_other_credential_is_accepted(out: Path):
    for token in ("one", "two"):
        await Regions(Answers(), authenticator=TokenAuthenticator(token)).extract(to=JsonLines(out))

    assert ids(out) == all_of(0, 1, 2, 3)


async def test_damaged_journal_is_left_unchanged_without_requests(out: Path):
    world = CrashHarness(out)
    await world.extract()
    (path,) = (out / ".asyncstreams").glob("journal-*")
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    damaged = path.read_bytes()
    world.api.requests.clear()

    with pytest.raises(StateCorrupt, match=r"the last good snapshot is .*snapshot-1"):
        await world.extract()

    assert path.read_bytes() == damaged
    assert world.api.requests == []


async def test_damaged_snapshot_error_names_last_good_one(out: Path):
    world = CrashHarness(out)
    for _ in range(2):
        await world.extract()
    path = out / ".asyncstreams" / "snapshot-2"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(StateCorrupt, match=r"snapshot-2 is corrupt: .*the last good snapshot is .*snapshot-1"):
        await world.extract()


async def test_truncated_journal_is_detected_by_unknown_parts(out: Path):
    await Regions(Answers()).extract(to=JsonLines(out))
    (journal,) = (out / ".asyncstreams").glob("journal-*")
    journal.write_bytes(journal.read_bytes()[:60])

    with pytest.raises(StateCorrupt, match="has lost its last records"):
        await Regions(Answers()).extract(to=JsonLines(out))


async def test_output_of_newer_format_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setattr("asyncstreams.destinations.journal._FORMAT", 3)
        await Regions(Answers()).extract(to=JsonLines(out))

    with pytest.raises(StateIncompatible, match="format") as error:
        await Regions(Answers()).extract(to=JsonLines(out))
    assert error.value.field == "format"


async def test_foreign_files_are_left_in_place(out: Path):
    (out / "regions").mkdir(parents=True)
    (out / "regions" / "notes.txt").write_text("mine")
    for _ in range(2):
        await Regions(Answers()).extract(to=JsonLines(out))

    assert (out / "regions" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a/b", "a%2Fb"), ("..", "%2E."), (".asyncstreams", "%2Easyncstreams"), ("Ünï", "%C3%9Cn%C3%AF"), ("a b", "a b")],
)
async def test_stream_name_is_escaped_in_folder_name(out: Path, name: str, folder: str):
    stream = Regions(Answers())
    stream.name = name

    await stream.extract(to=JsonLines(out))

    assert folder_name(name) == folder
    assert ids(out, folder) == all_of(0, 1, 2, 3)


async def test_unavailable_stream_is_skipped_and_reported(out: Path):
    class Secret(Regions):
        pass

    report = await Source([Regions(Answers()), Secret(lambda _: httpx.Response(403))]).extract(to=JsonLines(out))

    assert list(report.unavailable) == ["secret"]
    assert [one.stream for one in report.streams] == ["regions"]
    assert ids(out) == all_of(0, 1, 2, 3)


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("out/", r"JsonLines\('out/'\)"),
        (Path("out"), r"JsonLines\('out'\)"),
        (JsonLines, "JsonLines is not a destination"),
        (None, "NoneType is not a destination"),
    ],
)
async def test_invalid_destination_error_suggests_a_valid_one(to: Any, told: str):
    with pytest.raises(ConfigError, match=told):
        await Regions(Answers()).extract(to=to)


async def test_state_argument_with_files_is_refused(out: Path):
    with pytest.raises(ConfigError, match="keeps its own state"):
        await Source([Regions(Answers())]).extract(to=JsonLines(out), state={})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"mode": "overwrite"}, {"compression": "bz2"}, {"fsync": True}, {"part_size": 10}, {"part_size": "1 MB"}],
)
def test_invalid_jsonlines_option_raises_config_error(options: Any):
    with pytest.raises(ConfigError, match=next(iter(options))):
        JsonLines("out", **options)
