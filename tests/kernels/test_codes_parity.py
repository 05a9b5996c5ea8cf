"""The fused CPU kernel and the oracle return the same codes: `==`, never close."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CodeCase, assert_same_state, code_cases, formats_for, operands

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, UnitState, plan_scan, scan_codes
from imc_ssm.kernels import codes_of, diagonal_scan
from imc_ssm.kernels.codes import input_codes
from imc_ssm.kernels.cpu import scan_codes_cpu
from imc_ssm.quantization import fake_quantize


@settings(max_examples=400, deadline=None)
@given(code_cases(timed=True))
def test_kernel_equals_oracle(case: CodeCase) -> None:
    y, last, _ = scan_codes(case.plan, case.u, *case.operands, case.x0, case.noise)
    y_cpu, last_cpu = scan_codes_cpu(case.plan, case.u, *case.operands, case.x0, case.noise)
    assert np.array_equal(y_cpu, y)
    assert_same_state(last_cpu, last)


@settings(max_examples=100, deadline=None)
@given(code_cases(timed=True), st.data())
def test_cut_in_time(case: CodeCase, data: st.DataObject) -> None:
    whole, end, _ = scan_codes(case.plan, case.u, *case.operands, case.x0, case.noise)
    cut = data.draw(st.integers(0, case.u.shape[-1]))
    first, middle = scan_codes_cpu(case.plan, case.u[..., :cut], *case.operands, case.x0, case.noise)
    rest = None if case.noise is None else case.noise.later(cut)
    second, last = scan_codes_cpu(case.plan, case.u[..., cut:], *case.operands, middle, rest)
    assert np.array_equal(np.concatenate([first, second], axis=-1), whole)
    assert_same_state(last, end)


@settings(max_examples=40, deadline=None)
@given(code_cases(), st.randoms(use_true_random=False))
def test_sequences_do_not_see_each_other(case: CodeCase, random: object) -> None:
    order = np.random.default_rng(random.getrandbits(32)).permutation(len(case.u))
    y, _ = scan_codes_cpu(case.plan, case.u, *case.operands, case.x0)
    x0 = None if case.x0 is None else case.x0[order]
    shuffled, _ = scan_codes_cpu(case.plan, case.u[order], *case.operands, x0)
    assert np.array_equal(shuffled, y[order])


@pytest.mark.parametrize(("bits", "word"), [(2, 32), (4, 32), (8, 32), (12, 53), (16, 53)])
@pytest.mark.parametrize("bare", [False, True])
def test_both_accumulators_over_a_long_sequence(bits: int, word: int, bare: bool) -> None:
    u, a, b, c = operands(1, 17, 3, 8, 200)
    formats = formats_for(u, a, b, c, bits, bare=bare)
    plan = plan_scan(formats, *a.shape)
    assert plan.word == word
    codes = [
        codes_of(torch.view_as_real(z).numpy(), f)[0]
        for z, f in zip((a, b, c), (formats.a, formats.b, formats.c), strict=True)
    ]
    u_codes = input_codes(u.numpy(), plan)
    y, last, _ = scan_codes(plan, u_codes, *codes)
    y_cpu, last_cpu = scan_codes_cpu(plan, u_codes, *codes)
    assert np.array_equal(y_cpu, y)
    assert np.array_equal(last_cpu, last)


@pytest.mark.parametrize("rounding", ["half_even", "dithered", "stochastic", "feedback"])
@pytest.mark.parametrize("begun", [0, 5])
def test_slow_heads_over_a_long_sequence(rounding: str, begun: int) -> None:
    """Windows of several lengths across the tiles of the kernel, on the grid's own formats."""
    u, a, b, c = operands(3, 18, 4, 5, 600)
    formats = replace(formats_for(u, a, b, c, 8), rounding=rounding, periods=(1, 2, 16, 64))
    plan = plan_scan(formats, *a.shape)
    codes = [
        codes_of(torch.view_as_real(z).numpy(), f)[0]
        for z, f in zip((a, b, c), (formats.a, formats.b, formats.c), strict=True)
    ]
    u_codes = input_codes(u.numpy(), plan)
    x0 = UnitState(None, begun)
    y, last, _ = scan_codes(plan, u_codes, *codes, x0)
    y_cpu, last_cpu = scan_codes_cpu(plan, u_codes, *codes, x0)
    assert np.array_equal(y_cpu, y)
    assert_same_state(last_cpu, last)
    # A head of period k changes its output every k-th step only.
    for h, period in enumerate(plan.periods):
        changed = np.flatnonzero(np.any(np.diff(y[:, h], axis=-1), axis=0)) + 1
        assert np.all((changed + begun + 1) % period == 0)
        assert len(changed) > 0.9 * 600 / period - 1


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("identity", ["", "b", "c", "bc"])
@pytest.mark.parametrize("bare", [False, True])
def test_diagonal_scan_on_both_backends(bits: int, identity: str, bare: bool) -> None:
    u, a, b, c = operands(2, 5, 2, 3, 40)
    b_, c_ = (None if name in identity else z for name, z in (("b", b), ("c", c)))
    formats = formats_for(u, a, b_, c_, bits, bare=bare, shrink={"x": 0.7, "u": 0.8}, clip=5.0)
    for x0 in (None, torch.randint(-2, 2, (5, 2, 3, 2)), torch.ones(5, 2, 3, 2, dtype=torch.int32)):
        results = [
            diagonal_scan(u, a, b_, c_, formats=formats, x0=x0, return_state=True, backend=backend)
            for backend in ("reference", "cpu", "auto")
        ]
        for y, last in results[1:]:
            assert torch.equal(y, results[0][0])
            assert torch.equal(last, results[0][1])
            assert y.dtype == torch.float32
            assert last.dtype == torch.int64


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 16), st.booleans(), st.floats(1e-4, 1e4), st.floats(0, 1), st.integers(0, 2**31))
def test_an_activation_on_its_grid_gives_its_own_code(
    bits: int, symmetric: bool, reach: float, share: float, seed: int
) -> None:
    # What a quantizer hands over in float32 is read back as exactly the code it stands for.
    fmt = Format.from_range(-share * reach, (1 - share) * reach, bits, symmetric=symmetric)
    plan = plan_scan(formats_around(fmt), 1, 1)
    values = torch.from_numpy(np.random.default_rng(seed).uniform(-1.2 * reach, 1.2 * reach, (2, 1, 50)))
    on_grid = fake_quantize(values.float(), fmt, 1)
    codes = input_codes(on_grid.numpy(), plan)
    assert np.array_equal(fmt.dequantize(codes).astype(np.float32), on_grid.numpy())
    assert np.array_equal(fmt.quantize(on_grid.numpy()), codes)


