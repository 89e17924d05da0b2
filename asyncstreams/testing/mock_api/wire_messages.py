"""What comes in, and what goes out: a request, an answer, and the steps in which it is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

import orjson

HEAD_END = b"\r\n\r\n"
# RFC 9110, 5.5: what no header holds; a tab it may.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it came. Names of headers are in lower case; of a repeated name the last counts.

    `path` is decoded, without the slashes around it; `segments` are its parts, each of them decoded, so
    that a %2F is none of the slashes between them. `params` are those of the query and, for a POST, of
    its form or JSON object.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    version: str = "HTTP/1.1"
    segments: tuple[str, ...] = ("",)
    params: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def path(self) -> str:
        return "/".join(self.segments)

    @property
    def url(self) -> str:
        """Where it went to, without the query."""
        parts = (quote(segment, safe="") for segment in self.segments)
        return f"http://{self.headers.get('host', '')}/{'/'.join(parts)}"

    @property
    def keep_alive(self) -> bool:
        told = {option.strip() for option in self.headers.get("connection", "").lower().split(",")}
        return "close" not in told and (self.version == "HTTP/1.1" or "keep-alive" in told)

    @property
    def accepts_gzip(self) -> bool:
        return "gzip" in self.headers.get("accept-encoding", "").lower()


class ConnectionEnd(Enum):
    """How an exchange ends other than well. HANG says nothing more until the client leaves."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


# Bytes are written, seconds are waited.
Step: TypeAlias = bytes | float | ConnectionEnd


class BadRequest(Exception):
    """An answer other than the one that was asked for, found out on the way."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer(status, json_body({"error": {"status": status, "message": message, **more}}), headers)


@dataclass(slots=True)
class MockResponse:
    """A response; `start` is its head up to the headers that depend on the exchange.

    With `pieces`, the body is made by calling it, again for each exchange, and `body` is empty.
    """

    status: int
    start: bytes
    body: bytes = b""
    pieces: Callable[[], Iterable[bytes]] | None = None
    records: int = 0

    def whole(self, more: bytes = b"", *, keep_alive: bool = True, head_only: bool = False) -> bytes:
        """All of it, for a body that is held; `more` are the lines of further headers."""
        head = self.head(len(self.body), more, keep_alive)
        return head if head_only else head + self.body

    def head(self, length: int | None, more: bytes = b"", keep_alive: bool = True) -> bytes:
        """The head; a length of None is a chunked body, or one that the end of the connection ends."""
        close = b"" if keep_alive else b"Connection: close\r\n"
        told = b"Transfer-Encoding: chunked\r\n\r\n" if length is None else b"Content-Length: %d\r\n\r\n" % length
        return self.start + more + close + told

    def streamed(self, more: bytes, *, keep_alive: bool, chunked: bool) -> Iterator[Step]:
        """The steps of a body in pieces; without `chunked` the client is told of the end by the end."""
        assert self.pieces is not None
        if not chunked:
            yield self.start + more + b"Connection: close\r\n\r\n"
            yield from self.pieces()
            yield ConnectionEnd.CLOSE
            return
        yield self.head(None, more, keep_alive)
        for piece in self.pieces():
            if piece:
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"

    def held(self) -> MockResponse:
        """The same with its whole body in memory."""
        if self.pieces is None:
            return self
        return MockResponse(self.status, self.start, b"".join(self.pieces()), None, self.records)


def answer(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> MockResponse:
    return MockResponse(status, start(status, content_type, headers or {}), body)


def start(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    """Status line and headers, without the empty line that ends them."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Status"
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n".encode() + header_lines(headers)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Raises ValueError for a control character, which could begin another header, or a body."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_FORBIDDEN.search, lines)):
        raise ValueError(f"a control character in the header {next(filter(_FORBIDDEN.search, lines))[:80]!r}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace")


def json_body(value: Any) -> bytes:
    return orjson.dumps(value)


def read_request(head: bytes, body: bytes = b"") -> ReceivedRequest:
    """The request with this head, which ends in an empty line. Raises ValueError for what is none."""
    line, *fields = head[: -len(HEAD_END)].decode("latin-1").split("\r\n")
    method, target, version = line.split(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not method.isalpha():
        raise ValueError(f"not HTTP/1.1: {line[:80]!r}")
    headers: dict[str, str] = {}
    for name, colon, value in (text.partition(":") for text in fields):
        if not colon or not name or name != name.strip() or _FORBIDDEN.search(value):
            raise ValueError(f"not a header: {name[:80]!r}")
        headers[name.lower()] = value.strip()
    # A proxy's absolute form leads to the same place.
    place = target.partition("//")[2].partition("/")[2] if target.startswith("http") else target
    path, _, query = place.partition("#")[0].partition("?")
    params = dict(parse_qsl(query, keep_blank_values=True))
    if body and method == "POST":
        params |= fields_of(body, headers)
    # Decoded one by one: a %2F is a part of an id.
    segments = tuple(map(unquote, path.strip("/").split("/")))
    return ReceivedRequest(method.upper(), target, headers, body, version, segments, params)


def fields_of(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """What a form or a JSON object says, as text. Raises ValueError for JSON that is malformed."""
    if "json" not in headers.get("content-type", ""):
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    told: Any = orjson.loads(body)
    return {str(name): str(value) for name, value in told.items()} if isinstance(told, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # JSON
