"""What is the API as a whole set to?"""

from __future__ import annotations

from dataclasses import dataclass, field

from .auth import Auth
from .faults import Fault
from .quota import Quota
from .resource import Latency, Resource


@dataclass(slots=True)
class Settings:
    """May be changed while it is served, by a call of `Service.changed` afterwards."""

    resources: list[Resource]
    auth: Auth | None = None
    quota: Quota | None = None
    latency: Latency = 0.0
    faults: list[Fault] = field(default_factory=list[Fault])
    seed: int = 0
    gzip: bool = False
    cache_bytes: int = 64 * 2**20
