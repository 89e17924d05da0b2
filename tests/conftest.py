"""Test configuration. Hypothesis repeats the same examples; `--hypothesis-profile=random` tries new ones."""

from __future__ import annotations

import multiprocessing
import signal

from hypothesis import settings

# Forked processes start with these modules imported.
multiprocessing.set_forkserver_preload(["pytest", "respx", "asyncstreams", "asyncstreams.testing"])

# A shell that starts pytest in the background lets it ignore SIGINT, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: the duration of an example depends on the machine.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("random", derandomize=False, deadline=None)
settings.load_profile("steady")
