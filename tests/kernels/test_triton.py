"""The fused GPU kernel returns the oracle's codes; it compiles; what is said where it cannot run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CodeCase, assert_same_state, code_cases, operands
from triton_cases import ROUNDING_PLACEMENTS, RUNS, formats_around, interpreted, on_device, scan_integer, scan_real

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Noise, plan_scan, scan_codes
from imc_ssm.kernels import cuda


@pytest.mark.skipif(cuda.interpreting(), reason="started by itself")
def test_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    interpreted(__file__, "TestCodes")


class TestCodes:
    """Equality is `==`."""

    __test__ = RUNS

    @settings(max_examples=120, deadline=None)
    @given(code_cases(timed=True))
    def test_kernel_equals_oracle(self, case: CodeCase) -> None:
        y, last, _ = scan_codes(case.plan, case.u, *case.operands, case.x0, case.noise)
        y_t, last_t = cuda.scan_codes_triton(case.plan, case.u, *case.operands, case.x0, case.noise)
        assert np.array_equal(y_t, y)
        assert_same_state(last_t, last)

    @settings(max_examples=16, deadline=None)
    @given(code_cases(timed=True), st.data())
    def test_cut_in_time(self, case: CodeCase, data: st.DataObject) -> None:
        whole, end, _ = scan_codes(case.plan, case.u, *case.operands, case.x0, case.noise)
        cut = data.draw(st.integers(0, case.u.shape[-1]))
        later = None if case.noise is None else case.noise.later(cut)
        first, middle = cuda.scan_codes_triton(case.plan, case.u[..., :cut], *case.operands, case.x0, case.noise)
        second, last = cuda.scan_codes_triton(case.plan, case.u[..., cut:], *case.operands, middle, later)
        assert np.array_equal(np.concatenate([first, second], axis=-1), whole)
        assert_same_state(last, end)

    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    def test_values_are_the_real_values_of_the_codes(self, bits: int, order: str) -> None:
        # Inputs on, between and beyond the codes; the real output is what the oracle's codes stand for.
        u, a, b, c = operands(1, 3, 2, 5, 12)
        u[0, 0, :6] = torch.tensor([1e30, -1e30, 0.0, -0.0, 1e-40, 7.0])
        formats = formats_around(3.0, bits, rounding_placement=order)
        u[1] = (torch.arange(24).reshape(2, 12) - 12.5) * torch.from_numpy(formats.u.scale)[:, None]
        plan = plan_scan(formats, 2, 5)
        with np.errstate(over="ignore"):
            nearest = np.rint(u.numpy() / formats.u.scale[:, None]) + formats.u.zero_point[:, None]
        codes = np.clip(nearest, formats.u.code_min, formats.u.code_max).astype(np.int64)
        coded = (
            f.quantize(torch.view_as_real(z).numpy())
            for f, z in zip((formats.a, formats.b, formats.c), (a, b, c), strict=True)
        )
        y, last, _ = scan_codes(plan, codes, *coded)
        found, state = scan_integer(*on_device(u, a, b, c), formats, None, None, None)
        assert np.array_equal(found.cpu().numpy(), formats.y.dequantize(y, 1).astype(np.float32))
        assert np.array_equal(state.cpu().numpy(), last)
        assert (found.dtype, state.dtype) == (torch.float32, torch.int64)

    def test_counters_that_end_are_refused(self) -> None:
        noise = Noise(1, state=0.1, time=2**32 - 3)
        plan = plan_scan(formats_around(3.0, 8), 2, 3, noise.state)
        u, one = np.zeros((2, 2, 4), np.int64), np.zeros((2, 3, 2), np.int64)
        for run in (scan_codes, cuda.scan_codes_triton):
            run(plan, u[..., :3], one, one, one, noise=noise)
            with pytest.raises(FormatError, match="counters end"):
                run(plan, u, one, one, one, noise=noise)

    def test_wrong_shape_is_refused(self) -> None:
        plan = plan_scan(formats_around(3.0, 8), 2, 3)
        with pytest.raises(FormatError, match="u has shape"):
            cuda.scan_codes_triton(plan, np.zeros((2, 3, 4), np.int64), np.zeros((2, 3, 2), np.int64))


class TestAvailability:
    __test__ = not cuda.interpreting()

    def test_no_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "pip install" in str(cuda.unavailable())
        with pytest.raises(ImcSsmError, match=r'pip install "imc-ssm\[gpu\]"'):
            scan_real(*operands(8, 1, 1, 1, 1), None, None, None)

    def test_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(ImcSsmError, match=r"sees no GPU; use backend='cpu'.*TRITON_INTERPRET=1"):
            scan_integer(*operands(8, 1, 2, 1, 1), formats_around(2.0, 8), None, None, None)
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert cuda.unavailable() is None

    def test_a_tensor_on_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(ImcSsmError, match="u is on cpu"):
            scan_real(*operands(8, 1, 1, 1, 1), None, None, None)


class TestCompiling:
    """The compiler accepts the kernels, which the interpreter does not show; no GPU is needed for that."""

    __test__ = not cuda.interpreting()

    @pytest.mark.parametrize("kernel", ["forward", "backward"])
    @pytest.mark.parametrize(
        ("word", "order", "rounding", "noise", "quantized", "periods"),
        [
            ("i32", "joint", "half_even", False, True, False),
            ("i64", "separate", "half_away", True, True, False),
            ("i64", "joint", "half_up", False, False, False),
            ("fp32", "joint", "", True, False, False),
            ("i32", "joint", "dithered", False, True, True),
            ("i64", "separate", "stochastic", True, True, False),
            ("i32", "joint", "feedback", False, True, True),
            ("i64", "joint", "feedback", False, False, False),
        ],
    )
    def test_compiles(
        self,
        kernel: str,
        word: str,
        order: str,
        rounding: str,
        noise: bool,
        quantized: bool,
        periods: bool,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        triton = pytest.importorskip("triton")
        from triton.backends.compiler import GPUTarget

        from imc_ssm.kernels import triton_kernels

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        integer = word != "fp32"
        state = "*i32" if integer else "*fp32"
        types = dict.fromkeys(("u", "y", "grad", "grad_u", "sums", "real", "inputs"), "*fp32")
        types |= {"table": f"*{word}", "x0": state, "last": state, "tape": state, "outputs": "*i64"}
        types |= {"rates": "*i32", "first": "i64"}
        types |= {"unit": "*fp64", "key": "*i64", "gauss": "*i32", "clamp": "fp32", "clip": "fp32"}
        types |= dict.fromkeys(("rows", "heads", "states", "stored", "time"), "i32")
        constants: dict[str, Any] = {"ROWS": 2, "STATES": 32, "INTEGER": integer, "NOISE": noise, "CLAMP": True}
        constants |= {"CLIP": not integer, "SPAN": 4, "PERIODS": periods, "RESIDUAL": 6}
        constants["NEAREST"] = rounding if rounding.startswith("half") else "half_even"
        constants |= {"SEPARATE": order == "separate", "QUANTIZED": quantized, "ROUNDING": rounding}
        absent = ([] if noise else ["key", "gauss"]) + ([] if quantized else ["outputs"])
        absent += ([] if integer else ["inputs", "unit"]) + ([] if periods else ["rates"])
        function = getattr(triton_kernels, kernel)
        names = function.arg_names
        source = triton.compiler.ASTSource(
            function,
            {n: "constexpr" if n in constants or n in absent else types[n] for n in names},
            {n: constants.get(n) for n in names if n in constants or n in absent},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
        assert len(compiled.asm["cubin"]) > 0
        assert ("div.rn.f32" in compiled.asm["ptx"]) == integer  # correctly rounded, as the oracle divides
