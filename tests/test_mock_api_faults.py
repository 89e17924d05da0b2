"""MockApi faults: which requests they hit, their effect on the connection, and recovery by streams."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from asyncstreams import (
    AsyncStreamsError,
    AuthError,
    Backoff,
    ConfigError,
    Cursor,
    DecodeError,
    HostUnavailable,
    HttpStatusError,
    HttpStream,
    MalformedJSON,
    PageNumber,
    PaginationLoop,
    RequestContext,
    StallTimeout,
    Timeouts,
    TruncatedBody,
)
from asyncstreams.testing import Fault, MockApi, Resource


class Users(HttpStream):
    records_path = "data"
    paginator = Cursor("meta.next")
    backoff = Backoff(base=0, cap=0)

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


class Impatient(Users):
    max_tries = 2
    timeouts = Timeouts(first_byte=0.5, read=0.5)


class Numbered(Users):
    paginator = PageNumber(size=100)


USERS = Resource("users", 1_000, paging="cursor")


async def raw_response(url: str, path: str = "/users", headers: str = "", method: str = "GET") -> bytes:
    """All bytes that the server sends until it closes the connection, or for half a second."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    received = b""
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        async with asyncio.timeout(0.5):
            while data := await reader.read(65_536):
                received += data
    except (TimeoutError, ConnectionError) as error:
        received += f"<{type(error).__name__}>".encode()
    finally:
        writer.close()
    return received


def announced_and_sent_length(response: bytes) -> tuple[int, int]:
    """Content-Length and the actual length of the body."""
    head, _, body = response.partition(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
    return int(length.split()[1]), len(body.partition(b"<")[0])


@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(503, at=[2, 5]),
        Fault.status(429, at=[2], retry_after=1),
        Fault.reset(at=[2, 5]),
        Fault.reset(at=[2, 5], mid_body=True),
        Fault.cut(at=[2, 5]),
        Fault.wrong_length(7, at=[2]),
        Fault.gzip_damage(at=[2, 5]),
        Fault.malformed_json(at=[2, 5]),
        Fault.drip(0.01, at=[2]),
    ],
    ids=lambda fault: f"{fault.kind} {fault.value:g}{' in mid-body' if fault.mid_body else ''}",
)
async def test_stream_recovers_and_counts_show_the_fault(fault: Fault) -> None:
    async with MockApi(USERS, faults=[fault]) as api:
        records = await Users(api).read()

    assert fault.at is not None
    requests = 10 if fault.kind == "drip" else 10 + len(fault.at)
    assert records == list(api.records("users"))
    assert api.counts.by_fault == {fault.kind: len(fault.at)}
    assert api.counts.requests == requests
    assert api.counts.records == 1_000


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.status(503), HttpStatusError),
        (Fault.reset(), HostUnavailable),
        (Fault.cut(), TruncatedBody),
        (Fault.wrong_length(7), TruncatedBody),
        (Fault.gzip_damage(), DecodeError),
        (Fault.malformed_json(), MalformedJSON),
        (Fault.html(), AuthError),
        (Fault.hang(), StallTimeout),
        (Fault.drip(0.7), StallTimeout),
        (Fault.cycle(at=[3]), PaginationLoop),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
async def test_permanent_fault_raises_its_error(fault: Fault, error: type[AsyncStreamsError]) -> None:
    async with MockApi(USERS, faults=[fault]) as api:
        with pytest.raises(error):
            await Impatient(api).read()


async def test_cut_sends_half_the_body_and_reset_sends_rst() -> None:
    async with MockApi(
        USERS, faults=[Fault.cut(at=[1]), Fault.reset(mid_body=True, at=[2]), Fault.reset(at=[3])]
    ) as api:
        cut, reset, empty = [await raw_response(api.url) for _ in range(3)]

    announced, sent = announced_and_sent_length(cut)
    assert sent == announced // 2
    assert reset.endswith(b"<ConnectionResetError>")
    assert empty == b"<ConnectionResetError>"
    assert api.counts.by_status == {200: 2}
    assert api.counts.records == 0


@pytest.mark.parametrize("delta", [5, -5])
async def test_wrong_length_is_off_by_delta(delta: int) -> None:
    async with MockApi(USERS, faults=[Fault.wrong_length(delta)]) as api:
        answer = await raw_response(api.url)

    announced, sent = announced_and_sent_length(answer)
    assert announced == sent + delta
    # The server closes the connection only after a body that is too short.
    assert answer.endswith(b"<TimeoutError>") == (delta < 0)


