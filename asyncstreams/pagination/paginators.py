"""Paginators: pure, frozen values that compute the token of the next page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .._json import as_object
from ..errors import ConfigError, UnexpectedContent
from ..messages import Response
from ..models import PageRequest
from .link_header import parse_link_header
from .selectors import Header, Selector, check_selector, select_value

__all__ = ["Continuation", "Cursor", "Header", "LinkHeader", "NextUrl", "Offset", "PageNumber"]

Into: TypeAlias = Literal["params", "json", "data", "headers"]


@dataclass(frozen=True, slots=True)
class PageNumber:
    """Pagination by page number. Ends at the declared total, or else after the first empty page.

    With a total, the remaining pages are fetched concurrently. Raises ConfigError for invalid arguments.
    """

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
    """Selects the number of records in a response; requires `size`."""
    stop_on_short_page: bool = False
    """Whether a page with fewer than `size` records is the last one; requires `size`.

    Leave it False for servers that shorten pages, for example after filtering by permission.
    """
    into: Into = "params"
    """Where the parameters are sent: "params", "json", "data" or "headers"."""

    def __post_init__(self) -> None:
        _check_name("PageNumber", "param", self.param)
        _check_name("PageNumber", "size_param", self.size_param)
        _check_into("PageNumber", self.into)
        if self.size is not None and self.size < 1:
            raise ConfigError(f"PageNumber(size={self.size}): expected at least 1")
        if self.total_items is not None and self.size is None:
            raise ConfigError(
                "PageNumber(total_items=...): size= is missing", hint="pass the number of records per page"
            )
        if self.stop_on_short_page and self.size is None:
            raise ConfigError(
                "PageNumber(stop_on_short_page=True): size= is missing", hint="pass the number of records per page"
            )
        for name in ("total_pages", "total_items"):
            if (selector := getattr(self, name)) is not None:
                check_selector("PageNumber", name, selector)

    def first(self) -> int:
        """The token of the first page."""
        return self.start

    def next(self, token: Any, response: Response, count: int) -> int | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        following = int(token) + 1
        if self.total_pages is not None and (pages := _count(self.total_pages, response)) is not None:
            return following if following < self.start + pages else None
        if self.total_items is not None and self.size is not None:
            items = _count(self.total_items, response)
            if items is not None:
                remaining = max(0, items - (int(token) - self.start) * self.size)
                # The last page by the total has an unexpected length: the server uses a different page size.
                return following if remaining > self.size or count != remaining else None
        if count == 0 or (self.stop_on_short_page and self.size is not None and count < self.size):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        fields = {self.param: token}
        return _page_request(self.into, fields if self.size is None else {**fields, self.size_param: self.size})

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages according to the first response; None if unknown."""
        if self.total_pages is not None:
            return _count(self.total_pages, response)
        if self.total_items is None or self.size is None:
            return None
        return _page_total(_count(self.total_items, response), self.size, count)

    def token_at(self, number: int, response: Response) -> int:
        """The token of page `number`, counted from 0."""
        return self.start + number


