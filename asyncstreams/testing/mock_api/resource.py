"""Declaration of a resource of a MockApi: its records, its paging and its own settings."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from ...errors import ConfigError
from ...models import Record
from ...pagination.paginators import Header
from .faults import Fault
from .mock_auth import Auth
from .quota import Quota

Paging: TypeAlias = Literal["page", "offset", "cursor", "link", "next_url", "continue", "none"]
Format: TypeAlias = Literal["json", "ndjson", "csv"]
Latency: TypeAlias = float | tuple[float, float]
Inherit: TypeAlias = Literal["inherit"]

_PAGINGS = ("page", "offset", "cursor", "link", "next_url", "continue", "none")
_FORMATS = ("json", "ndjson", "csv")
_SIZE_PARAMS = {"page": "per_page", "link": "per_page"}
_NEXT_AT = {"cursor": "meta.next", "next_url": "next", "continue": "continue"}
_PATH_SEGMENT = re.compile(r"[^/{}?#\s]+|\{id\}")


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The pages of a resource: their size and format, their query parameters, and the fields beside the records."""

    paging: Paging | None
    format: Format
    page_size: int
    max_page_size: int | None
    total: bool | str | Header
    records_at: str | None
    next_at: str | Header | None
    page_param: str
    first_page: int
    offset_param: str
    cursor_param: str
    size_param: str | None

    @property
    def effective_paging(self) -> Paging:
        """The paging with its default filled in."""
        return self.paging or ("page" if self.format == "json" else "none")

    @property
    def page_size_param(self) -> str:
        """The name of the parameter for the page size."""
        return self.size_param or _SIZE_PARAMS.get(self.effective_paging, "limit")

    @property
    def page_size_cap(self) -> int:
        """The maximum page size with its default filled in."""
        return self.max_page_size or max(1_000, self.page_size)

    @property
    def has_envelope(self) -> bool:
        """Whether the body is an object, which can hold fields next to the records."""
        return self.format == "json" and self.records_at is not None

    @property
    def next_location(self) -> str | Header:
        """Where the cursor, URL or mapping of the next page is, for a paging that has one."""
        return self.next_at or (
            _NEXT_AT.get(self.effective_paging, "next") if self.has_envelope else Header("Next-Cursor")
        )

    @property
    def total_location(self) -> str | Header | None:
        """Where the total is; None if the API does not send it."""
        if self.total is True:
            return "meta.total" if self.has_envelope else Header("X-Total-Count")
        return self.total or None

    def check(self, name: str) -> None:
        """Raises ConfigError for settings that are invalid or exclude each other; `name` is that of the resource."""
        for setting, size in (("page_size", self.page_size), ("max_page_size", self.page_size_cap)):
            if size < 1:
                raise ConfigError(f"Resource({name!r}, {setting}={size}): {setting} must be at least 1")
        for setting, value, allowed in (
            ("paging", self.effective_paging, _PAGINGS),
            ("format", self.format, _FORMATS),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"Resource({name!r}, {setting}={value!r}): {setting} must be one of {', '.join(map(repr, allowed))}"
                )
        if not self.has_envelope and self.effective_paging in ("next_url", "continue"):
            raise ConfigError(
                f"Resource({name!r}, paging={self.effective_paging!r}): the body has no field for the next page",
                hint='set records_at="data", or use paging="link" or "cursor", which can use a header',
            )
        if not self.has_envelope and isinstance(self.total, str):
            raise ConfigError(
                f"Resource({name!r}, total={self.total!r}): the body has no field for the total",
                hint="use Header(...)",
            )


@dataclass(frozen=True, slots=True)
class RecordData:
    """The records of a resource: how each is made, and the fields and query parameters that select them."""

    record: Callable[[int, random.Random], Record] | None
    id_field: str
    cursor_field: str
    every: int
    since_param: str
    until_param: str


