"""Spaces: axes, their values, points of the unit cube, and what a record keeps of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.errors import ConfigError
from imc_ssm.sweeps import Axis, Search, Space, sweep

numbers = st.one_of(st.integers(1, 10**6), st.floats(1e-9, 1e9, allow_nan=False))


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Any axis that can be."""
    if draw(st.booleans()):
        values = draw(
            st.lists(
                st.one_of(st.integers(-100, 100), st.text("abc", max_size=3), st.booleans(), st.none()),
                min_size=1,
                max_size=6,
                unique_by=lambda v: (
                    json.dumps(v) if v is not None and not isinstance(v, str) else str(v or "none")
                ),
            )
        )
        labels = ["none" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
        return Axis(values=tuple(v for i, v in enumerate(values) if labels.index(labels[i]) == i))
    low, high = sorted((draw(numbers), draw(numbers)))
    if not low < high:
        high = low + 1
    kind = draw(st.sampled_from(("plain", "log", "points", "step")))
    if kind == "step":
        return Axis(low=low, high=high, step=max((high - low) / draw(st.integers(1, 50)), 1e-6 * high))
    return Axis(low=low, high=high, log=kind == "log", points=5 if kind == "points" else None)


@given(axes(), st.floats(0, 1))
def test_a_value_lies_within_its_axis_and_survives_a_record(axis: Axis, u: float) -> None:
    value = axis.at(u)
    if axis.values is not None:
        assert value in axis.values
    else:
        assert axis.low is not None
        assert axis.high is not None
        assert axis.low <= value <= axis.high * (1 + 1e-12)
        assert not axis.whole or isinstance(value, int)
    again = axis.value(axis.number(value))
    assert again == value
    assert type(again) is type(value)
    back = axis.labelled(np.asarray([axis.label(value)])[0])
    assert back == value


@given(axes())
def test_both_ends_of_the_cube_are_both_ends_of_the_axis(axis: Axis) -> None:
    listed = axis.listed
    if listed is not None:
        assert (axis.at(0.0), axis.at(1.0)) == (listed[0], listed[-1])
        assert {axis.at((i + 0.5) / len(listed)) for i in range(len(listed))} == set(listed)
    else:
        assert math.isclose(axis.at(0.0), float(axis.low or 0))
        assert math.isclose(axis.at(1.0), float(axis.high or 0))


@given(st.dictionaries(st.text("abcdef.", min_size=1, max_size=8), axes(), min_size=1, max_size=4))
def test_a_space_survives_json(axes: dict[str, Axis]) -> None:
    space = Space.parse({"axes": axes})
    assert Space.from_json(space.to_json()) == space


def test_a_grid_has_every_point_once_the_last_axis_fastest() -> None:
    space = Space.of({"a": [1, 2], "b": {"low": 0.1, "high": 10.0, "log": True, "points": 3}})
    points = space.grid()
    assert space.shape == (2, 3)
    assert [p["a"] for p in points] == [1, 1, 1, 2, 2, 2]
    assert np.allclose([p["b"] for p in points[:3]], [0.1, 1.0, 10.0])


def test_an_axis_sets_several_fields() -> None:
    space = Space.of({"size": {"values": [64, 128], "fields": ["design.rows", "design.columns"]}})
    assert space.changes({"size": 64}) == {"design.rows": 64, "design.columns": 64}


def test_tables_within_tables_are_paths() -> None:
    nested = Space.of({"design": {"adc": {"bits": [4, 6]}, "read_noise": {"low": 0.0, "high": 0.1}}, "seed": [0]})
    assert list(nested.axes) == ["design.adc.bits", "design.read_noise", "seed"]


@given(st.sampled_from(("random", "sobol")), st.integers(1, 70), st.integers(1, 70), st.integers(0, 5))
def test_more_points_begin_with_fewer(method: Any, few: int, more: int, seed: int) -> None:
    space = Space.of({"x": {"low": 0.0, "high": 1.0}, "k": ["a", "b", "c"]})
    short = Search(method=method, trials=few, seed=seed).points(space)
    long = Search(method=method, trials=few + more, seed=seed).points(space)
    assert len(short) == few
    assert long[:few] == short


def test_sobol_points_fill_every_interval() -> None:
    space = Space.of({"x": {"low": 0.0, "high": 1.0}, "y": {"low": 1e-3, "high": 1.0, "log": True}})
    points = Search(method="sobol", trials=64, seed=3).points(space)
    for values in ([p["x"] for p in points], [math.log10(p["y"]) / 3 + 1 for p in points]):
        assert np.histogram(values, 64, (0, 1))[0].tolist() == [1] * 64
    one = Search(method="sobol", trials=64, seed=4).points(space)
    assert one != points


def test_random_points_are_uniform_on_their_axes() -> None:
    space = Space.of({"n": {"low": 1, "high": 4}, "k": ["a", "b"]})
    points = Search(method="random", trials=4000, seed=0).points(space)
    counts = np.bincount([p["n"] for p in points])[1:]
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(4000 * 0.25 * 0.75)
    assert abs(sum(p["k"] == "a" for p in points) - 2000) < 5 * math.sqrt(1000)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "is empty"),
        ({"a": []}, "at least one"),
        ({"a": [1, 1]}, "each once"),
        ({"a": 3}, "give a list"),
        ({"a": "text"}, "give a list"),
        ({"a": {"low": 2, "high": 1}}, "low below high"),
        ({"a": {"low": 0, "high": 1, "log": True}}, "no logarithm"),
        ({"a": {"low": 1, "high": 2, "log": True, "step": 0.5}}, "leave one out"),
        ({"a": {"values": [1], "log": True}}, "leave them out"),
        ({"a": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({"x": {"values": [1], "fields": ["a"]}, "a": [2]}, "several axes"),
        ([1, 2], "is a mapping"),
    ],
)
def test_what_is_no_space_says_what_to_do(space: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Space.of(space)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"method": "sobol"}, "give trials"),
        ({"trials": 5}, "as many points as it has"),
        ({"method": "tpe", "trials": 5}, "give maximise or minimise"),
        ({"method": "sobl", "trials": 5}, "method"),
        ({"maximise": "a", "minimise": ["a"]}, "both maximised and minimised"),
        ({"constraints": ["latency < 3"]}, "such as 'latency_total <= 1e-3'"),
        ({"hopeless": 1.0, "minimise": ["a"], "method": "grid"}, "hopeless"),
    ],
)
def test_what_is_no_search_says_what_to_do(search: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Search.parse(search)


def test_a_range_in_a_grid_says_how_many() -> None:
    with pytest.raises(ConfigError, match=r"axis 'a': .* points = 5"):
        _ = Space.of({"a": {"low": 0.0, "high": 1.0}}).shape


def test_an_axis_of_several_fields_is_called_by_its_own_name() -> None:
    space = {
        "tile_size": {"values": [1, 2], "fields": ["a.rows", "a.columns"]},
        "x": {"values": [1], "fields": ["q"]},
    }
    ds = sweep(space, lambda at: {"y": at["a.rows"]}, variables={"y": ("1", "Y")})
    assert ds["tile_size"].attrs == {"units": "1", "long_name": "Tile size: rows, columns"}
    assert ds["x"].attrs["long_name"] == "q"
