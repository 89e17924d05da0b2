"""The live view on terminals: its columns at each width, its rows at each height, and texts that are not obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from scripted_run import ScriptedRun, page_read, printed, sample, terminal

from asyncstreams import (
    HttpStatusError,
    ParentsDiscovered,
    RetryScheduled,
    Slice,
    SliceFinished,
    SliceStarted,
    StreamFinished,
    StreamStarted,
    WaitStarted,
)
from asyncstreams.events import Ceiling
from asyncstreams.progress import Progress
from asyncstreams.progress.terminal_view import LinesAbove

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def busy_run() -> ScriptedRun:
    """Five streams after 30 s, of which each is limited by something else."""
    run = ScriptedRun()
    run.send(*map(StreamStarted, ("customers", "events", "orders", "reviews_of_all_products_of_all_shops", "payouts")))
    run.send(StreamFinished("payouts", HttpStatusError("answered 404 Not Found")))
    for second in range(30):
        run.send(page_read("events", 400), page_read("orders", 150), page_read("orders", 150))
        run.send(page_read("reviews_of_all_products_of_all_shops", 1_000, quarantined=second == 7))
        if second == 10:
            run.send(page_read("customers", 2_500), StreamFinished("customers"))
        if second % 3 == 0:
            run.send(SliceStarted("orders", Slice()), SliceFinished("orders", Slice()))
        run.send(
            sample("events", Ceiling.FOUND_LIMIT, records_expected=60_000, slices_known=1)
            if second
            else sample("events"),
            sample("orders", Ceiling.REPORTED_QUOTA, slices_known=40, in_flight=6, waiting=11, max_rate=25.0),
            sample("reviews_of_all_products_of_all_shops", Ceiling.CONSUMER, Ceiling.CPU, in_flight=2),
            seconds=1.0,
        )
    run.send(RetryScheduled("reviews_of_all_products_of_all_shops", "answered 503", 0.1, 1))
    run.send(WaitStarted("events", "the API's pause to end", 20))
    return run


@pytest.mark.parametrize("width", [80, 200])
def test_captured_table_is_as_expected(width):
    assert busy_run().lines(width) == (DATA / f"live-view-{width}.txt").read_text("utf-8").splitlines()


def test_final_table_keeps_figures_and_what_limited_most():
    run = busy_run()

    run.send(*map(StreamFinished, ("events", "orders", "reviews_of_all_products_of_all_shops")))

    header, *rows = run.lines()
    assert not {"ETA", "flight", "done"} & set(header.split())
    assert rows[1].split() == ["events", "30", "12,000", "400", "found", "limit", "done", "in", "30", "s"]
    assert rows[-1].split()[:6] == ["5", "streams", "121", "53,500", "1,783", "1"]


@given(st.text(max_size=60), st.text(max_size=60), st.integers(1, 260), st.integers(0, 10**9))
def test_no_line_is_wider_than_the_terminal(name, reason, width, records):
    run = ScriptedRun()
    run.send(StreamStarted(name), StreamStarted("other"), page_read(name, records, records))
    run.send(sample(name, Ceiling.CPU, records_expected=2, slices_known=1), RetryScheduled(name, reason, 9, 1))

    lines = run.lines(width)

    assert len(lines) == 4
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


def test_long_names_are_cut_in_the_middle():
    run = ScriptedRun()
    run.send(StreamStarted("orders_of_the_north_2024"), StreamStarted("orders_of_the_north_2025"))

    assert [line.split()[0] for line in run.lines(60)[1:3]] == ["orders_o…th_2024", "orders_o…th_2025"]


def test_hostile_texts_are_shown_and_not_obeyed():
    run = ScriptedRun(terminal())
    reason = "\x1b[2J[bold red]gone[/]\x9b31m\r\n\u202eevil\ud800"
    run.send(StreamStarted("[red]a\x07"), RetryScheduled("[red]a\x07", reason, 9, 1))

    line = run.lines()[1]

    assert line.startswith(r"[red]a\x07 ")
    assert line.endswith(r"retries in 9 s: \x1b[2J[bold red]gone[/]\x9b31m\r\n\u202eevil\ud800")


@pytest.mark.parametrize(("height", "rows"), [(60, 50), (20, 16), (3, 4)])
def test_many_streams_fit_the_height(height, rows):
    run = ScriptedRun(terminal(100, height))
    names = [f"stream_{number:02}" for number in range(50)]
    run.send(*map(StreamStarted, names))
    run.send(*(StreamFinished(name) for name in names[:30]))
    run.send(StreamFinished("stream_30", OSError()), *(WaitStarted(name, "quota", 9) for name in names[42:]))

    with run.progress:
        lines = run.lines(100)

    assert len(lines) <= max(height - 1, 7)
    assert len(run.lines()) == 52
    assert lines[-1].startswith("50 streams")
    shown = [line.split()[0] for line in lines[1 : rows + 1]]
    if rows == 50:
        assert shown == names
    else:
        # What moves comes first, then what waits.
        assert shown == [*names[31:42], *names[42:]][:rows]
        assert (
            lines[-2]
            == {
                16: "and 34 more: 30 done, 1 failed, 3 waiting",
                4: "and 46 more: 30 done, 1 failed, 7 reading, 8 waiting",
            }[rows]
        )


@pytest.fixture
def utc(monkeypatch):
    """The local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_long_wait_shows_its_end_as_clock_time():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), WaitStarted("orders", "the API's quota to reset", 3600))
    end = datetime.fromtimestamp(run.clock.wall() + 3600, UTC)

    assert run.lines(200)[1].endswith(f"waits until {end:%H:%M:%S} for the API's quota to reset")
    assert run.lines(70)[1].endswith(f"until {end:%H:%M:%S}: quota")

    run.send(WaitStarted("orders", "the API's quota to reset", 86_400))
    end += timedelta(seconds=82_800)
    assert f"waits until {end:%a %d %b %H:%M} for" in run.lines(200)[1]


