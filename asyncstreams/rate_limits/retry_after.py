"""Waits and retries that a response asks for."""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from ..messages import Response

_SECONDS = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")


def retry_after(response: Response, wall: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3) in either form; None if it orders no wait.

    A date is compared with the response's own `Date`, or with `wall`, our time in seconds since 1970.
    Zero, a past date and a malformed value order no wait. The longest of several values counts.
    """
    now = parse_http_date(response.headers.get("date")) or wall
    values = [_longest_wait(value, now) for value in response.headers.get_list("retry-after")]
    return max((value for value in values if value), default=None)


def backoff_seconds(response: Response) -> float | None:
    """Seconds of a `Backoff` header, which Kinto also sends with a 200; None without one."""
    value = response.raw_header(b"backoff")
    return None if value is None else _longest_wait(value.decode("ascii", "replace"), 0.0)


def should_retry(response: Response) -> bool | None:
    """Value of `Stripe-Should-Retry`; None without a valid one."""
    value = response.raw_header(b"stripe-should-retry")
    return None if value is None else {b"true": True, b"false": False}.get(value.strip().lower())


def _longest_wait(value: str, now: float) -> float | None:
    """The longest of the values, which are separated by commas; a date contains a comma itself."""
    waits: list[float] = []
    parts = value.split(",")
    while parts:
        part = parts.pop(0).strip()
        if _SECONDS.fullmatch(part):
            waits.append(float(part))
            continue
        if part.isalpha() and parts and (date := parse_http_date(f"{part},{parts[0]}")) is not None:
            parts.pop(0)
        else:
            date = parse_http_date(part)
        if date is not None:
            waits.append(date - now)
    return max((wait for wait in waits if 0 < wait < math.inf), default=None)


def parse_http_date(value: str | None) -> float | None:
    """Seconds since 1970 of an HTTP-date (RFC 9110, 5.6.7) in any of its forms; None if it is malformed."""
    if not value:
        return None
    try:
        date = parsedate_to_datetime(value)
        # All HTTP-dates are GMT, even in the form without a zone (RFC 9110, 5.6.7).
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
