"""An API, a source that reads it into files, and disks that break: what tests of crashes have in common."""

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


class Killed(BaseException):
    """The process is gone; what runs after this is not there."""


class Api:
    """Customers of four regions that are replaced, events with a number that grows, and tags in one long slice."""

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.asked: list[str] = []

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """All that there is."""
        if stream == "customers":
            return [{"id": f"v{self.version}-{r}-{n}", "region": r} for r in range(4) for n in range(PAGES * SIZE)]
        if stream == "events":
            return [{"id": n, "number": n, "note": "é\n"} for n in range(24 * self.version)]
        return [{"id": f"v{self.version}-{n}"} for n in range(5 * SIZE)]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        stream, params = request.url.path.strip("/"), dict(request.url.params)
        self.asked.append(f"{stream} {params.get('region', '')}{params.get('since', '')}")
        rows = self.rows(stream)
        if "region" in params:
            rows = [row for row in rows if row["region"] == int(params["region"])]
        if "since" in params:
            rows = [row for row in rows if int(params["since"]) <= row["number"] < int(params["until"])]
        page = int(params["page"])
        return httpx.Response(200, json=rows[(page - 1) * SIZE : page * SIZE])


class Listed(HttpStream):
    url_base = "https://api.test/"
    primary_key = "id"
    paginator = PageNumber()

    def path(self, context: RequestContext) -> str:
        return self.name


class Customers(Listed):
    def stream_slices(self, state: Any) -> Any:
        return [{"region": number} for number in range(4)]

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"region": context.stream_slice["region"]}


class Events(Listed):
    cursor_field = "number"
    cursor_format = "number"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        since, until = context.stream_slice.bounds or (0, 0)
        return {"since": since, "until": until}


class Tags(Listed):
    state_checkpoint_interval = 1


NAMES = ("customers", "events", "tags")


