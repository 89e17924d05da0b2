"""One attempt of a request: origin, permit, signing, sending, and its redirects."""

from __future__ import annotations

from collections.abc import Awaitable

import httpx

from ..auth.authenticators import SigningAuth
from ..declaration.stream import Stream
from ..errors import HttpStatusError
from ..events import EventEmitter
from ..messages import Request, Response
from ..rate_limits.governor import Governor
from .admission import Admission, WaitTracker
from .dispatcher import Dispatcher
from .origin import Origin, OriginPattern
from .origin_guard import OriginGuard, header_pairs, url_of
from .redirects import MAX_REDIRECTS
from .request_builder import Attempt
from .session import Session
from .signing import FlowSender, complete_request, needs_final_request, signs_in_place


class RequestSender:
    """Sends the attempts of one stream's client, for one session.

    Every request acquires a permit from its governor, and is signed afterwards.
    """

    def __init__(
        self,
        stream: Stream,
        session: Session,
        allowed: frozenset[Origin],
        uncredentialed: tuple[OriginPattern, ...],
        wait_tracker: WaitTracker,
        events: EventEmitter,
    ) -> None:
        self._stream, self._session, self._events = stream, session, events
        # Read once: a property may return a new authenticator each time.
        self._authenticator = session.credential_for(stream.resolved.authenticator)
        self._guard = OriginGuard(stream, allowed, uncredentialed, self._authenticator, session.secrets)
        self.admission = Admission(stream, session, self._authenticator, self._guard.base_origin, wait_tracker)
        self.dispatcher = Dispatcher(stream, session, self._guard, self._authenticator)
        self._needs_final_request = needs_final_request(self._authenticator)
        self._flow: FlowSender | None = None
        if self._authenticator is not None and not signs_in_place(self._authenticator):
            self._flow = FlowSender(stream, session, self._authenticator, self.admission, self.dispatcher)

    def send(self, request: httpx.Request, attempt: Attempt) -> Awaitable[Response]:
        """Sign and send a request, and follow redirects if its options ask for it.

        The outcome is noted in the attempt. A middleware may send several requests in one attempt.
        """
        is_plain = attempt.redirected is None and not attempt.options.follow_redirects
        if is_plain and self._guard.is_own(request):
            return self._send_hop(request, attempt, self._guard.base_origin)
        return self._send_and_follow(request, attempt)

    def governor_for(self, request: httpx.Request, attempt: Attempt) -> Governor:
        """The governor under which an attempt was sent or, if a middleware answered it, would have been."""
        if attempt.permit is not None:
            return attempt.permit.governor
        return self.admission.default_governor(self._guard.origin_for(request, has_credential=False))

    def can_switch_token(self, request: httpx.Request, attempt: Attempt) -> bool:
        """Whether a request that was refused can be sent now with another token than before."""
        if attempt.permit is None or attempt.without_credential:
            return False
        return self.admission.has_usable_token(self._guard.origin_for(request), attempt.permit)

    def refresh_credential(self, request: httpx.Request, attempt: Attempt, *, drops_token: bool) -> None:
        """Drop the token of a list with which a request was refused, or have the authenticator renew its token."""
        if drops_token:
            self.admission.drop_token(attempt.permit)
        elif (invalidate_token := getattr(self._authenticator, "invalidate_token", None)) is not None:
            invalidate_token(request)

    async def _send_and_follow(self, request: httpx.Request, attempt: Attempt) -> Response:
        """Send a request to any origin, and follow its redirects."""
        has_credential = not (request is attempt.redirected and attempt.without_credential)
        if has_credential and not self._guard.is_own(request):
            permitted = self._guard.permitted_request(request)
            has_credential, request = permitted is request, permitted
        attempt.redirected = None
        unsigned = list(header_pairs(request))
        hops = 0
        while True:
            origin = self._guard.origin_for(request, has_credential=has_credential)
            response = await self._send_hop(request, attempt, origin, has_credential=has_credential)
            if not (attempt.options.follow_redirects and response.has_redirect_location):
                return response
            if hops == MAX_REDIRECTS:
                target = self._session.secrets.mask_url(response.headers["location"])
                problem = f"redirected more than {MAX_REDIRECTS} times, the last time to {target!r}"
                raise HttpStatusError(problem, status=response.status_code)
            request, has_credential = await self._guard.redirected_request(
                request,
                response,
                unsigned,
                was_own=has_credential,
                looks_up_names=self.dispatcher.looks_up_names,
            )
            attempt.redirected = request
            hops += 1

    async def _send_hop(
        self, request: httpx.Request, attempt: Attempt, origin: Origin, *, has_credential: bool = True
    ) -> Response:
        """Acquire a permit, sign and send; additional requests of an authenticator acquire their own permits.

        Listeners may set headers before the request is signed, but only on its way to the origin of `url_base`.
        """
        attempt.without_credential = not has_credential
        async with self.admission.permit(origin, attempt, has_credential=has_credential) as permit:
            attempt.add_permit(permit)
            if not has_credential:
                return await self.dispatcher.send(request, attempt, permit, None, has_credential=False)
            if self._events and origin == self._guard.base_origin:
                self._events.prepare_request(request)
            credential = self.admission.credential_of(permit)
            if self._session.cookies and self._stream.resolved.cookies:
                request = self._with_cookies(request, origin, credential)
            if self._flow is not None:
                return await self._flow.send(request, attempt, permit, origin)
            if isinstance(credential, SigningAuth):
                if self._needs_final_request and isinstance(request, Request):
                    complete_request(request)
                credential.sign(request)
            return await self.dispatcher.send(request, attempt, permit, credential)

    def _with_cookies(self, request: httpx.Request, origin: Origin, credential: httpx.Auth | None) -> httpx.Request:
        """The request with the cookies that are kept for it. The given one stays as it is: it may be sent again."""
        jar = self._session.cookies.jar_for(origin, credential)
        if not jar:
            return request
        pairs = header_pairs(request)
        given = "; ".join([value for name, value in pairs if name.lower() == "cookie"])
        cookies = jar.header(url_of(request), self._session.clock.wall(), given)
        if cookies == given:
            return request
        headers = [pair for pair in pairs if pair[0].lower() != "cookie"]
        headers.append(("Cookie", cookies))
        content, extensions = request.read(), request.extensions
        return Request(request.method, url_of(request), headers=headers, content=content, extensions=extensions)
