"""Truncating roundings and slow heads: the specification's tables, and what they are made for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_specification import PAGE, TABLES, clamp, coefficients, formats

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import (
    Format,
    ScanFormats,
    UnitState,
    dither_words,
    plan_scan,
    scan_codes,
    stochastic_words,
)
from imc_ssm.fixedpoint.dither import fractions


def mixed(j: int, i: int) -> int:
    """Section 14's word in Python's integers."""
    x = (0x9E3779B9 * j + 0x85EBCA6B * i) % 2**32
    x ^= x >> 16
    x = 0x7FEB352D * x % 2**32
    x ^= x >> 15
    x = 0x846CA68B * x % 2**32
    return (x ^ (x >> 16)) >> 16


def dithered(j: int, i: int) -> int:
    return (40503 * j + 49471 * (i // 2) + 16384 * (i % 2)) % 2**16


def test_words_of_the_page() -> None:
    for row in TABLES["D1"]:
        j, i = int(row["j"]), int(row["i"])
        w = dithered(j, i)
        assert w == int(row["w, dithered"]) == int(dither_words(j, i))
        assert int(row["r, s = 4"]) == ((2 * w + 1) << 4) >> 17
        assert int(row["r, s = 21"]) == ((2 * w + 1) << 21) >> 17
        assert mixed(j, i) == int(row["w, stochastic"]) == int(stochastic_words(j, i))


@given(st.integers(0, 2**40), st.integers(0, 2**20))
def test_words_equal_pythons_integers(j: int, i: int) -> None:
    assert int(dither_words(j, i)) == dithered(j, i)
    assert int(stochastic_words(j, i)) == mixed(j % 2**32, i)


@given(st.integers(0, 2**16 - 1), st.integers(0, 52))
def test_what_is_added_is_below_one(w: int, s: int) -> None:
    r = int(fractions(np.int64(w), np.int64(s)))
    assert r == ((2 * w + 1) << s) >> 17
    assert 0 <= r < 2**s


@pytest.mark.parametrize("s", [0, 1, 7, 16])
@pytest.mark.parametrize("v", [-1000, -3, 0, 5, 12345])
def test_the_mean_over_all_words_is_exact(s: int, v: int) -> None:
    w = dither_words(np.arange(2**16), 3)
    assert len(np.unique(w)) == 2**16
    assert np.sum((v + fractions(w, np.int64(s))) >> s) * 2**s == v * 2**16


def test_words_lie_evenly() -> None:
    # The golden ratio's sequence: n words leave no gap wider than about 2.2 / n, wherever they begin.
    for first in (0, 1000, 40000):
        for n in (5, 13, 64, 500):
            w = np.sort(dither_words(first + np.arange(n), 7)) / 2**16
            gaps = np.diff(np.append(w, w[0] + 1))
            assert gaps.max() < 2.3 / n


def test_stochastic_words_are_uniform_and_uncorrelated() -> None:
    w = stochastic_words(np.arange(200_000)[:, None], np.arange(4)) / 2**16
    # Means and correlations of 200,000 uniform numbers, five deviations.
    assert np.all(np.abs(w.mean(0) - 0.5) < 5 * np.sqrt(1 / 12 / 200_000))
    both = np.concatenate([w[:-1], w[1:]], 1)
    off = np.corrcoef(both.T) - np.eye(8)
    assert np.abs(off).max() < 5 / np.sqrt(200_000)


def steps(name: str, rules: dict[str, object]) -> list[list[int]]:
    """Replays a table of words; x' of every step from the rows, by the rows before."""
    plan = plan_scan(replace(formats("joint"), **rules), 1, 2)  # type: ignore[arg-type]
    m_a, m_b, s = (int(v[0, 0]) for v in (plan.m_a, plan.m_b, plan.shift))
    if name != "F1":
        assert f"m_a = {m_a}, m_b = {m_b}, shift = {s}" in PAGE.read_text("utf-8")
    a, b = ({r["state"]: (int(r["re'"]), int(r["im'"])) for r in TABLES["E2"] if r["tensor"] == n} for n in "ab")
    drive = {row["t"]: int(row["u'"]) for row in TABLES["E3"]}
    x, e, found = {"0": [0, 0], "1": [0, 0]}, {}, []
    rows = TABLES[name]
    for k in range(0, len(rows), 4):
        new: dict[str, list[int]] = {"0": [], "1": []}
        for row in rows[k : k + 4]:
            t, n, part = row["t"], row["state"], int(row["part"] == "im")
            (ar, ai), (xr, xi) = a[n], x[n]
            p = ar * xi + ai * xr if part else ar * xr - ai * xi
            v = drive[t]
            if name == "F1":
                v += drive[str(int(t) - 1)]
                assert (int(row["S"]), int(row["P"]), int(row["D"])) == (v, p, b[n][part] * v)
            acc = m_a * p + m_b * b[n][part] * v
            assert int(row["acc"]) == acc
            if name == "D2":
                w = dithered(int(t), 2 * int(n) + part)
                assert (int(row["w"]), int(row["r"])) == (w, ((2 * w + 1) << s) >> 17)
                free = (acc + int(row["r"])) >> s
            elif name == "D3":
                before = e.get((n, part), 4)
                assert int(row["e before"]) == before
                total = acc + (before << (s - 3))
                free = total >> s
                e[n, part] = (total - (free << s)) >> (s - 3)
                assert int(row["e after"]) == e[n, part]
            else:
                free = round(acc / 2**s)
                assert int(row["rounded"]) == free
            assert int(row["x'"]) == clamp(free, -20, 24)
            assert (row[""] == "saturates") == (free != clamp(free, -20, 24))
            new[n].append(int(row["x'"]))
        x = new
        found.append([*x["0"], *x["1"]])
    return found


