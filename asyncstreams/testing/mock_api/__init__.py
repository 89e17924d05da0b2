"""MockApi, a configurable HTTP server for tests, demos and benchmarks."""

from .api import MockApi
from .counts import Counts
from .faults import Fault
from .mock_auth import ApiKeyAuth, BasicAuth, BearerAuth, OAuth2
from .quota import Quota
from .resource import Resource
from .shop import shop
from .wire_messages import ReceivedRequest

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
    "shop",
]
