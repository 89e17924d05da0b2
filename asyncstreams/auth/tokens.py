"""OAuth2 tokens: what one token response contains, where it is kept between runs, and who shares it in a process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

from ..clock import Clock
from ..models import Secret

_POLL_S = 0.05  # of a lock that another thread holds
_MAX_KNOWN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Oauth2Tokens:
    """The tokens of one token response, as passed to `on_refresh` and to a TokenStore.

    access_token: the new access token.
    refresh_token: the rotated refresh token; None if the previous one remains valid. A TokenStore receives the one
        that is valid now.
    lifetime: seconds until the access token expires; 3600 if the endpoint does not state it.
    expires_at: when it expires, in seconds since 1970; None if unknown. It is not compared.
    """

    access_token: Secret
    refresh_token: Secret | None
    lifetime: float
    expires_at: float | None = field(default=None, compare=False, repr=False)


class TokenStore(Protocol):
    """Where an Oauth2Authenticator keeps its tokens between runs, shared by processes: `token_store=`.

    `key` identifies client, account and scopes, and contains no secret. Two stores that keep the same tokens should
    compare equal.
    """

    def exclusive(self, key: str, /) -> AbstractAsyncContextManager[Oauth2Tokens | None]:
        """Hold the lock of this key, over all processes, and give the stored tokens; None if there are none.

        A token is renewed within this block, and used after it has been saved.
        """
        ...

    async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
        """Store the tokens durably; called within `exclusive`. Their `refresh_token` is the one that is valid now."""
        ...


class CachedToken(NamedTuple):
    """An access token; `fresh_until` is a time of the monotonic clock, with a margin before its expiry."""

    access_token: Secret
    fresh_until: float


class SharedTokens:
    """The tokens that equal authenticators share: one access token, one refresh token, one renewal at a time."""

    def __init__(self, refresh_token: Secret | None) -> None:
        self.current: CachedToken | None = None
        self.refresh_token = refresh_token
        self.discarded: Secret | None = None
        """The access token that a request found invalid, until it has been renewed."""
        self.is_unsaved = False
        """Whether the last renewal could not be stored, so that what is stored is out of date."""
        self.renewed_at = float("-inf")
        self.uses = 0
        """Number of open sessions that use these tokens."""
        self.members: WeakSet[Any] = WeakSet()
        # The refresh tokens that replaced one another: who has one of them belongs to the same account.
        self._known: dict[Secret | None, None] = {refresh_token: None}
        # One lock per event loop: a lock cannot be shared, but an authenticator may be used in several loops.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._holder: asyncio.AbstractEventLoop | None = None
        self._guard = threading.Lock()

    def replace_refresh_token(self, token: Secret) -> None:
        """Use another refresh token from now on."""
        self.refresh_token = token
        self._known[token] = None
        while len(self._known) > _MAX_KNOWN_TOKENS:
            del self._known[list(self._known)[1]]  # the first one is that of the configuration

    def has_common_origin(self, other: SharedTokens) -> bool:
        """Whether one of these refresh tokens replaced one of the others, or both are the same, or there are none."""
        return not self._known.keys().isdisjoint(other._known)

    def absorb(self, other: SharedTokens) -> None:
        """Take over the members and tokens of another object; the tokens that were renewed last remain."""
        if other.renewed_at > self.renewed_at:
            self.current, self.refresh_token, self.renewed_at = other.current, other.refresh_token, other.renewed_at
            self.is_unsaved = other.is_unsaved
        self._known.update(other._known)
        self.members.update(other.members)

    @asynccontextmanager
    async def renewal(self, clock: Clock) -> AsyncGenerator[None]:
        """Wait until no other request renews the tokens, in this event loop or in one of another thread."""
        loop = asyncio.get_running_loop()
        async with self._locks.setdefault(loop, asyncio.Lock()):
            while not self._hold(loop):
                await clock.sleep(_POLL_S)
            try:
                yield
            finally:
                self._holder = None

    def _hold(self, loop: asyncio.AbstractEventLoop) -> bool:
        with self._guard:
            # An event loop that has stopped will not end its renewal.
            if self._holder is not None and self._holder is not loop and self._holder.is_running():
                return False
            self._holder = loop
            return True


_in_use: dict[Hashable, list[SharedTokens]] = {}


def share_tokens(key: Hashable, tokens: SharedTokens) -> SharedTokens:
    """The tokens to use instead of these: those of an open session, if their key is equal and their account the same.

    They count as used until `release_tokens`.
    """
    peers = _in_use.setdefault(key, [])
    shared = next((peer for peer in peers if peer is not tokens and peer.has_common_origin(tokens)), None)
    if shared is not None and not tokens.uses:
        shared.absorb(tokens)
        tokens = shared
    if tokens not in peers:
        peers.append(tokens)
    tokens.uses += 1
    return tokens


def release_tokens(key: Hashable, tokens: SharedTokens) -> None:
    """End one use of these tokens."""
    tokens.uses -= 1
    peers = _in_use.get(key, [])
    if not tokens.uses and tokens in peers:
        peers.remove(tokens)
    if not peers:
        _in_use.pop(key, None)


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values in order, without repetition; compared, because callbacks and stores may not be hashable."""
    found: list[Any] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found
