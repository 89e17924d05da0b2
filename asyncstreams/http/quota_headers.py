"""How long does a response ask us to wait?"""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime

from ..messages import Response

_SECONDS = re.compile(r"\d{1,10}(?:\.\d{1,6})?")


def retry_after(response: Response, wall: float) -> float | None:
    """Seconds that Retry-After orders (RFC 9110, 10.2.3), in either form; None where it orders nothing.

    A date is read against the response's own `Date`, else against `wall`, our time. Zero, a past
    date and what is malformed order nothing; of several values the longest counts.
    """
    now = _date(response.headers.get("date")) or wall
    values = [_wait(value, now) for value in response.headers.get_list("retry-after")]
    return max((value for value in values if value), default=None)


def asked_to_back_off(response: Response) -> float | None:
    """Seconds of a `Backoff` header, with which Kinto asks for a pause even on a 200."""
    value = response.raw_header(b"backoff")
    return None if value is None else _wait(value.decode("ascii", "replace"), 0.0)


def _wait(value: str, now: float) -> float | None:
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        date = _date(value)
        if date is None:
            # Several headers may arrive joined by commas, which only a date contains otherwise.
            parts = [_wait(part, now) for part in value.split(",")] if "," in value else []
            return max((part for part in parts if part), default=None)
        seconds = date - now
    return seconds if 0 < seconds < math.inf else None


def _date(value: str | None) -> float | None:
    if not value:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
