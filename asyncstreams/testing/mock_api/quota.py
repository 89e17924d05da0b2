"""May this request be answered now? Quotas as APIs have them; time comes in as an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal, NamedTuple, TypeAlias

from ...errors import ConfigError

Dialect: TypeAlias = Literal[
    "ratelimit", "ratelimit-3", "x-ratelimit", "retry-after", "retry-after-date", "github", "none"
]
Reset: TypeAlias = Literal["delta", "epoch", "ms", "date"]

_DIALECTS = ("ratelimit", "ratelimit-3", "x-ratelimit", "retry-after", "retry-after-date", "github", "none")
_RESETS = ("delta", "epoch", "ms", "date")


@dataclass(frozen=True, slots=True)
class Quota:
    """`limit` requests in `per` seconds.

    In fixed windows, which begin with their first request; with `burst`, a token bucket that holds
    so many. "refuse" answers `status` beyond it, "queue" holds answers back to the limit's rate,
    which makes them ever later (a bucket; `burst` is then 1 unless given).

    `headers` is the dialect in which every answer tells it: "ratelimit" (RateLimit and
    RateLimit-Policy as structured fields), "ratelimit-3" (RateLimit-Limit, -Remaining, -Reset),
    "x-ratelimit" (the same with X-, whose reset is told as `reset`: seconds from now, seconds or
    milliseconds since 1970, or a date), "github" (reset since 1970, and used), "retry-after" and
    "retry-after-date" (refusals only), "none". `retry_after`: whether refusals carry Retry-After
    too; all but "github" and "none" do unless told.
    """

    limit: int
    per: float = 1.0
    headers: Dialect = "x-ratelimit"
    reset: Reset = "delta"
    mode: Literal["refuse", "queue"] = "refuse"
    burst: int | None = None
    retry_after: bool | None = None
    status: int = 429

    def __post_init__(self) -> None:
        if self.limit < 1 or self.per <= 0 or (self.burst is not None and self.burst < 1):
            raise ConfigError(f"Quota({self.limit}, per={self.per}, burst={self.burst}): all of them are above 0")
        for name, value, allowed in (
            ("headers", self.headers, _DIALECTS),
            ("reset", self.reset, _RESETS),
            ("mode", self.mode, ("refuse", "queue")),
        ):
            if value not in allowed:
                raise ConfigError(f"Quota({name}={value!r}): one of {', '.join(map(repr, allowed))}")

    def meter(self) -> Window | Bucket:
        """What counts by it, from nothing."""
        return Window(self) if self.burst is None and self.mode == "refuse" else Bucket(self)


class Verdict(NamedTuple):
    """`wait`: seconds until it would be allowed or, when queueing, until it is answered. `reset` is in seconds."""

    allowed: bool
    wait: float
    remaining: int
    reset: float


class Window:
    """Fixed windows, each beginning with its first request."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._ends, self._used = -math.inf, 0

    def take(self, now: float) -> Verdict:
        if now >= self._ends:
            self._ends, self._used = now + self._quota.per, 0
        left = self._ends - now
        if self._used >= self._quota.limit:
            return Verdict(False, left, 0, left)
        self._used += 1
        return Verdict(True, 0.0, self._quota.limit - self._used, left)


class Bucket:
    """A token bucket; when queueing it goes into debt, and what is owed is waited for."""

    def __init__(self, quota: Quota) -> None:
        self._rate = quota.limit / quota.per
        self._holds = float(quota.burst or 1)
        self._queues = quota.mode == "queue"
        self._tokens, self._seen = self._holds, -math.inf

    def take(self, now: float) -> Verdict:
        # A hair more, for what rounding takes away: whoever waits as long as told is let in.
        gained = (now - self._seen) * self._rate + 1e-9
        self._tokens, self._seen = min(self._holds, self._tokens + gained), now
        if self._tokens < 1 and not self._queues:
            return Verdict(False, (1 - self._tokens) / self._rate, 0, self._full_in())
        self._tokens -= 1
        return Verdict(True, max(0.0, -self._tokens / self._rate), max(0, math.floor(self._tokens)), self._full_in())

    def _full_in(self) -> float:
        return max(0.0, (self._holds - self._tokens) / self._rate)


def quota_lines(quota: Quota, verdict: Verdict, wall: float) -> bytes:
    """The lines of the headers that tell it; `wall` is the time since 1970, in seconds."""
    limit, remaining, reset = quota.limit, verdict.remaining, math.ceil(verdict.reset)
    lines: list[str] = []
    if quota.headers == "ratelimit":
        lines = [
            f'RateLimit-Policy: "default";q={limit};w={quota.per:g}',
            f'RateLimit: "default";r={remaining};t={reset}',
        ]
    elif quota.headers == "ratelimit-3":
        lines = _triple("RateLimit", limit, remaining, str(reset))
    elif quota.headers == "x-ratelimit":
        lines = _triple("X-RateLimit", limit, remaining, _told_reset(quota.reset, verdict.reset, wall))
    elif quota.headers == "github":
        epoch = str(math.ceil(wall + verdict.reset))
        used = f"X-RateLimit-Used: {max(0, limit - remaining)}"
        lines = [*_triple("X-RateLimit", limit, remaining, epoch), used, "X-RateLimit-Resource: core"]
    if not verdict.allowed and _tells_wait(quota):
        wait = max(1, math.ceil(verdict.wait))
        date = formatdate(math.ceil(wall + verdict.wait), usegmt=True)
        lines.append(f"Retry-After: {date if quota.headers == 'retry-after-date' else wait}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def _tells_wait(quota: Quota) -> bool:
    return quota.headers not in ("github", "none") if quota.retry_after is None else quota.retry_after


def _triple(prefix: str, limit: int, remaining: int, reset: str) -> list[str]:
    return [f"{prefix}-Limit: {limit}", f"{prefix}-Remaining: {remaining}", f"{prefix}-Reset: {reset}"]


def _told_reset(form: Reset, seconds: float, wall: float) -> str:
    if form == "delta":
        return str(math.ceil(seconds))
    if form == "date":
        return formatdate(math.ceil(wall + seconds), usegmt=True)
    return str(math.ceil((wall + seconds) * (1000 if form == "ms" else 1)))
