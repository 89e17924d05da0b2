"""Declared length of a slice: totals and flags of its responses, checked against the rows received."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """What the responses of a slice declare about its length. None: not declared.

    pages: the number of pages.
    rows: the number of rows.
    more: whether another page follows the one that declares it.
    """

    pages: int | None = None
    rows: int | None = None
    more: bool | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything is declared."""
        return self != UNKNOWN_EXTENT

    def without_contradictions(self, pages: int, rows: int) -> Extent:
        """The extent without totals below the number of pages that had rows, or of rows, received so far."""
        is_pages_false = self.pages is not None and self.pages < pages
        is_rows_false = self.rows is not None and self.rows < rows
        if not (is_pages_false or is_rows_false):
            return self
        return Extent(None if is_pages_false else self.pages, None if is_rows_false else self.rows, self.more)


UNKNOWN_EXTENT = Extent()


class ExtentTracker:
    """Combines the extents that the responses of one slice declare.

    A total holds until another one is declared, since some APIs declare it on the first page only. A total that is
    smaller than what was received is not believed: some APIs send 0 where they do not count.
    """

    def __init__(self) -> None:
        self._total_pages: int | None = None
        self._total_rows: int | None = None
        self._pages = 0
        self.rows = 0
        """Number of rows received, at least."""
        self.rejected: tuple[int, str] | None = None
        """The first declared total that was not believed, and what was received, as text."""

    def add_page(self, declared: Extent, min_rows: int) -> Extent:
        """The extent of the slice after a response with at least `min_rows` rows that declares `declared`."""
        self.rows += min_rows
        self._pages += min_rows > 0
        self._total_pages = self._believe(declared.pages, self._total_pages, self._pages, "page")
        self._total_rows = self._believe(declared.rows, self._total_rows, self.rows, "row")
        return Extent(self._total_pages, self._total_rows, declared.more)

    def _believe(self, declared: int | None, known: int | None, received: int, unit: str) -> int | None:
        """The declared total, or else the known one, unless more was received."""
        if declared is not None:
            if declared >= received:
                return declared
            if self.rejected is None:
                self.rejected = declared, f"{received:,} {unit}{'' if received == 1 else 's'}"
        return known if known is not None and known >= received else None
