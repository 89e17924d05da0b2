"""Parts that the charts of a report share: their description, axes and texts for plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...visible_text import escape_controls
from .data_tables import ReportTable
from .wording import RunCalendar

PlotlyObject: TypeAlias = dict[str, object]
"""A part of a chart for plotly. The page replaces the names of its colours, such as "--blue", by those of its light or
dark scheme, in attributes whose names end in "color"."""
_MAX_LABEL_CHARS = 21


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its alternatives: `summary` says what it shows, `table` has its figures.

    key: identifies the chart in the page. caption: how it is read. figure: `data` and `layout` for plotly; None if
    there is nothing to draw, which `empty` says. is_wide: it takes the width of the page.
    """

    key: str
    title: str
    caption: str
    summary: str
    table: ReportTable
    figure: PlotlyObject | None
    empty: str
    is_wide: bool = False


def plot_text(text: str) -> str:
    """A text for plotly, which interprets some HTML in labels and hover texts: all of it is shown instead."""
    return html.escape(escape_controls(text), quote=False).replace("$", "&#36;")


def shorten_label(label: str) -> str:
    """The begin and the end of a label: names often differ at their end only."""
    half = (_MAX_LABEL_CHARS - 1) // 2
    return label if len(label) <= _MAX_LABEL_CHARS else f"{label[:half]}…{label[-half:]}"


def four_digits(value: float) -> float:
    """Four digits: the page stays small."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


def new_layout(height: float, hovermode: str, *, has_legend: bool = True) -> PlotlyObject:
    """A layout of this height in pixels, with a legend above the chart."""
    return {
        "height": round(height),
        "margin": {"l": 8, "r": 12, "t": 36 if has_legend else 10, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "--muted"},
        "hovermode": hovermode,
        "hoverlabel": {
            "bgcolor": "--raised",
            "bordercolor": "--line",
            "font": {"color": "--ink"},
            "align": "left",
            "namelength": -1,
        },
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "bargap": 0,
    }


def time_axis(calendar: RunCalendar, end: float) -> PlotlyObject:
    """The axis of a chart over the time of the run, in UTC."""
    unit = "time (UTC)" if calendar.is_known else "time since the begin"
    return {
        "type": "date",
        "range": [calendar.axis(0), calendar.axis(max(end, 1e-3))],
        "title": {"text": unit, "standoff": 6, "font": {"size": 12}},
        "hoverformat": "%H:%M:%S" + (" UTC" if calendar.is_known else ""),
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zeroline": False,
        "automargin": True,
        "nticks": 7,
        "ticks": "outside",
        "tickcolor": "--line",
    }


def value_axis(title: str) -> PlotlyObject:
    """An axis of numbers from 0 on; the title has their unit."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12}},
        "rangemode": "tozero",
        "gridcolor": "--grid",
        "zerolinecolor": "--line",
        "automargin": True,
        "fixedrange": True,
        "nticks": 6,
        "exponentformat": "SI",
    }


def label_axis(rows: Sequence[float], labels: Sequence[str], count: int) -> PlotlyObject:
    """An axis of names. Rows are numbers, so that equal names stay apart, and none is taken for a date or a number."""
    return {
        "type": "linear",
        "tickmode": "array",
        "tickvals": [*rows],
        "ticktext": [plot_text(shorten_label(label)) for label in labels],
        "range": [-0.6, count - 0.4],
        "automargin": True,
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
        "ticklabelstandoff": 6,
        "tickfont": {"color": "--ink"},
    }
