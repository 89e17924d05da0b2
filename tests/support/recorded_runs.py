"""Records of runs for the tests of reports: a rate limited shop, a hostile API, and the extremes."""

from __future__ import annotations

import math
from random import Random

from asyncstreams.event_log.run_record import (
    FailureRecord,
    Latencies,
    LatencySummary,
    RunRecord,
    SliceRecord,
    StreamRecord,
    ThresholdRecord,
    TimeSeries,
    WaitSummary,
)
from asyncstreams.events import Ceiling

HOSTILE = (
    "</script><script>document.title='owned'</script><!--",
    "<img src=x onerror=\"document.title='owned'\">",
    "<b>bold</b><a href=\"javascript:document.title='owned'\">link</a>",
    "\u2028\u2029'\"`${document.title='owned'}{{7*7}}%{x}$x^2$",
    "\x1b[31mred\x1b]0;owned\x07[red]markup[/red]\u202etxt.exe\r\n\ud800",
)
"""Texts that do harm if they are obeyed: each would set the title of the page or of the terminal, or show as markup."""


def empty_run() -> RunRecord:
    """A run that has only begun."""
    return RunRecord("20261201T021058.000Z-3f9a", "Shop", "JsonLines out", "2026-12-01T02:10:58.000Z", "running")


def shop_run() -> RunRecord:
    """A run of 42 minutes that the quota of a shop API limited: refusals, an outage of two minutes."""
    random = Random(7)
    orders = StreamRecord(
        "orders",
        "complete",
        began_s=0.4,
        ended_s=2_531.0,
        slices=365,
        pages=9_840,
        records=978_412,
        rows=978_412,
        requests=10_212,
        refused=241,
        retries=372,
        size=1_912_000_000,
        max_rate=5.0,
        limits="50 requests in 10 s (X-Shop-Api-Call-Limit)",
        ceilings={Ceiling.REPORTED_QUOTA: 2_190.0, Ceiling.LATENCY: 212.0, Ceiling.OUTAGE: 118.0},
        waits={
            "quota X-Shop-Api-Call-Limit: 50 of 50 used": WaitSummary(1_904, 7_310.0),
            "Retry-After of a 429": WaitSummary(241, 482.0),
            "api.shop.example is down": WaitSummary(3, 118.0),
        },
        latencies=_latencies(10_212, queue=0.0, limiter=1.92, server=0.41, body=0.06),
    )
    customers = StreamRecord(
        "customers",
        "complete",
        began_s=0.4,
        ended_s=1_406.2,
        slices=1,
        pages=1_251,
        records=125_031,
        quarantined=12,
        rows=125_019,
        requests=1_302,
        refused=31,
        retries=44,
        size=210_400_000,
        max_rate=5.0,
        limits="50 requests in 10 s (X-Shop-Api-Call-Limit)",
        ceilings={Ceiling.REPORTED_QUOTA: 804.0, Ceiling.LATENCY: 530.0},
        waits={"quota X-Shop-Api-Call-Limit: 50 of 50 used": WaitSummary(402, 811.0)},
        latencies=_latencies(1_302, queue=0.0, limiter=0.61, server=0.36, body=0.03),
        notes=("12 records did not match the schema and are in quarantine",),
    )
    refunds = StreamRecord(
        "refunds",
        "partial",
        error="2 of 61 slices failed",
        began_s=310.0,
        ended_s=1_890.5,
        slices=59,
        failed=2,
        pages=402,
        records=39_874,
        rows=39_874,
        requests=460,
        refused=4,
        retries=19,
        size=48_100_000,
        max_rate=5.0,
        ceilings={Ceiling.CONCURRENCY: 905.0, Ceiling.REPORTED_QUOTA: 440.0, Ceiling.DISK: 61.0},
        latencies=_latencies(460, queue=1.31, limiter=0.7, server=2.05, body=0.21),
    )
    products = StreamRecord(
        "products",
        "complete",
        began_s=0.4,
        ended_s=96.8,
        slices=1,
        pages=84,
        records=8_391,
        rows=8_391,
        requests=86,
        retries=2,
        size=31_000_000,
        ceilings={Ceiling.LATENCY: 71.0, Ceiling.CPU: 14.0},
        latencies=_latencies(86, queue=0.0, limiter=0.02, server=0.92, body=0.11),
    )
    streams = (orders, customers, refunds, products)
    return RunRecord(
        id="20261201T021058.412Z-3f9a",
        source="Shop",
        destination="DuckDB shop.duckdb",
        began_at="2026-12-01T02:10:58.412Z",
        outcome="partial",
        import_path="shop.py:Shop",
        command="asyncstreams read shop.py:Shop --config shop.toml --to shop.duckdb --require 'refused <= 1%'",
        version="0.9.0",
        seconds=2_533.1,
        cpu_s=311.8,
        error="2 slices of refunds failed: answered 500 Internal Server Error; the next run reads them again",
        verdict=(
            "orders was limited by the quota that the API reports (5 requests a second): the API allows no more "
            "requests with this credential."
        ),
        ceilings={name: sum(s.ceilings.get(name, 0.0) for s in streams) for s in streams for name in s.ceilings},
        settings={
            "": {"max_concurrency": "16", "authenticator": "TokenAuthenticator(token='***')"},
            "orders": {"cursor_field": "'updated_at'", "lookback": "timedelta(hours=2)"},
            "refunds": {"max_concurrency": "2"},
        },
        streams=streams,
        unavailable={"payouts": "answered 403 Forbidden: the token lacks the scope read_payouts"},
        series=_shop_series(random),
        latencies=_latencies(12_060, queue=0.004, limiter=1.62, server=0.43, body=0.06),
        slices=_shop_slices(random),
        slices_left_out=126,
        failures=(
            FailureRecord("orders", "HttpStatusError", "", 241, 12.0, 2_502.4, 429),
            FailureRecord("orders", "retry", "answered 503 Service Unavailable", 131, 1_201.0, 1_318.0),
            FailureRecord("customers", "HttpStatusError", "", 31, 15.2, 1_380.0, 429),
            FailureRecord("refunds", "StallTimeout", "no byte for 30 s", 9, 402.0, 1_710.0),
            FailureRecord(
                "refunds",
                "HttpStatusError",
                "slice {'order_day': '2026-03-14'}: answered 500 Internal Server Error: could not aggregate refunds",
                2,
                1_644.0,
                1_822.0,
                500,
                is_final=True,
            ),
        ),
        thresholds=(
            ThresholdRecord(
                "orders.records >= 0.9 * last",
                True,
                "found 978,412, required >= 878,391 (975,990 in the run 20261130T021102.120Z-88c1)",
            ),
            ThresholdRecord("refused <= 1%", False, "found 2.289 % of the requests, required <= 1 % of the requests"),
        ),
    )


