"""The words that every room shares: records, slices, pages, secrets, and options with a unit."""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

from .errors import ConfigError

Record: TypeAlias = dict[str, Any]
ParamsInput: TypeAlias = Mapping[str, Any]
PrimaryKey: TypeAlias = str | list[str] | list[list[str]] | None
"""A field, several fields, or several paths of fields, as in the Airbyte CDK."""
CursorField: TypeAlias = str | Sequence[str] | None
"""A field, or the path of one, that says when a record changed, or which one it is in an order."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Slice(Mapping[str, Any]):
    """A part of a stream that is read by itself: a mapping of its partition's names to values.

    `interval` is half-open, in the cursor's own type; a bound that is None is none. `bounds` are what to ask the API
    for so that it gives all of that: the same, unless its filter counts bounds in another way. `slice | {...}` gives a
    new Slice with the same interval; two slices are equal when partition and interval are.
    """

    __slots__ = ("_partition", "bounds", "interval")

    def __init__(
        self,
        partition: Mapping[str, Any] | None = None,
        interval: tuple[Any, Any] | None = None,
        *,
        bounds: tuple[Any, Any] | None = None,
    ) -> None:
        self._partition: dict[str, Any] = dict(partition or {})
        self.interval = interval
        self.bounds = interval if bounds is None else bounds

    @property
    def partition(self) -> dict[str, Any]:
        """A copy of the mapping, without the interval."""
        return dict(self._partition)

    def __getitem__(self, key: str) -> Any:
        return self._partition[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._partition)

    def __len__(self) -> int:
        return len(self._partition)

    def __or__(self, other: Mapping[str, Any]) -> Slice:
        nearer = other if isinstance(other, Slice) and other.interval else self
        return Slice({**self._partition, **other}, nearer.interval, bounds=nearer.bounds)

    def __ror__(self, other: Mapping[str, Any]) -> Slice:
        return Slice({**other, **self._partition}, self.interval, bounds=self.bounds)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Slice):
            return self._partition == other._partition and self.interval == other.interval
        return self._partition == other if isinstance(other, Mapping) and self.interval is None else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mapping of any values, like dict

    def __repr__(self) -> str:
        interval = f", interval={self.interval!r}" if self.interval else ""
        return f"Slice({self._partition!r}{interval})"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What a hook may know about the request that it helps to build.

    `attempt` counts the sends of this page from 1; hooks are called anew for each.
    `next_page_token` is None for the first page. It is left out of the repr: it may be a signed URL.
    """

    stream_slice: Slice = field(default_factory=Slice)
    next_page_token: Any = field(default=None, repr=False)
    stream_state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """One place where a record does not fit: never the value, which may be anybody's.

    `pointer` is a JSON pointer (RFC 6901) into the record, `keyword` that of the schema, and
    `detail` says what the schema wants there.
    """

    pointer: str
    keyword: str
    detail: str

    def __str__(self) -> str:
        return f"{shortened(self.pointer) or 'the record'}: {self.keyword}: {self.detail}"


def shortened(text: str, most: int = 200) -> str:
    """A text for a message, whatever its length."""
    return text if len(text) <= most else f"{text[:most]}..."


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """A record that was kept back since it does not fit its schema, and where it does not."""

    record: Record = field(repr=False)
    problems: tuple[SchemaViolation, ...]


