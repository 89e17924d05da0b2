"""Is a body that was cut, mislabelled, swollen or endless ever taken for a whole one?"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

import brotli
import pytest
from backports import zstd
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loopback import RawServer

from asyncstreams import (
    AuthError,
    BodyLimits,
    DecodeError,
    HttpStatusError,
    HttpStream,
    RemoteError,
    ResponseTooLarge,
    TruncatedBody,
    UnexpectedContent,
    ndjson,
)

PLAIN = b'[{"id":1},{"id":2}]'
MIB = 2**20


class Whole(HttpStream):
    """The body as bytes, once it is here."""

    url_base = "https://api.example.com/"
    max_tries = 2

    def path(self, context):
        return "export"

    def parse_response(self, response, context):
        return [{"body": response.content}]


class Streamed(Whole):
    """The body as bytes, while it arrives."""

    async def parse_response(self, response, context):
        yield {"body": b"".join([piece async for piece in response.aiter_bytes()])}


async def _body(kind: type[HttpStream], server: RawServer, **options: Any) -> bytes:
    (record,) = await kind(transport=server, **options).read()
    return record["body"]


SQUEEZE = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=4),
    "zstd": zstd.compress,
}


def spoilt(at: int) -> bytes:
    whole = bytearray(gzip.compress(PLAIN))
    whole[at] ^= 0xFF
    return bytes(whole)


both = pytest.mark.parametrize("kind", [Whole, Streamed])


@both
@pytest.mark.parametrize(
    ("coding", "raw"),
    [
        pytest.param("", PLAIN, id="none"),
        pytest.param("identity", PLAIN, id="identity"),
        pytest.param("gzip", gzip.compress(PLAIN), id="gzip"),
        pytest.param("x-gzip", gzip.compress(PLAIN), id="x-gzip"),
        pytest.param("GZip", gzip.compress(PLAIN), id="upper case"),
        pytest.param("gzip", gzip.compress(PLAIN[:5]) + gzip.compress(PLAIN[5:]), id="two members"),
        pytest.param("gzip", gzip.compress(PLAIN) + bytes(1000), id="gzip with zero padding"),
        pytest.param("deflate", zlib.compress(PLAIN), id="deflate as zlib"),
        pytest.param("deflate", zlib.compress(PLAIN, wbits=-15), id="deflate raw"),
        pytest.param("br", brotli.compress(PLAIN), id="br"),
        pytest.param("zstd", zstd.compress(PLAIN), id="zstd"),
        pytest.param("zstd", zstd.compress(PLAIN[:5]) + zstd.compress(PLAIN[5:]), id="zstd, two frames"),
        pytest.param("gzip, br", brotli.compress(gzip.compress(PLAIN)), id="the last one is undone first"),
        pytest.param("identity, zstd ,, gzip", gzip.compress(zstd.compress(PLAIN)), id="with empty names"),
        pytest.param("gzip" + ",gzip" * 4, reduce(lambda raw, _: gzip.compress(raw), range(5), PLAIN), id="five"),
    ],
)  # fmt: skip
async def test_a_whole_body_is_decoded(kind, coding, raw, virtual_clock):
    server = RawServer(raw, coding, Content_Length=str(len(raw)))

    body = await _body(kind, server, clock=virtual_clock)

    assert body == PLAIN
    assert len(server.requests) == 1


@both
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_large_body_that_came_in_one_small_piece_is_decoded_whole(kind, coding, virtual_clock):
    plain = b"".join(b'{"id":%d}' % number for number in range(100_000))

    body = await _body(kind, RawServer(SQUEEZE[coding](plain), coding), clock=virtual_clock)

    assert body == plain


CUT = [
    pytest.param("gzip", gzip.compress(PLAIN)[:15], id="gzip in the middle"),
    pytest.param("gzip", gzip.compress(PLAIN)[:5], id="gzip in its header"),
    pytest.param("gzip", gzip.compress(PLAIN)[:-8], id="gzip without trailer"),
    pytest.param("gzip", gzip.compress(PLAIN)[:-1], id="gzip without its last byte"),
    pytest.param("gzip", gzip.compress(PLAIN) + gzip.compress(PLAIN)[:-3], id="second member"),
    pytest.param("deflate", zlib.compress(PLAIN)[:-1], id="zlib"),
    pytest.param("deflate", zlib.compress(PLAIN, wbits=-15)[:-1], id="raw deflate"),
    pytest.param("br", brotli.compress(PLAIN)[:-1], id="br"),
    pytest.param("zstd", zstd.compress(PLAIN)[:-1], id="zstd"),
    pytest.param("zstd", zstd.compress(PLAIN) + zstd.compress(PLAIN)[:-1], id="zstd, second frame"),
    pytest.param("gzip, gzip", gzip.compress(gzip.compress(PLAIN)[:-8]), id="the inner of two"),
]


@both
@pytest.mark.parametrize(("coding", "raw"), CUT)
async def test_a_cut_body_of_matching_length_is_tried_again_and_then_a_truncated_body(kind, coding, raw, virtual_clock):
    server = RawServer(raw, coding, Content_Length=str(len(raw)))

    with pytest.raises(TruncatedBody) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.tries == len(server.requests) == 2


WRONG = [
    pytest.param("gzip", spoilt(-8), id="bad checksum"),
    pytest.param("gzip", spoilt(-1), id="bad length in the trailer"),
    pytest.param("gzip", gzip.compress(PLAIN) + b"<!-- cached -->", id="garbage after gzip"),
    pytest.param("gzip", gzip.compress(PLAIN) + bytes(9) + b"x", id="garbage after zero padding"),
    pytest.param("gzip", PLAIN, id="gzip label on plain"),
    pytest.param("deflate", b"\xff" + PLAIN, id="deflate label on plain"),
    pytest.param("br", b"\xff" * 9 + PLAIN, id="br label on plain"),
    pytest.param("zstd", PLAIN, id="zstd label on plain"),
    pytest.param("deflate", zlib.compress(PLAIN) + b"garbage", id="garbage after deflate"),
    pytest.param("br", brotli.compress(PLAIN) + b"garbage", id="garbage after br"),
    pytest.param("zstd", zstd.compress(PLAIN) + b"garbage", id="garbage after zstd"),
]


@both
@pytest.mark.parametrize(("coding", "raw"), WRONG)
async def test_a_body_that_is_not_what_its_coding_says_is_tried_again_and_then_a_decode_error(
    kind, coding, raw, virtual_clock
):
    server = RawServer(raw, coding)

    with pytest.raises(DecodeError) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.tries == len(server.requests) == 2


@both
async def test_a_decode_error_shows_the_first_bytes(kind, virtual_clock):
    with pytest.raises(DecodeError, match="5b 7b 22 69 64"):
        await _body(kind, RawServer(PLAIN, "gzip"), clock=virtual_clock)


@both
@pytest.mark.parametrize("coding", ["foo", "gzip, foo", "compress", "gzip," * 5 + "gzip"])
async def test_a_coding_that_was_not_asked_for_or_a_sixth_one_is_not_tried_again(kind, coding, virtual_clock):
    server = RawServer(PLAIN, coding)

    with pytest.raises(DecodeError):
        await _body(kind, server, clock=virtual_clock)

    assert len(server.requests) == 1


async def test_only_codings_that_we_decode_are_asked_for(virtual_clock):
    server = RawServer(PLAIN)

    await _body(Whole, server, clock=virtual_clock)

    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate, br, zstd"


async def test_gzip_that_no_label_announces_is_told_as_such(virtual_clock):
    class Records(Whole):
        parse_response = HttpStream.parse_response

    with pytest.raises(UnexpectedContent, match="gzip"):
        await Records(transport=RawServer(gzip.compress(PLAIN)), clock=virtual_clock).read()


async def test_a_line_cut_out_of_gzip_never_counts_as_the_end_of_the_lines(virtual_clock):
    class Lines(Whole):
        async def parse_response(self, response, context):
            async for record in ndjson(response):
                yield record

    stored = gzip.compress(b'{"id":1}\n{"id":2}\n', compresslevel=0)
    cut = stored[: stored.index(b"\n") + 1]  # what is left is a whole line

    with pytest.raises(TruncatedBody):
        await Lines(transport=RawServer(cut, "gzip", Content_Length=str(len(cut))), clock=virtual_clock).read()


@both
async def test_a_body_shorter_than_its_content_length_is_a_truncated_body(kind, virtual_clock):
    server = RawServer(PLAIN, Content_Length=str(len(PLAIN) + 1))

    with pytest.raises(TruncatedBody):
        await _body(kind, server, clock=virtual_clock)

    assert len(server.requests) == 2


@both
@pytest.mark.parametrize("chunked", [True, False])
async def test_require_length_refuses_only_a_body_that_nothing_delimits(kind, chunked, virtual_clock):
    server = RawServer(PLAIN, **({"Transfer_Encoding": "chunked"} if chunked else {}))
    reading = _body(kind, server, clock=virtual_clock, body_limits=BodyLimits(require_length=True))

    if chunked:
        assert await reading == PLAIN
    else:
        with pytest.raises(TruncatedBody):
            await reading


def _zeros(count: int) -> Callable[[], Iterable[bytes]]:
    return lambda: (bytes(100_000) for _ in range(count))


BOMB = gzip.compress(gzip.compress(bytes(300 * MIB), 1), 1)


@both
@pytest.mark.parametrize(
    ("server", "limits", "named"),
    [
        pytest.param(lambda: RawServer(_zeros(10**9)), BodyLimits(wire=MIB), "wire", id="endless"),
        pytest.param(lambda: RawServer(PLAIN, Content_Length=str(10**12)), BodyLimits(), "wire", id="announced"),
        pytest.param(lambda: RawServer(gzip.compress(bytes(3 * MIB)), "gzip"), BodyLimits(decoded=2 * MIB, ratio=10**6),
                     "decoded", id="gzip beyond decoded"),
        pytest.param(lambda: RawServer(gzip.compress(bytes(3 * MIB)), "gzip"), BodyLimits(), "ratio", id="gzip ratio"),
        pytest.param(lambda: RawServer(brotli.compress(bytes(3 * MIB)), "br"), BodyLimits(), "ratio", id="br ratio"),
        pytest.param(lambda: RawServer(zstd.compress(bytes(3 * MIB)), "zstd"), BodyLimits(), "ratio", id="zstd ratio"),
        pytest.param(lambda: RawServer(BOMB, "gzip, gzip"), BodyLimits(), "ratio", id="gzip in gzip"),
    ],
)  # fmt: skip
async def test_a_body_beyond_its_bounds_is_refused_at_once_and_names_the_setting(
    kind, server, limits, named, virtual_clock
):
    server = server()

    with pytest.raises(ResponseTooLarge, match=rf"BodyLimits\({named}="):
        await _body(kind, server, clock=virtual_clock, body_limits=limits)

    assert len(server.requests) == 1
    assert server.body.taken <= 2 * MIB


@pytest.mark.parametrize("kind", [pytest.param(Whole), Streamed])
async def test_a_plain_body_beyond_the_decoded_bound_is_refused_at_once(kind, virtual_clock):
    server = RawServer(_zeros(10**9))

    with pytest.raises(ResponseTooLarge, match=r"BodyLimits\(decoded="):
        await _body(kind, server, clock=virtual_clock, body_limits=BodyLimits(decoded=MIB))

    assert server.body.taken <= 2 * MIB


async def test_a_bomb_that_is_swallowed_between_two_codings_is_refused(virtual_clock):
    padded = gzip.compress(gzip.compress(PLAIN) + bytes(16 * MIB), 1)

    with pytest.raises(ResponseTooLarge):
        await _body(Whole, RawServer(padded, "gzip, gzip"), clock=virtual_clock, body_limits=BodyLimits(decoded=MIB))


@both
async def test_a_high_ratio_below_one_mebibyte_is_no_bomb(kind, virtual_clock):
    body = await _body(kind, RawServer(gzip.compress(bytes(MIB)), "gzip"), clock=virtual_clock)

    assert body == bytes(MIB)


@both
async def test_of_an_error_body_only_the_beginning_is_read(kind, virtual_clock):
    server = RawServer(_zeros(10**9), status=404)

    with pytest.raises(HttpStatusError) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.status == 404
    assert server.body.taken < 200_000


@pytest.mark.parametrize(
    ("raw", "coding", "length"),
    [
        pytest.param(gzip.compress(PLAIN)[:-8], "gzip", None, id="cut"),
        pytest.param(PLAIN, "gzip", None, id="not its coding"),
        pytest.param(PLAIN, "foo", None, id="unknown coding"),
        pytest.param(PLAIN, "", 10**12, id="too long"),
        pytest.param(PLAIN, "", 1000, id="shorter than announced"),
    ],
)
@pytest.mark.parametrize(("status", "error"), [(404, HttpStatusError), (401, AuthError), (503, HttpStatusError)])
async def test_an_error_status_is_told_whatever_its_body_is(raw, coding, length, status, error, virtual_clock):
    server = RawServer(raw, coding, status, **({"Content_Length": str(length)} if length else {}))

    with pytest.raises(error) as caught:
        await _body(Whole, server, clock=virtual_clock)

    assert caught.value.status == status


async def test_a_head_request_has_no_body_whatever_its_headers_say(virtual_clock):
    class Head(Whole):
        http_method = "HEAD"

    server = RawServer(b"", "gzip", Content_Length="12345")

    assert await _body(Head, server, clock=virtual_clock) == b""


PLAYED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _chunked(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@both
@PLAYED
@given(
    data=st.binary(max_size=3000),
    repeated=st.integers(1, 50),
    codings=st.lists(st.sampled_from(sorted(SQUEEZE)), max_size=5),
    cuts=st.lists(st.integers(0, 10**6), max_size=12),
)
async def test_any_bytes_in_any_codings_and_any_chunks_come_back_exactly(kind, data, repeated, codings, cuts):
    plain = raw = data * repeated
    for coding in codings:
        raw = SQUEEZE[coding](raw)

    body = await _body(kind, RawServer(lambda: _chunked(raw, cuts), ", ".join(codings), Content_Length=str(len(raw))))

    assert body == plain


@both
@PLAYED
@given(
    data=st.binary(max_size=500),
    coding=st.sampled_from(sorted(SQUEEZE)),
    keep=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 10**6), max_size=5),
)
async def test_no_beginning_of_a_compressed_body_passes_for_the_whole(kind, data, coding, keep, cuts, virtual_clock):
    whole = SQUEEZE[coding](data)
    raw = whole[: 1 + keep % (len(whole) - 1)] if len(whole) > 1 else b""
    if not raw:
        return

    with pytest.raises(RemoteError):
        await _body(kind, RawServer(lambda: _chunked(raw, cuts), coding), clock=virtual_clock)


@PLAYED
@example(zeros=4, cuts=[len(gzip.compress(PLAIN)) + 4])
@given(zeros=st.integers(1, 40), cuts=st.lists(st.integers(0, 200), max_size=6))
async def test_zero_padding_between_members_is_judged_alike_however_it_arrives(zeros, cuts, virtual_clock):
    raw = gzip.compress(PLAIN) + bytes(zeros) + gzip.compress(PLAIN)

    async def verdict(pieces: list[bytes]) -> object:
        try:
            return await _body(Whole, RawServer(lambda: pieces, "gzip"), clock=virtual_clock)
        except RemoteError as error:
            return type(error)

    assert await verdict(_chunked(raw, cuts)) == await verdict([raw])