@dataclass(frozen=True, slots=True, init=False)
class Resource:
    """A resource of a MockApi with `count` records (default 1,000), at `/<name>` or at `/<path>`.

    Paging and format:

    - `format`: "json" (default), "ndjson" or "csv".
    - `paging`: "page" (default for JSON), "offset", "cursor", "link" (Link header), "next_url", "continue"
      (a mapping of parameters) or "none" (default for NDJSON and CSV): one response with all records,
      streamed if it is long.
    - `page_size` (default 100) applies unless the client asks for another size; `max_page_size` (default
      1,000, or `page_size` if that is larger) is the limit.
    - `page_param`, `first_page`, `offset_param`, `cursor_param` and `size_param` name the query parameters.
      By default they match the paginators of asyncstreams.

    Body:

    - `records_at`: dotted path of the array of records (default "data"). None: the body is the array.
    - `total`: True puts the total at `meta.total`, with `meta.pages`, or in the header X-Total-Count if the
      body is an array. A dotted path or `Header(...)` puts it there.
    - `next_at`: where the cursor (default `meta.next`), URL (`next`) or mapping (`continue`) of the next page
      is; `Header(...)` is possible for a cursor.

    Records:

    - `record`: a function from the record's number, from 1, and a `random.Random` seeded for it, to the
      record. Default: a customer with 12 fields, about 230 bytes. `id_field` names the id (default "id").
    - `every`: seconds between the `cursor_field` (default "updated_at") of a default record and the next.
    - `since_param` (inclusive) and `until_param` (exclusive) select records by `cursor_field`, in whose
      order the records must be.

    Children: with `parent`, the name of a resource declared before, each of its records has `count`
    children, or between `low` and `high` for a `count` of `(low, high)`, at `<parent path>/{id}/<name>`. A
    child has the parent's id at `parent_field` (default: "customer_id" for the parent "customers").

    `forbidden=True` answers 403. `auth`, `quota` and `latency` replace those of the API; None turns them
    off. `faults` are added to those of the API. Invalid arguments raise ConfigError.
    """

    name: str
    count: int | tuple[int, int]
    path: str | None
    parent: str | None
    parent_field: str | None
    layout: PageLayout
    data: RecordData
    forbidden: bool
    auth: Auth | Inherit | None
    quota: Quota | Inherit | None
    latency: Latency | Inherit | None
    faults: tuple[Fault, ...]

    def __init__(
        self,
        name: str,
        count: int | tuple[int, int] = 1_000,
        path: str | None = None,
        page_size: int = 100,
        max_page_size: int | None = None,
        paging: Paging | None = None,
        total: bool | str | Header = False,
        records_at: str | None = "data",
        next_at: str | Header | None = None,
        format: Format = "json",  # noqa: A002  # the name is public
        record: Callable[[int, random.Random], Record] | None = None,
        id_field: str = "id",
        cursor_field: str = "updated_at",
        every: int = 60,
        page_param: str = "page",
        first_page: int = 1,
        offset_param: str = "offset",
        cursor_param: str = "cursor",
        size_param: str | None = None,
        since_param: str = "since",
        until_param: str = "until",
        parent: str | None = None,
        parent_field: str | None = None,
        forbidden: bool = False,
        auth: Auth | Inherit | None = "inherit",
        quota: Quota | Inherit | None = "inherit",
        latency: Latency | Inherit | None = "inherit",
        faults: Iterable[Fault] = (),
    ) -> None:
        layout = PageLayout(
            paging, format, page_size, max_page_size, total, records_at, next_at, page_param, first_page, offset_param,
            cursor_param, size_param,
        )  # fmt: skip
        data = RecordData(record, id_field, cursor_field, every, since_param, until_param)
        values = (name, count, path, parent, parent_field, layout, data, forbidden, auth, quota, latency, tuple(faults))
        for item, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, item.name, value)  # the class is frozen
        self._check_name_and_path()
        self._check_count()
        layout.check(name)
        check_latency(f"Resource({name!r})", latency)

    def _check_name_and_path(self) -> None:
        if not self.name or not _PATH_SEGMENT.fullmatch(self.name) or self.name.startswith("_"):
            raise ConfigError(
                f"Resource({self.name!r}): the name must be one path segment and must not start with _",
                hint="use path= for a longer path",
            )
        if self.path is not None and not all(map(_PATH_SEGMENT.fullmatch, self.path.strip("/").split("/"))):
            raise ConfigError(
                f"Resource({self.name!r}, path={self.path!r}): invalid path", hint="an example is v1/customers"
            )

    def _check_count(self) -> None:
        low, high = self.count if isinstance(self.count, tuple) else (self.count, self.count)
        if not 0 <= low <= high:
            raise ConfigError(f"Resource({self.name!r}, count={self.count!r}): count must be 0 or more, or (low, high)")
        if isinstance(self.count, tuple) and self.parent is None:
            raise ConfigError(
                f"Resource({self.name!r}, count={self.count!r}): only a resource with a parent can have a range",
                hint="use a number, or set parent=",
            )


def check_latency(class_name: str, latency: object) -> None:
    """Raises ConfigError unless `latency` is a number of seconds, a range of them, None or "inherit"."""
    if latency is None or latency == "inherit":
        return
    low, high = latency if isinstance(latency, tuple) else (latency, latency)  # pyright: ignore[reportUnknownVariableType]  # checked below
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 <= low <= high):
        raise ConfigError(
            f"{class_name}: latency={latency!r}: latency must be seconds (0 or more) or (low, high) in seconds"
        )
