"""Response bodies: truncated, mislabelled, oversized and endless ones are never accepted."""

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
from loopback import RawTransport

from asyncstreams import (
    AuthError,
    BodyLimits,
    DecodeError,
    HttpStatusError,
    HttpStream,
    RemoteError,
    ResponseTooLarge,
    TruncatedBody,
    ndjson,
)

PLAIN = b'[{"id":1},{"id":2}]'
MIB = 2**20


class Buffered(HttpStream):
    """One record with the complete body."""

    url_base = "https://api.example.com/"
    max_tries = 2

    def path(self, context):
        return "export"

    def parse_response(self, response, context):
        return [{"body": response.content}]


class Streamed(Buffered):
    """One record with the body, read as a stream."""

    async def parse_response(self, response, context):
        yield {"body": b"".join([piece async for piece in response.aiter_bytes()])}


async def _body(kind: type[HttpStream], server: RawTransport, **options: Any) -> bytes:
    (record,) = await kind(transport=server, **options).read()
    return record["body"]


COMPRESS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=4),
    "zstd": zstd.compress,
}


def corrupted_gzip(at: int) -> bytes:
    body = bytearray(gzip.compress(PLAIN))
    body[at] ^= 0xFF
    return bytes(body)


both_kinds = pytest.mark.parametrize("kind", [Buffered, Streamed])


@both_kinds
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
        pytest.param("x-deflate", zlib.compress(PLAIN), id="x-deflate"),
        pytest.param("br", brotli.compress(PLAIN), id="br"),
        pytest.param("zstd", zstd.compress(PLAIN), id="zstd"),
        pytest.param("zstd", zstd.compress(PLAIN[:5]) + zstd.compress(PLAIN[5:]), id="zstd, two frames"),
        pytest.param("gzip, br", brotli.compress(gzip.compress(PLAIN)), id="last coding decoded first"),
        pytest.param("identity, zstd ,, gzip", gzip.compress(zstd.compress(PLAIN)), id="with empty names"),
        pytest.param("gzip" + ",gzip" * 4, reduce(lambda raw, _: gzip.compress(raw), range(5), PLAIN), id="five"),
    ],
)  # fmt: skip
async def test_complete_body_is_decoded(kind, coding, raw, virtual_clock):
    server = RawTransport(raw, coding, Content_Length=str(len(raw)))

    body = await _body(kind, server, clock=virtual_clock)

    assert body == PLAIN
    assert len(server.requests) == 1


@both_kinds
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_small_chunk_with_a_large_body_is_decoded_completely(kind, coding, virtual_clock):
    plain = b"".join(b'{"id":%d}' % number for number in range(100_000))

    body = await _body(kind, RawTransport(COMPRESS[coding](plain), coding), clock=virtual_clock)

    assert body == plain


@both_kinds
@pytest.mark.parametrize(
    "name",
    ["none", "null", "UTF-8", "utf8", "ISO-8859-1", "cp1252", "us-ascii", "binary", "7bit", "8bit", "aws-chunked"],
)
async def test_value_that_is_no_coding_is_ignored(kind, name, virtual_clock):
    for coding, raw in ((name, PLAIN), (f"{name}, gzip", gzip.compress(PLAIN)), (f"gzip,{name}", gzip.compress(PLAIN))):
        assert await _body(kind, RawTransport(raw, coding), clock=virtual_clock) == PLAIN


