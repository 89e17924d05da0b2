"""Serialization of a request line and its headers, safe against request smuggling."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WITHOUT_BODY = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_FRAMING = frozenset(("content-length", "transfer-encoding"))
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(rf"{_TOKEN} [\x21-\x7e]+ HTTP/1\.1\r\n(?:{_TOKEN}: [\t\x20-\x7e\x80-\xff]*\r\n)+")


def request_head(
    method: str, target: str, host: str, headers: Sequence[tuple[str, str]], size: int, *, close: bool = False
) -> bytes:
    """The head of a message whose body has `size` bytes (RFC 9112, 3 and 5), including the empty line.

    `host` is sent unless the headers contain one; `close` announces that no other request follows.
    The framing headers follow from `size` alone; those in `headers` are ignored. Raises ValueError
    for a character that HTTP does not allow at its position.
    """
    names = {name.lower() for name, _ in headers}
    lines = [] if "host" in names else [f"Host: {host}\r\n"]
    if names.isdisjoint(_FRAMING):
        lines += [f"{name}: {value}\r\n" for name, value in headers]
    else:
        lines += [f"{name}: {value}\r\n" for name, value in headers if name.lower() not in _FRAMING]
    if size or method not in _WITHOUT_BODY:
        lines.append(f"Content-Length: {size}\r\n")
    if close and "connection" not in names:
        lines.append("Connection: close\r\n")
    head = f"{method} {target} HTTP/1.1\r\n{''.join(lines)}"
    # The line count must match: an injected line break would also fit the pattern.
    if not _HEAD.fullmatch(head) or head.count("\n") != 1 + len(lines):
        raise ValueError("a character that HTTP does not allow")
    return f"{head}\r\n".encode("latin-1")
