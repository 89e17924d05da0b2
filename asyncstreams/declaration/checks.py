"""Checks of stream and Source declarations, before the first request is sent."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Iterable
from typing import Any, cast

import httpx

from ..cursors.cursor_format import CursorFormat
from ..errors import ConfigError
from ..models import Backoff, BodyLimits, RateLimit, Timeouts

_HOOKS = {
    "path": ("context",),
    "request_params": ("context",),
    "request_headers": ("context",),
    "request_json": ("context",),
    "request_data": ("context",),
    "request_kwargs": ("context",),
    "next_page_token": ("response", "context"),
    "parse_response": ("response", "context"),
    "classify": ("response", "context"),
    "should_retry": ("response",),
    "backoff_time": ("response",),
    "stream_slices": ("state",),
    "get_json_schema": (),
}
_ASYNC_HOOKS = {"parse_response", "stream_slices", "get_json_schema"}
_VALIDATIONS = ("report", "quarantine", "fail", "off")
_GRAPHQL_PARTIAL = ("fail", "warn")
_CDK_NAMES = {
    "max_retries": "set max_tries instead; it includes the first request, so max_retries = {0} becomes max_tries = {1}",
    "request_body_json": "rename it to request_json(self, context)",
    "request_body_data": "rename it to request_data(self, context)",
    "retry_factor": "set backoff = Backoff(base={0}) instead, in seconds",
    "raise_on_http_errors": "override classify(self, response, context) and return ResponseAction.IGNORE",
    "read_records": "remove it: pages are read automatically; override parse_response or stream_slices(state) instead",
    "get_error_handler": "override classify(self, response, context), and return a ResponseAction",
    "get_backoff_strategy": "override backoff_time(self, response), and return seconds or None",
    "exit_on_rate_limit": "set max_server_wait instead, in seconds",
    "get_updated_state": "remove it: with cursor_field the state is kept automatically",
    "state": "remove it: with cursor_field the state is kept automatically; pass one as pages(state=...)",
    "check_availability": "set availability_strategy to an object with this method",
    "must_deduplicate_query_params": "remove it: parameters replace those of the same name in the path",
}
_CDK_ARGUMENTS = {"stream_state", "stream_slice", "next_page_token", "sync_mode", "cursor_field"}
_SYNONYMS = {
    "pagination": "paginator",
    "base_url": "url_base",
    "auth": "authenticator",
    "params": "request_params",
    "get_params": "request_params",
    "headers": "request_headers",
    "method": "http_method",
    "retries": "max_tries",
    "parse": "parse_response",
    "json_schema": "get_json_schema",
    "schema": "get_json_schema",
    "validate": "validation",
}
_MIN_SIMILARITY = 0.82
_RESERVED_NAMES = {
    "session_owner",
    "lease",
    "listeners",
    "uses_paginator",
    "parents",
    "uses_default_parser",
    "probe",
    "streams_body",
    "why_unavailable",
}


def snake_case(name: str) -> str:
    """The default stream name of a class: `HTTPLogs2` becomes `http_logs2`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def check_class(cls: type, base: type) -> None:
    """Check a stream class for missing, misspelt and wrongly declared hooks. Raises ConfigError."""
    own = [vars(class_) for class_ in cls.__mro__[: cls.__mro__.index(base)]]
    for name, value in {name: value for names in reversed(own) for name, value in names.items()}.items():
        if name in _CDK_NAMES:
            number = value if isinstance(value, int | float) else "n"
            plus_one = value + 1 if isinstance(value, int) else "n + 1"
            raise ConfigError(f"{cls.__name__}.{name} is not supported", hint=_CDK_NAMES[name].format(number, plus_one))
        if name in _RESERVED_NAMES:
            raise ConfigError(f"{cls.__name__}.{name} is reserved", hint="choose another name for the attribute")
        if name in _HOOKS:
            _check_hook(cls, name, value)
        elif not name.startswith("_") and not hasattr(base, name):
            _check_spelling(cls, name, base)
    check_cursor_format(cls.__name__, cls)
    if getattr(cls, "path", None) is getattr(base, "path", None):
        raise ConfigError(f"{cls.__name__}.path is missing", hint='add `def path(self, context): return "users"`')


