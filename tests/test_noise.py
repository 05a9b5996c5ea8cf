"""Noise injection: its statistics, its gradients, and that nothing of it stays behind."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imc_ssm.errors import ConfigError
from imc_ssm.graph import Graph, Place, Signal, Source
from imc_ssm.layers import Classifier, Dense
from imc_ssm.noise import Injection
from imc_ssm.quantization import Bits, Scheme, quantize
from imc_ssm.quantization.recurrent import rounded


class OneMatrix(nn.Module):
    """The smallest model with a graph: one matrix on tiles, and one that is not."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.matrix_owner = Dense(inputs, outputs)
        self.digital = Dense(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix_owner(x)

    def graph(self) -> Graph:
        at = Place()
        x = at.emit(Source("input", "input", (), Signal("input", self.matrix_owner.in_features)))
        self.matrix_owner.graph(x, at / "matrix_owner")
        return Graph(tuple(at.operators))

    def used(self) -> Tensor:
        """What the matrix on tiles multiplies with."""
        return self.matrix_owner.grid(self.matrix_owner.weight).detach().clone()


@pytest.fixture
def model() -> OneMatrix:
    torch.manual_seed(0)
    return OneMatrix(40, 30)


def peaks(weight: Tensor) -> Tensor:
    """Largest magnitude of each output's weights: a column of the tile."""
    return weight.detach().abs().amax(1)


def assert_standard_normal(z: Tensor) -> None:
    """Mean, variance, skewness and kurtosis within five standard errors, and ten quantiles within one percent."""
    z, n = z.double().ravel(), z.numel()
    assert n >= 40_000
    assert abs(float(z.mean())) < 5 * n**-0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((z**3).mean())) < 5 * (15 / n) ** 0.5
    assert abs(float((z**4).mean()) - 3) < 5 * (96 / n) ** 0.5
    for p in torch.linspace(0.05, 0.95, 10).tolist():
        bound = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(p))
        assert abs(float((z < bound).double().mean()) - p) < 0.01


class TestWeights:
    def test_statistics_and_what_is_touched(self, model: OneMatrix) -> None:
        clean = {name: p.detach().clone() for name, p in model.named_parameters()}
        drawn = []
        for _ in range(100):
            with Injection(model, weights=0.05):
                drawn.append(model.used() - clean["matrix_owner.weight"])
                assert torch.equal(model.digital.grid(model.digital.weight), clean["digital.weight"])
                assert all(torch.equal(p, clean[name]) for name, p in model.named_parameters())
        assert torch.equal(model.used(), clean["matrix_owner.weight"])
        z = torch.stack(drawn) / (0.05 * peaks(clean["matrix_owner.weight"])[:, None])
        assert_standard_normal(z)
        # Drawn once per context, independently: no two entries and no two contexts are alike.
        assert abs(float((z[:-1] * z[1:]).mean())) < 5 * z[1:].numel() ** -0.5
        assert abs(float((z[:, :, 1:] * z[:, :, :-1]).mean())) < 5 * z[:, :, 1:].numel() ** -0.5

    def test_one_draw_lasts_for_the_context(self, model: OneMatrix) -> None:
        x = torch.randn(3, 40)
        with Injection(model, weights=0.1):
            assert torch.equal(model(x), model(x))
            assert torch.equal(model(x), nn.functional.linear(x, model.used(), model.matrix_owner.bias))
            assert not torch.equal(model.used(), model.matrix_owner.weight)

    @pytest.mark.parametrize("fail", [False, True])
    def test_weights_come_back_exactly(self, model: OneMatrix, fail: bool) -> None:
        weight = model.matrix_owner.weight
        values, memory = weight.detach().clone(), weight.data_ptr()

        def use() -> None:
            with Injection(model, weights=0.3, outputs=0.2, clip=99.0):
                model(torch.randn(2, 40))
                if fail:
                    raise RuntimeError("stopped in between")

        if fail:
            with pytest.raises(RuntimeError, match="stopped"):
                use()
        else:
            use()
        assert model.matrix_owner.weight is weight
        assert torch.equal(weight, values)
        assert weight.data_ptr() == memory
        # The product is undisturbed, too: no hook is left.
        x = torch.randn(5, 40) * 100
        assert torch.equal(model(x), nn.functional.linear(x, weight, model.matrix_owner.bias))

    def test_gradient_is_taken_at_the_noisy_weights_and_belongs_to_the_clean_ones(self, model: OneMatrix) -> None:
        x = torch.randn(4, 40, requires_grad=True)
        with Injection(model, weights=0.2):
            noisy = model.used()
            model(x).square().sum().backward()
        y = nn.functional.linear(x.detach(), noisy, model.matrix_owner.bias.detach())
        assert x.grad is not None
        assert torch.allclose(x.grad, 2 * y @ noisy, rtol=1e-4, atol=1e-5)
        assert model.matrix_owner.weight.grad is not None
        assert torch.allclose(model.matrix_owner.weight.grad, 2 * y.T @ x.detach(), rtol=1e-4, atol=1e-4)


