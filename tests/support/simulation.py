"""Sizes of simulations: few seeds and examples by default, all of them with SIMULATIONS=full."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings

FULL = os.environ.get("SIMULATIONS") == "full"

Test = TypeVar("Test", bound=Callable[..., Any])


def examples(full: int, short: int) -> Callable[[Test], Test]:
    """Mark a property as a simulation of `full` examples, of which `short` run by default."""

    def mark(test: Test) -> Test:
        return pytest.mark.simulation(settings(max_examples=full if FULL else short, deadline=None)(test))

    return mark


def sample(full: int, short: int) -> int:
    """How many of something a simulation takes, such as seeds or steps."""
    return full if FULL else short
