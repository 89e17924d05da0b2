"""The final request that an authenticator signs, and what goes out after it has."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import cast

import httpx

from ..auth.authenticators import SigningAuth
from ..errors import ConfigError
from ..messages import Request

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
