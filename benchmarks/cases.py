"""Which servers does the governor meet, what is aimed at, and what came of it?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from simulated_servers import LATENCY, Failing, Ordering, Queueing, Refusing, Reply, Sent, Windowed, World

from asyncstreams import RateLimit

WORKERS = 64
_RATE, _BURST = 200.0, 50.0
_BEGIN = 5.0  # seconds in which it may learn


class Figure(NamedTuple):
    """What a run came to, and between what it should lie."""

    name: str
    value: float
    least: float = -math.inf
    most: float = math.inf

    @property
    def is_reached(self) -> bool:
        return self.least <= self.value <= self.most

    @property
    def aim(self) -> str:
        bounds = (f"{sign} {bound:g}" for sign, bound in (("≥", self.least), ("≤", self.most)) if abs(bound) < math.inf)
        return " and ".join(bounds)


Case = Callable[[int, float], list[Figure]]
"""A seed, and a scale: 1 is the size that aims are for."""


def refusing(seed: int, scale: float, retry_after: float | None = 1.0) -> list[Figure]:
    world = World(seed, lambda random: Refusing(random, _RATE, _BURST, retry_after), int(12_000 * scale), WORKERS).run()
    return [
        Figure("rate to the limit, after 5 s", world.rate(_BEGIN, world.seconds) / _RATE, least=0.95),
        Figure("refused after 5 s", world.refused(_BEGIN), most=0.01),
    ]


def refusing_without_a_word(seed: int, scale: float) -> list[Figure]:
    return refusing(seed, scale, None)


def refusing_lifted(seed: int, scale: float) -> list[Figure]:
    """Its limit is a quarter for 40 s."""
    begin, end = 20 * scale, 60 * scale

    class Server(Refusing):
        def ask(self, now: float) -> Reply:
            self.rate = _RATE / 4 if begin <= now < end else _RATE
            return super().ask(now)

    world = World(seed, lambda random: Server(random, _RATE, _BURST), 10**9, WORKERS, until=end + 40 * scale).run()
    return [
        Figure(
            "rate to the limit, 5 s after the cut",
            world.rate(begin + 5, end) / (_RATE / 4),
            least=0.9 if scale == 1 else 0.7,
        ),
        Figure(
            "rate to the limit, 10 s after it is lifted", world.rate(end + 10, end + 40 * scale) / _RATE, least=0.85
        ),
        Figure("refused", world.refused(), most=0.01 if scale == 1 else 0.05),
    ]


def queueing(seed: int, scale: float) -> list[Figure]:
    world = World(seed, lambda random: Queueing(random, _RATE), int(6_000 * scale), WORKERS).run()
    return [
        Figure("rate to the knee, after 5 s", world.rate(_BEGIN, world.seconds) / _RATE, least=0.95),
        Figure("p99 latency to the unloaded", _p99(world, _BEGIN) / LATENCY, most=2.0),
        Figure("refused", world.refused(), most=0.0),
    ]


def queueing_cut(seed: int, scale: float) -> list[Figure]:
    """Its capacity is a quarter for 40 s."""
    begin, end = 20 * scale, 60 * scale
    world = World(
        seed, lambda random: Queueing(random, _RATE, cut=(begin, end)), 10**9, WORKERS, until=end + 20 * scale
    ).run()
    return [
        Figure("rate to the knee, 5 s after the cut", world.rate(begin + 5, end) / (_RATE / 4), least=0.95),
        Figure("rate to the knee, 5 s after it is restored", world.rate(end + 5, end + 20 * scale) / _RATE, least=0.95),
        Figure("refused", world.refused(), most=0.0),
    ]


def told(seed: int, scale: float) -> list[Figure]:
    """A limit that is declared: the bucket's burst and its rate are what can be had."""
    count = int(3_000 * scale)
    limit = RateLimit(_RATE, smooth=True)
    world = World(seed, lambda random: Refusing(random, _RATE, _BURST), count, WORKERS, limits=(limit,)).run()
    return [
        Figure("seconds to the ideal", world.seconds / ((count - _BURST) / _RATE), most=1.02 if scale == 1 else 1.15),
        Figure("refused", world.refused(), most=0.0),
    ]


def quota(seed: int, scale: float, skew: float | None = None) -> list[Figure]:
    windows = max(3, round(10 * scale))
    world = World(seed, lambda random: Windowed(random, 100, 10, skew=skew), 100 * windows, 50).run()
    return [
        Figure("seconds to the ideal", world.seconds / (10 * (windows - 1)), most=1.02 if scale == 1 else 1.1),
        Figure("refused", world.refused(), most=0.0),
    ]


def quota_skewed(seed: int, scale: float) -> list[Figure]:
    """The reset is a moment, of a clock that is an hour wrong."""
    return quota(seed, scale, -3600.0 if seed % 2 else 3600.0)


