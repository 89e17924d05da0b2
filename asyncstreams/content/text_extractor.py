"""Extraction of UTF-8 text from bodies that are compressed files, ZIP files, or texts in any charset."""

from __future__ import annotations

import io
from collections.abc import Iterator

from ..errors import MalformedJSON, UnexpectedContent
from ..models import BodyLimits
from .body_meter import BodyMeter
from .charsets import MARK_BYTES, Utf8Transcoder, text_charset
from .decoders import Decompressor, new_file_decoder
from .file_formats import file_format, is_archive, is_compressed, is_decisive
from .zip_files import ZipMembers


class TextExtractor:
    """Converts one text piece by piece to UTF-8 without a byte order mark; a compressed file is decompressed.

    declared: codec of the declared charset; None for UTF-8. A byte order mark takes precedence.
    meter: counts the decompressed bytes, as the output of its stage `stage`.
    error: raised for bytes that are invalid in the charset.
    within: the file that contains the text, such as "a gzip file"; None for a body.
    """

    def __init__(
        self,
        declared: str | None,
        meter: BodyMeter,
        *,
        stage: int = 0,
        error: type[UnexpectedContent] = UnexpectedContent,
        within: str | None = None,
    ) -> None:
        self._declared, self._meter, self._stage, self._error, self._within = declared, meter, stage, error, within
        self._head: bytes = b""
        self._transcoder: Utf8Transcoder | None = None
        self._decoder: Decompressor | None = None
        self._inner: TextExtractor | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The text of the next bytes. Raises TruncatedBody, DecodeError, ResponseTooLarge, UnexpectedContent."""
        if self._transcoder is None and self._decoder is None:
            self._head += data
            if not is_decisive(self._head):
                return
            data = self._begin()
        yield from self._convert(data)

    def finish(self) -> Iterator[bytes]:
        """The rest of the text. Raises the same errors as `feed`."""
        if self._transcoder is None and self._decoder is None:
            yield from self._convert(self._begin())
        if self._transcoder is not None and (text := self._transcoder.feed(b"", final=True)):
            yield text
        if self._decoder is not None:
            self._decoder.finish()
        if self._inner is not None:
            yield from self._inner.finish()

    def _begin(self) -> bytes:
        """Choose how to convert the text, and return the bytes received so far without their mark."""
        head, self._head = self._head, b""
        kind = file_format(head)
        if kind is None:
            charset, mark = text_charset(head[:MARK_BYTES], self._declared)
            self._transcoder = Utf8Transcoder(charset, self._error)
            return head[mark:]
        if not is_compressed(kind) or self._within not in (None, "a ZIP file"):
            raise unreadable_file(kind, self._within)
        self._decoder = new_file_decoder(kind)
        self._inner = TextExtractor(
            self._declared, self._meter, stage=self._stage, error=self._error, within=f"a {kind} file"
        )
        return head

    def _convert(self, data: bytes) -> Iterator[bytes]:
        if self._transcoder is not None:
            if text := self._transcoder.feed(data):
                yield text
            return
        assert self._decoder is not None
        assert self._inner is not None
        for piece in self._decoder.feed(data):
            self._meter.count_decoded(self._stage, len(piece))
            yield from self._inner.feed(piece)


def unreadable_file(kind: str, within: str | None) -> UnexpectedContent:
    """The error for a file of a format that is not read, or not within another file."""
    article = "an" if kind in ("xz", "RAR", "LZ4", "Avro", "old Office") else "a"
    if within is not None:
        problem = f"sent {article} {kind} file within {within}: files within files are not read"
    else:
        problem = f"sent {article} {kind} file, which cannot be read as a text"
    return UnexpectedContent(
        problem, hint="decode it in parse_response: response.content and response.aiter_bytes() are the file as it is"
    )


def extract_text(
    body: bytes,
    declared: str | None,
    limits: BodyLimits,
    wire_bytes: int,
    error: type[UnexpectedContent] = MalformedJSON,
) -> bytes:
    """The text of a complete body in UTF-8. `wire_bytes`: the received bytes, to which the limits refer.

    A ZIP file must contain exactly one file. Raises the errors of TextExtractor.
    """
    meter = BodyMeter(limits, 2)
    meter.wire = wire_bytes
    if not is_archive(file_format(body)):
        extractor = TextExtractor(declared, meter, error=error)
        return b"".join((*extractor.feed(body), *extractor.finish()))
    members = ZipMembers(io.BytesIO(body), limits, meter)
    if len(members) != 1:
        raise UnexpectedContent(
            f"sent a ZIP file with {len(members)} files where one text is expected",
            hint="in an async parse_response, iterate over ndjson(response), csv_rows(response) or "
            "json_items(response, path), which read its files one after the other; members=... chooses some by name",
        )
    extractor = TextExtractor(declared, meter, stage=1, error=error, within="a ZIP file")
    members.open_next()
    pieces: list[bytes] = []
    while piece := members.read_piece():
        pieces.extend(extractor.feed(piece))
    return b"".join((*pieces, *extractor.finish()))
