"""Retries: which failures are retried, after which delays, and within which limits."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
import respx

from asyncstreams import (
    AsyncStreamsError,
    AuthError,
    Backoff,
    ConfigError,
    Cursor,
    HostUnavailable,
    HttpStatusError,
    HttpStream,
    RateLimitWaitTooLong,
    ResponseAction,
)
from asyncstreams.testing import VirtualClock

USERS = "https://api.test/users"
TWO = [{"id": 1}, {"id": 2}]
OK = httpx.Response(200, json=TWO)


def status(code: int, *retry_after: str, **headers: str) -> httpx.Response:
    retry_headers = [("Retry-After", value) for value in retry_after]
    return httpx.Response(code, headers=[*headers.items(), *retry_headers], content=OK.content)


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


class Server:
    """Sends its responses in order, repeats the last one, and records the times of the requests."""

    def __init__(self, mock: respx.Router, clock: VirtualClock, url: str = USERS) -> None:
        self.clock = clock
        self.responses: list[httpx.Response | Exception] = []
        self.request_times: list[float] = []
        self.route = mock.route(url=url).mock(side_effect=self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        assert len(self.request_times) < 99, "the retries do not end"
        response = self.responses[min(len(self.request_times), len(self.responses) - 1)]
        self.request_times.append(self.clock.monotonic())
        if isinstance(response, Exception):
            raise response
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in pairwise(self.request_times)]

    def stream(self, seed: int | None = None, **declared: Any) -> HttpStream:
        defaults = {"url_base": "https://api.test", "path": lambda self, context: "users"}
        return type("Users", (HttpStream,), defaults | declared)(clock=self.clock, seed=seed)

    async def read(self, **declared: Any) -> list[dict[str, Any]]:
        return await self.stream(**declared).read()


@pytest.fixture
def server(respx_mock, virtual_clock):
    return Server(respx_mock, virtual_clock)


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_transient_status_is_retried_then_succeeds(server, code):
    server.responses = [status(code), OK]

    assert await server.read() == TWO
    assert len(server.request_times) == 2


@pytest.mark.parametrize("code", [400, 404, 409, 422])
async def test_other_client_error_is_not_retried(server, code):
    server.responses = [status(code)]

    with pytest.raises(HttpStatusError) as caught:
        await server.read()

    assert len(server.request_times) == 1
    assert (caught.value.status, caught.value.tries) == (code, 1)


@pytest.mark.parametrize(
    "response",
    [status(500), httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.ReadError(""), httpx.RemoteProtocolError("")],
)
@pytest.mark.parametrize(("declared", "requests"), [({}, 5), ({"max_tries": 1}, 1), ({"max_tries": 2}, 2)])
async def test_max_tries_counts_all_requests(server, response, declared, requests):
    server.responses = [response]

    with pytest.raises(HostUnavailable if isinstance(response, Exception) else HttpStatusError) as caught:
        await server.read(**declared)

    assert len(server.request_times) == requests
    assert caught.value.tries == requests


async def test_delays_double_to_the_cap_with_full_jitter(respx_mock, virtual_clock):
    waits = []

    for seed in range(40):
        server = Server(respx_mock, virtual_clock)
        server.responses = [status(500)] * 5 + [OK]
        await server.read(seed=seed, max_tries=6, backoff=Backoff(base=1, cap=6))
        waits.append(server.waits)

    for nth_waits, ceiling in zip(zip(*waits, strict=True), [1, 2, 4, 6, 6], strict=True):
        assert ceiling * 0.8 < max(nth_waits) <= ceiling + 1e-6
        assert min(nth_waits) < ceiling * 0.2


async def test_delays_depend_on_the_seed(respx_mock, virtual_clock):
    async def waits(seed: int) -> list[float]:
        server = Server(respx_mock, virtual_clock)
        server.responses = [status(500), status(429), status(503), status(429, "40"), OK]
        await server.read(seed=seed)
        return [round(wait, 6) for wait in server.waits]

    first, same_seed, other = await waits(1), await waits(1), await waits(2)

    assert first == same_seed
    assert all(wait != other_wait for wait, other_wait in zip(first, other, strict=True))


async def test_wait_beyond_max_time_is_not_started(server):
    server.responses = [status(500)]

    with pytest.raises(HttpStatusError):
        await server.read(max_tries=99, max_time=10, backoff_time=lambda self, response: 4)

    assert len(server.request_times) == 3


@pytest.mark.parametrize("response", [status(429), status(429, "100"), status(503, "100")])
async def test_server_waits_spend_neither_tries_nor_time(server, response):
    server.responses = [response] * 20 + [status(500), OK]

    assert await server.read(max_tries=2, max_time=50) == TWO


async def test_retry_after_wait_is_not_counted_in_max_time(server):
    server.responses = [status(502, "100"), OK]

    assert await server.read(max_time=50) == TWO
    assert server.waits[0] >= 100


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize("values", [["40"], ["nan", "20", "40", "-5"]])
async def test_longest_valid_retry_after_is_waited_with_small_jitter(server, code, values):
    server.responses = [status(code, *values), OK]

    await server.read()

    assert 40 <= server.waits[0] <= 41.001


@pytest.mark.parametrize("off_by", [None, 0, -86_400 * 400, 86_400 * 400])
async def test_retry_after_date_is_relative_to_the_date_header(server, off_by):
    server_time = server.clock.wall() + (off_by or 0)
    date = {} if off_by is None else {"Date": http_date(server_time)}
    server.responses = [status(429, http_date(server_time + 40), **date), OK]

    await server.read()

    assert 40 <= server.waits[0] <= 41.001


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize(
    "value", ["0", "-5", "nan", "inf", "1e309", "1e3", "1_000", "", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"]
)
async def test_invalid_retry_after_falls_back_to_backoff(server, code, value):
    server.responses = [status(code, value), OK]

    assert await server.read() == TWO
    assert 0 < server.waits[0] <= 1.101


async def test_invalid_retry_after_is_logged_once(server, caplog):
    server.responses = [status(429, "soon"), status(429, "soon"), OK]

    await server.read()

    assert [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize(
    ("response", "next_request"),
    [
        (status(429, "901"), "2026-01-01 00:15:0"),
        (status(503, "7200"), "2026-01-01 02:00:0"),
        (status(429, "1000000"), "2026-01-12 13:46:4"),
        (status(429, "9" * 20), "next request is allowed in 100,000,000,000,000,000,000 s"),
        (status(500, "7200"), "2026-01-01 02:00:0"),
        (status(200, Backoff="7200"), "2026-01-01 02:00:0"),
    ],
)
async def test_wait_beyond_max_server_wait_fails_and_names_its_end(server, response, next_request):
    server.responses = [response, OK]

    with pytest.raises(RateLimitWaitTooLong, match=next_request):
        await server.stream().read(slices=[{"n": 1}, {"n": 2}], on_error="stop")

    assert len(server.request_times) == 1


async def test_server_waits_sum_to_at_most_four_times_the_maximum(server):
    server.responses = [status(429, "900")]

    with pytest.raises(RateLimitWaitTooLong):
        await server.read()

    assert len(server.request_times) == 5


async def test_success_resets_the_sum_of_server_waits(server):
    server.responses = [*[status(429, "900")] * 4, OK] * 3

    def two_more_pages(self, response, context):
        number = context.next_page_token or 0
        return number + 1 if number < 2 else None

    assert await server.read(next_page_token=two_more_pages, detect_loops=False) == TWO * 3


async def test_retry_after_pauses_all_reads_of_the_quota(server):
    server.responses = [status(429, "40"), OK]
    stream = server.stream()

    async def read_later() -> None:
        await server.clock.sleep(5)
        await stream.read()

    await asyncio.gather(stream.read(), read_later())

    first, *others = server.request_times
    assert len(others) == 2
    assert min(others) - first >= 40


async def test_backoff_header_of_a_success_delays_the_next_page(server):
    server.responses = [status(200, Backoff="10"), OK]

    assert await server.stream().read(slices=[{"n": 1}, {"n": 2}]) == TWO + TWO
    assert 10 <= server.waits[0] <= 11.001


@pytest.mark.parametrize(("code", "times"), [(404, 2), (503, 1)])
async def test_should_retry_overrides_the_status(server, code, times):
    server.responses = [status(code, "1"), OK]

    with suppress(HttpStatusError):
        await server.read(should_retry=lambda self, response: response.status_code == 404)

    assert len(server.request_times) == times


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize(("backoff_time", "seconds"), [(5, 5), (0.5, 0.5), (None, 40), (0, 40)])
async def test_nonzero_backoff_time_overrides_retry_after(server, code, backoff_time, seconds):
    server.responses = [status(code, "40"), OK]

    await server.read(backoff_time=lambda self, response: backoff_time)

    assert seconds <= server.waits[0] <= seconds + 1.001


@pytest.mark.parametrize("invalid", [-1, float("nan"), float("inf"), "5", True])
async def test_invalid_backoff_time_is_a_config_error(server, invalid):
    server.responses = [status(500), OK]

    with pytest.raises(ConfigError, match=r"Users\.backoff_time"):
        await server.read(backoff_time=lambda self, response: invalid)


async def test_failures_of_one_read_lengthen_delays_of_another(respx_mock, virtual_clock):
    waits = []

    for seed in range(20):
        failing, other = (
            Server(respx_mock, virtual_clock, f"https://api.test/{name}") for name in ("failing", "other")
        )
        failing.responses, other.responses = [status(500)], [status(500), OK]
        stream = failing.stream(seed, path=lambda self, context: context.stream_slice["at"], backoff=Backoff(1, 999))
        first = asyncio.ensure_future(stream.read(slices=[{"at": "failing"}]))
        while len(failing.request_times) < 4 and not first.done():
            await virtual_clock.sleep(0.01)
        await asyncio.gather(first, stream.read(slices=[{"at": "other"}]), return_exceptions=True)
        waits += other.waits

    assert max(waits) > 2


async def test_success_resets_the_delay_of_the_stream(respx_mock, virtual_clock):
    waits = []

    for seed in range(20):
        server = Server(respx_mock, virtual_clock)
        server.responses = [status(500)] * 4 + [OK, status(500), OK]
        await server.stream(seed, backoff=Backoff(1, 999)).read(slices=[{"n": 1}, {"n": 2}])
        waits.append(server.waits[5])

    assert 0.5 < max(waits) <= 1.001


async def test_idempotent_post_is_retried_with_its_body(server):
    server.responses = [httpx.ReadError(""), status(500), OK]

    assert await server.read(http_method="POST", request_json=lambda self, context: {"q": "all"}) == TWO
    assert [json.loads(call.request.content) for call in server.route.calls] == [{"q": "all"}] * 3


@pytest.mark.parametrize(
    ("response", "times"),
    [
        *((response, 1) for response in (status(500), status(503, "1"), status(429))),
        *((fault(""), 1) for fault in (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError)),
        *((fault(""), 2) for fault in (httpx.ConnectError, httpx.ConnectTimeout)),
    ],
)
async def test_non_idempotent_request_is_retried_only_if_not_sent(server, response, times):
    server.responses = [response, OK]

    with suppress(HttpStatusError, HostUnavailable):
        await server.read(idempotent=False)

    assert len(server.request_times) == times


FAILED_200 = httpx.Response(200, json={"ok": False, "data": [{"id": 0}], "next": "x"})
GOOD_200 = httpx.Response(200, json={"ok": True, "data": TWO})


def classifying_failure_as(action: Any) -> dict[str, Any]:
    def classify(self, response, context):
        return ResponseAction.SUCCESS if response.json()["ok"] else action

    return {"classify": classify, "records_path": "data", "paginator": Cursor("next")}


@pytest.mark.parametrize(
    ("action", "failures", "max_tries", "expected", "requests"),
    [
        (ResponseAction.SUCCESS, 1, 5, [{"id": 0}, *TWO], 2),
        (ResponseAction.RETRY, 4, 5, TWO, 5),
        (ResponseAction.RETRY, 5, 5, HttpStatusError, 5),
        (ResponseAction.THROTTLED, 5, 1, TWO, 6),
        (ResponseAction.REFRESH_AUTH, 1, 1, TWO, 2),
        (ResponseAction.REFRESH_AUTH, 2, 5, AuthError, 2),
        (ResponseAction.IGNORE, 1, 5, [], 1),
        (ResponseAction.FAIL, 1, 5, HttpStatusError, 1),
        ("fail", 1, 5, ConfigError, 1),
        (None, 1, 5, ConfigError, 1),
    ],
)
async def test_classify_decides_the_action_for_a_200(server, action, failures, max_tries, expected, requests):
    server.responses = [FAILED_200] * failures + [GOOD_200]

    try:
        outcome = await server.read(max_tries=max_tries, **classifying_failure_as(action))
    except AsyncStreamsError as error:
        outcome = type(error)

    assert (outcome, len(server.request_times)) == (expected, requests)


async def test_refresh_auth_restarts_the_flow_of_a_plain_httpx_auth(server):
    class Numbered(httpx.Auth):
        flows = 0

        def auth_flow(self, request):
            self.flows += 1
            request.headers["X-Flow"] = str(self.flows)
            yield request

    server.responses = [FAILED_200, GOOD_200]

    assert await server.read(authenticator=Numbered(), **classifying_failure_as(ResponseAction.REFRESH_AUTH)) == TWO
    assert [call.request.headers["x-flow"] for call in server.route.calls] == ["1", "2"]


async def test_reset_pagination_restarts_the_slice(server):
    first = httpx.Response(200, json={"ok": True, "data": [{"id": 0}], "next": "b"})
    server.responses = [first, FAILED_200, first, GOOD_200]

    assert await server.read(**classifying_failure_as(ResponseAction.RESET_PAGINATION)) == [{"id": 0}, {"id": 0}, *TWO]
    assert [call.request.url.params.get("cursor") for call in server.route.calls] == [None, "b", None, "b"]