U = np.array([[[int(row["u"]) for row in TABLES["E3"]]]])


@pytest.mark.parametrize(
    ("name", "rules"),
    [("D2", {"rounding": "dithered"}), ("D3", {"rounding": "feedback", "residual_bits": 3})],
)
def test_steps_of_the_page(name: str, rules: dict[str, object]) -> None:
    plan = plan_scan(replace(formats("joint"), **rules), 1, 2)  # type: ignore[arg-type]
    last = None
    for t, wanted in enumerate(steps(name, rules)):
        _, last, _ = scan_codes(plan, U[..., t : t + 1], *(coefficients(n) for n in "abc"), last)
        assert (last.x[0, 0] - plan.zero("x")[0, :, None]).ravel().tolist() == wanted
        assert last.time == t + 1
    if name == "D3":
        rows = TABLES["D3"][-4:]
        assert last is not None
        assert last.residual.ravel().tolist() == [int(row["e after"]) for row in rows]


def test_a_slow_head_of_the_page() -> None:
    rules = {"periods": (2,)}
    plan = plan_scan(replace(formats("joint"), periods=(2,)), 1, 2)
    wanted = steps("F1", rules)
    outputs = [int(row["y"]) for row in TABLES["F2"]]
    last = None
    for t in range(4):
        y, last, _ = scan_codes(plan, U[..., t : t + 1], *(coefficients(n) for n in "abc"), last)
        state = [0] * 4 if t == 0 else wanted[(t - 1) // 2]
        assert (last.x[0, 0] - plan.zero("x")[0, :, None]).ravel().tolist() == state
        assert y.item() == outputs[t]
        held = int(TABLES["E3"][t]["u'"]) if t % 2 == 0 else 0
        assert (last.time, last.sums.item()) == (t + 1, held)


def dyadic(bits: int, scale: float) -> Format:
    return Format(bits, np.float32(scale), np.int64(0), symmetric=True)


def integrator(rounding: str, **more: object) -> ScanFormats:
    """x = (1 - 2^-7) x + 2^-9 u in codes: a constant input of 30 codes has its end at 7.5 codes."""
    rules: dict[str, object] = {"rounding": rounding, **more}
    return ScanFormats(
        a=dyadic(9, 2.0**-7), u=dyadic(8, 2.0**-7), x=dyadic(8, 2.0**-5), b=dyadic(8, 2.0**-7), **rules
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", ["joint", "separate"])
def test_nearest_swallows_what_the_others_integrate(placement: str) -> None:
    """What the modes are for: an input far below half a code."""
    ends = {}
    for rounding in ("half_even", "dithered", "stochastic", "feedback"):
        if rounding == "feedback" and placement == "separate":
            continue
        plan = plan_scan(integrator(rounding, rounding_placement=placement), 1, 1)
        u = np.full((1, 1, 4000), 30)
        a, b = np.array([[[127, 0]]]), np.array([[[1, 0]]])  # b u = 30 / 2^9 codes of x in every step
        assert plan.m_b[0, 0] / 2.0 ** plan.shift_b[0, 0] * 30 == 30 / 2**9
        y, _, _ = scan_codes(plan, u, a, b)
        ends[rounding] = y[0, 0, 1000:].mean()
    assert ends.pop("half_even") == 0
    # A word has codes of a whole number: their mean over 3,000 steps.
    for rounding, mean in ends.items():
        assert mean == pytest.approx(7.5, abs=0.5 if rounding != "stochastic" else 2.0), rounding


def test_refused() -> None:
    with pytest.raises(FormatError, match="feedback keeps one residual a word"):
        replace(formats("separate"), rounding="feedback")
    with pytest.raises(FormatError, match="residual_bits 0; allowed are 1 to 16"):
        replace(formats("joint"), rounding="feedback", residual_bits=0)
    with pytest.raises(FormatError, match="period 3 of a head; allowed are powers of two from 1 to 256"):
        replace(formats("joint"), periods=(3,))
    with pytest.raises(FormatError, match="periods of 2 heads for 1 heads"):
        plan_scan(replace(formats("joint"), periods=(1, 2)), 1, 2)
    plan = plan_scan(replace(formats("joint"), periods=(2,)), 1, 2)
    operands, begin = [coefficients(n) for n in "abc"], UnitState(None, 0, np.zeros((3, 1), np.int64))
    with pytest.raises(FormatError, match="the state of a unit has sums"):
        scan_codes(plan, U, *operands, begin)
