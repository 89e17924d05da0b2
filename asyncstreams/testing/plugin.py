"""What pytest finds by itself once the package is installed: respx that works, a virtual clock, an API to talk to."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from .mock_api import MockApi
from .virtual_clock import VirtualClock

if importlib.util.find_spec("respx") is not None:
    from .respx_mocker import make_default

    make_default()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock to give to streams and authenticators as `clock=`: their waits pass at once."""
    return VirtualClock()


@pytest.fixture
def mock_api() -> Iterator[MockApi]:
    """A server on this machine that runs already, in a thread, and has no resources: `mock_api.add(...)` them.

    For streams without `clock=virtual_clock`: its sockets are real.
    """
    with MockApi() as api:
        yield api
