"""Check of the origin of each request of a stream, and requests that go without the credential."""

from __future__ import annotations

import asyncio
import logging
import socket

import httpx

from ..auth.authenticators import held_secrets
from ..declaration.stream import Stream
from ..errors import ConfigError, CrossOriginLink
from ..messages import Request, Response
from ..redaction import RevealedSecrets, safe_url
from .origin import Origin, OriginPattern, absolute_url, cross_origin_error, is_private_address, origin_of
from .redirects import carries_secret, header_secrets, parameter_secrets, redirect_target
from .request_builder import DEFAULT_HEADERS
from .send_options import SendOptions
from .session import uses_proxy

_log = logging.getLogger("asyncstreams")
_KEPT_EXTENSIONS = ("asyncstreams", "timeout")


class OriginGuard:
    """Lets the requests of one stream go to its origins, and others only without anything of the stream.

    `credential` is the stream's authenticator. `secrets` are those that requests revealed.
    """

    def __init__(
        self,
        stream: Stream,
        allowed: frozenset[Origin],
        uncredentialed: tuple[OriginPattern, ...],
        credential: httpx.Auth | None,
        secrets: RevealedSecrets,
    ) -> None:
        self.base_origin = origin_of(stream.url_base)
        self._base_prefix = f"{self.base_origin}/"
        self._stream = stream
        self.allowed_origins = allowed
        self._uncredentialed = uncredentialed
        self._credential = credential
        self._secrets = secrets
        self._has_logged = False
        self._is_base_private: bool | None = None

    def is_own(self, request: httpx.Request) -> bool:
        """Whether a request goes to the origin of `url_base`, as its URL is usually written."""
        return url_of(request).startswith(self._base_prefix)

    def origin_for(self, request: httpx.Request, *, has_credential: bool = True) -> Origin:
        """The origin of a request, checked before any connection, also after changes by middleware and signing.

        Without the stream's credential, a request may follow redirects to any origin.
        """
        url = url_of(request)
        if url.startswith(self._base_prefix):
            return self.base_origin
        try:
            _, origin = absolute_url(url, url)
        except ValueError as error:
            raise CrossOriginLink(f"links to a URL that cannot be requested ({error}): {safe_url(url)!r}") from None
        if (
            origin in self.allowed_origins
            or not has_credential
            or any(pattern.matches(origin) for pattern in self._uncredentialed)
        ):
            return origin
        raise cross_origin_error(origin)

    def permitted_request(self, request: httpx.Request) -> httpx.Request:
        """The request itself or, if it goes to one of the `uncredentialed_origins`, one without the credential.

        Raises CrossOriginLink for any other origin and for a URL that contains the credential, and ConfigError for a
        body.
        """
        origin = self.origin_for(request)
        if origin in self.allowed_origins:
            return request
        has_body = bool(getattr(request, "_content", b""))
        if has_body or request.method not in ("GET", "HEAD"):
            body = " with a body" if request.method in ("GET", "HEAD") else ""
            raise ConfigError(
                f"{type(self._stream).__name__}: a {request.method}{body} would go to {origin}, one of the "
                "uncredentialed_origins, which receive only GET and HEAD requests without a body",
                hint="move it to allowed_origins; the credential is then also sent there",
            )
        url = url_of(request)
        if carries_secret(url, {*held_secrets(self._credential), *header_secrets(request)}):
            raise CrossOriginLink(
                f"links to {origin}, one of the uncredentialed_origins, with the credential in the URL: nothing was "
                "sent there",
                hint="move it to allowed_origins if it may receive the credential",
            )
        self._log_omissions(request, origin)
        return _bare_request(request, url)

    async def redirected_request(
        self,
        request: httpx.Request,
        response: Response,
        headers: list[tuple[str, str]],
        *,
        was_own: bool,
        looks_up_names: bool,
    ) -> tuple[Request, bool]:
        """The request that follows a redirect of `request`, and whether the credential goes along.

        `headers` are those of `request` before it was signed. `was_own`: it had the credential. Once a chain of
        redirects has left the stream's origins, no later request has it. Raises CrossOriginLink or HttpStatusError
        for a redirect that is not followed.
        """
        url, origin, is_own = redirect_target(
            request,
            response,
            self.allowed_origins if was_own else frozenset(),
            allows_private=self.base_origin.is_private,
            show_url=self._secrets.mask_url,
        )
        if is_own:
            extensions = dict(request.extensions)
            content = request.read()
            return Request(request.method, url, headers=list(headers), content=content, extensions=extensions), True
        secrets = set(held_secrets(self._credential))
        if was_own:
            sent = response.request
            secrets.update(self._secrets, header_secrets(sent), parameter_secrets(sent))
        if carries_secret(url, secrets):
            raise CrossOriginLink(
                f"redirects to another origin, {origin}, with the credential in the URL: nothing was sent there",
                status=response.status_code,
                hint=f'if the API continues there, declare allowed_origins = ("{origin}",)',
            )
        if looks_up_names and await self._leaves_public_network(origin, request.extensions["asyncstreams"].options):
            raise CrossOriginLink(
                f"redirects to {origin}, whose address is not public: nothing was sent there",
                status=response.status_code,
            )
        return _bare_request(request, url), False

    async def _leaves_public_network(self, origin: Origin, options: SendOptions) -> bool:
        """Whether a name has a private address, and that of the stream has none. A proxy looks names up itself."""
        if uses_proxy(origin, options.client):
            return False
        if self._is_base_private is None:
            self._is_base_private = await _has_private_address(self.base_origin, options.timeouts.connect)
        return not self._is_base_private and await _has_private_address(origin, options.timeouts.connect)

    def _log_omissions(self, request: httpx.Request, origin: Origin) -> None:
        if self._has_logged:
            return
        self._has_logged = True
        known = {name.lower() for name, _ in DEFAULT_HEADERS}
        custom = sorted({name for name, _ in header_pairs(request) if name.lower() not in known})
        omitted = f"credential, cookies and {', '.join(custom)}" if custom else "credential and cookies"
        _log.info("%s: requests to %s go without %s", self._stream.name, origin, omitted)


def url_of(request: httpx.Request) -> str:
    """The URL of a request, exactly as it is sent if the request is of our own class."""
    return request.url_text if isinstance(request, Request) else str(request.url)


def header_pairs(request: httpx.Request) -> list[tuple[str, str]]:
    """Header names and values in the order in which they are sent."""
    return request.header_pairs() if isinstance(request, Request) else request.headers.multi_items()


def _bare_request(request: httpx.Request, url: str) -> Request:
    """A request that contains nothing of the stream but its method and URL."""
    extensions = {name: request.extensions[name] for name in _KEPT_EXTENSIONS if name in request.extensions}
    return Request(request.method, url, headers=list(DEFAULT_HEADERS), extensions=extensions)


async def _has_private_address(origin: Origin, seconds: float) -> bool:
    """Whether a host is, or its name leads to, an address that is not public. A name that cannot be found has none."""
    if origin.is_private:
        return True
    try:
        async with asyncio.timeout(seconds):
            found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except OSError:  # also TimeoutError: the request itself will report it
        return False
    return any(is_private_address(str(entry[4][0])) for entry in found)
