"""Faults of a MockApi: which requests they hit, and what the client receives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, Unpack

from ...errors import ConfigError
from .seeding import draw_fraction
from .wire_messages import (
    HEAD_END,
    ConnectionEnd,
    MockResponse,
    ReceivedRequest,
    Step,
    compress_with_bad_checksum,
    json_body,
    make_response,
)

FaultKind: TypeAlias = Literal[
    "status",
    "reset",
    "cut",
    "drip",
    "wrong_length",
    "gzip_damage",
    "duplicate_page",
    "cycle",
    "html",
    "malformed_json",
    "hang",
]

_LOGIN_PAGE = b"""<!doctype html><html><head><title>Sign in</title></head>
<body><form action="/login"><input name="user"><input type="password" name="password"></form></body></html>
"""


class RequestFilter(TypedDict, total=False):
    """The requests that a fault hits: all that match, unless `at`, `share` or `times` limits them."""

    at: Collection[int]
    share: float
    resource: str | None
    times: int
    when: Callable[[ReceivedRequest], bool]


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that MockApi injects into responses; create it with one of the class methods.

    Every class method accepts these filters; without them the fault hits every request:

    - `resource`: the name of a resource, or the path of the token endpoint, which only a fault
      that names it hits.
    - `when`: a function from a `ReceivedRequest` to bool.
    - `at`: numbers of requests, from 1, counted among those that `resource` and `when` match.
    - `share`: fraction of the matching requests, 0 to 1, drawn from the seed and the request's number.
    - `times`: the maximum number of hits.

    Requests refused by authentication or a quota are not counted. If several faults hit a request, the
    first one in the list applies; the others count the request too. Wrong arguments raise ConfigError.
    """

    kind: FaultKind
    value: float = 0.0
    retry_after: float | None = None
    mid_body: bool = False
    at: frozenset[int] | None = None
    share: float | None = None
    resource: str | None = None
    times: int | None = None
    when: Callable[[ReceivedRequest], bool] | None = None

    @property
    def affects_paging(self) -> bool:
        """Whether the response itself is valid and only holds the wrong page."""
        return self.kind in ("duplicate_page", "cycle")

    @classmethod
    def status(cls, status: int, *, retry_after: float | None = None, **which: Unpack[RequestFilter]) -> Fault:
        """Respond with `status` (200 to 599), a JSON error and, if given, Retry-After in seconds."""
        if not 200 <= status <= 599:
            raise ConfigError(f"Fault.status({status}): the status must be from 200 to 599")
        return _fault("status", which, value=status, retry_after=retry_after)

    @classmethod
    def reset(cls, *, mid_body: bool = False, **which: Unpack[RequestFilter]) -> Fault:
        """Reset the connection (TCP RST) before the response or, with `mid_body`, after half of its body."""
        return _fault("reset", which, mid_body=mid_body)

    @classmethod
    def cut(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Send the full Content-Length, but close the connection after half of the body."""
        return _fault("cut", which)

    @classmethod
    def drip(cls, seconds: float, **which: Unpack[RequestFilter]) -> Fault:
        """Send the body in ten pieces, with a delay of `seconds` (above 0) before each."""
        return _fault("drip", which, value=_positive("drip", seconds))

    @classmethod
    def wrong_length(cls, delta: int, **which: Unpack[RequestFilter]) -> Fault:
        """Send a Content-Length that is off by `delta` bytes, which must not be 0.

        Above 0 the connection is closed after the body; below 0 it stays open.
        """
        if delta == 0:
            raise ConfigError("Fault.wrong_length(0): delta must not be 0")
        return _fault("wrong_length", which, value=delta)

    @classmethod
    def gzip_damage(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Send the body as gzip with a wrong checksum."""
        return _fault("gzip_damage", which)

    @classmethod
    def duplicate_page(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Send the previous page again; paging then continues after the requested one. No effect on a first page."""
        return _fault("duplicate_page", which)

    @classmethod
    def cycle(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Link the page back to the first one. With numbered pages and offsets, send the first page instead."""
        return _fault("cycle", which)

    @classmethod
    def html(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Respond with an HTML login page and status 200."""
        return _fault("html", which)

    @classmethod
    def malformed_json(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Leave out the last third of the body; Content-Length is that of the rest."""
        return _fault("malformed_json", which)

    @classmethod
    def hang(cls, **which: Unpack[RequestFilter]) -> Fault:
        """Send nothing until the client disconnects."""
        return _fault("hang", which)


class FaultCounter:
    """Counts the requests that match one fault and decides which of them it hits."""

    def __init__(self, fault: Fault, key: int) -> None:
        self.fault, self._key = fault, key
        self._matched_count = self._hit_count = 0

    def count_request(self, name: str, request: ReceivedRequest, *, only_named: bool = False) -> bool:
        """Count a request of the resource `name`; True if the fault hits it.

        With `only_named`, a fault that does not name the resource does not match.
        """
        fault = self.fault
        if fault.resource != name and (only_named or fault.resource is not None):
            return False
        if fault.when is not None and not fault.when(request):
            return False
        self._matched_count += 1
        if fault.times is not None and self._hit_count >= fault.times:
            return False
        if fault.at is not None and self._matched_count not in fault.at:
            return False
        if fault.share is not None and draw_fraction(self._key, self._matched_count) >= fault.share:
            return False
        self._hit_count += 1
        return True


def faulty_steps(fault: Fault, response: MockResponse, extra_headers: bytes) -> Iterator[Step]:
    """The steps of the response with the fault. `extra_headers` are encoded header lines."""
    response = response.buffered()
    body, half = response.body, len(response.body) // 2
    if fault.kind == "hang":
        yield ConnectionEnd.HANG
    elif fault.kind == "reset" and not fault.mid_body:
        yield ConnectionEnd.RESET
    elif fault.kind in ("reset", "cut"):
        yield response.encode_head(len(body), extra_headers) + body[:half]
        yield ConnectionEnd.RESET if fault.kind == "reset" else ConnectionEnd.CLOSE
    elif fault.kind == "drip":
        yield response.encode_head(len(body), extra_headers)
        size = max(1, -(-len(body) // 10))
        for begin in range(0, len(body), size):
            yield fault.value
            yield body[begin : begin + size]
    elif fault.kind == "wrong_length":
        yield response.encode_head(max(0, len(body) + int(fault.value)), extra_headers) + body
        if fault.value > 0:
            yield ConnectionEnd.CLOSE
    elif fault.kind == "gzip_damage":
        body = compress_with_bad_checksum(body)
        yield response.encode_head(len(body), extra_headers + b"Content-Encoding: gzip\r\n") + body
    else:
        assert fault.kind == "malformed_json"
        body = body[: len(body) * 2 // 3]
        yield response.encode_head(len(body), extra_headers) + body


def without_body(steps: Iterator[Step]) -> Iterator[Step]:
    """The same response to a HEAD request: its head and the end of the connection."""
    head_is_pending = True
    for step in steps:
        if isinstance(step, ConnectionEnd):
            yield step
        elif isinstance(step, bytes) and head_is_pending:
            head_is_pending = False
            yield step.partition(HEAD_END)[0] + HEAD_END


def replacement_response(fault: Fault) -> MockResponse | None:
    """The response that replaces the page; None for a fault that changes the page itself."""
    if fault.kind == "status":
        status = int(fault.value)
        headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        return make_response(status, json_body({"error": {"status": status, "message": "injected fault"}}), headers)
    if fault.kind == "html":
        return make_response(200, _LOGIN_PAGE, content_type="text/html; charset=utf-8")
    return None


def _fault(
    kind: FaultKind,
    filter_: RequestFilter,
    *,
    value: float = 0.0,
    retry_after: float | None = None,
    mid_body: bool = False,
) -> Fault:
    at, share, times = filter_.get("at"), filter_.get("share"), filter_.get("times")
    if at is not None and (not at or min(at) < 1):
        raise ConfigError(f"Fault.{kind}(at={at!r}): at must hold request numbers, which start at 1")
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"Fault.{kind}(share={share!r}): share must be from 0 to 1", hint="2 % is share=0.02")
    if times is not None and times < 1:
        raise ConfigError(f"Fault.{kind}(times={times!r}): times must be at least 1")
    numbers = None if at is None else frozenset(at)
    return Fault(
        kind, value, retry_after, mid_body, numbers, share, filter_.get("resource"), times, filter_.get("when")
    )


def _positive(kind: str, seconds: float) -> float:
    if seconds <= 0:
        raise ConfigError(f"Fault.{kind}({seconds!r}): the delay must be more than 0 seconds")
    return float(seconds)
