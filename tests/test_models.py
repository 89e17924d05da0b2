"""Do slices, secrets and options behave as the values they are?"""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from collections import ChainMap
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams import Backoff, BodyLimits, ConfigError, Page, PageRequest, RequestContext, Secret, Slice, Timeouts

often = settings(max_examples=100, deadline=None)
partitions = st.dictionaries(
    st.text(max_size=3), st.integers() | st.text(max_size=3) | st.lists(st.integers()), max_size=4
)
intervals = st.none() | st.tuples(st.integers(), st.integers())


@often
@given(partition=partitions, interval=intervals)
def test_a_slice_is_a_mapping_of_its_partition(partition: dict[str, Any], interval: Any) -> None:
    part = Slice(partition, interval)

    assert dict(part) == {**part} == partition == part.partition
    assert list(part) == list(partition)
    assert len(part) == len(partition)
    assert bool(part) is bool(partition)
    assert all(name in part and part[name] == part.get(name) == value for name, value in partition.items())
    assert part.interval == interval
    assert list(part.items()) == list(partition.items())


@often
@given(partition=partitions)
def test_a_slice_without_an_interval_equals_its_mapping_from_both_sides(partition: dict[str, Any]) -> None:
    assert Slice(partition) == partition
    assert partition == Slice(partition)
    assert Slice(partition) == ChainMap(partition)
    assert not Slice(partition) != partition  # noqa: SIM202
    assert Slice(partition) != {**partition, "one more": 1}


@often
@given(one=partitions, other=partitions, ours=intervals, theirs=intervals)
def test_slices_are_equal_when_partition_and_interval_are(
    one: dict[str, Any], other: dict[str, Any], ours: Any, theirs: Any
) -> None:
    assert (Slice(one, ours) == Slice(other, theirs)) is (one == other and ours == theirs)
    assert Slice(one, ours) == Slice(dict(one), ours)


def test_a_slice_with_an_interval_is_more_than_its_mapping() -> None:
    assert Slice({"a": 1}, (1, 2)) != {"a": 1}
    assert Slice({"a": 1}, (1, 2)) != {"a": 1}
    assert Slice({"a": 1}) != [("a", 1)]


@often
@given(left=partitions, right=partitions, interval=intervals)
def test_a_slice_joins_with_dicts_on_both_sides_and_keeps_its_interval(
    left: dict[str, Any], right: dict[str, Any], interval: Any
) -> None:
    assert Slice(left, interval) | right == Slice(left | right, interval)
    assert left | Slice(right, interval) == Slice(left | right, interval)
    assert isinstance(left | Slice(right), Slice)


@often
@given(left=partitions, right=partitions, more=partitions)
def test_joining_slices_is_associative_and_an_empty_one_changes_nothing(
    left: dict[str, Any], right: dict[str, Any], more: dict[str, Any]
) -> None:
    one, two, three = Slice(left, (1, 2)), Slice(right), Slice(more)

    assert (one | two) | three == one | (two | three)
    assert one | Slice() == one == Slice() | one
    assert one | {} == one == {} | one


def test_joining_changes_neither_side() -> None:
    part, extra = Slice({"a": 1}, (1, 2)), {"a": 2}

    joined = part | extra

    assert joined["a"] == 2
    assert part == Slice({"a": 1}, (1, 2))
    assert extra == {"a": 2}


def test_joining_in_place_makes_a_new_slice() -> None:
    part = before = Slice({"a": 1})

    part |= {"b": 2}

    assert part == {"a": 1, "b": 2}
    assert before == {"a": 1}


def test_a_slice_keeps_no_hold_on_the_dict_that_it_was_made_from_or_gives_out() -> None:
    given_dict = {"a": 1}
    part = Slice(given_dict)

    given_dict["a"] = 2
    part.partition["a"] = 3

    assert part == {"a": 1}
    with pytest.raises(TypeError):
        part["a"] = 4  # type: ignore[index]


