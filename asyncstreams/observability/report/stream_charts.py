"""Charts that compare the streams of a run, and the parts of the time of its requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...event_log.run_record import RunRecord, StreamRecord
from ...events import Ceiling
from ...models import shorten
from .chart_parts import Chart, PlotlyObject, four_digits, label_axis, new_layout, plot_text, value_axis
from .data_tables import LATENCY_PARTS, ceiling_table, latency_parts, latency_table, mean_of, stream_latency_table
from .wording import format_count, format_latency, format_seconds, short_ceiling, sort_ceilings

_MAX_BARS, _MAX_MEANS = 30, 12
_MAX_LEGEND_CHARS = 40
_MIN_LATENCY_S = 1e-4
_MAX_AXIS_S = 1e12  # of a record that was damaged, or made up
_BAR_HEIGHT_PX = 30
_CEILING_COLORS: Mapping[str, str] = {
    Ceiling.REPORTED_QUOTA: "--blue",
    Ceiling.FOUND_LIMIT: "--cyan",
    Ceiling.DECLARED_LIMIT: "--indigo",
    Ceiling.LATENCY: "--green",
    Ceiling.CONCURRENCY: "--violet",
    Ceiling.CPU: "--orange",
    Ceiling.CONSUMER: "--pink",
    Ceiling.DISK: "--brown",
    Ceiling.OUTAGE: "--red",
}
_PART_COLORS = {"queue": "--violet", "limiter": "--blue", "server": "--green", "body": "--orange"}


def ceiling_chart(record: RunRecord) -> Chart:
    """Where the time of each stream went."""
    longest = sorted(record.streams, key=lambda stream: -max(stream.duration, sum(stream.ceilings.values())))
    streams, left_out = longest[:_MAX_BARS], len(longest) - _MAX_BARS
    traces = [
        _stacked_bars(
            short_ceiling(name), [stream.ceilings.get(name, 0.0) for stream in streams], _CEILING_COLORS.get(name)
        )
        for name in sort_ceilings([*{name: None for stream in streams for name in stream.ceilings}])
    ]
    rest = [max(0.0, stream.duration - sum(stream.ceilings.values())) for stream in streams]
    if traces and any(seconds >= 0.05 for seconds in rest):
        traces.append(_stacked_bars("nothing in particular", rest, "--faint"))
    totals = sorted(record.ceilings.items(), key=lambda entry: -entry[1])
    shown = ", ".join(f"{short_ceiling(name)}: {format_seconds(seconds)}" for name, seconds in totals)
    ends = [max(stream.duration, sum(stream.ceilings.values())) for stream in streams]
    figure = _bars_figure(streams, traces, "time", ends, 230)
    return Chart(
        "ceilings",
        "Where the time went",
        "For how long each limit kept a stream from being read faster. Streams are read side by side, and several "
        f"limits can bind at once, so that a bar may be longer than its stream took.{_left_out(left_out, 'streams')}",
        f"Time by what limited the streams: {shown or 'not known'}.",
        ceiling_table(record),
        figure if traces else None,
        "The run was too short to see what limited it.",
        is_wide=True,
    )


def latency_charts(record: RunRecord) -> tuple[Chart, ...]:
    """Percentiles of the run, and the mean time of a request by stream."""
    return _percentile_chart(record), _mean_chart(record)


def _percentile_chart(record: RunRecord) -> Chart:
    latencies = record.latencies
    parts = dict(reversed(latency_parts(latencies).items()))
    rows = list(range(len(parts)))
    traces: list[PlotlyObject] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [_plotted(times.p50), _plotted(times.max)],
            "y": [row, row],
            "line": {"width": 6, "color": f"{_PART_COLORS[part]}-fill"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        for row, (part, times) in zip(rows, parts.items(), strict=True)
    ]
    for name, symbol, values in (
        ("p50", "circle", [times.p50 for times in parts.values()]),
        ("p90", "diamond", [times.p90 for times in parts.values()]),
        ("p99", "square", [times.p99 for times in parts.values()]),
        ("max", "line-ns-open", [times.max for times in parts.values()]),
    ):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [*map(_plotted, values)],
                "y": rows,
                "customdata": [*map(format_latency, values)],
                "marker": {
                    "symbol": symbol,
                    "size": 13 if name == "max" else 11,
                    "color": [_PART_COLORS[part] for part in parts],
                    "line": {"width": 2.5 if name == "max" else 1, "color": [_PART_COLORS[part] for part in parts]},
                },
                "hovertemplate": f"{name}: %{{customdata}}<extra></extra>",
            }
        )
    layout = new_layout(290, hovermode="closest")
    layout["xaxis"] = _latency_axis([_plotted(times.max) for times in parts.values()])
    layout["yaxis"] = label_axis(rows, list(parts), len(parts))
    shown = [f"{part} {format_latency(times.p50)} and {format_latency(times.p99)}" for part, times in parts.items()]
    return Chart(
        "percentiles",
        "Latency of the requests",
        "Where the time of a request went: queue (waiting for its turn), limiter (waiting for a quota, a limit, a "
        "pause or the host), server (until the first byte), body (until its end). Logarithmic scale.",
        f"Median and 99th percentile: {', '.join(reversed(shown)) or 'no requests'}.",
        latency_table(latencies),
        {"data": traces, "layout": layout} if parts else None,
        "No request was answered.",
    )


def _mean_chart(record: RunRecord) -> Chart:
    def total(stream: StreamRecord) -> float:
        return sum(times.total for times in latency_parts(stream.latencies).values())

    def means(stream: StreamRecord) -> dict[str, float]:
        return {part: mean_of(times) for part, times in latency_parts(stream.latencies).items()}

    measured = sorted((stream for stream in record.streams if means(stream)), key=total, reverse=True)
    streams, left_out = measured[:_MAX_MEANS], len(measured) - _MAX_MEANS
    traces = [
        _stacked_bars(part, [means(stream).get(part, 0.0) for stream in streams], _PART_COLORS[part])
        for part in LATENCY_PARTS
    ]
    shown = [f"{stream.name} {format_seconds(sum(means(stream).values()))}" for stream in streams[:10]]
    more = f", and {len(measured) - 10} more" if len(measured) > 10 else ""
    figure = _bars_figure(streams, traces, "mean time", [sum(means(stream).values()) for stream in streams], 290)
    return Chart(
        "means",
        "Mean time of a request",
        "The parts of the mean time, by stream; the streams whose requests took the most time together are first."
        + _left_out(left_out, "streams"),
        f"Mean time of a request: {', '.join(shown) or 'no requests'}{more}.",
        stream_latency_table(record),
        figure if streams else None,
        "No request was answered.",
    )


def _stacked_bars(name: str, seconds: Sequence[float], color: str | None) -> PlotlyObject:
    return {
        "type": "bar",
        "orientation": "h",
        "name": plot_text(shorten(name, _MAX_LEGEND_CHARS)),
        "x": [*map(four_digits, seconds)],
        "y": list(range(len(seconds))),
        "customdata": [format_seconds(value) for value in seconds],
        "marker": {"color": color or "--grey"},
        "hovertemplate": "%{customdata} %{fullData.name}<extra></extra>",
        "showlegend": True,
    }


def _bars_figure(
    streams: Sequence[StreamRecord], traces: Sequence[PlotlyObject], title: str, ends: Sequence[float], min_height: int
) -> PlotlyObject:
    """Stacked horizontal bars, one for each stream, the first one on top; `ends` has their lengths in seconds."""
    layout = new_layout(max(min_height, len(streams) * _BAR_HEIGHT_PX + 130), hovermode="closest")
    layout |= {"barmode": "stack", "bargap": 0.35}
    layout["xaxis"] = value_axis(title) | _duration_ticks(max(ends, default=0.0))
    axis = label_axis(list(range(len(streams))), [stream.name for stream in streams], len(streams))
    layout["yaxis"] = axis | {"autorange": "reversed"}
    return {"data": [*traces], "layout": layout}


def _duration_ticks(end: float) -> PlotlyObject:
    """Ticks of an axis of durations in seconds, at round numbers of their unit."""
    units = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))
    unit, name = next(((unit, name) for unit, name in units if end >= 2 * unit), (0.001, "ms"))
    end = min(end, _MAX_AXIS_S)
    rough = max(end / unit, 1e-3) / 5
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    numbers = [n * step for n in range(math.floor(max(end / unit, step) / step) + 1)]
    return {
        "tickmode": "array",
        "tickvals": [number * unit for number in numbers],
        "ticktext": [f"{number:,.10g} {name}" for number in numbers],
    }


def _latency_axis(ends: Sequence[float]) -> PlotlyObject:
    """A logarithmic axis from 0.1 ms to the longest time."""
    top = math.ceil(math.log10(min(max([*ends, 1e-3]), _MAX_AXIS_S)) + 0.05)
    exponents = range(-4, top + 1)
    return {
        "type": "log",
        "title": {"text": "time of a request", "standoff": 8, "font": {"size": 12}},
        "range": [-4.15, top],
        "tickmode": "array",
        "tickvals": [10.0**exponent for exponent in exponents],
        "ticktext": [
            f"{10**exponent:,} s" if exponent >= 0 else f"{10 ** (exponent + 3):g} ms" for exponent in exponents
        ],
        "gridcolor": "--grid",
        "automargin": True,
        "fixedrange": True,
    }


def _plotted(seconds: float) -> float:
    return four_digits(max(seconds, _MIN_LATENCY_S))


def _left_out(count: int, names: str) -> str:
    return (
        f" {format_count(count)} {names} with less time are left out; the table has all of them." if count > 0 else ""
    )
