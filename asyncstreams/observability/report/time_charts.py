"""Charts of what happened over the time of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...event_log.run_record import RunRecord
from .chart_parts import Chart, PlotlyObject, four_digits, new_layout, plot_text, shorten_label, time_axis, value_axis
from .data_tables import ReportColumn, ReportTable, cells
from .wording import RunCalendar, format_count, format_rate, format_seconds

_MAX_TABLE_ROWS = 60
_REFUSED_COLOR = "--orange"
_STATUS_COLORS = {
    "1": ("--grey",),
    "2": ("--green", "--teal"),
    "3": ("--cyan", "--blue", "--indigo"),
    "4": ("--yellow", "--brown", "--lime"),
    "5": ("--red", "--crimson", "--pink"),
    "": ("--violet", "--magenta", "--grey"),
}


def throughput_charts(record: RunRecord) -> tuple[Chart, ...]:
    """What happened over the time of the run."""
    timeline = _Timeline(record)
    return _requests_chart(timeline), _records_chart(timeline), _in_flight_chart(timeline), _status_chart(timeline)


class _Timeline:
    """The intervals of a run. `count` is their number, 0 without requests and records."""

    def __init__(self, record: RunRecord) -> None:
        series = record.series
        self.calendar, self.series = RunCalendar(record), series
        counts = [series.requests, series.refused, series.failed, series.records, series.in_flight, series.max_rate]
        self.count = max(map(len, [*counts, *series.statuses.values()]))
        self.seconds = record.seconds
        self.interval = series.interval if series.interval > 0 else 1.0

    def padded(self, counts: Sequence[int]) -> list[int]:
        """The counts of all intervals."""
        return [*counts, *[0] * (self.count - len(counts))]

    def rates(self, counts: Sequence[int]) -> list[float]:
        """Counts as rates per second. The last interval counts with the part of it that has passed."""
        widths = [self.interval] * self.count
        if widths:
            widths[-1] = min(self.interval, max(self.seconds - self.interval * (self.count - 1), self.interval / 2))
        return [count / width for count, width in zip(self.padded(counts), widths, strict=True)]

    def step(self, name: str, values: Sequence[float | None], color: str, **more: object) -> PlotlyObject:
        """A line of steps. Its last value is repeated, so that the last interval has a width, too."""
        closed = [*(None if value is None else four_digits(value) for value in values)]
        return {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x0": self.calendar.axis(0),
            "dx": four_digits(self.interval * 1_000),
            "y": [*closed, *closed[-1:]],
            "line": {"shape": "hv", "width": 1.4, "color": color},
            **more,
        }

    def figure(self, title: str, *traces: PlotlyObject) -> PlotlyObject:
        """A chart over time; `title` is that of the vertical axis, with its unit."""
        moments = [f"{format_seconds(n * self.interval)} after the begin" for n in range(self.count + 1)]
        since_begin = self.step("", [0] * self.count, "rgba(0,0,0,0)", showlegend=False, customdata=moments)
        since_begin |= {"hovertemplate": "%{customdata}<extra></extra>"}
        layout = new_layout(290, hovermode="x unified", has_legend=len(traces) > 1)
        layout["xaxis"] = time_axis(self.calendar, self.end)
        layout["yaxis"] = value_axis(title)
        return {"data": [since_begin, *traces], "layout": layout}

    @property
    def end(self) -> float:
        return max(self.seconds, self.count * self.interval)

    def table(self, title: str, columns: Mapping[str, Sequence[str]]) -> ReportTable:
        """The texts of consecutive groups of intervals; see `groups`."""
        starts = [group.start for group in self.groups()]
        header = (
            ReportColumn("Since begin", is_number=True),
            ReportColumn("UTC", is_number=True),
            *(ReportColumn(name, is_number=True) for name in columns),
        )
        rows = [
            cells(format_seconds(start * self.interval), self.calendar.utc(start * self.interval), *texts)
            for start, *texts in zip(starts, *columns.values(), strict=True)
        ]
        size = len(self.groups()[0]) if starts else 1
        notes = (f"Each row covers {format_seconds(size * self.interval)}.",) if rows else ()
        return ReportTable(title, header, rows, "No requests and no records.", notes)

    def groups(self) -> list[range]:
        """At most 60 groups of intervals."""
        size = math.ceil(self.count / _MAX_TABLE_ROWS) or 1
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]

    def sums(self, counts: Sequence[int]) -> list[str]:
        """The sums of the groups, as texts."""
        padded = self.padded(counts)
        return [format_count(sum(padded[group.start : group.stop])) for group in self.groups()]

    def largest(self, counts: Sequence[int]) -> list[str]:
        """The largest counts of the groups, as texts."""
        padded = self.padded(counts)
        return [format_count(max(padded[group.start : group.stop])) for group in self.groups()]


def _requests_chart(timeline: _Timeline) -> Chart:
    series = timeline.series
    rates, refused = timeline.rates(series.requests), timeline.rates(series.refused)
    limits = [*series.max_rate, *[None] * (timeline.count - len(series.max_rate))]
    known = [limit for limit in limits if limit is not None]
    traces = [timeline.step("requests", rates, "--blue", fill="tozeroy", fillcolor="--blue-fill")]
    if any(refused):
        traces.append(
            timeline.step(
                "of these refused", refused, _REFUSED_COLOR, fill="tozeroy", fillcolor=f"{_REFUSED_COLOR}-fill"
            )
        )
    if known:
        limit = timeline.step("limit", limits, "--ink")
        limit["line"] = {"shape": "hv", "width": 1.5, "dash": "dash", "color": "--ink"}
        traces.append(limit)
    for trace in traces:
        trace |= {"hovertemplate": "%{y:.3~g} a second", "showlegend": len(traces) > 1}
    columns = {
        "Requests": timeline.sums(series.requests),
        "Refused": timeline.sums(series.refused),
        "Failed": timeline.sums(series.failed),
        "Limit (requests/s)": [
            format_rate(next((limits[n] for n in reversed(group) if limits[n] is not None), None))
            for group in timeline.groups()
        ],
    }
    limit_text = f" The limit was last {format_rate(known[-1])} a second." if known else " No limit in force was known."
    mean = sum(series.requests) / timeline.seconds if timeline.seconds > 0 else 0.0
    return Chart(
        "requests",
        "Requests against the limit",
        "Finished requests per second. The dashed line is the rate that the limits allowed, where it is known.",
        f"{format_count(sum(series.requests))} requests, {format_rate(mean)} a second on average, at most "
        f"{format_rate(max(rates, default=0))}.{limit_text}",
        timeline.table("Requests over time", columns),
        timeline.figure("requests per second", *traces) if any(rates) else None,
        "No request was finished.",
    )


def _records_chart(timeline: _Timeline) -> Chart:
    records = timeline.series.records
    rates = timeline.rates(records)
    trace = timeline.step("records", rates, "--teal", fill="tozeroy", fillcolor="--teal-fill", showlegend=False)
    trace["hovertemplate"] = "%{y:.3~s} a second"
    return Chart(
        "records",
        "Records",
        "Records per second, counted when their page was parsed and validated.",
        f"{format_count(sum(records))} records, at most {format_rate(max(rates, default=0))} a second.",
        timeline.table("Records over time", {"Records": timeline.sums(records)}),
        timeline.figure("records per second", trace) if any(rates) else None,
        "No record was read.",
    )


def _in_flight_chart(timeline: _Timeline) -> Chart:
    counts = timeline.padded(timeline.series.in_flight)
    trace = timeline.step("in flight", counts, "--violet", fill="tozeroy", fillcolor="--violet-fill", showlegend=False)
    trace["hovertemplate"] = "%{y:,} requests"
    return Chart(
        "in-flight",
        "In flight",
        "The largest number of requests that were being answered at once, in each interval.",
        f"At most {format_count(max(counts, default=0))} requests were in flight at once.",
        timeline.table("In flight over time", {"Largest number in flight": timeline.largest(counts)}),
        timeline.figure("requests", trace) if any(counts) else None,
        "No request in flight was seen.",
    )


def _status_chart(timeline: _Timeline) -> Chart:
    series = timeline.series
    totals = {status: sum(counts) for status, counts in sorted(series.statuses.items()) if any(counts)}
    traces: list[PlotlyObject] = []
    columns: dict[str, Sequence[str]] = {}
    for status, color in zip(totals, _colors_of(list(totals)), strict=True):
        rates = timeline.rates(series.statuses[status])
        trace = timeline.step(plot_text(shorten_label(status)), rates, color, stackgroup="statuses")
        trace |= {"fillcolor": color, "hovertemplate": "%{y:.3~g} a second"}
        trace["line"] = {"shape": "hv", "width": 0, "color": color}
        traces.append(trace)
        columns[status] = timeline.sums(series.statuses[status])
    if any(series.refused):
        refused = timeline.step("refused for the rate", timeline.rates(series.refused), "--ink")
        refused |= {"hovertemplate": "%{y:.3~g} a second"}
        refused["line"] = {"shape": "hv", "width": 1.5, "dash": "dot", "color": "--ink"}
        traces.append(refused)
    columns["Refused for the rate"] = timeline.sums(series.refused)
    shown = ", ".join(f"{status}: {format_count(total)}" for status, total in totals.items())
    return Chart(
        "statuses",
        "Statuses and refusals",
        "Finished requests per second, by status or by the class of their error. The dotted line counts those that the "
        "API refused for their rate.",
        f"Requests by status: {shown or 'none'}. Refused for the rate: {format_count(sum(series.refused))}.",
        timeline.table("Statuses over time", columns),
        timeline.figure("requests per second", *traces) if totals else None,
        "No request was finished.",
    )


def _colors_of(statuses: Sequence[str]) -> list[str]:
    """A colour for each status, by its first digit; refusals have one of their own."""
    used: dict[str, int] = {}
    colors: list[str] = []
    for status in statuses:
        if status == "429":
            colors.append(_REFUSED_COLOR)
            continue
        group = status[:1] if len(status) == 3 and status.isdecimal() and status[0] in "12345" else ""
        choice = _STATUS_COLORS[group]
        colors.append(choice[used.get(group, 0) % len(choice)])
        used[group] = used.get(group, 0) + 1
    return colors
