"""What is to be read in a run?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..contracts import Slices, Stream


@dataclass(frozen=True, slots=True)
class Selected:
    """A stream that is to be read, and what of it: `limit` is a number of records.

    One that is not emitted is read for its children only.
    """

    stream: Stream
    slices: Slices | None
    state: Mapping[str, Any]
    limit: int | None
    is_emitted: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether all of the stream is to be read."""
        return self.slices is None and self.limit is None and not self.state
