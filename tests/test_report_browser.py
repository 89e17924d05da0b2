"""The page of a run in a browser: charts, scripts, network, hostile texts, widths and printing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from socket import create_server, socket
from threading import Thread

import pytest
from browser import Browser, run_browser
from recorded_runs import HOSTILE, empty_run, hostile_run, large_run, shop_run

from asyncstreams import RunRecord
from asyncstreams.observability.report import render_html

pytestmark = pytest.mark.server("chromium")

RUNS = {"shop": shop_run, "hostile": hostile_run, "large": large_run, "empty": empty_run}
CHARTS = ("requests", "records", "in-flight", "statuses", "ceilings", "percentiles", "means", "slices")
# Each chart with the number of its traces that have something to show.
DRAWN = """
Object.fromEntries(Array.from(document.querySelectorAll(".chart")).map((chart) => [
  chart.id.replace("chart-", ""),
  chart.querySelectorAll("svg.main-svg .trace path, svg.main-svg .trace .point").length,
]))
"""


class ClosingProxy:
    """Closes the connections that a browser opens. `requests` has their first lines, without those to its vendor."""

    def __init__(self) -> None:
        self._listener = create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                line = self._first_line(connection)
                if b"google" not in line:
                    self.requests.append(line)

    def _first_line(self, connection: socket) -> bytes:
        try:
            return connection.recv(4096).partition(b"\r\n")[0]
        except OSError:
            return b""

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[ClosingProxy]:
    proxy = ClosingProxy()
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, proxy: ClosingProxy) -> Iterator[Browser]:
    with run_browser(tmp_path_factory.mktemp("profile"), proxy.port) as browser:
        yield browser


@pytest.fixture(scope="module", params=RUNS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page"), RUNS[request.param]())


def write_page(folder: Path, record: RunRecord) -> Path:
    path = folder / f"{record.outcome}.html"
    path.write_text(render_html(record), "utf-8")
    return path


def test_every_chart_is_drawn_without_script_errors(browser: Browser, page: Path) -> None:
    browser.open(page)

    drawn = browser.evaluate(DRAWN)

    expected = () if page.name == "running.html" else CHARTS
    assert tuple(drawn) == expected
    assert all(count > 0 for count in drawn.values()), drawn
    assert browser.messages == []


def test_page_opens_no_connection(browser: Browser, page: Path, proxy: ClosingProxy) -> None:
    proxy.requests.clear()

    browser.open(page)
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")

    assert proxy.requests == []
    assert [url for url in browser.requested if url != page.as_uri()] == []


def test_policy_blocks_requests_of_the_page(browser: Browser, tmp_path: Path, proxy: ClosingProxy) -> None:
    browser.open(write_page(tmp_path, shop_run()))
    proxy.requests.clear()

    for attempt in ("fetch('http://127.0.0.1:9/')", "Promise.resolve().then(() => new Function('return 1')())"):
        assert browser.evaluate(f"{attempt}.then(() => 'done', () => 'blocked')") == "blocked"
    browser.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/'})), null")
    script = "Object.assign(document.createElement('script'), {text: 'document.title = 1'})"
    browser.evaluate(f"document.body.append({script}), null")
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")

    assert proxy.requests == []
    assert browser.evaluate("document.title").startswith("Shop: partial")
    assert any("Content Security Policy" in message for message in browser.messages)


def test_proxy_sees_connections_of_other_pages(browser: Browser, tmp_path: Path, proxy: ClosingProxy) -> None:
    other = tmp_path / "other.html"
    other.write_text('<img src="http://asyncstreams.test/picture">')

    browser.open(other)

    assert b"GET http://asyncstreams.test/picture HTTP/1.1" in proxy.requests
    assert browser.requested[-1] == "http://asyncstreams.test/picture"


def test_hostile_texts_are_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(tmp_path, hostile_run()))

    # Hovering shows texts of the slices and statuses.
    shown = browser.evaluate(
        """
        (async () => {
          const texts = [];
          const points = [["chart-slices", 0, 2], ["chart-statuses", 1, 0], ["chart-ceilings", 1, 0]];
          for (const [id, curve, point] of points) {
            const chart = document.getElementById(id);
            Plotly.Fx.hover(chart, [{curveNumber: curve, pointNumber: point}]);
            await new Promise((done) => setTimeout(done, 150));
            texts.push(chart.querySelector(".hoverlayer").textContent);
          }
          return texts;
        })()
        """
    )
    unwanted = browser.evaluate(
        """Array.from(document.querySelectorAll("img, iframe, object, form, a")).map((each) => each.outerHTML)
           .filter((each) => !each.startsWith('<a href="#'))"""
    )
    labels = browser.evaluate('Array.from(document.querySelectorAll("#chart-slices .ytick")).map((x) => x.textContent)')

    assert browser.evaluate("document.title") not in ("owned", "")
    assert unwanted == []
    assert HOSTILE[2] in shown[0]
    assert "x^2$" in "".join(labels)
    assert labels[0].startswith("</script>")
    assert browser.messages == []


@pytest.mark.parametrize("width", [400, 1600])
def test_page_fits_its_width(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)

    assert browser.evaluate("document.documentElement.scrollWidth") == width
    charts = 'Array.from(document.querySelectorAll(".chart"))'
    overflow = browser.evaluate(f"{charts}.filter((x) => x.scrollWidth > x.clientWidth + 1).map((x) => x.id)")
    assert overflow == []


def test_charts_follow_the_colour_scheme(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path, shop_run())
    color = "document.querySelector('#chart-slices .point path').style.fill"

    browser.open(path)
    light = browser.evaluate(color)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")

    assert light == "rgb(47, 111, 222)"
    assert browser.evaluate(color) == "rgb(107, 160, 255)"


def test_zoom_of_one_chart_applies_to_all(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(tmp_path, shop_run()))
    window = ["2026-12-01 02:20:00", "2026-12-01 02:30:00"]

    change = f"{{'xaxis.range[0]': '{window[0]}', 'xaxis.range[1]': '{window[1]}'}}"
    browser.evaluate(f"Plotly.relayout('chart-records', {change}).then(() => null)")
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")

    for chart in ("requests", "in-flight", "statuses", "slices"):
        assert browser.evaluate(f"document.getElementById('chart-{chart}').layout.xaxis.range") == window


def test_page_prints_light_with_tables_of_streams(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(tmp_path, shop_run()), is_dark=True)

    printed = browser.print_pdf()

    assert printed.startswith(b"%PDF")
    assert 4 <= printed.count(b"/Type /Page\n") <= 16
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert browser.messages == []
