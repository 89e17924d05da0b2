"""When is all that is known written down again?"""

from __future__ import annotations

from pathlib import Path

import pytest
from asyncstreams.sinks import journal

from asyncstreams.destinations.journal import Journal
from asyncstreams.destinations.ledger import Ledger
from asyncstreams.storage.filesystem import FileSystem


def records_before_a_snapshot(folder: Path, salt: str) -> int:
    """How many records come after one, until the next one is due."""
    folder.mkdir()
    ledger = Ledger()
    ledger.salt = salt
    one = Journal(FileSystem(), folder, synced=False)
    one.snapshot(ledger)
    count = 0
    while not one.is_due:
        one.append({"op": "end"})
        count += 1
    one.snapshot(ledger)
    assert not one.is_due
    one.close()
    return count


def test_a_small_one_is_written_after_a_thousand_records(tmp_path: Path) -> None:
    assert records_before_a_snapshot(tmp_path / "one", "x") == 1000


def test_a_large_one_is_written_again_when_as_much_has_come_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_SMALL", 2_000)
    monkeypatch.setattr(journal, "_MOST_RECORDS", 10)

    small = records_before_a_snapshot(tmp_path / "small", "x" * 1_000)
    large = records_before_a_snapshot(tmp_path / "large", "x" * 100_000)
    larger = records_before_a_snapshot(tmp_path / "larger", "x" * 200_000)

    assert small == 10
    assert large > 1_000
    assert larger == pytest.approx(2 * large, rel=0.01)
