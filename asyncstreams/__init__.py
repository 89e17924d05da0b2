"""Extract whole HTTP APIs from async Python: declare a stream and read all of it."""

from dataclasses import fields, is_dataclass
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any, get_type_hints

from ._version import __version__
from .auth.authenticators import (
    AbstractHeaderAuthenticator,
    ApiKeyAuthenticator,
    BasicHttpAuthenticator,
    MultipleTokenAuthenticator,
    TokenAuthenticator,
)
from .clock import Clock, SystemClock
from .cursors.cursor_format import CursorFormat
from .cursors.windows import NumberRanges, TimeWindows
from .declaration.availability import Availability, AvailabilityStrategy, HttpAvailabilityStrategy
from .declaration.catalog import CheckReport, StreamCheck, StreamDescription
from .declaration.settings import StreamOptions
from .destinations.base import Sink
from .destinations.output_state import LastRun, OutputState, PartitionState, StreamOutput
from .errors import (
    AsyncStreamsError,
    AuthError,
    ConfigError,
    CrossOriginLink,
    CursorMismatch,
    DecodeError,
    HostUnavailable,
    HttpStatusError,
    InvalidSlice,
    LocalError,
    MalformedJSON,
    MalformedResponse,
    OutputLocked,
    OutputMissing,
    OutputWriteError,
    PaginationLoop,
    PaginationUndeclared,
    PartialFailure,
    RateLimitWaitTooLong,
    RemoteError,
    RequestBlocked,
    ResponseTooLarge,
    SchemaError,
    StallTimeout,
    StateCorrupt,
    StateIncompatible,
    StreamUnavailable,
    ThresholdMissed,
    TruncatedBody,
    UnexpectedContent,
)
from .event_log.run_record import RunOrigin, RunRecord
from .events import (
    Ceiling,
    Event,
    Listener,
    PageRead,
    ParentsDiscovered,
    ProgressSampled,
    RequestFinished,
    RetryScheduled,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
    WaitStarted,
)
from .execution.report import RunReport, StreamReport, WriteReport
from .http.request_builder import Attempt
from .messages import Request, Response
from .models import (
    Backoff,
    BodyLimits,
    Page,
    PageRequest,
    ParamsInput,
    QuarantinedRecord,
    RateLimit,
    Record,
    RequestContext,
    ResponseAction,
    SchemaViolation,
    Secret,
    Slice,
    Timeouts,
)
from .pagination.paginators import Continuation, Cursor, Header, LinkHeader, NextUrl, Offset, PageNumber
from .pagination.selectors import Selector
from .protocols import Middleware, MockRouter, Paginator, ParsedRecords, Send, SliceInput, Windows
from .source import Source
from .state.airbyte_state import StateInput, to_airbyte_state
from .state.state_file import State
from .state.stream_state import StreamState
from .streams.http_stream import HttpStream

if TYPE_CHECKING:
    from .auth.config_tokens import SingleUseRefreshTokenOauth2Authenticator
    from .auth.file_token_store import FileTokenStore
    from .auth.oauth2 import Oauth2Authenticator
    from .auth.tokens import Oauth2Tokens, TokenStore
    from .destinations.duckdb import DuckDB
    from .destinations.jsonl import JsonLines
    from .destinations.parquet import Parquet
    from .destinations.sqlite import SQLite
    from .http.streaming import csv_rows, json_items, ndjson
    from .launch import main, run
    from .schemas.type_transformer import TransformConfig, TypeTransformer
    from .streams.substream import HttpSubStream