def quota_shared(seed: int, scale: float) -> list[Figure]:
    """Another client takes two a second."""
    windows = max(3, round(10 * scale))
    world = World(seed, lambda random: Windowed(random, 100, 10, foreign=2), 80 * windows, 50).run()
    return [
        Figure("seconds to those for 80 a window", world.seconds / (10 * (windows - 1)), most=1.02),
        Figure("refused", world.refused(), most=0.01),
    ]


def quota_moved(seed: int, scale: float) -> list[Figure]:
    """Every other window ends later than it was told."""
    world = World(seed, lambda random: Windowed(random, 100, 10, moves=0.5), int(1_000 * scale), 50).run()
    return [Figure("refused", world.refused(), most=0.01)]


def orders(seed: int, scale: float) -> list[Figure]:
    """Pauses of anything between a second and a quarter of an hour, asked for at random."""
    count = int(10_000 * scale)

    class Server(Ordering):
        asked = 0

        def ask(self, now: float) -> Reply:
            reply = super().ask(now)
            self.asked += reply.retry_after is not None
            if self.asked >= count:
                world.end()
            return reply

    world = World(seed, lambda random: Server(random, 0.5), 10**9, 32)
    early, longest = _kept_orders(world.run().sent)
    return [
        Figure("requests before the end of a pause", early, most=0),
        Figure("wait beyond the pause, to 10 % of it and 1 s", longest, most=1.0),
    ]


def outage(seed: int, scale: float) -> list[Figure]:
    begin = 5 * scale
    end = begin + 60 * scale
    world = World(seed, lambda random: Failing(random, down=((begin, end),)), 10**9, WORKERS, until=end + 8).run()
    return [
        Figure("requests sent into it", sum(begin <= one.at < end for one in world.sent), most=200),
        Figure("slices failed", world.failed, most=0),
        Figure(
            "seconds to the first success", min(one.done for one in world.admitted if one.at >= end) - end, most=6.0
        ),
        Figure("rate 7 s after it to the best", world.rate(end + 7, end + 8) / (WORKERS / LATENCY), least=0.9),
    ]


def failing_by_chance(seed: int, scale: float) -> list[Figure]:
    count = int(5_000 * scale)
    world = World(seed, lambda random: Failing(random, 0.1), count, WORKERS).run()
    return [
        Figure("requests for a page", len(world.sent) / count, most=1.2),
        Figure("pages failed", world.failed, most=0),
    ]


def slices(seed: int, scale: float) -> list[Figure]:
    count = int(5_000 * scale)
    world = World(seed, Failing, count, 100).run()
    return [Figure("seconds to the ideal", world.seconds / (count / 100 * LATENCY), most=1.25 if scale == 1 else 3)]


def shares(seed: int, scale: float) -> list[Figure]:
    """Two streams of one quota: one has a hundred times the slices, the other three times the weight."""
    until = 200 * scale
    streams = (("few", 3.0, 4), ("many", 1.0, 400))
    world = World(seed, lambda random: Windowed(random, 100, 5), 10**9, 0, until=until, streams=streams).run()
    # At the end each of the many still has its page to read.
    sent = [one for one in world.admitted if one.at < until]
    few = sum(one.stream == "few" for one in sent)
    return [Figure("share of its weight", few / (0.75 * len(sent)), least=0.9, most=1.1)]


CASES: dict[str, tuple[Case, str]] = {
    "refusing": (refusing, "refuses above 200/s and a burst of 50, `Retry-After: 1`"),
    "refusing-silently": (refusing_without_a_word, "the same, without Retry-After"),
    "refusing-lifted": (refusing_lifted, "the same as the first, 50/s for 40 s"),
    "queueing": (queueing, "queues, 200/s"),
    "queueing-cut": (queueing_cut, "queues, 50/s for 40 s"),
    "told": (told, "200/s, declared"),
    "quota": (quota, "100 per 10 s by headers, reset from now"),
    "quota-skewed": (quota_skewed, "the same, reset since 1970, its clock wrong by an hour"),
    "quota-shared": (quota_shared, "the same as the first, shared with another client"),
    "quota-moved": (quota_moved, "the same as the first, every other reset moved"),
    "orders": (orders, "10,000 pauses asked for at random"),
    "outage": (outage, "down for 60 s"),
    "failing": (failing_by_chance, "fails one in ten"),
    "slices": (slices, "1,000 slices of 5 pages, 50 ms, 100 at once"),
    "shares": (shares, "two streams on one quota, weights 3 and 1"),
}


def _p99(world: World, begin: float) -> float:
    latencies = sorted(one.done - one.at for one in world.admitted if one.at > begin)
    return latencies[int(len(latencies) * 0.99)]


def _kept_orders(sent: list[Sent]) -> tuple[int, float]:
    """Requests before the end of a pause, and the longest wait after one, to a tenth of it and a second."""
    events = [(one.at, None) for one in sent]
    events += [(one.done, one.ordered) for one in sent if one.ordered is not None]
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
