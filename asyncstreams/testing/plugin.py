"""Pytest plugin, loaded by its entry point: respx support and the fixtures `virtual_clock` and `mock_api`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from .mock_api import MockApi
from .virtual_clock import VirtualClock

if importlib.util.find_spec("respx") is not None:
    from .respx_mocker import install_as_default

    install_as_default()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A `VirtualClock` for the `clock=` of streams and authenticators, whose waits then take no real time."""
    return VirtualClock()


@pytest.fixture
def mock_api() -> Iterator[MockApi]:
    """A running `MockApi` without resources, served in a thread; add resources with `mock_api.add(...)`.

    Its sockets are real, so do not give `clock=virtual_clock` to streams that read from it.
    """
    with MockApi() as api:
        yield api
