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
        ("orders.records >= last * 80% + 100", True),
        ("orders.refused < 50% * last", False),
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
        ("records > __import__('os')", "cannot be read: '__import__', at character 11", "values: 100"),
        ("orders.records >= 0,9 * last", "cannot be read, at character 20", "write 0.9 with a point"),
        ("records > 1,00", "cannot be read, at character 12", "a comma separates thousands"),
        ("records > 1,0000", "cannot be read, at character 12", "a comma separates thousands"),
        ("records > .5", "cannot be read, at character 11", "values: 100"),
        ("records > \u0663", "cannot be read", "values: 100"),
        ("records > Last", "cannot be read: 'Last'", "did you mean last?"),
        ("records > 0.9 last", "no * before last, at character 15", "0.9 * last"),
        ("records > 3s * last", "a factor has no unit, at character 11", "0.9 * last"),
        ("records > last - 10%", "the unit does not fit records, at character 18", "write 10% * last"),
        ("records > last + 0%", "the unit does not fit records", "a plain number"),
        ("records > last + 1 + 1", "cannot be read, at character 16", "values: 100"),
        ("records > 1e308 * last", "the number is too large, at character 11", "values: 100"),
        ("duration < 1e14d", "the number is too large", "values: 100"),
        ("records => 5", "'=>' is not a comparison, at character 9", "use >="),
        ("records \u2265 5", "is not a comparison", "use >="),
        ('"my stream". > 5', "there is no metric, at character 14", "the metrics: records"),
        ("orders . Recrods > 5", "unknown metric 'Recrods', at character 10", "did you mean records?"),
    ],
)
def test_invalid_threshold_names_the_place(text, problem, hint):
    with pytest.raises(ConfigError) as raised:
        parse_threshold(text)

    assert problem in raised.value.message
    assert hint in (raised.value.hint or "")


def test_hint_marks_the_place_of_the_problem():
    with pytest.raises(ConfigError) as raised:
        parse_threshold("\u6ce8\u6587.recrods\x1b >= 900")

    assert str(raised.value) == (
        "threshold '\u6ce8\u6587.recrods\\x1b >= 900': unknown metric 'recrods\\x1b', at character 4\n"
        "  hint: did you mean records?\n"
        "    \u6ce8\u6587.recrods\ufffd >= 900\n"
        "         ^"
    )


def test_mark_in_a_long_text_shows_its_neighbourhood():
    with pytest.raises(ConfigError) as raised:
        parse_threshold(f"{'x' * 400}.recrods > 1{' ' * 200}")

    *_, excerpt, mark = (raised.value.hint or "").splitlines()
    assert excerpt[mark.index("^") :].startswith("recrods > 1")
    assert len(excerpt) < 80


@pytest.mark.parametrize(("text", "problem"), [(5, "expected a text"), ("x" * 10_000, "longer than 1,000")])
def test_other_than_a_short_text_is_no_threshold(text, problem):
    with pytest.raises(ConfigError, match=problem) as raised:
        parse_threshold(text)

    assert len(str(raised.value)) < 200


def test_unknown_stream_is_suggested():
    with pytest.raises(ConfigError, match="there is no stream 'ordrs'") as raised:
        check_thresholds("Shop", ["ordrs.records > 0"], ["orders", "issues"])

    assert raised.value.hint == "did you mean 'orders'?"


def test_streams_of_an_unknown_one_are_listed():
    with pytest.raises(ConfigError) as raised:
        check_thresholds("Shop", ["xyz.records > 0"], [f"orders{number}" for number in range(12)])

    assert (raised.value.hint or "").endswith("orders9 and 2 more")


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

    for metric in ("records", "rows"):
        result = parse_threshold(f"orders.{metric} > 0").evaluate(record, None)

        assert result.is_met is False
        assert result.details == "orders is unavailable: found 0, required > 0"


def test_total_names_the_unavailable_streams():
    record = run(ORDERS, stream("issues", outcome="unavailable"), unavailable={"issues": "answered 403"})

    result = parse_threshold("records >= 900").evaluate(record, None)

    assert result.is_met
    assert result.details == "without issues, unavailable: found 900, required >= 900"


def test_total_is_compared_over_the_streams_of_both_runs():
    last = run(replace(ORDERS, records=1_000), stream("customers", records=5_000), id="r0")

    result = parse_threshold("records >= 0.9 * last").evaluate(RUN, last)

    assert result.is_met
    assert result.details == (
        "of the streams that both runs read (orders): found 900, required >= 900 (1,000 in the run r0)"
    )


def test_unavailable_stream_counts_as_a_loss_of_records():
    record = run(stream(outcome="unavailable"), ISSUES, unavailable={"orders": "answered 403"})

    result = parse_threshold("records >= 0.5 * last").evaluate(record, run(ORDERS, ISSUES, id="r0"))

    assert result.is_met is False
    assert result.details == "without orders, unavailable: found 100, required >= 500 (1,000 in the run r0)"


@pytest.mark.parametrize(
    "before",
    [
        stream(outcome="unavailable"),
        stream(records=10, notes=("resumed: an earlier run, which did not finish, has read a part of it",)),
        stream(records=0, notes=("already complete: an earlier run, which was interrupted, has read it",)),
    ],
)
def test_last_run_that_did_not_read_a_stream_is_no_measure(before):
    for text in ("orders.records >= 0.9 * last", "records >= 0.9 * last"):
        result = parse_threshold(text).evaluate(run(ORDERS), run(before, id="r0"))

        assert result.is_met is None
        assert "the last whole run, r0, did not read" in result.details


def test_duration_of_a_resumed_run_is_judged():
    resumed = run(stream(notes=("already complete: an earlier run has read it",)), seconds=90.0)

    assert parse_threshold("duration < 1m").evaluate(resumed, None).is_met is False