def test_a_slice_is_as_unhashable_as_a_dict_and_names_what_it_holds() -> None:
    with pytest.raises(TypeError):
        hash(Slice({"a": 1}))

    assert repr(Slice({"a": 1}, (1, 2))) == "Slice({'a': 1}, interval=(1, 2))"
    assert repr(Slice({"a": 1})) == "Slice({'a': 1})"


@often
@given(partition=partitions, interval=intervals)
def test_a_slice_survives_copy_and_pickle(partition: dict[str, Any], interval: Any) -> None:
    part = Slice(partition, interval)

    assert copy.copy(part) == copy.deepcopy(part) == pickle.loads(pickle.dumps(part)) == part


@often
@given(value=st.text(min_size=4, alphabet="abcXYZ0189-_./+=é", max_size=30))
def test_a_secret_shows_itself_to_nobody_but_reveal(value: str) -> None:
    secret = Secret(value)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (secret, secret), None)

    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>9}", f"{secret:>40}", "%s" % secret, repr([secret])]  # noqa: UP031
    assert secret.reveal() == value
    assert all(value not in text for text in [*shown, record.getMessage(), repr({"t": secret})])


def test_a_secret_is_written_nowhere() -> None:
    for write in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            write(Secret("hunter2"))


def test_a_secret_has_no_dict_to_look_into() -> None:
    with pytest.raises(TypeError):
        vars(Secret("hunter2"))


@often
@given(one=st.text(max_size=6), other=st.text(max_size=6))
def test_secrets_are_equal_when_their_strings_are_and_never_to_a_string(one: str, other: str) -> None:
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one) != one
    assert hash(Secret(one)) == hash(Secret(one))
    assert bool(Secret(one)) is bool(one)
    assert Secret(Secret(one)) == Secret(one)
    assert copy.deepcopy(Secret(one)) == copy.copy(Secret(one)) == Secret(one)


def test_secrets_from_an_environment_that_is_not_utf_8_can_be_compared() -> None:
    assert Secret("caf\udce9") == Secret("caf\udce9")
    assert Secret("caf\udce9") != Secret("cafe")


@pytest.mark.parametrize("value", [None, 7, b"hunter2", ["hunter2"]])
def test_a_secret_holds_a_str_and_the_refusal_does_not_tell_what_was_given(value: Any) -> None:
    with pytest.raises(ConfigError, match=type(value).__name__) as caught:
        Secret(value)

    assert "hunter2" not in str(caught.value)


def test_a_page_token_is_left_out_of_a_contexts_repr() -> None:
    assert "s3cr3t" not in repr(RequestContext(next_page_token="https://a.example/?sig=s3cr3t"))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (RequestContext(), "attempt"),
        (Page("s", Slice(), 0, [], True), "number"),
        (Backoff(), "cap"),
        (Timeouts(), "read"),
        (BodyLimits(), "wire"),
        (PageRequest(), "url"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_values_are_frozen(value: Any, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, name, 1)


def test_the_defaults_are_those_that_are_documented() -> None:
    limits = Timeouts()

    assert (limits.connect, limits.first_byte, limits.read, limits.total) == (10, 60, 30, 300)
    assert (Backoff().base, Backoff().cap) == (0.25, 30)
    assert (BodyLimits().wire, BodyLimits().decoded, BodyLimits().ratio) == (256 * 2**20, 512 * 2**20, 200)


@pytest.mark.parametrize("name", ["connect", "first_byte", "read", "total"])
@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        -math.inf,
        pytest.param(math.nan),
    ],
)
def test_a_timeout_that_is_not_above_0_is_a_config_error(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        Timeouts(**{name: value})


def test_a_min_rate_of_0_is_allowed_and_a_negative_one_is_not() -> None:
    assert Timeouts(min_rate=0).min_rate == 0
    with pytest.raises(ConfigError, match="min_rate"):
        Timeouts(min_rate=-1)


@pytest.mark.parametrize("name", ["wire", "decoded", "ratio"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_of_a_body_that_is_not_above_0_is_a_config_error(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        BodyLimits(**{name: value})
