"""Windows leave no gaps: whatever the precision and the bounds of an API, it gives each row exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

import httpx
from hypothesis import given
from hypothesis import strategies as st
from incremental_api import BEGIN, WallClock
from simulation import examples

from asyncstreams import (
    AsyncStreamsError,
    CursorFormat,
    HttpStream,
    NumberRanges,
    Slice,
    State,
    TimeWindows,
)

Bounds = Literal["[)", "[]", "(]", "()"]
_SECOND = timedelta(seconds=1)
_BERLIN = ZoneInfo("Europe/Berlin")


@dataclass(frozen=True)
class Notation:
    """How an API writes times: in rows, to `precision`, and in bounds, to `bound_precision`."""

    cursor_format: Any
    write: Callable[[datetime], Any]
    precision: timedelta = _SECOND
    bound_precision: timedelta = _SECOND
    zone: str | None = None
    scale: timedelta = _SECOND
    """The unit of the distances between rows, runs and windows."""


def iso(timespec: str, suffix: str = "Z") -> Callable[[datetime], str]:
    return lambda moment: moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec) + suffix


def epoch(per_second: int, kind: type) -> Callable[[datetime], Any]:
    return lambda moment: kind(moment.timestamp() * per_second)


NOTATIONS = {
    "seconds": Notation("iso", iso("seconds")),
    "milliseconds": Notation("iso", iso("milliseconds"), timedelta(milliseconds=1), timedelta(milliseconds=1)),
    "microseconds": Notation("auto", iso("microseconds", "+00:00"), timedelta(microseconds=1)),
    "minutes": Notation(
        CursorFormat(records="iso", request="%Y-%m-%dT%H:%M"),
        iso("microseconds"),
        timedelta(microseconds=1),
        60 * _SECOND,
    ),
    "epoch": Notation("epoch", epoch(1, int)),
    "fractional epoch": Notation("epoch", epoch(1, float), timedelta(milliseconds=1)),
    "epoch in text": Notation("epoch", lambda moment: f"{moment.timestamp():.3f}", timedelta(milliseconds=1)),
    "epoch in milliseconds": Notation(
        "epoch_ms", epoch(1000, int), timedelta(milliseconds=1), timedelta(milliseconds=1)
    ),
    "dates": Notation(
        "date", lambda moment: moment.date().isoformat(), timedelta(days=1), timedelta(days=1), scale=timedelta(hours=5)
    ),
    "dates in requests": Notation(
        CursorFormat(records="iso", request="%Y-%m-%d"),
        iso("milliseconds"),
        timedelta(milliseconds=1),
        timedelta(days=1),
        scale=timedelta(hours=5),
    ),
    "pattern": Notation("%d.%m.%Y %H:%M:%S", lambda moment: moment.strftime("%d.%m.%Y %H:%M:%S")),
    "local": Notation(
        "iso",
        lambda moment: moment.astimezone(_BERLIN).replace(tzinfo=None).isoformat(timespec="milliseconds"),
        timedelta(milliseconds=1),
        zone="Europe/Berlin",
        scale=timedelta(minutes=7),
    ),
}


def floored(moment: datetime, precision: timedelta) -> datetime:
    return moment - (moment - BEGIN.replace(hour=0)) % precision


def read_bound(text: str, notation: Notation) -> datetime:
    if notation.cursor_format == "epoch_ms":
        return datetime.fromtimestamp(float(text) / 1000, UTC)
    if notation.cursor_format == "epoch":
        return datetime.fromtimestamp(float(text), UTC)
    if notation.cursor_format == "%d.%m.%Y %H:%M:%S":
        return datetime.strptime(text, notation.cursor_format).replace(tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=_BERLIN if notation.zone else UTC)


class Api:
    """Rows that become visible at some time, and a filter with two bounds; `fails` refuses a request."""

    def __init__(self, notation: Notation, bounds: Bounds, *, is_coarse: bool, clock: WallClock) -> None:
        self.notation, self.bounds, self.is_coarse, self.clock = notation, bounds, is_coarse, clock
        self.rows: list[tuple[datetime, datetime]] = []
        """The times of rows, and when they become visible."""
        self.failing: set[int] = set()
        self.count = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        if self.count in self.failing:
            return httpx.Response(404)
        params = {name: read_bound(text, self.notation) for name, text in request.url.params.items()}
        now = BEGIN + timedelta(seconds=self.clock.seconds)
        return httpx.Response(
            200,
            json=[
                {"id": number, "at": self.notation.write(at)}
                for number, (at, visible) in enumerate(self.rows)
                if visible <= now and self._passes(at, params.get("since"), params.get("until"))
            ],
        )

    def _passes(self, at: datetime, since: datetime | None, until: datetime | None) -> bool:
        at = floored(at, self.notation.precision)
        if self.is_coarse:  # the API compares in the precision of its bounds
            at = floored(at, self.notation.bound_precision)
        if since is not None and not (since < at or (since == at and self.bounds[0] == "[")):
            return False
        return until is None or until > at or (until == at and self.bounds[1] == "]")


def moments(data: st.DataObject, notation: Notation, count: int) -> list[datetime]:
    """Times that are often close to whole seconds, or equal."""
    units = st.integers(0, 40) | st.integers(0, 160).map(lambda quarters: quarters / 4) | st.floats(0, 40)
    scale = notation.scale.total_seconds()
    found = (BEGIN + timedelta(seconds=round(data.draw(units) * scale, 3)) for _ in range(count))
    return [floored(moment, notation.precision) for moment in found]


def own_slices(data: st.DataObject, notation: Notation) -> list[Slice]:
    """Adjoining slices of the author's own, also beyond the end of the run, with bounds of any precision."""
    edges = sorted({*moments(data, notation, 3), BEGIN - notation.scale * 9, BEGIN + notation.scale * 400})
    if data.draw(st.booleans()):
        return [Slice({}, (start, end)) for start, end in pairwise(edges)]
    return [Slice({}, (start, end)) for start, end in pairwise(map(notation.write, edges)) if start != end]