TRUNCATED = [
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


@both_kinds
@pytest.mark.parametrize(("coding", "raw"), TRUNCATED)
async def test_truncated_coding_is_retried_then_truncated_body(kind, coding, raw, virtual_clock):
    server = RawTransport(raw, coding, Content_Length=str(len(raw)))

    with pytest.raises(TruncatedBody) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.tries == len(server.requests) == 2


INVALID = [
    pytest.param("gzip", corrupted_gzip(-8), id="bad checksum"),
    pytest.param("gzip", corrupted_gzip(-1), id="bad length in the trailer"),
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


@both_kinds
@pytest.mark.parametrize(("coding", "raw"), INVALID)
async def test_invalid_coding_is_retried_then_decode_error(kind, coding, raw, virtual_clock):
    server = RawTransport(raw, coding)

    with pytest.raises(DecodeError) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.tries == len(server.requests) == 2


@both_kinds
async def test_decode_error_shows_the_first_bytes(kind, virtual_clock):
    with pytest.raises(DecodeError, match="5b 7b 22 69 64"):
        await _body(kind, RawTransport(PLAIN, "gzip"), clock=virtual_clock)


@both_kinds
@pytest.mark.parametrize("coding", ["foo", "gzip, foo", "compress", "bz2", "hex", "gzip," * 5 + "gzip"])
async def test_unrequested_coding_or_a_sixth_one_is_not_retried(kind, coding, virtual_clock):
    server = RawTransport(PLAIN, coding)

    with pytest.raises(DecodeError):
        await _body(kind, server, clock=virtual_clock)

    assert len(server.requests) == 1


async def test_accept_encoding_lists_the_available_decoders(virtual_clock):
    server = RawTransport(PLAIN)

    await _body(Buffered, server, clock=virtual_clock)

    assert server.requests[0].headers["accept-encoding"] == "gzip, deflate, br, zstd"


async def test_gzip_truncated_after_a_line_break_raises_truncated_body(virtual_clock):
    class Lines(Buffered):
        async def parse_response(self, response, context):
            async for record in ndjson(response):
                yield record

    stored = gzip.compress(b'{"id":1}\n{"id":2}\n', compresslevel=0)
    cut = stored[: stored.index(b"\n") + 1]  # the rest is a complete line

    with pytest.raises(TruncatedBody):
        await Lines(transport=RawTransport(cut, "gzip", Content_Length=str(len(cut))), clock=virtual_clock).read()


@both_kinds
async def test_body_shorter_than_content_length_is_truncated(kind, virtual_clock):
    server = RawTransport(PLAIN, Content_Length=str(len(PLAIN) + 1))

    with pytest.raises(TruncatedBody):
        await _body(kind, server, clock=virtual_clock)

    assert len(server.requests) == 2


@both_kinds
@pytest.mark.parametrize("chunked", [True, False])
async def test_require_length_refuses_only_an_unframed_body(kind, chunked, virtual_clock):
    server = RawTransport(PLAIN, **({"Transfer_Encoding": "chunked"} if chunked else {}))
    body = _body(kind, server, clock=virtual_clock, body_limits=BodyLimits(require_length=True))

    if chunked:
        assert await body == PLAIN
    else:
        with pytest.raises(TruncatedBody):
            await body


def _zeros(count: int) -> Callable[[], Iterable[bytes]]:
    return lambda: (bytes(100_000) for _ in range(count))


ZEROS = bytes(3 * MIB)
BOMB = gzip.compress(gzip.compress(bytes(300 * MIB), 1), 1)


@both_kinds
@pytest.mark.parametrize(
    ("server", "limits", "setting"),
    [
        pytest.param(lambda: RawTransport(_zeros(10**9)), BodyLimits(wire=MIB), "wire", id="endless"),
        pytest.param(lambda: RawTransport(PLAIN, Content_Length=str(10**12)), BodyLimits(), "wire", id="announced"),
        pytest.param(lambda: RawTransport(gzip.compress(ZEROS), "gzip"), BodyLimits(decoded=2 * MIB, ratio=10**6),
                     "decoded", id="gzip beyond decoded"),
        pytest.param(lambda: RawTransport(gzip.compress(ZEROS), "gzip"), BodyLimits(), "ratio", id="gzip ratio"),
        pytest.param(lambda: RawTransport(brotli.compress(ZEROS), "br"), BodyLimits(), "ratio", id="br ratio"),
        pytest.param(lambda: RawTransport(zstd.compress(ZEROS), "zstd"), BodyLimits(), "ratio", id="zstd ratio"),
        pytest.param(lambda: RawTransport(BOMB, "gzip, gzip"), BodyLimits(), "ratio", id="gzip in gzip"),
    ],
)  # fmt: skip
async def test_body_beyond_a_limit_is_refused_and_names_the_setting(kind, server, limits, setting, virtual_clock):
    server = server()

    with pytest.raises(ResponseTooLarge, match=rf"BodyLimits\({setting}="):
        await _body(kind, server, clock=virtual_clock, body_limits=limits)

    assert len(server.requests) == 1
    assert server.body.bytes_read <= 2 * MIB


@pytest.mark.parametrize("kind", [pytest.param(Buffered), Streamed])
async def test_uncoded_body_beyond_the_decoded_limit_is_refused(kind, virtual_clock):
    server = RawTransport(_zeros(10**9))

    with pytest.raises(ResponseTooLarge, match=r"BodyLimits\(decoded="):
        await _body(kind, server, clock=virtual_clock, body_limits=BodyLimits(decoded=MIB))

    assert server.body.bytes_read <= 2 * MIB


async def test_bomb_between_two_codings_is_refused(virtual_clock):
    padded = gzip.compress(gzip.compress(PLAIN) + bytes(16 * MIB), 1)

    with pytest.raises(ResponseTooLarge):
        await _body(
            Buffered, RawTransport(padded, "gzip, gzip"), clock=virtual_clock, body_limits=BodyLimits(decoded=MIB)
        )


@both_kinds
async def test_high_ratio_below_one_mebibyte_is_accepted(kind, virtual_clock):
    body = await _body(kind, RawTransport(gzip.compress(bytes(MIB)), "gzip"), clock=virtual_clock)

    assert body == bytes(MIB)


@both_kinds
async def test_only_the_beginning_of_an_error_body_is_read(kind, virtual_clock):
    server = RawTransport(_zeros(10**9), status=404)

    with pytest.raises(HttpStatusError) as caught:
        await _body(kind, server, clock=virtual_clock)

    assert caught.value.status == 404
    assert server.body.bytes_read < 200_000


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
async def test_error_status_wins_over_an_invalid_body(raw, coding, length, status, error, virtual_clock):
    server = RawTransport(raw, coding, status, **({"Content_Length": str(length)} if length else {}))

    with pytest.raises(error) as caught:
        await _body(Buffered, server, clock=virtual_clock)

    assert caught.value.status == status


async def test_head_response_has_no_body_despite_its_headers(virtual_clock):
    class Head(Buffered):
        http_method = "HEAD"

    server = RawTransport(b"", "gzip", Content_Length="12345")

    assert await _body(Head, server, clock=virtual_clock) == b""


EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _chunked(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@both_kinds
@EXAMPLES
@given(
    data=st.binary(max_size=3000),
    repeated=st.integers(1, 50),
    codings=st.lists(st.sampled_from(sorted(COMPRESS)), max_size=5),
    cuts=st.lists(st.integers(0, 10**6), max_size=12),
)
async def test_any_bytes_codings_and_chunks_round_trip(kind, data, repeated, codings, cuts):
    plain = raw = data * repeated
    for coding in codings:
        raw = COMPRESS[coding](raw)

    body = await _body(
        kind, RawTransport(lambda: _chunked(raw, cuts), ", ".join(codings), Content_Length=str(len(raw)))
    )

    assert body == plain


@both_kinds
@EXAMPLES
@given(
    data=st.binary(max_size=500),
    coding=st.sampled_from(sorted(COMPRESS)),
    keep=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 10**6), max_size=5),
)
async def test_no_prefix_of_a_compressed_body_is_accepted(kind, data, coding, keep, cuts, virtual_clock):
    complete = COMPRESS[coding](data)
    raw = complete[: 1 + keep % (len(complete) - 1)] if len(complete) > 1 else b""
    if not raw:
        return

    with pytest.raises(RemoteError):
        await _body(kind, RawTransport(lambda: _chunked(raw, cuts), coding), clock=virtual_clock)


@EXAMPLES
@example(zeros=4, cuts=[len(gzip.compress(PLAIN)) + 4])
@given(zeros=st.integers(1, 40), cuts=st.lists(st.integers(0, 200), max_size=6))
async def test_zero_padding_result_does_not_depend_on_chunking(zeros, cuts, virtual_clock):
    raw = gzip.compress(PLAIN) + bytes(zeros) + gzip.compress(PLAIN)

    async def outcome(pieces: list[bytes]) -> object:
        try:
            return await _body(Buffered, RawTransport(lambda: pieces, "gzip"), clock=virtual_clock)
        except RemoteError as error:
            return type(error)

    assert await outcome(_chunked(raw, cuts)) == await outcome([raw])
