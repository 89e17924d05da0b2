"""Decoder of chunked bodies (RFC 9112, 7.1), over llhttp."""

from __future__ import annotations

from collections.abc import Callable

import httptools

from .response_head import MAX_HEAD_BYTES, invalid_response
from .transport_errors import InvalidResponse

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ChunkedDecoder:
    """Passes the data of each chunk to `on_data`; trailers and chunk extensions are dropped."""

    __slots__ = ("_bare_bytes", "_has_excess", "_on_data", "_parser", "is_complete")

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        self._bare_bytes = 0
        self._has_excess = False
        self.is_complete = False
        # The parser refers to the decoder, which refers to it: `feed` breaks the cycle at the end.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_chunked_length=True, lenient_spaces_after_chunk_size=True
        )
        self._parser.feed_data(_HEAD)

    @property
    def has_excess(self) -> bool:
        """Whether bytes followed the end of the body."""
        return self._has_excess

    def feed(self, data: memoryview) -> None:
        """Decode the next bytes. Raises InvalidResponse, and for more framing than a head may have."""
        parser = self._parser
        assert parser is not None, "a complete body takes no more bytes"
        self._bare_bytes += len(data)
        failure: InvalidResponse | None = None
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # of another response after the body
            self._has_excess = True
        except httptools.HttpParserError as error:
            # After the end of the body, llhttp tries to read another response.
            if not self.is_complete:
                failure = invalid_response(error)
            self._has_excess = True
        if failure is None and self._bare_bytes > MAX_HEAD_BYTES:
            failure = InvalidResponse(f"more than {MAX_HEAD_BYTES // 1024} KiB of trailers or chunk extensions")
        if self.is_complete or failure is not None:
            self._parser = None
        if failure is not None:
            raise failure

    def on_message_begin(self) -> None:
        self._has_excess = self.is_complete

    def on_body(self, data: bytes) -> None:
        self._bare_bytes = 0
        if not self.is_complete:
            self._on_data(data)

    def on_message_complete(self) -> None:
        self.is_complete = True
