"""Quantized models: batch and stream give the same bits, the recurrence is the oracle's, QAT trains."""

import copy
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from quantized_runs import check_batch_stream_and_partition, check_oracle, loss_of, some, ssm_of, stream
from torch import Tensor, nn

from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.errors import ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.quantization import (
    Bits,
    QuantizedDense,
    QuantizedS4D,
    Quantizer,
    Scheme,
    calibration_batch,
    quantize,
    wrap,
)
from imc_ssm.training import TrainConfig, train

Make = Callable[[Scheme], Classifier]
SCHEMES = {
    "default": Scheme(),
    "symmetric": Scheme(symmetric=True),
    "tensor": Scheme(granularity="tensor"),
    "tensor-symmetric": Scheme(granularity="tensor", symmetric=True),
    "no-clip": Scheme(state_clip=None),
    "tight-clip": Scheme(granularity="tensor", state_clip=0.5),
    "4 bits": Scheme.uniform(poles=4, state=4, weights=4, activations=4),
    "16 bits": Scheme.uniform(poles=16, state=16, weights=16, activations=16),
    "mixed": Scheme.uniform(poles=12, state=10, weights=6, activations=5),
}
NOTHING = Scheme(bits=Bits.parse(dict.fromkeys(Bits.model_fields)))


CUT = pytest.mark.filterwarnings("ignore::imc_ssm.errors.RangeWarning")  # schemes that cut states on purpose


@CUT
class TestBitExact:
    @pytest.mark.parametrize("name", SCHEMES)
    @torch.no_grad()
    def test_batch_stream_and_partition(self, name: str, quantized: Make, digits: SequenceDataset) -> None:
        check_batch_stream_and_partition(quantized(SCHEMES[name]), some(digits))

    @torch.no_grad()
    def test_what_follows_a_sequence_does_not_matter(self, quantized: Make, digits: SequenceDataset) -> None:
        model, u = quantized(Scheme()), some(digits, 3)
        lengths = torch.tensor([64, 10, 33])
        padded = torch.where((torch.arange(64) < lengths[:, None])[..., None], u, torch.full_like(u, 1e3))
        assert torch.equal(model(padded, lengths), model(u, lengths))
        for i, length in enumerate(lengths.tolist()):
            assert torch.equal(model(u, lengths)[i], model(u[i : i + 1, :length])[0])

    @pytest.mark.parametrize("name", SCHEMES)
    @torch.no_grad()
    def test_the_recurrence_is_the_oracles_on_its_own_codes(
        self, name: str, quantized: Make, digits: SequenceDataset
    ) -> None:
        check_oracle(quantized(SCHEMES[name]), some(digits))

    @torch.no_grad()
    def test_sums_do_not_depend_on_their_order(self, quantized: Make) -> None:
        # 784 steps and 16 bits, where a sum in float32 moves codes.
        model = quantized(SCHEMES["16 bits"])
        g = torch.Generator().manual_seed(0)
        fmt = model.blocks[0].residual.output.format()
        x = torch.from_numpy(
            fmt.dequantize(torch.randint(-30000, 30000, (1000, 784, 8), generator=g).numpy(), 2)
        ).float()
        steps, heads = torch.randperm(784, generator=g), torch.randperm(8, generator=g)
        assert torch.equal(model.pool(x[:, steps]), model.pool(x))
        mixing = model.blocks[0].mixing
        before = mixing.output(mixing.matrix(x))
        mixing.matrix.linear.weight.copy_(mixing.matrix.linear.weight[:, heads])
        assert torch.equal(mixing.output(mixing.matrix(x[..., heads])), before)


