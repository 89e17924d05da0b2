"""The page of a recorded run: one HTML file without external parts (extra `report`)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from ...event_log.run_record import RunRecord, missed_first
from ...visible_text import escape_controls
from .chart_parts import Chart
from .data_tables import (
    OUTCOME_TONES,
    ReportTable,
    failure_table,
    latency_table,
    run_figures,
    setting_table,
    stream_details,
    stream_table,
    threshold_table,
    wait_table,
)
from .slice_charts import slice_chart
from .stream_charts import ceiling_chart, latency_charts
from .time_charts import throughput_charts
from .wording import RunCalendar, describe_command, describe_outcome, describe_verdict, format_seconds

if TYPE_CHECKING:
    from jinja2 import Environment

_INSTALL = 'the HTML report requires jinja2 and plotly: pip install "asyncstreams[report]"'


def render_html(record: RunRecord) -> str:
    """The report of a run as one HTML file of about 5 MB, most of which is the chart library.

    The page loads nothing: its Content-Security-Policy allows its own two scripts, by their hashes, and no network. All
    texts of the record are escaped. Charts need JavaScript; below each is a table of its figures, which does not.

    Raises ImportError without the extra `report`.
    """
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    environment = _new_environment()
    scripts = [_inline_script(get_plotlyjs()), _inline_script(_read_template("report.js"))]
    charts = {chart.key: chart for chart in _charts(record)}
    page = environment.from_string(_read_template("report.html"))
    return page.render(
        record=record,
        calendar=RunCalendar(record),
        duration=format_seconds(record.seconds),
        tone=OUTCOME_TONES[record.outcome],
        outcome=describe_outcome(record),
        verdict=describe_verdict(record),
        command=describe_command(record),
        missed=[entry for entry in missed_first(record.thresholds) if entry.is_met is False],
        figures=run_figures(record),
        charts=charts,
        tables=_tables(record),
        streams=[(stream, _stream_tables(record, stream.name)) for stream in record.streams],
        csp=_content_security_policy(scripts),
        chart_data=_script_json({key: chart.figure for key, chart in charts.items() if chart.figure is not None}),
        scripts=scripts,
        style=_read_template("report.css"),
    )


def _charts(record: RunRecord) -> Sequence[Chart]:
    return [*throughput_charts(record), ceiling_chart(record), *latency_charts(record), slice_chart(record)]


def _tables(record: RunRecord) -> dict[str, ReportTable]:
    return {
        "thresholds": threshold_table(record),
        "streams": stream_table(record),
        "failures": failure_table(record),
        "waits": wait_table(record),
        "settings": setting_table(record),
    }


def _stream_tables(record: RunRecord, name: str) -> tuple[ReportTable, ...]:
    """The tables of one stream; those without rows are left out."""
    stream = record.stream(name)
    assert stream is not None
    tables = (stream_details(stream, record), latency_table(stream.latencies))
    return tuple(table for table in tables if table.rows)


def _new_environment() -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )


def _without_controls(value: object) -> object:
    """What the template inserts: control characters of texts are shown. Markup comes from this module only."""
    return escape_controls(value) if type(value) is str else value


def _read_template(name: str) -> str:
    return (files(__name__.rpartition(".")[0]) / "templates" / name).read_text("utf-8")


def _inline_script(source: str) -> str:
    """A script in a form that may stand in an HTML page, with the line ends that a browser gives it."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    source = re.sub(r"</(script)", r"<\\/\1", source, flags=re.IGNORECASE)
    return source.replace("<!--", r"<\!--")


def _content_security_policy(scripts: Sequence[str]) -> str:
    """No network, no forms, no frames, and only these scripts. Styles are inline: plotly sets some of its own."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _script_json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
