"""Does the paging of a slice come to an end?"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable
from typing import Any

import msgspec

from ..errors import PaginationLoop
from ..models import Record
from ..protocols import Stream
from .stream_run import StreamRun

_SAME_PAGES = 3
_EMPTY_PAGES = 1000


class LoopGuard:
    """Watches the tokens and pages of one slice; remembers a hash of each token.

    Not only the last token is compared: servers cycle A-B-A. A page counts as the same when its
    number of records and its first, middle and last one are.
    """

    def __init__(self, stream: Stream, first_url: str) -> None:
        self._stream = stream
        # A next link that leads back to the beginning is a token that was seen.
        self._seen = {_hash(first_url)}
        self._last_page: tuple[int, bytes] | None = None
        self._same = 0
        self._empty = 0

    def page(self, records: list[Record]) -> None:
        """One more page, before it is handed over. Raises PaginationLoop."""
        self._empty = 0 if records else self._empty + 1
        if self._empty > _EMPTY_PAGES:
            raise PaginationLoop(f"gave {_EMPTY_PAGES:,} empty pages in a row, each with a next one")
        if not records or not self._stream.detect_loops:
            return
        page = (len(records), _encoded(_as_it_is, [records[0], records[len(records) // 2], records[-1]]))
        self._same = self._same + 1 if page == self._last_page else 1
        self._last_page = page
        if self._same >= _SAME_PAGES:
            raise PaginationLoop(
                f"gave the same page of {len(records)} records {_SAME_PAGES} times in a row, under new tokens",
                hint="does the API know the paging parameter? If equal pages are right: detect_loops = False",
            )

    def token(self, number: int, token: Any) -> None:
        """The next page's number and token, before it is asked for.

        Raises PaginationLoop beyond `max_pages`, and for a token that was seen in this slice.
        """
        if number >= self._stream.max_pages:
            raise PaginationLoop(
                f"still gives a next page after {self._stream.max_pages:,}",
                hint="raise max_pages, if the stream is really that long; slices would make it resumable",
            )
        seen = _hash(token)
        if seen in self._seen:
            raise PaginationLoop(
                "gave a page token that it had given before: the same pages would come again",
                hint="is the token taken from the right place, and sent under the right name?",
            )
        self._seen.add(seen)


def _hash(token: Any) -> int:
    """Of a token or URL; equal ones have the same."""
    # Not of the bytes alone: the text "1" has the hash of b"1", which is how JSON writes the number.
    return hash(token) if isinstance(token, str) else hash((_sorted, _encoded(_sorted, token)))


def _encoded(encoder: msgspec.json.Encoder, value: Any) -> bytes:
    """As JSON, as far as it is such: what this is compared with was made from a body or by an author, like this."""
    try:
        return encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value).encode("utf-8", "surrogatepass")


_as_it_is = msgspec.json.Encoder(enc_hook=repr)
_sorted = msgspec.json.Encoder(enc_hook=repr, order="deterministic")


_REMEMBERED_PAGES = 100
_log = logging.getLogger("asyncstreams")


class DriftDetector:
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
    return isinstance(stream.primary_key, str) and stream.uses_paginator and hasattr(stream.paginator, "token_at")
