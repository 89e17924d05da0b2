"""Cases of the governor simulation: servers, figures and their targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from simulated_servers import (
    LATENCY,
    FailingServer,
    FixedWindowServer,
    PausingServer,
    QueueingServer,
    Reply,
    SentRequest,
    SimulatedRun,
    TokenBucketServer,
)

from asyncstreams import RateLimit

WORKERS = 64
MAX_CONCURRENCY = 32  # the default of a stream
_RATE, _BURST = 200.0, 50.0
_LEARNING_S = 5.0


class Figure(NamedTuple):
    """A measured value and the bounds within which it should lie, inclusive."""

    name: str
    value: float
    minimum: float = -math.inf
    maximum: float = math.inf

    @property
    def is_reached(self) -> bool:
        return self.minimum <= self.value <= self.maximum

    @property
    def target(self) -> str:
        bounds = (
            f"{sign} {bound:g}" for sign, bound in (("≥", self.minimum), ("≤", self.maximum)) if abs(bound) < math.inf
        )
        return " and ".join(bounds)


Case = Callable[[int, float], list[Figure]]
"""Arguments: a seed, and a scale; the targets are for scale 1."""


def refusing(seed: int, scale: float, retry_after: float | None = 1.0) -> list[Figure]:
    run = SimulatedRun(
        seed, lambda random: TokenBucketServer(random, _RATE, _BURST, retry_after), int(12_000 * scale), WORKERS
    ).run()
    return [
        Figure("rate to the limit, after 5 s", run.rate(_LEARNING_S, run.seconds) / _RATE, minimum=0.95),
        Figure("refused after 5 s", run.refused_share(_LEARNING_S), maximum=0.01),
    ]


def refusing_silently(seed: int, scale: float) -> list[Figure]:
    return refusing(seed, scale, None)


def refusing_short(seed: int, scale: float, retry_after: float | None = None) -> list[Figure]:
    """A job of some seconds; the ideal is the burst and the rate of the bucket."""
    count = int(3_000 * scale)
    run = SimulatedRun(
        seed, lambda random: TokenBucketServer(random, _RATE, _BURST, retry_after), count, MAX_CONCURRENCY
    ).run()
    # Each second that the server orders costs what the bucket cannot hold of it, and two are needed to learn the rate.
    most_seconds, most_refused = (1.08, 0.01) if retry_after is None else (1.18, 0.01)
    if scale < 1:
        most_seconds, most_refused = 1.6, 0.06
    return [
        Figure("seconds to the ideal", run.seconds / ((count - _BURST) / _RATE), maximum=most_seconds),
        Figure("refused", run.refused_share(), maximum=most_refused),
    ]


def refusing_short_ordered(seed: int, scale: float) -> list[Figure]:
    return refusing_short(seed, scale, 1.0)


def refusing_few(seed: int, scale: float) -> list[Figure]:
    """A job of 24 requests, whatever the scale."""
    run = SimulatedRun(seed, lambda random: TokenBucketServer(random, 4, 8, None), 24, 24).run()
    return [Figure("requests refused", len(run.sent) - len(run.accepted), maximum=8)]


def refusing_lifted(seed: int, scale: float) -> list[Figure]:
    """The limit is a quarter for 40 s."""
    begin, end = 20 * scale, 60 * scale

    class Server(TokenBucketServer):
        def respond(self, now: float) -> Reply:
            self.rate = _RATE / 4 if begin <= now < end else _RATE
            return super().respond(now)

    run = SimulatedRun(seed, lambda random: Server(random, _RATE, _BURST), 10**9, WORKERS, until=end + 40 * scale).run()
    return [
        Figure(
            "rate to the limit, 5 s after the cut",
            run.rate(begin + 5, end) / (_RATE / 4),
            minimum=0.9 if scale == 1 else 0.7,
        ),
        Figure(
            "rate to the limit, 10 s after it is lifted", run.rate(end + 10, end + 40 * scale) / _RATE, minimum=0.85
        ),
        Figure("refused", run.refused_share(), maximum=0.01 if scale == 1 else 0.05),
    ]


def queueing(seed: int, scale: float) -> list[Figure]:
    run = SimulatedRun(seed, lambda random: QueueingServer(random, _RATE), int(6_000 * scale), WORKERS).run()
    return [
        Figure("rate to the knee, after 5 s", run.rate(_LEARNING_S, run.seconds) / _RATE, minimum=0.95),
        Figure("p99 latency to the unloaded", _p99(run, _LEARNING_S) / LATENCY, maximum=2.0),
        Figure("refused", run.refused_share(), maximum=0.0),
    ]


def queueing_cut(seed: int, scale: float) -> list[Figure]:
    """The capacity is a quarter for 40 s."""
    begin, end = 20 * scale, 60 * scale
    run = SimulatedRun(
        seed, lambda random: QueueingServer(random, _RATE, cut=(begin, end)), 10**9, WORKERS, until=end + 20 * scale
    ).run()
    return [
        Figure("rate to the knee, 5 s after the cut", run.rate(begin + 5, end) / (_RATE / 4), minimum=0.95),
        Figure("rate to the knee, 5 s after it is restored", run.rate(end + 5, end + 20 * scale) / _RATE, minimum=0.95),
        Figure("refused", run.refused_share(), maximum=0.0),
    ]


def declared(seed: int, scale: float) -> list[Figure]:
    """A declared limit; the ideal is the burst and the rate of the bucket."""
    count = int(3_000 * scale)
    limit = RateLimit(_RATE, smooth=True)
    run = SimulatedRun(
        seed, lambda random: TokenBucketServer(random, _RATE, _BURST), count, WORKERS, limits=(limit,)
    ).run()
    return [
        Figure("seconds to the ideal", run.seconds / ((count - _BURST) / _RATE), maximum=1.02 if scale == 1 else 1.15),
        Figure("refused", run.refused_share(), maximum=0.0),
    ]


def quota(seed: int, scale: float, skew: float | None = None) -> list[Figure]:
    windows = max(3, round(10 * scale))
    run = SimulatedRun(seed, lambda random: FixedWindowServer(random, 100, 10, skew=skew), 100 * windows, 50).run()
    return [
        Figure("seconds to the ideal", run.seconds / (10 * (windows - 1)), maximum=1.02 if scale == 1 else 1.1),
        Figure("refused", run.refused_share(), maximum=0.0),
    ]


def quota_skewed(seed: int, scale: float) -> list[Figure]:
    """The reset is a timestamp of a clock that is an hour wrong."""
    return quota(seed, scale, -3600.0 if seed % 2 else 3600.0)


def quota_shared(seed: int, scale: float) -> list[Figure]:
    """Another client sends two requests a second."""
    windows = max(3, round(10 * scale))
    run = SimulatedRun(seed, lambda random: FixedWindowServer(random, 100, 10, foreign=2), 80 * windows, 50).run()
    return [
        Figure("seconds to those for 80 a window", run.seconds / (10 * (windows - 1)), maximum=1.02),
        Figure("refused", run.refused_share(), maximum=0.01),
    ]


def quota_moved(seed: int, scale: float) -> list[Figure]:
    """Every other window ends later than first reported."""
    run = SimulatedRun(seed, lambda random: FixedWindowServer(random, 100, 10, moves=0.5), int(1_000 * scale), 50).run()
    return [Figure("refused", run.refused_share(), maximum=0.01)]


def pauses(seed: int, scale: float) -> list[Figure]:
    """Random pauses of 1 s to 15 minutes."""
    count = int(10_000 * scale)

    class Server(PausingServer):
        pause_count = 0

        def respond(self, now: float) -> Reply:
            reply = super().respond(now)
            self.pause_count += reply.retry_after is not None
            if self.pause_count >= count:
                run.stop()
            return reply

    run = SimulatedRun(seed, lambda random: Server(random, 0.5), 10**9, 32)
    early, longest = _check_pauses(run.run().sent)
    return [
        Figure("requests sent during a pause", early, maximum=0),
        Figure("delay after a pause, relative to 10 % of it plus 1 s", longest, maximum=1.0),
    ]


def outage(seed: int, scale: float) -> list[Figure]:
    begin = 5 * scale
    end = begin + 60 * scale
    run = SimulatedRun(
        seed, lambda random: FailingServer(random, down=((begin, end),)), 10**9, WORKERS, until=end + 8
    ).run()
    return [
        Figure("requests sent during it", sum(begin <= request.sent_at < end for request in run.sent), maximum=200),
        Figure("slices failed", run.failed_pages, maximum=0),
        Figure(
            "seconds to the first success",
            min(request.done_at for request in run.accepted if request.sent_at >= end) - end,
            maximum=6.0,
        ),
        Figure("rate 7 s after it to the best", run.rate(end + 7, end + 8) / (WORKERS / LATENCY), minimum=0.9),
    ]


def failing_by_chance(seed: int, scale: float) -> list[Figure]:
    count = int(5_000 * scale)
    run = SimulatedRun(seed, lambda random: FailingServer(random, 0.1), count, WORKERS).run()
    return [
        Figure("requests for a page", len(run.sent) / count, maximum=1.2),
        Figure("pages failed", run.failed_pages, maximum=0),
    ]


def slices(seed: int, scale: float) -> list[Figure]:
    count = int(5_000 * scale)
    run = SimulatedRun(seed, FailingServer, count, 100).run()
    return [Figure("seconds to the ideal", run.seconds / (count / 100 * LATENCY), maximum=1.25 if scale == 1 else 3)]


def shares(seed: int, scale: float) -> list[Figure]:
    """Two streams on one quota: one has a hundred times the slices, the other three times the weight."""
    until = 200 * scale
    streams = (("few", 3.0, 4), ("many", 1.0, 400))
    run = SimulatedRun(
        seed, lambda random: FixedWindowServer(random, 100, 5), 10**9, 0, until=until, streams=streams
    ).run()
    # At the end each worker of the larger stream finishes its page.
    sent = [request for request in run.accepted if request.sent_at < until]
    few = sum(request.stream == "few" for request in sent)
    return [Figure("share of its weight", few / (0.75 * len(sent)), minimum=0.9, maximum=1.1)]


CASES: dict[str, tuple[Case, str]] = {
    "refusing": (refusing, "refuses above 200/s with a burst of 50, `Retry-After: 1`"),
    "refusing-silently": (refusing_silently, "the same, without Retry-After"),
    "refusing-short": (refusing_short, "the same without Retry-After, 3,000 requests, 32 at once"),
    "refusing-short-ordered": (refusing_short_ordered, "the same with `Retry-After: 1`"),
    "refusing-few": (refusing_few, "refuses above 4/s with a burst of 8, 24 requests"),
    "refusing-lifted": (refusing_lifted, "the first, 50/s for 40 s"),
    "queueing": (queueing, "queues, 200/s"),
    "queueing-cut": (queueing_cut, "queues, 50/s for 40 s"),
    "declared": (declared, "200/s, declared"),
    "quota": (quota, "100 per 10 s by headers, reset from now"),
    "quota-skewed": (quota_skewed, "the same, reset since 1970, its clock wrong by an hour"),
    "quota-shared": (quota_shared, "the same as the first, shared with another client"),
    "quota-moved": (quota_moved, "the same as the first, every other reset moved"),
    "pauses": (pauses, "10,000 pauses at random times"),
    "outage": (outage, "down for 60 s"),
    "failing": (failing_by_chance, "fails one in ten"),
    "slices": (slices, "1,000 slices of 5 pages, 50 ms, 100 at once"),
    "shares": (shares, "two streams on one quota, weights 3 and 1"),
}


def _p99(run: SimulatedRun, begin: float) -> float:
    latencies = sorted(request.done_at - request.sent_at for request in run.accepted if request.sent_at > begin)
    return latencies[int(len(latencies) * 0.99)]


def _check_pauses(sent: list[SentRequest]) -> tuple[int, float]:
    """Requests sent during a pause, and the longest delay after one, in units of a tenth of it plus 1 s."""
    events = [(request.sent_at, None) for request in sent]
    events += [(request.done_at, request.ordered_pause) for request in sent if request.ordered_pause is not None]
    ends, longest, early, pause = -math.inf, 0.0, 0, 0.0
    is_over = True
    for at, ordered in sorted(events, key=lambda event: event[0]):
        if ordered is None:
            early += at < ends - 1e-6
            if not is_over:
                longest, is_over = max(longest, (at - ends) / (0.1 * pause + 1)), True
        elif at + ordered > ends:
            ends, pause, is_over = at + ordered, ordered, False
    return early, longest
