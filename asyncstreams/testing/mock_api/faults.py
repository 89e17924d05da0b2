"""What goes wrong, for which request, and how does it look on the wire?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, Unpack

from ...errors import ConfigError
from .gzip_body import damaged
from .seeding import share
from .wire_messages import HEAD_END, ConnectionEnd, MockResponse, ReceivedRequest, Step, answer, json_body

Kind: TypeAlias = Literal[
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

_LOGIN = b"""<!doctype html><html><head><title>Sign in</title></head>
<body><form action="/login"><input name="user"><input type="password" name="password"></form></body></html>
"""


class Selection(TypedDict, total=False):
    """Which requests a fault hits: all that match, unless `at`, `share` or `times` says fewer."""

    at: Collection[int]
    share: float
    resource: str | None
    times: int
    when: Callable[[ReceivedRequest], bool]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, made by one of the class methods.

    All of them take `at=` (numbers of requests, from 1, among those that match), `share=` (of them,
    by the seed and the request's number), `times=` (at most so often), and what has to match:
    `resource=` (a name, or the path of the token endpoint) and `when=` (a function of the request).
    Requests that authentication or a quota refuses are not counted. Of several faults the first
    that hits wins.
    """

    kind: Kind
    value: float = 0.0
    retry_after: float | None = None
    mid_body: bool = False
    at: frozenset[int] | None = None
    share: float | None = None
    resource: str | None = None
    times: int | None = None
    when: Callable[[ReceivedRequest], bool] | None = None

    @property
    def is_of_paging(self) -> bool:
        """Whether the answer is well in itself, and only not the right one."""
        return self.kind in ("duplicate_page", "cycle")

    @classmethod
    def status(cls, status: int, *, retry_after: float | None = None, **which: Unpack[Selection]) -> Fault:
        """This status, with an error in JSON and, where given, Retry-After in seconds."""
        if not 200 <= status <= 599:
            raise ConfigError(f"Fault.status({status}): a status from 200 to 599")
        return _fault("status", which, value=status, retry_after=retry_after)

    @classmethod
    def reset(cls, *, mid_body: bool = False, **which: Unpack[Selection]) -> Fault:
        """The connection breaks, with a RST: before the answer, or after half of its body."""
        return _fault("reset", which, mid_body=mid_body)

    @classmethod
    def cut(cls, **which: Unpack[Selection]) -> Fault:
        """Content-Length is told, and the connection closed after half of it."""
        return _fault("cut", which)

    @classmethod
    def drip(cls, seconds: float, **which: Unpack[Selection]) -> Fault:
        """The body comes in ten pieces, with so many seconds before each."""
        return _fault("drip", which, value=_positive("drip", seconds))

    @classmethod
    def wrong_length(cls, delta: int, **which: Unpack[Selection]) -> Fault:
        """Content-Length is too large by `delta`, and the connection closed; or too small, and it stays open."""
        if delta == 0:
            raise ConfigError("Fault.wrong_length(0): that is the right length")
        return _fault("wrong_length", which, value=delta)

    @classmethod
    def gzip_damage(cls, **which: Unpack[Selection]) -> Fault:
        """The body comes as gzip, with a checksum that does not fit."""
        return _fault("gzip_damage", which)

    @classmethod
    def duplicate_page(cls, **which: Unpack[Selection]) -> Fault:
        """The page before comes again, and then it goes on. On a first page nothing is seen of it."""
        return _fault("duplicate_page", which)

    @classmethod
    def cycle(cls, **which: Unpack[Selection]) -> Fault:
        """The page leads back to the first; where pages are numbered, the first comes in its place."""
        return _fault("cycle", which)

    @classmethod
    def html(cls, **which: Unpack[Selection]) -> Fault:
        """A login page, as a 200."""
        return _fault("html", which)

    @classmethod
    def malformed_json(cls, **which: Unpack[Selection]) -> Fault:
        """The last third of the body is missing, and Content-Length agrees with that."""
        return _fault("malformed_json", which)

    @classmethod
    def hang(cls, **which: Unpack[Selection]) -> Fault:
        """Nothing comes, until the client leaves."""
        return _fault("hang", which)


