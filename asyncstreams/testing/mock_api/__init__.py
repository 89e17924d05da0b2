"""What API does a test, a demo or a benchmark talk to when it should be a real one, but not somebody's?"""

from .api import MockApi
from .auth import ApiKeyAuth, BasicAuth, BearerAuth, OAuth2
from .counts import Counts
from .faults import Fault
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