def check_source(cls: type, base: type, options: Iterable[str]) -> None:
    """Check a Source class for an invalid `streams` method and misspelt options. Raises ConfigError."""
    class_name = cls.__name__
    if not callable(getattr(cls, "streams", None)):
        raise ConfigError(
            f"{class_name}.streams is not a method", hint="write `def streams(self, config): return [...]`"
        )
    try:
        inspect.signature(cls.streams).bind(None, {})  # type: ignore[attr-defined]  # checked above
    except TypeError:
        raise ConfigError(
            f"{class_name}.streams cannot be called as streams(config)", hint="write `def streams(self, config)`"
        ) from None
    if "check_connection" in vars(cls):
        raise ConfigError(
            f"{class_name}.check_connection is never called", hint="remove it: check() requests a page of each stream"
        )
    known = sorted({*options, "spec", "streams"})
    for name in {name for class_ in cls.__mro__[: cls.__mro__.index(base)] for name in vars(class_)}:
        if name.startswith("_") or name in known or hasattr(base, name):
            continue
        is_synonym = _SYNONYMS.get(name) in known
        close = [_SYNONYMS[name]] if is_synonym else difflib.get_close_matches(name, known, 1, _MIN_SIMILARITY)
        if close:
            raise ConfigError(
                f"{class_name}.{name} is unknown; did you mean {close[0]!r}?",
                hint=f"if it is your own, begin its name with an underscore: _{name}",
            )


def check_options(cls: type, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError for a keyword that is not an option."""
    known = sorted(known)
    for name in given:
        if name in known:
            continue
        if name in _CDK_NAMES:
            raise ConfigError(
                f"{cls.__name__}({name}=...) is not supported", hint=_CDK_NAMES[name].format("n", "n + 1")
            )
        if name in vars(cls) or any(name in vars(base) for base in cls.__mro__):
            raise ConfigError(
                f"{cls.__name__}({name}=...): a class attribute, not an option",
                hint=f"write {name} = ... in the class, or set it on the instance",
            )
        close = [_SYNONYMS[name]] if _SYNONYMS.get(name) in known else difflib.get_close_matches(name, known, 1, 0.7)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{cls.__name__}({name}=...): unknown option", hint=f"{suggestion}the options are {', '.join(known)}"
        )


def check_values(stream: object) -> None:
    """Check the types and values of a stream's settings. Raises ConfigError."""
    class_name = type(stream).__name__
    base = getattr(stream, "url_base", None)
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{class_name}.url_base is {'missing' if not base else f'of type {type(base).__name__}, not a str'}",
            hint='add `url_base = "https://api.example.com/v1/"`',
        )
    if "?" in base or "#" in base:
        raise ConfigError(
            f"{class_name}.url_base contains a query or fragment", hint="return query parameters from request_params"
        )
    paginator = getattr(stream, "paginator", None)
    if isinstance(paginator, type):
        raise ConfigError(
            f"{class_name}.paginator is the class {paginator.__name__}, not an instance",
            hint=f"write {paginator.__name__}(...)",
        )
    if paginator is not None and not all(
        callable(getattr(paginator, name, None)) for name in ("first", "next", "apply")
    ):
        raise ConfigError(
            f"{class_name}.paginator is of type {type(paginator).__name__}: expected first(), next() and apply()",
            hint="for example PageNumber(), Offset(), Cursor(...), LinkHeader(), NextUrl(...) or Continuation()",
        )
    _check_types(class_name, stream)
    _check_missing(class_name, stream)
    _check_single_page(class_name, stream)
    check_cache(class_name, stream)
    check_cursor(class_name, stream)
    _check_schema_settings(class_name, stream)


def _check_missing(class_name: str, stream: object) -> None:
    """Check what stands for missing records and children."""
    for name, values in {"missing_records": ("error", "empty"), "missing_child": ("skip", "fail")}.items():
        if (value := getattr(stream, name, None)) not in values:
            raise ConfigError(f"{class_name}.{name} = {value!r}: expected {' or '.join(map(repr, values))}")
    path: Any = getattr(stream, "records_path", None)
    if path is not None and "$" in path.split(".")[:-1]:
        raise ConfigError(
            f"{class_name}.records_path = {path!r}: $ is only possible as the last step, for an object as the record",
            hint=f"write {path.removeprefix('$.')!r}" if path.startswith("$.") else None,
        )


