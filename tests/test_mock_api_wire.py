"""MockApi and HTTP/1.1: pieces, pipelining, chunks, malformed requests, slow readers and caching."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams.testing import MockApi, Quota, Resource
from asyncstreams.testing.mock_api.seeding import draw_bits, draw_fraction

USERS = Resource("users", 250)


@asynccontextmanager
async def connected(api: MockApi) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next response, which has a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return int(head.split(b" ")[1]), await reader.readexactly(length)


def ids(body: bytes) -> list[int]:
    return [record["id"] for record in json.loads(body)["data"]]


@pytest.mark.parametrize("latency", [0.0, 0.01])
async def test_pipelined_requests_are_answered_in_order(latency: float) -> None:
    async with MockApi(USERS, latency=latency) as api, connected(api) as (reader, writer):
        for page in (3, 1, 2, 3, 9):
            writer.write(b"GET /users?page=%d&per_page=2 HTTP/1.1\r\nHost: x\r\n\r\n" % page)
        answers = [await read_response(reader) for _ in range(5)]

    assert [ids(body) for _, body in answers] == [[5, 6], [1, 2], [3, 4], [5, 6], [17, 18]]
    assert api.counts.requests == 5


@pytest.mark.parametrize("latency", [0.0, 0.01])
@pytest.mark.parametrize("size", [1, 7, 60])
async def test_request_may_arrive_in_pieces(size: int, latency: float) -> None:
    request = b"POST /users HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n"
    requests = request + b'{"page":2, "per_page":3}' + b"GET /users?per_page=1 HTTP/1.1\r\n\r\n"

    async with MockApi(USERS, latency=latency) as api, connected(api) as (reader, writer):
        for begin in range(0, len(requests), size):
            writer.write(requests[begin : begin + size])
            await asyncio.sleep(0)
        answers = [await read_response(reader) for _ in range(2)]

    assert [ids(body) for _, body in answers] == [[4, 5, 6], [1]]


async def test_long_body_behind_another_request_is_read() -> None:
    post = b"POST /users?page=2 HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000

    async with asyncio.timeout(10), MockApi(USERS, latency=0.1) as api, connected(api) as (reader, writer):
        writer.write(b"GET /users HTTP/1.1\r\n\r\n" + post)
        answers = [await read_response(reader) for _ in range(2)]

    assert [ids(body)[0] for _, body in answers] == [1, 101]


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with MockApi(USERS) as api, connected(api) as (reader, writer):
        for before in (b"\r\n", b"\r\n\r\n"):
            writer.write(before + b"GET /users/1 HTTP/1.1\r\n\r\n")
            status, _ = await read_response(reader)
            assert status == 200


def test_chunked_request_body_is_read(mock_api: MockApi) -> None:
    mock_api.add(USERS)

    def pieces() -> Iterator[bytes]:
        yield b'{"page":'
        yield b'2,"per_page":1}'

    answers = [
        httpx.post(mock_api.url + "users", content=pieces(), headers={"Content-Type": "application/json"})
        for _ in range(2)
    ]

    assert [ids(response.content) for response in answers] == [[2], [2]]


async def test_expect_100_continue_is_answered() -> None:
    async with MockApi(USERS) as api, connected(api) as (reader, writer):
        writer.write(b"POST /users HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        interim = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"page=3")
        status, body = await read_response(reader)

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (status, ids(body)[0]) == (200, 201)


async def test_head_response_has_length_and_no_body() -> None:
    log = Resource("log", 5_000, format="ndjson")

    async with MockApi(USERS, log) as api, connected(api) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD /users HTTP/1.1\r\n\r\n")
            assert b"Content-Length: 2" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HEAD /log HTTP/1.1\r\n\r\n")
        assert b"Content-Length" not in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /users/1 HTTP/1.1\r\n\r\n")
        status, body = await read_response(reader)

    assert (status, json.loads(body)["id"]) == (200, 1)
    assert api.counts.records == 1


@pytest.mark.parametrize("path", ["users", "log"])
@pytest.mark.parametrize(
    "request_",
    [
        "GET /{} HTTP/1.0\r\n\r\n",
        "GET /{} HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /{} HTTP/1.1\r\nConnection: Keep-Alive, close\r\n\r\n",
    ],
)
async def test_connection_is_closed_without_keep_alive(request_: str, path: str) -> None:
    async with MockApi(USERS, Resource("log", 5_000, format="ndjson")) as api:
        for _ in range(2):
            async with connected(api) as (reader, writer):
                writer.write(request_.format(path).encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read()
                assert b"Connection: close" in head
                assert body.count(b'"id"') == (100 if path == "users" else 5_000)

    assert api.counts.records == 2 * (100 if path == "users" else 5_000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\ry\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST /users HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
async def test_malformed_request_is_rejected_and_closes_connection(sent: bytes, status: int) -> None:
    async with MockApi(USERS) as api, connected(api) as (reader, writer):
        writer.write(sent)
        received, _ = await read_response(reader)
        rest = await reader.read()

    assert (received, rest) == (status, b"")
    assert api.counts.by_status == {status: 1}


async def test_slow_reader_of_an_export_pauses_the_server() -> None:
    async with MockApi(Resource("log", 200_000, format="ndjson")) as api, connected(api) as (reader, writer):
        writer.write(b"GET /log HTTP/1.1\r\n\r\n")
        head = len(await reader.readuntil(b"\r\n\r\n"))
        sent = -1
        while api.counts.bytes != sent:
            sent = api.counts.bytes
            await asyncio.sleep(0.05)
        held = sent
        rest = await _read_to_end(reader)

    assert held < 20_000_000
    assert head + rest == api.counts.bytes
    assert api.counts.records == 200_000


async def _read_to_end(reader: asyncio.StreamReader) -> int:
    count, last = 0, b""
    while not last.endswith(b"\r\n0\r\n\r\n"):
        data = await reader.read(2**20)
        count += len(data)
        last = (last + data)[-7:]
    return count


async def test_unread_pipeline_does_not_fill_memory() -> None:
    async with MockApi(USERS) as api, connected(api) as (_, writer):
        for _ in range(2_000):
            writer.write(b"GET /users HTTP/1.1\r\nHost: x\r\n\r\n")
        sent = -1
        while api.counts.requests != sent:
            sent = api.counts.requests
            await asyncio.sleep(0.05)

    assert 0 < sent < 2_000


async def test_many_pages_are_served_with_a_small_cache() -> None:
    async with MockApi(Resource("users", 20_000), cache_bytes=100_000) as api, connected(api) as (reader, writer):
        for page in (*range(1, 60), *range(1, 60)):
            writer.write(b"GET /users?page=%d HTTP/1.1\r\n\r\n" % page)
            status, body = await read_response(reader)
            assert (status, ids(body)[0]) == (200, page * 100 - 99)


@pytest.mark.parametrize("quota", [None, Quota(10**9)], ids=["complete responses", "with a quota"])
async def test_cache_bytes_bounds_cached_pages_and_responses(quota: Quota | None) -> None:
    api_ = MockApi(Resource("users", 20_000), quota=quota, cache_bytes=300_000)

    async with api_ as api, connected(api) as (reader, writer):
        tracemalloc.start()
        try:
            for page in range(1, 201):
                writer.write(b"GET /users?page=%d HTTP/1.1\r\n\r\n" % page)
                await read_response(reader)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sent = api.counts.bytes

    assert sent > 4_000_000
    assert held < 1_000_000


def test_cached_responses_are_counted_and_use_quota(mock_api: MockApi) -> None:
    mock_api.add(USERS)
    mock_api.add(Resource("metered", 5, quota=Quota(3, per=100, headers="none")))

    with httpx.Client(base_url=mock_api.url) as client:
        bodies = {client.get("users").content for _ in range(5)}
        statuses = [client.get("metered").status_code for _ in range(5)]

    assert len(bodies) == 1
    assert mock_api.counts.records_by_resource["users"] == 500
    assert statuses == [200, 200, 200, 429, 429]


def test_gzip_is_sent_only_if_accepted_and_reproducible() -> None:
    def get(api: MockApi, coding: str) -> httpx.Response:
        return httpx.get(api.url + "users", headers={"Accept-Encoding": coding})

    with MockApi(USERS, gzip=True) as api:
        packed, plain, again = get(api, "gzip"), get(api, "identity"), get(api, "gzip, br")

    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert packed.content == plain.content == again.content
    assert int(packed.headers["Content-Length"]) == int(again.headers["Content-Length"]) < len(plain.content) / 3


@given(st.integers(0, 2**64 - 1))
def test_draws_are_uniform_and_distinct(key: int) -> None:
    draws = [draw_fraction(key, number) for number in range(1_000)]

    assert all(0 <= fraction < 1 for fraction in draws)
    assert 380 < sum(fraction < 0.45 for fraction in draws) < 520
    assert len({draw_bits(key, number) for number in range(1_000)}) == 1_000
