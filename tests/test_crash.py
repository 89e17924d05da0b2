"""Tests of exactly-once delivery to files under faults, loss of power and kills.

By default a sample of the cases runs; `make test-crash` runs all of them, and `make bench-crash` more kills.
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
    CrashHarness,
    FaultyFileSystem,
    PowerLossFileSystem,
    ProcessKilled,
    break_each_operation,
)
from simulation import FULL, sample
from table_harness import TableHarness

from asyncstreams import Parquet
from asyncstreams.destinations import journal
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.jsonl import PartFile
from asyncstreams.destinations.output_folder import OutputFolder
from asyncstreams.testing import MockApi

FAULTS = ("before", "after", "torn", "ENOSPC", "EIO", "short")
KILLS = int(os.environ.get("CRASHES") or 1)
LOSSES = sample(full=500, short=10)
CASES = [
    pytest.param({}, 1000, id="plain"),
    pytest.param({"compression": "gzip", "fsync": "commit"}, 3, id="gzip, a snapshot after three records"),
    pytest.param({"kind": Parquet}, 1000, id="parquet"),
]


@pytest.fixture
def set_snapshot_interval(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of records after which a snapshot is due."""
    return lambda records: monkeypatch.setattr(journal, "_SNAPSHOT_AFTER_RECORDS", records)


@pytest.mark.simulation
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("options", "records"), CASES)
async def test_records_survive_fault_at_any_operation(
    options: dict[str, Any],
    records: int,
    fault: str,
    version: int,
    tmp_path: Path,
    set_snapshot_interval: Callable[[int], None],
):
    set_snapshot_interval(records)
    chance = random.Random(f"{fault}{version}{records}")

    operations, finished = await break_each_operation(
        lambda number: CrashHarness(tmp_path / str(number), options=options),
        FaultyFileSystem,
        fault,
        version,
        chance,
        step=lambda: sample(full=1, short=chance.randint(32, 80)),
        step_back=sample(full=1, short=4),
        recovery_faults=sample(full=2, short=1),
        max_recovery_operation=60,
    )

    assert operations > 50
    assert finished > 0


async def lose_power(seed: int, out: Path, disk: type[PowerLossFileSystem] = PowerLossFileSystem) -> None:
    """Run an extraction with up to three losses of power; assert that the output is complete at the end."""
    chance = random.Random(seed)
    harness = CrashHarness(out, options={"fsync": chance.choice(("full", "commit"))})
    if chance.random() < 0.5:
        await harness.extract()
        harness.api.version = 2
    for _ in range(3):
        fs = disk.holding(harness.out, chance.randint(1, 110), chance.getrandbits(32))
        with suppress(ProcessKilled):
            await harness.extract(fs)
            break
        fs.lose_power(harness.out)
    await harness.extract()
    harness.check_complete()


@pytest.mark.simulation
async def test_records_survive_power_loss_at_any_moment(tmp_path: Path, set_snapshot_interval: Callable[[int], None]):
    set_snapshot_interval(3)
    for seed in range(LOSSES):
        await lose_power(seed, tmp_path / str(seed))


def remove_syncs(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> None:
    """Patch one method of a class with `_synced` so that it does not sync."""
    original = getattr(cls, name)

    def unsynced(self: Any, *args: Any) -> Any:
        self._synced, before = False, self._synced
        try:
            return original(self, *args)
        finally:
            self._synced = before

    monkeypatch.setattr(cls, name, unsynced)


def no_sync_of_parts(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    original = PartFile.seal
    monkeypatch.setattr(PartFile, "seal", lambda self, *, synced: original(self, synced=False))
    return PowerLossFileSystem


def no_sync_of_records(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    remove_syncs(monkeypatch, Journal, "append")
    return PowerLossFileSystem


def no_sync_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    remove_syncs(monkeypatch, Journal, "write_snapshot")
    return PowerLossFileSystem


def no_sync_of_names(*folders: str) -> Callable[[pytest.MonkeyPatch], type[PowerLossFileSystem]]:
    class UnsyncedFolders(PowerLossFileSystem):
        def sync_folder(self, path: Path) -> None:
            if path.name not in folders:
                super().sync_folder(path)

    return lambda monkeypatch: UnsyncedFolders


def names_before_records(monkeypatch: pytest.MonkeyPatch) -> type[PowerLossFileSystem]:
    append, commit = Journal.append, OutputFolder.commit
    deferred: list[tuple[Journal, Any]] = []

    def append_unless_commit(self: Journal, record: Any) -> None:
        deferred.append((self, record)) if record["op"] == "commit" else append(self, record)

    def commit_then_append(self: Any, streams: Any) -> Any:
        record = commit(self, streams)
        append(*deferred.pop())
        return record

    monkeypatch.setattr(Journal, "append", append_unless_commit)
    monkeypatch.setattr(OutputFolder, "commit", commit_then_append)
    return PowerLossFileSystem


@pytest.mark.parametrize(
    "mutant",
    [
        no_sync_of_parts,
        no_sync_of_records,
        no_sync_of_snapshots,
        pytest.param(no_sync_of_names(".asyncstreams"), id="no_sync_of_journal_names"),
        pytest.param(no_sync_of_names("in-progress"), id="no_sync_of_names_in_progress"),
        pytest.param(no_sync_of_names("customers", "events", "tags"), id="no_sync_of_names_of_parts"),
        names_before_records,
    ],
)
async def test_power_loss_test_detects_missing_syncs(
    mutant: Callable[[pytest.MonkeyPatch], type[PowerLossFileSystem]],
    tmp_path: Path,
    set_snapshot_interval: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
):
    set_snapshot_interval(3)
    disk = mutant(monkeypatch)

    for seed in range(300):  # about one in fifteen detects the rarest mutant
        try:
            await lose_power(seed, tmp_path / str(seed), disk)
        except Exception:
            return
    pytest.fail("the mutant was not detected")


@pytest.mark.simulation
@pytest.mark.parametrize("kind", ["lines", "parquet", ".sqlite", ".duckdb"])
def test_records_survive_kill_at_any_moment(kind: str, tmp_path: Path):
    """KILLS times, with real processes, a real server and SIGKILL."""
    processes = multiprocessing.get_context("forkserver")
    chance, kills, runs = random.Random(kind), 0, 0
    with MockApi(*crash_process.RESOURCES, process=True, latency=0.002) as api:
        while kills < KILLS:
            runs += 1
            out = tmp_path / f"{runs}{kind}"
            is_incremental = chance.random() < 0.5
            for kills_left in (5, 4, 3, 2, 1, 0) if FULL else (1, 0):
                options = {"fsync": chance.choice(("full", "commit", "none"))}
                if not kind.startswith("."):
                    options["compression"] = chance.choice((None, "gzip", "zstd"))
                process = processes.Process(
                    target=crash_process.extract, args=(api.url, str(out), kind, options, is_incremental)
                )
                process.start()
                process.join(chance.uniform(0.05, 0.9) if kills_left else None)
                if process.exitcode is not None:
                    assert process.exitcode == 0
                    break
                process.kill()
                process.join()
                kills += 1
            harness_class = TableHarness if kind.startswith(".") else CrashHarness
            harness = harness_class(out, names=crash_process.NAMES)
            harness.check_invariants()
            for name in harness.names:
                assert Counter(harness.visible_ids(name)) == Counter(api.ids(name))