def hostile_run() -> RunRecord:
    """A run in which every text is harmful."""
    statuses = dict.fromkeys(HOSTILE, (1, 1))
    series = TimeSeries(1.0, (4, 2), (1, 0), (1, 1), (9, 4), (10, 10), (2, 1), (2.0, None), statuses)
    times = Latencies(*[LatencySummary(3, 0.6, 0.1, 0.2, 0.4, 0.5)] * 4)
    bad = "".join(HOSTILE)
    return RunRecord(
        *(bad, bad, bad, bad, "failed"),
        import_path=bad,
        command=bad,
        version=bad,
        seconds=2.0,
        error=bad,
        verdict=bad,
        ceilings={bad: 1.0},
        settings={text: {text: text} for text in HOSTILE},
        streams=tuple(
            StreamRecord(
                text,
                "failed",
                error=text,
                ended_s=2.0,
                requests=6,
                records=9,
                limits=text,
                ceilings={text: 1.0, Ceiling.CPU: 0.5},
                waits={text: WaitSummary(1, 1.0)},
                latencies=times,
                notes=HOSTILE,
            )
            for text in HOSTILE
        ),
        unavailable={text + "x": text for text in HOSTILE},
        series=series,
        latencies=times,
        slices=tuple(SliceRecord(text, text, 0.1 * n, 1.0, 1, 2) for n, text in enumerate(HOSTILE)),
        failures=tuple(FailureRecord(text, text, text, 2, 0.0, 1.0, 500) for text in HOSTILE),
        thresholds=tuple(ThresholdRecord(text, False, text) for text in HOSTILE),
    )


def large_run(streams: int = 200, slices: int = 300, intervals: int = 600, interval: float = 1.0) -> RunRecord:
    """A run as large as a record may be."""
    random = Random(3)
    seconds = intervals * interval
    names = [f"stream_with_a_long_name_{n:03}" for n in range(streams)]
    counts = tuple(random.randrange(100) for _ in range(intervals))
    statuses = {str(status): counts for status in range(200, 219)} | {"other": counts}
    begins = [random.random() * seconds * 0.9 for _ in range(slices)]
    series = TimeSeries(interval, *[counts] * 6, (5.0,) * intervals, statuses)
    return RunRecord(
        *("20261201T021058.000Z-3f9a", "Large", "Parquet out", "2026-12-01T02:10:58.000Z", "interrupted"),
        seconds=seconds,
        verdict="The run was limited by max_concurrency: raise max_concurrency.",
        ceilings={ceiling.value: seconds for ceiling in Ceiling},
        streams=tuple(
            StreamRecord(
                name,
                "interrupted",
                ended_s=seconds * (n + 1) / streams,
                requests=1_000,
                records=50_000,
                ceilings={ceiling.value: seconds / 20 for ceiling in Ceiling},
                waits={f"reason {number}": WaitSummary(3, 9.0) for number in range(4)},
                latencies=_latencies(1_000, queue=0.1, limiter=0.2, server=0.3, body=0.1),
            )
            for n, name in enumerate(names)
        ),
        series=series,
        latencies=_latencies(200_000, queue=0.1, limiter=0.2, server=0.3, body=0.1),
        slices=tuple(
            SliceRecord(names[n % streams], f"{{'day': {n}}}", begin, begin + seconds * 0.1, 3, 40)
            for n, begin in enumerate(begins)
        ),
        slices_left_out=9_700,
        failures=tuple(FailureRecord(names[n % streams], "retry", "x" * 500, n, 0, seconds) for n in range(100)),
        failures_left_out=12,
    )