@examples(full=3_000, short=30)
@given(st.data())
def test_property_each_row_is_delivered_once(data: st.DataObject) -> None:
    notation = NOTATIONS[data.draw(st.sampled_from(sorted(NOTATIONS)))]
    bounds: Bounds = data.draw(st.sampled_from(["[)", "[]", "(]", "()"]))
    clock, scale = WallClock(), notation.scale
    api = Api(notation, bounds, is_coarse=data.draw(st.booleans()), clock=clock)
    settle, lookback = (scale * data.draw(st.integers(0, 8)) for _ in range(2))
    for at in moments(data, notation, data.draw(st.integers(0, 25))):
        late = (settle + lookback) * data.draw(st.sampled_from([0, 0, 0.5, 1]))
        api.rows.append((at, at + notation.precision + late))
    step = data.draw(st.none() | st.sampled_from([scale * 3, scale * 11, "P1D", "1h"]))
    if isinstance(step, str) and scale < timedelta(minutes=1):
        step = scale * 7
    start = BEGIN - data.draw(st.sampled_from([scale * 4, scale * 2.3])) if step else None
    own = own_slices(data, notation) if data.draw(st.booleans()) else None

    class Rows(HttpStream):
        url_base = "https://api.test/"
        primary_key = "id"
        cursor_field = "at"
        cursor_format = notation.cursor_format
        cursor_timezone = notation.zone
        windows = TimeWindows(start=start, step=step, settle=settle, lookback=lookback, bounds=bounds)

        def path(self, context: Any) -> str:
            return "rows"

        def stream_slices(self, state: Any) -> Any:
            return super().stream_slices(state) if own is None else own

        def request_params(self, context: Any) -> dict[str, Any]:
            since, until = context.bounds
            written = (value if not isinstance(value, datetime) else notation.write(value) for value in (since, until))
            return dict(zip(("since", "until"), written, strict=True))

    found: Counter[int] = Counter()

    async def run(state: State) -> None:
        with suppress(AsyncStreamsError):
            async with Rows(transport=httpx.MockTransport(api), clock=clock).pages(state=state) as pages:
                async for page in pages:
                    found.update(record["id"] for record in page.records)

    async def main() -> None:
        state = State()
        for _ in range(data.draw(st.integers(1, 4))):
            clock.seconds += data.draw(st.integers(0, 30)) * scale.total_seconds()
            api.failing = {api.count + number for number in data.draw(st.sets(st.integers(1, 6), max_size=2))}
            await run(state)
        api.failing = set()
        clock.seconds += 150 * scale.total_seconds()
        for _ in range(2):
            await run(state)
            clock.seconds += scale.total_seconds()

    asyncio.run(main())

    assert found == Counter(range(len(api.rows)))


@examples(full=2_000, short=20)
@given(st.data())
def test_property_growing_numbers_come_once(data: st.DataObject) -> None:
    bounds: Bounds = data.draw(st.sampled_from(["[)", "[]", "(]", "()"]))
    kind: type = data.draw(st.sampled_from([int, float, str]))
    has_filter = data.draw(st.booleans())
    step = data.draw(st.none() | st.integers(1, 30))
    numbers = [
        number / 4 if kind is float else number for number in data.draw(st.lists(st.integers(0, 120), unique=True))
    ]
    numbers = sorted({*numbers, *data.draw(st.sets(st.integers(0, 10**18), max_size=2))})
    visible, failing, requests = 0, set[int](), 0

    def api(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        if requests in failing:
            return httpx.Response(404)
        since, until = (float(request.url.params.get(name, "inf")) for name in ("since", "until"))
        return httpx.Response(
            200,
            json=[
                {"id": kind(number)}
                for number in numbers[:visible]
                if not has_filter
                or (
                    (since < number or (since == number and bounds[0] == "["))
                    and (number < until or (number == until and bounds[1] == "]"))
                )
            ],
        )

    class Rows(HttpStream):
        url_base = "https://api.test/"
        primary_key = "id"
        cursor_field = "id"
        cursor_format = "number"
        windows = NumberRanges(step=step, bounds=bounds)

        def path(self, context: Any) -> str:
            return "rows"

        def request_params(self, context: Any) -> dict[str, Any]:
            return dict(zip(("since", "until"), context.bounds, strict=True))

    found: list[float] = []

    async def main() -> None:
        nonlocal visible, failing
        stream, state = Rows(transport=httpx.MockTransport(api)), State()
        for is_final in [False] * data.draw(st.integers(0, 3)) + [True]:
            visible = len(numbers) if is_final else data.draw(st.integers(visible, len(numbers)))
            failing = set() if is_final else {requests + number for number in data.draw(st.sets(st.integers(1, 5)))}
            with suppress(AsyncStreamsError):
                async with stream.pages(state=state) as pages:
                    async for page in pages:
                        found.extend(float(record["id"]) for record in page.records)

    asyncio.run(main())

    assert sorted(found) == [float(number) for number in numbers]
