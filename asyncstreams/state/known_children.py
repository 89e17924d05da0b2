"""The children of a substream that had rows when they were last read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MAX_KEYS = 1_000


class KnownChildren:
    """Keys of the children that had rows: in the last complete read, and so far in the one that is in progress.

    Keys are hashes. Of more than 1,000 the smallest are kept, which are a random sample of all children.
    """

    def __init__(self, last: Iterable[str] = (), found: Iterable[str] = ()) -> None:
        self.last = frozenset(last)
        self._found: set[str] = set(found)
        self._highest: str | None = None

    def accepts(self, key: str) -> bool:
        """Whether `add` would add something."""
        return key not in self._found and (self._highest is None or key < self._highest)

    def add(self, keys: Iterable[str]) -> None:
        """Add children that have rows."""
        self._found.update(keys)
        if len(self._found) >= 2 * _MAX_KEYS:
            self._found = _smallest(self._found)
            self._highest = max(self._found)

    def restart(self, *, keeps_last: bool) -> None:
        """After a complete read. With `keeps_last`, it has not read all children, or only their new rows."""
        if keeps_last:
            self._found |= self.last
        self.last = frozenset(_smallest(self._found))
        self._found.clear()
        self._highest = None

    def copy(self) -> KnownChildren:
        """An independent copy."""
        return KnownChildren(self.last, self._found)

    def to_json(self) -> dict[str, Any]:
        """The keys as JSON values; empty if there are none."""
        keys = {"last": sorted(self.last), "found": sorted(self._found)}
        return {name: values for name, values in keys.items() if values}

    @classmethod
    def from_json(cls, payload: Mapping[str, Sequence[str]]) -> KnownChildren:
        """The inverse of `to_json`."""
        return cls(**payload)


def _smallest(keys: set[str]) -> set[str]:
    return keys if len(keys) <= _MAX_KEYS else set(heapq.nsmallest(_MAX_KEYS, keys))
