"""Server-reported quotas, parsed from response headers.

This runs for every response. The header names determine which headers matter, and most responses of an
API have the same layout. So a parse plan is built once for each layout and cached.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol

from ..messages import HeaderIndex, HeaderLayout, Response
from .header_values import (
    ROUNDING_S,
    ResponseTiming,
    ServerClock,
    non_negative,
    parse_number,
    parse_reset,
    seconds_ahead,
    split_values,
    value_at,
)
from .retry_after import retry_after
from .structured_fields import Item, parse_dictionary, parse_list
from .vendor_headers import (
    COUNTER_HEADERS,
    POLICY_HEADERS,
    RATE_HEADERS,
    STATE_HEADERS,
    USAGE_HEADERS,
    ZENDESK_PREFIX,
    CounterNames,
    UsageNames,
    common_names,
)

_MAX_CACHED_TEXTS = 64
_MAX_NAME_LENGTH = 64  # of a quota
_MAX_QUOTAS = 64  # of one response
_MIN_RATE = 1 / 900  # requests a second; a lower one is not believed

_USAGE = re.compile(rb"(?<![\w./-])(?:([a-z-]{1,64})=)?([0-9]{1,15})/([0-9]{1,15})(?![\w./])")
_VENDOR_NAME = re.compile(rb"(.{0,40}-rate-?limit)-(?:remaining|reset|reset-after)")
_PAIR = re.compile(rb"(?<![\w-])(total|remaining|resets)=([0-9]{1,15})(?![\w.])")
_SIMPLE_STATE = re.compile(rb'"([A-Za-z0-9_-]{1,64})";r=([0-9]{1,15})(?:;t=([0-9]{1,15}))?')


class QuotaScope(Enum):
    """The requests to which a quota applies."""

    CREDENTIAL = "all requests of the credential"
    POLICY = "those whose responses name the same policy"
    RESOURCE = "those whose responses name the same resource or bucket"


class ReportedQuota(NamedTuple):
    """The state of one quota as one response reports it; no number is negative, infinite or NaN.

    Two rates follow from it, `remaining / resets_in` and `limit / window`; the lower one applies.
    `remaining` may exceed `limit` if a bucket holds more than one window refills.
    """

    name: str
    """Name of the policy with its partition or resource, or of the header if policies have no names."""
    remaining: float
    """Units, usually requests, until the reset; the limit of a policy whose state is not reported."""
    resets_in: float | None
    """Seconds from the response to the reset; None if it is not reported or implausible."""
    limit: float | None
    """Units in each window."""
    window: float | None
    """Length in seconds."""
    scope: QuotaScope = QuotaScope.CREDENTIAL
    rate: float | None = None
    """Requests a second, if the server reports only this; the units left are unknown then."""


def reported_quotas(response: Response, wall: float, server: ServerClock | None = None) -> tuple[ReportedQuota, ...]:
    """The quotas of a response, from RateLimit (all drafts) or the headers of `vendor_headers`.

    Timestamps are compared with the response's own `Date`, or with `wall`, our time in seconds since
    1970. `Date` has whole seconds; a `server` clock that is passed each time estimates it more closely.

    Resets above 1e12 are milliseconds since 1970, above 1e9 seconds since 1970, otherwise seconds from
    now. A reset in the past (beyond rounding), or more than 24 hours ahead (or one window, if that is
    longer), is implausible and becomes None.

    The result omits malformed values, limits of 0, which mean that there is no limit, and policies that
    count concurrent requests. A cached response (`Age` above 0) reports nothing: its quota is of another
    time and perhaps of another client.
    """
    plan = _plan_for(response.layout)
    raw = response.raw_headers
    if plan is None or (plan.age and parse_number(plan.age.value(raw))):
        return ()
    timing = ResponseTiming(raw, wall, plan.date, server or ServerClock())
    quotas: list[ReportedQuota] = []
    for parser in plan.parsers:
        parser.parse(timing, quotas)
    return tuple(quotas if len(quotas) <= _MAX_QUOTAS else quotas[:_MAX_QUOTAS])


def exhausted_for(response: Response, wall: float) -> float | None:
    """Seconds until all used-up quotas of a response reset; 0 if no reset is known, None if no quota is used up."""
    return max(
        (quota.resets_in or 0.0 for quota in reported_quotas(response, wall) if _is_used_up(quota)), default=None
    )


def only_a_resource_is_exhausted(response: Response, wall: float) -> bool:
    """Whether each used-up quota of a response is one of a single resource, whose reset is known."""
    used_up = [quota for quota in reported_quotas(response, wall) if _is_used_up(quota)]
    return bool(used_up) and all(quota.scope is QuotaScope.RESOURCE and quota.resets_in for quota in used_up)


def _is_used_up(quota: ReportedQuota) -> bool:
    return quota.remaining < 1 and quota.rate is None


def asks_to_wait(response: Response, wall: float) -> bool:
    """Whether a response of any status orders a wait or reports a used-up quota.

    A 403 that does so is a throttle and not a refusal, such as the one of GitHub's primary limit.
    """
    return retry_after(response, wall) is not None or exhausted_for(response, wall) is not None


def reset_without_state(response: Response, wall: float) -> float | None:
    """Seconds until the latest reset of the quotas whose remaining units a response does not report; None without one.

    A refusal with such a header means that the quota is used up.
    """
    found, date = _lone_resets(response.layout)
    if not found:
        return None
    timing = ResponseTiming(response.raw_headers, wall, date, ServerClock())
    resets = (parse_reset(split_values(index.value(timing.raw))[0], unit, None, timing) for index, unit in found)
    return max((seconds for seconds in resets if seconds), default=None)


@lru_cache(maxsize=64)
def _lone_resets(layout: HeaderLayout) -> tuple[tuple[tuple[HeaderIndex, float], ...], HeaderIndex | None]:
    """The headers with the reset of a quota whose remaining units no header reports, with their units; and Date."""
    indexes = layout.indexes
    found: list[tuple[HeaderIndex, float]] = []
    for form in (*COUNTER_HEADERS, *_other_forms(indexes)):
        if not any(name in indexes for name in (*form.remaining, *form.used)):
            found.extend((indexes[name], form.reset_unit) for name in form.reset[:2] if name in indexes)
    return tuple(found), indexes.get(b"date")


def _other_forms(names: Iterable[bytes]) -> list[CounterNames]:
    """The forms of vendors that are not listed, but use the usual names, such as X-Sentry-Rate-Limit-Remaining."""
    prefixes = {match[1] for name in names if (match := _VENDOR_NAME.fullmatch(name))}
    listed = {name for form in COUNTER_HEADERS for name in (*form.remaining, *form.reset)}
    return [
        common_names(prefix.decode("latin-1"), prefix)
        for prefix in sorted(prefixes)
        if not listed & {prefix + b"-remaining", prefix + b"-reset"}
    ]


class HeaderParser(Protocol):
    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        """Append the quotas found in the headers of `timing`."""
        ...


class ParsePlan(NamedTuple):
    age: HeaderIndex | None
    date: HeaderIndex | None
    parsers: tuple[HeaderParser, ...]


@lru_cache(maxsize=64)
def _plan_for(layout: HeaderLayout) -> ParsePlan | None:
    indexes = layout.indexes

    def find(*candidates: bytes) -> HeaderIndex | None:
        return next((indexes[name] for name in candidates if name in indexes), None)

    parsers: list[HeaderParser] = []
    if find(*STATE_HEADERS, *POLICY_HEADERS):
        parsers.append(
            StandardHeaders(find(*STATE_HEADERS), find(*POLICY_HEADERS), has_counters=b"ratelimit-remaining" in indexes)
        )
    forms = (*COUNTER_HEADERS, *_other_forms(indexes))
    parsers.extend(
        CounterHeaders(form, find)
        for form in forms
        if find(*form.remaining) or (find(*form.used) and find(*form.limit))
    )
    parsers.extend(UsageHeader(form, indexes[form.header]) for form in USAGE_HEADERS if form.header in indexes)
    parsers.extend(
        PairsHeader(_shortened(name.decode("latin-1")), index)
        for name, index in indexes.items()
        if name.startswith(ZENDESK_PREFIX)
    )
    parsers.extend(RateHeader(name, indexes[name]) for name in RATE_HEADERS if name in indexes)
    return ParsePlan(find(b"age"), find(b"date"), tuple(parsers)) if parsers else None


class QuotaPolicy(NamedTuple):
    """A policy of `limit` units in each window; it has no name in drafts up to 07."""

    name: str | None
    partition: str
    limit: float
    window: float | None
    is_rate: bool

    def quota_name(self, header: str) -> str:
        """Name of the policy, or one derived from its window."""
        if self.name is not None:
            return _shortened(self.name + self.partition)
        return header if self.window is None else f"{header};w={self.window:.10g}"


class StandardHeaders:
    """Parser for RateLimit and RateLimit-Policy, structured fields since draft 07."""

    def __init__(self, state: HeaderIndex | None, policy: HeaderIndex | None, *, has_counters: bool) -> None:
        self._state, self._policy, self._has_counters = state, policy, has_counters

    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        policy_text = self._policy.value(timing.raw) if self._policy else b""
        text = self._state.value(timing.raw) if self._state else b""
        match = _SIMPLE_STATE.fullmatch(text)
        single = None if match is None else _single_quota(policy_text, match[1])
        if match is None or single is None:
            self._parse_lists(text.decode("latin-1"), _parse_policies(policy_text), timing, quotas)
            return
        title, limit, window = single
        reset = match[3]
        seconds = None if reset is None else seconds_ahead(float(reset), window, timing)
        quotas.append(ReportedQuota(title, float(match[2]), seconds, limit, window, QuotaScope.POLICY))

    def _parse_lists(
        self, text: str, policies: tuple[QuotaPolicy, ...], timing: ResponseTiming, quotas: list[ReportedQuota]
    ) -> None:
        """Parse several states or several policies."""
        states: list[tuple[str, str, float, float | None]] = []
        if (items := parse_list(text)) is not None:
            for item in items:
                remaining = non_negative(item.parameters.get("r"))
                if isinstance(item.value, str) and remaining is not None:
                    states.append((item.value, _partition(item), remaining, non_negative(item.parameters.get("t"))))
        elif fields := parse_dictionary(text):
            self._parse_fields(fields, policies, timing, quotas)
            return
        matched: list[QuotaPolicy] = []
        for name, partition, remaining, reset in states[:_MAX_QUOTAS]:
            policy = _named_policy(name, partition, policies)
            if policy is not None:
                matched.append(policy)
                if not (policy.is_rate and policy.limit):
                    continue
            limit, window = (None, None) if policy is None else (policy.limit, policy.window)
            seconds = None if reset is None else seconds_ahead(reset, window, timing)
            quota_name = _shortened(name + partition)
            quotas.append(ReportedQuota(quota_name, remaining, seconds, limit, window, QuotaScope.POLICY))
        if len(matched) < len(policies):
            rest = (policy for policy in policies if policy not in matched and (policy.name or not self._has_counters))
            _add_unreported(rest, "ratelimit", quotas)

    def _parse_fields(
        self,
        fields: dict[str, Item],
        policies: tuple[QuotaPolicy, ...],
        timing: ResponseTiming,
        quotas: list[ReportedQuota],
    ) -> None:
        """Parse draft 07: RateLimit: limit=100, remaining=50, reset=5."""
        limit, remaining, reset = (
            non_negative(fields[key].value) if key in fields else None for key in ("limit", "remaining", "reset")
        )
        if remaining is not None and limit != 0:
            seconds = None if reset is None else seconds_ahead(reset, None, timing)
            unnamed = [policy for policy in policies if policy.name is None]
            _add_with_policy("ratelimit", ReportedQuota("ratelimit", remaining, seconds, limit, None), unnamed, quotas)
            _add_unreported(unnamed, "ratelimit", quotas)


class CounterHeaders:
    """Parser for headers of one number each, as described by `CounterNames`."""

    def __init__(self, form: CounterNames, find: Callable[..., HeaderIndex | None]) -> None:
        self._form = form
        self._remaining, self._limit, self._used = find(*form.remaining), find(*form.limit), find(*form.used)
        self._reset, self._window = find(*form.reset), find(*form.window_header)
        self._policy, self._qualifier = find(*form.policy), find(*form.qualifier)

    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        form, raw, name, window = self._form, timing.raw, self._form.name, self._form.window
        if self._qualifier:
            name = _shortened(f"{name}/{self._qualifier.value(raw).strip().decode('latin-1')}")
        if self._window and (reported_window := parse_number(self._window.value(raw))):
            window = reported_window * form.window_unit
        limits, policies = _parse_limits(self._limit.value(raw)) if self._limit else _NO_LIMITS
        if self._policy:
            policies += tuple([policy for policy in _parse_policies(self._policy.value(raw)) if policy.name is None])
        used = split_values(self._used.value(raw)) if self._used else ()
        remainings = split_values(self._remaining.value(raw)) if self._remaining else used
        resets = split_values(self._reset.value(raw)) if self._reset else ()
        rest = list(policies)
        for position, text in enumerate(remainings[:_MAX_QUOTAS]):
            limit = value_at(limits, position, remainings)
            spent = parse_number(value_at(used, position, remainings) or b"") if used else None
            if self._remaining:
                remaining = parse_number(text)
            else:
                remaining = None if spent is None or limit is None else max(0.0, limit - spent)
            if remaining is None or limit == 0:
                continue
            if spent is not None and not self._limit:
                limit = remaining + spent
            reset = value_at(resets, position, remainings) if remaining < 1 or not form.reset_is_wait else None
            seconds = None if reset is None else parse_reset(reset, form.reset_unit, window, timing)
            quota_name = f"{name}#{position + 1}" if position else name
            scope = QuotaScope.RESOURCE if self._qualifier else QuotaScope.CREDENTIAL
            quota = ReportedQuota(quota_name, remaining, seconds, limit, window, scope)
            if policies:
                _add_with_policy(name, quota, rest, quotas)
            else:
                quotas.append(quota)
        if rest:
            _add_unreported(rest, name, quotas)


class UsageHeader:
    """Parser for headers such as "32/40", the used part of a limit."""

    def __init__(self, form: UsageNames, header: HeaderIndex) -> None:
        self._form, self._header = form, header

    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        form, name = self._form, self._form.header.decode()
        for label, used, total in _USAGE.findall(self._header.value(timing.raw)):
            limit = float(total)
            if not limit:
                continue
            remaining = max(0.0, limit - float(used))
            quota_name = f"{name}/{label.decode()}" if label else name
            if form.leaky:
                # A leaky bucket refills gradually: each reset returns one unit.
                each = form.window / limit
                quotas.append(ReportedQuota(quota_name, remaining, each, 1.0, each))
            else:
                quotas.append(ReportedQuota(quota_name, remaining, None, limit, form.window))


class PairsHeader:
    """Parser for headers such as "total=100; remaining=99; resets=41"."""

    def __init__(self, name: str, header: HeaderIndex) -> None:
        self._name, self._header = name, header

    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        found = {key: float(value) for key, value in _PAIR.findall(self._header.value(timing.raw))}
        remaining, reset, limit = found.get(b"remaining"), found.get(b"resets"), found.get(b"total")
        if remaining is not None and limit != 0:
            seconds = None if reset is None else seconds_ahead(reset, None, timing)
            quotas.append(ReportedQuota(self._name, remaining, seconds, limit, None))


class RateHeader:
    """Parser for a header whose only number is a rate, in requests a second."""

    def __init__(self, name: bytes, header: HeaderIndex) -> None:
        self._name, self._header = name.decode(), header

    def parse(self, timing: ResponseTiming, quotas: list[ReportedQuota]) -> None:
        rate = parse_number(self._header.value(timing.raw))
        if rate is not None and rate >= _MIN_RATE:
            quotas.append(ReportedQuota(self._name, rate, None, rate, 1.0, rate=rate))


def _add_with_policy(header: str, quota: ReportedQuota, rest: list[QuotaPolicy], quotas: list[ReportedQuota]) -> None:
    """Append a quota with the limit and window of its policy, and remove the policy from `rest`."""
    policy = _matching_policy(quota.remaining, quota.resets_in, quota.limit, rest)
    if policy is None:
        quotas.append(quota)
        return
    name = policy.quota_name(header) if len(rest) > 1 or quotas else quota.name
    rest.remove(policy)
    quotas.append(quota._replace(name=name, limit=policy.limit, window=policy.window))


def _add_unreported(policies: Iterable[QuotaPolicy], name: str, quotas: list[ReportedQuota]) -> None:
    """Append policies without a reported state, as when RateLimit only reports the binding one."""
    names = {quota.name for quota in quotas}
    for policy in policies:
        quota_name = policy.quota_name(name)
        if policy.is_rate and policy.limit and quota_name not in names:
            scope = QuotaScope.CREDENTIAL if policy.name is None else QuotaScope.POLICY
            quotas.append(ReportedQuota(quota_name, policy.limit, None, policy.limit, policy.window, scope))


@lru_cache(_MAX_CACHED_TEXTS)
def _single_quota(policy_text: bytes, name: bytes) -> tuple[str, float | None, float | None] | None:
    """Name, limit and window of a response with a single quota; None if there are more policies."""
    policies, title = _parse_policies(policy_text), name.decode()
    if not policies:
        return _shortened(title), None, None
    (policy, *others) = policies
    if others or policy.name != title or not policy.is_rate or not policy.limit:
        return None
    return _shortened(title), policy.limit, policy.window


def _named_policy(name: str, partition: str, policies: tuple[QuotaPolicy, ...]) -> QuotaPolicy | None:
    """The policy of a name, and of the partition if several policies share the name."""
    if len(policies) == 1 and policies[0].name == name:
        return policies[0]
    same = [policy for policy in policies if policy.name == name]
    return next((policy for policy in same if policy.partition == partition), same[0] if same else None)


def _matching_policy(
    remaining: float, seconds: float | None, limit: float | None, policies: list[QuotaPolicy]
) -> QuotaPolicy | None:
    """The unnamed policy that fits a state: one with a sufficient limit and window.

    A policy with the reported limit is preferred. But Klaviyo reports the limit of one policy
    ("75, 75;w=1, 700;w=60") with the remaining units of another, such as 699.
    """
    fits = [
        policy
        for policy in policies
        if policy.is_rate
        and policy.limit >= remaining
        and (seconds is None or policy.window is None or policy.window + ROUNDING_S > seconds)
    ]
    return min(fits, key=lambda policy: (policy.limit != limit, policy.limit), default=None)


@lru_cache(_MAX_CACHED_TEXTS)
def _parse_policies(text: bytes) -> tuple[QuotaPolicy, ...]:
    """The policies of a field, which rarely changes between responses."""
    policies: list[QuotaPolicy] = []
    for item in parse_list(text.decode("latin-1")) or ():
        named = isinstance(item.value, str)
        limit = non_negative(item.parameters.get("q") if named else item.value)
        if limit or (limit is not None and named):
            name = str(item.value) if named else None
            is_rate = "concurren" not in str(item.parameters.get("qu"))
            window = non_negative(item.parameters.get("w")) or None
            policies.append(QuotaPolicy(name, _partition(item), limit, window, is_rate))
    return tuple(policies)


_NO_LIMITS: tuple[tuple[float | None, ...], tuple[QuotaPolicy, ...]] = ((), ())


@lru_cache(_MAX_CACHED_TEXTS)
def _parse_limits(text: bytes) -> tuple[tuple[float | None, ...], tuple[QuotaPolicy, ...]]:
    """The limits of a field, and its policies: drafts up to 03 and Klaviyo send "3, 3;w=1, 60;w=60"."""
    limits = tuple(parse_number(value) for value in split_values(text) if b";" not in value)
    return limits, tuple(policy for policy in _parse_policies(text) if policy.window) if b";" in text else ()


def _shortened(name: str) -> str:
    """A name of bounded length, since the server may send one of any length."""
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    digest = hashlib.blake2s(name.encode(), digest_size=4).hexdigest()
    return f"{name[: _MAX_NAME_LENGTH - 9]}#{digest}"


def _partition(item: Item) -> str:
    key = item.parameters.get("pk")
    if key is None:
        return ""
    # Hashed, since it may be an address or a user's name; only equality matters.
    text = key if isinstance(key, bytes) else str(key).encode()
    return f"/{hashlib.blake2s(text, digest_size=4).hexdigest()}"
