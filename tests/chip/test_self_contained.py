"""A deployment depends on no file and on no name; biases lie on their grid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment, compile, evaluate
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.devices import device_path, load_components
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Bits, QuantizedDense, Scheme, calibration_batch

Make = Callable[[Scheme], Classifier]


@pytest.fixture(scope="module")
def few(digits: SequenceDataset) -> SequenceDataset:
    """The digits with 50 test sequences."""
    return replace(digits, splits={n: digits.splits[n][:50] if n == "test" else digits.splits[n] for n in SPLITS})


def own_files(folder: Path) -> Path:
    """A user's design with a cell and a component table of their own beside it."""
    for kind, name in (("cells", "reram-cmo-falcone"), ("components", "periphery-32nm"), ("designs", "reram-128")):
        shutil.copy(device_path(kind, name), folder / f"{kind}.toml")  # type: ignore[arg-type]
    text = (folder / "designs.toml").read_text(encoding="utf-8")
    text = text.replace('"reram-cmo-falcone"', '"cells.toml"').replace('"periphery-32nm"', '"components.toml"')
    (folder / "designs.toml").write_text(text, encoding="utf-8")
    return folder / "designs.toml"


def test_editing_or_deleting_the_files_changes_nothing(
    quantized: Make, few: SequenceDataset, tmp_path: Path
) -> None:
    files = tmp_path / "mine"
    files.mkdir()
    design = own_files(files)
    deployment = compile(quantized(Scheme()), design, *calibration_batch(few, 8), name="mine")

    def everything(placed: Deployment) -> tuple[str, xr.Dataset, xr.Dataset]:
        return placed.digest(), cost(placed), evaluate(placed, few, 2, [1.0, 3600.0])

    saved = tmp_path / "before.safetensors"
    deployment.save(saved)
    before = everything(deployment)

    def assert_unchanged() -> None:
        for placed in (deployment, Deployment.load(saved)):
            digest, price, chips = everything(placed)
            assert digest == before[0]
            xr.testing.assert_identical(price, before[1])
            xr.testing.assert_identical(chips, before[2])
        deployment.save(tmp_path / "after.safetensors")
        assert (tmp_path / "after.safetensors").read_bytes() == saved.read_bytes()

    for name, old, new in (
        ("cells", "88.2e-6", "50e-6"),
        ("components", "1.667e-12", "99e-12"),
        ("designs", "lanes = 16", "lanes = 1"),
    ):
        path = files / f"{name}.toml"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert_unchanged()
    edited = compile(quantized(Scheme()), design, *calibration_batch(few, 8), name="mine")
    assert edited.digest() != before[0]  # read anew, they count
    shutil.rmtree(files)
    assert_unchanged()


def test_the_digest_covers_cell_converters_and_components(quantized: Make, few: SequenceDataset) -> None:
    one = compile(quantized(Scheme()), "pcm-256", *calibration_batch(few, 8))
    chip = one.chip
    multiply = chip.digital.multiply
    dearer = multiply.with_(energy=multiply.energy.with_(value=1e-12))
    table = load_components(chip.design.components)
    sar, cco = (table.conversion("adc", name, 8) for name in ("sar-isaac", "cco-hermes"))
    others = [
        chip.with_(cell=chip.cell.with_(v_read=chip.cell.v_read.with_(value=0.3))),
        chip.with_(adc=chip.adc.with_(price=sar)),
        chip.with_(dac=chip.dac.with_(price=sar)),
        chip.with_(sample_hold=cco),
        chip.with_(digital=chip.digital.with_(multiply=dearer)),
    ]
    assert len({d.digest() for d in (one, *(replace(one, chip=other) for other in others))}) == 6


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=3, max_size=3, unique=True))
def test_names_of_matrices_decide_nothing(quantized: Make, few: SequenceDataset, names: list[str]) -> None:
    one = compile(quantized(Scheme()), "pcm-256", *calibration_batch(few, 8, most=50))
    matrices = tuple(replace(m, name=name) for m, name in zip(one.matrices, names, strict=True))
    two = replace(one, matrices=matrices)
    u = torch.from_numpy(few.split("test").values[:5])
    outputs = []
    for placed in (one, two):
        model, tiles = placed.analog()
        for tile in tiles:
            tile.program(1, 2).set_time(86400.0)
        outputs.append([model(u), *(torch.from_numpy(tile.programmed.weights()) for tile in tiles)])
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_biases_lie_on_their_grid(quantized: Make, few: SequenceDataset) -> None:
    """2-bit and 16-bit biases are not the same float; programmed weights stay the trained ones."""
    calibration = calibration_batch(few, 8, most=50)
    placed = {}
    for bits in (2, 16):
        model = quantized(Scheme(bits=Bits(biases=bits, weights=4)))
        placed[bits] = compile(model, "pcm-256", *calibration)
        for matrix in placed[bits].matrices:
            owner = model.get_submodule(matrix.module)
            assert isinstance(owner, QuantizedDense)
            on_grid = owner.matrix.bias
            assert np.array_equal(matrix.bias, on_grid.detach().numpy())
            assert len(np.unique(matrix.bias)) <= 2**bits
            trained = owner.matrix.weight.detach().numpy()
            assert np.allclose((matrix.target * matrix.scale).T, trained, rtol=1e-6, atol=1e-8)
    assert not any(
        np.array_equal(a.bias, b.bias) for a, b in zip(placed[2].matrices, placed[16].matrices, strict=True)
    )
    u = torch.from_numpy(few.split("test").values[:5])
    two, sixteen = (p.analog()[0](u) for p in placed.values())
    assert not torch.equal(two, sixteen)


WITHOUT = """
import importlib, pkgutil, sys
sys.modules["aihwkit"] = None  # importing it raises ImportError
import imc_ssm
for module in pkgutil.walk_packages(imc_ssm.__path__, "imc_ssm."):
    importlib.import_module(module.name)
import numpy as np
from imc_ssm.chip import AnalogLinear, map_matrix
from imc_ssm.devices import resolve
from imc_ssm.errors import DesignError
import torch
for name in ("pcm-256", "reram-128", "reram-wan-64"):
    chip = resolve(name)
    mapped = map_matrix("m", "m", np.eye(4), None, chip, input_range=1.0)
    layer = AnalogLinear(mapped, chip).program(0, 0).set_time(86400.0)
    assert layer(torch.ones(2, 4)).shape == (2, 4)
    try:
        AnalogLinear(mapped, chip, noise="aihwkit").program(0, 0)
    except DesignError as error:
        print(error)
assert not any(name.startswith("aihwkit") for name, module in sys.modules.items() if module is not None)
"""


def test_everything_imports_and_programs_without_aihwkit() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("aihwkit cannot be imported") == 3
