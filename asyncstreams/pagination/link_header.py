"""Pagination by the `Link` header, and a parser for it (RFC 8288, section 3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ..errors import UnexpectedContent
from ..messages import Response
from ..models import PageRequest
from .selectors import check_name

_TARGET = re.compile(r"\s*<([^>]*)>")
# Some servers write single quotes, which are none of RFC 8288.
_PARAM = re.compile(r"""(?:\s*;)+\s*([^\s=;,"]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|'[^',;"]*'|[^\s;,"]*))?""")
_NEXT = re.compile(r"\s*,")


class TokenPaginator:
    """Base of paginators that find the next page in each response: as a URL, unless they override `apply`."""

    __slots__ = ()
    counts_rows: ClassVar[bool] = False

    def first(self) -> None:
        """None: the first request needs no token."""

    def apply(self, token: Any) -> PageRequest:
        """The request parts for the page with this token."""
        return PageRequest(url=token)


@dataclass(frozen=True, slots=True)
class LinkHeader(TokenPaginator):
    """Pagination by the `Link` header (RFC 8288). Ends when a response has no link with `rel`.

    If the first response has a numbered `rel="last"` link, the remaining pages are fetched concurrently. Raises
    UnexpectedContent while reading for a header that names `rel`, but whose link cannot be read.
    """

    rel: str = "next"
    """Relation type of the link to the next page; case-insensitive."""

    def __post_init__(self) -> None:
        check_name("LinkHeader", "rel", self.rel)

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

    def _numbers(self, response: Response) -> _NumberedLinks | None:
        links = parse_link_header(response.headers.get("link") or "")
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
        return _NumberedLinks(following, name, number, int(changed[0][2]))


class _NumberedLinks(NamedTuple):
    """The URL of the next page, its page number parameter, and the numbers of the next and last pages."""

    url: str
    param: str
    following: int
    last: int


def parse_link_header(value: str) -> dict[str, str]:
    """Targets by relation type in lower case. The first link of a type wins; malformed links are skipped.

    Several headers must be joined by commas (RFC 9110, 5.3). A link with an `anchor` describes another resource and
    is skipped.
    """
    links: dict[str, str] = {}
    position = 0
    while position < len(value):
        match = _TARGET.match(value, position)
        if match is None:
            position = value.find(",", position) + 1 or len(value)
            continue
        target, position = match.group(1), match.end()
        params: dict[str, str] = {}
        while (match := _PARAM.match(value, position)) is not None:
            params.setdefault(match.group(1).lower(), _unquoted(match.group(2) or ""))
            position = match.end()
        if "anchor" not in params:
            for relation in params.get("rel", "").lower().split():
                links.setdefault(relation, target)
        following = _NEXT.match(value, position)
        position = following.end() if following else (value.find(",", position) + 1 or len(value))
    return links


def names_relation(value: str, relation: str) -> bool:
    """Whether a header has a `rel` parameter with this relation, perhaps in a link that cannot be parsed."""
    relations = rf"""["']?(?:[^"',;]*\s)?{re.escape(relation)}(?=["',;\s]|$)"""
    return re.search(rf"(?:^|[;,\s>])rel\s*=\s*{relations}", value, re.IGNORECASE) is not None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1]
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _with_param(url: str, param: str, value: str) -> str:
    parts = urlsplit(url)
    pairs = [(name, value if name == param else old) for name, old in parse_qsl(parts.query, True)]
    return urlunsplit(parts._replace(query=urlencode(pairs)))