def _check_single_page(class_name: str, stream: object) -> None:
    if not getattr(stream, "single_page", False):
        return
    has_paginator = getattr(stream, "paginator", None) is not None
    if has_paginator or not getattr(stream, "uses_paginator", True):
        raise ConfigError(
            f"{class_name}.single_page = True: the stream also has a "
            + ("paginator" if has_paginator else "next_page_token"),
            hint="remove one of the two",
        )


def _check_schema_settings(class_name: str, stream: object) -> None:
    validation = getattr(stream, "validation", None)
    if validation not in _VALIDATIONS:
        raise ConfigError(
            f"{class_name}.validation = {validation!r}: expected one of {', '.join(map(repr, _VALIDATIONS))}"
        )
    graphql_partial = getattr(stream, "graphql_partial", None)
    if graphql_partial not in _GRAPHQL_PARTIAL:
        raise ConfigError(
            f"{class_name}.graphql_partial = {graphql_partial!r}: "
            f"expected one of {', '.join(map(repr, _GRAPHQL_PARTIAL))}"
        )
    transformer = getattr(stream, "transformer", None)
    if transformer is not None and not callable(getattr(transformer, "compile", None)):
        raise ConfigError(
            f"{class_name}.transformer is {_kind_of(transformer)}: expected a TypeTransformer",
            hint="for example TypeTransformer(TransformConfig.DefaultSchemaNormalization)",
        )
    key: Any = getattr(stream, "primary_key", None)
    names: list[Any] = [*key] if isinstance(key, list | tuple) else [key]
    if not all(isinstance(name, str | list | tuple) for name in names if name is not None or key is not None):
        raise ConfigError(
            f"{class_name}.primary_key = {key!r}: expected a field, or a list of fields or paths",
            hint='for example "id", ["shop", "id"] or [["shop", "id"], ["number"]]',
        )


def _kind_of(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _check_types(class_name: str, stream: object) -> None:
    settings: dict[str, tuple[type | tuple[type, ...], str]] = {
        "max_tries": (int, "an integer of at least 1"),
        "max_pages": (int, "an integer of at least 1"),
        "max_quarantined": (int, "an integer of at least 0"),
        "max_failed_slices": (int, "an integer of at least 0"),
        "max_concurrency": (int, "an integer of at least 1"),
        "weight": ((int, float), "a number above 0"),
        "max_time": ((int, float), "a number of seconds above 0"),
        "max_server_wait": ((int, float), "a number of seconds above 0"),
        "outage_timeout": ((int, float), "a number of seconds above 0"),
        "cache_ttl": ((int, float), "a number of seconds above 0"),
        "use_cache": (bool, "True or False"),
        "rate_limit_cost": ((int, float), "a number above 0"),
        "quota_group": ((str, type(None)), "a str or None"),
        "http_method": (str, 'a str such as "GET"'),
        "single_page": (bool, "True or False"),
        "keep_outside": (bool, "True or False"),
        "detect_loops": (bool, "True or False"),
        "parallel_pages": (bool, "True or False"),
        "records_path": ((str, type(None)), 'a dotted path such as "data.items", or None'),
        "allowed_origins": ((tuple, list, set, frozenset), 'a tuple, such as ("https://files.example.com",)'),
        "uncredentialed_origins": ((tuple, list, set, frozenset), 'a tuple, such as ("https://*.s3.amazonaws.com",)'),
        "cookies": (bool, "True or False"),
        "middleware": ((tuple, list), "a tuple of callables"),
        "timeouts": (Timeouts, "Timeouts(connect=10, first_byte=60, read=30, total=300)"),
        "body_limits": (BodyLimits, "BodyLimits(wire=..., decoded=..., ratio=...)"),
        "backoff": (Backoff, "Backoff(base=0.25, cap=30)"),
    }
    for name, (types, expected) in settings.items():
        value = getattr(stream, name)
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise ConfigError(f"{class_name}.{name} is of type {type(value).__name__}: expected {expected}")
        minimum = 0 if name in ("max_quarantined", "max_failed_slices") else 1 if types is int else 1e-9
        if isinstance(value, int | float) and types is not bool and not value >= minimum:
            raise ConfigError(f"{class_name}.{name} = {value!r}: expected {expected}")
    check_rate_limit(class_name, getattr(stream, "rate_limit", None))
    authenticator = getattr(stream, "authenticator", None)
    if isinstance(authenticator, type):
        name = authenticator.__name__
        raise ConfigError(f"{class_name}.authenticator is the class {name}, not an instance", hint=f"write {name}(...)")
    if authenticator is not None and not hasattr(authenticator, "async_auth_flow"):
        raise ConfigError(
            f"{class_name}.authenticator is of type {type(authenticator).__name__}: expected an httpx.Auth",
            hint="for example TokenAuthenticator(token), BasicHttpAuthenticator(user, password) or "
            "Oauth2Authenticator(...)",
        )
    if not isinstance(authenticator, httpx.Auth):
        return
    kind = type(authenticator)
    if (
        kind.sync_auth_flow is not httpx.Auth.sync_auth_flow
        and kind.async_auth_flow is httpx.Auth.async_auth_flow
        and kind.auth_flow is httpx.Auth.auth_flow
    ):
        raise ConfigError(
            f"{class_name}.authenticator: {kind.__name__} defines sync_auth_flow alone, which no stream uses",
            hint="rename it to auth_flow, or define async_auth_flow if it waits for something",
        )


def check_cache(class_name: str, stream: object) -> None:
    """Raises ConfigError for an invalid `cache_filename`, `cache_version` or `cache_dir`."""
    name = getattr(stream, "cache_filename", "")
    if not isinstance(name, str) or re.search(r"[/\\\0]", name) or name.startswith("."):
        raise ConfigError(
            f"{class_name}.cache_filename = {name!r}: expected a file name prefix, without folders",
            hint="set cache_dir for the folder",
        )
    version = getattr(stream, "cache_version", None)
    if isinstance(version, bool) or not isinstance(version, str | int | None):
        raise ConfigError(
            f"{class_name}.cache_version is of type {type(version).__name__}: expected a str, an integer or None"
        )
    folder = getattr(stream, "cache_dir", None)
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"{class_name}.cache_dir is of type {type(folder).__name__}: expected a path")


