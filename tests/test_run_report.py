"""The reports of a recorded run: the page of HTML, read by a parser, and the tables for the terminal."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs
from recorded_runs import HOSTILE, empty_run, hostile_run, large_run, shop_run
from rich.console import Console

from asyncstreams import RunRecord
from asyncstreams.event_log.run_record import SliceRecord
from asyncstreams.observability.report import print_tables, render_html
from asyncstreams.observability.report.chart_parts import plot_text
from asyncstreams.observability.report.slice_charts import slice_chart
from asyncstreams.observability.report.wording import (
    RunCalendar,
    format_latency,
    format_rate,
    format_seconds,
    format_share,
    format_size,
)

RUNS = {
    "shop": shop_run,
    "hostile": hostile_run,
    "empty": empty_run,
    "one stream": lambda: replace(shop_run(), streams=shop_run().streams[:1], slices=shop_run().slices[:1]),
    "large": large_run,
    "intervals of hours": lambda: large_run(streams=2, slices=40, intervals=500, interval=7_200.0),
    "one interval": lambda: large_run(streams=1, slices=1, intervals=1),
}
# In place of the chart library, of which each page has 5 MB; with the parts that may end a script.
LIBRARY = 'window.Plotly = {};\r\nvar end = "</script>", comment = "<!--", other = "</SCRIPT ";\r'
VOID = {"meta", "br", "link", "img", "input", "hr"}
PAGE_ELEMENTS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "footer",
        "nav",
        "section",
        "div",
        "noscript",
    ),
    *("h1", "h2", "h3", "h4", "p", "span", "a", "ul", "li", "dl", "dt", "dd", "code", "pre", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "script"),
}


@dataclass
class Element:
    """An element of a page, with the text inside."""

    name: str
    attributes: Mapping[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    @cached_property
    def elements(self) -> list[Element]:
        """This element and all inside, in their order."""
        return [self, *(each for child in self.children for each in child.elements)]

    def all(self, name: str) -> list[Element]:
        return [each for each in self.elements if each.name == name]

    def with_id(self, key: str) -> Element:
        return next(each for each in self.elements if each.attributes.get("id") == key)

    def full_text(self) -> str:
        return " ".join([self.text, *(child.full_text() for child in self.children)])


class PageParser(HTMLParser):
    """Builds the tree of a page. Raises AssertionError for an element that is not closed, or is closed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:100]}")


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: LIBRARY)


@cache
def html_of(name: str) -> str:
    return render_html(RUNS[name]())


@cache
def page_of(name: str) -> Element:
    parser = PageParser()
    parser.feed(html_of(name))
    parser.close()
    assert len(parser._open) == 1
    return parser.root


def text_of(page: Element) -> str:
    """The text of the body, without scripts, with single spaces."""
    body = page.all("body")[0]
    return " ".join(" ".join(part.full_text() for part in body.children if part.name != "script").split())


def figures_of(page: Element) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(page.with_id("chart-data").text)
    return figures


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings_in(each)


def printed(record: RunRecord, width: int, **options: Any) -> str:
    file = io.StringIO()
    print_tables(record, Console(file=file, width=width, **options))
    return file.getvalue()


def test_page_shows_the_figures_of_the_run():
    text = text_of(page_of("shop"))

    for shown in (
        *("Shop", "partial", "DuckDB shop.duckdb", "2026-12-01 02:10:58 UTC", "42 min 13 s"),
        *("Records 1,151,708", "Rows 1,151,696", "Requests 12,060", "Refused 276", "Retries 437", "CPU 5 min 12 s"),
        "orders was limited by the quota that the API reports (5 requests a second)",
        "2 slices of refunds failed: answered 500 Internal Server Error",
        "HttpStatusError 429 orders 241 12 s 02:11:10 41 min 42 s 02:52:40 retried",
        "Retry-After of a 429 orders 241 8 min 02 s",
        "authenticator TokenAuthenticator(token='***')",
        "126 of 426 slices are left out",
        "payouts unavailable",
        "12 records did not match the schema and are in quarantine",
        "quota that the API reports (87 %)",
        "asyncstreams read shop.py:Shop --config shop.toml --to shop.duckdb",
    ):
        assert shown in text


