"""Every operator: its implementations return the same values and gradients; whoever registers is tested.

Values on grids are equal (`==`). Gradients, sums of single-precision products in any order, are equal to
single precision and zero in the same places.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import formats_for, operands
from torch import Tensor

from imc_ssm import fixedpoint as fp
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format, Noise, plan_affine, plan_norm
from imc_ssm.kernels import (
    DeviceArray,
    GateConstants,
    Grid,
    MatrixConstants,
    MeanConstants,
    Pass,
    SumConstants,
    add,
    cuda,
    diagonal_scan,
    gate,
    linear,
    linear_on_grids,
    look_up,
    mean,
    mean_on_grids,
    quantize,
    scale_add,
    using,
)
from imc_ssm.kernels.learned import moved, ranged
from imc_ssm.kernels.norms import NormConstants, affine, normalize
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.quantization import quantize as quantize_model

Case = tuple[Callable[..., Tensor], list[Tensor]]


def drawn(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(bits: int, size: tuple[int, ...], reach: float = 4.0, **options: Any) -> Format:
    """A format per channel, some of whose values saturate."""
    rng = np.random.default_rng(len(size))
    return Format.from_range(-rng.uniform(0.5, reach, size), rng.uniform(0.5, reach, size), bits, **options)


def tables(seed: int, heads: int, codes: int, dtype: type) -> tuple[DeviceArray, DeviceArray]:
    rng = np.random.default_rng(seed)
    one, two = rng.uniform(0, 1, (2, heads, codes))
    return DeviceArray(one.astype(dtype)), DeviceArray(two.astype(np.float32))


def scan(formats_bits: int | None, separate: bool = False, noise: Noise | None = None) -> Case:
    u, a, b, c = operands(3, 5, 2, 3, 20)
    if formats_bits is None:
        return lambda u, a, b, c: diagonal_scan(u, a, b, c, noise=noise, grad_clamp=0.5), [u, a, b, c]
    order = "separate" if separate else "joint"
    formats = formats_for(u, a, b, c, formats_bits, shrink={"x": 0.8, "y": 0.7, "a": 0.9}, order=order)

    def run(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return diagonal_scan(u, a, b, c, formats=formats, noise=noise, grad_clamp=0.5)

    return run, [u, a, b, c]


X, Y = drawn(1, 3, 21, 4), drawn(2, 3, 21, 4)
PER_HEAD, PER_TENSOR = spread(8, (4,)), spread(8, ())
GAIN, OFFSET = drawn(10, 4), drawn(11, 4)
_SCALED = PER_HEAD, spread(8, (4,), 1.0), GAIN.double().numpy(), OFFSET.double().numpy()
LAYER_NORM, RMS_NORM = (NormConstants(plan_norm(*_SCALED, 1e-5, centred=centred)) for centred in (True, False))
AFFINE = NormConstants(plan_affine(*_SCALED))
NARROW, WIDE, ROWS = spread(8, (4,), 1.0), spread(8, (6,), 30.0), spread(8, (21,))
SUM = SumConstants(fp.plan_sum(PER_HEAD, PER_HEAD, NARROW, 4), PER_HEAD, PER_HEAD, NARROW)
SCALED = SumConstants(fp.plan_scale_add(ROWS, PER_TENSOR, ROWS, ROWS, 21), ROWS, ROWS, ROWS, np.arange(-10, 11))
GATE = GateConstants(PER_HEAD, spread(8, (2,)), 2, fp.gate_table(fp.grid_values(PER_HEAD, 4, 2)))
MATRIX, LAST = (
    MatrixConstants(
        fp.plan_linear(PER_TENSOR, PER_HEAD, to, (6, 4), np.arange(6) - 2.5),
        np.random.default_rng(0).integers(-90, 91, (6, 4)),
        PER_HEAD,
        to,
    )
    for to in (WIDE, None)
)
MEAN = MeanConstants(PER_HEAD, spread(8, (4,), 0.6), 4)
CASES: dict[str, Case] = {
    "quantize": (lambda x: quantize(x, PER_HEAD, 2), [X]),
    "quantize per tensor": (lambda x: quantize(x, PER_TENSOR, 2), [X]),
    "quantize rows": (lambda x: quantize(x, PER_HEAD, 1), [X.transpose(1, 2).contiguous()]),
    "quantize, clip": (lambda x: quantize(x, spread(6, (4,), clip=0.7), 2), [X]),
    "quantize, 16 bits symmetric": (lambda x: quantize(x, spread(16, (4,), symmetric=True), 2), [X]),
    "add": (lambda x, y: add(x, y, SUM), [X, Y]),
    "scale_add": (lambda y, u, d: scale_add(y, u, d, SCALED), [X, Y, drawn(3, 21)]),
    "look_up": (lambda x: look_up(x, Grid.of(PER_HEAD, 4), *tables(4, 4, 256, np.float32)), [X]),
    "gate": (lambda x: gate(x, GATE), [X]),
    "linear on grids": (lambda x, w, b: linear_on_grids(x, w, b, MATRIX), [X, drawn(6, 6, 4), drawn(7, 6)]),
    "sums on a grid": (lambda x, w: linear_on_grids(x, w, None, LAST), [X, drawn(6, 6, 4)]),
    "linear": (lambda x, w, b: linear(x, w, b), [X.round(), drawn(6, 6, 4).round(), drawn(7, 6).round()]),
    "linear on a grid": (
        lambda x, w: linear(x, w, None, spread(8, (6,), 30.0)),
        [X.round(), drawn(6, 6, 4).round()],
    ),
    "linear, large": (
        lambda x, w: linear(x, w, None, spread(8, (140,), 90.0)),
        [drawn(8, 2, 5, 130).round(), drawn(9, 140, 130).round()],
    ),
    "norm": (lambda x, g, b: normalize(x, g, b, LAYER_NORM, 1e-5, centred=True), [X, GAIN, OFFSET]),
    "norm, root mean square": (
        lambda x, g, b: normalize(x, g, b, RMS_NORM, 1e-5, centred=False),
        [X, GAIN, OFFSET],
    ),
    "affine": (lambda x, g, b: affine(x, g, b, AFFINE), [X, GAIN, OFFSET]),
    "learned range": (
        lambda x, f: ranged(quantize(x, PER_HEAD, -1), f, PER_HEAD, -1, lambda: x.detach()),
        [X, torch.zeros(4, dtype=torch.float32)],
    ),
    "part of a learned range": (lambda x, f: moved(x, f, 8, -1, -1.0), [X, torch.zeros(4, dtype=torch.float32)]),
    "mean": (lambda x: mean(x, None), [X.round()]),
    "mean on grids": (lambda x: mean_on_grids(x, None, MEAN), [X]),
    "mean on grids, of lengths": (lambda x: mean_on_grids(x, torch.tensor([5, 21, 9]), MEAN), [X]),
    "mean of lengths": (lambda x: mean(x, torch.tensor([5, 21, 9])), [X.round()]),
    "scan, 8 bits": scan(8),
    "scan, 16 bits": scan(16),
    "scan, separate, noise": scan(8, True, Noise(5, state=0.1, poles=0.01, sample=3, time=9)),
    "scan, full precision": scan(None),
}
EXACT = [name for name in CASES if name != "scan, full precision"]


def run(case: Case, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """Values and gradients, on the host."""
    function, inputs = case
    leaves = [x.clone().to(device, x.dtype if x.is_complex() else dtype).requires_grad_() for x in inputs]
    y = function(*leaves)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    (y * weight).sum().backward()
    with torch.no_grad():
        assert torch.equal(function(*leaves), y)  # as without a gradient
    pairs = [torch.view_as_real(x.grad) if x.is_complex() else x.grad for x in leaves if x.grad is not None]
    assert len(pairs) == len(leaves)
    return y.detach().cpu(), [x.cpu() for x in pairs]


def check(name: str, found: tuple[Tensor, list[Tensor]], exact: tuple[Tensor, list[Tensor]]) -> None:
    if name in EXACT:
        assert torch.equal(found[0], exact[0])
    else:
        assert (found[0] - exact[0]).abs().max() <= 1e-5 * exact[0].abs().max()
    for one, two in zip(found[1], exact[1], strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()
        if name in EXACT:
            assert torch.equal(one == 0, two == 0)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_equals_the_kernel(name: str) -> None:
    exact = run(CASES[name])
    with using("reference"):
        check(name, run(CASES[name]), exact)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_the_gpu_equals_the_kernel(name: str) -> None:
    if name.startswith("scan") and cuda.unavailable():
        pytest.skip(str(cuda.unavailable()))
    check(name, run(CASES[name], "cuda"), run(CASES[name]))


@pytest.fixture
def ran() -> Iterator[set[str]]:
    """Names of the operators that run as references."""
    seen: set[str] = set()
    before = {name: op.reference for name, op in Pass.registered.items()}

    def watched(name: str) -> Callable[..., Any]:
        def reference(*arguments: Any) -> Any:
            seen.add(name)
            return before[name](*arguments)

        return reference

    for name, op in Pass.registered.items():
        op.reference = watched(name)
    yield seen
    for name, op in Pass.registered.items():
        op.reference = before[name]


def test_every_operator_is_compared(ran: set[str]) -> None:
    with using("reference"):
        for name in EXACT:
            run(CASES[name])
    # Those of the complex drive and of tiles have suites of their own, `test_state_scan` and `test_tile`.
    assert {n for n in Pass.registered if not n.startswith(("state_scan", "tile_product"))} == ran
    for name in Pass.registered:
        assert hasattr(torch.ops.imc_ssm, name)


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("scan")])
def test_double_precision_takes_the_reference(name: str) -> None:
    # Other quotients and sums, so values next to a tie may fall elsewhere: few do.
    single, double = run(CASES[name]), run(CASES[name], dtype=torch.float64)
    assert (single[0] - double[0]).abs().float().mean() <= 1e-3 * single[0].abs().mean()


def test_what_one_implementation_leaves_another_takes_up() -> None:
    x = X.clone().requires_grad_()
    y = add(x, x, SUM)
    with using("reference"):
        y.sum().backward()
    assert x.grad is not None
    with using("reference"):
        other = X.clone().requires_grad_()
        z = add(other, other, SUM)
    z.sum().backward()
    assert torch.equal(x.grad, other.grad)


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ImcSsmError, match="unknown implementation 'gpu'; allowed are 'auto', 'reference'"):
        using("gpu").__enter__()


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(granularity="state", rounding_placement="separate")])
def test_a_step_of_training_through_the_references(scheme: Scheme, digits: SequenceDataset) -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=4, n_state=8))
    u = torch.from_numpy(digits.split("train").take(12).values)
    labels = torch.from_numpy(digits.split("train").take(12).labels).long()
    calibrated = quantize_model(model, scheme, u)  # by floating-point sums, which may differ
    found = {}
    for implementation in ("auto", "reference"):
        quantized = copy.deepcopy(calibrated)
        with using(implementation):
            loss = torch.nn.functional.cross_entropy(quantized(u), labels)
            loss.backward()
            with torch.no_grad():
                stepped, state = quantized.step(u[:, 0], quantized.init_state(len(u)))
        grads = {name: p.grad for name, p in quantized.named_parameters() if p.grad is not None}
        found[implementation] = loss.detach(), stepped, state[0][0], grads
    assert torch.equal(found["auto"][0], found["reference"][0])
    assert torch.equal(found["auto"][1], found["reference"][1])
    assert torch.equal(found["auto"][2], found["reference"][2])
    for name, grad in found["auto"][3].items():
        other = found["reference"][3][name]
        assert (grad - other).abs().max() <= 1e-4 * grad.abs().max(), name
