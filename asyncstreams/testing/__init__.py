"""Testing tools: a virtual clock, and a mock API that is a real HTTP server."""

from .mock_api import (
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    Counts,
    Fault,
    MockApi,
    OAuth2,
    Quota,
    ReceivedRequest,
    Resource,
    shop,
)
from .virtual_clock import VirtualClock

__all__ = [
    "ApiKeyAuth",
    "BasicAuth",
    "BearerAuth",
    "Counts",
    "Fault",
    "MockApi",
    "OAuth2",
    "Quota",
    "ReceivedRequest",
    "Resource",
    "VirtualClock",
    "shop",
]
