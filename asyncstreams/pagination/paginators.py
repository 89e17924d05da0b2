"""How does one page lead to the next: the ready-made ways, pure and frozen."""

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
from .selectors import Header, Selector, check_selector, select

__all__ = ["Continuation", "Cursor", "Header", "LinkHeader", "NextUrl", "Offset", "PageNumber"]

Into: TypeAlias = Literal["params", "json", "data", "headers"]


@dataclass(frozen=True, slots=True)
class PageNumber:
    """Pages by number. Ends at the total, where one is told; else at the first empty page.

    A short page is no end, since servers shorten pages in the middle; `stop_on_short_page=True`
    is for those who know that theirs does not. `total_pages` and `total_items` select the
    totals in a response; `total_items` needs `size`.
    """

    param: str = "page"
    start: int = 1
    size: int | None = None
    size_param: str = "per_page"
    total_pages: Selector | None = None
    total_items: Selector | None = None
    stop_on_short_page: bool = False
    into: Into = "params"

    def __post_init__(self) -> None:
        _check_name("PageNumber", "param", self.param)
        _check_name("PageNumber", "size_param", self.size_param)
        _check_into("PageNumber", self.into)
        if self.size is not None and self.size < 1:
            raise ConfigError(f"PageNumber(size={self.size}): a page holds at least one record")
        if self.total_items is not None and self.size is None:
            raise ConfigError("PageNumber(total_items=...) needs size=, to know how many pages that makes")
        if self.stop_on_short_page and self.size is None:
            raise ConfigError("PageNumber(stop_on_short_page=True) needs size=, to know which page is short")
        for name in ("total_pages", "total_items"):
            if (selector := getattr(self, name)) is not None:
                check_selector("PageNumber", name, selector)

    def first(self) -> int:
        return self.start

    def next(self, token: Any, response: Response, count: int) -> int | None:
        following = int(token) + 1
        if self.total_pages is not None and (pages := _count(self.total_pages, response)) is not None:
            return following if following < self.start + pages else None
        if self.total_items is not None and self.size is not None:
            items = _count(self.total_items, response)
            if items is not None:
                left = max(0, items - (int(token) - self.start) * self.size)
                # The last page by the total, but not of its length: the server has a page size of its own.
                return following if left > self.size or count != left else None
        if count == 0 or (self.stop_on_short_page and self.size is not None and count < self.size):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        fields = {self.param: token}
        return _placed(self.into, fields if self.size is None else {**fields, self.size_param: self.size})

    def page_count(self, response: Response, count: int) -> int | None:
        if self.total_pages is not None:
            return _count(self.total_pages, response)
        if self.total_items is None or self.size is None:
            return None
        return _pages(_count(self.total_items, response), self.size, count)

    def token_at(self, number: int, response: Response) -> int:
        return self.start + number


@dataclass(frozen=True, slots=True)
class Offset:
    """Pages by offset, which moves by the records that came: a server may cap `limit`.

    Ends at the total, where `total` selects one; else at the first empty page, or, with
    `stop_on_short_page=True`, at the first that holds fewer than `limit`.
    """

    param: str = "offset"
    limit: int = 100
    limit_param: str = "limit"
    total: Selector | None = None
    stop_on_short_page: bool = False
    into: Into = "params"

    def __post_init__(self) -> None:
        _check_name("Offset", "param", self.param)
        _check_name("Offset", "limit_param", self.limit_param)
        _check_into("Offset", self.into)
        if self.limit < 1:
            raise ConfigError(f"Offset(limit={self.limit}): a page holds at least one record")
        if self.total is not None:
            check_selector("Offset", "total", self.total)

    def first(self) -> int:
        return 0

    def next(self, token: Any, response: Response, count: int) -> int | None:
        total = None if self.total is None else _count(self.total, response)
        # An empty page before the total was reached: step over it, a whole page.
        following = int(token) + (count or self.limit)
        if total is not None:
            return following if following < total else None
        if count == 0 or (self.stop_on_short_page and count < self.limit):
            return None
        return following

    def apply(self, token: Any) -> PageRequest:
        return _placed(self.into, {self.param: token, self.limit_param: self.limit})

    def page_count(self, response: Response, count: int) -> int | None:
        return _pages(None if self.total is None else _count(self.total, response), self.limit, count)

    def token_at(self, number: int, response: Response) -> int:
        return number * self.limit