def check_cursor(class_name: str, stream: object) -> None:
    """Raises ConfigError for an invalid cursor_field, cursor_format, windows or state_checkpoint_interval."""
    check_cursor_format(class_name, stream)
    path: Any = getattr(stream, "cursor_field", None)
    names: list[Any] = [path] if isinstance(path, str) else [*path] if isinstance(path, list | tuple) else [None]
    if path is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ConfigError(
            f"{class_name}.cursor_field = {path!r}: expected the name or path of a field",
            hint='for example "updated_at", or ["meta", "updated_at"]',
        )
    windows: Any = getattr(stream, "windows", None)
    if windows is not None and (isinstance(windows, type) or not callable(getattr(windows, "intervals", None))):
        raise ConfigError(
            f"{class_name}.windows is {windows!r}: expected TimeWindows(...) or NumberRanges(...)",
            hint='for example TimeWindows(start="2024-01-01", step=timedelta(days=30))',
        )
    if windows is not None and path is None:
        raise ConfigError(
            f"{class_name}.windows: cursor_field is missing", hint='set the cursor: cursor_field = "updated_at"'
        )
    interval: Any = getattr(stream, "state_checkpoint_interval", None)
    if interval is not None and (isinstance(interval, bool) or not isinstance(interval, int) or interval < 1):
        raise ConfigError(
            f"{class_name}.state_checkpoint_interval = {interval!r}: expected None or a number of records, at least 1"
        )


def check_cursor_format(class_name: str, declared: object) -> None:
    """Raises ConfigError for an invalid cursor_format or cursor_timezone of a stream or class."""
    cursor: Any = getattr(declared, "cursor_format", "auto")
    zone: Any = getattr(declared, "cursor_timezone", None)
    if isinstance(declared, type) and (hasattr(cursor, "__get__") or hasattr(zone, "__get__")):
        return  # a property
    if not isinstance(cursor, str | CursorFormat):
        raise ConfigError(
            f'{class_name}.cursor_format is {_kind_of(cursor)}: expected a format such as "iso", or a CursorFormat',
            hint='for several formats: CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")',
        )
    if zone is not None and not isinstance(zone, str):
        raise ConfigError(f"{class_name}.cursor_timezone is {_kind_of(zone)}: expected a name such as 'Europe/Berlin'")
    try:
        CursorFormat(cursor if isinstance(cursor, str) else cursor.records, zone)
    except ConfigError as error:
        raise ConfigError(f"{class_name}.{error.message}", hint=error.hint) from None


