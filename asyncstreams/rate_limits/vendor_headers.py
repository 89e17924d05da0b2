"""Names of the headers in which APIs report their quotas.

Header names are in lower case. If several names are given for one value, the first present one counts.
"""

from __future__ import annotations

from typing import NamedTuple

Names = tuple[bytes, ...]

_MINUTE, _HOUR, _DAY, _MONTH = 60.0, 3600.0, 86_400.0, 2_592_000.0


class CounterNames(NamedTuple):
    """A quota reported in headers of one number each; several values in a header mean several quotas."""

    name: str
    remaining: Names
    limit: Names = ()
    used: Names = ()
    reset: Names = ()
    # In seconds.
    reset_unit: float = 1.0
    # The reset is the wait for the next request, so it only counts once the quota is used up.
    reset_is_wait: bool = False
    window: float | None = None
    window_header: Names = ()
    window_unit: float = 1.0
    policy: Names = ()
    # The header that names the quota, if several quotas use the same headers.
    qualifier: Names = ()


class UsageNames(NamedTuple):
    """A quota reported as "used/limit". A leaky one refills one unit at a time, `limit` units in `window` seconds."""

    header: bytes
    window: float
    leaky: bool = False


def common_names(name: str, prefix: bytes, **more: Names) -> CounterNames:
    """The usual header names, which all begin with `prefix`; also of vendors that are not listed."""
    return CounterNames(
        name,
        remaining=(prefix + b"-remaining",),
        limit=(*more.get("limit", ()), prefix + b"-limit", *more.get("or_limit", ())),
        used=(prefix + b"-used", *more.get("used", ())),
        reset=(prefix + b"-reset-after", prefix + b"-reset", *more.get("reset", ())),
        window_header=more.get("window_header", ()),
        policy=(prefix + b"-policy",),
        qualifier=more.get("qualifier", ()),
    )


COUNTER_HEADERS = (
    # IETF drafts up to 06; GitLab adds the date and the name.
    common_names("ratelimit", b"ratelimit", reset=(b"ratelimit-resettime",), qualifier=(b"ratelimit-name",)),
    # GitHub (-Resource), Discord (-Reset-After, -Bucket), Reddit, Jira, ClickUp, Pipedrive and most others;
    # Atlassian Data Center fills FillRate into its bucket each interval, Freshdesk says Total, Strava Usage.
    common_names(
        "x-ratelimit",
        b"x-ratelimit",
        limit=(b"x-ratelimit-fillrate",),
        or_limit=(b"x-ratelimit-total",),
        used=(b"x-ratelimit-usage",),
        window_header=(b"x-ratelimit-interval-seconds",),
        qualifier=(b"x-ratelimit-resource", b"x-ratelimit-bucket"),
    ),
    # Okta, Twitter; the limit of Zendesk has no suffix.
    common_names("x-rate-limit", b"x-rate-limit", or_limit=(b"x-rate-limit",)),
    # Strava, read requests.
    CounterNames("x-readratelimit", (), limit=(b"x-readratelimit-limit",), used=(b"x-readratelimit-usage",)),
    # Kong.
    *(
        CounterNames(
            f"{prefix}-{unit}",
            remaining=(f"{prefix}-remaining-{unit}".encode(),),
            limit=(f"{prefix}-limit-{unit}".encode(),),
            window=window,
        )
        for prefix in ("x-ratelimit", "ratelimit")
        for unit, window in (("second", 1.0), ("minute", _MINUTE), ("hour", _HOUR), ("day", _DAY), ("month", _MONTH))
    ),
    # OpenAI counts both; its resets are durations such as "6m0s".
    *(
        CounterNames(
            f"x-ratelimit-{unit}",
            remaining=(f"x-ratelimit-remaining-{unit}".encode(),),
            limit=(f"x-ratelimit-limit-{unit}".encode(),),
            reset=(f"x-ratelimit-reset-{unit}".encode(),),
        )
        for unit in ("requests", "tokens")
    ),
    *(
        common_names(f"anthropic-ratelimit-{unit}", f"anthropic-ratelimit-{unit}".encode())
        for unit in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
    CounterNames(
        "x-hubspot-ratelimit",
        remaining=(b"x-hubspot-ratelimit-remaining",),
        limit=(b"x-hubspot-ratelimit-max",),
        window_header=(b"x-hubspot-ratelimit-interval-milliseconds",),
        window_unit=0.001,
    ),
    *(
        CounterNames(
            f"x-hubspot-ratelimit-{unit}",
            remaining=(f"x-hubspot-ratelimit-{unit}-remaining".encode(),),
            limit=(f"x-hubspot-ratelimit-{unit}".encode(),),
            window=window,
        )
        for unit, window in (("secondly", 1.0), ("daily", _DAY))
    ),
    *(
        CounterNames(
            f"x-contentful-ratelimit-{unit}",
            remaining=(f"x-contentful-ratelimit-{unit}-remaining".encode(),),
            limit=(f"x-contentful-ratelimit-{unit}-limit".encode(),),
            reset=(b"x-contentful-ratelimit-reset",),
            reset_is_wait=True,
            window=window,
        )
        for unit, window in (("second", 1.0), ("hour", _HOUR))
    ),
    # BigCommerce.
    CounterNames(
        "x-rate-limit-requests",
        remaining=(b"x-rate-limit-requests-left",),
        limit=(b"x-rate-limit-requests-quota",),
        reset=(b"x-rate-limit-time-reset-ms",),
        reset_unit=0.001,
        window_header=(b"x-rate-limit-time-window-ms",),
        window_unit=0.001,
    ),
    # Docusign, besides X-RateLimit.
    CounterNames("x-burstlimit", remaining=(b"x-burstlimit-remaining",), limit=(b"x-burstlimit-limit",)),
    # Etsy.
    CounterNames("x-per-second", (b"x-remaining-this-second",), limit=(b"x-limit-per-second",), window=1.0),
    CounterNames("x-per-day", (b"x-remaining-today",), limit=(b"x-limit-per-day",), window=_DAY),
    # Xero.
    CounterNames("x-minlimit", remaining=(b"x-minlimit-remaining",), window=_MINUTE),
    CounterNames("x-appminlimit", remaining=(b"x-appminlimit-remaining",), window=_MINUTE),
    CounterNames("x-daylimit", remaining=(b"x-daylimit-remaining",), window=_DAY),
)

USAGE_HEADERS = (
    # 2 per second of 40, proportionally more on larger plans: a full refill takes 20 seconds on each plan.
    UsageNames(b"x-shopify-shop-api-call-limit", window=20.0, leaky=True),
    UsageNames(b"x-gorgias-account-api-call-limit", window=20.0, leaky=True),
    UsageNames(b"x-recharge-limit", window=20.0, leaky=True),
    # Salesforce: the last 24 hours, without a reset.
    UsageNames(b"sforce-limit-info", window=_DAY),
)

# Of Amazon's Selling Partner API, for each operation. The burst is not reported.
RATE_HEADERS = (b"x-amzn-ratelimit-limit",)

# Zendesk, for each endpoint: "total=100; remaining=99; resets=41".
ZENDESK_PREFIX = b"zendesk-ratelimit-"

# The IETF headers; Jira sends them under another name.
STATE_HEADERS, POLICY_HEADERS = (b"ratelimit", b"beta-ratelimit"), (b"ratelimit-policy", b"beta-ratelimit-policy")
