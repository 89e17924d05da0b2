"""Exception hierarchy, grouped by who has to act.

AsyncStreamsError                 every error raised on purpose
  ConfigError                     a wrong declaration, option or configuration; never retried
    AuthError                     a credential that the API or its token endpoint rejects
    PaginationUndeclared          a first page that names further pages, in a stream without a paginator
    CursorMismatch                a first page whose values do not fit the stream's cursor_field or cursor_format
  RemoteError                     a failure on the API's side
    StreamUnavailable             a stream that this credential cannot read
    HttpStatusError               a final status, or a retryable one after the last try
      RequestBlocked              a page of a firewall or proxy in place of a response of the API
    MalformedResponse             a response that breaks a rule of HTTP
    TruncatedBody                 a body that ended early
    DecodeError                   a body that does not match its Content-Encoding
    ResponseTooLarge              a body beyond `body_limits`
    UnexpectedContent             a complete body of the wrong kind: HTML for JSON, an object for an array
      MalformedJSON               a body that a strict JSON parser rejects
      SchemaError                 records that do not match their schema
    CrossOriginLink               a link to an origin that is not allowed
    PaginationLoop                pagination that does not terminate
    StallTimeout                  a response that exceeds one of the `timeouts`
    InvalidSlice                  a slice with a value of which no request can be made
    RateLimitWaitTooLong          a server-ordered wait beyond `max_server_wait`
    HostUnavailable               a host that cannot be reached or sends no response
  LocalError                      a failure of the local machine: disk, lock or stored state
    OutputWriteError              a file that cannot be written: the disk is full, read-only or broken
    OutputLocked                  an output that another process is writing to
    OutputMissing                 committed output that was removed or changed
    StateCorrupt                  a stored state that cannot be read back
    StateIncompatible             a stored state of another stream, configuration, credential or version
  PartialFailure                  a run in which some slices failed and all others completed
  ThresholdMissed                 a run that was committed, but misses a threshold that it was started with
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Self, cast

from .redaction import MASK, RevealedSecrets, displayed, replace_secrets

_FIELDS = ("stream", "stream_slice", "page", "method", "url", "status", "tries", "hint")


class AsyncStreamsError(Exception):
    """Base class of all errors that this package raises on purpose.

    `str(error)` contains the message, the location and the hint, on up to three lines. It never contains
    a query string, a request header or a request body, so it is safe to log.

    Attributes that do not apply are None:

    stream: name of the stream.
    stream_slice: the slice that was read.
    page: number of the page within its slice, from 0.
    method, url: the request; `url` has neither query nor user information.
    status: HTTP status of the response.
    tries: number of attempts made, including those that never connected.
    hint: how to fix the problem.

    `retryable` says whether another attempt of the same request may succeed; retries have already been
    spent when the error reaches the caller.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        stream: str | None = None,
        stream_slice: Mapping[str, Any] | None = None,
        page: int | None = None,
        method: str | None = None,
        url: str | None = None,
        status: int | None = None,
        tries: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.stream = stream
        self.stream_slice = stream_slice
        self.page = page
        self.method = method
        self.url = url
        self.status = status
        self.tries = tries
        self.hint = hint

    @property
    def message(self) -> str:
        """The problem alone, without stream, location and hint."""
        return str(self.args[0])

    def locate(self, **context: Any) -> Self:
        """Set the attributes that are still None, and return the error. Raises TypeError for unknown names."""
        for name, value in context.items():
            if name not in _FIELDS:
                raise TypeError(f"an error has no field {name!r}")
            if getattr(self, name) is None:
                setattr(self, name, value)
        return self

    def redact(self, secrets: RevealedSecrets) -> Self:
        """Mask these secrets in the message, the hint and the URL, and return the error."""
        if secrets:
            self.args = tuple(secrets.mask(text) if isinstance(text, str) else text for text in self.args)
            self.hint = None if self.hint is None else secrets.mask(self.hint)
            self.url = None if self.url is None else secrets.mask(self.url)
        return self

    def __str__(self) -> str:
        request = f"{self.method} {self.url} " if self.method and self.url else ""
        prefix = f"{self.stream}: " if self.stream else ""
        lines = [f"{prefix}{request}{self.message}"]
        if location := self._location():
            lines.append(f"  at: {location}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        """The error with its notes and causes, for pickle and copy.

        Secrets in the slice are masked, since they cannot be pickled, and so is whatever another process could not
        restore.
        """
        state = {name: _portable(value) for name, value in vars(self).items()}
        state["stream_slice"] = _portable_slice(self.stream_slice)
        state["__context__"] = _portable(self.__context__)
        state["__cause__"] = _portable(self.__cause__)
        state["__suppress_context__"] = self.__suppress_context__  # setting the cause sets it, too
        return _restore, (type(self), tuple(map(_portable, self.args))), state

    def _location(self) -> str:
        parts: list[str] = []
        if self.stream_slice:
            parts.append(f"slice {_abbreviate(_describe_slice(self.stream_slice))}")
        if self.page is not None:
            delivered = f" (pages 0 to {self.page - 1} were delivered)" if self.page > 1 else ""
            delivered = " (page 0 was delivered)" if self.page == 1 else delivered
            parts.append(f"page {self.page}{delivered}")
        if self.tries:
            parts.append(f"{self.tries} {'tries' if self.tries > 1 else 'try'}")
        return ", ".join(parts)


def _restore(kind: type[AsyncStreamsError], args: tuple[Any, ...]) -> AsyncStreamsError:
    """An error without its attributes. `__init__` is not called: its parameters differ from class to class."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


def _portable(value: Any) -> Any:
    """The value itself if pickle restores it, otherwise something that says what it was."""
    if value is None or isinstance(value, str | int | float | AsyncStreamsError):
        return value
    if type(value) is tuple:
        return tuple(map(_portable, cast("tuple[object, ...]", value)))
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        return RuntimeError(f"{name}: {value}") if isinstance(value, BaseException) else f"<{name}>"
    return value


def _portable_slice(stream_slice: Mapping[str, Any] | None) -> Any:
    masked = replace_secrets(stream_slice, lambda secret: MASK)
    if masked is stream_slice and _portable(masked) is masked:
        return masked
    # A plain mapping has no labels for messages, so they replace the records.
    shown: Mapping[str, Any] = {**masked, **getattr(stream_slice, "labels", {})}
    return {name: _portable(value) for name, value in shown.items()}


def _describe_slice(stream_slice: Mapping[str, Any]) -> str:
    # A Slice shows what its stream chose for messages; here a plain mapping is all that is known.
    return displayed(stream_slice) if isinstance(stream_slice, dict) else str(stream_slice)


def _abbreviate(text: str, max_chars: int = 120) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


class ConfigError(AsyncStreamsError):
    """A declaration, option, configuration or schema is wrong. Fix it and start again; it is never retried.

    Raised before the first request wherever possible.
    """

    depends_on_data = False
    """Whether a value of the API may be the cause; then only its slice fails, once the declaration is known to fit."""

    def of_data(self) -> Self:
        """Set `depends_on_data`, and return the error."""
        self.depends_on_data = True
        return self


class AuthError(ConfigError):
    """The API or its token endpoint rejects the credential.

    Raised for a 401 that persists after a token renewal, for a refused token request, and for a login page
    in place of data. Check the credential and its scopes, or authorize again.
    """


class PaginationUndeclared(ConfigError):
    """The first page of a slice names further pages, and the stream declares no pagination.

    Ends the stream before a record of the slice is delivered; the hint shows the paginator to declare. Reads with
    `limit=`, checks and previews log a warning instead. Declare `single_page = True` if one page is meant.
    """


class CursorMismatch(ConfigError):
    """The values of the first page do not fit `cursor_field` or `cursor_format`; the hint names what to declare.

    No record of the first page has the field, or none of its values is in the format. With `cursor_format = "auto"`
    also: the values are numbers that are no times, or bounds were sent as ISO 8601 and the values are epochs. Ends the
    stream before a record of the slice is delivered.
    """


class RemoteError(AsyncStreamsError):
    """The API or the network failed. Run again later; with a state, the run resumes after the last commit."""


class StreamUnavailable(RemoteError):
    """The stream cannot be read with this credential. A run of several streams skips it and reads the others.

    `reason` is the explanation of the stream's availability strategy.
    """

    def __init__(self, reason: str, *, status: int | None = None, hint: str | None = None) -> None:
        # A reason with a status already starts with "answered <status>".
        super().__init__(reason if status else f"unavailable: {reason}", status=status, hint=hint)
        self.reason = reason


class HttpStatusError(RemoteError):
    """The response has an error `status`: a final one, or a retryable one after the last try.

    `from_page_request` is False if the failed request was not that of a page, for example
    a detail request in `parse_response`.
    """

    from_page_request = True


class MalformedResponse(RemoteError):
    """The response breaks a rule of HTTP, which the message names.

    It is retried once, since it may have been damaged on the way.
    """


class RequestBlocked(HttpStatusError):
    """A firewall or proxy in front of the API refused the request, as far as its HTML page shows.

    The credential may be in order, so the stream does not count as unavailable and is not skipped. Every 403 with an
    HTML page counts, and other statuses with the page of a known firewall.
    """


class TruncatedBody(RemoteError):
    """The body ended before its Content-Length, its last chunk or the end of its compressed data. It is retried."""

    retryable = True


class DecodeError(RemoteError):
    """The body cannot be decompressed. It is retried, unless its Content-Encoding is unknown."""

    def __init__(self, message: str, *, retryable: bool = True, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class ResponseTooLarge(RemoteError):
    """The body exceeds `body_limits`, compressed or decompressed. Request smaller pages, or raise the limit."""


class UnexpectedContent(RemoteError):
    """The body is complete, but is not what the stream declares, such as HTML for JSON or an object for an array.

    Fix `records_path`, `url_base` or `parse_response`.
    """


class MalformedJSON(UnexpectedContent):
    """The body is not strict JSON (RFC 8259). It is retried once, since a truncated body looks the same.

    `offset` is the position of the failure in bytes from the start of the body; None if unknown.
    """

    def __init__(self, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class SchemaError(UnexpectedContent):
    """A record does not match the stream's schema, or more than `max_quarantined` records do not.

    Fix the schema, or set `validation` to "quarantine" or "report".

    key: value of the primary key; a mapping if the key has several fields, None if there is no primary key.
    pointer: JSON pointer (RFC 6901) to the violation in the record.
    keyword: schema keyword that is violated there.

    If too many records were quarantined, the three describe the last one.
    """

    def __init__(self, message: str, *, key: Any, pointer: str, keyword: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.pointer = pointer
        self.keyword = keyword


class CrossOriginLink(RemoteError):
    """A link, redirect or path leads to an origin that is not allowed. No request was sent to it."""


class PaginationLoop(RemoteError):
    """Pagination does not terminate: a page token or a page repeats, or too many pages are empty."""


class StallTimeout(RemoteError):
    """A response exceeded one of the limits in `timeouts`. It is retried; raise the limit for a slow API."""

    retryable = True


class InvalidSlice(RemoteError):
    """No request can be made for a slice: its parent's record lacks a key, or a value in it cannot be sent.

    Only the slice fails. Filter such parents in `stream_slices`, or handle them in the hook.
    """


class RateLimitWaitTooLong(RemoteError):
    """The server orders a wait longer than `max_server_wait`. Run again later, or raise the limit."""


class LocalError(AsyncStreamsError):
    """The disk, a lock or the stored state of this machine failed. It ends the run of all streams."""


class OutputWriteError(LocalError):
    """A file of the output cannot be written. Everything committed before is intact: fix the disk and run again."""


class OutputLocked(LocalError):
    """Another process is writing to this output. Wait for it to finish, or choose another output.

    `holder` describes the process; `since` is its start as an ISO 8601 time, None if unknown.
    """

    def __init__(self, message: str, *, holder: str, since: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.holder = holder
        self.since = since


class OutputMissing(LocalError):
    """Committed output was removed or changed by another program. Nothing was read or written."""


class StateCorrupt(LocalError):
    """The stored state or journal cannot be read back. It is left unchanged: restore a backup, or start over."""


class StateIncompatible(LocalError):
    """The stored state belongs to another stream, configuration, credential or version.

    `field` names the property that differs.
    """

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class PartialFailure(AsyncStreamsError):
    """Some slices failed; all others that were started were read completely.

    With a state, the next run reads the failed slices again. Without one, pass them as `slices=`.

    errors: the error of each failed slice, stream by stream, in order of failure.
    report: the RunReport of all streams.
    """

    def __init__(self, message: str, errors: tuple[Exception, ...], report: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errors = errors
        self.report = report


class ThresholdMissed(AsyncStreamsError):
    """A run was committed, but misses a threshold of `require`. The data stays, and the next run goes on from there.

    report: the RunReport of the run; its `record.thresholds` has what was found for each threshold.
    """

    def __init__(self, message: str, report: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report = report


class HostUnavailable(RemoteError):
    """The host sent no response: the connection was refused or reset, or the host is unreachable.

    `was_sent` is False if the request certainly never reached the server, so that a repetition is safe.
    """

    was_sent = True
