"""Observers: the ranges they find, of values and of states, and how a rule brings them to their quantizers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from quantized_runs import check_batch_stream_and_partition, some
from torch import Tensor

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels.ranges import state_range
from imc_ssm.layers import Classifier
from imc_ssm.quantization import (
    OBSERVERS,
    MinMax,
    Mse,
    Observer,
    Percentile,
    Quantizer,
    Rule,
    Scheme,
    quantize,
)
from imc_ssm.quantization.wrapping import quantizers_of


class Deviations(Observer):
    """The mean plus and minus so many standard deviations."""

    type: Literal["deviations"] = "deviations"
    count: float = 3.0

    def range(self, values: np.ndarray, bits: int, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
        mean, half = values.mean(1), self.count * values.std(1)
        return mean - half, mean + half


def error_of(values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], bits: int, symmetric: bool) -> np.ndarray:
    """Mean square rounding error of each series (series, samples)."""
    fmt = Format.from_range(*bounds, bits, symmetric=symmetric)
    return np.square(fmt.dequantize(fmt.quantize(values)) - values).mean(1)


class TestRanges:
    @settings(max_examples=50, deadline=None)
    @given(
        # Of events, mostly zero, it is another one: tests/kernels/test_ranges.py.
        arrays(np.float32, (3, 50), elements=st.floats(-1e3, 1e3, width=32).map(lambda value: value or 1.0)),
        st.sampled_from([60.0, 97.5, 100.0]),
    )
    def test_percentile_and_all(self, values: np.ndarray, percent: float) -> None:
        low, high = Percentile(percent=percent).range(values, 8, symmetric=False)
        tail = (100 - percent) / 2
        expected = np.percentile(values.astype(float), [tail, 100 - tail], axis=1)
        np.testing.assert_allclose([low, high], expected, rtol=1e-6, atol=1e-4)
        found = MinMax().range(values, 8, symmetric=False)
        np.testing.assert_array_equal(found, [values.min(1), values.max(1)])

    @settings(max_examples=150, deadline=None)
    @given(
        arrays(np.float32, (2, 60), elements=st.floats(-1e3, 1e3, width=32)),
        st.integers(2, 10),
        st.booleans(),
        st.integers(2, 60),
    )
    def test_mse_is_never_worse_than_the_whole_range(
        self, values: np.ndarray, bits: int, symmetric: bool, steps: int
    ) -> None:
        whole = MinMax().range(values, bits, symmetric)
        found = Mse(steps=steps).range(values, bits, symmetric)
        assert (error_of(values, found, bits, symmetric) <= error_of(values, whole, bits, symmetric)).all()
        assert (np.abs(found) <= np.abs(whole)).all()
        assert np.array_equal(np.sign(found), np.sign(whole))

    def test_mse_clips_heavy_tails_where_words_are_short(self) -> None:
        values = np.random.default_rng(0).standard_t(3, (4, 5000)).astype(np.float32)
        for bits, most in ((3, 0.5), (4, 0.8), (16, 1.0)):
            bounds = [observer.range(values, bits, symmetric=True) for observer in (MinMax(), Mse())]
            whole, found = (error_of(values, b, bits, symmetric=True) for b in bounds)
            assert (found <= most * whole).all(), bits

    def test_mse_looks_at_a_fixed_draw_of_many_values(self) -> None:
        values = np.random.default_rng(1).normal(size=(2, 5000)).astype(np.float32)
        first, again = (Mse(samples=500).range(values, 4, symmetric=False) for _ in range(2))
        assert np.array_equal(first, again)
        chosen = Mse(samples=5000).range(values, 4, symmetric=False)
        assert not np.array_equal(first, chosen)
        np.testing.assert_allclose(first, chosen, rtol=0.3)

    @pytest.mark.parametrize("observer", [MinMax(), Percentile(), Mse()])
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite_or_nothing(self, observer: Observer, bad: float) -> None:
        with pytest.raises(ImcSsmError, match="not finite"):
            observer.range(np.array([[0.0, bad]], np.float32), 8, symmetric=False)
        with pytest.raises(ImcSsmError, match="saw no data"):
            observer.range(np.zeros((1, 0), np.float32), 8, symmetric=False)

    @pytest.mark.parametrize("observer", [MinMax(), Percentile(percent=93.0), Mse(steps=20)])
    @torch.no_grad()
    def test_one_of_a_rule_reaches_its_quantizer(
        self, observer: Observer, trained: Classifier, digits: SequenceDataset
    ) -> None:
        """Only there, and its range is that of what the calibration shows it."""
        u = some(digits, 100)
        base = Scheme.uniform(activations=4, state=4)
        changed = Scheme(rules=(*base.rules, Rule(path="blocks.0.mixing", observer=observer)))
        model, plain = quantize(trained, changed, u), quantize(trained, base, u)
        found, usual = quantizers_of(model), quantizers_of(plain)
        assert {name for name, q in found.items() if q.observer != Percentile()} == {"blocks.0.mixing"}
        assert all(
            torch.equal(q.scale, usual[name].scale) for name, q in found.items() if name != "blocks.0.mixing"
        )
        seen: list[Tensor] = []
        recording = quantize_seen(trained, changed, u, observer, seen)
        values = torch.cat(seen).movedim(-1, 0).flatten(1).numpy()
        fmt = Format.from_range(*observer.range(values, 4, symmetric=False), 4)
        for q in (found["blocks.0.mixing"], quantizers_of(recording)["blocks.0.mixing"]):
            np.testing.assert_array_equal(q.scale.numpy(), fmt.scale)
            np.testing.assert_array_equal(q.zero_point.numpy(), fmt.zero_point)

    @pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
    @pytest.mark.parametrize("order", ["joint", "separate"])
    @torch.no_grad()
    def test_mse_for_the_state(
        self, granularity: Any, order: Any, trained: Classifier, digits: SequenceDataset
    ) -> None:
        u, bits = some(digits, 30), 3
        rule = Rule(path="state", bits=bits, observer=Mse(), granularity=granularity)
        scheme = Scheme(rules=(*Scheme().rules, rule), state_clip=None, rounding_placement=order)
        model = quantize(trained, scheme, u)
        ssm = model.blocks[0].ssm
        shape = {"tensor": (), "head": (8,), "state": (8, 16)}[granularity]
        assert ssm.state.scale.shape == shape
        a, b, _ = ssm.inner.discrete()
        v = model.encoder(model.input(u)).transpose(1, 2)
        whole = state_range(v, a, b, 100.0, granularity, addends=order == "separate")
        widest = Format.from_range(*whole, bits)
        assert (ssm.state.format().scale <= widest.scale * (1 + 1e-5)).all()
        assert (ssm.state.format().scale < widest.scale).any()  # 3 bits: some tails are cut
        check_batch_stream_and_partition(model, u[:20])

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("addends", [False, True])
    @torch.no_grad()
    def test_mse_for_the_state_has_the_smaller_error(
        self, addends: bool, symmetric: bool, trained: Classifier, digits: SequenceDataset
    ) -> None:
        """Of the states and, where the unit rounds them alike, of a x and b u."""
        ssm, u = trained.blocks[0].ssm, some(digits, 30)
        v = trained.encoder(u).transpose(1, 2)
        a, b, _ = ssm.discrete()
        x, states = torch.zeros(len(v), 8, 16, dtype=torch.complex128), []
        for t in range(v.shape[-1]):
            kept, driven = a * x, b * v[..., t, None]
            x = kept + driven
            states += [torch.view_as_real(z) for z in ((x, kept, driven) if addends else (x,))]
        values = torch.stack(states).permute(2, 3, 0, 1, 4).reshape(8 * 16, -1).numpy()
        bounds = [o.states(v, a, b, "state", None, addends, 4, symmetric) for o in (MinMax(), Mse())]
        whole, found = (
            error_of(values, (low.reshape(-1), high.reshape(-1)), 4, symmetric) for low, high in bounds
        )
        # 30 sequences and 64 steps: every one of them is looked at.
        assert (found <= whole * (1 + 1e-6)).all()
        assert found.sum() < 0.9 * whole.sum()

    @torch.no_grad()
    def test_one_of_ones_own_needs_no_more_than_a_range(
        self, trained: Classifier, digits: SequenceDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(OBSERVERS, "known", dict(OBSERVERS.known))
        OBSERVERS.register(Deviations)
        rule = Rule.parse({"observer": {"type": "deviations", "count": 2}})
        scheme = Scheme(rules=(*Scheme().rules, rule), state_clip=None)
        assert Scheme.from_json(scheme.to_json()).rules[-1].observer == Deviations(count=2)
        model = quantize(trained, scheme, some(digits, 30))
        assert {type(q.observer) for q in quantizers_of(model).values()} == {Deviations}
        a, b, _ = trained.blocks[0].ssm.discrete()
        v = model.encoder(model.input(some(digits, 30))).transpose(1, 2)
        x, states = torch.zeros(30, 8, 16, dtype=torch.complex128), []
        for t in range(64):
            x = a * x + b * v[..., t, None]
            states.append(torch.view_as_real(x))
        values = torch.stack(states).movedim(2, 0).flatten(1)
        # 30 sequences and 64 steps: it is shown every one of them.
        np.testing.assert_allclose(model.blocks[0].ssm.state.scale, 4 * values.std(1) / 255, rtol=0.01)
        check_batch_stream_and_partition(model, some(digits))

    def test_a_name_that_is_taken(self) -> None:
        class Other(Observer):
            type: Literal["mse"] = "mse"

        with pytest.raises(ConfigError, match="the observer 'mse' is registered already"):
            OBSERVERS.register(Other)
        assert OBSERVERS.known["mse"] is Mse

    @pytest.mark.parametrize("observer", [MinMax(), Mse()])
    @torch.no_grad()
    def test_padding_makes_no_range(
        self, observer: Observer, trained: Classifier, digits: SequenceDataset
    ) -> None:
        u, lengths = some(digits, 12), torch.tensor([1, 5, 20, 63, 64, 33] * 2)
        scheme = Scheme(rules=(*Scheme().rules, Rule(kind="state", observer=observer), Rule(observer=observer)))
        inside = torch.arange(64) < lengths[:, None]
        states = [
            quantize(trained, scheme, torch.where(inside[..., None], u, torch.tensor(pad)), lengths).state_dict()
            for pad in (0.0, 100.0)
        ]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    @torch.no_grad()
    def test_mse_on_sequences_much_shorter_than_the_array(self, trained: Classifier) -> None:
        """Only steps that some sequence reaches are drawn."""
        ssm, v = trained.blocks[0].ssm, torch.randn(3, 8, 1000)
        a, b, _ = ssm.discrete()
        lengths = torch.tensor([2, 1, 2])
        found = Mse().states(v, a, b, "head", lengths, False, 8, False)
        assert np.array_equal(found, Mse().states(v[..., :2], a, b, "head", lengths, False, 8, False))


def quantize_seen(
    model: Classifier, scheme: Scheme, u: Tensor, observer: Observer, seen: list[Tensor]
) -> Classifier:
    """`quantize`, with what the quantizers of one observer collect on the way."""
    collect = Quantizer.collect

    def record(self: Quantizer, x: Tensor, mask: Tensor | None = None) -> None:
        if self.observer == observer:
            seen.append(x.detach().clone())
        collect(self, x, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quantizer, "collect", record)
        return quantize(model, scheme, u)
