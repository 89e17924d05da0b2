"""What is a small API like that is no pleasure to read? One of each, for the demo and the command line."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from .api import MockApi
from .auth import Auth, OAuth2
from .faults import Fault
from .quota import Quota
from .resource import Latency, Resource

_DAY = 86_400
SHOP_AUTH = OAuth2(expires_in=5, rotate=True)
SHOP_QUOTA = Quota(25, per=1, headers="ratelimit-3")


def shop_resources(scale: float = 1.0) -> list[Resource]:
    """Customers and their orders, products, events, reviews, and payouts that nobody may read."""
    if scale <= 0:
        raise ConfigError(f"shop(scale={scale}): more than 0")

    def sized(count: int) -> int:
        return max(1, round(count * scale))

    return [
        Resource("customers", sized(4_000), paging="page", total=True),
        Resource("orders", (0, 3), paging="link", records_at=None, parent="customers"),
        Resource("products", sized(6_000), paging="cursor"),
        # Spread over 30 days whatever their number, so that slices by date stay the same.
        Resource("events", sized(12_000), paging="offset", every=max(1, 30 * _DAY // sized(12_000))),
        Resource("reviews", sized(20_000), format="ndjson", path="reviews/export"),
        Resource("payouts", sized(100), forbidden=True),
    ]


def shop_faults(share: float = 0.02) -> list[Fault]:
    """Half of this share are 503s, the rest resets and cut bodies."""
    if share == 0:
        return []
    half, quarter = share / 2, share / 4
    # Each draws for itself, so a later one's share is of what the earlier ones leave.
    return [
        Fault.status(503, share=half),
        Fault.reset(share=quarter / (1 - half)),
        Fault.cut(share=quarter / (1 - half - quarter)),
    ]


def shop(
    *,
    seed: int = 1,
    scale: float = 1.0,
    auth: Auth | None = SHOP_AUTH,
    quota: Quota | None = SHOP_QUOTA,
    latency: Latency = (0.02, 0.08),
    faults: Sequence[Fault] | None = None,
    port: int = 0,
    process: bool = False,
) -> MockApi:
    """The shop: tokens of five seconds that rotate, 25 requests a second, 2 % faults.

    At `scale=1` a complete read of all but the customers' orders takes some 230 requests, more where
    events are read day by day, which the quota spreads over about ten seconds. `faults=None` are the
    shop's own.
    """
    return MockApi(
        *shop_resources(scale),
        auth=auth,
        quota=quota,
        latency=latency,
        faults=shop_faults() if faults is None else faults,
        seed=seed,
        port=port,
        process=process,
        gzip=True,
    )