class TestGrids:
    @pytest.mark.parametrize("name", ["default", "tensor", "tensor-symmetric", "mixed"])
    @torch.no_grad()
    def test_every_site_stays_on_its_grid(self, name: str, quantized: Make, digits: SequenceDataset) -> None:
        scheme = SCHEMES[name]
        granularity, symmetric = "tensor" if "tensor" in name else "head", "symmetric" in name
        model = quantized(scheme)
        quantizers = {n: m for n, m in model.named_modules() if isinstance(m, Quantizer)}
        # The state and the recurrent output live inside the integer recurrence.
        inside = {n for n in quantizers if n.endswith(("ssm.state", "ssm.recurrent"))}
        seen: dict[str, Tensor] = {}
        for site in set(quantizers) - inside:
            # A site rounds within its own pass: what leaves the owner is what the quantizer allows.
            owner = model.get_submodule(site.rpartition(".")[0])
            owner.register_forward_hook(lambda _, __, y, site=site: seen.update({site: y}))
        model(some(digits))
        assert set(seen) == set(quantizers) - inside
        assert len(seen) == 9 - 1  # the named activation sites but the recurrent output
        for site, values in seen.items():
            fmt = quantizers[site].format()
            codes = fmt.quantize(values.numpy(), quantizers[site].axis)
            assert torch.equal(torch.from_numpy(fmt.dequantize(codes, quantizers[site].axis)).float(), values), (
                site
            )
            channels = values.shape[quantizers[site].axis]
            spec = scheme.spec(site.removesuffix(".output"))
            assert (spec.granularity, spec.symmetric) == (granularity, symmetric)
            assert fmt.scale.shape == ((channels,) if granularity == "head" else ())
            if symmetric:
                assert not fmt.zero_point.any()

    @torch.no_grad()
    def test_parameters_on_their_grids(self, quantized: Make) -> None:
        bits = Bits(weights=3, biases=4, d=3)
        for granularity in ("head", "tensor"):
            model = quantized(Scheme(bits=bits, granularity=granularity))
            for module in model.modules():
                if isinstance(module, QuantizedDense):
                    weight, bias = module.matrix.grid(module.matrix.weight), module.matrix.bias
                    rows = weight if granularity == "head" else weight.reshape(1, -1)
                    assert max(len(row.unique()) for row in rows) <= 2**3
                    assert len(bias.unique()) <= 2**4
                if isinstance(module, QuantizedS4D):
                    assert len(module.grid(module.inner.D).unique()) <= 2**3

    @torch.no_grad()
    def test_nothing_quantized_is_the_recurrent_model(
        self, trained: Classifier, quantized: Make, digits: SequenceDataset
    ) -> None:
        u = some(digits)
        model = quantized(NOTHING)
        exact = trained.set_mode("recurrent").double()(u.double())
        for logits in (model(u), stream(model, u)):
            assert (logits - exact).abs().max() < 1e-4 * exact.abs().max()

    @torch.no_grad()
    def test_more_bits_are_closer(self, trained: Classifier, digits: SequenceDataset) -> None:
        u = some(digits, 100)
        exact = trained(u)
        errors = []
        for bits in (4, 8, 12, 16):
            scheme = Scheme.uniform(poles=bits, state=bits, weights=bits, activations=bits, percentile=100)
            model = quantize(trained, scheme, u)  # on these very sequences: nothing saturates
            errors.append(float((model(u) - exact).square().mean().sqrt() / exact.std()))
        assert all(later < earlier / 3 for earlier, later in pairwise(errors)), errors
        assert errors[-1] < 3e-3

    @torch.no_grad()
    def test_a_full_precision_state_with_quantized_surroundings(
        self, quantized: Make, digits: SequenceDataset
    ) -> None:
        scheme = Scheme(bits=Bits(state=None))
        model, u = quantized(scheme), some(digits)
        ssm = model.blocks[0].ssm
        assert isinstance(ssm, QuantizedS4D)
        assert ssm.init_state(2).is_complex()
        agree = (stream(model, u).argmax(-1) == model(u).argmax(-1)).float().mean()
        assert agree >= 0.9  # a float recurrence may round to the next code of its output now and then


class TestRefused:
    def test_twice(self, quantized: Make, digits: SequenceDataset) -> None:
        model = quantized(Scheme())
        with pytest.raises(ImcSsmError, match="quantized already"):
            quantize(model, Scheme(), *calibration_batch(digits, 8))
        with pytest.raises(ImcSsmError, match="quantized already"):
            wrap(model, Scheme())

    @pytest.mark.parametrize("shape", [(64, 1), (0, 64, 1), (5, 64, 2)])
    def test_calibration_shapes(self, shape: tuple[int, ...], trained: Classifier) -> None:
        with pytest.raises(ImcSsmError, match="calibration data: shape"):
            quantize(trained, Scheme(), torch.zeros(shape))

    def test_calibration_not_finite(self, trained: Classifier) -> None:
        with pytest.raises(ImcSsmError, match="not finite"):
            quantize(trained, Scheme(), torch.full((2, 64, 1), float("nan")))

    def test_the_original_stays_as_it_was(self, trained: Classifier, digits: SequenceDataset) -> None:
        before = copy.deepcopy(trained.state_dict())
        u = some(digits)
        logits = trained(u)
        model = quantize(trained, Scheme(), *calibration_batch(digits, 8))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        assert all(torch.equal(trained.state_dict()[n], v) for n, v in before.items())
        assert torch.equal(trained(u), logits)
        assert trained.graph() == model.graph()