class TestOutputs:
    def test_scale(self, model: OneMatrix) -> None:
        x = torch.randn(5000, 40)
        with Injection(model, outputs=0.04):
            noisy = model(x)
        span = x.abs().max()
        z = (noisy - model(x)).detach() / (0.04 * span * peaks(model.matrix_owner.weight))
        assert_standard_normal(z)
        # Every product draws anew.
        with Injection(model, outputs=0.04):
            assert not torch.equal(model(x), model(x))

    def test_a_percentile_of_a_large_batch_is_sampled(self, model: OneMatrix) -> None:
        x = torch.randn(5000, 40)
        seen: list[Tensor] = []
        with Injection(model, clip=95.0):
            handle = model.matrix_owner.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
            model(x)
            handle.remove()
        share = float((seen[0] != x).double().mean())
        # 0.05 of the values lie beyond, to within five standard errors of 65536 samples.
        assert abs(share - 0.05) < 5 * (0.05 * 0.95 / 65_536) ** 0.5

    def test_the_sample_sees_every_channel(self) -> None:
        """Of 64 x 1024 x 4 values every fourth would be the first channel, which is a hundred times smaller."""
        model, x = OneMatrix(4, 3), torch.randn(64, 1024, 4) * torch.tensor([0.01, 1.0, 1.0, 1.0])
        with Injection(model, clip=99.0), torch.no_grad():
            seen: list[Tensor] = []
            handle = model.matrix_owner.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
            model(x)
            handle.remove()
        share = float((seen[0] != x).double().mean())
        assert abs(share - 0.01) < 5 * (0.01 * 0.99 / 65_536) ** 0.5
        assert float(seen[0].max()) == pytest.approx(float(np.percentile(x.abs(), 99.0)), rel=0.03)

    @pytest.mark.parametrize("size", [30.0, 0.02])
    def test_events_are_not_clipped(self, size: float) -> None:
        """Two events in 500 steps: 99.6 % of the input is zero, and its 99th percentile."""
        model, x = OneMatrix(1, 3), torch.zeros(20, 500, 1)
        x[:, [77, 310]] = size
        with torch.no_grad():
            clean = model(x)
            with Injection(model, clip=99.0):
                assert torch.equal(model(x), clean)

    @pytest.mark.parametrize("clip", [60.0, 90.0, 99.5])
    def test_the_percentile_clips_the_input(self, model: OneMatrix, clip: float) -> None:
        x = torch.randn(200, 40)
        span = float(np.percentile(x.abs(), clip))
        assert abs(float((x.abs() <= span).double().mean()) - clip / 100) < 1e-3
        with Injection(model, clip=clip):
            found = model(x)
        assert torch.equal(found, model(x.clamp(-span, span)))
        assert not torch.equal(found, model(x))

    def test_noise_follows_the_clipped_range(self, model: OneMatrix) -> None:
        x = torch.randn(1600, 40)
        span = float(np.percentile(x.abs(), 90))
        with Injection(model, outputs=0.1, clip=90.0):
            noisy = model(x)
        z = (noisy - model(x.clamp(-span, span))).detach() / (0.1 * span * peaks(model.matrix_owner.weight))
        assert_standard_normal(z)

    def test_clipped_inputs_pass_no_gradient(self, model: OneMatrix) -> None:
        x = torch.cat([torch.full((1, 40), 10.0), torch.rand(9, 40)]).requires_grad_()
        with Injection(model, clip=80.0):
            model(x).sum().backward()
        assert x.grad is not None
        assert x.grad[0].abs().max() == 0
        assert x.grad[1:].abs().max() > 0

    def test_a_single_input_and_all_zeros(self, model: OneMatrix) -> None:
        for x in (torch.zeros(1, 40), torch.ones(1, 40)):
            with Injection(model, outputs=0.1, clip=51.0):
                assert torch.isfinite(model(x)).all()
        with Injection(model, outputs=0.1):
            assert torch.equal(model(torch.zeros(2, 40)), model(torch.zeros(2, 40)))  # no range, no noise


