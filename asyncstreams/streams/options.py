"""Options and connections that a stream may share with its Source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from os import PathLike
from typing import NamedTuple, TypedDict

import httpx

from ..clock import Clock
from ..events import Listener
from ..http.session import SessionPool
from ..models import BodyLimits, RateLimit, Timeouts
from ..protocols import Middleware, MockRouter


class SessionOwner(NamedTuple):
    """The owner of a stream's sessions: the stream itself, or the Source that reads it.

    `hold()` is a context manager that keeps the stream with this owner. `inherited_options` names the options
    that the stream took from its Source.
    """

    sessions: SessionPool
    source: object = None
    hold: Callable[[], AbstractContextManager[None]] = nullcontext
    inherited_options: frozenset[str] = frozenset()


class ListenerList(list[Listener]):
    """The listeners of a stream or a Source."""

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event; returns a function that removes it."""
        entry = partial(listener)  # a distinct entry, since the same listener may be added twice

        def unsubscribe() -> None:
            if any(listener is entry for listener in self):
                self[:] = [listener for listener in self if listener is not entry]

        self.append(entry)
        return unsubscribe


class StreamOptions(TypedDict, total=False):
    """Options that every stream and every Source accepts, as keywords or as class attributes.

    The first that is set wins: the stream's keyword, the stream's class, the Source's keyword, the Source's class.
    Each option has the meaning and the default of the attribute of the same name of `HttpStream`.
    """

    authenticator: httpx.Auth | None
    timeouts: Timeouts
    adaptive_timeouts: bool
    body_limits: BodyLimits
    transport: httpx.AsyncBaseTransport | MockRouter | None
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    uncredentialed_origins: tuple[str, ...]
    cookies: bool
    allow_insecure: bool
    trust_env: bool
    max_concurrency: int
    rate_limit: RateLimit | Sequence[RateLimit] | None
    adaptive: bool
    cache_dir: str | PathLike[str] | None
    clock: Clock
    seed: int | None
