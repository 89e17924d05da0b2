"""Value types: slices, secrets and options."""

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

default_settings = settings(max_examples=100, deadline=None)
partitions = st.dictionaries(
    st.text(max_size=3), st.integers() | st.text(max_size=3) | st.lists(st.integers()), max_size=4
)
intervals = st.none() | st.tuples(st.integers(), st.integers())


@default_settings
@given(partition=partitions, interval=intervals)
def test_slice_is_a_mapping_of_its_partition(partition: dict[str, Any], interval: Any) -> None:
    slice_ = Slice(partition, interval)

    assert dict(slice_) == {**slice_} == partition == slice_.partition
    assert list(slice_) == list(partition)
    assert len(slice_) == len(partition)
    assert bool(slice_) is bool(partition)
    assert all(name in slice_ and slice_[name] == slice_.get(name) == value for name, value in partition.items())
    assert slice_.interval == interval
    assert list(slice_.items()) == list(partition.items())


@default_settings
@given(partition=partitions)
def test_slice_without_interval_equals_its_mapping(partition: dict[str, Any]) -> None:
    assert Slice(partition) == partition
    assert partition == Slice(partition)
    assert Slice(partition) == ChainMap(partition)
    assert not Slice(partition) != partition  # noqa: SIM202
    assert Slice(partition) != {**partition, "one more": 1}


@default_settings
@given(left=partitions, right=partitions, left_interval=intervals, right_interval=intervals)
def test_slices_are_equal_if_partition_and_interval_are(
    left: dict[str, Any], right: dict[str, Any], left_interval: Any, right_interval: Any
) -> None:
    are_equal = left == right and left_interval == right_interval
    assert (Slice(left, left_interval) == Slice(right, right_interval)) is are_equal
    assert Slice(left, left_interval) == Slice(dict(left), left_interval)


def test_slice_with_interval_differs_from_its_mapping() -> None:
    assert Slice({"a": 1}, (1, 2)) != {"a": 1}
    assert Slice({"a": 1}, (1, 2)) != {"a": 1}
    assert Slice({"a": 1}) != [("a", 1)]


@default_settings
@given(left=partitions, right=partitions, interval=intervals)
def test_slice_merges_with_dicts_and_keeps_interval(left: dict[str, Any], right: dict[str, Any], interval: Any) -> None:
    assert Slice(left, interval) | right == Slice(left | right, interval)
    assert left | Slice(right, interval) == Slice(left | right, interval)
    assert isinstance(left | Slice(right), Slice)


@default_settings
@given(first=partitions, second=partitions, third=partitions)
def test_slice_merge_is_associative_with_empty_identity(
    first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]
) -> None:
    a, b, c = Slice(first, (1, 2)), Slice(second), Slice(third)

    assert (a | b) | c == a | (b | c)
    assert a | Slice() == a == Slice() | a
    assert a | {} == a == {} | a


def test_slice_merge_changes_neither_operand() -> None:
    slice_, extra = Slice({"a": 1}, (1, 2)), {"a": 2}

    joined = slice_ | extra

    assert joined["a"] == 2
    assert slice_ == Slice({"a": 1}, (1, 2))
    assert extra == {"a": 2}


def test_in_place_merge_creates_new_slice() -> None:
    slice_ = before = Slice({"a": 1})

    slice_ |= {"b": 2}

    assert slice_ == {"a": 1, "b": 2}
    assert before == {"a": 1}


def test_slice_copies_its_partition() -> None:
    source = {"a": 1}
    slice_ = Slice(source)

    source["a"] = 2
    slice_.partition["a"] = 3

    assert slice_ == {"a": 1}
    with pytest.raises(TypeError):
        slice_["a"] = 4  # type: ignore[index]


def test_slice_is_unhashable_and_repr_shows_content() -> None:
    with pytest.raises(TypeError):
        hash(Slice({"a": 1}))

    assert repr(Slice({"a": 1}, (1, 2))) == "Slice({'a': 1}, interval=(1, 2))"
    assert repr(Slice({"a": 1})) == "Slice({'a': 1})"


@default_settings
@given(partition=partitions, interval=intervals)
def test_slice_survives_copy_and_pickle(partition: dict[str, Any], interval: Any) -> None:
    slice_ = Slice(partition, interval)

    assert copy.copy(slice_) == copy.deepcopy(slice_) == pickle.loads(pickle.dumps(slice_)) == slice_


@default_settings
@given(value=st.text(min_size=4, alphabet="abcXYZ0189-_./+=é", max_size=30))
def test_secret_is_shown_only_by_reveal(value: str) -> None:
    secret = Secret(value)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (secret, secret), None)

    outputs = [str(secret), repr(secret), f"{secret}", f"{secret!r:>9}", f"{secret:>40}", "%s" % secret, repr([secret])]  # noqa: UP031
    assert secret.reveal() == value
    assert all(value not in text for text in [*outputs, record.getMessage(), repr({"t": secret})])


def test_secret_cannot_be_serialized() -> None:
    for write in (pickle.dumps, json.dumps):
        with pytest.raises(TypeError):
            write(Secret("hunter2"))


def test_secret_has_no_instance_dict() -> None:
    with pytest.raises(TypeError):
        vars(Secret("hunter2"))


@default_settings
@given(value=st.text(max_size=6), other=st.text(max_size=6))
def test_secret_equality_excludes_plain_strings(value: str, other: str) -> None:
    assert (Secret(value) == Secret(other)) is (value == other)
    assert Secret(value) != value
    assert hash(Secret(value)) == hash(Secret(value))
    assert bool(Secret(value)) is bool(value)
    assert Secret(Secret(value)) == Secret(value)
    assert copy.deepcopy(Secret(value)) == copy.copy(Secret(value)) == Secret(value)


def test_secrets_with_surrogates_can_be_compared() -> None:
    assert Secret("caf\udce9") == Secret("caf\udce9")
    assert Secret("caf\udce9") != Secret("cafe")


@pytest.mark.parametrize("value", [None, 7, b"hunter2", ["hunter2"]])
def test_secret_rejects_other_types_without_showing_them(value: Any) -> None:
    with pytest.raises(ConfigError, match=type(value).__name__) as caught:
        Secret(value)

    assert "hunter2" not in str(caught.value)


def test_context_repr_omits_page_token() -> None:
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


def test_defaults_match_documentation() -> None:
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
def test_timeout_not_above_0_raises_config_error(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        Timeouts(**{name: value})


def test_min_rate_may_be_0_but_not_negative() -> None:
    assert Timeouts(min_rate=0).min_rate == 0
    with pytest.raises(ConfigError, match="min_rate"):
        Timeouts(min_rate=-1)


@pytest.mark.parametrize("name", ["wire", "decoded", "ratio"])
@pytest.mark.parametrize("value", [0, -1])
def test_body_limit_not_above_0_raises_config_error(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        BodyLimits(**{name: value})
