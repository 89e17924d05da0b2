"""The progress table: rows, waits, outcomes and columns."""

from __future__ import annotations

import io

import httpx
import pytest
from rich.console import Console

from asyncstreams import (
    HttpStatusError,
    HttpStream,
    PageNumber,
    PageRead,
    RetryScheduled,
    Slice,
    Source,
    StreamFinished,
    StreamSkipped,
    StreamStarted,
    StreamUnavailable,
    WaitStarted,
)
from asyncstreams.progress import Progress
from asyncstreams.testing import VirtualClock


class EventSender:
    """A source whose events the test sends itself."""

    def subscribe(self, listener):
        self.listener = listener
        return lambda: setattr(self, "listener", None)


class Orders(HttpStream):
    url_base = "https://api.test/"
    paginator = PageNumber(total_pages="pages")
    records_path = "data"
    validation = "quarantine"

    def path(self, context):
        return self.name

    def get_json_schema(self):
        return {"properties": {"id": {"type": "integer"}}}


class Payouts(Orders):
    """A stream that the API forbids."""


def table_rows(progress: Progress) -> dict[str, str]:
    """The current rows of the table, by their first word; a wide terminal shows all columns."""
    console = Console(file=io.StringIO(), width=200)
    console.print(progress.table())
    output = console.file.getvalue().splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in output if line.strip()}


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def progress(clock):
    return Progress(EventSender(), console=Console(file=io.StringIO()), clock=clock)


def page_read(number: int, records: int, quarantined: int = 0) -> PageRead:
    return PageRead("orders", Slice(), number, records, quarantined)


def test_row_counts_pages_records_and_retries(progress, clock):
    progress(StreamStarted("orders"))
    progress(page_read(0, 100))
    progress(RetryScheduled("orders", "answered 503", 0.5, 1))
    clock.advance(4)
    progress(page_read(1, 20))
    progress(StreamFinished("orders"))

    assert table_rows(progress) == {
        "stream": "pages records records/s retries status",
        "orders": "2 120 30 1 done in 4 s",
    }


def test_row_shows_wait_reason_and_remaining_time(progress, clock):
    progress(StreamStarted("orders"))
    progress(WaitStarted("orders", "the API's pause to end", 10))
    clock.advance(4)

    assert table_rows(progress)["orders"].endswith("waits 6 s for the API's pause to end")

    clock.advance(6)
    assert table_rows(progress)["orders"].endswith("reading")


def test_page_ends_a_wait(progress):
    progress(StreamStarted("orders"))
    progress(RetryScheduled("orders", "answered 503", 9.0, 1))
    progress(page_read(0, 1))

    assert table_rows(progress)["orders"].endswith("reading")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "done in 2 s"),
        (StreamUnavailable("answered 403 Forbidden", status=403), "unavailable: answered 403 Forbidden"),
        (HttpStatusError("answered 404 Not Found"), "failed: answered 404 Not Found"),
        (KeyError("name"), "failed: KeyError"),
        (GeneratorExit(), "stopped early"),
    ],
)
def test_finished_row_shows_outcome_and_final_rate(progress, clock, error, expected):
    progress(StreamStarted("orders"))
    clock.advance(2)
    progress(page_read(0, 100))
    progress(StreamFinished("orders", error))
    clock.advance(60)

    assert table_rows(progress)["orders"] == f"1 100 50 {expected}"


def test_quarantined_column_appears_when_needed(progress):
    progress(StreamStarted("orders"))
    assert "quarantined" not in table_rows(progress)["stream"]

    progress(page_read(0, 97, 3))

    assert "quarantined" in table_rows(progress)["stream"]
    assert table_rows(progress)["orders"].split()[-3:] == ["3", "unknown", "reading"]


def test_skipped_stream_shows_the_reason(progress):
    progress(StreamStarted("payouts"))
    progress(StreamSkipped("payouts", "no scope"))

    assert table_rows(progress)["payouts"].endswith("skipped: no scope")
    progress(StreamFinished("payouts", StreamUnavailable("no scope")))
    assert table_rows(progress)["payouts"].endswith("unavailable: no scope")


async def test_table_is_printed_once_without_a_terminal():
    def api(request):
        if request.url.path == "/payouts":
            return httpx.Response(403, json={"message": "no scope"})
        number = int(request.url.params["page"])
        return httpx.Response(200, json={"data": [{"id": number}, {"id": "two"}], "pages": 2})

    source = Source([Orders(), Payouts()], transport=httpx.MockTransport(api))
    console = Console(file=io.StringIO(), width=120)

    with Progress(source, console=console) as progress:
        await source.read()

    printed = console.file.getvalue()
    assert printed.count("records/s") == 1
    assert [line.split()[:3] for line in printed.splitlines()[1:3]] == [["orders", "2", "2"], ["payouts", "0", "0"]]
    assert "unavailable: answered 403 Forbidden" in printed
    assert progress.rows["orders"].quarantined == 2


async def test_no_updates_after_the_block():
    source = Source([Orders()], transport=httpx.MockTransport(lambda request: httpx.Response(200, json={"data": []})))

    with Progress(source, console=Console(file=io.StringIO())) as progress:
        pass
    await source.read()

    assert progress.rows == {}
