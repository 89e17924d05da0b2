"""Request and Response: httpx's own types, whose costly parts are built on first touch.

Built eagerly, httpx's objects cost more than fetching the page that they stand for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from typing import Any, cast

import anyio
import httpx

from . import _json
from .errors import ConfigError, MalformedJSON
from .models import RequestContext
from .redaction import safe_url

RawHeaders = Sequence[tuple[bytes, bytes]]
_UNREAD = object()


class Headers(httpx.Headers):
    """httpx.Headers whose repr names the headers and keeps their values to itself."""

    def __repr__(self) -> str:
        return f"Headers({sorted(self.keys())})"


class Request(httpx.Request):
    """An httpx.Request; `url` and `headers` are parsed when somebody looks at them."""

    def __init__(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        content: bytes = b"",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        # Not calling httpx.Request.__init__ is the point: it builds everything.
        self.method = method
        self.extensions = {} if extensions is None else extensions
        self.stream = httpx.ByteStream(content)
        self._content = content
        self._url_text = url
        self._url: httpx.URL | None = None
        self._pairs = headers
        self._headers: Headers | None = None

    @property
    def url_text(self) -> str:
        """The URL as it goes out, without parsing it."""
        return self._url_text

    @url_text.setter
    def url_text(self, value: str) -> None:
        self._url_text, self._url = value, None

    @property
    def url(self) -> httpx.URL:
        if self._url is None:
            self._url = httpx.URL(self._url_text)
        return self._url

    @url.setter
    def url(self, value: httpx.URL | str) -> None:
        self._url = httpx.URL(value)
        self._url_text = str(self._url)

    @property
    def headers(self) -> httpx.Headers:
        if self._headers is None:
            self._headers = Headers(self._pairs)
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self._headers = Headers(value)

    def header_pairs(self) -> list[tuple[str, str]]:
        """Names and values as they go out."""
        if self._headers is None:
            return self._pairs
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers.raw]

    def set_header(self, name: str, value: str) -> None:
        """Set one header in place of any equal one, without building the others."""
        if self._headers is not None:
            self._headers[name] = value
            return
        lowered = name.lower()
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != lowered]
        self._pairs.append((name, value))

    def __repr__(self) -> str:
        return f"<Request({self.method!r}, {safe_url(self._url_text)!r})>"


class Response(httpx.Response):
    """An httpx.Response; `headers` and `text` are built on first touch, `json()` is decoded once."""

    def __init__(
        self,
        status_code: int,
        *,
        headers: RawHeaders,
        stream: httpx.AsyncByteStream | httpx.SyncByteStream,
        request: httpx.Request,
        extensions: dict[str, Any] | None = None,
    ) -> None:
        # As in Request: the fields of httpx.Response.__init__, without what it builds.
        self.status_code = status_code
        self._request = request
        self.next_request = None
        self.extensions = {} if extensions is None else extensions
        self.history = []
        self.is_closed = False
        self.is_stream_consumed = False
        self.default_encoding = "utf-8"
        self.stream = stream
        self._num_bytes_downloaded = 0
        self._raw_headers = headers
        self._headers: Headers | None = None
        self._json: Any = _UNREAD
        self._known: tuple[Any, Collection[str]] = (None, ())
        self._pieces: AsyncGenerator[bytes] | None = None
        self._by_name: dict[bytes, bytes] | None = None
        self.bytes_read = 0

    @property
    def headers(self) -> httpx.Headers:
        if self._headers is None:
            self._headers = Headers(self._raw_headers)
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self._headers = Headers(value)

    @property
    def raw_headers(self) -> RawHeaders:
        """Names and values as they came."""
        return self._raw_headers if self._headers is None else self._headers.raw

    def raw_header(self, name: bytes) -> bytes | None:
        """A header by its lower-case name, several values joined by commas, without building the others."""
        if self._by_name is None:
            self._by_name = {}
            for key, value in self.raw_headers:
                key = key.lower()
                before = self._by_name.get(key)
                self._by_name[key] = value if before is None else before + b", " + value
        return self._by_name.get(name)

    def set_body(self, content: bytes) -> None:
        """Attach the whole, decoded body."""
        self._content = content
        self.is_stream_consumed = True
        self.is_closed = True

    def set_pieces(self, pieces: AsyncGenerator[bytes]) -> None:
        """Attach a decoded body that is still arriving."""
        self._pieces = pieces

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The decoded body in pieces, as they arrive, or of `chunk_size` where all of it is here."""
        if self.has_body or self._pieces is None:
            async for piece in super().aiter_bytes(chunk_size):
                yield piece
            return
        if self.is_stream_consumed:
            raise httpx.StreamConsumed()
        self.is_stream_consumed = True
        async for piece in self._pieces:
            self.bytes_read += len(piece)
            yield piece

    async def aclose(self) -> None:
        """Let the connection go; a body that was read already stays."""
        self.is_closed = True
        if self._pieces is None:
            return
        await self._pieces.aclose()
        # A generator that was never begun closes nothing.
        if not self.is_stream_consumed and isinstance(self.stream, httpx.AsyncByteStream):
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()

    @property
    def has_body(self) -> bool:
        """Whether the whole body is here, and `content`, `text` and `json()` can be used."""
        return hasattr(self, "_content")

    @property
    def decoded_json(self) -> Any:
        """What `json()` has decoded, or None where nobody asked."""
        return None if self._json is _UNREAD else self._json

    def know(self, part: Any, paths: Collection[str]) -> None:
        """A part of the body's JSON value, which has all that there is at these paths."""
        self._known = part, paths

    def json_at(self, path: str) -> Any:
        """As much of `json()` as shows what lies at a path."""
        part, paths = self._known
        return part if path in paths else self.json()

    @property
    def context(self) -> RequestContext:
        """The slice, token, state and attempt of the request that this answers."""
        return cast(RequestContext, self.request.extensions["asyncstreams"].context)

    def raise_for_status(self) -> Response:
        """As httpx has it; the message shows the URL without its query."""
        if not self.is_success:
            url = safe_url(str(self.request.url))
            message = f"{self.status_code} {self.reason_phrase} for {url!r}"
            raise httpx.HTTPStatusError(message, request=self.request, response=self)
        return self

    def json(self, **kwargs: Any) -> Any:
        """The body as a JSON value, decoded once and then kept: do not change what you get.

        Integers are exact at any size. Raises MalformedJSON with the byte offset. With keyword
        arguments the standard library's `json.loads` reads it, as in httpx.
        """
        if not self.has_body:
            raise ConfigError(
                "the body is still arriving, and json() needs all of it",
                hint="an async generator as parse_response reads it piece by piece: with ndjson(response), "
                "csv_rows(response), json_items(response, path), or after `await response.aread()`",
            )
        if kwargs:
            return super().json(**kwargs)
        if self._json is _UNREAD:
            try:
                self._json = _json.decode(self.content)
            except MalformedJSON as error:
                raise error.locate(method=self.request.method, url=safe_url(str(self.request.url))) from None
        return self._json
