"""Harness of the crash tests: an API, an extraction of it into files, and file systems that fail."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from asyncstreams import HttpStream, JsonLines, NumberRanges, OutputWriteError, PageNumber, RequestContext, Source
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.storage.filesystem import FileSystem

zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
PAGES, SIZE = 3, 2


class ProcessKilled(BaseException):
    """Stands for the end of the process: nothing may run after it."""


class RegionsApi:
    """Customers in four regions (replaced), events with a growing number (incremental), and tags in one long slice."""

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.requests: list[str] = []

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """All rows of a stream."""
        if stream == "customers":
            return [{"id": f"v{self.version}-{r}-{n}", "region": r} for r in range(4) for n in range(PAGES * SIZE)]
        if stream == "events":
            return [{"id": n, "number": n, "note": "é\n"} for n in range(24 * self.version)]
        return [{"id": f"v{self.version}-{n}"} for n in range(5 * SIZE)]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        stream, params = request.url.path.strip("/"), dict(request.url.params)
        self.requests.append(f"{stream} {params.get('region', '')}{params.get('since', '')}")
        rows = self.rows(stream)
        if "region" in params:
            rows = [row for row in rows if row["region"] == int(params["region"])]
        if "since" in params:
            rows = [row for row in rows if int(params["since"]) <= row["number"] < int(params["until"])]
        page = int(params["page"])
        return httpx.Response(200, json=rows[(page - 1) * SIZE : page * SIZE])


class PagedStream(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    paginator = PageNumber()

    def path(self, context: RequestContext) -> str:
        return self.name


class Customers(PagedStream):
    def stream_slices(self, state: Any) -> Any:
        return [{"region": number} for number in range(4)]

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"region": context.stream_slice["region"]}


class Events(PagedStream):
    cursor_field = "number"
    cursor_format = "number"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        since, until = context.stream_slice.bounds or (0, 0)
        return {"since": since, "until": until}


class Tags(PagedStream):
    state_checkpoint_interval = 1


NAMES = ("customers", "events", "tags")


@dataclass
class CrashHarness:
    """One output, and the API whose records it must contain."""

    out: Path
    api: RegionsApi = field(default_factory=RegionsApi)
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = NAMES

    async def extract(self, fs: Any = None) -> Any:
        transport = httpx.MockTransport(self.api)
        events = Events(transport=transport)
        events.windows = NumberRanges(step=6, end=24 * self.api.version)
        streams = [Customers(transport=transport), events, Tags(transport=transport)]
        return await Source(streams, seed=1).extract(to=self.destination(fs))

    def destination(self, fs: Any = None) -> Any:
        """The destination; `fs` is the file system that fails."""
        options = dict(self.options)
        kind = options.pop("kind", JsonLines)
        return kind(self.out, fs=fs or FileSystem(), **{"fsync": "full", "compression": None, **options})

    def read_ledger(self) -> Ledger:
        """The ledger as the journal records it."""
        return Journal(FileSystem(), self.out / ".asyncstreams", synced=False).recover()

    def finished_requests(self) -> set[str]:
        """What later runs must not request again, in the form in which the API records requests."""
        found: set[str] = set()
        ledger = self.read_ledger()
        for name, stream in ledger.streams.items():
            if not stream.is_open and ledger.names and stream.is_read:
                found.add(name)
            for entry in stream.state.to_json():
                if name == "customers" and stream.is_open and not entry.get("done") and "resume" not in entry:
                    found.add(f"customers {entry['partition']['region']}")
        return found

    def visible_ids(self, name: str) -> list[Any]:
        """The ids in all visible files of a stream."""
        return [row["id"] for path in sorted(self.out.glob(f"{name}/part-*")) for row in lines_of(path)]

    def manifest(self, name: str) -> dict[str, Any] | None:
        path = self.out / ".asyncstreams" / "streams" / name / "manifest.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def check_invariants(self) -> None:
        """Assert what holds at any moment: manifests match the files, and no id is twice in a generation."""
        for name in self.names:
            manifest = self.manifest(name) or {"parts": []}
            for part in manifest["parts"]:
                content = (self.out / name / part["file"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == part["sha256"]
                assert len(content) == part["bytes"]
                assert len(list(lines_of(self.out / name / part["file"]))) == part["rows"]
            generations: defaultdict[str, list[Any]] = defaultdict(list)
            for path in self.out.glob(f"{name}/part-*"):
                generations[path.name.split("-")[1]] += [row["id"] for row in lines_of(path)]
            for ids in generations.values():
                assert [id_ for id_, count in Counter(ids).items() if count > 1] == []

    def check_complete(self) -> None:
        """Assert that the files hold exactly the records of the API, and that manifest and journal agree."""
        self.check_invariants()
        ledger = self.read_ledger()
        assert list(ledger.names) == []
        for name in self.names:
            assert Counter(self.visible_ids(name)) == Counter(row["id"] for row in self.api.rows(name)), name
            manifest = self.manifest(name)
            assert manifest is not None
            assert manifest["complete"]
            files = sorted(path.name for path in self.out.glob(f"{name}/part-*"))
            assert files == sorted(part["file"] for part in manifest["parts"])
            assert files == sorted(part.name for part in ledger.streams[name].parts.visible)
        assert list((self.out / ".asyncstreams" / "in-progress").iterdir()) == []


async def run_with_fault(harness: CrashHarness, faulty: Any) -> None:
    """Run an extraction that the fault may end."""
    with suppress(ProcessKilled, OutputWriteError):
        await harness.extract(faulty)


async def break_each_operation(
    new_harness: Callable[[int], CrashHarness],
    new_fault: Callable[[int, str], Any],
    fault: str,
    version: int,
    chance: random.Random,
    *,
    step: Callable[[], int],
    step_back: int,
    recovery_faults: int,
    max_recovery_operation: int,
) -> tuple[int, int]:
    """Break one operation after the other, each with a harness of its own, until a run has fewer operations.

    After each fault, `recovery_faults` more runs break at an operation up to `max_recovery_operation`; the run after
    them must complete. `step()` is the distance to the next operation. Whether an operation comes after a commit
    depends on timing: if none of the sample did, the search goes back by `step_back` until one does.

    Returns the number of operations of a run, and the number of finished requests that were not repeated.
    """
    at, finished, operations = chance.randint(1, 12), 0, 0
    for number in count():
        harness = new_harness(number)
        if version == 2:
            await harness.extract()
            harness.api.version = 2
        faulty = new_fault(at, fault)
        await run_with_fault(harness, faulty)
        if faulty.was_triggered:
            harness.check_invariants()
            for _ in range(recovery_faults):
                operation, kind = chance.randint(1, max_recovery_operation), chance.choice(("before", "after", "torn"))
                await run_with_fault(harness, new_fault(operation, kind))
                harness.check_invariants()
            done = harness.finished_requests()
            finished += len(done)
            harness.api.requests.clear()

            await harness.extract()

            assert [name for name in harness.api.requests if name in done or name.split()[0] in done] == []
            harness.check_complete()
        operations = operations or (0 if faulty.was_triggered else at)
        if not operations:
            at += step()
        elif finished or at < operations // 2:
            break
        else:
            at -= step_back
    return operations, finished


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from import_module("pyarrow.parquet").read_table(path).to_pylist()
        return
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = zstd.decompress(content)
    assert not content or content.endswith(b"\n")
    for line in content.splitlines():
        yield json.loads(line)


class FaultyFileSystem(FileSystem):
    """A file system whose operation number `at` fails in the given way.

    "before", "after" and "torn" kill the process: before the operation, after it, or in the middle of a write. A name
    of errno makes the operation fail with that error. "short" writes fewer bytes than it was given.
    """

    def __init__(self, at: int = 0, way: str = "before") -> None:
        self.at, self.way = at, way
        self.count = 0
        self.is_dead = False
        self.was_triggered = False

    def _do(self, operation: Callable[[], Any], torn: Callable[[], Any] | None = None) -> Any:
        if self.is_dead:
            raise ProcessKilled
        self.count += 1
        if self.count != self.at:
            return operation()
        self.was_triggered = True
        if self.way in ("before", "after", "torn"):
            self.is_dead = True
            if self.way == "after":
                operation()
            elif self.way == "torn" and torn is not None:
                torn()
            raise ProcessKilled
        if self.way == "short":
            return operation() if torn is None else torn()
        raise OSError(getattr(errno, self.way), os.strerror(getattr(errno, self.way)))

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        self._do(lambda: super(FaultyFileSystem, self).make_folder(path, mode))

    def create(self, path: Path, mode: int = 0o600) -> int:
        return int(self._do(lambda: super(FaultyFileSystem, self).create(path, mode)))

    def write(self, file: int, data: bytes | memoryview) -> int:
        half = memoryview(data)[: max(1, len(data) // 2)]
        return int(
            self._do(
                lambda: super(FaultyFileSystem, self).write(file, data),
                lambda: super(FaultyFileSystem, self).write(file, half),
            )
        )

    def sync(self, file: int) -> None:
        self._do(lambda: super(FaultyFileSystem, self).sync(file))

    def close(self, file: int) -> None:
        if self.is_dead:
            os.close(file)  # the operating system closes the files of a killed process
            return
        try:
            self._do(lambda: None)
        finally:
            os.close(file)

    def rename(self, path: Path, to: Path) -> None:
        self._do(lambda: super(FaultyFileSystem, self).rename(path, to))

    def unlink(self, path: Path) -> None:
        self._do(lambda: super(FaultyFileSystem, self).unlink(path))

    def sync_folder(self, path: Path) -> None:
        self._do(lambda: super(FaultyFileSystem, self).sync_folder(path))


class PowerLossFileSystem(FaultyFileSystem):
    """A file system that knows what a loss of power would leave: everything synced, and any part of the rest.

    Files are identified by a number, as by an inode. A name that was added to a folder or removed from it is certain
    once the folder is synced; before that the change may be lost. Data written to a file since its last sync may be
    there in part, or be replaced by zeros.
    """

    def __init__(self, at: int, seed: int) -> None:
        super().__init__(at, "after")
        self.random = random.Random(seed)
        self.content: dict[int, bytearray] = {}
        self.synced: dict[int, int] = {}
        self.files: dict[int, int] = {}
        self.durable: dict[Path, int] = {}
        self.pending: list[tuple[str, Path, int, Path | None]] = []  # action, name, file, source of a rename
        self.new_folders: list[Path] = []

    @classmethod
    def holding(cls, root: Path, at: int, seed: int) -> PowerLossFileSystem:
        """A file system that holds the files below `root`, all of them synced."""
        fs = cls(at, seed)
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "lock":
                number, content = len(fs.content), path.read_bytes()
                fs.content[number], fs.synced[number] = bytearray(content), len(content)
                fs.durable[path] = number
        return fs

    def _current_names(self) -> dict[Path, int]:
        names = dict(self.durable)
        for action, path, number, source in self.pending:
            if action == "add":
                names[path] = number
                if source is not None and names.get(source) == number:
                    del names[source]
            elif names.get(path) == number:
                del names[path]
        return names

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        created = [folder for folder in (path, *path.parents) if not folder.exists()]
        super().make_folder(path, mode)
        self.new_folders += created

    def create(self, path: Path, mode: int = 0o600) -> int:
        file = super().create(path, mode)
        number = len(self.content)
        self.content[number], self.synced[number], self.files[file] = bytearray(), 0, number
        self.pending.append(("add", path, number, None))
        return file

    def write(self, file: int, data: bytes | memoryview) -> int:
        written = super().write(file, data)
        self.content[self.files[file]] += data[:written]
        return written

    def sync(self, file: int) -> None:
        super().sync(file)
        number = self.files[file]
        self.synced[number] = len(self.content[number])

    def rename(self, path: Path, to: Path) -> None:
        number = self._current_names()[path]
        super().rename(path, to)
        self.pending.append(("add", to, number, path))

    def unlink(self, path: Path) -> None:
        number = self._current_names().get(path)
        super().unlink(path)
        if number is not None:
            self.pending.append(("remove", path, number, None))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.new_folders = [folder for folder in self.new_folders if folder.parent != path]
        left: list[tuple[str, Path, int, Path | None]] = []
        for action, name, number, source in self.pending:
            if name.parent == path:
                if action == "add":
                    self.durable[name] = number
                    if source is not None and source.parent == path:
                        self.durable.pop(source, None)
                    elif source is not None:
                        left.append(("remove", source, number, None))
                elif self.durable.get(name) == number:
                    del self.durable[name]
            elif source is not None and source.parent == path:
                # The removal of the old name is certain now; the new name is not.
                if self.durable.get(source) == number:
                    del self.durable[source]
                left.append((action, name, number, None))
            else:
                left.append((action, name, number, source))
        self.pending = left

    def lose_power(self, root: Path) -> None:
        """Replace the files below `root` by what a loss of power could leave."""
        names = dict(self.durable)
        for action, path, number, source in self.pending:
            if self.random.random() < 0.5:
                if action == "add":
                    names[path] = number
                    if source is not None and self.random.random() < 0.5 and names.get(source) == number:
                        del names[source]
                elif names.get(path) == number:
                    del names[path]
        for path in [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]:
            path.unlink()
        lost = {folder for folder in self.new_folders if self.random.random() < 0.5}
        for path, number in names.items():
            if not lost.isdisjoint(path.parents):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            content, synced = bytes(self.content[number]), self.synced[number]
            kept = self.random.randint(synced, len(content))
            zeros = bytes(len(content) - kept) if self.random.random() < 0.5 else b""
            path.write_bytes(content[:kept] + zeros)
