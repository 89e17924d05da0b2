"""What can be set about a stream, and what holds where nothing is?"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import httpx

from ..clock import Clock, SystemClock
from ..declaration.availability import HttpAvailabilityStrategy
from ..models import Backoff, BodyLimits, CursorField, PrimaryKey, RateLimit, Timeouts
from ..protocols import Middleware, MockRouter, Paginator, Transformer, ValidationMode, Windows


class StreamSettings:
    """The attributes of a stream, each of which a class or an instance may set."""

    name: str = ""
    """The class name in snake case, unless set."""
    url_base: str = ""
    """Where all paths begin; nothing of it is ever dropped."""
    http_method: str = "GET"
    paginator: Paginator | None = None
    """How one page leads to the next; without one, and without `next_page_token`, there is one page."""
    records_path: str | None = None
    """Where in the body the array of records lies, as a dotted path; None: the body is the array."""
    primary_key: PrimaryKey = None
    transformer: Transformer | None = None
    """Changes records to what their schema says, before they are held against it."""
    validation: ValidationMode = "report"
    """What becomes of records that do not fit the schema; without a schema, nothing is looked at.

    "report": they are handed over, counted, and warned of once for each place and keyword;
    "quarantine": they are kept apart, in `page.quarantined`; "fail": SchemaError; "off".
    """
    max_quarantined: int = 1_000
    """Records that may be quarantined in one reading; one more ends it with SchemaError."""
    availability_strategy: Any = HttpAvailabilityStrategy()
    """An AvailabilityStrategy, as an attribute, a property or a method; None: there is none."""
    detect_loops: bool = True
    """Whether the same non-empty page three times in a row is an error."""
    max_pages: int = 100_000
    """Pages of one slice, at most."""
    parallel_pages: bool = True
    """Whether pages whose place is known beforehand are fetched side by side; they are handed over in order."""
    weight: float = 1.0
    """The stream's share of a run, beside those of other streams."""
    max_failed_slices: int = 100
    """Slices that may fail before the stream ends; the others are read meanwhile."""
    max_concurrency: int = 32
    """Slices and pages that are worked on at once; in a Source, its own number bounds all streams together."""
    rate_limit: RateLimit | Sequence[RateLimit] | None = None
    """Limits that are known, such as RateLimit(100, per=60); several at once hold together.

    Streams of one origin, credential and `quota_group` that declare equal limits share them.
    """
    rate_limit_cost: float = 1.0
    """Units that one request takes of them."""
    quota_group: str | None = None
    """Sets the stream's quota apart from others of its origin and credential, for limits of single endpoints."""
    adaptive: bool = True
    """Whether what is on the wire at once is found by the server's answers, up to `max_concurrency`."""
    outage_timeout: float = 600.0
    """Seconds for which a host that is down is waited for; then the run ends with HostUnavailable."""
    max_tries: int = 5
    """Requests in all for one page; waits that the server orders spend none."""
    max_time: float = 600.0
    """Seconds for one page, with its retries; waits that the server orders do not count."""
    max_server_wait: float = 900.0
    """Seconds that one ordered wait may last; four times as much without a success in between."""
    backoff: Backoff = Backoff()
    idempotent: bool = True
    """Whether a request may be sent again; streams read, so it usually may, whatever the method."""
    authenticator: httpx.Auth | None = None
    timeouts: Timeouts = Timeouts()
    body_limits: BodyLimits = BodyLimits()
    transport: httpx.AsyncBaseTransport | MockRouter | None = None
    """What sends, in place of our own; it is borrowed and not closed."""
    middleware: Sequence[Middleware] = ()
    """Extra links of the chain, the first one outermost."""
    allowed_origins: tuple[str, ...] = ()
    """Other origins that links, redirects and paths may lead to; the credential goes there too."""
    allow_insecure: bool = False
    """Whether a credential may go out over plain http to a host that is not this machine."""
    clock: Clock = SystemClock()
    seed: int | None = None
    """Seeds all chance of a reading, such as the jitter of retries; None: by chance."""
    use_cache: bool = False
    """Whether what is read of the stream is kept for its substreams, also for later runs. See `cache_dir`."""
    cache_ttl: float = 3_600.0
    """Seconds for which it is good, from the beginning of the read."""
    cache_filename: str = ""
    """How the names of its files begin: as the stream is called, unless set."""
    cache_dir: str | PathLike[str] | None = None
    """Where it is kept; None: REQUEST_CACHE_PATH of the environment, else the user's cache folder."""
    cursor_field: CursorField = None
    """The field, or the path of one, that says when a record changed: then only what is new is read, where there is a
    state. A number that grows will do, with NumberRanges."""
    cursor_format: str = "iso"
    """How the API writes it: "iso", "date", "epoch", "epoch_ms", "number", or a pattern for `strptime`."""
    cursor_timezone: str | None = None
    """Where its times are at home that have no offset, such as "Europe/Berlin"."""
    windows: Windows | None = None
    """In which intervals it is read; None: all that is new in one, to 60 seconds before the run. See TimeWindows."""
    state_checkpoint_interval: int | None = None
    """Records after which a state may move within a slice, at the end of a page; None: slices are done as a whole.

    It says that the API gives records in ascending order of the cursor. Without a cursor it says that its page
    tokens are good for another run too.
    """
    parent_fields: Sequence[str] | None = None
    """Of an HttpSubStream: fields of its parents' records, as dotted paths, that its slices hold; None: all."""
    incremental_dependency: bool = False
    """Of an HttpSubStream with a state: whether only parents are read that are new or have changed since it was read
    last. Each parent has a `cursor_field` then."""
