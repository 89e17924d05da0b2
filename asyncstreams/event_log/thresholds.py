"""Thresholds (placeholder until merged)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .run_record import RunRecord, ThresholdRecord


@dataclass(frozen=True)
class Threshold:
    text: str

    @property
    def uses_last(self) -> bool:
        return "last" in self.text

    def evaluate(self, record: RunRecord, last: RunRecord | None) -> ThresholdRecord:
        return ThresholdRecord(self.text, None, "stub")


def check_thresholds(class_name: str, texts: Sequence[str], names: Collection[str]) -> tuple[Threshold, ...]:
    return tuple(map(Threshold, texts))
