"""The text of a response body, piece by piece in UTF-8, out of whatever file and charset it arrives in."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from enum import Enum
from typing import IO, Any, Final, Literal, TypeAlias, cast

import anyio
import anyio.to_thread

from ..content.body_meter import BodyMeter
from ..content.file_formats import file_format, is_archive, is_decisive
from ..content.text_extractor import TextExtractor
from ..content.zip_files import ZipMembers
from ..errors import LocalError, UnexpectedContent
from ..messages import Response

_WRITE_BYTES = 2**20


class _Mark(Enum):
    END_OF_TEXT = "end of text"


END_OF_TEXT: Final = _Mark.END_OF_TEXT
"""Follows the last piece of each text: a body is one text, and a ZIP file one text for each of its files."""
TextPiece: TypeAlias = bytes | Literal[_Mark.END_OF_TEXT]


async def text_pieces(
    response: Response,
    charset: str | None,
    error: type[UnexpectedContent] = UnexpectedContent,
    members: str | None = None,
) -> AsyncGenerator[TextPiece]:
    """Yield the text in UTF-8, without a byte order mark, and END_OF_TEXT after each text.

    A gzip, bzip2 or zstd file is decompressed while it arrives. A ZIP file is first stored in a private temporary
    file. `body_limits` bounds what they decompress to. `charset` is the codec of the declared charset, None for
    UTF-8; invalid bytes raise `error`. `members` is a pattern for the names of the files in a ZIP file, which the body
    must be then. Raises TruncatedBody, DecodeError, ResponseTooLarge, UnexpectedContent, and LocalError if the
    temporary file cannot be written.
    """
    received = 0
    head: bytes = b""
    meter = BodyMeter(response.body_limits, 2)
    extractor = TextExtractor(charset, meter, error=error)
    async with aclosing(cast(AsyncGenerator[bytes], response.aiter_bytes())) as pieces:
        async for piece in pieces:
            head += piece
            if is_decisive(head):
                break
        received = len(head)
        if is_archive(file_format(head)):
            async with aclosing(_member_texts(response, head, pieces, charset, meter, error, members)) as texts:
                async for text in texts:
                    yield text
            return
        if members is not None:
            raise UnexpectedContent(
                f"sent no ZIP file, of which members={members!r} would be read", hint="remove members=..."
            )
        meter.wire = response.wire_bytes or received
        for text in extractor.feed(head):
            _count_decoded(response, meter)
            yield text
        async for piece in pieces:
            received += len(piece)
            meter.wire = response.wire_bytes or received
            for text in extractor.feed(piece):
                _count_decoded(response, meter)
                yield text
    for text in extractor.finish():
        yield text
    yield END_OF_TEXT


async def _member_texts(
    response: Response,
    head: bytes,
    pieces: AsyncIterator[bytes],
    charset: str | None,
    meter: BodyMeter,
    error: type[UnexpectedContent],
    pattern: str | None,
) -> AsyncGenerator[TextPiece]:
    async with _temporary_file() as file:
        size = await _store(file, head, pieces)
        meter.wire = response.wire_bytes or size
        members = await _run_in_thread(ZipMembers, file, response.body_limits, meter, pattern)
        for _ in range(len(members)):
            extractor = TextExtractor(charset, meter, stage=1, error=error, within="a ZIP file")
            await _run_in_thread(members.open_next)
            while piece := await _run_in_thread(members.read_piece):
                _count_decoded(response, meter)
                for text in extractor.feed(piece):
                    yield text
            for text in extractor.finish():
                yield text
            yield END_OF_TEXT


def _count_decoded(response: Response, meter: BodyMeter) -> None:
    """Count the bytes of a file as bytes read, instead of the compressed ones: they bound the size of a batch."""
    response.bytes_read = max(meter.decoded(0), meter.decoded(1)) or response.bytes_read


async def _store(file: IO[bytes], head: bytes, pieces: AsyncIterator[bytes]) -> int:
    """Write a body into a file, and return its size."""
    buffer, size = [head], len(head)
    buffered = size
    async for piece in pieces:
        buffer.append(piece)
        buffered += len(piece)
        size += len(piece)
        if buffered >= _WRITE_BYTES:
            await _run_in_thread(file.write, b"".join(buffer))
            buffer, buffered = [], 0
    await _run_in_thread(file.write, b"".join(buffer))
    return size


@asynccontextmanager
async def _temporary_file() -> AsyncGenerator[IO[bytes]]:
    """A file that only this process can open, deleted at the end."""
    tempfile: Any = importlib.import_module("tempfile")  # on first use
    file: IO[bytes] = await _run_in_thread(tempfile.TemporaryFile)
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(file.close)


async def _run_in_thread(work: Any, *arguments: Any) -> Any:
    """The result of blocking disk work. Raises LocalError if the disk fails."""
    try:
        return await anyio.to_thread.run_sync(work, *arguments)
    except OSError as error:
        problem = f"a ZIP file cannot be stored in a temporary file: {error.strerror or type(error).__name__}"
    raise LocalError(problem, hint="free space in the folder for temporary files, or set TMPDIR to another folder")
