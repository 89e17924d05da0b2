"""Is the body whole: decoded by us from the raw bytes, with every length, checksum and bound looked at.

HTTP clients pass cut, unmarked and exploding bodies on without a word; for lines and for arrays
that are read piece by piece nobody else would notice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import anyio
import httpx

from ..errors import DecodeError, ResponseTooLarge, TruncatedBody
from ..messages import Response
from ..models import BodyLimits, Timeouts
from .decoders import decompressor, through
from .timeouts import AttemptTimeout, TimedStream

_MOST_CODINGS = 5
_RATIO_FROM = 2**20


class AbortableStream(httpx.AsyncByteStream):
    """A body whose connection can be let go without waiting."""

    @abstractmethod
    def close_now(self) -> None:
        """Give a connection that was read to its end back; drop any other."""

    async def aclose(self) -> None:
        self.close_now()


class _Framing:
    """What the headers say of the body's length and codings."""

    __slots__ = ("codings", "delimited", "length")

    def __init__(self, response: Response) -> None:
        length, transfer = response.raw_header(b"content-length"), response.raw_header(b"transfer-encoding")
        chunked = transfer is not None and b"chunked" in transfer.lower()
        # A length that was sent twice is one length; anything else that is not a number tells nothing.
        text = b"" if length is None or chunked else length.partition(b",")[0].strip()
        self.length = int(text) if text.isdigit() else None
        self.delimited = chunked or self.length is not None or response.extensions.get("http_version") == b"HTTP/2"
        codings = response.raw_header(b"content-encoding")
        names = () if codings is None else codings.decode("ascii", "replace").lower().split(",")
        self.codings = [coding for name in names if (coding := name.strip()) not in ("", "identity")]
        if len(self.codings) > _MOST_CODINGS:
            raise DecodeError(f"sent a body with {len(self.codings)} content codings", retryable=False)

    def check(self, limits: BodyLimits) -> None:
        """What can be said before the body has come."""
        if self.length is not None and self.length > limits.wire:
            raise _too_large(f"announces a body of {self.length:,} bytes", "wire", limits.wire)
        if limits.require_length and not self.delimited:
            raise TruncatedBody("sent a body that nothing delimits, so that a cut would not be seen")

    def check_end(self, size: int) -> None:
        """What can be said after `size` bytes and no more have come."""
        if self.length is not None and size < self.length:
            raise TruncatedBody(f"announced {self.length:,} bytes and sent {size:,}")


class _Meter:
    """Counts a body that is decoded against its bounds, each of its codings by itself."""

    def __init__(self, limits: BodyLimits, stages: int) -> None:
        self._limits = limits
        self.wire = 0
        self._decoded = [0] * stages

    def arrived(self, count: int) -> None:
        self.wire += count
        if self.wire > self._limits.wire:
            raise _more_than_wire(self._limits)
        if not self._decoded and self.wire > self._limits.decoded:
            raise _more_than_decoded(self._limits)

    def unpacked(self, stage: int, count: int) -> None:
        self._decoded[stage] += count
        decoded = self._decoded[stage]
        if decoded > self._limits.decoded:
            raise _more_than_decoded(self._limits)
        if decoded > _RATIO_FROM and decoded > self.wire * self._limits.ratio:
            raise _too_large(f"sent {self.wire:,} bytes that became more than {decoded:,}", "ratio", self._limits.ratio)


async def read_body(
    response: Response, limits: BodyLimits, watch: AttemptTimeout, *, at_most: int | None = None
) -> bytes:
    """The whole body, decoded and checked. Raises TruncatedBody, DecodeError, ResponseTooLarge.

    With `at_most`, its beginning, as far as it can be read: for errors, whose status says enough.
    """
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        await _close(response)
        return b""
    if at_most is not None:
        return await _read_beginning(response, limits, watch, at_most)
    framing = _Framing(response)
    if not framing.codings:
        return await _read_plain(response, framing, limits, watch)
    async with aclosing(_decoded(response, framing, limits, _raw_pieces(response), watch.received)) as body:
        return b"".join([piece async for piece in body])