def test_missed_thresholds_come_before_the_verdict():
    text = text_of(page_of("shop"))

    assert text.index("A threshold was missed") < text.index("found 2.289 %") < text.index("orders was limited by")
    assert "orders.records >= 0.9 * last met" in text
    assert "threshold" not in text_of(page_of("empty"))


def test_each_stream_has_a_table_of_its_own():
    page = page_of("shop")

    tables = [each for each in page.all("details") if each.attributes.get("class") == "stream"]

    assert [each.all("summary")[0].all("span")[0].text for each in tables] == [s.name for s in shop_run().streams]
    refunds = " ".join(tables[2].full_text().split())
    assert "Slices failed 2" in refunds
    assert "queue 460 1.31 s 1.07 s 2.23 s 4.45 s 11.8 s" in refunds


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("running", "it is still running, or it was killed"),
        ("interrupted", "was interrupted after 42 min 13 s. The next run resumes it."),
        ("failed", "The run failed after 42 min 13 s."),
        ("partial", "the next run reads what failed again"),
        ("complete", "The run read all of its streams. It was narrowed"),
    ],
)
def test_page_and_terminal_say_how_the_run_ended(outcome: Any, sentence: str):
    record = replace(shop_run(), outcome=outcome, streams=(), slices=(), series=empty_run().series, is_narrowed=True)

    assert sentence in render_html(record)
    assert sentence in printed(record, 200)
    assert ("How to resume it" in render_html(record)) == (outcome != "complete")


def test_run_without_anything_has_empty_states():
    text = text_of(page_of("empty"))

    for shown in (
        *("No request was finished.", "No record was read.", "No slice has finished.", "No stream was read."),
        *("No failures.", "No request had to wait.", "All settings have their defaults.", "started from Python"),
        "There is no verdict: the run has not ended.",
        "0 s so far",
    ):
        assert shown in text
    assert figures_of(page_of("empty")) == {}


@pytest.mark.parametrize("name", RUNS)
def test_page_has_only_elements_of_the_template(name: str):
    page = page_of(name)

    assert {each.name for each in page.elements} - {""} <= PAGE_ELEMENTS
    assert [each.attributes for each in page.all("script")] == [
        {"type": "application/json", "id": "chart-data"},
        {},
        {},
    ]
    attributes = [(name, value) for each in page.elements for name, value in each.attributes.items()]
    assert [name for name, _ in attributes if name.startswith("on") or name in ("src", "srcset", "srcdoc")] == []
    assert [value for name, value in attributes if name == "href" and not value.startswith("#")] == []
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_hostile_texts_are_shown_as_text():
    text = text_of(page_of("hostile"))

    for shown in HOSTILE[:3]:
        assert shown in text
    assert r"\u2028\u2029'" in text
    assert r"\x1b[31mred\x1b]0;owned\x07[red]markup[/red]\u202etxt.exe\r\n\ud800" in text
    assert "${document.title='owned'}{{7*7}}%{x}$x^2$" in text


@pytest.mark.parametrize("name", RUNS)
def test_page_has_no_control_characters(name: str):
    html = html_of(name)

    assert [char for char in set(html) if not char.isprintable() and char != "\n"] == []
    html.encode("utf-8")


