"""What a chosen point is written as: a design that loads from anywhere, and commands that do as the sweep did."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imc_ssm
from imc_ssm import cli
from imc_ssm.devices import load_cell, load_design, resolve
from imc_ssm.devices.designs import design_toml
from imc_ssm.errors import FileError
from imc_ssm.modelfile import load_model
from imc_ssm.sweeps import ChipObjective, Status, again, candidate, load, made, sweep, written


def own_cell(folder: Path) -> Path:
    """A cell of one's own: a shipped one under another name, as a TOML."""
    import tomli_w

    path = folder / "own.toml"
    cell = load_cell("reram-wan-2022").with_(name="own")
    path.write_text(tomli_w.dumps(cell.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return path


def run(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        cli.main()


@pytest.mark.parametrize("cell", [{}, {"cell.programming_scale": [0.5, 2.0]}])
def test_the_design_of_a_point_loads_from_any_folder(
    cell: dict[str, Any], small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    ds = sweep({"design.cell": [own_cell(Path()).name], **cell}, small)
    point = ds.isel(dict.fromkeys(cell, 1))
    commands = written(point, "deep/chosen.toml")
    assert shlex.split(commands[-1])[3:5] == ["--design", "deep/chosen.toml"]
    monkeypatch.chdir(tmp_path / "deep")
    chip = resolve("chosen.toml")
    monkeypatch.chdir(tmp_path)
    assert chip.cell == made(point).chip().cell


def test_a_design_as_toml_is_the_same_chip_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    design = load_design("reram-128").with_(cell=own_cell(Path()).name, slicing={"cells": 2, "bits": 3})
    for folder, name in ((tmp_path / "a", "in.toml"), (None, "anywhere.toml")):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text(design_toml(design, folder), encoding="utf-8")
        assert resolve(Path("a") / name) == resolve(design)


def test_the_commands_prune_and_deploy_as_the_sweep_did(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = small | {
        "calibration": None,
        "seed": 3,
        "refresh": 86400.0,
        "times": "1h",
        "prune": {"criterion": "magnitude"},
    }
    ds = sweep({"prune.states": [0.0, 0.5], "prune.rows": [0.25]}, base, folder=tmp_path / "sweep")
    plain, pruned = (written(ds.isel({"prune.states": i, "prune.rows": 0}), tmp_path / "c.toml") for i in (0, 1))
    assert len(plain) == len(pruned) == 2
    monkeypatch.chdir(tmp_path)
    run(shlex.split(pruned[0]))
    other = load_model("pruned.safetensors").model
    (own,) = (
        model
        for path in (tmp_path / "sweep" / "models").glob("*.safetensors")
        if (model := load_model(path).model).config == other.config
    )
    values = own.state_dict()
    assert all(torch.equal(values[name], value) for name, value in other.state_dict().items())
    words = shlex.split(pruned[1])
    assert words[2] == "pruned.safetensors"
    for option in ("--seed 3", "--refresh 86400.0", "--sequences 40", "--chips 2", "--dataset digits"):
        name, value = option.split()
        assert words[words.index(name) + 1] == value, option
    assert "--within" not in words
    run(words)
    same = again(ds.isel({"prune.states": 1, "prune.rows": 0}), changes={"split": "test"})
    found = imc_ssm.open_results("c.nc").isel(model=0)
    assert np.array_equal(found["accuracy"], same["accuracy"])
    assert np.array_equal(found["energy"], same["energy"])


def test_a_model_in_full_precision_is_quantized_in_between(
    started: tuple[Path, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    full = {**small, "start": str(started[0]), "scheme": "uniform"}
    ds = sweep({"prune.heads": [0.25]}, full)
    prune, quantize, deploy = written(ds, tmp_path / "c.toml")
    assert prune.startswith("imc-ssm prune")
    assert "quantize pruned.safetensors" in quantize
    assert deploy.startswith("imc-ssm deploy q.safetensors")


def test_a_model_that_is_trained_fits_its_task(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 12, 2)).astype(np.float32)
    np.savez(tmp_path / "own.npz", values=values, targets=values.cumsum(1)[:, :, :1])
    base = {
        "task": str(tmp_path / "own.npz"),
        "model": {"heads": 2, "n_state": 4},
        "training": {"epochs": 1},
        "scheme": "uniform",
        "chips": 1,
        "times": "1s",
    }
    model = ChipObjective(base).base.model
    assert model is not None
    assert (model.inputs, model.outputs, model.pool) == (2, 1, "none")
    ds = sweep({"model.layers": [1, 2]}, base)
    assert (ds["status"] == Status.DONE).all()
    assert np.isfinite(ds["r2"]).all()
    refused = sweep({"model.outputs": [1, 3]}, base)
    assert refused["status"].values.tolist() == [Status.DONE, Status.REFUSED]


def test_cells_of_another_version_are_read_as_they_were_published(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that measured less of every cell."""
    with monkeypatch.context() as before:
        before.setattr(candidate, "COSTS", tuple(v for v in candidate.COSTS if v.name != "tiles"))
        ds = sweep({"design.adc.bits": [4, 8]}, small, folder=tmp_path / "sweep")
    found = load(tmp_path / "sweep")
    assert "tiles" not in found
    for name in ds.data_vars:
        assert np.array_equal(found[name], ds[name]), name
    with pytest.raises(FileError, match="numbers of a cell"):
        sweep({"design.adc.bits": [4, 8]}, small, folder=tmp_path / "sweep")
