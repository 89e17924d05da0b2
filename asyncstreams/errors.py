"""What can go wrong, told by who must act.

AsyncStreamsError                 every error raised on purpose
  ConfigError                     the user's to mend; never tried again
    AuthError                     a 401 that renewal did not cure, a refused token endpoint
  RemoteError                     the API's side
    StreamUnavailable             a stream that this credential cannot read
    HttpStatusError               a final status, or a retryable one that outlasted its tries
    TruncatedBody                 the body ended before its announced end
    DecodeError                   the body is not what its Content-Encoding says
    ResponseTooLarge              a body beyond `body_limits`
    UnexpectedContent             not what was declared: HTML for JSON, an object for an array
      MalformedJSON               JSON that no strict parser accepts
      SchemaError                 records that do not fit their schema
    CrossOriginLink               a link to an origin that was not allowed
    PaginationLoop                paging that does not come to an end
    StallTimeout                  a server that answers too slowly, or stops in mid-body
    RateLimitWaitTooLong          the server orders a wait beyond `max_server_wait`
    HostUnavailable               no answer at all
  LocalError                      this machine's side: a disk that does not give back what it was given
    OutputWriteError              a file that cannot be written: the disk is full, read-only or broken
    OutputLocked                  another process writes to the same output
    OutputMissing                 a file that was committed is not there any more
    StateCorrupt                  a state that is not what was written
    StateIncompatible             a state of another stream, configuration, credential or version
  PartialFailure                  some slices failed, the others are whole
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

_FIELDS = ("stream", "stream_slice", "page", "method", "url", "status", "tries", "hint")


class AsyncStreamsError(Exception):
    """What happened, and where.

    Attributes that are not known are None. `page` counts from 0 within its slice, `tries`
    counts the requests, also those that came to no connection; `url` is without query and user information.
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
        """What happened, without where."""
        return str(self.args[0])

    def locate(self, **known: Any) -> Self:
        """Fill in what the raiser could not know; what it did know stays."""
        for name, value in known.items():
            if name not in _FIELDS:
                raise TypeError(f"an error has no field {name!r}")
            if getattr(self, name) is None:
                setattr(self, name, value)
        return self

    def __str__(self) -> str:
        request = f"{self.method} {self.url} " if self.method and self.url else ""
        first = f"{self.stream}: " if self.stream else ""
        lines = [f"{first}{request}{self.message}"]
        if where := self._where():
            lines.append(f"  at: {where}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def _where(self) -> str:
        parts: list[str] = []
        if self.stream_slice:
            parts.append(f"slice {_short(dict(self.stream_slice))}")
        if self.page is not None:
            before = f" (pages 0 to {self.page - 1} were handed over)" if self.page > 1 else ""
            before = " (page 0 was handed over)" if self.page == 1 else before
            parts.append(f"page {self.page}{before}")
        if self.tries:
            parts.append(f"{self.tries} {'tries' if self.tries > 1 else 'try'}")
        return ", ".join(parts)


def _short(value: object, most: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


class ConfigError(AsyncStreamsError):
    """A declaration or a credential that the user must mend."""


class AuthError(ConfigError):
    """The API, or its token endpoint, does not accept the credential."""


class RemoteError(AsyncStreamsError):
    """The API did something that no declaration of ours can mend."""


class StreamUnavailable(RemoteError):
    """A stream of which nothing can be read; `reason` says why, as its availability strategy tells it."""

    def __init__(self, reason: str, *, status: int | None = None, hint: str | None = None) -> None:
        # A reason with a status begins with what was answered.
        super().__init__(reason if status else f"unavailable: {reason}", status=status, hint=hint)
        self.reason = reason


class HttpStatusError(RemoteError):
    """A status that is final, or that stayed after all tries. `of_page`: it answered the request of a page."""

    of_page = True


class TruncatedBody(RemoteError):
    """Fewer bytes than announced, or a compressed body without its end."""

    retryable = True


class DecodeError(RemoteError):
    """A body that cannot be decompressed; retried unless the coding is unknown."""

    def __init__(self, message: str, *, retryable: bool = True, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class ResponseTooLarge(RemoteError):
    """More bytes than `body_limits` allows, on the wire or decoded."""


class UnexpectedContent(RemoteError):
    """A body that arrived whole, but is not what the stream declares."""


class MalformedJSON(UnexpectedContent):
    """A body that is not JSON; `offset` is the byte where reading it failed, where known."""

    def __init__(self, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class SchemaError(UnexpectedContent):
    """A record that does not fit its schema: `key` is what identifies it, `pointer` and `keyword` say where.

    `pointer` is a JSON pointer into the record. Where too many were quarantined, the three are those of the last.
    """

    def __init__(self, message: str, *, key: Any, pointer: str, keyword: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.pointer = pointer
        self.keyword = keyword


class CrossOriginLink(RemoteError):
    """A link, redirect or path that leaves the allowed origins; nothing was sent there."""


class PaginationLoop(RemoteError):
    """A page token seen before in the slice, the same page again and again, or no end."""


class StallTimeout(RemoteError):
    """A limit of `timeouts` ran out."""

    retryable = True


class RateLimitWaitTooLong(RemoteError):
    """The wait that the server orders is longer than `max_server_wait`."""


class LocalError(AsyncStreamsError):
    """This machine's disk, lock or memory is at fault; it ends the run."""


class OutputWriteError(LocalError):
    """A file of the output could not be written; what was committed before is intact."""


class OutputLocked(LocalError):
    """Somebody else writes to this output: `holder`, `since` a moment in ISO 8601; both as far as is known."""

    def __init__(self, message: str, *, holder: str, since: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.holder = holder
        self.since = since


class OutputMissing(LocalError):
    """What was committed has been taken away or changed; nothing was read or written."""


class StateCorrupt(LocalError):
    """What is kept of earlier runs is not what was written; it is left as it is."""


class StateIncompatible(LocalError):
    """What is kept is of something else: `field` says in what it differs."""

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.field = field


class PartialFailure(AsyncStreamsError):
    """Some slices failed, the others were read to their end.

    `errors` holds what each failed with, in that order; `report` what was read of each stream.
    """

    def __init__(self, message: str, errors: tuple[Exception, ...], report: Any, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.errors = errors
        self.report = report


class HostUnavailable(RemoteError):
    """No answer: refused, reset, unreachable. `was_sent`: the server may have seen the request."""

    was_sent = True
