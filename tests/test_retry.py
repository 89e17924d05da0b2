"""When is a request sent again, after how long, and when does it end?"""

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
    order = [("Retry-After", value) for value in retry_after]
    return httpx.Response(code, headers=[*headers.items(), *order], content=OK.content)


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


class Server:
    """Gives its answers one after the other, the last one for ever, and notes when it was asked."""

    def __init__(self, mock: respx.Router, clock: VirtualClock, url: str = USERS) -> None:
        self.clock = clock
        self.answers: list[httpx.Response | Exception] = []
        self.asked_at: list[float] = []
        self.route = mock.route(url=url).mock(side_effect=self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert len(self.asked_at) < 99, "this does not come to an end"
        answer = self.answers[min(len(self.asked_at), len(self.answers) - 1)]
        self.asked_at.append(self.clock.monotonic())
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in pairwise(self.asked_at)]

    def stream(self, seed: int | None = None, **declared: Any) -> HttpStream:
        own = {"url_base": "https://api.test", "path": lambda self, context: "users"}
        return type("Users", (HttpStream,), own | declared)(clock=self.clock, seed=seed)

    async def read(self, **declared: Any) -> list[dict[str, Any]]:
        return await self.stream(**declared).read()


@pytest.fixture
def server(respx_mock, virtual_clock):
    return Server(respx_mock, virtual_clock)


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_a_transient_status_is_tried_again_then_succeeds(server, code):
    server.answers = [status(code), OK]

    assert await server.read() == TWO
    assert len(server.asked_at) == 2


@pytest.mark.parametrize("code", [400, 404, 409, 422])
async def test_any_other_refusal_is_final(server, code):
    server.answers = [status(code)]

    with pytest.raises(HttpStatusError) as caught:
        await server.read()

    assert len(server.asked_at) == 1
    assert (caught.value.status, caught.value.tries) == (code, 1)


@pytest.mark.parametrize(
    "answer",
    [status(500), httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.ReadError(""), httpx.RemoteProtocolError("")],
)
@pytest.mark.parametrize(("declared", "most"), [({}, 5), ({"max_tries": 1}, 1), ({"max_tries": 2}, 2)])
async def test_max_tries_counts_the_requests_in_all(server, answer, declared, most):
    server.answers = [answer]

    with pytest.raises(HostUnavailable if isinstance(answer, Exception) else HttpStatusError) as caught:
        await server.read(**declared)

    assert len(server.asked_at) == most
    assert caught.value.tries == most


async def test_delays_grow_to_the_cap_and_are_spread_over_all_that_lies_below(respx_mock, virtual_clock):
    waits = []

    for seed in range(40):
        server = Server(respx_mock, virtual_clock)
        server.answers = [status(500)] * 5 + [OK]
        await server.read(seed=seed, max_tries=6, backoff=Backoff(base=1, cap=6))
        waits.append(server.waits)

    for nth, ceiling in zip(zip(*waits, strict=True), [1, 2, 4, 6, 6], strict=True):
        assert ceiling * 0.8 < max(nth) <= ceiling + 1e-6
        assert min(nth) < ceiling * 0.2


async def test_the_same_seed_gives_the_same_delays_and_another_seed_others(respx_mock, virtual_clock):
    async def waits(seed: int) -> list[float]:
        server = Server(respx_mock, virtual_clock)
        server.answers = [status(500), status(429), status(503), status(429, "40"), OK]
        await server.read(seed=seed)
        return [round(wait, 6) for wait in server.waits]

    first, again, other = await waits(1), await waits(1), await waits(2)

    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))


async def test_max_time_ends_the_tries_before_a_wait_that_would_exceed_it(server):
    server.answers = [status(500)]

    with pytest.raises(HttpStatusError):
        await server.read(max_tries=99, max_time=10, backoff_time=lambda self, response: 4)

    assert len(server.asked_at) == 3


@pytest.mark.parametrize("answer", [status(429), status(429, "100"), status(503, "100")])
async def test_waits_that_the_server_orders_spend_neither_tries_nor_time(server, answer):
    server.answers = [answer] * 20 + [status(500), OK]

    assert await server.read(max_tries=2, max_time=50) == TWO


