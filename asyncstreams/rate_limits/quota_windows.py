"""How many more requests do the quotas let pass that the server itself tells of?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .quota_headers import ReportedQuota

_SHORT = 60.0  # seconds; a window whose reset is not told is waited for as long as it lasts, if it is as short
_SAME_WINDOW = 1.5  # seconds by which two resets of the same window may differ: they are told in whole ones
_UNLIMITED = 1e9
_SHARED = 1.0  # seconds, from which on a window is shared between streams by weight
_FORGOTTEN = 60.0  # seconds since it was told last, after which a quota gives way to another
_SHOWN = 2
_MOST = 64  # quotas of one key, at most: a server that makes up names must not fill the memory


class QuotaWindow:
    """One quota, as it was told last."""

    __slots__ = ("after_reset", "begun_at", "is_new", "limit", "remaining", "resets_at", "since", "told_at")

    def __init__(self, told: ReportedQuota, now: float) -> None:
        self.begun_at, self.since = now, -math.inf
        self.take(told, now)

    def take(self, told: ReportedQuota, now: float) -> None:
        self.remaining, self.limit = told.remaining, told.limit
        resets_in = told.resets_in
        if resets_in is None and told.window is not None and told.window <= _SHORT:
            resets_in = told.window
        self.resets_at = math.inf if resets_in is None else now + resets_in
        self.told_at = now
        self.after_reset = self.is_new = False

    def roll(self, now: float) -> None:
        """The window is over: the next one is as large, as far as is known, and its first request tells."""
        # Whoever was not kept by it needs no probe: it may be a bucket, which is refilled bit by bit.
        self.after_reset, self.is_new = self.remaining < 1, True
        self.remaining = max(self.remaining, _UNLIMITED if self.limit is None else self.limit)
        self.resets_at = math.inf
        self.begun_at = self.since = now

    def is_of_another(self, quota: ReportedQuota, sent_at: float, now: float) -> bool:
        """Whether an answer tells of the window before this one."""
        if sent_at >= self.since:
            return False
        return quota.resets_in is None or abs(now + quota.resets_in - self.resets_at) > _SAME_WINDOW


class QuotaWindows:
    """Keeps what is left of each quota, reserving for what is on the wire.

    In one window what is left only falls, in whatever order answers come; what a request that was
    sent after the last news tells is taken as it is, since a quota may also be refilled. After a
    reset one request goes alone, and tells what the next window holds. What is left is spent at
    once: to spread it costs a tenth of the time where it need not.
    """

    def __init__(self) -> None:
        self._windows: dict[str, QuotaWindow] = {}
        self.resets = 0
        """How often a window has begun anew."""

    def free_at(self, in_flight: int, now: float) -> float:
        """When one more may pass: `now`, the reset, or infinity: when an answer comes."""
        at = now
        for window in self._windows.values():
            if now >= window.resets_at:
                window.roll(now)
                self.resets += 1
            if window.after_reset:
                if in_flight:
                    return math.inf
            elif window.remaining - in_flight < 1:
                if window.resets_at == math.inf:
                    # Of a new window an answer will tell; what never tells of a reset is not waited for.
                    if window.is_new and in_flight:
                        at = math.inf
                else:
                    # What is on the wire may be counted already, and leave something.
                    at = math.inf if window.remaining >= 1 else max(at, window.resets_at)
        return at

    @property
    def next_reset(self) -> float:
        """When the next window begins anew, as far as is told."""
        return min((window.resets_at for window in self._windows.values()), default=math.inf)

    def learn(self, told: Sequence[ReportedQuota], sent_at: float, now: float) -> None:
        """What an answer tells; it came `now`."""
        for quota in told:
            window = self._windows.get(quota.name)
            if window is None:
                if len(self._windows) < _MOST or self._forget_one(now):
                    self._windows[quota.name] = QuotaWindow(quota, now)
                continue
            before = window.resets_at
            is_news = quota.resets_in is not None and now + quota.resets_in > before + _SAME_WINDOW
            if sent_at >= window.told_at or is_news:
                if is_news:
                    window.begun_at = window.since = now
                window.take(quota, now)
                if abs(window.resets_at - before) <= _SAME_WINDOW:
                    # Resets are rounded up to seconds: of those of one window the earliest is the best.
                    window.resets_at = min(window.resets_at, before)
            elif quota.remaining < window.remaining and not window.is_of_another(quota, sent_at, now):
                window.remaining, window.told_at = quota.remaining, now
                window.after_reset = False

    def _forget_one(self, now: float) -> bool:
        """Whether one has not been told of for long, and is forgotten."""
        oldest = min(self._windows, key=lambda name: self._windows[name].told_at)
        if now - self._windows[oldest].told_at < _FORGOTTEN:
            return False
        del self._windows[oldest]
        return True

    def untold(self, sent_at: float) -> None:
        """A request has ended and nothing came back: it may have been counted."""
        for window in self._windows.values():
            if sent_at >= window.since:
                window.remaining -= 1
                window.after_reset = False

    def is_young(self, now: float) -> bool:
        """Whether some window is not half over, so that it can be spent later as well."""
        return any(
            window.resets_at != math.inf
            and window.resets_at - window.begun_at >= _SHARED
            and 2 * (now - window.begun_at) < window.resets_at - window.begun_at
            for window in self._windows.values()
        )

    def told(self, now: float) -> Iterator[str]:
        """What is left of those that are nearest to their end, for people."""
        for window in sorted(self._windows.values(), key=lambda window: window.remaining)[:_SHOWN]:
            if window.remaining < _UNLIMITED:
                whole = "" if window.limit is None else f" of {window.limit:,.0f}"
                until = "" if window.resets_at == math.inf else f" for {max(0.0, window.resets_at - now):.1f} s"
                yield f"{max(0.0, window.remaining):,.0f}{whole} requests left{until}"

    @property
    def is_known(self) -> bool:
        """Whether any quota is told whose reset is known: then a refusal needs no other explanation."""
        return any(window.resets_at != math.inf for window in self._windows.values())
