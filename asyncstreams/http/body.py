"""Decoding of response bodies, with a check of every length, checksum and size limit.

HTTP clients accept truncated, unlabelled and exploding bodies silently. Lines and arrays that are
parsed while they arrive have no later check that would detect a missing end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import anyio
import httpx

from ..content.body_meter import BodyMeter, body_too_large, decoded_exceeded, wire_exceeded
from ..content.charsets import find_charset
from ..content.decoders import decode_through, new_decompressor
from ..errors import AsyncStreamsError, DecodeError, MalformedResponse, ResponseTooLarge, TruncatedBody
from ..messages import Response
from ..models import BodyLimits, Timeouts
from ..wire.http1_connection import Exchange
from ..wire.transport_errors import InvalidResponse
from .timeouts import AttemptTimeout, TimedStream

_MAX_CODINGS = 5
# Values of Content-Encoding that are no coding: MIME's, and what S3 and AWS's services leave there.
_NO_CODINGS = frozenset(("", "identity", "none", "null", "7bit", "8bit", "binary", "aws-chunked", "amz-1.0"))


class _Framing:
    """Length and content codings of a body, according to its headers."""

    __slots__ = ("codings", "delimited", "length")

    def __init__(self, response: Response) -> None:
        length, transfer = response.raw_header(b"content-length"), response.raw_header(b"transfer-encoding")
        chunked = transfer is not None and b"chunked" in transfer.lower()
        # A repeated equal length counts once; any other value that is not a number is ignored.
        text = b"" if length is None or chunked else length.partition(b",")[0].strip()
        self.length = int(text) if text.isdigit() else None
        self.delimited = chunked or self.length is not None or response.extensions.get("http_version") == b"HTTP/2"
        self.codings = _content_codings(response)

    def check(self, limits: BodyLimits) -> None:
        """Check the announced size. Raises ResponseTooLarge, TruncatedBody."""
        if self.length is not None and self.length > limits.wire:
            raise body_too_large(f"announces a body of {self.length:,} bytes", "wire", limits.wire)
        if limits.require_length and not self.delimited:
            raise TruncatedBody("sent a body without a length: truncation could not be detected")

    def check_end(self, size: int) -> None:
        """Check the size of a body that ended after `size` bytes. Raises TruncatedBody."""
        if self.length is not None and size < self.length:
            raise TruncatedBody(f"announced {self.length:,} bytes but sent {size:,}")


def _content_codings(response: Response) -> list[str]:
    """The content codings, in the order in which they were applied. Raises DecodeError for too many."""
    header = response.raw_header(b"content-encoding")
    if header is None:
        return []
    names = header.decode("ascii", "replace").lower().split(",")
    codings = [coding for name in names if _is_coding(coding := name.strip())]
    if len(codings) > _MAX_CODINGS:
        raise DecodeError(f"sent a body with {len(codings)} content codings", retryable=False)
    return codings


def _is_coding(name: str) -> bool:
    """Whether a value of Content-Encoding names a coding: some servers name the charset of the body there."""
    return name not in _NO_CODINGS and find_charset(name) is None


async def read_body(
    response: Response, limits: BodyLimits, attempt_timeout: AttemptTimeout, *, max_bytes: int | None = None
) -> bytes:
    """The complete body, decoded and checked. Raises TruncatedBody, DecodeError, ResponseTooLarge.

    With `max_bytes`, as much of its beginning as can be read, and no error. This is for error
    responses, whose status matters more than their body.
    """
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        await _close(response)
        return b""
    if max_bytes is not None:
        return await _read_prefix(response, limits, attempt_timeout, max_bytes)
    if isinstance(response.stream, Exchange) and (raw := response.stream.take_body()) is not None:
        response.is_closed = True
        return _decode_complete(response, raw, limits)
    framing = _Framing(response)
    if not framing.codings:
        return await _read_plain(response, framing, limits, attempt_timeout)
    async with aclosing(_decode(response, framing, limits, _raw_pieces(response), attempt_timeout.add_bytes)) as body:
        return b"".join([piece async for piece in body])


def _decode_complete(response: Response, raw: bytes, limits: BodyLimits) -> bytes:
    """A body of our transport, which has checked its framing, after all of it has arrived."""
    size = len(raw)
    if size > limits.wire:
        raise wire_exceeded(limits)
    if limits.require_length:
        _Framing(response).check(limits)
    codings = _content_codings(response)
    if not codings:
        if size > limits.decoded:
            raise decoded_exceeded(limits)
        return raw
    stages = [new_decompressor(coding) for coding in reversed(codings)]
    meter = BodyMeter(limits, len(stages))
    meter.count_wire(size)
    response.wire_bytes = size
    body = b"".join(decode_through(stages, raw, meter.count_decoded))
    for stage in stages:
        stage.finish()
    return body


async def _read_prefix(
    response: Response, limits: BodyLimits, attempt_timeout: AttemptTimeout, max_bytes: int
) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        framing = _Framing(response)
        framing.length = None
        source = _raw_pieces(response)
        async with aclosing(_decode(response, framing, limits, source, attempt_timeout.add_bytes)) as body:
            async for piece in body:
                pieces.append(piece)
                size += len(piece)
                if size >= max_bytes:
                    break
    except (TruncatedBody, DecodeError, ResponseTooLarge):
        await _close(response)
    return b"".join(pieces)[:max_bytes]


def stream_body(
    response: Response, limits: BodyLimits, timeouts: Timeouts, on_piece: Callable[[int], None] | None = None
) -> AsyncGenerator[bytes]:
    """The decoded body while it arrives, in pieces of at most 256 KiB; an uncoded body in pieces of one read.

    Only time spent waiting for the server counts against `timeouts`, not the consumer's. `on_piece` is called with
    the size of each piece as it arrives.
    Raises the same errors as `read_body`, and StallTimeout. Close the generator to release the connection.
    """
    framing = _Framing(response)
    return _decode(response, framing, limits, TimedStream(_raw_pieces(response), timeouts), on_piece or _ignore)


async def _decode(
    response: Response,
    framing: _Framing,
    limits: BodyLimits,
    source: AsyncIterator[bytes],
    on_bytes: Callable[[int], None],
) -> AsyncGenerator[bytes]:
    try:
        framing.check(limits)
        # The coding that was applied last is decoded first (RFC 9110, 8.4).
        stages = [new_decompressor(coding) for coding in reversed(framing.codings)]
        meter = BodyMeter(limits, len(stages))
        while (raw := await _next_piece(source)) is not None:
            on_bytes(len(raw))
            meter.count_wire(len(raw))
            response.wire_bytes = meter.wire
            for piece in decode_through(stages, raw, meter.count_decoded):
                yield piece
        framing.check_end(meter.wire)
        for stage in stages:
            stage.finish()
    finally:
        await _close(response, source)


def _ignore(count: int) -> None:
    return


async def _read_plain(
    response: Response, framing: _Framing, limits: BodyLimits, attempt_timeout: AttemptTimeout
) -> bytes:
    """A body without codings: a shorter form of `_decode`."""
    pieces: list[bytes] = []
    size = 0
    source = _raw_pieces(response)
    try:
        framing.check(limits)
        while (raw := await _next_piece(source)) is not None:
            attempt_timeout.add_bytes(len(raw))
            size += len(raw)
            if size > limits.wire:
                raise wire_exceeded(limits)
            if size > limits.decoded:
                raise decoded_exceeded(limits)
            pieces.append(raw)
            if size == framing.length and isinstance(response.stream, Exchange):
                break  # our transport has seen the end by now; httpcore's connection has not
    finally:
        await _close(response, source)
    framing.check_end(size)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _SyncPieces:
    """An async iterator over a synchronous body, which mocks return."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._pieces = iter(stream)

    def __aiter__(self) -> _SyncPieces:
        return self

    async def __anext__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


