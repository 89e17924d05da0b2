"""What keeps a request, and for how long?"""

from __future__ import annotations

from typing import NamedTuple

LONG = 1.0
"""Seconds from which on a wait is a long one: whoever is not patient leaves the queue, and comes back later."""

PAUSE = "the API's pause to end"
DOWN = "the host to answer again"
TOLD = "the quota that the API tells of"
DECLARED = "its rate_limit"
PACED = "the pace that refusals have taught"
SHARED = "the turn of a stream that has had less of the quota"
BUSY = "an answer to what is on the wire"


class Wait(NamedTuple):
    """What keeps a request, and for how many seconds as far as is known: infinity is until an answer comes."""

    seconds: float
    reason: str
    soonest: float
    """Seconds until another request may pass, if those before this one give up."""
