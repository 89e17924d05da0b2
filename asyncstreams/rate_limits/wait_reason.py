"""Reasons for which a request waits."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

LONG_WAIT_S = 1.0
"""Seconds from which a wait is long: a client that does not accept long waits leaves the queue and comes back later."""


class WaitReason(StrEnum):
    """What a request waits for; the text completes "waits for ..." in events and `explain()`."""

    PAUSED = "the API's pause to end"
    """A Retry-After, or our own pause after a 429 without one."""
    HOST_DOWN = "the host to respond again"
    QUOTA = "the API's quota to reset"
    DECLARED_LIMIT = "the declared rate_limit"
    ADAPTIVE_RATE = "the rate learned from refusals"
    FAIR_SHARE = "a stream that has used less of the quota"
    CONCURRENCY = "a response to a request in flight"
    RETRY_BACKOFF = "the next try"


TURN_REASONS = frozenset({WaitReason.CONCURRENCY, WaitReason.FAIR_SHARE})
"""The reasons for which a request waits for its turn; for all others it waits for a limit, a pause or the host."""


class Wait(NamedTuple):
    """The reason of a wait and its estimated length."""

    seconds: float
    """Infinity: until a response comes."""
    reason: WaitReason
    min_seconds: float
    """Seconds until a request may be admitted if those queued before it give up."""
