"""Thresholds of runs: their language, and how they are judged."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams import ConfigError, HttpStream, JsonLines, PartialFailure, RequestContext, Source, ThresholdMissed
from asyncstreams.event_log.run_record import RunRecord, StreamRecord
from asyncstreams.event_log.thresholds import Amount, Threshold, check_thresholds, parse_threshold
from asyncstreams.testing import MockApi, Resource


def stream(name: str = "orders", **figures: Any) -> StreamRecord:
    return replace(StreamRecord(name, "complete"), **figures)


def run(*streams: StreamRecord, **figures: Any) -> RunRecord:
    return replace(RunRecord("r1", "Shop", "JsonLines out", "2026-12-01", "complete"), streams=streams, **figures)


ORDERS = stream(records=900, rows=900, requests=1_000, refused=10, slices=8, failed=2, quarantined=100, size=2_000_000)
ISSUES = stream("my.issues", records=100, requests=1_000, retries=20, missing=1, slices=1)
RUN = run(ORDERS, ISSUES, seconds=90.0)
LAST = run(replace(ORDERS, records=1_000), id="r0", seconds=60.0)


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("orders.records >= 900", True),
        ("orders.records > 900", False),
        ("records == 1_000", True),
        ("records == 1,000", True),
        ("records != 1e3", False),
        ("my.issues.records < 101", True),
        ('"my.issues".records < 101', True),
        ("  orders . records   >=  9e2 ", True),
        ("refused <= 1%", True),
        ("orders.refused < 1%", False),
        ("orders.refused <= 1.0 %", True),
        ("retries <= 1%", True),
        ("orders.failed == 20%", True),
        ("orders.quarantined <= 10%", True),
        ("my.issues.missing == 50%", True),
        ("duration < 30m", True),
        ("duration <= 1m30s", True),
        ("duration < 1m 29s 999ms", False),
        ("bytes >= 2MB", True),
        ("bytes > 1.9 MiB", True),
        ("orders.records >= 0.9 * last", True),
        ("orders.records >= last * 0.9", True),
        ("orders.records >= 90% * last", True),
        ("orders.records > 0.9*last", False),
        ("orders.records >= last - 100", True),
        ("orders.records >= last - 99", False),
        ("duration <= last + 30s", True),
        ("duration <= 1.4 * last", False),
        ("orders.refused <= last + 1%", True),
        ("nothing.records == 0", True),
    ],
)
def test_threshold_is_judged(text, is_met):
    result = parse_threshold(text).evaluate(RUN, LAST)

    assert result.is_met is is_met
    assert result.details


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("orders.records", "no comparison, at character 15", "use one of"),
        ("orders.records = 1", "'=' is not a comparison, at character 16", "use =="),
        ("orders.recrods > 1", "unknown metric 'recrods', at character 8", "did you mean records?"),
        ("xyz > 1", "unknown metric 'xyz'", "the metrics: records"),
        (".records > 1", "no stream before the dot", "write records alone"),
        ("records > ", "cannot be read", "values: 100"),
        ("records > x", "cannot be read", "values: 100"),
        ("records > 1 2", "two numbers follow each other", "values: 100"),
        ("records > 1 * 2", "cannot be read", "values: 100"),
        ("records > last * last", "cannot be read", "values: 100"),
        ("records > -1", "cannot be read", "values: 100"),
        ("records > 1e999", "the number is too large", "values: 100"),
        ("records > 5 %", "the unit does not fit records", "a plain number"),
        ("duration < 30", "the unit does not fit duration", "a duration such as 30m"),
        ("duration < 3 parsecs", "unknown unit 'parsecs', at character 14", "units: %"),
        ("refused < 3s", "the unit does not fit refused", "a plain number or a percentage"),
        ("bytes > 1s", "the unit does not fit bytes", "a size such as 10MB"),
        ("records > __import__('os')", "cannot be read", "values: 100"),
    ],
)
def test_invalid_threshold_names_the_place(text, problem, hint):
    with pytest.raises(ConfigError) as raised:
        parse_threshold(text)

    assert problem in raised.value.message
    assert hint in (raised.value.hint or "")


def test_unknown_stream_is_suggested():
    with pytest.raises(ConfigError, match="there is no stream 'ordrs'") as raised:
        check_thresholds("Shop", ["ordrs.records > 0"], ["orders", "issues"])

    assert raised.value.hint == "did you mean 'orders'?"


def test_single_text_is_no_list_of_thresholds():
    with pytest.raises(ConfigError, match="expected a list"):
        check_thresholds("Shop", "records > 0", ["orders"])


def test_comparison_without_an_earlier_run_is_skipped():
    result = parse_threshold("records >= 0.9 * last").evaluate(RUN, None)

    assert result.is_met is None
    assert result.details == "there is no earlier whole run to compare with"


def test_comparison_with_a_run_without_the_stream_is_skipped():
    result = parse_threshold("my.issues.records >= last").evaluate(RUN, LAST)

    assert result.is_met is None
    assert "did not read my.issues" in result.details


def test_resumed_stream_is_not_judged():
    resumed = run(replace(ORDERS, records=0, rows=None, notes=("already complete: an earlier run has read it",)))

    result = parse_threshold("orders.records >= 900").evaluate(resumed, None)

    assert result.is_met is None
    assert "earlier run" in result.details


def test_unavailable_stream_misses_its_threshold():
    record = run(stream(outcome="unavailable"), unavailable={"orders": "answered 403"})

    result = parse_threshold("orders.records > 0").evaluate(record, None)

    assert result.is_met is False
    assert result.details == "orders is unavailable: found 0, required > 0"


def test_share_of_nothing_is_zero():
    assert parse_threshold("refused <= 0%").evaluate(run(stream()), None).is_met


def test_details_name_both_figures_and_the_last_run():
    details = parse_threshold("orders.records > 0.95 * last").evaluate(RUN, LAST).details

    assert details == "found 900, required > 950 (1,000 in the run r0)"


THRESHOLDS = st.builds(
    Threshold,
    st.none() | st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["records", "pages", "requests"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.floats(0, 1e12).map(Amount),
    st.none(),
) | st.builds(
    Threshold,
    st.none(),
    st.just("records"),
    st.just(">"),
    st.just(Amount(0.0)),
    st.floats(0.001, 1_000),
)


@given(THRESHOLDS)
def test_text_of_a_threshold_is_the_same_threshold(threshold):
    assert parse_threshold(str(threshold)) == threshold


@given(st.text())
def test_any_text_is_a_threshold_or_a_config_error(text):
    try:
        parse_threshold(text)
    except ConfigError:
        return
    assert "." in text or any(sign in text for sign in "<>=")


@pytest.mark.parametrize("text", ["<" * 1_000, '"' * 999 + "<", "records > " + "1h" * 490, "records >" + " " * 990])
def test_hostile_threshold_is_judged_at_once(text):
    began = time.process_time()
    with suppress(ConfigError):
        parse_threshold(text)
    assert time.process_time() - began < 0.2


class Items(HttpStream):
    """One page of ten records."""

    records_path = "data"
    primary_key = "id"

    def path(self, context: RequestContext) -> str:
        return "items"


async def extract(api: MockApi, tmp_path, *require: str, **options: Any) -> Any:
    stream = Items()
    stream.url_base, stream.single_page = api.url, True
    return await Source([stream]).extract(to=JsonLines(tmp_path / "out"), require=require, **options)


async def test_missed_threshold_is_raised_after_the_commit(tmp_path):
    async with MockApi(Resource("items", 10)) as api:
        with pytest.raises(ThresholdMissed, match="found 10, required >= 11") as raised:
            await extract(api, tmp_path, "items.records >= 11", "records > 0")

    assert raised.value.report.streams[0].written.rows == 10
    stored = (await JsonLines(tmp_path / "out").runs())[0]
    assert [threshold.is_met for threshold in stored.thresholds] == [False, True]


async def test_last_run_is_the_last_whole_one(tmp_path):
    async with MockApi(Resource("items", 10)) as api:
        await extract(api, tmp_path)
        await extract(api, tmp_path, limit=3)
        report = await extract(api, tmp_path, "records >= last")

    assert report.record.thresholds[0].is_met


async def test_thresholds_are_judged_without_an_event_log(tmp_path):
    async with MockApi(Resource("items", 10)) as api:
        with pytest.raises(ThresholdMissed):
            await extract(api, tmp_path, "records > 10", event_log=False)

    assert await JsonLines(tmp_path / "out").runs() == ()


async def test_invalid_threshold_fails_before_any_request(tmp_path):
    async with MockApi(Resource("items", 10)) as api:
        with pytest.raises(ConfigError, match="unknown metric"):
            await extract(api, tmp_path, "item > 10")

    assert api.counts.requests == 0
    assert not (tmp_path / "out").exists()


async def test_failed_run_raises_its_own_error(tmp_path):
    class Broken(Items):
        def stream_slices(self, stream_state: Any) -> Any:
            return [{"n": 1}, {"n": 2}, {"n": 3}]

        def path(self, context: RequestContext) -> str:
            return "items" if context.stream_slice["n"] == 1 else "missing"

    async with MockApi(Resource("items", 10)) as api:
        stream = Broken()
        stream.url_base, stream.single_page = api.url, True
        with pytest.raises(PartialFailure) as raised:
            await Source([stream]).extract(to=JsonLines(tmp_path / "out"), require=["records > 10"])

    assert raised.value.report.record.thresholds[0].is_met is False
