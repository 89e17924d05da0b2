"""Pytest plugin, loaded by its entry point: respx support and the fixtures `virtual_clock` and `mock_api`.

Every pytest run loads it, also of projects that do not use asyncstreams: it imports nothing before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asyncstreams.testing import MockApi, VirtualClock


def pytest_configure() -> None:
    """Extend respx if its own plugin has imported it."""
    _extend_respx()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Extend respx if only the tests have imported it."""
    _extend_respx()


def _extend_respx() -> None:
    if "respx" in sys.modules:
        from .respx_mocker import install_as_default

        install_as_default()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A `VirtualClock` for the `clock=` of streams and authenticators, whose waits then take no real time."""
    from asyncstreams.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def mock_api() -> Iterator[MockApi]:
    """A running `MockApi` without resources, served in a thread; add resources with `mock_api.add(...)`.

    Its sockets are real, so do not give `clock=virtual_clock` to streams that read from it.
    """
    from asyncstreams.testing import MockApi

    with MockApi() as api:
        yield api
