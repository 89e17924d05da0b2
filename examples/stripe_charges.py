"""Stripe charges by currency: the last record's id as the cursor, and an API key as the user name.

STRIPE_API_KEY=sk_test_... python examples/stripe_charges.py                          # the real API
STRIPE_API_KEY=sk_test_... python examples/stripe_charges.py http://127.0.0.1:8000/   # another server
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from typing import Any, Unpack

from asyncstreams import BasicHttpAuthenticator, Cursor, HttpStream, RequestContext, StreamOptions

STRIPE = "https://api.stripe.com/"


class Charges(HttpStream):
    """All charges of the account, newest first."""

    primary_key = "id"
    records_path = "data"
    paginator = Cursor("data[-1].id", param="starting_after", more="has_more")

    def __init__(self, key: str, url_base: str = STRIPE, **options: Unpack[StreamOptions]) -> None:
        # Stripe expects the key as the user name and an empty password.
        options.setdefault("authenticator", BasicHttpAuthenticator(key))
        super().__init__(**options)
        self.url_base = url_base

    def path(self, context: RequestContext) -> str:
        return "v1/charges"

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"limit": 100}


async def main(url: str = STRIPE) -> None:
    charges = Charges(os.environ["STRIPE_API_KEY"], url)
    count, totals = 0, Counter[str]()

    async with charges.records() as records:
        async for charge in records:
            count += 1
            totals[charge["currency"]] += charge["amount"]

    print(f"{count} charges")
    for currency, cents in sorted(totals.items()):
        print(f"{currency}  {cents / 100:>12,.2f}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
