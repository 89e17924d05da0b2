"""Builder of the requests of one stream, from its hooks and the page token."""

from __future__ import annotations

import functools
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, NamedTuple, cast

import httpx

from .. import _json
from .._version import __version__
from ..errors import ConfigError
from ..messages import Request
from ..models import PageRequest, RequestContext, Timeouts
from ..protocols import Stream
from ..urls import join, with_params
from .decoders import ACCEPT_ENCODING
from .origin import Origin, allowed_origins, resolve

_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_ABSOLUTE_URL = re.compile("https?://", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
USER_AGENT = f"asyncstreams/{__version__}"
_DEFAULT_HEADERS = (
    ("Accept", "*/*"),
    ("Accept-Encoding", ACCEPT_ENCODING),
    ("User-Agent", USER_AGENT),
)
_NO_HEADERS: Mapping[str, str] = {}
_NO_PAGE = PageRequest()
_ALIASES = {"allow_redirects": "follow_redirects", "proxies": "proxy"}
_PER_REQUEST = ("timeout", "follow_redirects", "extensions")
_PER_CLIENT = ("verify", "cert", "proxy", "http2")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Options of a connection; requests with equal options share connections."""

    verify: bool | str | ssl.SSLContext = True
    cert: str | tuple[str, ...] | None = None
    proxy: str | None = field(default=None, repr=False)
    http2: bool = False
    reuse: bool = True
    trust_env: bool = True


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How one request is sent, according to its stream and `request_kwargs`."""

    timeouts: Timeouts
    follow_redirects: bool = False
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    client: ClientOptions = ClientOptions()


class Attempt(NamedTuple):
    """One attempt to send a request, in `request.extensions["asyncstreams"]` for middleware."""

    stream: Stream
    context: RequestContext
    options: SendOptions
    streamed: bool = False


class RequestBody(NamedTuple):
    """The body of a request: at most one of the two forms."""

    json: Any = None
    data: Mapping[str, Any] | str | bytes | None = None


class RequestBuilder:
    """Builds the requests of one stream; whatever is equal in all of them is computed once."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._class_name = type(stream).__name__
        self.allowed_origins: frozenset[Origin] = allowed_origins(
            self._class_name, stream.url_base, stream.allowed_origins
        )
        self._options = SendOptions(
            stream.timeouts, client=ClientOptions(reuse=stream.idempotent, trust_env=stream.trust_env)
        )

    def build_page_request(self, context: RequestContext, referrer: str | None) -> Request:
        """The request of one page. `referrer` is the URL of the page that contained the token."""
        stream = self._stream
        page = _NO_PAGE
        if stream.paginator is not None and stream.uses_paginator:
            token = context.next_page_token
            page = stream.paginator.apply(stream.paginator.first() if token is None else token)
        if page.url is not None:
            url = resolve(page.url, referrer or stream.url_base, self.allowed_origins)
        else:
            params = stream.request_params(context)
            params = {**params, **page.params} if params else page.params
            url = self.build_url(stream.path(context), params)
        json, data = stream.request_json(context), stream.request_data(context)
        if page.json:
            json = _merge(self._class_name, "request_json", json, page.json)
        if page.data:
            data = _merge(self._class_name, "request_data", data, page.data)
        body = RequestBody(json, data)
        headers = stream.request_headers(context) or _NO_HEADERS
        if page.headers:
            names = {name.lower() for name in page.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in names} | dict(page.headers)
        kwargs = stream.request_kwargs(context)
        return self.build_request(stream.http_method, url, headers, body, context, kwargs, stream.streams_body)

    def build_request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, Any],
        body: RequestBody,
        context: RequestContext,
        kwargs: Mapping[str, Any],
        streamed: bool = False,
    ) -> Request:
        """A request from its parts. Raises ConfigError for a part that cannot be sent."""
        content, content_type = _encode_body(self._class_name, body)
        pairs = self._build_headers(headers, content_type)
        options = parse_request_kwargs(self._class_name, kwargs, self._options) if kwargs else self._options
        extensions: dict[str, Any] = {
            **options.extensions,
            "timeout": _httpx_timeout(options.timeouts.connect),
            "asyncstreams": Attempt(self._stream, context, options, streamed),
        }
        return Request(method.upper(), url, headers=pairs, content=content, extensions=extensions)

    def build_url(self, path: str | tuple[str | int, ...], params: Mapping[str, Any]) -> str:
        """`url_base`, path and params, joined. Raises ConfigError, or CrossOriginLink for a foreign origin."""
        if isinstance(path, str) and _ABSOLUTE_URL.match(path):
            joined = resolve(path, self._stream.url_base, self.allowed_origins)
        else:
            joined = join(self._class_name, self._stream.url_base, path)
        return with_params(self._class_name, joined, params) if params else joined

    def _build_headers(self, headers: Mapping[str, Any], content_type: str | None) -> list[tuple[str, str]]:
        pairs = list(_DEFAULT_HEADERS)
        if content_type is not None:
            pairs.append(("Content-Type", content_type))
        if not headers:
            return pairs
        custom = [(name, self._check_header(name, value)) for name, value in headers.items() if value is not None]
        names = {name.lower() for name, _ in custom}
        return [pair for pair in pairs if pair[0].lower() not in names] + custom

    def _check_header(self, name: str, value: Any) -> str:
        text = value if isinstance(value, str) else str(value)
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{self._class_name}.request_headers: {name!r} is not a valid header name")
        if not _HEADER_VALUE.fullmatch(text):
            raise ConfigError(
                f"{self._class_name}.request_headers: the value of {name} contains a line break, a control character "
                "or a character outside ASCII"
            )
        return text


def parse_request_kwargs(class_name: str, kwargs: Mapping[str, Any], default: SendOptions) -> SendOptions:
    """The options of one request. Raises ConfigError for an unknown key, and lists the known ones."""
    known = {_ALIASES.get(name, name): value for name, value in kwargs.items() if name != "stream"}
    for name in known:
        if name not in _PER_REQUEST + _PER_CLIENT:
            raise ConfigError(
                f"{class_name}.request_kwargs: unknown key {name!r}",
                hint=f"known keys are {', '.join(_PER_REQUEST + _PER_CLIENT)}, and the aliases "
                "allow_redirects, proxies and stream",
            )
    client = {name: known[name] for name in _PER_CLIENT if name in known}
    if "verify" in client:
        client["verify"] = _parse_verify(class_name, client["verify"])
    if client.get("cert") is not None:
        client["cert"] = _parse_cert(class_name, client["cert"])
    if isinstance(client.get("proxy"), Mapping):
        proxies = client["proxy"]
        client["proxy"] = proxies.get("https") or proxies.get("http") or proxies.get("all")
    if client.get("proxy") and not str(client["proxy"]).startswith(("http://", "https://", "socks5://", "socks5h://")):
        raise ConfigError(f"{class_name}.request_kwargs: the proxy has no scheme", hint="write it as http://host:port")
    timeout = known.get("timeout")
    return replace(
        default,
        timeouts=default.timeouts if timeout is None else _parse_timeouts(class_name, timeout, default.timeouts),
        follow_redirects=bool(known.get("follow_redirects", default.follow_redirects)),
        extensions=dict(known.get("extensions") or {}),
        client=replace(default.client, **client) if client else default.client,
    )


def _parse_verify(class_name: str, verify: Any) -> bool | str | ssl.SSLContext:
    if isinstance(verify, bool | ssl.SSLContext):
        return verify
    if isinstance(verify, str | PathLike):
        return os.fspath(cast(str, verify))
    raise ConfigError(
        f"{class_name}.request_kwargs: verify = {verify!r}: expected True, False, the path of a file or folder of "
        "certificate authorities, or an ssl.SSLContext"
    )


def _parse_cert(class_name: str, cert: Any) -> str | tuple[str, ...]:
    parts: list[Any] = [*cast(Sequence[Any], cert)] if isinstance(cert, tuple | list) else [cert]
    if 1 <= len(parts) <= 3 and all(isinstance(part, str | PathLike) for part in parts):
        return tuple([os.fspath(cast(str, part)) for part in parts])
    raise ConfigError(
        f"{class_name}.request_kwargs: cert: expected the path of a certificate with its key, (certificate, key), or "
        "(certificate, key, password)"
    )


def _parse_timeouts(class_name: str, timeout: Any, default: Timeouts) -> Timeouts:
    if isinstance(timeout, Timeouts):
        return timeout
    if isinstance(timeout, httpx.Timeout):
        timeout = (timeout.connect or default.connect, timeout.read or default.read)
    if isinstance(timeout, tuple):
        connect, read = cast(tuple[float | None, float | None], timeout)
        connect, read = connect or default.connect, read or default.read
        return replace(default, connect=connect, first_byte=read, read=read, total=max(default.total, read))
    if isinstance(timeout, int | float):
        return replace(default, connect=timeout, first_byte=timeout, read=timeout, total=max(default.total, timeout))
    raise ConfigError(
        f"{class_name}.request_kwargs: timeout must be a number of seconds, (connect, read), or Timeouts(...)"
    )


def _merge(class_name: str, hook: str, hook_fields: Any, page_fields: Mapping[str, Any]) -> Any:
    if hook_fields is not None and not isinstance(hook_fields, Mapping):
        raise ConfigError(f"{class_name}.{hook} must be a mapping, because the paginator adds fields to it")
    merged = dict(cast(Mapping[str, Any], hook_fields or {}))
    for name, value in page_fields.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(class_name, hook, merged[name], cast(Mapping[str, Any], value)) if nested else value
    return merged


def _encode_body(class_name: str, body: RequestBody) -> tuple[bytes, str | None]:
    """The bytes of a body, and their content type."""
    json, data = body
    if json is None and not data:
        return b"", None
    if json is not None and data is not None:
        raise ConfigError(f"{class_name}: request_json and request_data both returned a body; a request has only one")
    if isinstance(data, str | bytes):
        return (data.encode() if isinstance(data, str) else data), None
    if data is not None:
        return _encode_form(class_name, data), "application/x-www-form-urlencoded"
    try:
        return _json.encode(json), "application/json"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{class_name}: request_json returned a value that JSON cannot represent: {error}") from None


def _encode_form(class_name: str, fields: Mapping[str, Any]) -> bytes:
    return with_params(class_name, "", fields).removeprefix("?").replace("%20", "+").encode()


@functools.lru_cache(maxsize=64)
def _httpx_timeout(connect: float) -> dict[str, float | None]:
    """The connect timeout in the form of httpx; the other timeouts are enforced above the transport."""
    return {"connect": connect, "read": None, "write": None, "pool": None}