def formats_around(u: Format) -> object:
    """Formats of a recurrence whose input has format `u` and whose state fits it."""
    from imc_ssm.fixedpoint import ScanFormats

    wide = Format(8, np.float32(u.scale) * np.float32(2.0 ** (u.bits - 6)), np.int64(0))
    return ScanFormats(a=Format.from_range(-1.0, 1.0, 8), u=u, x=wide)


# Values and gradients of both modes, as one digest per number of threads.
DIGESTS = """
import hashlib, numba, torch
from scan_cases import formats_for, operands
from imc_ssm.kernels import diagonal_scan
u, a, b, c = operands(3, 70, 3, 4, 30)
for threads in (1, 2, 3):
    numba.set_num_threads(threads)
    digest = hashlib.sha256()
    for formats in (formats_for(u, a, b, c, 8), None):
        leaves = [z.clone().requires_grad_() for z in (u, a, b, c)]
        y = diagonal_scan(*leaves, formats=formats)
        (y * y.detach().cos()).sum().backward()
        for z in (y.detach(), *(leaf.grad for leaf in leaves)):
            digest.update(torch.view_as_real(z).numpy().tobytes() if z.is_complex() else z.numpy().tobytes())
    print(digest.hexdigest())
"""


def test_threads_change_nothing() -> None:
    # A process of its own: the number of threads is bounded when Numba is imported.
    environment = os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 3
    assert len(set(digests)) == 1


def test_wrong_shape_is_refused() -> None:
    u, a, b, c = operands(4, 2, 2, 3, 4)
    plan = plan_scan(formats_for(u, a, b, c, 8), 2, 3)
    with pytest.raises(FormatError, match="u has shape"):
        scan_codes_cpu(plan, np.zeros((2, 3, 4), np.int64), np.zeros((2, 3, 2), np.int64))
