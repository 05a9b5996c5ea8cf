"""Sections 16 and 17 of docs/fixed_point.md against the code: their tables are replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_specification import TABLES

from imc_ssm.fixedpoint import Format, Multipliers, PoleGrid, ScanFormats, plan_scan, settled
from imc_ssm.fixedpoint.poles import FASTEST, SLOWEST


def column(table: str, name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in TABLES[table]])


def test_the_grid_of_the_page() -> None:
    """From the rates and angles of the table to every other column, by the page's formulas and by the code."""
    [row] = TABLES["Q1"]
    rate, theta, n = column("Q2", "rate"), column("Q2", "theta"), np.arange(8)
    poles = np.exp(-rate + 1j * theta)[None]
    grid = PoleGrid.over(poles, "log_polar", int(row["decay bits"]), int(row["phase bits"]))
    constants = {
        k: float(row[k]) for k in ("decay_start", "decay_step", "phase_start", "phase_slope", "phase_step")
    }
    for name, value in constants.items():
        assert float(getattr(grid, name)[0]) == pytest.approx(value, rel=2e-7)
    # The constants, from their definition.
    logs = np.log(rate)
    assert constants["decay_start"] == pytest.approx(logs.min(), rel=1e-6)
    assert constants["decay_step"] == pytest.approx(np.ptp(logs) / 4, rel=1e-6)
    slope = np.polyfit(n, theta, 1)[0]
    assert constants["phase_slope"] == pytest.approx(slope, rel=1e-6)
    assert constants["phase_step"] == pytest.approx(np.ptp(theta - slope * n) / 8, rel=1e-5)
    # The codes and points.
    residual = theta - constants["phase_slope"] * n - constants["phase_start"]
    assert np.allclose(column("Q2", "theta - slope n - start"), residual, atol=6e-5)
    assert np.allclose(column("Q2", "ln rate"), logs, atol=6e-5)
    d, p = column("Q2", "d"), column("Q2", "p")
    assert [c[0].tolist() for c in grid.codes(poles)] == [d.tolist(), p.tolist()]
    assert np.array_equal(p, np.clip(np.floor(residual / constants["phase_step"] + 1e-6), 0, 7))
    rho = np.exp(-np.exp(constants["decay_start"] + constants["decay_step"] * (d + 0.5)))
    angle = constants["phase_start"] + constants["phase_slope"] * n + constants["phase_step"] * (p + 0.5)
    assert np.allclose(column("Q2", "rho"), rho, atol=1e-6)
    assert np.allclose(column("Q2", "angle"), angle, atol=1e-6)
    points = grid.values(d[None], p[None])
    assert np.allclose(points, rho * np.exp(1j * angle), atol=1e-7)
    # The multipliers.
    parts = np.stack([points.real, points.imag], -1)
    assert np.allclose(parts[0], np.stack([column("Q2", "a_re"), column("Q2", "a_im")], -1), atol=1e-6)
    fmt = Format.from_range([parts.min()], [parts.max()], 6)
    assert (float(fmt.scale[0]), int(fmt.zero_point[0])) == (pytest.approx(0.023885213, rel=1e-7), -11)
    held = settled(points, fmt)
    codes = fmt.quantize(np.stack([held.real, held.imag], -1))[0]
    assert codes.tolist() == np.stack([column("Q2", "code re"), column("Q2", "code im")], -1).astype(int).tolist()
    nearest = fmt.quantize(parts)[0]
    moved = [row[""] == "moved inside" for row in TABLES["Q2"]]
    assert (nearest != codes).any(1).tolist() == moved
    assert nearest[:2].tolist() == [[31, -10], [29, 2]]
    assert np.abs(fmt.dequantize(nearest[None, :2]) @ [1, 1j]).round(3).tolist() == [[1.003, 1.005]]


def test_the_rates_of_the_page() -> None:
    assert (SLOWEST, FASTEST) == (2.0**-20, 12.0)
    assert np.exp(-FASTEST) < 2.0**-17


def power(text: str) -> float:
    base, exponent = text.split("^")
    return float(base) ** int(exponent)


@pytest.mark.parametrize("row", TABLES["W1"], ids=lambda row: row["low"] + " to " + row["high"])
def test_formats_over_ranges(row: dict[str, str]) -> None:
    low, high, bits = float(row["low"]), float(row["high"]), int(row["bits"])
    rules: dict[str, Any] = {"symmetric": row["symmetric"] == "yes"}
    free = Format.from_range(low, high, bits, **rules)
    assert float(free.scale) == pytest.approx(float(row["free scale"]), rel=1e-7)
    assert int(free.zero_point) == int(row["free zero"])
    fmt = Format.from_range(low, high, bits, power_of_two=True, **rules)
    assert (float(fmt.scale), int(fmt.zero_point)) == (power(row["scale"]), int(row["zero"]))
    assert [int(fmt.quantize(v)) for v in (low, high)] == [int(row["code of low"]), int(row["code of high"])]
    if not rules["symmetric"]:  # by the page's formula
        spare = 2**bits - 1 - (high - low) / power(row["scale"])
        assert int(row["zero"]) == round(-(2 ** (bits - 1)) + spare / 2 - low / power(row["scale"]))


@pytest.mark.parametrize("row", TABLES["W2"], ids=lambda row: row["order"])
def test_a_plan_of_shifts(row: dict[str, str]) -> None:
    def fmt(bits: int, scale: Any, zero: int = 0, **options: Any) -> Format:
        made = np.asarray(scale, np.float32)
        return Format(bits, made, np.full(made.shape, zero), **options)

    parts = {
        "a": fmt(6, 2.0**-5, -2),
        "u": fmt(6, 0.25, 3),
        "x": fmt(6, 0.125, -12, clip=3.0),
        "b": fmt(5, 0.25, 1),
        "c": fmt(4, [[0.25, 0.125]], symmetric=True),
        "y": fmt(5, 0.5, -4),
    }
    made = ScanFormats(**parts, rounding_placement=row["order"])  # type: ignore[arg-type]
    assert made.power_of_two
    plan = plan_scan(made, 1, 2)
    assert plan.m_y is not None
    assert plan.shift_y is not None
    found = {"W": plan.word, "m_y": plan.m_y[0], "shift_y": plan.shift_y[0]}
    found |= {name: getattr(plan, name)[0, 0] for name in ("m_a", "m_b", "shift", "shift_b")}
    found |= {f"m_c, state {n}": plan.m_c[0, n] for n in (0, 1)}
    found["bits of the accumulator"] = Multipliers.of(plan).sum
    assert found == {name: int(row[name]) for name in found}
    assert plan.sum_scale[0] == power(row["sum_scale"])
    assert (Multipliers.of(plan).a, Multipliers.of(plan).b) == (1, 1)
