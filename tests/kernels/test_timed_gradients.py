"""Gradients of units that keep more than their states: the fused kernels' are the reference's.

The reference is a loop over the steps in PyTorch's operations; the fused kernels sum the inputs of a slow head's
windows first. So an error would have to be made twice, in two ways.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CodeCase, code_cases
from test_state_scan import Case, cases
from torch import Tensor
from triton_cases import RUNS, interpreted

from imc_ssm.fixedpoint import UnitState, plan_scan
from imc_ssm.kernels import cpu, cuda, plain_scan, states
from imc_ssm.kernels.codes import Coefficient, Tables, draws_of
from imc_ssm.kernels.ends import Ends

BOUNDS = st.sampled_from([np.inf, 0.5])


def tensors(x0: Any) -> UnitState:
    given = x0 if isinstance(x0, UnitState) else UnitState(x0)
    return UnitState._make(torch.from_numpy(z) if isinstance(z, np.ndarray) else z for z in given)


def real(codes: Any, tables: Tables, zero: Any) -> Tensor:
    """Real inputs (batch, any, ...) of codes, some of which saturate."""
    rng = np.random.default_rng(3)
    scale = tables.inp[:, 0].numpy().reshape(-1, 1)
    beyond = rng.choice([1, 1, 1, 1.3], codes.shape)
    return torch.from_numpy(((codes - zero) * scale * beyond).astype(np.float32))


def close(found: Any, exact: Any) -> None:
    # Terms that cancel to zero in one order of summation leave a rounding of their own size in another.
    rounding = 1e-7 * max(two.abs().max() for two in exact)
    for one, two in zip(found, exact, strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 2e-5 * two.abs().max() + rounding


def compare(fused: Any, case: CodeCase, bound: float) -> None:
    """Values, last state and gradients of a fused implementation and of the reference."""
    plan = case.plan
    tables = Tables.integer(plan, *(Coefficient(z) for z in case.operands))
    shape = (len(case.u), plan.heads, plan.states, 2)
    start, time = Ends(plan).start(tensors(case.x0), shape, torch.device("cpu"))
    draws = draws_of(case.noise) if plan.m_z is not None else []
    parts = tables.at(time).parts
    u = real(case.u, tables, plan.zero("u")[:, None])
    grad = torch.from_numpy(np.random.default_rng(4).normal(size=u.shape).astype(np.float32))
    exact = plain_scan.scan(u, start, *parts, draws, True, tables.clip)
    found = fused.scan(u, start, *parts, draws, True, tables.clip)
    assert torch.equal(found[0], exact[0])
    assert torch.equal(found[1], exact[1])
    close(
        fused.scan_backward(u, start, grad, found[2], *parts, draws, bound, tables.clip),
        plain_scan.scan_backward(u, start, grad, exact[2], *parts, draws, bound, tables.clip),
    )


@settings(max_examples=100, deadline=None)
@given(code_cases(timed=True), BOUNDS)
def test_real_input(case: CodeCase, bound: float) -> None:
    compare(cpu, case, bound)


@settings(max_examples=50, deadline=None)
@given(cases(), BOUNDS)
def test_complex_input(case: Case, bound: float) -> None:
    count = len(case.a)
    plan = plan_scan(case.formats, count, 1, complex_drive=True)
    of = (Coefficient(None if z is None else z[:, None]) for z in (case.a, case.b, None))
    tables = Tables.integer(plan, *of)
    start, time = Ends(plan).start(tensors(case.x0), (len(case.v), count, 2), torch.device("cpu"), 1)
    parts = tables.at(time).parts
    v = real(case.v, tables, plan.zero("u")[:, None])
    grad = torch.from_numpy(np.random.default_rng(4).normal(size=v.shape).astype(np.float32))
    exact = plain_scan.state_scan(v, start, *parts, tables.clip)
    found = states.state_scan(v, start, *parts, tables.clip)
    assert torch.equal(found[0], exact[0])
    assert torch.equal(found[1], exact[1])
    close(
        states.state_scan_backward(v, start, grad, *parts, bound, tables.clip),
        plain_scan.state_scan_backward(v, start, grad, *parts, bound, tables.clip),
    )


@pytest.mark.skipif(cuda.interpreting(), reason="started by itself")
def test_triton_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    interpreted(__file__, "TestTriton")


class TestTriton:
    __test__ = cuda.interpreting() and RUNS

    @settings(max_examples=25, deadline=None)
    @given(code_cases(timed=True), BOUNDS)
    def test_real_input(self, case: CodeCase, bound: float) -> None:
        compare(cuda, case, bound)
