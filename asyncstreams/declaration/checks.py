"""Is a stream declared as it must be: before anything is sent, and in the author's own terms?"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Iterable
from typing import Any, cast

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
_MAY_BE_ASYNC = {"parse_response", "stream_slices", "get_json_schema"}
_VALIDATIONS = ("report", "quarantine", "fail", "off")
_RENAMED = {
    "max_retries": "set max_tries instead: it counts requests in all, so max_retries = {0} is max_tries = {1}",
    "request_body_json": "rename it to request_json(self, context)",
    "request_body_data": "rename it to request_data(self, context)",
    "retry_factor": "set backoff = Backoff(base={0}) instead, in seconds",
    "raise_on_http_errors": "override classify(self, response, context) and return ResponseAction.IGNORE",
    "read_records": "pages are read for you: override parse_response, or slices with stream_slices(state)",
    "get_error_handler": "override classify(self, response, context), which returns a ResponseAction",
    "get_backoff_strategy": "override backoff_time(self, response), which returns seconds or None",
    "exit_on_rate_limit": "set max_server_wait instead, in seconds",
    "get_updated_state": "remove it: a state is kept for you, where cursor_field is set",
    "state": "remove it: a state is kept for you, where cursor_field is set; pass one as pages(state=...)",
    "check_availability": "set availability_strategy to a strategy of your own, which has this method",
    "must_deduplicate_query_params": "remove it: parameters win over equal names in the path",
}
_PASSED_BY_THE_CDK = {"stream_state", "stream_slice", "next_page_token", "sync_mode", "cursor_field"}
_MEANT = {
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
_CLOSE = 0.82
_RESERVED = {
    "home",
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
    """`HTTPLogs2` becomes `http_logs2`: how a class names its stream."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def check_class(cls: type, base: type) -> None:
    """What a class alone tells: hooks that are missing, misspelt or take other arguments. Raises ConfigError."""
    own = [vars(kind) for kind in cls.__mro__[: cls.__mro__.index(base)]]
    for name, value in {name: value for names in reversed(own) for name, value in names.items()}.items():
        if name in _RENAMED:
            number = value if isinstance(value, int | float) else "n"
            more = value + 1 if isinstance(value, int) else "n + 1"
            raise ConfigError(f"{cls.__name__}.{name} has no meaning here", hint=_RENAMED[name].format(number, more))
        if name in _RESERVED:
            raise ConfigError(f"{cls.__name__}.{name} is ours", hint="give yours another name")
        if name in _HOOKS:
            _check_hook(cls, name, value)
        elif not name.startswith("_") and not hasattr(base, name):
            _check_spelling(cls, name, base)
    if getattr(cls, "path", None) is getattr(base, "path", None):
        raise ConfigError(f"{cls.__name__}.path is missing", hint='add `def path(self, context): return "users"`')


def check_source(cls: type, base: type, options: Iterable[str]) -> None:
    """What the class of a Source tells: `streams` that is no method, options that are misspelt. Raises ConfigError."""
    owner = cls.__name__
    if not callable(getattr(cls, "streams", None)):
        raise ConfigError(f"{owner}.streams is no method", hint="write `def streams(self, config): return [...]`")
    try:
        inspect.signature(cls.streams).bind(None, {})  # type: ignore[attr-defined]  # it has one, see above
    except TypeError:
        raise ConfigError(
            f"{owner}.streams cannot be called as streams(config)", hint="write `def streams(self, config)`"
        ) from None
    if "check_connection" in vars(cls):
        raise ConfigError(
            f"{owner}.check_connection is never called", hint="check() asks each stream for its first page"
        )
    known = sorted({*options, "spec", "streams"})
    for name in {name for kind in cls.__mro__[: cls.__mro__.index(base)] for name in vars(kind)}:
        if name.startswith("_") or name in known or hasattr(base, name):
            continue
        if close := [_MEANT[name]] if _MEANT.get(name) in known else difflib.get_close_matches(name, known, 1, _CLOSE):
            raise ConfigError(
                f"{owner}.{name} has no meaning; did you mean {close[0]!r}?",
                hint=f"if it is your own, begin its name with an underscore: _{name}",
            )


