"""What is a small API like that is no pleasure to read? One of each, for the demo and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

from ...errors import ConfigError
from ...models import Record
from .api import MockApi
from .auth import Auth, OAuth2
from .faults import Fault
from .quota import Quota
from .resource import Latency, Resource

_DAY = 86_400
_START = datetime(2026, 1, 1, tzinfo=UTC)
_KINDS = ("kettle", "lamp", "chair", "scarf", "bicycle", "notebook", "clock", "teapot")
_MAKES = ("Arken", "Bolt", "Cielo", "Dorn", "Elm", "Fjord", "Garnet", "Hale")
_WORDS = "arrived broken quickly the a and but it is not better than good fine works well never sturdy loved again"
SHOP_AUTH = OAuth2(expires_in=5, rotate=True)
SHOP_QUOTA = Quota(25, per=1, headers="ratelimit-3")


def product(number: int, chance: Random) -> Record:
    """The n-th product; its price is text, as it should be."""
    kind = chance.choice(_KINDS)
    return {
        "id": f"p-{number:06}",
        "name": f"{chance.choice(_MAKES)} {kind}",
        "kind": kind,
        "price": f"{chance.randint(199, 49_999) / 100:.2f}",
        "currency": "EUR",
        "stock": chance.choice((None, *range(40))),
        "weight_kg": chance.randint(1, 400) / 16,
        "tags": chance.sample(("new", "sale", "eu", "used", "gift"), chance.randint(0, 3)),
        "supplier": {"id": chance.randint(1, 40), "country": chance.choice(("DE", "PE", "JP", "KE", "NO"))},
        "discontinued": chance.random() < 0.1,
    }


def event(every: int, number: int, chance: Random) -> Record:
    """The n-th thing that a customer did, `every` seconds after the one before."""
    kind = chance.choice(("view", "view", "view", "cart", "sale", "refund"))
    return {
        "id": number,
        "kind": kind,
        "customer_id": chance.randint(1, 4_000),
        "product_id": f"p-{chance.randint(1, 6_000):06}",
        "amount": f"{chance.randint(199, 49_999) / 100:.2f}" if kind in ("sale", "refund") else None,
        "session": f"{chance.getrandbits(64):016x}",
        "mobile": chance.random() < 0.6,
        "occurred_at": f"{_START + timedelta(seconds=every * (number - 1)):%Y-%m-%dT%H:%M:%SZ}",
    }


def review(number: int, chance: Random) -> Record:
    """The n-th opinion."""
    return {
        "id": number,
        "product_id": f"p-{chance.randint(1, 6_000):06}",
        "customer_id": chance.randint(1, 4_000),
        "stars": chance.choice((1, 2, 3, 4, 4, 5, 5, 5)),
        "text": " ".join(chance.choices(_WORDS.split(), k=chance.randint(4, 24))),
        "helpful": chance.randint(0, 30),
        "language": chance.choice(("de", "en", "es", "ja")),
    }


def shop_resources(scale: float = 1.0) -> list[Resource]:
    """Customers and their orders, products, events, reviews, and payouts that nobody may read."""
    if scale <= 0:
        raise ConfigError(f"shop(scale={scale}): more than 0")

    def sized(count: int) -> int:
        return max(1, round(count * scale))

    # Spread over 30 days whatever their number, so that slices by date stay the same.
    every = max(1, 30 * _DAY // sized(12_000))
    return [
        Resource("customers", sized(4_000), paging="page", total=True),
        Resource("orders", (0, 3), paging="link", records_at=None, parent="customers"),
        Resource("products", sized(6_000), paging="cursor", record=product),
        Resource(
            "events",
            sized(12_000),
            paging="offset",
            total=True,
            cursor_field="occurred_at",
            record=partial(event, every),
        ),
        Resource("reviews", sized(20_000), format="ndjson", path="reviews/export", record=review),
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