def test_hostile_texts_of_charts_are_no_markup():
    figures = figures_of(page_of("hostile"))
    data = page_of("hostile").with_id("chart-data").text

    assert not re.search("[<>&\u2028\u2029]", data)
    own = re.compile(r"</?b>|<br>|<extra></extra>")
    texts = [own.sub("", text.replace("\n", "")) for text in strings_in(figures)]
    assert any("&lt;img" in text for text in texts)
    assert [text for text in texts if "<" in text or "\x1b" in text] == []
    templates = [
        trace["hovertemplate"] for figure in figures.values() for trace in figure["data"] if "hovertemplate" in trace
    ]
    assert [template for template in templates if "owned" in template or "x^2" in template] == []


@settings(max_examples=60)
@given(st.text())
def test_plot_text_has_no_markup(text: str):
    shown = plot_text(text)

    assert not set("<>$") & set(shown)
    assert shown.isprintable()
    assert not re.search("&(?!lt;|gt;|amp;|#36;)", shown)


def test_policy_allows_only_the_scripts_of_the_page():
    page = page_of("hostile")

    metas = {each.attributes.get("http-equiv"): each.attributes.get("content", "") for each in page.all("meta")}
    policy = dict(part.strip().split(" ", 1) for part in metas["Content-Security-Policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert set(policy) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    scripts = [each.text for each in page.all("script")[1:]]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    head = html_of("hostile").partition("<title>")[0].encode()
    assert len(head) < 1024


@pytest.mark.parametrize("name", RUNS)
def test_page_stays_small(name: str):
    assert len(html_of(name).encode()) < (2_000_000 if name == "large" else 600_000)


def test_page_has_the_chart_library_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("plotly.offline.get_plotlyjs", get_plotlyjs)

    html = render_html(empty_run())

    assert html.count("plotly.js v") == 1
    assert len(html) < len(get_plotlyjs()) + 50_000


def test_library_with_ends_of_scripts_stays_one_script():
    scripts = page_of("shop").all("script")

    assert len(scripts) == 3
    assert (
        scripts[1].text == 'window.Plotly = {};\nvar end = "<\\/script>", comment = "<\\!--", other = "<\\/SCRIPT ";\n'
    )


@pytest.mark.parametrize("name", RUNS)
def test_charts_are_valid_and_have_titles_and_alternatives(name: str):
    page = page_of(name)
    figures = figures_of(page)

    for key, figure in figures.items():
        Figure(with_colors(figure))  # raises ValueError for an attribute that plotly does not know
        section = page.with_id(key)
        chart = page.with_id(f"chart-{key}")
        assert chart.attributes["role"] == "img"
        assert len(chart.attributes["aria-label"]) > 20
        assert section.all("h3")[0].text
        assert section.all("table"), key
        axes = [figure["layout"][axis] for axis in ("xaxis", "yaxis")]
        assert all("title" in axis or "ticktext" in axis for axis in axes)


def with_colors(value: Any) -> Any:
    """A figure with a colour in place of each name of one."""
    if isinstance(value, dict):
        return {name: with_colors(each) for name, each in value.items()}
    if isinstance(value, list):
        return [with_colors(each) for each in value]
    return "#123456" if isinstance(value, str) and re.fullmatch("--[a-z-]+", value) else value


@pytest.mark.parametrize("name", RUNS)
def test_page_is_accessible(name: str):
    page = page_of(name)

    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(each.name[1]) for each in page.elements if re.fullmatch("h[1-6]", each.name)]
    assert [after for before, after in pairwise(levels) if after > before + 1] == []
    for table in page.all("table"):
        assert table.all("caption")[0].text
        assert {each.attributes.get("scope") for each in table.all("th")} == {"col", "row"}
        columns = len(table.all("thead")[0].all("th"))
        assert {len(row.children) for row in table.all("tr")} == {columns}
    links = {each.attributes["href"][1:] for each in page.all("a")}
    assert links <= {each.attributes.get("id") for each in page.elements}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("background", ["surface", "page"])
def test_texts_have_contrast(scheme: int, background: str):
    css = (files("asyncstreams.observability.report") / "templates" / "report.css").read_text("utf-8")
    block = re.findall(r":root[^{]*\{([^}]*)\}", css)[scheme]
    colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))

    for name in ("ink", "muted", "link", "good", "warn", "bad"):
        assert contrast(colors[name], colors[background]) >= 4.5, name
    for name in ("good", "warn", "bad"):
        assert contrast(colors[name], colors[f"{name}-back"]) >= 4.5, name
    for name in ("blue", "cyan", "indigo", "green", "violet", "orange", "pink", "brown", "red", "teal", "grey"):
        assert contrast(colors[name], colors["surface"]) >= 2.8, name


