"""MockApi on a loop, in a thread and in a process: settings, counts, shutdown, and the shop."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from asyncstreams import ConfigError, HttpStream, RequestContext, TokenAuthenticator
from asyncstreams.testing import BearerAuth, Counts, Fault, MockApi, OAuth2, Quota, ReceivedRequest, Resource, shop
from asyncstreams.testing.mock_api.shop import shop_faults


class Users(HttpStream):
    records_path = "data"

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


def doubled_record(n: int, random: random.Random) -> dict[str, Any]:
    return {"id": n, "twice": 2 * n}


def is_for_page_two(request: ReceivedRequest) -> bool:
    return request.params.get("page") == "2"


def get_ignoring_errors(url: str) -> None:
    with suppress(httpx.TransportError):
        httpx.get(url)


@pytest.mark.parametrize("process", [False, True])
async def test_loop_and_process_serve_the_same_api(process: bool) -> None:
    resource = Resource("users", 50, record=doubled_record)
    fault = Fault.status(503, when=is_for_page_two)

    async with MockApi(resource, faults=[fault], auth=BearerAuth("t"), process=process, seed=3) as api:
        records = await Users(api, authenticator=TokenAuthenticator("t")).read()
        async with httpx.AsyncClient(headers={"Authorization": "Bearer t"}) as client:
            second = await client.get(api.url + "users", params={"page": 2})
        during = api.counts

    assert records == list(api.records("users"))
    assert second.status_code == 503
    assert during.by_status == api.counts.by_status == {200: 1, 503: 1}
    assert (during.connections, api.counts.open_connections) == (2, 0)


@pytest.mark.parametrize("process", [False, True])
def test_occupied_port_is_rejected(process: bool) -> None:
    with MockApi() as first, pytest.raises(ConfigError, match="cannot listen on this address"):
        MockApi(port=int(first.url.rstrip("/").rpartition(":")[2]), process=process).__enter__()


async def test_second_start_of_a_running_api_is_rejected() -> None:
    async with MockApi() as api:
        with pytest.raises(ConfigError, match="already running"):
            await api.__aenter__()


def test_settings_can_change_while_running(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 5))

    with httpx.Client(base_url=mock_api.url) as client:
        assert client.get("users").status_code == 200
        mock_api.auth = BearerAuth("t")
        assert client.get("users").status_code == 401
        mock_api.auth, mock_api.quota = None, Quota(1, per=100)
        assert [client.get("users").status_code for _ in range(2)] == [200, 429]
        mock_api.quota, mock_api.latency = None, (0.05, 0.06)
        started = time.monotonic()
        assert client.get("users").status_code == 200
        assert time.monotonic() - started >= 0.05
        with pytest.raises(ConfigError, match="another resource has the same name"):
            mock_api.add(Resource("users"))
        assert client.get("users").status_code == 200


def test_settings_can_change_inside_a_when_function(mock_api: MockApi) -> None:
    def require_token(request: ReceivedRequest) -> bool:
        mock_api.auth = BearerAuth("t")
        return False

    mock_api.add(Resource("users", 5))
    mock_api.faults = [Fault.status(503, when=require_token)]

    statuses = [httpx.get(mock_api.url + "users").status_code for _ in range(2)]

    assert statuses == [200, 401]


def test_ipv6_address_is_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")

    with MockApi(Resource("users", 5), host="::1") as api:
        answer = httpx.get(api.url + "users")

    assert api.counts.requests == 1
    assert answer.url.host == "::1"


async def test_fixture_serves_an_async_test(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 50))

    assert len(await Users(mock_api).read()) == 50


async def test_fixture_works_with_respx_pass_through(mock_api: MockApi, respx_mock: Any) -> None:
    mock_api.add(Resource("users", 50))
    respx_mock.route(url__startswith=mock_api.url).pass_through()

    assert len(await Users(mock_api).read()) == 50
    assert mock_api.counts.requests == 1


async def test_latency_delays_responses_and_in_flight_is_counted() -> None:
    async with MockApi(Resource("users", 5), latency=0.1) as api, httpx.AsyncClient() as client:
        started = time.monotonic()
        answers = await asyncio.gather(*(client.get(api.url + "users") for _ in range(8)))
        elapsed = time.monotonic() - started

    assert {answer.status_code for answer in answers} == {200}
    assert 0.1 <= elapsed < 0.7
    assert api.counts.peak_in_flight == 8
    assert api.counts.connections == 8


def test_counts_match_what_was_served_and_exclude_control(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 250))
    mock_api.add(Resource("log", 5_000, format="ndjson"))

    with httpx.Client(base_url=mock_api.url) as client:
        sizes = [len(client.get(path).content) for path in ("users", "users", "users?page=3", "users/7", "log", "x")]
        client.head("users")
        counts = Counts.from_dict(client.get("_mock/counts").json())

    assert counts.requests == mock_api.counts.requests == 7
    assert counts.by_resource == {"users": 5, "log": 1, "unknown": 1}
    assert counts.records_by_resource == {"users": 251, "log": 5_000}
    assert counts.by_status == {200: 6, 404: 1}
    assert sum(sizes) < counts.bytes < sum(sizes) + 7 * 250
    assert "/users" in str(counts)
    assert "5,251" in str(counts)


def test_leaving_aborts_requests_and_leaves_no_thread() -> None:
    before = threading.active_count()

    with MockApi(Resource("users", 5), faults=[Fault.hang()]) as api:
        client = threading.Thread(target=get_ignoring_errors, args=[api.url + "users"])
        client.start()
        while not api.counts.in_flight:
            time.sleep(0.001)
    client.join(5)

    # A socket that is still open would warn here, and warnings are errors.
    gc.collect()
    assert not client.is_alive()
    assert threading.active_count() == before
    assert api.counts.by_fault == {"hang": 1}
    assert api.counts.in_flight == 0


async def test_leaving_on_a_loop_leaves_no_connection(recwarn: pytest.WarningsRecorder) -> None:
    async with MockApi(Resource("users", 5)) as api, httpx.AsyncClient() as client:
        assert (await client.get(api.url + "users")).status_code == 200

    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("turns", range(5))
async def test_client_connecting_during_shutdown_is_disconnected(turns: int) -> None:
    async with asyncio.timeout(10):
        async with MockApi(Resource("users", 5)) as api:
            parts = urlsplit(api.url)
            client = socket.create_connection((parts.hostname, parts.port), timeout=5)
            # The number of loop iterations decides how far the connection gets before the shutdown.
            for _ in range(turns):
                await asyncio.sleep(0)

    # A socket that is still open would warn here, and warnings are errors.
    gc.collect()
    with client, suppress(ConnectionError):
        assert client.recv(1) == b""


async def test_shop_is_read_completely_by_its_printed_streams() -> None:
    async with shop(scale=0.05, quota=Quota(200), latency=0.001, auth=OAuth2(expires_in=60)) as api:
        for name in ("customers", "products", "events", "reviews"):
            namespace: dict[str, Any] = {}
            exec(api.stream_source(name), namespace)
            records = await namespace[name].read()
            assert [record["id"] for record in records] == api.ids(name)
        counts = api.counts

    assert counts.records_by_resource == {"customers": 200, "products": 300, "events": 600, "reviews": 1_000}


async def test_shop_answers_403_for_payouts() -> None:
    async with shop(scale=0.05, auth=None, faults=(), latency=0) as api, httpx.AsyncClient() as client:
        answer = await client.get(api.url + "payouts")

    assert (answer.status_code, answer.json()["error"]["message"]) == (403, "these credentials may not read payouts")


async def test_shop_faults_add_up_to_their_share() -> None:
    async with MockApi(Resource("users", 5), faults=shop_faults(0.4)) as api, httpx.AsyncClient() as client:
        for _ in range(500):
            with suppress(httpx.TransportError):
                await client.get(api.url + "users")

    faults = api.counts.by_fault
    assert 150 < sum(faults.values()) < 250
    assert faults["status"] > faults["reset"] > 20
    assert faults["cut"] > 20
