"""What API does a test, a demo or a benchmark talk to when it should be a real one, but not somebody's?"""

from .api import MockApi
from .auth import ApiKeyAuth, BasicAuth, BearerAuth, OAuth2
from .counts import Counts
from .exchange import Received
from .faults import Fault
from .quota import Quota
from .resource import Resource
from .shop import shop

__all__ = [
    "ApiKeyAuth",
    "BasicAuth",
    "BearerAuth",
    "Counts",
    "Fault",
    "MockApi",
    "OAuth2",
    "Quota",
    "Received",
    "Resource",
    "shop",
]
