"""The settings of streams: one table, from which attributes, checks, options and fingerprints follow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from os import PathLike
from types import MemberDescriptorType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, get_args, get_origin, get_type_hints

import httpx

from ..clock import Clock, SystemClock
from ..cursors.cursor_format import CursorFormat
from ..errors import ConfigError
from ..models import Backoff, BodyLimits, CursorField, PrimaryKey, RateLimit, Timeouts
from ..protocols import (
    Middleware,
    MissingChild,
    MissingRecords,
    MockRouter,
    Paginator,
    PartialDataMode,
    Transformer,
    ValidationMode,
    Windows,
)
from .availability import HttpAvailabilityStrategy
from .checks import (
    Check,
    check_authenticator,
    check_cache_filename,
    check_choice,
    check_cursor_field,
    check_cursor_format,
    check_cursor_timezone,
    check_cursor_zone,
    check_flag,
    check_paginator,
    check_parent_fields,
    check_primary_key,
    check_rate_limit,
    check_records_path,
    check_transformer,
    check_url_base,
    check_windows,
    number_above_0,
    of_type,
    whole_number,
)


class _Reading:
    """The mark of a setting that changes how a stream is read, but not which records it has."""


READING: Final = _Reading()
_SECONDS = number_above_0("a number of seconds above 0")
_ORIGINS = tuple, list, set, frozenset
# Values of these types that differ are different, also if a property creates them.
_VALUE_TYPES = str, int, float, bool, type(None), tuple, list, Backoff, BodyLimits, RateLimit, Timeouts


class StreamSettings:
    """Attributes of a stream; a class or an instance may set each of them.

    Each attribute is a row of the table of settings: name, type, check, default and documentation.
    """

    name: Annotated[str, of_type(str, "a str")] = ""
    """The name of the stream. Default: the class name in snake case."""
    url_base: Annotated[str, check_url_base] = ""
    """The URL that every path is appended to. Required; its path is always kept, with or without a final slash."""
    http_method: Annotated[str, of_type(str, 'a str such as "GET"')] = "GET"
    """The HTTP method of page requests."""
    paginator: Annotated[Paginator | None, check_paginator] = None
    """How one page leads to the next. Without a paginator or a `next_page_token` method, a slice has one page."""
    single_page: Annotated[bool, READING] = False
    """Whether one page per slice is meant although responses name further pages. Excludes a paginator."""
    records_path: Annotated[str | None, check_records_path] = None
    """Dotted path of the array of records in the JSON body, such as "data.items". None: the body is the array.

    A step `*` stands for each item or value of a level, as in "data.*.items". "$" is a body that is one record, and
    "data.$" an object that is. A null in place of the array or of an object on the path is no records.
    """
    missing_records: MissingRecords = "error"
    """What a response without a key of `records_path` is: "error" raises UnexpectedContent, "empty" is no records."""
    primary_key: Annotated[PrimaryKey, check_primary_key] = None
    """The field, or list of fields or paths, that identifies a record. None: the whole record identifies it."""
    transformer: Annotated[Transformer | None, check_transformer] = None
    """Converts records to the types of their schema, before they are validated. See TypeTransformer."""
    validation: ValidationMode = "report"
    """What happens to records that violate the schema. Without a schema, records are not validated.

    "report": deliver and count them, and log a warning once for each place and keyword;
    "quarantine": move them to `page.quarantined`; "fail": raise SchemaError; "off": do not validate.
    """
    graphql_partial: PartialDataMode = "fail"
    """What happens to a GraphQL response with both data and errors.

    "fail": raise HttpStatusError; "warn": read the data, and log each message once. Errors alone always fail.
    """
    max_quarantined: Annotated[int, whole_number(0), READING] = 1_000
    """Maximum number of records quarantined in one read, 0 or more; one more raises SchemaError."""
    availability_strategy: Annotated[Any, READING] = HttpAvailabilityStrategy()
    """An AvailabilityStrategy, as an attribute, a property or a method. None: availability is not checked."""
    detect_loops: Annotated[bool, READING] = True
    """Whether equal pages raise PaginationLoop: the first two of a slice, or three in a row.

    False also permits a token that stays the same from page to page, as that of a scroll. Cycles of tokens always
    raise it.
    """
    max_pages: Annotated[int, whole_number(1), READING] = 100_000
    """Maximum number of pages of one slice, at least 1; a further page raises PaginationLoop."""
    parallel_pages: Annotated[bool, READING] = True
    """Whether pages of one slice are fetched concurrently if their tokens can be computed; order is preserved."""
    weight: Annotated[float, number_above_0(), READING] = 1.0
    """The relative share of slots and quota that this stream gets beside other streams; a number above 0."""
    max_failed_slices: Annotated[int, whole_number(0), READING] = 100
    """Number of slices that may fail, 0 or more, while the others are read; one more ends the stream."""
    max_concurrency: Annotated[int, whole_number(1), READING] = 32
    """Maximum number of slices and pages read at once, at least 1. The number of a Source bounds all its streams."""
    rate_limit: Annotated[RateLimit | Sequence[RateLimit] | None, check_rate_limit, READING] = None
    """Declared limits, such as RateLimit(100, per=60) for 100 requests a minute; all limits of a list apply.

    Streams with the same origin, credential and `quota_group` share limits that are equal.
    """
    rate_limit_cost: Annotated[float, number_above_0(), READING] = 1.0
    """Units of the rate limits that one request uses; a number above 0."""
    quota_group: Annotated[str | None, of_type((str, type(None)), "a str or None"), READING] = None
    """Name of a quota of its own within the origin and credential, for APIs that limit single endpoints."""
    adaptive: Annotated[bool, READING] = True
    """Whether the number of requests in flight adapts to the server's responses, up to `max_concurrency`."""
    outage_timeout: Annotated[float, _SECONDS, READING] = 600.0
    """Seconds to wait for a host that is down, above 0; then the run ends with HostUnavailable."""
    max_tries: Annotated[int, whole_number(1), READING] = 5
    """Maximum number of requests for one page, at least 1. Waits that the server orders do not use up tries."""
    max_time: Annotated[float, _SECONDS, READING] = 600.0
    """Maximum seconds for one page with its retries, above 0, without waits that the server orders."""
    max_server_wait: Annotated[float, _SECONDS, READING] = 900.0
    """Maximum seconds of one wait that the server orders, above 0; beyond it RateLimitWaitTooLong is raised.

    Consecutive waits without a success in between may last four times as long in total.
    """
    backoff: Annotated[Backoff, of_type(Backoff, "Backoff(base=0.25, cap=30)"), READING] = Backoff()
    """Delays between tries."""
    idempotent: Annotated[bool, READING] = True
    """Whether a request may be sent again after an unclear failure, whatever its method."""
    authenticator: Annotated[httpx.Auth | None, check_authenticator] = None
    """Signs each request; any httpx.Auth works."""
    timeouts: Annotated[
        Timeouts, of_type(Timeouts, "Timeouts(connect=10, first_byte=60, read=30, total=300)"), READING
    ] = Timeouts()
    """Time limits of one attempt, in seconds."""
    adaptive_timeouts: Annotated[bool, READING] = True
    """Whether the first try of a page ends early if other responses came much faster.

    After 50 responses, its limit for the first byte is five times their 99th percentile, at least 1 s. Later tries
    have the full limit of `timeouts`.
    """
    body_limits: Annotated[BodyLimits, of_type(BodyLimits, "BodyLimits(wire=..., decoded=..., ratio=...)"), READING] = (
        BodyLimits()
    )
    """Size limits of a response body; beyond them ResponseTooLarge is raised."""
    transport: Annotated[httpx.AsyncBaseTransport | MockRouter | None, READING] = None
    """A transport or respx router that replaces the default one; it is not closed."""
    middleware: Annotated[Sequence[Middleware], of_type((tuple, list), "a tuple of callables")] = ()
    """Callables around each attempt, the first one outermost. See Middleware."""
    allowed_origins: Annotated[
        tuple[str, ...], of_type(_ORIGINS, 'a tuple, such as ("https://files.example.com",)'), READING
    ] = ()
    """Further origins that links, redirects and paths may lead to. The credential is sent there too."""
    uncredentialed_origins: Annotated[
        tuple[str, ...], of_type(_ORIGINS, 'a tuple, such as ("https://*.s3.amazonaws.com",)'), READING
    ] = ()
    """Origins that links and paths may lead to without the credential, such as "https://*.s3.amazonaws.com".

    Only GET and HEAD requests without a body are sent there, without cookies and without headers of the stream.
    `https://*.example.com` stands for all subdomains. Redirects need no entry.
    """
    cookies: Annotated[bool, READING] = True
    """Whether cookies that the API sets are sent back to it. They are kept in memory, per origin and credential."""
    allow_insecure: Annotated[bool, READING] = False
    """Whether a credential may be sent over plain http to hosts other than localhost."""
    trust_env: Annotated[bool, READING] = True
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR and REQUESTS_CA_BUNDLE apply.

    `proxy` and `verify` of `request_kwargs` win over them; loopback hosts never use a proxy of the environment.
    """
    clock: Annotated[Clock, READING] = SystemClock()
    """The source of time and sleep; tests pass a VirtualClock."""
    seed: Annotated[int | None, READING] = None
    """Seed of all randomness of a read, such as retry jitter. None: unpredictable."""
    use_cache: Annotated[bool, READING] = False
    """Whether the records are cached on disk for substreams, in this and later runs. See `cache_dir`."""
    cache_ttl: Annotated[float, _SECONDS, READING] = 3_600.0
    """Seconds for which cached records are valid, above 0, from the start of the read."""
    cache_filename: Annotated[str, check_cache_filename, READING] = ""
    """Prefix of the cache file names. Default: the name of the stream."""
    cache_version: Annotated[str | int | None, of_type((str, int, type(None)), "a str, an integer or None")] = None
    """Any value; change it to make cached records invalid, for example after the upgrade of a library."""
    cache_dir: Annotated[str | PathLike[str] | None, of_type((str, PathLike, type(None)), "a path"), READING] = None
    """Folder of the cache. None: the environment variable REQUEST_CACHE_PATH, or else the user's cache folder."""
    cursor_field: Annotated[CursorField, check_cursor_field] = None
    """The field, or path of a field, with the time when a record changed. With a state, only new records are read.

    An increasing number, such as an id, also works, with NumberRanges.
    """
    cursor_format: Annotated[str | CursorFormat, check_cursor_format] = "auto"
    """Format of cursor values, or a CursorFormat if there are several, or another one for requests.

    "auto": ISO 8601 or epochs, decided by the schema or by the first values; "number" with NumberRanges. Bounds are
    written like the values. If they are needed before a value has been seen, they are in ISO 8601, and epochs then
    raise CursorMismatch. Others: "iso", "date", "epoch" (seconds), "epoch_ms", "epoch_us", "epoch_ns", "number", and a
    pattern for `strptime`.
    """
    cursor_timezone: Annotated[str | None, check_cursor_timezone] = None
    """IANA time zone of cursor values without a UTC offset, such as "Europe/Berlin". None: UTC, with a warning."""
    windows: Annotated[Windows | None, check_windows] = None
    """The intervals to read. None: one interval up to 60 seconds before the run. See TimeWindows and NumberRanges."""
    keep_outside: bool = False
    """Whether records are kept whose cursor lies outside of the window that they were requested for.

    For APIs that filter by another field than `cursor_field`. An API that does not filter returns the same records for
    each window; they are then delivered each time.
    """
    state_checkpoint_interval: Annotated[int | None, whole_number(1, "None or a number of records, at least 1")] = None
    """Number of records, at least 1, after which the state advances within a slice, at the end of a page.

    None: the state advances when a slice is complete. Set it only if the API returns records in ascending order
    of the cursor or, without a cursor, if its page tokens remain valid in later runs.
    """
    missing_child: Annotated[MissingChild, READING] = "skip"
    """HttpSubStream only: what happens if the API answers the first request below a parent with 403, 404 or 410.

    "skip": the child is left out, counted and named in the report, and the first one is warned of. The stream is
    unavailable if the first three children or more than `max_failed_slices` are refused with 403, or if half of those
    that had rows when they were last read are refused or missing. "fail": the slice fails.
    """
    parent_fields: Annotated[Sequence[str] | None, check_parent_fields] = None
    """HttpSubStream only: the fields of parent records, as dotted paths, that slices contain. None: all fields."""
    parent_batch_size: Annotated[int | None, whole_number(1, "None or an integer of at least 1")] = None
    """HttpSubStream only: maximum number of parents in one slice, `{"parents": [record, ...]}`, for APIs that accept
    several ids.

    None: one parent per slice. If the API refuses a batch as too large (413, 414, or a 400 with such a message), it
    is split into halves, and later batches are no larger.
    """
    incremental_dependency: bool = False
    """HttpSubStream with a state only: whether to read only parents that are new or changed since the last run.

    Each parent needs a `cursor_field`.
    """
    parent_lookback: timedelta | str | None = None
    """With `incremental_dependency`: how far before the end of the last run parents count as changed, although they are
    not: their children are requested again. A duration of at least 0, such as timedelta(days=7) or "P7D"; None: 0.
    """


