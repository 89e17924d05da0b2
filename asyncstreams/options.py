"""What do a stream and a Source share: options, and connections?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import httpx

from .clock import Clock
from .contracts import Middleware, Routes
from .http.session import Session, Sessions
from .model import BodyLimits, Timeouts


class Home:
    """Where a stream's connections come from: its own sessions, or those of the Source that reads it."""

    def __init__(self, open_session: Callable[[], Session], source: object = None) -> None:
        self.sessions = Sessions(open_session)
        self.source = source


class StreamOptions(TypedDict, total=False):
    """What every stream and every Source takes as a keyword, or has as a class attribute; the nearer one wins.

    A stream's keyword comes first, then its class, then the Source's keyword, then its class.
    """

    authenticator: httpx.Auth | None
    timeouts: Timeouts
    body_limits: BodyLimits
    transport: httpx.AsyncBaseTransport | Routes | None
    middleware: Sequence[Middleware]
    allowed_origins: tuple[str, ...]
    allow_insecure: bool
    clock: Clock
    seed: int | None
