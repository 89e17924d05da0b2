"""Runtime checks of the pagination of one slice: endless loops and rows that move between pages."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import msgspec

from ..declaration.stream import Stream
from ..errors import PaginationLoop
from ..models import Record
from .stream_run import StreamRun

_EQUAL_PAGES_IN_LOOP = 3
_MAX_EMPTY_PAGES = 1000
_MAX_REMEMBERED_PAGES = 100
_LOOP_HINT = (
    "check that the API supports the paging parameter, and its name; if equal pages are expected, set "
    "detect_loops = False"
)


class LoopGuard:
    """Makes sure that the pagination of one slice terminates.

    All tokens are compared, not only the last one, since servers also cycle A-B-A; only a hash of each is kept. Two
    pages count as equal if their numbers of rows and their first, middle and last rows are equal. Rows are those that
    the API sent, where they are known, or else records.

    `must_differ` says that the second page must differ from the first one.
    """

    def __init__(self, stream: Stream, first_url: str, *, must_differ: bool = False) -> None:
        self._stream, self._must_differ = stream, must_differ
        # The first URL counts as a token: a next link may lead back to it.
        self._seen = {_hash(first_url)}
        self._last_token: int | None = None
        self._last_page: tuple[bool, int, bytes] | None = None
        self._pages = self._equal_pages = self._empty_pages = 0

    def check_page(self, rows: Sequence[Any], *, is_complete: bool = True) -> bool:
        """Check the next page before it is delivered. Raises PaginationLoop.

        True if it equals the page before it, which differed from its own predecessor. `is_complete` is False if these
        are only the last rows of a streamed page.
        """
        self._pages += 1
        self._empty_pages = 0 if rows else self._empty_pages + 1
        if self._empty_pages > _MAX_EMPTY_PAGES:
            raise PaginationLoop(f"sent {_MAX_EMPTY_PAGES:,} empty pages in a row, each with a next page")
        if not rows or not self._stream.resolved.detect_loops:
            return False
        page = (is_complete, len(rows), _encode(_ENCODER, [rows[0], rows[len(rows) // 2], rows[-1]]))
        self._equal_pages = self._equal_pages + 1 if page == self._last_page else 1
        self._last_page = page
        if self._equal_pages == 2 and self._pages == 2 and self._must_differ:
            raise PaginationLoop(
                f"sent its first page of {len(rows)} rows again as the second one: the paging parameter is ignored",
                hint=_LOOP_HINT,
            )
        if self._equal_pages >= _EQUAL_PAGES_IN_LOOP:
            raise PaginationLoop(
                f"sent the same page of {len(rows)} rows {_EQUAL_PAGES_IN_LOOP} times in a row, under new tokens",
                hint=_LOOP_HINT,
            )
        return is_complete and self._pages > 2 and self._equal_pages == 2

    def check_token(self, number: int, token: Any) -> None:
        """Check the number (from 0) and token of the next page before it is requested.

        Raises PaginationLoop beyond `max_pages`, and for a token that was seen before in this slice. With
        `detect_loops = False` the token may be that of the page before, as in a scroll.
        """
        if number >= self._stream.resolved.max_pages:
            raise PaginationLoop(
                f"still has a next page after {self._stream.resolved.max_pages:,} pages",
                hint="raise max_pages if the stream really is that long; slices would make it resumable",
            )
        seen = _hash(token)
        if seen in self._seen and (self._stream.resolved.detect_loops or seen != self._last_token):
            raise PaginationLoop(
                "repeated a page token, which would fetch the same pages again",
                hint="check where the paginator reads the token, and the parameter name under which it is sent; "
                "if the token of a scroll stays the same, set detect_loops = False",
            )
        self._seen.add(seen)
        self._last_token = seen


class DriftDetector:
    """Warns if a row of the last 100 pages appears again: rows move, so others may be missing."""

    def __init__(self, run: StreamRun) -> None:
        self._progress, self._key = run.progress, str(run.stream.resolved.primary_key)
        self._pages: deque[list[Hashable]] = deque()
        self._keys: set[Hashable] = set()

    def repeats_last_page(self, records: list[Record]) -> bool:
        """Whether a page has the keys of the page before it, in the same order."""
        try:
            return bool(self._pages) and [record[self._key] for record in records] == self._pages[-1]
        except (KeyError, TypeError):
            return False  # keys are missing

    def observe_page(self, number: int, records: list[Record]) -> None:
        """Compare the records of the next page, in the order of the API, with those of earlier pages."""
        if self._progress.has_warned("drift"):
            return
        try:
            keys: list[Hashable] = [record[self._key] for record in records]
            repeats = not self._keys.isdisjoint(keys)
        except (KeyError, TypeError):
            return  # keys are missing or not hashable
        if repeats:
            self._progress.warn_once(
                "drift",
                f"rows of page {number} were on an earlier page: the API moves rows during the read, so some may be "
                "read twice and others not at all; sort by a field that does not change, or use cursor pagination",
            )
        self._pages.append(keys)
        self._keys.update(keys)
        if len(self._pages) > _MAX_REMEMBERED_PAGES:
            self._keys.difference_update(self._pages.popleft())


def _hash(token: Any) -> int:
    """A hash of a token or URL; equal ones have equal hashes."""
    # The encoder is part of the hash: the text "1" hashes like b"1", which is also the JSON form of the number.
    return hash(token) if isinstance(token, str) else hash((_SORTING_ENCODER, _encode(_SORTING_ENCODER, token)))


def _encode(encoder: msgspec.json.Encoder, value: Any) -> bytes:
    """The value as JSON, or its repr if it has no JSON form. For comparisons within one run only."""
    try:
        return encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value).encode("utf-8", "surrogatepass")


_ENCODER = msgspec.json.Encoder(enc_hook=repr)
_SORTING_ENCODER = msgspec.json.Encoder(enc_hook=repr, order="deterministic")
