"""Voltage drop along wires: limits with known answers, the exact solution, and how near the closed form is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import AnalogLinear, map_matrix
from imc_ssm.chip.reference import reference_tile
from imc_ssm.chip.wires import closed_form, currents, effective, first_order, nodal
from imc_ssm.devices.converters import Converter
from imc_ssm.errors import ConfigError, DataError, DesignError

SOLVERS = (first_order, closed_form, nodal)


def tile(*shape: int, seed: int = 0, low: float = 0.0, high: float = 50e-6) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape)


def error(found: np.ndarray, exact: np.ndarray, g: np.ndarray) -> float:
    """Of the drop: rms(found - exact) / rms(exact - g)."""
    return float(np.sqrt(np.square(found - exact).mean() / np.square(exact - g).mean()))


@pytest.mark.parametrize("solve", SOLVERS)
def test_wires_without_resistance_change_nothing(solve: Any) -> None:
    g = tile(2, 5, 7)
    assert np.allclose(solve(g, 0.0, 0.0), g, rtol=1e-15, atol=0)


@pytest.mark.parametrize("solve", [closed_form, nodal])
def test_one_cell_is_three_resistors_in_series(solve: Any) -> None:
    g = np.array([[1 / 20_000]])
    exact = 1 / (20_000 + 300 + 700)
    # the closed form's own ladders meet at the cell: exact to the second order, here 0.0005 of the drop
    assert solve(g, 300.0, 700.0)[0, 0] == pytest.approx(exact, rel=1e-12 if solve is nodal else 1e-4)
    assert solve(g, 300.0, 0.0)[0, 0] == pytest.approx(1 / 20_300, rel=1e-12)
    assert solve(g, 0.0, 700.0)[0, 0] == pytest.approx(1 / 20_700, rel=1e-12)


def test_a_row_is_the_ladder_solved_by_hand() -> None:
    """Two cells of 1 kohm on a row of 100 ohm wires: 100 + 1000 || 1100 from the driver."""
    second = 1000 * 1100 / 2100
    near = second / (100 + second)
    expected = np.array([[near, near * 1000 / 1100]]) / 1000
    for solve in (closed_form, nodal):
        assert np.allclose(solve(np.full((1, 2), 1e-3), 100.0, 0.0), expected, rtol=1e-12)
    # a column is the same read from its amplifier, which sits behind the last row
    assert np.allclose(closed_form(np.full((2, 1), 1e-3), 0.0, 100.0), expected.T[::-1], rtol=1e-12)


@pytest.mark.parametrize(("row", "column"), [(0.0, 40.0), (40.0, 0.0)])
def test_ladders_are_exact(row: float, column: float) -> None:
    """Where one resistance is zero, against nodal analysis with one that is nearly zero."""
    g = tile(9, 14)
    small = 1e-6
    exact = nodal(g, row or small, column or small)
    assert error(closed_form(g, row, column), exact, g) < 1e-5
    assert np.array_equal(nodal(g, row, column), closed_form(g, row, column))


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 6), (6, 1)])
def test_nodal_analysis_equals_the_dense_equations(shape: tuple[int, int]) -> None:
    """Kirchhoff's law of every node, as the module states them, written out and solved densely."""
    g, (rows, columns), row, column = tile(*shape, high=1e-3), shape, 30.0, 70.0
    found = nodal(g, row, column)
    u, v = (lambda i, j: i * columns + j), (lambda i, j: rows * columns + i * columns + j)
    for driven in range(rows):
        matrix, right = np.zeros((2 * g.size, 2 * g.size)), np.zeros(2 * g.size)
        for i in range(rows):
            for j in range(columns):
                matrix[u(i, j), [u(i, j), v(i, j)]] += [g[i, j], -g[i, j]]
                matrix[v(i, j), [v(i, j), u(i, j)]] += [g[i, j], -g[i, j]]
                matrix[u(i, j), u(i, j)] += 1 / row
                if j > 0:
                    matrix[u(i, j), u(i, j - 1)] -= 1 / row
                elif i == driven:
                    right[u(i, j)] += 1 / row
                if j < columns - 1:
                    matrix[u(i, j), [u(i, j), u(i, j + 1)]] += [1 / row, -1 / row]
                matrix[v(i, j), v(i, j)] += 1 / column
                if i < rows - 1:
                    matrix[v(i, j), v(i + 1, j)] -= 1 / column
                if i > 0:
                    matrix[v(i, j), [v(i, j), v(i - 1, j)]] += [1 / column, -1 / column]
        voltages = np.linalg.solve(matrix, right)
        assert np.allclose(voltages[[v(rows - 1, j) for j in range(columns)]] / column, found[driven], rtol=1e-9)