def _raw_pieces(response: Response) -> AsyncIterator[bytes]:
    stream = response.stream
    return aiter(stream) if isinstance(stream, httpx.AsyncByteStream) else _SyncPieces(stream)


async def _next_piece(source: AsyncIterator[bytes]) -> bytes | None:
    """The next piece, or None at the end. Raises TruncatedBody if the connection fails, and MalformedResponse."""
    failure: AsyncStreamsError
    try:
        return await anext(source)
    except StopAsyncIteration:
        return None
    except InvalidResponse as error:
        failure = MalformedResponse(f"sent a body that is not valid HTTP: {error}")
    except httpx.TransportError as error:
        failure = TruncatedBody(f"lost the connection within the body ({type(error).__name__})")
    # Raised outside the handler: the text of a transport error may contain secrets.
    raise failure


async def _close(response: Response, source: AsyncIterator[bytes] | None = None) -> None:
    """Release the connection, or close it if the body was not read to its end."""
    response.is_closed = True
    stream = response.stream
    if isinstance(stream, Exchange):
        stream.close_now()
    elif isinstance(stream, httpx.AsyncByteStream):
        with anyio.CancelScope(shield=True):
            if isinstance(source, AsyncGenerator | TimedStream):
                await source.aclose()
            await stream.aclose()
    else:
        stream.close()