class TestModels:
    @pytest.mark.parametrize("quantize", [False, True])
    def test_every_matrix_and_nothing_else(
        self, quantize: bool, trained: Classifier, quantized: Callable[[Scheme], Classifier]
    ) -> None:
        model = quantized(Scheme()) if quantize else trained
        clean = {name: p.detach().clone() for name, p in model.named_parameters()}
        names = ("encoder", "blocks.0.mixing", "decoder")
        owners = {name: model.get_submodule(name) for name in names}
        matrices = {name: owner.matrix if quantize else owner for name, owner in owners.items()}

        def used() -> dict[str, Tensor]:
            """What the matrices multiply with."""
            return {name: m.grid(m.weight).detach().clone() for name, m in matrices.items()}

        before = used()
        with Injection(model, weights=0.1):
            assert all(torch.equal(p, clean[name]) for name, p in model.named_parameters())
            hooked = {name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks}
            noise = {name: weight - before[name] for name, weight in used().items()}
        assert hooked == {f"{name}.matrix.grid" if quantize else f"{name}.grid" for name in names}
        for name, matrix in matrices.items():  # one deviation of the outputs' largest weights, on any grid
            size = (noise[name] / (0.1 * peaks(matrix.weight)[:, None])).detach()
            assert abs(float(size.square().mean()) - 1) < 5 * (2 / size.numel()) ** 0.5, name
        assert all(torch.equal(p, clean[name]) for name, p in model.named_parameters())
        assert all(torch.equal(weight, before[name]) for name, weight in used().items())

    def test_noise_leaves_the_grid_of_short_words(self, trained: Classifier) -> None:
        """Weights of 2 bits: noise far below a step is still noise, and its gradient that of the noisy weights."""
        u = torch.randn(6, 64, 1)
        model = quantize(trained, Scheme(bits=Bits.only(weights=2)), u)
        matrix = model.decoder.matrix
        with torch.no_grad():
            grid = matrix.grid(matrix.weight).clone()
            with Injection(model, weights=0.01):
                moved = matrix.grid(matrix.weight) - grid
        size = moved / (0.01 * peaks(matrix.linear.weight)[:, None])
        assert (moved != 0).all()
        assert abs(float(size.square().mean()) - 1) < 5 * (2 / size.numel()) ** 0.5
        x = torch.randn(5, 8, requires_grad=True)
        with Injection(model, weights=0.5):
            noisy = matrix.grid(matrix.weight).detach()
            y = model.decoder(x)
            y.sum().backward()
        assert torch.allclose(x.grad, noisy.sum(0).expand(5, -1), atol=1e-5)
        assert matrix.linear.weight.grad.abs().max() > 0

    def test_read_noise_comes_before_the_quantized_output(self, quantized: Callable[[Scheme], Classifier]) -> None:
        model = quantized(Scheme())
        seen: list[Tensor] = []
        handle = model.encoder.register_forward_hook(lambda _, __, y: seen.append(y))
        u = torch.randn(4, 64, 1)
        with torch.no_grad(), Injection(model, outputs=0.3):
            model(u)
        handle.remove()
        fmt = model.encoder.output.format()
        codes = fmt.quantize(seen[0].numpy(), -1)
        assert torch.equal(torch.from_numpy(fmt.dequantize(codes, -1)).float(), seen[0])
        with torch.no_grad():
            model(u)
        assert len(seen) == 1

    def test_padding_has_no_part_in_the_input_range(self, trained: Classifier) -> None:
        u, lengths, logits = torch.randn(6, 64, 1), torch.tensor([3, 9, 20, 64, 33, 7]), []
        inside = torch.arange(64) < lengths[:, None]
        model = copy.deepcopy(trained).set_mode("recurrent")  # to the bit; a Fourier transform mixes all steps
        for padding in (0.0, 50.0):
            torch.manual_seed(0)
            with torch.no_grad(), Injection(model, outputs=0.1, clip=95.0):
                logits.append(model(torch.where(inside[..., None], u, torch.tensor(padding)), lengths))
        assert torch.equal(*logits)

    def test_the_same_seed_is_the_same_noise(self, trained: Classifier) -> None:
        u, outcome = torch.randn(3, 64, 1), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            with Injection(trained, weights=0.1, outputs=0.1, clip=99.0):
                outcome.append(trained(u).detach())
        assert torch.equal(outcome[0], outcome[1])
        assert not torch.equal(outcome[0], outcome[2])

    def test_nothing_asked_draws_nothing(self, trained: Classifier) -> None:
        u = torch.randn(3, 64, 1)
        logits, before = trained(u), torch.get_rng_state()
        with Injection(trained):
            assert torch.equal(trained(u), logits)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_model_without_operators_has_no_tiles(self) -> None:
        model = nn.Linear(3, 2)
        x = torch.randn(4, 3)
        with Injection(model, weights=1.0, outputs=1.0, clip=60.0):
            assert torch.equal(model(x), nn.functional.linear(x, model.weight, model.bias))


