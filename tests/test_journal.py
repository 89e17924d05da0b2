"""Tests of the intervals between the snapshots of a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncstreams.destinations import journal
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.storage.filesystem import FileSystem


def records_between_snapshots(folder: Path, salt: str) -> int:
    """The number of records between two snapshots of a ledger with this salt."""
    folder.mkdir()
    ledger = Ledger()
    ledger.salt = salt
    written = Journal(FileSystem(), folder, synced=False)
    written.write_snapshot(ledger)
    count = 0
    while not written.needs_snapshot:
        written.append({"op": "end"})
        count += 1
    written.write_snapshot(ledger)
    assert not written.needs_snapshot
    written.close()
    return count


def test_small_snapshot_is_due_after_1000_records(tmp_path: Path) -> None:
    assert records_between_snapshots(tmp_path / "one", "x") == 1000


def test_large_snapshot_is_due_after_equal_bytes_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LARGE_SNAPSHOT_BYTES", 2_000)
    monkeypatch.setattr(journal, "_SNAPSHOT_AFTER_RECORDS", 10)

    small = records_between_snapshots(tmp_path / "small", "x" * 1_000)
    large = records_between_snapshots(tmp_path / "large", "x" * 100_000)
    larger = records_between_snapshots(tmp_path / "larger", "x" * 200_000)

    assert small == 10
    assert large > 1_000
    assert larger == pytest.approx(2 * large, rel=0.01)
