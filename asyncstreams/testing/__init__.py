"""What does an author need to test a stream without the network: time that passes at once, and an API to talk to."""

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