@dataclass(frozen=True, slots=True)
class Cursor:
    """Pages by a token that each response gives: `token` selects it, `into` says where it goes.

    Ends where there is no token, where `more` selects something falsy, or where
    `stop_when(response)` is true. A response whose `more` is true but which gives no token
    raises UnexpectedContent: to end there would lose the rest without a word.
    """

    token: Selector
    param: str = "cursor"
    into: Into = "params"
    more: Selector | None = None
    stop_when: Callable[[Response], bool] | None = None

    def __post_init__(self) -> None:
        check_selector("Cursor", "token", self.token)
        _check_name("Cursor", "param", self.param)
        _check_into("Cursor", self.into)
        if self.more is not None:
            check_selector("Cursor", "more", self.more)

    @property
    def selector(self) -> Selector:
        """What selects the next page."""
        return self.token

    def first(self) -> None:
        return None

    def next(self, token: Any, response: Response, count: int) -> Any:
        if self.stop_when is not None and self.stop_when(response):
            return None
        more = None if self.more is None else select(self.more, response)
        if self.more is not None and (not more or str(more).lower() == "false"):
            return None
        following = select(self.token, response)
        if not following and more:
            raise UnexpectedContent(
                f"says that there is more ({_told(self.more)}), but gives no token ({_told(self.token)})",
                hint="check the `token` of the stream's Cursor against a real response",
            )
        return following or None

    def apply(self, token: Any) -> PageRequest:
        if token is None:
            return PageRequest()
        return _placed(self.into, {self.param: token})


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """Pages by the `Link` header (RFC 8288): `rel="next"`, until there is none."""

    rel: str = "next"

    def __post_init__(self) -> None:
        _check_name("LinkHeader", "rel", self.rel)

    def first(self) -> None:
        return None

    def next(self, token: Any, response: Response, count: int) -> str | None:
        return _links(response).get(self.rel.lower())

    def apply(self, token: Any) -> PageRequest:
        return PageRequest(url=token)

    def page_count(self, response: Response, count: int) -> int | None:
        """From the first page's rel="last", where it differs from rel="next" in one whole number."""
        numbers = self._numbers(response)
        return None if numbers is None else numbers.last - numbers.following + 2

    def token_at(self, number: int, response: Response) -> str:
        numbers = self._numbers(response)
        if numbers is None:
            raise ValueError("this response has no numbered links")
        return _with_param(numbers.url, numbers.param, str(numbers.following - 1 + number))

    def _numbers(self, response: Response) -> NumberedLinks | None:
        links = _links(response)
        following, last = links.get(self.rel.lower()), links.get("last")
        if following is None or last is None:
            return None
        ours, theirs = urlsplit(following), urlsplit(last)
        mine, other = parse_qsl(ours.query, True), parse_qsl(theirs.query, True)
        if ours[:3] != theirs[:3] or [name for name, _ in mine] != [name for name, _ in other]:
            return None
        changed = [(*pair, value) for pair, (_, value) in zip(mine, other, strict=True) if pair[1] != value]
        if len(changed) != 1 or not (changed[0][1].isdecimal() and changed[0][2].isdecimal()):
            return None
        name, number = changed[0][0], int(changed[0][1])
        # An offset in the links is no page number: those go up by one from what was asked for.
        own = dict(parse_qsl(response.url.query.decode("ascii", "replace"))).get(name)
        if number not in (1, 2) if own is None else own != str(number - 1):
            return None
        return NumberedLinks(following, name, number, int(changed[0][2]))


