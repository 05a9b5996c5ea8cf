"""The product of tiles on a GPU gives the codes of the others; without one, through Triton's interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_cases import DEVICE, RUNS, interpreted

from imc_ssm.kernels import cuda, cuda_tile, plain_tile, tile_cpu


@pytest.mark.skipif(cuda.interpreting(), reason="started by itself")
def test_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    interpreted(__file__, "TestTile")


class TestTile:
    __test__ = RUNS

    @pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 3), (16, 32), (12, 10)])
    @pytest.mark.parametrize("noise", ["none", "spread", "variance"])
    @pytest.mark.parametrize("add", [True, False])
    @pytest.mark.parametrize("rounded", [True, False])
    def test_codes_are_those_of_the_reference(
        self, inputs: int, outputs: int, noise: str, add: bool, rounded: bool
    ) -> None:
        generator = torch.Generator().manual_seed(outputs)
        chips, batch, time = 3, 4, 25
        x = torch.randn(chips, batch, time, inputs, generator=generator) * 2
        weight = torch.randint(-3, 4, (chips, inputs, outputs), generator=generator).float()
        variance = torch.rand(chips, inputs, outputs, generator=generator) * 1e-3 if noise == "variance" else None
        spread = torch.rand(chips, outputs, generator=generator) * 4 if noise == "spread" else None
        offset = torch.randint(-5, 5, (chips, outputs), generator=generator).float()
        factor, bias = torch.randn(chips, outputs, generator=generator), None
        if not add:
            bias = torch.randn(outputs, generator=generator)
        seeds = torch.tensor([0, -7, 2**40 + 1])
        grid = None
        if rounded:
            grid = torch.stack([torch.full((outputs,), v) for v in (0.37, -50.0, 60.0)])
        tables = (x, weight, variance, offset, spread, factor, bias, grid, seeds)
        before = torch.randn(chips, batch, time, outputs + 3, generator=generator)
        found: list[Tensor] = []
        for run, device in (
            (cuda_tile.tile_product, DEVICE),
            (plain_tile.tile_product, torch.device("cpu")),
            (tile_cpu.tile_product, torch.device("cpu")),
        ):
            whole = before.to(device).transpose(2, 3).contiguous().transpose(2, 3)
            there = [None if z is None else z.to(device) for z in tables]
            run(*there, 2**32 - 50, [3.0, 1 / 127, -127, 127, -127, 127], whole[..., 1:-2], add)  # type: ignore[arg-type]
            found.append(whole.cpu())
        for other in found[1:]:
            # Beyond one rounding of single precision (the interpreter's `fma` rounds twice): another code.
            codes = (found[0] - other).abs() > 1e-6 * (1 + other.abs())
            assert codes.float().mean() < (1e-3 if noise != "none" else 1e-9)
        assert torch.equal(found[0][..., 0], before[..., 0])
        assert torch.equal(found[0][..., -2:], before[..., -2:])


@pytest.mark.skipif(cuda.interpreting(), reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("noise", "varies"), [(False, False), (True, False), (True, True)])
def test_the_compiler_accepts_it(
    noise: bool, varies: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No GPU is needed for that."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from imc_ssm.kernels import triton_tile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    floats = ("sums", "squares", "spread", "factor", "bias", "grid", "out")
    types = dict.fromkeys(floats, "*fp32") | {"seeds": "*i64", "position": "i64", "low": "fp32", "high": "fp32"}
    constants = {"NOISE": noise, "VARIES": varies, "BIAS": True, "GRID": True, "ADD": True, "BLOCK": 256}
    names = triton_tile.decode.arg_names
    source = triton.compiler.ASTSource(
        triton_tile.decode,
        {n: "constexpr" if n in constants else types.get(n, "i32") for n in names},
        constants,
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert len(compiled.asm["cubin"]) > 0
    assert "fma.rn.f32" in compiled.asm["ptx"]
