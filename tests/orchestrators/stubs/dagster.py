"""The part of Dagster that the documentation uses. It refuses every other name and keyword."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Backoff(Enum):
    EXPONENTIAL = "exponential"


@dataclass
class RetryPolicy:
    max_retries: int
    delay: float
    backoff: Backoff


class Failure(Exception):
    def __init__(self, description: str, *, allow_retries: bool) -> None:
        super().__init__(description)
        self.allow_retries = allow_retries


class EnvVar(str): ...


class ConfigurableResource:
    def __init__(self, **fields: str) -> None:
        assert set(fields) == set(type(self).__annotations__)
        vars(self).update(fields)

    def resolve(self) -> ConfigurableResource:
        values = {name: os.environ[value] if isinstance(value, EnvVar) else value for name, value in vars(self).items()}
        return type(self)(**values)


@dataclass
class MetadataValue:
    value: Any

    @staticmethod
    def path(path: str) -> MetadataValue:
        return MetadataValue(path)


@dataclass
class MaterializeResult:
    metadata: Mapping[str, Any]


@dataclass
class AssetDefinition:
    function: Callable[..., MaterializeResult]
    retry_policy: RetryPolicy


def asset(*, retry_policy: RetryPolicy) -> Callable[[Callable[..., MaterializeResult]], AssetDefinition]:
    return lambda function: AssetDefinition(function, retry_policy)


@dataclass
class ScheduleDefinition:
    name: str
    target: Sequence[AssetDefinition]
    cron_schedule: str


@dataclass
class Definitions:
    assets: Sequence[AssetDefinition]
    schedules: Sequence[ScheduleDefinition]
    resources: Mapping[str, ConfigurableResource]


@dataclass
class Materialization:
    metadata: Mapping[str, MetadataValue]


@dataclass
class ExecutionResult:
    success: bool
    materializations: list[Materialization]

    def asset_materializations_for_node(self, name: str) -> list[Materialization]:
        assert name == "shop"
        return self.materializations


def materialize(
    assets: Sequence[AssetDefinition], *, resources: Mapping[str, ConfigurableResource], raise_on_error: bool
) -> ExecutionResult:
    """Run the only asset. A failure that Dagster would retry is raised, since its delay is minutes."""
    [definition] = assets
    try:
        result = definition.function(**{name: resource.resolve() for name, resource in resources.items()})
    except Failure as failure:
        if failure.allow_retries or raise_on_error:
            raise
        return ExecutionResult(False, [])
    values = {
        name: value if isinstance(value, MetadataValue) else MetadataValue(value)
        for name, value in result.metadata.items()
    }
    return ExecutionResult(True, [Materialization(values)])
