"""Is the host well enough to be asked again?"""

from __future__ import annotations

import math
from random import Random

_FULL = 500.0
RETRY, THROTTLE = 14.0, 5.0
"""What another try costs: after a failure, and after a refusal that orders no wait."""
_AFTER_AN_OUTAGE = 100.0
_FIRST_PROBE, _PROBE_GROWTH = 1.0, 1.5
_LONGEST, _LONGEST_LATER, _LATER = 5.0, 30.0, 300.0


class CircuitBreaker:
    """A budget of retries; when it is used up the host is down, and probed by one request at a time.

    An answer gives 1 back, and one after retries what those cost. Nobody fails for it: all wait for
    the host, since a budget that fails fast burns the work of an outage.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.budget = _FULL
        self.down_since: float | None = None
        self.probe_at = math.inf
        self.interval = _FIRST_PROBE
        """Seconds, at most, from a probe that failed to the next."""
        self.answered_at = -math.inf

    @property
    def is_down(self) -> bool:
        return self.down_since is not None

    def retried(self, cost: float, now: float) -> None:
        """A request failed and wants to be sent again."""
        if self.down_since is not None:
            return
        if self.budget >= cost:
            self.budget -= cost
            return
        self.down_since, self.budget = now, 0.0
        self.interval = _FIRST_PROBE
        self.probe_at = now + _FIRST_PROBE

    def answered(self, now: float, paid: float = 1.0) -> bool:
        """A request was answered, which had paid so much for its retries; whether the host was down."""
        self.answered_at = now
        if self.down_since is None:
            self.budget = min(_FULL, self.budget + paid)
            return False
        self.down_since, self.probe_at = None, math.inf
        self.budget = _AFTER_AN_OUTAGE
        return True

    def probing(self) -> None:
        """A probe is under way: no other one meanwhile."""
        self.probe_at = math.inf

    def probed(self, now: float) -> None:
        """It has ended, however: unless it was answered, another one is due later."""
        if self.down_since is not None:
            longest = _LONGEST if now - self.down_since < _LATER else _LONGEST_LATER
            self.interval = min(longest, self.interval * _PROBE_GROWTH)
            self.probe_at = now + self._random.uniform(0.0, self.interval)
