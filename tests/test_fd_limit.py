"""Runs within a low limit on open files, whatever max_concurrency is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from simulation import sample

from asyncstreams.testing import Fault, MockApi, Resource

FD_LIMIT = 128
SLICES = sample(full=10_000, short=2_000)

READER = """
import asyncio
import json
import os
import resource
import sys

from asyncstreams import Backoff, HttpStream, Source

url, streams, count, concurrency, fd_limit, already_open = sys.argv[1], *map(int, sys.argv[2:])


class Items(HttpStream):
    url_base = url
    records_path = "data"
    backoff = Backoff(base=0.01, cap=0.1)
    adaptive = False

    def __init__(self, name):
        self.name = name
        super().__init__()

    def stream_slices(self, state):
        return ({"at": n} for n in range(count))

    def path(self, context):
        return "items"

    def request_params(self, context):
        return {"slice": context.stream_slice["at"], "page_size": 2}


async def main():
    pages = records = 0
    max_fds = 0
    names = [f"s{n}" for n in range(streams)]
    async with Source([Items(name) for name in names], max_concurrency=concurrency).pages() as found:
        async for page in found:
            pages += 1
            records += len(page.records)
            if pages % 100 == 0:
                max_fds = max(max_fds, len(os.listdir("/proc/self/fd")) - 1)
    return {"pages": pages, "records": records, "max_fds": max_fds}


for _ in range(already_open):
    os.open(os.devnull, os.O_RDONLY)
resource.setrlimit(resource.RLIMIT_NOFILE, (fd_limit, fd_limit))
print(json.dumps(asyncio.run(main())))
"""


def read(url: str, *, streams: int = 1, count: int, concurrency: int = 1000, already_open: int = 0) -> dict[str, Any]:
    """Read in a limited process and return its counts; its stderr must only mention max_concurrency."""
    arguments = map(str, (streams, count, concurrency, FD_LIMIT, already_open))
    command = [sys.executable, "-W", "error", "-c", READER, url, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    other_output = [line for line in process.stderr.splitlines() if "max_concurrency" not in line]
    assert (process.returncode, other_output) == (0, [])
    return json.loads(process.stdout) | {"warned": process.stderr.count("max_concurrency")}


@pytest.fixture
def api():
    """An API slow enough for the client to reach its maximum of requests in flight."""
    with MockApi(Resource("items", 2), latency=0.004) as mock_api:
        yield mock_api


@pytest.mark.simulation
def test_thousands_of_slices_within_the_fd_limit(api):
    found = read(api.url, count=SLICES)

    assert (found["pages"], found["records"]) == (SLICES, 2 * SLICES)
    assert found["max_fds"] < FD_LIMIT
    assert found["warned"] == 1
    assert 16 <= api.counts.peak_in_flight < FD_LIMIT
    assert api.counts.connections < FD_LIMIT
    assert api.counts.requests == SLICES


@pytest.mark.parametrize("already_open", [30, 60, 100])
def test_fds_already_open_reduce_concurrency(api, already_open):
    found = read(api.url, count=600, already_open=already_open)

    assert (found["pages"], found["records"]) == (600, 1200)
    assert already_open < found["max_fds"] < FD_LIMIT
    assert api.counts.peak_in_flight < FD_LIMIT - already_open
    assert api.counts.connections < FD_LIMIT - already_open


def test_several_streams_share_the_fd_limit(api):
    found = read(api.url, streams=5, count=120)

    assert (found["pages"], found["records"]) == (600, 1200)
    assert found["max_fds"] < FD_LIMIT
    assert api.counts.connections < FD_LIMIT


def test_broken_connections_release_their_fds(api):
    api.faults = [Fault.reset(share=0.1)]

    found = read(api.url, count=600)

    assert (found["pages"], found["records"]) == (600, 1200)
    assert api.counts.by_fault["reset"] > FD_LIMIT / 4
    assert found["max_fds"] < FD_LIMIT


def test_concurrency_below_the_fd_limit_is_kept(api):
    api.latency = 0.2  # long enough for all requests to be in flight on a busy machine

    found = read(api.url, count=500, concurrency=48)

    assert found["pages"] == 500
    assert found["warned"] == 0
    assert api.counts.peak_in_flight == 48
