"""A log of simulated requests, to compare runs in different processes."""

from __future__ import annotations

from simulated_servers import FailingServer, FixedWindowServer, SimulatedRun, TokenBucketServer


def request_log(seed: int) -> list[str]:
    """All requests of three simulations with this seed."""
    runs = (
        SimulatedRun(seed, lambda random: TokenBucketServer(random, 100, 20), 600, 32),
        SimulatedRun(seed, lambda random: FixedWindowServer(random, 50, 3, foreign=1), 200, 32),
        SimulatedRun(seed, lambda random: FailingServer(random, 0.1, down=((1, 9),)), 10**9, 32, until=12),
    )
    # Virtual time starts at the time of the machine, which changes the last digits.
    return [
        f"{request.sent_at:.4f} {request.status} {request.done_at:.4f} {request.attempt}"
        for run in runs
        for request in run.run().sent
    ]
