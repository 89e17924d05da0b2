"""Paginators: pure, frozen values that compute the token of the next page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from .._json import as_array, as_object
from ..errors import ConfigError, UnexpectedContent
from ..messages import Response
from ..models import PageRequest, Record
from .extent import UNKNOWN_EXTENT, Extent
from .link_header import names_relation, parse_link_header
from .selectors import (
    Header,
    Selector,
    check_selector,
    describe_selector,
    select_count,
    select_flag,
    select_literal,
    select_value,
)

__all__ = ["Continuation", "Cursor", "Header", "LinkHeader", "NextUrl", "Offset", "PageNumber"]

Into: TypeAlias = Literal["params", "json", "data", "headers"]
Step: TypeAlias = Literal["rows", "limit"]
StopWhen: TypeAlias = Callable[[Response], bool] | Callable[[Response, Sequence[Record]], bool]


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
        _check_name("PageNumber", "param", self.param)
        _check_name("PageNumber", "size_param", self.size_param)
        _check_into("PageNumber", self.into)
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
        return _page_request(self.into, fields if self.size is None else {**fields, self.size_param: self.size})

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
        _check_name("Offset", "param", self.param)
        _check_name("Offset", "limit_param", self.limit_param)
        _check_into("Offset", self.into)
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
        return _page_request(self.into, {self.param: token, self.limit_param: self.limit})

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages according to the first response; None if unknown."""
        rows = None if self.total is None else select_count(self.total, response)
        if self.step == "limit" and rows is not None and count <= min(self.limit, rows):
            return -(-rows // self.limit)
        return _page_total(rows, self.limit, count)

    def predict_tokens(self, response: Response) -> Callable[[int], int]:
        """The token of each page as a function of its number, counted from 0."""
        return lambda number: self.start + number * self.limit


@dataclass(frozen=True, slots=True)
class Cursor:
    """Pagination by a token in each response. Ends when a response contains no token: null, false, 0, "", [] or {}.

    A token that is a JSON number, or contains some, is sent as the API wrote it, digit by digit. Raises ConfigError
    for invalid arguments.
    Raises UnexpectedContent while reading if `more` is true but there is no token, since records would be lost
    silently.
    """

    counts_rows: ClassVar[bool] = False
    token: Selector
    """Selects the token of the next page in a response."""
    param: str = "cursor"
    """Name of the parameter that sends the token."""
    into: Into = "params"
    """Where the token is sent: "params", "json", "data" or "headers"."""
    more: Selector | None = None
    """Selects a flag in a response: false ends the pagination. Where it is absent, the token decides."""
    stop_when: StopWhen | None = None
    """Called with each response, or with a response and its records; ends the pagination if it returns true."""

    def __post_init__(self) -> None:
        check_selector("Cursor", "token", self.token)
        _check_name("Cursor", "param", self.param)
        _check_into("Cursor", self.into)
        if self.more is not None:
            check_selector("Cursor", "more", self.more)
        if self.stop_when is not None:
            _takes_records(self.stop_when)

    @property
    def selector(self) -> Selector:
        """The selector of the next page."""
        return self.token

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> Any:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        if self.stop_when is not None and _stops(self.stop_when, response):
            return None
        more = None if self.more is None else select_flag(self.more, response)
        if more is False:
            return None
        following = select_value(self.token, response)
        if not following:
            if more:
                more_name, token_name = describe_selector(self.more), describe_selector(self.token)
                raise UnexpectedContent(
                    f"announces more pages ({more_name}), but contains no token ({token_name})",
                    hint="compare the `token` of the stream's Cursor with a real response",
                )
            return None
        if _has_float(following):
            literal = select_literal(self.token, response)
            return _with_exact_numbers(following, literal) if self.into == "json" else literal
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        if token is None:
            return PageRequest()
        return _page_request(self.into, {self.param: token})


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """Pagination by the `Link` header (RFC 8288). Ends when a response has no link with `rel`.

    If the first response has a numbered `rel="last"` link, the remaining pages are fetched concurrently. Raises
    UnexpectedContent while reading for a header that names `rel`, but whose link cannot be read.
    """

    counts_rows: ClassVar[bool] = False
    rel: str = "next"
    """Relation type of the link to the next page; case-insensitive."""

    def __post_init__(self) -> None:
        _check_name("LinkHeader", "rel", self.rel)

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> str | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        relation = self.rel.lower()
        header = response.headers.get("link") or ""
        target = parse_link_header(header).get(relation)
        if target is None and names_relation(header, relation) and "anchor" not in header.lower():
            raise UnexpectedContent(
                f"has a Link header whose link with rel={self.rel!r} cannot be read (RFC 8288)",
                hint="select the link with NextUrl(...) and a function of the response that reads the header",
            )
        return target or None

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(url=token)

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages, if the first rel="last" and rel="next" links differ in one number; otherwise None."""
        numbers = self._numbers(response)
        return None if numbers is None else numbers.last - numbers.following + 2

    def predict_tokens(self, response: Response) -> Callable[[int], str]:
        """The token of each page as a function of its number, counted from 0; ValueError without numbered links."""
        numbers = self._numbers(response)
        if numbers is None:
            raise ValueError("this response has no numbered links")
        return lambda number: _with_param(numbers.url, numbers.param, str(numbers.following - 1 + number))

    def _numbers(self, response: Response) -> NumberedLinks | None:
        links = _links(response)
        following, last = links.get(self.rel.lower()), links.get("last")
        if following is None or last is None:
            return None
        next_url, last_url = urlsplit(following), urlsplit(last)
        next_query, last_query = parse_qsl(next_url.query, True), parse_qsl(last_url.query, True)
        if next_url[:3] != last_url[:3] or [name for name, _ in next_query] != [name for name, _ in last_query]:
            return None
        pairs = zip(next_query, last_query, strict=True)
        changed = [(*pair, value) for pair, (_, value) in pairs if pair[1] != value]
        if len(changed) != 1 or not (changed[0][1].isdecimal() and changed[0][2].isdecimal()):
            return None
        name, number = changed[0][0], int(changed[0][1])
        # Page numbers increase by one from the requested page; offsets do not.
        requested = dict(parse_qsl(response.url.query.decode("ascii", "replace"))).get(name)
        if number not in (1, 2) if requested is None else requested != str(number - 1):
            return None
        return NumberedLinks(following, name, number, int(changed[0][2]))


class NumberedLinks(NamedTuple):
    """The URL of the next page, its page number parameter, and the numbers of the next and last pages."""

    url: str
    param: str
    following: int
    last: int


@dataclass(frozen=True, slots=True)
class NextUrl:
    """Pagination by a URL in each response. Ends when a response contains no URL: null, false, 0, "", [] or {}.

    Relative URLs are resolved against the request URL (RFC 3986). Raises ConfigError for an invalid selector.
    """

    counts_rows: ClassVar[bool] = False
    url: Selector
    """Selects the URL of the next page in a response."""

    def __post_init__(self) -> None:
        check_selector("NextUrl", "url", self.url)

    @property
    def selector(self) -> Selector:
        """The selector of the next page."""
        return self.url

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> str | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        following = select_value(self.url, response)
        if not following:
            return None
        if not isinstance(following, str):
            raise UnexpectedContent(
                f"contains a {type(following).__name__} at {describe_selector(self.url)}, not a URL"
            )
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(url=token)


@dataclass(frozen=True, slots=True)
class Continuation:
    """Pagination by several parameters, as in the MediaWiki API. Ends when a response contains no mapping."""

    counts_rows: ClassVar[bool] = False
    fields: Selector = "continue"
    """Selects a mapping in a response, which is merged into the query parameters of the next page."""

    def __post_init__(self) -> None:
        check_selector("Continuation", "fields", self.fields)

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> dict[str, Any] | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        value = select_value(self.fields, response)
        following = as_object(value)
        if value and following is None:
            raise UnexpectedContent(
                f"contains a {type(value).__name__} at {describe_selector(self.fields)}, not an object"
            )
        if following and _has_float(following):
            return as_object(select_literal(self.fields, response))
        return following or None

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(params=token or {})


class PaginatorTraits(NamedTuple):
    """What follows from the declaration of a stream's paginator.

    paginator: None if the stream has none, or a next_page_token of its own.
    numbered: the paginator, if it requests pages that the API has not named.
    counts_rows: whether it needs the number of rows of each page.
    has_extent: whether it reads a total or a flag.
    shows_records: whether code of the author can see the records of a page: next_page_token, a function or a paginator.
    """

    paginator: Any
    numbered: PageNumber | Offset | None
    counts_rows: bool
    has_extent: bool
    shows_records: bool

    @classmethod
    def of(cls, paginator: object, *, uses_paginator: bool) -> PaginatorTraits:
        """The traits of a stream with this paginator."""
        if not uses_paginator or paginator is None:
            return cls(None, None, False, False, not uses_paginator)
        numbered = paginator if isinstance(paginator, PageNumber | Offset) else None
        counts_rows = bool(getattr(paginator, "counts_rows", True))
        has_extent = numbered is not None and bool(numbered.totals)
        return cls(paginator, numbered, counts_rows, has_extent, body_paths(paginator) is None)


def ends_without_token(paginator: object) -> bool:
    """Whether a paginator ends only on a response without a token, and not by a total, a flag or a function."""
    if isinstance(paginator, Cursor):
        return paginator.more is None and paginator.stop_when is None
    return isinstance(paginator, LinkHeader | NextUrl | Continuation)


def body_paths(paginator: object) -> tuple[str, ...] | None:
    """The paths in a body that a paginator reads; None if they are unknown."""
    selectors: tuple[object, ...]
    match paginator:
        case None | LinkHeader():
            selectors = ()
        case PageNumber():
            selectors = (paginator.total_pages, paginator.total_items, paginator.more)
        case Offset():
            selectors = (paginator.total, paginator.more)
        case Cursor():
            selectors = (paginator.token, paginator.more, paginator.stop_when)
        case NextUrl():
            selectors = (paginator.url,)
        case Continuation():
            selectors = (paginator.fields,)
        case _:
            return None
    if any(map(callable, selectors)) or type(paginator).__module__.partition(".")[0] not in (
        "asyncstreams",
        "builtins",
    ):
        return None
    return tuple(selector for selector in selectors if isinstance(selector, str))


def _links(response: Response) -> dict[str, str]:
    return parse_link_header(response.headers.get("link") or "")


def _stops(stop_when: StopWhen, response: Response) -> bool:
    if not _takes_records(stop_when):
        return cast(Callable[[Response], bool], stop_when)(response)
    return cast(Callable[[Response, Sequence[Record]], bool], stop_when)(response, response.context.page_records)


@lru_cache(maxsize=256)
def _takes_records(stop_when: object) -> bool:
    """Whether `stop_when` takes the records besides the response. Raises ConfigError if it takes neither."""
    if not callable(stop_when) or inspect.iscoroutinefunction(stop_when):
        kind = "async" if callable(stop_when) else f"of type {type(stop_when).__name__}"
        raise ConfigError(f"Cursor(stop_when=...) is {kind}: expected a plain function of the response")
    try:
        signature = inspect.signature(stop_when)
    except ValueError:  # of some functions written in C
        return False
    for count in (1, 2):  # a second parameter with a default is not meant for the records
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == 2
    raise ConfigError(
        f"Cursor(stop_when=...) cannot be called with (response) or (response, records): it takes {signature}"
    )


def _page_total(items: int | None, size: int, count: int) -> int | None:
    """The number of pages of `size` for `items`; None if the first page shows a different page size."""
    return None if items is None or count != min(size, items) else -(-items // size)


def _page_request(into: Into, fields: dict[str, Any]) -> PageRequest:
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


def _has_float(value: Any) -> bool:
    """Whether a JSON value is or contains a number that is not an integer, as the sort values of a search may."""
    if (items := as_array(value)) is not None:
        return any(map(_has_float, items))
    fields = as_object(value)
    return isinstance(value, float) if fields is None else any(map(_has_float, fields.values()))


def _with_exact_numbers(value: Any, literal: Any) -> Any:
    """A JSON value with each float as an exact number. `literal` is the same value as by `select_literal`."""
    if (items := as_array(value)) is not None:
        return [_with_exact_numbers(*pair) for pair in zip(items, literal, strict=True)]
    if (fields := as_object(value)) is not None:
        return {key: _with_exact_numbers(item, literal[key]) for key, item in fields.items()}
    if not (isinstance(value, float) and isinstance(literal, str)):
        return value
    number = Decimal(literal)
    return number if str(number) == literal else msgspec.Raw(literal.encode())  # 1e5 is another text than 1E+5


def _with_raw_numbers(value: Any) -> Any:
    """A JSON value that encodes each decimal number as it is written."""
    if (items := as_array(value)) is not None:
        return [_with_raw_numbers(item) for item in items]
    if (fields := as_object(value)) is not None:
        return {key: _with_raw_numbers(item) for key, item in fields.items()}
    return msgspec.Raw(str(value).encode()) if isinstance(value, Decimal) else value


def _with_param(url: str, param: str, value: str) -> str:
    parts = urlsplit(url)
    pairs = [(name, value if name == param else old) for name, old in parse_qsl(parts.query, True)]
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def _check_into(class_name: str, into: object) -> None:
    if into not in ("params", "json", "data", "headers"):
        raise ConfigError(f'{class_name}(into={into!r}): expected "params", "json", "data" or "headers"')


def _check_int(class_name: str, argument: str, value: object, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{class_name}({argument}={value!r}): expected an integer of at least {minimum}")


def _check_name(class_name: str, argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{class_name}({argument}={value!r}): expected a non-empty name")
