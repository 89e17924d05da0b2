"""The live view in a notebook: a table that updates, and reports as tables."""

from __future__ import annotations

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SETUP = """
import asyncio, os, warnings
import httpx
from asyncstreams import HttpStream, JsonLines, PageNumber, Source
from asyncstreams.progress import Progress

class Orders(HttpStream):
    url_base = "https://api.test/"
    paginator = PageNumber()
    parallel_pages = False
    name = "orders<script>alert(1)</script>"

    def path(self, context):
        return "orders"

async def answer(request):
    page = int(request.url.params["page"])
    await asyncio.sleep(0.25)
    return httpx.Response(200, json=[{"id": page}] if page < 4 else [])

source = Source([Orders()], transport=httpx.MockTransport(answer))
"""
READ = """
with Progress(source):
    print("before")
    records = await source.read()
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The outputs of the cells, and the messages that updated the table."""
    notebook = new_notebook(
        cells=[
            new_code_cell(SETUP),
            new_code_cell(READ),
            new_code_cell("sum(map(len, records.values()))"),
            new_code_cell("await source.extract(to=JsonLines('out'))"),
        ]
    )
    client = RecordingClient(notebook, timeout=60, resources={"metadata": {"path": tmp_path_factory.mktemp("book")}})
    client.execute()
    return [cell.outputs for cell in notebook.cells], client.updates


class RecordingClient(NotebookClient):
    """Keeps the updates of displays, of which the notebook holds the last one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.updates: list[dict] = []

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "update_display_data":
            self.updates.append(msg["content"])
        return super().process_message(msg, cell, cell_index)


def test_table_of_the_cell_updates(executed):
    (_, outputs, _, _), updates = executed

    table, text = outputs
    assert (table.output_type, text.text) == ("display_data", "before\n")
    assert table.data["text/html"].count("<table") == 1
    assert ">3</td>" in table.data["text/html"]
    assert "done in" in table.data["text/html"]
    assert len({update["transient"]["display_id"] for update in updates}) == 1
    states = [update["data"]["text/html"] for update in updates]
    assert sum("reading" in state for state in states) >= 2
    assert len(states) <= 8


def test_names_in_the_table_are_escaped(executed):
    (_, (table, _), _, _), _ = executed

    assert "<script" not in table.data["text/html"]
    assert "&lt;script&gt;alert(1)" in table.data["text/html"]
    assert table.data["text/plain"].startswith("stream ")


def test_results_and_reports_are_shown(executed):
    (setup, _, (count,), outputs), _ = executed

    assert setup == []
    assert count.data["text/plain"] == "3"
    report = outputs[-1]
    assert report.output_type == "execute_result"
    assert "<table" in report.data["text/html"]
    assert "&lt;script&gt;" in report.data["text/html"]
    assert "3 rows in 1 part" in report.data["text/html"]
