"""What pytest finds by itself once the package is installed: respx that works, and a virtual clock."""

from __future__ import annotations

import importlib.util

import pytest

from .virtual_clock import VirtualClock

if importlib.util.find_spec("respx") is not None:
    from .respx_mocker import make_default

    make_default()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock to give to streams and authenticators as `clock=`: their waits pass at once."""
    return VirtualClock()