async def test_gzip_damage_has_complete_data_and_bad_checksum() -> None:
    async with MockApi(USERS, faults=[Fault.gzip_damage()], gzip=True) as api:
        answer = await raw_response(api.url, headers="Accept-Encoding: gzip\r\nConnection: close\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.count(b"Content-Encoding: gzip") == 1
    assert len(json.loads(zlib.decompressobj(-15).decompress(body[10:]))["data"]) == 100
    with pytest.raises(zlib.error, match="incorrect data check"):
        zlib.decompress(body, 31)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.drip(0.01),
        Fault.cut(),
        Fault.wrong_length(-5),
        Fault.gzip_damage(),
        Fault.malformed_json(),
        Fault.html(),
        Fault.status(503),
        Fault.cycle(),
    ],
    ids=lambda fault: fault.kind,
)
async def test_head_request_with_fault_has_no_body(fault: Fault) -> None:
    async with MockApi(USERS, faults=[fault]) as api:
        answer = await raw_response(api.url, method="HEAD", headers="Connection: close\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert body == b""
    assert api.counts.records == 0


async def test_hang_ends_when_the_client_disconnects() -> None:
    async with MockApi(USERS, faults=[Fault.hang(at=[1])]) as api:
        answer = await raw_response(api.url)
        later = await raw_response(api.url, headers="Connection: close\r\n")

    assert answer == b"<TimeoutError>"
    assert later.startswith(b"HTTP/1.1 200")
    assert api.counts.by_fault == {"hang": 1}
    assert api.counts.by_status == {200: 1}


async def test_duplicate_page_repeats_previous_page_then_continues() -> None:
    async with MockApi(USERS, faults=[Fault.duplicate_page(at=[3])]) as api:
        records = await Users(api).read()

    ids = api.ids("users")
    assert [record["id"] for record in records] == [*ids[:200], *ids[100:200], *ids[300:]]


async def test_cycle_sends_first_page_for_numbered_pages() -> None:
    async with MockApi(Resource("users", 1_000), faults=[Fault.cycle(at=[3])]) as api:
        records = await Numbered(api).read()

    ids = api.ids("users")
    assert [record["id"] for record in records] == [*ids[:200], *ids[:100], *ids[300:]]


def test_share_depends_on_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        with MockApi(USERS, faults=[Fault.status(503, share=0.2)], seed=seed) as api, httpx.Client() as client:
            return [client.get(api.url + "users").status_code for _ in range(200)]

    assert statuses(1) == statuses(1)
    assert statuses(1) != statuses(2)
    assert 20 <= statuses(1).count(503) <= 60


def test_filters_select_requests_and_times_limits_hits(mock_api: MockApi) -> None:
    mock_api.add(USERS)
    mock_api.add(Resource("items", faults=(Fault.status(507, at=[2]),)))
    mock_api.faults += [
        Fault.status(500, resource="users", times=2, when=lambda request: "cursor" not in request.params),
        Fault.status(502, resource="users", at=[3]),
    ]

    def status(path: str) -> int:
        return httpx.get(mock_api.url + path).status_code

    assert [status("users") for _ in range(4)] == [500, 500, 502, 200]
    assert [status("items") for _ in range(3)] == [200, 507, 200]
    assert mock_api.counts.by_fault == {"status": 4}


def test_added_fault_overrides_cached_responses(mock_api: MockApi) -> None:
    mock_api.add(USERS)

    with httpx.Client(base_url=mock_api.url) as client:
        before = [client.get("users").status_code for _ in range(3)]
        mock_api.faults.append(Fault.status(418, times=1))
        after = [client.get("users").status_code for _ in range(2)]

    assert before == [200, 200, 200]
    assert after == [418, 200]


def test_fault_keeps_its_count_when_another_is_removed(mock_api: MockApi) -> None:
    mock_api.add(USERS)
    never, once = Fault.html(at=[99]), Fault.status(503, times=1)
    mock_api.faults = [never, once]

    def status() -> int:
        return httpx.get(mock_api.url + "users").status_code

    before = [status(), status()]
    mock_api.faults.remove(never)

    assert before == [503, 200]
    assert status() == 200


def test_fault_listed_twice_counts_each_request_once(mock_api: MockApi) -> None:
    mock_api.add(USERS)
    mock_api.faults = [Fault.status(503, at=[2])] * 2

    statuses = [httpx.get(mock_api.url + "users").status_code for _ in range(3)]

    assert statuses == [200, 503, 200]


async def test_streamed_export_can_be_cut() -> None:
    async with MockApi(Resource("users", 5_000, format="ndjson"), faults=[Fault.cut()]) as api:
        announced, sent = announced_and_sent_length(await raw_response(api.url))

    assert sent == announced // 2


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Fault.status(99),
        lambda: Fault.drip(0),
        lambda: Fault.wrong_length(0),
        lambda: Fault.cut(at=[0]),
        lambda: Fault.cut(at=[]),
        lambda: Fault.cut(share=2),
        lambda: Fault.cut(times=0),
    ],
)
def test_invalid_fault_is_rejected(declare: Any) -> None:
    with pytest.raises(ConfigError):
        declare()
