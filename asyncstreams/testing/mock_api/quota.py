"""Quotas of a MockApi and the headers that report them. Time comes in as an argument, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal, NamedTuple, TypeAlias

from ...errors import ConfigError

HeaderDialect: TypeAlias = Literal[
    "ratelimit", "ratelimit-3", "x-ratelimit", "retry-after", "retry-after-date", "github", "none"
]
ResetFormat: TypeAlias = Literal["delta", "epoch", "ms", "date"]

_DIALECTS = ("ratelimit", "ratelimit-3", "x-ratelimit", "retry-after", "retry-after-date", "github", "none")
_RESET_FORMATS = ("delta", "epoch", "ms", "date")


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate limit of a MockApi: `limit` requests in `per` seconds (default 1).

    Without `burst` the quota counts fixed windows; a window starts with its first request. With `burst`
    it is a token bucket of that capacity, refilled at `limit / per` requests a second.

    `mode="refuse"` answers `status` (default 429) beyond the quota. `mode="queue"` delays responses to
    the rate of the quota instead; it always uses a token bucket, with a default `burst` of 1.

    `headers` selects how every response reports the quota:

    - "ratelimit": RateLimit and RateLimit-Policy as structured fields.
    - "ratelimit-3": RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, in seconds from now.
    - "x-ratelimit" (default): the same three with the prefix X-. `reset` is the format of the last one:
      "delta" (seconds from now, default), "epoch" (seconds since 1970), "ms" (milliseconds since 1970)
      or "date" (an HTTP date).
    - "github": as "x-ratelimit" with "epoch", plus X-RateLimit-Used and X-RateLimit-Resource.
    - "retry-after", "retry-after-date": Retry-After in refusals only, in seconds or as an HTTP date.
    - "none": no headers.

    `retry_after` says whether refusals carry Retry-After; by default all but "github" and "none" do.
    """

    limit: int
    per: float = 1.0
    headers: HeaderDialect = "x-ratelimit"
    reset: ResetFormat = "delta"
    mode: Literal["refuse", "queue"] = "refuse"
    burst: int | None = None
    retry_after: bool | None = None
    status: int = 429

    def __post_init__(self) -> None:
        if self.limit < 1 or self.per <= 0 or (self.burst is not None and self.burst < 1):
            raise ConfigError(
                f"Quota({self.limit}, per={self.per}, burst={self.burst}): limit, per and burst must be above 0"
            )
        for name, value, allowed in (
            ("headers", self.headers, _DIALECTS),
            ("reset", self.reset, _RESET_FORMATS),
            ("mode", self.mode, ("refuse", "queue")),
        ):
            if value not in allowed:
                raise ConfigError(f"Quota({name}={value!r}): {name} must be one of {', '.join(map(repr, allowed))}")

    def new_meter(self) -> FixedWindow | TokenBucket:
        """A new counter for this quota, with nothing used."""
        return FixedWindow(self) if self.burst is None and self.mode == "refuse" else TokenBucket(self)


class QuotaDecision(NamedTuple):
    """The decision on one request.

    `wait` is in seconds: until a refused request would be allowed, or the delay of a queued one.
    `reset` is in seconds from now.
    """

    allowed: bool
    wait: float
    remaining: int
    reset: float


class FixedWindow:
    """Fixed windows, each of which starts with its first request."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._ends_at, self._used = -math.inf, 0

    def admit(self, now: float) -> QuotaDecision:
        if now >= self._ends_at:
            self._ends_at, self._used = now + self._quota.per, 0
        left = self._ends_at - now
        if self._used >= self._quota.limit:
            return QuotaDecision(False, left, 0, left)
        self._used += 1
        return QuotaDecision(True, 0.0, self._quota.limit - self._used, left)


class TokenBucket:
    """A token bucket. When queueing, its balance may go below 0; requests wait until it is back at 0."""

    def __init__(self, quota: Quota) -> None:
        self._rate = quota.limit / quota.per
        self._capacity = float(quota.burst or 1)
        self._queueing = quota.mode == "queue"
        self._tokens, self._updated_at = self._capacity, -math.inf

    def admit(self, now: float) -> QuotaDecision:
        # 1e-9 makes up for rounding, so that a client that waits exactly `wait` seconds is admitted.
        gained = (now - self._updated_at) * self._rate + 1e-9
        self._tokens, self._updated_at = min(self._capacity, self._tokens + gained), now
        if self._tokens < 1 and not self._queueing:
            return QuotaDecision(False, (1 - self._tokens) / self._rate, 0, self._seconds_until_full())
        self._tokens -= 1
        return QuotaDecision(
            True, max(0.0, -self._tokens / self._rate), max(0, math.floor(self._tokens)), self._seconds_until_full()
        )

    def _seconds_until_full(self) -> float:
        return max(0.0, (self._capacity - self._tokens) / self._rate)


def quota_header_lines(quota: Quota, decision: QuotaDecision, wall: float) -> bytes:
    """The encoded header lines that report a decision. `wall` is in seconds since 1970."""
    limit, remaining, reset = quota.limit, decision.remaining, math.ceil(decision.reset)
    lines: list[str] = []
    if quota.headers == "ratelimit":
        lines = [
            f'RateLimit-Policy: "default";q={limit};w={quota.per:g}',
            f'RateLimit: "default";r={remaining};t={reset}',
        ]
    elif quota.headers == "ratelimit-3":
        lines = _limit_headers("RateLimit", limit, remaining, str(reset))
    elif quota.headers == "x-ratelimit":
        lines = _limit_headers("X-RateLimit", limit, remaining, _format_reset(quota.reset, decision.reset, wall))
    elif quota.headers == "github":
        epoch = str(math.ceil(wall + decision.reset))
        used = f"X-RateLimit-Used: {max(0, limit - remaining)}"
        lines = [*_limit_headers("X-RateLimit", limit, remaining, epoch), used, "X-RateLimit-Resource: core"]
    if not decision.allowed and _sends_retry_after(quota):
        wait = max(1, math.ceil(decision.wait))
        date = formatdate(math.ceil(wall + decision.wait), usegmt=True)
        lines.append(f"Retry-After: {date if quota.headers == 'retry-after-date' else wait}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def _sends_retry_after(quota: Quota) -> bool:
    return quota.headers not in ("github", "none") if quota.retry_after is None else quota.retry_after


def _limit_headers(prefix: str, limit: int, remaining: int, reset: str) -> list[str]:
    return [f"{prefix}-Limit: {limit}", f"{prefix}-Remaining: {remaining}", f"{prefix}-Reset: {reset}"]


def _format_reset(format_: ResetFormat, seconds: float, wall: float) -> str:
    if format_ == "delta":
        return str(math.ceil(seconds))
    if format_ == "date":
        return formatdate(math.ceil(wall + seconds), usegmt=True)
    return str(math.ceil((wall + seconds) * (1000 if format_ == "ms" else 1)))