__all__ = [
    "AbstractHeaderAuthenticator",
    "ApiKeyAuthenticator",
    "AsyncStreamsError",
    "Attempt",
    "AuthError",
    "Availability",
    "AvailabilityStrategy",
    "Backoff",
    "BasicHttpAuthenticator",
    "BodyLimits",
    "Ceiling",
    "CheckReport",
    "Clock",
    "ConfigError",
    "Continuation",
    "CrossOriginLink",
    "Cursor",
    "CursorFormat",
    "CursorMismatch",
    "DecodeError",
    "DuckDB",
    "Event",
    "FileTokenStore",
    "Header",
    "HostUnavailable",
    "HttpAvailabilityStrategy",
    "HttpStatusError",
    "HttpStream",
    "HttpSubStream",
    "InvalidSlice",
    "JsonLines",
    "LastRun",
    "LinkHeader",
    "Listener",
    "LocalError",
    "MalformedJSON",
    "MalformedResponse",
    "Middleware",
    "MockRouter",
    "MultipleTokenAuthenticator",
    "NextUrl",
    "NumberRanges",
    "Oauth2Authenticator",
    "Oauth2Tokens",
    "Offset",
    "OutputLocked",
    "OutputMissing",
    "OutputState",
    "OutputWriteError",
    "Page",
    "PageNumber",
    "PageRead",
    "PageRequest",
    "PaginationLoop",
    "PaginationUndeclared",
    "Paginator",
    "ParamsInput",
    "ParentsDiscovered",
    "Parquet",
    "ParsedRecords",
    "PartialFailure",
    "PartitionState",
    "ProgressSampled",
    "QuarantinedRecord",
    "RateLimit",
    "RateLimitWaitTooLong",
    "Record",
    "RemoteError",
    "Request",
    "RequestBlocked",
    "RequestContext",
    "RequestFinished",
    "Response",
    "ResponseAction",
    "ResponseTooLarge",
    "RetryScheduled",
    "RunOrigin",
    "RunRecord",
    "RunReport",
    "SQLite",
    "SchemaError",
    "SchemaViolation",
    "Secret",
    "Selector",
    "Send",
    "SingleUseRefreshTokenOauth2Authenticator",
    "Sink",
    "Slice",
    "SliceFinished",
    "SliceInput",
    "SliceStarted",
    "Source",
    "StallTimeout",
    "State",
    "StateCorrupt",
    "StateIncompatible",
    "StateInput",
    "StreamCheck",
    "StreamDescription",
    "StreamFinished",
    "StreamOptions",
    "StreamOutput",
    "StreamReport",
    "StreamSkipped",
    "StreamStarted",
    "StreamState",
    "StreamUnavailable",
    "SystemClock",
    "ThresholdMissed",
    "TimeWindows",
    "Timeouts",
    "TokenAuthenticator",
    "TokenStore",
    "TransformConfig",
    "TruncatedBody",
    "TypeTransformer",
    "UnexpectedContent",
    "WaitStarted",
    "Windows",
    "WriteReport",
    "__version__",
    "csv_rows",
    "json_items",
    "main",
    "ndjson",
    "run",
    "to_airbyte_state",
]


# The modules of these names are imported on first use: no other module needs them.
_IMPORTED_ON_USE = {
    "DuckDB": ".destinations.duckdb",
    "FileTokenStore": ".auth.file_token_store",
    "HttpSubStream": ".streams.substream",
    "JsonLines": ".destinations.jsonl",
    "Oauth2Authenticator": ".auth.oauth2",
    "Oauth2Tokens": ".auth.tokens",
    "Parquet": ".destinations.parquet",
    "SQLite": ".destinations.sqlite",
    "SingleUseRefreshTokenOauth2Authenticator": ".auth.config_tokens",
    "TokenStore": ".auth.tokens",
    "TransformConfig": ".schemas.type_transformer",
    "TypeTransformer": ".schemas.type_transformer",
    "csv_rows": ".http.streaming",
    "json_items": ".http.streaming",
    "main": ".launch",
    "ndjson": ".http.streaming",
    "run": ".launch",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = getattr(import_module(_IMPORTED_ON_USE[name], __name__), name)
    _set_public_module(public)
    globals()[name] = public
    return public


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _set_public_module(public: object) -> None:
    """Make tracebacks, reprs and pickles show `asyncstreams.HttpStream`, and not the module that defines the class.

    `typing.get_type_hints` looks names up in the module of a class, so annotations are evaluated first.
    """
    if isinstance(public, type):
        own: dict[str, Any] = vars(public).get("__annotations__", {})
        hints = get_type_hints(public, include_extras=True) if own or hasattr(public, "__dataclass_fields__") else {}
        public.__annotations__ = {field: hints[field] for field in own}
        if is_dataclass(public):
            parameters = {field.name: hints[field.name] for field in fields(public) if field.init}
            public.__init__.__annotations__ = {**parameters, "return": None}
    if isinstance(public, type | FunctionType):
        public.__module__ = __name__


for _name in __all__:
    if _name not in _IMPORTED_ON_USE:
        _set_public_module(globals()[_name])