def check_options(cls: type, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError for a keyword that no stream has."""
    known = sorted(known)
    for name in given:
        if name in known:
            continue
        if name in _RENAMED:
            raise ConfigError(
                f"{cls.__name__}({name}=...) has no meaning here", hint=_RENAMED[name].format("n", "n + 1")
            )
        if name in vars(cls) or any(name in vars(base) for base in cls.__mro__):
            raise ConfigError(
                f"{cls.__name__}({name}=...): not an option, but an attribute of the class",
                hint=f"write it there: {name} = ...; or set it on the instance",
            )
        close = [_MEANT[name]] if _MEANT.get(name) in known else difflib.get_close_matches(name, known, 1, 0.7)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"{cls.__name__}({name}=...): unknown option", hint=f"{meant}known are {', '.join(known)}")


def check_values(stream: object) -> None:
    """What only an instance tells: attributes of another kind. Raises ConfigError."""
    owner = type(stream).__name__
    base = getattr(stream, "url_base", None)
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{owner}.url_base is {'missing' if not base else type(base).__name__}",
            hint='add `url_base = "https://api.example.com/v1/"`',
        )
    if "?" in base or "#" in base:
        raise ConfigError(f"{owner}.url_base holds a query or a fragment", hint="return them from request_params")
    paginator = getattr(stream, "paginator", None)
    if isinstance(paginator, type):
        raise ConfigError(
            f"{owner}.paginator is the class {paginator.__name__}", hint=f"write {paginator.__name__}(...)"
        )
    if paginator is not None and not all(
        callable(getattr(paginator, name, None)) for name in ("first", "next", "apply")
    ):
        raise ConfigError(
            f"{owner}.paginator is a {type(paginator).__name__}: a paginator has first(), next() and apply()",
            hint="such as PageNumber(), Offset(), Cursor(...), LinkHeader(), NextUrl(...), Continuation()",
        )
    _check_types(owner, stream)
    check_cache(owner, stream)
    check_cursor(owner, stream)
    _check_schema_settings(owner, stream)


def _check_schema_settings(owner: str, stream: object) -> None:
    validation = getattr(stream, "validation", None)
    if validation not in _VALIDATIONS:
        raise ConfigError(f"{owner}.validation = {validation!r}: one of {', '.join(map(repr, _VALIDATIONS))} is needed")
    transformer = getattr(stream, "transformer", None)
    if transformer is not None and not callable(getattr(transformer, "compiled", None)):
        kind = transformer.__name__ if isinstance(transformer, type) else type(transformer).__name__
        raise ConfigError(
            f"{owner}.transformer is {kind}: a TypeTransformer is needed",
            hint="such as TypeTransformer(TransformConfig.DefaultSchemaNormalization)",
        )
    key: Any = getattr(stream, "primary_key", None)
    names: list[Any] = [*key] if isinstance(key, list | tuple) else [key]
    if not all(isinstance(name, str | list | tuple) for name in names if name is not None or key is not None):
        raise ConfigError(f"{owner}.primary_key = {key!r}: a field, or a list of fields or of paths, is needed")


def _check_types(owner: str, stream: object) -> None:
    wanted: dict[str, tuple[type | tuple[type, ...], str]] = {
        "max_tries": (int, "a whole number from 1"),
        "max_pages": (int, "a whole number from 1"),
        "max_quarantined": (int, "a whole number from 0"),
        "max_failed_slices": (int, "a whole number from 0"),
        "max_concurrency": (int, "a whole number from 1"),
        "weight": ((int, float), "a number above 0"),
        "max_time": ((int, float), "seconds above 0"),
        "max_server_wait": ((int, float), "seconds above 0"),
        "outage_timeout": ((int, float), "seconds above 0"),
        "cache_ttl": ((int, float), "seconds above 0"),
        "use_cache": (bool, "True or False"),
        "rate_limit_cost": ((int, float), "a number above 0"),
        "quota_group": ((str, type(None)), "a str"),
        "http_method": (str, 'such as "GET"'),
        "records_path": ((str, type(None)), "a dotted path"),
        "allowed_origins": ((tuple, list, set, frozenset), 'a tuple, such as ("https://files.example.com",)'),
        "middleware": ((tuple, list), "a tuple of callables"),
        "timeouts": (Timeouts, "Timeouts(connect=10, first_byte=60, read=30, total=300)"),
        "body_limits": (BodyLimits, "BodyLimits(wire=..., decoded=..., ratio=...)"),
        "backoff": (Backoff, "Backoff(base=0.25, cap=30)"),
    }
    for name, (kinds, told) in wanted.items():
        value = getattr(stream, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ConfigError(f"{owner}.{name} is a {type(value).__name__}: {told} is needed")
        least = 0 if name in ("max_quarantined", "max_failed_slices") else 1 if kinds is int else 1e-9
        if isinstance(value, int | float) and kinds is not bool and not value >= least:
            raise ConfigError(f"{owner}.{name} = {value!r}: {told} is needed")
    check_rate_limit(owner, getattr(stream, "rate_limit", None))
    authenticator = getattr(stream, "authenticator", None)
    if isinstance(authenticator, type):
        name = authenticator.__name__
        raise ConfigError(f"{owner}.authenticator is the class {name}", hint=f"write {name}(...)")
    if authenticator is not None and not hasattr(authenticator, "async_auth_flow"):
        raise ConfigError(
            f"{owner}: authenticator is a {type(authenticator).__name__}: an httpx.Auth is needed",
            hint="such as TokenAuthenticator(token), BasicHttpAuthenticator(user, password), Oauth2Authenticator(...)",
        )


def check_cache(owner: str, stream: object) -> None:
    """Raises ConfigError for a name that is no file's, and for a folder that is none."""
    name = getattr(stream, "cache_filename", "")
    if not isinstance(name, str) or re.search(r"[/\\\0]", name) or name.startswith("."):
        raise ConfigError(
            f"{owner}.cache_filename = {name!r}: the beginning of a file's name is needed",
            hint="the folder is told by cache_dir",
        )
    folder = getattr(stream, "cache_dir", None)
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"{owner}.cache_dir is a {type(folder).__name__}: a path is needed")