class FaultCounter:
    """One fault at work: counts the requests that match, and says which are hit."""

    def __init__(self, fault: Fault, key: int) -> None:
        self.fault, self._key = fault, key
        self._matched = self._hit = 0

    def hits(self, place: str, request: ReceivedRequest, *, named: bool = False) -> bool:
        """Whether this request at `place` is hit; one that is `named` matches only a fault that names the place."""
        fault = self.fault
        if fault.resource != place and (named or fault.resource is not None):
            return False
        if fault.when is not None and not fault.when(request):
            return False
        self._matched += 1
        if fault.times is not None and self._hit >= fault.times:
            return False
        if fault.at is not None and self._matched not in fault.at:
            return False
        if fault.share is not None and share(self._key, self._matched) >= fault.share:
            return False
        self._hit += 1
        return True


def spoiled(fault: Fault, whole: MockResponse, more: bytes) -> Iterator[Step]:
    """The steps of this answer with the fault; `more` are lines of further headers."""
    whole = whole.held()
    body, half = whole.body, len(whole.body) // 2
    if fault.kind == "hang":
        yield ConnectionEnd.HANG
    elif fault.kind == "reset" and not fault.mid_body:
        yield ConnectionEnd.RESET
    elif fault.kind in ("reset", "cut"):
        yield whole.head(len(body), more) + body[:half]
        yield ConnectionEnd.RESET if fault.kind == "reset" else ConnectionEnd.CLOSE
    elif fault.kind == "drip":
        yield whole.head(len(body), more)
        size = max(1, -(-len(body) // 10))
        for begin in range(0, len(body), size):
            yield fault.value
            yield body[begin : begin + size]
    elif fault.kind == "wrong_length":
        yield whole.head(max(0, len(body) + int(fault.value)), more) + body
        if fault.value > 0:
            yield ConnectionEnd.CLOSE
    elif fault.kind == "gzip_damage":
        body = damaged(body)
        yield whole.head(len(body), more + b"Content-Encoding: gzip\r\n") + body
    else:
        assert fault.kind == "malformed_json"
        body = body[: len(body) * 2 // 3]
        yield whole.head(len(body), more) + body


def without_body(steps: Iterator[Step]) -> Iterator[Step]:
    """The same answer to a HEAD: its head, and how it ends."""
    head_to_come = True
    for step in steps:
        if isinstance(step, ConnectionEnd):
            yield step
        elif isinstance(step, bytes) and head_to_come:
            head_to_come = False
            yield step.partition(HEAD_END)[0] + HEAD_END


def instead(fault: Fault) -> MockResponse | None:
    """The answer that a fault gives in place of the page; None where it spoils the page itself."""
    if fault.kind == "status":
        status = int(fault.value)
        told = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        return answer(status, json_body({"error": {"status": status, "message": "the API is unwell"}}), told)
    if fault.kind == "html":
        return answer(200, _LOGIN, content_type="text/html; charset=utf-8")
    return None


def _fault(
    kind: Kind,
    which: Selection,
    *,
    value: float = 0.0,
    retry_after: float | None = None,
    mid_body: bool = False,
) -> Fault:
    at, share, times = which.get("at"), which.get("share"), which.get("times")
    if at is not None and (not at or min(at) < 1):
        raise ConfigError(f"Fault.{kind}(at={at!r}): numbers of requests, from 1")
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"Fault.{kind}(share={share!r}): from 0 to 1", hint="2 % is share=0.02")
    if times is not None and times < 1:
        raise ConfigError(f"Fault.{kind}(times={times!r}): at least once")
    numbers = None if at is None else frozenset(at)
    return Fault(kind, value, retry_after, mid_body, numbers, share, which.get("resource"), times, which.get("when"))


def _positive(kind: str, seconds: float) -> float:
    if seconds <= 0:
        raise ConfigError(f"Fault.{kind}({seconds!r}): more than 0 seconds")
    return float(seconds)
