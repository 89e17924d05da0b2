"""Log lines and status of a run: what a job shows while it reads and when it ends."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from asyncstreams import (
    AsyncStreamsError,
    Backoff,
    HttpStatusError,
    HttpStream,
    JsonLines,
    PageNumber,
    PartialFailure,
    RateLimit,
    ResponseAction,
    Source,
    State,
)


class Items(HttpStream):
    """Two full pages and an empty one for each slice."""

    url_base = "https://api.test/"
    paginator = PageNumber()
    backoff = Backoff(base=0, cap=0)
    max_tries = 2

    def path(self, context):
        return ("items", context.stream_slice.get("repo", "all"))


class Details(Items):
    paginator = None

    def stream_slices(self, state):
        return [{"repo": str(number)} for number in range(200)]


class Ignoring(Items):
    """Ignores a 404."""

    def classify(self, response, context):
        return ResponseAction.IGNORE if response.status_code == 404 else super().classify(response, context)


def respond(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/gone"):
        return httpx.Response(404)
    return httpx.Response(200, json=[{"id": request.url.params["page"]}] if request.url.params["page"] < "3" else [])


API = httpx.MockTransport(respond)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "asyncstreams")
    return caplog


def lines(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == level]


async def test_silence_is_a_warning_with_its_reason(log, virtual_clock):
    refusals = iter([httpx.Response(429, headers={"Retry-After": "100"})])
    api = httpx.MockTransport(lambda request: next(refusals, httpx.Response(200, json=[])))

    await Items(transport=api, clock=virtual_clock).read()

    silences = [line for line in lines(log, logging.WARNING) if "nothing has moved" in line]
    assert len(silences) == 3
    assert "nothing has moved for 30 s: items: 1 request waits for the API's pause to end, " in silences[0]
    assert "nothing has moved for 90 s" in silences[2]


async def test_silent_server_is_named_in_the_warning(log, virtual_clock):
    async def api(request):
        await asyncio.sleep(50)
        return httpx.Response(200, json=[])

    await Items(transport=httpx.MockTransport(api), clock=virtual_clock).read()

    (silence,) = [line for line in lines(log, logging.WARNING) if "nothing has moved" in line]
    assert silence.endswith("items: 1 request has no complete response yet")


async def test_body_that_arrives_slowly_is_no_silence(log, virtual_clock):
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self):
            for piece in [b"[", *[b" " * 20_000] * 10, b"]"]:
                await asyncio.sleep(5)
                yield piece

    api = httpx.MockTransport(lambda request: httpx.Response(200, stream=Body()))

    await Items(transport=api, clock=virtual_clock).read()

    assert lines(log, logging.WARNING) == []


async def test_slow_consumer_is_no_warning(log, virtual_clock):
    slices = [{"repo": str(number)} for number in range(200)]
    async with Items(transport=API, clock=virtual_clock).pages(slices=slices) as pages:
        await anext(pages)
        await virtual_clock.sleep(40)

    assert lines(log, logging.WARNING) == []
    assert any(line.startswith("nothing has moved for 30 s: the consumer works on its page") for line in lines(log))


async def test_begin_and_end_of_a_stream_are_logged(log, virtual_clock):
    stream = Items(transport=API, clock=virtual_clock, rate_limit=RateLimit(10))

    await stream.read(limit=100)

    begin, end = lines(log)
    assert begin.startswith("items: begins: at most 100 records")
    assert "declared limits 10 in 1 s" in begin
    assert end.startswith("items: ends: 3 pages, 2 records in ")


async def test_begin_of_an_incremental_stream_names_the_cursor(log):
    class Events(Items):
        paginator = None
        cursor_field = "at"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=[{"id": 1, "at": "2026-01-01T00:00:00Z"}]))

    await Events(transport=transport).read(state=State())

    assert "cursor at" in lines(log)[0]


async def test_extraction_names_its_destination(log, tmp_path):
    await Items(transport=API).extract(to=JsonLines(tmp_path))

    assert f"items: writing to {tmp_path} (JsonLines)" in lines(log)


async def test_progress_is_logged_every_30_seconds(log, virtual_clock):
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(35)
        return respond(request)

    await Items(transport=httpx.MockTransport(slow), clock=virtual_clock).read()

    progress = [line for line in lines(log) if "slices open" in line]
    assert len(progress) >= 2
    assert "items: 1 slices open" in progress[0]


async def test_wait_of_more_than_5_seconds_is_logged_with_reason(log, virtual_clock):
    answers = [httpx.Response(429, headers={"Retry-After": "8"})]
    transport = httpx.MockTransport(lambda request: answers.pop() if answers else httpx.Response(200, json=[]))

    await Details(transport=transport, clock=virtual_clock).read(slices=[{"repo": "a"}])

    assert any("waits for the API's pause to end, about 8" in line for line in lines(log))


async def test_each_request_has_a_line_at_debug(caplog, virtual_clock):
    caplog.set_level(logging.DEBUG, "asyncstreams")

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.25)
        return respond(request)

    await Items(transport=httpx.MockTransport(slow), clock=virtual_clock).read(slices=[{"repo": "a"}])

    requests = lines(caplog, logging.DEBUG)
    assert len(requests) == 3
    assert "items: page 1 of slice {'repo': 'a'}: GET https://api.test/items/a: 200, 12 bytes, 250 ms" in requests


async def test_failed_request_has_a_line_at_debug(caplog):
    caplog.set_level(logging.DEBUG, "asyncstreams")

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    with pytest.raises(AsyncStreamsError):
        await Details(transport=httpx.MockTransport(fail)).read(slices=[{"repo": "a"}])

    assert any("page 0" in line and "HostUnavailable" in line for line in lines(caplog, logging.DEBUG))


async def test_detail_request_is_named_in_the_log(caplog):
    caplog.set_level(logging.DEBUG, "asyncstreams")

    await Items(transport=API).request("items/1", params={"page": 1})

    assert "items: detail request: GET https://api.test/items/1: 200, 12 bytes" in caplog.text


async def test_default_level_logs_nothing_of_a_good_run(caplog, tmp_path):
    await Items(transport=API).extract(to=JsonLines(tmp_path))

    assert caplog.records == []


async def test_giving_up_is_a_warning_that_names_the_page(caplog):
    with pytest.raises(HttpStatusError):
        await Items(transport=httpx.MockTransport(lambda request: httpx.Response(500))).read()

    (warning,) = lines(caplog, logging.WARNING)
    assert "give_up" in warning
    assert "page 0" in warning


async def test_retry_names_slice_and_page(log):
    with pytest.raises(HttpStatusError):
        await Items(transport=httpx.MockTransport(lambda request: httpx.Response(500))).read(slices=[{"repo": "a"}])

    retry = next(line for line in lines(log) if "retry" in line)
    assert "page 0 of slice {'repo': 'a'}" in retry


async def test_ignored_slice_is_logged_and_counted(log):
    handle = Ignoring(transport=API).pages(slices=[{"repo": "a"}, {"repo": "gone"}])
    async with handle as pages:
        _ = [page async for page in pages]

    (report,) = handle.report.streams
    assert (report.slices, report.ignored, report.failed) == (1, 1, 0)
    assert "1 slice, 1 ignored" in str(handle.report)
    assert "1 ignored" in handle.explain()
    ignored = [line for line in lines(log) if "is ignored" in line]
    assert len(ignored) == 1
    assert "{'repo': 'gone'}" in ignored[0]
    assert "404" in ignored[0]
    assert "1 slice ignored" in lines(log)[-1]


async def test_ignored_slice_is_in_the_report_of_an_extraction(tmp_path):
    class Repos(Ignoring):
        def stream_slices(self, state):
            return [{"repo": "a"}, {"repo": "gone"}]

    report = await Repos(transport=API).extract(to=JsonLines(tmp_path))

    assert report.streams[0].ignored == 1


@pytest.mark.parametrize("first", [{"repo": "gone"}, {"repo": "0"}], ids=["ignored first", "wrong first"])
async def test_first_page_of_a_wrong_declaration_ends_the_stream(first):
    requested: list[str] = []

    def wrong(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.path)
        return httpx.Response(404) if request.url.path.endswith("gone") else httpx.Response(200, json={"id": 1})

    class Wrong(Details, Ignoring):
        max_concurrency = 4

        def stream_slices(self, state):
            return [first, *super().stream_slices(state)]

    with pytest.raises(AsyncStreamsError, match="JSON object"):
        await Wrong(transport=httpx.MockTransport(wrong)).read()

    assert len(requested) <= 6


@pytest.mark.parametrize("answer", [httpx.Response(405), httpx.Response(200, html="<html>"), httpx.Response(200)])
async def test_other_signs_of_a_wrong_declaration_end_the_stream(answer):
    requested: list[str] = []

    def wrong(request: httpx.Request) -> httpx.Response:
        requested.append(request.url.path)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with pytest.raises(AsyncStreamsError):
        await Details(transport=httpx.MockTransport(wrong)).read()

    assert len(set(requested)) == 1


async def test_wrong_body_after_a_good_page_fails_its_slice_only():
    def mixed(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"id": 1} if request.url.path.endswith("/1") else [{"id": 1}])

    with pytest.raises(PartialFailure) as caught:
        await Details(transport=httpx.MockTransport(mixed)).read()

    assert len(caught.value.errors) == 1


async def test_open_block_has_status_of_the_run():
    def closed(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403) if "closed" in request.url.path else respond(request)

    class Others(Items):
        def path(self, context):
            return "closed"

    async with Source([Items(), Others()], transport=httpx.MockTransport(closed)).pages() as pages:
        seen = [(pages.explain(), pages.report.streams[0].stream) async for _ in pages]
        unavailable = pages.unavailable

    assert "items: " in seen[0][0]
    assert seen[0][1] == "items"
    assert list(unavailable) == ["others"]


async def test_records_block_has_a_report():
    async with Items(transport=API).records() as records:
        count = len([record async for record in records])
        report = records.report

    assert report.streams[0].records == count == 2
