"""The part of Prefect that the documentation uses. It refuses every other name and keyword."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class State:
    outcome: Any

    def is_failed(self) -> bool:
        return isinstance(self.outcome, Exception)

    def result(self, *, raise_on_failure: bool = True) -> Any:
        if raise_on_failure and self.is_failed():
            raise self.outcome
        return self.outcome


@dataclass
class Task:
    function: Callable[..., Any]
    retries: int
    retry_delay_seconds: Sequence[float]
    retry_condition_fn: Callable[[Any, Any, State], bool]

    def __call__(self, *arguments: Any) -> Any:
        """A failure that Prefect would retry is a RuntimeError, since its delay is minutes."""
        assert len(self.retry_delay_seconds) == self.retries
        try:
            return self.function(*arguments)
        except Exception as error:
            if self.retry_condition_fn(self, None, State(error)):
                raise RuntimeError("Prefect retries it") from error
            raise


@dataclass
class Flow:
    function: Callable[..., Any]
    log_prints: bool

    def __call__(self, *arguments: Any, return_state: bool = False) -> Any:
        try:
            outcome = self.function(*arguments)
        except RuntimeError:
            raise
        except Exception as error:
            if not return_state:
                raise
            return State(error)
        return State(outcome) if return_state else outcome

    def serve(self, name: str, *, cron: str, limit: int) -> None:
        raise NotImplementedError(name, cron, limit)


def task(
    *, retries: int, retry_delay_seconds: Sequence[float], retry_condition_fn: Callable[[Any, Any, State], bool]
) -> Callable[[Callable[..., Any]], Task]:
    return lambda function: Task(function, retries, retry_delay_seconds, retry_condition_fn)


def flow(*, log_prints: bool) -> Callable[[Callable[..., Any]], Flow]:
    return lambda function: Flow(function, log_prints)
