"""Decisions after attempts: a table of outcomes, and properties that hold for all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import (
    AsyncStreamsError,
    HostUnavailable,
    HttpStatusError,
    MalformedJSON,
    MalformedResponse,
    Response,
    ResponseAction,
    StallTimeout,
    TruncatedBody,
    UnexpectedContent,
)
from asyncstreams.http.retry import (
    AttemptFacts,
    ClassifiedResponse,
    Done,
    Fail,
    Failure,
    Outcome,
    RefreshAuth,
    Refusal,
    Remedy,
    Retry,
    Throttle,
    WaitForHost,
    decide,
)

FACTS = AttemptFacts(tries=0, max_tries=5, time_left=600.0, idempotent=True)
LAST_TRY = replace(FACTS, tries=4)
NOT_IDEMPOTENT = replace(FACTS, idempotent=False)
HOST_DOWN = replace(FACTS, is_host_down=True)
ERROR, NO_LIMIT = HttpStatusError("answered 503"), HttpStatusError("no permission")
UNSENT, SENT = HostUnavailable("did not answer"), HostUnavailable("failed")
UNSENT.retryable = SENT.retryable = True
TRUNCATED, MALFORMED, HTML = TruncatedBody("cut"), MalformedJSON("malformed", offset=1), UnexpectedContent("a page")
BAD_HTTP = MalformedResponse("no status line")
FAIL, RETRY, REFRESH, THROTTLED = (
    ResponseAction.FAIL,
    ResponseAction.RETRY,
    ResponseAction.REFRESH_AUTH,
    ResponseAction.THROTTLED,
)


def response(status: int) -> Response:
    request = httpx.Request("GET", "https://api.test/")
    return Response(status, headers=[], stream=httpx.ByteStream(b""), request=request)


OK, R401, R403, R429, R503 = map(response, (200, 401, 403, 429, 503))
USED = ClassifiedResponse(OK, ResponseAction.SUCCESS)
REJECTED = Refusal(R401, REFRESH, ERROR)
BUSY = Refusal(R503, RETRY, ERROR)
REFUSED = Refusal(R429, THROTTLED, ERROR)
UNCERTAIN = Refusal(R403, THROTTLED, ERROR, if_no_limit=NO_LIMIT, ordered=9.0)


@pytest.mark.parametrize(
    ("outcome", "facts", "decision"),
    [
        pytest.param(USED, LAST_TRY, Done(USED), id="response"),
        pytest.param(Refusal(R403, FAIL, ERROR), FACTS, Fail(ERROR, is_answer=True), id="refusal"),
        pytest.param(REJECTED, FACTS, RefreshAuth(R401, remedy=Remedy.REFRESH_AUTH), id="token"),
        pytest.param(
            REJECTED, replace(FACTS, remedies=Remedy.REFRESH_AUTH), Fail(ERROR, is_answer=True), id="new-token"
        ),
        pytest.param(
            Refusal(R401, FAIL, ERROR),
            replace(FACTS, has_spare_token=True),
            RefreshAuth(R401, drops_token=True),
            id="one-of-several-tokens",
        ),
        pytest.param(
            Refusal(R403, FAIL, ERROR),
            replace(FACTS, has_spare_token=True),
            Fail(ERROR, is_answer=True),
            id="permission-of-one-of-several-tokens",
        ),
        pytest.param(BUSY, FACTS, Retry(ERROR, None, max_wait=600.0), id="503"),
        pytest.param(BUSY._replace(wait=2.0), FACTS, Retry(ERROR, 2.0, max_wait=600.0), id="own-wait"),
        pytest.param(BUSY._replace(ordered=700.0), FACTS, Retry(ERROR, 700.0, is_ordered=True), id="ordered-wait"),
        pytest.param(BUSY._replace(wait=601.0), FACTS, Fail(ERROR, gave_up=True), id="own-wait-too-long"),
        pytest.param(BUSY, replace(FACTS, time_left=-1.0), Fail(ERROR, gave_up=True), id="no-time-left"),
        pytest.param(BUSY, LAST_TRY, Fail(ERROR, gave_up=True), id="last-try"),
        pytest.param(
            BUSY, replace(LAST_TRY, is_in_outage=True), Retry(ERROR, None, max_wait=600.0), id="last-try-in-outage"
        ),
        pytest.param(BUSY, NOT_IDEMPOTENT, Fail(ERROR), id="503-not-idempotent"),
        pytest.param(BUSY, HOST_DOWN, WaitForHost(), id="host-down"),
        pytest.param(
            BUSY._replace(ordered=1.0), HOST_DOWN, Retry(ERROR, 1.0, is_ordered=True), id="host-down-that-orders"
        ),
        pytest.param(BUSY, replace(HOST_DOWN, tries=4), Fail(ERROR, gave_up=True), id="host-down-at-last-try"),
        pytest.param(REFUSED, LAST_TRY, Throttle(R429, ERROR, None), id="429"),
        pytest.param(REFUSED._replace(ordered=9.0), FACTS, Throttle(R429, ERROR, 9.0), id="429-ordered"),
        pytest.param(
            REFUSED,
            replace(FACTS, can_switch_token=True),
            Throttle(R429, ERROR, None, switches_token=True),
            id="2nd",
        ),
        pytest.param(REFUSED, NOT_IDEMPOTENT, Fail(ERROR), id="429-not-idempotent"),
        pytest.param(UNCERTAIN, FACTS, Throttle(R403, ERROR, 9.0, remedy=Remedy.QUOTA_WAIT), id="perhaps-a-limit"),
        pytest.param(
            UNCERTAIN, replace(FACTS, remedies=Remedy.QUOTA_WAIT), Fail(NO_LIMIT, is_answer=True), id="no-limit"
        ),
        pytest.param(Failure(SENT), FACTS, Retry(SENT, None, max_wait=600.0), id="lost-connection"),
        pytest.param(Failure(SENT), NOT_IDEMPOTENT, Fail(SENT), id="lost-connection-not-idempotent"),
        pytest.param(
            Failure(UNSENT, was_received=False), NOT_IDEMPOTENT, Retry(UNSENT, None, max_wait=600.0), id="unsent"
        ),
        pytest.param(Failure(SENT), HOST_DOWN, WaitForHost(), id="lost-connection-to-host-down"),
        pytest.param(Failure(HTML), FACTS, Fail(HTML), id="unexpected-content"),
        pytest.param(Failure(TRUNCATED, is_unread=True), FACTS, Retry(TRUNCATED, None, max_wait=600.0), id="truncated"),
        pytest.param(
            Failure(MALFORMED, is_unread=True),
            FACTS,
            Retry(MALFORMED, None, max_wait=600.0, remedy=Remedy.REREAD),
            id="malformed",
        ),
        pytest.param(
            Failure(MALFORMED, is_unread=True), replace(FACTS, remedies=Remedy.REREAD), Fail(MALFORMED), id="again"
        ),
        pytest.param(
            Failure(BAD_HTTP), FACTS, Retry(BAD_HTTP, None, max_wait=600.0, remedy=Remedy.REREAD), id="not-http"
        ),
        pytest.param(Failure(MALFORMED, is_unread=True), NOT_IDEMPOTENT, Fail(MALFORMED), id="malformed-post"),
    ],
)
def test_outcome_leads_to(outcome: Outcome, facts: AttemptFacts, decision: object) -> None:
    assert decide(outcome, facts) == decision


seconds = st.none() | st.floats(0.01, 1e6)
errors: st.SearchStrategy[AsyncStreamsError] = st.sampled_from(
    [UNSENT, SENT, TRUNCATED, MALFORMED, BAD_HTTP, HTML, StallTimeout("stalled"), ERROR]
)
refusals = st.builds(
    Refusal,
    response=st.sampled_from([OK, R401, R403, R429, R503]),
    action=st.sampled_from([FAIL, RETRY, REFRESH, THROTTLED]),
    error=st.just(ERROR),
    if_no_limit=st.sampled_from([None, NO_LIMIT]),
    wait=seconds,
    ordered=seconds,
)
outcomes = st.just(USED) | refusals | st.builds(Failure, errors, was_received=st.booleans(), is_unread=st.booleans())
facts = st.builds(
    AttemptFacts,
    tries=st.integers(0, 6),
    max_tries=st.integers(1, 5),
    time_left=st.floats(-10, 1000),
    idempotent=st.booleans(),
    remedies=st.sampled_from(Remedy) | st.just(Remedy.REREAD | Remedy.QUOTA_WAIT | Remedy.REFRESH_AUTH),
    is_host_down=st.booleans(),
    is_in_outage=st.booleans(),
    has_spare_token=st.booleans(),
    can_switch_token=st.booleans(),
)


@given(outcomes, facts)
def test_every_outcome_has_a_decision(outcome: Outcome, facts: AttemptFacts) -> None:
    assert isinstance(decide(outcome, facts), Done | RefreshAuth | Retry | Throttle | WaitForHost | Fail)


@given(outcomes, facts)
def test_request_that_may_have_been_processed_is_not_repeated(outcome: Outcome, facts: AttemptFacts) -> None:
    decision = decide(outcome, replace(facts, idempotent=False))

    if not isinstance(outcome, Failure) or outcome.was_received:
        # A token is refused before the request is processed.
        assert isinstance(decision, Done | RefreshAuth | Fail)


@given(outcomes, facts)
def test_try_is_spent_only_if_one_is_left(outcome: Outcome, facts: AttemptFacts) -> None:
    decision = decide(outcome, facts)

    if isinstance(decision, Retry):
        assert facts.is_in_outage or facts.tries + 1 < facts.max_tries
        assert decision.max_wait == (math.inf if decision.is_ordered else facts.time_left)
        assert decision.is_ordered or (decision.after or 0.0) <= facts.time_left


@given(outcomes, facts)
def test_remedy_is_used_at_most_once(outcome: Outcome, facts: AttemptFacts) -> None:
    decision = decide(outcome, facts)

    remedy = Remedy.NONE if isinstance(decision, Done | Fail) else decision.remedy
    assert not remedy & facts.remedies