@pytest.mark.parametrize("solve", SOLVERS)
def test_drivers_and_amplifiers_may_change_places(solve: Any) -> None:
    """Half a turn and a mirror: rows become columns, and a network of resistors is reciprocal."""
    g = tile(8, 13)
    turned = solve(g[::-1, ::-1].T, 9.0, 4.0)
    assert np.allclose(solve(g, 4.0, 9.0), turned[::-1, ::-1].T, rtol=1e-12)


@pytest.mark.parametrize("solve", SOLVERS)
def test_many_chips_are_a_loop_over_chips(solve: Any) -> None:
    g = tile(3, 2, 6, 10).astype(np.float32)
    before = g.copy()
    together = solve(g, 3.0, 5.0)
    assert together.dtype == np.float32
    assert together.shape == g.shape
    for index in np.ndindex(3, 2):
        assert np.array_equal(together[index], solve(g[index], 3.0, 5.0))
    assert np.array_equal(g, before)


def test_inputs_are_left_alone() -> None:
    g = np.array([[2e-5]])
    closed_form(g, 100.0, 100.0)
    assert g[0, 0] == 2e-5


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    row=st.floats(0.05, 5.0),
    column=st.floats(0.05, 5.0),
    seed=st.integers(0, 2**31),
)
def test_all_agree_where_wires_are_good(rows: int, columns: int, row: float, column: float, seed: int) -> None:
    """The relative error of the first order's drop is about the drop; the closed form's is far below it."""
    g = tile(rows, columns, seed=seed, low=1e-6)
    exact = nodal(g, row, column)
    drop = float(((g - exact) / g).max())
    assert 0 < drop < 0.04  # 5 ohm x 50 uS x 78 cells along either wire
    assert np.abs(first_order(g, row, column) - exact).max() < 2 * drop * (g - exact).max()
    assert np.abs(closed_form(g, row, column) - exact).max() < 0.2 * drop * (g - exact).max() + 1e-15


@pytest.mark.parametrize(("resistance", "bound"), [(1.0, 0.005), (10.0, 0.03)])
def test_the_closed_form_follows_large_drops(resistance: float, bound: float) -> None:
    """Of pairs on 64 rows: the closed form keeps to the drop where the first order has long left it."""
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(64, 64))
    weight /= np.abs(weight).max(axis=0)
    g = 9e-6 + 79.2e-6 * np.stack([np.maximum(weight, 0), np.maximum(-weight, 0)])
    exact = effective(g, resistance, resistance, "nodal")
    found = effective(g, resistance, resistance)
    simple = first_order(np.moveaxis(g, 0, -1).reshape(64, 128), resistance, resistance).reshape(64, 64, 2)
    for x in (rng.uniform(-1, 1, (200, 64)), rng.uniform(0, 1, (200, 64))):
        ideal, wanted, got, linear = (
            x @ (part[0] - part[1]) for part in (g, exact, found, np.moveaxis(simple, -1, 0))
        )
        assert error(got, wanted, ideal) < bound
        assert error(linear, wanted, ideal) > 20 * bound


