"""Throttling that an API reports in its body, under a status that usually means something different."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .._json import as_array, as_object, decode
from ..content.error_text import error_text
from ..errors import MalformedJSON
from ..messages import Response

_MAX_DEPTH = 5
_MAX_ITEMS = 20
_REASON_KEYS = (
    *("reason", "code", "Code", "errorCode", "errorcode", "ErrorCode"),
    *("status", "type", "__type", "errorType", "error", "name"),
)
# In lower case without separators: Google's rateLimitExceeded and RATE_LIMIT_EXCEEDED are one.
_REASONS = frozenset(
    (
        "ratelimitexceeded",
        "userratelimitexceeded",
        "sharingratelimitexceeded",
        "concurrentlimitexceeded",
        "resourceexhausted",
        "ratelimited",
        "ratelimit",
        "ratelimitreached",
        "ratelimiterror",
        "requestlimitexceeded",  # Salesforce
        "apilimitexceeded",
        "toomanyrequests",
        "toomanyrequestsexception",
        "throttled",
        "throttling",
        "throttlingexception",
        "requestthrottled",
        "requestthrottledexception",
        "slowdown",
        "overquerylimit",
        "overratelimit",
        "quotaviolation",  # Apigee, of a request quota
        "spikearrestviolation",
        "callrateexceeded",  # Microsoft Advertising
        "applicationthrottled",  # Microsoft Graph
        "throttleexceeded",
        "provisionedthroughputexceeded",
        "provisionedthroughputexceededexception",
        "bandwidthlimitexceeded",
        "complexitybudgetexhausted",  # monday.com
        "ratelimitederror",
    )
)
# Codes of the Graph API of Facebook, https://developers.facebook.com/docs/graph-api/overview/rate-limiting
_GRAPH_API_CODES = frozenset((4, 17, 32, 613, *range(80_000, 80_015)))
# Other reasons of these names are about storage, not about requests.
_QUOTA_REASONS = frozenset(("quotaexceeded", "dailylimitexceeded"))
_USAGE_DOMAINS = frozenset(("usagelimits", "global", "youtube.quota"))
# Google reports these in the domain usageLimits too; a wait does not help.
_PERMISSION_REASONS = frozenset(
    ("accessnotconfigured", "storagequotaexceeded", "dailylimitexceededunreg", "userratelimitexceededunreg")
)
# `re` compiles these on first use: most programs need none of them.
_LIMIT = (
    r"(?:rate[ _-]?limits?|(?:request|api|call)s? (?:usage )?limits?|number of (?:api )?(?:requests|calls)|quota|"
    r"limit (?:of|for) (?:api )?(?:requests|calls))"
)
_EXCEEDED = r"(?:exceed|reach|hit\b|exhaust|used up|surpass|trigger|violat)"
_THROTTLED = (
    rf"{_LIMIT}.{{0,60}}?{_EXCEEDED}|{_EXCEEDED}.{{0,60}}?{_LIMIT}|maximum number of (?:api )?(?:requests|calls)|"
    r"too many (?:api |concurrent )?(?:requests|calls)|abuse detection|throttl|slow down|being rate[ -]limited|"
    r"request rate (?:is )?(?:too high|higher|exceed)|reduce your request rate|developer over (?:rate|qps)|"
    r"crossed (?:your |the )(?:[a-z]+ )?limit|exceeding usage of resource"
)
_STORAGE = r"\b(?:storage|disk|mailbox|seats?)\b"
_PERMISSION = r"\b(?:permissions?|scopes?|privileges?|roles?|not authori[sz]ed|admin)\b"


def reports_throttling(response: Response) -> bool:
    """Whether the body of an error says that too many requests were sent: by a vendor's reason or in words."""
    reasons = set(_find_reasons(_decoded(response)))
    if reasons & _PERMISSION_REASONS:
        return False
    return bool(reasons & _REASONS) or mentions_throttling(error_text(response) or "")


def has_throttle_reason(response: Response) -> bool:
    """Whether the body of an error has the code of a vendor for too many requests; its words alone do not count."""
    reasons = set(_find_reasons(_decoded(response)))
    if not reasons & _REASONS or reasons & _PERMISSION_REASONS:
        return False
    return re.search(_STORAGE, (error_text(response) or "").lower()) is None


def is_throttle_reason(reason: object) -> bool:
    """Whether a code, such as that of a GraphQL error, means that too many requests were sent."""
    return isinstance(reason, str) and _normalized(reason) in _REASONS


def mentions_throttling(text: str) -> bool:
    """Whether a message says that too many requests were sent, as that of GitHub's secondary limit."""
    text = text.lower()
    if re.search(_THROTTLED, text):
        return re.search(_STORAGE, text) is None
    # A message that only names a rate limit may be about the permission to see one.
    return "rate limit" in text and re.search(_PERMISSION, text) is None


def _decoded(response: Response) -> Any:
    try:
        return decode(response.content)
    except MalformedJSON:
        return None


def _find_reasons(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if (items := as_array(value)) is not None:
        for item in items[:_MAX_ITEMS]:
            yield from _find_reasons(item, depth + 1)
    elif (fields := as_object(value)) is not None:
        for key in _REASON_KEYS:
            if isinstance(reason := fields.get(key), str):
                name = _normalized(reason)
                yield "ratelimitexceeded" if name in _QUOTA_REASONS and _is_about_usage(fields) else name
        is_graph_api = "fbtrace_id" in fields or fields.get("type") == "OAuthException"
        if is_graph_api and isinstance(code := fields.get("code"), int) and code in _GRAPH_API_CODES:
            yield "ratelimitexceeded"
        for child in fields.values():
            if not isinstance(child, str):
                yield from _find_reasons(child, depth + 1)


def _is_about_usage(fields: dict[str, Any]) -> bool:
    """Whether a quota of an error, by its domain, is one of requests. Google's storage quotas have other domains."""
    domain = fields.get("domain")
    return not isinstance(domain, str) or domain.lower() in _USAGE_DOMAINS or domain.lower().endswith("googleapis.com")


def _normalized(reason: str) -> str:
    # "com.amazonaws.v2#ThrottlingException", "policies.ratelimit.QuotaViolation"
    return re.sub(r"[\W_]", "", re.split(r"[#.]", reason.rstrip(" ."))[-1]).lower()
