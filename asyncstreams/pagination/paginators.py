"""Paginators: pure, frozen values that compute the token of the next page."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

from .._json import as_object
from ..errors import ConfigError, UnexpectedContent
from ..messages import Response
from ..models import PageRequest, Record
from .link_header import LinkHeader, TokenPaginator
from .numbered import Into, Offset, PageNumber, check_into, page_request
from .selectors import (
    Header,
    Selector,
    check_name,
    check_selector,
    describe_selector,
    has_float,
    select_exact,
    select_flag,
    select_literal,
    select_value,
)

__all__ = ["Continuation", "Cursor", "Header", "LinkHeader", "NextUrl", "Offset", "PageNumber"]

StopWhen: TypeAlias = Callable[[Response], bool] | Callable[[Response, Sequence[Record]], bool]


@dataclass(frozen=True, slots=True)
class Cursor(TokenPaginator):
    """Pagination by a token in each response. Ends when a response contains no token: null, false, 0, "", [] or {}.

    A token that is a JSON number, or contains some, is sent as the API wrote it, digit by digit. Raises ConfigError
    for invalid arguments.
    Raises UnexpectedContent while reading if `more` is true but there is no token, since records would be lost
    silently.
    """

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
        check_name("Cursor", "param", self.param)
        check_into("Cursor", self.into)
        if self.more is not None:
            check_selector("Cursor", "more", self.more)
        if self.stop_when is not None:
            _takes_records(self.stop_when)

    @property
    def selector(self) -> Selector:
        """The selector of the next page."""
        return self.token

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
        if has_float(following):
            is_json = self.into == "json"
            return select_exact(self.token, response, following) if is_json else select_literal(self.token, response)
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        if token is None:
            return PageRequest()
        return page_request(self.into, {self.param: token})


@dataclass(frozen=True, slots=True)
class NextUrl(TokenPaginator):
    """Pagination by a URL in each response. Ends when a response contains no URL: null, false, 0, "", [] or {}.

    Relative URLs are resolved against the request URL (RFC 3986). Raises ConfigError for an invalid selector.
    """

    url: Selector
    """Selects the URL of the next page in a response."""

    def __post_init__(self) -> None:
        check_selector("NextUrl", "url", self.url)

    @property
    def selector(self) -> Selector:
        """The selector of the next page."""
        return self.url

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


@dataclass(frozen=True, slots=True)
class Continuation(TokenPaginator):
    """Pagination by several parameters, as in the MediaWiki API. Ends when a response contains no mapping."""

    fields: Selector = "continue"
    """Selects a mapping in a response, which is merged into the query parameters of the next page."""

    def __post_init__(self) -> None:
        check_selector("Continuation", "fields", self.fields)

    def next(self, token: Any, response: Response, count: int) -> dict[str, Any] | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        value = select_value(self.fields, response)
        following = as_object(value)
        if value and following is None:
            raise UnexpectedContent(
                f"contains a {type(value).__name__} at {describe_selector(self.fields)}, not an object"
            )
        if following and has_float(following):
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