@dataclass(frozen=True, slots=True)
class Offset:
    """Pagination by offset. Ends at the declared total, or else after the first empty page.

    The offset advances by the number of records received, since a server may cap `limit`. With a total, the
    remaining pages are fetched concurrently. Raises ConfigError for invalid arguments.
    """

    param: str = "offset"
    """Name of the offset parameter."""
    limit: int = 100
    """Records per page, at least 1."""
    limit_param: str = "limit"
    """Name of the limit parameter."""
    total: Selector | None = None
    """Selects the number of records in a response."""
    stop_on_short_page: bool = False
    """Whether a page with fewer than `limit` records is the last one."""
    into: Into = "params"
    """Where the parameters are sent: "params", "json", "data" or "headers"."""

    def __post_init__(self) -> None:
        _check_name("Offset", "param", self.param)
        _check_name("Offset", "limit_param", self.limit_param)
        _check_into("Offset", self.into)
        if self.limit < 1:
            raise ConfigError(f"Offset(limit={self.limit}): expected at least 1")
        if self.total is not None:
            check_selector("Offset", "total", self.total)

    def first(self) -> int:
        """The token of the first page."""
        return 0

    def next(self, token: Any, response: Response, count: int) -> int | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        total = None if self.total is None else _count(self.total, response)
        # Skip one full page after an empty page before the total.
        following = int(token) + (count or self.limit)
        if total is not None:
            return following if following < total else None
        if count == 0 or (self.stop_on_short_page and count < self.limit):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return _page_request(self.into, {self.param: token, self.limit_param: self.limit})

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages according to the first response; None if unknown."""
        return _page_total(None if self.total is None else _count(self.total, response), self.limit, count)

    def token_at(self, number: int, response: Response) -> int:
        """The token of page `number`, counted from 0."""
        return number * self.limit


@dataclass(frozen=True, slots=True)
class Cursor:
    """Pagination by a token in each response. Ends when a response contains no token.

    Raises ConfigError for invalid arguments. Raises UnexpectedContent while reading if `more` is true but there is
    no token, since records would be lost silently.
    """

    token: Selector
    """Selects the token of the next page in a response."""
    param: str = "cursor"
    """Name of the parameter that sends the token."""
    into: Into = "params"
    """Where the token is sent: "params", "json", "data" or "headers"."""
    more: Selector | None = None
    """Selects a flag in a response; a falsy value or "false" ends the pagination."""
    stop_when: Callable[[Response], bool] | None = None
    """Ends the pagination if it returns true for a response."""

    def __post_init__(self) -> None:
        check_selector("Cursor", "token", self.token)
        _check_name("Cursor", "param", self.param)
        _check_into("Cursor", self.into)
        if self.more is not None:
            check_selector("Cursor", "more", self.more)

    @property
    def selector(self) -> Selector:
        """The selector of the next page."""
        return self.token

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> Any:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        if self.stop_when is not None and self.stop_when(response):
            return None
        more = None if self.more is None else select_value(self.more, response)
        if self.more is not None and (not more or str(more).lower() == "false"):
            return None
        following = select_value(self.token, response)
        if not following and more:
            raise UnexpectedContent(
                f"announces more pages ({_describe(self.more)}), but contains no token ({_describe(self.token)})",
                hint="compare the `token` of the stream's Cursor with a real response",
            )
        return following or None

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        if token is None:
            return PageRequest()
        return _page_request(self.into, {self.param: token})


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """Pagination by the `Link` header (RFC 8288). Ends when a response has no link with `rel`.

    If the first response has a numbered `rel="last"` link, the remaining pages are fetched concurrently.
    """

    rel: str = "next"
    """Relation type of the link to the next page; case-insensitive."""

    def __post_init__(self) -> None:
        _check_name("LinkHeader", "rel", self.rel)

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> str | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        return _links(response).get(self.rel.lower())

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(url=token)

    def page_count(self, response: Response, count: int) -> int | None:
        """The number of pages, if the first rel="last" and rel="next" links differ in one number; otherwise None."""
        numbers = self._numbers(response)
        return None if numbers is None else numbers.last - numbers.following + 2

    def token_at(self, number: int, response: Response) -> str:
        """The token of page `number`, counted from 0."""
        numbers = self._numbers(response)
        if numbers is None:
            raise ValueError("this response has no numbered links")
        return _with_param(numbers.url, numbers.param, str(numbers.following - 1 + number))

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
    """Pagination by a URL in each response. Ends when a response contains no URL.

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

    def first(self) -> None:
        """None: the first request needs no token."""

    def next(self, token: Any, response: Response, count: int) -> str | None:
        """The token of the page after `response`, which held `count` records; None after the last page."""
        following = select_value(self.url, response)
        if following is not None and not isinstance(following, str):
            raise UnexpectedContent(f"contains a {type(following).__name__} at {_describe(self.url)}, not a URL")
        return following or None

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(url=token)


@dataclass(frozen=True, slots=True)
class Continuation:
    """Pagination by several parameters, as in the MediaWiki API. Ends when a response contains no mapping."""

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
            raise UnexpectedContent(f"contains a {type(value).__name__} at {_describe(self.fields)}, not an object")
        return following or None

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(params=token or {})


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
            selectors = (paginator.total_pages, paginator.total_items)
        case Offset():
            selectors = (paginator.total,)
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


def _count(selector: Selector, response: Response) -> int | None:
    value = select_value(selector, response)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


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
        inner[last] = value
    return PageRequest(json=body)


def _with_param(url: str, param: str, value: str) -> str:
    parts = urlsplit(url)
    pairs = [(name, value if name == param else old) for name, old in parse_qsl(parts.query, True)]
    return urlunsplit(parts._replace(query=urlencode(pairs)))


def _describe(selector: Selector | None) -> str:
    if isinstance(selector, Header):
        return f"header {selector.name}"
    return repr(selector) if isinstance(selector, str) else getattr(selector, "__name__", "a function")


def _check_into(class_name: str, into: object) -> None:
    if into not in ("params", "json", "data", "headers"):
        raise ConfigError(f'{class_name}(into={into!r}): expected "params", "json", "data" or "headers"')


def _check_name(class_name: str, argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{class_name}({argument}={value!r}): expected a non-empty name")
