"""The S4D classifier: sizes, three modes that agree, initial poles, discretisation, padding and records."""

import cmath
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.graph import Matrix
from imc_ssm.layers import PRESETS, S4D, Classifier, MeanPool, ModelConfig, preset
from imc_ssm.layers.s4d import discretise, exprel, initial_poles, powers

INITIALISATIONS = ("lin", "inv", "legs")
DISCRETISATIONS = ("zoh", "bilinear")


def relative(found: Tensor, exact: Tensor) -> float:
    """max |difference| / max |reference|."""
    return float((found.double() - exact.double()).abs().max() / exact.double().abs().max())


def build(seed: int = 0, **fields: object) -> Classifier:
    """A small classifier in evaluation mode; the norms have seen data."""
    torch.manual_seed(seed)
    model = Classifier(ModelConfig.parse({"heads": 6, "n_state": 16, "classes": 3, "inputs": 2} | fields))
    with torch.no_grad():
        model.train()(torch.randn(8, 30, model.config.inputs) * 2 + 1)
    return model.eval()


def layer_of(**fields: object) -> S4D:
    """An S4D layer with the fields of a model."""
    config = ModelConfig.parse(fields)
    return S4D(config.heads, config.layer)


class TestSize:
    @pytest.mark.parametrize(
        ("name", "count"),
        [("s4d-16h", 3_850), ("s4d-64h", 21_514), ("s4d-256h", 184_330), ("s4d-512h", 630_794)],
    )
    def test_presets(self, name: str, count: int) -> None:
        config = preset(name)
        model = Classifier(config)
        assert sum(p.numel() for p in model.parameters()) == count
        assert all(p.requires_grad for p in model.parameters())
        assert count == 2 * config.heads**2 + 208 * config.heads + 10
        assert (config.layers, config.layer.n_state, config.norm) == (1, 64, "none")

    def test_names(self) -> None:
        assert sorted(PRESETS) == ["s4d-16h", "s4d-256h", "s4d-512h", "s4d-64h"]
        with pytest.raises(ImcSsmError, match=r"unknown model 's4d-65h'; did you mean 's4d-6?\d+h'\?"):
            preset("s4d-65h")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"n_state": 63}, "n_state"),
            ({"heads": 0}, "heads"),
            ({"dt_min": 0.5, "dt_max": 0.1}, "dt_min = 0.5 is above dt_max"),
            ({"norm": "group"}, "norm"),
            ({"n_states": 64}, "did you mean 'n_state'"),
        ],
    )
    def test_bad_configurations(self, data: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ModelConfig.parse(data)


def run_stream(model: Classifier, u: Tensor) -> Tensor:
    """Logits after the last of the steps, one at a time."""
    state = model.init_state(len(u))
    logits = torch.zeros(0)
    for t in range(u.shape[1]):
        logits, state = model.step(u[:, t], state)
    return logits


@torch.no_grad()
def run_layer(layer: S4D, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One SSM in all three modes, u (B, T, H)."""
    layer.mode = "convolution"
    convolution = layer(u)
    layer.mode = "recurrent"
    recurrent = layer(u)
    state, steps = layer.init_state(len(u)), []
    for t in range(u.shape[1]):
        y, state = layer.step(u[:, t], state)
        steps.append(y)
    return convolution, recurrent, torch.stack(steps, dim=1)


class TestModes:
    @pytest.mark.parametrize("initialisation", INITIALISATIONS)
    @pytest.mark.parametrize("discretisation", DISCRETISATIONS)
    def test_one_layer_over_784_steps(self, initialisation: str, discretisation: str) -> None:
        torch.manual_seed(1)
        layer = layer_of(heads=8, initialisation=initialisation, discretisation=discretisation)
        u = torch.randn(2, 784, 8)
        single = run_layer(layer, u)
        double = run_layer(layer.double(), u.double())
        for y in double[1:]:
            assert y.dtype == torch.float64
            assert relative(y, double[0]) < 1e-9
        for y in single:
            assert y.dtype == torch.float32
            assert relative(y, single[0]) < 1e-4
            # The double-precision model has the same single-precision parameters.
            assert relative(y, double[0]) < 1e-4

    @pytest.mark.parametrize("discretisation", DISCRETISATIONS)
    @pytest.mark.parametrize("initialisation", INITIALISATIONS)
    @pytest.mark.parametrize(("norm", "layers"), [("none", 1), ("layer", 2), ("batch", 2)])
    @torch.no_grad()
    def test_the_whole_model(self, discretisation: str, initialisation: str, norm: str, layers: int) -> None:
        model = build(discretisation=discretisation, initialisation=initialisation, norm=norm, layers=layers)
        u = torch.randn(3, 30, 2)
        logits = model.set_mode("convolution")(u)
        assert logits.shape == (3, 3)
        assert relative(model.set_mode("recurrent")(u), logits) < 1e-4
        assert relative(run_stream(model, u), logits) < 1e-4
        exact = model.double().set_mode("convolution")(u.double())
        assert relative(model.set_mode("recurrent")(u.double()), exact) < 1e-9
        assert relative(run_stream(model, u.double()), exact) < 1e-9

    def test_gradients_agree_between_modes(self) -> None:
        model, u = build(3), torch.randn(4, 50, 2)
        grads = []
        for mode in ("convolution", "recurrent"):
            model.zero_grad()
            model.set_mode(mode)(u).square().sum().backward()
            grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert set(grads[0]) == set(grads[1]) == {name for name, _ in model.named_parameters()}
        for name, exact in grads[0].items():
            assert relative(grads[1][name], exact) < 1e-3, name

    def test_set_mode_reaches_every_layer(self) -> None:
        model = build(layers=3).set_mode("recurrent")
        assert [m.mode for m in model.modules() if isinstance(m, S4D)] == ["recurrent"] * 3

    @torch.no_grad()
    def test_a_stream_says_what_the_model_would_say_so_far(self) -> None:
        model, u = build(4), torch.randn(2, 12, 2)
        state = model.init_state(2)
        for t in range(12):
            logits, state = model.step(u[:, t], state)
            assert relative(logits, model(u[:, : t + 1])) < 1e-4


class TestPadding:
    @pytest.mark.parametrize("mode", ["convolution", "recurrent"])
    @pytest.mark.parametrize("norm", ["none", "layer", "batch"])
    @torch.no_grad()
    def test_what_follows_a_sequence_cannot_reach_its_logits(self, mode: str, norm: str) -> None:
        model = build(norm=norm, layers=2).set_mode(mode)
        lengths = torch.tensor([30, 1, 17, 29])
        u = torch.randn(4, 30, 2)
        other = torch.where((torch.arange(30) < lengths[:, None])[..., None], u, 1e3 * torch.randn(4, 30, 2))
        assert torch.equal(model(other, lengths), model(u, lengths))
        for bad in (1e8, math.nan, math.inf):
            behind = torch.where((torch.arange(30) < lengths[:, None])[..., None], u, bad)
            assert torch.equal(model(behind, lengths), model(u, lengths))
        for i, length in enumerate(lengths.tolist()):
            alone = model(u[i : i + 1, :length])
            assert relative(model(u, lengths)[i : i + 1], alone) < 1e-4

    def test_full_lengths_are_no_lengths(self) -> None:
        x = torch.randn(3, 7, 2)
        assert torch.allclose(MeanPool()(x, torch.ones(3, 7, dtype=torch.bool)), MeanPool()(x))


class TestRefusals:
    @pytest.mark.parametrize(
        ("shape", "dtype", "lengths", "message"),
        [
            ((4, 30), torch.float32, None, r"shape \(4, 30\); needed is \(sequences, time, 2\)"),
            ((4, 30, 1), torch.float32, None, "shape"),
            ((0, 30, 2), torch.float32, None, "at least one sequence and one step"),
            ((4, 0, 2), torch.float32, None, "at least one sequence and one step"),
            ((4, 30, 2), torch.float64, None, r"dtype torch.float64, the model has torch.float32; convert"),
            ((4, 30, 2), torch.float32, torch.tensor([1, 2]), "one integer for each of the 4 sequences"),
            ((4, 30, 2), torch.float32, torch.ones(4), "one integer for each"),
            ((4, 30, 2), torch.float32, torch.ones(4, dtype=torch.bool), "one integer for each"),
            ((4, 30, 2), torch.float32, np.ones(4, np.int64), "lengths are a ndarray; give a tensor"),
            ((4, 30, 2), torch.float32, [3, 4, 5, 6], "lengths are a list; give a tensor"),
            ((4, 30, 2), torch.float32, torch.tensor([1, 2, 0, 3]), "run from 0 to 3; allowed is 1 to 30"),
            ((4, 30, 2), torch.float32, torch.tensor([1, 2, 5, 31]), "run from 1 to 31"),
        ],
    )
    def test_inputs(self, shape: tuple[int, ...], dtype: torch.dtype, lengths: Any, message: str) -> None:
        with pytest.raises(ImcSsmError, match=message):
            build()(torch.zeros(shape, dtype=dtype), lengths)


class TestSmallPoles:
    @pytest.mark.parametrize("z", [0, -1e-10, 1e-12j, -1e-6 + 1e-6j, -9.9e-3, 1.01e-2j, -0.3 + 5j, -30])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 3e-7), (torch.complex128, 1e-14)])
    def test_the_gain_of_a_held_input(self, z: complex, dtype: torch.dtype, tolerance: float) -> None:
        """(exp(z) - 1) / z, by its series for small z; at 0 it is 1, and rises by a half."""
        found = torch.tensor(z, dtype=dtype, requires_grad=True)
        series = sum(complex(z) ** k / math.factorial(k + 1) for k in range(30))
        exact = series if abs(z) < 1 else (cmath.exp(z) - 1) / z
        value = exprel(found)
        assert abs(complex(value.detach()) - exact) < tolerance * abs(exact)
        value.real.backward()  # type: ignore[no-untyped-call]
        assert found.grad is not None
        slope = sum(k * complex(z) ** (k - 1) / math.factorial(k + 1) for k in range(1, 30))
        exact = slope if abs(z) < 1 else (cmath.exp(z) - exact) / z
        assert abs(complex(found.grad) - exact.conjugate()) < 1e-2 * abs(exact)

    @pytest.mark.parametrize("size", [0.0, 1e-12, 1e-7, 1e-3])
    def test_b_of_a_slow_pole_is_a_step(self, size: float) -> None:
        """x' = A x + u with A near 0 sums its inputs: b = dt, not 0 / 0, and not 0."""
        dt = torch.tensor(1e-3)
        for pole in (-size, 1j * size):
            a, b = discretise("zoh", torch.tensor(pole, dtype=torch.complex64), dt)
            assert complex(b) == pytest.approx(1e-3, rel=1e-6)
            assert complex(a) == pytest.approx(cmath.exp(pole * 1e-3), rel=1e-6)

    @pytest.mark.parametrize("discretisation", DISCRETISATIONS)
    def test_all_modes_agree_at_a_pole_of_zero(self, discretisation: str) -> None:
        """A = 0 (a = 1), and dt A = -2, whose bilinear pole is a = 0: the kernel of one step."""
        torch.manual_seed(0)
        layer = layer_of(heads=3, n_state=4, discretisation=discretisation)
        with torch.no_grad():
            layer.imag.zero_()
            layer.log_dt.zero_()
            layer.log_neg_real[0] = -torch.inf
            layer.log_neg_real[1] = math.log(2)
            layer.log_neg_real[2] = -25.0
        u = torch.randn(2, 40, 3)
        convolution, recurrent, stream = run_layer(layer, u)
        assert torch.isfinite(convolution).all()
        assert relative(recurrent, convolution) < 1e-5
        assert relative(stream, convolution) < 1e-5
        if discretisation == "bilinear":
            assert layer.discrete()[0][1].abs().max() == 0
        grads = []
        for mode in ("convolution", "recurrent"):
            layer.zero_grad()
            layer.mode = mode  # type: ignore[assignment]
            layer(u).square().sum().backward()
            grads.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
        for one, two in zip(*grads, strict=True):
            assert torch.isfinite(one).all()
            assert relative(two, one) < 1e-3

    def test_powers_of_zero(self) -> None:
        a = torch.tensor([0.0, 0.5], dtype=torch.complex64, requires_grad=True)
        found = powers(a, 4)
        assert torch.allclose(found.real, torch.tensor([[1.0, 0, 0, 0], [1, 0.5, 0.25, 0.125]]))
        found.real.sum().backward()  # type: ignore[no-untyped-call]
        assert torch.allclose(a.grad.real, torch.tensor([1.0, 1 + 1 + 0.75]))  # type: ignore[union-attr]


class TestInitialPoles:
    def test_lin(self) -> None:
        poles = initial_poles("lin", 32)
        assert poles.shape == (32,)
        for k, pole in enumerate(poles.tolist()):
            assert pole == pytest.approx(complex(-0.5, math.pi * k), abs=1e-12)

    def test_inv(self) -> None:
        poles = initial_poles("inv", 32)
        for k, pole in enumerate(poles.tolist()):
            assert pole == pytest.approx(complex(-0.5, 64 / math.pi * (64 / (2 * k + 1) - 1)), abs=1e-9)

    @pytest.mark.parametrize("n", [1, 4, 32])
    def test_legs_are_the_eigenvalues_of_hippos_normal_part(self, n: int) -> None:
        size = 2 * n
        hippo = torch.zeros(size, size, dtype=torch.float64)
        for row in range(size):
            for column in range(row + 1):
                root = math.sqrt((2 * row + 1) * (2 * column + 1))
                hippo[row, column] = -(row + 1) if row == column else -root
        p = torch.tensor([math.sqrt(k + 0.5) for k in range(size)], dtype=torch.float64)
        normal = hippo + torch.outer(p, p)
        assert torch.allclose(normal @ normal.T, normal.T @ normal, atol=1e-8)
        values = torch.linalg.eigvals(normal)
        kept = values[values.imag > 0]
        assert len(kept) == n
        poles = initial_poles("legs", n)
        assert torch.allclose(poles.real, torch.full((n,), -0.5, dtype=torch.float64))
        assert torch.allclose(poles.imag.sort().values, kept.imag.sort().values, rtol=1e-9)
        assert torch.allclose(kept.real, torch.full((n,), -0.5, dtype=torch.float64), atol=1e-9)

    @pytest.mark.parametrize("kind", INITIALISATIONS)
    def test_the_model_starts_there(self, kind: str) -> None:
        layer = layer_of(heads=3, initialisation=kind, dt_min=0.01, dt_max=0.2)
        poles = initial_poles(kind, 32)
        assert torch.allclose(-torch.exp(layer.log_neg_real.double()), poles.real.expand(3, 32), rtol=1e-6)
        assert torch.allclose(layer.imag.double(), poles.imag.expand(3, 32), rtol=1e-6)
        dt = torch.exp(layer.log_dt)
        assert torch.all((dt >= 0.01 * 0.9999) & (dt <= 0.2 * 1.0001))
        assert torch.all(layer.discrete()[0].abs() < 1)

    def test_steps_are_spread_evenly_in_log(self) -> None:
        torch.manual_seed(0)
        log_dt = layer_of(heads=4000, n_state=2).log_dt.detach()
        position = (log_dt - math.log(1e-3)) / math.log(100)
        # A uniform variable: mean 1/2 and variance 1/12, within five standard errors of 4000 draws.
        assert abs(float(position.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / 4000)
        assert abs(float(position.var()) - 1 / 12) < 5 * math.sqrt(1 / 180 / 4000)


def one_pole(discretisation: str) -> tuple[complex, complex, complex, complex, float]:
    """(a, b, A, B, dt) of the first pole of one head with B = 0.7 - 0.4i, in double precision."""
    torch.manual_seed(2)
    layer = layer_of(heads=1, n_state=4, discretisation=discretisation, initialisation="inv").double()
    with torch.no_grad():
        layer.B[..., 0], layer.B[..., 1] = 0.7, -0.4
        layer.log_dt.fill_(math.log(0.3))
    a, b, c = layer.discrete()
    assert torch.equal(torch.view_as_real(c), layer.C)
    A = complex(-math.exp(float(layer.log_neg_real.detach()[0, 1])), float(layer.imag.detach()[0, 1]))
    return complex(a.detach()[0, 1]), complex(b.detach()[0, 1]), A, 0.7 - 0.4j, 0.3


class TestDiscretisation:
    def test_zoh_is_the_exact_response_to_a_held_input(self) -> None:
        a, b, A, B, dt = one_pole("zoh")
        x0, u = 1.5 - 2j, 0.8
        # x' = A x + B u, integrated in 2000 Runge-Kutta steps: nothing of the closed form is used.
        x, steps = x0, 2000
        h = dt / steps
        for _ in range(steps):
            k1 = A * x + B * u
            k2 = A * (x + h / 2 * k1) + B * u
            k3 = A * (x + h / 2 * k2) + B * u
            k4 = A * (x + h * k3) + B * u
            x += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        assert a * x0 + b * u == pytest.approx(x, abs=1e-9)

    def test_bilinear_is_the_trapezoidal_rule(self) -> None:
        a, b, A, B, dt = one_pole("bilinear")
        x0, u = 1.5 - 2j, 0.8
        x1 = a * x0 + b * u
        assert x1 - x0 == pytest.approx(dt * (A * (x0 + x1) / 2 + B * u), abs=1e-9)

    def test_both_converge_to_the_continuous_system(self) -> None:
        # The constant input's fixed point is -B u / A whatever the step.
        for discretisation in DISCRETISATIONS:
            a, b, A, B, _ = one_pole(discretisation)
            assert b / (1 - a) == pytest.approx(-B / A, abs=1e-9)

    def test_the_kernel_is_the_impulse_response(self) -> None:
        torch.manual_seed(3)
        layer = layer_of(heads=2, n_state=8).double()
        impulse = torch.zeros(1, 20, 2, dtype=torch.float64)
        impulse[:, 0] = 1
        with torch.no_grad():
            layer.D.zero_()
            layer.mode = "recurrent"
            assert relative(layer(impulse)[0].T, layer.kernel(20)) < 1e-12


class TestGraph:
    def test_one_layer(self) -> None:
        graph = Classifier(preset("s4d-16h")).graph()
        joined = [
            (type(op).__name__, op.module, [s.name for s in op.inputs], op.output.name, op.output.width)
            for op in graph
        ]
        block = "blocks.0"
        assert joined == [
            ("Source", "input", [], "input", 1),
            ("Matrix", "encoder", ["input"], "encoder", 16),
            ("Recurrence", f"{block}.ssm", ["encoder"], f"{block}.ssm.recurrent", 16),
            ("Scale", f"{block}.ssm", [f"{block}.ssm.recurrent", "encoder"], f"{block}.ssm.after_d", 16),
            ("LookUp", f"{block}.gelu", [f"{block}.ssm.after_d"], f"{block}.gelu", 16),
            ("Matrix", f"{block}.mixing", [f"{block}.gelu"], f"{block}.mixing", 32),
            ("Gate", f"{block}.glu", [f"{block}.mixing"], f"{block}.glu", 16),
            ("Sum", f"{block}.residual", [f"{block}.glu", "encoder"], f"{block}.residual", 16),
            ("Mean", "pool", [f"{block}.residual"], "pool", 16),
            ("Matrix", "decoder", ["pool"], "decoder", 10),
        ]
        assert [op.rate for op in graph] == ["step"] * 9 + ["sequence"]
        (recurrence,) = (op for op in graph if type(op).__name__ == "Recurrence")
        assert (recurrence.heads, recurrence.states) == (16, 32)

    def test_more_layers_and_a_norm(self) -> None:
        model = build(layers=3, norm="layer")
        graph = model.graph()
        names = [op.name for op in graph]
        assert len(set(names)) == len(names) == 4 + 3 * 7
        assert [op.name for op in graph if isinstance(op, Matrix)] == [
            "encoder",
            "mixing",
            "1.mixing",
            "2.mixing",
            "decoder",
        ]
        assert [op.module for op in graph if type(op).__name__ == "Normalize"] == [
            f"blocks.{i}.norm" for i in range(3)
        ]
        # The next layer starts from what the norm leaves.
        second = graph.of_module("blocks.1.ssm")[0]
        assert second.inputs[0].name == "blocks.0.norm"
        for op in graph:
            if isinstance(op, Matrix):
                weight = model.get_submodule(op.module).weight
                assert weight.shape == (op.output.width, op.inputs[0].width)


def test_a_mode_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"unknown mode 'fft'.*known: convolution, recurrent"):
        Classifier(ModelConfig(heads=2)).set_mode("fft")


class TestTorchCompile:
    @pytest.mark.parametrize("mode", ["convolution", "recurrent"])
    def test_a_compiled_model_is_the_model(self, mode: str) -> None:
        """It runs as it is: logits and gradients are the same bits."""
        model, u = build().set_mode(mode), torch.randn(3, 20, 2)
        compiled = torch.compile(model, backend="eager")
        results = []
        for one in (model, compiled):
            model.zero_grad()
            logits = one(u, torch.tensor([20, 3, 11]))
            logits.sum().backward()
            results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))

    def test_a_process_that_compiled_ends(self) -> None:
        """With the usual backend; no pool of its workers is left waiting."""
        code = (
            "import torch; from imc_ssm.layers import Classifier, ModelConfig; u = torch.ones(2, 9, 1); "
            "model = Classifier(ModelConfig(heads=2, n_state=4)); "
            "print(torch.equal(torch.compile(model)(u), model(u)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
        )
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]
