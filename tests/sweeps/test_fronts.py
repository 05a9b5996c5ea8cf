"""Numbers of points, fronts and best points."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.sweeps import best, front, undominated, value
from imc_ssm.sweeps.fronts import OVER_CHIPS

rows = arrays(
    np.float64,
    st.tuples(st.integers(0, 40), st.integers(1, 4)),
    elements=st.one_of(st.integers(0, 4).map(float), st.just(float("nan"))),
)


def beats(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(rows)
def test_the_front_is_what_no_row_beats(found: np.ndarray) -> None:
    whole = [row for row in found if np.isfinite(row).all()]
    expected = [bool(np.isfinite(row).all()) and not any(beats(o, row) for o in whole) for row in found]
    assert undominated(found).tolist() == expected


@given(rows)
def test_every_row_that_is_not_in_front_is_beaten_by_one_that_is(found: np.ndarray) -> None:
    kept = undominated(found)
    for row in found[~kept & np.isfinite(found).all(1)]:
        assert any(beats(other, row) for other in found[kept])


def test_many_rows_are_compared_in_blocks() -> None:
    found = np.random.default_rng(0).normal(size=(1500, 2))
    kept = undominated(found)
    ordered = found[np.lexsort((found[:, 1], found[:, 0]))]
    best_so_far = np.minimum.accumulate(ordered[:, 1])
    expected = np.concatenate([[True], ordered[1:, 1] < best_so_far[:-1]])
    assert kept.sum() == expected.sum()
    assert np.array_equal(undominated(found[::-1])[::-1], kept)


def test_many_rows_take_no_time_of_their_square() -> None:
    """0.05 s; all pairs of 50,000 rows take minutes."""
    start = time.process_time()
    kept = undominated(np.random.default_rng(0).normal(size=(50_000, 3)))
    assert time.process_time() - start < 10
    assert 10 < kept.sum() < 500


@pytest.fixture
def grid() -> xr.Dataset:
    rng = np.random.default_rng(1)
    ds = xr.Dataset(
        {
            "accuracy": (("bits", "cell", "chip", "time"), rng.uniform(80, 95, (3, 2, 5, 2))),
            "energy": (("bits", "cell", "component"), rng.uniform(1, 2, (3, 2, 2))),
            "area_bounds": (("bits", "cell", "bound"), np.sort(rng.uniform(1, 2, (3, 2, 3)))),
            "status": (("bits", "cell"), np.ones((3, 2), np.int8)),
        },
        {
            "bits": ("bits", [4, 6, 8], {"units": "1", "long_name": "Bits"}),
            "cell": ("cell", ["a", "b"], {"units": "1", "long_name": "Cell"}),
            "chip": range(5),
            "time": ("time", [1.0, 86400.0], {"units": "s"}),
            "component": ["adc", "dac"],
            "bound": ["low", "nominal", "high"],
        },
        {"title": "a sweep"},
    )
    for name in ds.data_vars:
        ds[name].attrs = {"units": "1", "long_name": str(name).capitalize()}
    return ds


def test_numbers_are_read_as_they_are_named(grid: xr.Dataset) -> None:
    accuracy = grid["accuracy"]
    assert value(grid, "accuracy").equals(accuracy.isel(time=-1).mean("chip").drop_vars("time"))
    assert np.allclose(value(grid, "accuracy@1s:min"), accuracy.isel(time=0).min("chip"))
    assert np.allclose(value(grid, "accuracy@1d:q05"), np.quantile(accuracy.values[..., 1], 0.05, axis=2))
    assert np.allclose(value(grid, "accuracy:std"), accuracy.values[..., 1].std(2, ddof=1))
    assert np.allclose(value(grid, "energy"), grid["energy"].sum("component"))
    assert np.allclose(value(grid, "energy@adc"), grid["energy"].sel(component="adc"))
    assert value(grid, "energy@adc").attrs["units"] == "1"
    assert np.allclose(value(grid, "area_bounds"), grid["area_bounds"].values[..., 1])
    assert np.allclose(value(grid, "area_bounds@high"), grid["area_bounds"].values[..., 2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ("accuracy@1h", "nothing at '1h'"),
        ("energy@adcc", "did you mean 'adc'"),
        ("area_bounds@hihg", "did you mean 'high'"),
        ("accuracy:mode", "number over chips"),
        ("status@1d", "no times, components or bounds"),
        ("energy:q05", "not over chips"),
        ("<= 3", "names no number"),
    ],
)
def test_a_number_that_is_not_there_says_what_is(grid: xr.Dataset, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        value(grid, text)


def test_the_front_of_a_grid_keeps_what_was_varied(grid: xr.Dataset) -> None:
    found = front(grid, minimise="energy", maximise=["accuracy@1d"])
    assert found["accuracy"].dims[0] == "trial"
    assert {"bits", "cell"} <= set(found.coords)
    assert found["bits"].attrs["long_name"] == "Bits"
    energy = value(found, "energy").values
    assert (np.diff(energy) >= 0).all()
    for i in range(found.sizes["trial"]):
        own = found.isel(trial=i)
        there = grid.sel(bits=own["bits"].item(), cell=own["cell"].item())
        assert np.array_equal(there["accuracy"], own["accuracy"])


def test_constraints_leave_points_out(grid: xr.Dataset) -> None:
    free = best(grid, maximise="accuracy")
    assert np.isclose(value(free, "accuracy"), value(grid, "accuracy").max())
    bound = float(np.median(value(grid, "energy")))
    kept = best(grid, maximise="accuracy", constraints=[f"energy <= {bound!r}"])
    allowed = value(grid, "accuracy").values[value(grid, "energy").values <= bound]
    assert np.isclose(value(kept, "accuracy"), allowed.max())
    with pytest.raises(ImcSsmError, match=r"no point of 6 keeps energy <= 0"):
        best(grid, maximise="accuracy", constraints=["energy <= 0"])


def test_best_is_of_one_number(grid: xr.Dataset) -> None:
    with pytest.raises(ConfigError, match="front"):
        best(grid, maximise="accuracy", minimise="energy")
    with pytest.raises(ConfigError, match="nothing to look for"):
        front(grid)


def test_the_front_of_a_front_is_itself(grid: xr.Dataset) -> None:
    found = front(grid, minimise="energy", maximise="accuracy")
    assert front(found, minimise="energy", maximise="accuracy").equals(found)


@pytest.mark.parametrize("over", OVER_CHIPS)
def test_points_without_numbers_have_none_and_no_warning(grid: xr.Dataset, over: str) -> None:
    """Cells that were refused; warnings are errors here."""
    some = grid.assign(accuracy=grid["accuracy"].where(grid["bits"] > 4))
    found = value(some, f"accuracy:{over}")
    assert np.isnan(found.isel(bits=0)).all()
    np.testing.assert_array_equal(found.isel(bits=[1, 2]), value(grid, f"accuracy:{over}").isel(bits=[1, 2]))
