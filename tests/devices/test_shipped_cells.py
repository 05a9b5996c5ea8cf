"""What every cell that ships must do, whatever its model: one suite over all of them.

A new TOML in devices/cells is tested by being there.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from imc_ssm.chip import Reference, map_matrix, program
from imc_ssm.devices import Cell, Draws, device_names, load_cell, parse_cell, resolve
from imc_ssm.errors import DesignError

SHAPE = (3, 40, 50)


@pytest.fixture(params=device_names("cells"))
def cell(request: pytest.FixtureRequest) -> Cell:
    return load_cell(request.param)


def targets(cell: Cell) -> np.ndarray:
    """All over the range, both ends included."""
    return np.linspace(cell.g_min.value, cell.g_max.value, math.prod(SHAPE)).astype(np.float32).reshape(SHAPE)


def times(cell: Cell) -> tuple[float, ...]:
    return tuple(sorted({*cell.usual_times(), cell.times.earliest, cell.times.latest}))


def assert_conductances(cell: Cell, g: np.ndarray, chips: int) -> None:
    assert g.shape == (chips, *SHAPE)
    assert g.dtype == np.float32
    assert np.isfinite(g).all()
    low, high = np.float32(cell.limits[0]), np.float32(cell.limits[1])
    assert g.min() >= low >= 0
    assert g.max() <= high
    assert g.max() < 2 * cell.g_max.value, "no noise doubles a conductance"


def test_what_is_written_and_read_are_conductances_of_the_device(cell: Cell) -> None:
    target = targets(cell)
    devices = cell.program(target, Draws([1, 2]))
    assert devices.target is target
    assert_conductances(cell, devices.g, 2)
    assert devices.kept.shape[0] == 2
    for time in times(cell):
        g = cell.read(devices, cell.check_time(time), Draws([3, 4]))
        assert_conductances(cell, g, 2)
        fast = cell.fast_noise(devices, g)
        assert fast is None or (fast.shape == g.shape and np.isfinite(fast).all() and (fast >= 0).all())


def test_most_devices_are_near_their_target(cell: Cell) -> None:
    """Half of them within a tenth of the range, right after programming; the order of targets is kept."""
    target = targets(cell)
    g = cell.program(target, Draws([5])).g[0]
    assert np.median(np.abs(g - target)) < 0.1 * cell.span
    assert np.corrcoef(g.ravel(), target.ravel())[0, 1] > 0.9


def test_a_chip_is_the_same_alone_and_among_others(cell: Cell) -> None:
    target = targets(cell)
    together = cell.program(target, Draws([11, 22, 33]))
    alone = cell.program(target, Draws([22]))
    np.testing.assert_array_equal(together.g[1], alone.g[0])
    np.testing.assert_array_equal(together.kept[1], alone.kept[0])
    time = cell.usual_times()[-1]
    np.testing.assert_array_equal(
        cell.read(together, time, Draws([1, 2, 3]))[1], cell.read(alone, time, Draws([2]))[0]
    )


def test_reading_is_a_pure_function(cell: Cell) -> None:
    """The same call gives the same arrays in any order, and changes nothing."""
    devices = cell.program(targets(cell), Draws([1, 2]))
    before = devices.g.copy(), devices.kept.copy(), devices.target.copy()
    first = {time: cell.read(devices, time, Draws([7, 8])) for time in times(cell)}
    for time in reversed(times(cell)):
        np.testing.assert_array_equal(first[time], cell.read(devices, time, Draws([7, 8])))
    for array, kept in zip((devices.g, devices.kept, devices.target), before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_another_seed_is_another_chip(cell: Cell) -> None:
    """Errors of two chips correlate by less than 5 / sqrt(6,000), those of two halves of a chip too."""
    target = targets(cell)
    one, two = cell.program(target, Draws([1, 2])).g - target
    if cell.name == "ideal":
        assert not one.any()
        return
    inner = (target > cell.g_min.value + 0.1 * cell.span) & (target < cell.g_max.value - 0.1 * cell.span)
    a, b = one[inner], two[inner]
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(a.size)
    half = a.size // 2
    assert abs(np.corrcoef(a[:half], a[half : 2 * half])[0, 1]) < 5 / math.sqrt(half)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / math.sqrt(a.size), "neighbours"


def test_times_outside_the_model_are_refused(cell: Cell) -> None:
    wrong = [2 * cell.times.latest] + ([cell.times.earliest / 2] if cell.times.earliest else [])
    for time in wrong:
        with pytest.raises(DesignError, match=f"cell '{cell.name}'"):
            cell.check_time(time)
    for time in cell.usual_times():
        assert cell.check_time(time) == time


def test_it_goes_through_json(cell: Cell) -> None:
    assert type(cell).from_json(cell.to_json()) == cell
    assert parse_cell(cell.model_dump()) == cell


def test_aihwkit_has_it_or_says_what_to_do(cell: Cell) -> None:
    if cell.model == "generic":
        with pytest.raises(DesignError, match="noise='native'"):
            Reference(cell)
        return
    model = Reference(cell)
    devices = model.program(targets(cell), Draws([1]))
    assert_conductances(cell, model.read(devices, cell.usual_times()[-1], Draws([2])), 1)


def test_it_holds_the_matrices_of_a_chip(cell: Cell) -> None:
    """Matrices and chips are independent, each the same alone and among others.

    Errors of weights have a part that is the same everywhere: a device at zero errs upwards alone. It goes where
    two are subtracted.
    """
    chip = resolve("reram-128").with_(cell=cell)
    weights = np.random.default_rng(1).normal(size=(60, 50))
    mapped = map_matrix("m", "m", weights, None, chip, input_range=1.0)
    time = cell.usual_times()[0]
    one, two = (program(mapped, chip, 9, (4, 0), index=index).weights(time) for index in (0, 1))
    np.testing.assert_array_equal(two[1], program(mapped, chip, 9, (0,), index=1).weights(time)[0])
    if cell.name == "ideal":
        assert np.array_equal(one, two)
        return
    for a, b in ((one[0] - one[1], two[0] - two[1]), (one[0] - two[0], one[1] - two[1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(weights.size)


def test_reading_costs_energy(cell: Cell) -> None:
    assert cell.read_energy(cell.g_max.value, 1.0) == pytest.approx(
        cell.v_read.value**2 * cell.t_read.value * cell.g_max.value
    )
