"""Remaining units of the quotas that the server reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from .quota_headers import QuotaScope, ReportedQuota

_MAX_ASSUMED_RESET_S = 60.0  # without a reported reset, a window of at most this length is waited for in full
_RESET_TOLERANCE_S = 1.5  # by which two resets of one window may differ: they are reported in whole seconds
_UNLIMITED = 1e9
_MIN_SHARED_WINDOW_S = 1.0  # shorter windows are not shared between streams by weight
_STALE_AFTER_S = 60.0  # since its last report, after which a quota may be evicted for another
_MAX_DESCRIBED = 2
_MAX_QUOTAS = 64  # of one governor: a server that invents quota names must not fill the memory


class QuotaUser(Protocol):
    """A stream that draws on quotas."""

    in_flight: int
    quota_names: set[str]
    """Names of the policies, resources and buckets that its responses report."""


class QuotaWindow:
    """One quota, as last reported.

    Requests sent before `counts_from` belong to an earlier window. With `needs_probe`, the window was
    used up and has been reset: a single request is sent first, whose response reports the new window.
    """

    __slots__ = (
        "counts_from",
        "is_rolled_over",
        "limit",
        "needs_probe",
        "remaining",
        "reported_at",
        "resets_at",
        "scope",
        "started_at",
    )

    def __init__(self, reported: ReportedQuota, now: float) -> None:
        self.started_at, self.counts_from, self.scope = now, -math.inf, reported.scope
        self.update(reported, now)

    def update(self, reported: ReportedQuota, now: float) -> None:
        self.remaining, self.limit = reported.remaining, reported.limit
        resets_in = reported.resets_in
        if resets_in is None and reported.window is not None and reported.window <= _MAX_ASSUMED_RESET_S:
            resets_in = reported.window
        self.resets_at = math.inf if resets_in is None else now + resets_in
        self.reported_at = now
        self.needs_probe = self.is_rolled_over = False

    def roll(self, now: float) -> None:
        """Begin the next window, with the same limit until a response reports it."""
        # If the old window was not used up, no probe is needed: it may be a bucket that refills gradually.
        self.needs_probe, self.is_rolled_over = self.remaining < 1, True
        self.remaining = max(self.remaining, _UNLIMITED if self.limit is None else self.limit)
        self.resets_at = math.inf
        self.started_at = self.counts_from = now

    def predates_window(self, quota: ReportedQuota, sent_at: float, now: float) -> bool:
        """Whether a report belongs to the window before this one."""
        if sent_at >= self.counts_from:
            return False
        return quota.resets_in is None or abs(now + quota.resets_in - self.resets_at) > _RESET_TOLERANCE_S


class QuotaWindows:
    """The remaining units of each reported quota, less the requests in flight.

    Within a window the remaining units only decrease, whatever the order in which responses arrive.
    But a request that was sent after the last report replaces it, since a quota may be refilled. After
    the reset of a used-up quota a single request is sent first, to learn what the next window holds.
    Remaining units are spent at once: pacing them takes up to a tenth longer, even when no pacing is needed.

    A quota of a resource applies to the streams whose responses name this resource. One of a policy applies to
    all streams, except those whose responses name other policies only.
    """

    def __init__(self) -> None:
        self._windows: dict[str, QuotaWindow] = {}
        self.has_names = False
        """Whether a quota may apply to some streams only."""
        self.rate: float | None = None
        """The rate that the server reports, in requests a second."""
        self.reset_count = 0
        """Number of windows that have begun."""

    def available_at(
        self, in_flight: int, now: float, user: QuotaUser | None = None, users: Iterable[QuotaUser] = ()
    ) -> float:
        """When one more request may be sent: `now`, the time of a reset, or infinity until a response comes.

        With a `user`, only the quotas of this stream count; the requests in flight are then those of `users`.
        """
        at = now
        for name, window in self._windows.items():
            if now >= window.resets_at:
                window.roll(now)
                self.reset_count += 1
            if user is not None and window.scope is not QuotaScope.CREDENTIAL:
                if not _draws_on(user, name, window):
                    continue
                in_flight = sum([other.in_flight for other in users if _draws_on(other, name, window)])
            elif user is not None:
                in_flight = sum([other.in_flight for other in users])
            if window.needs_probe:
                if in_flight:
                    return math.inf
            elif window.remaining - in_flight < 1:
                if window.resets_at == math.inf:
                    # A response will report the new window; a quota without a reset is not waited for.
                    if window.is_rolled_over and in_flight:
                        at = math.inf
                else:
                    # The server may have counted the requests in flight already, so that units are left.
                    at = math.inf if window.remaining >= 1 else max(at, window.resets_at)
        return at

    @property
    def next_reset_at(self) -> float:
        """When the next window begins; infinity if no reset is known."""
        return min((window.resets_at for window in self._windows.values()), default=math.inf)

    @property
    def least_remaining(self) -> float:
        """The units that the quota with the fewest has left; infinity if none is known."""
        return min((window.remaining for window in self._windows.values()), default=math.inf)

    def draw_on_one(self, user: QuotaUser, other: QuotaUser) -> bool:
        """Whether a quota applies to both streams."""
        return any(
            _draws_on(user, name, window) and _draws_on(other, name, window) for name, window in self._windows.items()
        )

    def update(
        self, quotas: Sequence[ReportedQuota], sent_at: float, now: float, user: QuotaUser | None = None
    ) -> None:
        """Apply the quotas reported by a response that came at `now` to a request of `user` sent at `sent_at`."""
        for quota in quotas:
            if quota.rate is not None:
                self.rate = quota.rate
                continue
            if quota.scope is not QuotaScope.CREDENTIAL:
                self.has_names = True
                if user is not None and len(user.quota_names) < _MAX_QUOTAS:
                    user.quota_names.add(quota.name)
            window = self._windows.get(quota.name)
            if window is None:
                if len(self._windows) < _MAX_QUOTAS or self._evict_stale(now):
                    self._windows[quota.name] = QuotaWindow(quota, now)
                continue
            before = window.resets_at
            is_new_window = quota.resets_in is not None and now + quota.resets_in > before + _RESET_TOLERANCE_S
            if sent_at >= window.reported_at or is_new_window:
                if is_new_window:
                    window.started_at = window.counts_from = now
                window.update(quota, now)
                if abs(window.resets_at - before) <= _RESET_TOLERANCE_S:
                    # Resets are rounded up to seconds, so the earliest of one window is the most exact.
                    window.resets_at = min(window.resets_at, before)
            elif quota.remaining < window.remaining and not window.predates_window(quota, sent_at, now):
                window.remaining, window.reported_at = quota.remaining, now
                window.needs_probe = False

    def _evict_stale(self, now: float) -> bool:
        """Evict the quota that was reported longest ago, if it is stale. Returns whether it was."""
        oldest = min(self._windows, key=lambda name: self._windows[name].reported_at)
        if now - self._windows[oldest].reported_at < _STALE_AFTER_S:
            return False
        del self._windows[oldest]
        return True

    def record_unreported(self, sent_at: float, user: QuotaUser | None = None) -> None:
        """Deduct a request whose response reported no quota: the server may have counted it."""
        for name, window in self._windows.items():
            if sent_at >= window.counts_from and (user is None or _draws_on(user, name, window)):
                window.remaining -= 1
                window.needs_probe = False

    def has_window_in_first_half(self, now: float) -> bool:
        """Whether a window is less than half over, so that its units can also be spent later."""
        return any(
            window.resets_at != math.inf
            and window.resets_at - window.started_at >= _MIN_SHARED_WINDOW_S
            and 2 * (now - window.started_at) < window.resets_at - window.started_at
            for window in self._windows.values()
        )

    def describe(self, now: float) -> Iterator[str]:
        """Text for the quotas with the fewest remaining units."""
        for window in sorted(self._windows.values(), key=lambda window: window.remaining)[:_MAX_DESCRIBED]:
            if window.remaining < _UNLIMITED:
                limit = "" if window.limit is None else f" of {window.limit:,.0f}"
                until = "" if window.resets_at == math.inf else f" for {max(0.0, window.resets_at - now):.1f} s"
                yield f"{max(0.0, window.remaining):,.0f}{limit} requests left{until}"

    def has_reset_for(self, user: QuotaUser) -> bool:
        """Whether the reset of a quota of this stream is known."""
        return any(
            window.resets_at != math.inf and _draws_on(user, name, window) for name, window in self._windows.items()
        )

    @property
    def has_known_reset(self) -> bool:
        """Whether the reset of a quota is known; a refusal then needs no adaptive rate."""
        return any(window.resets_at != math.inf for window in self._windows.values())


def _draws_on(user: QuotaUser, name: str, window: QuotaWindow) -> bool:
    """Whether a quota applies to a stream."""
    if window.scope is QuotaScope.CREDENTIAL or name in user.quota_names:
        return True
    return window.scope is QuotaScope.POLICY and not user.quota_names
