"""Can anything of a stream be read with this credential, and if not, why?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

from ..errors import ConfigError, HttpStatusError
from ..models import Page

Availability: TypeAlias = tuple[bool, str | None]
"""Whether a stream is available and, where it is not, why."""


def answered(strategy: object, method: str, told: Any) -> Availability:
    """What a strategy said. Raises ConfigError where that is not `(bool, str | None)`."""
    match told:
        case (bool() as available, str() | None as reason):
            return available, reason
        case _:
            pass
    raise ConfigError(
        f"{type(strategy).__name__}.{method} returned {type(told).__name__}: (available, reason) is needed",
        hint='return True, None; or False and why: return False, "the plan has no payouts"',
    )


class ProbeTarget(Protocol):
    """What a strategy may ask of the stream that it looks at."""

    @property
    def name(self) -> str: ...

    @property
    def parents(self) -> Sequence[ProbeTarget]: ...

    async def first_page(self) -> Page | None:
        """The first page of the first slice; None where there are no slices. Asks no strategy."""
        ...


class AvailabilityStrategy(Protocol):
    """How to find out; `source` is the Source that the stream is read in, where there is one.

    A strategy whose `check_availability` is its own is asked before each reading of the stream.
    """

    async def check_availability(self, stream: Any, logger: logging.Logger, source: Any = None) -> Availability: ...


class HttpAvailabilityStrategy:
    """Asks for the first page; a status that is known to mean "not for you" says why it is not there.

    While a stream is read, its first request is that question, and nothing more is asked.
    No slices at all: unavailable. No records: available.
    """

    async def check_availability(self, stream: ProbeTarget, logger: logging.Logger, source: Any = None) -> Availability:
        """Whether the stream is available. Raises what reading raises, but for the statuses that are known."""
        try:
            page = await stream.first_page()
        except HttpStatusError as error:
            return self.handle_http_error(stream, logger, source, error)
        if page is not None:
            return True, None
        parents = " and ".join(parent.name for parent in stream.parents)
        why = f"its parent has no records: {parents}" if parents else "it has no slices"
        return False, f"{why}, so there is nothing to ask for"

    def handle_http_error(
        self, stream: ProbeTarget, logger: logging.Logger, source: Any, error: HttpStatusError
    ) -> Availability:
        """What an error of the first request means. Raises it again where its status is not known."""
        reasons = self.reasons_for_unavailable_status_codes(stream, logger, source, error)
        if error.status is None or error.status not in reasons:
            raise error
        whose = f"its parent {error.stream} " if error.stream not in (None, stream.name) else ""
        return False, f"{whose}{error.message}. {reasons[error.status]}"

    def reasons_for_unavailable_status_codes(
        self, stream: ProbeTarget, logger: logging.Logger, source: Any, error: HttpStatusError
    ) -> Mapping[int, str]:
        """Statuses that mean that the stream is unavailable, and why; add yours to what super() returns."""
        return {403: "The credential most likely lacks a permission (a scope, a role) for this stream."}


def strategy_of(stream: Any) -> AvailabilityStrategy | None:
    """What a stream declares, as an attribute, a property or a method. Raises ConfigError."""
    strategy = stream.availability_strategy
    if inspect.isroutine(strategy):
        strategy = strategy()
    if isinstance(strategy, type) or (strategy is not None and not hasattr(strategy, "check_availability")):
        kind = strategy.__name__ if isinstance(strategy, type) else type(strategy).__name__
        raise ConfigError(
            f"{type(stream).__name__}.availability_strategy is {kind}: an AvailabilityStrategy is needed",
            hint="such as HttpAvailabilityStrategy(), with its parentheses; or None",
        ).locate(stream=stream.name)
    return cast(AvailabilityStrategy | None, strategy)
