"""The chart of the slices of a run: when each was read, and which were read at once."""

from __future__ import annotations

from collections.abc import Sequence

from ...event_log.run_record import RunRecord, SliceRecord
from ...models import shorten
from .chart_parts import Chart, PlotlyObject, four_digits, label_axis, new_layout, plot_text, time_axis
from .data_tables import slowest_slices
from .wording import RunCalendar, format_count, format_seconds

_LABEL_HEIGHT_PX = 15
_SLICE_COLORS = {"complete": "--blue", "failed": "--red", "interrupted": "--yellow"}


def slice_chart(record: RunRecord) -> Chart:
    """When each slice was read, with a table of the slowest."""
    calendar = RunCalendar(record)
    lanes, first_lanes = _arrange(record.slices)
    count = max(1, sum(lanes_of for _, lanes_of in first_lanes.values()))
    traces = [
        _slice_bars(calendar, outcome, [(n, each) for n, each in zip(lanes, record.slices, strict=True)])
        for outcome in dict.fromkeys(each.outcome for each in record.slices)
    ]
    layout = new_layout(
        max(count * _lane_height(count), len(first_lanes) * _LABEL_HEIGHT_PX) + 110, hovermode="closest"
    )
    layout |= {"barmode": "overlay", "bargap": 0.25 if count < 80 else 0.1}
    layout["xaxis"] = time_axis(calendar, max([record.seconds, *(each.ended_s for each in record.slices)]))
    middles = [first + (lanes_of - 1) / 2 for first, lanes_of in first_lanes.values()]
    layout["yaxis"] = label_axis(middles, list(first_lanes), count) | {
        "autorange": False,
        "range": [count - 0.5, -0.5],
    }
    layout["shapes"] = [_band(first, lanes_of) for first, lanes_of in [*first_lanes.values()][::2]]
    left = record.slices_left_out
    left_out = (
        f" {format_count(left)} of {format_count(left + len(record.slices))} slices are left out: " if left else ""
    )
    left_out += "the slowest, and a sample of the others, are shown." if left else ""
    outcomes = {outcome: sum(each.outcome == outcome for each in record.slices) for outcome in _SLICE_COLORS}
    shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items() if number)
    return Chart(
        "slices",
        "Slices",
        f"One bar from begin to end of each slice; slices that were read at once lie below each other.{left_out}",
        f"{len(record.slices)} slices are shown: {shown or 'none'}.{left_out}",
        slowest_slices(record),
        {"data": traces, "layout": layout} if record.slices else None,
        "No slice has finished.",
        is_wide=True,
    )


def _arrange(slices: Sequence[SliceRecord]) -> tuple[list[int], dict[str, tuple[int, int]]]:
    """The lane of each slice, so that those of a lane do not overlap; and the first lane of each stream with its number
    of lanes. Streams are in the order of their first slice.
    """
    ends: dict[str, list[float]] = {}
    places: dict[int, tuple[str, int]] = {}
    for index in sorted(range(len(slices)), key=lambda n: slices[n].began_s):
        each = slices[index]
        lanes = ends.setdefault(each.stream, [])
        free = next((n for n, end in enumerate(lanes) if end <= each.began_s), len(lanes))
        lanes[free : free + 1] = [each.ended_s]
        places[index] = each.stream, free
    first_lanes: dict[str, tuple[int, int]] = {}
    first = 0
    for stream, lanes in ends.items():
        first_lanes[stream] = first, len(lanes)
        first += len(lanes)
    return [first_lanes[places[n][0]][0] + places[n][1] for n in range(len(slices))], first_lanes


def _slice_bars(calendar: RunCalendar, outcome: str, lanes: Sequence[tuple[int, SliceRecord]]) -> PlotlyObject:
    shown = [(lane, each) for lane, each in lanes if each.outcome == outcome]
    color = _SLICE_COLORS[outcome]
    return {
        "type": "bar",
        "orientation": "h",
        "name": outcome,
        "base": [calendar.axis(each.began_s) for _, each in shown],
        "x": [max(1.0, four_digits(1_000 * (each.ended_s - each.began_s))) for _, each in shown],
        "y": [lane for lane, _ in shown],
        "customdata": [_describe_slice(calendar, each) for _, each in shown],
        "marker": {"color": color, "line": {"color": "--surface", "width": 1 if len(lanes) < 100 else 0.4}},
        "hovertemplate": "%{customdata}<extra></extra>",
        "showlegend": True,
    }


def _describe_slice(calendar: RunCalendar, each: SliceRecord) -> str:
    lines = [
        f"<b>{plot_text(shorten(each.stream, 60))}</b>",
        plot_text(shorten(each.slice or "the whole stream", 80)),
        f"{format_seconds(each.ended_s - each.began_s)}, {each.outcome}",
        f"begin: {format_seconds(each.began_s)} after the begin, {calendar.utc(each.began_s)} UTC",
        f"{format_count(each.records)} records on {format_count(each.pages)} pages",
    ]
    return "<br>".join(lines)


def _lane_height(count: int) -> float:
    return 22 if count <= 12 else 15 if count <= 40 else max(8, 600 / count)


def _band(first: int, lanes: int) -> PlotlyObject:
    """The background of every other stream."""
    return {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": first - 0.5,
        "y1": first + lanes - 0.5,
        "fillcolor": "--band",
        "line": {"width": 0},
        "layer": "below",
    }
