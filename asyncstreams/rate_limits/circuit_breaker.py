"""Circuit breaker of one host, driven by a retry budget."""

from __future__ import annotations

import math
from random import Random

_MAX_BUDGET = 500.0
RETRY_COST, THROTTLE_COST = 14.0, 5.0
"""Budget units that a retry costs after a failure, and after a refusal without a Retry-After."""
_BUDGET_AFTER_OUTAGE = 100.0
_FIRST_PROBE_S, _PROBE_GROWTH = 1.0, 1.5
_MAX_PROBE_INTERVAL_S = 5.0
_MAX_LATE_PROBE_INTERVAL_S, _LATE_S = 30.0, 300.0  # once the host has been down for _LATE_S


class CircuitBreaker:
    """A retry budget; when it is used up, the host is down and is probed by one request at a time.

    A response refunds 1 unit, or what its earlier tries have cost. 36 failures in a row use up a full
    budget. While the host is down, requests wait instead of failing: a breaker that fails fast loses
    all work that is attempted during an outage.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.budget = _MAX_BUDGET
        self.down_since: float | None = None
        self.probe_at = math.inf
        self.probe_interval = _FIRST_PROBE_S
        """Upper bound of the seconds between a failed probe and the next one."""
        self.last_response_at = -math.inf

    @property
    def is_down(self) -> bool:
        return self.down_since is not None

    def record_retry(self, cost: float, now: float) -> None:
        """Charge the budget for a request that will be retried; the host is down once the budget cannot pay."""
        if self.down_since is not None:
            return
        if self.budget >= cost:
            self.budget -= cost
            return
        self.down_since, self.budget = now, 0.0
        self.probe_interval = _FIRST_PROBE_S
        self.probe_at = now + _FIRST_PROBE_S

    def record_response(self, now: float, refund: float = 1.0) -> bool:
        """Add `refund` to the budget and close the breaker. Returns whether the host was down."""
        self.last_response_at = now
        if self.down_since is None:
            self.budget = min(_MAX_BUDGET, self.budget + refund)
            return False
        self.down_since, self.probe_at = None, math.inf
        self.budget = _BUDGET_AFTER_OUTAGE
        return True

    def start_probe(self) -> None:
        """Block further probes while one is in flight."""
        self.probe_at = math.inf

    def finish_probe(self, now: float) -> None:
        """Schedule the next probe, unless a response has shown that the host is up."""
        if self.down_since is not None:
            is_late = now - self.down_since >= _LATE_S
            max_interval = _MAX_LATE_PROBE_INTERVAL_S if is_late else _MAX_PROBE_INTERVAL_S
            self.probe_interval = min(max_interval, self.probe_interval * _PROBE_GROWTH)
            self.probe_at = now + self._random.uniform(0.0, self.probe_interval)