class StreamOptions(TypedDict, total=False):
    """Options that every stream and every Source accepts, as keywords or as class attributes.

    The first that is set wins: the stream's keyword, the stream's class, the Source's keyword, the Source's class.
    Each option has the meaning and the default of the attribute of the same name of `HttpStream`.
    """

    # Static checkers need the keywords written out; `settings_table` compares them with the rows.
    authenticator: httpx.Auth | None
    timeouts: Timeouts
    adaptive_timeouts: bool
    body_limits: BodyLimits
    transport: httpx.AsyncBaseTransport | MockRouter | None
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    uncredentialed_origins: tuple[str, ...]
    cookies: bool
    allow_insecure: bool
    trust_env: bool
    max_concurrency: int
    rate_limit: RateLimit | Sequence[RateLimit] | None
    adaptive: bool
    cache_dir: str | PathLike[str] | None
    clock: Clock
    seed: int | None


class Setting(NamedTuple):
    """A row of the table. `is_shared`: a Source may set it for all its streams.

    `is_in_fingerprint`: it decides which records a stream has, so that cached ones of another value are not used.
    """

    name: str
    type: object
    default: Any
    check: Check | None
    is_in_fingerprint: bool
    is_shared: bool


class SharedSetting:
    """The class attribute of a setting that a Source may set: for a stream in a run of a Source, the value of that.

    The stream's own attribute and that of its class come first, as attributes of instances and subclasses do.
    """

    def __init__(self, name: str, default: Any) -> None:
        self._name, self._default = name, default

    def __get__(self, stream: Any, owner: type) -> Any:
        binding = getattr(stream, "binding", None)
        return self._default if binding is None else binding.options.get(self._name, self._default)