def check_cursor(owner: str, stream: object) -> None:
    """Raises ConfigError for what cannot be a cursor, and for windows of none."""
    path: Any = getattr(stream, "cursor_field", None)
    names: list[Any] = [path] if isinstance(path, str) else [*path] if isinstance(path, list | tuple) else [None]
    if path is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ConfigError(
            f"{owner}.cursor_field = {path!r}: the name of a field, or the path of one, is needed",
            hint='such as "updated_at", or ["meta", "updated_at"]',
        )
    windows: Any = getattr(stream, "windows", None)
    if windows is not None and (isinstance(windows, type) or not callable(getattr(windows, "intervals", None))):
        raise ConfigError(
            f"{owner}.windows is {windows!r}: TimeWindows(...) or NumberRanges(...) is needed",
            hint='such as TimeWindows(start="2024-01-01", step=timedelta(days=30))',
        )
    if windows is not None and path is None:
        raise ConfigError(
            f"{owner}.windows without a cursor_field: of what are they?", hint='cursor_field = "updated_at"'
        )
    interval: Any = getattr(stream, "state_checkpoint_interval", None)
    if interval is not None and (isinstance(interval, bool) or not isinstance(interval, int) or interval < 1):
        raise ConfigError(f"{owner}.state_checkpoint_interval = {interval!r}: a number of records from 1 is needed")


def check_rate_limit(owner: str, limit: object) -> None:
    """Raises ConfigError for what is neither a RateLimit nor several."""
    limits = cast(list[object], [*limit]) if isinstance(limit, tuple | list) else [] if limit is None else [limit]
    for one in limits:
        if not isinstance(one, RateLimit):
            shown = f" = {one!r}" if isinstance(one, int | float) else ""
            raise ConfigError(
                f"{owner}.rate_limit{shown} is a {type(one).__name__}: a RateLimit, or a list of them, is needed",
                hint="such as RateLimit(100, per=60): a hundred requests a minute",
            )


def _check_hook(cls: type, name: str, value: object) -> None:
    arguments = _HOOKS[name]
    if not callable(value):
        raise ConfigError(
            f"{cls.__name__}.{name} is a {type(value).__name__}: a method is needed",
            hint=f"write `def {name}(self, {', '.join(arguments)}): return {value!r}`",
        )
    if not inspect.isfunction(value):
        return
    if name not in _MAY_BE_ASYNC and (inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)):
        raise ConfigError(
            f"{cls.__name__}.{name} is async: it is a plain method, which does no I/O",
            hint=f"write `def {name}(...)`; what must be asked for, an async stream_slices or parse_response can ask",
        )
    signature = inspect.signature(value)
    foreign = _PASSED_BY_THE_CDK.intersection(signature.parameters)
    try:
        signature.bind(*(None, *arguments))
        fits = not foreign or (name == "stream_slices" and foreign == {"stream_state"})
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{cls.__name__}.{name}{signature} cannot be called as {name}({', '.join(arguments)})",
            hint=_right_signature(name, arguments, bool(foreign)),
        )


def _right_signature(name: str, arguments: tuple[str, ...], from_the_cdk: bool) -> str:
    hint = f"write `def {name}({', '.join(('self', *arguments))})`"
    if not from_the_cdk or not arguments or arguments == ("state",):
        return hint
    where = "the context" if "context" in arguments else "response.context"
    return f"{hint}; what was stream_slice, stream_state and next_page_token are attributes of {where}"


def _check_spelling(cls: type, name: str, base: type) -> None:
    kinds = [
        kind for kind in cls.__mro__ if kind in base.__mro__ or kind.__module__.partition(".")[0] == "asyncstreams"
    ]
    declared = {name for kind in kinds for name in vars(kind).get("__annotations__", {}) if not name.startswith("_")}
    known = {*_HOOKS, *declared}
    if name in known:
        return
    if "_" not in name and {name + "s", name.removesuffix("s")} & known:
        return  # `paths` is a word of its own, `stream_slice` is not
    close = [_MEANT[name]] if name in _MEANT else difflib.get_close_matches(name, sorted(known), 1, _CLOSE)
    if not close and hasattr(vars(cls).get(name), "async_auth_flow"):
        close = ["authenticator"]
    if close:
        raise ConfigError(
            f"{cls.__name__}.{name} is never called; did you mean {close[0]!r}?",
            hint=f"if it is your own, begin its name with an underscore: _{name}",
        )


def check_reading(owner: str, limit: object, on_error: object, max_concurrency: object) -> None:
    """Raises ConfigError for what no reading can do."""
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
        raise ConfigError(f"{owner}: limit={limit!r}: a number of records from 0")
    if on_error not in ("continue", "stop"):
        raise ConfigError(f'{owner}: on_error={on_error!r}: "continue" or "stop"')
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool) or max_concurrency < 1:
        raise ConfigError(f"{owner}: max_concurrency = {max_concurrency!r}: a whole number from 1 is needed")
