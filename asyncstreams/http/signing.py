"""Signing of requests: the final request for an authenticator, and flows of several requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import httpx

from ..auth.authenticators import RenewingAuth, SigningAuth, held_secrets
from ..content.error_text import error_text
from ..declaration.stream import Stream
from ..errors import AsyncStreamsError, ConfigError, HttpStatusError
from ..messages import Request, Response
from ..rate_limits.governor import Permit
from ..rate_limits.retry_after import retry_after
from ..redaction import safe_url, sent_secrets
from .admission import Admission
from .dispatcher import Dispatcher, discard, to_request
from .origin import Origin, origin_of
from .request_builder import Attempt
from .response_errors import is_transient
from .send_options import SendOptions
from .session import Session

T = TypeVar("T")
AuthFlow: TypeAlias = AsyncGenerator[httpx.Request, Response]

_CHANNEL_KEY = "channel"  # for our transport: requests with the same object use connections of their own
_TOKEN_ENDPOINT = object()
_RENEWAL_GRACE_S = 10.0
_WITHOUT_BODY = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"))


def signs_in_place(authenticator: httpx.Auth | None) -> bool:
    """Whether an authenticator signs by `sign` alone: it has no flow of its own."""
    if not isinstance(authenticator, SigningAuth):
        return False
    kind = type(authenticator)
    return kind.auth_flow is SigningAuth.auth_flow and kind.async_auth_flow is httpx.Auth.async_auth_flow


def needs_final_request(authenticator: httpx.Auth | None) -> bool:
    """Whether an authenticator may sign more than it adds. Those of this package only add a credential."""
    if authenticator is None:
        return False
    signer = getattr(type(authenticator), "sign", None) if signs_in_place(authenticator) else type(authenticator)
    return getattr(signer, "__module__", "").partition(".")[0] != "asyncstreams"


def complete_request(request: Request) -> None:
    """Give a request the URL and all headers with which it goes out, so that an authenticator can sign them."""
    # The text of a URL may differ from what httpx makes of it, which is what an authenticator sees.
    request.url = url = request.url
    headers = list(request.header_pairs())
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.insert(0, ("Host", url.netloc.decode("ascii")))
    size = len(request.content)
    if "content-length" not in names and (size or request.method not in _WITHOUT_BODY):
        headers.append(("Content-Length", str(size)))
    request.replace_headers(headers)


async def final_request(outgoing: httpx.Request, request: Request, body: object) -> Request:
    """The request that an authenticator yielded, as it goes out: `request` itself, or another one in its place.

    `body` is the stream of `request` before the authenticator received it. Raises ConfigError for a length that is
    not that of the body.
    """
    if not isinstance(outgoing, Request):
        content = await outgoing.aread()
        headers = [pair for pair in outgoing.headers.multi_items() if pair[0].lower() != "transfer-encoding"]
        extensions = {**request.extensions, **outgoing.extensions}
        outgoing = Request(outgoing.method, str(outgoing.url), headers=headers, content=content, extensions=extensions)
    elif outgoing.stream is not body:
        outgoing.replace_body(await _read(outgoing.stream))
    size = str(len(outgoing.content))
    for name, value in outgoing.header_pairs():
        if name.lower() == "content-length" and value != size:
            raise ConfigError(
                f"the Content-Length of the signed request is {value}, but its body has {size} bytes",
                hint="an authenticator that replaces the body must replace Content-Length, too",
            )
        if name.lower() == "transfer-encoding":
            raise ConfigError("an authenticator set Transfer-Encoding: bodies are sent with their length")
    return outgoing


async def _read(stream: httpx.SyncByteStream | httpx.AsyncByteStream) -> bytes:
    if isinstance(stream, AsyncIterable):
        return b"".join([chunk async for chunk in stream])
    return b"".join(cast(Iterable[bytes], stream))


class FlowSender:
    """Sends what the authenticator of a stream yields, if it has a flow of its own."""

    def __init__(
        self,
        stream: Stream,
        session: Session,
        authenticator: httpx.Auth,
        admission: Admission,
        dispatcher: Dispatcher,
    ) -> None:
        self._stream, self._session, self._authenticator = stream, session, authenticator
        self._admission, self._dispatcher = admission, dispatcher
        self._needs_final_request = needs_final_request(authenticator)

    async def send(self, request: httpx.Request, attempt: Attempt, permit: Permit, origin: Origin) -> Response:
        """Send what the authenticator yields, which may be several requests, until its flow ends.

        They go over one connection, which has no other user until then: some handshakes authenticate a connection
        (NTLM), which no other credential may use afterwards.
        """
        own_request = request if isinstance(request, Request) else to_request(request)
        if self._needs_final_request:
            complete_request(own_request)
        flow = self._authenticator.async_auth_flow(own_request)
        if isinstance(self._authenticator, RenewingAuth):
            return await self._follow(flow, own_request, attempt, permit, origin)
        idle = self._session.idle_channels(self._authenticator) if attempt.options.client.reuse else []
        channel = own_request.extensions[_CHANNEL_KEY] = idle.pop() if idle else object()
        response = await self._follow(flow, own_request, attempt, permit, origin)
        if response.has_body:
            idle.append(channel)
        return response

    async def _follow(
        self, flow: AuthFlow, request: Request, attempt: Attempt, permit: Permit, origin: Origin
    ) -> Response:
        """Send the requests of a flow; the given permit is released after the first one."""
        body = request.stream
        async with aclosing(flow):
            try:
                outgoing = await anext(flow)
                own = _is_stream_request(outgoing, request)
                response = await self._send_signed(outgoing, request, body, attempt, permit) if own else None
            finally:
                permit.governor.release(permit)
            while True:
                if response is not None:
                    received, following = response, await _next_request(flow, response)
                else:  # a token must be fetched first, without the permit
                    received, following = await _complete_renewal(self._renew(flow, outgoing, attempt.options))
                    if following is None:
                        raise ConfigError(
                            f"{type(self._authenticator).__name__}: auth_flow ended without the request of the stream",
                            hint="yield the given request, or one with the same method and URL; only those to a token "
                            "endpoint may differ",
                        )
                if following is None:
                    return received
                await discard(received)
                outgoing, response = following, None
                if _is_stream_request(outgoing, request):
                    async with self._admission.permit(origin, attempt, has_credential=True) as permit:
                        attempt.add_permit(permit)
                        response = await self._send_signed(outgoing, request, body, attempt, permit)

    async def _send_signed(
        self, outgoing: httpx.Request, request: Request, body: object, attempt: Attempt, permit: Permit
    ) -> Response:
        signed = await final_request(outgoing, request, body)
        return await self._dispatcher.send(signed, attempt, permit, self._authenticator)

    async def _renew(
        self, flow: AuthFlow, outgoing: httpx.Request, options: SendOptions
    ) -> tuple[Response, httpx.Request | None]:
        """The response of a token endpoint, and the next request of the authenticator.

        The authenticator receives the response without a permit: a rotated token must not wait for a pause.
        """
        response = await self._fetch_token(outgoing, options)
        return response, await _next_request(flow, response)

    async def _fetch_token(self, request: httpx.Request, options: SendOptions) -> Response:
        """The response of a token endpoint. Raises a retryable error if the endpoint fails."""
        origin = origin_of(str(request.url))
        self._dispatcher.require_encryption([origin])
        governor = self._session.governor_for(origin, _TOKEN_ENDPOINT)
        request.extensions = {**request.extensions, "timeout": {"connect": options.timeouts.connect}}
        failure: AsyncStreamsError | None = None
        try:
            async with governor.permit(governor.add_client("token", adaptive=False)):
                response = await self._dispatcher.send_token_request(request, options)
        except httpx.TransportError as error:
            failure = self._dispatcher.to_error(error, request)
            failure.args = (f"the token endpoint {failure.message}",)
        else:
            if not is_transient(response.status_code):
                return response
            said = error_text(response, {*sent_secrets(request), *held_secrets(self._authenticator)})
            failure = HttpStatusError(
                f"the token endpoint answered {response.status_code}" + (f': "{said}"' if said else ""),
                status=response.status_code,
            )
            failure.retryable = True
            if (wait := retry_after(response, self._session.clock.wall())) is not None:
                governor.pause_for(min(wait, self._stream.resolved.max_server_wait))
        raise failure.locate(url=safe_url(str(request.url)), method=request.method)


def _is_stream_request(outgoing: httpx.Request, request: httpx.Request) -> bool:
    """Whether an authenticator's request is that of the stream, and not one to its token endpoint."""
    if outgoing is request:
        return True
    same_url = outgoing.url.copy_with(query=None) == request.url.copy_with(query=None)
    return same_url and outgoing.method == request.method


async def _next_request(flow: AuthFlow, response: Response) -> httpx.Request | None:
    """The authenticator's next request after a response; None after the last one."""
    try:
        return await flow.asend(response)
    except StopAsyncIteration:
        return None


async def _complete_renewal(renewal: Coroutine[Any, Any, T]) -> T:
    """Run a token renewal to its end, for at most ten more seconds if the caller is cancelled.

    A rotated token whose response is lost cannot be fetched again. The renewal is a task, because no cancel
    scope shields from a plain `Task.cancel()`; the task ends before this function returns.
    """
    task = asyncio.ensure_future(renewal)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled scope would cancel the wait again and again.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_RENEWAL_GRACE_S)
        raise
    finally:
        task.cancel()
        while not task.done():  # the authenticator may not be used again before it has finished
            with suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # already raised, or the caller is cancelled