def test_wait_without_an_end_shows_its_reason():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), WaitStarted("orders", "the host to respond again", math.inf))

    assert run.lines()[1].endswith("waits for the host to respond again")
    assert run.lines(60)[1].endswith("unknown host is down")


def test_short_waits_do_not_flicker():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), WaitStarted("orders", "the declared rate_limit", 0.2))

    assert run.lines()[1].endswith("reading")


def test_sample_begins_and_ends_a_wait():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), sample("orders", waiting=3, wait_reason="the API's quota to reset", wait_s=8.0))
    assert run.lines()[1].endswith("waits 8 s for the API's quota to reset")

    run.send(sample("orders", in_flight=2))
    assert run.lines()[1].endswith("reading")


def test_slices_show_what_is_known():
    run = ScriptedRun()
    run.send(StreamStarted("orders"), *[SliceStarted("orders", Slice())] * 12)
    run.send(*[SliceFinished("orders", Slice())] * 11, SliceFinished("orders", Slice(), OSError()))
    assert "12 of ?" in run.lines()[1]

    run.send(ParentsDiscovered("orders", 40, is_all=False))
    assert "12 of 40+" in run.lines()[1]

    run.send(ParentsDiscovered("orders", 50, is_all=True))
    assert "12 of 50" in run.lines()[1]
    assert "12/50" in run.lines(80)[1]
    run.send(SliceFinished("orders", Slice(), asyncio.CancelledError()))
    assert run.lines()[1].endswith("reading, 1 slice failed")


def test_second_run_counts_its_own_slices():
    run = ScriptedRun()
    for _ in range(2):
        run.send(StreamStarted("orders"), ParentsDiscovered("orders", 2, is_all=True), page_read("orders", 5))
        run.send(*[SliceFinished("orders", Slice())] * 2, seconds=4)
        run.send(StreamFinished("orders"), seconds=100)

    assert run.lines()[1].split() == ["orders", "2", "10", "1.2", "2", "of", "2", "done", "in", "8", "s"]


def test_rate_is_that_of_the_last_seconds():
    run = ScriptedRun()
    run.send(StreamStarted("orders"))
    for _ in range(100):
        run.send(page_read("orders", 500), seconds=0.5)
    for _ in range(60):
        run.send(page_read("orders", 50), seconds=0.5)

    rate = run.progress.rows["orders"].records_per_second(run.clock.monotonic())
    assert rate == pytest.approx(100, rel=0.1)


def test_without_a_terminal_nothing_is_cut():
    run = ScriptedRun(Console(file=io.StringIO(), width=80))
    with run.progress:
        run.send(StreamStarted("a" * 90), page_read("a" * 90, 1), StreamFinished("a" * 90, HttpStatusError("b" * 90)))

    _, row = printed(run.console).splitlines()
    assert row.split()[::5] == ["a" * 90, "b" * 90]


def test_without_events_nothing_is_printed():
    run = ScriptedRun(Console(file=io.StringIO()))
    with run.progress:
        pass

    assert printed(run.console) == ""


def test_terminal_that_is_not_unicode_shows_question_marks():
    output = io.BytesIO()
    file = io.TextIOWrapper(output, encoding="latin-1")
    run = ScriptedRun(Console(file=file, width=40, force_terminal=True, color_system=None))
    run.send(StreamStarted("größe_表"), page_read("größe_表", 1))

    run.console.print(run.progress.table())

    file.flush()
    assert output.getvalue().decode("latin-1").splitlines()[1].startswith("größe_? ")


