"""Request and Response: subclasses of httpx's types that build their costly parts on first access.

Eagerly built httpx objects cost more than fetching a page.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import anyio
import httpx

from . import _json
from .content.charsets import MARK_BYTES, declared_charset, find_charset, text_charset
from .content.file_formats import file_format, is_archive, is_compressed
from .content.text_extractor import extract_text
from .errors import ConfigError, RemoteError, UnexpectedContent
from .models import BodyLimits, Record, RequestContext, Secret
from .redaction import RevealedSecrets, safe_url

RawHeaders = Sequence[tuple[bytes, bytes]]
_NOT_DECODED = object()
# Usual beginnings of JSON in UTF-8. Other bodies may be files or in another charset, and are looked at closely.
_JSON_STARTS = (b'{"', b"[{", b"[]", b"{}", b"{\n", b"[\n", b"{\r\n", b"[\r\n", b"{ ", b"[ ", b"[[", b'["')
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

    def values(self, headers: RawHeaders) -> list[bytes]:
        """The value of each line, for headers that cannot be joined, such as Set-Cookie."""
        return [headers[position][1] for position in (self._first, *self._more)]


class HeaderLayout:
    """The positions of all header names of a response.

    Most responses of an API have the same names in the same order, and share one layout. Finding a header
    by it takes a fraction of the time of a dict of all headers.
    """

    __slots__ = ("connection", "content_length", "content_type", "indexes", "keep_alive", "transfer_encoding")
    _cache: ClassVar[dict[tuple[bytes, ...], HeaderLayout]] = {}

    def __init__(self, names: Iterable[bytes]) -> None:
        positions: dict[bytes, list[int]] = {}
        for position, name in enumerate(names):
            positions.setdefault(name.lower(), []).append(position)
        self.indexes = {name: HeaderIndex(found) for name, found in positions.items()}
        self.connection = self.indexes.get(b"connection")
        self.content_length = self.indexes.get(b"content-length")
        self.content_type = self.indexes.get(b"content-type")
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
    """httpx.Headers whose repr shows the names only, since values may be secret. A value may be a Secret."""

    def __setitem__(self, key: str, value: str | Secret) -> None:
        super().__setitem__(key, value.reveal() if isinstance(value, Secret) else value)

    def __repr__(self) -> str:
        return f"Headers({sorted(self.keys())})"


class RequestUrl(httpx.URL):
    """An httpx.URL whose repr hides the query, the user information and the secrets that were sent.

    `str()` gives the URL that is sent.
    """

    def __init__(self, url: httpx.URL | str, secrets: RevealedSecrets | None, **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self._secrets = secrets

    def copy_with(self, **kwargs: Any) -> RequestUrl:
        """A copy with other components, as in httpx."""
        return RequestUrl(self, self._secrets, **kwargs)

    def join(self, url: httpx.URL | str) -> RequestUrl:
        """The absolute URL of a link, as in httpx."""
        return RequestUrl(super().join(url), self._secrets)

    def __repr__(self) -> str:
        query = "?***" if self.query else ""
        shown = safe_url(str(self)) if self._secrets is None else self._secrets.mask_url(str(self))
        return f"URL('{shown}{query}')"


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
            self._url = RequestUrl(self._url_text, secrets_in(self))
        return self._url

    @url.setter
    def url(self, value: httpx.URL | str) -> None:
        self._url = RequestUrl(value, secrets_in(self))
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

    def replace_headers(self, pairs: list[tuple[str, str]]) -> None:
        """Replace all headers by these names and values, in this order."""
        self._header_pairs, self._headers = pairs, None

    def replace_body(self, content: bytes) -> None:
        """Replace the body; the headers stay as they are."""
        self.stream, self._content = httpx.ByteStream(content), content

    def set_header(self, name: str, value: str) -> None:
        """Set one header and remove others of the same name, without building `headers`."""
        if self._headers is not None:
            self._headers[name] = value
            return
        lowered = name.lower()
        self._header_pairs = [pair for pair in self._header_pairs if pair[0].lower() != lowered]
        self._header_pairs.append((name, value))

    def __repr__(self) -> str:
        return f"<Request({self.method!r}, {shown_url(self)!r})>"


class Response(httpx.Response):
    """An httpx.Response whose `headers` and `text` are built on first access; `json()` decodes the body once."""

    # The initial state; an assignment to the class costs less than one to each instance.
    next_request: httpx.Request | None = None
    is_closed: bool = False
    is_stream_consumed: bool = False
    default_encoding = "utf-8"
    bytes_read: int = 0
    rows_read: int | None = None
    wire_bytes: int = 0
    """Bytes received so far, before decoding; 0 for a body without content coding that was read at once."""
    _charset: str | None = None
    _num_bytes_downloaded: int = 0
    _headers: Headers | None = None
    _json: Any = _NOT_DECODED
    _partial_json: tuple[Any, Container[str]] = (None, ())
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

    def raw_header_lines(self, name: bytes) -> list[bytes]:
        """The value of each line of a header, without building `headers`. `name` is in lower case."""
        index = self.layout.indexes.get(name)
        return [] if index is None else index.values(self.raw_headers)

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
    def encoding(self) -> str | None:
        """The charset of `text` and, once it is set, of `json()` and the streamed formats, instead of the declared one.

        Set it in `classify` for an API that declares a wrong charset.
        """
        return super().encoding

    @encoding.setter
    def encoding(self, value: str) -> None:
        charset = find_charset(value)
        if charset is None:
            raise ConfigError(f"response.encoding = {value!r}: unknown encoding")
        httpx.Response.encoding.fset(self, value)  # type: ignore[attr-defined]  # the setter of the base class
        self._charset = charset

    @property
    def charset(self) -> str | None:
        """The codec of the text: `encoding` if it was set, or the charset in Content-Type; None for UTF-8."""
        if self._charset is not None:
            return self._charset
        index = self.layout.content_type
        return None if index is None else declared_charset(index.value(self.raw_headers))

    @property
    def body_limits(self) -> BodyLimits:
        """The limits of the stream that requested the body."""
        attempt: Any = self.request.extensions.get("asyncstreams")
        return BodyLimits() if attempt is None else attempt.stream.body_limits

    @property
    def text(self) -> str:
        """The body as text, from its charset, and out of the compressed or ZIP file that it may be.

        A byte order mark is left out, and bytes that are invalid in the charset become U+FFFD. `content` is the file
        as it is. Raises TruncatedBody, DecodeError, ResponseTooLarge and UnexpectedContent for files.
        """
        if not hasattr(self, "_text"):
            content = self.content
            kind = file_format(content)
            if is_archive(kind) or (kind is not None and is_compressed(kind)):
                try:
                    size = self.wire_bytes or len(content)
                    text = extract_text(content, self.charset, self.body_limits, size, UnexpectedContent)
                except RemoteError as error:
                    raise error.locate(method=self.request.method, url=shown_url(self.request)) from None
                self._text = text.decode("utf-8", "replace")
            else:
                charset, mark_bytes = text_charset(content[:MARK_BYTES], self.charset)
                self._text = content[mark_bytes:].decode(charset, "replace")
        return self._text

    @property
    def json_text(self) -> bytes:
        """The body as JSON text in UTF-8, from its charset, and out of the compressed or ZIP file that it may be.

        Raises TruncatedBody, DecodeError, ResponseTooLarge, UnexpectedContent and MalformedJSON.
        """
        body, charset = self._content, self.charset
        if charset is None and body.startswith(_JSON_STARTS):
            return body
        return extract_text(body, charset, self.body_limits, self.wire_bytes or len(body))

    def repair_json(self, text: bytes) -> bytes | None:
        """A JSON text of this response with U+FFFD for each lone surrogate.

        None: it has none, or they are not to be replaced.
        """
        on_surrogates = getattr(self.request.extensions.get("asyncstreams"), "on_surrogates", None)
        if on_surrogates is None or (repaired := _json.replace_escaped_surrogates(text)) == text:
            return None
        on_surrogates()
        return repaired

    @property
    def decoded_json(self) -> Any:
        """The result of `json()`, or None if it has not been called."""
        return None if self._json is _NOT_DECODED else self._json

    @property
    def known_json(self) -> Any:
        """The result of `json()`, or the partial value if it has not been called; None without both."""
        return self._partial_json[0] if self._json is _NOT_DECODED else self._json

    def set_partial_json(self, value: Any, paths: Container[str]) -> None:
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

    def count_rows(self, number: int) -> None:
        """Count rows that an incremental parser found in the body, in `rows_read`."""
        self.rows_read = (self.rows_read or 0) + number

    def set_page_records(self, records: Sequence[Record]) -> None:
        """Show the records of this response to later hooks, as `context.page_records`."""
        attempt = self.request.extensions["asyncstreams"]
        attempt.context = replace(attempt.context, page_records=records)

    def raise_for_status(self) -> Response:
        """Raise httpx.HTTPStatusError for a status other than 2xx. The message shows the URL without its query."""
        if not self.is_success:
            url = shown_url(self.request)
            message = f"{self.status_code} {self.reason_phrase} for {url!r}"
            raise httpx.HTTPStatusError(message, request=self.request, response=self)
        return self

    def json(self, **kwargs: Any) -> Any:
        """The body as a JSON value. It is decoded once and shared by all callers, so do not modify it.

        Integers of any size are exact. Keyword arguments are passed to the standard library's `json.loads`,
        as in httpx; such a value is not cached.

        A gzip, bzip2, zstd or ZIP file is decompressed, and the text is decoded from its charset. Raises MalformedJSON
        with the byte offset in UTF-8, the errors of decompression, and ConfigError if the body is still being received.
        """
        if not self.has_body:
            raise ConfigError(
                "json(): the body is still being received",
                hint="in an async parse_response, iterate over ndjson(response), csv_rows(response) or "
                "json_items(response, path), or call `await response.aread()` first",
            )
        if kwargs:
            return json.loads(self.json_text, **kwargs)
        if self._json is _NOT_DECODED:
            try:
                self._json = _json.decode_repaired(self.json_text, self.repair_json)
            except RemoteError as error:
                raise error.locate(method=self.request.method, url=shown_url(self.request)) from None
        return self._json


def shown_url(request: httpx.Request) -> str:
    """The URL of a request for messages: without query and user information, and without the secrets that were sent."""
    url = request.url_text if isinstance(request, Request) else str(request.url)
    secrets = secrets_in(request)
    return safe_url(url) if secrets is None else secrets.mask_url(url)


def secrets_in(request: httpx.Request) -> RevealedSecrets | None:
    """The secrets that the requests of the session carried; None for a request that no stream built."""
    return getattr(request.extensions.get("asyncstreams"), "secrets", None)
