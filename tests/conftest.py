"""Test configuration. Hypothesis repeats the same examples; `--hypothesis-profile=random` tries new ones."""

from __future__ import annotations

import multiprocessing
import signal

import pytest
from hypothesis import settings
from servers import missing

# Forked processes start with these modules imported.
multiprocessing.set_forkserver_preload(["pytest", "respx", "asyncstreams", "asyncstreams.testing"])

# A shell that starts pytest in the background lets it ignore SIGINT, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: the duration of an example depends on the machine.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile("steady")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose server is not installed, with the command that installs it as the reason."""
    for marker in item.iter_markers("server"):
        if (reason := missing(marker.args[0])) is not None:
            pytest.skip(reason)
