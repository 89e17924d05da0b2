"""Settings of a MockApi that its servers share."""

from __future__ import annotations

from dataclasses import dataclass, field

from .faults import Fault
from .mock_auth import Auth
from .quota import Quota
from .resource import Latency, Resource


@dataclass(slots=True)
class MockSettings:
    """The settings of one API. After a change while it runs, call `MockService.reload_settings`."""

    resources: list[Resource]
    auth: Auth | None = None
    quota: Quota | None = None
    latency: Latency = 0.0
    faults: list[Fault] = field(default_factory=list[Fault])
    seed: int = 0
    gzip: bool = False
    cache_bytes: int = 64 * 2**20
