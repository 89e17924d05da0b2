"""When is all that is known written down again?"""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncstreams.destinations import journal
from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.storage.filesystem import FileSystem


def records_before_a_snapshot(folder: Path, salt: str) -> int:
    """How many records come after one, until the next one is due."""
    folder.mkdir()
    ledger = Ledger()
    ledger.salt = salt
    one = Journal(FileSystem(), folder, synced=False)
    one.write_snapshot(ledger)
    count = 0
    while not one.needs_snapshot:
        one.append({"op": "end"})
        count += 1
    one.write_snapshot(ledger)
    assert not one.needs_snapshot
    one.close()
    return count


def test_small_snapshot_is_due_after_1000_records(tmp_path: Path) -> None:
    assert records_before_a_snapshot(tmp_path / "one", "x") == 1000


def test_large_snapshot_is_due_after_equal_bytes_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_LARGE_SNAPSHOT_BYTES", 2_000)
    monkeypatch.setattr(journal, "_SNAPSHOT_AFTER_RECORDS", 10)

    small = records_before_a_snapshot(tmp_path / "small", "x" * 1_000)
    large = records_before_a_snapshot(tmp_path / "large", "x" * 100_000)
    larger = records_before_a_snapshot(tmp_path / "larger", "x" * 200_000)

    assert small == 10
    assert large > 1_000
    assert larger == pytest.approx(2 * large, rel=0.01)