class NumberedLinks(NamedTuple):
    url: str
    param: str
    following: int
    last: int


@dataclass(frozen=True, slots=True)
class NextUrl:
    """Pages by a URL in the response: `url` selects it. Relative ones are resolved (RFC 3986)."""

    url: Selector

    def __post_init__(self) -> None:
        check_selector("NextUrl", "url", self.url)

    @property
    def selector(self) -> Selector:
        """What selects the next page."""
        return self.url

    def first(self) -> None:
        return None

    def next(self, token: Any, response: Response, count: int) -> str | None:
        following = select(self.url, response)
        if following is not None and not isinstance(following, str):
            raise UnexpectedContent(f"gives a {type(following).__name__} where {_told(self.url)} should hold a URL")
        return following or None

    def apply(self, token: Any) -> PageRequest:
        return PageRequest(url=token)


@dataclass(frozen=True, slots=True)
class Continuation:
    """Pages by several keys at once: the mapping at `fields` is merged into the params (MediaWiki)."""

    fields: Selector = "continue"

    def __post_init__(self) -> None:
        check_selector("Continuation", "fields", self.fields)

    def first(self) -> None:
        return None

    def next(self, token: Any, response: Response, count: int) -> dict[str, Any] | None:
        found = select(self.fields, response)
        following = as_object(found)
        if found and following is None:
            raise UnexpectedContent(f"gives a {type(found).__name__} where {_told(self.fields)} should hold an object")
        return following or None

    def apply(self, token: Any) -> PageRequest:
        return PageRequest(params=token or {})


def ends_without_token(paginator: object) -> bool:
    """Whether a way of paging ends only where its token is not there, and not by what else the response says."""
    if isinstance(paginator, Cursor):
        return paginator.more is None and paginator.stop_when is None
    return isinstance(paginator, LinkHeader | NextUrl | Continuation)


def body_paths(paginator: object) -> tuple[str, ...] | None:
    """The paths in a body that a way of paging looks at; None where nobody can tell."""
    told: tuple[object, ...]
    match paginator:
        case None | LinkHeader():
            told = ()
        case PageNumber():
            told = (paginator.total_pages, paginator.total_items)
        case Offset():
            told = (paginator.total,)
        case Cursor():
            told = (paginator.token, paginator.more, paginator.stop_when)
        case NextUrl():
            told = (paginator.url,)
        case Continuation():
            told = (paginator.fields,)
        case _:
            return None
    if any(callable(one) for one in told) or type(paginator).__module__ not in (__name__, "builtins"):
        return None
    return tuple(one for one in told if isinstance(one, str))


def _links(response: Response) -> dict[str, str]:
    return parse_link_header(response.headers.get("link") or "")


def _count(selector: Selector, response: Response) -> int | None:
    found = select(selector, response)
    if isinstance(found, str) and found.strip().isdecimal():
        found = int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _pages(items: int | None, size: int, count: int) -> int | None:
    """Pages of `size` that hold so many items; None where the first shows that the server has another size."""
    return None if items is None or count != min(size, items) else -(-items // size)


def _placed(into: Into, fields: dict[str, Any]) -> PageRequest:
    """Fields of a page, where they go. In a JSON body `"variables.after"` is a field in an object."""
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


def _told(selector: Selector | None) -> str:
    if isinstance(selector, Header):
        return f"header {selector.name}"
    return repr(selector) if isinstance(selector, str) else getattr(selector, "__name__", "a function")


def _check_into(owner: str, into: object) -> None:
    if into not in ("params", "json", "data", "headers"):
        raise ConfigError(f'{owner}(into={into!r}): one of "params", "json", "data", "headers"')


def _check_name(owner: str, argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{owner}({argument}={value!r}): the name of a parameter is needed")
