"""Shared value types: records, slices, pages, secrets and options."""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

from .errors import ConfigError
from .redaction import MASK, displayed

Record: TypeAlias = dict[str, Any]
"""A JSON object, as decoded."""
ParamsInput: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]] | str
"""Query parameters: a mapping, pairs of name and value, httpx.QueryParams, or the text of a query such as "id=1&id=2".

A value of None leaves a parameter out, a sequence repeats it. Pairs keep their order. A text is sent as it is, except
for characters that a URL cannot contain."""
PrimaryKey: TypeAlias = str | list[str] | list[list[str]] | None
"""A field, a list of fields or a list of field paths, as in the Airbyte CDK; None: no key."""
CursorField: TypeAlias = str | Sequence[str] | None
"""A field, or the path of one, whose value orders records: a time of change or an ascending number."""
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_NO_LABELS: Mapping[str, Any] = {}  # a plain dict, which can be copied and pickled


class Slice(Mapping[str, Any]):
    """A part of a stream that is read independently: an immutable mapping of partition names to values.

    partition: the mapping, for example `{"account": 7}`; empty for a stream without partitions.
    interval: half-open range `(start, end)` of cursor values, in the type of the cursor. A bound of None is open.
        Without an interval, it is None.
    bounds: the values `(since, until)` to request from the API so that it returns the whole interval. They equal
        `interval`, unless the API's filter treats a bound as inclusive or exclusive in another way, or has another
        precision. Without an interval, both are None.
    labels: what messages show in place of partition values, by name; all other values are shown themselves. The slices
        of an HttpSubStream show the primary key of a parent instead of its record.

    `str(slice_)` is the text for messages. In it secrets are hidden, and the query of each URL is masked.
    `slice_ | {...}` is a new Slice with additional partition values and the same interval. Slices are equal if
    partition and interval are; a Slice without interval also equals a plain mapping. Slices are not hashable.
    """

    __slots__ = ("_bounds", "_interval", "_partition", "labels")

    def __init__(
        self,
        partition: Mapping[str, Any] | None = None,
        interval: tuple[Any, Any] | None = None,
        *,
        bounds: tuple[Any, Any] | None = None,
        labels: Mapping[str, Any] = _NO_LABELS,
    ) -> None:
        self._partition: dict[str, Any] = dict(partition or {})
        self._interval = interval
        self._bounds = interval if bounds is None else bounds
        self.labels = labels

    @property
    def partition(self) -> dict[str, Any]:
        """The partition as a new dict, without the interval."""
        return dict(self._partition)

    @property
    def interval(self) -> tuple[Any, Any] | None:
        """The half-open range of cursor values, or None."""
        return self._interval

    @property
    def bounds(self) -> tuple[Any, Any]:
        """The values to request from the API."""
        return (None, None) if self._bounds is None else self._bounds

    @property
    def has_interval(self) -> bool:
        """Whether the slice is a range of cursor values."""
        return self._interval is not None

    @property
    def has_own_bounds(self) -> bool:
        """Whether `bounds` were given in addition to an interval."""
        return self._bounds is not self._interval

    def shown_interval(self) -> tuple[Any, Any] | None:
        """The interval for messages and comparisons, which a format that is not yet decided does not depend on."""
        return self._interval

    def __getitem__(self, key: str) -> Any:
        return self._partition[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._partition)

    def __len__(self) -> int:
        return len(self._partition)

    def __or__(self, other: Mapping[str, Any]) -> Slice:
        source = other if isinstance(other, Slice) and other.has_interval else self
        labels = {name: label for name, label in self.labels.items() if name not in other}
        labels |= other.labels if isinstance(other, Slice) else {}
        return Slice({**self._partition, **other}, source.interval, bounds=source.bounds, labels=labels)

    def __ror__(self, other: Mapping[str, Any]) -> Slice:
        return Slice({**other, **self._partition}, self.interval, bounds=self.bounds, labels=self.labels)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Slice):
            return self._partition == other._partition and self.shown_interval() == other.shown_interval()
        return self._partition == other if isinstance(other, Mapping) and not self.has_interval else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mapping of any values, like dict

    def __repr__(self) -> str:
        interval = f", interval={self.shown_interval()!r}" if self.has_interval else ""
        return f"Slice({self}{interval})"

    def __str__(self) -> str:
        return displayed({**self._partition, **self.labels})


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Context of the request that a hook helps to build.

    stream_slice: the slice that is read; an empty Slice if the stream has none.
    next_page_token: the paginator's token; None for the first page. The repr omits it, since it may be a signed URL.
    stream_state: the state of the stream, or of the slice's partition if it has one; empty without a state.
    attempt: number of the attempt for this page, from 1. The hooks run again for each attempt.
    page_records: the records of the response, as `parse_response` gave them, in `next_page_token` and in the functions
        of a paginator; of a streamed body the last batch. Empty in all other hooks.
    """

    stream_slice: Slice = field(default_factory=Slice)
    next_page_token: Any = field(default=None, repr=False)
    stream_state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempt: int = 1
    page_records: Sequence[Record] = field(default=(), repr=False)

    @property
    def bounds(self) -> tuple[Any, Any]:
        """The range `(since, until)` of the cursor to request, as `stream_slice.bounds`; None is no bound.

        With `cursor_format = "auto"` they are written like the values that have been seen, in one form in the whole
        run: before the first value in ISO 8601, to the second. Raises CursorMismatch if the schema declares numbers.
        """
        return self.stream_slice.bounds


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """One violation of the schema by a record. It never contains the value, which may be personal data.

    pointer: JSON pointer (RFC 6901) into the record; empty for the record itself.
    keyword: the violated keyword of the schema, such as "type" or "required".
    detail: what the schema requires there, as text.
    """

    pointer: str
    keyword: str
    detail: str

    def __str__(self) -> str:
        return f"{shorten(self.pointer) or 'the record'}: {self.keyword}: {self.detail}"


def shorten(text: str, max_chars: int = 200) -> str:
    """The text for use in a message: beyond `max_chars` characters it is cut and ends in "..."."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """A record that was withheld because it does not match its schema; `problems` has 1 to 100 violations."""

    record: Record = field(repr=False)
    problems: tuple[SchemaViolation, ...]


class PageCheckpoint(Protocol):
    """The part of a slice's state that advances when its pages are acknowledged."""

    def ack(self, number: int) -> None:
        """Acknowledge the page with this number."""
        ...

    def discard_last(self) -> None:
        """Discard the checkpoint of the page registered last, because it is delivered incompletely."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """The records of one response, or of one batch of a streamed response.

    stream: name of the stream.
    stream_slice: the slice that the page belongs to.
    number: number of the page within the slice, from 0.
    records: the records, in the order of the API.
    is_last: True if the slice is complete with this page; False if `limit=` truncated the page.
    quarantined: records withheld from `records` by `validation = "quarantine"`.
    checkpoint: the state that `ack()` advances; None if no state is kept.
    """

    stream: str
    stream_slice: Slice
    number: int
    records: list[Record] = field(repr=False)
    is_last: bool
    quarantined: tuple[QuarantinedRecord, ...] = field(default=(), repr=False)
    checkpoint: PageCheckpoint | None = field(default=None, repr=False, compare=False)

    def truncate(self, max_records: int) -> Page:
        """The page with at most `max_records` records. A truncated page is never the last, and has no state to advance.

        This discards the checkpoint of the page if it is truncated.
        """
        if len(self.records) <= max_records:
            return self
        if self.checkpoint is not None:
            self.checkpoint.discard_last()
        return replace(self, records=self.records[:max_records], is_last=False)

    def ack(self) -> None:
        """Confirm that the page is stored safely. The state advances past it once all earlier pages of the slice are.

        Without a state this does nothing.
        """
        if self.checkpoint is not None:
            self.checkpoint.ack(self.number)


class Secret:
    """A string that only `reveal()` returns: repr, str and format show `***`; pickle and JSON encoders refuse it.

    Hooks may return it as a path or a segment of one, as a parameter or header, and within a body. It is then sent,
    and hidden in errors, logs, events and reprs. `"Bearer " + secret` is a Secret, too; an f-string contains `***`.

    `parts` are the parts of the value that have to be hidden; by default all of it. Comparison takes constant time.
    Raises ConfigError for anything but a str or a Secret.
    """

    __slots__ = ("_parts", "_value")

    def __init__(self, value: str | Secret, *, parts: tuple[str, ...] | None = None) -> None:
        self._value: str = value._value if isinstance(value, Secret) else value
        whole: tuple[str, ...] = value._parts if isinstance(value, Secret) else (value,)
        self._parts: tuple[str, ...] = whole if parts is None else parts
        if not isinstance(self._value, str):
            raise ConfigError(f"Secret: must be created from a str, not {type(value).__name__}")

    def reveal(self) -> str:
        """The string itself. The caller must keep it out of logs and messages."""
        return self._value

    def hidden_parts(self) -> tuple[str, ...]:
        """The Secrets that this one was put together from, as text, without the text between them."""
        return self._parts

    def __add__(self, other: str | Secret) -> Secret:
        if not isinstance(other, str | Secret):
            return NotImplemented
        text, parts = (other, ()) if isinstance(other, str) else (other._value, other._parts)
        return Secret(self._value + text, parts=self._parts + parts)

    def __radd__(self, other: str) -> Secret:
        return Secret(other + self._value, parts=self._parts) if isinstance(other, str) else NotImplemented

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_to_bytes(self._value), _to_bytes(other._value))

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: pass secret.reveal(), or load the secret where it is needed")

    __getstate__ = __reduce__


def _to_bytes(text: str) -> bytes:
    # Values from the environment may contain bytes that are not valid UTF-8, as surrogates.
    return text.encode("utf-8", "surrogatepass")


class ResponseAction(Enum):
    """What to do with a response, as returned by `HttpStream.classify`."""

    SUCCESS = "success"
    """Parse the response."""
    RETRY = "retry"
    """Send the request again after a backoff; this uses up one try."""
    THROTTLED = "throttled"
    """Pause all requests that share the quota, then send the request again; this uses up no try."""
    REFRESH_AUTH = "refresh_auth"
    """Renew the credential and send the request again, once."""
    RESET_PAGINATION = "reset_pagination"
    """Restart the slice at its first page; pages that were already delivered are delivered again."""
    IGNORE = "ignore"
    """Treat the response as an empty page that ends the slice."""
    FAIL = "fail"
    """Fail the slice with an HttpStatusError, or an AuthError for a 401."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and min(cap, base * 2**(n-1)) seconds.

    `n` is the number of the failed attempt, from 1. `base` and `cap` are in seconds, 0 <= base <= cap.
    A Retry-After header (RFC 9110, 10.2.3) takes precedence over the computed delay.
    """

    base: float = 0.25
    cap: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.base <= self.cap:
            raise ConfigError(f"Backoff(base={self.base}, cap={self.cap}): must satisfy 0 <= base <= cap, in seconds")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` units in any interval of `per` seconds, both above 0.

    A request costs one unit, unless its stream sets `rate_limit_cost`. All units may be used in one burst;
    `smooth` also spaces them evenly, for servers that reject bursts.
    """

    limit: float
    per: float = 1.0
    smooth: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.limit < math.inf and 0 < self.per < math.inf):
            raise ConfigError(f"RateLimit({self.limit}, per={self.per}): limit and per must be finite numbers above 0")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of one attempt, in seconds above 0. StallTimeout is raised when one expires.

    connect: to establish the connection.
    first_byte: from then to the response headers.
    read: between two chunks of the body.
    total: for the complete response; does not apply to streamed responses.
    min_rate: minimum bytes per second of the body, averaged over 30 s; 0 disables the check.
    """

    connect: float = 10.0
    first_byte: float = 60.0
    read: float = 30.0
    total: float = 300.0
    min_rate: float = 1024.0

    def __post_init__(self) -> None:
        limits = (self.connect, self.first_byte, self.read, self.total)
        if not all(limit > 0 for limit in limits) or not self.min_rate >= 0:
            raise ConfigError(f"{self}: all timeouts must be above 0 seconds, and min_rate at least 0")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of one response body. ResponseTooLarge is raised beyond them.

    wire: bytes received, before decompression; 256 MiB by default.
    decoded: bytes after decompression; 512 MiB by default.
    ratio: decoded bytes per received byte, checked after the first MiB of decoded data.
    require_length: raise TruncatedBody for a body that neither Content-Length nor chunked transfer coding
        delimits, because truncation of such a body cannot be detected.
    """

    wire: int = 256 * 2**20
    decoded: int = 512 * 2**20
    ratio: int = 200
    require_length: bool = False

    def __post_init__(self) -> None:
        if min(self.wire, self.decoded, self.ratio) <= 0:
            raise ConfigError(f"{self}: wire, decoded and ratio must be above 0")


class PageRequest(NamedTuple):
    """The parts of a request that depend on the page token.

    `params`, `headers`, `json` and `data` are merged into those of the stream, and win over equal names.
    A `url` replaces path and query entirely; a relative one is resolved against the URL of the previous page.
    """

    params: ParamsInput = _EMPTY
    headers: Mapping[str, str] = _EMPTY
    json: Mapping[str, Any] = _EMPTY
    data: Mapping[str, Any] = _EMPTY
    url: str | None = None

    def __repr__(self) -> str:
        # Headers by name only, since their values may be secret.
        parts = {**self._asdict(), "headers": sorted(self.headers)}
        return f"PageRequest({', '.join(f'{name}={displayed(part)}' for name, part in parts.items() if part)})"


def key_paths(primary_key: PrimaryKey) -> list[list[str]]:
    """A primary key as a list of field paths; empty for None."""
    if isinstance(primary_key, str):
        return [[primary_key]]
    return [[path] if isinstance(path, str) else list(path) for path in primary_key or ()]
