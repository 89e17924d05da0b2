"""Event loops for tests: asyncio's own and uvloop, with checks for leaks and for errors that only a loop sees."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import inspect
import os
import stat
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

LOOPS = ["asyncio", "uvloop"]


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def open_sockets() -> int:
    """How many sockets this process has open; libuv keeps other descriptors in reserve."""
    return sum(map(_is_socket, map(int, os.listdir("/dev/fd"))))


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the descriptor of the listing itself
        return False


def run_strictly(name: str, main: Coroutine[Any, Any, None]) -> None:
    """Run on a new loop; fails if the loop reports an error, or if sockets stay open."""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        before = open_sockets()
        await main
        gc.collect(1)  # the objects of this test are young
        await wait_until(lambda: open_sockets() <= before)

    with asyncio.Runner(loop_factory=functools.partial(new_loop, name)) as runner:
        runner.run(run())
    assert not errors, errors


async def wait_until(reached: Callable[[], bool], seconds: float = 1) -> None:
    """Wait until a condition holds that no event reports, and check it after each turn of the loop."""
    try:
        async with asyncio.timeout(seconds):
            while not reached():  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(0)
    except TimeoutError:
        assert reached()


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test strictly on asyncio's loop and on uvloop, if that is installed."""

    @functools.wraps(test)
    def run(event_loop_name: str, **arguments: Any) -> None:
        run_strictly(event_loop_name, test(**arguments))

    signature = inspect.signature(test)
    name = inspect.Parameter("event_loop_name", inspect.Parameter.KEYWORD_ONLY)
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would see a coroutine function
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), name])  # type: ignore[attr-defined]
    installed = [name for name in LOOPS if name == "asyncio" or importlib.util.find_spec(name)]
    return pytest.mark.parametrize("event_loop_name", installed)(run)