def contrast(first: str, second: str) -> float:
    """The ratio of luminances, as WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_time_charts_have_moments_in_utc_and_since_begin():
    figure = figures_of(page_of("shop"))["requests"]

    moments, requests, refused, limit = figure["data"]
    assert requests["x0"] == "2026-12-01 02:10:58.412"
    assert requests["dx"] == 5_000
    assert len(requests["y"]) == len(moments["customdata"]) == 507
    assert moments["customdata"][24] == "2 min 00 s after the begin"
    assert limit["y"][:4] == [None, None, None, 8.0]
    assert figure["layout"]["xaxis"]["range"] == ["2026-12-01 02:10:58.412", "2026-12-01 02:53:11.512"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "requests per second"
    assert max(refused["y"]) < max(requests["y"])


def test_table_of_a_chart_adds_up_intervals():
    table = page_of("shop").with_id("requests").all("table")[0]

    rows = [[cell.text for cell in row.children] for row in table.all("tbody")[0].children]

    assert len(rows) <= 60
    assert sum(int(row[2].replace(",", "")) for row in rows) == sum(shop_run().series.requests)
    assert rows[1][:2] == ["45 s", "02:11:43"]


def test_last_interval_counts_with_the_time_that_has_passed():
    series = replace(empty_run().series, interval=10.0, requests=(100, 60), records=(0, 0), in_flight=(1, 1))
    record = replace(empty_run(), seconds=16.0, series=series)

    page = PageParser()
    page.feed(render_html(record))

    assert figures_of(page.root)["requests"]["data"][1]["y"] == [10.0, 10.0, 10.0]


def test_unknown_begin_leaves_seconds():
    assert "Began an unknown time" in text_of(page_of("hostile"))
    axis = figures_of(page_of("hostile"))["requests"]["layout"]["xaxis"]
    assert axis["title"]["text"] == "time since the begin"
    assert RunCalendar(replace(empty_run(), began_at="9999-12-31T23:59:59Z")).utc(1e9) == "—"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100), st.floats(0, 50)), max_size=30))
def test_bars_of_slices_do_not_overlap(spans: Sequence[tuple[str, float, float]]):
    slices = tuple(SliceRecord(stream, "", begin, begin + took) for stream, begin, took in spans)
    chart = slice_chart(replace(empty_run(), slices=slices))

    lanes: dict[float, list[SliceRecord]] = {}
    for trace in chart.figure["data"] if chart.figure else []:
        for lane, each in zip(trace["y"], slices, strict=True):
            lanes.setdefault(lane, []).append(each)
    for in_lane in lanes.values():
        ordered = sorted(in_lane, key=lambda each: (each.began_s, each.ended_s))
        assert len({each.stream for each in in_lane}) == 1
        assert all(after.began_s >= before.ended_s for before, after in pairwise(ordered))
    assert sorted(lanes) == list(range(len(lanes)))


@pytest.mark.program
def test_many_streams_are_left_out_of_bars_and_said():
    page = page_of("large")

    assert len(figures_of(page)["ceilings"]["data"][0]["y"]) == 30
    assert "170 streams with less time are left out" in " ".join(page.with_id("ceilings").full_text().split())
    assert len([each for each in page.all("details") if each.attributes.get("class") == "stream"]) == 200


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=re.escape('pip install "asyncstreams[report]"')):
        render_html(empty_run())


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", ["shop", "hostile", "empty", "large"])
def test_terminal_tables_fit_the_width(name: str, width: int):
    lines = printed(replace(RUNS[name](), command=""), width).splitlines()

    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("width", [80, 200])
def test_terminal_tables_have_the_content_of_the_page(width: int):
    text = printed(shop_run(), width)

    for shown in (
        "MISSED",
        "1,151,708",
        "HttpStatusError 429",
        "Retry-After of a 429",
        "lookback",
        "12 records did not",
    ):
        assert shown in text
    assert text.index("MISSED") < text.index("orders was limited by") < text.index("Streams")
    assert ("A terminal of 110 columns also shows: Rows, Retries, Slices, Failed slices." in text) == (width == 80)
    assert text.endswith("--require 'refused <= 1%'\n")
    assert "requests   █" in text


def test_terminal_shows_markup_and_controls_of_hostile_texts():
    text = printed(hostile_run(), 400, force_terminal=True, color_system="truecolor")

    assert r"\x1b[31mred\x1b]0;owned\x07[red]markup[/red]\u202etxt.exe\r\n\ud800" in text
    assert "<img src=x onerror=" in text
    own = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(line.isprintable() for line in own.splitlines())
    assert "\x1b]" not in text


def test_terminal_without_unicode_gets_ascii():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_tables(replace(shop_run(), source="Läden"), Console(file=file, width=80))
    file.flush()

    text = file.buffer.getvalue().decode("ascii")

    assert "L\\xe4den" in text
    assert "Duration" in text


def test_terminal_says_how_many_rows_are_left_out():
    text = printed(large_run(), 120)

    assert "160 rows are left out; the HTML report and --json have them." in text
    assert "12 failures of other kinds are left out." in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *(
            (0, "0 s"),
            (0.00042, "0.42 ms"),
            (0.0123, "12.3 ms"),
            (0.9999, "1 s"),
            (9.994, "9.99 s"),
            (59.96, "1 min 00 s"),
        ),
        *((245, "4 min 05 s"), (7_620, "2 h 07 min"), (273_600, "3 d 04 h"), (-2, "-2 s"), (float("nan"), "unknown")),
    ],
)
def test_seconds_are_readable(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_sizes_rates_and_shares_are_readable():
    assert [format_size(size) for size in (0, 999, 1_500, 2.2e9, 1e18)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.2 GB",
        "1,000 PB",
    ]
    assert [format_rate(rate) for rate in (None, 0.0123, 4.76, 45.62, 1_234.5)] == [
        "—",
        "0.01",
        "4.76",
        "45.6",
        "1,234",
    ]
    assert [format_share(part, 1_000) for part in (0, 0.5, 23, 994)] == ["0 %", "< 0.1 %", "2.3 %", "99 %"]
    assert format_share(1, 0) == ""
    assert [format_latency(time) for time in (0, 0.2)] == ["< 0.1 ms", "200 ms"]


def test_stored_record_renders_like_the_run():
    record = RunRecord.from_bytes(shop_run().to_bytes(), "here")

    assert render_html(record) == html_of("shop")


@pytest.mark.parametrize("extreme", [0.0, -1.0, 1e308, 1e-300])
def test_record_with_damaged_numbers_is_shown(extreme: float):
    stored = with_numbers(large_run(streams=2, slices=5, intervals=3).to_json(), extreme)
    record = RunRecord.from_bytes(json.dumps(stored | {"format": 1}).encode(), "here")

    page = PageParser()
    page.feed(render_html(record))

    assert figures_of(page.root)
    assert "Failures" in printed(record, 100)


def with_numbers(value: Any, extreme: float) -> Any:
    """A JSON value with one number in place of all fractions, and a large one in place of all others."""
    if isinstance(value, dict):
        return {name: with_numbers(each, extreme) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_numbers(each, extreme) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return extreme if isinstance(value, float) else 10**18