def _rows() -> dict[str, Setting]:
    hints = get_type_hints(StreamSettings, include_extras=True)
    shared = get_type_hints(StreamOptions)
    rows: dict[str, Setting] = {}
    for name, hint in hints.items():
        is_annotated = get_origin(hint) is Annotated
        kind, *marks = get_args(hint) if is_annotated else (hint,)
        checks = [mark for mark in marks if mark is not READING]
        if kind is bool:
            checks = [check_flag]
        elif get_origin(kind) is Literal:
            checks = [partial(check_choice, get_args(kind))]
        assert name not in shared or shared[name] == kind, f"StreamOptions.{name} differs from its row"
        default = getattr(StreamSettings, name)
        rows[name] = Setting(name, kind, default, next(iter(checks), None), READING not in marks, name in shared)
    assert shared.keys() <= rows.keys()
    return rows


SETTINGS: Final[Mapping[str, Setting]] = _rows()
for _row in SETTINGS.values():
    if _row.is_shared:
        setattr(StreamSettings, _row.name, SharedSetting(_row.name, _row.default))
_CURSOR_SETTINGS = ("cursor_format", "cursor_timezone", "cursor_field", "windows", "state_checkpoint_interval")


class ResolvedSettings(StreamSettings):
    """The settings of a stream in one run. They are read once, so a property is evaluated once, and do not change."""

    _computed: set[str]

    def __init__(self, stream: StreamSettings) -> None:
        vars(self).update({name: getattr(stream, name) for name in SETTINGS})
        vars(self)["_computed"] = {name for name in SETTINGS if _is_computed(type(stream), name)}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: the settings of a run do not change")

    def is_like(self, other: ResolvedSettings) -> bool:
        """Whether both runs send the same requests: all values are equal.

        Of a property or a method, objects of one class are taken for equal: each access may create a new one.
        """
        for name in SETTINGS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is theirs or mine == theirs:
                continue
            if name not in self._computed or type(mine) is not type(theirs) or isinstance(mine, _VALUE_TYPES):
                return False
        return True


