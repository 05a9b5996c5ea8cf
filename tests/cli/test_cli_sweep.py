"""`imc-ssm sweep` and `imc-ssm advise` from the command line."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from cli_runs import done, run

import imc_ssm
from imc_ssm import datasets, results
from imc_ssm.devices import load_design, resolve
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.plots import draw, kind_of
from imc_ssm.quantization import calibration_batch, quantize
from imc_ssm.training import TrainConfig, train

SWEEP = """
title = "Converters and cells"
maximise = ["accuracy@1d"]
minimise = ["energy_total", "area_total"]
constraints = ["latency_total <= 1e-3"]

[objective]
start = "q.safetensors"
design = "pcm-256"
chips = 2
times = "1s,1d"
sequences = 40

[space]
design.adc.bits = [5, 8]
design.columns_per_adc = { low = 8, high = 32, step = 12 }
cell.programming_scale = [0.5, 1.0]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quantized model and a sweep over it that has been run."""
    folder, data = tmp_path_factory.mktemp("sweep"), datasets.load("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, n_state=4, dt_min=0.0125, dt_max=0.5))
    train(model, data, TrainConfig(epochs=3, batch=32, learning_rate=2e-2), mode="convolution")
    quantized = quantize(model, "uniform", *calibration_batch(data, 4, most=64))
    save_model(folder / "q.safetensors", StoredModel(quantized, quantized.scheme, {"task": "digits"}))
    (folder / "chips.toml").write_text(SWEEP)
    printed = done("sweep", "run", folder / "chips.toml").out
    assert "0 of 12 cells done" in printed
    assert "12 of 12 cells done" in printed
    assert "Front: " in printed
    return folder


def test_what_is_there_is_not_done_again(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.glob("chips/cells.zarr/record/*")}
    printed = done("sweep", "run", place / "chips.toml").out
    assert "12 of 12 cells done" in printed.splitlines()[0]
    assert before == {path: path.stat().st_mtime_ns for path in place.glob("chips/cells.zarr/record/*")}


@pytest.mark.parametrize("given", ["chips", "chips.toml"])
def test_status_counts_cells(place: Path, given: str) -> None:
    printed = " ".join(done("sweep", "status", place / given).out.split())
    assert "12 of 12 cells done" in printed


def test_the_best_point_is_written_as_a_design_and_deployed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    printed = done("sweep", "best", "chips", "--maximise", "accuracy@1d", "--out", "best.toml").out
    ds = imc_ssm.sweeps.load("chips")
    chosen = imc_ssm.sweeps.best(ds, maximise="accuracy@1d")
    chip = resolve(load_design("best.toml"))
    assert chip.adc.bits == int(chosen["design.adc.bits"])
    assert chip.cell.programming_scale == float(chosen["cell.programming_scale"])
    command = next(line for line in printed.splitlines() if line.startswith("imc-ssm deploy"))
    done(*shlex.split(command)[1:], "--sequences", 40)
    found = results.load("best.nc")
    assert float(found["energy"].sum()) == pytest.approx(float(chosen["energy_total"]), rel=1e-9)


def test_constraints_choose_another_point(place: Path) -> None:
    ds = imc_ssm.sweeps.load(place / "chips")
    bound = float(np.median(ds["area_total"]))
    printed = done("sweep", "best", place / "chips", "--constraint", f"area_total <= {bound!r}").out
    assert "Best point: 1 of 12" in printed
    refused = run("sweep", "best", place / "chips", "--constraint", "area_total <= 0")
    assert refused.code == 2
    assert "no point of 12 keeps area_total <= 0" in refused.err


def test_the_front_as_table_figure_and_text(place: Path) -> None:
    ds = imc_ssm.sweeps.load(place / "chips")
    out, csv = place / "front.png", place / "front.csv"
    printed = done("sweep", "front", place / "chips", "--out", out, "--csv", csv).out
    found = imc_ssm.sweeps.front(ds, minimise=["energy_total", "area_total"], maximise="accuracy@1d")
    lines = csv.read_text().splitlines()
    assert lines[0].split(",")[:3] == ["design.adc.bits", "design.columns_per_adc", "cell.programming_scale"]
    assert len(lines) == 1 + found.sizes["trial"]
    assert f"Front: {found.sizes['trial']} of 12 points" in printed
    assert out.read_bytes().startswith(b"\x89PNG")
    done("sweep", "front", place / "chips", "--minimise", "latency_total", "--maximise", "accuracy", "--out", out)


def test_drawn_points_more_trials_and_workers(place: Path) -> None:
    drawn = SWEEP.replace("maximise", 'method = "sobol"\ntrials = 3\nmaximise', 1)
    (place / "drawn.toml").write_text(drawn)
    done("sweep", "run", place / "drawn.toml", "--out", place / "d")
    few = imc_ssm.sweeps.load(place / "d")
    printed = done("sweep", "run", place / "drawn.toml", "--out", place / "d", "--trials", 5).out
    assert "3 of 5 cells done" in printed
    with xr.open_zarr(place / "d" / "dataset.zarr") as more:
        assert more.sizes["trial"] == 5
        assert more.isel(trial=slice(3))["energy_total"].equals(few["energy_total"])


def test_an_interrupt_keeps_what_is_done(place: Path) -> None:
    stopped = run("sweep", "run", place / "chips.toml", "--out", place / "stopped", interrupt_at="50 %")
    assert stopped.code == 130
    assert "goes on from there" in stopped.err
    kept = len(list((place / "stopped").glob("cells.zarr/record/*.0")))
    assert 5 <= kept < 12
    done("sweep", "run", place / "chips.toml", "--out", place / "stopped")
    whole = imc_ssm.sweeps.load(place / "stopped")
    assert results.values_equal(whole, imc_ssm.sweeps.load(place / "chips"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("design.adc.bits", "design.adc.bit", "did you mean 'bits'"),
        ("maximise", "maximize", "did you mean 'maximise'"),
        ("accuracy@1d", "acuracy@1d", "did you mean 'accuracy'"),
        ("chips = 2", "chip = 2", "did you mean 'chips'"),
        ("q.safetensors", "nothing.safetensors", "nothing.safetensors"),
        ("[5, 8]", "[5, 99]", "axis 'design.adc.bits' = 99"),
        ("sequences = 40", "sequences = 4000", "has 360"),
        ("[space]", "[spaces]", "spaces"),
    ],
)
def test_a_mistake_in_the_toml_is_one_line(place: Path, old: str, new: str, said: str) -> None:
    path = place / "wrong.toml"
    path.write_text(SWEEP.replace(old, new))
    refused = run("sweep", "run", path)
    assert refused.code == 2
    assert len(refused.err.strip().splitlines()) == 1
    assert said in refused.err
    assert not (place / "wrong").exists()


@pytest.mark.parametrize("words", [("status", "nowhere"), ("front", "nowhere"), ("best", "nowhere")])
def test_a_folder_without_a_sweep_says_so(words: tuple[str, str]) -> None:
    refused = run("sweep", *words)
    assert refused.code == 2
    assert "holds no sweep" in refused.err


def test_advice_is_a_ranked_table_a_dataset_and_a_figure(place: Path) -> None:
    out = place / "advice.nc"
    words = ("--chips", 2, "--sequences", 60, "--design", "pcm-256", "--confirm", 1, "--out", out)
    printed = done("advise", place / "q.safetensors", *words).out
    ds = results.load(out)
    worth = ds["worth"].values
    assert (np.diff(worth) <= 0).all()
    assert np.isfinite(ds["confirmed_worth"].values).sum() == 1
    fields = set(ds["field"].values.tolist())
    assert {
        "adc.bits",
        "dac.bits",
        "lanes",
        "clock",
        "rows",
        "read_noise",
        "cell",
        "slicing",
        "polarity",
    } <= fields
    assert {"cell.programming_scale", "cell.g_max", "cell.t_read", "recurrence", "drift_compensation"} <= fields
    assert "What to change first" in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lanes = ds.isel(change=ds["change"].values.tolist().index("lanes 16 → 32"))
    assert float(lanes["accuracy_change"]) == 0
    assert float(lanes["latency_change"]) < 0 < float(lanes["area_change"])
    expected = -100 * sum(np.log1p(float(lanes[f"{name}_change"]) / 100) for name in ("energy", "latency", "area"))
    assert float(lanes["worth"]) == pytest.approx(expected)
    assert "unknown cost 'joules'" in run("advise", place / "q.safetensors", "--by", "joules").err


def test_a_design_of_a_point_is_plain_toml(place: Path) -> None:
    done("sweep", "best", place / "chips", "--minimise", "area_total", "--out", place / "small.toml")
    content = tomllib.loads((place / "small.toml").read_text())
    assert content["cell"] == "small-cell.toml"
    assert content["adc"]["type"] == "sar"
    assert content["name"] == "small"
    assert content["sources"]["columns_per_adc"] == "chosen by a sweep"


def test_advice_on_a_model_that_answers_with_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 20, 2)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", values=values, targets=values.mean(1))
    data = datasets.load(tmp_path / "mine.npz")
    model = Classifier(ModelConfig(heads=4, n_state=4, inputs=2, outputs=2, dt_min=0.05, dt_max=0.5))
    quantized = quantize(model, "uniform", data)
    about = {"task": str(tmp_path / "mine.npz")}
    save_model(tmp_path / "v.safetensors", StoredModel(quantized, quantized.scheme, about))
    printed = done(
        "advise", tmp_path / "v.safetensors", "--chips", 1, "--confirm", 0, "--out", tmp_path / "a.nc"
    ).out
    assert "0.01 of r2 is worth" in printed
    assert "before: r2 " in printed
    assert (tmp_path / "a.png").exists()
    ds = results.load(tmp_path / "a.nc")
    assert kind_of(ds) == "advice"  # what `plot` and `show` draw too
    assert [ax.get_title() for ax in draw(ds).axes][1:] == ["Energy", "Latency", "Area"]
