"""Settings of a stream, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from os import PathLike
from typing import Any

import httpx

from ..clock import Clock, SystemClock
from ..cursors.cursor_format import CursorFormat
from ..declaration.availability import HttpAvailabilityStrategy
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


class StreamSettings:
    """Attributes of a stream; a class or an instance may set each of them."""

    name: str = ""
    """The name of the stream. Default: the class name in snake case."""
    url_base: str = ""
    """The URL that every path is appended to. Required; its path is always kept, with or without a final slash."""
    http_method: str = "GET"
    """The HTTP method of page requests."""
    paginator: Paginator | None = None
    """How one page leads to the next. Without a paginator or a `next_page_token` method, a slice has one page."""
    single_page: bool = False
    """Whether one page per slice is meant although responses name further pages. Excludes a paginator."""
    records_path: str | None = None
    """Dotted path of the array of records in the JSON body, such as "data.items". None: the body is the array.

    A step `*` stands for each item or value of a level, as in "data.*.items". "$" is a body that is one record, and
    "data.$" an object that is. A null in place of the array or of an object on the path is no records.
    """
    missing_records: MissingRecords = "error"
    """What a response without a key of `records_path` is: "error" raises UnexpectedContent, "empty" is no records."""
    primary_key: PrimaryKey = None
    """The field, or list of fields or paths, that identifies a record. None: the whole record identifies it."""
    transformer: Transformer | None = None
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
    max_quarantined: int = 1_000
    """Maximum number of records quarantined in one read, 0 or more; one more raises SchemaError."""
    availability_strategy: Any = HttpAvailabilityStrategy()
    """An AvailabilityStrategy, as an attribute, a property or a method. None: availability is not checked."""
    detect_loops: bool = True
    """Whether equal pages raise PaginationLoop: the first two of a slice, or three in a row.

    False also permits a token that stays the same from page to page, as that of a scroll. Cycles of tokens always
    raise it.
    """
    max_pages: int = 100_000
    """Maximum number of pages of one slice, at least 1; a further page raises PaginationLoop."""
    parallel_pages: bool = True
    """Whether pages of one slice are fetched concurrently if their tokens can be computed; order is preserved."""
    weight: float = 1.0
    """The relative share of slots and quota that this stream gets beside other streams; a number above 0."""
    max_failed_slices: int = 100
    """Number of slices that may fail, 0 or more, while the others are read; one more ends the stream."""
    max_concurrency: int = 32
    """Maximum number of slices and pages read at once, at least 1. The number of a Source bounds all its streams."""
    rate_limit: RateLimit | Sequence[RateLimit] | None = None
    """Declared limits, such as RateLimit(100, per=60) for 100 requests a minute; all limits of a list apply.

    Streams with the same origin, credential and `quota_group` share limits that are equal.
    """
    rate_limit_cost: float = 1.0
    """Units of the rate limits that one request uses; a number above 0."""
    quota_group: str | None = None
    """Name of a quota of its own within the origin and credential, for APIs that limit single endpoints."""
    adaptive: bool = True
    """Whether the number of requests in flight adapts to the server's responses, up to `max_concurrency`."""
    outage_timeout: float = 600.0
    """Seconds to wait for a host that is down, above 0; then the run ends with HostUnavailable."""
    max_tries: int = 5
    """Maximum number of requests for one page, at least 1. Waits that the server orders do not use up tries."""
    max_time: float = 600.0
    """Maximum seconds for one page with its retries, above 0, without waits that the server orders."""
    max_server_wait: float = 900.0
    """Maximum seconds of one wait that the server orders, above 0; beyond it RateLimitWaitTooLong is raised.

    Consecutive waits without a success in between may last four times as long in total.
    """
    backoff: Backoff = Backoff()
    """Delays between tries."""
    idempotent: bool = True
    """Whether a request may be sent again after an unclear failure, whatever its method."""
    authenticator: httpx.Auth | None = None
    """Signs each request; any httpx.Auth works."""
    timeouts: Timeouts = Timeouts()
    """Time limits of one attempt, in seconds."""
    adaptive_timeouts: bool = True
    """Whether the first try of a page ends early if other responses came much faster.

    After 50 responses, its limit for the first byte is five times their 99th percentile, at least 1 s. Later tries
    have the full limit of `timeouts`.
    """
    body_limits: BodyLimits = BodyLimits()
    """Size limits of a response body; beyond them ResponseTooLarge is raised."""
    transport: httpx.AsyncBaseTransport | MockRouter | None = None
    """A transport or respx router that replaces the default one; it is not closed."""
    middleware: Sequence[Middleware] = ()
    """Callables around each attempt, the first one outermost. See Middleware."""
    allowed_origins: tuple[str, ...] = ()
    """Further origins that links, redirects and paths may lead to. The credential is sent there too."""
    uncredentialed_origins: tuple[str, ...] = ()
    """Origins that links and paths may lead to without the credential, such as "https://*.s3.amazonaws.com".

    Only GET and HEAD requests without a body are sent there, without cookies and without headers of the stream.
    `https://*.example.com` stands for all subdomains. Redirects need no entry.
    """
    cookies: bool = True
    """Whether cookies that the API sets are sent back to it. They are kept in memory, per origin and credential."""
    allow_insecure: bool = False
    """Whether a credential may be sent over plain http to hosts other than localhost."""
    trust_env: bool = True
    """Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR and REQUESTS_CA_BUNDLE apply.

    `proxy` and `verify` of `request_kwargs` win over them; loopback hosts never use a proxy of the environment.
    """
    clock: Clock = SystemClock()
    """The source of time and sleep; tests pass a VirtualClock."""
    seed: int | None = None
    """Seed of all randomness of a read, such as retry jitter. None: unpredictable."""
    use_cache: bool = False
    """Whether the records are cached on disk for substreams, in this and later runs. See `cache_dir`."""
    cache_ttl: float = 3_600.0
    """Seconds for which cached records are valid, above 0, from the start of the read."""
    cache_filename: str = ""
    """Prefix of the cache file names. Default: the name of the stream."""
    cache_version: str | int | None = None
    """Any value; change it to make cached records invalid, for example after the upgrade of a library."""
    cache_dir: str | PathLike[str] | None = None
    """Folder of the cache. None: the environment variable REQUEST_CACHE_PATH, or else the user's cache folder."""
    cursor_field: CursorField = None
    """The field, or path of a field, with the time when a record changed. With a state, only new records are read.

    An increasing number, such as an id, also works, with NumberRanges.
    """
    cursor_format: str | CursorFormat = "auto"
    """Format of cursor values, or a CursorFormat if there are several, or another one for requests.

    "auto": ISO 8601 or epochs, decided by the schema or by the first values; "number" with NumberRanges. Bounds are
    written like the values. If they are needed before a value has been seen, they are in ISO 8601, and epochs then
    raise CursorMismatch. Others: "iso", "date", "epoch" (seconds), "epoch_ms", "epoch_us", "epoch_ns", "number", and a
    pattern for `strptime`.
    """
    cursor_timezone: str | None = None
    """IANA time zone of cursor values without a UTC offset, such as "Europe/Berlin". None: UTC, with a warning."""
    windows: Windows | None = None
    """The intervals to read. None: one interval up to 60 seconds before the run. See TimeWindows and NumberRanges."""
    keep_outside: bool = False
    """Whether records are kept whose cursor lies outside of the window that they were requested for.

    For APIs that filter by another field than `cursor_field`. An API that does not filter returns the same records for
    each window; they are then delivered each time.
    """
    state_checkpoint_interval: int | None = None
    """Number of records, at least 1, after which the state advances within a slice, at the end of a page.

    None: the state advances when a slice is complete. Set it only if the API returns records in ascending order
    of the cursor or, without a cursor, if its page tokens remain valid in later runs.
    """
    missing_child: MissingChild = "skip"
    """HttpSubStream only: what happens if the API answers the first request below a parent with 403, 404 or 410.

    "skip": the child is left out, counted and named in the report, and the first one is warned of. The stream is
    unavailable if the first three children or more than `max_failed_slices` are refused with 403, or if half of those
    that had rows when they were last read are refused or missing. "fail": the slice fails.
    """
    parent_fields: Sequence[str] | None = None
    """HttpSubStream only: the fields of parent records, as dotted paths, that slices contain. None: all fields."""
    incremental_dependency: bool = False
    """HttpSubStream with a state only: whether to read only parents that are new or changed since the last run.

    Each parent needs a `cursor_field`.
    """
    parent_lookback: timedelta | str | None = None
    """With `incremental_dependency`: how far before the end of the last run parents count as changed, although they are
    not: their children are requested again. A duration of at least 0, such as timedelta(days=7) or "P7D"; None: 0.
    """
