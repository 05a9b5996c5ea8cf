"""Poles as codes of decay and phase: on the grid, inside the circle, wherever their angles lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, PoleGrid, settled

FORMS = ("polar", "log_polar")


@st.composite
def poles(draw: st.DrawFn, heads: int = 3) -> np.ndarray:
    """(head, state), rates over eight decades, angles over an arc or the whole circle."""
    states = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rate = 10.0 ** rng.uniform(draw(st.sampled_from([-6.0, -3.0])), 1.0, (heads, states))
    arc = draw(st.sampled_from([0.0, 0.1, 3.0, 2 * np.pi]))
    return np.exp(-rate + 1j * (rng.uniform(-np.pi, np.pi) + arc * rng.uniform(size=(heads, states))))


@st.composite
def grids(draw: st.DrawFn) -> tuple[np.ndarray, PoleGrid]:
    a = draw(poles())
    bits = draw(st.integers(1, 12)), draw(st.integers(2, 12))
    return a, PoleGrid.over(
        a, draw(st.sampled_from(FORMS)), *bits, granularity=draw(st.sampled_from(["head", "tensor"]))
    )


def lines(heads: int = 4, states: int = 32, apart: float = 0.01) -> np.ndarray:
    """Poles as S4D's: phases near a line over the state, decays of one order."""
    rng = np.random.default_rng(3)
    step = np.geomspace(1e-3, 1e-1, heads)[:, None]
    phase = step * np.pi * (np.arange(states) + apart * rng.standard_normal((heads, states)))
    return np.exp(-step * rng.uniform(0.2, 1.0, (heads, states)) + 1j * phase)


class TestStays:
    @given(grids())
    def test_inside_the_circle(self, drawn: tuple[np.ndarray, PoleGrid]) -> None:
        """Not only the poles that made the grid: whatever the codes are."""
        a, grid = drawn
        assert np.all(np.abs(grid.quantize(a)) < 1)
        for d in (0, 2**grid.decay_bits - 1):
            assert np.all(np.abs(grid.values(np.full(a.shape, d), np.zeros(a.shape))) < 1)

    @given(poles(), st.integers(2, 16), st.booleans())
    def test_multipliers_too(self, a: np.ndarray, bits: int, symmetric: bool) -> None:
        pairs = np.stack([a.real, a.imag], -1).reshape(len(a), -1)
        fmt = Format.from_range(pairs.min(1), pairs.max(1), bits, symmetric=symmetric)
        held = settled(a, fmt)
        assert np.all(np.abs(held) <= 1)
        parts = np.stack([held.real, held.imag], -1)
        assert np.array_equal(fmt.dequantize(fmt.quantize(parts)), parts)
        # Single precision, in which a model computes, changes no code.
        assert np.array_equal(fmt.quantize(parts.astype(np.float32)), fmt.quantize(parts))
        assert np.all(np.abs(parts - np.stack([a.real, a.imag], -1)) <= 1.0001 * fmt.scale[:, None, None])

    def test_outside_becomes_the_slowest_inside(self) -> None:
        a = np.array([[0.5, 0.9, 1.0, 1.5j, -2.0]])
        for form in FORMS:
            grid = PoleGrid.over(a, form, 3, 8)
            held = np.abs(grid.quantize(a))[0]
            assert np.allclose(held[1:], held[1], rtol=1e-12)
            assert 0.5 < held[1] < 0.9
            assert grid.inside(a).tolist() == [[True, True, False, False, False]]

    def test_all_outside(self) -> None:
        a = np.array([[1.0 + 0j, 1.2]])
        for form in FORMS:
            held = np.abs(PoleGrid.over(a, form, 8, 8).quantize(a))
            assert np.allclose(held, np.exp(-(2.0**-20)), rtol=1e-6)
            assert np.all(held < 1)

    def test_zero_becomes_nothing_that_a_multiplier_holds(self) -> None:
        a = np.array([[0.0 + 0j, 0.5, 0.99]])
        assert np.abs(PoleGrid.over(a, "log_polar", 16, 4).quantize(a))[0, 0] < 2.0**-17
        assert np.abs(PoleGrid.over(a, "polar", 16, 4).quantize(a))[0, 0] < 2.0**-17


