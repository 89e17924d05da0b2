"""Does reading hold what it promises over real connections, which break, stall, and are let go?"""

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
    Following,
    Items,
    Lines,
    Once,
    Received,
    Sliced,
    TwoPages,
    Verified,
    Wire,
    always,
    answer,
    broken_off,
    cancelled,
    dies_at_page_two,
    redirect,
    self_signed,
    serve,
    then_well,
    timed_out,
    until_it_fails,
)

from asyncstreams import (
    ConfigError,
    CrossOriginLink,
    HostUnavailable,
    HttpStatusError,
    NextUrl,
    RemoteError,
    StallTimeout,
    Timeouts,
    TruncatedBody,
)

ONE, TWO = b'[{"id":1}]', b'[{"id":2}]'
CUT = answer(b'[{"id":1}', "Content-Length: 100")
UNENDED = answer(b"9\r\n" + b'[{"id":1}' + b"\r\n", "Transfer-Encoding: chunked")
THIEF = answer(b'[{"id":"of another response"}]')
LINES = b"".join(b'{"id":%d,"fill":"%s"}\n' % (number, b"x" * 500) for number in range(3000))
CUT_LINES = answer(LINES, f"Content-Length: {len(LINES) + 1}")
BLOCK = b"".join(b'{"fill":"%s"}\n' % (b"x" * 10_000) for _ in range(100))
FIFTY_MEGABYTES = always(answer(b"", f"Content-Length: {50 * len(BLOCK)}"), *[BLOCK] * 50)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([Wire.reset], id="reset before the answer"),
        pytest.param([Wire.close], id="closed before the answer"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Le", Wire.close], id="closed within the headers"),
        pytest.param([CUT, Wire.reset], id="reset within the body"),
        pytest.param([CUT, Wire.close], id="shorter than Content-Length"),
        pytest.param([UNENDED, Wire.close], id="chunked without end"),
        pytest.param([b"SSH-2.0-OpenSSH_9.6\r\n", Wire.close], id="no HTTP at all"),
    ],
)
async def test_a_broken_answer_is_tried_again_and_leaves_no_record_behind(broken):
    async with serve(then_well(*broken, body=TWO)) as server:
        records = await Items(server.url).read()

    assert records == [{"id": 2}]
    assert len(server.requests) == 2


@pytest.mark.parametrize("body", [CUT, UNENDED], ids=["shorter than Content-Length", "chunked without end"])
async def test_a_body_that_is_cut_each_time_is_a_truncated_body(body):
    async with serve(always(body, Wire.close)) as server:
        with pytest.raises(TruncatedBody) as caught:
            await Items(server.url).read()

    assert caught.value.tries == len(server.requests) == 2


async def test_a_reset_each_time_is_an_unavailable_host_and_no_more_requests_than_tries():
    async with serve(always(Wire.reset)) as server:
        with pytest.raises(HostUnavailable) as caught:
            await Items(server.url).read()

    assert caught.value.tries == len(server.requests) == 2


@pytest.mark.parametrize("kind", [Items, Once], ids=["idempotent", "not idempotent: nothing was sent"])
async def test_a_refused_connection_is_tried_again_and_then_an_unavailable_host(kind):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(HostUnavailable) as caught:
        await kind(f"http://127.0.0.1:{port}/").read()

    assert caught.value.tries == 2


async def test_a_name_that_has_never_resolved_is_a_config_error():
    with pytest.raises(ConfigError, match="url_base"):
        await Items("http://nowhere.invalid/").read()


