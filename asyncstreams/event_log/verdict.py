"""Verdict (placeholder until merged)."""

from __future__ import annotations

from .run_record import RunRecord


def with_verdict(record: RunRecord) -> RunRecord:
    return record
