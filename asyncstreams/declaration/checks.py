"""Checks of stream and Source declarations, before the first request is sent."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import httpx

from ..cursors.cursor_format import CursorFormat
from ..errors import ConfigError
from ..models import RateLimit

Check: TypeAlias = Callable[[str, Any], None]
"""Raises ConfigError for a value of the wrong type or out of range, given its name for the message and the value."""

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
    "binding",
    "declared_parents",
    "lease",
    "own_reader",
    "read_parents_from",
    "resolved",
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
    for name, check in (("cursor_format", check_cursor_format), ("cursor_timezone", check_cursor_timezone)):
        if not hasattr(value := getattr(cls, name), "__get__"):  # not a property
            check(f"{cls.__name__}.{name}", value)
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


def check_url_base(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is a URL without query and fragment."""
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"{subject} is {'missing' if not value else f'of type {type(value).__name__}, not a str'}",
            hint='add `url_base = "https://api.example.com/v1/"`',
        )
    if "?" in value or "#" in value:
        raise ConfigError(f"{subject} contains a query or fragment", hint="return query parameters from request_params")


def check_paginator(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None or has the methods of a Paginator."""
    if isinstance(value, type):
        raise ConfigError(
            f"{subject} is the class {value.__name__}, not an instance", hint=f"write {value.__name__}(...)"
        )
    if value is not None and not all(callable(getattr(value, name, None)) for name in ("first", "next", "apply")):
        raise ConfigError(
            f"{subject} is of type {type(value).__name__}: expected first(), next() and apply()",
            hint="for example PageNumber(), Offset(), Cursor(...), LinkHeader(), NextUrl(...) or Continuation()",
        )


def check_records_path(subject: str, value: object) -> None:
    """Raises ConfigError for a value that is no path, or that has `$` before its last step."""
    _records_path_type(subject, value)
    if isinstance(value, str) and "$" in value.split(".")[:-1]:
        raise ConfigError(
            f"{subject} = {value!r}: $ is only possible as the last step, for an object as the record",
            hint=f"write {value.removeprefix('$.')!r}" if value.startswith("$.") else None,
        )


def check_primary_key(subject: str, value: Any) -> None:
    """Raises ConfigError unless the value is None, a field, or a list of fields or paths."""
    names: list[Any] = [*value] if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str | list | tuple) for name in names if name is not None or value is not None):
        raise ConfigError(
            f"{subject} = {value!r}: expected a field, or a list of fields or paths",
            hint='for example "id", ["shop", "id"] or [["shop", "id"], ["number"]]',
        )


def check_transformer(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None or can compile a conversion."""
    if value is not None and not callable(getattr(value, "compile", None)):
        raise ConfigError(
            f"{subject} is {_kind_of(value)}: expected a TypeTransformer",
            hint="for example TypeTransformer(TransformConfig.DefaultSchemaNormalization)",
        )


def check_authenticator(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None or an httpx.Auth that works asynchronously."""
    if isinstance(value, type):
        name = value.__name__
        raise ConfigError(f"{subject} is the class {name}, not an instance", hint=f"write {name}(...)")
    if value is not None and not hasattr(value, "async_auth_flow"):
        raise ConfigError(
            f"{subject} is of type {type(value).__name__}: expected an httpx.Auth",
            hint="for example TokenAuthenticator(token), BasicHttpAuthenticator(user, password) or "
            "Oauth2Authenticator(...)",
        )
    if not isinstance(value, httpx.Auth):
        return
    kind = type(value)
    if (
        kind.sync_auth_flow is not httpx.Auth.sync_auth_flow
        and kind.async_auth_flow is httpx.Auth.async_auth_flow
        and kind.auth_flow is httpx.Auth.auth_flow
    ):
        raise ConfigError(
            f"{subject}: {kind.__name__} defines sync_auth_flow alone, which no stream uses",
            hint="rename it to auth_flow, or define async_auth_flow if it waits for something",
        )


def check_cache_filename(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is the beginning of a file name."""
    if not isinstance(value, str) or re.search(r"[/\\\0]", value) or value.startswith("."):
        raise ConfigError(
            f"{subject} = {value!r}: expected a file name prefix, without folders", hint="set cache_dir for the folder"
        )


def check_cursor_field(subject: str, value: Any) -> None:
    """Raises ConfigError unless the value is None, or the name or path of a field."""
    names: list[Any] = [value] if isinstance(value, str) else [*value] if isinstance(value, list | tuple) else [None]
    if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise ConfigError(
            f"{subject} = {value!r}: expected the name or path of a field",
            hint='for example "updated_at", or ["meta", "updated_at"]',
        )


def check_cursor_format(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is a CursorFormat or the text of a format."""
    if not isinstance(value, str | CursorFormat):
        raise ConfigError(
            f'{subject} is {_kind_of(value)}: expected a format such as "iso", or a CursorFormat',
            hint='for several formats: CursorFormat(records=("iso", "%s"), request="%Y-%m-%d")',
        )
    check_cursor_zone(subject.partition(".")[0], value, None)


def check_cursor_timezone(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None or the name of a time zone."""
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{subject} is {_kind_of(value)}: expected a name such as 'Europe/Berlin'")
    check_cursor_zone(subject.partition(".")[0], "auto", value)


def check_cursor_zone(class_name: str, cursor: str | CursorFormat, zone: str | None) -> None:
    """Raises ConfigError for a format or a time zone that does not exist, or for formats without the zone."""
    try:
        CursorFormat(cursor if isinstance(cursor, str) else cursor.records, zone)
    except ConfigError as error:
        raise ConfigError(f"{class_name}.{error.message}", hint=error.hint) from None


def check_windows(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None or divides a range into intervals."""
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "intervals", None))):
        raise ConfigError(
            f"{subject} is {value!r}: expected TimeWindows(...) or NumberRanges(...)",
            hint='for example TimeWindows(start="2024-01-01", step=timedelta(days=30))',
        )


def check_parent_fields(subject: str, value: Any) -> None:
    """Raises ConfigError unless the value is None or a tuple of field names."""
    if value is not None and (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not value
        or not all(isinstance(field, str) and field for field in cast(Sequence[object], value))
    ):
        raise ConfigError(f"{subject} = {value!r}: expected a tuple of field names", hint='for example ("id",)')


def check_rate_limit(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is None, a RateLimit or a list of them."""
    limits = cast(list[object], [*value]) if isinstance(value, tuple | list) else [] if value is None else [value]
    for item in limits:
        if not isinstance(item, RateLimit):
            shown = f" = {item!r}" if isinstance(item, int | float) else ""
            raise ConfigError(
                f"{subject}{shown} is of type {type(item).__name__}: expected RateLimit(...) or a list",
                hint="for example RateLimit(100, per=60) for 100 requests a minute",
            )


def whole_number(minimum: int, optional: str = "") -> Check:
    """A check that a value is an integer of at least `minimum`; `optional` describes one that may also be None."""
    if optional:
        return partial(_check_optional_number, minimum, optional)
    return partial(_check_number, (int,), minimum, f"an integer of at least {minimum}")


def number_above_0(expected: str = "a number above 0") -> Check:
    """A check that a value is a number above 0; `expected` describes it."""
    return partial(_check_number, (int, float), math.ulp(0.0), expected)


def of_type(types: type | tuple[type, ...], expected: str) -> Check:
    """A check that a value has one of the types; `expected` describes it."""
    return partial(_check_type, types, expected)


def _check_type(types: type | tuple[type, ...], expected: str, subject: str, value: object) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise ConfigError(f"{subject} is of type {type(value).__name__}: expected {expected}")


def _check_number(types: tuple[type, ...], minimum: float, expected: str, subject: str, value: Any) -> None:
    _check_type(types, expected, subject, value)
    if not value >= minimum:
        raise ConfigError(f"{subject} = {value!r}: expected {expected}")


def _check_optional_number(minimum: int, expected: str, subject: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
        raise ConfigError(f"{subject} = {value!r}: expected {expected}")


def check_choice(choices: tuple[object, ...], subject: str, value: object) -> None:
    """Raises ConfigError unless the value is one of the choices."""
    if value not in choices:
        named = [repr(choice) for choice in choices]
        expected = " or ".join(named) if len(named) == 2 else f"one of {', '.join(named)}"
        raise ConfigError(f"{subject} = {value!r}: expected {expected}")


def check_flag(subject: str, value: object) -> None:
    """Raises ConfigError unless the value is True or False."""
    _check_type(bool, "True or False", subject, value)


def _kind_of(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


_records_path_type = of_type((str, type(None)), 'a dotted path such as "data.items", or None')


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
