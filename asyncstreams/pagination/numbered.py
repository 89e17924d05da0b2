"""Pagination by page numbers and offsets, and the length of a slice: its rows, and the totals that it declares."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import msgspec

from .._json import as_array, as_object
from ..errors import ConfigError, UnexpectedContent
from ..messages import Response
from ..models import PageRequest
from .record_path import select_rows
from .selectors import ABSENT, Selector, check_name, check_selector, select_count, select_flag

Into: TypeAlias = Literal["params", "json", "data", "headers"]
Step: TypeAlias = Literal["rows", "limit"]
_MAX_DEPTH = 3
_MAX_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class PageNumber:
    """Pagination by page number. Ends at the declared total, or else after the first page without rows.

    With a total, the remaining pages are fetched concurrently. Without a total and `more`, the rows that the API
    sent must be countable: the items at `records_path`, or of the body if it is an array. Raises ConfigError for
    invalid arguments.
    """

    counts_rows: ClassVar[bool] = True
    param: str = "page"
    """Name of the page number parameter."""
    start: int = 1
    """Number of the first page."""
    size: int | None = None
    """Records per page, at least 1, sent as `size_param`. None: the parameter is not sent."""
    size_param: str = "per_page"
    """Name of the page size parameter."""
    total_pages: Selector | None = None
    """Selects the number of pages in a response."""
    total_items: Selector | None = None
    """Selects the number of rows of all pages in a response; requires `size`."""
    stop_on_short_page: bool = False
    """Whether a page with fewer than `size` rows is the last one; requires `size`.

    Leave it False for servers that shorten pages, for example after filtering by permission.
    """
    into: Into = "params"
    """Where the parameters are sent: "params", "json", "data" or "headers"."""
    more: Selector | None = None
    """Selects a flag in a response: whether another page follows. Where it is absent, the totals or rows decide."""

    def __post_init__(self) -> None:
        check_name("PageNumber", "param", self.param)
        check_name("PageNumber", "size_param", self.size_param)
        check_into("PageNumber", self.into)
        _check_int("PageNumber", "start", self.start, 0)
        if self.size is not None:
            _check_int("PageNumber", "size", self.size, 1)
        if self.total_items is not None and self.size is None:
            raise ConfigError(
                "PageNumber(total_items=...): size= is missing", hint="pass the number of records per page"
            )
        if self.stop_on_short_page and self.size is None:
            raise ConfigError(
                "PageNumber(stop_on_short_page=True): size= is missing", hint="pass the number of records per page"
            )
        for name in ("total_pages", "total_items", "more"):
            if (selector := getattr(self, name)) is not None:
                check_selector("PageNumber", name, selector)

    def first(self) -> int:
        """The token of the first page."""
        return self.start

    @property
    def totals(self) -> tuple[Selector, ...]:
        """The selectors of the declared length."""
        selectors = (self.more, self.total_pages, self.total_items)
        return tuple(selector for selector in selectors if selector is not None)

    def extent(self, response: Response) -> Extent:
        """What a response declares about the number of pages."""
        if self.total_pages is None and self.total_items is None and self.more is None:
            return UNKNOWN_EXTENT
        return Extent(
            None if self.total_pages is None else select_count(self.total_pages, response),
            None if self.total_items is None else select_count(self.total_items, response),
            None if self.more is None else select_flag(self.more, response),
        )

    def next(self, token: Any, response: Response, count: int) -> int | None:
        """The token of the page after `response`, which held `count` rows; None after the last page."""
        extent = self.extent(response).without_contradictions(int(count > 0), count)
        return self.next_within(token, extent, count)

    def next_within(self, token: Any, extent: Extent, count: int | None, received: int | None = None) -> int | None:
        """The token of the page after one of `count` rows in a slice of this extent; None after the last page.

        `count` may be None, for unknown, if the extent is known. `received` is the number of rows of the slice so far,
        this page included; None if unknown.
        """
        following = int(token) + 1
        if extent.more is not None:
            return following if extent.more else None
        if extent.pages is not None:
            return following if following < self.start + extent.pages else None
        if extent.rows is not None and self.size is not None:
            remaining = max(0, extent.rows - (int(token) - self.start) * self.size)
            # A page has an unexpected length, or rows are missing after the last one: the server's pages are smaller.
            is_short = bool(count) and received is not None and received < extent.rows
            return following if remaining > self.size or count not in (remaining, None) or is_short else None
        if not count or (self.stop_on_short_page and self.size is not None and count < self.size):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        fields = {self.param: token}
        return page_request(self.into, fields if self.size is None else {**fields, self.size_param: self.size})

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages according to the first response; None if unknown."""
        if self.total_pages is not None:
            pages = select_count(self.total_pages, response)
            return None if pages == 0 and count else pages
        if self.total_items is None or self.size is None:
            return None
        return _page_total(select_count(self.total_items, response), self.size, count)

    def predict_tokens(self, response: Response) -> Callable[[int], int]:
        """The token of each page as a function of its number, counted from 0."""
        return lambda number: self.start + number


