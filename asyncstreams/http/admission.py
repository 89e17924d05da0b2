"""Admission of the requests of one stream: the token and the quota of each, and their waits."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import httpx

from ..auth.authenticators import MultipleTokenAuthenticator, SigningAuth
from ..clock import Clock
from ..declaration.stream import Stream
from ..errors import HostUnavailable, RateLimitWaitTooLong
from ..events import EventEmitter, WaitStarted
from ..models import RateLimit
from ..protocols import RequestSlot
from ..rate_limits.governor import Governor, Permit, PermitRequest, PermitWaits, QuotaClient
from ..rate_limits.wait_reason import LONG_WAIT_S, Wait, WaitReason
from .origin import Origin
from .request_builder import Attempt
from .session import Session

# Another wait is announced only if it ends later than the last announced one by its own length, within
# these bounds: a rate limit causes many short waits.
_MIN_EXTENSION_S, _MAX_EXTENSION_S = 1.0, 10.0
_MIN_LOGGED_S = 5.0
_WAIT_TOLERANCE_S = 1.01  # by which an accepted wait may have grown
_YEAR_S = 366 * 86_400
_log = logging.getLogger("asyncstreams")


class CurrentWait(NamedTuple):
    """`requests` that wait for one reason, for about `seconds` more; infinity if the end is unknown."""

    reason: str
    requests: int
    seconds: float


class WaitTracker:
    """The waits of one stream's requests in one session, by reason."""

    def __init__(self, stream_name: str, events: EventEmitter, clock: Clock) -> None:
        self._stream_name, self._events, self._clock = stream_name, events, clock
        self._counts: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._announced_until: dict[str, float] = {}

    @contextmanager
    def track(self, reason: str, seconds: float) -> Generator[None]:
        """Count a request as waiting inside the block, for about `seconds`; infinity if the end is unknown."""
        until = self._clock.monotonic() + seconds
        self._counts[reason] = self._counts.get(reason, 0) + 1
        # A known end replaces an unknown one.
        previous = self._ends.get(reason, 0.0)
        self._ends[reason] = until if previous == math.inf else max(until, previous)
        try:
            yield
        finally:
            self._counts[reason] -= 1

    @contextmanager
    def announce(self, reason: str, seconds: float) -> Generator[None]:
        """Count a request as waiting, and emit WaitStarted once per wait: many requests may share it.

        A wait of more than 5 s is logged, too.
        """
        now = self._clock.monotonic()
        extension = max(_MIN_EXTENSION_S, min(seconds, _MAX_EXTENSION_S))
        if now + seconds > self._announced_until.get(reason, -math.inf) + extension:
            self._announced_until[reason] = now + seconds
            self._events.emit(WaitStarted(self._stream_name, reason, seconds))
            if seconds > _MIN_LOGGED_S:
                duration = "" if seconds == math.inf else f", about {seconds:.1f} s"
                _log.info("%s: waits for %s%s", self._stream_name, reason, duration)
        with self.track(reason, seconds):
            yield

    def current(self) -> Sequence[CurrentWait]:
        """What requests wait for now."""
        now = self._clock.monotonic()
        return [
            CurrentWait(reason, count, max(0.0, self._ends[reason] - now))
            for reason, count in self._counts.items()
            if count
        ]

    def __str__(self) -> str:
        """The current waits with their reasons; empty if there are none."""
        return ", ".join(
            f"{wait.requests} {_verb(wait.requests)} for {wait.reason}{_until(wait.seconds)}" for wait in self.current()
        )