async def _read_beginning(response: Response, limits: BodyLimits, watch: AttemptTimeout, at_most: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        framing = _Framing(response)
        framing.length = None
        source = _raw_pieces(response)
        async with aclosing(_decoded(response, framing, limits, source, watch.received)) as body:
            async for piece in body:
                pieces.append(piece)
                size += len(piece)
                if size >= at_most:
                    break
    except (TruncatedBody, DecodeError, ResponseTooLarge):
        await _close(response)
    return b"".join(pieces)[:at_most]


def streamed_pieces(response: Response, limits: BodyLimits, timeouts: Timeouts) -> AsyncGenerator[bytes]:
    """The decoded body while it arrives, in pieces of at most 256 KiB or what one read brought.

    Only time spent waiting for the server counts against `timeouts`, not the consumer's.
    Raises as `read_body`, and StallTimeout. Close it, to let the connection go.
    """
    framing = _Framing(response)
    return _decoded(response, framing, limits, TimedStream(_raw_pieces(response), timeouts), _ignore)


async def _decoded(
    response: Response,
    framing: _Framing,
    limits: BodyLimits,
    source: AsyncIterator[bytes],
    received: Callable[[int], None],
) -> AsyncGenerator[bytes]:
    try:
        framing.check(limits)
        # The coding that was applied last is undone first (RFC 9110, 8.4).
        chain = [decompressor(coding) for coding in reversed(framing.codings)]
        meter = _Meter(limits, len(chain))
        while (raw := await _next_piece(source)) is not None:
            received(len(raw))
            meter.arrived(len(raw))
            for piece in through(chain, raw, meter.unpacked):
                yield piece
        framing.check_end(meter.wire)
        for coding in chain:
            coding.end()
    finally:
        await _close(response, source)


def _ignore(count: int) -> None:
    return


async def _read_plain(response: Response, framing: _Framing, limits: BodyLimits, watch: AttemptTimeout) -> bytes:
    """A body without codings: what `_decoded` does, in fewer steps."""
    pieces: list[bytes] = []
    size = 0
    source = _raw_pieces(response)
    try:
        framing.check(limits)
        while (raw := await _next_piece(source)) is not None:
            watch.received(len(raw))
            size += len(raw)
            if size > limits.wire:
                raise _more_than_wire(limits)
            if size > limits.decoded:
                raise _more_than_decoded(limits)
            pieces.append(raw)
            if size == framing.length and isinstance(response.stream, AbortableStream):
                break  # ours has seen the end by now; httpcore's connection has not
    finally:
        await _close(response, source)
    framing.check_end(size)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _SyncPieces:
    """A plain iterator under an async face: mocks answer with these."""

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
    """The next piece, or None at the end. Raises TruncatedBody where the connection broke off."""
    try:
        return await anext(source)
    except StopAsyncIteration:
        return None
    except httpx.TransportError as error:
        reason = type(error).__name__
    # Raised outside the handler: what a transport says may show more than it should.
    raise TruncatedBody(f"broke off in mid-body ({reason})")


async def _close(response: Response, source: AsyncIterator[bytes] | None = None) -> None:
    """Give the connection back, or drop it where the body was not read to its end."""
    response.is_closed = True
    stream = response.stream
    if isinstance(stream, AbortableStream):
        stream.close_now()
    elif isinstance(stream, httpx.AsyncByteStream):
        with anyio.CancelScope(shield=True):
            if isinstance(source, AsyncGenerator | TimedStream):
                await source.aclose()
            await stream.aclose()
    else:
        stream.close()


def _more_than_wire(limits: BodyLimits) -> ResponseTooLarge:
    return _too_large(f"sent more than {limits.wire:,} bytes", "wire", limits.wire)


def _more_than_decoded(limits: BodyLimits) -> ResponseTooLarge:
    return _too_large(f"sent a body of more than {limits.decoded:,} bytes", "decoded", limits.decoded)


def _too_large(told: str, bound: str, value: int) -> ResponseTooLarge:
    return ResponseTooLarge(
        told,
        hint=f"if that is expected: body_limits = BodyLimits({bound}=...), now {value:,}; "
        "read as a stream, by an async generator as parse_response, it needs no memory",
    )
