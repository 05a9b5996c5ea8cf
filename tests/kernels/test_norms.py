"""Integer norms: kernel, reference and oracle return the same codes, near the real norm; gradients are its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, affine_codes, norm_codes, plan_affine, plan_norm
from imc_ssm.fixedpoint.norms import AffinePlan, NormPlan, normalized, reciprocal_root, root_table
from imc_ssm.kernels import using
from imc_ssm.kernels.norms import NormConstants, affine, normalize

EPS = 1e-5


def drawn(seed: int, channels: int, bits: int, spread: float, per_channel: bool, steps: int = 50) -> tuple:
    """(source format, codes (steps, channels), gain, offset, output format)."""
    rng = np.random.default_rng(seed)
    x = spread * (
        rng.normal(size=(steps, channels)) * np.exp(rng.normal(size=channels)) + rng.normal(size=channels)
    )
    ends = (x.min(0), x.max(0)) if per_channel else (x.min(), x.max())
    source = Format.from_range(*ends, bits)
    codes = np.rint(x / source.scale.astype(np.float64)) + source.zero_point
    codes = np.clip(codes, source.low, source.high).astype(np.int64)
    codes[0] = source.zero_point  # a vector of zeros
    gain, offset = rng.uniform(-1.5, 1.5, channels), rng.normal(size=channels)
    output = Format.from_range(np.full(channels, -3.0), rng.uniform(1.0, 4.0, channels), bits)
    return source, codes, gain, offset, output


def real(fmt: Format, codes: np.ndarray) -> np.ndarray:
    return (codes - fmt.zero_point) * fmt.scale.astype(np.float64)


def tensor(fmt: Format, codes: np.ndarray) -> Tensor:
    """The values of codes (steps, channels), as the one sequence (1, steps, channels) of a model."""
    return torch.from_numpy((codes - fmt.zero_point).astype(np.float32) * fmt.scale)[None]


def codes_of(fmt: Format, y: Tensor) -> np.ndarray:
    return np.rint(y[0].detach().numpy() / fmt.scale).astype(np.int64) + fmt.zero_point


def run(plan: AffinePlan, x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    constants = NormConstants(plan)
    if isinstance(plan, NormPlan):
        return normalize(x, gain, offset, constants, EPS, centred=plan.centred)
    return affine(x, gain, offset, constants)


CASES = st.tuples(
    st.integers(0, 2**31), st.sampled_from([1, 2, 3, 16, 64, 100]), st.integers(2, 16),
    st.sampled_from([1e-5, 1e-2, 1.0, 300.0]), st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(CASES, st.sampled_from(["layer", "rms", "batch"]))
def test_kernel_reference_and_oracle_return_the_same_codes(case: tuple, kind: str) -> None:
    source, codes, gain, offset, output = drawn(*case)
    if kind == "batch":
        plan, oracle = plan_affine(source, output, gain / case[3], offset), affine_codes
    else:
        plan, oracle = plan_norm(source, output, gain, offset, EPS, centred=kind == "layer"), norm_codes
    wanted, x = oracle(plan, codes), tensor(source, codes)
    ones = torch.ones(len(gain))
    assert (codes_of(output, run(plan, x, ones, ones)) == wanted).all()
    trained = run(plan, x, ones.requires_grad_(), ones)
    assert (codes_of(output, trained) == wanted).all()
    steps = [run(plan, x[:, t], ones, ones) for t in range(0, 50, 7)]
    assert torch.equal(torch.stack(steps, 1), trained[:, ::7])
    with using("reference"):
        assert torch.equal(run(plan, x, ones, ones), trained)


@settings(max_examples=60, deadline=None)
@given(CASES, st.booleans())
def test_the_error_is_what_the_page_says(case: tuple, centred: bool) -> None:
    source, codes, gain, offset, output = drawn(*case)
    plan, channels, x = (
        plan_norm(source, output, gain, offset, EPS, centred=centred),
        len(gain),
        real(source, codes),
    )
    x = x - x.mean(1, keepdims=True) if centred else x
    deviation = np.sqrt((x**2).mean(1, keepdims=True) + EPS)
    z = x / deviation
    error = np.abs(normalized(plan, codes) * np.sqrt(channels) / 2**22 - z)
    fine = deviation / plan.unit
    bound = 2 * (1 + np.abs(z)) / fine + 2.0**-17 * np.abs(z) + np.sqrt(channels) * 2.0**-22
    assert (error <= bound)[fine[:, 0] >= 16].all()
    wanted = gain * z + offset
    inside = (wanted > real(output, output.low) + 0.01) & (wanted < real(output, output.high) - 0.01)
    found = real(output, norm_codes(plan, codes))
    allowed = output.scale * 0.5001 + np.abs(gain) * bound + 1e-6
    assert (np.abs(found - wanted) <= allowed)[inside & (fine >= 16)].all()


def test_the_reciprocal_root() -> None:
    rng = np.random.default_rng(0)
    w = np.concatenate(
        [2 ** np.arange(53), 4 ** np.arange(1, 26) - 1, (2 ** (52 * rng.random(10**5))).astype(np.int64)]
    )
    root, n = reciprocal_root(w)
    relative = root * np.exp2(-24.0 - n) * np.sqrt(w.astype(np.float64)) - 1
    assert np.abs(relative).max() < 2.0**-17
    assert root.max() <= 2**24
    assert (root_table().size, int(root_table().max()).bit_length()) == (384, 16)


def test_a_batch_norm_is_rounded_once() -> None:
    source, codes, gain, offset, output = drawn(1, 8, 8, 1.0, True)
    wanted = np.rint((gain * real(source, codes) + offset) / output.scale.astype(np.float64)) + output.zero_point
    found = affine_codes(plan_affine(source, output, gain, offset), codes)
    assert (found == np.clip(wanted, output.low, output.high)).all()


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
@pytest.mark.parametrize("time", [1, 70, 1500])
def test_gradients_are_those_of_the_real_function_where_nothing_saturates(kind: str, time: int) -> None:
    source, codes, gain, offset, _ = drawn(2, 6, 8, 1.0, True, steps=2 * time)
    output = Format.from_range(np.full(6, -1.5), np.full(6, 1.5), 8)  # some saturate
    x = tensor(source, codes).reshape(2, time, 6)
    leaves = [x, *(torch.from_numpy(z).float() for z in (gain, offset))]
    up = torch.from_numpy(np.random.default_rng(3).normal(size=(2, time, 6)).astype(np.float32))

    def gradients(function, inputs: list[Tensor], weight: Tensor) -> tuple[Tensor, ...]:
        inputs = [z.clone().requires_grad_() for z in inputs]
        y = function(*inputs)
        return y, *torch.autograd.grad((y * weight).sum(), inputs)

    def exact(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        if kind == "layer":
            return nn.functional.layer_norm(x, (6,), gain, offset, EPS)
        return gain * (nn.functional.rms_norm(x, (6,), eps=EPS) if kind == "rms" else x) + offset

    if kind == "batch":
        plan = plan_affine(source, output, gain, offset)
    else:
        plan = plan_norm(source, output, gain, offset, EPS, centred=kind == "layer")
    found = gradients(lambda *z: run(plan, *z), leaves, up)
    low, high = (float(np.ravel(v)[0]) for v in (output.low, output.high))
    wide = (exact(*(z.double() for z in leaves)) / float(output.scale[0])).round() + int(output.zero_point[0])
    inside = (wide >= low) & (wide <= high)
    assert 0 < (~inside).sum() < inside.numel()
    wanted = gradients(exact, [z.double() for z in leaves], up.double() * inside)
    with using("reference"):
        plain = gradients(lambda *z: run(plan, *z), leaves, up)
    for one, two, three in zip(found[1:], wanted[1:], plain[1:], strict=True):
        assert (one - two).abs().max() <= 2e-5 * two.abs().max() + 1e-6
        assert (one - three).abs().max() <= 1e-6 * two.abs().max() + 1e-7


def test_what_no_word_holds_is_refused() -> None:
    fmt = Format.from_range(-1.0, 1.0, 8)
    one = np.ones(4)
    with pytest.raises(FormatError, match="16385 channels; the unit's words allow 1 to 16384"):
        plan_norm(fmt, fmt, np.ones(16385), np.ones(16385), EPS)
    with pytest.raises(FormatError, match="one for each of 4 channels"):
        plan_norm(Format.from_range(-np.ones(3), np.ones(3), 8), fmt, one, one, EPS)
    with pytest.raises(FormatError, match="not finite"):
        plan_affine(fmt, fmt, one * np.nan, one)
    with pytest.raises(FormatError, match="integer codes inside"):
        norm_codes(plan_norm(fmt, fmt, one, one, EPS), np.full((1, 4), 200))
