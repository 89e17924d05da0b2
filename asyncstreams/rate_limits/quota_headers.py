"""What does a response tell of the quotas that its request counted against?

This runs for every response. Which of its headers matter follows from their names alone, which are
the same on most responses of an API: so that is found out once for each set of names, and kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol

from ..messages import Response
from .header_values import (
    ROUNDING,
    HeaderIndex,
    ResponseTiming,
    ServerClock,
    ahead,
    count,
    nth,
    number,
    resets_in,
    split_values,
)
from .retry_after import retry_after
from .structured_fields import Item, parse_dictionary, parse_list
from .vendor_headers import COUNTERS, PAIRS_PREFIX, POLICY, STATE, USAGES, CounterNames, UsageNames

_KEPT_PLANS, _KEPT_TEXTS, _LONGEST_NAMES, _LONGEST_NAME = 256, 64, 4096, 64
_MOST = 64  # quotas of one response

_USAGE = re.compile(rb"(?<![\w./-])(?:([a-z-]{1,64})=)?([0-9]{1,15})/([0-9]{1,15})(?![\w./])")
_PAIR = re.compile(rb"(?<![\w-])(total|remaining|resets)=([0-9]{1,15})(?![\w.])")
_ORDINARY_STATE = re.compile(rb'"([A-Za-z0-9_-]{1,64})";r=([0-9]{1,15})(?:;t=([0-9]{1,15}))?')


class ReportedQuota(NamedTuple):
    """What one response tells of one quota; no number is negative, infinite or NaN.

    Rates are to be had in two ways, `remaining / resets_in` and `limit / window`; the lower one
    holds. `remaining` may be above `limit`, where a bucket holds more than one window gives.
    """

    name: str
    """The policy's, followed by its partition or resource, or the header's where policies have no names."""
    remaining: float
    """Units, mostly requests, until the reset; of a policy whose state is not told, its limit."""
    resets_in: float | None
    """Seconds from when the response came; None where nothing tells, or nothing that can be true."""
    limit: float | None
    """Units for each window."""
    window: float | None
    """Seconds."""


def told_quotas(response: Response, wall: float, server: ServerClock | None = None) -> tuple[ReportedQuota, ...]:
    """The quotas of a response, in RateLimit (all drafts) or the headers of `quota_dialects`; of most APIs, none.

    Points in time are read against the response's own `Date`, which is told in whole seconds and
    which `server` knows better the more often it is given; else against `wall`, our time. Resets
    above 1e12 are milliseconds since 1970, above 1e9 seconds, else seconds from now; one in the
    past (by more than rounding) or over 24 hours ahead (or its window, where that is longer) has
    been misread, and is None. What is malformed is left out, and so is a limit of 0, with which
    servers say that there is none, and a policy that counts what is under way at once. A response
    that a cache has kept (`Age` above 0) tells nothing: its quota is of another time, perhaps
    another client's.
    """
    raw = response.raw_headers
    names = tuple([name for name, _ in raw])
    try:
        plan = _plans[names]
    except KeyError:
        plan = _keep_plan(names)
    if plan is None or (plan.age and number(plan.age.text(raw))):
        return ()
    arrival, told = ResponseTiming(raw, wall, plan.date, server or ServerClock()), list[ReportedQuota]()
    for reader in plan.readers:
        reader.read(arrival, told)
    return tuple(told if len(told) <= _MOST else told[:_MOST])


def used_up_for(response: Response, wall: float) -> float | None:
    """Seconds until the quotas that a response tells to be used up are whole again; None where none is, or untold."""
    return max((quota.resets_in or 0.0 for quota in told_quotas(response, wall) if quota.remaining < 1), default=None)


def says_exhausted(response: Response, wall: float) -> bool:
    """Whether a response, whatever its status, orders a wait or says that a quota is used up.

    With it a 403 is a throttle and no refusal, as GitHub's of its primary limit.
    """
    return retry_after(response, wall) is not None or used_up_for(response, wall) is not None


class HeaderParser(Protocol):
    def read(self, arrival: ResponseTiming, told: list[ReportedQuota]) -> None:
        """Add what it finds."""
        ...


class ParsePlan(NamedTuple):
    age: HeaderIndex | None
    date: HeaderIndex | None
    readers: tuple[HeaderParser, ...]


_plans: dict[tuple[bytes, ...], ParsePlan | None] = {}


def _keep_plan(names: tuple[bytes, ...]) -> ParsePlan | None:
    plan = _plan(names)
    # A server that makes up names each time must not fill the memory.
    if sum(map(len, names)) <= _LONGEST_NAMES:
        if len(_plans) >= _KEPT_PLANS:
            _plans.clear()
        _plans[names] = plan
    return plan


def _plan(names: tuple[bytes, ...]) -> ParsePlan | None:
    places: dict[bytes, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name.lower(), []).append(place)

    def where(*wanted: bytes) -> HeaderIndex | None:
        return next((HeaderIndex(places[name]) for name in wanted if name in places), None)

    readers: list[HeaderParser] = []
    if where(*STATE, *POLICY):
        readers.append(StandardHeaders(where(*STATE), where(*POLICY), is_counted=b"ratelimit-remaining" in places))
    readers.extend(
        CounterHeaders(form, where)
        for form in COUNTERS
        if where(*form.remaining) or (where(*form.used) and where(*form.limit))
    )
    readers.extend(UsageHeader(form, HeaderIndex(places[form.header])) for form in USAGES if form.header in places)
    readers.extend(
        PairsHeader(_short(name.decode("latin-1")), HeaderIndex(at))
        for name, at in places.items()
        if name.startswith(PAIRS_PREFIX)
    )
    return ParsePlan(where(b"age"), where(b"date"), tuple(readers)) if readers else None


class _Policy(NamedTuple):
    """A promise of `limit` units in each window; drafts to 07 know no names."""

    name: str | None
    partition: str
    limit: float
    window: float | None
    is_rate: bool

    def title(self, header: str) -> str:
        """Its name, or one from its window."""
        if self.name is not None:
            return _short(self.name + self.partition)
        return header if self.window is None else f"{header};w={self.window:.10g}"


class StandardHeaders:
    """RateLimit and RateLimit-Policy, structured fields since draft 07."""

    def __init__(self, state: HeaderIndex | None, policy: HeaderIndex | None, *, is_counted: bool) -> None:
        self._state, self._policy, self._is_counted = state, policy, is_counted

    def read(self, arrival: ResponseTiming, told: list[ReportedQuota]) -> None:
        promised = self._policy.text(arrival.raw) if self._policy else b""
        text = self._state.text(arrival.raw) if self._state else b""
        match = _ORDINARY_STATE.fullmatch(text)
        alone = None if match is None else _alone(promised, match[1])
        if match is None or alone is None:
            self._read_lists(text.decode("latin-1"), _policies(promised), arrival, told)
            return
        title, limit, window = alone
        reset = match[3]
        seconds = None if reset is None else ahead(float(reset), window, arrival)
        told.append(ReportedQuota(title, float(match[2]), seconds, limit, window))

    def _read_lists(
        self, text: str, policies: tuple[_Policy, ...], arrival: ResponseTiming, told: list[ReportedQuota]
    ) -> None:
        """Several states, or several policies."""
        states: list[tuple[str, str, float, float | None]] = []
        if (items := parse_list(text)) is not None:
            for item in items:
                left = count(item.parameters.get("r"))
                if isinstance(item.value, str) and left is not None:
                    states.append((item.value, _partition(item), left, count(item.parameters.get("t"))))
        elif fields := parse_dictionary(text):
            self._read_fields(fields, policies, arrival, told)
            return
        touched: list[_Policy] = []
        for name, partition, left, reset in states[:_MOST]:
            policy = _policy_of(name, partition, policies)
            if policy is not None:
                touched.append(policy)
                if not (policy.is_rate and policy.limit):
                    continue
            limit, window = (None, None) if policy is None else (policy.limit, policy.window)
            seconds = None if reset is None else ahead(reset, window, arrival)
            told.append(ReportedQuota(_short(name + partition), left, seconds, limit, window))
        if len(touched) < len(policies):
            rest = (policy for policy in policies if policy not in touched and (policy.name or not self._is_counted))
            _tell_untouched(rest, "ratelimit", told)

    def _read_fields(
        self, fields: dict[str, Item], policies: tuple[_Policy, ...], arrival: ResponseTiming, told: list[ReportedQuota]
    ) -> None:
        """Draft 07: RateLimit: limit=100, remaining=50, reset=5."""
        limit, left, reset = (
            count(fields[key].value) if key in fields else None for key in ("limit", "remaining", "reset")
        )
        if left is not None and limit != 0:
            seconds = None if reset is None else ahead(reset, None, arrival)
            unnamed = [policy for policy in policies if policy.name is None]
            _tell("ratelimit", ReportedQuota("ratelimit", left, seconds, limit, None), unnamed, told)
            _tell_untouched(unnamed, "ratelimit", told)


class CounterHeaders:
    """A few headers of one number each, as `Counter` describes them."""

    def __init__(self, form: CounterNames, where: Callable[..., HeaderIndex | None]) -> None:
        self._form = form
        self._remaining, self._limit, self._used = where(*form.remaining), where(*form.limit), where(*form.used)
        self._reset, self._window = where(*form.reset), where(*form.window_told)
        self._policy, self._which = where(*form.policy), where(*form.which)

    def read(self, arrival: ResponseTiming, told: list[ReportedQuota]) -> None:
        form, raw, name, window = self._form, arrival.raw, self._form.name, self._form.window
        if self._which:
            name = _short(f"{name}/{self._which.text(raw).strip().decode('latin-1')}")
        if self._window and (told_window := number(self._window.text(raw))):
            window = told_window * form.window_unit
        limits, policies = _limits(self._limit.text(raw)) if self._limit else _NO_LIMITS
        if self._policy:
            policies += tuple([policy for policy in _policies(self._policy.text(raw)) if policy.name is None])
        used = split_values(self._used.text(raw)) if self._used else ()
        lefts = split_values(self._remaining.text(raw)) if self._remaining else used
        resets = split_values(self._reset.text(raw)) if self._reset else ()
        rest = list(policies)
        for place, text in enumerate(lefts[:_MOST]):
            limit = nth(limits, place, lefts)
            spent = number(nth(used, place, lefts) or b"") if used else None
            if self._remaining:
                left = number(text)
            else:
                left = None if spent is None or limit is None else max(0.0, limit - spent)
            if left is None or limit == 0:
                continue
            if spent is not None and not self._limit:
                limit = left + spent
            reset = nth(resets, place, lefts) if left < 1 or not form.reset_is_wait else None
            seconds = None if reset is None else resets_in(reset, form.reset_unit, window, arrival)
            own = f"{name}#{place + 1}" if place else name
            quota = ReportedQuota(own, left, seconds, limit, window)
            if policies:
                _tell(name, quota, rest, told)
            else:
                told.append(quota)
        if rest:
            _tell_untouched(rest, name, told)


class UsageHeader:
    """Shares of a limit, as "32/40"."""

    def __init__(self, form: UsageNames, header: HeaderIndex) -> None:
        self._form, self._header = form, header

    def read(self, arrival: ResponseTiming, told: list[ReportedQuota]) -> None:
        form, name = self._form, self._form.header.decode()
        for label, used, whole in _USAGE.findall(self._header.text(arrival.raw)):
            limit = float(whole)
            if not limit:
                continue
            left = max(0.0, limit - float(used))
            own = f"{name}/{label.decode()}" if label else name
            if form.leaky:
                # It is never whole again at once: what resets is one unit, each time it has leaked.
                each = form.window / limit
                told.append(ReportedQuota(own, left, each, 1.0, each))
            else:
                told.append(ReportedQuota(own, left, None, limit, form.window))


class PairsHeader:
    """total=100; remaining=99; resets=41."""

    def __init__(self, name: str, header: HeaderIndex) -> None:
        self._name, self._header = name, header

    def read(self, arrival: ResponseTiming, told: list[ReportedQuota]) -> None:
        found = {key: float(value) for key, value in _PAIR.findall(self._header.text(arrival.raw))}
        left, reset, limit = found.get(b"remaining"), found.get(b"resets"), found.get(b"total")
        if left is not None and limit != 0:
            seconds = None if reset is None else ahead(reset, None, arrival)
            told.append(ReportedQuota(self._name, left, seconds, limit, None))


def _tell(header: str, quota: ReportedQuota, rest: list[_Policy], told: list[ReportedQuota]) -> None:
    """Add a quota with the limit and window of the policy behind it, which is then told of."""
    policy = _policy_behind(quota.remaining, quota.resets_in, quota.limit, rest)
    if policy is None:
        told.append(quota)
        return
    name = policy.title(header) if len(rest) > 1 or told else quota.name
    rest.remove(policy)
    told.append(ReportedQuota(name, quota.remaining, quota.resets_in, policy.limit, policy.window))


def _tell_untouched(policies: Iterable[_Policy], name: str, told: list[ReportedQuota]) -> None:
    """Add policies of which nothing else is told, as when RateLimit speaks only of the one that binds."""
    names = {quota.name for quota in told}
    for policy in policies:
        own = policy.title(name)
        if policy.is_rate and policy.limit and own not in names:
            told.append(ReportedQuota(own, policy.limit, None, policy.limit, policy.window))


@lru_cache(_KEPT_TEXTS)
def _alone(promised: bytes, name: bytes) -> tuple[str, float | None, float | None] | None:
    """Name, limit and window of the only quota that there is; None where that is not all."""
    policies, title = _policies(promised), name.decode()
    if not policies:
        return _short(title), None, None
    (policy, *others) = policies
    if others or policy.name != title or not policy.is_rate or not policy.limit:
        return None
    return _short(title), policy.limit, policy.window


def _policy_of(name: str, partition: str, policies: tuple[_Policy, ...]) -> _Policy | None:
    """The policy of that name: of that partition where several share it."""
    if len(policies) == 1 and policies[0].name == name:
        return policies[0]
    same = [policy for policy in policies if policy.name == name]
    return next((policy for policy in same if policy.partition == partition), same[0] if same else None)


def _policy_behind(left: float, seconds: float | None, limit: float | None, policies: list[_Policy]) -> _Policy | None:
    """Which policy without a name is in this state: one that is large and long enough.

    By preference that of the told limit; but Klaviyo tells the limit of one ("75, 75;w=1, 700;w=60")
    with what is left of another, as 699.
    """
    fits = [
        policy
        for policy in policies
        if policy.is_rate
        and policy.limit >= left
        and (seconds is None or policy.window is None or policy.window + ROUNDING > seconds)
    ]
    return min(fits, key=lambda policy: (policy.limit != limit, policy.limit), default=None)


@lru_cache(_KEPT_TEXTS)
def _policies(text: bytes) -> tuple[_Policy, ...]:
    """The policies of a field, which is the same on each response."""
    policies: list[_Policy] = []
    for item in parse_list(text.decode("latin-1")) or ():
        named = isinstance(item.value, str)
        limit = count(item.parameters.get("q") if named else item.value)
        if limit or (limit is not None and named):
            name = str(item.value) if named else None
            is_rate = "concurren" not in str(item.parameters.get("qu"))
            window = count(item.parameters.get("w")) or None
            policies.append(_Policy(name, _partition(item), limit, window, is_rate))
    return tuple(policies)


_NO_LIMITS: tuple[tuple[float | None, ...], tuple[_Policy, ...]] = ((), ())


@lru_cache(_KEPT_TEXTS)
def _limits(text: bytes) -> tuple[tuple[float | None, ...], tuple[_Policy, ...]]:
    """The numbers of a field, and what has a window: drafts to 03 and Klaviyo have "3, 3;w=1, 60;w=60"."""
    limits = tuple(number(value) for value in split_values(text) if b";" not in value)
    return limits, tuple(policy for policy in _policies(text) if policy.window) if b";" in text else ()


def _short(name: str) -> str:
    """A name that a server may make as long as it likes."""
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2s(name.encode(), digest_size=4).hexdigest()
    return f"{name[: _LONGEST_NAME - 9]}#{digest}"


def _partition(item: Item) -> str:
    key = item.parameters.get("pk")
    if key is None:
        return ""
    # Only whether it is the same matters, and it may be an address or a user's name.
    text = key if isinstance(key, bytes) else str(key).encode()
    return f"/{hashlib.blake2s(text, digest_size=4).hexdigest()}"
