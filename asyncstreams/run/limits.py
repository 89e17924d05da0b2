"""How much at once does this machine allow?"""

from __future__ import annotations

import logging
import os
import sys

_RESERVED = 64
_SPARE = 32  # beside what is open already: files of the user's, sockets of others
_log = logging.getLogger("asyncstreams")


def within_descriptors(concurrency: int) -> int:
    """As many of these as the limit of open files leaves room for: each may need a connection of its own."""
    most = _descriptors() - max(_RESERVED, _open_already() + _SPARE)
    if concurrency <= most:
        return concurrency
    allowed = max(1, most)
    _log.warning(
        "max_concurrency is %d here, not %d: this process may open few files (ulimit -n)", allowed, concurrency
    )
    return allowed


def _descriptors() -> int:
    if sys.platform == "win32":
        return 1 << 20
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _open_already() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # not every system has it
        return 0
