"""What does a user declare: a resource of the API, how it pages, and what differs for it from the rest."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...errors import ConfigError
from ...models import Record
from ...pagination.paginators import Header
from .auth import Auth
from .faults import Fault
from .quota import Quota

Paging: TypeAlias = Literal["page", "offset", "cursor", "link", "next_url", "continue", "none"]
Format: TypeAlias = Literal["json", "ndjson", "csv"]
Latency: TypeAlias = float | tuple[float, float]
Inherit: TypeAlias = Literal["inherit"]

_PAGINGS = ("page", "offset", "cursor", "link", "next_url", "continue", "none")
_FORMATS = ("json", "ndjson", "csv")
_SIZE_PARAMS = {"page": "per_page", "link": "per_page"}
_NEXT_AT = {"cursor": "meta.next", "next_url": "next", "continue": "continue"}
_PLACE = re.compile(r"[^/{}?#\s]+|\{id\}")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource: `count` records, and the way in which they are served.

    `paging` is "page" for JSON where it is not said, and "none", one streamed export, for NDJSON
    and CSV. `records_at` is the dotted path of the array; None is a bare array. `total=True` tells
    it at `meta.total`, with `meta.pages`, or in X-Total-Count where there is no object to hold it;
    a path or `Header(...)` says where else. `page_size` holds unless the client asks for another,
    and `max_page_size` (1,000) caps what it asks for.

    `record(n, random)` makes the n-th record, from 1, `random` being seeded for it; the default is
    a customer of 12 fields, about 230 bytes. Each is `every` seconds younger than the one before,
    by `cursor_field`, and `since` (inclusive) and `until` (exclusive) select by it.

    With a `parent`, each of its records has `count` children, or a number between the two that are
    given, at `<parent>/{id}/<name>`. `forbidden` answers 403. `auth`, `quota` and `latency` are the
    API's unless given here; None is none. `faults` come on top of the API's.
    """

    name: str
    count: int | tuple[int, int] = 1_000
    path: str | None = None
    page_size: int = 100
    max_page_size: int | None = None
    paging: Paging | None = None
    total: bool | str | Header = False
    records_at: str | None = "data"
    next_at: str | Header | None = None
    format: Format = "json"
    record: Callable[[int, random.Random], Record] | None = None
    id_field: str = "id"
    cursor_field: str = "updated_at"
    every: int = 60
    page_param: str = "page"
    first_page: int = 1
    offset_param: str = "offset"
    cursor_param: str = "cursor"
    size_param: str | None = None
    since_param: str = "since"
    until_param: str = "until"
    parent: str | None = None
    parent_field: str | None = None
    forbidden: bool = False
    auth: Auth | Inherit | None = "inherit"
    quota: Quota | Inherit | None = "inherit"
    latency: Latency | Inherit | None = "inherit"
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        self._check_place()
        self._check_sizes()
        self._check_paging()
        check_latency(f"Resource({self.name!r})", self.latency)
        object.__setattr__(self, "faults", tuple(self.faults))

    @property
    def style(self) -> Paging:
        """How it pages, decided."""
        return self.paging or ("page" if self.format == "json" else "none")

    @property
    def size_name(self) -> str:
        """The parameter that asks for a page size."""
        return self.size_param or _SIZE_PARAMS.get(self.style, "limit")

    @property
    def size_cap(self) -> int:
        return self.max_page_size or max(1_000, self.page_size)

    @property
    def has_object(self) -> bool:
        """Whether the body is an object, which has room beside the records."""
        return self.format == "json" and self.records_at is not None

    @property
    def token_at(self) -> str | Header:
        """Where the token or URL of the next page lies, for a paging that has one."""
        return self.next_at or (_NEXT_AT.get(self.style, "next") if self.has_object else Header("Next-Cursor"))

    @property
    def total_at(self) -> str | Header | None:
        """Where the total lies; None where it is not told."""
        if self.total is True:
            return "meta.total" if self.has_object else Header("X-Total-Count")
        return self.total or None

    def _check_place(self) -> None:
        if not self.name or not _PLACE.fullmatch(self.name) or self.name.startswith("_"):
            raise ConfigError(
                f"Resource({self.name!r}): a name is one path segment, and does not begin with _",
                hint="where it lies deeper, give the place as path=",
            )
        if self.path is not None and not all(map(_PLACE.fullmatch, self.path.strip("/").split("/"))):
            raise ConfigError(f"Resource({self.name!r}, path={self.path!r}): not a path such as v1/customers")

    def _check_sizes(self) -> None:
        low, high = self.count if isinstance(self.count, tuple) else (self.count, self.count)
        if not 0 <= low <= high:
            raise ConfigError(f"Resource({self.name!r}, count={self.count!r}): 0 or more records")
        if isinstance(self.count, tuple) and self.parent is None:
            raise ConfigError(
                f"Resource({self.name!r}, count={self.count!r}): only children vary in number; give it a parent"
            )
        for name, value in (("page_size", self.page_size), ("max_page_size", self.size_cap)):
            if value < 1:
                raise ConfigError(f"Resource({self.name!r}, {name}={value}): a page holds at least one record")

    def _check_paging(self) -> None:
        for name, value, allowed in (("paging", self.style, _PAGINGS), ("format", self.format, _FORMATS)):
            if value not in allowed:
                raise ConfigError(f"Resource({self.name!r}, {name}={value!r}): one of {', '.join(map(repr, allowed))}")
        if not self.has_object and self.style in ("next_url", "continue"):
            raise ConfigError(
                f"Resource({self.name!r}, paging={self.style!r}): nothing in the body can hold it",
                hint='give records_at="data", or paging="link" or "cursor", which have a header',
            )
        if not self.has_object and isinstance(self.total, str):
            raise ConfigError(f"Resource({self.name!r}, total={self.total!r}): only a JSON object holds it; use Header")


def check_latency(owner: str, latency: object) -> None:
    """Raises ConfigError for what is neither seconds nor a range of seconds."""
    if latency is None or latency == "inherit":
        return
    low, high = latency if isinstance(latency, tuple) else (latency, latency)  # pyright: ignore[reportUnknownVariableType]  # looked at below
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 <= low <= high):
        raise ConfigError(f"{owner}: latency={latency!r} is neither seconds nor (low, high) in seconds")
