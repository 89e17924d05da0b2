"""Builder of the requests of one stream, from its hooks and the page token."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import httpx

from .. import _json
from .._version import __version__
from ..content.decoders import ACCEPT_ENCODING
from ..declaration.stream import Stream
from ..errors import ConfigError
from ..messages import Request
from ..models import PageRequest, ParamsInput, RequestContext, Secret
from ..protocols import RequestSlot
from ..rate_limits.governor import Permit
from ..redaction import MASK, RevealedSecrets
from ..urls import Pairs, formatted_secret, join, merge_params, param_pairs, with_params
from .origin import Origin, OriginPattern, allowed_origins, canonical_url, resolve, uncredentialed_origins
from .send_options import ClientOptions, SendOptions, parse_request_kwargs

_log = logging.getLogger("asyncstreams")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_ABSOLUTE_URL = re.compile("https?://", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
USER_AGENT = f"asyncstreams/{__version__}"
DEFAULT_HEADERS = (
    ("Accept", "*/*"),
    ("Accept-Encoding", ACCEPT_ENCODING),
    ("User-Agent", USER_AGENT),
)
_NO_HEADERS: Mapping[str, str] = {}
_NO_PAGE = PageRequest()


@dataclass(slots=True, eq=False, repr=False)
class Attempt:
    """One attempt to send a request, in `request.extensions["asyncstreams"]` for middleware.

    The fields from `slot` on are the sender's: what sending needs, and what came of it.
    """

    stream: Stream
    context: RequestContext
    options: SendOptions
    streamed: bool = False
    secrets: RevealedSecrets | None = None
    on_surrogates: Callable[[], None] | None = None
    """Called when lone surrogates of the response are replaced by U+FFFD; None: they are an error."""
    slot: RequestSlot | None = None
    """The slot of the slice, released during long waits."""
    permit: Permit | None = None
    """The last permit, under which the outcome is recorded; None if a middleware produced the response."""
    waited_s: float = 0.0
    """Seconds that the request waited for permits..."""
    limited_s: float = 0.0
    """...of which for a limit, a pause or the host."""
    redirected: Request | None = None
    """The request of the last redirect that was followed."""
    without_credential: bool = False
    """Whether the last request was sent without the stream's credential, cookies and headers."""

    def add_permit(self, permit: Permit) -> None:
        """Note that the next request is sent under this permit."""
        self.permit = permit
        self.waited_s += permit.waited_s
        self.limited_s += permit.limited_s


class RequestBody(NamedTuple):
    """The body of a request: at most one of the two forms."""

    json: Any = None
    data: Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | Secret | None = None


class RequestBuilder:
    """Builds the requests of one stream; whatever is equal in all of them is computed once.

    `secrets` records each Secret that a request reveals.
    """

    def __init__(self, stream: Stream, secrets: RevealedSecrets) -> None:
        self._stream = stream
        self._secrets = secrets
        self._has_warned_of_mask = False
        self._has_logged_upgrade = False
        self._class_name = type(stream).__name__
        self.allowed_origins: frozenset[Origin] = allowed_origins(
            self._class_name, stream.url_base, stream.resolved.allowed_origins
        )
        self.uncredentialed_origins: tuple[OriginPattern, ...] = uncredentialed_origins(
            self._class_name, stream.resolved.uncredentialed_origins, self.allowed_origins
        )
        self._base = stream.url_base, canonical_url(stream.url_base)
        self._options = SendOptions(
            stream.resolved.timeouts,
            client=ClientOptions(reuse=stream.resolved.idempotent, trust_env=stream.resolved.trust_env),
        )

    def build_page_request(self, context: RequestContext, referrer: str | None) -> Request:
        """The request of one page. `referrer` is the URL of the page that contained the token."""
        stream = self._stream
        page = _NO_PAGE
        if stream.resolved.paginator is not None and stream.uses_paginator:
            token = context.next_page_token
            page = stream.resolved.paginator.apply(stream.resolved.paginator.first() if token is None else token)
        if page.url is not None:
            url = self._resolve(page.url, referrer or stream.url_base)
        else:
            params = stream.request_params(context)
            if params is None:
                params = page.params
            else:
                reveal = self._secrets.reveal
                params = merge_params(self._class_name, params, page.params, reveal, "the parameters of request_params")
            url = self.build_url(stream.path(context), params)
        json, data = stream.request_json(context), stream.request_data(context)
        if page.json:
            json = _merge(self._class_name, "request_json", json, page.json)
        if page.data and _is_form_of_pairs(data):
            data = merge_params(self._class_name, data, page.data, self._secrets.reveal, "the fields of request_data")
        elif page.data:
            data = _merge(self._class_name, "request_data", data, page.data)
        body = RequestBody(json, data)
        headers = stream.request_headers(context) or _NO_HEADERS
        if page.headers:
            names = {name.lower() for name in page.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in names} | dict(page.headers)
        kwargs = stream.request_kwargs(context)
        return self.build_request(stream.resolved.http_method, url, headers, body, context, kwargs, stream.streams_body)

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
        content, content_type = _encode_body(self._class_name, body, self._secrets.reveal)
        if content and (b"***" in content or b"%2A%2A%2A" in content):
            self._warn_of_mask("the body")
        pairs = self._build_headers(headers, content_type)
        options = parse_request_kwargs(self._stream, kwargs, self._options, url) if kwargs else self._options
        extensions: dict[str, Any] = {
            **options.extensions,
            "timeout": _httpx_timeout(options.timeouts.connect),
            "asyncstreams": Attempt(self._stream, context, options, streamed, self._secrets),
        }
        return Request(method.upper(), url, headers=pairs, content=content, extensions=extensions)

    def build_url(self, path: str | Secret | tuple[str | int | Secret, ...], params: ParamsInput) -> str:
        """`url_base`, path and params, joined. Raises ConfigError, or CrossOriginLink for a foreign origin."""
        reveal = self._secrets.reveal
        if isinstance(path, Secret) and _ABSOLUTE_URL.match(path.reveal()):
            joined = self._resolve(reveal(path), self._stream.url_base)
        elif isinstance(path, str) and _ABSOLUTE_URL.match(path):
            if MASK in path:
                raise formatted_secret(self._class_name, "path()")
            joined = self._resolve(path, self._stream.url_base)
        else:
            joined = join(self._class_name, self._url_base(), path, reveal)
        url = with_params(self._class_name, joined, params, reveal) if params else joined
        if "%2A%2A%2A" in url:
            self._warn_of_mask("the URL")
        return url

    def _warn_of_mask(self, what: str) -> None:
        """Log once that a request contains the text of a Secret that was formatted, or a text that looks like it."""
        if not self._has_warned_of_mask:
            self._has_warned_of_mask = True
            _log.warning(
                "%s: %s of a request contains %r, which str() and f-strings show in place of a Secret: if it was one, "
                'use the Secret itself, or "text" + secret',
                self._stream.name,
                what,
                MASK,
            )

    def _url_base(self) -> str:
        """`url_base` in the characters of a request line; a stream may change it between requests."""
        url_base = self._stream.url_base
        if url_base is not self._base[0]:
            self._base = url_base, canonical_url(url_base)
        return self._base[1]

    def _resolve(self, link: str, base: str) -> str:
        url = resolve(link, base, self.allowed_origins, self.uncredentialed_origins)
        if not self._has_logged_upgrade and link[:5].lower() == "http:" and url.startswith("https:"):
            self._has_logged_upgrade = True
            _log.info("%s: links that say http are followed over https: the host is its own", self._stream.name)
        return url

    def _build_headers(self, headers: Mapping[str, Any], content_type: str | None) -> list[tuple[str, str]]:
        pairs = list(DEFAULT_HEADERS)
        if content_type is not None:
            pairs.append(("Content-Type", content_type))
        if not headers:
            return pairs
        custom = [(name, self._check_header(name, value)) for name, value in headers.items() if value is not None]
        names = {name.lower() for name, _ in custom}
        return [pair for pair in pairs if pair[0].lower() not in names] + custom

    def _check_header(self, name: str, value: Any) -> str:
        if isinstance(value, Secret):
            text = self._secrets.reveal(value)
        else:
            text = value if isinstance(value, str) else str(value)
            if MASK in text:
                raise formatted_secret(self._class_name, f"the header {name}")
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{self._class_name}.request_headers: {name!r} is not a valid header name")
        if not _HEADER_VALUE.fullmatch(text):
            raise ConfigError(
                f"{self._class_name}.request_headers: the value of {name} contains a line break, a control character "
                "or a character outside ASCII"
            ).of_data()
        return text


