"""Every implementation returns the committed codes of a trained 8-bit s4d-16h on 32 real images: `==`.

The file is what `benchmarks/sample_codes.py` writes: the int64 oracle on the inputs that the recurrence of the
trained model meets.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from triton_cases import RUNS, interpreted

from imc_ssm.fixedpoint import Format, ScanFormats, ScanPlan, plan_scan, scan_codes
from imc_ssm.kernels import cuda, diagonal_scan
from imc_ssm.kernels.cpu import scan_codes_cpu

SAMPLE = Path(__file__).parents[1] / "data" / "codes_s4d16h_8bit.npz"
IMAGES, HEADS, STATES, TIME = 32, 16, 32, 784
Codes = dict[str, np.ndarray]


@cache
def sample() -> tuple[ScanPlan, Codes]:
    """The plan, and the codes of a, b, c, u, y and the last state."""
    with np.load(SAMPLE, allow_pickle=False) as file:
        stored = dict(file)

    def fmt(part: str) -> Format:
        clip = float(stored[f"{part}.clip"])
        return Format(
            int(stored[f"{part}.bits"]),
            stored[f"{part}.scale"],
            stored[f"{part}.zero_point"],
            bool(stored[f"{part}.symmetric"]),
            None if np.isnan(clip) else clip,
        )

    parts = {part: fmt(part) for part in "abcuxy"}
    formats = ScanFormats(**parts, rounding_placement=str(stored["order"]), rounding=str(stored["rounding"]))
    codes = {name: stored[name].astype(np.int64) for name in ("a", "b", "c", "u", "y", "last")}
    return plan_scan(formats, HEADS, STATES), codes


def values() -> tuple[torch.Tensor, ...]:
    """(u, a, b, c) whose codes the sample's are."""
    plan, codes = sample()
    u = torch.from_numpy(plan.formats.u.dequantize(codes["u"], 1)).float()
    pairs = (getattr(plan.formats, part).dequantize(codes[part]).astype(np.float32) for part in "abc")
    return u, *(torch.view_as_complex(torch.from_numpy(z)) for z in pairs)


def test_the_sample_is_a_trained_model() -> None:
    plan, codes = sample()
    assert codes["u"].shape == codes["y"].shape == (IMAGES, HEADS, TIME)
    assert codes["last"].shape == (IMAGES, HEADS, STATES, 2)
    assert {f.bits for f in (getattr(plan.formats, part) for part in "abcuxy")} == {8}
    assert (plan.formats.rounding_placement, plan.formats.rounding, plan.word) == ("joint", "half_even", 32)
    # Every head has a format of its own, the codes fill their word, and no two images end alike.
    assert len(np.unique(plan.formats.x.scale)) == HEADS
    assert len(np.unique(codes["y"])) == 256
    assert len(np.unique(codes["last"].reshape(IMAGES, -1), axis=0)) == IMAGES


def test_oracle() -> None:
    plan, codes = sample()
    y, last, _ = scan_codes(plan, codes["u"][:2], codes["a"], codes["b"], codes["c"])
    assert np.array_equal(y, codes["y"][:2])
    assert np.array_equal(last, codes["last"][:2])


def test_cpu_kernel() -> None:
    plan, codes = sample()
    y, last = scan_codes_cpu(plan, codes["u"], codes["a"], codes["b"], codes["c"])
    assert np.array_equal(y, codes["y"])
    assert np.array_equal(last, codes["last"])


@pytest.mark.parametrize("alone", [TIME, 40])
def test_one_step_at_a_time(alone: int) -> None:
    # The steps before the last `alone` in one piece, then pieces of one step.
    plan, codes = sample()
    u, *coefficients = values()
    formats, y_format = plan.formats, plan.formats.y
    assert y_format is not None
    exact = torch.from_numpy(y_format.dequantize(codes["y"], 1)).float()
    images, start = (2 if alone == TIME else IMAGES), TIME - alone
    u, exact = u[:images], exact[:images]
    y, state = diagonal_scan(u[..., :start], *coefficients, formats=formats, return_state=True)
    assert torch.equal(y, exact[..., :start])
    for t in range(start, TIME):
        y, state = diagonal_scan(u[..., t : t + 1], *coefficients, formats=formats, x0=state, return_state=True)
        assert torch.equal(y, exact[..., t : t + 1]), t
    assert np.array_equal(state.numpy(), codes["last"][:images])


@pytest.mark.skipif(cuda.interpreting(), reason="started by itself")
def test_triton_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    interpreted(__file__, "TestTriton")


class TestTriton:
    __test__ = RUNS

    def test_kernel(self) -> None:
        plan, codes = sample()
        y, last = cuda.scan_codes_triton(plan, codes["u"], codes["a"], codes["b"], codes["c"])
        assert np.array_equal(y, codes["y"])
        assert np.array_equal(last, codes["last"])
