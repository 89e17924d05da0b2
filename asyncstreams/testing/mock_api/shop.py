"""An example MockApi of a shop, for the demo and the command line: one resource of each kind, with faults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

from ...errors import ConfigError
from ...models import Record
from .api import MockApi
from .faults import Fault
from .mock_auth import Auth, OAuth2
from .quota import Quota
from .resource import Latency, Resource

_DAY = 86_400
_START = datetime(2026, 1, 1, tzinfo=UTC)
_KINDS = ("kettle", "lamp", "chair", "scarf", "bicycle", "notebook", "clock", "teapot")
_MAKES = ("Arken", "Bolt", "Cielo", "Dorn", "Elm", "Fjord", "Garnet", "Hale")
_WORDS = "arrived broken quickly the a and but it is not better than good fine works well never sturdy loved again"
SHOP_AUTH = OAuth2(expires_in=5, rotate=True)
SHOP_QUOTA = Quota(25, per=1, headers="ratelimit-3")


def product(number: int, rng: Random) -> Record:
    """Product `number`, from 1. Its price is text, as decimals in JSON should be."""
    kind = rng.choice(_KINDS)
    return {
        "id": f"p-{number:06}",
        "name": f"{rng.choice(_MAKES)} {kind}",
        "kind": kind,
        "price": f"{rng.randint(199, 49_999) / 100:.2f}",
        "currency": "EUR",
        "stock": rng.choice((None, *range(40))),
        "weight_kg": rng.randint(1, 400) / 16,
        "tags": rng.sample(("new", "sale", "eu", "used", "gift"), rng.randint(0, 3)),
        "supplier": {"id": rng.randint(1, 40), "country": rng.choice(("DE", "PE", "JP", "KE", "NO"))},
        "discontinued": rng.random() < 0.1,
    }


def event(every: int, number: int, rng: Random) -> Record:
    """Event `number`, from 1: something that a customer did, `every` seconds after the previous event."""
    kind = rng.choice(("view", "view", "view", "cart", "sale", "refund"))
    return {
        "id": number,
        "kind": kind,
        "customer_id": rng.randint(1, 4_000),
        "product_id": f"p-{rng.randint(1, 6_000):06}",
        "amount": f"{rng.randint(199, 49_999) / 100:.2f}" if kind in ("sale", "refund") else None,
        "session": f"{rng.getrandbits(64):016x}",
        "mobile": rng.random() < 0.6,
        "occurred_at": f"{_START + timedelta(seconds=every * (number - 1)):%Y-%m-%dT%H:%M:%SZ}",
    }


def review(number: int, rng: Random) -> Record:
    """Review `number`, from 1."""
    return {
        "id": number,
        "product_id": f"p-{rng.randint(1, 6_000):06}",
        "customer_id": rng.randint(1, 4_000),
        "stars": rng.choice((1, 2, 3, 4, 4, 5, 5, 5)),
        "text": " ".join(rng.choices(_WORDS.split(), k=rng.randint(4, 24))),
        "helpful": rng.randint(0, 30),
        "language": rng.choice(("de", "en", "es", "ja")),
    }


def shop_resources(scale: float = 1.0) -> list[Resource]:
    """Customers and their orders, products, events, reviews, and payouts, which answer 403.

    `scale` multiplies the number of records. Raises ConfigError unless it is above 0.
    """
    if scale <= 0:
        raise ConfigError(f"shop(scale={scale}): scale must be above 0")

    def sized(count: int) -> int:
        return max(1, round(count * scale))

    # Events always cover 30 days, so that slices by date do not depend on the scale.
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
    """Faults that hit `share` of the requests: half are 503s, a quarter each are resets and cut bodies."""
    if share == 0:
        return []
    half, quarter = share / 2, share / 4
    # Faults draw independently and the first hit wins, so a later share applies to what the earlier ones leave.
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
    """A MockApi of a small shop whose API is hard to read, for demos and tests.

    By default it has access tokens that expire after 5 seconds and refresh tokens that rotate, a quota
    of 25 requests a second, a latency of 20 to 80 ms, faults in 2 % of the responses and gzip.
    `faults=None` means these default faults, `faults=()` none.

    Resources: `customers` (4,000, by page number) with `orders` (0 to 3 each, by Link header), `products`
    (6,000, by cursor), `events` (12,000 over 30 days, by offset), `reviews` (20,000, one NDJSON export)
    and `payouts` (403). `scale` multiplies these numbers, except those of orders per customer. At
    `scale=1`, reading everything except orders takes about 230 requests and, by the quota, about ten
    seconds. `port=0` uses any free port; `process=True` serves in a separate process.
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