async def test_an_ordered_wait_before_a_retry_does_not_count_as_time(server):
    server.answers = [status(502, "100"), OK]

    assert await server.read(max_time=50) == TWO
    assert server.waits[0] >= 100


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize("values", [["40"], ["nan", "20", "40", "-5"]])
async def test_the_longest_retry_after_that_makes_sense_is_waited_for_and_hardly_more(server, code, values):
    server.answers = [status(code, *values), OK]

    await server.read()

    assert 40 <= server.waits[0] <= 41.001


@pytest.mark.parametrize("off_by", [None, 0, -86_400 * 400, 86_400 * 400])
async def test_a_date_in_retry_after_is_read_against_the_date_of_the_response_if_it_has_one(server, off_by):
    theirs = server.clock.wall() + (off_by or 0)
    date = {} if off_by is None else {"Date": http_date(theirs)}
    server.answers = [status(429, http_date(theirs + 40), **date), OK]

    await server.read()

    assert 40 <= server.waits[0] <= 41.001


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize(
    "value", ["0", "-5", "nan", "inf", "1e309", "1e3", "1_000", "", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"]
)
async def test_a_retry_after_that_makes_no_sense_leaves_it_to_our_backoff(server, code, value):
    server.answers = [status(code, value), OK]

    assert await server.read() == TWO
    assert 0 < server.waits[0] <= 1.101


async def test_a_retry_after_that_makes_no_sense_is_warned_about_once(server, caplog):
    server.answers = [status(429, "soon"), status(429, "soon"), OK]

    await server.read()

    assert [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize(
    ("answer", "back"),
    [
        (status(429, "901"), "2026-01-01 00:15:0"),
        (status(503, "7200"), "2026-01-01 02:00:0"),
        (status(429, "1000000"), "2026-01-12 13:46:4"),
        (status(429, "9" * 20), "come back"),
        (status(500, "7200"), "2026-01-01 02:00:0"),
        (status(200, Backoff="7200"), "2026-01-01 02:00:0"),
    ],
)
async def test_a_wait_beyond_max_server_wait_ends_at_once_and_tells_when_to_come_back(server, answer, back):
    server.answers = [answer, OK]

    with pytest.raises(RateLimitWaitTooLong, match=back):
        await server.stream().read(slices=[{"n": 1}, {"n": 2}], on_error="stop")

    assert len(server.asked_at) == 1


async def test_ordered_waits_add_up_to_four_times_max_server_wait_at_most(server):
    server.answers = [status(429, "900")]

    with pytest.raises(RateLimitWaitTooLong):
        await server.read()

    assert len(server.asked_at) == 5


async def test_a_success_in_between_renews_the_patience_with_ordered_waits(server):
    server.answers = [*[status(429, "900")] * 4, OK] * 3

    def two_more(self, response, context):
        number = context.next_page_token or 0
        return number + 1 if number < 2 else None

    assert await server.read(next_page_token=two_more, detect_loops=False) == TWO * 3


async def test_an_ordered_wait_holds_back_everybody_who_draws_on_the_same_quota(server):
    server.answers = [status(429, "40"), OK]
    stream = server.stream()

    async def read_later() -> None:
        await server.clock.sleep(5)
        await stream.read()

    await asyncio.gather(stream.read(), read_later())

    first, *others = server.asked_at
    assert len(others) == 2
    assert min(others) - first >= 40


async def test_a_pause_asked_for_by_a_success_holds_back_the_next_page(server):
    server.answers = [status(200, Backoff="10"), OK]

    assert await server.stream().read(slices=[{"n": 1}, {"n": 2}]) == TWO + TWO
    assert 10 <= server.waits[0] <= 11.001


@pytest.mark.parametrize(("code", "times"), [(404, 2), (503, 1)])
async def test_should_retry_may_ask_for_more_and_for_less(server, code, times):
    server.answers = [status(code, "1"), OK]

    with suppress(HttpStatusError):
        await server.read(should_retry=lambda self, response: response.status_code == 404)

    assert len(server.asked_at) == times


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize(("told", "seconds"), [(5, 5), (0.5, 0.5), (None, 40), (0, 40)])
async def test_backoff_time_wins_over_the_header_unless_it_is_nothing(server, code, told, seconds):
    server.answers = [status(code, "40"), OK]

    await server.read(backoff_time=lambda self, response: told)

    assert seconds <= server.waits[0] <= seconds + 1.001


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "5", True])
async def test_a_backoff_time_that_is_no_duration_is_a_mistake_of_the_authors(server, wrong):
    server.answers = [status(500), OK]

    with pytest.raises(ConfigError, match=r"Users\.backoff_time"):
        await server.read(backoff_time=lambda self, response: wrong)


