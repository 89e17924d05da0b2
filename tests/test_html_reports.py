"""Reports in notebooks: small HTML tables in which nothing of an API is obeyed."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import RunReport, StreamReport
from asyncstreams.declaration.catalog import CheckReport, StreamCheck
from asyncstreams.destinations.output_state import OutputState, StreamOutput
from asyncstreams.event_log.run_record import RunRecord, StreamRecord, ThresholdRecord
from asyncstreams.execution.report import WriteReport
from asyncstreams.html_tables import html_table
from asyncstreams.visible_text import escape_controls

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e$x$"
SHOWN = r"<script>alert(1)</script>\x1b[31m\u202e$x$"


class Table(HTMLParser):
    """The cells of all rows, the text before the table, and the names of all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption = ""
        self.tags: set[str] = set()
        self.is_in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.is_in_cell = True
        elif tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag: str) -> None:
        self.is_in_cell = False

    def handle_data(self, data: str) -> None:
        if self.is_in_cell:
            self.rows[-1][-1] += data
        elif not self.rows:
            self.caption += data


TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p", "br"}


def parse(report: object) -> Table:
    table = Table(report._repr_html_())
    assert table.tags <= TAGS
    return table


def cells(report: object) -> list[list[str]]:
    return parse(report).rows


def test_stream_report_shows_figures_and_details():
    written = WriteReport(Path("out/orders"), parts=1, rows=1200, bytes=5000)
    report = StreamReport("orders", 12, 1200, 3, 4, 1, written=written)

    assert cells(report) == [
        ["stream", "records", "pages", "slices", "details"],
        ["orders", "1,200", "12", "4", f"1 failed, 3 quarantined\n{written}"],
    ]


def test_run_report_shows_streams_unavailable_and_verdict():
    record = RunRecord("1", "Shop", "JsonLines out", "", "complete", verdict="Limited by <b>quota</b>.")
    report = RunReport((StreamReport("orders", 1, 2, 0, 1, 0),), {"payouts": HOSTILE}, record)

    assert cells(report)[1:] == [["orders", "2", "1", "1", ""], ["payouts", "", "", "", f"unavailable: {SHOWN}"]]
    assert parse(report).caption.strip() == "Limited by <b>quota</b>."


def test_run_record_shows_missed_thresholds_first():
    stream = StreamRecord("orders", "failed", HOSTILE, 0, 12.34, records=7, requests=3, ceilings={"a": 1.0, "b": 9.0})
    missed = ThresholdRecord("orders.records >= 9", False, "7 records")
    record = RunRecord("1", "Shop", "out", "", "failed", error="orders", streams=(stream,), thresholds=(missed,))

    table = parse(record)

    assert table.caption.startswith("threshold orders.records >= 9: MISSED: 7 records\nRun 1 of Shop into out: failed")
    assert cells(record) == [
        ["stream", "outcome", "records", "requests", "seconds", "limited by", "details"],
        ["orders", "failed", "7", "3", "12.3", "b", SHOWN],
    ]


def test_output_state_and_check_are_tables():
    stream = StreamOutput("orders", 10, "complete", "upsert", HOSTILE, last_run=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    checks = (StreamCheck("orders", True, None, True), StreamCheck("payouts", False, HOSTILE, None))

    assert cells(OutputState(Path("out"), {"orders": stream})) == [
        ["stream", "rows", "status", "mode", "read up to", "last run (UTC)"],
        ["orders", "10", "complete", "upsert", SHOWN, "2026-01-02 03:04"],
    ]
    assert cells(CheckReport(checks)) == [
        ["stream", "status", "details"],
        ["orders", "available", ""],
        ["payouts", "unavailable", SHOWN],
    ]
    assert cells(WriteReport(Path("a.db"), "t", rows=3)) == [["rows", "details"], ["3", "3 rows  a.db, table t"]]


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=3), st.text())
def test_any_text_stays_a_text(rows, caption):
    html = html_table(("a", "b"), rows, caption)

    assert Table(html).tags <= TAGS
    assert escape_controls(html, keep_lines=True) == html


@given(st.text())
def test_escaped_text_is_printable_and_one_line(text):
    assert escape_controls(text).isprintable()
    assert escape_controls(text, keep_lines=True).translate({10: None, 9: None}).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcödé 表 ✓", "plain ünïcödé 表 ✓"),
        ("a\x1b[2Jb\x07", r"a\x1b[2Jb\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\r\nb", r"a\r\nb"),
        ("\u202eabc\u2066\u200f", r"\u202eabc\u2066\u200f"),
        ("1\u202f000\xa0€", "1 000 €"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert escape_controls(text) == shown


def test_lines_may_be_kept():
    assert escape_controls("a\n\tb\r\x1b", keep_lines=True) == "a\n\tb\\r\\x1b"
