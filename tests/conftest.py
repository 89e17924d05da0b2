"""How do the tests run: the same examples each time; `pytest --hypothesis-profile=random` looks for new ones."""

from __future__ import annotations

import multiprocessing
import signal

from hypothesis import settings

# What is forked has imported these already.
multiprocessing.set_forkserver_preload(["pytest", "respx", "asyncstreams", "asyncstreams.testing"])

# Whoever starts this in the background may have it ignore Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: how long an example takes is the machine's affair.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile("steady")
