"""How is a parent log laid out: pages one after the other, each with a checksum, and an end that counts them?"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import MalformedJSON
from ..exact_json import as_object, decode, encode
from ..frames import Damaged, frame

FORMAT = 1
_BEGIN, _PAGE, _END = b"B", b"P", b"E"
_SIGN = "asyncstreams parents"


class Begin(NamedTuple):
    """What a log says of itself: its format, and when the fetching began, in seconds of the epoch."""

    format: int
    at: float


class Counts(NamedTuple):
    """What a whole log holds."""

    pages: int
    records: int


def page_frame(page: bytes) -> bytes:
    return frame(_PAGE, page)


def begin_frame(at: float) -> bytes:
    return frame(_BEGIN, encode({"sign": _SIGN, "format": FORMAT, "at": at}))


def end_frame(counts: Counts) -> bytes:
    return frame(_END, encode({"pages": counts.pages, "records": counts.records}))


def read_begin(payload: bytes) -> Begin:
    """Raises Damaged."""
    told = _told(payload)
    if told.get("sign") != _SIGN:
        raise Damaged("it is no parent log")
    return Begin(told["format"], told["at"])


def read_end(payload: bytes) -> Counts:
    """Raises Damaged."""
    told = _told(payload)
    return Counts(told["pages"], told["records"])


def is_begin(kind: bytes) -> bool:
    return kind == _BEGIN


def is_page(kind: bytes) -> bool:
    return kind == _PAGE


def is_end(kind: bytes) -> bool:
    return kind == _END


def _told(payload: bytes) -> dict[str, Any]:
    try:
        told = as_object(decode(payload))
    except MalformedJSON:
        told = None
    if told is None:
        raise Damaged("what it says of itself cannot be read")
    return told
