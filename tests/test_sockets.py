"""Reads over real sockets: failure_steps, stalled, reused and closed connections."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
import ssl
import tracemalloc

import pytest
from loopback import (
    Connection,
    Items,
    Lines,
    LoopbackRequest,
    NonIdempotentItems,
    RedirectedItems,
    SlicedItems,
    TwoPages,
    VerifiedItems,
    always,
    break_after_first_record,
    cancel_read,
    close_at_page_two,
    fail_first_connection,
    http_response,
    read_until_error,
    redirect,
    self_signed_certificate,
    serve,
    time_out_read,
)

from asyncstreams import (
    ConfigError,
    HostUnavailable,
    HttpStatusError,
    NextUrl,
    RemoteError,
    StallTimeout,
    Timeouts,
    TruncatedBody,
)

ONE, TWO = b'[{"id":1}]', b'[{"id":2}]'
TRUNCATED = http_response(b'[{"id":1}', "Content-Length: 100")
UNTERMINATED = http_response(b"9\r\n" + b'[{"id":1}' + b"\r\n", "Transfer-Encoding: chunked")
FOREIGN_RESPONSE = http_response(b'[{"id":"of another response"}]')
LINES = b"".join(b'{"id":%d,"fill":"%s"}\n' % (number, b"x" * 500) for number in range(3000))
TRUNCATED_LINES = http_response(LINES, f"Content-Length: {len(LINES) + 1}")
BLOCK = b"".join(b'{"fill":"%s"}\n' % (b"x" * 10_000) for _ in range(100))
FIFTY_MEGABYTES = always(http_response(b"", f"Content-Length: {50 * len(BLOCK)}"), *[BLOCK] * 50)


@pytest.mark.parametrize(
    "failure_steps",
    [
        pytest.param([Connection.reset], id="reset before the response"),
        pytest.param([Connection.close], id="closed before the response"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le", Connection.close], id="closed within the headers"),
        pytest.param([TRUNCATED, Connection.reset], id="reset within the body"),
        pytest.param([TRUNCATED, Connection.close], id="shorter than Content-Length"),
        pytest.param([UNTERMINATED, Connection.close], id="chunked without end"),
        pytest.param([b"SSH-2.0-OpenSSH_9.6\r\n", Connection.close], id="no HTTP at all"),
    ],
)
async def test_broken_response_is_retried_without_its_records(failure_steps):
    async with serve(fail_first_connection(*failure_steps, body=TWO)) as server:
        records = await Items(server.url).read()

    assert records == [{"id": 2}]
    assert len(server.requests) == 2


@pytest.mark.parametrize("body", [TRUNCATED, UNTERMINATED], ids=["shorter than Content-Length", "chunked without end"])
async def test_repeatedly_truncated_body_raises_truncated_body(body):
    async with serve(always(body, Connection.close)) as server:
        with pytest.raises(TruncatedBody) as caught:
            await Items(server.url).read()

    assert caught.value.tries == len(server.requests) == 2


async def test_repeated_reset_raises_host_unavailable():
    async with serve(always(Connection.reset)) as server:
        with pytest.raises(HostUnavailable) as caught:
            await Items(server.url).read()

    assert caught.value.tries == len(server.requests) == 2


@pytest.mark.parametrize("kind", [Items, NonIdempotentItems], ids=["idempotent", "not idempotent: nothing was sent"])
async def test_refused_connection_is_retried_then_host_unavailable(kind):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(HostUnavailable) as caught:
        await kind(f"http://127.0.0.1:{port}/").read()

    assert caught.value.tries == 2


async def test_unresolvable_host_name_is_a_config_error():
    with pytest.raises(ConfigError, match="url_base"):
        await Items("http://nowhere.invalid/").read()


async def test_endless_headers_are_refused():
    async with serve(always(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: %s\r\n" % (b"x" * 1000)] * 1000)) as server:
        async with asyncio.timeout(5):
            with pytest.raises(RemoteError):
                await Items(server.url).read()


async def test_bytes_after_the_body_are_not_the_next_response():
    async with serve([http_response(ONE) + FOREIGN_RESPONSE, http_response(TWO)]) as server:
        records = await TwoPages(server.url).read()

    assert records == [{"id": 1}, {"id": 2}]


async def test_bytes_on_an_idle_connection_are_not_the_next_response():
    bytes_sent = asyncio.Event()

    async def script(request: LoopbackRequest, connection: Connection) -> None:
        await connection.send(http_response(TWO if "2" in request.target else ONE))
        await asyncio.sleep(0.05)
        await connection.send(FOREIGN_RESPONSE)
        bytes_sent.set()

    async def slices():
        yield {"page": 1}
        await bytes_sent.wait()
        yield {"page": 2}

    async with serve(script) as server:
        records = await SlicedItems(server.url).read(slices=slices())

    assert records == [{"id": 1}, {"id": 2}]


async def test_connection_is_kept_alive_between_pages():
    async with serve([http_response(ONE), http_response(TWO)]) as server:
        await TwoPages(server.url).read()

    assert [request.connection for request in server.requests] == [0, 0]


async def test_closed_idle_connection_is_replaced_without_a_try():
    async with serve(always(http_response(ONE), Connection.close)) as server, TwoPages(server.url).pages() as pages:
        await anext(pages)
        await server.wait_all_closed()
        await anext(pages)

    assert [request.connection for request in server.requests] == [0, 1]


async def test_get_is_retried_if_its_idle_connection_was_closed():
    async with serve(close_at_page_two()) as server:
        records = await TwoPages(server.url).read()

    assert len(records) == 2


async def test_non_idempotent_get_on_a_closed_connection_is_sent_once():
    async with serve(close_at_page_two()) as server:
        with pytest.raises(HostUnavailable):
            await NonIdempotentItems(server.url).read()

    assert server.targets == ["/items?page=1", "/items?page=2"]


@pytest.mark.parametrize(
    ("steps", "limits", "setting"),
    [
        pytest.param([], Timeouts(connect=0.1, first_byte=0.1), "first_byte", id="no response"),
        pytest.param([b"HTTP/1.1 200 OK\r\n"], Timeouts(connect=0.1, first_byte=0.1), "first_byte", id="no body"),
        pytest.param([], Timeouts(first_byte=0.2), "first_byte", id="first byte counts from the connection"),
        pytest.param([TRUNCATED], Timeouts(read=0.2), "read", id="stops within the body"),
        pytest.param([TRUNCATED, *[b" ", 0.05] * 99], Timeouts(read=1, total=0.3), "total", id="endless slow body"),
    ],
)  # fmt: skip
async def test_stall_names_the_setting_that_ran_out(steps, limits, setting):
    async with serve(always(*steps, Connection.wait_for_disconnect)) as server, asyncio.timeout(1.5):
        with pytest.raises(StallTimeout, match=rf"Timeouts\({setting}=") as caught:
            await Items(server.url, timeouts=limits).read()

    assert caught.value.tries == len(server.requests) == 2


async def test_slow_body_within_all_limits_is_read():
    slow_body = [step for byte in ONE for step in (bytes([byte]), 0.12)]
    async with serve(always(http_response(b"", f"Content-Length: {len(ONE)}"), *slow_body)) as server:
        records = await Items(server.url, timeouts=Timeouts(read=1)).read()

    assert records == [{"id": 1}]


async def test_endless_tls_handshake_fails_after_the_connect_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(2):
            with pytest.raises((StallTimeout, HostUnavailable)):
                await Items(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeouts=Timeouts(connect=0.2)).read()


async def test_slow_consumer_does_not_time_out_a_streamed_body():
    count = 0
    async with (
        serve([http_response(LINES)]) as server,
        Lines(server.url, timeouts=Timeouts(read=0.5, total=0.5)).pages() as pages,
    ):
        async for page in pages:
            count += len(page.records)
            await asyncio.sleep(0.7 if page.number == 0 else 0)

    assert count == 3000


async def test_stream_truncated_before_its_first_page_is_retried():
    failure_steps = [http_response(LINES[:1000], "Content-Length: 9999"), Connection.close]
    async with serve(fail_first_connection(*failure_steps, body=b'{"id":1}\n')) as server:
        records = await Lines(server.url).read()

    assert records == [{"id": 1}]
    assert len(server.requests) == 2


async def test_stream_truncated_after_its_first_page_fails_the_slice():
    async with serve(always(TRUNCATED_LINES, Connection.close)) as server:
        pages, error = await read_until_error(Lines(server.url), TruncatedBody)

    assert len(server.requests) == 1
    assert error.page == len(pages) > 0
    ids = [record["id"] for page in pages for record in page.records]
    assert ids == list(range(len(ids)))


async def test_error_within_a_stream_names_url_and_tries():
    async with serve(always(TRUNCATED_LINES, Connection.close)) as server:
        _, error = await read_until_error(Lines(server.url), RemoteError)

    assert (error.url, error.tries) == (f"{server.url}items", 1)


async def test_stream_stalled_after_its_first_page_fails_the_slice():
    async with serve(always(TRUNCATED_LINES, Connection.wait_for_disconnect)) as server:
        pages, error = await read_until_error(Lines(server.url, timeouts=Timeouts(read=0.7)), StallTimeout)

    assert len(server.requests) == 1
    assert len(pages) > 0
    assert "Timeouts(read=" in str(error)


@pytest.mark.parametrize("exit_read", [cancel_read, time_out_read, break_after_first_record])
@pytest.mark.parametrize("kind", [Items, Lines], ids=["buffered", "streamed"])
async def test_exit_within_a_body_closes_the_connection(kind, exit_read):
    if kind is Items and exit_read is break_after_first_record:
        pytest.skip("a buffered body is complete before its first record is available")
    async with (
        serve(always(http_response(LINES, "Content-Length: 9999999"), Connection.wait_for_disconnect)) as server,
        asyncio.timeout(5),
    ):
        before = len(os.listdir("/dev/fd"))

        await exit_read(kind(server.url), server)

        await server.wait_all_closed()
        gc.collect()  # a ResourceWarning would be raised here as an error
        assert len(os.listdir("/dev/fd")) == before


async def test_reads_work_after_300_cancelled_requests():
    async def script(request: LoopbackRequest, connection: Connection) -> None:
        await (connection.wait_for_disconnect() if stalls else connection.send(http_response(ONE)))

    async def slices():
        yield {"page": 1}
        await all_cancelled.wait()
        yield {"page": 2}

    stalls, all_cancelled = False, asyncio.Event()
    async with serve(script) as server, asyncio.timeout(10):
        stream = SlicedItems(server.url, adaptive=False)
        async with stream.pages(slices=slices()) as pages:  # keeps the session open
            await anext(pages)
            stalls = True
            for wave in range(15):
                tasks = [asyncio.create_task(stream.read()) for _ in range(20)]
                await server.wait_until(lambda server, count=20 * (wave + 1): len(server.requests) > count)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            stalls = False
            records = await stream.read(slices=[{"page": 1}, {"page": 2}])
            all_cancelled.set()
            last = await anext(pages)

    assert len(records) == 2
    assert last.stream_slice == {"page": 2}


async def test_streamed_body_of_50_mb_is_read_in_constant_memory():
    count = 0
    async with serve(FIFTY_MEGABYTES) as server:
        tracemalloc.start()
        try:
            async with Lines(server.url).records() as records:
                async for _ in records:
                    count += 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert count == 5000
    assert peak < 20e6


async def test_slow_consumer_applies_backpressure_to_the_server():
    async with serve(FIFTY_MEGABYTES) as server, (handle := Lines(server.url).pages()) as pages:
        await anext(pages)
        async with asyncio.timeout(10):
            while "the consumer is slower" not in handle.explain():  # noqa: ASYNC110  # no event reports it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)

        # Four queued pages of 1 MiB, and the buffers of both sockets.
        assert 4e6 < server.sent < 28e6


async def test_declared_request_arrives_byte_for_byte():
    class Search(Items):
        http_method = "POST"

        def path(self, context):
            return "a%2Fb%20c/d;e=1:2@x?q=%2f+%7E"

        def request_headers(self, context):
            return {"X-Api-Version": "2024-01", "x-tag": 'a,b;  "c"'}

        def request_data(self, context):
            return b"\x00\xff\r\n\r\nraw"

    async with serve([http_response(ONE)]) as server:
        await Search(f"{server.url}v1").read()

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/a%2Fb%20c/d;e=1:2@x?q=%2f+%7E")
    assert {("X-Api-Version", "2024-01"), ("x-tag", 'a,b;  "c"')} <= set(request.headers)
    assert request.body == b"\x00\xff\r\n\r\nraw"


async def test_next_url_is_sent_unchanged():
    class Linked(Items):
        records_path = "data"
        paginator = NextUrl("next")

    link = "/items?cursor=a%2fb+c%3D%3d&x=~%7E&y=%C3%A9,;:@!$'()*&empty=&bare"
    async with serve(
        [http_response(b'{"data":[],"next":"%s"}' % link.encode()), http_response(b'{"data":[]}')]
    ) as server:
        await Linked(server.url).read()

    assert server.targets == ["/items", link]


async def test_redirect_within_the_origin_is_followed_on_request():
    async with serve([redirect("/elsewhere?a=%2f"), http_response(ONE)]) as server:
        records = await RedirectedItems(server.url).read()

    assert records == [{"id": 1}]
    assert server.targets == ["/items", "/elsewhere?a=%2f"]


@pytest.mark.parametrize(("kind", "sent"), [(Items, 1), (RedirectedItems, 6)], ids=["not enabled", "at most five"])
async def test_unfollowed_redirect_error_names_its_target(kind, sent):
    async with serve([redirect("/elsewhere")]) as server:
        with pytest.raises(HttpStatusError, match="/elsewhere"):
            await kind(server.url).read()

    assert len(server.requests) == sent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    return self_signed_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize(
    ("host", "trusted"), [("127.0.0.1", False), ("localhost", True)], ids=["unknown authority", "wrong host"]
)
async def test_bad_certificate_is_a_config_error_without_retry(tls, certificate, host, trusted):
    handshakes = []
    tls.sni_callback = lambda *_: handshakes.append(1)
    async with serve([http_response(ONE)], tls) as server:
        with pytest.raises(ConfigError, match="certificate"):
            await VerifiedItems(server.url.replace("127.0.0.1", host), str(certificate) if trusted else True).read()

    assert len(handshakes) == 1
    assert server.requests == []


@pytest.mark.parametrize("trusted", [True, False], ids=["a path", "False"])
async def test_verify_selects_the_trusted_certificates(tls, certificate, trusted):
    async with serve([http_response(ONE)], tls) as server:
        records = await VerifiedItems(server.url, str(certificate) if trusted else False).read()

    assert records == [{"id": 1}]