class Admission(PermitWaits):
    """Chooses the token and the governor of each request, and bounds and tracks the waits for permits."""

    def __init__(
        self,
        stream: Stream,
        session: Session,
        authenticator: httpx.Auth | None,
        base_origin: Origin,
        wait_tracker: WaitTracker,
    ) -> None:
        self._stream, self._session, self._authenticator = stream, session, authenticator
        self.wait_tracker = wait_tracker
        self._base_origin = base_origin
        self._base_client: QuotaClient | None = None
        """The client of the usual requests, unless each is sent with one of several tokens."""
        self._clients: dict[Governor, QuotaClient] = {}
        self._tokens: TokenList | None = None
        if isinstance(authenticator, MultipleTokenAuthenticator) and authenticator.sends_listed_tokens:
            self._tokens = TokenList(authenticator, session, self)

    def permit(self, origin: Origin, attempt: Attempt, *, has_credential: bool) -> PermitRequest:
        """A permit for a request to this origin, to be held until its response has been read."""
        is_usual = has_credential and origin is self._base_origin
        client = self._base_client if is_usual else None
        if client is None and has_credential and self._tokens is not None:
            return self._tokens.permit(origin, attempt.slot)
        if client is None:
            governor = self._governor_for(origin, has_credential=has_credential)
            # The declared limits are those of the credential.
            client = self.client_of(governor, has_declared_limits=has_credential)
            self._base_client = client if is_usual else self._base_client
        return client.governor.permit(client, attempt.slot, self)

    def default_governor(self, origin: Origin) -> Governor:
        """The governor of a request to this origin that was not sent."""
        if self._tokens is not None:
            return self._tokens.best_client(origin).governor
        return self._governor_for(origin, has_credential=True)

    def credential_of(self, permit: Permit) -> httpx.Auth | None:
        """What signs a request with this permit: the authenticator, or one of its tokens."""
        return self._authenticator if self._tokens is None else self._tokens.token_of(permit.client)

    def has_spare_token(self, permit: Permit | None) -> bool:
        """Whether another token is left in place of the one that was sent under this permit."""
        return self._tokens is not None and permit is not None and self._tokens.has_spare(permit.client)

    def has_usable_token(self, origin: Origin, permit: Permit) -> bool:
        """Whether a request that was refused under this permit can be sent now with another token."""
        return self._tokens is not None and self._tokens.has_usable(origin, permit.client)

    def drop_token(self, permit: Permit | None) -> None:
        """Stop using the token that was sent under this permit."""
        if self._tokens is not None and permit is not None:
            self._tokens.drop(permit.client)

    def client_of(self, governor: Governor, *, has_declared_limits: bool = True) -> QuotaClient:
        """The stream's client of a governor."""
        client = self._clients.get(governor)
        if client is not None:
            return client
        stream = self._stream
        limits = stream.resolved.rate_limit if has_declared_limits else None
        declared = () if limits is None else (limits,) if isinstance(limits, RateLimit) else tuple(limits)
        client = self._clients[governor] = governor.add_client(
            stream.name,
            stream.resolved.weight,
            declared,
            stream.resolved.rate_limit_cost,
            adaptive=stream.resolved.adaptive,
            accept_long_waits=False,
        )
        return client

    def track(self, wait: Wait, client: QuotaClient) -> AbstractContextManager[None]:
        """Track a wait. Raises RateLimitWaitTooLong, or HostUnavailable for a host that is down for too long."""
        stream, down_for = self._stream, client.governor.down_for
        if (
            wait.reason in (WaitReason.PAUSED, WaitReason.QUOTA)
            and stream.resolved.max_server_wait + _WAIT_TOLERANCE_S < wait.seconds < math.inf
        ):
            reason = "the API asked for a pause" if wait.reason is WaitReason.PAUSED else "its quota is used up"
            raise wait_too_long(stream, reason, wait.seconds, self._session.clock.wall())
        if down_for > stream.resolved.outage_timeout:
            raise HostUnavailable(
                f"no successful response for {down_for:.0f} s despite repeated probes",
                hint="start again after the host has recovered, or raise outage_timeout",
            )
        is_long = wait.reason is WaitReason.HOST_DOWN or LONG_WAIT_S <= wait.seconds < math.inf
        return (self.wait_tracker.announce if is_long else self.wait_tracker.track)(wait.reason, wait.seconds)

    @property
    def in_flight(self) -> int:
        """Requests of the stream that have been sent, and whose responses have not been read yet."""
        return sum(client.in_flight for client in self._clients.values())

    @property
    def max_rate(self) -> float | None:
        """Requests a second that the limits of the origins that received requests allow; None if none is known."""
        rates = [governor.max_rate(client) for governor, client in self._clients.items()]
        known = [rate for rate in rates if rate is not None]
        # Several tokens have a quota each.
        return None if not known else sum(known) if self._tokens is not None else min(known)

    def wait_reasons(self) -> Sequence[str]:
        """What the waiting requests of the stream wait for at this moment, which may differ from what it was before."""
        queued = [(governor, client) for governor, client in self._clients.items() if client.waiting]
        found = [wait.reason for governor, client in queued if (wait := governor.current_wait(client)) is not None]
        return found or [wait.reason for wait in self.wait_tracker.current()]

    @property
    def is_paused_by_api(self) -> bool:
        """Whether the API ordered the last pause of one of the quotas."""
        return any(governor.is_pause_ordered for governor in self._clients)

    def describe_limits(self) -> str:
        """The limits known for the origins that received requests, as text."""
        return ", ".join(filter(None, (governor.describe_limits(client) for governor, client in self._clients.items())))

    def _governor_for(self, origin: Origin, *, has_credential: bool) -> Governor:
        if not has_credential:
            return self._session.governor_for(origin, None)
        return self._session.governor_for(origin, self._authenticator, self._stream.resolved.quota_group)

    def governor_of_token(self, origin: Origin, token: SigningAuth) -> Governor:
        """The governor of one of several tokens, which share the state of the host."""
        return self._session.governor_for(origin, token, self._stream.resolved.quota_group, one_of=self._authenticator)


