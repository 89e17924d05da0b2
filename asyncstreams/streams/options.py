"""What do a stream and a Source share: options, and connections?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TypedDict

import httpx

from ..clock import Clock
from ..events import Listener
from ..http.session import SessionPool
from ..models import BodyLimits, RateLimit, Timeouts
from ..protocols import Middleware, MockRouter


@dataclass(frozen=True, slots=True)
class SessionOwner:
    """Where a stream's connections come from: its own sessions, or those of the Source that reads it.

    `hold` keeps the stream there meanwhile; `lent` names the options that are not the stream's own.
    """

    sessions: SessionPool
    source: object = None
    hold: Callable[[], AbstractContextManager[None]] = nullcontext
    lent: frozenset[str] = frozenset()


class ListenerList(list[Listener]):
    """Who listens to a stream or a Source."""

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call it with each event, until the function that is returned is called."""
        entry = partial(listener)  # the same listener may be added twice

        def end() -> None:
            if any(known is entry for known in self):
                self[:] = [known for known in self if known is not entry]

        self.append(entry)
        return end


class StreamOptions(TypedDict, total=False):
    """What every stream and every Source takes as a keyword, or has as a class attribute; the nearer one wins.

    A stream's keyword comes first, then its class, then the Source's keyword, then its class.
    """

    authenticator: httpx.Auth | None
    timeouts: Timeouts
    body_limits: BodyLimits
    transport: httpx.AsyncBaseTransport | MockRouter | None
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    allow_insecure: bool
    max_concurrency: int
    rate_limit: RateLimit | Sequence[RateLimit] | None
    adaptive: bool
    cache_dir: str | PathLike[str] | None
    clock: Clock
    seed: int | None