class TestCalibration:
    def test_batch(self, digits: SequenceDataset) -> None:
        values, lengths = calibration_batch(digits, 8, most=100)
        assert lengths is None
        assert torch.equal(values, torch.from_numpy(digits.split("train").take(100).values))
        assert len(calibration_batch(digits, 10**6)[0]) == 8

    def test_wide_models_take_what_the_study_of_zhao_takes(self) -> None:
        count = 520
        long = SequenceDataset(
            values=np.zeros((count, 784, 1)),
            labels=np.arange(count) % 10,
            splits=dict(zip(SPLITS, np.split(np.arange(count), [518, 519]), strict=True)),
        )
        taken = {heads: len(calibration_batch(long, heads)[0]) for heads in (16, 64, 256, 512)}
        assert taken == {16: 512, 64: 512, 256: 128, 512: 64}

    def test_a_drawn_batch(self, digits: SequenceDataset) -> None:
        one, again, other = (calibration_batch(digits, 8, most=100, seed=seed)[0] for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        train = {row.tobytes() for row in digits.split("train").values}
        assert len({row.numpy().tobytes() for row in one} & train) == 100  # no sequence twice
        whole, _ = calibration_batch(digits, 8, most=10**6, seed=1)
        assert torch.equal(whole, torch.from_numpy(digits.split("train").values))

    def test_a_percentile_narrows_every_activation(self, trained: Classifier, digits: SequenceDataset) -> None:
        data, _ = calibration_batch(digits, 8)
        wide, narrow = (quantize(trained, Scheme(percentile=p), data) for p in (100.0, 95.0))
        narrower = {}
        for (name, one), two in zip(wide.named_modules(), narrow.modules(), strict=True):
            if isinstance(one, Quantizer) and isinstance(two, Quantizer):
                assert torch.all(two.scale <= one.scale)
                narrower[name] = bool(torch.any(two.scale < one.scale))
        # Half of all pixels have the smallest value and 9 % the largest: no percentile takes them off the range.
        assert [name for name in narrower if not narrower[name]] == ["input.output", "encoder.output"]

    @CUT
    def test_the_state_is_clipped_at_a_real_value(self, quantized: Make) -> None:
        ssm = quantized(Scheme(state_clip=0.25)).blocks[0].ssm
        assert isinstance(ssm, QuantizedS4D)
        fmt = ssm.scan_formats().x
        assert abs(fmt.dequantize(fmt.low)).max() <= 0.25
        assert abs(fmt.dequantize(fmt.high)).max() <= 0.25


class TestTraining:
    @pytest.mark.parametrize("name", ["default", "tensor-symmetric", "4 bits"])
    def test_gradient_reaches_every_parameter(self, name: str, quantized: Make, digits: SequenceDataset) -> None:
        model = quantized(SCHEMES[name]).train()
        part = digits.split("train").take(64)
        loss = nn.functional.cross_entropy(model(torch.from_numpy(part.values)), torch.from_numpy(part.labels))
        loss.backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name

    def test_the_gradient_points_where_the_full_precision_one_does(
        self, trained: Classifier, quantized: Make, digits: SequenceDataset
    ) -> None:
        part = digits.split("train").take(256)
        scheme = Scheme.uniform(poles=16, state=16, weights=16, activations=16, percentile=100)
        grads = []
        for model in (trained, quantized(scheme)):
            logits = model(torch.from_numpy(part.values))
            nn.functional.cross_entropy(logits, torch.from_numpy(part.labels)).backward()
            grads.append([p.grad for p in model.parameters()])
        for exact, found in zip(*grads, strict=True):
            assert exact is not None
            assert found is not None
            # A value at its range's end that rounds to just beyond passes no gradient: now and then one of them.
            inside = found != 0
            assert (exact[inside].norm() / exact.norm()).item() > 0.5
            assert torch.cosine_similarity(exact[inside], found[inside], dim=0) > 0.99

    def test_qat_reduces_the_loss(self, quantized: Make, digits: SequenceDataset) -> None:
        # Words so short that there is much to regain: over six trained models three epochs leave 0.53 of the loss,
        # with a deviation of 0.15, at worst 0.67.
        model = quantized(Scheme.uniform(poles=5, state=5, weights=3, activations=4))
        before = loss_of(model, digits)
        train(model, digits, TrainConfig(epochs=3, batch=32, learning_rate=5e-3), keep="last")
        assert loss_of(model, digits) < before

    def test_ranges_of_activations_stay_and_those_of_parameters_follow(
        self, quantized: Make, digits: SequenceDataset
    ) -> None:
        model = quantized(Scheme())
        ssm = model.blocks[0].ssm
        assert isinstance(ssm, QuantizedS4D)
        before = ssm.scan_formats()
        train(model, digits, TrainConfig(epochs=1, batch=64, learning_rate=1e-2), keep="last")
        after = ssm.scan_formats()
        assert (after.x.scale == before.x.scale).all()
        assert (after.u.scale == before.u.scale).all()
        assert not (after.a.scale == before.a.scale).all()
        a, *_ = ssm.coefficients()
        span = torch.view_as_real(a.detach()).flatten(1)
        widest = span.amax(1) - span.amin(1)
        assert torch.allclose(torch.from_numpy(after.a.scale), widest / 255, rtol=1e-5)


@torch.no_grad()
def test_the_clip_holds_a_state_that_coarse_poles_make_unstable(quantized: Make, digits: SequenceDataset) -> None:
    """Without it, poles of two bits outside the unit circle give logits that are not finite."""
    scheme = Scheme(bits=Bits.only(poles=2), symmetric=True)
    u = some(digits)
    held, free = (quantized(scheme.model_copy(update={"state_clip": clip})) for clip in (5.0, None))
    assert torch.isfinite(held(u)).all()
    _, last = ssm_of(held)._run(torch.ones(1, 8, 200), None, None)
    assert last is not None
    assert torch.view_as_real(last).abs().max() == 5.0
    assert not torch.isfinite(free(torch.cat([u] * 20, 1))).all()
