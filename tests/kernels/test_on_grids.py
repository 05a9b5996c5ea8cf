"""Passes between two grids, the kernel's and the reference's: the codes of the int64 oracle, `==`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grid_cases import codes_of, drawn, everywhere, formats, values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imc_ssm import fixedpoint as fp
from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import (
    GateConstants,
    MatrixConstants,
    MeanConstants,
    SumConstants,
    add,
    gate,
    gated_scan,
    linear_on_grids,
    mean_on_grids,
    scale_add,
)

SEEDS, STEPS = st.integers(0, 2**31), st.integers(1, 70)
often = settings(max_examples=60, deadline=None)


def planned(plan: object, *arguments: object) -> object:
    """A plan, or None where no word holds it."""
    try:
        return plan(*arguments)  # type: ignore[operator]
    except FormatError:
        return None


@often
@given(formats(3), formats(3), formats(3), SEEDS, STEPS)
def test_sum(first: Format, second: Format, output: Format, seed: int, time: int) -> None:
    if (plan := planned(fp.plan_sum, first, second, output, 3)) is None:
        return
    x, y = drawn(first, (2, time, 3), seed), drawn(second, (2, time, 3), seed + 1)
    exact = fp.sum_codes(plan, x, y)  # type: ignore[arg-type]
    constants = SumConstants(plan, first, second, output)  # type: ignore[arg-type]
    for found in everywhere(lambda x, y: add(x, y, constants), values(first, x), values(second, y)):
        assert np.array_equal(codes_of(output, found), exact)


@often
@given(formats(3), formats(1), formats(3), formats(3), SEEDS, STEPS)
def test_scaled_sum(of_y: Format, of_d: Format, of_u: Format, output: Format, seed: int, time: int) -> None:
    of_d = Format(of_d.bits, of_d.scale.ravel()[0], of_d.zero_point.ravel()[0], of_d.symmetric, of_d.clip)
    if (plan := planned(fp.plan_scale_add, of_y, of_d, of_u, output, 3)) is None:
        return
    y, u, d = drawn(of_y, (2, time, 3), seed), drawn(of_u, (2, time, 3), seed + 1), drawn(of_d, (3,), seed + 2)
    exact = fp.scale_add_codes(plan, y, d, u).swapaxes(1, 2)  # type: ignore[arg-type]
    constants = SumConstants(plan, of_y, of_u, output, d - of_d.zero_point)  # type: ignore[arg-type]
    rows = (values(fmt, codes).transpose(1, 2) for fmt, codes in ((of_y, y), (of_u, u)))
    for found in everywhere(lambda y, u, d: scale_add(y, u, d, constants), *rows, values(of_d, d)):
        assert np.array_equal(codes_of(output, found, 1), exact)


@often
@given(formats(4, 2, 10), formats(2), SEEDS, STEPS)
def test_gate(source: Format, output: Format, seed: int, time: int) -> None:
    if (plan := planned(fp.plan_gate, source, output, 2)) is None:
        return
    x = drawn(source, (2, time, 4), seed)
    table = fp.gate_table(fp.grid_values(source, 4, 2))
    exact = fp.gate_codes(plan, x, table)  # type: ignore[arg-type]
    constants = GateConstants(source, output, 2, table)
    for found in everywhere(lambda x: gate(x, constants), values(source, x)):
        assert np.array_equal(codes_of(output, found), exact)


def matrix(
    of_w: Format, source: Format, output: Format | None, shape: tuple[int, int], seed: int, *, biased: bool
) -> tuple[MatrixConstants, fp.LinearPlan, np.ndarray, Tensor | None] | None:
    """Constants, plan, codes of W, and the bias."""
    bias = np.random.default_rng(seed).normal(size=shape[0]) * 3 if biased else None
    plan = planned(fp.plan_linear, of_w, source, output, shape, bias)
    if plan is None:
        return None
    codes = drawn(of_w, shape, seed + 1, 0)
    centred = codes - np.broadcast_to(of_w.zero_point, shape[0])[:, None]
    constants = MatrixConstants(plan, centred, source, output)  # type: ignore[arg-type]
    return constants, plan, codes, None if bias is None else torch.from_numpy(bias).float()  # type: ignore[return-value]


@often
@given(formats(5), formats(7), formats(5), SEEDS, STEPS, st.booleans())
def test_matrix(of_w: Format, source: Format, output: Format, seed: int, time: int, biased: bool) -> None:
    if (made := matrix(of_w, source, output, (5, 7), seed, biased=biased)) is None:
        return
    constants, plan, codes, bias = made
    x, given = drawn(source, (2, time, 7), seed), [] if bias is None else [bias]
    exact = fp.linear_codes(plan, x, codes)

    def run(x: Tensor, w: Tensor, *b: Tensor) -> Tensor:
        return linear_on_grids(x, w, b[0] if b else None, constants)

    for found in everywhere(run, values(source, x), values(of_w, codes, 0), *given):
        assert np.array_equal(codes_of(output, found), exact)
    stepped = run(values(source, x[:, 0]), values(of_w, codes, 0), *given)
    assert np.array_equal(codes_of(output, stepped), exact[:, 0])


@often
@given(formats(5), formats(7), SEEDS, st.booleans())
def test_logits_are_the_integers(of_w: Format, source: Format, seed: int, biased: bool) -> None:
    if (made := matrix(of_w, source, None, (5, 7), seed, biased=biased)) is None:
        return
    constants, plan, codes, bias = made
    x, given = drawn(source, (6, 7), seed), [] if bias is None else [bias]
    exact = np.ldexp(fp.linear_codes(plan, x, codes).astype(np.float64), -plan.shift)
    for found in everywhere(
        lambda x, w, *b: linear_on_grids(x, w, b[0] if b else None, constants),
        values(source, x),
        values(of_w, codes, 0),
        *given,
    ):
        assert np.array_equal(found.numpy(), exact.astype(np.float32))


@often
@given(formats(3), formats(3), SEEDS, st.integers(1, 600), st.booleans())
def test_mean(source: Format, output: Format, seed: int, time: int, padded: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, time + 1, 4) if padded else np.full(4, time)
    if (plan := planned(fp.plan_mean, source, output, lengths, 3)) is None:
        return
    x = drawn(source, (4, time, 3), seed)
    exact = fp.mean_codes(plan, x, lengths)  # type: ignore[arg-type]
    constants = MeanConstants(source, output, 3)
    ends = torch.from_numpy(lengths) if padded else None
    try:
        results = everywhere(lambda x: mean_on_grids(x, ends, constants), values(source, x))
    except FormatError:
        return  # of another length that is planned along with these
    for found in results:
        assert np.array_equal(codes_of(output, found), exact)
    # Step by step: the sum of codes so far.
    total = torch.zeros(4, 3, dtype=torch.float64)
    for t in range(min(time, 5)):
        total = total + constants.codes(values(source, x[:, t]))
        stepped, *_ = constants.finish(total, constants.factor(t + 1, total.device))
        whole = mean_on_grids(values(source, x[:, : t + 1]), None, constants)
        assert torch.equal(stepped.float(), whole)


@often
@given(formats(3, 2, 10), formats(3), formats(3), SEEDS, st.sampled_from(["half_even", "half_up", "half_away"]))
def test_gated(of_z: Format, of_v: Format, state: Format, seed: int, rounding: str) -> None:
    of_z = Format.from_range(np.zeros(of_z.scale.shape), np.ones(of_z.scale.shape), of_z.bits)
    if (plan := planned(fp.plan_gated, of_z, of_v, state, 3, rounding)) is None:
        return
    z, v = drawn(of_z, (2, 20, 3), seed), drawn(of_v, (2, 20, 3), seed + 1)
    exact, last = fp.gated_codes(plan, z, v)  # type: ignore[arg-type]
    options = {"gate": of_z, "state": state, "candidate": of_v, "rounding": rounding}
    found, end = gated_scan(values(of_z, z), values(of_v, v), torch.zeros(2, 3), **options)  # type: ignore[arg-type]
    assert np.array_equal(codes_of(state, found), exact)
    assert np.array_equal(end.numpy().astype(np.int64), last - state.zero_point)


@pytest.mark.parametrize("lengths", [[1, 256, 257, 784], [4096, 5, 1000, 16000]])
def test_a_mean_of_any_length(lengths: list[int]) -> None:
    source = Format.from_range(np.full(2, -1.0), np.array([1.0, 3.0]), 8)
    constants, steps = MeanConstants(source, source, 2), np.array(lengths)
    plan = fp.plan_mean(source, source, steps, 2)
    exact = np.ldexp(plan.multiplier.astype(np.float64), -plan.shift)
    assert np.array_equal(constants.factors(torch.from_numpy(steps)).numpy(), exact)
    assert len(constants._made) <= MeanConstants.MOST
