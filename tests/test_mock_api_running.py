"""Does the mock API run on a loop, in a thread and in a process, count what it serves, and leave nothing behind?"""

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

pytestmark = pytest.mark.alone


class Users(HttpStream):
    records_path = "data"

    def __init__(self, api: MockApi, **options: Any) -> None:
        self.url_base = api.url
        super().__init__(**options)

    def path(self, context: RequestContext) -> str:
        return "users"


def doubled(n: int, random: random.Random) -> dict[str, Any]:
    return {"id": n, "twice": 2 * n}


def asks_for_two(request: ReceivedRequest) -> bool:
    return request.params.get("page") == "2"


def ask_in_vain(url: str) -> None:
    with suppress(httpx.TransportError):
        httpx.get(url)


@pytest.mark.parametrize("process", [False, True])
async def test_it_runs_beside_the_test_with_the_same_face(process: bool) -> None:
    resource = Resource("users", 50, record=doubled)
    fault = Fault.status(503, when=asks_for_two)

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
def test_a_port_that_is_taken_is_told(process: bool) -> None:
    with MockApi() as first, pytest.raises(ConfigError, match="cannot listen there"):
        MockApi(port=int(first.url.rstrip("/").rpartition(":")[2]), process=process).__enter__()


async def test_one_api_runs_once_at_a_time() -> None:
    async with MockApi() as api:
        with pytest.raises(ConfigError, match="running already"):
            await api.__aenter__()


def test_settings_can_be_changed_while_it_runs(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 5))

    with httpx.Client(base_url=mock_api.url) as client:
        assert client.get("users").status_code == 200
        mock_api.auth = BearerAuth("t")
        assert client.get("users").status_code == 401
        mock_api.auth, mock_api.quota = None, Quota(1, per=100)
        assert [client.get("users").status_code for _ in range(2)] == [200, 429]
        mock_api.quota, mock_api.latency = None, (0.05, 0.06)
        begun = time.monotonic()
        assert client.get("users").status_code == 200
        assert time.monotonic() - begun >= 0.05
        with pytest.raises(ConfigError, match="two of this name"):
            mock_api.add(Resource("users"))
        assert client.get("users").status_code == 200


def test_settings_can_be_changed_by_a_function_that_the_api_calls(mock_api: MockApi) -> None:
    def locks(request: ReceivedRequest) -> bool:
        mock_api.auth = BearerAuth("t")
        return False

    mock_api.add(Resource("users", 5))
    mock_api.faults = [Fault.status(503, when=locks)]

    statuses = [httpx.get(mock_api.url + "users").status_code for _ in range(2)]

    assert statuses == [200, 401]


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")

    with MockApi(Resource("users", 5), host="::1") as api:
        answer = httpx.get(api.url + "users")

    assert api.counts.requests == 1
    assert answer.url.host == "::1"


async def test_the_fixture_serves_an_async_test_too(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 50))

    assert len(await Users(mock_api).read()) == 50


async def test_the_fixture_goes_with_respx_that_lets_it_pass(mock_api: MockApi, respx_mock: Any) -> None:
    mock_api.add(Resource("users", 50))
    respx_mock.route(url__startswith=mock_api.url).pass_through()

    assert len(await Users(mock_api).read()) == 50
    assert mock_api.counts.requests == 1


async def test_latency_holds_every_answer_and_what_is_in_flight_is_counted() -> None:
    async with MockApi(Resource("users", 5), latency=0.1) as api, httpx.AsyncClient() as client:
        begun = time.monotonic()
        answers = await asyncio.gather(*(client.get(api.url + "users") for _ in range(8)))
        spent = time.monotonic() - begun

    assert {answer.status_code for answer in answers} == {200}
    assert 0.1 <= spent < 0.7
    assert api.counts.peak_in_flight == 8
    assert api.counts.connections == 8


def test_counts_say_what_was_served_and_do_not_count_themselves(mock_api: MockApi) -> None:
    mock_api.add(Resource("users", 250))
    mock_api.add(Resource("log", 5_000, format="ndjson"))

    with httpx.Client(base_url=mock_api.url) as client:
        sizes = [len(client.get(path).content) for path in ("users", "users", "users?page=3", "users/7", "log", "x")]
        client.head("users")
        told = Counts.from_dict(client.get("_mock/counts").json())

    assert told.requests == mock_api.counts.requests == 7
    assert told.by_resource == {"users": 5, "log": 1, "unknown": 1}
    assert told.records_by_resource == {"users": 251, "log": 5_000}
    assert told.by_status == {200: 6, 404: 1}
    assert sum(sizes) < told.bytes < sum(sizes) + 7 * 250
    assert "/users" in str(told)
    assert "5,251" in str(told)


def test_leaving_breaks_off_what_is_under_way_and_leaves_no_thread() -> None:
    before = threading.active_count()

    with MockApi(Resource("users", 5), faults=[Fault.hang()]) as api:
        asking = threading.Thread(target=ask_in_vain, args=[api.url + "users"])
        asking.start()
        while not api.counts.in_flight:
            time.sleep(0.001)
    asking.join(5)

    # A socket that was left open would warn now, and a warning is an error.
    gc.collect()
    assert not asking.is_alive()
    assert threading.active_count() == before
    assert api.counts.by_fault == {"hang": 1}
    assert api.counts.in_flight == 0


async def test_leaving_a_loop_leaves_no_connection(recwarn: pytest.WarningsRecorder) -> None:
    async with MockApi(Resource("users", 5)) as api, httpx.AsyncClient() as client:
        assert (await client.get(api.url + "users")).status_code == 200

    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("turns", range(5))
async def test_a_client_that_connects_while_the_api_is_left_is_turned_away(turns: int) -> None:
    async with asyncio.timeout(10):
        async with MockApi(Resource("users", 5)) as api:
            parts = urlsplit(api.url)
            client = socket.create_connection((parts.hostname, parts.port), timeout=5)
            # How far the connection has come by the end.
            for _ in range(turns):
                await asyncio.sleep(0)

    # A socket that was left open would warn now, and a warning is an error.
    gc.collect()
    with client, suppress(ConnectionError):
        assert client.recv(1) == b""


async def test_the_shop_is_read_whole_by_the_streams_that_it_advises() -> None:
    async with shop(scale=0.05, quota=Quota(200), latency=0.001, auth=OAuth2(expires_in=60)) as api:
        for name in ("customers", "products", "events", "reviews"):
            names: dict[str, Any] = {}
            exec(api.stream_source(name), names)
            records = await names[name].read()
            assert [record["id"] for record in records] == api.ids(name)
        counts = api.counts

    assert counts.records_by_resource == {"customers": 200, "products": 300, "events": 600, "reviews": 1_000}


async def test_the_shop_forbids_its_payouts() -> None:
    async with shop(scale=0.05, auth=None, faults=(), latency=0) as api, httpx.AsyncClient() as client:
        answer = await client.get(api.url + "payouts")

    assert (answer.status_code, answer.json()["error"]["message"]) == (403, "these credentials may not read payouts")


async def test_the_shops_faults_add_up_to_their_share() -> None:
    async with MockApi(Resource("users", 5), faults=shop_faults(0.4)) as api, httpx.AsyncClient() as client:
        for _ in range(500):
            with suppress(httpx.TransportError):
                await client.get(api.url + "users")

    found = api.counts.by_fault
    assert 150 < sum(found.values()) < 250
    assert found["status"] > found["reset"] > 20
    assert found["cut"] > 20
