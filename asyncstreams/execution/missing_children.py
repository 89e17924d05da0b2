"""Children of a substream that the API refuses or does not have, and when there are so many that it is unavailable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from ..declaration.stream import Stream
from ..errors import HttpStatusError, RequestBlocked
from ..models import Slice, shorten
from ..state.stream_state import StreamState

_REFUSED = 403
_STATUSES = (_REFUSED, 404, 410)
_FIRST_CHILDREN = 3
_MAX_NAMED = 100


class MissingChildren:
    """The children of one substream in one run that were refused (403) or are missing (404, 410).

    `known` says which children had rows when they were last read.
    """

    def __init__(self, stream: Stream, known: StreamState | None) -> None:
        self._stream = stream
        self._state = StreamState() if known is None else known
        self._first: list[str] = []
        self._refused: set[str] = set()
        self._lost: set[str] = set()
        self.count = 0
        """The number of slices that were left out."""
        self.named: dict[str, int] = {}
        """The first 100 of them, as texts, with the status of each."""
        self.error: HttpStatusError | None = None
        """The error of one of them: of a refused one, if there is any."""

    @staticmethod
    def concerns(error: Exception) -> TypeGuard[HttpStatusError]:
        """Whether an error says that the child of its slice is refused or missing."""
        return (
            isinstance(error, HttpStatusError)
            and error.status in _STATUSES
            and error.page == 0
            and error.from_page_request
            and not isinstance(error, RequestBlocked)
        )

    @property
    def is_undecided(self) -> bool:
        """Whether each child that was started is refused, and one more may show that the stream is not available."""
        return len(self._first) < _FIRST_CHILDREN and self._refused.issuperset(self._first)

    @property
    def has_refused(self) -> bool:
        """Whether a child was refused, and not only missing."""
        return bool(self._refused)

    def start(self, stream_slice: Slice) -> None:
        """Note that a slice is read."""
        if len(self._first) < _FIRST_CHILDREN:
            new = [key for key in self._keys(stream_slice) if key not in self._first]
            self._first += new[: _FIRST_CHILDREN - len(self._first)]

    def add(self, stream_slice: Slice, error: HttpStatusError) -> str | None:
        """Note that the child of a slice is left out; the reason if the stream is unavailable because of it."""
        stream, keys = self._stream, self._keys(stream_slice)
        self.count += 1
        if len(self.named) < _MAX_NAMED and error.status is not None:
            self.named[shorten(str(stream_slice))] = error.status
        why = stream.why_unavailable(error)
        is_refused = why is not None or error.status == _REFUSED
        if is_refused:
            self._refused.update(keys)
        if is_refused or self.error is None:
            self.error = error
        if len(self._first) == _FIRST_CHILDREN and self._refused.issuperset(self._first):
            return f"its first {_FIRST_CHILDREN} children are refused: {why or error.message}"
        if len(self._refused) > stream.resolved.max_failed_slices:
            return (
                f"more than {stream.resolved.max_failed_slices:,} of its children are refused: {why or error.message}"
            )
        last = self._state.children.last
        self._lost.update(last.intersection(keys))
        if last and 2 * len(self._lost) >= len(last):
            return (
                f"{len(self._lost):,} of the {len(last):,} children that had rows when they were last read are refused "
                f"or missing: {error.message}"
            )
        return None

    def reason_at_end(self) -> str | None:
        """The reason if the stream is unavailable, given that all of its slices were left out."""
        if self.error is None or not self._refused or self._state.children.last:
            return None
        why = self._stream.why_unavailable(self.error) or self.error.message
        return f"{'its only child is' if self.count == 1 else f'all of its {self.count:,} children are'} refused: {why}"

    def _keys(self, stream_slice: Slice) -> Sequence[str]:
        return [self._state.child_key(child) for child in self._stream.children_of(stream_slice)]