def _latencies(count: int, **means: float) -> Latencies:
    return Latencies(**{name: _summary(count, mean) for name, mean in means.items()})


def _summary(count: int, mean: float) -> LatencySummary:
    if not mean:
        return LatencySummary(count)
    return LatencySummary(count, count * mean, mean * 0.82, mean * 1.7, mean * 3.4, mean * 9)


def _shop_series(random: Random) -> TimeSeries:
    """506 intervals of five seconds; a rate of 6.8 a second with refusals first, then less than five."""
    requests, refused, failed, records, in_flight = [], [], [], [], []
    statuses: dict[str, list[int]] = {"200": [], "429": [], "503": [], "500": [], "StallTimeout": []}
    for n in range(506):
        rate = 6.8 if n < 30 else 4.55 + 0.15 * math.sin(n / 20)
        is_down, is_late = 240 <= n < 264, n > 380
        total = max(0, round(random.gauss(5 * rate * (0.88 if is_late else 1), 1.1)))
        total = random.randrange(2) if is_down else total
        no = 0 if is_down else random.choice([0, 0, 0, 1, 1, 2]) + (6 if n < 24 else 0)
        broken = total if is_down else int(random.random() < 0.02)
        stalled = int(random.random() < 0.015)
        requests.append(total)
        refused.append(min(no, total))
        failed.append(broken + stalled)
        good = max(0, total - no - broken - stalled)
        records.append(good * random.randrange(93, 101))
        in_flight.append(1 if is_down else min(16, 3 + random.randrange(4) + (5 if 60 < n < 378 else 0)))
        for status, count in zip(statuses, (good, min(no, total), broken, int(n in (328, 364)), stalled), strict=True):
            statuses[status].append(count)
    limit: list[float | None] = [None if n < 3 else 8.0 if n < 30 else 5.0 for n in range(506)]
    return TimeSeries(
        5.0,
        *map(tuple, (requests, refused, failed, records)),
        tuple(count * 2_000 for count in records),
        tuple(in_flight),
        tuple(limit),
        {status: tuple(counts) for status, counts in statuses.items()},
    )


def _shop_slices(random: Random) -> tuple[SliceRecord, ...]:
    """Days of orders on seven lanes, days of refunds on two, and two whole streams."""
    found = [SliceRecord("customers", "", 0.4, 1_406.2, 1_251, 125_031)]
    found.append(SliceRecord("products", "", 0.4, 96.8, 84, 8_391))
    found += _lanes(random, "orders", "updated_at", 7, 0.4, 2_531.0, 42.0, frozenset())
    found += _lanes(random, "refunds", "order_day", 2, 310.0, 1_890.0, 52.0, frozenset({17, 44}))
    slowest = sorted(found, key=lambda each: each.began_s - each.ended_s)
    return tuple(sorted(slowest[:150] + random.sample(slowest[150:], 150), key=lambda each: each.began_s))


def _lanes(
    random: Random, stream: str, key: str, lanes: int, begin: float, end: float, mean: float, failing: frozenset[int]
) -> list[SliceRecord]:
    ends = [begin] * lanes
    found: list[SliceRecord] = []
    while min(ends) < end - 20:
        lane = ends.index(min(ends))
        took = min(max(6.0, random.lognormvariate(math.log(mean), 0.5)), end - ends[lane])
        took += 118.0 if ends[lane] < 1_200 < ends[lane] + took else 0.0
        day = f"{{'{key}': '2026-{1 + len(found) // 28 % 12:02}-{1 + len(found) % 28:02}'}}"
        outcome = "failed" if len(found) in failing else "complete"
        found.append(SliceRecord(stream, day, ends[lane], ends[lane] + took, int(took / 3), int(took * 33), outcome))
        ends[lane] += took
    return found