def test_devices_of_a_weight_stand_side_by_side() -> None:
    g = tile(3, 2, 5, 4)
    cells = np.empty((3, 5, 8))
    cells[..., 0::2], cells[..., 1::2] = g[:, 0], g[:, 1]
    for solve in ("closed-form", "nodal"):
        found = effective(g, 3.0, 5.0, solve)  # type: ignore[arg-type]
        expected = {"closed-form": closed_form, "nodal": nodal}[solve](cells, 3.0, 5.0)
        assert np.array_equal(found[:, 0], expected[..., 0::2])
        assert np.array_equal(found[:, 1], expected[..., 1::2])
        assert found.flags.c_contiguous


def test_currents_are_those_of_the_effective_conductances() -> None:
    g, x = tile(7, 12), np.random.default_rng(3).normal(size=(40, 7))
    assert np.allclose(currents(g, x, 3.0, 5.0), x @ nodal(g, 3.0, 5.0), rtol=1e-9, atol=1e-15)
    assert np.allclose(currents(g, x, 3.0, 0.0), x @ closed_form(g, 3.0, 0.0))


def test_wires_only_take_away_at_first_order_and_never_reverse_a_row_alone() -> None:
    """With one row every effective conductance lies between 0 and the device's, and falls along the row."""
    g = np.full((1, 200), 50e-6)
    for solve in (closed_form, nodal):
        found = solve(g, 20.0, 20.0)[0]
        assert (np.diff(found) < 0).all()
        assert 0 < found[-1] < found[0] < 50e-6


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda g: effective(g, -1.0, 0.0), ConfigError, "wire resistance row = -1.0 ohm; it must be at least 0"),
        (lambda g: effective(g, 0.0, float("nan")), ConfigError, "wire resistance column = nan ohm"),
        (lambda g: effective(g, 0.0, float("inf")), ConfigError, "wire resistance column = inf ohm"),
        (lambda g: effective(g, 1.0, 1.0, "spice"), ConfigError, "unknown solve 'spice'"),
        (lambda g: effective(g[0], 1.0, 1.0), DataError, r"shape \(4, 5\); give \(..., devices, rows, columns\)"),
        (lambda g: closed_form(g[0, 0], 1.0, 1.0), DataError, r"shape \(5,\); give \(..., rows, columns\)"),
        (lambda g: closed_form(g[:, :0], 1.0, 1.0), DataError, r"give \(..., rows, columns\)"),
        (lambda g: nodal(g * np.nan, 1.0, 1.0), DataError, "NaN or infinite"),
        (
            lambda g: currents(g, np.ones((3, 4)), 1.0, 1.0),
            DataError,
            r"give \(rows, columns\), \(samples, rows\)",
        ),
        (lambda g: currents(g[0], np.ones(4), 1.0, 1.0), DataError, r"give \(rows, columns\), \(samples, rows\)"),
    ],
)
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(tile(2, 4, 5))


def aihwkits_share(pair: np.ndarray, resistance: float) -> np.ndarray:
    """What reaches the amplifier in aihwkit's model, from our ladders.

    Its last wire is half as long. With y = sum(share pair), what a column conducts as seen from its end, the
    current is larger by 1 / (1 - y resistance / 2).
    """
    pair = np.maximum(pair.astype(np.float64), 1e-15)
    share = closed_form(pair, 0.0, resistance) / pair
    share[:, 1::2] = (closed_form(pair[::-1], 0.0, resistance)[::-1] / pair)[:, 1::2]
    return share / (1 - resistance / 2 * (share * pair).sum(axis=0))


