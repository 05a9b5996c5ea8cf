"""Percentile ranges in one pass against NumPy's percentiles of the values themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import ImcSsmError
from imc_ssm.kernels import drawn as draw
from imc_ssm.kernels import full_scale, state_range, value_range

AXES = {"tensor": (0, 1, 2, 3, 4), "head": (0, 1, 3, 4), "state": (0, 1, 4)}


def states(u: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """All states in double precision, (time, batch, head, state, part)."""
    a, b = a.to(torch.complex128), b.to(torch.complex128)
    x, seen = torch.zeros(len(u), *a.shape, dtype=torch.complex128), []
    for t in range(u.shape[2]):
        x = a * x + b * u[..., t, None].double()
        seen.append(torch.view_as_real(x))
    return torch.stack(seen).numpy()


def drawn(seed: int, batch: int, heads: int, n: int, time: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, heads, time, generator=g)
    angle = 6.3 * torch.rand(heads, n, generator=g)
    a = torch.polar(0.5 + 0.5 * torch.rand(heads, n, generator=g), angle)
    return u, a, torch.view_as_complex(torch.randn(heads, n, 2, generator=g))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 20),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 80),
    st.sampled_from([100.0, 99.99, 97.0, 60.0]),
    st.sampled_from(sorted(AXES)),
)
def test_states(seed: int, batch: int, heads: int, n: int, time: int, percentile: float, granularity: str) -> None:
    u, a, b = drawn(seed, batch, heads, n, time)
    found = state_range(u, a, b, percentile, granularity)
    tail = (100 - percentile) / 2
    exact = np.percentile(states(u, a, b), [tail, 100 - tail], axis=AXES[granularity])
    for one, two in zip(found, exact, strict=True):
        assert one.shape == {"tensor": (), "head": (heads,), "state": (heads, n)}[granularity]
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 150), min_size=1, max_size=20),
    st.sampled_from([100.0, 99.9, 90.0]),
    st.sampled_from(sorted(AXES)),
    st.booleans(),
)
def test_states_of_sequences_that_end(
    seed: int, ends: list[int], percentile: float, granularity: str, addends: bool
) -> None:
    """The range of what lies before the ends, whatever lies behind them."""
    lengths = torch.tensor(ends)
    u, a, b = drawn(seed, len(ends), 2, 3, 150)
    behind = torch.arange(150) >= lengths[:, None]
    u = torch.where(behind[:, None], 1e3 * u, u)
    found = state_range(u, a, b, percentile, granularity, addends=addends, lengths=lengths)
    x = states(u, a, b)  # (time, batch, head, state, part)
    words = [x]
    if addends:
        driven = torch.view_as_real(u.movedim(-1, 0).double()[..., None] * b.to(torch.complex128)).numpy()
        words += [driven, x - driven]
    inside = np.stack(words, axis=-1)[~behind.numpy().T]  # (valid, head, state, part, word)
    rows = {"tensor": inside.ravel(), "head": inside.swapaxes(0, 1).reshape(2, -1)}
    rows["state"] = np.moveaxis(inside, 0, 2).reshape(2, 3, -1)
    tail = (100 - percentile) / 2
    low, high = np.percentile(rows[granularity], [tail, 100 - tail], axis=-1)
    np.testing.assert_allclose(np.minimum(found[0], 0), np.minimum(low, 0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.maximum(found[1], 0), np.maximum(high, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", [[3], [3, 11], [3, -1], [3, 4, 5]])
def test_lengths_that_do_not_fit(lengths: list[int]) -> None:
    u, a, b = drawn(0, 2, 1, 1, 10)
    with pytest.raises(ImcSsmError, match="do not fit 2 sequences of 10 steps"):
        state_range(u, a, b, 100.0, "head", lengths=torch.tensor(lengths))


def test_states_of_many_tiles() -> None:
    u, a, b = drawn(3, 40, 2, 3, 300)
    x = states(u, a, b)
    driven = torch.view_as_real(u.movedim(-1, 0).double()[..., None] * b.to(torch.complex128)).numpy()
    words = np.stack([x, driven, x - driven], axis=-1)
    for granularity, axes in AXES.items():
        for percentile in (100.0, 99.9, 90.0):
            tail = (100 - percentile) / 2
            exact = np.percentile(x, [tail, 100 - tail], axis=axes)
            np.testing.assert_allclose(state_range(u, a, b, percentile, granularity), exact, rtol=1e-9)
            exact = np.percentile(words, [tail, 100 - tail], axis=(*axes, 5))
            found = state_range(u, a, b, percentile, granularity, addends=True)
            np.testing.assert_allclose(found, exact, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 3000),
    st.sampled_from([100.0, 99.999, 99.0, 75.0]),
    st.sampled_from(["random", "rising", "falling", "few"]),
)
def test_values(seed: int, series: int, samples: int, percentile: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((series, samples)).astype(np.float32)
    if kind == "few":
        values = np.round(values)
    elif kind != "random":
        values = np.sort(values, axis=1)[:, :: 1 if kind == "rising" else -1]
    tail = (100 - percentile) / 2
    exact = np.percentile(values.astype(np.float64), [tail, 100 - tail], axis=1)
    np.testing.assert_allclose(value_range(values, percentile), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("percentile", [100.0, 60.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(percentile: float, bad: float) -> None:
    values = np.ones((2, 500), np.float32)
    values[1, 300] = bad
    with pytest.raises(ImcSsmError, match="not finite"):
        value_range(values, percentile)


def test_nothing() -> None:
    with pytest.raises(ImcSsmError, match="no data"):
        value_range(np.zeros((3, 0), np.float32), 100.0)


def test_states_that_explode() -> None:
    u, a, b = drawn(0, 2, 1, 2, 4000)
    with pytest.raises(ImcSsmError, match="not finite in full precision"):
        state_range(u, 1.5 * a / a.abs(), b, 100.0, "head")


class TestFullScale:
    """One rule for every range that is the percentile of a magnitude."""

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**31), st.integers(1, 400), st.sampled_from([51.0, 90.0, 99.5, 100.0]))
    def test_dense_values_have_the_percentile(self, seed: int, count: int, percent: float) -> None:
        values = np.random.default_rng(seed).normal(size=count).astype(np.float32)
        assert full_scale(values, percent) == float(np.percentile(np.abs(values), percent))
        assert full_scale(torch.from_numpy(values)[:, None], percent) == full_scale(values, percent)

    @pytest.mark.parametrize("percent", [90.0, 99.0, 99.5, 99.99])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.004, 0.03, 0.2])
    def test_most_events_lie_inside(self, percent: float, share: float) -> None:
        rng = np.random.default_rng(0)
        values = np.zeros(100_000, np.float32)
        count = int(share * len(values)) or 1
        values[rng.permutation(len(values))[:count]] = rng.normal(size=count)
        found = full_scale(values, percent)
        events = np.abs(values[values != 0])
        tail = 1 - percent / 100
        assert found > 0
        assert (np.abs(values) > found).mean() <= tail + 1e-5
        assert (events > found).mean() <= min(10 * tail, 0.5) + 1 / len(events)
        assert found <= events.max()

    def test_the_rule_is_continuous_in_the_share_of_zeros(self) -> None:
        """Where the two parts of it meet, at a tenth, one value more moves the range by little."""
        events = np.linspace(1, 2, 1000)
        found = [full_scale(np.concatenate([events, np.zeros(n)]), 99.5) for n in range(8900, 9100)]
        assert np.abs(np.diff(found)).max() < 2e-3

    @pytest.mark.parametrize("size", [30.0, 0.02])
    def test_two_events_in_500_steps(self, size: float) -> None:
        values = np.zeros(500)
        values[[100, 300]] = size
        assert full_scale(values, 99.5) == size

    def test_zeros_nothing_and_what_is_not_finite(self) -> None:
        assert full_scale(np.zeros(10), 99.0) == 0.0
        assert full_scale(torch.zeros(1000), 99.0, most=10) == 0.0
        with pytest.raises(ImcSsmError, match="no values"):
            full_scale(np.zeros(0), 99.0)
        for bad in (np.nan, np.inf):
            with pytest.raises(ImcSsmError, match="not finite"):
                full_scale(np.array([1.0, bad]), 50.0)

    def test_a_draw_that_misses_the_one_event_looks_at_all(self) -> None:
        values = torch.zeros(1_000_000)
        values[123_456] = -3.0
        assert full_scale(values, 99.0, most=100) == 3.0

    def test_draws_see_what_a_stride_does_not(self) -> None:
        """A period of four and a stride of four."""
        values = torch.randn(40_000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1, 1, 1])
        whole = full_scale(values, 99.0)
        assert full_scale(values, 99.0, most=40_000) == pytest.approx(whole, rel=0.05)
        assert full_scale(values, 99.0, most=40_000) == full_scale(values, 99.0, most=40_000)
        picked, other = draw(160_000, 40_000), draw(160_000, 40_000, seed=1)
        assert draw(10, 10) is None
        assert picked is not None
        assert other is not None
        assert not torch.equal(picked, other)
        counts = torch.bincount(picked % 4, minlength=4)
        assert (counts - 10_000).abs().max() < 5 * (40_000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("percentile", [97.0, 99.0, 99.999])
def test_a_series_of_events_has_the_range_of_its_events(percentile: float) -> None:
    rng = np.random.default_rng(3)
    values = np.zeros((3, 50_000), np.float32)
    for row, share in zip(values, (0.004, 0.05, 0.5), strict=True):
        count = int(share * len(row))
        row[rng.permutation(len(row))[:count]] = rng.normal(size=count)
    low, high = value_range(values, percentile)
    tail = (100 - percentile) / 200
    for row, lowest, highest in zip(values, low, high, strict=True):
        events = row[row != 0]
        inside = min(10 * tail, 0.25)
        assert lowest < 0 < highest
        assert (events < lowest).mean() <= inside + 1 / len(events)
        assert (events > highest).mean() <= inside + 1 / len(events)
    plain = np.percentile(values[2].astype(float), [100 * tail, 100 - 100 * tail])
    np.testing.assert_allclose([low[2], high[2]], plain, rtol=1e-6)
    one_sided = value_range(np.abs(values), percentile)
    assert (one_sided[0] <= np.abs(values).max(1)).all()
    assert (one_sided[1] > 0.5).all()
