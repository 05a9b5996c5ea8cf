"""Every option of a scheme on a trained model: exact in batch and stream, trained, saved, deployed, inspected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_runs import (
    check_batch_stream_and_partition,
    check_oracle,
    loss_of,
    oracle,
    relative_slopes,
    some,
    ssm_of,
    stream,
)
from torch import Tensor, nn

from imc_ssm.analysis import inspect_model
from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import load_design
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Multipliers, plan_scan
from imc_ssm.graph import Graph, Place, Recurrence
from imc_ssm.kernels.ranges import value_range
from imc_ssm.layers import S4D, Classifier, Input, ModelConfig, PiecewiseGelu, S4DConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.quantization import (
    Bits,
    DiscreteS4D,
    Percentile,
    QuantizedGelu,
    Quantizer,
    Scheme,
    calibration_batch,
    quantize,
    resolve,
)
from imc_ssm.quantization.sites import Site
from imc_ssm.training import TrainConfig, train

Make = Callable[[Scheme], Classifier]
UNIT = dict(zip(("poles", "b", "c", "state", "encoder", "recurrent"), "abcxuy", strict=True))
"""What the integer recurrence needs as codes, and its letter; "encoder" is what enters."""
STATIC = {
    "per state": Scheme(granularity="state"),
    "per state, symmetric": Scheme(granularity="state", symmetric=True),
    "separate": Scheme(rounding_placement="separate"),
    "separate per state": Scheme(rounding_placement="separate", granularity="state"),
    "half up": Scheme(rounding="half_up"),
    "half away, separate": Scheme(rounding="half_away", rounding_placement="separate"),
    "discrete": Scheme(parameterisation="discrete"),
    "frozen per state": Scheme(parameterisation="frozen", granularity="state"),
    "piecewise": Scheme(gelu="piecewise"),
    "w4a6": Scheme.w4a6(),
    "w8a8": Scheme.w8a8(parameterisation="frozen", rounding="half_up"),
    "16-bit words but the poles": Scheme(bits=Bits.only(poles=6, state=16)),
    "the state alone": Scheme(bits=Bits.only(state=8), rounding_placement="separate"),
}
DYNAMIC = {"calibration": "dynamic", "state_calibration": "dynamic"}


def lacking(scheme: Scheme) -> list[str]:
    """Paths of a small model that stay in full precision under a scheme, but for the logits."""
    specs = resolve(scheme, Classifier(ModelConfig(heads=1, n_state=2)).graph())
    return [path for path, spec in specs.items() if spec.bits is None and path != "decoder"]


def operators_of(layer: S4D) -> Graph:
    """What a layer does to a sequence."""
    at = Place()
    u = Input().graph(layer.shape[0], at / "input")
    layer.graph(u, at / "ssm")
    return Graph(tuple(at.operators))


class TestStatic:
    @pytest.mark.parametrize("name", STATIC)
    @torch.no_grad()
    def test_batch_stream_and_partition(self, name: str, quantized: Make, digits: SequenceDataset) -> None:
        check_batch_stream_and_partition(quantized(STATIC[name]), some(digits))

    @pytest.mark.parametrize("name", STATIC)
    @torch.no_grad()
    def test_the_recurrence_is_the_oracles(self, name: str, quantized: Make, digits: SequenceDataset) -> None:
        scheme = STATIC[name]
        formats = check_oracle(quantized(scheme), some(digits))
        assert (formats.rounding_placement, formats.rounding) == (scheme.rounding_placement, scheme.rounding)
        assert {f.scale.shape for f in (formats.a, formats.b, formats.y)} == {(8,)}
        shape = (8, 16) if scheme.spec("state").granularity == "state" else (8,)
        assert {f.scale.shape for f in (formats.c, formats.x)} == {shape}

    @pytest.mark.parametrize("name", STATIC)
    def test_gradient_reaches_every_trained_parameter(
        self, name: str, quantized: Make, digits: SequenceDataset
    ) -> None:
        model = quantized(STATIC[name]).train()
        part = digits.split("train").take(64)
        loss = nn.functional.cross_entropy(model(torch.from_numpy(part.values)), torch.from_numpy(part.labels))
        loss.backward()
        for parameter_name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert parameter_name == "blocks.0.ssm.inner.A"
                continue
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name

    @pytest.mark.parametrize("name", STATIC)
    @torch.no_grad()
    def test_files_and_copies(self, name: str, quantized: Make, digits: SequenceDataset, tmp_path: Path) -> None:
        model, u = quantized(STATIC[name]), some(digits)
        path = tmp_path / "q.safetensors"
        save_model(path, StoredModel(model, STATIC[name]))
        stored = load_model(path)
        assert stored.scheme == STATIC[name]
        assert torch.equal(stored.model(u), model(u))
        assert torch.equal(copy.deepcopy(model)(u), model(u))
        frozen = [n for n, p in stored.model.named_parameters() if not p.requires_grad]
        assert frozen == (["blocks.0.ssm.inner.A"] if STATIC[name].parameterisation == "frozen" else [])

    def test_per_state_is_finer_than_per_head(self, trained: Classifier, digits: SequenceDataset) -> None:
        u = some(digits, 100)
        errors = {}
        for granularity in ("tensor", "head", "state"):
            scheme = Scheme(bits=Bits.only(state=8), granularity=granularity, percentile=100, state_clip=None)
            with torch.no_grad():
                difference = quantize(trained, scheme, u)(u) - trained(u)  # on these very sequences
            errors[granularity] = float(difference.square().mean().sqrt())
        assert errors["state"] < 0.8 * errors["head"] < 0.8 * errors["tensor"], errors

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_no_coefficient_is_exact_because_its_format_is_its_own(self, bits: int, trained: Classifier) -> None:
        """Formats per state give no word of A, B or C more than its bits: at most two of a head are range ends."""
        scheme = Scheme.uniform(poles=bits, weights=bits, granularity="state", percentile=100)
        ssm = ssm_of(quantize(trained, scheme, torch.randn(4, 64, 1)))
        *values, formats = ssm.coefficients()
        for part, value in zip("abc", values, strict=True):
            pairs = torch.view_as_real(value.detach().resolve_conj()).double().numpy()
            after = formats[part].dequantize(formats[part].quantize(pairs))
            exact = np.isclose(after, pairs, rtol=1e-6, atol=0)
            assert exact.reshape(8, -1).sum(1).max() <= 3, part

    @torch.no_grad()
    def test_c_counts_in_units_of_the_registers(self, quantized: Make) -> None:
        """C s_x has one format per head, over its range."""
        ssm = ssm_of(quantized(Scheme(granularity="state", symmetric=True)))
        *_, c, formats = ssm.coefficients()
        units = formats["c"].scale.astype(float) * ssm.scan_formats().x.scale
        np.testing.assert_allclose(units, units[:, :1].repeat(16, 1), rtol=2e-7)
        pairs = torch.view_as_real(c.resolve_conj()).double().numpy() * ssm.scan_formats().x.scale[..., None]
        np.testing.assert_allclose(127 * units[:, 0], np.abs(pairs).max((1, 2)), rtol=1e-6)

    @pytest.mark.parametrize("part", ["B", "C"])
    @pytest.mark.parametrize("size", [0, 1e-12, 1e-9, 1e-5])
    @pytest.mark.parametrize("bits", [{"state": 8}, {"state": 16}, {"state": 16, "c": 4}])
    @torch.no_grad()
    def test_a_state_that_hardly_does_anything_leaves_the_others_alone(
        self, part: str, size: float, bits: dict[str, int], trained: Classifier, digits: SequenceDataset
    ) -> None:
        """In the state's words, and in C's: a large C of a state that does not move takes none of its codes."""
        u, errors = some(digits, 50), []
        for weak in (False, True):
            model = copy.deepcopy(trained).set_mode("recurrent").eval()
            if weak:
                getattr(model.blocks[0].ssm, part)[:, 3] *= size
            if weak and part == "B":
                model.blocks[0].ssm.C[:, 3] *= 3
            scheme = Scheme(bits=Bits.only(**bits), granularity="state", percentile=100)
            seen = []
            for one in (quantize(model, scheme, u), model):
                handle = one.blocks[0].ssm.register_forward_hook(lambda _, __, y, seen=seen: seen.append(y))
                one(u)
                handle.remove()
            errors.append(float((seen[0] - seen[1]).norm() / seen[1].norm()))
        assert errors[1] < 1.25 * errors[0]


class TestOneAtATime:
    @pytest.mark.parametrize("order", ["joint", "separate"])
    @pytest.mark.parametrize(("granularity", "most"), [("tensor", 1e-3), ("head", 1e-3), ("state", 1e-3)])
    @torch.no_grad()
    def test_16_bit_words_stand_for_floats(
        self, order: str, granularity: str, most: float, trained: Classifier, digits: SequenceDataset
    ) -> None:
        """Everything in 16-bit words: y as in floats on the calibration data, where nothing saturates."""
        u = some(digits, 50)
        scheme = Scheme.parse(
            {
                "bits": Bits.only(state=16),
                "rounding_placement": order,
                "granularity": granularity,
                "percentile": 100,
            }
        )
        seen = []
        for model in (quantize(trained, scheme, u), trained.set_mode("recurrent").eval()):
            handle = model.blocks[0].ssm.register_forward_hook(lambda _, __, y: seen.append(y))
            model(u)
            handle.remove()
        integer, floats = seen
        assert (integer - floats).abs().max() < most * floats.abs().max()

    @pytest.mark.parametrize("part", UNIT)
    @pytest.mark.parametrize("bits", [2, 8])
    @torch.no_grad()
    def test_any_part_alone(self, part: str, bits: int, quantized: Make, digits: SequenceDataset) -> None:
        """The part in the integer unit, the rest of it in 16-bit words: like the part alone in floats."""
        alone = Bits.only(**{"state": 16, part: bits})
        model = quantized(Scheme(bits=alone, percentile=100))
        widths = {p: getattr(ssm_of(model).scan_formats(), letter).bits for p, letter in UNIT.items()}
        assert widths == {p: bits if p == part else 16 for p in UNIT}
        logits = model(some(digits, 100))
        assert torch.isfinite(logits).all()
        if part != "state":
            floats = quantized(Scheme(bits=Bits.only(**{part: bits}), percentile=100))(some(digits, 100))
            if torch.isfinite(floats).all() and floats.abs().max() < 100:  # 2-bit poles explode without an end
                assert (logits - floats).square().mean() < 0.01 * floats.square().mean()

    @torch.no_grad()
    def test_layers_in_between_hand_over_codes(self, digits: SequenceDataset) -> None:
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, n_state=4, layers=3))
        u, _ = calibration_batch(digits, 4, most=20)
        quantized = quantize(model, Scheme(bits=Bits.only(state=8)), u)
        widths = [block.residual.output.bits for block in quantized.blocks]
        assert widths == [16, 16, None]
        assert torch.equal(stream(quantized, u), quantized(u))

    @torch.no_grad()
    def test_a_state_in_floats_with_short_coefficients(self, quantized: Make, digits: SequenceDataset) -> None:
        model = quantized(Scheme(bits=Bits.only(poles=4, b=3, c=3), granularity="state"))
        ssm = ssm_of(model)
        *values, formats = ssm.coefficients()
        rounded = []
        for part, value in zip("abc", values, strict=True):
            pairs = torch.view_as_real(value.resolve_conj()).numpy()
            real = formats[part].dequantize(formats[part].quantize(pairs)).astype(np.float32)
            rounded.append(torch.view_as_complex(torch.from_numpy(real)))
        seen = []
        ssm.register_forward_hook(lambda _, inputs, y: seen.append((inputs[0], y)))
        model(some(digits))
        assert len(seen) == 1
        u, y = (values.transpose(1, 2) for values in seen[0])
        x, exact = torch.zeros(len(u), *rounded[0].shape, dtype=torch.complex64), []
        for t in range(u.shape[2]):
            x = rounded[0] * x + rounded[1] * u[..., t, None]
            exact.append(2 * (rounded[2] * x).real.sum(-1))
        exact = torch.stack(exact, -1) + ssm.grid(ssm.inner.D)[:, None] * u
        assert (y - exact).abs().max() < 1e-4 * exact.abs().max()


class TestDynamic:
    @torch.no_grad()
    def test_ranges_follow_the_batch(self, quantized: Make, digits: SequenceDataset) -> None:
        model, u = quantized(Scheme(calibration="dynamic", state_calibration="dynamic")), some(digits)
        quantizers = {n: m for n, m in model.named_modules() if isinstance(m, Quantizer)}
        before = {n: v.clone() for n, v in model.state_dict().items()}
        scales = []
        for batch in (u, 3 * u, u):
            model(batch)
            scales.append({n: q.format().scale for n, q in quantizers.items()})
        for name in quantizers:
            assert np.array_equal(scales[0][name], scales[2][name]), name
            assert not np.array_equal(scales[0][name], scales[1][name]), name
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())

    @torch.no_grad()
    def test_every_activation_has_the_percentile_of_its_own_values(
        self, quantized: Make, digits: SequenceDataset
    ) -> None:
        scheme = Scheme(calibration="dynamic", percentile=97.0)
        model, u = quantized(scheme), some(digits)
        seen: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, Quantizer):
                module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
        model(u)
        assert len(seen) == 10 - 2  # the state and the recurrence's output are rounded by the unit
        for name, values in seen.items():
            quantizer = model.get_submodule(name)
            assert isinstance(quantizer, Quantizer)
            flat = values.movedim(quantizer.axis, 0).flatten(1).numpy()
            low, high = np.percentile(flat.astype(float), [1.5, 98.5], axis=1)
            fmt = quantizer.format()
            wide = (np.maximum(high, 0) - np.minimum(low, 0)) / 255
            np.testing.assert_allclose(fmt.scale, np.where(wide > 0, wide, 1), rtol=1e-6)

    @torch.no_grad()
    def test_static_ranges_of_the_same_batch_are_the_same(
        self, trained: Classifier, digits: SequenceDataset
    ) -> None:
        u = some(digits, 60)
        static, dynamic = (
            quantize(trained, Scheme(bits=Bits.only(state=8, input=16), state_calibration=c), u)
            for c in ("static", "dynamic")
        )
        # The input of the recurrence is a 16-bit code instead of a float: the ranges agree to that.
        dynamic(u)
        np.testing.assert_allclose(
            ssm_of(dynamic).state.format().scale, ssm_of(static).state.format().scale, rtol=2e-3
        )
        assert (dynamic(u) - static(u)).abs().max() < 0.2 * static(u).abs().max()

    @torch.no_grad()
    def test_the_output_has_the_range_of_the_integer_sum(self, quantized: Make, digits: SequenceDataset) -> None:
        model = quantized(Scheme(calibration="dynamic", percentile=100))
        ssm, seen = ssm_of(model), []
        ssm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        model(some(digits))
        formats = ssm.scan_formats()
        sums, _ = oracle(ssm, replace(formats, y=None), seen[0].transpose(1, 2))
        real = sums.astype(np.float32)
        low, high = value_range(real.swapaxes(0, 1).reshape(8, -1), 100)
        np.testing.assert_allclose(formats.y.scale, (np.maximum(high, 0) - np.minimum(low, 0)) / 255, rtol=1e-6)

    @pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
    def test_the_gradient_is_the_slope_of_the_loss(
        self, granularity: str, quantized: Make, digits: SequenceDataset
    ) -> None:
        """Ranges that follow the parameters hide no part of it; in 16-bit words, whose loss is smooth enough."""
        scheme = Scheme.uniform(poles=16, state=16, weights=16, activations=16, granularity=granularity, **DYNAMIC)
        slopes = relative_slopes(quantized(scheme), digits, steps=(3e-3, 1e-2))
        # Over six trained models and the granularities: 0.990 with a deviation of 0.038.
        assert 0.75 < slopes.mean() < 1.25, slopes

    @pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
    def test_trains(self, granularity: str, quantized: Make, digits: SequenceDataset) -> None:
        """Few bits, through the loop: losses are finite and every parameter moves (whether it helps is luck)."""
        scheme = Scheme.uniform(poles=6, state=6, weights=5, activations=6, granularity=granularity, **DYNAMIC)
        model = quantized(scheme)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        history = train(model, digits, TrainConfig(epochs=1, batch=32, learning_rate=3e-3), keep="last")
        assert np.isfinite(history.loss_train).all()
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter).all(), name
            assert not torch.equal(parameter, before[name]), name

    @pytest.mark.parametrize("field", ["calibration", "state_calibration"])
    @torch.no_grad()
    def test_refused_where_formats_must_be_fixed(
        self, field: str, quantized: Make, digits: SequenceDataset
    ) -> None:
        model, u = quantized(Scheme.parse({field: "dynamic"})), some(digits)
        ssm = ssm_of(model)
        for what in (
            lambda: model.init_state(2),
            lambda: ssm.step(torch.zeros(2, 8), torch.zeros(2, 8, 16, 2, dtype=torch.int64)),
            lambda: compile(model, load_design("pcm-256"), u),
            lambda: inspect_model(model, digits, sequences=4),
        ):
            with pytest.raises(ImcSsmError, match=r"needs fixed formats, but the ranges of .* are dynamic"):
                what()

    @torch.no_grad()
    def test_files(self, quantized: Make, digits: SequenceDataset, tmp_path: Path) -> None:
        scheme = Scheme(calibration="dynamic", state_calibration="dynamic")
        model, u = quantized(scheme), some(digits)
        save_model(tmp_path / "q.safetensors", StoredModel(model, scheme))
        assert torch.equal(load_model(tmp_path / "q.safetensors").model(u), model(u))


class TestParameterisation:
    def test_starts_where_the_continuous_one_is(self, quantized: Make, digits: SequenceDataset) -> None:
        u = some(digits)
        models = [quantized(Scheme.parse({"parameterisation": p})) for p in ("continuous", "discrete", "frozen")]
        with torch.no_grad():
            assert torch.equal(models[0](u), models[1](u))
            assert torch.equal(models[0](u), models[2](u))
        names = {n.rpartition(".")[2] for n, _ in models[1].blocks[0].ssm.named_parameters()}
        assert names == {"A", "B", "C", "D"}

    @pytest.mark.parametrize("kind", ["discrete", "frozen"])
    def test_qat_trains_the_matrices_themselves(self, kind: str, quantized: Make, digits: SequenceDataset) -> None:
        scheme = Scheme.parse(
            {"bits": Scheme.uniform(poles=5, state=5, weights=3, activations=4).bits, "parameterisation": kind}
        )
        model = quantized(scheme)
        inner = ssm_of(model).inner
        before = {n: p.detach().clone() for n, p in inner.named_parameters()}
        loss = loss_of(model, digits)
        train(model, digits, TrainConfig(epochs=3, batch=32, learning_rate=5e-3, weight_decay=0.1), keep="last")
        assert loss_of(model, digits) < loss  # as in test_wrapped: few bits, so there is much to regain
        for name, value in before.items():
            assert torch.equal(dict(inner.named_parameters())[name], value) == (kind == "frozen" and name == "A")

    def test_the_source_is_left_alone(self) -> None:
        source = S4D(3, S4DConfig(n_state=8))
        before = copy.deepcopy(source.state_dict())
        made = DiscreteS4D(source)
        u = torch.randn(2, 40, 3)
        for mode in ("convolution", "recurrent"):
            source.mode = made.mode = mode
            assert torch.equal(made(u), source(u))
        state, other = made.init_state(2), source.init_state(2)
        for t in range(5):
            one, state = made.step(u[:, t], state)
            two, other = source.step(u[:, t], other)
            assert torch.equal(one, two)
        assert operators_of(made) == operators_of(source)
        with torch.no_grad():
            for p in made.parameters():
                p.add_(1)
        assert all(torch.equal(source.state_dict()[n], v) for n, v in before.items())

    @pytest.mark.parametrize("kind", ["discrete", "frozen"])
    def test_inspected(self, kind: str, quantized: Make, digits: SequenceDataset) -> None:
        model, same = (quantized(Scheme.parse({"parameterisation": p})) for p in (kind, "continuous"))
        one, two = (inspect_model(m, digits, sequences=4, most_steps=100) for m in (model, same))
        for name in ("pole", "kernel_error", "bound_guaranteed", "state_largest", "saturated_state"):
            np.testing.assert_allclose(one[name].values, two[name].values, rtol=1e-6, err_msg=name)


class TestDeployed:
    @pytest.mark.parametrize("name", [n for n, s in STATIC.items() if not lacking(s)])
    @torch.no_grad()
    def test_compiled_costed_and_saved(
        self, name: str, quantized: Make, digits: SequenceDataset, tmp_path: Path
    ) -> None:
        model, u = quantized(STATIC[name]), some(digits)
        placed = compile(model, load_design("pcm-256"), u)
        assert torch.equal(placed.digital()(u), model(u))
        placed.save(tmp_path / "d.safetensors")
        loaded = Deployment.load(tmp_path / "d.safetensors")
        assert torch.equal(loaded.digital()(u), model(u))
        assert float(cost(placed)["energy_total"]) == float(cost(loaded)["energy_total"]) > 0
        chip, tiles = placed.analog()
        for tile in tiles:
            tile.program(0, 0)
        assert torch.isfinite(chip(u)).all()

    def test_words_of_the_unit_count_as_bits(self, quantized: Make, digits: SequenceDataset) -> None:
        bits = Bits().model_copy(update={"poles": None, "encoder": None})
        placed = compile(quantized(Scheme(bits=bits)), load_design("pcm-256"), some(digits))
        widths = [placed.formats.bits(path) for path in ("blocks.0.ssm.poles", "encoder", "blocks.0.ssm.b")]
        assert widths == [16, 16, 8]

    def test_multipliers_are_those_of_the_plan(self, quantized: Make, digits: SequenceDataset) -> None:
        for name in ("per state", "separate"):
            model = quantized(STATIC[name])
            placed = compile(model, load_design("pcm-256"), some(digits))
            (unit,) = (op for op in placed.graph if isinstance(op, Recurrence))
            plan = plan_scan(ssm_of(model).scan_formats(), 8, 16)
            own = Multipliers.of(plan)
            assert Multipliers.of(unit.plan(placed.formats)) == own
            taken = {op.purpose: op.bits for op in unit.actions(placed.formats, placed.steps)}
            # One multiplier in a lane serves both, as long as the longer constant.
            assert taken["requantize a x"][1] == taken["requantize b u"][1] == max(own.a, own.b)
            assert (plan.m_c == 1).all()  # C in units of the registers: nothing to align
            assert plan.word - 24 <= own.sum <= plan.word
            assert 9 <= own.a <= 24


class TestPiecewiseGelu:
    def test_the_published_form(self) -> None:
        x = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
        assert PiecewiseGelu()(x).tolist() == [0.0, 0.0, -0.25, 0.0, 0.75, 2.0, 3.0]
        assert (PiecewiseGelu()(x) - nn.functional.gelu(x)).abs().max() < 0.11

    def test_derivative(self) -> None:
        x = torch.linspace(-4, 4, 1001, dtype=torch.float64) + 1e-3
        x.requires_grad_()
        (slope,) = torch.autograd.grad(PiecewiseGelu()(x).sum(), x)
        y = x.detach()
        exact = torch.where(y < -2, 0.0, torch.where(y > 2, 1.0, (y + 1) / 2))
        assert torch.allclose(slope, exact)

    def test_table(self) -> None:
        x = 2 * torch.randn(4, 30, 3, generator=torch.Generator().manual_seed(0))
        source, output = (Quantizer(bits, 3, observer=Percentile(percent=98.0)) for bits in (6, 5))
        for q in (source, output):
            q.observe()
            q.collect(x)
            q.calibrate()
        site = QuantizedGelu(PiecewiseGelu(), source, output)
        on_grid = source(x).detach().requires_grad_()
        found, exact = site(on_grid), Site.forward(site, on_grid)
        assert torch.equal(found, exact)
        one, two = (torch.autograd.grad(y.sum(), on_grid)[0] for y in (found, exact))
        assert torch.allclose(one, two, atol=1e-6)

    def test_wrapped_models_use_it(self, quantized: Make, digits: SequenceDataset) -> None:
        u = some(digits)
        nothing = {"bits": Bits.only()}
        models = [quantized(Scheme.parse(nothing | {"gelu": g})) for g in ("exact", "piecewise")]
        assert isinstance(models[1].blocks[0].gelu.inner, PiecewiseGelu)
        with torch.no_grad():
            assert 1e-3 < (models[0](u) - models[1](u)).abs().max() < 10