@dataclass
class World:
    """One output, and the API of which it is to be a copy."""

    out: Path
    api: Api = field(default_factory=Api)
    options: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = NAMES

    async def extract(self, fs: Any = None) -> Any:
        transport = httpx.MockTransport(self.api)
        events = Events(transport=transport)
        events.windows = NumberRanges(step=6, end=24 * self.api.version)
        streams = [Customers(transport=transport), events, Tags(transport=transport)]
        return await Source(streams, seed=1).extract(to=self.destination(fs))

    def destination(self, fs: Any = None) -> Any:
        """Where to; `fs` is what breaks."""
        options = dict(self.options)
        kind = options.pop("kind", JsonLines)
        return kind(self.out, fs=fs or FileSystem(), **{"fsync": "full", "compression": None, **options})

    def known(self) -> Ledger:
        """What the journal says."""
        return Journal(FileSystem(), self.out / ".asyncstreams", synced=False).recover()

    def done(self) -> set[str]:
        """What no request may ask for again, as the API notes what it is asked for."""
        found: set[str] = set()
        ledger = self.known()
        for name, one in ledger.streams.items():
            if not one.is_open and ledger.names and one.is_read:
                found.add(name)
            for told in one.state.to_json():
                if name == "customers" and one.is_open and not told.get("done") and "resume" not in told:
                    found.add(f"customers {told['partition']['region']}")
        return found

    def visible(self, name: str) -> list[Any]:
        """The ids in all files of a stream that anybody can see."""
        return [row["id"] for path in sorted(self.out.glob(f"{name}/part-*")) for row in lines_of(path)]

    def manifest(self, name: str) -> dict[str, Any] | None:
        path = next(iter((self.out / name).glob("*manifest.json")), self.out / name / "none")
        return json.loads(path.read_bytes()) if path.exists() else None

    def check_now(self) -> None:
        """What must hold at any moment: what the manifests name is there, and no id is in two files of a generation."""
        for name in self.names:
            told = self.manifest(name) or {"parts": []}
            for part in told["parts"]:
                content = (self.out / name / part["file"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == part["sha256"]
                assert len(content) == part["bytes"]
                assert len(list(lines_of(self.out / name / part["file"]))) == part["rows"]
            generations: defaultdict[str, list[Any]] = defaultdict(list)
            for path in self.out.glob(f"{name}/part-*"):
                generations[path.name.split("-")[1]] += [row["id"] for row in lines_of(path)]
            for ids in generations.values():
                assert [one for one, count in Counter(ids).items() if count > 1] == []

    def check_end(self) -> None:
        """Exactly what the API holds, in files that manifest and journal agree about, and nothing else."""
        self.check_now()
        ledger = self.known()
        assert list(ledger.names) == []
        for name in self.names:
            assert Counter(self.visible(name)) == Counter(row["id"] for row in self.api.rows(name)), name
            told = self.manifest(name)
            assert told is not None
            assert told["complete"]
            files = sorted(path.name for path in self.out.glob(f"{name}/part-*"))
            assert files == sorted(part["file"] for part in told["parts"])
            assert files == sorted(part.name for part in ledger.streams[name].parts)
        assert list((self.out / ".asyncstreams" / "in-progress").iterdir()) == []


async def run_on(world: World, breaking: Any) -> None:
    """A run on what may break, and end it."""
    with suppress(Killed, OutputWriteError):
        await world.extract(breaking)


async def break_each(
    made: Callable[[int], World],
    breaking: Callable[[int, str], Any],
    way: str,
    version: int,
    chance: random.Random,
    *,
    step: Callable[[], int],
    again: int,
    latest: int,
) -> tuple[int, int]:
    """Break one operation after the other, each in a world of its own, until a run does not come so far.

    What is left then breaks `again` at once, at the latest operation or before, and the run after that is whole.
    `step()` later is the next operation; where none of a sample came after a commit, which is a matter of time, it goes
    back until one does. Gives how many operations there are, and how much was not asked for again.
    """
    at, spared, most = chance.randint(1, 12), 0, 0
    for number in count():
        world = made(number)
        if version == 2:
            await world.extract()
            world.api.version = 2
        broken = breaking(at, way)
        await run_on(world, broken)
        if broken.was_hit:
            world.check_now()
            for _ in range(again):
                await run_on(world, breaking(chance.randint(1, latest), chance.choice(("before", "after", "torn"))))
                world.check_now()
            done = world.done()
            spared += len(done)
            world.api.asked.clear()

            await world.extract()

            assert [one for one in world.api.asked if one in done or one.split()[0] in done] == []
            world.check_end()
        most = most or (0 if broken.was_hit else at)
        if not most:
            at += step()
        elif spared or at < most // 2:
            break
        else:
            at -= max(1, step() // 4)
    return most, spared


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from import_module("pyarrow.parquet").read_table(path).to_pylist()
        return
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = zstd.decompress(content)
    assert content.endswith(b"\n")
    for line in content.splitlines():
        yield json.loads(line)


class BrokenFs(FileSystem):
    """Counts its operations; the one with the number `at` goes wrong in some `way`.

    "before" and "after": the process is killed; "torn": in the middle of a write; a name of errno: the operation
    fails; "short": a write takes fewer bytes than it was given.
    """

    def __init__(self, at: int = 0, way: str = "before") -> None:
        self.at, self.way = at, way
        self.count = 0
        self.is_dead = False
        self.was_hit = False

    def _do(self, operation: Callable[[], Any], torn: Callable[[], Any] | None = None) -> Any:
        if self.is_dead:
            raise Killed
        self.count += 1
        if self.count != self.at:
            return operation()
        self.was_hit = True
        if self.way in ("before", "after", "torn"):
            self.is_dead = True
            if self.way == "after":
                operation()
            elif self.way == "torn" and torn is not None:
                torn()
            raise Killed
        if self.way == "short":
            return operation() if torn is None else torn()
        raise OSError(getattr(errno, self.way), os.strerror(getattr(errno, self.way)))

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        self._do(lambda: super(BrokenFs, self).make_folder(path, mode))

    def create(self, path: Path) -> int:
        return int(self._do(lambda: super(BrokenFs, self).create(path)))

    def write(self, file: int, data: bytes | memoryview) -> int:
        half = memoryview(data)[: max(1, len(data) // 2)]
        return int(
            self._do(
                lambda: super(BrokenFs, self).write(file, data),
                lambda: super(BrokenFs, self).write(file, half),
            )
        )

    def sync(self, file: int) -> None:
        self._do(lambda: super(BrokenFs, self).sync(file))

    def close(self, file: int) -> None:
        if self.is_dead:
            os.close(file)  # the system does that for a process that is gone
            return
        try:
            self._do(lambda: None)
        finally:
            os.close(file)

    def rename(self, path: Path, to: Path) -> None:
        self._do(lambda: super(BrokenFs, self).rename(path, to))

    def unlink(self, path: Path) -> None:
        self._do(lambda: super(BrokenFs, self).unlink(path))

    def sync_folder(self, path: Path) -> None:
        self._do(lambda: super(BrokenFs, self).sync_folder(path))


class PoweredFs(BrokenFs):
    """Knows what would be left if the power failed at this moment: what was synced, and anything of the rest.

    A file is known by its inode; a name that a folder has, and one that it has lost, outlive the loss once the
    folder was synced; before that each may, or may not. What a file was given since it was synced may be there in
    part, or be zeros.
    """

    def __init__(self, at: int, seed: int) -> None:
        super().__init__(at, "after")
        self.random = random.Random(seed)
        self.content: dict[int, bytearray] = {}
        self.synced: dict[int, int] = {}
        self.files: dict[int, int] = {}
        self.durable: dict[Path, int] = {}
        self.pending: list[tuple[str, Path, int, Path | None]] = []  # what, the name, the file, where it came from
        self.new: list[Path] = []

    @classmethod
    def of(cls, root: Path, at: int, seed: int) -> PoweredFs:
        """One whose disk holds what is there, all of it synced."""
        fs = cls(at, seed)
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.name != "lock":
                number, content = len(fs.content), path.read_bytes()
                fs.content[number], fs.synced[number] = bytearray(content), len(content)
                fs.durable[path] = number
        return fs

    def _now(self) -> dict[Path, int]:
        names = dict(self.durable)
        for what, path, number, source in self.pending:
            if what == "add":
                names[path] = number
                if source is not None and names.get(source) == number:
                    del names[source]
            elif names.get(path) == number:
                del names[path]
        return names

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        super().make_folder(path, mode)
        self.new += made

    def create(self, path: Path) -> int:
        file = super().create(path)
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
        number = self._now()[path]
        super().rename(path, to)
        self.pending.append(("add", to, number, path))

    def unlink(self, path: Path) -> None:
        number = self._now().get(path)
        super().unlink(path)
        if number is not None:
            self.pending.append(("remove", path, number, None))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.new = [folder for folder in self.new if folder.parent != path]
        left: list[tuple[str, Path, int, Path | None]] = []
        for what, name, number, source in self.pending:
            if name.parent == path:
                if what == "add":
                    self.durable[name] = number
                    if source is not None and source.parent == path:
                        self.durable.pop(source, None)
                    elif source is not None:
                        left.append(("remove", source, number, None))
                elif self.durable.get(name) == number:
                    del self.durable[name]
            elif source is not None and source.parent == path:
                # The old name is gone for good; whether the new one is there nobody has made sure.
                if self.durable.get(source) == number:
                    del self.durable[source]
                left.append((what, name, number, None))
            else:
                left.append((what, name, number, source))
        self.pending = left

    def lose_power(self, root: Path) -> None:
        """Leave on the disk what may be left."""
        names = dict(self.durable)
        for what, path, number, source in self.pending:
            if self.random.random() < 0.5:
                if what == "add":
                    names[path] = number
                    if source is not None and self.random.random() < 0.5 and names.get(source) == number:
                        del names[source]
                elif names.get(path) == number:
                    del names[path]
        for path in [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]:
            path.unlink()
        gone = {folder for folder in self.new if self.random.random() < 0.5}
        for path, number in names.items():
            if not gone.isdisjoint(path.parents):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            whole, sure = bytes(self.content[number]), self.synced[number]
            kept = self.random.randint(sure, len(whole))
            rest = bytes(len(whole) - kept) if self.random.random() < 0.5 else b""
            path.write_bytes(whole[:kept] + rest)
