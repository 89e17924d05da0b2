"""Do rows move between the pages of a slice while they are read?"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable

from ..contracts import Stream
from ..model import Record
from .stream_run import StreamRun

_REMEMBERED_PAGES = 100
_log = logging.getLogger("asyncstreams")


class MovedRows:
    """Looks for rows that come twice, among the keys of the last 100 pages: then others may not have come at all."""

    def __init__(self, run: StreamRun) -> None:
        self._run, self._key = run, run.stream.primary_key
        self._pages: deque[list[Hashable]] = deque()
        self._keys: set[Hashable] = set()

    def page(self, number: int, records: list[Record]) -> None:
        """The records of the next page, as they came."""
        if not isinstance(self._key, str) or self._run.told_of_moved:
            return
        try:
            keys: list[Hashable] = [record[self._key] for record in records]
            again = not self._keys.isdisjoint(keys)
        except (KeyError, TypeError):
            return  # no keys, or none that can be compared
        if again:
            self._run.told_of_moved = True
            _log.warning(
                "%s: rows of page %d came before: the API moves them while they are read, so some may come twice and "
                "others not at all; sort by something that does not change, or page by a cursor",
                self._run.stream.name,
                number,
            )
        self._pages.append(keys)
        self._keys.update(keys)
        if len(self._pages) > _REMEMBERED_PAGES:
            self._keys.difference_update(self._pages.popleft())


def may_move(stream: Stream) -> bool:
    """Whether rows can move between the pages of a stream: pages are counted, and rows have keys."""
    return isinstance(stream.primary_key, str) and stream.pages_itself and hasattr(stream.paginator, "token_at")