def _merge(class_name: str, hook: str, hook_fields: Any, page_fields: Mapping[str, Any]) -> Any:
    if hook_fields is not None and not isinstance(hook_fields, Mapping):
        raise ConfigError(f"{class_name}.{hook} must be a mapping, because the paginator adds fields to it")
    merged = dict(cast(Mapping[str, Any], hook_fields or {}))
    for name, value in page_fields.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(class_name, hook, merged[name], cast(Mapping[str, Any], value)) if nested else value
    return merged


def _encode_body(class_name: str, body: RequestBody, reveal: Callable[[Secret], str]) -> tuple[bytes, str | None]:
    """The bytes of a body, and their content type. `reveal` gives the text of a Secret."""
    json, data = body
    if json is None and not data:
        return b"", None
    if json is not None and data is not None:
        raise ConfigError(f"{class_name}: request_json and request_data both returned a body; a request has only one")
    if isinstance(data, Secret):
        return reveal(data).encode(), None
    if isinstance(data, str | bytes):
        if data in (MASK, b"***"):
            raise formatted_secret(class_name, "request_data")
        return (data.encode() if isinstance(data, str) else data), None
    if data is not None:
        fields = param_pairs(class_name, data, reveal, "the fields of request_data")
        return _encode_form(class_name, fields, reveal), "application/x-www-form-urlencoded"
    try:
        content = _encode_json(json, reveal)
    except (TypeError, ValueError) as error:
        message = f"{class_name}: request_json returned a value that JSON cannot represent: {error}"
        raise ConfigError(message).of_data() from None
    if b'"***"' in content:
        raise formatted_secret(class_name, "request_json")
    return content, "application/json"


def _is_form_of_pairs(data: Any) -> bool:
    """Whether a form may have several fields of one name, which a dict would lose."""
    return isinstance(data, list | tuple | httpx.QueryParams)


def _encode_form(class_name: str, fields: Pairs, reveal: Callable[[Secret], str]) -> bytes:
    return with_params(class_name, "", fields, reveal).removeprefix("?").replace("%20", "+").encode()


def _encode_json(value: Any, reveal: Callable[[Secret], str]) -> bytes:
    def to_builtin(item: object) -> str:
        if isinstance(item, Secret):
            return reveal(item)
        raise TypeError(f"there is no JSON for the type {type(item).__name__}")

    try:
        return _json.encode(value)
    except TypeError:  # a Secret, or a value that JSON cannot represent
        return _json.encode_with(value, to_builtin)


@functools.lru_cache(maxsize=64)
def _httpx_timeout(connect: float) -> dict[str, float | None]:
    """The connect timeout in the form of httpx; the other timeouts are enforced above the transport."""
    return {"connect": connect, "read": None, "write": None, "pool": None}
