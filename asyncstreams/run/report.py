"""What was read in a run, stream by stream?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What was handed over of one stream; `slices` counts those that were read to their end."""

    stream: str
    pages: int
    records: int
    quarantined: int
    slices: int
    failed: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """One line for each stream that was read; `unavailable` maps the others to their reasons."""

    streams: tuple[StreamReport, ...]
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
