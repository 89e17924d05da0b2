"""How long does a response ask us to wait?"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from ..messages import Response

_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")


def retry_after(response: Response, wall: float) -> float | None:
    """Seconds that Retry-After orders (RFC 9110, 10.2.3), in either form; None where it orders nothing.

    A date is read against the response's own `Date`, else against `wall`, our time. Zero, a past
    date and what is malformed order nothing; of several values the longest counts.
    """
    now = http_date(response.headers.get("date")) or wall
    values = [_wait(value, now) for value in response.headers.get_list("retry-after")]
    return max((value for value in values if value), default=None)


def asked_to_back_off(response: Response) -> float | None:
    """Seconds of a `Backoff` header, with which Kinto asks for a pause even on a 200."""
    value = response.raw_header(b"backoff")
    return None if value is None else _wait(value.decode("ascii", "replace"), 0.0)


def should_retry(response: Response) -> bool | None:
    """What `Stripe-Should-Retry` says of another try; None where it says nothing."""
    value = response.raw_header(b"stripe-should-retry")
    return None if value is None else {b"true": True, b"false": False}.get(value.strip().lower())


def _wait(value: str, now: float) -> float | None:
    """The longest of the values, which may be joined by commas; a date holds one of its own."""
    waits: list[float] = []
    parts = value.split(",")
    while parts:
        part = parts.pop(0).strip()
        if _SECONDS.fullmatch(part):
            waits.append(float(part))
            continue
        if part.isalpha() and parts and (date := http_date(f"{part},{parts[0]}")) is not None:
            parts.pop(0)
        else:
            date = http_date(part)
        if date is not None:
            waits.append(date - now)
    return max((wait for wait in waits if 0 < wait < math.inf), default=None)


def http_date(value: str | None) -> float | None:
    """Seconds since 1970 of an HTTP-date (RFC 9110, 5.6.7) in any of its forms; None where it is none."""
    if not value:
        return None
    try:
        date = parsedate_to_datetime(value)
        # All HTTP dates are GMT, also in the form that does not say so (RFC 9110, 5.6.7).
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
