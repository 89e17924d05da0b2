"""Signs in a response that its resource has more pages, for streams that do not declare pagination."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from .._json import as_array, as_object, decode
from ..errors import MalformedJSON
from ..messages import HeaderIndex, HeaderLayout, Response
from .link_header import parse_link_header
from .record_path import rows_container
from .selectors import as_count

_Kind: TypeAlias = Literal["next", "more", "last", "total", "pages", "position", "token", "container", "links"]
_MAX_DEPTH = 2
_MAX_KEYS = 500
_EDGE_BYTES = 1024
_EDGE_FIELD = re.compile(rb'"([@.\w-]{2,40})"\s*:\s*(\{\}?|\[\]?|[^\s,\[\]{}]{1,20})', re.ASCII)
_FALSY_VALUES = (b"null", b"false", b'""', b"[", b"{}", b"0")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names are without case and separators, so that "has_more", "hasMore" and "has-more" are one.
_NEXT_PARTS = re.compile(
    r"(?:links?|url|page|paging|pagination|cursor)?next(?:pages?|cursor|token|url|uri|link|href|offset|start|skip|marker|"
    r"mark|key|id|continuation|records?|results?|number|after|position|bookmark)*"
)
_MORE_PARTS = re.compile(
    r"(?:(?:has|is)(?:more|next)|more)(?:pages?|results?|records?|items?|rows?|data|entries|objects?|available|exists?)*"
    r"(?:incollection)?"
)
_OTHER_NEXT_NAMES = _names("continue lastevaluatedkey")
_KINDS: dict[_Kind, frozenset[str]] = {
    "more": _names("next istruncated truncated"),
    "last": _names("last islast lastpage islastpage isend endofresults endoflist"),
    "total": _names(
        "count total totalcount totalresults totalresult totalitems totalrecords totalelements totalrows totalentries "
        "totalhits totalsize totalnumber totalobjects totalnum numfound nbhits recordstotal itemstotal resultstotal "
        "recordcount itemcount rowcount fullcount odatacount resulttotal resultcount totalresultcount "
        "totalrecordcount totalitemcount totalrowcount totalfound found totalmatches totalnumberofresults "
        "totalnumberofrecords totalnumberofitems numberofresults numresults numberofrecords numrecords numberofitems "
        "totaldocs totaldocuments recordsfiltered"
    ),
    "pages": _names(
        "pages totalpages pagestotal pagetotal pagecount pagescount totalpagecount lastpage lastpagenumber nbpages "
        "numpages numberofpages maxpage maxpages"
    ),
    "position": _names(
        "page pagenumber pageno pagenum pageindex currentpage currentpagenumber perpage pagesize pagelen itemsperpage "
        "resultsperpage recordsperpage rowsperpage hitsperpage maxresults limit offset skip startat startindex"
    ),
    # Tokens that may be of a next page, or only repeat what was requested.
    "token": _names("cursor offset paginationtoken pagingtoken pagetoken continuationtoken continuation scrollid"),
    # Objects about pages; only they are searched further down.
    "container": _names("pageinfo paging pagination paginginfo pagemeta meta metadata links cursor cursors"),
    "links": _names("link links"),
}
_TOKEN_PARAMS = {"token": "page_token", "page": "page", "offset": "offset", "start": "start", "marker": "marker"}
# Of headers, without case, separators and the prefix "x-".
_HEADER_PREFIX = r"(?:wp|ms|opc|pagination|paging)?"
_HEADER_KINDS: dict[_Kind, re.Pattern[str]] = {
    "next": re.compile(
        rf"{_HEADER_PREFIX}(?:(?:page|cursor)?next(?:page|cursor|token|url|link|offset|start|marker|key|id)*|"
        r"continuation(?:token)?)"
    ),
    "more": re.compile(rf"{_HEADER_PREFIX}has(?:more|next)(?:pages?|results?|items?|records?|data)*"),
    "pages": re.compile(rf"{_HEADER_PREFIX}(?:totalpages?|pages?count|pagestotal|numpages|lastpage)"),
    "total": re.compile(
        rf"{_HEADER_PREFIX}(?:total(?:count|items?|records?|results?|elements|rows|entries|objects)?|"
        r"(?:result|record|item|row|full)s?count)"
    ),
    "position": re.compile(rf"{_HEADER_PREFIX}(?:page(?:number|index|size)?|currentpage|perpage|limit|offset)"),
}
_CONTENT_RANGE = re.compile(
    rb"\s*(?:(?!bytes)[a-z-]+[ =]+)?([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})\s*", re.IGNORECASE
)
_NO_TOKENS = (b"", b"0", b"false", b"null", b"none", b"-1")


class PaginationSign(NamedTuple):
    """A sign that there are more pages.

    where: what the response contains, as text for a message.
    paginator: the paginator that would read it, as Python source.
    is_certain: whether it names further pages; otherwise it is a total alone, or a token that may be another one.
    """

    where: str
    paginator: str
    is_certain: bool = True


def find_next_page(response: Response, records_path: str | None = None) -> PaginationSign | None:
    """A link, token or flag that names a next page: in a header, or in the decoded body under a usual name.

    The value at `records_path` is not searched.
    """
    headers = _sign_headers(response.layout)
    sign = _next_page_in_headers(response, headers) if headers else None
    return sign or _search(response.known_json, records_path).next_page


def has_sign_headers(layout: HeaderLayout) -> bool:
    """Whether a response with these headers may show further pages in them."""
    return bool(_sign_headers(layout))


def find_sign(response: Response, count: int, records_path: str | None = None) -> PaginationSign | None:
    """A sign as of `find_next_page`, or a total larger than the page: more than `count` rows, or than one page.

    A total is certain beside a page number, page size or offset, unless the response says that it is the last page.
    """
    body, headers = response.known_json, _sign_headers(response.layout)
    if not isinstance(body, dict) and not headers:
        return None
    if headers and (sign := _next_page_in_headers(response, headers)) is not None:
        return sign
    found = _search(body, records_path)
    if found.next_page is not None:
        return found.next_page
    total, number = next((entry for entry in found.totals if entry[1] > count), ("", 0))
    pages = next((path for path, number in found.pages if number > 1), None)
    is_certain = not found.says_last and bool(found.positions or (found.totals and found.pages))
    if pages is not None:
        where = f"a total of {number:,} ({total!r})" if total else f"more than one page ({pages!r})"
        return PaginationSign(where, f"PageNumber(total_pages={pages!r})", is_certain)
    if total:
        by_offset = any(path.rpartition(".")[2].lower() in ("offset", "skip") for path in found.positions)
        paginator = f"Offset(total={total!r})" if by_offset else f"PageNumber(size=..., total_items={total!r})"
        return PaginationSign(f"a total of {number:,} ({total!r})", paginator, is_certain and not found.pages)
    sign = _total_in_headers(response, headers, count) if headers else None
    return sign or (None if found.says_last else found.token)


def may_have_sign(content: bytes, count: int) -> bool:
    """Whether a body that is not decoded may have a sign before or after its `count` rows, as an array of objects."""
    start = content.find(b"[{", 0, _EDGE_BYTES)
    end = content.rfind(b"}]", -_EDGE_BYTES)
    head = content[: _EDGE_BYTES if start < 0 else start]
    tail = content[-_EDGE_BYTES if end < 0 else end + 2 :]
    fields = _EDGE_FIELD.findall(head) if len(head) > 2 else []
    if len(tail) > 2:
        fields += _EDGE_FIELD.findall(tail)
    return any(_may_be_sign(key.decode(), value, count) for key, value in fields)


def _may_be_sign(key: str, value: bytes, count: int) -> bool:
    for kind in _kinds_of(key):
        match kind:
            case "next":
                is_sign = not value.startswith(_FALSY_VALUES)
            case "more":
                is_sign = value == b"true"
            case "last":
                is_sign = value == b"false"
            case "token":
                is_sign = len(value) > 2 and value.startswith(b'"')
            case "total" | "pages":
                number = as_count(value.strip(b'"').decode("ascii", "replace")) or 0
                is_sign = value.startswith(b"{") or number > (count if kind == "total" else 1)
            case "links":
                is_sign = value == b"["
            case _:
                is_sign = False
        if is_sign:
            return True
    return False


class _SignHeader(NamedTuple):
    """A header that may show further pages: what it holds, its usual spelling and its positions."""

    kind: _Kind | Literal["link", "range", "fields"]
    name: str
    positions: HeaderIndex


@lru_cache(maxsize=256)
def _sign_headers(layout: HeaderLayout) -> tuple[_SignHeader, ...]:
    """The headers of a layout that may show further pages."""
    found: list[_SignHeader] = []
    for name, index in layout.indexes.items():
        text = name.decode("latin-1")
        plain = text.removeprefix("x-").replace("-", "").replace("_", "")
        if name in (b"link", b"content-range"):
            found.append(_SignHeader("link" if name == b"link" else "range", text.title(), index))
        elif plain in ("pagination", "paging"):
            found.append(_SignHeader("fields", text.title(), index))
        else:
            kinds: list[_Kind] = [kind for kind, pattern in _HEADER_KINDS.items() if pattern.fullmatch(plain)]
            found.extend(_SignHeader(kind, text.title(), index) for kind in kinds)
    return tuple(found)


def _next_page_in_headers(response: Response, headers: Sequence[_SignHeader]) -> PaginationSign | None:
    for kind, name, positions in headers:
        value = positions.value(response.raw_headers).strip()
        if kind == "link" and parse_link_header(value.decode("latin-1")).get("next"):
            return PaginationSign("the header Link", "LinkHeader()")
        if kind == "next" and value.lower() not in _NO_TOKENS:
            param = "page" if "page" in name.lower() else "cursor"
            is_url = value.startswith((b"http://", b"https://", b"/", b"?"))
            cursor = f'Cursor(Header("{name}"), param={param!r})'.replace("'", '"')
            return PaginationSign(f"the header {name}", f'NextUrl(Header("{name}"))' if is_url else cursor)
        if kind == "more" and value.lower() in (b"true", b"1", b"yes"):
            return PaginationSign(f"the header {name}", f'PageNumber(more=Header("{name}"))')
        if kind == "fields":  # one header with all fields as JSON, as of ASP.NET
            with suppress(MalformedJSON):
                found = _search(decode(value), None)
                if found.next_page is not None or any(number > 1 for _, number in found.pages):
                    hint = "PageNumber(more=lambda response: ...), with a function that reads this header"
                    return PaginationSign(f"the header {name}", hint)
    return None


def _total_in_headers(response: Response, headers: Sequence[_SignHeader], count: int) -> PaginationSign | None:
    """A total in headers; one of pages is preferred. It is certain beside another header about pages."""
    kinds = {header.kind for header in headers}
    total: PaginationSign | None = None
    for kind, name, positions in headers:
        value = positions.value(response.raw_headers)
        if kind == "range" and (match := _CONTENT_RANGE.fullmatch(value)) and int(match[3]) > int(match[2]) + 1:
            paginator = "Offset(total=lambda response: ...), with a function that reads this header"
            return PaginationSign(f"a total of {int(match[3]):,} (the header {name})", paginator)
        number = as_count(value.decode("latin-1")) if kind in ("pages", "total") else None
        if kind == "pages" and number is not None and number > 1:
            is_certain = bool(kinds & {"position", "total"})
            where = f"a total of {number:,} pages (the header {name})"
            return PaginationSign(where, f'PageNumber(total_pages=Header("{name}"))', is_certain)
        if kind == "total" and number is not None and number > count and total is None:
            where = f"a total of {number:,} (the header {name})"
            total = PaginationSign(where, f'Offset(total=Header("{name}"))', bool(kinds & {"position"}))
    return total


class _Findings:
    """What a search of a body has found; totals and pages with their paths."""

    __slots__ = ("keys_left", "next_page", "pages", "positions", "rows", "says_last", "token", "totals")

    def __init__(self, rows: object) -> None:
        self.next_page: PaginationSign | None = None
        self.token: PaginationSign | None = None
        self.says_last = False
        self.totals: list[tuple[str, int]] = []
        self.pages: list[tuple[str, int]] = []
        self.positions: list[str] = []
        self.rows = rows
        """The mapping of rows, which is not searched."""
        self.keys_left = _MAX_KEYS


def _search(body: Any, records_path: str | None) -> _Findings:
    fields = as_object(body)
    rows = None if records_path is None or fields is None else rows_container(records_path, fields)
    found = _Findings(rows)
    if fields is not None and fields is not rows:
        _search_object(fields, "", found, 0)
    return found


def _search_object(fields: dict[str, Any], at: str, found: _Findings, depth: int) -> None:
    inner: list[tuple[str, dict[str, Any], int]] | None = None
    for key, value in fields.items():
        if value is found.rows:
            continue
        found.keys_left -= 1
        if found.keys_left < 0:
            return
        kinds = _kinds_of(key)
        if kinds:
            _note_field(kinds, key, f"{at}.{key}" if at else key, value, found)
        if isinstance(value, dict) and "next" not in kinds:
            level = depth if "container" in kinds else depth + 1
            if level <= _MAX_DEPTH:
                inner = [] if inner is None else inner
                inner.append((f"{at}.{key}" if at else key, cast("dict[str, Any]", value), level))
    for where, nested, level in inner or ():
        _search_object(nested, where, found, level)


def _note_field(kinds: tuple[_Kind, ...], key: str, where: str, value: Any, found: _Findings) -> None:
    sign: PaginationSign | None = None
    for kind in kinds:
        match kind:
            case "total" | "pages":
                inner = as_object(value)
                number = as_count(value if inner is None else inner.get("value"))
                if number is not None and (not isinstance(value, str) or value.isdecimal()):
                    fields = found.totals if kind == "total" else found.pages
                    fields.append((where if inner is None else f"{where}.value", number))
            case "position":
                if as_count(value) is not None:
                    found.positions.append(where)
            case "token":
                if isinstance(value, str) and value.strip() and as_count(value) is None and found.token is None:
                    found.token = PaginationSign(repr(where), _paginator_for(key, where, value), is_certain=False)
            case "more":
                found.says_last = found.says_last or value is False
                if value is True:
                    sign = sign or PaginationSign(repr(where), f"PageNumber(more={where!r})")
            case "last":
                found.says_last = found.says_last or value is True
                if value is False:  # no selector reads a flag that is false where pages follow
                    more = f"lambda response: not response.json(){_getter(where)}"
                    sign = sign or PaginationSign(f"{where!r} = false", f"PageNumber(more={more})")
            case "next":
                is_token = isinstance(value, dict if key == "continue" else str | int | float | dict)
                found.says_last = found.says_last or not value
                if value and value is not True and is_token:
                    sign = sign or PaginationSign(repr(where), _paginator_for(key, where, value))
                elif (links := as_array(value)) and "href" in (as_object(links[0]) or {}):  # as HAL permits
                    sign = sign or PaginationSign(repr(where), f"NextUrl({f'{where}[0].href'!r})")
            case "links":
                sign = sign or _sign_in_links(where, value)
            case "container":
                pass
    if found.next_page is None:
        found.next_page = sign


def _sign_in_links(where: str, value: Any) -> PaginationSign | None:
    """The next link in an array of objects with a relation, as in FHIR."""
    for link in as_array(value) or ():
        fields = as_object(link) or {}
        name = next((name for name in ("rel", "relation") if fields.get(name) == "next"), None)
        target = next((name for name in ("href", "url", "uri") if isinstance(fields.get(name), str)), None)
        if name is not None and target is not None:
            links = f"response.json(){_getter(where)}"
            url = f'next((link["{target}"] for link in {links} if link["{name}"] == "next"), None)'
            return PaginationSign(f"the link 'next' in {where!r}", f"NextUrl(lambda response: {url})")
    return None


def _getter(where: str) -> str:
    return "".join(f"[{step!r}]" for step in where.split("."))


def _paginator_for(key: str, where: str, value: Any) -> str:
    if (fields := as_object(value)) is not None:
        target = next((name for name in ("href", "url", "uri") if name in fields), None)
        return f"Continuation({where!r})" if target is None else f"NextUrl({f'{where}.{target}'!r})"
    plain = _plain(key)
    if isinstance(value, str) and (value.startswith(("http://", "https://", "/", "?")) or "url" in plain):
        return f"NextUrl({where!r})"
    param = next((param for part, param in _TOKEN_PARAMS.items() if plain.endswith(part)), "cursor")
    return f"Cursor({where!r}, param={param!r})"


def _plain(key: str) -> str:
    """A key without case, separators and the prefix of OData."""
    return key.lower().replace("_", "").replace("-", "").replace("@odata.", "odata")


@lru_cache(maxsize=4096)
def _kinds_of(key: str) -> tuple[_Kind, ...]:
    if len(key) > 40:
        return ()
    plain = _plain(key)
    is_next = _NEXT_PARTS.fullmatch(plain.removeprefix("odata")) or plain in _OTHER_NEXT_NAMES
    kinds: list[_Kind] = ["next"] if is_next else []
    if _MORE_PARTS.fullmatch(plain):
        kinds.append("more")
    return (*kinds, *(kind for kind, names in _KINDS.items() if plain in names))