class PageCheckpoint(Protocol):
    """What is owed for the pages of a slice: that a state moves when they are safe."""

    def ack(self, number: int) -> None:
        """The page with this number is safe."""
        ...

    def cut(self) -> None:
        """The page that was made last is handed over in part."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """The records of one response, or of one part of a streamed body.

    `number` counts from 0 within the slice. `is_last` says that the slice ended with this page;
    a page that `limit=` cut short does not say so. `quarantined` are the records that
    `validation = "quarantine"` kept back from `records`. `promise` is who waits for its `ack()`.
    """

    stream: str
    stream_slice: Slice
    number: int
    records: list[Record] = field(repr=False)
    is_last: bool
    quarantined: tuple[QuarantinedRecord, ...] = field(default=(), repr=False)
    promise: PageCheckpoint | None = field(default=None, repr=False, compare=False)

    def cut(self, most: int) -> Page:
        """The page with so many of its records at most: then it is not the last one, and promises nothing."""
        if len(self.records) <= most:
            return self
        if self.promise is not None:
            self.promise.cut()
        return replace(self, records=self.records[:most], is_last=False)

    def ack(self) -> None:
        """Say that the page is safe: where a state is kept it moves past it, once all before it in its slice are."""
        if self.promise is not None:
            self.promise.ack(self.number)


class Secret:
    """A string that shows itself to nobody but `reveal()`; it compares in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        self._value: str = value._value if isinstance(value, Secret) else value
        if not isinstance(self._value, str):
            raise ConfigError(f"a Secret holds a str, not {type(value).__name__}")

    def reveal(self) -> str:
        """The string itself; the caller takes care of it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_octets(self._value), _octets(other._value))

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not written anywhere: reveal() it on purpose, or read it again where it is needed")


def _octets(text: str) -> bytes:
    # Values from the environment may hold octets that are no text.
    return text.encode("utf-8", "surrogatepass")


class ResponseAction(Enum):
    """What `classify` decides about a response."""

    SUCCESS = "success"
    RETRY = "retry"
    """The request is sent again after a backoff, and spends a try."""
    THROTTLED = "throttled"
    """Everything that shares the quota waits; no try is spent."""
    REFRESH_AUTH = "refresh_auth"
    """The credential is renewed and the request sent again, once."""
    RESET_PAGINATION = "reset_pagination"
    """The slice is read from its first page again; what was handed over comes again."""
    IGNORE = "ignore"
    """An empty page that ends the slice."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: after the n-th failure, 0 to min(cap, base * 2**(n-1)) seconds."""

    base: float = 0.25
    cap: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.base <= self.cap:
            raise ConfigError(f"Backoff(base={self.base}, cap={self.cap}): 0 <= base <= cap, in seconds")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `n` units in any `per` seconds; a request is one unit, unless its stream says otherwise.

    All of them may go at once; `smooth` spaces them evenly as well, for servers that refuse bursts.
    """

    limit: float
    per: float = 1.0
    smooth: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.limit < math.inf and 0 < self.per < math.inf):
            raise ConfigError(f"RateLimit({self.limit}, per={self.per}): a number above 0 in so many seconds, above 0")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one attempt, in seconds; `min_rate` in bytes per second.

    connect: until the connection stands. first_byte: from then to the headers. read: between two
    pieces of the body. total: for the whole response, not for a streamed one. min_rate: a body
    that arrives more slowly over 30 s is given up; 0 switches that off.
    """

    connect: float = 10.0
    first_byte: float = 60.0
    read: float = 30.0
    total: float = 300.0
    min_rate: float = 1024.0

    def __post_init__(self) -> None:
        limits = (self.connect, self.first_byte, self.read, self.total)
        if not all(limit > 0 for limit in limits) or not self.min_rate >= 0:
            raise ConfigError(f"{self}: seconds above 0, and a min_rate of 0 or more")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds of one body, in bytes: as it comes, decoded, and decoded / wire after the first MiB.

    `require_length` refuses a body that neither Content-Length nor chunked coding delimits,
    since nobody can tell whether such a body was cut.
    """

    wire: int = 256 * 2**20
    decoded: int = 512 * 2**20
    ratio: int = 200
    require_length: bool = False

    def __post_init__(self) -> None:
        if min(self.wire, self.decoded, self.ratio) <= 0:
            raise ConfigError(f"{self}: all bounds are above 0")


class PageRequest(NamedTuple):
    """What a page token adds to a request. With a `url`, that is where it goes, as it is."""

    params: ParamsInput = _NOTHING
    headers: Mapping[str, str] = _NOTHING
    json: Mapping[str, Any] = _NOTHING
    data: Mapping[str, Any] = _NOTHING
    url: str | None = None


def key_paths(primary_key: PrimaryKey) -> list[list[str]]:
    """A primary key in the form that names every field by its path."""
    if isinstance(primary_key, str):
        return [[primary_key]]
    return [[path] if isinstance(path, str) else list(path) for path in primary_key or ()]