def test_rows_of_a_sink_are_not_judged():
    result = parse_threshold("rows > 0").evaluate(run(stream(records=10)), None)

    assert result.is_met is None
    assert result.details == "the destination does not count rows"


def test_share_of_nothing_is_zero():
    result = parse_threshold("refused <= 0%").evaluate(run(stream()), None)

    assert result.is_met
    assert result.details == "found 0 % (no requests), required <= 0 %"


@pytest.mark.parametrize(
    ("text", "details"),
    [
        ("orders.records > 0.95 * last", "found 900, required > 950 (1,000 in the run r0)"),
        ("orders.refused < 1%", "found 1 % (10 of 1,000 requests), required < 1 %"),
        ("orders.failed < 1%", "found 20 % (2 of 10 slices), required < 1 %"),
        ("duration < 1h30m", "found 1m30.2s, required < 1h30m"),
        ("duration < 1m30.21s", "found 90.2 s, required < 90.21 s"),
        ("duration < last + 30s", "found 1m30.2s, required < 1m30s (1m in the run r0)"),
        ("bytes < 10MiB", "found 2.0 MB, required < 10.5 MB"),
        ("orders.bytes == 2_000_001", "found 2,000,000 bytes, required == 2,000,001 bytes"),
        ("refused < 0.500001%", "found 0.5 % (10 of 2,000 requests), required < 0.500001 %"),
        ("bytes < 999", "found 2.0 MB, required < 999 bytes"),
    ],
)
def test_details_name_both_figures_in_units_of_people(text, details):
    assert parse_threshold(text).evaluate(replace(RUN, seconds=90.2), LAST).details == details


def test_comparison_is_free_of_binary_fractions():
    record, last = run(stream(records=7, quarantined=93)), run(stream(records=100), id="r0")

    assert parse_threshold("records >= 0.07 * last").evaluate(record, last).is_met
    assert parse_threshold("records == 7% * last").evaluate(record, last).is_met
    assert parse_threshold("quarantined == 93%").evaluate(record, last).is_met


def test_record_has_the_threshold_as_written():
    threshold = parse_threshold("  orders.duration  < 90m ")

    assert threshold.evaluate(RUN, None).text == "orders.duration  < 90m"
    assert str(threshold) == "orders.duration < 1h30m"


NAMES = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text('"<.= a', min_size=1)
NUMBERS = st.floats(0, 1e12) | st.integers(0, 10**12).map(float)


def thresholds(metric: str, amounts: st.SearchStrategy[Amount]) -> st.SearchStrategy[Threshold]:
    comparisons = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    signed = st.builds(
        lambda amount, sign: amount._replace(number=sign * amount.number), amounts, st.sampled_from((1, -1))
    )
    factors = st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0, 1_000)
    with_last = st.builds(Threshold, NAMES, st.just(metric), comparisons, signed | st.just(Amount(0.0)), factors)
    return st.builds(Threshold, NAMES, st.just(metric), comparisons, amounts) | with_last


THRESHOLDS = (
    thresholds("records", NUMBERS.map(Amount))
    | thresholds("refused", st.builds(Amount, NUMBERS, st.sampled_from(["", "%"])))
    | thresholds("duration", st.builds(Amount, NUMBERS, st.just("s")))
    | thresholds("bytes", st.builds(Amount, NUMBERS, st.sampled_from(["", "B"])))
)


@given(THRESHOLDS)
def test_text_of_a_threshold_is_the_same_threshold(threshold):
    assert parse_threshold(str(threshold)) == threshold


@given(THRESHOLDS)
def test_any_threshold_judges_any_run(threshold):
    for record, last in ((RUN, LAST), (LAST, RUN), (run(), run()), (RUN, None)):
        assert threshold.evaluate(record, last).details


@given(st.text() | st.text('"<>=.*+-%,_ 019aehlmst\n', max_size=30))
def test_any_text_is_a_threshold_or_a_config_error(text):
    try:
        threshold = parse_threshold(text)
    except ConfigError:
        return
    assert parse_threshold(str(threshold)) == threshold


@pytest.mark.parametrize(
    "text",
    [
        "<" * 1_000,
        '"' * 999 + "<",
        '"' + 'a""' * 330 + "<",
        "records > " + "1h" * 490,
        "records > " + "1_" * 490,
        "records > " + "1,111" * 190,
        "records > " + "9" * 990,
        "records > 1e-" + "9" * 980,
        "records >" + " " * 990,
        "records > 1" * 10_000,
    ],
)
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


async def test_resumed_run_is_neither_judged_nor_a_measure(tmp_path):
    class Sliced(Items):
        fails = True

        def stream_slices(self, stream_state: Any) -> Any:
            return [{"n": 1}, {"n": 2}, {"n": 3}]

        def path(self, context: RequestContext) -> str:
            return "missing" if self.fails and context.stream_slice["n"] == 3 else "items"

    async with MockApi(Resource("items", 10)) as api:
        stream = Sliced()
        stream.url_base, stream.single_page = api.url, True
        source, out = Source([stream]), JsonLines(tmp_path / "out", mode="replace")
        with pytest.raises(PartialFailure):
            await source.extract(to=out)
        stream.fails = False
        resumed = await source.extract(to=out, require=["records >= 30"])
        whole = await source.extract(to=out, require=["records >= 30", "records >= last"])
        last = await source.extract(to=out, require=["records >= last"])

    assert resumed.record.thresholds[0].is_met is None
    assert resumed.record.streams[0].records == 10
    assert [entry.is_met for entry in whole.record.thresholds] == [True, None]
    assert [entry.is_met for entry in last.record.thresholds] == [True]


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