def _is_computed(class_: type, name: str) -> bool:
    """Whether an attribute of a class is a property, a method or another descriptor of the author."""
    declared = inspect.getattr_static(class_, name)
    return hasattr(declared, "__get__") and not isinstance(declared, SharedSetting | MemberDescriptorType)


def check_settings(class_name: str, settings: StreamSettings, *, uses_paginator: bool) -> None:
    """Check the types and values of a stream's settings, and what contradicts each other. Raises ConfigError."""
    check_setting(class_name, settings, *SETTINGS)
    if settings.single_page and (settings.paginator is not None or not uses_paginator):
        also = "paginator" if settings.paginator is not None else "next_page_token"
        raise ConfigError(
            f"{class_name}.single_page = True: the stream also has a {also}", hint="remove one of the two"
        )
    _check_cursor_relations(class_name, settings)


def check_setting(class_name: str, settings: StreamSettings, *names: str) -> None:
    """Check the types and values of some settings. Raises ConfigError."""
    for name in names:
        if (check := SETTINGS[name].check) is not None:
            check(f"{class_name}.{name}", getattr(settings, name))


def check_cursor(class_name: str, settings: StreamSettings) -> None:
    """Check the settings of the cursor, which a state needs before the first request. Raises ConfigError."""
    check_setting(class_name, settings, *_CURSOR_SETTINGS)
    _check_cursor_relations(class_name, settings)


def _check_cursor_relations(class_name: str, settings: StreamSettings) -> None:
    check_cursor_zone(class_name, settings.cursor_format, settings.cursor_timezone)
    if settings.windows is not None and settings.cursor_field is None:
        raise ConfigError(
            f"{class_name}.windows: cursor_field is missing", hint='set the cursor: cursor_field = "updated_at"'
        )
