"""The first request of each stream, without sending it."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from .._json import as_array, as_object, decode, encode
from ..auth.authenticators import RenewingAuth, SigningAuth, held_secrets
from ..errors import AsyncStreamsError, ConfigError, MalformedJSON
from ..extraction.run_scope import RunScope
from ..http.request_builder import Attempt
from ..http.signing import complete_request, needs_final_request, signs_in_place
from ..messages import Request
from ..redaction import MASK, is_secret_name
from ..source import Source
from ..state.state_file import State
from ..state.stream_state import StreamState
from ..streams.http_stream import HttpStream
from .failures import CommandOutput
from .selected_read import selected_scheduler

_MAX_BODY_CHARS = 2_000
_Pairs = Sequence[tuple[str, str]]


async def show_first_requests(
    source: Source,
    names: Sequence[str],
    scope: RunScope,
    states: Mapping[str, StreamState] | None,
    output: CommandOutput,
) -> None:
    """Print the first request of each stream. Nothing is sent, also no request for a token.

    `states` are those from which the run would go on; None if it would keep no state. The requests of a substream
    depend on its parents' records, so only those of its parents are shown. Raises ConfigError.
    """
    streams = [source[name] for name in names] or list(source)
    for number, stream in enumerate(streams):
        if number:
            print()
        if stream.declared_parents and stream.name not in scope.slices:
            parents = " and ".join(parent.name for parent in stream.declared_parents)
            print(output.shown(f"{stream.name}: one read for each record of {parents}, which a dry run does not have"))
            continue
        own_slices = {name: slices for name, slices in scope.slices.items() if name == stream.name}
        own_scope = RunScope(scope.limit, own_slices, scope.since, scope.until)
        request = await _first_request(source, stream, own_scope, states)
        if request is None:
            print(output.shown(f"{stream.name}: no request: there is nothing to read"))
        else:
            print(output.shown(f"{stream.name}: {request}"))


async def _first_request(
    source: Source, stream: HttpStream, scope: RunScope, states: Mapping[str, StreamState] | None
) -> str | None:
    """The text of the first request, or None if the stream sends none. Raises what comes before a request."""
    recorder = _Recorder()
    _disconnect(stream, recorder)
    async with source:
        store = None if states is None else State()  # in memory
        scheduler = selected_scheduler(
            source, [stream.name], scope, states or {}, state_store=store, stop_on_error=True
        )
        try:
            async with scheduler.pages() as pages:
                async for _ in pages:
                    break  # a middleware of the author has answered
        except AsyncStreamsError:
            if not recorder.text:
                raise
    return recorder.text or None


class _Recorder:
    """Takes the place of the network: it keeps the first request as text, and refuses all of them."""

    def __init__(self) -> None:
        self.text = ""
        self.transport = httpx.MockTransport(self._refuse)
        self._unsigned: _Pairs = ()
        self._unsigned_url = ""
        self._authenticator: httpx.Auth | None = None

    def observe(self, request: httpx.Request, authenticator: httpx.Auth) -> None:
        """Note a request before it is signed: whatever the authenticator adds is a secret."""
        self._unsigned, self._unsigned_url = request.headers.multi_items(), str(request.url)
        self._authenticator = authenticator

    def _refuse(self, request: httpx.Request) -> NoReturn:
        self.text = self.text or self._describe(request)
        raise ConfigError("a dry run sends nothing")

    def _describe(self, request: httpx.Request) -> str:
        attempt: Attempt | None = request.extensions.get("asyncstreams")
        revealed = () if attempt is None or attempt.secrets is None else attempt.secrets
        secrets = {*revealed, *held_secrets(self._authenticator)} - {""}
        lines = [f"{request.method} {self._shown_url(request, secrets)}"]
        for name, value in request.headers.multi_items():
            is_added = bool(self._authenticator) and (name, value) not in self._unsigned
            is_hidden = is_secret_name(name) or (is_added and name.lower() not in _ADDED_BY_CLIENTS)
            lines.append(f"  {_header_name(name)}: {_masked_header(value) if is_hidden else _masked(value, secrets)}")
        content: bytes = request.content
        if content:
            lines += ["", *(f"  {line}" for line in _shown_body(content, secrets).splitlines())]
        if isinstance(self._authenticator, RenewingAuth):
            lines.append("  (its token would be requested first)")
        return "\n".join(lines)

    def _shown_url(self, request: httpx.Request, secrets: set[str]) -> str:
        parts = urlsplit(str(request.url))
        unsigned = parse_qsl(urlsplit(self._unsigned_url).query, keep_blank_values=True)
        shown: list[str] = []
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            is_added = bool(self._authenticator) and (name, value) not in unsigned
            is_hidden = is_added or is_secret_name(name) or value in secrets
            shown.append(f"{quote(name, safe='[]')}={MASK if is_hidden else quote(value, safe=_QUERY_CHARS)}")
        path = "/".join([MASK if part in secrets else part for part in parts.path.split("/")])
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{path}" + (f"?{'&'.join(shown)}" if shown else "")


_ADDED_BY_CLIENTS = {"host", "content-length", "content-type", "accept", "accept-encoding", "user-agent", "connection"}
_QUERY_CHARS = "-._~:,/[]@!$'()*;"


class _ObservedAuth(httpx.Auth):
    """Signs a request like another authenticator, without requesting a token, and has the recorder compare."""

    def __init__(self, authenticator: httpx.Auth, recorder: _Recorder) -> None:
        self._authenticator, self._recorder = authenticator, recorder

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """The request as the authenticator first sends it."""
        own = self._authenticator
        if needs_final_request(own) and isinstance(request, Request):
            complete_request(request)
        self._recorder.observe(request, own)
        if isinstance(own, RenewingAuth):
            request.headers["Authorization"] = f"Bearer {MASK}"
            yield request
        elif isinstance(own, SigningAuth) and signs_in_place(own):
            own.sign(request)
            yield request
        else:
            async with aclosing(own.async_auth_flow(request)) as flow:
                yield await anext(flow)


def _disconnect(stream: HttpStream, recorder: _Recorder) -> None:
    """Have a stream send its requests to the recorder, whatever its class and its Source declare.

    The stream becomes one of a subclass, since neither an attribute of the instance nor an option of the Source
    overrides what the class declares as a property.
    """
    declared: Any = type(stream)

    def authenticator(self: HttpStream) -> httpx.Auth | None:
        found = vars(self).get("authenticator")
        found = super(disconnected, self).authenticator if found is None else found
        return None if found is None else _ObservedAuth(found, recorder)

    attributes = {
        "__slots__": (),
        "__module__": declared.__module__,
        "authenticator": property(authenticator),
        "transport": property(lambda self: recorder.transport),
        "use_cache": property(lambda self: False),
    }
    disconnected: Any = type(declared.__name__, (declared,), attributes)
    stream.__class__ = disconnected


def _header_name(name: str) -> str:
    return "-".join([part.capitalize() for part in name.split("-")])


def _masked_header(value: str) -> str:
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space and scheme.isalpha() else MASK


def _masked(text: str, secrets: set[str]) -> str:
    if text in secrets:
        return MASK
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, MASK)
    return text


def _shown_body(content: bytes, secrets: set[str]) -> str:
    """The body as text: JSON and forms with the values of secret names masked, other bodies by their size."""
    try:
        text = encode(_masked_json(decode(content), secrets)).decode()
    except MalformedJSON:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return f"({len(content):,} bytes)"
        if re.fullmatch(r"[\w.~%+*\[\]-]+=[^\s&]*(&[\w.~%+*\[\]-]+=[^\s&]*)*", text):
            fields = parse_qsl(text, keep_blank_values=True)
            text = "&".join(
                [f"{name}={MASK if is_secret_name(name) else _masked(value, secrets)}" for name, value in fields]
            )
        else:
            text = _masked(text, secrets)
    return text if len(text) <= _MAX_BODY_CHARS else f"{text[:_MAX_BODY_CHARS]}... ({len(content):,} bytes)"


def _masked_json(value: Any, secrets: set[str]) -> Any:
    if (fields := as_object(value)) is not None:
        return {
            name: MASK if is_secret_name(name) and not isinstance(inner, dict | list) else _masked_json(inner, secrets)
            for name, inner in fields.items()
        }
    if (items := as_array(value)) is not None:
        return [_masked_json(item, secrets) for item in items]
    return _masked(value, secrets) if isinstance(value, str) else value
