"""The part of Airflow's SDK that the documentation uses. It refuses every other name and keyword."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

from .exceptions import AirflowFailException

RETRY_SETTINGS = {"retries", "retry_delay", "execution_timeout"}


class Operator(Protocol):
    def execute(self) -> Any: ...


@dataclass
class Connection:
    host: str
    password: str

    @classmethod
    def get(cls, name: str) -> Connection:
        fields = json.loads(os.environ[f"AIRFLOW_CONN_{name.upper()}"])
        return cls(fields["host"], fields["password"])


@dataclass
class DagRun:
    state: str


@dataclass
class DAG:
    schedule: str
    start_date: datetime
    catchup: bool
    max_active_runs: int
    default_args: Mapping[str, Any]
    operators: list[Operator] = field(default_factory=list)
    building: ClassVar[list[DAG]] = []

    def test(self) -> DagRun:
        """Run all tasks. A failure that Airflow would retry is raised, since its delay is minutes."""
        assert set(self.default_args) == RETRY_SETTINGS
        try:
            for operator in self.operators:
                operator.execute()
        except AirflowFailException:
            return DagRun("failed")
        return DagRun("success")


def dag(
    *, schedule: str, start_date: datetime, catchup: bool, max_active_runs: int, default_args: Mapping[str, Any]
) -> Callable[[Callable[[], None]], Callable[[], DAG]]:
    def decorate(function: Callable[[], None]) -> Callable[[], DAG]:
        def build() -> DAG:
            made = DAG(schedule, start_date, catchup, max_active_runs, default_args)
            DAG.building.append(made)
            function()
            return DAG.building.pop()

        return build

    return decorate


@dataclass
class PythonOperator:
    function: Callable[[], Any]

    def execute(self) -> Any:
        return self.function()


def task(function: Callable[[], Any]) -> Callable[[], None]:
    return lambda: DAG.building[-1].operators.append(PythonOperator(function))