async def test_headers_without_end_are_refused():
    async with serve(always(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: %s\r\n" % (b"x" * 1000)] * 1000)) as server:
        async with asyncio.timeout(5):
            with pytest.raises(RemoteError):
                await Items(server.url).read()


async def test_bytes_after_the_announced_body_never_become_the_next_response():
    async with serve([answer(ONE) + THIEF, answer(TWO)]) as server:
        records = await TwoPages(server.url).read()

    assert records == [{"id": 1}, {"id": 2}]


async def test_bytes_that_come_later_on_an_idle_connection_never_become_the_next_response():
    came = asyncio.Event()

    async def script(request: Received, wire: Wire) -> None:
        await wire.send(answer(TWO if "2" in request.target else ONE))
        await asyncio.sleep(0.05)
        await wire.send(THIEF)
        came.set()

    async def slices():
        yield {"page": 1}
        await came.wait()
        yield {"page": 2}

    async with serve(script) as server:
        found = await Sliced(server.url).read(slices=slices())

    assert found == [{"id": 1}, {"id": 2}]


async def test_connections_are_kept_alive_between_pages():
    async with serve([answer(ONE), answer(TWO)]) as server:
        await TwoPages(server.url).read()

    assert [request.connection for request in server.requests] == [0, 0]


async def test_a_kept_alive_connection_that_was_closed_between_requests_costs_no_try():
    async with serve(always(answer(ONE), Wire.close)) as server, TwoPages(server.url).pages() as pages:
        await anext(pages)
        await server.all_closed()
        await anext(pages)

    assert [request.connection for request in server.requests] == [0, 1]


async def test_a_get_whose_kept_alive_connection_dies_under_it_is_sent_again():
    async with serve(dies_at_page_two()) as server:
        records = await TwoPages(server.url).read()

    assert len(records) == 2


async def test_a_get_that_must_not_be_repeated_goes_out_once_even_when_its_connection_dies():
    async with serve(dies_at_page_two()) as server:
        with pytest.raises(HostUnavailable):
            await Once(server.url).read()

    assert server.targets == ["/items?page=1", "/items?page=2"]


@pytest.mark.parametrize(
    ("steps", "limits", "setting"),
    [
        pytest.param([], Timeouts(connect=0.1, first_byte=0.1), "first_byte", id="no answer"),
        pytest.param([b"HTTP/1.1 200 OK\r\n"], Timeouts(connect=0.1, first_byte=0.1), "first_byte", id="no body"),
        pytest.param([], Timeouts(first_byte=0.2), "first_byte", id="first byte counts from the connection"),
        pytest.param([CUT], Timeouts(read=0.2), "read", id="stops within the body"),
        pytest.param([CUT, *[b" ", 0.05] * 99], Timeouts(read=1, total=0.3), "total", id="drips for ever"),
    ],
)  # fmt: skip
async def test_a_server_that_stalls_is_told_with_the_setting_that_ran_out(steps, limits, setting):
    async with serve(always(*steps, Wire.gone)) as server, asyncio.timeout(1.5):
        with pytest.raises(StallTimeout, match=rf"Timeouts\({setting}=") as caught:
            await Items(server.url, timeouts=limits).read()

    assert caught.value.tries == len(server.requests) == 2


async def test_a_slow_drip_within_all_limits_is_read():
    drip = [step for byte in ONE for step in (bytes([byte]), 0.12)]
    async with serve(always(answer(b"", f"Content-Length: {len(ONE)}"), *drip)) as server:
        records = await Items(server.url, timeouts=Timeouts(read=1)).read()

    assert records == [{"id": 1}]


async def test_a_tls_handshake_that_never_ends_is_given_up_after_the_connect_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(2):
            with pytest.raises((StallTimeout, HostUnavailable)):
                await Items(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeouts=Timeouts(connect=0.2)).read()


async def test_only_waiting_for_the_server_counts_against_a_streamed_body():
    count = 0
    async with (
        serve([answer(LINES)]) as server,
        Lines(server.url, timeouts=Timeouts(read=0.5, total=0.5)).pages() as pages,
    ):
        async for page in pages:
            count += len(page.records)
            await asyncio.sleep(0.7 if page.number == 0 else 0)

    assert count == 3000


async def test_a_streamed_body_that_is_cut_before_its_first_page_is_read_again():
    broken = [answer(LINES[:1000], "Content-Length: 9999"), Wire.close]
    async with serve(then_well(*broken, body=b'{"id":1}\n')) as server:
        records = await Lines(server.url).read()

    assert records == [{"id": 1}]
    assert len(server.requests) == 2


async def test_a_streamed_body_that_is_cut_after_its_first_page_fails_the_slice():
    async with serve(always(CUT_LINES, Wire.close)) as server:
        pages, error = await until_it_fails(Lines(server.url), TruncatedBody)

    assert len(server.requests) == 1
    assert error.page == len(pages) > 0
    ids = [record["id"] for page in pages for record in page.records]
    assert ids == list(range(len(ids)))


async def test_an_error_in_mid_stream_tells_its_url_and_how_many_requests_were_sent():
    async with serve(always(CUT_LINES, Wire.close)) as server:
        _, error = await until_it_fails(Lines(server.url), RemoteError)

    assert (error.url, error.tries) == (f"{server.url}items", 1)


async def test_a_streamed_body_that_stalls_after_its_first_page_fails_the_slice():
    async with serve(always(CUT_LINES, Wire.gone)) as server:
        pages, error = await until_it_fails(Lines(server.url, timeouts=Timeouts(read=0.7)), StallTimeout)

    assert len(server.requests) == 1
    assert len(pages) > 0
    assert "Timeouts(read=" in str(error)


@pytest.mark.parametrize("leave", [cancelled, timed_out, broken_off])
@pytest.mark.parametrize("kind", [Items, Lines], ids=["whole", "streamed"])
async def test_leaving_in_mid_body_leaves_no_connection_open(kind, leave):
    if kind is Items and leave is broken_off:
        pytest.skip("a whole body is read before its first record is there")
    async with serve(always(answer(LINES, "Content-Length: 9999999"), Wire.gone)) as server, asyncio.timeout(5):
        before = len(os.listdir("/dev/fd"))

        await leave(kind(server.url), server)

        await server.all_closed()
        gc.collect()  # a ResourceWarning would come now, and is an error
        assert len(os.listdir("/dev/fd")) == before


async def test_reading_goes_on_after_300_cancelled_requests():
    async def script(request: Received, wire: Wire) -> None:
        await (wire.gone() if stalls else wire.send(answer(ONE)))

    async def slices():
        yield {"page": 1}
        await cancelled_all.wait()
        yield {"page": 2}

    stalls, cancelled_all = False, asyncio.Event()
    async with serve(script) as server, asyncio.timeout(10):
        stream = Sliced(server.url, adaptive=False)
        async with stream.pages(slices=slices()) as pages:  # keeps the connections open meanwhile
            await anext(pages)
            stalls = True
            for wave in range(15):
                readings = [asyncio.create_task(stream.read()) for _ in range(20)]
                await server.until(lambda server, due=20 * (wave + 1): len(server.requests) > due)
                for reading in readings:
                    reading.cancel()
                await asyncio.wait(readings)
            stalls = False
            records = await stream.read(slices=[{"page": 1}, {"page": 2}])
            cancelled_all.set()
            last = await anext(pages)

    assert len(records) == 2
    assert last.stream_slice == {"page": 2}


async def test_a_streamed_body_of_50_megabytes_is_read_in_flat_memory():
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


async def test_a_slow_consumer_stalls_the_server():
    async with serve(FIFTY_MEGABYTES) as server, (reading := Lines(server.url).pages()) as pages:
        await anext(pages)
        async with asyncio.timeout(10):
            while "the consumer is slower" not in reading.explain():  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)

        # Four pages of 1 MiB wait, and what the buffers of the two sockets hold.
        assert 4e6 < server.sent < 28e6


async def test_what_is_declared_arrives_byte_for_byte():
    class Search(Items):
        http_method = "POST"

        def path(self, context):
            return "a%2Fb%20c/d;e=1:2@x?q=%2f+%7E"

        def request_headers(self, context):
            return {"X-Api-Version": "2024-01", "x-tag": 'a,b;  "c"'}

        def request_data(self, context):
            return b"\x00\xff\r\n\r\nraw"

    async with serve([answer(ONE)]) as server:
        await Search(f"{server.url}v1").read()

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/a%2Fb%20c/d;e=1:2@x?q=%2f+%7E")
    assert {("X-Api-Version", "2024-01"), ("x-tag", 'a,b;  "c"')} <= set(request.headers)
    assert request.body == b"\x00\xff\r\n\r\nraw"


async def test_a_next_url_goes_out_as_the_api_gave_it():
    class Linked(Items):
        records_path = "data"
        paginator = NextUrl("next")

    link = "/items?cursor=a%2fb+c%3D%3d&x=~%7E&y=%C3%A9,;:@!$'()*&empty=&bare"
    async with serve([answer(b'{"data":[],"next":"%s"}' % link.encode()), answer(b'{"data":[]}')]) as server:
        await Linked(server.url).read()

    assert server.targets == ["/items", link]


async def test_a_redirect_within_the_origin_is_followed_where_asked():
    async with serve([redirect("/elsewhere?a=%2f"), answer(ONE)]) as server:
        records = await Following(server.url).read()

    assert records == [{"id": 1}]
    assert server.targets == ["/items", "/elsewhere?a=%2f"]


@pytest.mark.parametrize(("kind", "sent"), [(Items, 1), (Following, 6)], ids=["not asked", "five and no more"])
async def test_a_redirect_that_is_not_followed_is_an_error_that_names_its_target(kind, sent):
    async with serve([redirect("/elsewhere")]) as server:
        with pytest.raises(HttpStatusError, match="/elsewhere"):
            await kind(server.url).read()

    assert len(server.requests) == sent


async def test_a_redirect_to_another_origin_is_refused_before_any_connection():
    async with serve([answer(ONE)]) as other, serve([redirect(f"{other.url}items")]) as server:
        with pytest.raises(CrossOriginLink):
            await Following(server.url).read()

    assert other.connections == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize(
    ("host", "trusted"), [("127.0.0.1", False), ("localhost", True)], ids=["unknown", "not its host"]
)
async def test_a_bad_certificate_is_a_config_error_and_not_tried_again(tls, certificate, host, trusted):
    handshakes = []
    tls.sni_callback = lambda *_: handshakes.append(1)
    async with serve([answer(ONE)], tls) as server:
        with pytest.raises(ConfigError, match="certificate"):
            await Verified(server.url.replace("127.0.0.1", host), str(certificate) if trusted else True).read()

    assert len(handshakes) == 1
    assert server.requests == []


@pytest.mark.parametrize("trusted", [True, False], ids=["a path", "False"])
async def test_verify_says_who_is_trusted(tls, certificate, trusted):
    async with serve([answer(ONE)], tls) as server:
        records = await Verified(server.url, str(certificate) if trusted else False).read()

    assert records == [{"id": 1}]
