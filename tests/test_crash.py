"""Is each record in the files exactly once, whatever breaks at whatever moment?

What runs here by default is a sample; `make test-crash` runs all of it, and `make bench-crash` more of the last.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import crash_process
import pytest
from crash_harness import (
    IS_LONG,
    CrashHarness,
    FaultyFileSystem,
    PowerLossFileSystem,
    ProcessKilled,
    break_each_operation,
)
from table_harness import TableHarness

from asyncstreams import Parquet
from asyncstreams.destinations import journal
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.output_folder import OutputFolder
from asyncstreams.destinations.part_files import PartFile
from asyncstreams.testing import MockApi

WAYS = ("before", "after", "torn", "ENOSPC", "EIO", "short")
KILLS = int(os.environ.get("CRASHES") or 1)
LOSSES = 500 if IS_LONG else 30
CASES = [
    pytest.param({}, 1000, id="plain"),
    pytest.param({"compression": "gzip", "fsync": "commit"}, 3, id="gzip, a snapshot after three records"),
    pytest.param({"kind": Parquet}, 1000, id="parquet"),
]


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda records: monkeypatch.setattr(journal, "_SNAPSHOT_AFTER_RECORDS", records)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("options", "records"), CASES)
async def test_records_survive_fault_at_any_operation(
    options: dict[str, Any],
    records: int,
    way: str,
    version: int,
    tmp_path: Path,
    snapshots: Callable[[int], None],
):
    snapshots(records)
    chance = random.Random(f"{way}{version}{records}")

    at, spared = await break_each_operation(
        lambda number: CrashHarness(tmp_path / str(number), options=options),
        FaultyFileSystem,
        way,
        version,
        chance,
        step=lambda: 1 if IS_LONG else chance.randint(8, 24),
        again=2,
        latest=60,
    )

    assert at > 50
    assert spared > 0


async def lose_power(seed: int, out: Path, disk: type[PowerLossFileSystem] = PowerLossFileSystem) -> None:
    """A life with a loss of power or two; raises where what is left at its end is not what it must be."""
    chance = random.Random(seed)
    world = CrashHarness(out, options={"fsync": chance.choice(("full", "commit"))})
    if chance.random() < 0.5:
        await world.extract()
        world.api.version = 2
    for _ in range(3):
        fs = disk.holding(world.out, chance.randint(1, 110), chance.getrandbits(32))
        with suppress(ProcessKilled):
            await world.extract(fs)
            break
        fs.lose_power(world.out)
    await world.extract()
    world.check_complete()


async def test_records_survive_power_loss_at_any_moment(tmp_path: Path, snapshots: Callable[[int], None]):
    snapshots(3)
    for seed in range(LOSSES):
        await lose_power(seed, tmp_path / str(seed))


def never_synced(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> None:
    """One method of a class that has `_synced` leaves all syncing out."""
    original = getattr(cls, name)

    def unsynced(self: Any, *args: Any) -> Any:
        self._synced, was = False, self._synced
        try:
            return original(self, *args)
        finally:
            self._synced = was

    monkeypatch.setattr(cls, name, unsynced)


def no_sync_of_parts(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    original = PartFile.seal
    monkeypatch.setattr(PartFile, "seal", lambda self, *, synced: original(self, synced=False))
    return PowerLossFileSystem


def no_sync_of_records(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    never_synced(monkeypatch, Journal, "append")
    return PowerLossFileSystem


def no_sync_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    never_synced(monkeypatch, Journal, "write_snapshot")
    return PowerLossFileSystem


def no_sync_of_names(*folders: str) -> Callable[[pytest.MonkeyPatch], type[PowerLossFileSystem]]:
    class Forgetful(PowerLossFileSystem):
        def sync_folder(self, path: Path) -> None:
            if path.name not in folders:
                super().sync_folder(path)

    return lambda monkeypatch: Forgetful


def names_before_records(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    original = OutputFolder.commit

    def commit(self: Any, streams: Any) -> Any:
        for name, one in streams.items():
            if self.ledger.streams[name].hidden is None:
                self._publish(name, self._name_parts(name, one.parts))
        with monkeypatch.context() as patched:
            patched.setattr(self, "_publish", lambda *_: None)
            return original(self, streams)

    monkeypatch.setattr(OutputFolder, "commit", commit)
    return PowerLossFileSystem


@pytest.mark.parametrize(
    "mutant",
    [
        no_sync_of_parts,
        no_sync_of_records,
        no_sync_of_snapshots,
        pytest.param(no_sync_of_names(".asyncstreams"), id="no_sync_of_the_journal's_name"),
        pytest.param(no_sync_of_names("in-progress"), id="no_sync_of_names_in_progress"),
        pytest.param(no_sync_of_names("customers", "events", "tags"), id="no_sync_of_names_of_parts"),
        names_before_records,
    ],
)
async def test_power_loss_test_detects_missing_syncs(
    mutant: Callable[[pytest.MonkeyPatch], type[PowerLossFileSystem]],
    tmp_path: Path,
    snapshots: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
):
    snapshots(3)
    disk = mutant(monkeypatch)

    for seed in range(300):  # one in fifteen finds the rarest
        try:
            await lose_power(seed, tmp_path / str(seed), disk)
        except Exception:
            return
    pytest.fail("nothing was found")


@pytest.mark.parametrize("kind", ["lines", "parquet", ".sqlite", ".duckdb"])
def test_records_survive_kill_at_any_moment(kind: str, tmp_path: Path):
    """Once for each kill that is asked for: real processes, a real server, SIGKILL."""
    processes = multiprocessing.get_context("forkserver")
    chance, kills, runs = random.Random(kind), 0, 0
    with MockApi(*crash_process.RESOURCES, process=True, latency=0.002) as api:
        while kills < KILLS:
            runs += 1
            out = tmp_path / f"{runs}{kind}"
            for most in (5, 4, 3, 2, 1, 0) if IS_LONG else (1, 0):
                options = {"fsync": chance.choice(("full", "commit", "none"))}
                if not kind.startswith("."):
                    options["compression"] = chance.choice((None, "gzip", "zstd"))
                process = processes.Process(target=crash_process.extract, args=(api.url, str(out), kind, options))
                process.start()
                process.join(chance.uniform(0.05, 0.9) if most else None)
                if process.exitcode is not None:
                    assert process.exitcode == 0
                    break
                process.kill()
                process.join()
                kills += 1
            made = TableHarness if kind.startswith(".") else CrashHarness
            world = made(out, names=("customers", "events", "orders"))
            world.check_invariants()
            for name in world.names:
                assert Counter(world.visible_ids(name)) == Counter(api.ids(name))