@dataclass(frozen=True, slots=True)
class Offset:
    """Pagination by offset. Ends at the declared total, or else after the first page without rows.

    The offset advances by the number of rows that the API sent, since a server may cap `limit`: the items at
    `records_path`, or of the body if it is an array. With a total, the remaining pages are fetched concurrently.
    Raises ConfigError for invalid arguments.
    """

    counts_rows: ClassVar[bool] = True
    param: str = "offset"
    """Name of the offset parameter."""
    limit: int = 100
    """Rows per page, at least 1."""
    limit_param: str = "limit"
    """Name of the limit parameter."""
    total: Selector | None = None
    """Selects the number of rows of all pages in a response."""
    stop_on_short_page: bool = False
    """Whether a page with fewer than `limit` rows is the last one."""
    into: Into = "params"
    """Where the parameters are sent: "params", "json", "data" or "headers"."""
    start: int = 0
    """The offset of the first row, at least 0; 1 for SCIM."""
    step: Step = "rows"
    """What the offset advances by: the number of "rows" received, or the "limit", for servers that filter after it."""
    more: Selector | None = None
    """Selects a flag in a response: whether another page follows. Where it is absent, the total or the rows decide."""

    def __post_init__(self) -> None:
        check_name("Offset", "param", self.param)
        check_name("Offset", "limit_param", self.limit_param)
        check_into("Offset", self.into)
        _check_int("Offset", "limit", self.limit, 1)
        _check_int("Offset", "start", self.start, 0)
        if self.step not in ("rows", "limit"):
            raise ConfigError(f'Offset(step={self.step!r}): expected "rows" or "limit"')
        for name in ("total", "more"):
            if (selector := getattr(self, name)) is not None:
                check_selector("Offset", name, selector)

    def first(self) -> int:
        """The token of the first page."""
        return self.start

    @property
    def totals(self) -> tuple[Selector, ...]:
        """The selectors of the declared length."""
        return tuple(selector for selector in (self.more, self.total) if selector is not None)

    def extent(self, response: Response) -> Extent:
        """What a response declares about the number of rows."""
        if self.total is None and self.more is None:
            return UNKNOWN_EXTENT
        return Extent(
            rows=None if self.total is None else select_count(self.total, response),
            more=None if self.more is None else select_flag(self.more, response),
        )

    def next(self, token: Any, response: Response, count: int) -> int | None:
        """The token of the page after `response`, which held `count` rows; None after the last page."""
        extent = self.extent(response).without_contradictions(int(count > 0), count)
        return self.next_within(token, extent, count)

    def next_within(self, token: Any, extent: Extent, count: int | None, received: int | None = None) -> int | None:
        """The token of the page after one of `count` rows in a slice of this extent; None after the last page.

        `count` may be None, for unknown, if the extent is known; then the offset advances by the limit. `received` is
        not needed.
        """
        # An empty page before the total is skipped as if it were full. A server that sends more rows than the
        # limit did not apply it.
        step = self.limit if not count else max(count, self.limit) if self.step == "limit" else count
        following = int(token) + step
        if extent.more is not None:
            return following if extent.more else None
        if extent.rows is not None:
            return following if following - self.start < extent.rows else None
        if not count or (self.stop_on_short_page and count < self.limit):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return page_request(self.into, {self.param: token, self.limit_param: self.limit})

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages according to the first response; None if unknown."""
        rows = None if self.total is None else select_count(self.total, response)
        if self.step == "limit" and rows is not None and count <= min(self.limit, rows):
            return -(-rows // self.limit)
        return _page_total(rows, self.limit, count)

    def predict_tokens(self, response: Response) -> Callable[[int], int]:
        """The token of each page as a function of its number, counted from 0."""
        return lambda number: self.start + number * self.limit


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


def find_rows(path: str | None, response: Response) -> list[Any] | dict[str, Any] | None:
    """The array or mapping of rows at `records_path`, or the body itself if that is an array.

    An absent or null value is an empty array if the body contains nothing that may be the rows. None if the rows
    are not at that place, or if the body is not JSON.
    """
    body = json_body(response)
    if path is None:
        return as_array(body)
    value = select_rows(path, body)
    if value is ABSENT:
        is_empty = body == [] if as_object(body) is None else not any(array_lengths(body))
        return [] if is_empty else None
    if (array := as_array(value)) is not None:
        return array
    return [] if value is None else as_object(value)


def json_body(response: Response) -> Any:
    """The decoded body; None if it is not JSON, or still arriving."""
    if response.decoded_json is None and response.has_body:
        with suppress(UnexpectedContent):
            return response.json()
    return response.decoded_json


def candidate_paths(body: Any) -> list[str]:
    """The paths of a body at which rows may be: its arrays, the longest first, at most five."""
    found: list[tuple[int, str]] = []
    _collect_arrays(body, "", found)
    return [path for _, path in sorted(found, key=lambda entry: -entry[0])[:_MAX_CANDIDATES]]


def array_lengths(body: Any) -> set[int]:
    """The lengths of the arrays of a body at which rows may be."""
    found: list[tuple[int, str]] = []
    _collect_arrays(body, "", found)
    return {length for length, _ in found}


def _collect_arrays(value: Any, at: str, found: list[tuple[int, str]], depth: int = 0) -> None:
    for key, item in (as_object(value) or {}).items():
        where = f"{at}.{key}" if at else key
        if (items := as_array(item)) is not None:
            found.append((len(items), where))
        elif depth < _MAX_DEPTH:
            _collect_arrays(item, where, found, depth + 1)


def _page_total(items: int | None, size: int, count: int) -> int | None:
    """The number of pages of `size` for `items`; None if the first page shows a different page size."""
    return None if items is None or count != min(size, items) else -(-items // size)


def page_request(into: Into, fields: dict[str, Any]) -> PageRequest:
    """A page request with the fields at `into`. A dotted name sets a nested field of a JSON body."""
    if into == "params":
        return PageRequest(params=fields)
    if into == "headers":
        return PageRequest(headers={name: str(value) for name, value in fields.items()})
    if into == "data":
        return PageRequest(data=fields)
    body: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = name.split(".")
        inner = body
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = _with_raw_numbers(value)
    return PageRequest(json=body)


def _with_raw_numbers(value: Any) -> Any:
    """A JSON value that encodes each decimal number as it is written."""
    if (items := as_array(value)) is not None:
        return [_with_raw_numbers(item) for item in items]
    if (fields := as_object(value)) is not None:
        return {key: _with_raw_numbers(item) for key, item in fields.items()}
    return msgspec.Raw(str(value).encode()) if isinstance(value, Decimal) else value


def check_into(class_name: str, into: object) -> None:
    if into not in ("params", "json", "data", "headers"):
        raise ConfigError(f'{class_name}(into={into!r}): expected "params", "json", "data" or "headers"')


def _check_int(class_name: str, argument: str, value: object, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{class_name}({argument}={value!r}): expected an integer of at least {minimum}")
