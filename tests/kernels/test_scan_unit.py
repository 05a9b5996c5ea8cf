"""`ScanUnit`: the integers of `diagonal_scan` from a plan that is made once."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from scan_cases import formats_for, operands

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Noise
from imc_ssm.kernels import ScanUnit, cpu, diagonal_scan, unit

U, A, B, C = operands(1, 5, 2, 3, 40)
FORMATS = formats_for(U, A, B, C, 8, shrink={"x": 0.8})


@pytest.mark.parametrize("order", ["joint", "separate"])
@pytest.mark.parametrize("bits", [6, 16])
@pytest.mark.parametrize("absent", ["", "b", "bc"])
def test_pieces_of_a_unit_are_the_scan(order: str, bits: int, absent: str) -> None:
    b, c = (None if name in absent else z for name, z in (("b", B), ("c", C)))
    formats = formats_for(U, A, b, c, bits, order=order)
    whole, end = diagonal_scan(U, A, b, c, formats=formats, return_state=True)
    ready = ScanUnit(A, b, c, formats=formats)
    with patch.object(unit, "plan_scan", side_effect=AssertionError("planned again")):
        state, pieces = None, []
        for t in range(U.shape[-1]):
            y, state = ready(U[..., t : t + 1], state)
            pieces.append(y)
    assert torch.equal(torch.cat(pieces, -1), whole)
    assert torch.equal(state, end)


def test_noise_of_the_state() -> None:
    noise = Noise(3, state=0.2, sample=4, time=7)
    whole, end = diagonal_scan(U, A, B, C, formats=FORMATS, noise=noise, return_state=True)
    y, last = ScanUnit(A, B, C, formats=FORMATS, state_noise=0.2)(U, noise=noise)
    assert torch.equal(y, whole)
    assert torch.equal(last, end)


def test_gradients() -> None:
    found = []
    for run in (
        lambda u, a, b, c: diagonal_scan(u, a, b, c, formats=FORMATS, grad_clamp=0.5),
        lambda u, a, b, c: ScanUnit(a, b, c, formats=FORMATS)(u, grad_clamp=0.5)[0],
    ):
        leaves = [z.clone().requires_grad_() for z in (U, A, B, C)]
        run(*leaves).square().sum().backward()
        found.append([z.grad for z in leaves])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_refused() -> None:
    ready = ScanUnit(A, B, C, formats=FORMATS)
    for u, message in (
        (U[0], r"u is torch.float32 \(2, 40\); needed is torch.float32 \(batch, 2, time\)"),
        (U.double(), "u is torch.float64"),
        (U * float("inf"), "u is not finite"),
    ):
        with pytest.raises(ImcSsmError, match=message):
            ready(u)
    with pytest.raises(FormatError, match="outside its format of 8 bits"):
        ready(U, torch.full((5, 2, 3, 2), 200))
    with pytest.raises(FormatError, match=r"noise of the state 0.1, but the unit was planned for 0.0"):
        ready(U, noise=Noise(1, state=0.1))
    with pytest.raises(FormatError, match="counters end"):
        ready(U, noise=Noise(1, time=2**32 - 3))
    with pytest.raises(FormatError, match="given together"):
        ScanUnit(A, None, C, formats=FORMATS)
    with pytest.raises(ImcSsmError, match="a is not finite"):
        ScanUnit(A * float("nan"), B, C, formats=FORMATS)


def test_room_is_kept_for_short_calls_only() -> None:
    small, large = cpu.scratch(100, float), cpu.scratch(10**6, float)
    assert cpu.scratch(100, float) is small
    assert cpu.scratch(10**6, float) is not large
    assert small.ctypes.data % 64 == 0
    for numbers in range(200, 220):
        cpu.scratch(numbers, float)
    assert len(cpu._ROOMS.kept) <= 8
