"""Character sets of texts: declared by a header, marked by a byte order mark, or evident from NUL bytes."""

from __future__ import annotations

import codecs
import functools
import re

from ..errors import UnexpectedContent

_CHARSET = re.compile(rb"""(?:^|[;,\s])charset\s*=\s*["']?([^\s"';,]+)""", re.IGNORECASE)
# The marks of UTF-32 come first: that of UTF-16-LE is the beginning of the one of UTF-32-LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WITHOUT_BYTE_ORDER = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Codecs of Python that no server means by a charset, or that differ between machines.
_OTHER_CODECS = frozenset(
    ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape", "undefined")
    + ("mbcs", "oem")
)
UTF8 = "utf-8"
MARK_BYTES = 4
"""Length of the longest byte order mark, which is also enough to see the NUL bytes of UTF-16 and UTF-32."""


@functools.lru_cache(maxsize=256)
def find_charset(name: str) -> str | None:
    """The codec for the name of a charset; None if the name is unknown. ASCII counts as UTF-8, which contains it."""
    try:
        codec = codecs.lookup(name).name
        b"x".decode(codec, "ignore")  # raises LookupError for codecs such as "hex", which give no text
    except (LookupError, UnicodeError, ValueError):
        return None
    if codec in _OTHER_CODECS:
        return None
    return UTF8 if codec in ("ascii", "utf-8-sig") else codec


@functools.lru_cache(maxsize=256)
def declared_charset(content_type: bytes) -> str | None:
    """The codec of the charset in a Content-Type; None for UTF-8, which is the default, and for unknown names."""
    found = _CHARSET.search(content_type)
    charset = None if found is None else find_charset(found[1].decode("latin-1"))
    return None if charset == UTF8 else charset


def text_charset(head: bytes, declared: str | None) -> tuple[str, int]:
    """The charset of a text by its first 4 bytes, and the length of its byte order mark, which takes precedence.

    Without a mark or a declared charset, UTF-16 and UTF-32 are recognised by the NUL bytes of their first characters,
    which are ASCII in JSON (RFC 4627, 3) and in nearly every CSV.
    """
    for mark, charset in _MARKS:
        if head.startswith(mark):
            return charset, len(mark)
    if declared is not None and declared not in _WITHOUT_BYTE_ORDER:
        return declared, 0
    return _charset_by_nul_bytes(head) or _WITHOUT_BYTE_ORDER.get(declared or "", UTF8), 0


def _charset_by_nul_bytes(head: bytes) -> str | None:
    zeros = [byte == 0 for byte in head[:4]]
    if zeros == [True, True, True, False]:
        return "utf-32-be"
    if zeros == [False, True, True, True]:
        return "utf-32-le"
    if zeros[:2] == [True, False]:
        return "utf-16-be"
    return "utf-16-le" if zeros[:2] == [False, True] else None


class Utf8Transcoder:
    """Converts a text piece by piece to UTF-8. Raises `error`, a kind of UnexpectedContent, for invalid bytes.

    UTF-8 itself is passed on unchecked: its parser checks it.
    """

    def __init__(self, charset: str, error: type[UnexpectedContent]) -> None:
        self._decoder = None if charset == UTF8 else codecs.getincrementaldecoder(charset)()
        self._charset = charset
        self._error = error

    def feed(self, piece: bytes, *, final: bool = False) -> bytes:
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, final).encode()
        except UnicodeError as error:  # also for a lone surrogate, which UTF-8 cannot represent
            reason = error.reason if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) else "malformed"
        raise self._error(f"sent a text that is not valid {self._charset}: {reason}", hint=invalid_charset_hint())


def invalid_charset_hint() -> str:
    """The hint for a text that is not in its charset."""
    return (
        "the charset comes from a byte order mark or the Content-Type, and is UTF-8 by default: pass encoding=... to "
        "csv_rows, or set response.encoding in classify(), if the API declares another than it sends"
    )