class TestNear:
    @given(grids())
    def test_within_half_a_cell(self, drawn: tuple[np.ndarray, PoleGrid]) -> None:
        a, grid = drawn
        held = grid.quantize(a)
        wide = {n: np.asarray(getattr(grid, n), np.float64).reshape(-1, 1) for n in ("decay_step", "phase_step")}
        turn = np.abs(np.angle(held / np.where(a == 0, 1, a)))
        assert np.all(turn <= wide["phase_step"] / 2 + 3e-6)
        rate = np.clip(-np.log(np.abs(a)), 2.0**-20, 12.0)
        if grid.form == "polar":
            assert np.all(
                np.abs(np.abs(held) - np.minimum(np.abs(a), np.exp(-(2.0**-20)))) <= wide["decay_step"] / 2 + 3e-6
            )
        else:
            assert np.all(np.abs(np.log(-np.log(np.abs(held)) / rate)) <= wide["decay_step"] / 2 + 3e-6)

    @given(grids())
    def test_codes_of_points_are_theirs(self, drawn: tuple[np.ndarray, PoleGrid]) -> None:
        a, grid = drawn
        codes = grid.codes(a)
        assert all(c.dtype == np.int64 and c.min() >= 0 for c in codes)
        assert codes[0].max() < 2**grid.decay_bits
        assert codes[1].max() < 2**grid.phase_bits
        again = grid.values(*grid.codes(grid.values(*codes)))
        assert np.allclose(again, grid.values(*codes), rtol=0, atol=1e-6)

    def test_phases_on_a_line_need_few_bits(self) -> None:
        """The codes are of the distance from the line, whose width does not grow with the number of states."""
        a = lines()
        straight = PoleGrid.over(a, "log_polar", 8, 4)
        assert np.all(straight.phase_slope > 0)
        slope = np.ptp(np.unwrap(np.angle(a)), axis=1)
        assert np.all(16 * straight.phase_step < 0.01 * slope)
        assert np.abs(np.angle(straight.quantize(a) / a)).max() < np.abs(straight.phase_step).max()

    def test_few_states_take_no_line(self) -> None:
        assert not PoleGrid.over(lines(states=7), "polar", 8, 8).phase_slope.any()
        assert not PoleGrid.over(lines(), "polar", 8, 8, granularity="tensor").phase_slope.any()

    def test_angles_about_pi_are_neighbours(self) -> None:
        a = 0.9 * np.exp(1j * np.array([[3.1, -3.1, 3.0, -3.0]]))
        grid = PoleGrid.over(a, "log_polar", 4, 4)
        assert 16 * float(grid.phase_step[0]) == pytest.approx(2 * np.pi - 6.0, rel=1e-6)
        assert np.abs(np.angle(grid.quantize(a) / a)).max() < 0.02

    def test_real_poles_stay_real_and_keep_their_sign(self) -> None:
        both = np.array([[0.5, 0.9, -0.3, -0.95]], np.complex128)
        grid = PoleGrid.over(both, "log_polar", 8, 16)
        assert np.array_equal(np.sign(grid.quantize(both).real), np.sign(both.real))
        positive = np.array([[0.5, 0.9, 0.3]], np.complex128)
        assert np.array_equal(PoleGrid.over(positive, "log_polar", 8, 2).quantize(positive).imag, np.zeros((1, 3)))

    def test_equal_decays_are_held_exactly(self) -> None:
        a = np.exp(-0.25) * np.exp(1j * np.linspace(0, 1, 5))[None]
        assert np.allclose(np.abs(PoleGrid.over(a, "log_polar", 2, 4).quantize(a)), np.exp(-0.25), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"form": "cartesian"}, "form"),
        ({"decay_bits": 0}, "decay"),
        ({"decay_bits": 17}, "decay"),
        ({"phase_bits": 1}, "phase"),
        ({"a": np.array([[np.nan]])}, "finite"),
        ({"a": np.ones(3)}, "shape"),
    ],
)
def test_refused(change: dict[str, object], named: str) -> None:
    given_ = {"a": lines(), "form": "polar", "decay_bits": 4, "phase_bits": 4} | change
    with pytest.raises(FormatError, match=named):
        PoleGrid.over(**given_)  # type: ignore[arg-type]


def test_constants_are_counted() -> None:
    assert PoleGrid.over(lines(heads=4), "polar", 4, 4).constants == 20
    assert PoleGrid.over(lines(heads=4), "polar", 4, 4, granularity="tensor").constants == 5
