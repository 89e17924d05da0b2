"""Request and Response: subclasses of httpx's types that build their costly parts on first access.

Eagerly built httpx objects cost more than fetching a page.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import anyio
import httpx

from . import _json
from .errors import ConfigError, MalformedJSON
from .models import RequestContext
from .redaction import safe_url

RawHeaders = Sequence[tuple[bytes, bytes]]
_NOT_DECODED = object()
_MAX_CACHED_LAYOUTS = 256
_MAX_CACHED_NAMES_BYTES = 4096  # a larger set of header names is not cached


class HeaderIndex:
    """Positions at which a header name occurs, at least one."""

    __slots__ = ("_first", "_more")

    def __init__(self, positions: Sequence[int]) -> None:
        self._first, self._more = positions[0], tuple(positions[1:])

    def value(self, headers: RawHeaders) -> bytes:
        """The value of the header; several lines are joined by commas."""
        text = headers[self._first][1]
        return b", ".join((text, *[headers[position][1] for position in self._more])) if self._more else text


class HeaderLayout:
    """The positions of all header names of a response.

    Most responses of an API have the same names in the same order, and share one layout. Finding a header
    by it takes a fraction of the time of a dict of all headers.
    """

    __slots__ = ("connection", "content_length", "indexes", "keep_alive", "transfer_encoding")
    _cache: ClassVar[dict[tuple[bytes, ...], HeaderLayout]] = {}

    def __init__(self, names: Iterable[bytes]) -> None:
        positions: dict[bytes, list[int]] = {}
        for position, name in enumerate(names):
            positions.setdefault(name.lower(), []).append(position)
        self.indexes = {name: HeaderIndex(found) for name, found in positions.items()}
        self.connection = self.indexes.get(b"connection")
        self.content_length = self.indexes.get(b"content-length")
        self.keep_alive = self.indexes.get(b"keep-alive")
        self.transfer_encoding = self.indexes.get(b"transfer-encoding")

    @classmethod
    def of(cls, headers: RawHeaders) -> HeaderLayout:
        """The layout of these headers."""
        names = tuple([name for name, _ in headers])
        layout = cls._cache.get(names)
        if layout is None:
            layout = cls(names)
            # A server that invents header names must not fill the memory.
            if sum(map(len, names)) <= _MAX_CACHED_NAMES_BYTES:
                if len(cls._cache) >= _MAX_CACHED_LAYOUTS:
                    cls._cache.clear()
                cls._cache[names] = layout
        return layout


class Headers(httpx.Headers):
    """httpx.Headers whose repr shows the names only, since values may be secret."""

    def __repr__(self) -> str:
        return f"Headers({sorted(self.keys())})"


class Request(httpx.Request):
    """An httpx.Request whose `url` and `headers` are parsed on first access.

    Its repr shows the URL without query and user information.
    """

    def __init__(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        content: bytes = b"",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        # httpx.Request.__init__ is deliberately not called: it builds everything.
        self.method = method
        self.extensions = {} if extensions is None else extensions
        self.stream = httpx.ByteStream(content)
        self._content = content
        self._url_text = url
        self._url: httpx.URL | None = None
        self._header_pairs = headers
        self._headers: Headers | None = None

    @property
    def url_text(self) -> str:
        """The URL as text, exactly as it is sent. Setting it replaces `url`."""
        return self._url_text

    @url_text.setter
    def url_text(self, value: str) -> None:
        self._url_text, self._url = value, None

    @property
    def url(self) -> httpx.URL:
        """The parsed URL."""
        if self._url is None:
            self._url = httpx.URL(self._url_text)
        return self._url

    @url.setter
    def url(self, value: httpx.URL | str) -> None:
        self._url = httpx.URL(value)
        self._url_text = str(self._url)

    @property
    def headers(self) -> httpx.Headers:
        """The headers, which may be changed in place."""
        if self._headers is None:
            self._headers = Headers(self._header_pairs)
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self._headers = Headers(value)

    def header_pairs(self) -> list[tuple[str, str]]:
        """Header names and values in the order in which they are sent."""
        if self._headers is None:
            return self._header_pairs
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers.raw]

    def set_header(self, name: str, value: str) -> None:
        """Set one header and remove others of the same name, without building `headers`."""
        if self._headers is not None:
            self._headers[name] = value
            return
        lowered = name.lower()
        self._header_pairs = [pair for pair in self._header_pairs if pair[0].lower() != lowered]
        self._header_pairs.append((name, value))

    def __repr__(self) -> str:
        return f"<Request({self.method!r}, {safe_url(self._url_text)!r})>"


class Response(httpx.Response):
    """An httpx.Response whose `headers` and `text` are built on first access; `json()` decodes the body once."""

    # The initial state; an assignment to the class costs less than one to each instance.
    next_request: httpx.Request | None = None
    is_closed: bool = False
    is_stream_consumed: bool = False
    default_encoding = "utf-8"
    bytes_read: int = 0
    _num_bytes_downloaded: int = 0
    _headers: Headers | None = None
    _json: Any = _NOT_DECODED
    _partial_json: tuple[Any, Collection[str]] = (None, ())
    _chunks: AsyncGenerator[bytes] | None = None

    def __init__(
        self,
        status_code: int,
        *,
        headers: RawHeaders,
        stream: httpx.AsyncByteStream | httpx.SyncByteStream,
        request: httpx.Request,
        extensions: dict[str, Any] | None = None,
        layout: HeaderLayout | None = None,
    ) -> None:
        # As in Request: sets the fields of httpx.Response.__init__ without building headers and cookies.
        self.status_code = status_code
        self._request = request
        self.extensions = {} if extensions is None else extensions
        self.history = []
        self.stream = stream
        self._raw_headers = headers
        self._layout = layout

    @property
    def headers(self) -> httpx.Headers:
        """The response headers."""
        if self._headers is None:
            self._headers = Headers(self._raw_headers)
        return self._headers

    @headers.setter
    def headers(self, value: Mapping[str, str]) -> None:
        self._headers = Headers(value)

    @property
    def raw_headers(self) -> RawHeaders:
        """Header names and values as received, in order."""
        return self._raw_headers if self._headers is None else self._headers.raw

    def raw_header(self, name: bytes) -> bytes | None:
        """The value of a header, without building `headers`; None if absent.

        `name` is in lower case. Repeated values are joined by ", ".
        """
        index = self.layout.indexes.get(name)
        return None if index is None else index.value(self.raw_headers)

    @property
    def layout(self) -> HeaderLayout:
        """The positions of the header names in `raw_headers`."""
        if self._headers is not None:  # they may have been changed in place
            return HeaderLayout.of(self._headers.raw)
        if self._layout is None:
            self._layout = HeaderLayout.of(self._raw_headers)
        return self._layout

    def set_body(self, content: bytes) -> None:
        """Attach the complete, decoded body."""
        self._content = content
        self.is_stream_consumed = True
        self.is_closed = True

    def set_chunks(self, chunks: AsyncGenerator[bytes]) -> None:
        """Attach a decoded body that is still being received."""
        self._chunks = chunks

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Iterate over the decoded body.

        A streamed body yields chunks as they arrive, and only once: then httpx.StreamConsumed is raised.
        A complete body yields chunks of `chunk_size` bytes.
        """
        if self.has_body or self._chunks is None:
            async for chunk in super().aiter_bytes(chunk_size):
                yield chunk
            return
        if self.is_stream_consumed:
            raise httpx.StreamConsumed()
        self.is_stream_consumed = True
        async for chunk in self._chunks:
            self.bytes_read += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        """Release the connection. A body that has been read remains available."""
        self.is_closed = True
        if self._chunks is None:
            return
        await self._chunks.aclose()
        # Closing a generator that was never started does not run its `finally`.
        if not self.is_stream_consumed and isinstance(self.stream, httpx.AsyncByteStream):
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()

    @property
    def has_body(self) -> bool:
        """Whether the complete body is available, so that `content`, `text` and `json()` can be used."""
        return hasattr(self, "_content")

    @property
    def decoded_json(self) -> Any:
        """The result of `json()`, or None if it has not been called."""
        return None if self._json is _NOT_DECODED else self._json

    def set_partial_json(self, value: Any, paths: Collection[str]) -> None:
        """Attach a partial JSON value of the body that is complete at `paths`."""
        self._partial_json = value, paths

    def json_at(self, path: str) -> Any:
        """The value of `json()`, or a partial one that is complete at `path`."""
        partial, paths = self._partial_json
        return partial if path in paths else self.json()

    @property
    def context(self) -> RequestContext:
        """The context of the request: slice, page token, state and attempt."""
        return cast(RequestContext, self.request.extensions["asyncstreams"].context)

    def raise_for_status(self) -> Response:
        """Raise httpx.HTTPStatusError for a status other than 2xx. The message shows the URL without its query."""
        if not self.is_success:
            url = safe_url(str(self.request.url))
            message = f"{self.status_code} {self.reason_phrase} for {url!r}"
            raise httpx.HTTPStatusError(message, request=self.request, response=self)
        return self

    def json(self, **kwargs: Any) -> Any:
        """The body as a JSON value. It is decoded once and shared by all callers, so do not modify it.

        Integers of any size are exact. Keyword arguments are passed to the standard library's `json.loads`,
        as in httpx; such a value is not cached.

        Raises MalformedJSON with the byte offset, and ConfigError if the body is still being received.
        """
        if not self.has_body:
            raise ConfigError(
                "json(): the body is still being received",
                hint="in an async parse_response, iterate over ndjson(response), csv_rows(response) or "
                "json_items(response, path), or call `await response.aread()` first",
            )
        if kwargs:
            return super().json(**kwargs)
        if self._json is _NOT_DECODED:
            try:
                self._json = _json.decode(self.content)
            except MalformedJSON as error:
                raise error.locate(method=self.request.method, url=safe_url(str(self.request.url))) from None
        return self._json
