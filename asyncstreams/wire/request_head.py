"""Serialization of a request line and its headers, safe against request smuggling."""

from __future__ import annotations

import re
from collections.abc import Sequence

import httpx

_WITHOUT_BODY = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"))
_FRAMING = frozenset(("content-length", "transfer-encoding"))
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"{_TOKEN} [\x21-\x7e]+ HTTP/1\.1\r\n")
_FIELDS = re.compile(rf"(?:{_TOKEN}: [\t\x20-\x7e\x80-\xff]*\r\n)+")


def request_head(method: str, target: str, fields: bytes, size: int) -> bytes:
    """The head of a message whose body has `size` bytes (RFC 9112, 3 and 5), including the empty line.

    `fields` comes from `header_fields`; the framing follows from `size` alone. Raises httpx.LocalProtocolError
    for a character that HTTP does not allow in method or target.
    """
    line = f"{method} {target} HTTP/1.1\r\n"
    if not _REQUEST_LINE.fullmatch(line):
        raise _invalid_character()
    length = f"Content-Length: {size}\r\n\r\n" if size or method not in _WITHOUT_BODY else "\r\n"
    return line.encode("ascii") + fields + length.encode("ascii")


def header_fields(host: str, headers: Sequence[tuple[str, str]], close: bool = False) -> bytes:
    """The header lines of a message. Framing headers among `headers` are ignored.

    `host` is sent unless the headers contain one; `close` announces that no other request follows. Raises
    httpx.LocalProtocolError for a character that HTTP does not allow at its position.
    """
    names = {name.lower() for name, _ in headers}
    lines = [] if "host" in names else [f"Host: {host}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers if name.lower() not in _FRAMING]
    if close and "connection" not in names:
        lines.append("Connection: close\r\n")
    text = "".join(lines)
    # The line count must match: an injected line break would also fit the pattern.
    if not _FIELDS.fullmatch(text) or text.count("\n") != len(lines):
        raise _invalid_character()
    return text.encode("latin-1")


def _invalid_character() -> httpx.LocalProtocolError:
    return httpx.LocalProtocolError("a header or the URL contains a character that HTTP does not allow")
