"""The tiles' product: its implementations agree, whatever the order in memory, the batch and the threads."""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from imc_ssm.errors import DataError
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import Grid, quantize, tile_product, using

SHAPES = [(1, 1), (1, 16), (16, 32), (5, 3), (17, 4), (16, 10), (40, 33), (130, 21), (300, 64)]
FIXED = {"full_scale": 3.0, "step_in": 1 / 127, "codes_in": (-127, 127), "codes_out": (-127, 127)}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(seed: int, *shape: int) -> Tensor:
    """Integer weights: sums are exact in any order."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def both(x: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    options = FIXED | {"factor": torch.ones(weight.shape[0], weight.shape[2])} | options
    out = options.pop("out", None)
    made = tile_product(x, weight, out=None if out is None else out.clone(), **options)
    with using("reference"):
        return made, tile_product(x, weight, out=None if out is None else out.clone(), **options)


def formula(x: Tensor, weight: Tensor, offset: Tensor | None = None) -> np.ndarray:
    """The codes of the ADC in double precision, (chips, ..., outputs)."""
    full, step = np.float32(FIXED["full_scale"]), np.float32(FIXED["step_in"])
    codes = np.clip(np.rint(x.numpy() / full / step), -127, 127).astype(np.float64)
    sums = np.einsum("c...i,cio->c...o", np.broadcast_to(codes, (len(weight), *codes.shape[1:])), weight.double())
    if offset is not None:
        sums += offset.double().numpy().reshape(len(weight), *(1,) * (x.ndim - 2), -1)
    return np.clip(np.rint(sums), -127, 127)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("chips", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_implementations_give_the_formula(inputs: int, outputs: int, chips: int, shared: bool) -> None:
    x, weight = 2 * drawn(1, 1 if shared else chips, 150, inputs), whole(2, chips, inputs, outputs)
    factor, bias, offset = drawn(3, chips, outputs), drawn(4, outputs), whole(5, chips, outputs)
    for with_bias, with_offset in itertools.product((None, bias), (None, offset)):
        made, reference = both(x, weight, factor=factor, bias=with_bias, offset=with_offset)
        exact = torch.from_numpy(formula(x, weight, with_offset)) * factor.double()[:, None]
        assert torch.equal(made, (exact + (0 if with_bias is None else with_bias.double())).float())
        assert torch.equal(made, reference)


@pytest.mark.parametrize("time", [1, 7, 16, 50, 64, 200])
@pytest.mark.parametrize("inputs", [1, 16, 21])
def test_both_orders_in_memory_give_the_same(time: int, inputs: int) -> None:
    """(chips, batch, time, inputs) with channels last or time last, and parts of larger tensors."""
    large = 2 * drawn(1, 2, 5, time, inputs + 3)
    weight, factor = whole(2, 2, inputs, 20), drawn(3, 2, 20)
    x = large[..., 1 : inputs + 1]
    expected = tile_product(x.contiguous(), weight, factor=factor, **FIXED)
    assert expected.shape == (2, 5, time, 20)
    assert torch.equal(
        expected, tile_product(x.reshape(2, -1, inputs), weight, factor=factor, **FIXED).view(expected.shape)
    )
    rows = large.transpose(2, 3).contiguous().transpose(2, 3)[..., 1 : inputs + 1]
    for given in (
        x,
        rows,
        x.transpose(1, 2).contiguous().transpose(1, 2),
        large.double().float()[..., 1 : inputs + 1],
    ):
        made, reference = both(given, weight, factor=factor)
        assert torch.equal(made, expected)
        assert torch.equal(reference, expected)
    assert time == 1 or tile_product(rows, weight, factor=factor, **FIXED).transpose(2, 3).is_contiguous()
    codes = tile_product(x, weight, factor=torch.ones_like(factor), **FIXED)
    # Added to columns 4 ... 23 of what is there, whatever its order.
    before = drawn(7, 2, 5, time, 30)
    for target in (before.clone(), before.transpose(2, 3).clone().contiguous().transpose(2, 3)):
        part = target[..., 4:24]
        for given in (x, rows):
            target.copy_(before)
            assert tile_product(given, weight, factor=factor, out=part, **FIXED) is part
            exact = before[..., 4:24].double() + codes.double() * factor.double()[:, None, None]
            assert torch.equal(part, exact.float())
            other = target.clone()[..., 4:24]
            tile_product(given, weight, factor=factor, out=part, add=False, **FIXED)
            assert torch.equal(part, expected)
            with using("reference"):
                target.copy_(before)
                tile_product(given, weight, factor=factor, out=part, **FIXED)
                assert torch.equal(part, other)
            assert torch.equal(target[..., :4], before[..., :4])
            assert torch.equal(target[..., 24:], before[..., 24:])
    flat = torch.zeros(2, 5, 1, time, 20)
    tile_product(x[:, :, None], weight, factor=factor, out=flat, **FIXED)
    assert torch.equal(flat[:, :, 0], expected)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("noise", ["none", "spread", "variance"])
def test_codes_differ_at_ties_only(inputs: int, outputs: int, noise: str) -> None:
    """Real weights, and noise: a code of another order of summation is next to it, and rarely another one."""
    chips = 2
    x, weight = 2 * drawn(1, chips, 3000, inputs), drawn(2, chips, inputs, outputs) / inputs**0.5
    options: dict[str, Any] = {}
    if noise != "none":
        options = {"seed": torch.tensor([5, -7]), "spread": drawn(3, chips, outputs).abs(), "position": 2**32 - 9}
    if noise == "variance":
        options["variance"] = 1e-3 * drawn(4, chips, inputs, outputs).square()
    made, reference = both(x, weight, **options)
    assert (made != reference).float().mean() < 2e-4
    assert (made - reference).abs().max() <= 1
    if noise != "none":
        assert (made != tile_product(x, weight, factor=torch.ones(chips, outputs), **FIXED)).float().mean() > 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_gpu_gives_the_same(inputs: int, outputs: int) -> None:
    x, weight = 2 * drawn(1, 2, 150, inputs), whole(2, 2, inputs, outputs)
    options = {"factor": drawn(3, 2, outputs), "spread": drawn(4, 2, outputs).abs(), "seed": torch.tensor([5, -7])}
    for given in (options, options | {"seed": None}):
        there = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in given.items()}
        host = tile_product(x, weight, **given, **FIXED)
        found = tile_product(x.cuda(), weight.cuda(), **there, **FIXED).cpu()
        assert (found != host).float().mean() < (0.01 if given["seed"] is not None else 1e-9)


def test_the_variance_of_weights_adds_to_the_spread() -> None:
    """sigma_j^2 = spread_j^2 + sum_i d_i^2 v_ij, of 200,000 products."""
    x = torch.tensor([1.0, -2.0, 0.5]).expand(1, 200_000, 3)
    weight, variance = drawn(1, 1, 3, 6), 1e-3 * drawn(2, 1, 3, 6).square()
    spread = torch.linspace(0, 5, 6)[None]
    y = tile_product(
        x, weight, factor=torch.ones(1, 6), spread=spread, variance=variance, seed=torch.tensor([3]),
        **FIXED | {"codes_out": (-(2**15), 2**15)},
    )[0].double()  # fmt: skip
    drive = np.rint(np.float32(x[0, 0]) * 127 / 3).astype(np.float64)
    sums, sigma2 = (
        drive @ weight[0].double().numpy(),
        spread[0].double().numpy() ** 2 + drive**2 @ variance[0].double().numpy(),
    )
    sigma2 = sigma2 + 1 / 12  # rounding
    error = (y.mean(0).numpy() - sums) / np.sqrt(sigma2 / 200_000)
    # A spread below a code makes the mean of rounded values depend on the fraction; sigmas here are above.
    assert np.abs(error).max() < 5
    assert np.abs(y.var(0).numpy() / sigma2 - 1).max() < 5 * np.sqrt(2 / 200_000)


def noisy(count: int, time: int, outputs: int = 10, chips: int = 2) -> dict[str, Any]:
    return {
        "weight": drawn(2, chips, 12, outputs),
        "factor": torch.ones(chips, outputs),
        "spread": 3.0,
        "seed": torch.tensor([11, 12])[:chips],
    }  # fmt: skip


def test_noise_is_a_function_of_seed_product_and_output() -> None:
    """Cuts of the batch, the order in memory, the threads and the other chips change nothing."""
    x, options = drawn(1, 1, 9, 50, 12), noisy(9, 50)
    y = tile_product(x, position=1000, **options, **FIXED)
    assert not torch.equal(y[0], y[1])
    for cut in (1, 2, 4):
        parts = [
            tile_product(x[:, b : b + cut], position=1000 + 50 * b, **options, **FIXED) for b in range(0, 9, cut)
        ]
        assert torch.equal(torch.cat(parts, dim=1), y)
    flat = x.reshape(1, 450, 12)
    parts = [tile_product(flat[:, n : n + 37], position=1000 + n, **options, **FIXED) for n in range(0, 450, 37)]
    assert torch.equal(torch.cat(parts, dim=1).view(y.shape), y)
    rows = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(tile_product(rows, position=1000, **options, **FIXED), y)
    one = options | {name: options[name][1:] for name in ("weight", "factor", "seed")}
    assert torch.equal(tile_product(x, position=1000, **one, **FIXED)[0], y[1])
    fewer = options | {"weight": options["weight"][..., :6].contiguous(), "factor": torch.ones(2, 6)}
    assert torch.equal(tile_product(x, position=1000, **fewer, **FIXED), y[..., :6])
    assert not torch.equal(tile_product(x, position=1001, **options, **FIXED), y)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert torch.equal(tile_product(x, position=1000, **options, **FIXED), y)
    finally:
        numba.set_num_threads(threads)


def test_without_seeds_there_is_no_noise() -> None:
    x, options = drawn(1, 1, 30, 12), noisy(1, 30)
    quiet = options | {"seed": None, "variance": torch.ones(2, 12, 10)}
    loud = tile_product(x, **options, **FIXED)
    assert torch.equal(tile_product(x, **quiet, **FIXED), tile_product(x, **options | {"spread": 0.0}, **FIXED))
    assert not torch.equal(tile_product(x, **quiet, **FIXED), loud)


def test_what_is_not_finite_saturates_or_stays() -> None:
    x = torch.tensor([[[torch.inf], [-torch.inf], [torch.nan], [1e30], [0.0]]])
    made, reference = both(x, torch.full((1, 1, 5), 0.5))
    for y in (made, reference):
        assert y[0, :, 0].tolist()[:2] == [64.0, -64.0]
        assert y[0, 2].isnan().all()
        assert y[0, 3:, 0].tolist() == [64.0, 0.0]


def test_no_gradient_flows_and_nothing_is_changed() -> None:
    x = drawn(1, 1, 40, 12).requires_grad_()
    options = noisy(1, 40)
    before = x.detach().clone()
    y = tile_product(x, **options, **FIXED)
    assert not y.requires_grad
    assert torch.equal(x, before)
    assert tile_product(x[:, :0], **options, **FIXED).shape == (2, 0, 10)
    assert tile_product(x[:, 0], **options, **FIXED).shape == (2, 10)
    with torch.inference_mode():
        assert torch.equal(tile_product(x, **options, **FIXED), y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 5, 11)}, r"x is torch.float32 \(1, 5, 11\); needed is torch.float32 \(1 or 2 chips"),
        ({"x": torch.zeros(3, 5, 12)}, r"x is torch.float32 \(3, 5, 12\)"),
        ({"x": torch.zeros(1, 5, 12).double()}, "x is torch.float64"),
        ({"weight": torch.zeros(12, 10)}, r"weights of tiles are torch.float32 \(12, 10\)"),
        ({"factor": torch.ones(10)}, r"factor of .* is torch.float32 \(10,\) on cpu; needed is .* \(2, 10\)"),
        ({"bias": torch.ones(2, 10)}, "bias of the tiles"),
        ({"spread": torch.ones(10)}, "spread of the tiles"),
        ({"variance": torch.ones(2, 12, 9)}, "variance of the tiles"),
        ({"offset": torch.ones(2, 10).double()}, "offset of the tiles is torch.float64"),
        ({"seed": torch.ones(2)}, "seed of the tiles is torch.float32"),
        ({"out": torch.ones(1, 5, 10)}, r"out of the tiles is torch.float32 \(1, 5, 10\)"),
        ({"full_scale": 0.0}, "full_scale of the tiles is 0.0; needed is a number above 0"),
        ({"step_in": float("nan")}, "step_in of the tiles is nan"),
        ({"position": -1}, "the first product has number -1"),
    ],
)  # fmt: skip
def test_errors_name_the_thing_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tile_product(**{"x": torch.zeros(1, 5, 12), **noisy(1, 5), **FIXED, **change})


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_grid_is_that_of_quantize(inputs: int, outputs: int) -> None:
    """Outputs saturate at both ends; with noise, and added to what is there."""
    x, weight = 2 * drawn(1, 2, 150, inputs), whole(2, 2, inputs, outputs)
    rng = np.random.default_rng(inputs)
    fmt = Format.from_range(-rng.uniform(5, 40, outputs), rng.uniform(5, 40, outputs), 6)
    grid = Grid.of(fmt, outputs).on(x.device)
    for change in (
        {"bias": drawn(4, outputs)},
        {"spread": 2.0, "seed": torch.tensor([5, -7])},
        {"out": drawn(5, 2, 150, outputs)},
    ):
        factor = drawn(3, 2, outputs)
        made, reference = both(x, weight, factor=factor, grid=grid, **change)
        plain, _ = both(x, weight, factor=factor, **change)
        assert torch.equal(made, quantize(plain, fmt, -1))
        assert (made != reference).float().mean() < (1e-3 if "seed" in change else 1e-9)