def test_progress_inside_of_another_is_printed_above(monkeypatch):
    outer = terminal()
    monkeypatch.setattr(sys, "stderr", LinesAbove(outer, io.StringIO()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = ScriptedRun()
    with Progress(run) as inner:
        inner(StreamStarted("orders"))
        inner(StreamFinished("orders"))

    assert [line.split()[0] for line in printed(outer).splitlines()] == ["stream", "orders"]


def test_block_can_be_entered_again():
    run = ScriptedRun(terminal())
    for _ in range(2):
        with run.progress:
            run.send(StreamStarted("orders"), page_read("orders", 5), StreamFinished("orders"))

    assert re.findall(r"orders +(\d+) +(\d+) ", printed(run.console))[-1] == ("2", "10")


def test_closed_stderr_does_not_fail_the_run(monkeypatch):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        with Progress(ScriptedRun()) as progress:
            progress(StreamStarted("orders"))
        monkeypatch.undo()
        with contextlib.suppress(BrokenPipeError):
            closed.close()


def test_picture_of_the_documentation_can_be_drawn():
    script = [sys.executable, "-W", "error", str(ROOT / "scripts" / "draw_live_view.py"), "200"]
    text = subprocess.run(script, capture_output=True, encoding="utf-8", check=True).stdout

    picture = (ROOT / "docs" / "images" / "live-view.svg").read_text("utf-8")
    assert len(picture) < 100_000
    for word in ("customers", "17,000", "reported", "unavailable:"):
        assert word in text
        assert word in picture


def test_table_is_drawn_only_when_something_changes():
    run = ScriptedRun(terminal())
    began = time.perf_counter()
    with run.progress:
        run.send(StreamStarted("orders"))
        while "orders" not in printed(run.console):
            time.sleep(0.01)
        time.sleep(0.4)
        frames = printed(run.console).count("records/s")
    # Once in a second for the time that passes.
    assert frames <= 1 + (time.perf_counter() - began)


def test_many_events_cost_few_frames():
    run = ScriptedRun(terminal())
    began = time.perf_counter()
    with run.progress:
        while time.perf_counter() < began + 0.5:
            run.send(page_read("orders", 1))
    # The last one is that of the end.
    assert 2 <= printed(run.console).count("records/s") <= 8 * (time.perf_counter() - began) + 1


RUN = """
import asyncio, logging, sys
import httpx
logging.basicConfig(format="LOG %(message)s")
colored = logging.getLogger("colored")
handler = logging.StreamHandler(sys.stdout)
colored.addHandler(handler)
colored.propagate = False
from asyncstreams import HttpStream, PageNumber
from asyncstreams.progress import Progress

class Orders(HttpStream):
    url_base = "https://api.test/"
    paginator = PageNumber()
    parallel_pages = False

    def path(self, context):
        return "orders"

async def answer(request):
    page = int(request.url.params["page"])
    logging.getLogger("asyncstreams").warning("page %d", page)
    logging.getLogger().warning("\\N{ESCAPE}[31mred [bold]%d", page)
    print("out", page)
    print("err", page, file=sys.stderr)
    await asyncio.sleep(0.05)
    return httpx.Response(200, json=[{"id": page}] if page < 8 else [])

orders = Orders(transport=httpx.MockTransport(answer))
async def main():
    with Progress(orders):
        print("begun ", end="")
        await orders.read()
        late = logging.StreamHandler()
        logging.getLogger("late").addHandler(late)
        print("unfinished", end=" ", flush=True)
    colored.warning("after [red]")
    assert handler.stream is sys.__stdout__ is sys.stdout and sys.stderr is sys.__stderr__
    logging.getLogger("late").propagate = False
    logging.getLogger("late").warning("late")
asyncio.run(main())
"""


def read_terminal(command: list[str], width: int, stdout: int | None = None) -> str:
    """The output of a command on a terminal of 24 lines. `stdout` may be another file."""
    terminal_fd, own_fd = pty.openpty()
    ioctl(own_fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command,
        stdin=own_fd,
        stdout=own_fd if stdout is None else stdout,
        stderr=own_fd,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(own_fd)
    output = b""
    try:
        while chunk := os.read(terminal_fd, 65536):
            output += chunk
    except OSError:  # the end, on Linux
        pass
    os.close(terminal_fd)
    assert process.wait(timeout=20) == 0, output.decode()
    return output.decode()


def test_log_lines_survive_on_a_terminal():
    output = read_terminal([sys.executable, "-W", "error", "-c", RUN], 80)

    lines = [line for line in re.split(r"[\r\n]+", CONTROL.sub("", output)) if line]
    for number in range(1, 9):
        assert lines.count(f"LOG page {number}") == lines.count(f"LOG red [bold]{number}") == 1
        assert f"err {number}" in lines
    assert "begun out 1" in lines
    assert [line.strip() for line in lines].count("unfinished") == 1
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    table = lines.index("after [red]") - 2
    assert lines[table].split() == ["stream", "pages", "records", "records/s", "limited", "by", "status"]
    assert re.fullmatch(r"orders +8 +7 .* done in \d+ s", lines[table + 1])
    assert lines[table + 2 :] == ["after [red]", "late"]


def test_piped_stdout_is_not_redirected(tmp_path):
    with (tmp_path / "out").open("w+") as out:
        output = read_terminal([sys.executable, "-W", "error", "-c", RUN], 80, out.fileno())

    printed_lines = (tmp_path / "out").read_text().splitlines()
    assert printed_lines == ["begun out 1", *(f"out {number}" for number in range(2, 9)), "unfinished after [red]"]
    assert "LOG page 8" in output
    assert "out 2" not in output
