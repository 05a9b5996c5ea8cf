"""`docs/training.md`: its recipe is the one that is printed, its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import xarray as xr
from scripts import script_of

import imc_ssm
from imc_ssm import results
from imc_ssm.layers import Classifier
from imc_ssm.training import TrainConfig

HERE = Path(__file__).parent.parent / "experiments" / "learning"
PAGE = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_of(HERE / "run.py")


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    return results.load(HERE / "results" / "learning.nc")


def test_the_table_is_that_of_the_dataset(script: ModuleType, found: xr.Dataset) -> None:
    lines, wanted = PAGE.splitlines(), script.tables(found)
    assert len(wanted) > 2
    for line in wanted:
        assert line in lines, line


def test_the_dataset_is_that_of_the_numbers_found(script: ModuleType, found: xr.Dataset) -> None:
    rows = script.found()
    assert len(rows) == int(found["accuracy"].notnull().sum())
    for (seed, bits, rounding, way), row in rows.items():
        place = found.sel(seed=seed, bits=bits, rounding=rounding, way=way)
        assert all(float(place[name]) == row[name] for name in script.MEASURED)


def test_what_the_page_concludes(found: xr.Dataset) -> None:
    gain = found["accuracy"] - found["accuracy"].sel(way="QAT")
    of_ranges, of_teacher = gain.sel(way="ranges"), gain.sel(way="teacher")
    better = {bits: int((of_ranges.sel(bits=bits) > 0).sum()) for bits in (6, 5, 4)}
    assert better == {6: 9, 5: 9, 4: 8}
    means = of_ranges.mean("seed").transpose("bits", "rounding").sel(bits=[6, 5, 4]).values
    assert means.round(1).tolist() == [[1.2, 1.1], [3.1, 1.2], [6.0, 4.4]]
    assert float(abs(of_ranges.sel(bits=8).mean("seed")).max()) < 0.4
    assert int((of_teacher > 0).sum()) == 14
    assert int((of_teacher.sel(bits=8) > 0).sum()) == 2
    assert of_teacher.sel(rounding="half_even", bits=[4, 5]).mean("seed").values.round(1).tolist() == [-4.9, -1.9]
    assert round(float(found["full_precision"].mean()), 1) == 97.2
    assert found["accuracy"].attrs["n_test"] == 360


def test_the_recipe_is_the_one_that_is_derived() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown.splitlines() == imc_ssm.training_for("pcm-256").lines()


def test_every_field_of_noise_is_there() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    fields = {name for name in TrainConfig.model_fields if name.startswith(("noise", "clip_input"))}
    assert named == fields


def test_the_code_runs(trained: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imc_ssm.save_model("m.safetensors", trained)
    place: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code.replace("epochs=10", "epochs=1, batch=200"), "training.md", "exec"), place)
    quantized, student = place["quantized"], place["student"]
    assert isinstance(quantized, Classifier)
    assert isinstance(student, Classifier)
    assert quantized.decoder.matrix.input_range > 0  # type: ignore[union-attr, operator]
    assert not any("log_factor" in name for name in student.state_dict())