async def test_failures_of_one_reading_make_the_others_of_the_stream_more_patient(respx_mock, virtual_clock):
    waits = []

    for seed in range(20):
        sick, other = (Server(respx_mock, virtual_clock, f"https://api.test/{name}") for name in ("sick", "other"))
        sick.answers, other.answers = [status(500)], [status(500), OK]
        stream = sick.stream(seed, path=lambda self, context: context.stream_slice["at"], backoff=Backoff(1, 999))
        first = asyncio.ensure_future(stream.read(slices=[{"at": "sick"}]))
        while len(sick.asked_at) < 4 and not first.done():
            await virtual_clock.sleep(0.01)
        await asyncio.gather(first, stream.read(slices=[{"at": "other"}]), return_exceptions=True)
        waits += other.waits

    assert max(waits) > 2


async def test_a_success_makes_the_stream_impatient_again(respx_mock, virtual_clock):
    waits = []

    for seed in range(20):
        server = Server(respx_mock, virtual_clock)
        server.answers = [status(500)] * 4 + [OK, status(500), OK]
        await server.stream(seed, backoff=Backoff(1, 999)).read(slices=[{"n": 1}, {"n": 2}])
        waits.append(server.waits[5])

    assert 0.5 < max(waits) <= 1.001


async def test_a_post_that_reads_is_sent_again_with_its_body(server):
    server.answers = [httpx.ReadError(""), status(500), OK]

    assert await server.read(http_method="POST", request_json=lambda self, context: {"q": "all"}) == TWO
    assert [json.loads(call.request.content) for call in server.route.calls] == [{"q": "all"}] * 3


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        *((answer, 1) for answer in (status(500), status(503, "1"), status(429))),
        *((fault(""), 1) for fault in (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError)),
        *((fault(""), 2) for fault in (httpx.ConnectError, httpx.ConnectTimeout)),
    ],
)
async def test_what_must_not_be_repeated_is_only_when_it_surely_was_not_sent(server, answer, times):
    server.answers = [answer, OK]

    with suppress(HttpStatusError, HostUnavailable):
        await server.read(idempotent=False)

    assert len(server.asked_at) == times


SICK = httpx.Response(200, json={"ok": False, "data": [{"id": 0}], "next": "x"})
WELL = httpx.Response(200, json={"ok": True, "data": TWO})


def taking_sick_for(action: Any) -> dict[str, Any]:
    def classify(self, response, context):
        return ResponseAction.SUCCESS if response.json()["ok"] else action

    return {"classify": classify, "records_path": "data", "paginator": Cursor("next")}


@pytest.mark.parametrize(
    ("action", "sick", "max_tries", "expected", "requests"),
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
async def test_classify_decides_about_an_error_inside_a_200(server, action, sick, max_tries, expected, requests):
    server.answers = [SICK] * sick + [WELL]

    try:
        outcome = await server.read(max_tries=max_tries, **taking_sick_for(action))
    except AsyncStreamsError as error:
        outcome = type(error)

    assert (outcome, len(server.asked_at)) == (expected, requests)


async def test_refresh_auth_runs_the_flow_of_a_plain_httpx_auth_afresh(server):
    class Numbered(httpx.Auth):
        flows = 0

        def auth_flow(self, request):
            self.flows += 1
            request.headers["X-Flow"] = str(self.flows)
            yield request

    server.answers = [SICK, WELL]

    assert await server.read(authenticator=Numbered(), **taking_sick_for(ResponseAction.REFRESH_AUTH)) == TWO
    assert [call.request.headers["x-flow"] for call in server.route.calls] == ["1", "2"]


async def test_reset_pagination_reads_the_slice_from_its_first_page_again(server):
    first = httpx.Response(200, json={"ok": True, "data": [{"id": 0}], "next": "b"})
    server.answers = [first, SICK, first, WELL]

    assert await server.read(**taking_sick_for(ResponseAction.RESET_PAGINATION)) == [{"id": 0}, {"id": 0}, *TWO]
    assert [call.request.url.params.get("cursor") for call in server.route.calls] == [None, "b", None, "b"]
