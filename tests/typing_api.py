"""Types of the public API, checked by mypy and pyright; never run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import httpx

from asyncstreams import (
    AbstractHeaderAuthenticator,
    ApiKeyAuthenticator,
    AsyncStreamsError,
    Attempt,
    AuthError,
    Availability,
    AvailabilityStrategy,
    Backoff,
    BasicHttpAuthenticator,
    BodyLimits,
    Ceiling,
    CheckReport,
    Clock,
    ConfigError,
    Continuation,
    CrossOriginLink,
    Cursor,
    CursorFormat,
    CursorMismatch,
    DecodeError,
    DuckDB,
    Event,
    FileTokenStore,
    Header,
    HostUnavailable,
    HttpAvailabilityStrategy,
    HttpStatusError,
    HttpStream,
    HttpSubStream,
    InvalidSlice,
    JsonLines,
    LastRun,
    LinkHeader,
    Listener,
    LocalError,
    MalformedJSON,
    MalformedResponse,
    Middleware,
    MockRouter,
    MultipleTokenAuthenticator,
    NextUrl,
    NumberRanges,
    Oauth2Authenticator,
    Oauth2Tokens,
    Offset,
    OutputLocked,
    OutputMissing,
    OutputState,
    OutputWriteError,
    Page,
    PageNumber,
    PageRead,
    PageRequest,
    PaginationLoop,
    PaginationUndeclared,
    Paginator,
    ParamsInput,
    ParentsDiscovered,
    Parquet,
    ParsedRecords,
    PartialFailure,
    PartitionState,
    ProgressSampled,
    QuarantinedRecord,
    RateLimit,
    RateLimitWaitTooLong,
    Record,
    RemoteError,
    Request,
    RequestBlocked,
    RequestContext,
    RequestFinished,
    Response,
    ResponseAction,
    ResponseTooLarge,
    RetryScheduled,
    RunOrigin,
    RunRecord,
    RunReport,
    SchemaError,
    SchemaViolation,
    Secret,
    Selector,
    Send,
    SingleUseRefreshTokenOauth2Authenticator,
    Sink,
    Slice,
    SliceFinished,
    SliceInput,
    SliceStarted,
    Source,
    SQLite,
    StallTimeout,
    State,
    StateCorrupt,
    StateIncompatible,
    StateInput,
    StreamCheck,
    StreamDescription,
    StreamFinished,
    StreamOptions,
    StreamOutput,
    StreamReport,
    StreamSkipped,
    StreamStarted,
    StreamState,
    StreamUnavailable,
    SystemClock,
    ThresholdMissed,
    Timeouts,
    TimeWindows,
    TokenAuthenticator,
    TokenStore,
    TransformConfig,
    TruncatedBody,
    TypeTransformer,
    UnexpectedContent,
    WaitStarted,
    Windows,
    WriteReport,
    csv_rows,
    json_items,
    main,
    ndjson,
    run,
    to_airbyte_state,
)


class Orders(HttpStream):
    """Every hook with its types."""

    url_base = "https://api.example.com/"
    primary_key = "id"
    cursor_field = "updated_at"
    records_path = "data"
    paginator: Paginator | None = PageNumber(size=100, total_items=Header("X-Total"))
    cursor_format = CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")
    windows: Windows | None = TimeWindows(start="2026-01-01", step="P1M", lookback=timedelta(days=7), end="2027-01-01")
    keep_outside = True
    rate_limit = RateLimit(100, per=60, smooth=True)
    backoff = Backoff(base=0.5, cap=60.0)
    timeouts = Timeouts(connect=5.0)
    body_limits = BodyLimits(decoded=2**30)
    transformer = TypeTransformer(TransformConfig.DefaultSchemaNormalization)
    availability_strategy: AvailabilityStrategy | None = HttpAvailabilityStrategy()

    def path(self, context: RequestContext) -> str | Secret | tuple[str | int | Secret, ...]:
        return ("orders", context.attempt, "v" + Secret("1"))

    def request_params(self, context: RequestContext) -> ParamsInput | None:
        since, until = context.bounds
        return {"since": since, "until": until, "project": context.stream_slice.get("project")}

    def request_headers(self, context: RequestContext) -> Mapping[str, str | Secret] | None:
        return {"X-Account": str(context.stream_slice["account"]), "X-Key": Secret("s3cret")}

    def request_json(self, context: RequestContext) -> Any:
        return {"page": context.next_page_token}

    def request_kwargs(self, context: RequestContext) -> Mapping[str, Any]:
        return {"timeout": 5}

    def next_page_token(self, response: Response, context: RequestContext) -> Any:
        return response.json().get("next")

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncIterator[Slice]:
        yield Slice({"account": 1}, ("2026-01-01", "2026-02-01"), labels={"account": "first"})

    def parse_response(self, response: Response, context: RequestContext) -> ParsedRecords:
        return [{**record, "page": context.next_page_token} for record in response.json()["data"]]

    def classify(self, response: Response, context: RequestContext) -> ResponseAction:
        return ResponseAction.RETRY if response.status_code == 409 else super().classify(response, context)

    def should_retry(self, response: Response) -> bool:
        return response.status_code >= 500

    def backoff_time(self, response: Response) -> float | None:
        return float(response.headers["X-Wait"])

    def get_json_schema(self) -> Mapping[str, Any]:
        return {"type": "object"}


class Regions(HttpStream):
    """Slices as plain mappings."""

    url_base = "https://api.example.com/"

    def path(self, context: RequestContext) -> str:
        return "regions"

    def stream_slices(self, state: Mapping[str, Any]) -> SliceInput:
        return [{"region": "north"}, {"region": "south"}]


class Export(HttpStream):
    """A body that is parsed while it arrives."""

    url_base = "https://api.example.com/"

    def path(self, context: RequestContext) -> str:
        return "export"

    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[Record]:
        async for record in ndjson(response):
            yield record
        async for record in csv_rows(response, delimiter=";", quotechar=None, encoding="cp1252", extra_columns="drop"):
            yield record
        async for record in json_items(response, "data"):
            yield record


class Items(HttpSubStream):
    """A child of orders."""

    url_base = "https://api.example.com/"
    parent_fields = ("id",)
    parent_batch_size = 100

    def path(self, context: RequestContext) -> tuple[str, ...]:
        return ("orders", str(context.stream_slice["parent"]["id"]), "items")

    async def stream_slices(self, state: Mapping[str, Any]) -> AsyncGenerator[Slice]:
        async for stream_slice in super().stream_slices(state):
            yield stream_slice


class Shop(Source):
    """Streams that are made from a configuration."""

    def streams(self, config: Mapping[str, Any]) -> Iterable[HttpStream]:
        orders = Orders(authenticator=TokenAuthenticator(config["token"]), max_concurrency=8)
        return [orders, Items(orders)]


class Signature(AbstractHeaderAuthenticator):
    """An authenticator that computes its header."""

    auth_method = "HMAC"
    auth_header = "X-Signature"

    @property
    def token(self) -> str:
        return "computed"


class Kafka:
    """A destination of the user."""

    async def write(self, page: Page, batch_id: str) -> None:
        assert_type(page.records, list[Record])
        assert_type(page.quarantined, tuple[QuarantinedRecord, ...])


class FrozenClock:
    """A clock of the user."""

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def add_trace(request: Request, send: Send, /) -> httpx.Response:
    request.headers["X-Trace"] = "1"
    return await send(request)


def on_event(event: Event) -> None:
    match event:
        case StreamStarted(stream) | StreamSkipped(stream) | StreamFinished(stream):
            assert_type(stream, str)
        case SliceStarted(stream, stream_slice) | SliceFinished(stream, stream_slice):
            assert_type(stream_slice, Slice)
        case PageRead():
            assert_type(event.records, int)
        case RequestFinished():
            assert_type(event.status, int | None)
        case ProgressSampled():
            assert_type(event.ceilings, tuple[Ceiling, ...])
        case ParentsDiscovered():
            assert_type(event.count, int)
        case RetryScheduled():
            assert_type(event.delay, float)
        case WaitStarted():
            assert_type(event.seconds, float)


class MemoryStore:
    def __init__(self) -> None:
        self.tokens: dict[str, Oauth2Tokens] = {}

    @asynccontextmanager
    async def exclusive(self, key: str, /) -> AsyncGenerator[Oauth2Tokens | None]:
        yield self.tokens.get(key)

    async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
        self.tokens[key] = tokens


def token_store(store: TokenStore) -> TokenStore:
    return store


def authenticators(on_refresh: Callable[[Oauth2Tokens], Awaitable[None]]) -> Sequence[httpx.Auth]:
    secret = Secret("s3cret")
    assert_type(secret.reveal(), str)
    return [
        TokenAuthenticator(secret),
        MultipleTokenAuthenticator(["a", secret]),
        BasicHttpAuthenticator("user", secret),
        ApiKeyAuthenticator(secret, "X-API-Key", into="header"),
        Oauth2Authenticator("https://auth.example.com/token", "id", secret, on_refresh=on_refresh),
        Oauth2Authenticator("https://auth.example.com/token", "id", secret, token_store=FileTokenStore("tokens.json")),
        Oauth2Authenticator("https://auth.example.com/token", "id", grant_type="password", token_store=MemoryStore()),
        SingleUseRefreshTokenOauth2Authenticator({"credentials": {}}, "https://auth.example.com/token"),
        Signature(),
    ]


def no_records(response: Response, records: Sequence[Record]) -> bool:
    return not records


def paginators(selector: Selector) -> Sequence[Paginator]:
    return [
        PageNumber(total_pages=selector),
        Offset(total=selector),
        PageNumber(more=selector),
        Offset("startIndex", start=1, step="limit", more=Header("X-More")),
        Cursor(selector, more="has_more", stop_when=lambda response: not response.json()),
        Cursor(selector, stop_when=no_records),
        LinkHeader(),
        NextUrl(selector),
        Continuation(),
    ]


def page_request(token: str) -> PageRequest:
    return PageRequest(params={"cursor": token}, headers={}, json={}, data={}, url=None)


async def read(options: StreamOptions, middleware: Middleware, router: MockRouter, clock: Clock, sink: Sink) -> None:
    orders = Orders(middleware=[middleware, add_trace], transport=router, clock=clock)
    assert_type(await orders.read(limit=10), list[Record])
    unsubscribe: Callable[[], None] = orders.subscribe(on_event)
    unsubscribe()
    async with orders.pages(ack="manual") as pages:
        async for page in pages:
            assert_type(page, Page)
            page.ack()
    async with orders.records(state=State.load("state.json")) as records:
        async for record in records:
            assert_type(record, Record)
    assert_type(await orders.check_availability(), Availability)
    assert_type(await orders.request(path="orders/1"), Response)
    assert_type(await orders.extract(to=sink), RunReport)
    source = Shop({"token": "t"}, **options)
    assert_type(await source.read("orders"), dict[str, list[Record]])
    assert_type(await source.check(), CheckReport)
    assert_type(await source.discover(), dict[str, StreamDescription])
    async with source.pages("orders", "items", on_error="stop") as several:
        assert_type(several.report, RunReport)
        assert_type(several.unavailable, Mapping[str, str])
        assert_type(several.explain(), str)
        async for page in several:
            assert_type(page.stream, str)
        assert_type(await handle_report(source), RunReport)


async def handle_report(source: Source) -> RunReport:
    report = await source.extract(
        to=Parquet(Path("out"), mode="replace"), require=["duration < 1h"], event_log=RunOrigin("shop:Shop")
    )
    assert_type(report.record, RunRecord | None)
    assert_type(await JsonLines("out").runs(limit=1), tuple[RunRecord, ...])
    for stream in report.streams:
        assert_type(stream, StreamReport)
        assert_type(stream.raw_passthrough, bool)
        assert_type(stream.ignored, int)
        assert_type(stream.missing, int)
        assert_type(stream.missing_children, Mapping[str, int])
        assert_type(stream.written, WriteReport | None)
    for destination in (JsonLines("out", surrogates="replace"), SQLite("a.sqlite"), DuckDB("a.duckdb")):
        report = await source.extract(to=destination)
        report = await source.extract("orders", to=destination, refresh=("orders",))
        report = await source.extract("orders", to=destination, limit=10, since="2026-01-01", until=datetime.now(UTC))
        report = await source.extract("orders", to=destination, slices={"orders": [{"shop": 7}]})
        handle_output(await destination.state())
        await destination.reset("orders", drop=True)
    return report


def handle_output(output: OutputState) -> None:
    assert_type(output.last_run, LastRun | None)
    assert_type(output["orders"], StreamOutput)
    assert_type(output["orders"].rows, int)
    assert_type(output["orders"].partitions, tuple[PartitionState, ...])
    assert_type(output.streams, Mapping[str, StreamOutput])


def launch(source: Source, destination: SQLite) -> None:
    assert_type(run(Shop, to=JsonLines("out/"), limit=10), RunReport)
    assert_type(run(source, "orders", to=destination, refresh=("orders",), quiet=True), RunReport)
    main(source, "orders", to=destination, since="2026-01-01")


async def converted(orders: Orders, source: Source, given: StateInput) -> None:
    assert_type(State.from_airbyte(given, Path("state.json")), State)
    assert_type(await orders.read(state=given), list[Record])
    assert_type(await orders.read(state={"updated_at": 1}), list[Record])
    assert_type(await source.read(state='[{"type": "STREAM"}]'), dict[str, list[Record]])


def state(saved: State) -> Mapping[str, Any]:
    assert_type(saved["orders"], StreamState)
    return to_airbyte_state(saved["orders"], "per_partition")


def violations(quarantined: QuarantinedRecord) -> list[str]:
    return [
        f"{violation.pointer}: {violation.keyword}" for violation in quarantined.problems if is_violation(violation)
    ]


def is_violation(violation: SchemaViolation) -> bool:
    return bool(violation.detail)


def checks(check: StreamCheck, logger: logging.Logger) -> str | None:
    logger.info("%s %s", check.stream, check.available)
    return check.reason


def attempt_of(attempt: Attempt) -> int:
    return attempt.context.attempt


def handled(error: AsyncStreamsError) -> str:
    match error:
        case ThresholdMissed():
            return "look at the data"
        case PartialFailure():
            assert_type(error.errors, tuple[Exception, ...])
        case SchemaError():
            assert_type(error.pointer, str)
        case MalformedJSON():
            assert_type(error.offset, int | None)
        case RequestBlocked():
            return "look at the network"
        case HttpStatusError() | StreamUnavailable():
            assert_type(error.status, int | None)
        case OutputLocked():
            assert_type(error.holder, str)
        case StateIncompatible():
            assert_type(error.field, str)
        case CursorMismatch():
            return "declare the cursor of the hint"
        case PaginationUndeclared():
            return "declare the paginator of the hint"
        case AuthError() | ConfigError():
            return "fix the declaration or the credential"
        case RateLimitWaitTooLong() | HostUnavailable() | StallTimeout() | TruncatedBody() | DecodeError():
            return "try later"
        case InvalidSlice():
            return "handle such parents"
        case MalformedResponse() | ResponseTooLarge() | UnexpectedContent() | CrossOriginLink() | PaginationLoop():
            return "look at the API"
        case RemoteError():
            return "look at the API"
        case OutputWriteError() | OutputMissing() | StateCorrupt() | LocalError():
            return "look at this machine"
        case _:
            return str(error)
    return error.message


LISTENER: Listener = on_event
CLOCK: Clock = FrozenClock()
SYSTEM_CLOCK: Clock = SystemClock()
SINK: Sink = Kafka()
RANGES: list[Windows] = [NumberRanges(step=100, end=1000), NumberRanges(step=100), NumberRanges()]
