"""Test configuration. Hypothesis repeats the same examples; `--hypothesis-profile=random` tries new ones."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

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
    """Skip a test whose server is not installed, with the command that installs it, and slow tests of programs."""
    if item.get_closest_marker("program") and os.environ.get("PROGRAMS") != "all":
        pytest.skip("run by `make test-programs`")
    for marker in item.iter_markers("server"):
        if (reason := missing(marker.args[0])) is not None:
            pytest.skip(reason)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs coroutines in a loop of asyncio, and in one of uvloop; fails if the loop reports an error."""
    loop_factory = None if request.param == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    errors: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
        yield runner.run
    assert errors == []