def check_rate_limit(class_name: str, limit: object) -> None:
    """Raises ConfigError unless `limit` is None, a RateLimit or a list of them."""
    limits = cast(list[object], [*limit]) if isinstance(limit, tuple | list) else [] if limit is None else [limit]
    for item in limits:
        if not isinstance(item, RateLimit):
            shown = f" = {item!r}" if isinstance(item, int | float) else ""
            raise ConfigError(
                f"{class_name}.rate_limit{shown} is of type {type(item).__name__}: expected RateLimit(...) or a list",
                hint="for example RateLimit(100, per=60) for 100 requests a minute",
            )


def _check_hook(cls: type, name: str, value: object) -> None:
    arguments = _HOOKS[name]
    if not callable(value):
        raise ConfigError(
            f"{cls.__name__}.{name} is of type {type(value).__name__}: expected a method",
            hint=f"write `def {name}(self, {', '.join(arguments)}): return {value!r}`",
        )
    if not inspect.isfunction(value):
        return
    if name not in _ASYNC_HOOKS and (inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)):
        raise ConfigError(
            f"{cls.__name__}.{name} is async: expected a plain method, which does no I/O",
            hint=f"write `def {name}(...)`; send requests from an async stream_slices or parse_response",
        )
    signature = inspect.signature(value)
    foreign = _CDK_ARGUMENTS.intersection(signature.parameters)
    try:
        signature.bind(*(None, *arguments))
        fits = not foreign or (name == "stream_slices" and foreign == {"stream_state"})
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{cls.__name__}.{name}{signature} cannot be called as {name}({', '.join(arguments)})",
            hint=_signature_hint(name, arguments, bool(foreign)),
        )


def _signature_hint(name: str, arguments: tuple[str, ...], is_cdk_signature: bool) -> str:
    hint = f"write `def {name}({', '.join(('self', *arguments))})`"
    if not is_cdk_signature or not arguments or arguments == ("state",):
        return hint
    where = "the context" if "context" in arguments else "response.context"
    return f"{hint}; stream_slice, stream_state and next_page_token are attributes of {where}"


def _check_spelling(cls: type, name: str, base: type) -> None:
    classes = [
        class_
        for class_ in cls.__mro__
        if class_ in base.__mro__ or class_.__module__.partition(".")[0] == "asyncstreams"
    ]
    declared = {name for class_ in classes for name in vars(class_).get("__annotations__", {}) if name[0] != "_"}
    known = {*_HOOKS, *declared}
    if name in known:
        return
    if "_" not in name and {name + "s", name.removesuffix("s")} & known:
        return  # `paths` may be the author's own name; `stream_slice` is a typo
    close = (
        [_SYNONYMS[name]] if name in _SYNONYMS else difflib.get_close_matches(name, sorted(known), 1, _MIN_SIMILARITY)
    )
    if not close and hasattr(vars(cls).get(name), "async_auth_flow"):
        close = ["authenticator"]
    if close:
        raise ConfigError(
            f"{cls.__name__}.{name} is never used; did you mean {close[0]!r}?",
            hint=f"if it is your own, begin its name with an underscore: _{name}",
        )


def check_read_arguments(subject: str, limit: object, on_error: object, max_concurrency: object) -> None:
    """Raises ConfigError for invalid arguments of a read; `subject` is the stream or class named in the message."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ConfigError(f"{subject}: limit={limit!r}: expected a number of records, at least 0")
    if on_error not in ("continue", "stop"):
        raise ConfigError(f'{subject}: on_error={on_error!r}: expected "continue" or "stop"')
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool) or max_concurrency < 1:
        raise ConfigError(f"{subject}: max_concurrency = {max_concurrency!r}: expected an integer of at least 1")
