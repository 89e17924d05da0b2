"""Availability of streams: whether a credential may read a stream and, if not, the reason."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from ..errors import ConfigError, HttpStatusError, RequestBlocked
from ..models import Page

Availability: TypeAlias = tuple[bool, str | None]
"""Whether a stream is available, and the reason if it is not."""


def checked_availability(strategy: object, method: str, answer: Any) -> Availability:
    """The result of a strategy's method. Raises ConfigError if it is not `(bool, str | None)`."""
    match answer:
        case (bool() as available, str() | None as reason):
            return available, reason
        case _:
            pass
    raise ConfigError(
        f"{type(strategy).__name__}.{method} returned {type(answer).__name__}: expected (available, reason)",
        hint='return True, None; or False with a reason: return False, "the plan has no payouts"',
    )


class ProbeTarget(Protocol):
    """The part of a stream that an availability strategy may use."""

    @property
    def name(self) -> str: ...

    @property
    def parents(self) -> Sequence[ProbeTarget]: ...

    async def first_page(self) -> Page | None:
        """The first page of the first slice, or None if there are no slices. Ignores the strategy."""
        ...


class AvailabilityStrategy(Protocol):
    """Decides whether a stream is available; `source` is the Source of the stream, or None.

    A strategy that does not inherit `check_availability` from HttpAvailabilityStrategy is called before each read.
    """

    async def check_availability(self, stream: Any, logger: logging.Logger, source: Any = None) -> Availability:
        """Whether the stream is available, and the reason if it is not."""
        ...


class HttpAvailabilityStrategy:
    """Requests the first page; a status such as 403 makes the stream unavailable.

    When a stream is read, its first page request serves as the check, and no extra request is sent.
    A stream without slices is unavailable; a stream without records is available.
    """

    async def check_availability(self, stream: ProbeTarget, logger: logging.Logger, source: Any = None) -> Availability:
        """Request the first page. Raises the error of that request, unless its status means unavailable."""
        try:
            page = await stream.first_page()
        except HttpStatusError as error:
            return self.handle_http_error(stream, logger, source, error)
        if page is not None:
            return True, None
        parents = " and ".join(parent.name for parent in stream.parents)
        reason = f"its parent has no records: {parents}" if parents else "it has no slices"
        return False, f"{reason}, so there is nothing to request"

    def handle_http_error(
        self, stream: ProbeTarget, logger: logging.Logger, source: Any, error: HttpStatusError
    ) -> Availability:
        """The availability after an error of the first request. Raises the error if its status has no reason.

        A RequestBlocked is always raised: a firewall says nothing about the permissions of a credential.
        """
        if isinstance(error, RequestBlocked):
            raise error
        reasons = self.reasons_for_unavailable_status_codes(stream, logger, source, error)
        if error.status is None or error.status not in reasons:
            raise error
        subject = f"its parent {error.stream} " if error.stream not in (None, stream.name) else ""
        return False, f"{subject}{error.message}. {reasons[error.status]}"

    def reasons_for_unavailable_status_codes(
        self, stream: ProbeTarget, logger: logging.Logger, source: Any, error: HttpStatusError
    ) -> Mapping[int, str]:
        """Statuses that make the stream unavailable, with reasons. Override it to extend the result of super()."""
        return {403: "The credential most likely lacks a permission (a scope, a role) for this stream."}


def strategy_of(stream: Any) -> AvailabilityStrategy | None:
    """The strategy of a stream, declared as an attribute, a property or a method. Raises ConfigError."""
    strategy = stream.availability_strategy
    if inspect.isroutine(strategy):
        strategy = strategy()
    if isinstance(strategy, type) or (strategy is not None and not hasattr(strategy, "check_availability")):
        kind = f"the class {strategy.__name__}" if isinstance(strategy, type) else f"of type {type(strategy).__name__}"
        raise ConfigError(
            f"{type(stream).__name__}.availability_strategy is {kind}: expected an AvailabilityStrategy",
            hint="set an instance such as HttpAvailabilityStrategy(), or None",
        ).locate(stream=stream.name)
    return cast(AvailabilityStrategy | None, strategy)
