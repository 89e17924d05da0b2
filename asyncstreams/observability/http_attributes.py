"""Attributes of HTTP requests, by the semantic conventions of OpenTelemetry for HTTP clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from ..events import RequestFinished
from ..models import shorten
from ..visible_text import escape_controls

Attributes: TypeAlias = dict[str, str | bool | int | float]
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
_PORTS = {"http": 80, "https": 443}
_OTHER = "_OTHER"
_MAX_SERVERS = 100
_MAX_TEXT_CHARS = 500
_MIN_ERROR_STATUS = 400


def shown(text: str) -> str:
    """A text as the value of an attribute: shortened, and with escapes for whatever is not printable."""
    return escape_controls(shorten(text, _MAX_TEXT_CHARS))


def method_name(method: str) -> str:
    """A method by its name in the conventions: those that HTTP does not define are one."""
    return method if method in _METHODS else _OTHER


def error_type(event: RequestFinished) -> str:
    """The value of `error.type`: the status from 400 on, otherwise the class of the error; "" for a success."""
    if event.status is not None and event.status >= _MIN_ERROR_STATUS:
        return str(event.status)
    return event.error


def span_attributes(event: RequestFinished, server: Mapping[str, str | int]) -> Attributes:
    """The attributes of the span of a request."""
    attributes: Attributes = {
        "http.request.method": method_name(event.method),
        "url.full": shown(event.url),
        **server,
        "asyncstreams.stream": shown(event.stream),
        "asyncstreams.request.queue_time": event.queued_s,
        "asyncstreams.request.limit_time": event.limited_s,
        "asyncstreams.request.server_time": event.server_s,
        "asyncstreams.request.body_time": event.body_s,
        "asyncstreams.response.size": event.size,
    }
    if event.method not in _METHODS:
        attributes["http.request.method_original"] = shown(event.method)
    if event.status is not None:
        attributes["http.response.status_code"] = event.status
    if event.attempt > 1:
        attributes["http.request.resend_count"] = event.attempt - 1
    if event.is_refused:
        attributes["asyncstreams.request.refused"] = True
    if event.error:
        attributes["asyncstreams.error"] = event.error
    if kind := error_type(event):
        attributes["error.type"] = kind
    return attributes


def duration_attributes(event: RequestFinished, server: Mapping[str, str | int]) -> Attributes:
    """The attributes of a request in `http.client.request.duration`."""
    attributes: Attributes = {"http.request.method": method_name(event.method), **server}
    if event.status is not None:
        attributes["http.response.status_code"] = event.status
    if kind := error_type(event):
        attributes["error.type"] = kind
    return attributes


class ServerTable:
    """The attributes `server.address`, `server.port` and `url.scheme` of URLs.

    Redirects may lead to any number of hosts: metrics have the first 100, and all others are one.
    """

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, str | int]] = {}

    def of(self, url: str) -> Mapping[str, str | int]:
        """The attributes for a span."""
        origin = _origin_text(url)
        found = self._known.get(origin)
        if found is None:
            found = _server(origin)
            if len(self._known) < _MAX_SERVERS:
                self._known[origin] = found
        return found

    def bounded(self, url: str) -> Mapping[str, str | int]:
        """The attributes for a metric."""
        found = self.of(url)
        return found if _origin_text(url) in self._known else {**found, "server.address": _OTHER}


def _origin_text(url: str) -> str:
    start = url.find("://") + 3
    end = url.find("/", start)
    return url if end < 0 else url[:end]


def _server(origin: str) -> Mapping[str, str | int]:
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return {"server.address": _OTHER, "server.port": 0}
    return {"server.address": shown(host), "server.port": port, "url.scheme": parts.scheme}