class TokenList:
    """The tokens of a MultipleTokenAuthenticator, each with a quota of its own."""

    def __init__(self, authenticator: MultipleTokenAuthenticator, session: Session, admission: Admission) -> None:
        self._authenticator, self._admission = authenticator, admission
        shared = map(session.credential_for, authenticator.authenticators)
        self._tokens: Sequence[SigningAuth] = [token for token in shared if isinstance(token, SigningAuth)]
        self._positions: dict[QuotaClient, int] = {}

    def permit(self, origin: Origin, slot: RequestSlot | None) -> PermitRequest:
        """A permit for the token that is best when it is granted."""
        client = self.choose_client(origin)
        return client.governor.permit(client, slot, TokenWaits(self._admission, self, origin))

    def choose_client(self, origin: Origin) -> QuotaClient:
        """The client of the token that is best now, whose turn ends with this request."""
        client = self.best_client(origin)
        self._authenticator.end_turn(self._positions[client])
        return client

    def best_client(self, origin: Origin) -> QuotaClient:
        """The client of the token that is best now."""
        return self._rank(origin)[0][1]

    def token_of(self, client: QuotaClient) -> SigningAuth:
        return self._tokens[self._positions[client]]

    def has_spare(self, client: QuotaClient) -> bool:
        """Whether another token than that of this client is left."""
        position = self._positions.get(client)
        return position is not None and any(other != position for other in self._authenticator.turns())

    def has_usable(self, origin: Origin, client: QuotaClient) -> bool:
        """Whether another token than that of this client can be sent now."""
        return client in self._positions and any(
            is_usable and other is not client for is_usable, other in self._rank(origin)
        )

    def drop(self, client: QuotaClient) -> None:
        """Stop using the token of this client."""
        if (position := self._positions.get(client)) is not None:
            self._authenticator.drop(position)

    def _rank(self, origin: Origin) -> list[tuple[bool, QuotaClient]]:
        """The clients of the tokens from the best one, and whether each is neither paused nor used up.

        Those with the shortest wait come first; of these the one with most requests left, unknown ones in turn.
        """
        ranks: list[tuple[float, float, bool, QuotaClient]] = []
        for position in self._authenticator.turns():
            client = self._admission.client_of(self._admission.governor_of_token(origin, self._tokens[position]))
            self._positions[client] = position
            wait = client.governor.current_wait(client)
            is_usable = wait is None or wait.reason not in (WaitReason.PAUSED, WaitReason.QUOTA)
            # A wait without a known end ends with a response.
            seconds = 0.0 if wait is None else wait.seconds if wait.seconds < math.inf else LONG_WAIT_S / 2
            ranks.append((seconds, -client.governor.requests_left, is_usable, client))
        ranks.sort(key=lambda rank: rank[:2])  # stable: equal ones stay in turn
        return [rank[2:] for rank in ranks]


class TokenWaits(PermitWaits):
    """The waits of one request that can be sent with any of several tokens."""

    def __init__(self, admission: Admission, tokens: TokenList, origin: Origin) -> None:
        self._admission, self._tokens, self._origin = admission, tokens, origin

    def track(self, wait: Wait, client: QuotaClient) -> AbstractContextManager[None]:
        """Track a wait for the quota of one token. Raises as `Admission.track`."""
        return self._admission.track(wait, client)

    def choose_client(self, client: QuotaClient) -> QuotaClient:
        """The client of the token that is best now."""
        return self._tokens.choose_client(self._origin)


def wait_too_long(stream: Stream, reason: str, delay: float, wall: float) -> RateLimitWaitTooLong:
    """The error for a wait of `delay` seconds from `wall`, which names the time of the next request."""
    moment = ""
    if delay <= _YEAR_S:
        moment = f", at {datetime.fromtimestamp(wall + delay, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return RateLimitWaitTooLong(
        f"{reason}; the next request is allowed in {delay:,.0f} s{moment}",
        hint=f"start again then, or raise max_server_wait (now {stream.resolved.max_server_wait:g} s)",
    )


def _until(seconds: float) -> str:
    return "" if seconds == math.inf else f", {seconds:.1f} s more"


def _verb(count: int) -> str:
    return "request waits" if count == 1 else "requests wait"