@pytest.mark.parametrize(("rows", "resistance"), [(32, 2.0), (64, 0.5), (64, 5.0)])
def test_columns_agree_with_aihwkits_time_stepped_model(rows: int, resistance: float) -> None:
    """It computes in float32, a current as the small difference of two voltages: to the last code where vector
    instructions sum in many lanes, to 30 codes of 32,767 where they do not."""
    rng, columns, window = np.random.default_rng(rows), 24, (1e-6, 25e-6)
    weight = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    dac, adc = (Converter.parse({"type": "ideal", "bits": bits}) for bits in (8, 16))
    tile = reference_tile(weight, 32.0, dac, adc, 0.0, cpp=False, column=resistance, window=window)
    x = (rng.integers(-127, 128, (300, rows)) / 127).astype(np.float32)
    theirs = tile.forward(torch.from_numpy(x), is_test=True).double().numpy()
    share = aihwkits_share(2 * window[0] + (window[1] - window[0]) * np.abs(weight), resistance)
    ours, ideal = x @ (share * weight), x.astype(np.float64) @ weight
    assert np.abs(ours - ideal).max() > 0.02
    error, effect = (np.sqrt(np.square(z).mean()) for z in (theirs - ours, ours - ideal))
    assert error < 0.25 * effect
    assert np.abs(theirs - ours).max() < 64 * 32 / (2**15 - 1)  # codes
    without = reference_tile(weight, 32.0, dac, adc, 0.0, cpp=False)
    assert np.allclose(without.forward(torch.from_numpy(x), is_test=True).detach(), ideal, atol=1e-3)


def test_aihwkits_cpp_tile_has_no_wires() -> None:
    converter = Converter.parse({"type": "ideal", "bits": 8})
    with pytest.raises(DesignError, match=r"C\+\+ tile has no wires .* use implementation 'aihwkit'"):
        reference_tile(np.ones((2, 2), np.float32), 1.0, converter, converter, 0.0, cpp=True, column=1.0)


def _ohm(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "ohm", "source": "assumed: a test"}


def test_a_design_may_ask_for_aihwkits_wires() -> None:
    """The layer through aihwkit's wires drops as its own ladders along pairs on one column say."""
    wires = {"row": _ohm(0.0), "column": _ohm(20.0), "solve": "time-stepped"}
    fields: dict[str, Any] = {"noise": 0.0, "dac": ideal(8), "adc": ideal(14), "drift_compensation": "none"}
    wired, plain = (chip_of(wires=chosen, **fields) for chosen in (wires, None))
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(16, 64)), torch.from_numpy(rng.uniform(-1, 1, (200, 64)).astype(np.float32))
    mapped = map_matrix("m", "m", weight, None, plain, input_range=1.0)
    through = AnalogLinear(mapped, wired, "aihwkit").program(0, 0)
    without = AnalogLinear(mapped, plain, "aihwkit").program(0, 0)
    assert through.programmed is not None
    g = through.programmed.at()[0, 0, :, 0].astype(np.float64)
    share = aihwkits_share(np.abs(g[0] - g[1]), 20.0)  # it keeps one weight a pair
    drive = np.rint(x.double().numpy() * 127) / 127
    ideal_sums = (drive @ (g[0] - g[1])) / 25e-6 * mapped.scale
    expected = (drive @ (share * (g[0] - g[1]))) / 25e-6 * mapped.scale
    assert error(without(x).double().numpy(), expected, ideal_sums) > 0.9
    assert error(through(x).double().numpy(), expected, ideal_sums) < 0.02
    targets = AnalogLinear(mapped, wired, "aihwkit")  # no chip: the targets themselves
    assert torch.equal(targets(x), AnalogLinear(mapped, plain, "aihwkit")(x))


def test_aihwkits_wires_refuse_what_they_are_not() -> None:
    wires = {"row": _ohm(0.0), "column": _ohm(1.0), "solve": "time-stepped"}
    chip = chip_of(wires=wires)
    mapped = map_matrix("m", "m", np.eye(4), None, chip, input_range=1.0)
    with pytest.raises(
        DesignError, match="'time-stepped' are those of aihwkit's tile; use implementation 'aihwkit'"
    ):
        AnalogLinear(mapped, chip)
    with pytest.raises(DesignError, match="know pairs only"):
        AnalogLinear(mapped, chip_of(wires=wires, polarity="reference"), "aihwkit")
    with pytest.raises(ConfigError, match="give row the value 0"):
        chip_of(wires=wires | {"row": _ohm(1.0)})
