"""docs/fixed_point.md, section 12, against the code: its example, row by row in Python's integers."""

from fractions import Fraction

import numpy as np
import pytest
from test_specification import PAGE, TABLES, clamp

from imc_ssm.fixedpoint import Format, affine_codes, norm_codes, plan_affine, plan_norm

CHANNELS = TABLES["N1"]


def column(name: str) -> list[float]:
    return [float(row[name]) for row in CHANNELS]


SOURCE = Format(6, np.array(column("s_x"), np.float32), np.array(column("z_x"), np.int64))
OUTPUT = Format(6, np.float32(0.0625), np.array(-2))
GAIN, OFFSET = np.array(column("gamma")), np.array(column("beta"))


def stated(name: str) -> int:
    """A constant of the example, from the line above table N1's."""
    text = " ".join(PAGE.read_text("utf-8").split("**Table N1")[1].split())
    return int(text.split(f" {name} = ")[1].split(".")[0].split(",")[0])


def test_constants() -> None:
    plan = plan_norm(SOURCE, OUTPUT, GAIN, OFFSET, 1e-5)
    affine = plan_affine(SOURCE, OUTPUT, GAIN, OFFSET)
    for name, found in (("align", plan.align), ("m", plan.gain), ("B", plan.offset), ("shift", plan.shift)):
        assert column(name) == found.tolist()
    for name, found in (("m affine", affine.gain), ("B affine", affine.offset), ("shift affine", affine.shift)):
        assert column(name) == found.tolist()
    assert [stated(n) for n in ("align_shift", "R", "R_shift", "E")] == [
        plan.align_shift,
        plan.reciprocal,
        plan.reciprocal_shift,
        plan.eps,
    ]
    assert plan.reciprocal == round(Fraction(2**plan.reciprocal_shift, 3))
    assert plan.eps == round(3e-5 / plan.unit**2)
    assert plan.unit == 0.125 * 2.0 ** (plan.align_shift - 23)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_every_row_follows_from_those_before(step: int) -> None:
    whole = TABLES["N2"][step]
    rows = [row for row in TABLES["N3"] if row["t"] == str(step)]
    n, m, first, r, mean, w = (int(whole[k]) for k in ("n", "m", "T", "r", "mean", "W"))
    for row, channel in zip(rows, CHANNELS, strict=True):
        assert int(row["x'"]) == int(row["x"]) - int(channel["z_x"])
        exact = Fraction(int(channel["align"]) * int(row["x'"]), 2 ** stated("align_shift"))
        assert int(row["v"]) == round(exact)
    assert int(whole["M"]) == sum(int(row["v"]) for row in rows)
    assert mean == round(Fraction(int(whole["M"]) * stated("R"), 2 ** stated("R_shift")))
    d = [int(row["d"]) for row in rows]
    assert d == [int(row["v"]) - mean for row in rows]
    assert int(whole["sum of squares"]) == sum(k * k for k in d)
    assert w == int(whole["sum of squares"]) + stated("E")
    assert n == (w.bit_length() - 1) // 2
    assert m == w * 2**22 // 4**n
    assert first == round(2**27 / ((m // 2**15 + 0.5) * 2**15) ** 0.5)
    error = 3 * 2**46 - m * round(Fraction(first * first, 2**8))
    assert r == round(Fraction(first * round(Fraction(error, 2**22)), 2**17))
    assert abs(r * 2.0 ** (-24 - n) * w**0.5 - 1) < 2**-17
    codes = np.array([int(row["x"]) for row in rows])
    x = np.array([int(row["x'"]) for row in rows]) * np.array(column("s_x"))
    real = GAIN * (x - x.mean()) / np.sqrt(x.var() + 1e-5) + OFFSET
    for i, (row, channel) in enumerate(zip(rows, CHANNELS, strict=True)):
        assert int(row["Z"]) == round(Fraction(d[i] * r, 2 ** (n + 2)))
        exact = Fraction(int(channel["m"]) * int(row["Z"]) + int(channel["B"]), 2 ** int(channel["shift"]))
        assert float(row["/ 2^shift"]) == pytest.approx(float(exact), abs=1e-4)
        assert int(row["y"]) == clamp(round(exact) - 2, -32, 31)
        assert float(row["real norm"]) == pytest.approx(real[i], abs=1e-4)
        assert float(row["s_y (y - z_y)"]) == pytest.approx(0.0625 * (int(row["y"]) + 2), abs=1e-4)
        assert abs(float(exact) * 0.0625 - real[i]) < 1e-3
    plans = {c: plan_norm(SOURCE, OUTPUT, GAIN, OFFSET, 1e-5, centred=c) for c in (True, False)}
    affine = affine_codes(plan_affine(SOURCE, OUTPUT, GAIN, OFFSET), codes)
    for name, found in (("y", norm_codes(plans[True], codes)), ("y RMS", norm_codes(plans[False], codes))):
        assert [int(row[name]) for row in rows] == found.tolist()
    assert [int(row["y affine"]) for row in rows] == affine.tolist()