class TestMultiplicative:
    def test_statistics(self, model: OneMatrix) -> None:
        clean, drawn = model.used(), []
        for _ in range(50):
            with Injection(model, multiplicative=0.1):
                drawn.append((model.used() - clean) / (0.1 * clean))
        assert_standard_normal(torch.stack(drawn))


class TestPoles:
    @pytest.mark.parametrize("bits", [None, 4, 8])
    def test_statistics_on_top_of_the_grid(
        self, bits: int | None, trained: Classifier, quantized: Callable[[Scheme], Classifier]
    ) -> None:
        model = trained if bits is None else quantized(Scheme.uniform(poles=bits, state=8))
        layer = model.blocks[0].ssm
        unit = layer if bits is None else layer.inner
        with torch.no_grad():
            exact = unit.discrete()[0]
            grid = exact if bits is None else rounded(exact, layer.formats()["poles"])
            largest = torch.view_as_real(exact).abs().amax((1, 2))
            drawn = []
            for _ in range(180):
                with Injection(model, poles=0.03):
                    a = unit.discrete()[0]
                    used = a if bits is None else rounded(a, layer.formats()["poles"])
                    drawn.append(torch.view_as_real(used - grid) / (0.03 * largest[:, None, None]))
            assert torch.equal(unit.discrete()[0], exact)
        assert_standard_normal(torch.stack(drawn))

    def test_evaluation_sees_it_and_forgets_it(self, quantized: Callable[[Scheme], Classifier]) -> None:
        """Units are kept between calls: not across the noise."""
        model, u = quantized(Scheme()), torch.randn(5, 64, 1)
        formats = model.blocks[0].ssm.formats()
        with torch.no_grad():
            clean = model(u)
            with Injection(model, poles=0.05):
                noisy = model(u)
                assert torch.equal(model(u), noisy)
            with Injection(model, poles=0.05):
                assert not torch.equal(model(u), noisy)
            assert torch.equal(model(u), clean)
        assert not torch.equal(noisy, clean)
        assert model.blocks[0].ssm.formats()["poles"].bits == formats["poles"].bits

    def test_the_gradient_reaches_the_clean_poles(self, quantized: Callable[[Scheme], Classifier]) -> None:
        model = quantized(Scheme())
        with Injection(model, poles=0.02):
            model(torch.randn(5, 64, 1)).square().sum().backward()
        assert float(model.blocks[0].ssm.inner.imag.grad.abs().max()) > 0

    def test_a_model_without_poles(self, model: OneMatrix) -> None:
        with pytest.raises(ConfigError, match="no poles"):
            Injection(model, poles=0.1)

    def test_poles_of_slow_heads(self, quantized: Callable[[Scheme], Classifier]) -> None:
        with pytest.raises(ConfigError, match="is that of poles of every step, but the scheme has rate_limit"):
            Injection(quantized(Scheme(rate_limit=1.5)), poles=0.1)
